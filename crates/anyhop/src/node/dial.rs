//! Reaching a peer: every known way is tried, staggered, and the first that works is
//! the session's first path. Better paths are found afterwards, by the session.

use std::{
    collections::HashMap, future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration,
};

use anyhop_base::{Endpoint, PeerId};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Attempting, Inner, protocols, records::Whereabouts};
use crate::{
    Attempt, DialError, Technique,
    circuit::{self, LocalCircuit},
    engine::{Code, ConnectError, Connection, close},
    session::Conn,
};

/// Direct addresses tried in one dial.
const MAX_DIRECT: usize = 8;
/// Relays tried in one dial.
const MAX_RELAYS: usize = 4;
/// Head start of each way over the next (RFC 8305 section 5 suggests 100 to 250 ms).
const STAGGER: Duration = Duration::from_millis(100);
/// Head start of direct addresses over circuits, for a peer that says it is public.
const CIRCUIT_DELAY: Duration = Duration::from_millis(250);
/// How long one address may take to complete the handshake.
const DIRECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a dial waits for the first bootstrap peer.
const BOOTSTRAP_WAIT: Duration = Duration::from_secs(5);

type Outcome = Option<Result<Arc<Conn>, DialError>>;

/// Dials in progress, one for each peer.
pub(super) type Dials = HashMap<PeerId, watch::Receiver<Outcome>>;

/// A way that led to a connection, or its failure.
type Tried = Result<(Connection, Option<LocalCircuit>), Failure>;

struct Failure {
    way: String,
    reason: String,
    impostor: Option<(PeerId, Endpoint)>,
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

