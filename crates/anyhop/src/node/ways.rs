//! Ways over relays: which are known, and circuits along them.

use std::{sync::Arc, time::Duration};

use anyhop_base::{Endpoint, PeerId};
use anyhop_proto::circuit::RefusalReason;
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
    /// Ways over relays that what is known of a peer tells, those over links first.
    pub(super) fn ways_towards(&self, peer: PeerId, found: &Whereabouts) -> Vec<Via> {
        let mut relays = found.relays.clone();
        relays.retain(|(relay, _)| *relay != self.me && *relay != peer);
        relays.sort_by_key(|(relay, _)| self.link_to(*relay).is_none());
        relays.truncate(MAX_WAYS);
        let via = |(relay, addresses)| Via {
            path: vec![relay],
            addresses,
        };
        relays.into_iter().map(via).collect()
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
            Err(_) => "the circuit stands, but the peer does not answer over it".to_owned(),
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

    /// A new circuit to a peer that has a session already: another path for it. It
    /// crosses none of the relays `in_use`, or else as few as can be had.
    pub(crate) async fn circuit_to(
        self: &Arc<Self>,
        peer: PeerId,
        in_use: &[PeerId],
    ) -> Result<LocalCircuit, String> {
        let mut found = self.whereabouts(peer);
        let mut ways = self.ways_towards(peer, &found);
        ways.retain(|via| !via.crosses(in_use));
        if ways.is_empty() {
            self.look_up(peer, &mut found).await;
            ways = self.ways_towards(peer, &found);
            ways.retain(|via| !via.crosses(in_use));
        }
        let mut reasons = Vec::new();
        if let Some(circuit) = self.first_circuit(peer, ways, &mut reasons).await {
            return Ok(circuit);
        }
        // The whole set first; when there is no way around it, around one of them.
        let mut avoid = vec![in_use];
        if in_use.len() > 1 {
            avoid.extend(in_use.chunks(1));
        }
        for avoid in avoid {
            match self.search(peer, avoid, |_| {}).await {
                Ok(way) => {
                    let ways = Via::found(way.path).into_iter().collect();
                    if let Some(circuit) = self.first_circuit(peer, ways, &mut reasons).await {
                        return Ok(circuit);
                    }
                }
                Err(report) => reasons.push(report.reason.to_string()),
            }
        }
        Err(reasons.join("; "))
    }

    /// Opens circuits along several ways, staggered; the first that stands wins. A relay
    /// that has just died does not answer: the next one must not wait for it.
    async fn first_circuit(
        self: &Arc<Self>,
        peer: PeerId,
        ways: Vec<Via>,
        reasons: &mut Vec<String>,
    ) -> Option<LocalCircuit> {
        let mut tries = JoinSet::new();
        for (via, nth) in ways.into_iter().zip(0..) {
            let node = Arc::clone(self);
            tries.spawn(async move {
                sleep(STAGGER * nth).await;
                let attempt = node.circuit_attempt(peer, &via);
                let tried = node.circuit_via(peer, &via).await;
                attempt.end(&tried);
                tried
            });
        }
        while let Some(tried) = tries.join_next().await {
            match tried {
                Ok(Ok(circuit)) => return Some(circuit),
                Ok(Err(failure)) => reasons.push(failure.reason),
                Err(_) => {}
            }
        }
        None
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
