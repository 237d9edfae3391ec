//! Jobs: calls for bids on a topic, and what applications hold of them.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use anyhop_base::PeerId;
use anyhop_proto::jobs::{self, NotNow};
use bytes::Bytes;
use thiserror::Error;

pub use anyhop_proto::jobs::{
    BidVerdict, Compare, Constraint, JobError as JobFormatError, JobId, MAX_BID_BODY, MAX_BIDS,
    MAX_JOB_LEN, MAX_JOB_LIFETIME_S,
};

use crate::{
    Encoding, ErrorKind, Message, MessageError, Received, TopicError,
    node::{JobReader, JobsMember},
};

/// What is to be done, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSpec {
    /// What it is, in the application's words; at most 128 bytes.
    pub kind: String,
    /// What a worker must be like, all of it; at most 32 constraints.
    pub constraints: Vec<Constraint>,
    /// Who need not bid; at most 64 peers. Everybody on the topic reads it.
    pub exclude: Vec<PeerId>,
    /// For how long bids are taken: whole seconds, at least one and at most a day.
    pub lifetime: Duration,
    /// How to read [`body`](Self::body).
    pub encoding: Encoding,
    /// What bidders must know; with all else at most [`MAX_JOB_LEN`].
    pub body: Bytes,
}

impl JobSpec {
    /// A job of a kind that anybody may do, told in a text, and open for ten minutes.
    #[must_use]
    pub fn text(kind: impl Into<String>, body: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            constraints: Vec::new(),
            exclude: Vec::new(),
            lifetime: Duration::from_secs(600),
            encoding: Encoding::Utf8,
            body: Bytes::from(body.into()),
        }
    }
}

/// The jobs of a topic. They travel beside what is published on the topic of that name.
#[derive(Debug, Clone)]
pub struct Jobs(pub(crate) Arc<JobsMember>);

impl Jobs {
    /// The name of the topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.0.name()
    }

    /// Publishes a job. It is repeated for those who come later, until its time is over or it
    /// is closed.
    ///
    /// # Errors
    /// When it is beyond a limit.
    pub fn publish(&self, spec: JobSpec) -> Result<OwnJob, JobError> {
        self.0.publish(spec)
    }

    /// The jobs of others from now on: each once, until it is answered. Those that exclude
    /// this node are left out.
    #[must_use]
    pub fn watch(&self) -> JobWatch {
        JobWatch(self.0.watch())
    }
}

/// A job that this node has published. It goes on without this handle.
#[derive(Debug)]
pub struct OwnJob {
    pub(crate) node: Arc<crate::node::Inner>,
    pub(crate) id: JobId,
    /// Bids that [`next_bid`](Self::next_bid) has returned.
    pub(crate) read: usize,
}

impl OwnJob {
    /// What names it.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    /// The bids so far, in order of arrival.
    ///
    /// # Errors
    /// [`JobError::Unknown`] ten minutes after its time.
    pub fn bids(&self) -> Result<Vec<PlacedBid>, JobError> {
        self.node.bids_of(self.id)
    }

    /// The next bid that this handle has not returned; `None` when its time is over, or it or
    /// the node is closed. Cancel-safe.
    pub async fn next_bid(&mut self) -> Option<PlacedBid> {
        let bid = self.node.next_bid(self.id, self.read).await?;
        self.read += 1;
        Some(bid)
    }

    /// Takes no more bids, and calls for none.
    pub fn close(&self) {
        self.node.close_job(self.id);
    }

    /// Hands the work to a bidder and waits for the result: a request of type
    /// `job/` and the id, which a node takes only of the publisher of a job that it bid on.
    ///
    /// # Errors
    /// When the bidder cannot be reached, takes the work no more or does not answer in time.
    pub async fn award(
        &self,
        bidder: PeerId,
        encoding: Encoding,
        work: impl Into<Bytes>,
        within: Duration,
    ) -> Result<Message, MessageError> {
        let message = Message {
            kind: work_type(self.id),
            encoding,
            body: work.into(),
        };
        self.node.request(bidder, message, within).await
    }
}

/// A bid on an own job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedBid {
    /// Whose, proven by the session that it came over.
    pub from: PeerId,
    /// How to read [`body`](Self::body).
    pub encoding: Encoding,
    /// On what terms.
    pub body: Bytes,
}

impl PlacedBid {
    pub(crate) fn new(from: PeerId, bid: &jobs::Bid) -> Self {
        Self {
            from,
            encoding: Encoding::from_tag(bid.encoding),
            body: Bytes::copy_from_slice(&bid.body),
        }
    }
}

