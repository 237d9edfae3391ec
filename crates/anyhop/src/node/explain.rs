//! Gathers what this node knows of the ways to a peer.

use std::time::Duration;

use anyhop_base::{Endpoint, PeerId};

use super::{Inner, Node};
use crate::{
    CandidateInfo, CandidateLists, CandidateSource, DialFailure, Explanation, PathKind, PeerState,
    explain::Facts, session::PathTable,
};

impl Node {
    /// Why a peer is reached as it is, or why it is not: paths, candidates, attempts, and
    /// a sentence that sums them up. Nothing is dialled for it.
    #[must_use]
    pub fn explain(&self, peer: PeerId) -> Explanation {
        let node = &self.0;
        let table = node.current(peer).map(|c| c.paths.borrow().clone());
        let dialling = node.is_dialling(peer);
        let error = node.attempts.dial_error(peer);
        let mut explanation = Explanation {
            peer_id: peer.to_string(),
            state: state(table.as_ref(), dialling),
            selected: None,
            paths: table.map(|t| t.paths).unwrap_or_default(),
            candidates: CandidateLists {
                ours: node.our_candidates(),
                theirs: node.candidates_of(peer),
            },
            attempts: self.attempts(peer),
            next: self.next_attempts(peer).into_iter().next(),
            last_error: error.as_ref().map(|(at, e)| DialFailure {
                error: e.to_string(),
                ms_ago: millis(at.elapsed()),
            }),
            verdict: String::new(),
        };
        let selected = explanation.paths.iter().find(|p| p.selected);
        explanation.selected = selected.cloned();
        explanation.verdict = explanation.verdict(&Facts {
            nat: &node.nat_status(),
            direct_paths: node.config.direct_paths,
            error: error.as_ref().map(|(_, e)| e),
        });
        explanation
    }
}

fn state(table: Option<&PathTable>, dialling: bool) -> PeerState {
    let Some(table) = table else {
        return match dialling {
            true => PeerState::Connecting,
            false => PeerState::NotConnected,
        };
    };
    match table.paths.iter().find(|p| p.selected).map(|p| p.kind) {
        _ if table.stalled => PeerState::Stalled,
        Some(PathKind::Direct) => PeerState::Direct,
        Some(PathKind::Circuit) => PeerState::Relayed,
        None => PeerState::Stalled,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn candidate(address: String, source: CandidateSource, unusable: &str) -> CandidateInfo {
    CandidateInfo {
        address,
        source,
        unusable: unusable.to_owned(),
    }
}

impl Inner {
    fn our_candidates(&self) -> Vec<CandidateInfo> {
        let of = |source| move |address: String| candidate(address, source, "");
        let observed = self.observed_addrs();
        let interfaces = self.listen_addrs();
        let mut all: Vec<_> = observed
            .iter()
            .map(|a| of(CandidateSource::Observed)(a.to_string()))
            .collect();
        for addr in interfaces.iter().filter(|a| !observed.contains(a)) {
            all.push(of(CandidateSource::Interface)(addr.to_string()));
        }
        let mappings = self.nat_status().mappings.into_iter();
        all.extend(mappings.map(|m| of(CandidateSource::Mapping)(m.external)));
        let websockets = self.websocket_endpoints().into_iter();
        all.extend(websockets.map(|e| of(CandidateSource::Interface)(e.to_string())));
        let attachments: Vec<_> = self.book().attachments().collect();
        let relays = attachments.iter().map(ToString::to_string);
        all.extend(relays.map(of(CandidateSource::Relay)));
        all
    }

    fn candidates_of(&self, peer: PeerId) -> Vec<CandidateInfo> {
        let found = self.whereabouts(peer);
        let mut all: Vec<_> = found
            .direct
            .iter()
            .map(|e| candidate(e.to_string(), CandidateSource::Given, self.no_way(e, false)))
            .collect();
        for endpoint in found.told.iter().filter(|e| !found.direct.contains(e)) {
            let unusable = self.no_way(endpoint, true);
            let source = CandidateSource::Record;
            all.push(candidate(endpoint.to_string(), source, unusable));
        }
        for (relay, _) in &found.relays {
            let unusable = if *relay == self.me {
                "that is this node"
            } else {
                ""
            };
            all.push(candidate(
                relay.to_string(),
                CandidateSource::Relay,
                unusable,
            ));
        }
        all
    }

    /// Why an endpoint is not tried from here, if it is not.
    fn no_way(&self, endpoint: &Endpoint, told: bool) -> &'static str {
        let addr = endpoint.addr();
        if !self.can_reach(endpoint) {
            return match addr.is_ipv4() {
                true => "this node has no IPv4 socket",
                false => "this node has no IPv6 socket",
            };
        }
        if told && !self.is_near_or_public(&addr) {
            return "a private address in a network that this node is not in";
        }
        ""
    }
}
