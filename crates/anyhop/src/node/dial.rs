//! Reaching a peer: every known way is tried, staggered, and the first that works is
//! the session's first path. Better paths are found afterwards, by the session.
//!
//! **Start**: what is known of the peer is tried at once, direct addresses with a head
//! start over circuits. **Going on**: when that is not enough, connected peers are asked
//! for its record, and then a way is searched over the links. What comes back joins the
//! race. **Failure**: every way has failed and the search has ended, or the time is over;
//! the error tells what was tried, and how far the search went.

use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhop_base::{Endpoint, PeerId};
use anyhop_proto::route::{EndReason, Report};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Inner,
    find::Way,
    private::NEW_KEY,
    protocols,
    records::Whereabouts,
    ways::{STAGGER, Via},
    websocket::MAX_ENDPOINTS,
};
use crate::{
    Attempt, DialError, Technique,
    circuit::LocalCircuit,
    engine::{Code, ConnectError, Connection, close},
    session::Conn,
};

/// Direct addresses tried at once.
const MAX_DIRECT: usize = 8;
/// Ways tried in one dial.
const MAX_TRIED: usize = 24;
/// Head start of direct addresses over circuits, for a peer that says it is public.
const CIRCUIT_DELAY: Duration = Duration::from_millis(250);
/// Head start of UDP over WebSockets, which serve where UDP does not get through.
const WEBSOCKET_DELAY: Duration = Duration::from_millis(500);
/// How long one address may take to complete the handshake.
const DIRECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long known ways and lookups are waited for before a way is searched.
const SEARCH_DELAY: Duration = Duration::from_secs(1);
/// Searches in one dial: again when the way that one found did not hold.
const MAX_SEARCHES: u32 = 3;
/// How long a dial waits for the first bootstrap peer.
const BOOTSTRAP_WAIT: Duration = Duration::from_secs(5);

type Outcome = Option<Result<Arc<Conn>, DialError>>;

/// Dials in progress, one for each peer.
pub(super) type Dials = HashMap<PeerId, watch::Receiver<Outcome>>;

/// A way that led to a connection, or its failure.
type Tried = Result<(Connection, Option<LocalCircuit>), Failure>;

#[derive(Debug)]
struct Failure {
    way: String,
    reason: String,
    impostor: Option<(PeerId, Endpoint)>,
    /// The relay at fault.
    blame: Option<PeerId>,
}

impl AsRef<str> for Failure {
    fn as_ref(&self) -> &str {
        &self.reason
    }
}

