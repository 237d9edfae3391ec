//! The task of one connection: feeds the path agent and does what it says.
//!
//! One driver per connection owns everything that changes: its paths, its circuits, its
//! probes. It ends with the connection.

mod climb;
mod found;
mod lost;
mod table;
mod websocket;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhop_proto::{
    carrier::CarrierId,
    circuit::CircuitId,
    is_virtual,
    path::{
        Action, CloseReason, Ladder, Offer, PathAgent, PathKey, Role, Route, Sample, ladder::Choice,
    },
};
use futures_util::StreamExt;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use self::{climb::Attempt, websocket::hold};
use super::{Command, Conn, probing::Probing};
use crate::{
    Carrier, Event, KEEP_ALIVE, PathKind,
    carrier::CarrierUse,
    circuit::LocalCircuit,
    engine::{INITIAL_RTT, Path, PathEvent, PathEvents, PathId, PathStatus, Pin, canonical, close},
    node::{Apart, Inner, Network, punch::Agreed, trace::Over},
};

/// An unused, superseded connection lives this long, for streams on their way.
const LINGER: Duration = Duration::from_secs(2);
/// Attempts to open an engine path while the peer's connection ids are still coming.
const OPEN_PATH_ATTEMPTS: u32 = 20;
/// Time between them.
const OPEN_PATH_RETRY: Duration = Duration::from_millis(100);
/// How long a path may take to be validated.
const OPEN_PATH_TIMEOUT: Duration = Duration::from_secs(4);

/// How often paths are looked at after the peer pinged from a new address.
const QUICK_TICK: Duration = Duration::from_millis(30);
/// For how long, in such looks.
const QUICK_TICKS: u32 = 10;
/// Longest wait for the peer before a punch: a wrong round trip must not stop it.
const MAX_PUNCH_DELAY: Duration = Duration::from_millis(300);

/// What a background job of the driver brought.
#[derive(Debug)]
enum Job {
    /// What the peer told of itself, and an agreement on an attempt or why there is none.
    Agreed(Choice, Option<Box<Offer>>, Result<Box<Agreed>, String>),
    /// A direct path was opened, or not.
    DirectPath(Choice, Result<SocketAddr, String>),
    /// A path to where the peer was found without an attempt was opened, or not.
    FoundPath(Result<(), String>),
    /// A circuit and its path were opened, or not.
    CircuitPath(Wanted, Result<LocalCircuit, String>),
    /// A WebSocket of ours became a path, or not.
    WebSocketPath(Result<(), String>),
    /// A WebSocket that the peer opened became a path, or not.
    PeersWebSocketPath(CarrierId, Result<(), String>),
    /// A WebSocket below a path was closed.
    WebSocketEnded(CarrierId),
}

/// What a circuit is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// There is none.
    AnyCircuit,
    /// There is one, and its relays may die.
    Standby,
}

struct OpenPath {
    path: Path,
    id: PathId,
    remote: SocketAddr,
    /// Where the peer has answered last: `remote`, once it has answered there.
    proven: SocketAddr,
    rtt: Duration,
    mtu: u16,
    /// Share of packets lost since it was opened.
    loss: f64,
    /// Sealed packets sent while it was selected.
    sealed: u64,
    /// The WebSocket it runs over.
    _held: Option<CarrierUse>,
}

/// The driver of one connection.
pub(crate) struct Driver {
    node: Arc<Inner>,
    conn: Arc<Conn>,
    commands: mpsc::Receiver<Command>,
    network: watch::Receiver<Network>,
    /// Changes of the network that the agent knows.
    changes_seen: u64,
    events: PathEvents,
    agent: PathAgent,
    probing: Probing,
    paths: BTreeMap<PathKey, OpenPath>,
    keys: HashMap<PathId, PathKey>,
    next_key: PathKey,
    /// Where direct paths over UDP led that are closed, latest first.
    left: VecDeque<SocketAddr>,
    /// WebSockets of the peer that are being made paths.
    joining: BTreeSet<CarrierId>,
    /// Circuits we opened; dropping one tears it down.
    circuits: BTreeMap<CircuitId, LocalCircuit>,
    jobs: JoinSet<Job>,
    next_tick: Instant,
    /// Since when nothing has used the connection, and the count of uses then.
    unused: (Instant, u64),
    /// Chooses the techniques towards a direct path, on the client's side.
    ladder: Ladder,
    /// A round of the ladder runs.
    punching: bool,
    /// The attempts that run.
    attempts: Vec<Attempt>,
    /// Sockets that paths of this connection have for themselves, and since when.
    pins: Vec<(Pin, Instant)>,
    /// A path to where the peer was found is being opened.
    opening_found: bool,
    /// Counters are still read often, this many times.
    quick_ticks: u32,
    /// The link's addresses as the label table has them.
    published_link: Vec<SocketAddr>,
    /// Sealed packets that were counted for a path.
    sealed_seen: u64,
    /// Where the packets of dead paths go.
    diverted: Vec<(SocketAddr, SocketAddr)>,
}

