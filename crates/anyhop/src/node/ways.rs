//! Ways over relays: which are known, and circuits along them.

use std::{sync::Arc, time::Duration};

use anyhop_base::{Endpoint, PeerId};
use anyhop_proto::{
    circuit::RefusalReason,
    route::{KnownNode, needed, plan},
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Attempting, Inner, records::Whereabouts};
use crate::{
    Technique,
    circuit::{self, LocalCircuit, OpenError},
    engine::{ConnectError, Connection},
};

/// Ways over relays tried at once.
const MAX_WAYS: usize = 4;
/// Head start of each way over the next.
pub(super) const STAGGER: Duration = Duration::from_millis(100);
/// Head start of known ways over the search for others.
const SEARCH_DELAY: Duration = Duration::from_millis(300);
/// Relays of a way in use that a second way is searched around one by one.
const MAX_APART: usize = 4;
/// How long the peer may take for the handshake over a circuit that stands.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(4);

/// A chain of relays towards a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Via {
    /// The relays to cross, nearest first; never empty.
    pub(super) path: Vec<PeerId>,
    /// Where the first one may be dialled, should there be no link to it.
    pub(super) addresses: Vec<Endpoint>,
}

impl Via {
    /// A way as a search found it; `None` when the peer is a neighbour itself.
    pub(super) fn found(path: Vec<PeerId>) -> Option<Self> {
        (!path.is_empty()).then_some(Self {
            path,
            addresses: Vec::new(),
        })
    }

    /// Its relays as people read them.
    pub(super) fn name(&self) -> String {
        let relays: Vec<_> = self.path.iter().map(ToString::to_string).collect();
        relays.join(", ")
    }

    fn crosses(&self, peers: &[PeerId]) -> bool {
        self.path.iter().any(|relay| peers.contains(relay))
    }
}

/// Why a way did not lead to the peer.
#[derive(Debug)]
pub(super) struct WayFailure {
    pub(super) reason: String,
    /// The relay at fault, to be kept off in the next search.
    pub(super) blame: Option<PeerId>,
}

impl AsRef<str> for WayFailure {
    fn as_ref(&self) -> &str {
        &self.reason
    }
}

impl Inner {
    /// Ways over relays that what is known of a peer tells: over one relay that is linked,
    /// over one that may be dialled, then over several.
    pub(super) fn ways_towards(&self, peer: PeerId, found: &Whereabouts) -> Vec<Via> {
        let links = self.own_links();
        let known = self.known_nodes(peer, found);
        let via = |(path, addresses)| Via { path, addresses };
        let planned = plan(self.me, peer, &links, &known, &[]).into_iter();
        let mut ways: Vec<Via> = planned.map(|path| via((path, Vec::new()))).collect();
        for (relay, addresses) in &found.relays {
            let linked = links.iter().any(|l| l.peer == *relay);
            if *relay != self.me && *relay != peer && !linked {
                ways.push(via((vec![*relay], addresses.clone())));
            }
        }
        ways.sort_by_key(|via| via.path.len());
        ways.truncate(MAX_WAYS);
        ways
    }

    /// What records tell of the relays around a peer and around this node.
    fn known_nodes(&self, peer: PeerId, found: &Whereabouts) -> Vec<KnownNode> {
        let mut peers = self.linked_peers();
        let (now, book) = (self.now_unix_s(), self.book());
        let attachments = |of: PeerId| match of {
            of if of == peer => found.relays.iter().map(|(relay, _)| *relay).collect(),
            of => book.attachments_of(of, now),
        };
        peers.extend(needed(peer, attachments));
        peers.push(peer);
        peers.sort_unstable();
        peers.dedup();
        let known = |peer: PeerId| KnownNode {
            peer,
            attachments: attachments(peer),
            relays: book.may_relay(peer),
        };
        peers.into_iter().map(known).collect()
    }

    /// Handshakes with a peer over a new circuit.
    pub(super) async fn handshake_via(
        self: &Arc<Self>,
        peer: PeerId,
        via: &Via,
    ) -> Result<(Connection, LocalCircuit), WayFailure> {
        let attempt = self.circuit_attempt(peer, via);
        let tried = self.try_handshake(peer, via).await;
        attempt.end(&tried);
        tried
    }

    async fn try_handshake(
        self: &Arc<Self>,
        peer: PeerId,
        via: &Via,
    ) -> Result<(Connection, LocalCircuit), WayFailure> {
        let circuit = self.circuit_via(peer, via).await?;
        let shaken = self.engine.connect(circuit.id.address(), peer);
        let reason = match timeout(HANDSHAKE_TIMEOUT, shaken).await {
            Ok(Ok(quic)) => return Ok((quic, circuit)),
            Ok(Err(ConnectError::WrongPeer(actual))) => format!("{actual} answered there"),
            Ok(Err(ConnectError::Refused(why) | ConnectError::Failed(why))) => why,
            Err(_) => self
                .engine
                .silence("the circuit stands, but the peer does not answer over it"),
        };
        // Whoever says that it is the peer's neighbour carries nothing there.
        let blame = via.path.last().copied();
        Err(WayFailure { reason, blame })
    }

