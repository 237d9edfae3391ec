//! The packet plane's logic: what happens to an IP packet between the host's network
//! interface and a session's path.
//!
//! ```text
//! seal      packets on the wire: header, AEAD, counters; keys of one handshake
//! keyring   generations of keys, and the change from one to the next
//! window    what was received already
//! ip        as much of IPv4, IPv6 and ICMP as the others need
//! routes    prefixes and whose they are, by longest match
//! switch    frames, and behind which member an address is
//! egress    from the interface to a peer
//! ingress   from the wire to the interface
//! offload   packets that are cut, and packets that become one
//! overlay   which addresses the members of a network have
//! names     the DNS zone of a network: what is answered to which question
//! firewall  which packets may pass
//! ```
//!
//! # Boundary
//!
//! Packets, events and the current time go in; packets, events and the next timeout come
//! out. This crate stands on `anyhop-base` alone, and never
//!
//! - opens a socket, a TUN device or a file: that is `anyhop-os`, driven by `anyhop`;
//! - reads a clock or a random number generator: both are arguments;
//! - runs a key exchange: keys come from a session's TLS exporter;
//! - knows the QUIC engine: a path is an opaque value to it.

mod egress;
pub mod firewall;
mod ingress;
pub mod ip;
mod keyring;
mod names;
mod offload;
mod overlay;
mod routes;
mod seal;
mod switch;
mod window;

pub use egress::{Decision, Egress, HeldFrame, MAX_HELD_BYTES, MAX_HELD_PER_PEER};
pub use ingress::{Ingress, Opened};
pub use keyring::{KEY_GRACE, Keyring, MAX_GENERATIONS, REKEY_AFTER, REKEY_INTERVAL, REKEY_RETRY};
pub use names::{
    Answer, MAX_UDP_ANSWER, NameZone, NamedMember, TOP_DOMAIN, Transport, dns_label, refuse,
};
pub use offload::{MAX_MERGED, Merger, Segments, VNET_HEADER_LEN, VnetHeader};
pub use overlay::{Member, Overlay, V4_PREFIX_LEN, V6_PREFIX_LEN};
pub use routes::{BadPrefix, Prefix, Routes};
pub use seal::{
    Cipher, Exhausted, OVERHEAD, OpenError, Opener, PacketKeys, Payload, ReceiverIndex,
    SEALED_EXPORTER_LABEL, SEALED_HEADER_LEN, SEALED_SECRET_LEN, SEALED_TAG_LEN, Sealer,
    read_index,
};
pub use switch::{
    ETHERNET_HEADER_LEN, Forward, MAC_AGE, MAC_HOLD, MAX_MACS, MAX_MACS_PER_PORT, Mac, Switch,
    ethernet_header_len,
};
pub use window::{WINDOW, Window};

use std::collections::BTreeMap;

/// Names a peer of the packet plane: its place in the tables.
pub type Slot = u32;

/// Most peers of one plane.
pub const MAX_PEERS: usize = 10_000;
/// Most prefixes of one peer.
pub const MAX_ROUTES_PER_PEER: usize = 64;

/// Why a packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// It is no IP packet, or no sealed one.
    Malformed,
    /// No peer has the destination.
    UnknownDestination,
    /// There is no session with the peer yet, and enough packets wait for it.
    NoSession,
    /// The path to the peer takes no more now.
    PathBusy,
    /// It is larger than the path takes; its sender was told.
    TooBig,
    /// The keys of the handshake have sealed as many packets as they may.
    Exhausted,
    /// It is sealed for keys that are not known here.
    UnknownKeys,
    /// It is not what the peer sealed.
    NotAuthentic,
    /// It came before.
    Replayed,
    /// Its source is none of the sender's addresses.
    ForeignSource,
    /// Its destination is not of this host.
    NotForThisHost,
    /// Its destination is this host's own, or is not to be reached by others.
    NotForMembers,
    /// Its source is in use elsewhere; see [`Switch`].
    AddressInUse,
    /// One of the two carries IP packets, the other one frames.
    OtherMode,
    /// The firewall does not let it pass.
    Firewall,
    /// The interface takes no more now.
    InterfaceBusy,
}

impl DropReason {
    /// Its name in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownDestination => "unknown_destination",
            Self::NoSession => "no_session",
            Self::PathBusy => "path_busy",
            Self::TooBig => "too_big",
            Self::Exhausted => "keys_exhausted",
            Self::UnknownKeys => "unknown_keys",
            Self::NotAuthentic => "not_authentic",
            Self::Replayed => "replayed",
            Self::ForeignSource => "foreign_source",
            Self::NotForThisHost => "not_for_this_host",
            Self::NotForMembers => "not_for_members",
            Self::AddressInUse => "address_in_use",
            Self::OtherMode => "other_mode",
            Self::Firewall => "firewall",
            Self::InterfaceBusy => "interface_busy",
        }
    }
}

/// Packets dropped, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drops(BTreeMap<DropReason, u64>);

impl Drops {
    /// Counts some.
    pub fn add(&mut self, reason: DropReason, packets: u64) {
        *self.0.entry(reason).or_default() += packets;
    }

    /// Those that there were, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> {
        self.0.iter().map(|(reason, packets)| (*reason, *packets))
    }

    /// How many for this reason.
    #[must_use]
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0.get(&reason).copied().unwrap_or_default()
    }
}