impl Driver {
    /// Takes over a connection, and the circuit of ours that its handshake ran over.
    /// `None` when it is closed already.
    pub(crate) fn new(
        node: Arc<Inner>,
        conn: Arc<Conn>,
        commands: mpsc::Receiver<Command>,
        circuit: Option<LocalCircuit>,
    ) -> Option<Self> {
        // Before anything is read, so that nothing falls between.
        let events = conn.quic.path_events();
        let path = conn.quic.path(PathId::ZERO)?;
        let remote = canonical(path.remote_address().ok()?);
        let first = OpenPath {
            path,
            id: PathId::ZERO,
            remote,
            proven: remote,
            rtt: Duration::ZERO,
            mtu: 0,
            loss: 0.0,
            sealed: 0,
            _held: hold(&node, remote),
        };
        let direct_wanted = node.config.direct_paths;
        let agent = PathAgent::new(conn.role, direct_wanted, 0, route_of(remote));
        let probing = Probing::new(Arc::clone(&node.fabric), Arc::clone(&conn));
        let network = node.network();
        let changes_seen = network.borrow().changes;
        let mut driver = Self {
            node,
            conn,
            commands,
            changes_seen,
            network,
            events,
            agent,
            probing,
            paths: BTreeMap::from([(0, first)]),
            keys: HashMap::from([(PathId::ZERO, 0)]),
            next_key: 1,
            left: VecDeque::new(),
            joining: BTreeSet::new(),
            circuits: BTreeMap::new(),
            jobs: JoinSet::new(),
            next_tick: Instant::now(),
            unused: (Instant::now(), 0),
            ladder: Ladder::default(),
            punching: false,
            attempts: Vec::new(),
            pins: Vec::new(),
            opening_found: false,
            quick_ticks: 0,
            published_link: Vec::new(),
            sealed_seen: 0,
            diverted: Vec::new(),
        };
        driver.agent.set_families(&driver.network.borrow().families);
        if let Some(first) = driver.paths.get(&0) {
            keep_alive(first, &driver.network.borrow());
        }
        driver.watch(remote);
        if let Some(circuit) = circuit {
            driver.circuits.insert(circuit.id, circuit);
        }
        // What the peer told during the handshake came before the events.
        if let Some(addr) = driver.conn.quic.observed_external_addr().get() {
            driver.observed(PathId::ZERO, addr);
        }
        driver.sample();
        driver.publish();
        Some(driver)
    }

    /// Runs until the connection ends.
    pub(crate) async fn run(mut self) {
        let conn = Arc::clone(&self.conn);
        let closed = conn.quic.closed();
        tokio::pin!(closed);
        let reason = loop {
            let tick = self.wake_at();
            tokio::select! {
                biased;
                reason = &mut closed => break reason,
                Some(packet) = self.probing.recv() => {
                    let found = self.probing.handle(now(), &packet);
                    self.handle_found(found);
                }
                Some(event) = self.events.next() => self.handle_event(event.ok()),
                Ok(()) = self.network.changed() => self.network_changed(),
                Some(command) = self.commands.recv() => self.handle_command(command),
                Some(job) = self.jobs.join_next() => {
                    if let Ok(job) = job {
                        self.handle_job(job);
                    }
                }
                Ok(streams) = conn.quic.accept_bi() => {
                    self.node.serve_bi(&self.conn, streams);
                }
                Ok(stream) = conn.quic.accept_uni() => {
                    self.node.serve_uni(&self.conn, stream);
                }
                () = sleep_until(tick) => self.handle_timeout(),
            }
            self.act();
        };
        self.shut_down(&conn.uses.why_closed(&reason));
    }

    fn wake_at(&self) -> Instant {
        let now = Instant::now();
        let probing = self.probing.timeout(now.into_std()).map(|d| now + d);
        let ladder = self.ladder.timeout().map(Instant::from_std);
        let others = probing.into_iter().chain(ladder);
        others.fold(self.next_tick, Instant::min)
    }

