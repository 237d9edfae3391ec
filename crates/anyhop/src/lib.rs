//! Connections by public key, through whatever lies between.

mod circuit;
mod config;
mod engine;
mod error;
mod info;
mod message;
pub mod net;
mod node;
mod session;
mod stream;

pub use anyhop_base::{Keypair, Multiaddr, NetworkName, PeerAddr, PeerId};
pub use config::{Config, DEFAULT_MAX_MESSAGE_SIZE, KEEP_ALIVE, Limits, RelayConfig};
pub use error::{
    Attempt, DialError, ErrorKind, MessageError, ProtocolTaken, StartError, StreamError,
};
pub use info::{
    Carrier, DropCount, NodeStatus, PathInfo, PathKind, Pong, RelayStatus, SessionInfo,
};
pub use message::{Encoding, MAX_TYPE_LEN, Message, Received, Responder};
pub use node::{Event, Listener, Node};
pub use session::Session;
pub use stream::{Incoming, RecvStream, SendStream};

/// Longest protocol name, bytes.
pub const MAX_PROTOCOL_LEN: usize = 255;
