//! The machine that moves packets: segments, attachments, NATs, and the queue of
//! what is under way, ordered by the time of its next step.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::Waker,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::watch;

use super::{
    HostId, NatId, Place, Site,
    host::{Arrival, Inbox},
    ledger::Ledger,
    link::{Lane, Link},
    packet::{Body, Packet},
    rules::Rules,
    streams::{ConnId, ConnState, HostStreams},
    trace::{DropReason, Trace},
};
use crate::nat::{MapRefused, Nat, NatConfig, NatDrop, Passage};

/// Index of the segment that everything hangs off.
const INTERNET: usize = 0;

/// Packets under way at once; more are dropped and counted.
const MAX_UNDER_WAY: usize = 1 << 18;

/// Steps done in one turn before others may use the network.
const MAX_STEPS_PER_TURN: usize = 4096;

/// Hosts, and NATs, of one network.
const MAX_PLACES: usize = 1 << 16;

/// A NAT keeps TCP mappings at least this long (RFC 5382 REQ-5).
const MIN_TCP_LIFETIME: Duration = Duration::from_secs(2 * 3600 + 4 * 60);

/// Where a packet is next.
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
pub(super) struct HostState {
    attachment: Attachment,
    pub(super) name: Arc<str>,
    addresses: Vec<IpAddr>,
    is_up: bool,
    changes: watch::Sender<u64>,
    sockets: BTreeMap<SocketAddr, Arc<Inbox>>,
    pub(super) streams: HostStreams,
}

#[derive(Debug)]
struct NatState {
    attachment: Attachment,
    /// TCP has a mapping table of its own.
    udp: Nat,
    tcp: Nat,
    inside: usize,
    serves_participants: bool,
}

impl NatState {
    fn machine(&mut self, packet: &Packet) -> &mut Nat {
        if packet.is_udp() {
            &mut self.udp
        } else {
            &mut self.tcp
        }
    }
}

