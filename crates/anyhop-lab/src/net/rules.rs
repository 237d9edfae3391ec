//! Faults that tests switch on and off while the network runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::{HostId, NatId, Place, packet::Packet, trace::DropReason};

/// One end of a [`block`](super::VirtualNet::block) rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// An address as it shows in a packet on some segment, so usually the
    /// external one of a NAT.
    Address(IpAddr),
    /// A host, whatever addresses its packets show on the way.
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

/// A kind of traffic that [`block_traffic`](super::VirtualNet::block_traffic) stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Traffic {
    /// UDP of both families.
    Udp,
    /// TCP of both families.
    Tcp,
    /// IPv4, whatever it carries.
    Ipv4,
    /// IPv6, whatever it carries.
    Ipv6,
}

impl Traffic {
    fn includes(self, packet: &Packet) -> bool {
        match self {
            Self::Udp => packet.is_udp(),
            Self::Tcp => !packet.is_udp(),
            Self::Ipv4 => packet.dst.is_ipv4(),
            Self::Ipv6 => packet.dst.is_ipv6(),
        }
    }

    fn reason(self) -> DropReason {
        match self {
            Self::Udp => DropReason::UdpBlocked,
            Self::Tcp => DropReason::TcpBlocked,
            Self::Ipv4 | Self::Ipv6 => DropReason::FamilyBlocked,
        }
    }
}

/// The rules in force. Bounded by the number of pairs of places.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) blocked: BTreeSet<(End, End)>,
    pub(super) cut: BTreeSet<HostId>,
    pub(super) traffic: BTreeSet<(Place, Traffic)>,
    /// The one TCP address that each of these NATs lets its inside reach.
    pub(super) proxy_only: BTreeMap<NatId, SocketAddr>,
}

impl Rules {
    /// Whether a packet may leave or enter a host, or pass a NAT.
    pub(super) fn check(&self, place: Place, packet: &Packet) -> Result<(), DropReason> {
        if let Place::Host(host) = place
            && self.cut.contains(&host)
        {
            return Err(DropReason::Cut);
        }
        let mut here = self
            .traffic
            .range((place, Traffic::Udp)..=(place, Traffic::Ipv6));
        match here.find(|(_, traffic)| traffic.includes(packet)) {
            Some((_, traffic)) => Err(traffic.reason()),
            None => Ok(()),
        }
    }

    /// Whether a packet between the inside of a NAT and `remote` is let through.
    pub(super) fn check_egress(
        &self,
        nat: NatId,
        remote: SocketAddr,
        packet: &Packet,
    ) -> Result<(), DropReason> {
        match self.proxy_only.get(&nat) {
            Some(proxy) if packet.is_udp() || *proxy != remote => Err(DropReason::NotTheProxy),
            _ => Ok(()),
        }
    }

    /// Whether a packet with these addresses, seen on a segment, is to be dropped.
    pub(super) fn blocks_in_transit(&self, origin: HostId, src: IpAddr, dst: IpAddr) -> bool {
        !self.blocked.is_empty()
            && (self.has(End::Address(src), End::Address(dst))
                || self.has(End::Host(origin), End::Address(dst)))
    }

    /// Whether a packet that has arrived at its host is to be dropped.
    pub(super) fn blocks_at_host(&self, origin: HostId, src: IpAddr, host: HostId) -> bool {
        !self.blocked.is_empty()
            && (self.has(End::Host(origin), End::Host(host))
                || self.has(End::Address(src), End::Host(host)))
    }

    fn has(&self, from: End, to: End) -> bool {
        self.blocked.contains(&(from, to))
    }
}
