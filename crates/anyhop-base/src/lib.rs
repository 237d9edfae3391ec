//! Skeleton.
#![allow(missing_docs)]
pub use libp2p_identity::{Keypair, PeerId, PublicKey};
pub use multiaddr::Multiaddr;
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkName(String);
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddr { pub peer: PeerId, pub addr: std::net::SocketAddr }
