//! The machine that moves datagrams: segments, attachments, NATs, and the queue of
//! what is under way, ordered by the time of its next step.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::Waker,
    time::Instant,
};

use anyhop::net::EcnCodepoint;
use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    HostId, NatId, Place,
    host::{Arrival, Inbox},
    link::{Lane, Link, packet_size},
    rules::Rules,
    trace::{DropReason, Trace},
};
use crate::nat::{Nat, NatConfig, NatDrop};

/// Index of the segment that everything hangs off.
pub(super) const INTERNET: usize = 0;

/// Datagrams under way at once; more are dropped and counted.
const MAX_UNDER_WAY: usize = 1 << 18;

/// Steps done in one turn before others may use the network.
const MAX_STEPS_PER_TURN: usize = 4096;

/// Hosts, and NATs, of one network.
const MAX_PLACES: usize = 1 << 16;

/// A datagram under way, with the addresses that it shows where it is.
#[derive(Debug, Clone)]
pub(super) struct Datagram {
    pub(super) origin: HostId,
    pub(super) src: SocketAddr,
    pub(super) dst: SocketAddr,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) payload: Bytes,
}

/// Where a datagram is next.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Leaves its host.
    Leave(HostId),
    /// On a segment, to be handed to a member or the router.
    Segment(usize),
    /// At a host.
    Host(HostId),
    /// At the outside of a NAT.
    Nat(NatId),
}

/// How a host or NAT hangs on a segment.
#[derive(Debug)]
pub(super) struct Attachment {
    segment: usize,
    pub(super) link: Link,
    up: Lane,
    down: Lane,
}

#[derive(Debug, Default)]
struct Segment {
    router: Option<NatId>,
    members: BTreeMap<IpAddr, Place>,
}

#[derive(Debug)]
struct HostState {
    attachment: Attachment,
    addresses: Vec<IpAddr>,
    sockets: BTreeMap<SocketAddr, Arc<Inbox>>,
}

#[derive(Debug)]
struct NatState {
    attachment: Attachment,
    machine: Nat,
    inside: usize,
}

