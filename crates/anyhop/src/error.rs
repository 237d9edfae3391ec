//! Errors, one enum per operation, each saying what was attempted on whom, why it
//! failed, and what is left.

use std::net::SocketAddr;

use anyhop_base::{Endpoint, NetworkName, PeerId};
use anyhop_proto::circuit::Refusal;
use thiserror::Error;

use crate::BodyError;

pub use anyhop_proto::route::EndReason as NoRouteReason;

/// The coarse class of an error: what a program decides on, and the CLI's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// What the caller passed cannot work.
    InvalidInput,
    /// The peer could not be reached.
    Unreachable,
    /// The peer, or a relay, answered no.
    Refused,
    /// No answer in time.
    Timeout,
    /// The other side is not who it should be.
    WrongPeer,
    /// A limit, ours or the peer's, was hit.
    Limit,
    /// An established session or stream ended.
    Lost,
    /// The local system failed (socket, file).
    System,
}

/// Why a node did not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// A listen address could not be bound.
    #[error("cannot listen on {addr}: {source}")]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A TCP address for WebSockets could not be bound.
    #[error("cannot listen on {addr} for WebSockets: {source}")]
    BindWebSocket {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The certificate for WebSockets is unusable.
    #[error("cannot use the certificate for WebSockets: {0}")]
    Certificate(String),
    /// Two listen addresses of one family.
    #[error(
        "two listen addresses of one family ({0} and {1}): a node has one UDP port each for IPv4 and IPv6"
    )]
    TwoOfOneFamily(SocketAddr, SocketAddr),
    /// The TLS or QUIC configuration was refused.
    #[error("cannot set up the session engine: {0}")]
    Engine(String),
}

/// A node of a public network has no swarm keys to replace.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("network {0} is public here: a node gets swarm keys when it starts, or never")]
pub struct NoSwarmKey(pub NetworkName);

/// One way of reaching a peer that was tried, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// What was tried, such as `direct 203.0.113.5:4001` or `circuit via 12D3..`.
    pub way: String,
    /// Why it failed.
    pub reason: String,
}

/// Why no session to a peer could be established. The node is as before.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum DialError {
    /// The PeerId is this node's own.
    #[error("cannot dial {0}: that is this node itself")]
    Myself(PeerId),
    /// No address, no attachment, and nobody asked knows the peer.
    #[error("no address or relay is known for {peer}; asked {asked} connected peers")]
    Unknown {
        /// Whom.
        peer: PeerId,
        /// How many peers were asked for its record.
        asked: usize,
    },
    /// Somebody else answered at the address.
    #[error("dialled {expected} at {addr}, but {actual} answered there")]
    WrongPeer {
        /// Who was wanted.
        expected: PeerId,
        /// Who proved to be there.
        actual: PeerId,
        /// Where.
        addr: Endpoint,
    },
    /// Every way failed, and a search over willing nodes found no other. Only the side
    /// that dials learns this: where no way is, the peer cannot be told.
    #[error(
        "cannot reach {peer}: {}no way over relays: {reason} ({})",
        before(attempts),
        extent(*asked, *reached, *hops, refused)
    )]
    NoRoute {
        /// Whom.
        peer: PeerId,
        /// What was tried.
        attempts: Vec<Attempt>,
        /// Neighbours that were asked for a way.
        asked: usize,
        /// Nodes that the search reached over them.
        reached: usize,
        /// Relays that a way could have crossed.
        hops: usize,
        /// Why the search ended.
        reason: NoRouteReason,
        /// Nodes that carry nothing on, with their reasons; at most eight.
        refused: Vec<Refused>,
    },
    /// Every direct way failed.
    #[error("cannot reach {peer}: {}", summary(attempts))]
    Unreachable {
        /// Whom.
        peer: PeerId,
        /// What was tried.
        attempts: Vec<Attempt>,
    },
    /// This node holds as many sessions as it may.
    #[error("cannot dial {peer}: this node's limit of {limit} sessions is reached")]
    TooManySessions {
        /// Whom.
        peer: PeerId,
        /// The limit, [`Limits::max_sessions`](crate::Limits::max_sessions).
        limit: usize,
    },
    /// The node is shutting down.
    #[error("cannot dial {0}: this node is shutting down")]
    Closed(PeerId),
}

/// A node that was asked to carry a circuit or a search on, and would not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The node.
    pub by: PeerId,
    /// Its reason, in words.
    pub reason: String,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self {
            by: refusal.by,
            reason: refusal.reason.to_string(),
        }
    }
}

fn before(attempts: &[Attempt]) -> String {
    match attempts {
        [] => String::new(),
        some => format!("{}; ", summary(some)),
    }
}

fn extent(asked: usize, reached: usize, hops: usize, refused: &[Refused]) -> String {
    let mut text = format!("{asked} neighbours asked, {reached} nodes reached within {hops} hops");
    for Refused { by, reason } in refused {
        text.push_str(&format!(", {by}: {reason}"));
    }
    text
}

fn summary(attempts: &[Attempt]) -> String {
    if attempts.is_empty() {
        return "no way to it was found in time".to_owned();
    }
    let parts: Vec<_> = attempts
        .iter()
        .map(|a| format!("{}: {}", a.way, a.reason))
        .collect();
    parts.join("; ")
}

