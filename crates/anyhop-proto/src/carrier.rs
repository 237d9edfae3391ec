//! Carriers that are no UDP socket: connections of one peer that move opaque datagrams.

use std::net::SocketAddr;

use crate::virtual_address::Kind;

const KIND: Kind = Kind(0x7002);

/// A carrier connection of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CarrierId(pub u64);

impl CarrierId {
    /// The address under which the engine knows the other end.
    #[must_use]
    pub fn address(self) -> SocketAddr {
        KIND.address(self.0)
    }

    /// The carrier behind an address of the engine, if it is one.
    #[must_use]
    pub fn from_address(addr: &SocketAddr) -> Option<Self> {
        KIND.id(addr).map(Self)
    }
}
