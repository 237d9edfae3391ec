//! What travels about jobs.
//!
//! ```text
//! POST /v1/jobs/publish?JobQuery      body as it is -> OwnJobReport
//! GET  /v1/jobs/bids?BidsQuery        [BidReport], waiting for as many as are asked for
//! POST /v1/jobs/watch?TopicQuery      upgrade: JobReport for each job
//! GET  /v1/jobs/watch?TopicQuery      server-sent events, JobReport in each
//! POST /v1/jobs/bid?BidQuery          body as it is -> BidPlaced
//! POST /v1/jobs/award?AwardQuery      body as it is -> MessageReport
//! POST /v1/jobs/close?JobIdQuery      JobIdQuery
//! ```

use anyhop::{Encoding, OfferedJob, PlacedBid};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{shown, utf8};

/// A job to publish.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct JobQuery {
    /// Where.
    pub(crate) topic: String,
    /// What is to be done.
    #[serde(default)]
    pub(crate) kind: String,
    /// Constraints, one a line.
    #[serde(default)]
    pub(crate) require: String,
    /// Peers, separated by commas.
    #[serde(default)]
    pub(crate) exclude: String,
    /// For how long bids are taken, seconds.
    #[serde(default = "ten_minutes")]
    pub(crate) lifetime_s: u64,
    /// How the body is to be read.
    #[serde(default = "utf8")]
    pub(crate) encoding: Encoding,
}

fn ten_minutes() -> u64 {
    600
}

/// A job that was published.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct OwnJobReport {
    /// Its id, hexadecimal.
    pub(crate) id: String,
    /// Where.
    pub(crate) topic: String,
    /// For how long bids are taken, seconds.
    pub(crate) lifetime_s: u64,
    /// Bytes of the body.
    pub(crate) bytes: usize,
}

/// Which job.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct JobIdQuery {
    /// Its id.
    pub(crate) id: String,
}

/// Which bids.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct BidsQuery {
    /// Of which job.
    pub(crate) id: String,
    /// How many to wait for.
    #[serde(default)]
    pub(crate) count: u64,
    /// For how long, milliseconds.
    #[serde(default)]
    pub(crate) timeout_ms: Option<u64>,
}

/// A bid for people and scripts.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct BidReport {
    /// On which job.
    pub(crate) job: String,
    /// Whose, base58.
    pub(crate) from: String,
    /// How the body is to be read.
    pub(crate) encoding: Encoding,
    /// Its body: as text for `utf8` and `json`, else in base64.
    pub(crate) body: String,
    /// Whether the body is in base64.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) body_base64: bool,
}

impl BidReport {
    /// Of a bid.
    pub(crate) fn new(job: &str, bid: &PlacedBid) -> Self {
        let (body, body_base64) = shown(bid.encoding, &bid.body);
        Self {
            job: job.to_owned(),
            from: bid.from.to_base58(),
            encoding: bid.encoding,
            body,
            body_base64,
        }
    }
}

/// A job of somebody else.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct JobReport {
    /// Its id, hexadecimal.
    pub(crate) id: String,
    /// Where.
    pub(crate) topic: String,
    /// Who published it, base58.
    pub(crate) from: String,
    /// What is to be done.
    pub(crate) kind: String,
    /// What a worker must be like.
    pub(crate) require: Vec<String>,
    /// Until when bids are taken, seconds since 1970.
    pub(crate) expires_unix_s: u64,
    /// How the body is to be read.
    pub(crate) encoding: Encoding,
    /// Its body: as text for `utf8` and `json`, else in base64.
    pub(crate) body: String,
    /// Whether the body is in base64.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) body_base64: bool,
}

impl JobReport {
    /// Of a job on a topic.
    pub(crate) fn new(topic: &str, job: &OfferedJob) -> Self {
        let (body, body_base64) = shown(job.encoding, &job.body);
        Self {
            id: job.id.to_string(),
            topic: topic.to_owned(),
            from: job.publisher.to_base58(),
            kind: job.kind.clone(),
            require: job.constraints.iter().map(ToString::to_string).collect(),
            expires_unix_s: job.expires_unix_s,
            encoding: job.encoding,
            body,
            body_base64,
        }
    }
}

/// A bid to make.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct BidQuery {
    /// On which job.
    pub(crate) id: String,
    /// How the body is to be read.
    #[serde(default = "utf8")]
    pub(crate) encoding: Encoding,
}

/// A bid that the publisher has taken.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct BidPlaced {
    /// On which job.
    pub(crate) job: String,
    /// Bytes of its body.
    pub(crate) bytes: usize,
}

/// Whom the work goes to.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct AwardQuery {
    /// Of which job.
    pub(crate) id: String,
    /// PeerId, part of one, or name.
    pub(crate) peer: String,
    /// How the body is to be read.
    #[serde(default = "utf8")]
    pub(crate) encoding: Encoding,
    /// For how long the result is waited for, milliseconds.
    #[serde(default)]
    pub(crate) timeout_ms: Option<u64>,
}