impl Inner {
    /// The connection to a peer, dialled if there is none that works.
    pub(crate) async fn connect(self: &Arc<Self>, peer: PeerId) -> Result<Arc<Conn>, DialError> {
        if peer == self.me {
            return Err(DialError::Myself(peer));
        }
        if let Some(conn) = self.working(peer) {
            return Ok(conn);
        }
        self.check_session_limit(peer)?;
        let mut dial = self.join_dial(peer);
        match dial.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().expect("waited for an outcome"),
            Err(_) => Err(DialError::Closed(peer)),
        }
    }

    /// The connection to a peer that is dialled again and again: over what is known and
    /// what others know, without a search, which would flood the nodes around each time.
    pub(super) async fn connect_quietly(
        self: &Arc<Self>,
        peer: PeerId,
    ) -> Result<Arc<Conn>, DialError> {
        if let Some(conn) = self.working(peer) {
            return Ok(conn);
        }
        self.check_session_limit(peer)?;
        let mut race = Race::new(Arc::clone(self), peer);
        race.may_search = false;
        let outcome = race.run_in_time(self.whereabouts(peer)).await;
        self.attempts.dialled(peer, outcome.as_ref().err());
        outcome
    }

    /// A session that answers. One whose paths are all dead is dialled over.
    fn working(&self, peer: PeerId) -> Option<Arc<Conn>> {
        self.current(peer).filter(|c| !c.paths.borrow().stalled)
    }

    pub(super) fn is_dialling(&self, peer: PeerId) -> bool {
        let dials = self.dials.lock().expect("no holder panics");
        dials.contains_key(&peer)
    }

    /// The dial in progress, or a new one.
    fn join_dial(self: &Arc<Self>, peer: PeerId) -> watch::Receiver<Outcome> {
        let mut dials = self.dials.lock().expect("no holder panics");
        if let Some(dial) = dials.get(&peer) {
            return dial.clone();
        }
        let (sender, dial) = watch::channel(None);
        dials.insert(peer, dial.clone());
        drop(dials);
        let node = Arc::clone(self);
        self.spawn(async move {
            let outcome = node.dial(peer).await;
            node.attempts.dialled(peer, outcome.as_ref().err());
            node.dials.lock().expect("no holder panics").remove(&peer);
            sender.send_replace(Some(outcome));
        });
        dial
    }

    async fn dial(self: &Arc<Self>, peer: PeerId) -> Result<Arc<Conn>, DialError> {
        let found = self.whereabouts(peer);
        if found.is_empty() {
            // Without a bootstrap peer there is just nobody to ask.
            let _ = timeout(BOOTSTRAP_WAIT, self.bootstrapped()).await;
        }
        let race = Race::new(Arc::clone(self), peer);
        match race.run_in_time(found).await {
            Err(e) if brought_new_key(&e) => {
                let race = Race::new(Arc::clone(self), peer);
                race.run_in_time(self.whereabouts(peer)).await
            }
            outcome => outcome,
        }
    }

    /// Says hello on the connection that won and makes it live.
    async fn finish_dial(
        self: &Arc<Self>,
        quic: Connection,
        peer: PeerId,
        circuit: Option<LocalCircuit>,
    ) -> Result<Arc<Conn>, Failure> {
        let lost = |reason: String| Failure {
            way: "hello".to_owned(),
            reason,
            impostor: None,
            blame: None,
        };
        if let Err(e) = self.check_session_limit(peer) {
            quic.close(Code::from_u32(close::TOO_MANY_SESSIONS), b"");
            return Err(lost(e.to_string()));
        }
        self.admit_dialled(&quic, peer)
            .await
            .map_err(|why| Failure {
                way: "admission".to_owned(),
                ..lost(why)
            })?;
        // Before anybody else can open a stream: the peer takes the first one for the hello.
        let told = self.say_hello(&quic).await.map_err(lost)?;
        let conn = self
            .adopt(quic, peer, circuit)
            .ok_or_else(|| lost("the connection ended at once".to_owned()))?;
        if self.own_record() != told {
            // It changed before the session was there to be told of that.
            let again = self.tell_record(&conn, protocols::RECORD).await;
            again.map_err(|e| lost(e.to_string()))?;
        }
        Ok(conn)
    }

    async fn try_direct(&self, peer: PeerId, endpoint: Endpoint) -> Tried {
        let failure = |reason: String, impostor: Option<PeerId>| Failure {
            way: format!("direct {endpoint}"),
            reason,
            impostor: impostor.map(|actual| (actual, endpoint)),
            blame: None,
        };
        let attempt = match endpoint {
            Endpoint::Udp(addr) => self.attempts.begin(
                peer,
                self.dial_technique(&addr),
                self.local_towards(&addr),
                addr.to_string(),
            ),
            Endpoint::Ws { addr, tls } => self.websocket_attempt(peer, addr, tls),
        };
        let tried = match timeout(DIRECT_TIMEOUT, self.handshake_at(peer, endpoint)).await {
            Ok(Ok(quic)) => Ok((quic, None)),
            Ok(Err(ConnectError::WrongPeer(actual))) => {
                Err(failure(format!("{actual} answered there"), Some(actual)))
            }
            Ok(Err(ConnectError::Refused(why) | ConnectError::Failed(why))) => {
                Err(failure(why, None))
            }
            Err(_) => Err(failure(self.engine.silence("no answer"), None)),
        };
        attempt.end(&tried);
        tried
    }

    pub(super) async fn handshake_at(
        &self,
        peer: PeerId,
        endpoint: Endpoint,
    ) -> Result<Connection, ConnectError> {
        match endpoint {
            Endpoint::Udp(addr) => self.engine.connect(addr, peer).await,
            Endpoint::Ws { addr, tls } => {
                // Its session's driver holds it from then on.
                let held = self.open_websocket(peer, addr, tls).await;
                let held = held.map_err(ConnectError::Failed)?;
                self.engine.connect(held.address(), peer).await
            }
        }
    }

    /// What dialling an address is called.
    fn dial_technique(&self, addr: &SocketAddr) -> Technique {
        if self.is_lan(addr) {
            Technique::Lan
        } else {
            Technique::Dial
        }
    }

    /// A link to a peer over a direct path only: what circuits are built on. Boxed,
    /// since a dial over a circuit dials its relay.
    pub(super) fn connect_direct<'a>(
        self: &'a Arc<Self>,
        peer: PeerId,
        addresses: &'a [Endpoint],
    ) -> Pin<Box<dyn Future<Output = Result<Arc<Conn>, DialError>> + Send + 'a>> {
        Box::pin(self.dial_direct(peer, addresses))
    }

    async fn dial_direct(
        self: &Arc<Self>,
        peer: PeerId,
        addresses: &[Endpoint],
    ) -> Result<Arc<Conn>, DialError> {
        if let Some(link) = self.link_to(peer) {
            return Ok(link);
        }
        self.check_session_limit(peer)?;
        let mut found = self.whereabouts(peer);
        for addr in addresses {
            if !found.direct.contains(addr) {
                found.direct.insert(0, *addr);
            }
        }
        if found.is_empty() {
            return Err(DialError::Unknown { peer, asked: 0 });
        }
        let mut race = Race::new(Arc::clone(self), peer);
        let limit = self.config.dial_timeout;
        if let Ok(Some(conn)) = timeout(limit, race.run_direct(&found)).await {
            return Ok(conn);
        }
        let attempts = race.attempts();
        Err(DialError::Unreachable { peer, attempts })
    }

    /// Addresses to try, in the order to try them: those told by hand, then the peer's own
    /// that make sense from here. Among each, the families take turns.
    pub(super) fn direct_addresses(&self, found: &Whereabouts) -> Vec<Endpoint> {
        let by_hand = found.direct.iter().copied();
        let by_hand: Vec<_> = by_hand.filter(|e| self.can_reach(e)).collect();
        let told = found.told.iter().copied();
        let told: Vec<_> = told
            .filter(|e| self.can_reach(e) && self.is_near_or_public(&e.addr()))
            .filter(|e| !by_hand.contains(e))
            .collect();
        let mut direct = self.in_turns(by_hand);
        direct.extend(self.in_turns(told));
        direct
    }
}