    fn circuit_attempt(&self, peer: PeerId, via: &Via) -> Attempting {
        let (technique, local) = (Technique::Circuit, "any".to_owned());
        self.attempts.begin(peer, technique, local, via.name())
    }

    async fn circuit_via(
        self: &Arc<Self>,
        peer: PeerId,
        via: &Via,
    ) -> Result<LocalCircuit, WayFailure> {
        let first = via.path[0];
        let link = match self.link_to(first) {
            Some(link) => Ok(link),
            None => self.connect_direct(first, &via.addresses).await,
        };
        let link = link.map_err(|e| WayFailure {
            reason: e.to_string(),
            blame: Some(first),
        })?;
        let opened = circuit::open(self, &link, &via.path[1..], peer).await;
        opened.map_err(|error| WayFailure {
            reason: error.to_string(),
            blame: blame(via, &error),
        })
    }

    /// A new circuit to a peer that has a session already: another path for it.
    pub(crate) async fn circuit_to(
        self: &Arc<Self>,
        peer: PeerId,
        apart: Apart,
    ) -> Result<LocalCircuit, String> {
        let mut found = self.whereabouts(peer);
        let mut ways = self.ways_apart(peer, &found, &apart);
        if ways.is_empty() {
            self.look_up(peer, &mut found).await;
            ways = self.ways_apart(peer, &found, &apart);
        }
        let mut tries = JoinSet::new();
        for (via, nth) in ways.into_iter().zip(0..) {
            let node = Arc::clone(self);
            tries.spawn(async move {
                sleep(STAGGER * nth).await;
                node.try_circuit(peer, &via).await
            });
        }
        // A relay that has just died does not answer: nothing waits for it.
        let node = Arc::clone(self);
        let head_start = SEARCH_DELAY * u32::from(!tries.is_empty());
        tries.spawn(async move {
            sleep(head_start).await;
            node.searched_circuit(peer, apart.searches()).await
        });
        let mut reasons = Vec::new();
        while let Some(tried) = tries.join_next().await {
            match tried {
                Ok(Ok(circuit)) => return Ok(circuit),
                Ok(Err(failure)) => reasons.push(failure.reason),
                Err(_) => {}
            }
        }
        Err(reasons.join("; "))
    }

    fn ways_apart(&self, peer: PeerId, found: &Whereabouts, apart: &Apart) -> Vec<Via> {
        let mut ways = self.ways_towards(peer, found);
        match apart {
            Apart::IfPossible(relays) => ways.sort_by_key(|via| via.crosses(relays)),
            Apart::FromOne(relays) => ways.retain(|via| !via.crosses(relays)),
        }
        ways
    }

    /// A circuit along the first way that a search finds, each search keeping off others.
    async fn searched_circuit(
        self: &Arc<Self>,
        peer: PeerId,
        searches: Vec<Vec<PeerId>>,
    ) -> Result<LocalCircuit, WayFailure> {
        let mut reason = String::new();
        for avoid in searches {
            match self.search(peer, &avoid, |_| {}).await {
                Ok(way) => {
                    let Some(via) = Via::found(way.path) else {
                        continue;
                    };
                    match self.try_circuit(peer, &via).await {
                        Ok(circuit) => return Ok(circuit),
                        Err(failure) => reason = failure.reason,
                    }
                }
                Err(report) => reason = format!("no other way over relays: {}", report.reason),
            }
        }
        let blame = None;
        Err(WayFailure { reason, blame })
    }

    async fn try_circuit(
        self: &Arc<Self>,
        peer: PeerId,
        via: &Via,
    ) -> Result<LocalCircuit, WayFailure> {
        let attempt = self.circuit_attempt(peer, via);
        let tried = self.circuit_via(peer, via).await;
        attempt.end(&tried);
        tried
    }
}

/// Which relays a further circuit should not cross: those of the circuits that are there.
#[derive(Debug)]
pub(crate) enum Apart {
    /// None of them if there is another way, else whatever way there is.
    IfPossible(Vec<PeerId>),
    /// None of them, or at least not one of them: another way than the one in use.
    FromOne(Vec<PeerId>),
}

impl Apart {
    /// What each search keeps off, in order.
    fn searches(self) -> Vec<Vec<PeerId>> {
        match self {
            Self::IfPossible(relays) if relays.is_empty() => vec![relays],
            Self::IfPossible(relays) => vec![relays, Vec::new()],
            Self::FromOne(relays) => {
                let one_each: Vec<_> = match &relays[..] {
                    [] | [_] => Vec::new(),
                    several => several.iter().take(MAX_APART).map(|r| vec![*r]).collect(),
                };
                std::iter::once(relays).chain(one_each).collect()
            }
        }
    }
}

/// Which relay of a way is at fault for a circuit that was not opened.
fn blame(via: &Via, error: &OpenError) -> Option<PeerId> {
    let OpenError::Refused(refusal) = error else {
        return via.path.first().copied();
    };
    let at = via.path.iter().position(|relay| *relay == refusal.by)?;
    match refusal.reason {
        // The one behind it is gone; at the end of the way, it claimed what is not so.
        RefusalReason::NoLink | RefusalReason::NextFailed => {
            Some(*via.path.get(at + 1).unwrap_or(&refusal.by))
        }
        _ => Some(refusal.by),
    }
}
