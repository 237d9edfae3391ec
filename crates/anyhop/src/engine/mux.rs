//! The one socket the session engine sees, made of the node's UDP sockets, its WebSockets
//! and its circuits.
//!
//! Peers on UDP appear under their socket addresses, WebSockets and circuits under
//! addresses of our own ([`CarrierId::address`], [`CircuitId::address`]). On receive, each datagram is told apart by its first byte:
//! QUIC goes up, labelled datagrams are forwarded in place or stripped and handed up,
//! probes go to their session, sealed packets to the packet plane. Forwarding happens right here, in batches as the kernel
//! delivered them (GRO in, GSO out), without a copy.

mod sender;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
    ops::Range,
    pin::Pin,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use anyhop_proto::{
    carrier::CarrierId,
    circuit::{CircuitId, DropReason, Hop, Switch},
    datagram::{CIRCUIT_HEADER_LEN, Kind, Label, classify},
    is_virtual,
    probe::{PROBE_LEN, Token, read_token},
};
use noq::{AsyncUdpSocket, UdpSender};
use tokio::{sync::mpsc, time::Instant};

use self::sender::MuxSender;
use super::{SealedSink, Swarm, aux::Pins, divert::Diversions};
use crate::{
    DropCount,
    carrier::{Batch, Carrier, Carriers},
    net::{DatagramSocket, RecvMeta, Transmit, Writable},
};

/// Batches forwarded in one poll before the engine gets its turn.
const MAX_FORWARDED_BATCHES: usize = 32;
/// Segments of one transmit over a WebSocket, as many as UDP with offloads takes.
const WEBSOCKET_SEGMENTS: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");
/// Datagrams kept for the engine when a batch holds more than one kind; more are dropped.
const MAX_PENDING: usize = 1024;
/// Probes waiting for a session; more are dropped.
pub(crate) const PROBE_QUEUE: usize = 64;

/// A probe that came in, not yet authenticated.
#[derive(Debug)]
pub(crate) struct ProbePacket {
    /// Where from, as the engine names it: a circuit's address for circuits.
    pub(crate) from: SocketAddr,
    pub(crate) bytes: [u8; PROBE_LEN],
    /// The auxiliary socket it came in on; `None` for the sockets that paths use.
    pub(crate) via: Option<Arc<dyn DatagramSocket>>,
}

/// Why datagrams were dropped, counted.
#[derive(Debug, Default)]
pub(super) struct Drops {
    unknown_kind: AtomicU64,
    malformed_circuit: AtomicU64,
    unknown_label: AtomicU64,
    wrong_link: AtomicU64,
    no_link: AtomicU64,
    rate_limited: AtomicU64,
    send_failed: AtomicU64,
    unknown_probe: AtomicU64,
    queue_full: AtomicU64,
    strangers: AtomicU64,
    pub(super) no_plane: AtomicU64,
}

impl Drops {
    fn for_reason(&self, reason: DropReason) -> &AtomicU64 {
        match reason {
            DropReason::UnknownLabel => &self.unknown_label,
            DropReason::WrongLink => &self.wrong_link,
            DropReason::NoLink => &self.no_link,
            DropReason::RateLimited => &self.rate_limited,
        }
    }

    fn counts(&self) -> Vec<DropCount> {
        [
            ("unknown kind of packet", &self.unknown_kind),
            ("malformed circuit header", &self.malformed_circuit),
            ("unknown circuit label", &self.unknown_label),
            ("circuit label from another link", &self.wrong_link),
            ("next link gone", &self.no_link),
            ("circuit rate limit", &self.rate_limited),
            ("socket refused", &self.send_failed),
            ("probe of no session", &self.unknown_probe),
            ("receive queue full", &self.queue_full),
            ("no stamp of the network's swarm key", &self.strangers),
            ("sealed packet, and no VPN is up", &self.no_plane),
        ]
        .into_iter()
        .map(|(reason, count)| DropCount {
            reason: reason.to_owned(),
            datagrams: count.load(Ordering::Relaxed),
        })
        .filter(|c| c.datagrams > 0)
        .collect()
    }
}

