//! The way to one peer: two queues, each with a task and a stream.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhop_base::PeerId;
use anyhop_proto::broadcast::{Frame, Frames};
use tokio::{sync::mpsc, time::timeout};

use super::Inner;
use crate::{node::protocols, session::Conn, stream::SendStream};

/// Frames without a post that wait for a peer.
const CONTROL_QUEUE: usize = 256;
/// Posts that wait for a peer: up to 2 MiB.
const BULK_QUEUE: usize = 64;
/// A stream without frames for this long is ended, so that it does not keep its session.
const IDLE: Duration = Duration::from_secs(30);
/// Control frames come before posts, and posts before other streams.
const PRIORITY: [i32; 2] = [2, 1];

#[derive(Debug)]
struct Item {
    frame: Vec<u8>,
    worth_a_dial: bool,
}

/// The queues of one peer; a closed one has no task.
#[derive(Debug, Default)]
pub(super) struct Outlet([Option<mpsc::Sender<Item>>; 2]);

impl Inner {
    /// Queues frames for a peer. What finds its queue full is lost.
    pub(super) fn tell_on_topic(self: &Arc<Self>, peer: PeerId, frames: &Frames, dial: bool) {
        if !dial && self.current(peer).is_none() {
            return;
        }
        let bulk = matches!(frames, Frames::Frame(f) if matches!(f.frame, Frame::Post { .. }));
        let item = Item {
            frame: frames.encode(),
            worth_a_dial: dial,
        };
        let mut outlets = self.topics.outlets.lock().expect("no holder panics");
        // One whose tasks have both ended is made anew when it is needed.
        if outlets.len() > self.config.limits.max_sessions {
            outlets.retain(|_, o| o.0.iter().flatten().any(|q| !q.is_closed()));
        }
        let queue = &mut outlets.entry(peer).or_default().0[usize::from(bulk)];
        let item = match queue {
            Some(queue) => match queue.try_send(item) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    self.topics.dropped.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err(mpsc::error::TrySendError::Closed(item)) => item,
            },
            None => item,
        };
        let limit = if bulk { BULK_QUEUE } else { CONTROL_QUEUE };
        let (sender, items) = mpsc::channel(limit);
        *queue = Some(sender);
        drop(outlets);
        let node = Arc::clone(self);
        self.spawn(async move { node.run_outlet(peer, item, items, bulk).await });
    }

    /// Writes frames to a peer until there are none for a while, or it is gone.
    async fn run_outlet(
        self: Arc<Self>,
        peer: PeerId,
        first: Item,
        mut items: mpsc::Receiver<Item>,
        bulk: bool,
    ) {
        let conn = match self.current(peer) {
            Some(conn) => conn,
            None if first.worth_a_dial => match self.connect(peer).await {
                Ok(conn) => conn,
                Err(error) => {
                    tracing::debug!(%peer, %error, "no session for a topic");
                    items.close();
                    return self.topics_disconnected(peer);
                }
            },
            None => return,
        };
        let Some(mut send) = self.open_outlet(&conn, bulk).await else {
            return;
        };
        let mut next = Some(first);
        while let Some(item) = next {
            if let Err(error) = send.write_all(&item.frame).await {
                tracing::debug!(%peer, %error, "frames of topics not sent");
                return;
            }
            next = match items.try_recv() {
                Ok(item) => Some(item),
                Err(_) => timeout(IDLE, items.recv()).await.ok().flatten(),
            };
        }
        items.close();
        // What came in between the last look and the closing.
        while let Ok(item) = items.try_recv() {
            if send.write_all(&item.frame).await.is_err() {
                return;
            }
        }
        // Fails only when the stream has ended already.
        let _ = send.finish();
    }

    async fn open_outlet(&self, conn: &Conn, bulk: bool) -> Option<SendStream> {
        let protocol = self.protocol(protocols::TOPICS);
        let opened = conn.open_uni(&protocol, protocols::TOPICS).await;
        let send = opened.ok()?;
        send.set_priority(PRIORITY[usize::from(bulk)]);
        Some(send)
    }
}