    fn handle_timeout(&mut self) {
        let now = Instant::now();
        let found = self.probing.handle_timeout(now.into_std());
        self.handle_found(found);
        self.climb();
        if now >= self.next_tick {
            self.sample();
            self.check_use(now);
        }
    }

    fn look_often(&mut self) {
        self.quick_ticks = QUICK_TICKS;
        self.next_tick = self.next_tick.min(Instant::now() + QUICK_TICK);
    }

    /// This machine's network changed. The agent has every path pinged, from wherever it
    /// now is; the engine does the same for itself.
    fn network_changed(&mut self) {
        let network = self.network.borrow_and_update().clone();
        for open in self.paths.values() {
            keep_alive(open, &network);
        }
        if network.changes == self.changes_seen {
            return;
        }
        self.changes_seen = network.changes;
        self.agent.set_families(&network.families);
        self.ladder.handle_network_changed();
        self.agent.handle_network_changed(now(), network.online);
        self.look_often();
    }

    /// Sends a probe for somebody who waits for its answer.
    fn echo(&mut self, over: Over, waiting: oneshot::Sender<()>) {
        let selected = self.agent.selected();
        let wanted = |key: PathKey, open: &OpenPath| match over {
            Over::Link => !is_circuit(open.remote),
            Over::SelectedPath => Some(key) == selected,
        };
        let mut paths: Vec<_> = self.paths.iter().collect();
        paths.sort_by_key(|(key, _)| Some(**key) != selected);
        let path = paths.into_iter().find(|(key, open)| wanted(**key, open));
        if let Some((key, open)) = path {
            self.probing.echo(*key, open.remote, waiting);
        }
    }

    /// A circuit over this link fell silent. Lets the peer hear from wherever our NAT sends
    /// from now, and finds out whether the link lives.
    fn speak_up(&mut self) {
        self.agent.handle_doubt(now());
        self.look_often();
        for (key, open) in &self.paths {
            if !is_circuit(open.remote) {
                self.probing.ping(*key, open.remote);
                // Fails only for a path that is being closed.
                let _ = open.path.ping();
            }
        }
    }

    fn handle_event(&mut self, event: Option<PathEvent>) {
        match event {
            Some(PathEvent::Established { id, .. }) => self.path_opened(id),
            Some(PathEvent::Abandoned { id, reason, .. }) => {
                self.path_closed(id, &format!("{reason:?}"));
            }
            Some(PathEvent::ObservedAddr { id, addr, .. }) => self.observed(id, addr),
            Some(_) => {}
            // Some events were missed: the next sample finds closed paths by itself.
            None => {}
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Punch(agreed) => {
                let half_rtt = self.half_rtt();
                self.begin_attempt(*agreed, half_rtt);
            }
            Command::Probe => self.speak_up(),
            Command::PeerTold => self.agent.handle_peer_told(now()),
            Command::AwaitPing(nonce, waiting) => self.probing.await_ping(nonce, waiting),
            Command::Echo(over, waiting) => self.echo(over, waiting),
            Command::CircuitEnded(circuit) => {
                self.circuits.remove(&circuit);
                self.agent.handle_circuit_ended(now(), circuit);
            }
        }
    }

    fn handle_job(&mut self, job: Job) {
        tracing::trace!(peer = %self.conn.peer, ?job, "job done");
        match job {
            Job::Agreed(choice, peer, agreed) => self.agreed(choice, peer.as_deref(), agreed),
            Job::DirectPath(choice, Ok(addr)) => self.attempt_succeeded(choice, addr),
            Job::DirectPath(choice, Err(reason)) => self.attempt_failed(choice, &reason),
            Job::FoundPath(result) => {
                self.opening_found = false;
                if let Err(reason) = result {
                    tracing::debug!(peer = %self.conn.peer, reason, "no path to where it answered");
                }
            }
            Job::CircuitPath(wanted, Ok(circuit)) => {
                self.circuits.insert(circuit.id, circuit);
                self.circuit_done(wanted, true);
            }
            Job::WebSocketPath(result) => {
                if let Err(reason) = &result {
                    tracing::debug!(peer = %self.conn.peer, reason, "no WebSocket");
                }
                self.agent.handle_websocket_done(now(), result.is_ok());
            }
            Job::PeersWebSocketPath(carrier, result) => {
                self.joining.remove(&carrier);
                if let Err(reason) = result {
                    tracing::debug!(peer = %self.conn.peer, reason, "the peer's WebSocket is no path");
                }
            }
            Job::WebSocketEnded(carrier) => self.agent.handle_websocket_ended(now(), carrier),
            Job::CircuitPath(wanted, Err(reason)) => {
                tracing::debug!(peer = %self.conn.peer, ?wanted, reason, "no circuit");
                self.circuit_done(wanted, false);
            }
        }
    }