/// What the node shares with its socket: the label table, the probe table, the UDP
/// sockets.
pub(crate) struct Fabric {
    v4: Option<Arc<dyn DatagramSocket>>,
    v6: Option<Arc<dyn DatagramSocket>>,
    pub(crate) switch: RwLock<Switch>,
    pub(crate) carriers: Arc<Carriers>,
    probes: RwLock<HashMap<Token, mpsc::Sender<Box<ProbePacket>>>>,
    /// Remote addresses with a socket of their own.
    pub(super) pins: Pins,
    pub(super) drops: Drops,
    /// Where sealed packets go.
    pub(super) sealed: RwLock<Option<Arc<dyn SealedSink>>>,
    /// In a private network.
    pub(crate) swarm: Option<Arc<Swarm>>,
    epoch: Instant,
}

impl fmt::Debug for Fabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fabric")
            .field("v4", &self.v4)
            .field("v6", &self.v6)
            .finish_non_exhaustive()
    }
}

impl Fabric {
    pub(crate) fn new(
        v4: Option<Arc<dyn DatagramSocket>>,
        v6: Option<Arc<dyn DatagramSocket>>,
        seed: [u8; 32],
        swarm: Option<Arc<Swarm>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            v4,
            v6,
            switch: RwLock::new(Switch::new(seed)),
            carriers: Arc::default(),
            probes: RwLock::default(),
            pins: Pins::default(),
            drops: Drops::default(),
            sealed: RwLock::default(),
            swarm,
            epoch: Instant::now(),
        })
    }

    /// Local addresses of the UDP sockets.
    pub(crate) fn local_addrs(&self) -> Vec<SocketAddr> {
        self.sockets().filter_map(|s| s.local_addr().ok()).collect()
    }

    fn sockets(&self) -> impl Iterator<Item = &Arc<dyn DatagramSocket>> {
        [&self.v4, &self.v6].into_iter().flatten()
    }

    /// Whether this node has a socket for the address's family.
    pub(crate) fn can_reach(&self, addr: &SocketAddr) -> bool {
        self.main_socket(addr).is_some()
    }

    pub(crate) fn drop_counts(&self) -> Vec<DropCount> {
        let unfit = self.carriers.unfit.load(Ordering::Relaxed);
        let mut counts = self.drops.counts();
        if unfit > 0 {
            counts.push(DropCount {
                reason: "WebSocket message that is no datagram".to_owned(),
                datagrams: unfit,
            });
        }
        counts
    }

    /// Routes probes with this token to `sender`.
    pub(crate) fn add_probe_route(&self, token: Token, sender: mpsc::Sender<Box<ProbePacket>>) {
        let mut probes = self.probes.write().expect("no holder panics");
        probes.insert(token, sender);
    }

    pub(crate) fn remove_probe_route(&self, token: &Token) {
        let mut probes = self.probes.write().expect("no holder panics");
        probes.remove(token);
    }

    /// Sends one datagram outside the engine, to a socket address or over a circuit. It
    /// may be lost like any datagram.
    pub(crate) fn send_datagram(&self, to: SocketAddr, bytes: &[u8]) {
        let sent = match CircuitId::from_address(&to) {
            None => self.try_send(canonical(to), bytes, None),
            Some(circuit) => match self.egress(circuit) {
                None => return,
                Some((to, label)) => {
                    let mut packet = Vec::with_capacity(CIRCUIT_HEADER_LEN + bytes.len());
                    packet.extend_from_slice(&label.header());
                    packet.extend_from_slice(bytes);
                    self.try_send(to, &packet, None)
                }
            },
        };
        if sent.is_err() {
            count(&self.drops.send_failed, 1);
        }
    }

    pub(super) fn egress(&self, circuit: CircuitId) -> Option<(SocketAddr, Label)> {
        self.switch
            .read()
            .expect("no holder panics")
            .egress(circuit)
    }

    /// Sends one datagram from one socket, to be dropped after `ttl` hops if that is
    /// given. It may be lost like any datagram.
    pub(crate) fn send_from(
        &self,
        socket: &Arc<dyn DatagramSocket>,
        to: SocketAddr,
        bytes: &[u8],
        ttl: Option<u8>,
    ) {
        if is_virtual(&to) {
            // Our own addresses mean nothing on the wire.
            count(&self.drops.send_failed, 1);
            return;
        }
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents: bytes,
            segment_size: None,
            src_ip: None,
        };
        let sent = match ttl {
            None => socket.try_send(&transmit),
            Some(ttl) => socket.try_send_ttl(&transmit, ttl),
        };
        if sent.is_err() {
            count(&self.drops.send_failed, 1);
        }
    }

    /// The socket that datagrams to an address leave through.
    pub(crate) fn socket_for(&self, addr: &SocketAddr) -> Option<Arc<dyn DatagramSocket>> {
        let pinned = self.pins.socket(addr);
        pinned.or_else(|| self.main_socket(addr).map(Arc::clone))
    }

    fn main_socket(&self, addr: &SocketAddr) -> Option<&Arc<dyn DatagramSocket>> {
        match addr {
            SocketAddr::V4(_) => self.v4.as_ref(),
            // Our own addresses mean nothing on the wire.
            SocketAddr::V6(_) if is_virtual(addr) => None,
            SocketAddr::V6(_) => self.v6.as_ref(),
        }
    }

    /// What sends to an address that is no circuit's.
    pub(super) fn outlet(&self, addr: &SocketAddr) -> Option<Outlet<'_>> {
        match CarrierId::from_address(addr) {
            Some(carrier) => self.carriers.get(carrier).map(Outlet::WebSocket),
            None => match self.pins.socket(addr) {
                Some(pinned) => Some(Outlet::Pinned(pinned)),
                None => self.main_socket(addr).map(Outlet::Udp),
            },
        }
    }

    fn try_send(&self, to: SocketAddr, bytes: &[u8], segment: Option<usize>) -> io::Result<()> {
        let Some(outlet) = self.outlet(&to) else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        outlet.try_send(&Transmit {
            destination: to,
            ecn: None,
            contents: bytes,
            segment_size: segment,
            src_ip: None,
        })
    }

    /// Sends a batch of equal segments on, in as many calls as the socket needs.
    fn forward(&self, to: SocketAddr, batch: &[u8], stride: usize) {
        let Some(outlet) = self.outlet(&to) else {
            count(&self.drops.no_link, 1);
            return;
        };
        let step = stride * outlet.max_transmit_segments().get();
        for part in batch.chunks(step) {
            let segment = (part.len() > stride).then_some(stride);
            if self.try_send(to, part, segment).is_err() {
                count(&self.drops.send_failed, part.len().div_ceil(stride) as u64);
            }
        }
    }

    fn deliver_probe(&self, from: SocketAddr, packet: &[u8]) {
        let route = read_token(packet).and_then(|token| {
            let probes = self.probes.read().expect("no holder panics");
            probes.get(&token).cloned()
        });
        let delivered = route.is_some_and(|sender| {
            let mut bytes = [0; PROBE_LEN];
            bytes.copy_from_slice(packet);
            sender
                .try_send(Box::new(ProbePacket {
                    from,
                    bytes,
                    via: None,
                }))
                .is_ok()
        });
        if !delivered {
            count(&self.drops.unknown_probe, 1);
        }
    }

    /// What a payload is; `None` when it is QUIC that a private network takes no notice
    /// of.
    fn kind(&self, payload: &[u8]) -> Option<Kind> {
        let kind = classify(payload);
        (kind != Kind::Quic || self.takes(payload)).then_some(kind)
    }

    fn takes(&self, packet: &[u8]) -> bool {
        self.swarm.as_ref().is_none_or(|swarm| swarm.takes(packet))
    }

    fn all_quic(&self, batch: &[u8], stride: usize) -> bool {
        let mut segments = batch.chunks(stride);
        segments.all(|segment| self.kind(segment) == Some(Kind::Quic))
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// What datagrams leave by.
pub(super) enum Outlet<'a> {
    Udp(&'a Arc<dyn DatagramSocket>),
    Pinned(Arc<dyn DatagramSocket>),
    WebSocket(Arc<Carrier>),
}

impl Outlet<'_> {
    pub(super) fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.try_send(transmit),
            Self::Pinned(socket) => socket.try_send(transmit),
            Self::WebSocket(carrier) => carrier.try_send(transmit.contents, transmit.segment_size),
        }
    }

    pub(super) fn writable(self) -> Writable {
        match self {
            Self::Udp(socket) => Arc::clone(socket).writable(),
            Self::Pinned(socket) => socket.writable(),
            Self::WebSocket(carrier) => Box::pin(carrier.writable()),
        }
    }

    pub(super) fn max_transmit_segments(&self) -> NonZeroUsize {
        match self {
            Self::Udp(socket) => socket.max_transmit_segments(),
            Self::Pinned(socket) => socket.max_transmit_segments(),
            Self::WebSocket(_) => WEBSOCKET_SEGMENTS,
        }
    }
}