/// Whether a dial failed because this node had an old swarm key, and brought the new one.
fn brought_new_key(error: &DialError) -> bool {
    match error {
        DialError::NoRoute { attempts, .. } | DialError::Unreachable { attempts, .. } => {
            attempts.iter().any(|a| a.reason == NEW_KEY)
        }
        _ => false,
    }
}

/// What a job of a dial brought.
enum Step {
    Tried(Tried),
    /// How many peers were asked for the record, and what they told.
    LookedUp(usize, Whereabouts),
    Searched(Result<Way, Report>),
}

/// One dial: the ways that are tried and the ways to learn of more.
struct Race {
    node: Arc<Inner>,
    peer: PeerId,
    jobs: JoinSet<Step>,
    direct: Vec<Endpoint>,
    ways: Vec<Via>,
    failures: Vec<Failure>,
    /// Peers asked for the record; `None` before that.
    asked: Option<usize>,
    may_search: bool,
    searches: u32,
    search_running: bool,
    avoid: Vec<PeerId>,
    /// How far the search has come.
    report: Arc<Mutex<Option<Report>>>,
}

impl Race {
    fn new(node: Arc<Inner>, peer: PeerId) -> Self {
        Self {
            node,
            peer,
            jobs: JoinSet::new(),
            direct: Vec::new(),
            ways: Vec::new(),
            failures: Vec::new(),
            asked: None,
            may_search: true,
            searches: 0,
            search_running: false,
            avoid: Vec::new(),
            report: Arc::default(),
        }
    }

