//! Who sent to whom before being invited: the books behind
//! [`VirtualNet::assert_no_uninvited`](super::VirtualNet::assert_no_uninvited) and
//! [`VirtualNet::assert_amplification`](super::VirtualNet::assert_amplification).
//!
//! **Uninvited** is a packet, UDP or TCP, that a participant sends to an IP address which
//! has not sent to it before, and is neither an address that a participant has or had, nor
//! one of a NAT in front of a participant, nor loopback or multicast; and every packet that
//! reaches a [bystander](super::VirtualNet::bystander) who had not sent first, whatever the
//! address. All hosts that are not bystanders are participants.
//!
//! **Amplification** is counted in UDP payload bytes for each pair of a host and a remote
//! address and port, from the first packet until the remote is *proven*: until something
//! arrives from it after something was sent to it. (Nobody forges addresses here, so
//! whatever arrives after that is taken for an answer.) TCP is left out: its handshake
//! proves both ends before a byte is sent.
//!
//! - A remote that **spoke first** gets at most the factor times what it had sent. An
//!   established session whose peer shows a new address may spend [`REBINDING_BUDGET`] on
//!   top: QUIC pads the challenge that proves the address to 1200 bytes, and noq does so
//!   though RFC 9000 section 8.2.1 exempts it where that is more than three times.
//! - A remote that was **spoken to first** has sent nothing: in each [`BUDGET_WINDOW`] what
//!   it gets must fit [`FIRST_FLIGHT_BUDGET`] for QUIC packets (a dial and its repetitions)
//!   and [`PROBE_BUDGET`] for everything else (probes that both ends agreed on over their
//!   session), and what one host sends of the latter to ports of one IP address that are
//!   not proven at that time must fit [`PROBED_HOST_BUDGET`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    HostId,
    packet::{Body, Packet},
    trace::Count,
};

/// What the budgets are for: each begins with the first packet after the one before.
pub const BUDGET_WINDOW: Duration = Duration::from_secs(60);

/// Bytes of QUIC packets in a window to one address that never answered: a first flight is
/// two datagrams with a post-quantum key share, repeated with doubling pauses until the
/// dial's 12 s are over; two dials.
pub const FIRST_FLIGHT_BUDGET: u64 = 2 * 8 * 2 * 1252;

/// Bytes of QUIC packets of an established session, in all, to a new address of its peer
/// beyond what the factor allows: two padded challenges.
pub const REBINDING_BUDGET: u64 = 2 * 1200;

/// Bytes of other packets in a window to one address that never answered: five probes a
/// second.
pub const PROBE_BUDGET: u64 = 5 * 60 * 64;

/// Bytes of other packets in a window to all ports of one IP address that did not answer:
/// four times the 1024 probes of a birthday attempt.
pub const PROBED_HOST_BUDGET: u64 = 4 * 1024 * 64;

/// Pairs in the books; more make the assertions fail, since they would be incomplete.
const MAX_PAIRS: usize = 1 << 20;

/// A QUIC packet has this bit of its first byte set, nothing else of ours has; those of
/// the handshake have the other one too (RFC 9000 section 17).
const QUIC_BIT: u8 = 0x40;
const LONG_HEADER_BIT: u8 = 0x80;

/// What went between a host and one remote address and port before it was proven.
#[derive(Debug, Clone, Copy, Default)]
struct Dealing {
    is_proven: bool,
    received: u64,
    quic: Spent,
    /// Those of `quic` that belong to an established session.
    session: u64,
    other: Spent,
}

/// Bytes: in all, in the present window, and in the worst one.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    total: u64,
    window: Option<Instant>,
    in_window: u64,
    worst: u64,
}

impl Spent {
    fn add(&mut self, now: Instant, bytes: u64) {
        if self.window.is_none_or(|start| now >= start + BUDGET_WINDOW) {
            self.window = Some(now);
            self.in_window = 0;
        }
        self.total += bytes;
        self.in_window += bytes;
        self.worst = self.worst.max(self.in_window);
    }
}

/// The books.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger {
    dealings: BTreeMap<(HostId, SocketAddr), Dealing>,
    /// Probes to all ports of an address that had not spoken yet.
    probed: BTreeMap<(HostId, IpAddr), Spent>,
    /// Addresses that sent to the host.
    heard_from: BTreeSet<(HostId, IpAddr)>,
    /// Addresses that a bystander sent to.
    addressed: BTreeSet<(HostId, IpAddr)>,
    uninvited: BTreeMap<(HostId, IpAddr), Count>,
    overheard: BTreeMap<(HostId, HostId), Count>,
    /// Addresses of participants and of NATs in front of them, past ones included.
    invited: BTreeSet<IpAddr>,
    bystanders: BTreeSet<HostId>,
    is_full: bool,
}

impl Ledger {
    pub(super) fn add_bystander(&mut self, host: HostId) {
        self.bystanders.insert(host);
    }

    pub(super) fn is_bystander(&self, host: HostId) -> bool {
        self.bystanders.contains(&host)
    }

