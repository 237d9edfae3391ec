//! What was tried to reach each peer, and what is tried next: a bounded log for people
//! who ask why.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhop_base::PeerId;
use tokio::time::Instant;

use super::{Inner, Node};
use crate::{AttemptInfo, AttemptOutcome, DialError, NextAttempt, Technique};

/// Attempts kept for one peer; the oldest is forgotten first.
pub const MAX_ATTEMPTS: usize = 64;
/// Peers that attempts are kept for; the one tried longest ago is forgotten first.
const MAX_PEERS: usize = 1024;
/// Things planned for one peer.
const MAX_NEXT: usize = 8;

impl Node {
    /// The latest attempts to reach a peer over whatever way, oldest first, at most
    /// [`MAX_ATTEMPTS`].
    #[must_use]
    pub fn attempts(&self, peer: PeerId) -> Vec<AttemptInfo> {
        self.0.attempts.of(peer)
    }

    /// What the session with a peer will try next without being asked, soonest first.
    #[must_use]
    pub fn next_attempts(&self, peer: PeerId) -> Vec<NextAttempt> {
        self.0.attempts.next_of(peer)
    }
}

#[derive(Debug)]
struct Entry {
    id: u64,
    technique: Technique,
    local: String,
    remote: String,
    started: Instant,
    took: Option<Duration>,
    outcome: AttemptOutcome,
    reason: String,
}

#[derive(Debug, Default)]
struct OfPeer {
    entries: VecDeque<Entry>,
    next: Vec<(Technique, Instant)>,
    /// When the latest dial failed and why, unless one has succeeded since.
    error: Option<(Instant, DialError)>,
    /// Number of the latest attempt.
    latest: u64,
}

#[derive(Debug, Default)]
struct State {
    peers: BTreeMap<PeerId, OfPeer>,
    last_id: u64,
}

impl State {
    fn of(&mut self, peer: PeerId) -> &mut OfPeer {
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&peer) {
            let oldest = self.peers.iter().min_by_key(|(_, p)| p.latest);
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                self.peers.remove(&oldest);
            }
        }
        self.peers.entry(peer).or_default()
    }
}

/// The log of one node.
#[derive(Debug, Default)]
pub(crate) struct AttemptLog {
    state: Mutex<State>,
}

impl AttemptLog {
    /// Notes that an attempt begins.
    pub(crate) fn begin(
        self: &Arc<Self>,
        peer: PeerId,
        technique: Technique,
        local: String,
        remote: String,
    ) -> Attempting {
        let id = self.push(
            peer,
            technique,
            local,
            remote,
            (AttemptOutcome::Running, ""),
        );
        Attempting {
            log: Arc::clone(self),
            peer,
            id,
            ended: false,
        }
    }

    /// Notes an attempt that is not made, and why.
    pub(crate) fn skip(&self, peer: PeerId, technique: Technique, remote: String, reason: &str) {
        let outcome = (AttemptOutcome::Skipped, reason);
        self.push(peer, technique, "any".to_owned(), remote, outcome);
    }

    /// Replaces what is planned for a peer.
    pub(crate) fn plan(&self, peer: PeerId, next: impl IntoIterator<Item = (Technique, Instant)>) {
        let mut next: Vec<_> = next.into_iter().take(MAX_NEXT).collect();
        next.sort_by_key(|(_, at)| *at);
        let mut state = self.lock();
        if let Some(of_peer) = state.peers.get_mut(&peer) {
            of_peer.next = next;
        } else if !next.is_empty() {
            state.of(peer).next = next;
        }
    }

    /// Notes how a dial over all ways ended.
    pub(super) fn dialled(&self, peer: PeerId, error: Option<&DialError>) {
        let mut state = self.lock();
        match (error, state.peers.get_mut(&peer)) {
            (None, None) => {}
            (None, Some(of_peer)) => of_peer.error = None,
            (Some(error), _) => {
                state.last_id += 1;
                let id = state.last_id;
                let of_peer = state.of(peer);
                of_peer.error = Some((Instant::now(), error.clone()));
                of_peer.latest = id;
            }
        }
    }

    /// When the latest dial failed and why, unless one has succeeded since.
    pub(super) fn dial_error(&self, peer: PeerId) -> Option<(Instant, DialError)> {
        self.lock().peers.get(&peer)?.error.clone()
    }

    fn of(&self, peer: PeerId) -> Vec<AttemptInfo> {
        let state = self.lock();
        let entries = state.peers.get(&peer).map(|p| p.entries.iter());
        entries.into_iter().flatten().map(Entry::info).collect()
    }

    fn next_of(&self, peer: PeerId) -> Vec<NextAttempt> {
        let now = Instant::now();
        let state = self.lock();
        let next = state.peers.get(&peer).map(|p| p.next.iter());
        next.into_iter()
            .flatten()
            .map(|(technique, at)| NextAttempt {
                technique: *technique,
                in_ms: millis(at.saturating_duration_since(now)),
            })
            .collect()
    }

    fn push(
        &self,
        peer: PeerId,
        technique: Technique,
        local: String,
        remote: String,
        (outcome, reason): (AttemptOutcome, &str),
    ) -> u64 {
        let mut state = self.lock();
        state.last_id += 1;
        let id = state.last_id;
        let of_peer = state.of(peer);
        if of_peer.entries.len() >= MAX_ATTEMPTS {
            of_peer.entries.pop_front();
        }
        of_peer.latest = id;
        let took = (outcome == AttemptOutcome::Skipped).then_some(Duration::ZERO);
        of_peer.entries.push_back(Entry {
            id,
            technique,
            local,
            remote,
            started: Instant::now(),
            took,
            outcome,
            reason: reason.to_owned(),
        });
        id
    }