/// Why a stream could not be opened, or ended early.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum StreamError {
    /// There is no session and none could be made.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The name is empty or longer than [`MAX_PROTOCOL_LEN`](crate::MAX_PROTOCOL_LEN).
    #[error("protocol name {0:?} is empty or longer than 255 bytes")]
    BadProtocolName(String),
    /// The peer has no handler for the protocol.
    #[error("{peer} does not speak protocol {protocol:?}")]
    UnknownProtocol {
        /// The peer.
        peer: PeerId,
        /// What was asked for.
        protocol: String,
    },
    /// The peer's handler has too many streams waiting.
    #[error("{peer} is too busy to accept another {protocol:?} stream")]
    Busy {
        /// The peer.
        peer: PeerId,
        /// What was asked for.
        protocol: String,
    },
    /// The peer stopped this stream with its own code.
    #[error("{peer} ended the stream with code {code}")]
    Stopped {
        /// The peer.
        peer: PeerId,
        /// The application's code.
        code: u64,
    },
    /// The peer let go of the stream before its end: what arrived is only a part.
    #[error("{peer} dropped the stream before its end")]
    Dropped {
        /// The peer.
        peer: PeerId,
    },
    /// The session ended under the stream.
    #[error("the session with {peer} ended: {reason}")]
    SessionLost {
        /// The peer.
        peer: PeerId,
        /// Why.
        reason: String,
    },
    /// The stream was finished or reset on this side.
    #[error("the stream is already finished on this side")]
    Finished,
}

/// Why a message, request or ping failed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The stream beneath failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// Larger than this node or the peer allows. Nothing was sent, or the peer kept none of it.
    #[error("message of {size} bytes is larger than {whose} limit of {limit} bytes")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
        /// `this node's` or `the peer's`.
        whose: &'static str,
    },
    /// The body does not fit its encoding tag, or the type is too long.
    #[error("message not sent: {0}")]
    Invalid(String),
    /// The peer's inbox is full; it kept nothing.
    #[error("{0} accepts no more messages now: its inbox is full")]
    InboxFull(PeerId),
    /// The peer took the request, and nobody there answers such requests.
    #[error("{peer} has nobody who answers requests of type {kind:?}")]
    NoResponder {
        /// The peer.
        peer: PeerId,
        /// The request's type.
        kind: String,
    },
    /// No answer in time.
    #[error("no answer from {peer} within {millis} ms ({note})")]
    Timeout {
        /// The peer.
        peer: PeerId,
        /// How long was waited.
        millis: u128,
        /// What the session's paths are like.
        note: String,
    },
    /// The peer's handler failed. A handler of calls says so with this.
    #[error("{peer} could not do it: {reason}")]
    Failed {
        /// The peer.
        peer: PeerId,
        /// Why, at most 256 bytes of it.
        reason: String,
    },
    /// The peer could not read what was sent as what its type wants.
    #[error("{peer} could not read it: {reason}")]
    Unreadable {
        /// The peer.
        peer: PeerId,
        /// Why.
        reason: String,
    },
    /// A typed body could not be written here, or read.
    #[error("body of a message to or from {peer}: {source}")]
    Body {
        /// The peer.
        peer: PeerId,
        /// Why.
        source: BodyError,
    },
    /// The peer's answer broke the protocol.
    #[error("{peer} broke the message protocol: {reason}")]
    Protocol {
        /// The peer.
        peer: PeerId,
        /// How.
        reason: String,
    },
}

impl DialError {
    /// The class of this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Myself(_) => ErrorKind::InvalidInput,
            Self::Unknown { .. } | Self::NoRoute { .. } | Self::Unreachable { .. } => {
                ErrorKind::Unreachable
            }
            Self::WrongPeer { .. } => ErrorKind::WrongPeer,
            Self::TooManySessions { .. } => ErrorKind::Limit,
            Self::Closed(_) => ErrorKind::Lost,
        }
    }
}

impl StreamError {
    /// The class of this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Dial(e) => e.kind(),
            Self::BadProtocolName(_) => ErrorKind::InvalidInput,
            Self::UnknownProtocol { .. } => ErrorKind::Refused,
            Self::Busy { .. } => ErrorKind::Limit,
            Self::Stopped { .. }
            | Self::Dropped { .. }
            | Self::SessionLost { .. }
            | Self::Finished => ErrorKind::Lost,
        }
    }
}

impl MessageError {
    /// The class of this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Stream(e) => e.kind(),
            Self::TooLarge { .. } | Self::InboxFull(_) => ErrorKind::Limit,
            Self::Invalid(_)
            | Self::Body {
                source: BodyError::Unwritable(_),
                ..
            } => ErrorKind::InvalidInput,
            Self::NoResponder { .. }
            | Self::Protocol { .. }
            | Self::Failed { .. }
            | Self::Unreadable { .. }
            | Self::Body { .. } => ErrorKind::Refused,
            Self::Timeout { .. } => ErrorKind::Timeout,
        }
    }
}

/// A handler that cannot be: its type has one already, is longer than 256 bytes or the
/// library's own, or a thousand types have one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "messages of type {0:?} cannot have this handler: they have one, the name is too long or taken by the library, or there are too many"
)]
pub struct TypeTaken(pub String);

/// A second handler for one protocol name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("protocol {0:?} already has a handler on this node")]
pub struct ProtocolTaken(pub String);
