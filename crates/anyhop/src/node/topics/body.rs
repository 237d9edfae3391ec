//! Bodies that are too large for a post: held by whoever has the post, pulled part by part.
//!
//! A `body/1` stream begins with the post's id and the number of the first part that is
//! wanted; the answer is the body from there on, or the end at once where it is not held.
//! Each part is checked against its hash before it is taken, so that who sends something else
//! is found out within a part, and another peer goes on where it stopped.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use anyhop_base::PeerId;
use anyhop_proto::broadcast::{Content, KEPT_FOR, PART_LEN, PostId, SignedPost, TopicId};
use bytes::{Bytes, BytesMut};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::{Inner, now};
use crate::{
    StreamError,
    node::protocols,
    session::Conn,
    stream::{RecvStream, SendStream},
};

/// Bodies pulled at once. Each takes memory up to the largest message.
const MAX_PULLS: usize = 4;
/// Most bytes of bodies that are held for others. The last one is, however large.
const MAX_HELD_BYTES: usize = 256 << 20;
/// Peers that are asked for one body.
const MAX_SOURCES: usize = 8;
/// How long a part may take.
const PART_TIMEOUT: Duration = Duration::from_secs(30);
/// Length of a request: an id and a number.
const REQUEST_LEN: usize = 36;

/// The bodies that this node holds.
#[derive(Debug)]
pub(super) struct Bodies {
    held: Mutex<VecDeque<(PostId, Bytes, Instant)>>,
    pulls: Semaphore,
}

impl Default for Bodies {
    fn default() -> Self {
        Self {
            held: Mutex::default(),
            pulls: Semaphore::new(MAX_PULLS),
        }
    }
}

impl Bodies {
    /// Keeps a body for those who want it, as long as its post is kept.
    pub(super) fn hold(&self, id: PostId, body: Bytes) {
        let mut held = self.held.lock().expect("no holder panics");
        let now = Instant::now();
        held.retain(|(_, _, until)| *until > now);
        held.push_back((id, body, now + KEPT_FOR));
        let bytes = |held: &VecDeque<(_, Bytes, _)>| held.iter().map(|h| h.1.len()).sum::<usize>();
        while held.len() > 1 && bytes(&held) > MAX_HELD_BYTES {
            held.pop_front();
        }
    }

    fn get(&self, id: &PostId) -> Option<Bytes> {
        let held = self.held.lock().expect("no holder panics");
        let found = held.iter().find(|(held, _, _)| held == id);
        found.map(|(_, body, _)| body.clone())
    }
}

impl Inner {
    /// Gets the body of a post; `None` when nobody gives it, or it is too large for this node.
    pub(super) async fn pull_body(
        &self,
        topic: TopicId,
        from: PeerId,
        post: &SignedPost,
    ) -> Option<Bytes> {
        let len = usize::try_from(post.post().content.len()).ok()?;
        if len > self.config.max_message_size {
            tracing::debug!(post = %post.id(), len, "a body above this node's limit was left");
            return None;
        }
        let _place = self.topics.bodies.pulls.acquire().await.ok()?;
        let mut body = BytesMut::new();
        let mut sources = vec![from];
        sources.extend(
            self.neighbours_on(&topic)
                .into_iter()
                .filter(|p| *p != from),
        );
        for source in sources.into_iter().take(MAX_SOURCES) {
            let Some(conn) = self.current(source) else {
                continue;
            };
            match self.pull_from(&conn, post, &mut body).await {
                Ok(()) if body.len() == len => {
                    let body = body.freeze();
                    self.topics.bodies.hold(post.id(), body.clone());
                    return Some(body);
                }
                Ok(()) => {
                    tracing::debug!(peer = %source, post = %post.id(), "a body was not given")
                }
                Err(PullError::Stream(error)) => {
                    tracing::debug!(peer = %source, %error, "a body was not given whole");
                }
                Err(PullError::WrongPart) => {
                    tracing::debug!(peer = %source, post = %post.id(), "a part with a wrong hash");
                    self.topics.machine().handle_misbehaviour(now(), source);
                }
            }
        }
        None
    }

    fn neighbours_on(&self, topic: &TopicId) -> Vec<PeerId> {
        let machine = self.topics.machine();
        let mut topics = machine.topics();
        let found = topics.find(|(id, _)| *id == topic);
        found.map_or_else(Vec::new, |(_, topic)| topic.neighbours())
    }

    /// Adds the parts that a peer gives.
    async fn pull_from(
        &self,
        conn: &Conn,
        post: &SignedPost,
        body: &mut BytesMut,
    ) -> Result<(), PullError> {
        let content = &post.post().content;
        let len = usize::try_from(content.len()).unwrap_or(usize::MAX);
        let first = body.len() / PART_LEN;
        let mut request = post.id().0.to_vec();
        request.extend_from_slice(&u32::try_from(first).unwrap_or(u32::MAX).to_be_bytes());
        let protocol = self.protocol(protocols::BODY);
        let opening = conn.open_bi_with(&protocol, protocols::BODY, &request);
        let (mut send, mut recv) = opening.await?;
        send.finish()?;
        while body.len() < len {
            let part = timeout(PART_TIMEOUT, read_part(&mut recv, len - body.len())).await;
            let part =
                part.map_err(|_| PullError::Stream(StreamError::Dropped { peer: conn.peer }))??;
            let Some(part) = part else {
                return Ok(());
            };
            if !fits(content, body.len() / PART_LEN, &part) {
                return Err(PullError::WrongPart);
            }
            body.extend_from_slice(&part);
        }
        Ok(())
    }

    /// Gives a body that a peer asks for.
    pub(in crate::node) async fn serve_body(
        &self,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), StreamError> {
        let mut request = [0; REQUEST_LEN];
        recv.read_exact(&mut request).await?;
        let (id, first) = request.split_at(REQUEST_LEN - 4);
        let id = PostId(id.try_into().expect("32 bytes are left"));
        let first = u32::from_be_bytes(first.try_into().expect("4 bytes were split off"));
        let begin = usize::try_from(first)
            .ok()
            .and_then(|f| f.checked_mul(PART_LEN));
        let held = self.topics.bodies.get(&id);
        if let (Some(body), Some(begin)) = (held, begin)
            && begin < body.len()
        {
            // In pieces, so that a stalled peer holds a view of the body and no copy.
            let mut rest = body.slice(begin..);
            while !rest.is_empty() {
                let part = rest.split_to(rest.len().min(PART_LEN));
                send.write_chunk(part).await?;
            }
        }
        send.finish()
    }
}

enum PullError {
    Stream(StreamError),
    WrongPart,
}

impl From<StreamError> for PullError {
    fn from(e: StreamError) -> Self {
        Self::Stream(e)
    }
}

/// The next part, of what is left; `None` where the stream ends before it begins.
async fn read_part(recv: &mut RecvStream, left: usize) -> Result<Option<Bytes>, StreamError> {
    let wanted = left.min(PART_LEN);
    let mut part = BytesMut::with_capacity(wanted);
    while part.len() < wanted {
        match recv.read_chunk(wanted - part.len()).await? {
            Some(chunk) => part.extend_from_slice(&chunk),
            None if part.is_empty() => return Ok(None),
            None => return Err(StreamError::Finished),
        }
    }
    Ok(Some(part.freeze()))
}

/// Hashing a part takes under a millisecond.
fn fits(content: &Content, part: usize, bytes: &[u8]) -> bool {
    content.fits(part, bytes)
}