    fn circuit_done(&mut self, wanted: Wanted, success: bool) {
        match wanted {
            Wanted::AnyCircuit => self.agent.handle_circuit_done(now(), success),
            Wanted::Standby => self.agent.handle_standby_done(now(), success),
        }
    }

    /// When our answer will have reached the peer, at most [`MAX_PUNCH_DELAY`] from now.
    fn half_rtt(&self) -> Duration {
        let selected = self.agent.selected();
        let open = selected.and_then(|key| self.paths.get(&key));
        open.map_or(Duration::ZERO, |o| (o.rtt / 2).min(MAX_PUNCH_DELAY))
    }

    /// Does what the agent decided.
    fn act(&mut self) {
        while let Some(action) = self.agent.poll_action() {
            tracing::trace!(peer = %self.conn.peer, ?action, "path agent");
            match action {
                Action::Ping(key) => {
                    if let Some(open) = self.paths.get(&key) {
                        self.probing.ping(key, open.remote);
                        if let Some(circuit) = CircuitId::from_address(&open.remote) {
                            self.node.probe_link(circuit);
                        }
                    }
                }
                Action::Revive(key) => self.nudge(key),
                Action::Select(key) => {
                    self.apply_selection();
                    // It may have been tried in vain before.
                    self.nudge(key);
                }
                Action::TellLost(key, used) => self.tell_lost(key, used),
                Action::Close(key, reason) => self.close_path(key, reason),
                Action::Punch => self.start_round(),
                Action::TryFamily(family) => self.try_family(family),
                Action::OpenCircuit => self.start_circuit(Wanted::AnyCircuit),
                Action::OpenStandby => self.start_circuit(Wanted::Standby),
                Action::OpenWebSocket => self.start_websocket(),
                Action::LookBack => self.look_back(),
                Action::GiveUp => self.give_up(),
            }
        }
        self.divert();
    }

    /// Has the engine send on a path now, whatever its timers and its window say.
    fn nudge(&self, key: PathKey) {
        if let Some(open) = self.paths.get(&key) {
            self.conn.quic.kicks.kick();
            // Fails only for a path that is being closed.
            let _ = open.path.ping();
        }
    }

    fn give_up(&self) {
        let ways: Vec<_> = self.paths.values().map(|p| self.describe(p)).collect();
        let reason = format!("no path answers any more ({})", ways.join(", "));
        self.conn.close(close::NO_PATH, &reason);
    }

    fn describe(&self, open: &OpenPath) -> String {
        let info = self.path_info(open, false);
        match (info.kind, info.carrier) {
            (PathKind::Circuit, _) => format!("circuit via {}", info.via.join(", ")),
            (PathKind::Direct, Carrier::Ws) => format!("WebSocket {}", info.remote),
            (PathKind::Direct, _) => format!("direct {}", info.remote),
        }
    }

    fn apply_selection(&mut self) {
        let selected = self.agent.selected();
        for (key, open) in &self.paths {
            let status = if Some(*key) == selected {
                PathStatus::Available
            } else {
                PathStatus::Backup
            };
            // Fails only for a path that is being closed: its event follows.
            let _ = open.path.set_status(status);
        }
        self.publish();
        if let Some(open) = selected.and_then(|key| self.paths.get(&key)) {
            let path = self.path_info(open, true);
            tracing::debug!(peer = %self.conn.peer, kind = ?path.kind, remote = path.remote, "path selected");
        }
    }

    fn close_path(&mut self, key: PathKey, reason: CloseReason) {
        let Some(open) = self.paths.get(&key) else {
            return;
        };
        match open.path.close() {
            Ok(()) => self.path_closed(open.id, &reason.to_string()),
            Err(e) => {
                tracing::debug!(peer = %self.conn.peer, error = %e, "path not closed");
                self.agent.handle_close_refused(key);
            }
        }
    }

