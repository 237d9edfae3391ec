//! Why a peer is reached as it is, or is not: the facts in one value, and one sentence
//! that sums them up.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::{
    Attempt, AttemptInfo, AttemptOutcome, Carrier, DialError, NatInfo, NatStatus, NextAttempt,
    PathInfo, PathKind, Technique,
};

/// Failed ways named in a verdict; the attempts have all of them.
const MAX_NAMED: usize = 3;

/// What [`Node::explain`](crate::Node::explain) tells.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Explanation {
    /// The peer, base58.
    pub peer_id: String,
    /// How it is reached now.
    pub state: PeerState,
    /// The path that new data goes over.
    pub selected: Option<PathInfo>,
    /// All open paths, the selected one first.
    pub paths: Vec<PathInfo>,
    /// Where both sides might be reached.
    pub candidates: CandidateLists,
    /// The latest attempts, oldest first.
    pub attempts: Vec<AttemptInfo>,
    /// What is tried next without being asked.
    pub next: Option<NextAttempt>,
    /// Why the latest dial of the peer failed, unless one has succeeded since.
    pub last_error: Option<DialFailure>,
    /// All of this in a sentence.
    pub verdict: String,
}

/// How a peer is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PeerState {
    /// Over a path that is no circuit.
    Direct,
    /// Over other nodes.
    Relayed,
    /// There is a session, and none of its paths answers.
    Stalled,
    /// It is being dialled.
    Connecting,
    /// Not at all.
    NotConnected,
}

/// Addresses and relays of both sides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CandidateLists {
    /// Ours.
    pub ours: Vec<CandidateInfo>,
    /// The peer's, as far as this node knows.
    pub theirs: Vec<CandidateInfo>,
}

/// Where a node might be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CandidateInfo {
    /// An address, or a relay's PeerId.
    pub address: String,
    /// Where it comes from.
    pub source: CandidateSource,
    /// Why it is not tried from here; empty if it is.
    pub unusable: String,
}

/// Where a candidate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CandidateSource {
    /// An interface of the host.
    Interface,
    /// Others see the node there.
    Observed,
    /// A gateway maps it.
    Mapping,
    /// The peer's record tells it.
    Record,
    /// It was given by hand.
    Given,
    /// A relay that the node is attached to.
    Relay,
}

/// A dial that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DialFailure {
    /// Why.
    pub error: String,
    /// When it ended, milliseconds before this was told.
    pub ms_ago: u64,
}

/// What a verdict is made of, besides what the explanation tells.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) nat: &'a NatStatus,
    pub(crate) direct_paths: bool,
    pub(crate) error: Option<&'a DialError>,
}

impl Explanation {
    /// Sums it up.
    pub(crate) fn verdict(&self, facts: &Facts<'_>) -> String {
        let mut verdict = match (self.state, &self.selected) {
            (PeerState::Direct, Some(path)) => self.why_direct(path, facts),
            (PeerState::Relayed, Some(path)) => self.why_relayed(path, facts),
            (PeerState::Connecting, _) => self.while_connecting(),
            (PeerState::NotConnected, _) => self.why_not(facts),
            _ => "There is a session, but none of its paths answers now: the peer or the \
                  networks between may have just gone"
                .to_owned(),
        };
        if let (Some(next), true) = (&self.next, self.state != PeerState::Direct) {
            let _ = match next.in_ms {
                0 => write!(verdict, "; next: {}, now", describe(next.technique)),
                ms => write!(
                    verdict,
                    "; next: {} in {:.1} s",
                    describe(next.technique),
                    ms as f64 / 1000.0
                ),
            };
        }
        verdict.push('.');
        verdict
    }

    fn why_direct(&self, path: &PathInfo, facts: &Facts<'_>) -> String {
        // A WebSocket's attempt names its URL.
        let is_there = |remote: &str| remote.rsplit("//").next() == Some(&path.remote);
        let found = self.attempts.iter().rev().find(|a| {
            a.outcome == AttemptOutcome::Connected
                && a.technique != Technique::Circuit
                && is_there(&a.remote)
        });
        let how = match found {
            Some(attempt) => format!(", found by {}", describe(attempt.technique)),
            None => ", which the peer opened".to_owned(),
        };
        let standby = match self.paths.iter().find(|p| p.kind == PathKind::Circuit) {
            Some(circuit) => format!("; a circuit via {} stands by", relays(circuit)),
            None => String::new(),
        };
        let no_udp = match path.carrier {
            Carrier::Ws => self.came_to_nothing("UDP", path, facts),
            _ => None,
        };
        let no_udp = no_udp.map_or_else(String::new, |why| format!("; {why}"));
        format!(
            "Reached directly at {} over {}{how}{no_udp}{standby}",
            path.remote,
            carrier(path.carrier)
        )
    }

