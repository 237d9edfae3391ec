//! Messages: one value each way, with a type and an encoding tag.

use std::sync::Arc;

use anyhop_base::PeerId;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::node::Counts;

/// How a message's body is to be read. The network layer only carries the tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Any bytes.
    Binary,
    /// UTF-8 text; checked by the sender.
    Utf8,
    /// A JSON text; checked to be UTF-8 by the sender.
    Json,
    /// A protobuf message whose schema the type names.
    Protobuf,
}

impl Encoding {
    pub(crate) fn tag(self) -> u32 {
        match self {
            Self::Binary => 0,
            Self::Utf8 => 1,
            Self::Json => 2,
            Self::Protobuf => 3,
        }
    }

    /// An unknown tag is read as bytes: the body is intact, only its reading is not.
    pub(crate) fn from_tag(tag: u32) -> Self {
        match tag {
            1 => Self::Utf8,
            2 => Self::Json,
            3 => Self::Protobuf,
            _ => Self::Binary,
        }
    }
}

/// A typed value to send to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What it is, for the receiving application; at most [`MAX_TYPE_LEN`] bytes.
    pub kind: String,
    /// How to read [`body`](Self::body).
    pub encoding: Encoding,
    /// The value.
    pub body: Bytes,
}

/// Longest message type, bytes.
pub const MAX_TYPE_LEN: usize = 256;

impl Message {
    /// A UTF-8 text of type `text`.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            kind: "text".to_owned(),
            encoding: Encoding::Utf8,
            body: Bytes::from(text.into()),
        }
    }

    /// Bytes of type `kind`.
    #[must_use]
    pub fn binary(kind: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self {
            kind: kind.into(),
            encoding: Encoding::Binary,
            body: body.into(),
        }
    }
}

/// A message that arrived, acknowledged to its sender when it entered the inbox.
#[derive(Debug)]
pub struct Received {
    /// Who sent it.
    pub from: PeerId,
    /// The message.
    pub message: Message,
    /// For a request: where the reply goes. Dropping it tells the requester that
    /// nobody answered.
    pub reply: Option<Responder>,
    /// Held until the message is dropped: bounds what waits and what is worked on.
    pub(crate) _room: OwnedSemaphorePermit,
}

/// The way back to a requester; see [`Received::reply`].
#[derive(Debug)]
pub struct Responder {
    pub(crate) peer: PeerId,
    pub(crate) limit: usize,
    pub(crate) channel: oneshot::Sender<Message>,
    pub(crate) counts: Arc<Counts>,
}
