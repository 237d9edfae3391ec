//! What travels about topics.

use anyhop::{Encoding, Posted};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::shown;

/// Which topic.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct TopicQuery {
    /// Its name; empty for what goes to all nodes.
    #[serde(default)]
    pub(crate) topic: String,
}

/// How a body is published.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct PublishQuery {
    /// Where; empty for all nodes.
    #[serde(default)]
    pub(crate) topic: String,
    /// How the body is to be read.
    #[serde(default = "super::utf8")]
    pub(crate) encoding: Encoding,
}

/// What was published.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct PublishReport {
    /// Where; empty for all nodes.
    pub(crate) topic: String,
    /// The post's id, hexadecimal.
    pub(crate) id: String,
    /// Its number.
    pub(crate) seq: u64,
    /// Bytes of the body.
    pub(crate) bytes: usize,
    /// Neighbours on the topic at that moment.
    pub(crate) neighbours: usize,
}

/// Head of a post; `size` bytes of data frames with its body follow.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct PostTell {
    /// Who published it, base58.
    pub(crate) from: String,
    /// Its number.
    pub(crate) seq: u64,
    /// How the body is to be read.
    pub(crate) encoding: Encoding,
    /// Size of the body.
    pub(crate) size: usize,
}

impl PostTell {
    /// Of a post.
    pub(crate) fn new(post: &Posted) -> Self {
        Self {
            from: post.from.to_base58(),
            seq: post.seq,
            encoding: post.encoding,
            size: post.body.len(),
        }
    }

    /// With its body.
    pub(crate) fn report(self, topic: &str, bytes: &Bytes) -> PostReport {
        let (body, body_base64) = shown(self.encoding, bytes);
        PostReport {
            from: self.from,
            topic: topic.to_owned(),
            seq: self.seq,
            encoding: self.encoding,
            body,
            body_base64,
        }
    }
}

/// A post for people and scripts.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub(crate) struct PostReport {
    /// Who published it, base58.
    pub(crate) from: String,
    /// Where; empty for all nodes.
    pub(crate) topic: String,
    /// Its number.
    pub(crate) seq: u64,
    /// How the body is to be read.
    pub(crate) encoding: Encoding,
    /// Its body: as text for `utf8` and `json`, else in base64.
    pub(crate) body: String,
    /// Whether the body is in base64.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) body_base64: bool,
}