    /// A session that answers. One whose paths are all dead is dialled over.
    fn working(&self, peer: PeerId) -> Option<Arc<Conn>> {
        self.current(peer).filter(|c| !c.paths.borrow().stalled)
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
            node.dials.lock().expect("no holder panics").remove(&peer);
            sender.send_replace(Some(outcome));
        });
        dial
    }

    async fn dial(self: &Arc<Self>, peer: PeerId) -> Result<Arc<Conn>, DialError> {
        let mut found = self.whereabouts(peer);
        let mut asked = 0;
        if found.relays.is_empty() {
            asked = self.ask_around(peer, &mut found).await;
        }
        // The peer may have dialled us meanwhile.
        if let Some(conn) = self.working(peer) {
            return Ok(conn);
        }
        if found.is_empty() {
            return Err(DialError::Unknown { peer, asked });
        }
        let first = self.race_in_time(peer, &found).await;
        if first.is_ok() || asked > 0 {
            return first;
        }
        // What was known is stale: somebody may know better.
        let mut fresh = Whereabouts::default();
        let asked = self.look_up(peer, &mut fresh).await;
        if asked == 0 || fresh.is_empty() {
            return first;
        }
        self.race_in_time(peer, &fresh).await
    }

    /// Asks connected peers, first waiting for one if none is there yet. With a direct
    /// address in hand there is nothing to wait for.
    async fn ask_around(self: &Arc<Self>, peer: PeerId, found: &mut Whereabouts) -> usize {
        if !found.direct.is_empty() || !found.told.is_empty() {
            if self.is_pinned(peer) || !found.behind_nat {
                return 0;
            }
        } else {
            // Without a bootstrap peer the lookup just has nobody to ask.
            let _ = timeout(BOOTSTRAP_WAIT, self.bootstrapped()).await;
        }
        self.look_up(peer, found).await
    }

    async fn race_in_time(
        self: &Arc<Self>,
        peer: PeerId,
        found: &Whereabouts,
    ) -> Result<Arc<Conn>, DialError> {
        let mut failures = Vec::new();
        let limit = self.config.dial_timeout;
        match timeout(limit, self.race(peer, found, &mut failures)).await {
            Ok(Some(conn)) => return Ok(conn),
            Ok(None) => {}
            Err(_) => failures.push(Failure {
                way: "every other way".to_owned(),
                reason: format!("no answer within {limit:?}"),
                impostor: None,
            }),
        }
        Err(explain(peer, failures))
    }

    /// Tries every way at once, staggered; the first connection wins. `None` when all
    /// have failed.
    async fn race(
        self: &Arc<Self>,
        peer: PeerId,
        found: &Whereabouts,
        failures: &mut Vec<Failure>,
    ) -> Option<Arc<Conn>> {
        let mut ways = JoinSet::new();
        let mut delay = Duration::ZERO;
        let direct = self.direct_addresses(found);
        let has_direct = !direct.is_empty();
        for addr in direct.into_iter().take(MAX_DIRECT) {
            let node = Arc::clone(self);
            ways.spawn(async move {
                sleep(delay).await;
                node.try_direct(peer, addr).await
            });
            delay += STAGGER;
        }
        let mut delay = if found.behind_nat || !has_direct {
            Duration::ZERO
        } else {
            CIRCUIT_DELAY
        };
        for (relay, addresses) in self.relays_towards(peer, found) {
            let node = Arc::clone(self);
            ways.spawn(async move {
                sleep(delay).await;
                node.try_circuit(peer, relay, &addresses).await
            });
            delay += STAGGER;
        }
        self.first_of(peer, ways, failures).await
    }

    async fn first_of(
        self: &Arc<Self>,
        peer: PeerId,
        mut ways: JoinSet<Tried>,
        failures: &mut Vec<Failure>,
    ) -> Option<Arc<Conn>> {
        while let Some(tried) = ways.join_next().await {
            match tried {
                Ok(Ok((quic, circuit))) => match self.finish_dial(quic, peer, circuit).await {
                    Ok(conn) => return Some(conn),
                    Err(failure) => failures.push(failure),
                },
                Ok(Err(failure)) => failures.push(failure),
                Err(_) => {}
            }
            // The peer reached us first: that is a session too.
            if let Some(conn) = self.working(peer) {
                return Some(conn);
            }
        }
        None
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
        };
        if let Err(e) = self.check_session_limit(peer) {
            quic.close(Code::from_u32(close::TOO_MANY_SESSIONS), b"");
            return Err(lost(e.to_string()));
        }
        let conn = self
            .adopt(quic, peer, circuit)
            .ok_or_else(|| lost("the connection ended at once".to_owned()))?;
        match self.tell_record(&conn, protocols::HELLO).await {
            Ok(()) => Ok(conn),
            Err(e) => Err(lost(e.to_string())),
        }
    }

    async fn try_direct(&self, peer: PeerId, endpoint: Endpoint) -> Tried {
        let failure = |reason: String, impostor: Option<PeerId>| Failure {
            way: format!("direct {endpoint}"),
            reason,
            impostor: impostor.map(|actual| (actual, endpoint)),
        };
        let Endpoint::Udp(addr) = endpoint else {
            return Err(failure("WebSocket is not spoken here".to_owned(), None));
        };
        let attempt = self.attempts.begin(
            peer,
            self.dial_technique(&addr),
            self.local_towards(&addr),
            addr.to_string(),
        );
        let tried = match timeout(DIRECT_TIMEOUT, self.engine.connect(addr, peer)).await {
            Ok(Ok(quic)) => Ok((quic, None)),
            Ok(Err(ConnectError::WrongPeer(actual))) => {
                Err(failure(format!("{actual} answered there"), Some(actual)))
            }
            Ok(Err(ConnectError::Refused(why) | ConnectError::Failed(why))) => {
                Err(failure(why, None))
            }
            Err(_) => Err(failure("no answer".to_owned(), None)),
        };
        attempt.end(&tried);
        tried
    }

    async fn try_circuit(
        self: &Arc<Self>,
        peer: PeerId,
        relay: PeerId,
        addresses: &[Endpoint],
    ) -> Tried {
        let attempt = self.circuit_attempt(peer, relay);
        let tried = self.handshake_over(peer, relay, addresses).await;
        attempt.end(&tried);
        tried
    }

    fn circuit_attempt(&self, peer: PeerId, relay: PeerId) -> Attempting {
        let (technique, local) = (Technique::Circuit, "any".to_owned());
        self.attempts
            .begin(peer, technique, local, relay.to_string())
    }

    async fn handshake_over(
        self: &Arc<Self>,
        peer: PeerId,
        relay: PeerId,
        addresses: &[Endpoint],
    ) -> Tried {
        let failure = |reason: String| Failure {
            way: format!("circuit via {relay}"),
            reason,
            impostor: None,
        };
        let circuit = self.circuit_via(peer, relay, addresses).await;
        let circuit = circuit.map_err(failure)?;
        match self.engine.connect(circuit.id.address(), peer).await {
            Ok(quic) => Ok((quic, Some(circuit))),
            Err(ConnectError::WrongPeer(actual)) => {
                Err(failure(format!("{actual} answered there")))
            }
            Err(ConnectError::Refused(why) | ConnectError::Failed(why)) => Err(failure(why)),
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

    async fn circuit_via(
        self: &Arc<Self>,
        peer: PeerId,
        relay: PeerId,
        addresses: &[Endpoint],
    ) -> Result<LocalCircuit, String> {
        let link = match self.link_to(relay) {
            Some(link) => link,
            None => self
                .connect_direct(relay, addresses)
                .await
                .map_err(|e| e.to_string())?,
        };
        circuit::open(self, &link, &[], peer).await
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
        found.relays.clear();
        for addr in addresses {
            if !found.direct.contains(addr) {
                found.direct.insert(0, *addr);
            }
        }
        if found.is_empty() {
            return Err(DialError::Unknown { peer, asked: 0 });
        }
        self.race_in_time(peer, &found).await
    }

    /// Addresses to try: those told by hand first, then the peer's own that make sense
    /// from here.
    fn direct_addresses(&self, found: &Whereabouts) -> Vec<Endpoint> {
        let mut direct = found.direct.clone();
        direct.retain(|e| self.fabric.can_reach(&e.addr()));
        for addr in &found.told {
            if !direct.contains(addr) && self.may_probe(&addr.addr()) {
                direct.push(*addr);
            }
        }
        direct
    }

    /// Relays that may lead to a peer, those we have links to first.
    fn relays_towards(&self, peer: PeerId, found: &Whereabouts) -> Vec<(PeerId, Vec<Endpoint>)> {
        let mut relays = found.relays.clone();
        relays.retain(|(relay, _)| *relay != self.me && *relay != peer);
        relays.sort_by_key(|(relay, _)| self.link_to(*relay).is_none());
        relays.truncate(MAX_RELAYS);
        relays
    }

    /// A new circuit to a peer that has a session already: another path for it.
    pub(crate) async fn circuit_to(self: &Arc<Self>, peer: PeerId) -> Result<LocalCircuit, String> {
        let mut found = self.whereabouts(peer);
        if self.relays_towards(peer, &found).is_empty() {
            self.look_up(peer, &mut found).await;
        }
        let mut ways = JoinSet::new();
        let mut delay = Duration::ZERO;
        for (relay, addresses) in self.relays_towards(peer, &found) {
            let node = Arc::clone(self);
            ways.spawn(async move {
                sleep(delay).await;
                let attempt = node.circuit_attempt(peer, relay);
                let tried = node.circuit_via(peer, relay, &addresses).await;
                attempt.end(&tried);
                tried
            });
            delay += STAGGER;
        }
        // A relay that has just died does not answer: the next one must not wait for it.
        let mut reasons = Vec::new();
        while let Some(tried) = ways.join_next().await {
            match tried {
                Ok(Ok(circuit)) => return Ok(circuit),
                Ok(Err(reason)) => reasons.push(reason),
                Err(_) => {}
            }
        }
        if reasons.is_empty() {
            reasons.push(format!("no relay towards {peer} is known"));
        }
        Err(reasons.join("; "))
    }
}

fn explain(peer: PeerId, failures: Vec<Failure>) -> DialError {
    let impostor = failures.iter().find_map(|f| f.impostor);
    if let (Some((actual, addr)), 1) = (impostor, failures.len()) {
        return DialError::WrongPeer {
            expected: peer,
            actual,
            addr,
        };
    }
    let attempts = failures.into_iter().map(|f| Attempt {
        way: f.way,
        reason: f.reason,
    });
    DialError::Unreachable {
        peer,
        attempts: attempts.collect(),
    }
}
