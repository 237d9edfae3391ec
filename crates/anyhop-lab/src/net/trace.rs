//! What the network counted.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use super::{HostId, Place, packet::Packet};
use crate::nat::NatDrop;

/// Why a packet was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// Lost by a link's [`loss`](super::Link::loss).
    Loss,
    /// Larger than a link's MTU.
    TooBig,
    /// No room in the queue before a link of limited speed.
    LinkQueueFull,
    /// The host is [cut off](super::VirtualNet::cut).
    Cut,
    /// [UDP](super::VirtualNet::block_udp) does not pass there.
    UdpBlocked,
    /// [TCP](super::VirtualNet::block_tcp) does not pass there.
    TcpBlocked,
    /// Its [family](super::VirtualNet::block_traffic) does not pass there.
    FamilyBlocked,
    /// The network lets out nothing but TCP [to its proxy](super::VirtualNet::proxy_only).
    NotTheProxy,
    /// The TTL ran out before it arrived.
    TtlExpired,
    /// The host no longer has the packet's address.
    AddressGone,
    /// A [`block`](super::VirtualNet::block) rule.
    Blocked,
    /// Nobody has the destination address.
    NoRoute,
    /// The destination host has no socket on the port.
    NoSocket,
    /// The receiving socket's queue was full.
    ReceiveQueueFull,
    /// More datagrams under way than the network holds.
    FabricFull,
    /// A NAT did not let it pass.
    Nat(NatDrop),
}

/// Packets, UDP datagrams and TCP segments alike, and the payload in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub datagrams: u64,
    /// Their payload.
    pub bytes: u64,
}

impl Count {
    pub(super) fn add(&mut self, bytes: usize) {
        self.datagrams += 1;
        self.bytes += bytes as u64;
    }

    fn less(self, earlier: Self) -> Self {
        Self {
            datagrams: self.datagrams - earlier.datagrams,
            bytes: self.bytes - earlier.bytes,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            datagrams: self.datagrams + other.datagrams,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} datagrams, {} bytes", self.datagrams, self.bytes)
    }
}

/// Everything counted since the network was made, or between two snapshots
/// ([`since`](Self::since)).
///
/// A pair is (host that sent, host that received): a datagram that a relay forwards
/// counts for the relay, however many NATs lie between.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    sent: BTreeMap<HostId, Count>,
    delivered: BTreeMap<(HostId, HostId), Count>,
    carried: BTreeMap<Place, Count>,
    dropped: BTreeMap<(HostId, DropReason), Count>,
    /// Kept once it is asked for: hosts that try many ports make it large.
    captured: Option<BTreeMap<(SocketAddr, SocketAddr), Count>>,
}

impl Trace {
    /// What the host handed to the network.
    #[must_use]
    pub fn sent(&self, host: impl Into<HostId>) -> Count {
        get(&self.sent, &host.into())
    }

    /// What arrived in a socket of `to` from a socket of `from`.
    #[must_use]
    pub fn delivered(&self, from: impl Into<HostId>, to: impl Into<HostId>) -> Count {
        get(&self.delivered, &(from.into(), to.into()))
    }

    /// What arrived from `a` at `b` and from `b` at `a`, with no host between.
    #[must_use]
    pub fn between(&self, a: impl Into<HostId>, b: impl Into<HostId>) -> Count {
        let (a, b) = (a.into(), b.into());
        self.delivered(a, b).plus(self.delivered(b, a))
    }

    /// What crossed the link of a host or NAT, both directions together.
    #[must_use]
    pub fn carried(&self, place: impl Into<Place>) -> Count {
        get(&self.carried, &place.into())
    }

    /// What the host sent and was dropped for `reason`.
    #[must_use]
    pub fn dropped_from(&self, host: impl Into<HostId>, reason: DropReason) -> Count {
        get(&self.dropped, &(host.into(), reason))
    }

    /// What was dropped for `reason`, whoever sent it.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> Count {
        let of_reason = self.dropped.iter().filter(|((_, r), _)| *r == reason);
        of_reason.fold(Count::default(), |sum, (_, c)| sum.plus(*c))
    }

    /// Everything dropped, by reason.
    #[must_use]
    pub fn drops(&self) -> BTreeMap<DropReason, Count> {
        let mut by_reason = BTreeMap::<_, Count>::new();
        for ((_, reason), count) in &self.dropped {
            let sum = by_reason.entry(*reason).or_default();
            *sum = sum.plus(*count);
        }
        by_reason
    }

    /// From which socket to which address what was handed to the network, since
    /// [`VirtualNet::capture`](super::VirtualNet::capture).
    pub fn captured(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr, Count)> {
        let captured = self.captured.iter().flatten();
        captured.map(|((from, to), count)| (*from, *to, *count))
    }

    pub(super) fn capture(&mut self) {
        self.captured.get_or_insert_default();
    }

    /// What was counted after `earlier`, a snapshot of the same network.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            sent: diff(&self.sent, &earlier.sent),
            delivered: diff(&self.delivered, &earlier.delivered),
            carried: diff(&self.carried, &earlier.carried),
            dropped: diff(&self.dropped, &earlier.dropped),
            captured: self.captured.as_ref().map(|now| {
                let then = earlier.captured.clone().unwrap_or_default();
                diff(now, &then)
            }),
        }
    }

    /// # Panics
    /// If a datagram went directly from one of the two to the other.
    #[track_caller]
    pub fn assert_no_direct(&self, a: impl Into<HostId>, b: impl Into<HostId>) {
        let seen = self.between(a, b);
        assert_eq!(seen.datagrams, 0, "directly delivered: {seen}");
    }

    pub(super) fn on_sent(&mut self, packet: &Packet) {
        let sent = self.sent.entry(packet.origin).or_default();
        sent.add(packet.payload_len());
        if let Some(captured) = &mut self.captured {
            let between = captured.entry((packet.src, packet.dst)).or_default();
            between.add(packet.payload_len());
        }
    }

    pub(super) fn on_delivered(&mut self, packet: &Packet, to: HostId) {
        let delivered = self.delivered.entry((packet.origin, to)).or_default();
        delivered.add(packet.payload_len());
    }

    pub(super) fn on_carried(&mut self, place: Place, packet: &Packet) {
        let carried = self.carried.entry(place).or_default();
        carried.add(packet.payload_len());
    }

    pub(super) fn on_dropped(&mut self, packet: &Packet, reason: DropReason) {
        let dropped = self.dropped.entry((packet.origin, reason)).or_default();
        dropped.add(packet.payload_len());
    }
}

fn get<K: Ord>(map: &BTreeMap<K, Count>, key: &K) -> Count {
    map.get(key).copied().unwrap_or_default()
}

fn diff<K: Ord + Copy>(now: &BTreeMap<K, Count>, then: &BTreeMap<K, Count>) -> BTreeMap<K, Count> {
    now.iter()
        .map(|(k, count)| (*k, count.less(get(then, k))))
        .collect()
}