/// What one turn of the fabric's task leaves to do.
#[derive(Debug)]
pub(super) struct Turn {
    /// Readers to wake once the lock is released.
    pub(super) wakers: Vec<Waker>,
    /// When to come back.
    pub(super) next: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Fabric {
    rng: StdRng,
    hosts: Vec<HostState>,
    nats: Vec<NatState>,
    segments: Vec<Segment>,
    under_way: BTreeMap<(Instant, u64), (Step, Datagram)>,
    next_seq: u64,
    /// Until when the fabric's task sleeps; `None` while it waits to be woken.
    asleep_until: Option<Instant>,
    pub(super) rules: Rules,
    pub(super) trace: Trace,
}

impl Fabric {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            hosts: Vec::new(),
            nats: Vec::new(),
            segments: vec![Segment::default()],
            under_way: BTreeMap::new(),
            next_seq: 0,
            asleep_until: None,
            rules: Rules::default(),
            trace: Trace::default(),
        }
    }

    pub(super) fn add_host(
        &mut self,
        segment: usize,
        name: &str,
        addresses: Vec<IpAddr>,
        link: Link,
    ) -> HostId {
        let id = HostId(self.hosts.len());
        assert!(id.0 < MAX_PLACES, "host {name}: {MAX_PLACES} hosts exist");
        self.join(segment, name, &addresses, Place::Host(id));
        self.hosts.push(HostState {
            attachment: Attachment::new(segment, link),
            addresses,
            sockets: BTreeMap::new(),
        });
        id
    }

    pub(super) fn add_nat(
        &mut self,
        segment: usize,
        name: &str,
        external: &[IpAddr],
        config: NatConfig,
        link: Link,
    ) -> NatId {
        let id = NatId(self.nats.len());
        assert!(id.0 < MAX_PLACES, "NAT {name}: {MAX_PLACES} NATs exist");
        self.join(segment, name, external, Place::Nat(id));
        let inside = self.segments.len();
        self.segments.push(Segment {
            router: Some(id),
            members: BTreeMap::new(),
        });
        self.nats.push(NatState {
            attachment: Attachment::new(segment, link),
            machine: Nat::new(config, external, self.rng.random()),
            inside,
        });
        id
    }

    fn join(&mut self, segment: usize, name: &str, addresses: &[IpAddr], place: Place) {
        assert!(!addresses.is_empty(), "{name} needs an address");
        let distinct: BTreeSet<_> = addresses.iter().collect();
        assert_eq!(distinct.len(), addresses.len(), "{name}: address twice");
        for ip in addresses {
            let before = self.segments[segment].members.insert(*ip, place);
            assert!(before.is_none(), "{name}: {ip} is taken on its segment");
        }
    }

    pub(super) fn segment_behind(&self, nat: NatId) -> usize {
        self.nats[nat.0].inside
    }

    pub(super) fn attachment(&mut self, place: Place) -> &mut Attachment {
        match place {
            Place::Host(host) => &mut self.hosts[host.0].attachment,
            Place::Nat(nat) => &mut self.nats[nat.0].attachment,
        }
    }

    pub(super) fn reset_nat(&mut self, nat: NatId) {
        self.nats[nat.0].machine.reset();
    }

    pub(super) fn external(&self, nat: NatId) -> Vec<IpAddr> {
        self.nats[nat.0].machine.external().to_vec()
    }

    pub(super) fn mappings(&self, nat: NatId, now: Instant) -> usize {
        self.nats[nat.0].machine.mappings(now)
    }

    /// Whether the host has a socket that keeps another from binding `addr`.
    pub(super) fn is_taken(&self, host: HostId, addr: SocketAddr) -> bool {
        self.hosts[host.0].sockets.keys().any(|bound| {
            bound.port() == addr.port()
                && bound.is_ipv4() == addr.is_ipv4()
                && (bound.ip() == addr.ip()
                    || bound.ip().is_unspecified()
                    || addr.ip().is_unspecified())
        })
    }

    pub(super) fn bind(&mut self, host: HostId, addr: SocketAddr, inbox: Arc<Inbox>) {
        self.hosts[host.0].sockets.insert(addr, inbox);
    }

    pub(super) fn unbind(&mut self, host: HostId, addr: SocketAddr) {
        self.hosts[host.0].sockets.remove(&addr);
    }

    /// Takes datagrams from a host; answers whether the fabric's task must be woken.
    pub(super) fn send(&mut self, now: Instant, datagrams: impl Iterator<Item = Datagram>) -> bool {
        for datagram in datagrams {
            self.trace.on_sent(datagram.origin, datagram.payload.len());
            let host = datagram.origin;
            let local = datagram.dst.ip().is_loopback()
                || self.hosts[host.0].addresses.contains(&datagram.dst.ip());
            let step = if local {
                Step::Host(host)
            } else {
                Step::Leave(host)
            };
            self.enqueue(now, step, datagram);
        }
        self.asleep_until.is_none_or(|t| t > now)
    }

    fn enqueue(&mut self, at: Instant, step: Step, datagram: Datagram) {
        if self.under_way.len() >= MAX_UNDER_WAY {
            self.drop_datagram(&datagram, DropReason::FabricFull);
            return;
        }
        self.under_way.insert((at, self.next_seq), (step, datagram));
        self.next_seq += 1;
    }

    /// Does the steps that are due at `now`.
    pub(super) fn run_due(&mut self, now: Instant) -> Turn {
        let mut wakers = Vec::new();
        for _ in 0..MAX_STEPS_PER_TURN {
            let Some(entry) = self.under_way.first_entry() else {
                break;
            };
            let at = entry.key().0;
            if at > now {
                break;
            }
            let (step, mut datagram) = entry.remove();
            match self.advance(at, step, &mut datagram) {
                Ok(Progress::Next(at, step)) => self.enqueue(at, step, datagram),
                Ok(Progress::Delivered(waker)) => wakers.extend(waker),
                Err(reason) => self.drop_datagram(&datagram, reason),
            }
        }
        let next = self.under_way.first_key_value().map(|((at, _), _)| *at);
        self.asleep_until = next;
        Turn { wakers, next }
    }

    fn drop_datagram(&mut self, datagram: &Datagram, reason: DropReason) {
        let bytes = datagram.payload.len();
        self.trace.on_dropped(datagram.origin, reason, bytes);
    }

    fn advance(
        &mut self,
        now: Instant,
        step: Step,
        datagram: &mut Datagram,
    ) -> Result<Progress, DropReason> {
        match step {
            Step::Leave(host) => self.leave(now, host, datagram),
            Step::Segment(segment) => self.route(now, segment, datagram),
            Step::Host(host) => self.deliver(host, datagram),
            Step::Nat(nat) => self.enter_nat(now, nat, datagram),
        }
    }

    fn leave(
        &mut self,
        now: Instant,
        host: HostId,
        datagram: &Datagram,
    ) -> Result<Progress, DropReason> {
        if self.rules.cut.contains(&host) {
            return Err(DropReason::Cut);
        }
        if self.rules.no_udp.contains(&host) {
            return Err(DropReason::UdpBlocked);
        }
        self.climb(now, Place::Host(host), datagram)
    }

    /// Up the link of `place`, on to the segment that it hangs on.
    fn climb(
        &mut self,
        now: Instant,
        place: Place,
        datagram: &Datagram,
    ) -> Result<Progress, DropReason> {
        let at = self.cross(now, place, Direction::Up, datagram)?;
        let segment = self.attachment(place).segment;
        Ok(Progress::Next(at, Step::Segment(segment)))
    }

    fn cross(
        &mut self,
        now: Instant,
        place: Place,
        direction: Direction,
        datagram: &Datagram,
    ) -> Result<Instant, DropReason> {
        let size = packet_size(datagram.dst, datagram.payload.len());
        let attachment = match place {
            Place::Host(host) => &mut self.hosts[host.0].attachment,
            Place::Nat(nat) => &mut self.nats[nat.0].attachment,
        };
        let lane = match direction {
            Direction::Up => &mut attachment.up,
            Direction::Down => &mut attachment.down,
        };
        let at = lane.cross(&attachment.link, now, size, &mut self.rng)?;
        self.trace.on_carried(place, datagram.payload.len());
        Ok(at)
    }

    /// On a segment: down to the member that has the address, else up through the router.
    fn route(
        &mut self,
        now: Instant,
        segment: usize,
        datagram: &mut Datagram,
    ) -> Result<Progress, DropReason> {
        let (src, dst) = (datagram.src.ip(), datagram.dst.ip());
        if self.rules.blocks_in_transit(datagram.origin, src, dst) {
            return Err(DropReason::Blocked);
        }
        let Segment { router, members } = &self.segments[segment];
        if let Some(place) = members.get(&dst).copied() {
            let at = self.cross(now, place, Direction::Down, datagram)?;
            let step = match place {
                Place::Host(host) => Step::Host(host),
                Place::Nat(nat) => Step::Nat(nat),
            };
            return Ok(Progress::Next(at, step));
        }
        let nat = router.ok_or(DropReason::NoRoute)?;
        let state = &mut self.nats[nat.0];
        let outbound = state.machine.outbound(now, datagram.src, datagram.dst);
        datagram.src = outbound?;
        if state.machine.external().contains(&dst) {
            // Hairpin: in again on the same side.
            return Ok(Progress::Next(now, Step::Nat(nat)));
        }
        self.climb(now, Place::Nat(nat), datagram)
    }

    fn enter_nat(
        &self,
        now: Instant,
        nat: NatId,
        datagram: &mut Datagram,
    ) -> Result<Progress, DropReason> {
        let NatState {
            machine, inside, ..
        } = &self.nats[nat.0];
        datagram.dst = machine.inbound(now, datagram.src, datagram.dst)?;
        Ok(Progress::Next(now, Step::Segment(*inside)))
    }

    fn deliver(&mut self, host: HostId, datagram: &Datagram) -> Result<Progress, DropReason> {
        let from = datagram.origin;
        if host != from && self.rules.cut.contains(&host) {
            return Err(DropReason::Cut);
        }
        if self.rules.blocks_at_host(from, datagram.src.ip(), host) {
            return Err(DropReason::Blocked);
        }
        let sockets = &self.hosts[host.0].sockets;
        let any = match datagram.dst {
            SocketAddr::V4(_) => SocketAddr::from(([0; 4], datagram.dst.port())),
            SocketAddr::V6(_) => SocketAddr::from(([0; 16], datagram.dst.port())),
        };
        let inbox = sockets
            .get(&datagram.dst)
            .or_else(|| sockets.get(&any))
            .ok_or(DropReason::NoSocket)?;
        let waker = inbox
            .push(Arrival {
                src: datagram.src,
                dst: datagram.dst.ip(),
                ecn: datagram.ecn,
                payload: datagram.payload.clone(),
            })
            .ok_or(DropReason::ReceiveQueueFull)?;
        self.trace.on_delivered(from, host, datagram.payload.len());
        Ok(Progress::Delivered(waker))
    }
}

impl Attachment {
    fn new(segment: usize, link: Link) -> Self {
        Self {
            segment,
            link,
            up: Lane::default(),
            down: Lane::default(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    Up,
    Down,
}

enum Progress {
    /// Its next step, and when.
    Next(Instant, Step),
    /// In a socket, whose reader may want to be woken.
    Delivered(Option<Waker>),
}

impl From<NatDrop> for DropReason {
    fn from(drop: NatDrop) -> Self {
        Self::Nat(drop)
    }
}
