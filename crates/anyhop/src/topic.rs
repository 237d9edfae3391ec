//! Messages to many: what applications hold of a topic.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhop_base::PeerId;
use anyhop_proto::broadcast::{MAX_TOPIC_LEN, MAX_TOPICS, TopicId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::mpsc;

pub use anyhop_proto::broadcast::{PostId, Verdict as PostVerdict};

use crate::{Encoding, node::Member};

/// Posts that wait for a subscriber. One that is slower misses the newest, and is told
/// how many: it delays nobody.
pub const SUBSCRIPTION_QUEUE: usize = 1024;

/// A post, as subscribers and validators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// What names it.
    pub id: PostId,
    /// Who published it, proven by a signature.
    pub from: PeerId,
    /// Its number: those of one publisher on one topic grow by one, until it restarts.
    pub seq: u64,
    /// How to read [`body`](Self::body).
    pub encoding: Encoding,
    /// What was published.
    pub body: Bytes,
    /// Links that it crossed on its way here, as those who sent it say; 0 for an own one.
    pub hops: u8,
}

/// A topic that this node is on. It leaves when the last handle and the last subscription
/// are gone, after the time in which neighbours may still want posts.
#[derive(Debug, Clone)]
pub struct Topic(pub(crate) Arc<Member>);

impl Topic {
    /// Its name; empty for what goes to all nodes.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// What names it in frames.
    pub(crate) fn id(&self) -> TopicId {
        self.0.id()
    }

    /// Publishes a body. It is signed, and on its way to the neighbours when this returns; a
    /// node that has none yet passes it on to those that it finds within two minutes.
    ///
    /// # Errors
    /// When the body is too large for this node or is no text where the tag says that it is.
    pub fn publish(
        &self,
        encoding: Encoding,
        body: impl Into<Bytes>,
    ) -> Result<Published, TopicError> {
        self.0.publish(encoding, body.into())
    }

    /// All posts from now on, this node's own included, until the subscription is dropped.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        let (sender, posts) = mpsc::channel(SUBSCRIPTION_QUEUE);
        let missed = Arc::new(AtomicU64::new(0));
        self.0.add_subscriber(sender, Arc::clone(&missed));
        Subscription {
            posts,
            missed,
            topic: self.clone(),
        }
    }

    /// Has every post judged before it is delivered and passed on. A verdict that takes
    /// longer than [`VERDICT_WITHIN`] is to ignore the post. It replaces an earlier validator.
    pub fn validate<F, T>(&self, validator: F)
    where
        F: Fn(Posted) -> T + Send + Sync + 'static,
        T: Future<Output = PostVerdict> + Send + 'static,
    {
        let boxed = move |post| -> BoxedVerdict { Box::pin(validator(post)) };
        self.0.set_validator(Validator(Arc::new(boxed)));
    }

    /// Asks who has a post, for at most a minute.
    ///
    /// # Errors
    /// When the node is closed.
    pub async fn report(
        &self,
        post: PostId,
        within: Duration,
    ) -> Result<DeliveryReport, TopicError> {
        self.0.report(post, within).await
    }

    /// The neighbours on the topic.
    #[must_use]
    pub fn neighbours(&self) -> Vec<PeerId> {
        self.0.neighbours()
    }
}

/// How long a validator may take.
pub const VERDICT_WITHIN: Duration = Duration::from_secs(10);

pub(crate) type BoxedVerdict = std::pin::Pin<Box<dyn Future<Output = PostVerdict> + Send>>;

/// What an application judges posts with.
#[derive(Clone)]
pub(crate) struct Validator(pub(crate) Arc<dyn Fn(Posted) -> BoxedVerdict + Send + Sync>);

impl fmt::Debug for Validator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Validator")
    }
}

/// Posts of a topic. Dropping it ends this subscription and no other.
#[derive(Debug)]
pub struct Subscription {
    posts: mpsc::Receiver<Posted>,
    missed: Arc<AtomicU64>,
    topic: Topic,
}

impl Subscription {
    /// The next post; `None` once the node is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Posted> {
        tokio::select! {
            biased;
            post = self.posts.recv() => post,
            () = self.topic.0.closed() => None,
        }
    }

    /// Of which topic.
    pub(crate) fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Posts that found [`SUBSCRIPTION_QUEUE`] full.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

/// What was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// What names it.
    pub id: PostId,
    /// Its number.
    pub seq: u64,
    /// Neighbours on the topic at that moment.
    pub neighbours: usize,
}

/// Who has a post, as far as nodes answered in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryReport {
    /// Nodes that have it, this one included.
    pub have: u32,
    /// Nodes that were reached with the question, this one included.
    pub asked: u32,
    /// Who has it: at most 512 of them.
    pub peers: Vec<PeerId>,
}

/// A topic that a node is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TopicInfo {
    /// Its name; empty for what goes to all nodes.
    pub topic: String,
    /// Neighbours, base58.
    pub neighbours: Vec<String>,
    /// Subscriptions of applications.
    pub subscribers: usize,
    /// Posts that this node published or got, all of them good.
    pub posts: u64,
}

/// Why something was not done on a topic.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TopicError {
    /// The name is longer than 256 bytes.
    #[error("the name of a topic has {0} bytes, and {MAX_TOPIC_LEN} are allowed")]
    NameTooLong(usize),
    /// The node is on as many topics as it may be.
    #[error("this node is on {MAX_TOPICS} topics, and may be on no more: leave one first")]
    TooManyTopics,
    /// The body is larger than this node allows.
    #[error("a post of {size} bytes is larger than this node's limit of {limit} bytes")]
    TooLarge {
        /// Its size, bytes.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The encoding tag says text, and the body is none.
    #[error("post not published: its encoding tag says text, but it is not UTF-8")]
    NotText,
    /// The key refused to sign.
    #[error("post not published: {0}")]
    Signing(String),
    /// The node is closed, or has left the topic.
    #[error("the node is closed")]
    Closed,
}

impl TopicError {
    /// The class of this error.
    #[must_use]
    pub fn kind(&self) -> crate::ErrorKind {
        match self {
            Self::NameTooLong(_) | Self::NotText | Self::Signing(_) => {
                crate::ErrorKind::InvalidInput
            }
            Self::TooManyTopics | Self::TooLarge { .. } => crate::ErrorKind::Limit,
            Self::Closed => crate::ErrorKind::Lost,
        }
    }
}

/// Whether a name can be a topic's.
pub(crate) fn check_name(name: &str) -> Result<(), TopicError> {
    if name.len() > MAX_TOPIC_LEN {
        return Err(TopicError::NameTooLong(name.len()));
    }
    Ok(())
}

/// The id of the topic of a name that was checked.
pub(crate) fn id_of(network: anyhop_base::NetworkId, name: &str) -> TopicId {
    TopicId::of(network, name).expect("the name is short enough")
}