    async fn run_in_time(mut self, found: Whereabouts) -> Result<Arc<Conn>, DialError> {
        let limit = self.node.config.dial_timeout;
        match timeout(limit, self.run(found)).await {
            Ok(Some(conn)) => Ok(conn),
            Ok(None) | Err(_) => Err(self.explain()),
        }
    }

    /// Tries everything; `None` when all has failed.
    async fn run(&mut self, found: Whereabouts) -> Option<Arc<Conn>> {
        let direct_known = !found.direct.is_empty() || !found.told.is_empty();
        let direct_is_enough =
            direct_known && (self.node.is_pinned(self.peer) || !found.behind_nat);
        let no_relay = found.relays.is_empty();
        self.try_all(&found);
        if no_relay && !direct_is_enough {
            self.look_up();
        }
        let search_at = Instant::now() + SEARCH_DELAY;
        loop {
            // The peer may have reached us first: that is a session too.
            if let Some(conn) = self.node.working(self.peer) {
                return Some(conn);
            }
            if self.jobs.is_empty() && !self.go_on() {
                return None;
            }
            let due = self.may_search && self.searches == 0;
            tokio::select! {
                Some(Ok(step)) = self.jobs.join_next() => {
                    if let Some(conn) = self.handle(step).await {
                        return Some(conn);
                    }
                }
                () = sleep_until(search_at), if due => self.search(),
            }
        }
    }

    /// Tries direct addresses only.
    async fn run_direct(&mut self, found: &Whereabouts) -> Option<Arc<Conn>> {
        self.try_direct(found);
        while let Some(step) = self.jobs.join_next().await {
            if let Ok(step) = step
                && let Some(conn) = self.handle(step).await
            {
                return Some(conn);
            }
            if let Some(conn) = self.node.working(self.peer) {
                return Some(conn);
            }
        }
        None
    }

    /// Everything known has failed: asks those who may know more. False when that is
    /// done, too.
    fn go_on(&mut self) -> bool {
        if self.asked.is_none() {
            self.look_up();
        } else if self.may_search && self.searches == 0 {
            self.search();
        } else {
            return false;
        }
        true
    }

    async fn handle(&mut self, step: Step) -> Option<Arc<Conn>> {
        match step {
            Step::Tried(Ok((quic, circuit))) => {
                match self.node.finish_dial(quic, self.peer, circuit).await {
                    Ok(conn) => return Some(conn),
                    Err(failure) => self.failed(failure),
                }
            }
            Step::Tried(Err(failure)) => self.failed(failure),
            Step::LookedUp(asked, found) => {
                self.asked = Some(asked);
                self.try_all(&found);
            }
            Step::Searched(Ok(way)) => {
                self.search_running = false;
                let mut found = Whereabouts::default();
                if let Some(record) = &way.record {
                    found.add_record(record);
                }
                let via = Via::found(way.path);
                // Also when it failed before: the search says that it stands now.
                self.ways.retain(|tried| Some(tried) != via.as_ref());
                self.try_ways(via, Duration::ZERO);
                self.try_all(&found);
            }
            Step::Searched(Err(report)) => {
                self.search_running = false;
                *self.report.lock().expect("no holder panics") = Some(report);
            }
        }
        None
    }

    /// A way that a search found and that did not hold is searched around.
    fn failed(&mut self, failure: Failure) {
        let blame = failure.blame;
        self.failures.push(failure);
        if let Some(relay) = blame
            && self.searches > 0
        {
            if !self.avoid.contains(&relay) {
                self.avoid.push(relay);
            }
            self.search();
        }
    }

    fn look_up(&mut self) {
        let (node, peer) = (Arc::clone(&self.node), self.peer);
        self.asked.get_or_insert(0);
        self.jobs.spawn(async move {
            let mut found = Whereabouts::default();
            let asked = node.look_up(peer, &mut found).await;
            Step::LookedUp(asked, found)
        });
    }

    fn search(&mut self) {
        if self.search_running || self.searches >= MAX_SEARCHES {
            return;
        }
        self.searches += 1;
        self.search_running = true;
        let (node, peer) = (Arc::clone(&self.node), self.peer);
        let (avoid, report) = (self.avoid.clone(), Arc::clone(&self.report));
        self.jobs.spawn(async move {
            let progress = |so_far: &Report| {
                *report.lock().expect("no holder panics") = Some(so_far.clone());
            };
            Step::Searched(node.search(peer, &avoid, progress).await)
        });
    }