/// What one turn of the fabric's task leaves to do.
#[derive(Debug)]
pub(super) struct Turn {
    /// Readers and writers to wake once the lock is released.
    pub(super) wakers: Vec<Waker>,
    /// When to come back.
    pub(super) next: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Fabric {
    rng: StdRng,
    pub(super) hosts: Vec<HostState>,
    nats: Vec<NatState>,
    segments: Vec<Segment>,
    under_way: BTreeMap<(Instant, u64), (Step, Packet)>,
    next_seq: u64,
    pub(super) conns: BTreeMap<ConnId, ConnState>,
    pub(super) next_conn: u64,
    pub(super) timers: BTreeSet<(Instant, ConnId)>,
    pub(super) wakers: Vec<Waker>,
    /// Until when the fabric's task sleeps; `None` while it waits to be woken.
    asleep_until: Option<Instant>,
    /// Routers between any two places on the internet.
    pub(super) internet_hops: u8,
    pub(super) rules: Rules,
    pub(super) trace: Trace,
    pub(super) ledger: Ledger,
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
            conns: BTreeMap::new(),
            next_conn: 0,
            timers: BTreeSet::new(),
            wakers: Vec::new(),
            asleep_until: None,
            internet_hops: super::INTERNET_HOPS,
            rules: Rules::default(),
            trace: Trace::default(),
            ledger: Ledger::default(),
        }
    }

    pub(super) fn add_host(
        &mut self,
        site: Site,
        name: &str,
        addresses: Vec<IpAddr>,
        link: Link,
        is_bystander: bool,
    ) -> HostId {
        let id = HostId(self.hosts.len());
        assert!(id.0 < MAX_PLACES, "host {name}: {MAX_PLACES} hosts exist");
        let segment = self.segment_of(site);
        self.join(segment, name, &addresses, Place::Host(id));
        self.hosts.push(HostState {
            attachment: Attachment::new(segment, link),
            name: name.into(),
            addresses,
            is_up: true,
            changes: watch::Sender::new(0),
            sockets: BTreeMap::new(),
            streams: HostStreams::default(),
        });
        if is_bystander {
            self.ledger.add_bystander(id);
        }
        self.invite(id);
        id
    }

    /// Puts down that others may send to a host, unless it is a bystander, and to the
    /// NATs in front of it.
    fn invite(&mut self, host: HostId) {
        if self.ledger.is_bystander(host) {
            return;
        }
        let HostState {
            addresses,
            attachment,
            ..
        } = &self.hosts[host.0];
        self.ledger.invite(addresses);
        let mut segment = attachment.segment;
        while let Some(nat) = self.segments[segment].router {
            let state = &mut self.nats[nat.0];
            state.serves_participants = true;
            self.ledger.invite(state.udp.external());
            segment = state.attachment.segment;
        }
    }

    pub(super) fn add_nat(
        &mut self,
        site: Site,
        name: &str,
        external: &[IpAddr],
        config: NatConfig,
        link: Link,
    ) -> NatId {
        let id = NatId(self.nats.len());
        assert!(id.0 < MAX_PLACES, "NAT {name}: {MAX_PLACES} NATs exist");
        let segment = self.segment_of(site);
        self.join(segment, name, external, Place::Nat(id));
        let inside = self.segments.len();
        self.segments.push(Segment {
            router: Some(id),
            members: BTreeMap::new(),
        });
        let for_tcp = NatConfig {
            lifetime: config.lifetime.max(MIN_TCP_LIFETIME),
            ..config.clone()
        };
        self.nats.push(NatState {
            attachment: Attachment::new(segment, link),
            udp: Nat::new(config, external, self.rng.random()),
            tcp: Nat::new(for_tcp, external, self.rng.random()),
            inside,
            serves_participants: false,
        });
        id
    }

    fn join(&mut self, segment: usize, name: &str, addresses: &[IpAddr], place: Place) {
        assert!(!addresses.is_empty(), "{name} needs an address");
        let distinct: BTreeSet<_> = addresses.iter().collect();
        assert_eq!(distinct.len(), addresses.len(), "{name}: address twice");
        for ip in addresses {
            self.claim(segment, name, *ip, place);
        }
    }

    /// Puts an address on a segment, and on those above whose routers pass it as it is.
    fn claim(&mut self, mut segment: usize, name: &str, ip: IpAddr, mut place: Place) {
        loop {
            let before = self.segments[segment].members.insert(ip, place);
            assert!(before.is_none(), "{name}: {ip} is taken on its segment");
            let Some(router) = self.passes(segment, ip) else {
                return;
            };
            place = Place::Nat(router);
            segment = self.nats[router.0].attachment.segment;
        }
    }

    fn release(&mut self, mut segment: usize, ip: IpAddr) {
        loop {
            self.segments[segment].members.remove(&ip);
            let Some(router) = self.passes(segment, ip) else {
                return;
            };
            segment = self.nats[router.0].attachment.segment;
        }
    }

    /// The router of a segment, if it lets an address out untranslated.
    fn passes(&self, segment: usize, ip: IpAddr) -> Option<NatId> {
        let router = self.segments[segment].router?;
        (self.nats[router.0].udp.passage(ip) == Passage::Untranslated).then_some(router)
    }

    fn segment_of(&self, site: Site) -> usize {
        match site {
            Site::Internet => INTERNET,
            Site::Behind(nat) => self.nats[nat.0].inside,
        }
    }

    pub(super) fn attachment(&mut self, place: Place) -> &mut Attachment {
        match place {
            Place::Host(host) => &mut self.hosts[host.0].attachment,
            Place::Nat(nat) => &mut self.nats[nat.0].attachment,
        }
    }

    /// The NAT that a place hangs behind.
    pub(super) fn gateway(&mut self, place: Place) -> Option<NatId> {
        let segment = self.attachment(place).segment;
        self.segments[segment].router
    }

    pub(super) fn reset_nat(&mut self, nat: NatId) {
        let state = &mut self.nats[nat.0];
        state.udp.reset();
        state.tcp.reset();
    }

    pub(super) fn external(&self, nat: NatId) -> Vec<IpAddr> {
        self.nats[nat.0].udp.external().to_vec()
    }

    pub(super) fn mappings(&self, nat: NatId, now: Instant) -> usize {
        self.nats[nat.0].udp.mappings(now)
    }

    pub(super) fn map_port(
        &mut self,
        now: Instant,
        nat: NatId,
        is_udp: bool,
        internal: SocketAddr,
        wanted: u16,
        lifetime: Duration,
    ) -> Result<SocketAddr, MapRefused> {
        let state = &mut self.nats[nat.0];
        let machine = if is_udp {
            &mut state.udp
        } else {
            &mut state.tcp
        };
        machine.map(now, internal, wanted, lifetime)
    }

    /// The host's addresses; none while its interface is down.
    pub(super) fn addresses(&self, host: HostId) -> &[IpAddr] {
        let state = &self.hosts[host.0];
        if state.is_up { &state.addresses } else { &[] }
    }

    /// Told whenever the host's addresses or link state change.
    pub(super) fn changes(&self, host: HostId) -> watch::Sender<u64> {
        self.hosts[host.0].changes.clone()
    }

    pub(super) fn set_up(&mut self, host: HostId, is_up: bool) {
        self.hosts[host.0].is_up = is_up;
    }

    /// Gives a host other addresses, on another segment if `site` is given.
    pub(super) fn move_host(&mut self, host: HostId, site: Option<Site>, addresses: &[IpAddr]) {
        let state = &mut self.hosts[host.0];
        let name = Arc::clone(&state.name);
        let from = state.attachment.segment;
        let old = std::mem::replace(&mut state.addresses, addresses.to_vec());
        for ip in old {
            self.release(from, ip);
        }
        let to = site.map_or(from, |site| self.segment_of(site));
        self.hosts[host.0].attachment.segment = to;
        self.join(to, &name, addresses, Place::Host(host));
        self.invite(host);
    }

    /// Gives a NAT other external addresses; it forgets its mappings.
    pub(super) fn renumber_nat(&mut self, nat: NatId, external: &[IpAddr]) {
        let segment = self.nats[nat.0].attachment.segment;
        for ip in self.external(nat) {
            self.release(segment, ip);
        }
        self.join(segment, "the NAT", external, Place::Nat(nat));
        let state = &mut self.nats[nat.0];
        state.udp.renumber(external);
        state.tcp.renumber(external);
        if state.serves_participants {
            self.ledger.invite(external);
        }
    }

    /// Whether the host has a UDP socket that keeps another from binding `addr`.
    pub(super) fn is_taken(&self, host: HostId, addr: SocketAddr) -> bool {
        let mut bound = self.hosts[host.0].sockets.keys();
        bound.any(|bound| overlap(*bound, addr))
    }

    pub(super) fn bind(&mut self, host: HostId, addr: SocketAddr, inbox: Arc<Inbox>) {
        self.hosts[host.0].sockets.insert(addr, inbox);
    }

    /// Frees the address of a socket, unless a crash has and another has it now.
    pub(super) fn unbind(&mut self, host: HostId, addr: SocketAddr, inbox: &Arc<Inbox>) {
        let sockets = &mut self.hosts[host.0].sockets;
        if sockets.get(&addr).is_some_and(|it| Arc::ptr_eq(it, inbox)) {
            sockets.remove(&addr);
        }
    }

    /// Takes the host's sockets and listeners from it; connections are left to time out.
    pub(super) fn crash(&mut self, host: HostId) {
        let state = &mut self.hosts[host.0];
        state.sockets.clear();
        state.streams.forget_listeners();
    }

    /// Takes a packet from its host.
    pub(super) fn send(&mut self, now: Instant, packet: Packet) {
        self.trace.on_sent(&packet);
        self.ledger.on_sent(now, &packet);
        let host = packet.origin;
        let ip = packet.dst.ip();
        let step = if ip.is_loopback() || self.addresses(host).contains(&ip) {
            Step::Host(host)
        } else {
            Step::Leave(host)
        };
        self.enqueue(now, step, packet);
    }

    /// Whether the fabric's task sleeps longer than it may.
    pub(super) fn must_wake(&self) -> bool {
        let next = self.next_due();
        next.is_some_and(|next| self.asleep_until.is_none_or(|t| t > next))
    }

    fn next_due(&self) -> Option<Instant> {
        let packet = self.under_way.first_key_value().map(|((at, _), _)| *at);
        let timer = self.timers.first().map(|(at, _)| *at);
        [packet, timer].into_iter().flatten().min()
    }

    fn enqueue(&mut self, at: Instant, step: Step, packet: Packet) {
        if self.under_way.len() >= MAX_UNDER_WAY {
            self.trace.on_dropped(&packet, DropReason::FabricFull);
            return;
        }
        self.under_way.insert((at, self.next_seq), (step, packet));
        self.next_seq += 1;
    }

    /// Does the steps that are due at `now`.
    pub(super) fn run_due(&mut self, now: Instant) -> Turn {
        for _ in 0..MAX_STEPS_PER_TURN {
            let packet = self.under_way.first_key_value().map(|((at, _), _)| *at);
            if let Some((at, conn)) = self.timers.first().copied()
                && at <= now
                && packet.is_none_or(|t| at <= t)
            {
                self.timers.pop_first();
                self.on_timer(at, conn);
                continue;
            }
            if packet.is_none_or(|t| t > now) {
                break;
            }
            let Some(((at, _), (step, mut packet))) = self.under_way.pop_first() else {
                break;
            };
            match self.advance(at, step, &mut packet) {
                Ok(Progress::Next(at, step)) => self.enqueue(at, step, packet),
                Ok(Progress::Delivered) => {}
                Err(reason) => self.trace.on_dropped(&packet, reason),
            }
        }
        let next = self.next_due();
        self.asleep_until = next;
        Turn {
            wakers: std::mem::take(&mut self.wakers),
            next,
        }
    }

    fn advance(
        &mut self,
        now: Instant,
        step: Step,
        packet: &mut Packet,
    ) -> Result<Progress, DropReason> {
        match step {
            Step::Leave(host) => self.leave(now, host, packet),
            Step::Segment(segment) => self.route(now, segment, packet),
            Step::Host(host) => self.deliver(now, host, packet),
            Step::Nat(nat) => self.enter_nat(now, nat, packet),
        }
    }

    fn leave(
        &mut self,
        now: Instant,
        host: HostId,
        packet: &Packet,
    ) -> Result<Progress, DropReason> {
        if !self.addresses(host).contains(&packet.src.ip()) {
            // An address that the host had once: nothing would bring an answer back.
            return Err(DropReason::AddressGone);
        }
        self.rules.check(Place::Host(host), packet)?;
        self.climb(now, Place::Host(host), packet)
    }

    /// Up the link of `place`, on to the segment that it hangs on.
    fn climb(
        &mut self,
        now: Instant,
        place: Place,
        packet: &Packet,
    ) -> Result<Progress, DropReason> {
        let at = self.cross(now, place, Direction::Up, packet)?;
        let segment = self.attachment(place).segment;
        Ok(Progress::Next(at, Step::Segment(segment)))
    }

    fn cross(
        &mut self,
        now: Instant,
        place: Place,
        direction: Direction,
        packet: &Packet,
    ) -> Result<Instant, DropReason> {
        let attachment = match place {
            Place::Host(host) => &mut self.hosts[host.0].attachment,
            Place::Nat(nat) => &mut self.nats[nat.0].attachment,
        };
        let lane = match direction {
            Direction::Up => &mut attachment.up,
            Direction::Down => &mut attachment.down,
        };
        let at = lane.cross(&attachment.link, now, packet.size(), &mut self.rng)?;
        self.trace.on_carried(place, packet);
        Ok(at)
    }

    /// On a segment: down to the member that has the address, else up through the router.
    fn route(
        &mut self,
        now: Instant,
        segment: usize,
        packet: &mut Packet,
    ) -> Result<Progress, DropReason> {
        let (src, dst) = (packet.src.ip(), packet.dst.ip());
        if segment == INTERNET {
            hop(packet, self.internet_hops)?;
        }
        if self.rules.blocks_in_transit(packet.origin, src, dst) {
            return Err(DropReason::Blocked);
        }
        let Segment { router, members } = &self.segments[segment];
        if let Some(place) = members.get(&dst).copied() {
            let at = self.cross(now, place, Direction::Down, packet)?;
            let step = match place {
                Place::Host(host) => Step::Host(host),
                Place::Nat(nat) => Step::Nat(nat),
            };
            return Ok(Progress::Next(at, step));
        }
        let nat = router.ok_or(DropReason::NoRoute)?;
        self.leave_nat(now, nat, packet)
    }

    /// At the inside of a NAT.
    fn leave_nat(
        &mut self,
        now: Instant,
        nat: NatId,
        packet: &mut Packet,
    ) -> Result<Progress, DropReason> {
        hop(packet, 1)?;
        self.rules.check(Place::Nat(nat), packet)?;
        self.rules.check_egress(nat, packet.dst, packet)?;
        let state = &mut self.nats[nat.0];
        let opens = match &packet.body {
            Body::Udp { .. } => true,
            Body::Tcp(segment) => segment.opens(),
        };
        if !opens && !state.tcp.is_mapped(now, packet.src, packet.dst) {
            let inside = state.inside;
            self.answer_reset(now, inside, packet);
            return Err(NatDrop::NoMapping.into());
        }
        packet.src = state
            .machine(packet)
            .outbound(now, packet.src, packet.dst)?;
        if state.udp.external().contains(&packet.dst.ip()) {
            // Hairpin: in again on the same side.
            return Ok(Progress::Next(now, Step::Nat(nat)));
        }
        self.climb(now, Place::Nat(nat), packet)
    }

    /// At the outside of a NAT.
    fn enter_nat(
        &mut self,
        now: Instant,
        nat: NatId,
        packet: &mut Packet,
    ) -> Result<Progress, DropReason> {
        hop(packet, 1)?;
        self.rules.check(Place::Nat(nat), packet)?;
        self.rules.check_egress(nat, packet.src, packet)?;
        let state = &mut self.nats[nat.0];
        let inside = state.inside;
        match state.machine(packet).inbound(now, packet.src, packet.dst) {
            Ok(dst) => packet.dst = dst,
            Err(drop) => {
                let forgotten = match &packet.body {
                    Body::Tcp(segment) => drop == NatDrop::NoMapping && !segment.opens(),
                    Body::Udp { .. } => false,
                };
                if forgotten {
                    let segment = state.attachment.segment;
                    self.answer_reset(now, segment, packet);
                }
                return Err(drop.into());
            }
        }
        Ok(Progress::Next(now, Step::Segment(inside)))
    }

    /// A router says that it knows no such TCP connection.
    fn answer_reset(&mut self, now: Instant, segment: usize, packet: &Packet) {
        if let Some(reset) = packet.reset() {
            self.enqueue(now, Step::Segment(segment), reset);
        }
    }

    fn deliver(
        &mut self,
        now: Instant,
        host: HostId,
        packet: &Packet,
    ) -> Result<Progress, DropReason> {
        let loopback = packet.dst.ip().is_loopback();
        if !loopback && !self.addresses(host).contains(&packet.src.ip()) {
            self.rules.check(Place::Host(host), packet)?;
        }
        if !loopback && !self.addresses(host).contains(&packet.dst.ip()) {
            return Err(DropReason::AddressGone);
        }
        if self
            .rules
            .blocks_at_host(packet.origin, packet.src.ip(), host)
        {
            return Err(DropReason::Blocked);
        }
        self.ledger.on_arrived(packet, host);
        match &packet.body {
            Body::Udp { ecn, payload } => {
                let sockets = &self.hosts[host.0].sockets;
                let inbox = sockets
                    .get(&packet.dst)
                    .or_else(|| sockets.get(&wildcard(packet.dst)))
                    .ok_or(DropReason::NoSocket)?;
                let waker = inbox
                    .push(Arrival {
                        src: packet.src,
                        dst: packet.dst.ip(),
                        ecn: *ecn,
                        payload: payload.clone(),
                    })
                    .ok_or(DropReason::ReceiveQueueFull)?;
                self.wakers.extend(waker);
            }
            Body::Tcp(segment) => self.deliver_segment(now, host, packet, segment)?,
        }
        self.trace.on_delivered(packet, host);
        Ok(Progress::Delivered)
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
    /// In a socket.
    Delivered,
}

impl From<NatDrop> for DropReason {
    fn from(drop: NatDrop) -> Self {
        Self::Nat(drop)
    }
}

/// Passes `routers` routers: each takes one from the TTL and drops what has one left.
fn hop(packet: &mut Packet, routers: u8) -> Result<(), DropReason> {
    if packet.ttl <= routers {
        return Err(DropReason::TtlExpired);
    }
    packet.ttl -= routers;
    Ok(())
}

/// Whether two sockets of a host cannot be bound at once.
pub(super) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && same_ip
}

/// The wildcard address that covers `addr`.
pub(super) fn wildcard(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(_) => SocketAddr::from(([0; 4], addr.port())),
        SocketAddr::V6(_) => SocketAddr::from(([0; 16], addr.port())),
    }
}
