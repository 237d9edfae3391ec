//! The words every other crate of Anyhop speaks: keys, addresses, network names,
//! signed records and the small codecs beneath them.
//!
//! Nothing here opens a socket or reads a clock; [`identity`] and [`fs`] are the only
//! modules that touch the disk. Everything that arrives from a peer is checked here
//! before it becomes one of these types, and every check has a named limit.
//!
//! ```text
//! identity   the key in the state directory
//! addr       /ip4/../udp/../quic-v1/p2p/..  <->  PeerAddr
//! network    a network's name, its id, its protocol names
//! record     what a node says about itself, signed
//! rule       firewall rules
//! codec      varints
//! fs         atomic file writes
//! ```

pub mod addr;
pub mod codec;
pub mod fs;
pub mod identity;
pub mod network;
pub mod record;
pub mod rule;

pub use addr::{AddrError, Endpoint, PeerAddr, dialable, parse_multiaddr, quic_multiaddr};
pub use identity::{KeyError, KeyFault, load_or_create_keypair, public_key_of};
pub use libp2p_identity::{Keypair, PeerId, PublicKey};
pub use multiaddr::Multiaddr;
pub use network::{NetworkId, NetworkName, NetworkNameError};
pub use record::{Attachment, Reachability, Record, RecordError, SignedRecord};
pub use rule::{BadRule, Direction, Ports, Protocol, Role, Rule, Verdict, Who};