    fn end(
        &self,
        peer: PeerId,
        id: u64,
        result: Result<(), &str>,
        found: Option<(String, Technique)>,
    ) {
        let mut state = self.lock();
        let entries = state.peers.get_mut(&peer).map(|p| &mut p.entries);
        let entry = entries.and_then(|e| e.iter_mut().find(|e| e.id == id));
        // A peer or an attempt that was forgotten meanwhile needs no end.
        let Some(entry) = entry else { return };
        entry.took = Some(entry.started.elapsed());
        if let Some(found) = found {
            (entry.remote, entry.technique) = found;
        }
        (entry.outcome, entry.reason) = match result {
            Ok(()) => (AttemptOutcome::Connected, String::new()),
            Err(reason) => (AttemptOutcome::Failed, reason.to_owned()),
        };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

impl Entry {
    fn info(&self) -> AttemptInfo {
        let since = self.started.elapsed();
        AttemptInfo {
            technique: self.technique,
            local: self.local.clone(),
            remote: self.remote.clone(),
            started_ms_ago: millis(since),
            took_ms: millis(self.took.unwrap_or(since)),
            outcome: self.outcome,
            reason: self.reason.clone(),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An attempt that runs. Dropped without an end it was given up for another way.
#[derive(Debug)]
pub(crate) struct Attempting {
    log: Arc<AttemptLog>,
    peer: PeerId,
    id: u64,
    ended: bool,
}

impl Attempting {
    /// Notes how it ended.
    pub(crate) fn end<T, E: AsRef<str>>(mut self, result: &Result<T, E>) {
        self.ended = true;
        let result = result.as_ref().map(|_| ()).map_err(AsRef::as_ref);
        self.log.end(self.peer, self.id, result, None);
    }

    /// Notes that it led to this address, which may be better told as another technique.
    pub(crate) fn connected(mut self, remote: SocketAddr, technique: Technique) {
        self.ended = true;
        let found = Some((remote.to_string(), technique));
        self.log.end(self.peer, self.id, Ok(()), found);
    }
}

impl Drop for Attempting {
    fn drop(&mut self) {
        if !self.ended {
            let reason = Err("given up: another way was faster");
            self.log.end(self.peer, self.id, reason, None);
        }
    }
}

impl Inner {
    /// Our end of an attempt towards an address: the one local address of its family, or
    /// `any`.
    pub(crate) fn local_towards(&self, remote: &SocketAddr) -> String {
        let own = self.listen_addrs();
        let mut of_family = own.iter().filter(|a| a.is_ipv4() == remote.is_ipv4());
        match (of_family.next(), of_family.next()) {
            (Some(only), None) => only.to_string(),
            _ => "any".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhop_base::Keypair;

    use super::*;

    fn peer() -> PeerId {
        Keypair::generate_ed25519().public().to_peer_id()
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_tells_how_long_it_took_and_why_it_failed() {
        let log = Arc::new(AttemptLog::default());
        let peer = peer();
        let begin = |technique| log.begin(peer, technique, "any".into(), "192.0.2.1:1".into());
        let dial = begin(Technique::Dial);
        tokio::time::advance(Duration::from_millis(30)).await;
        dial.end(&Err::<(), _>("no answer"));
        let punch = begin(Technique::Punch);
        drop(begin(Technique::Circuit));
        tokio::time::advance(Duration::from_millis(5)).await;
        let told = log.of(peer);
        assert_eq!(
            (told[0].took_ms, told[0].started_ms_ago, &*told[0].reason),
            (30, 35, "no answer")
        );
        assert_eq!(
            (told[1].took_ms, told[1].outcome),
            (5, AttemptOutcome::Running)
        );
        assert_eq!(told[2].outcome, AttemptOutcome::Failed);
        punch.connected("192.0.2.9:9".parse().expect("an address"), Technique::Lan);
        let told = log.of(peer);
        assert_eq!(
            (&*told[1].remote, told[1].technique, told[1].outcome),
            ("192.0.2.9:9", Technique::Lan, AttemptOutcome::Connected)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_attempts_and_peers_are_forgotten() {
        let log = Arc::new(AttemptLog::default());
        let first = peer();
        let begin = |peer, n: usize| log.begin(peer, Technique::Dial, "any".into(), n.to_string());
        for n in 0..MAX_ATTEMPTS + 3 {
            begin(first, n).end(&Ok::<(), &str>(()));
        }
        let told = log.of(first);
        assert_eq!((told.len(), &*told[0].remote), (MAX_ATTEMPTS, "3"));
        for n in 0..MAX_PEERS {
            begin(peer(), n).end(&Ok::<(), &str>(()));
        }
        assert!(log.of(first).is_empty());
        assert_eq!(log.lock().peers.len(), MAX_PEERS);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_next_counts_down() {
        let log = AttemptLog::default();
        let (peer, now) = (peer(), Instant::now());
        log.plan(
            peer,
            [
                (Technique::Circuit, now + Duration::from_secs(3)),
                (Technique::Punch, now + Duration::from_secs(1)),
            ],
        );
        tokio::time::advance(Duration::from_millis(400)).await;
        let next = log.next_of(peer);
        assert_eq!(
            next.iter()
                .map(|n| (n.technique, n.in_ms))
                .collect::<Vec<_>>(),
            [(Technique::Punch, 600), (Technique::Circuit, 2600)]
        );
    }
}