    fn try_all(&mut self, found: &Whereabouts) {
        let head_start = if self.try_direct(found) && !found.behind_nat {
            CIRCUIT_DELAY
        } else {
            Duration::ZERO
        };
        self.try_ways(self.node.ways_towards(self.peer, found), head_start);
    }

    /// Whether there was an address to try.
    fn try_direct(&mut self, found: &Whereabouts) -> bool {
        let mut direct = self.node.direct_addresses(found);
        direct.retain(|addr| !self.direct.contains(addr));
        let (mut udp, mut websockets): (Vec<_>, Vec<_>) =
            direct.into_iter().partition(|addr| addr.udp().is_some());
        udp.truncate(MAX_DIRECT);
        websockets.truncate(MAX_ENDPOINTS);
        let head_start = if udp.is_empty() {
            Duration::ZERO
        } else {
            WEBSOCKET_DELAY
        };
        let delayed = |addrs: Vec<Endpoint>, head_start: Duration| {
            let delays = (0..).map(move |nth| head_start + STAGGER * nth);
            addrs.into_iter().zip(delays)
        };
        let mut direct: Vec<_> = delayed(udp, Duration::ZERO)
            .chain(delayed(websockets, head_start))
            .collect();
        direct.truncate(MAX_TRIED.saturating_sub(self.direct.len()));
        for (addr, delay) in direct.iter().copied() {
            let (node, peer) = (Arc::clone(&self.node), self.peer);
            self.jobs.spawn(async move {
                sleep(delay).await;
                Step::Tried(node.try_direct(peer, addr).await)
            });
        }
        self.direct.extend(direct.iter().map(|(addr, _)| addr));
        !direct.is_empty()
    }

    fn try_ways(&mut self, ways: impl IntoIterator<Item = Via>, mut delay: Duration) {
        for via in ways {
            if self.ways.contains(&via) || self.ways.len() >= MAX_TRIED {
                continue;
            }
            self.ways.push(via.clone());
            let (node, peer) = (Arc::clone(&self.node), self.peer);
            self.jobs.spawn(async move {
                sleep(delay).await;
                let tried = node.handshake_via(peer, &via).await;
                Step::Tried(match tried {
                    Ok((quic, circuit)) => Ok((quic, Some(circuit))),
                    Err(failure) => Err(Failure {
                        way: format!("circuit via {}", via.name()),
                        reason: failure.reason,
                        impostor: None,
                        blame: failure.blame,
                    }),
                })
            });
            delay += STAGGER;
        }
    }

    fn attempts(&mut self) -> Vec<Attempt> {
        let failures = std::mem::take(&mut self.failures).into_iter();
        let attempt = |f: Failure| Attempt {
            way: f.way,
            reason: f.reason,
        };
        failures.map(attempt).collect()
    }

    /// Why there is no connection.
    fn explain(mut self) -> DialError {
        let peer = self.peer;
        let impostor = self.failures.iter().find_map(|f| f.impostor);
        if let (Some((actual, addr)), 1) = (impostor, self.failures.len()) {
            return DialError::WrongPeer {
                expected: peer,
                actual,
                addr,
            };
        }
        let attempts = self.attempts();
        let report = self.report.lock().expect("no holder panics").take();
        let (asked, no_search) = (self.asked.unwrap_or(0), Report::default());
        let report = report.unwrap_or(no_search);
        if !self.may_search && !attempts.is_empty() {
            return DialError::Unreachable { peer, attempts };
        }
        if attempts.is_empty() && (!self.may_search || report.reason == EndReason::NoNeighbours) {
            return DialError::Unknown { peer, asked };
        }
        DialError::NoRoute {
            peer,
            attempts,
            asked: report.asked,
            reached: report.reached as usize,
            hops: report.hop_limit as usize,
            reason: report.reason,
            refused: report.refusals.into_iter().map(Into::into).collect(),
        }
    }
}