    fn why_relayed(&self, path: &PathInfo, facts: &Facts<'_>) -> String {
        let via = format!("Reached through {}", relays(path));
        if !facts.direct_paths {
            return format!("{via}: this node was told not to look for direct paths");
        }
        if let Some(why) = self.no_common_ground() {
            return format!("{via}: {why}");
        }
        if let Some(running) = self.running(|a| a.technique != Technique::Circuit) {
            let seconds = running.took_ms as f64 / 1000.0;
            let what = describe(running.technique);
            return format!("{via}: {what} has been running for {seconds:.1} s");
        }
        match self.came_to_nothing("a direct path", path, facts) {
            Some(why) => format!("{via}: {why}"),
            None => format!("{via}: no direct path has been tried yet"),
        }
    }

    /// Why there is nothing to try: no address of the peer is of use from here.
    fn no_common_ground(&self) -> Option<String> {
        let theirs = self.candidates.theirs.iter();
        let mut addresses = theirs.filter(|c| c.source != CandidateSource::Relay);
        let first = addresses.clone().next()?;
        let all_unusable = addresses.all(|c| !c.unusable.is_empty());
        all_unusable.then(|| {
            format!(
                "none of the peer's addresses can be tried from here ({}: {})",
                first.address, first.unusable
            )
        })
    }

    /// What has been tried in vain for something better than `path`.
    fn came_to_nothing(&self, what: &str, path: &PathInfo, facts: &Facts<'_>) -> Option<String> {
        let better = |a: &&AttemptInfo| match a.technique {
            Technique::Circuit => false,
            Technique::WebSocket => path.carrier != Carrier::Ws,
            _ => true,
        };
        let ended = |a: &&AttemptInfo| {
            matches!(a.outcome, AttemptOutcome::Failed | AttemptOutcome::Skipped)
        };
        let failed = self.attempts.iter().filter(better).filter(ended);
        let failed: Vec<_> = failed.collect();
        let last = failed.last()?;
        let made = |a: &&&AttemptInfo| a.outcome == AttemptOutcome::Failed;
        let count = match failed.iter().filter(made).count() {
            0 => return Some(format!("{what} is not tried for now: {}", last.reason)),
            1 => "1 attempt".to_owned(),
            n => format!("{n} attempts"),
        };
        let nat = match our_nat(facts.nat, path.carrier) {
            Some(words) => format!(" ({words})"),
            None => String::new(),
        };
        Some(format!(
            "{count} at {what} came to nothing{nat}, the last by {} {:.0} s ago: {}",
            describe(last.technique),
            last.started_ms_ago as f64 / 1000.0,
            last.reason
        ))
    }

    fn while_connecting(&self) -> String {
        match self.running(|_| true) {
            None => "Being dialled: connected peers are asked where it is".to_owned(),
            Some(running) => format!(
                "Being dialled: {} towards {} has been running for {:.1} s",
                describe(running.technique),
                running.remote,
                running.took_ms as f64 / 1000.0
            ),
        }
    }

    fn why_not(&self, facts: &Facts<'_>) -> String {
        match facts.error {
            None if self.attempts.is_empty() => {
                "Not connected: nothing here has asked for it yet".to_owned()
            }
            None => "Not connected: it was reached before, and nobody uses it now".to_owned(),
            Some(DialError::Unknown { asked: 0, .. }) => {
                "Not reached: no address of it is known, and there is no connected peer to ask"
                    .to_owned()
            }
            Some(DialError::Unknown { asked, .. }) => format!(
                "Not reached: no address of it is known here, and none of {asked} connected \
                 peers knows it: it may be offline, or attached to other nodes only"
            ),
            Some(DialError::WrongPeer { actual, addr, .. }) => {
                format!("Not reached: at {addr}, where it was said to be, {actual} answers")
            }
            Some(DialError::NoRoute {
                attempts,
                asked,
                reached,
                reason,
                ..
            }) => format!(
                "Not reached: {}, and no way over relays was found: {reason} ({asked} neighbours \
                 asked, {reached} nodes reached)",
                failed_ways(attempts)
            ),
            Some(DialError::Unreachable { attempts, .. }) => {
                format!("Not reached: {}", failed_ways(attempts))
            }
            Some(error) => format!("Not reached: {error}"),
        }
    }

