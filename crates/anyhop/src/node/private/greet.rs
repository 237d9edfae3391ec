//! Greeters (`greet/1`): an inviter that cannot be dialled has its invitations redeemed at
//! members that can; see `anyhop_proto::network::greeting`.

use std::{collections::BTreeSet, sync::Arc};

use anyhop_base::{Multiaddr, PeerAddr, PeerId, Reachability};
use anyhop_proto::network::{
    greeting::{Greetings, Introduce, MAX_GREET_FRAME, MAX_GREETERS},
    invitation::{InvitationId, MAX_REDEEM_FRAME, RedeemAnswer},
    statement::Role,
};
use tokio::time::timeout;

use super::{
    Inner, Private,
    redeem::{Asker, PATIENCE, WAIT},
};
use crate::{
    StreamError, engine,
    node::protocols,
    session::Conn,
    stream::{RecvStream, SendStream, malformed, read_frame},
};

/// Members that are told of this node's invitations at most; an invitation names
/// [`MAX_GREETERS`] of them.
const MAX_TOLD: usize = 8;

impl Inner {
    /// Where others greet for this node; nowhere when it can be dialled itself.
    pub(super) fn greeters(&self, private: &Private) -> Vec<Multiaddr> {
        let mut greeters = BTreeSet::new();
        let doors = self.doors_of_others(private).into_iter();
        let first = doors.filter(|c| greeters.insert(c.peer));
        let first = first.take(MAX_GREETERS);
        first.map(|door| door.to_multiaddr()).collect()
    }

    /// Where connected members can be dialled: by their own word, or because this node has
    /// come to the network there.
    fn doors_of_others(&self, private: &Private) -> Vec<PeerAddr> {
        if self.reachability() == Reachability::Public {
            return Vec::new();
        }
        let mut doors = self.public_contacts(usize::MAX);
        let linked = self.linked_peers();
        let known = private.contacts().into_iter();
        doors.extend(known.filter(|door| linked.contains(&door.peer)));
        doors
    }

    /// Tells members that can be dialled which invitations are open, where that has changed.
    pub(super) fn tell_greeters(self: &Arc<Self>, private: &Private) {
        let doors = self.doors_of_others(private).into_iter();
        let greeters: BTreeSet<PeerId> = doors.map(|door| door.peer).collect();
        let now_unix_s = self.now_unix_s();
        let (told, greetings) = {
            let mut state = private.state();
            let open: Vec<_> = state.invitations.greetings(now_unix_s).collect();
            let ids: Vec<InvitationId> = open.iter().map(|g| g.invitation).collect();
            let news = |peer: &PeerId| match state.greeters.get(peer) {
                Some(told) => *told != ids,
                None => !ids.is_empty(),
            };
            let told: Vec<_> = greeters.into_iter().filter(news).take(MAX_TOLD).collect();
            for peer in &told {
                state.greeters.insert(*peer, ids.clone());
            }
            (told, Greetings(open).encode())
        };
        for peer in told {
            let Some(conn) = self.current(peer) else {
                continue;
            };
            let (node, greetings) = (Arc::clone(self), greetings.clone());
            self.spawn(async move {
                let protocol = node.protocol(protocols::GREET);
                let told = async {
                    let mut send = conn.open_uni(&protocol, protocols::GREET).await?;
                    send.write_all(&greetings).await?;
                    send.finish()
                };
                if let Err(e) = told.await {
                    tracing::debug!(%peer, error = %e, "not told of invitations");
                    if let Some(private) = &node.private {
                        private.state().greeters.remove(&peer);
                    }
                }
            });
        }
    }

    /// Greets from now on for the invitations that an inviter tells of.
    pub(in crate::node) async fn serve_greetings(
        self: &Arc<Self>,
        conn: &Conn,
        recv: &mut RecvStream,
    ) -> Result<(), StreamError> {
        let Some(private) = &self.private else {
            return Err(malformed(recv));
        };
        let read = timeout(PATIENCE, read_frame(recv, MAX_GREET_FRAME)).await;
        let frame = read.unwrap_or_else(|_| Err(malformed(recv)))?;
        let Greetings(open) = Greetings::decode(&frame).map_err(|_| malformed(recv))?;
        let now_unix_s = self.now_unix_s();
        let changed = {
            let mut state = private.state();
            let role = state.gossip.membership().role(conn.peer);
            let invites = matches!(role, Some(Role::Owner | Role::Admin));
            invites && state.greetings.replace(now_unix_s, conn.peer, open)
        };
        if changed {
            self.use_keys(private);
        }
        Ok(())
    }

    /// Greets no longer for those who may not invite any more.
    pub(super) fn greet_for_inviters_only(&self, private: &Private) {
        let changed = {
            let mut guard = private.state();
            let state = &mut *guard;
            let membership = state.gossip.membership();
            let invites = |peer| matches!(membership.role(peer), Some(Role::Owner | Role::Admin));
            state.greetings.retain(invites)
        };
        if changed {
            self.use_keys(private);
        }
    }

    /// Hands on what somebody says who redeems an invitation of `inviter`, and the answers.
    pub(super) async fn introduce(
        self: &Arc<Self>,
        inviter: PeerId,
        introduce: &Introduce,
        to: &mut engine::SendStream,
    ) -> Result<(), String> {
        let conn = timeout(PATIENCE, self.connect(inviter)).await;
        let conn = conn.map_err(|_| format!("{inviter} did not answer in time"))?;
        let conn = conn.map_err(|e| e.to_string())?;
        let protocol = self.protocol(protocols::GREET);
        let introduction = introduce.encode();
        let opened = conn.open_bi_with(&protocol, protocols::GREET, &introduction);
        let (mut send, mut recv) = opened.await.map_err(|e| e.to_string())?;
        send.finish().map_err(|e| e.to_string())?;
        let mut patience = PATIENCE;
        loop {
            let frame = timeout(patience, read_frame(&mut recv, MAX_REDEEM_FRAME)).await;
            let frame = frame.map_err(|_| format!("{inviter} has not decided"))?;
            let frame = frame.map_err(|e| e.to_string())?;
            let answer = RedeemAnswer::decode(&frame).map_err(|e| e.to_string())?;
            let told = to.write_all(&answer.encode()).await;
            told.map_err(|e| e.to_string())?;
            if answer != RedeemAnswer::Waiting {
                return Ok(());
            }
            patience = WAIT;
        }
    }

    /// Decides about somebody who redeems an invitation of this node at a greeter.
    pub(in crate::node) async fn serve_introduction(
        self: &Arc<Self>,
        conn: &Conn,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), StreamError> {
        let Some(private) = &self.private else {
            return Err(malformed(&mut recv));
        };
        let Ok(_place) = private.redeeming.try_acquire() else {
            // The asker tries again.
            return send.finish();
        };
        let read = timeout(PATIENCE, read_frame(&mut recv, MAX_GREET_FRAME)).await;
        let frame = read.unwrap_or_else(|_| Err(malformed(&mut recv)))?;
        let introduce = Introduce::decode(&frame).map_err(|_| malformed(&mut recv))?;
        let Introduce {
            peer,
            channel,
            redeem,
        } = introduce;
        let asker = Asker::AtGreeter(&mut send);
        let decided = self.decide(private, peer, &redeem, &channel, asker).await;
        tracing::debug!(%peer, greeter = %conn.peer, ?decided, "invitation");
        send.finish()
    }
}