pub(super) fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Undoes IPv4-mapping: the engine speaks IPv6 only.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Shows a datagram's addresses the way the engine compares them: all as IPv6.
fn for_engine(meta: &mut RecvMeta, from: SocketAddr) {
    let mapped = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        v6 @ IpAddr::V6(_) => v6,
    };
    meta.addr = SocketAddr::new(mapped(from.ip()), from.port());
    meta.dst_ip = meta.dst_ip.map(mapped);
}

/// A datagram, or a batch of equal ones, kept for a later poll.
#[derive(Debug)]
struct Pending {
    meta: RecvMeta,
    bytes: Vec<u8>,
}

/// The engine's socket.
#[derive(Debug)]
pub(crate) struct MuxSocket {
    fabric: Arc<Fabric>,
    pending: VecDeque<Pending>,
    websockets: Option<mpsc::Receiver<Batch>>,
    /// What did not fit the buffers of the last poll.
    rest: Option<Batch>,
    /// The pinned sockets as of a version of them.
    pinned: Vec<Arc<dyn DatagramSocket>>,
    pinned_version: u64,
    /// Which source is polled first: they take turns.
    turn: usize,
}

/// Where a poll's datagrams came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Udp,
    WebSockets,
}

impl MuxSocket {
    pub(crate) fn new(fabric: Arc<Fabric>) -> Self {
        Self {
            websockets: fabric.carriers.take_received(),
            fabric,
            pending: VecDeque::new(),
            rest: None,
            pinned: Vec::new(),
            pinned_version: 0,
            turn: 0,
        }
    }

