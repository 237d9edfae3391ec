//! The path agent of one connection.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    ACTIVE_TICK, CIRCUIT_RETRY, CIRCUIT_RETRY_MAX, FAMILY_RETRY, FAMILY_RETRY_MAX, GIVE_UP,
    IDLE_TICK, LOOK_BACK, PUNCH_RETRY, PUNCH_RETRY_MAX, STANDBY_CHECK, STANDBY_DELAY,
    STANDBY_RETRY, STANDBY_RETRY_MAX, SUSPECT_TICK, WEBSOCKET_HOLD, WEBSOCKET_RETRY,
    WEBSOCKET_RETRY_MAX,
    state::{PathState, Retry},
    websocket_delay,
};
use crate::{carrier::CarrierId, circuit::CircuitId, nat::Family};

/// Pings that must stay unanswered before a path is dead: a late timer alone kills none.
const DEAD_PINGS: u32 = 2;
/// A path that answered so recently is not asked again for the sake of another one.
const RECENTLY: Duration = Duration::from_millis(300);
/// A path must be this much cheaper than the selected one to replace it, in percent.
const SWITCH_GAIN: u32 = 20;
/// The engine's number for a path of one connection.
pub type PathKey = u32;

/// Which end of the connection this is. Only the client can open paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Dialled.
    Client,
    /// Was dialled.
    Server,
}

/// What a path runs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Socket to socket.
    Direct(SocketAddr),
    /// A WebSocket to the peer.
    WebSocket(CarrierId),
    /// Through relays.
    Circuit(CircuitId),
}

/// Counters of one path, read from the engine.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Which path.
    pub key: PathKey,
    /// Smoothed round-trip time, once it was measured.
    pub rtt: Option<Duration>,
    /// Datagrams sent so far.
    pub tx: u64,
    /// Datagrams received so far.
    pub rx: u64,
}

/// Why a path is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// It no longer answers.
    Dead,
    /// The circuit below it was torn down.
    CircuitEnded,
    /// The WebSocket below it was closed.
    WebSocketEnded,
    /// A direct path over UDP has done without it for long enough.
    Unneeded,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dead => "it stopped answering",
            Self::CircuitEnded => "its circuit was torn down",
            Self::WebSocketEnded => "its WebSocket was closed",
            Self::Unneeded => "a direct path over UDP does without it",
        })
    }
}

/// What the shell is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send a ping on this path and report its pong.
    Ping(PathKey),
    /// This path was dead and answers again: have the engine send on it now, since its own
    /// timers have backed off.
    Revive(PathKey),
    /// Send new data on this path, keep the others as backups.
    Select(PathKey),
    /// Tell the peer over the selected path that this one is dead, and whether there may be
    /// data in flight on it.
    TellLost(PathKey, bool),
    /// Close this path.
    Close(PathKey, CloseReason),
    /// Run a punch, then report with [`PathAgent::handle_punch_done`].
    Punch,
    /// Ping the addresses of this family that the peer tells of; one that answers may become
    /// a path.
    TryFamily(Family),
    /// Open a circuit path, then report with [`PathAgent::handle_circuit_done`].
    OpenCircuit,
    /// Open a second circuit path that crosses other relays, then report with
    /// [`PathAgent::handle_standby_done`].
    OpenStandby,
    /// Open a WebSocket to the peer, or have it open one, and a path over it; then report
    /// with [`PathAgent::handle_websocket_done`].
    OpenWebSocket,
    /// Ask the addresses of closed direct paths for an answer: nothing lives that a punch
    /// could be agreed on over.
    LookBack,
    /// End the session: nothing has lived for [`GIVE_UP`].
    GiveUp,
}