    fn running(&self, of: impl Fn(&&AttemptInfo) -> bool) -> Option<&AttemptInfo> {
        let mut newest_first = self.attempts.iter().rev().filter(of);
        newest_first.find(|a| a.outcome == AttemptOutcome::Running)
    }
}

fn failed_ways(attempts: &[Attempt]) -> String {
    let named = attempts.iter().take(MAX_NAMED);
    let named: Vec<_> = named.map(|a| format!("{}: {}", a.way, a.reason)).collect();
    let named = named.join("; ");
    match attempts.len() {
        0 => "no address of it is known that works".to_owned(),
        1 => format!("the one way known failed ({named})"),
        n if n > MAX_NAMED => format!("all {n} ways failed ({named}; and {} more)", n - MAX_NAMED),
        n => format!("all {n} ways failed ({named})"),
    }
}

/// A technique in words that follow "by".
fn describe(technique: Technique) -> &'static str {
    match technique {
        Technique::Dial => "dialling",
        Technique::Lan => "dialling in the local network",
        Technique::PortMapping => "a port mapping",
        Technique::Punch => "a simultaneous punch",
        Technique::LowTtl => "a punch with low-TTL openers",
        Technique::Prediction => "predicting the next port",
        Technique::Birthday => "guessing among many ports",
        Technique::WebSocket => "a WebSocket",
        Technique::Circuit => "a circuit",
    }
}

fn carrier(carrier: Carrier) -> &'static str {
    match carrier {
        Carrier::Udp4 => "UDP/IPv4",
        Carrier::Udp6 => "UDP/IPv6",
        Carrier::Ws => "WebSocket",
    }
}

fn relays(path: &PathInfo) -> String {
    path.via.join(", then ")
}

/// What our side adds to the difficulty, if it is known.
fn our_nat(nat: &NatStatus, carrier: Carrier) -> Option<&'static str> {
    let NatInfo { mapping, .. } = match carrier {
        Carrier::Udp6 => nat.v6.as_ref()?,
        _ => nat.v4.as_ref()?,
    };
    match mapping.as_deref()? {
        "none" => Some("this side has no NAT"),
        "endpoint_independent" => Some("the NAT on this side keeps one port for all"),
        _ => Some("the NAT on this side gives each destination another port"),
    }
}

#[cfg(test)]
mod tests {
    use anyhop_base::{Keypair, PeerId};

    use super::*;

    fn peer() -> PeerId {
        Keypair::generate_ed25519().public().to_peer_id()
    }

    fn path(kind: PathKind) -> PathInfo {
        PathInfo {
            kind,
            carrier: Carrier::Udp4,
            remote: "198.51.100.7:4001".to_owned(),
            via: match kind {
                PathKind::Direct => vec![],
                PathKind::Circuit => vec!["Relay".to_owned()],
            },
            rtt_ms: 10.0,
            mtu: 1200,
            selected: true,
        }
    }

    fn attempt(technique: Technique, outcome: AttemptOutcome, reason: &str) -> AttemptInfo {
        AttemptInfo {
            technique,
            local: "any".to_owned(),
            remote: "198.51.100.7:4001".to_owned(),
            started_ms_ago: 4000,
            took_ms: 1500,
            outcome,
            reason: reason.to_owned(),
        }
    }

    fn explanation(state: PeerState, selected: Option<PathInfo>) -> Explanation {
        Explanation {
            peer_id: "Peer".to_owned(),
            state,
            paths: selected.iter().cloned().collect(),
            selected,
            candidates: CandidateLists::default(),
            attempts: Vec::new(),
            next: None,
            last_error: None,
            verdict: String::new(),
        }
    }

    fn verdict(explanation: &Explanation, error: Option<&DialError>) -> String {
        let nat = NatStatus {
            v4: Some(NatInfo {
                mapping: Some("address_and_port_dependent".to_owned()),
                ..NatInfo::default()
            }),
            ..NatStatus::default()
        };
        explanation.verdict(&Facts {
            nat: &nat,
            direct_paths: true,
            error,
        })
    }

