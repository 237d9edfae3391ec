//! Anyhop's protocol machines: decisions without sockets, clocks or tasks.
//!
//! Time and randomness are arguments; what to do comes out as values. The shell in
//! the `anyhop` crate moves bytes and waits, and decides nothing.
//!
//! | module | what it decides |
//! |---|---|
//! | [`datagram`] | what a UDP payload is, from its first byte |
//! | [`circuit`] | who may open a circuit here, which label a datagram swaps to |
//! | [`route`] | over which relays a peer may be reached, and how such a way is searched |
//! | [`path`] | which paths a session keeps, uses, probes and gives up |
//! | [`nat`] | what the NATs in front of a node are like |
//! | [`probe`] | the authenticated packets that punch holes and prove a path alive |
//! | [`websocket`] | frames that carry datagrams over a WebSocket |
//! | [`proxy`] | what clients of a SOCKS or HTTP proxy say |
//! | [`network`] | who belongs to a private network, and which packets it takes notice of |
//! | [`session`] | which of two simultaneous connections is the session |
//! | [`message`] | message headers and replies |
//! | [`call`] | what is said in a call whose items go both ways |
//! | [`broadcast`] | how posts reach everybody on a topic |
//! | [`jobs`] | which calls for bids a node answers, and whose bids it takes |
//! | [`control`] | the other small control frames: hello, lookup, punch, attach |

pub mod broadcast;
pub mod call;
pub mod carrier;
pub mod circuit;
pub mod control;
pub mod datagram;
mod frame;
pub mod jobs;
pub mod message;
pub mod nat;
pub mod network;
pub mod path;
pub mod probe;
pub mod proxy;
pub mod route;
pub mod session;
mod virtual_address;
pub mod websocket;

pub use frame::{FrameError, take_frame};
pub use virtual_address::is_virtual;