/// Decides about the paths of one connection; see the [module](super).
#[derive(Debug)]
pub struct PathAgent {
    role: Role,
    direct_wanted: bool,
    /// Whether the session ever needed a circuit, so that one is kept as standby.
    standby_wanted: bool,
    paths: BTreeMap<PathKey, PathState>,
    selected: Option<PathKey>,
    punch: Retry,
    circuit: Retry,
    standby: Retry,
    websocket: Retry,
    /// Since when no direct path over UDP lives.
    no_direct_since: Option<Instant>,
    /// Since when the selected path is a direct one over UDP.
    direct_selected_since: Option<Instant>,
    family: Retry,
    /// What this host has addresses of.
    families: Vec<Family>,
    all_dead_since: Option<Instant>,
    looked_back: Option<Instant>,
    /// This host has no network: silence says nothing about a path.
    offline: bool,
    busy: bool,
    actions: VecDeque<Action>,
}

impl PathAgent {
    /// The agent of a connection whose handshake ran over path `key`.
    #[must_use]
    pub fn new(role: Role, direct_wanted: bool, key: PathKey, route: Route) -> Self {
        let mut agent = Self {
            role,
            direct_wanted,
            standby_wanted: matches!(route, Route::Circuit(_)),
            paths: BTreeMap::new(),
            selected: Some(key),
            punch: Retry::new(PUNCH_RETRY, PUNCH_RETRY_MAX),
            circuit: Retry::new(CIRCUIT_RETRY, CIRCUIT_RETRY_MAX),
            standby: Retry::new(STANDBY_RETRY, STANDBY_RETRY_MAX),
            websocket: Retry::new(WEBSOCKET_RETRY, WEBSOCKET_RETRY_MAX),
            no_direct_since: None,
            direct_selected_since: None,
            family: Retry::new(FAMILY_RETRY, FAMILY_RETRY_MAX),
            families: Vec::new(),
            all_dead_since: None,
            looked_back: None,
            offline: false,
            busy: true,
            actions: VecDeque::new(),
        };
        agent.insert(key, route);
        agent
    }

    /// The path that new data goes over.
    #[must_use]
    pub fn selected(&self) -> Option<PathKey> {
        self.selected
    }

    /// Whether no path lives now.
    #[must_use]
    pub fn stalled(&self) -> bool {
        self.all_dead_since.is_some()
    }

