//! Faults that tests switch on and off while the network runs.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::HostId;

/// One end of a [`block`](super::VirtualNet::block) rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// An address as it shows in a datagram on some segment, so usually the
    /// external one of a NAT.
    Address(IpAddr),
    /// A host, whatever addresses its datagrams show on the way.
    Host(HostId),
}

impl From<IpAddr> for End {
    fn from(ip: IpAddr) -> Self {
        Self::Address(ip)
    }
}

impl From<Ipv4Addr> for End {
    fn from(ip: Ipv4Addr) -> Self {
        Self::Address(ip.into())
    }
}

impl From<Ipv6Addr> for End {
    fn from(ip: Ipv6Addr) -> Self {
        Self::Address(ip.into())
    }
}

impl<T: Into<HostId>> From<T> for End {
    fn from(host: T) -> Self {
        Self::Host(host.into())
    }
}

/// The rules in force. Bounded by the number of pairs of places.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) blocked: BTreeSet<(End, End)>,
    pub(super) cut: BTreeSet<HostId>,
    pub(super) no_udp: BTreeSet<HostId>,
}

impl Rules {
    /// Whether a datagram with these addresses, seen on a segment, is to be dropped.
    pub(super) fn blocks_in_transit(&self, origin: HostId, src: IpAddr, dst: IpAddr) -> bool {
        !self.blocked.is_empty()
            && (self.has(End::Address(src), End::Address(dst))
                || self.has(End::Host(origin), End::Address(dst)))
    }

    /// Whether a datagram that has arrived at its host is to be dropped.
    pub(super) fn blocks_at_host(&self, origin: HostId, src: IpAddr, host: HostId) -> bool {
        !self.blocked.is_empty()
            && (self.has(End::Host(origin), End::Host(host))
                || self.has(End::Address(src), End::Host(host)))
    }

    fn has(&self, from: End, to: End) -> bool {
        self.blocked.contains(&(from, to))
    }
}