    pub(super) fn invite(&mut self, addresses: &[IpAddr]) {
        self.invited.extend(addresses);
    }

    pub(super) fn on_sent(&mut self, now: Instant, packet: &Packet) {
        let (from, to) = (packet.origin, packet.dst.ip());
        if to.is_loopback() || to.is_multicast() {
            return;
        }
        if self.is_bystander(from) {
            self.addressed.insert((from, to));
            return;
        }
        if !self.invited.contains(&to) && !self.heard_from.contains(&(from, to)) {
            let count = self.uninvited.entry((from, to)).or_default();
            count.add(packet.payload_len());
        }
        let Body::Udp { payload, .. } = &packet.body else {
            return;
        };
        let bytes = payload.len() as u64;
        let Some(dealing) = self.dealing(from, packet.dst) else {
            return;
        };
        if dealing.is_proven {
            return;
        }
        let first = payload.first().copied().unwrap_or_default();
        if first & QUIC_BIT != 0 {
            dealing.quic.add(now, bytes);
            if first & LONG_HEADER_BIT == 0 {
                dealing.session += bytes;
            }
        } else {
            dealing.other.add(now, bytes);
            if dealing.received == 0 {
                let probed = self.probed.entry((from, to)).or_default();
                probed.add(now, bytes);
            }
        }
    }

    pub(super) fn on_arrived(&mut self, packet: &Packet, to: HostId) {
        let from = packet.src.ip();
        if from.is_loopback() || packet.origin == to {
            return;
        }
        if self.is_bystander(to) {
            let sent_first = self.addressed.contains(&(to, from));
            if !sent_first && !self.is_bystander(packet.origin) {
                let count = self.overheard.entry((packet.origin, to)).or_default();
                count.add(packet.payload_len());
            }
            return;
        }
        self.heard_from.insert((to, from));
        if !packet.is_udp() {
            return;
        }
        let bytes = packet.payload_len() as u64;
        if let Some(dealing) = self.dealing(to, packet.src) {
            if dealing.quic.total + dealing.other.total > 0 {
                dealing.is_proven = true;
            } else {
                dealing.received += bytes;
            }
        }
    }

    fn dealing(&mut self, host: HostId, remote: SocketAddr) -> Option<&mut Dealing> {
        let key = (host, remote);
        if self.dealings.len() >= MAX_PAIRS && !self.dealings.contains_key(&key) {
            self.is_full = true;
            return None;
        }
        Some(self.dealings.entry(key).or_default())
    }

    /// What breaks the rule on uninvited packets.
    pub(super) fn uninvited(&self, name: impl Fn(HostId) -> Arc<str>) -> Vec<Breach> {
        let sent = self.uninvited.iter().map(|((from, to), count)| Breach {
            host: name(*from),
            what: format!("{count} to {to}, which nobody invited it to"),
        });
        let heard = self.overheard.iter().map(|((from, to), count)| Breach {
            host: name(*from),
            what: format!("{count} reached the bystander {}", name(*to)),
        });
        sent.chain(heard).chain(self.overflow()).collect()
    }

    /// What breaks the rule on amplification.
    pub(super) fn amplified(&self, factor: u64, name: impl Fn(HostId) -> Arc<str>) -> Vec<Breach> {
        let mut breaches: Vec<_> = self.overflow().collect();
        for ((host, remote), dealing) in &self.dealings {
            let Dealing {
                is_proven,
                received,
                quic,
                session,
                other,
            } = *dealing;
            let too_much = if received > 0 {
                let extra = session.min(REBINDING_BUDGET);
                quic.total + other.total > factor * received + extra
            } else {
                quic.worst > FIRST_FLIGHT_BUDGET || other.worst > PROBE_BUDGET
            };
            if too_much {
                let then = if is_proven {
                    "until it answered"
                } else {
                    "and it never answered"
                };
                breaches.push(Breach {
                    host: name(*host),
                    what: format!(
                        "{} bytes of QUIC and {} others ({} and {} within {BUDGET_WINDOW:?}) to \
                         {remote}, which had sent {received}, {then}",
                        quic.total, other.total, quic.worst, other.worst
                    ),
                });
            }
        }
        let over = self.probed.iter().map(|(key, spent)| (*key, spent.worst));
        let over = over.filter(|(_, worst)| *worst > PROBED_HOST_BUDGET);
        breaches.extend(over.map(|((host, ip), sum)| Breach {
            host: name(host),
            what: format!(
                "{sum} bytes of probes within {BUDGET_WINDOW:?} to ports of {ip} that had not spoken"
            ),
        }));
        breaches
    }

    fn overflow(&self) -> impl Iterator<Item = Breach> {
        self.is_full
            .then(|| Breach {
                host: "the network".into(),
                what: format!(
                    "more than {MAX_PAIRS} pairs of hosts and remotes: the books are full"
                ),
            })
            .into_iter()
    }
}

/// A rule of good manners that a host broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// Its name.
    pub host: Arc<str>,
    /// What it sent to whom.
    pub what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sent {}", self.host, self.what)
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