    fn path_opened(&mut self, id: PathId) {
        if self.keys.contains_key(&id) {
            return;
        }
        let Some(path) = self.conn.quic.path(id) else {
            return;
        };
        let Ok(remote) = path.remote_address() else {
            return;
        };
        let remote = canonical(remote);
        tracing::trace!(peer = %self.conn.peer, %remote, %id, "path opened");
        let key = self.next_key;
        self.next_key += 1;
        self.keys.insert(id, key);
        let open = OpenPath {
            path,
            id,
            remote,
            proven: remote,
            rtt: Duration::ZERO,
            mtu: 0,
            loss: 0.0,
            sealed: 0,
            _held: hold(&self.node, remote),
        };
        keep_alive(&open, &self.network.borrow());
        // Its acknowledgement tells the round trip, which decides whether it is selected.
        // Fails only for a path that is being closed.
        let _ = open.path.ping();
        self.paths.insert(key, open);
        self.watch(remote);
        self.agent.handle_opened(now(), key, route_of(remote));
        if !is_virtual(&remote) {
            self.direct_path_opened();
        }
        self.look_often();
        self.sample();
        self.apply_selection();
        self.close_duplicate(key, remote);
    }

    /// The engine opens a path by itself where the peer's packets come from, and another that
    /// was lost may have come back there.
    fn close_duplicate(&mut self, key: PathKey, remote: SocketAddr) {
        let twin = |(other, open): (&PathKey, &OpenPath)| {
            *other != key && open.remote == remote && self.agent.alive(*other)
        };
        let unneeded = self.agent.selected() != Some(key) && self.paths.iter().any(twin);
        if self.conn.role == Role::Client && unneeded {
            self.close_path(key, CloseReason::Unneeded);
        }
    }

    fn path_closed(&mut self, id: PathId, reason: &str) {
        let Some(key) = self.keys.remove(&id) else {
            return;
        };
        let Some(open) = self.paths.remove(&key) else {
            return;
        };
        let path = self.path_info(&open, false);
        tracing::debug!(peer = %self.conn.peer, kind = ?path.kind, remote = path.remote, reason, "path lost");
        if let Some(circuit) = CircuitId::from_address(&open.remote) {
            self.circuits.remove(&circuit);
        }
        self.pins.retain(|(pin, _)| pin.remote() != open.remote);
        self.remember_left(open.remote);
        self.agent.handle_closed(now(), key);
        self.publish();
        self.node.emit(Event::PathLost {
            peer: self.conn.peer,
            path,
            reason: reason.to_owned(),
        });
    }

    /// Asks to be told when the circuit or WebSocket behind an address ends.
    fn watch(&mut self, remote: SocketAddr) {
        if let Some(carrier) = CarrierId::from_address(&remote) {
            let ended = self.node.fabric.carriers.get(carrier).map(|c| c.ended());
            self.jobs.spawn(async move {
                // One that is not in the table has ended already.
                if let Some(ended) = ended {
                    ended.await;
                }
                Job::WebSocketEnded(carrier)
            });
        }
        if let Some(circuit) = CircuitId::from_address(&remote) {
            self.node.circuits.watch(circuit, &self.conn.commands);
        }
    }

    /// Reads the engine's counters into the agent.
    fn sample(&mut self) {
        let mut samples = Vec::with_capacity(self.paths.len());
        let (mut gone, mut moved) = (Vec::new(), Vec::new());
        let remotes: Vec<_> = self.paths.values().map(|open| open.remote).collect();
        let (sealed, selected) = (self.conn.packets_sealed(), self.agent.selected());
        for (key, open) in &mut self.paths {
            let Ok(remote) = open.path.remote_address().map(canonical) else {
                gone.push(open.id);
                continue;
            };
            // A path that the peer diverts to another one has not moved.
            let others = remotes.iter().any(|r| *r == remote && *r != open.remote);
            let other_family = remote.is_ipv4() != open.remote.is_ipv4();
            let diverted = others && other_family || is_virtual(&remote);
            if remote != open.remote && !diverted && !is_virtual(&open.remote) {
                open.remote = remote;
                moved.push(*key);
            }
            if Some(*key) == selected {
                open.sealed += sealed - std::mem::replace(&mut self.sealed_seen, sealed);
            }
            let stats = open.path.stats();
            (open.rtt, open.mtu) = (stats.rtt, stats.current_mtu);
            open.loss = stats.lost_packets as f64 / stats.sent_packets.max(1) as f64;
            tracing::trace!(
                peer = %self.conn.peer,
                key = *key,
                remote = %open.remote,
                selected = Some(*key) == selected,
                tx = stats.udp_tx.datagrams,
                rx = stats.udp_rx.datagrams,
                window = stats.cwnd,
                lost = stats.lost_packets,
                rtt = ?stats.rtt,
                "path sampled"
            );
            samples.push(Sample {
                key: *key,
                rtt: (stats.rtt != INITIAL_RTT).then_some(stats.rtt),
                // Of those that come, nobody knows over which path: pongs tell.
                tx: stats.udp_tx.datagrams + open.sealed,
                rx: stats.udp_rx.datagrams,
            });
        }
        for id in gone {
            self.path_closed(id, "the engine closed it");
        }
        self.prune_pins();
        for key in moved {
            if let Some(open) = self.paths.get(&key).filter(|o| o.remote != o.proven) {
                self.probing.shown(open.remote);
                self.probing.ping(key, open.remote);
            }
            self.agent.handle_moved(now(), key);
        }
        self.agent.handle_samples(now(), &samples);
        self.publish();
        let tick = if self.quick_ticks > 0 {
            self.quick_ticks -= 1;
            QUICK_TICK
        } else {
            self.agent.tick()
        };
        self.next_tick = Instant::now() + tick;
    }