    /// The open paths and what they run over.
    pub fn paths(&self) -> impl Iterator<Item = (PathKey, Route)> + '_ {
        self.paths.iter().map(|(k, p)| (*k, p.route))
    }

    /// The route of an open path.
    #[must_use]
    pub fn route(&self, key: PathKey) -> Option<Route> {
        self.paths.get(&key).map(|p| p.route)
    }

    /// A path is open and validated.
    pub fn handle_opened(&mut self, now: Instant, key: PathKey, route: Route) {
        if self.paths.contains_key(&key) {
            return;
        }
        self.standby_wanted |= matches!(route, Route::Circuit(_));
        self.busy = true;
        self.insert(key, route);
        self.decide(now);
    }

    /// A path is gone, whoever closed it.
    pub fn handle_closed(&mut self, now: Instant, key: PathKey) {
        let Some(path) = self.paths.remove(&key) else {
            return;
        };
        self.lost(now, &path);
        if self.selected == Some(key) {
            self.selected = None;
        }
        self.decide(now);
    }

    /// The engine refused to close a path; it is asked again while the path is dead.
    pub fn handle_close_refused(&mut self, key: PathKey) {
        if let Some(path) = self.paths.get_mut(&key) {
            path.closing = false;
        }
    }

    /// The engine's counters, one sample for each open path.
    pub fn handle_samples(&mut self, now: Instant, samples: &[Sample]) {
        self.busy = false;
        for sample in samples {
            let Some(path) = self.paths.get_mut(&sample.key) else {
                continue;
            };
            if sample.rx > path.rx && path.alive() && !path.pong_wanted {
                path.heard = Some(now);
                path.answered(now);
                self.busy = true;
            } else if sample.tx > path.tx {
                path.unanswered_since.get_or_insert(now);
            }
            self.busy |= sample.tx > path.tx || path.unanswered_since.is_some();
            self.busy |= path.heard.is_some();
            path.carried(now, sample.rx.saturating_sub(path.rx));
            path.tx = sample.tx;
            path.rx = sample.rx;
            if let Some(rtt) = sample.rtt {
                path.rtt = rtt;
                path.min_rtt = path.min_rtt.min(rtt);
            }
        }
        self.check_liveness(now);
        self.decide(now);
    }

    /// A ping on this path was answered.
    pub fn handle_pong(&mut self, now: Instant, key: PathKey) {
        self.revive(now, key);
    }

    /// The peer's packets of this path come from another address of the same kind: it moved,
    /// and is heard.
    pub fn handle_moved(&mut self, now: Instant, key: PathKey) {
        self.revive(now, key);
    }

    fn revive(&mut self, now: Instant, key: PathKey) {
        if let Some(path) = self.paths.get_mut(&key) {
            path.pong_wanted = false;
            if path.answered(now) {
                self.actions.push_back(Action::Revive(key));
            }
            self.decide(now);
        }
    }

    /// The peer says that nothing comes back to it over this path, and whether there may be
    /// data in flight on it. It says so as long as that is so: the path is not used meanwhile,
    /// even if the peer answers over it, since the peer may have it lead to where this host
    /// was before.
    pub fn handle_peer_lost(&mut self, now: Instant, key: PathKey, used: bool) {
        let selected = self.selected == Some(key);
        let Some(path) = self.paths.get_mut(&key) else {
            return;
        };
        let was_alive = path.alive();
        path.peer_lost_at = Some(now);
        path.peer_used = Some(used);
        if !was_alive {
            self.decide(now);
            return;
        }
        path.heard = None;
        path.lose(now, selected);
        path.unanswered_since.get_or_insert(now);
        self.busy = true;
        self.actions.push_back(Action::Ping(key));
        self.decide(now);
    }

    /// Whether a path is open and neither dead nor without what it ran over.
    #[must_use]
    pub fn alive(&self, key: PathKey) -> bool {
        self.paths.get(&key).is_some_and(PathState::alive)
    }

    /// This host's addresses, interfaces or routes changed; `online` tells whether it has a
    /// network now.
    pub fn handle_network_changed(&mut self, now: Instant, online: bool) {
        self.offline = !online;
        if self.offline {
            return;
        }
        if let Some(since) = &mut self.all_dead_since {
            *since = now;
        }
        self.busy = true;
        self.punch.reset();
        self.circuit.reset();
        self.websocket.reset();
        self.family.reset();
        for (key, path) in &mut self.paths {
            path.doubted = true;
            path.suspect(now);
            self.actions.push_back(Action::Ping(*key));
        }
        self.decide(now);
    }

    /// The peer sent a ping from an address that no path leads to. If it moved, its packets
    /// still come in on the paths to where it was: only a pong tells that one lives.
    pub fn handle_peer_elsewhere(&mut self, now: Instant) {
        for (key, path) in &mut self.paths {
            if path.is_direct() && path.alive() && !path.pong_wanted {
                path.suspect(now);
                path.pong_wanted = true;
                self.actions.push_back(Action::Ping(*key));
            }
        }
        self.busy = true;
    }

    /// Somebody has reason to believe that what runs over the direct paths and WebSockets is
    /// lost: they are pinged.
    pub fn handle_doubt(&mut self, now: Instant) {
        self.doubt(now, |path| !path.is_circuit());
        self.busy = true;
    }

    /// The IP families this host has addresses of, loopback left out.
    pub fn set_families(&mut self, families: &[Family]) {
        self.families = families.to_vec();
    }

    /// The peer told other addresses than before.
    pub fn handle_peer_told(&mut self, now: Instant) {
        self.family.reset();
        self.decide(now);
    }

    /// The circuit below a path was torn down.
    pub fn handle_circuit_ended(&mut self, now: Instant, circuit: CircuitId) {
        self.ended(now, Route::Circuit(circuit));
    }

    /// The WebSocket below a path was closed.
    pub fn handle_websocket_ended(&mut self, now: Instant, carrier: CarrierId) {
        self.ended(now, Route::WebSocket(carrier));
    }

    /// The punch asked for has ended; its path, if any, was reported before.
    pub fn handle_punch_done(&mut self, now: Instant, success: bool) {
        self.punch.done(now, success);
        self.decide(now);
    }

    /// The circuit asked for has been opened and reported as a path, or failed.
    pub fn handle_circuit_done(&mut self, now: Instant, success: bool) {
        self.circuit.done(now, success);
        self.decide(now);
    }

    /// The second circuit asked for has been opened and reported as a path, or failed.
    pub fn handle_standby_done(&mut self, now: Instant, success: bool) {
        self.standby.done(now, success);
        self.decide(now);
    }

    /// The WebSocket asked for is a path now, or could not be made one.
    pub fn handle_websocket_done(&mut self, now: Instant, success: bool) {
        self.websocket.done(now, success);
        self.decide(now);
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When a punch will be asked for; `None` when none is wanted, or one runs.
    #[must_use]
    pub fn next_punch(&self) -> Option<Instant> {
        let wanted =
            self.role == Role::Client && self.direct_wanted && !self.lives(PathState::is_direct);
        wanted.then(|| self.punch.planned())?
    }

    /// When a circuit will be asked for; `None` when none is wanted, or one is opened.
    #[must_use]
    pub fn next_circuit(&self) -> Option<Instant> {
        if self.role != Role::Client {
            None
        } else if self.needs_circuit() {
            self.circuit.planned()
        } else if self.needs_standby() {
            self.standby.planned()
        } else {
            None
        }
    }

    /// When a WebSocket will be asked for; `None` when none is wanted, or one is opened.
    #[must_use]
    pub fn next_websocket(&self) -> Option<Instant> {
        let due = self.no_direct_since? + websocket_delay(self.role, self.stalled());
        let wanted = self.direct_wanted && !self.lives(PathState::is_websocket);
        let planned = wanted.then(|| self.websocket.planned())?;
        planned.map(|at| at.max(due))
    }

    /// How long until counters are to be read again.
    #[must_use]
    pub fn tick(&self) -> Duration {
        if self.paths.values().any(|p| p.alive() && p.pings > 0) {
            SUSPECT_TICK
        } else if self.busy || self.stalled() {
            ACTIVE_TICK
        } else {
            IDLE_TICK
        }
    }

    fn insert(&mut self, key: PathKey, route: Route) {
        self.paths.insert(key, PathState::new(route));
    }

    fn ended(&mut self, now: Instant, route: Route) {
        for (key, path) in &mut self.paths {
            if path.route == route {
                path.ended = true;
                path.lose(now, self.selected == Some(*key));
            }
        }
        self.decide(now);
    }

    fn lost(&mut self, now: Instant, path: &PathState) {
        match path.route {
            Route::Direct(_) => {
                self.punch.reset();
                self.punch.next = Some(now + PUNCH_RETRY);
                self.family.reset();
                self.websocket.reset();
                // A direct session that lost its path needs what it never had.
                self.standby_wanted = true;
            }
            Route::WebSocket(_) => {
                self.websocket.reset();
                self.websocket.next = Some(now + WEBSOCKET_RETRY);
            }
            Route::Circuit(_) => {
                self.circuit.reset();
                // Its relays were not at fault for the next one to be found missing.
                self.standby.reset();
                self.standby.next = Some(now + CIRCUIT_RETRY);
            }
        }
    }

    fn check_liveness(&mut self, now: Instant) {
        for (key, path) in &mut self.paths {
            let selected = self.selected == Some(*key);
            let Some(since) = path.unanswered_since else {
                let quiet = path.has_gone_quiet(now);
                let unknown = self.busy && !path.answered_within(now, STANDBY_CHECK);
                if (selected && quiet) || (!selected && unknown) {
                    path.suspect(now);
                    self.actions.push_back(Action::Ping(*key));
                }
                continue;
            };
            let silent = now.saturating_duration_since(since);
            if silent >= path.dead_after() && path.pings >= DEAD_PINGS {
                path.dead = true;
                path.lose(now, selected);
            }
            if silent >= path.suspect_after() && path.ping_due(now) {
                self.actions.push_back(Action::Ping(*key));
            }
        }
        self.doubt_all(now);
    }

    /// What makes the selected path suspect may have hit the others too: one that answers is
    /// known by the time that it is needed.
    fn doubt_all(&mut self, now: Instant) {
        let selected = self.selected.and_then(|key| self.paths.get(&key));
        if selected.is_none_or(|p| p.pings == 0) {
            return;
        }
        self.doubt(now, PathState::alive);
    }

    fn doubt(&mut self, now: Instant, which: impl Fn(&PathState) -> bool) {
        for (key, path) in &mut self.paths {
            let asked = path.unanswered_since.is_some() || path.answered_within(now, RECENTLY);
            if which(path) && !asked {
                path.suspect(now);
                self.actions.push_back(Action::Ping(*key));
            }
        }
    }

    fn decide(&mut self, now: Instant) {
        self.take_back(now);
        self.select();
        self.tell_lost(now);
        self.close_dead(now);
        self.track_stall(now);
        self.watch_direct(now);
        if self.role == Role::Client {
            self.look_for_paths(now);
            self.close_unneeded(now);
        }
        self.look_for_websocket(now);
        self.look_for_family(now);
    }

    /// What the peer does not call lost any more lives, unless it is dead here.
    fn take_back(&mut self, now: Instant) {
        for (key, path) in &mut self.paths {
            if path.peer_is_silent_about_it(now) {
                self.actions.push_back(Action::Revive(*key));
            }
        }
    }

    fn select(&mut self) {
        let current = self.selected.and_then(|key| self.paths.get(&key));
        // What ended that one may have hit others, which are being asked.
        let failing = current.is_none_or(|p| !p.alive());
        let best = self
            .paths
            .iter()
            .filter(|(_, p)| p.alive())
            .min_by_key(|(_, p)| (failing && p.unanswered_since.is_some(), p.cost()));
        let Some((&best, candidate)) = best else {
            return;
        };
        let current = self.selected.and_then(|key| self.paths.get(&key));
        let better = current.is_none_or(|current| {
            !current.alive() || candidate.cost() < current.cost() * (100 - SWITCH_GAIN) / 100
        });
        if better && self.selected != Some(best) {
            self.selected = Some(best);
            self.actions.push_back(Action::Select(best));
        }
    }

    /// Has the peer hear of each dead path a few times, since that may be lost too.
    fn tell_lost(&mut self, now: Instant) {
        if self.offline || !self.selected.is_some_and(|key| self.alive(key)) {
            return;
        }
        for (key, path) in &mut self.paths {
            if !path.closing && path.tell_due(now) {
                self.actions
                    .push_back(Action::TellLost(*key, path.was_used));
            }
        }
    }

    /// Closes what has been lost for [`LOST_HOLD`](super::LOST_HOLD), or as soon as both sides
    /// know that nothing is in flight on it, when another path has answered since: two that
    /// died of one thing must not each be closed for the other's sake, by one side each.
    fn close_dead(&mut self, now: Instant) {
        if self.offline {
            return;
        }
        let alive = self.paths.values().filter(|p| p.alive());
        let Some(answered) = alive.filter_map(|p| p.answered_at).max() else {
            return;
        };
        for (key, path) in &mut self.paths {
            let Some(since) = path.lost_since.filter(|_| !path.alive()) else {
                continue;
            };
            let held = now.saturating_duration_since(since) >= path.hold();
            if path.closing || !held || answered <= since {
                continue;
            }
            path.closing = true;
            let reason = match path.route {
                _ if !path.ended => CloseReason::Dead,
                Route::WebSocket(_) => CloseReason::WebSocketEnded,
                Route::Circuit(_) | Route::Direct(_) => CloseReason::CircuitEnded,
            };
            self.actions.push_back(Action::Close(*key, reason));
        }
    }

    fn track_stall(&mut self, now: Instant) {
        if self.paths.values().any(PathState::alive) {
            self.all_dead_since = None;
            self.looked_back = None;
            return;
        }
        let looked = self.looked_back;
        if looked.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_BACK) {
            self.looked_back = Some(now);
            self.actions.push_back(Action::LookBack);
        }
        let since = match self.all_dead_since {
            Some(_) if self.offline => *self.all_dead_since.insert(now),
            Some(since) => since,
            None => {
                self.circuit.reset();
                self.websocket.reset();
                *self.all_dead_since.insert(now)
            }
        };
        if now.saturating_duration_since(since) >= GIVE_UP {
            self.actions.push_back(Action::GiveUp);
        }
    }

    fn lives(&self, kind: impl Fn(&PathState) -> bool) -> bool {
        self.paths.values().any(|p| p.alive() && kind(p))
    }

    fn needs_circuit(&self) -> bool {
        !self.lives(PathState::is_circuit)
            && (self.standby_wanted || !self.paths.values().any(PathState::alive))
    }

    /// A punch needs a live path of another kind to agree on it.
    fn needs_punch(&self) -> bool {
        self.direct_wanted
            && !self.lives(PathState::is_direct)
            && self.paths.values().any(PathState::alive)
    }

    fn needs_standby(&self) -> bool {
        let mut alive = self.paths.values().filter(|p| p.alive());
        alive.next().is_some_and(PathState::is_circuit) && alive.next().is_none()
    }

    /// Both sides do this: the server's pings open its filters for the client's.
    fn look_for_family(&mut self, now: Instant) {
        if !self.direct_wanted || self.offline || !self.lives(PathState::is_direct) {
            return;
        }
        let missing = self.families.iter().copied().find(|f| !self.has_family(*f));
        if let Some(family) = missing
            && self.family.start(now)
        {
            self.family.done(now, false);
            self.actions.push_back(Action::TryFamily(family));
        }
    }

    fn has_family(&self, family: Family) -> bool {
        let of_family = |route| matches!(route, Route::Direct(addr) if Family::of(&addr) == family);
        let mut paths = self.paths.values();
        paths.any(|p| p.alive() && of_family(p.route))
    }

    fn look_for_paths(&mut self, now: Instant) {
        if self.needs_punch() && self.punch.start(now) {
            self.actions.push_back(Action::Punch);
        }
        if self.needs_circuit() && self.circuit.start(now) {
            self.actions.push_back(Action::OpenCircuit);
        }
        if !self.needs_standby() {
            return;
        }
        if self.standby.next.is_none() {
            self.standby.next = Some(now + STANDBY_DELAY);
        } else if self.standby.start(now) {
            self.actions.push_back(Action::OpenStandby);
        }
    }

    /// Either side may dial the WebSocket: a server that TCP leads out of, to a client that
    /// it leads in to.
    fn look_for_websocket(&mut self, now: Instant) {
        let Some(since) = self.no_direct_since else {
            return;
        };
        let due = since + websocket_delay(self.role, self.stalled()) <= now;
        let wanted = self.direct_wanted && due && !self.lives(PathState::is_websocket);
        if wanted && self.websocket.start(now) {
            self.actions.push_back(Action::OpenWebSocket);
        }
    }

    fn watch_direct(&mut self, now: Instant) {
        if self.lives(PathState::is_direct) {
            self.no_direct_since = None;
        } else {
            self.no_direct_since.get_or_insert(now);
        }
        let selected = self.selected.and_then(|key| self.paths.get(&key));
        if selected.is_some_and(|p| p.is_direct() && p.alive()) {
            self.direct_selected_since.get_or_insert(now);
        } else {
            self.direct_selected_since = None;
        }
    }

    /// Closes WebSockets that a stable direct path does without.
    fn close_unneeded(&mut self, now: Instant) {
        let stable = self.direct_selected_since;
        if stable.is_none_or(|since| now.saturating_duration_since(since) < WEBSOCKET_HOLD) {
            return;
        }
        for (key, path) in &mut self.paths {
            if path.is_websocket() && !path.closing {
                path.closing = true;
                let close = Action::Close(*key, CloseReason::Unneeded);
                self.actions.push_back(close);
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
#[path = "agent_tests.rs"]
mod tests;