/// Jobs of others as they come. Dropping it ends nothing else.
#[derive(Debug)]
pub struct JobWatch(JobReader);

impl JobWatch {
    /// The next one; `None` once the node is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<OfferedJob> {
        self.0.next().await
    }
}

/// A job of somebody else.
#[derive(Debug, Clone)]
pub struct OfferedJob {
    pub(crate) node: Arc<crate::node::Inner>,
    /// What names it.
    pub id: JobId,
    /// Who published it, proven by a signature.
    pub publisher: PeerId,
    /// What is to be done.
    pub kind: String,
    /// What a worker must be like.
    pub constraints: Vec<Constraint>,
    /// Until when bids are taken, seconds since the Unix epoch.
    pub expires_unix_s: u64,
    /// How to read [`body`](Self::body).
    pub encoding: Encoding,
    /// What bidders must know.
    pub body: Bytes,
}

impl OfferedJob {
    /// Whether who has these things may do it.
    #[must_use]
    pub fn allows(&self, have: &BTreeMap<String, String>) -> bool {
        self.constraints.iter().all(|c| c.is_met_by(have))
    }

    /// Bids, and returns when the publisher has taken the bid.
    ///
    /// # Errors
    /// When it does not, or is not reached; in the latter case one may bid again.
    pub async fn bid(&self, encoding: Encoding, body: impl Into<Bytes>) -> Result<(), JobError> {
        self.node.bid(self.id, encoding, body.into()).await
    }

    /// The work, once the publisher hands it to this node after a bid; `None` when it has not
    /// within ten minutes after the time for bids, or the node is closed. Cancel-safe.
    pub async fn work(&self) -> Option<Received> {
        self.node.work_of(self.id, self.expires_unix_s).await
    }
}

/// The type of the request that hands out the work of a job.
#[must_use]
pub fn work_type(job: JobId) -> String {
    format!("{WORK_PREFIX}{job}")
}

/// What such types begin with.
pub(crate) const WORK_PREFIX: &str = "job/";

/// Why something about a job was not done.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum JobError {
    /// The topic is none, or nothing can be published on it.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The job or bid is beyond a limit.
    #[error("{what} not sent: {source}")]
    Format {
        /// `job` or `bid`.
        what: &'static str,
        /// Which.
        source: JobFormatError,
    },
    /// A job's time is less than a second or more than a day, or is over.
    #[error(
        "job {0} is open for no more bids: its time is over, or it was to be open for longer than a day"
    )]
    Expired(JobName),
    /// No such job is known here.
    #[error("no job {0} is known to this node")]
    Unknown(JobName),
    /// This node has bid on it, or is about to.
    #[error("this node has answered job {0} already")]
    Answered(JobName),
    /// As many jobs are open as may be.
    #[error("this node has {0} open jobs, and may have no more: close one, or wait for its time")]
    TooMany(usize),
    /// The publisher was not reached, or did not answer.
    #[error("bid on job {job} not placed: {source}")]
    NotPlaced {
        /// Which.
        job: JobId,
        /// Why.
        source: MessageError,
    },
    /// The publisher did not take the bid.
    #[error("{publisher} did not take the bid on job {job}: {verdict}")]
    NotTaken {
        /// Which.
        job: JobId,
        /// Whose.
        publisher: PeerId,
        /// Why.
        verdict: BidVerdict,
    },
}

/// Which job an error is about; one that was never published has no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobName(pub Option<JobId>);

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => id.fmt(f),
            None => f.write_str("that is new"),
        }
    }
}

impl JobError {
    pub(crate) fn not_now(why: NotNow, job: Option<JobId>) -> Self {
        match why {
            NotNow::Unknown => Self::Unknown(JobName(job)),
            NotNow::Expired => Self::Expired(JobName(job)),
            NotNow::Answered => Self::Answered(JobName(job)),
            NotNow::Full => Self::TooMany(jobs::MAX_OWN_JOBS),
        }
    }

    /// The class of this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Topic(e) => e.kind(),
            Self::Format { .. } | Self::Expired(_) | Self::Unknown(_) | Self::Answered(_) => {
                ErrorKind::InvalidInput
            }
            Self::TooMany(_) => ErrorKind::Limit,
            Self::NotPlaced { source, .. } => source.kind(),
            Self::NotTaken { .. } => ErrorKind::Refused,
        }
    }
}
