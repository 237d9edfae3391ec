//! Which relays a node keeps attachments to.
//!
//! **Bootstrap**: the bootstrap peers are kept by whoever started the node; they count.
//! **Steady state**: as long as there are fewer than [`ATTACHMENTS`], neighbours are asked
//! for relays they know, and the best one is tried: one that strangers are known to reach, then
//! from another network than those held, then the one known for longest. A node that strangers
//! can dial chooses at random instead, since links to the best alone would leave the graph in
//! pieces. Nobody may know yet whom strangers reach, as in a network that has just begun: then
//! those are tried of whom nothing says that they cannot be reached. **Failure**: a
//! relay that cannot be reached is tried again ever later; one that was lost is replaced.
//! A relay from another network replaces one of two from the same.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhop_base::PeerId;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Attachments that a node keeps, bootstrap peers counted.
pub const ATTACHMENTS: usize = 3;
/// Relays known as candidates; the one that failed most makes room.
pub const MAX_CANDIDATES: usize = 64;
/// Relays tried at once.
const MAX_TRIED: usize = 2;
/// First wait before a relay that was not reached is tried again; doubles up to
/// [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(30);
/// Longest wait.
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// Wait before a relay that was lost is tried again.
const RETRY_LOST: Duration = Duration::from_secs(5);
/// First wait before neighbours are asked again; doubles up to [`ASK_MAX`]. Short, since
/// whoever knows one neighbour only is lost without it.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Longest wait; also how often a node that has enough looks for better ones. Longer than
/// sessions are kept unused, so that asking keeps none alive.
const ASK_MAX: Duration = Duration::from_secs(1800);

/// The network that an address is in, as far as its failure and its operator are likely
/// to be shared: /16 of IPv4, /32 of IPv6. The default is that of a place unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Prefix([u16; 2]);

impl From<IpAddr> for Prefix {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, ..] = ip.octets();
                Self([0, u16::from_be_bytes([a, b])])
            }
            IpAddr::V6(ip) => {
                let [a, b, ..] = ip.segments();
                Self([a, b])
            }
        }
    }
}

/// A relay that somebody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub peer: PeerId,
    /// Where.
    pub prefix: Prefix,
    /// Whether strangers are known to reach it.
    pub public: bool,
    /// How long whoever told has been connected to it.
    pub known_for: Duration,
}

/// What the shell is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeeperAction {
    /// Attach to this relay; report with [`Keeper::handle_ended`] when that failed or the
    /// attachment was lost.
    Attach(PeerId),
    /// Give this attachment up.
    Detach(PeerId),
    /// Ask neighbours for relays they know, then report with
    /// [`Keeper::handle_candidates`].
    AskNeighbours,
}

#[derive(Debug)]
struct Entry {
    prefix: Prefix,
    public: bool,
    /// Since when it has been there, as far as is known.
    since: Instant,
    failures: u32,
    not_before: Instant,
}

/// Decides about attachments; see the module.
#[derive(Debug)]
pub struct Keeper {
    rng: StdRng,
    pinned: BTreeSet<PeerId>,
    candidates: BTreeMap<PeerId, Entry>,
    /// Attachments now, and the relays' networks.
    held: BTreeMap<PeerId, Prefix>,
    trying: BTreeSet<PeerId>,
    /// Those of `trying` that were held already.
    reached: BTreeSet<PeerId>,
    at_random: bool,
    ask_at: Option<Instant>,
    ask_wait: Duration,
    actions: VecDeque<KeeperAction>,
}

impl Keeper {
    /// A keeper beside the bootstrap peers `pinned`, which others keep.
    #[must_use]
    pub fn new(seed: [u8; 32], pinned: impl IntoIterator<Item = PeerId>) -> Self {
        Self {
            rng: StdRng::from_seed(seed),
            pinned: pinned.into_iter().collect(),
            candidates: BTreeMap::new(),
            held: BTreeMap::new(),
            trying: BTreeSet::new(),
            reached: BTreeSet::new(),
            at_random: false,
            ask_at: None,
            ask_wait: ASK_AGAIN,
            actions: VecDeque::new(),
        }
    }

    /// How things are now: the attachments that stand, whether strangers can dial this
    /// node, and whether there is a neighbour to ask.
    pub fn handle_state(
        &mut self,
        now: Instant,
        held: impl IntoIterator<Item = (PeerId, Prefix)>,
        public: bool,
        neighbours: bool,
    ) {
        self.held = held.into_iter().collect();
        self.at_random = public;
        let held = self.trying.iter().filter(|p| self.held.contains_key(p));
        self.reached.extend(held.copied().collect::<Vec<_>>());
        if neighbours && self.ask_at.is_none() {
            self.ask_at = Some(now);
        }
        self.decide(now);
    }

