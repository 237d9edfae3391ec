//! What the handles and subscriptions of a topic share.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhop_base::PeerId;
use anyhop_proto::broadcast::{
    Content, KEPT_FOR, LONGEST_QUESTION, MAX_POST_LIFETIME_S, Post, PostId, TopicId,
};
use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use super::{Inner, now};
use crate::{DeliveryReport, Encoding, Posted, Published, TopicError, TopicInfo, topic::Validator};

/// Sequence numbers begin at the second of the first post times this many, so that they grow
/// over restarts too. Below 2^53, which programs that read JSON can tell apart.
const SEQ_PER_S: u64 = 1 << 20;

#[derive(Debug)]
struct Subscriber {
    posts: mpsc::Sender<Posted>,
    missed: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct State {
    subscribers: Vec<Subscriber>,
    validator: Option<Validator>,
    seq: u64,
}

/// A node's membership of a topic.
#[derive(Debug)]
pub(crate) struct Member {
    node: Weak<Inner>,
    id: TopicId,
    name: String,
    state: Mutex<State>,
    posts: AtomicU64,
}

impl Member {
    pub(super) fn new(node: &Arc<Inner>, id: TopicId, name: &str) -> Self {
        Self {
            node: Arc::downgrade(node),
            id,
            name: name.to_owned(),
            state: Mutex::default(),
            posts: AtomicU64::new(0),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn id(&self) -> TopicId {
        self.id
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn node(&self) -> Result<Arc<Inner>, TopicError> {
        let node = self.node.upgrade();
        node.filter(|n| !n.stop.is_cancelled())
            .ok_or(TopicError::Closed)
    }

    /// Resolves when the node stops.
    pub(crate) async fn closed(&self) {
        let stop = self.node.upgrade().map(|node| node.stop.clone());
        if let Some(stop) = stop {
            stop.cancelled().await;
        }
    }

    pub(crate) fn add_subscriber(&self, posts: mpsc::Sender<Posted>, missed: Arc<AtomicU64>) {
        let mut state = self.state();
        state.subscribers.retain(|s| !s.posts.is_closed());
        state.subscribers.push(Subscriber { posts, missed });
    }

    pub(crate) fn set_validator(&self, validator: Validator) {
        self.state().validator = Some(validator);
    }

    pub(super) fn validator(&self) -> Option<Validator> {
        self.state().validator.clone()
    }

    /// Hands a post to every subscriber that has room.
    pub(super) fn deliver(&self, post: &Posted) {
        self.posts.fetch_add(1, Ordering::Relaxed);
        self.state().subscribers.retain(|subscriber| {
            match subscriber.posts.try_send(post.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    subscriber.missed.fetch_add(1, Ordering::Relaxed);
                    true
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            }
        });
    }

    pub(super) fn info(&self) -> TopicInfo {
        let neighbours = self.neighbours();
        let mut state = self.state();
        state.subscribers.retain(|s| !s.posts.is_closed());
        TopicInfo {
            topic: self.name.clone(),
            neighbours: neighbours.iter().map(|p| p.to_base58()).collect(),
            subscribers: state.subscribers.len(),
            posts: self.posts.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn neighbours(&self) -> Vec<PeerId> {
        let Some(node) = self.node.upgrade() else {
            return Vec::new();
        };
        let machine = node.topics.machine();
        let mut topics = machine.topics();
        let topic = topics.find(|(id, _)| **id == self.id);
        topic.map_or_else(Vec::new, |(_, topic)| topic.neighbours())
    }

    pub(crate) fn publish(&self, encoding: Encoding, body: Bytes) -> Result<Published, TopicError> {
        let node = self.node()?;
        let (size, limit) = (body.len(), node.config.max_message_size);
        if size > limit {
            return Err(TopicError::TooLarge { size, limit });
        }
        let text = matches!(encoding, Encoding::Utf8 | Encoding::Json);
        if text && std::str::from_utf8(&body).is_err() {
            return Err(TopicError::NotText);
        }
        let signing = |e: anyhop_proto::broadcast::PostError| TopicError::Signing(e.to_string());
        let content = Content::of(&body).map_err(signing)?;
        let large = matches!(content, Content::Parts { .. });
        let unix_s = node.now_unix_s();
        // Under the lock until it is sent, so that numbers and posts come in one order.
        let mut state = self.state();
        let before = match state.seq {
            0 => {
                let last = node.topics.last_seq.load(Ordering::Relaxed);
                last.max(unix_s * SEQ_PER_S)
            }
            seq => seq,
        };
        let seq = before + 1;
        state.seq = seq;
        node.topics.last_seq.fetch_max(seq, Ordering::Relaxed);
        let post = Post {
            origin: node.me,
            topic: self.id,
            seq,
            expires_unix_s: unix_s + MAX_POST_LIFETIME_S,
            encoding: encoding.tag(),
            content,
        };
        let post = Arc::new(post.sign(&node.keypair).map_err(signing)?);
        let id = post.id();
        if large {
            node.topics.bodies.hold(id, body.clone());
        }
        node.topics.machine().publish(now(), post);
        drop(state);
        node.drain_topics();
        let own = Posted {
            id,
            from: node.me,
            seq,
            encoding,
            body,
            hops: 0,
        };
        self.deliver(&own);
        let neighbours = self.neighbours().len();
        Ok(Published {
            id,
            seq,
            neighbours,
        })
    }

    pub(crate) async fn report(
        &self,
        post: PostId,
        within: Duration,
    ) -> Result<DeliveryReport, TopicError> {
        let node = self.node()?;
        let within = within.min(LONGEST_QUESTION);
        let (sender, report) = oneshot::channel();
        let nonce = {
            let mut reports = node.topics.reports.lock().expect("no holder panics");
            reports.retain(|_, waiting| !waiting.is_closed());
            let nonce = node.topics.machine().ask(now(), self.id, post, within);
            let nonce = nonce.ok_or(TopicError::Closed)?;
            reports.insert(nonce, sender);
            nonce
        };
        tracing::debug!(nonce, topic = self.name, "asking who has a post");
        node.drain_topics();
        // The machine answers in time; the margin is for a busy host.
        let report = timeout(within + Duration::from_secs(5), report).await;
        let report = report.ok().and_then(Result::ok);
        let report = report.ok_or(TopicError::Closed)?;
        Ok(DeliveryReport {
            have: report.have,
            asked: report.asked,
            peers: report.peers,
        })
    }
}

/// The last handle is gone. Neighbours may want posts for as long as they are kept; then the
/// node leaves, unless it is on the topic again.
impl Drop for Member {
    fn drop(&mut self) {
        let Some(node) = self.node.upgrade() else {
            return;
        };
        let (id, inner) = (self.id, Arc::clone(&node));
        if id == node.topics.broadcast || node.stop.is_cancelled() {
            return;
        }
        node.spawn(async move {
            sleep(KEPT_FOR).await;
            let members = inner.topics.members.lock().expect("no holder panics");
            let again = members.get(&id).is_some_and(|m| m.strong_count() > 0);
            if !again {
                inner.topics.machine().leave(id);
            }
            drop(members);
            inner.drain_topics();
        });
    }
}
