//! Gossip over sessions: frames of `membership/1`, each batch on a unidirectional stream.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhop_base::PeerId;
use anyhop_proto::network::gossip::{GossipEvent, MAX_GOSSIP_FRAME, Message};
use tokio::time::{Instant, timeout};

use super::{Inner, Private};
use crate::{
    Event, StreamError,
    engine::close,
    node::protocols,
    session::Conn,
    stream::{RecvStream, malformed, read_frame_or_end},
};

/// How long a batch may take to arrive.
const BATCH_TIMEOUT: Duration = Duration::from_secs(60);

impl Inner {
    /// The first connection of a session with a member is live.
    pub(in crate::node) fn member_connected(self: &Arc<Self>, peer: PeerId) {
        if let Some(private) = &self.private {
            let now = Instant::now().into_std();
            private.state().gossip.handle_connected(now, peer);
            self.drain_gossip(private);
        }
    }

    /// The last connection of a session has ended.
    pub(in crate::node) fn member_disconnected(&self, peer: PeerId) {
        if let Some(private) = &self.private {
            let mut state = private.state();
            state.gossip.handle_disconnected(peer);
            state.greeters.remove(&peer);
        }
    }

    /// Takes a batch that a member sends.
    pub(in crate::node) async fn serve_gossip(
        self: &Arc<Self>,
        conn: &Conn,
        recv: &mut RecvStream,
    ) -> Result<(), StreamError> {
        let Some(private) = &self.private else {
            return Err(malformed(recv));
        };
        let read = async {
            while let Some(frame) = read_frame_or_end(recv, MAX_GOSSIP_FRAME).await? {
                let message = Message::decode(&frame).map_err(|_| malformed(recv))?;
                self.take_gossip(private, conn, message);
            }
            Ok(())
        };
        // Who takes longer is compared with again later.
        timeout(BATCH_TIMEOUT, read).await.unwrap_or(Ok(()))
    }

    fn take_gossip(self: &Arc<Self>, private: &Private, conn: &Conn, message: Message) {
        tracing::trace!(peer = %conn.peer, ?message, "gossip");
        let (now, now_unix_s) = (Instant::now().into_std(), self.now_unix_s());
        let taken = {
            let gossip = &mut private.state().gossip;
            gossip.handle_message(now, now_unix_s, conn.peer, message)
        };
        self.drain_gossip(private);
        if let Err(e) = taken {
            tracing::warn!(peer = %conn.peer, error = %e, "a member misbehaves: its session ends");
            conn.close(close::PROTOCOL, "it told untrue things about the network");
        }
    }

    /// Does what the machine says: has it stored, answers to other keys, tells others.
    pub(super) fn drain_gossip(self: &Arc<Self>, private: &Private) {
        if private.state().unsaved > 0 {
            // Whoever stores that does this then.
            return;
        }
        let (mut changed, mut key) = (false, None);
        loop {
            let Some(event) = private.state().gossip.poll_event() else {
                break;
            };
            match event {
                GossipEvent::Changed => changed = true,
                GossipEvent::NewKey(new) => key = Some(new),
            }
        }
        if let Some(key) = key {
            private.save_within(Duration::ZERO);
            self.use_keys(private);
            let epoch = key.epoch().0;
            self.emit(Event::EpochChanged { epoch });
        } else if changed {
            private.save_soon();
        }
        if changed {
            self.drop_strangers(private);
            self.greet_for_inviters_only(private);
            self.use_opt_outs(private);
            self.emit(Event::MembersChanged);
        }
        let mut batches: BTreeMap<PeerId, Vec<u8>> = BTreeMap::new();
        loop {
            let Some((peer, message)) = private.state().gossip.poll_transmit() else {
                break;
            };
            batches.entry(peer).or_default().extend(message.encode());
        }
        if !batches.is_empty() {
            private.changed.notify_one();
        }
        for (peer, batch) in batches {
            let Some(conn) = self.current(peer) else {
                continue;
            };
            let protocol = self.protocol(protocols::MEMBERSHIP);
            self.spawn(async move {
                if let Err(e) = tell(&conn, &protocol, &batch).await {
                    tracing::debug!(%peer, error = %e, "gossip not sent");
                }
            });
        }
    }
}

async fn tell(conn: &Conn, protocol: &str, batch: &[u8]) -> Result<(), StreamError> {
    let mut send = conn.open_uni(protocol, protocols::MEMBERSHIP).await?;
    send.write_all(batch).await?;
    send.finish()
}