    /// Closes what nobody uses.
    fn check_use(&mut self, now: Instant) {
        let (open, total) = self.conn.uses.counts();
        if open > 0 || total != self.unused.1 {
            self.unused = (now, total);
            return;
        }
        let idle = now - self.unused.0;
        let superseded = self.conn.superseded.load(Ordering::Relaxed);
        if superseded && self.conn.role == Role::Client && idle >= LINGER {
            self.conn
                .close(close::SUPERSEDED, "another connection carries the session");
        } else if idle >= self.node.config.idle_timeout && !self.node.is_pinned(self.conn.peer) {
            self.conn
                .close(close::IDLE, "nobody used it for the idle timeout");
        }
    }

    fn start_circuit(&mut self, wanted: Wanted) {
        let (node, conn) = (Arc::clone(&self.node), Arc::clone(&self.conn));
        let mut relays = Vec::new();
        for open in self.paths.values() {
            if let Some(circuit) = CircuitId::from_address(&open.remote) {
                relays.extend(node.circuits.via(circuit));
            }
        }
        self.jobs.spawn(async move {
            let apart = match wanted {
                Wanted::AnyCircuit => Apart::IfPossible(relays),
                Wanted::Standby => Apart::FromOne(relays),
            };
            let opened = async {
                let circuit = node.circuit_to(conn.peer, apart).await?;
                open_path(&conn, circuit.id.address()).await?;
                Ok(circuit)
            };
            Job::CircuitPath(wanted, opened.await)
        });
    }

    fn remote_of(&self, id: PathId) -> Option<SocketAddr> {
        let key = self.keys.get(&id)?;
        Some(self.paths.get(key)?.remote)
    }

    fn shut_down(self, reason: &str) {
        tracing::debug!(peer = %self.conn.peer, reason, "connection ended");
        self.node.conn_ended(&self.conn, reason);
    }
}

/// Has the engine keep a path's mappings alive.
fn keep_alive(open: &OpenPath, network: &Network) {
    let interval = if is_virtual(&open.remote) {
        KEEP_ALIVE
    } else {
        network.keep_alive(&open.remote)
    };
    // Fails only for a path that is being closed.
    let _ = open.path.set_keep_alive_interval(Some(interval));
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

fn is_circuit(addr: SocketAddr) -> bool {
    CircuitId::from_address(&addr).is_some()
}

fn route_of(remote: SocketAddr) -> Route {
    if let Some(circuit) = CircuitId::from_address(&remote) {
        return Route::Circuit(circuit);
    }
    match CarrierId::from_address(&remote) {
        Some(carrier) => Route::WebSocket(carrier),
        None => Route::Direct(remote),
    }
}

/// Opens an engine path and waits until it is validated.
async fn open_path(conn: &Conn, remote: SocketAddr) -> Result<(), String> {
    use crate::engine::PathError;
    for _ in 0..OPEN_PATH_ATTEMPTS {
        let opening = conn.quic.open_path_ensure(remote, PathStatus::Backup);
        match tokio::time::timeout(OPEN_PATH_TIMEOUT, opening).await {
            Err(_) => return Err(format!("{remote} was not validated in time")),
            Ok(Ok(_)) => return Ok(()),
            // The peer's next connection ids are still on their way.
            Ok(Err(PathError::RemoteCidsExhausted | PathError::MaxPathIdReached)) => {
                tokio::time::sleep(OPEN_PATH_RETRY).await;
            }
            Ok(Err(e)) => return Err(format!("{remote}: {e}")),
        }
    }
    Err(format!("{remote}: the peer allows no more paths now"))
}