    #[test]
    fn a_direct_path_is_explained_by_the_attempt_that_found_it() {
        let mut e = explanation(PeerState::Direct, Some(path(PathKind::Direct)));
        assert_eq!(
            verdict(&e, None),
            "Reached directly at 198.51.100.7:4001 over UDP/IPv4, which the peer opened."
        );
        e.attempts = vec![attempt(Technique::Punch, AttemptOutcome::Connected, "")];
        let circuit = path(PathKind::Circuit);
        e.paths.push(circuit);
        assert_eq!(
            verdict(&e, None),
            "Reached directly at 198.51.100.7:4001 over UDP/IPv4, found by a simultaneous punch; \
             a circuit via Relay stands by."
        );
    }

    #[test]
    fn a_websocket_is_explained_by_what_udp_did() {
        let mut ws = path(PathKind::Direct);
        ws.carrier = Carrier::Ws;
        let mut e = explanation(PeerState::Direct, Some(ws));
        let mut opened = attempt(Technique::WebSocket, AttemptOutcome::Connected, "");
        opened.remote = "wss://198.51.100.7:4001".to_owned();
        let punch = attempt(Technique::Punch, AttemptOutcome::Failed, "no answer");
        e.attempts = vec![opened, punch];
        let verdict = verdict(&e, None);
        assert!(
            verdict.starts_with(
                "Reached directly at 198.51.100.7:4001 over WebSocket, found by a WebSocket; \
                 1 attempt at UDP came to nothing"
            ),
            "{verdict}"
        );
    }

    #[test]
    fn a_relayed_peer_is_explained_by_what_failed_and_what_is_next() {
        let mut e = explanation(PeerState::Relayed, Some(path(PathKind::Circuit)));
        assert!(verdict(&e, None).ends_with("no direct path has been tried yet."));
        e.attempts = vec![
            attempt(Technique::Circuit, AttemptOutcome::Connected, ""),
            attempt(Technique::Punch, AttemptOutcome::Failed, "no answer"),
        ];
        e.next = Some(NextAttempt {
            technique: Technique::LowTtl,
            in_ms: 2500,
        });
        assert_eq!(
            verdict(&e, None),
            "Reached through Relay: 1 attempt at a direct path came to nothing (the NAT on \
             this side gives each destination another port), the last by a simultaneous punch 4 s \
             ago: no answer; next: a punch with low-TTL openers in 2.5 s."
        );
        e.attempts[1].outcome = AttemptOutcome::Skipped;
        assert!(verdict(&e, None).contains("a direct path is not tried for now: no answer; next"));
        e.candidates.theirs = vec![CandidateInfo {
            address: "[2001:db8::1]:4001".to_owned(),
            source: CandidateSource::Record,
            unusable: "this node has no IPv6 socket".to_owned(),
        }];
        let lonely = verdict(&e, None);
        assert!(
            lonely.contains("([2001:db8::1]:4001: this node has no IPv6"),
            "{lonely}"
        );
        let nat = NatStatus::default();
        let told_not_to = Facts {
            nat: &nat,
            direct_paths: false,
            error: None,
        };
        assert!(e.verdict(&told_not_to).contains("told not to look"));
    }

    #[test]
    fn a_peer_that_is_not_reached_is_explained_by_its_last_error() {
        let mut e = explanation(PeerState::NotConnected, None);
        assert!(verdict(&e, None).contains("nothing here has asked for it"));
        let peer = peer();
        let ways = |n: usize| DialError::Unreachable {
            peer,
            attempts: (0..n)
                .map(|i| Attempt {
                    way: format!("way{i}"),
                    reason: "no answer".to_owned(),
                })
                .collect(),
        };
        let table = [
            (
                DialError::Unknown { peer, asked: 0 },
                "no connected peer to ask",
            ),
            (DialError::Unknown { peer, asked: 2 }, "none of 2 connected"),
            (ways(2), "way1: no answer"),
            (ways(5), "all 5 ways failed (way0: no answer; "),
            (ways(5), "and 2 more)."),
        ];
        for (error, words) in &table {
            let verdict = verdict(&e, Some(error));
            assert!(verdict.starts_with("Not reached: "), "{verdict}");
            assert!(verdict.contains(words), "{verdict}");
        }
        e.state = PeerState::Connecting;
        e.attempts = vec![attempt(Technique::Dial, AttemptOutcome::Running, "")];
        assert_eq!(
            verdict(&e, None),
            "Being dialled: dialling towards 198.51.100.7:4001 has been running for 1.5 s."
        );
    }
}