    /// Relays that a neighbour told of.
    pub fn handle_candidates(
        &mut self,
        now: Instant,
        candidates: impl IntoIterator<Item = Candidate>,
    ) {
        for candidate in candidates {
            let since = now.checked_sub(candidate.known_for).unwrap_or(now);
            let entry = self.candidates.entry(candidate.peer).or_insert(Entry {
                prefix: candidate.prefix,
                public: candidate.public,
                since,
                failures: 0,
                not_before: now,
            });
            entry.prefix = candidate.prefix;
            entry.public = candidate.public;
            entry.since = entry.since.min(since);
        }
        while self.candidates.len() > MAX_CANDIDATES {
            let worst = self
                .candidates
                .iter()
                .filter(|(peer, _)| !self.trying.contains(peer))
                .max_by_key(|(_, e)| (e.failures, e.since))
                .map(|(peer, _)| *peer);
            let Some(worst) = worst else { break };
            self.candidates.remove(&worst);
        }
        self.decide(now);
    }

    /// An attachment asked for failed, was lost, or was given up.
    pub fn handle_ended(&mut self, now: Instant, peer: PeerId) {
        self.trying.remove(&peer);
        self.held.remove(&peer);
        let was_held = self.reached.remove(&peer);
        if let Some(entry) = self.candidates.get_mut(&peer) {
            if was_held {
                entry.failures = 0;
                entry.not_before = now + RETRY_LOST;
            } else {
                let wait = RETRY * 2_u32.saturating_pow(entry.failures.min(16));
                entry.failures += 1;
                entry.not_before = now + wait.min(RETRY_MAX);
            }
        }
        if was_held {
            self.ask_wait = ASK_AGAIN;
            self.ask_at = self.ask_at.map(|at| at.min(now + ASK_AGAIN));
        }
        self.decide(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due; `None` while nothing is known
    /// and nobody can be asked.
    #[must_use]
    pub fn timeout(&self) -> Option<Instant> {
        let retry = self.wanted().then(|| {
            let idle = self.candidates.iter().filter(|(p, _)| self.is_free(p));
            idle.map(|(_, e)| e.not_before).min()
        });
        self.ask_at.into_iter().chain(retry.flatten()).min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.decide(now);
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<KeeperAction> {
        self.actions.pop_front()
    }

    /// Whether one more attachment is needed, those being made counted.
    fn wanted(&self) -> bool {
        let making = self.trying.difference(&self.reached).count();
        making < MAX_TRIED && self.held.len() + making < ATTACHMENTS
    }

    fn is_free(&self, peer: &PeerId) -> bool {
        !self.trying.contains(peer) && !self.held.contains_key(peer) && !self.pinned.contains(peer)
    }

    fn decide(&mut self, now: Instant) {
        self.drop_surplus();
        while self.wanted() {
            let Some(peer) = self.best(now, false) else {
                break;
            };
            self.attach(peer);
        }
        let idle = self.trying.len() == self.reached.len();
        if !self.at_random
            && idle
            && self.held.len() == ATTACHMENTS
            && self.surplus().is_some()
            && let Some(peer) = self.best(now, true)
        {
            self.attach(peer);
        }
        if let Some(at) = self.ask_at
            && at <= now
        {
            let wait = if self.held.len() >= ATTACHMENTS {
                ASK_MAX
            } else {
                self.ask_wait
            };
            self.ask_wait = (self.ask_wait * 2).min(ASK_MAX);
            self.ask_at = Some(now + wait);
            self.actions.push_back(KeeperAction::AskNeighbours);
        }
    }

    fn attach(&mut self, peer: PeerId) {
        self.trying.insert(peer);
        self.actions.push_back(KeeperAction::Attach(peer));
    }

    /// The candidate to try next; with `elsewhere` only one from a network that no
    /// attachment is in.
    fn best(&mut self, now: Instant, elsewhere: bool) -> Option<PeerId> {
        let trying = self.trying.iter().filter_map(|p| self.candidates.get(p));
        let near: Vec<Prefix> = (self.held.values().copied())
            .chain(trying.map(|e| e.prefix))
            .collect();
        let mut ready: Vec<_> = self
            .candidates
            .iter()
            .filter(|(peer, e)| self.is_free(peer) && e.not_before <= now)
            .map(|(peer, e)| (!e.public, near.contains(&e.prefix), e.since, *peer))
            .filter(|(_, near, ..)| !(elsewhere && *near))
            .collect();
        if ready.iter().any(|(unproven, ..)| !unproven) {
            ready.retain(|(unproven, ..)| !unproven);
        }
        if self.at_random && !ready.is_empty() {
            let at = self.rng.random_range(0..ready.len());
            return Some(ready[at].3);
        }
        ready.sort_unstable();
        ready.first().map(|(.., peer)| *peer)
    }

    /// An attachment of ours in the same network as another one, if there is one.
    fn surplus(&self) -> Option<PeerId> {
        let mut ours = self.held.iter().filter(|(p, _)| self.reached.contains(p));
        let doubled = ours.find(|(peer, prefix)| {
            let mut others = self.held.iter().filter(|(other, _)| other != peer);
            others.any(|(_, other)| other == *prefix)
        });
        doubled.map(|(peer, _)| *peer)
    }

    /// Gives up what a better one, or a bootstrap peer that came late, replaced.
    fn drop_surplus(&mut self) {
        if self.held.len() <= ATTACHMENTS {
            return;
        }
        let any = || self.reached.iter().next().copied();
        if let Some(peer) = self.surplus().or_else(any) {
            self.held.remove(&peer);
            self.actions.push_back(KeeperAction::Detach(peer));
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
#[path = "keeper_tests.rs"]
mod tests;