    fn take_pending(&mut self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> usize {
        let mut n = 0;
        while n < bufs.len() {
            let Some(next) = self.pending.pop_front() else {
                break;
            };
            bufs[n][..next.bytes.len()].copy_from_slice(&next.bytes);
            meta[n] = next.meta;
            n += 1;
        }
        n
    }

    /// Polls the sockets and WebSockets, taking turns in who is first.
    fn poll_sources(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<(usize, Source)>> {
        // Before the version is read, so that no change goes unnoticed.
        self.fabric.pins.set_waker(cx.waker());
        let version = self.fabric.pins.version();
        if version != self.pinned_version {
            self.pinned = self.fabric.pins.readable();
            self.pinned_version = version;
        }
        let sources = 3 + self.pinned.len();
        self.turn = (self.turn + 1) % sources;
        for source in 0..sources {
            let socket = match (self.turn + source) % sources {
                0 => self.fabric.v4.as_ref(),
                1 => self.fabric.v6.as_ref(),
                2 => {
                    let n = self.poll_websockets(cx, bufs, meta);
                    if n > 0 {
                        return Poll::Ready(Ok((n, Source::WebSockets)));
                    }
                    continue;
                }
                pinned => self.pinned.get(pinned - 3),
            };
            let Some(socket) = socket else { continue };
            if let Poll::Ready(result) = socket.poll_recv(cx, bufs, meta) {
                return Poll::Ready(result.map(|n| (n, Source::Udp)));
            }
        }
        Poll::Pending
    }

    /// Fills buffers with what came over WebSockets; 0 when nothing has.
    fn poll_websockets(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> usize {
        let Some(websockets) = &mut self.websockets else {
            return 0;
        };
        let mut n = 0;
        while n < bufs.len() {
            let next = match self.rest.take() {
                Some(rest) => Some(rest),
                None => match websockets.poll_recv(cx) {
                    Poll::Ready(batch) => batch,
                    Poll::Pending => None,
                },
            };
            let Some(mut batch) = next else { break };
            let room = bufs[n].len() / batch.stride * batch.stride;
            let len = batch.bytes.len().min(room);
            bufs[n][..len].copy_from_slice(&batch.bytes[..len]);
            meta[n] = RecvMeta::default();
            meta[n].addr = batch.from.address();
            meta[n].len = len;
            meta[n].stride = batch.stride;
            n += usize::from(len > 0);
            if len > 0 && len < batch.bytes.len() {
                batch.bytes.drain(..len);
                self.rest = Some(batch);
            }
        }
        n
    }

    /// Sorts one received buffer. Leaves in it what the engine gets (perhaps nothing:
    /// `meta.len` 0).
    fn sort(&mut self, buf: &mut [u8], meta: &mut RecvMeta, source: Source, now_ns: u64) {
        let from = canonical(meta.addr);
        let stride = meta.stride.max(1);
        let received = meta.len;
        let original = *meta;
        meta.len = 0;
        if source == Source::Udp && is_virtual(&from) {
            // Nobody outside has these addresses; a forged one must not pass for ours.
            count(&self.fabric.drops.wrong_link, 1);
            return;
        }
        if self.fabric.all_quic(&buf[..received], stride) {
            *meta = original;
            for_engine(meta, from);
            return;
        }
        let mut at = 0;
        while at < received {
            let (kind, run) = self.next_run(&buf[at..received], stride);
            let range = at..at + run;
            at = range.end;
            let handled = self.handle_run(kind, &mut buf[range.clone()], stride, from, now_ns);
            if let Some(addr) = handled {
                self.keep(buf, range, addr, stride, meta, &original);
            }
        }
    }

    /// The kind and the length of the first run of segments that are handled alike: one
    /// kind, and for circuits one label with one kind of content.
    fn next_run(&self, batch: &[u8], stride: usize) -> (Option<Kind>, usize) {
        let key = |segment: &[u8]| match self.fabric.kind(segment) {
            kind @ Some(Kind::Circuit) => {
                let inner = segment.get(CIRCUIT_HEADER_LEN..).map(classify);
                (kind, Label::read(segment), inner)
            }
            kind => (kind, None, None),
        };
        let mut segments = batch.chunks(stride);
        let Some(first) = segments.next() else {
            return (None, 0);
        };
        let first_key = key(first);
        let len = segments
            .take_while(|segment| key(segment) == first_key)
            .fold(first.len(), |len, segment| len + segment.len());
        (first_key.0, len)
    }

    /// Handles consecutive segments of one kind (and label). When they are for the engine,
    /// still with any header, it returns the address to show them under.
    fn handle_run(
        &self,
        kind: Option<Kind>,
        run: &mut [u8],
        stride: usize,
        from: SocketAddr,
        now_ns: u64,
    ) -> Option<SocketAddr> {
        let segments = run.len().div_ceil(stride) as u64;
        match kind {
            Some(Kind::Quic) => Some(from),
            Some(Kind::Circuit) => self.handle_circuit(run, stride, from, now_ns),
            Some(Kind::Probe) => {
                for packet in run.chunks(stride) {
                    self.fabric.deliver_probe(from, packet);
                }
                None
            }
            Some(Kind::Sealed) => {
                self.fabric.deliver_sealed(run, stride, 0);
                None
            }
            Some(Kind::Unknown) => {
                count(&self.fabric.drops.unknown_kind, segments);
                None
            }
            None => {
                count(&self.fabric.drops.strangers, segments);
                None
            }
        }
    }

    /// Forwards a run of one label, or names the circuit that ends here.
    fn handle_circuit(
        &self,
        run: &mut [u8],
        stride: usize,
        from: SocketAddr,
        now_ns: u64,
    ) -> Option<SocketAddr> {
        let segments = run.len().div_ceil(stride);
        let Some(label) = Label::read(run) else {
            count(&self.fabric.drops.malformed_circuit, segments as u64);
            return None;
        };
        let bytes = run.len().saturating_sub(segments * CIRCUIT_HEADER_LEN);
        let hop = {
            let switch = self.fabric.switch.read().expect("no holder panics");
            switch.route(from, label, bytes, now_ns)
        };
        match hop {
            Err(reason) => {
                count(self.fabric.drops.for_reason(reason), segments as u64);
                None
            }
            Ok(Hop::Forward { to, label }) => {
                let header = label.header();
                for segment in run.chunks_mut(stride) {
                    if segment.len() > CIRCUIT_HEADER_LEN {
                        segment[..CIRCUIT_HEADER_LEN].copy_from_slice(&header);
                    }
                }
                self.fabric.forward(to, run, stride);
                None
            }
            Ok(Hop::Local(circuit)) => {
                let addr = circuit.address();
                match classify(&run[CIRCUIT_HEADER_LEN..]) {
                    Kind::Quic => self.blank_strangers(run, stride).then_some(addr),
                    Kind::Probe => {
                        for packet in run.chunks(stride) {
                            let packet = packet.get(CIRCUIT_HEADER_LEN..).unwrap_or_default();
                            self.fabric.deliver_probe(addr, packet);
                        }
                        None
                    }
                    Kind::Sealed => {
                        self.fabric.deliver_sealed(run, stride, CIRCUIT_HEADER_LEN);
                        None
                    }
                    _ => {
                        count(&self.fabric.drops.unknown_kind, segments as u64);
                        None
                    }
                }
            }
        }
    }

    /// Makes what came over a circuit and is not of this network unreadable, so that the
    /// engine drops it and the rest of its batch stays in place. Whether there is a rest.
    fn blank_strangers(&self, run: &mut [u8], stride: usize) -> bool {
        let mut left = false;
        for segment in run.chunks_mut(stride) {
            let packet = segment.get_mut(CIRCUIT_HEADER_LEN..).unwrap_or_default();
            if self.fabric.takes(packet) {
                left = true;
            } else if let Some(first) = packet.first_mut() {
                *first = 0;
                count(&self.fabric.drops.strangers, 1);
            }
        }
        left
    }

    /// Keeps a run for the engine: at the front of its buffer when that is free, else
    /// for the next poll.
    fn keep(
        &mut self,
        buf: &mut [u8],
        range: Range<usize>,
        addr: SocketAddr,
        stride: usize,
        meta: &mut RecvMeta,
        original: &RecvMeta,
    ) {
        let header = match CircuitId::from_address(&addr) {
            Some(_) => CIRCUIT_HEADER_LEN,
            None => 0,
        };
        let mut kept = *original;
        for_engine(&mut kept, addr);
        kept.stride = stride - header;
        if header > 0 {
            kept.dst_ip = None;
        }
        if meta.len == 0 {
            kept.len = strip(buf, range, stride, header);
            *meta = kept;
        } else if self.pending.len() < MAX_PENDING {
            let mut bytes = buf[range].to_vec();
            let all = 0..bytes.len();
            let len = strip(&mut bytes, all, stride, header);
            bytes.truncate(len);
            kept.len = len;
            self.pending.push_back(Pending { meta: kept, bytes });
        } else {
            count(&self.fabric.drops.queue_full, 1);
        }
    }
}

/// Moves the segments of `range` to the front of `buf` without their headers; returns
/// the bytes now there.
fn strip(buf: &mut [u8], range: Range<usize>, stride: usize, header: usize) -> usize {
    let mut to = 0;
    let mut at = range.start;
    while at < range.end {
        let end = (at + stride).min(range.end);
        let start = (at + header).min(end);
        buf.copy_within(start..end, to);
        to += end - start;
        at = end;
    }
    to
}

impl AsyncUdpSocket for MuxSocket {
    fn create_sender(&self) -> Pin<Box<dyn UdpSender>> {
        Box::pin(MuxSender::new(Arc::clone(&self.fabric)))
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        for _ in 0..MAX_FORWARDED_BATCHES {
            let n = self.take_pending(bufs, meta);
            if n > 0 {
                return Poll::Ready(Ok(n));
            }
            let (n, source) = ready!(self.poll_sources(cx, bufs, meta))?;
            let now_ns = self.fabric.now_ns();
            for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()).take(n) {
                self.sort(buf, meta, source, now_ns);
            }
            if meta.iter().take(n).any(|m| m.len > 0) {
                return Poll::Ready(Ok(n));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        // The engine takes the family from here; it must be IPv6 for circuit addresses.
        let port = self
            .fabric
            .local_addrs()
            .first()
            .map_or(0, SocketAddr::port);
        Ok(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port))
    }

    fn max_receive_segments(&self) -> NonZeroUsize {
        self.fabric
            .sockets()
            .map(|s| s.max_receive_segments())
            .max()
            .unwrap_or(NonZeroUsize::MIN)
    }

    fn may_fragment(&self) -> bool {
        self.fabric.sockets().any(|s| s.may_fragment())
    }
}

#[cfg(test)]
#[path = "mux_tests.rs"]
mod tests;
