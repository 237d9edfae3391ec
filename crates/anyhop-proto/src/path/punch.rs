//! One attempt at a direct path on one side: pings that open this side's NAT and find
//! out which of the other side's addresses answers.
//!
//! Both sides start at one time (the server waits half a round trip for its answer to
//! arrive), so that the first pings cross: one that comes in before its NAT has sent out
//! can make some NATs give the answer another port. What is pinged, from which sockets
//! and how fast follows from the [`Technique`] and the side:
//!
//! - **punch**: every candidate in each round, from the main socket.
//! - **low TTL**: the opener's first rounds die on the way, the other side starts later;
//!   so each NAT has sent before it hears anything. From a fresh socket on each side, whose
//!   address was told: NATs that punish what comes in unasked hold it against the main
//!   socket's mapping already.
//! - **prediction**: the side whose NAT is foreseen pings from a fresh auxiliary socket,
//!   whose next mapping it has told; the other pings the ports that were told.
//! - **birthday**: one side pings from many auxiliary sockets, each of which gets a port
//!   at random, the other pings as many ports at random.
//!
//! An authenticated ping from an address that was no candidate adds it (a peer-reflexive
//! candidate, RFC 8445 section 7.3.1.3). Only an address that answered *our* ping is
//! reachable both ways. Where one side may have auxiliary sockets, the client then nominates:
//! its nominating ping tells the server which socket the path will run over. Pings name
//! their technique, since several attempts may run at once.
//!
//! Everything is limited: pings by the technique's [`budget`](PunchPlan::budget), time by
//! its rounds.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::ladder::{BIRTHDAY_GUESSES, BIRTHDAY_SOCKETS, Technique};
use crate::is_virtual;

/// Pings sent in one punch at most, over all candidates.
pub const PUNCH_BUDGET: u32 = 160;
/// Pings sent in one prediction at most.
pub const PREDICTION_BUDGET: u32 = 192;
/// Pings sent in one birthday attempt at most: the guesses, and what answers cost.
pub const BIRTHDAY_BUDGET: u32 = BIRTHDAY_GUESSES as u32 + 64;
/// How much later than its peer the side starts that low-TTL openers are for.
pub const AFTER_OPENERS: Duration = Duration::from_millis(60);
/// Time between rounds of pings.
const ROUND: Duration = Duration::from_millis(100);
/// Rounds of a punch or a prediction.
const ROUNDS: u32 = 10;
/// Rounds in which an opener's pings die on the way.
const OPENING_ROUNDS: u32 = 3;
/// Time between bursts of a birthday attempt.
const BURST: Duration = Duration::from_millis(25);
/// Pings of one burst from many sockets: all 256 are open after a quarter of a second.
const SOCKET_BURST: usize = 26;
/// Pings of one burst at guessed ports: 480 each second.
const GUESS_BURST: usize = 12;
/// Head start of the sockets over the guesses in a birthday attempt.
pub const BEFORE_GUESSES: Duration = Duration::from_millis(300);
/// How long the last pings are waited for.
const TAIL: Duration = Duration::from_millis(500);
/// How long the sockets of a birthday attempt wait for the guesses, which take 2.5 s.
const GUESSES_WAIT: Duration = Duration::from_secs(3);
/// Nominating pings.
const NOMINATIONS: u32 = 10;
/// Candidates at most, peer-reflexive ones included.
const MAX_TARGETS: usize = 24;

/// A socket of this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Local {
    /// The one that all paths share.
    Main,
    /// An auxiliary one, by number.
    Aux(u16),
}

/// What the shell is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PunchAction {
    /// Send a ping.
    Ping {
        /// From this socket.
        from: Local,
        /// To this address.
        to: SocketAddr,
        /// With this nonce.
        nonce: u64,
        /// As the one that says which socket and address the path will use.
        nominate: bool,
        /// To be dropped after this many hops.
        ttl: Option<u8>,
    },
    /// The attempt has succeeded: the path runs between these.
    Reached {
        /// Our socket.
        from: Local,
        /// The peer's address.
        to: SocketAddr,
    },
    /// Every ping is spent.
    Failed,
}

/// What one side does in an attempt.
#[derive(Debug, Clone)]
pub struct PunchPlan {
    /// The technique agreed on.
    pub technique: Technique,
    /// Whether this side is the session's client, which chooses the path.
    pub client: bool,
    /// When the first ping leaves.
    pub start: Instant,
    /// Whom to ping, likeliest first.
    pub targets: Vec<SocketAddr>,
    /// Auxiliary sockets to ping from; 0 for the main one.
    pub sockets: u16,
    /// Hop limit of this side's first pings, if it is the opener of low-TTL ones.
    pub ttl: Option<u8>,
    /// Seeds the nonces.
    pub seed: u64,
}

impl PunchPlan {
    /// Pings that this side sends at most.
    #[must_use]
    pub fn budget(&self) -> u32 {
        match self.technique {
            Technique::Punch | Technique::LowTtlServer | Technique::LowTtlClient => PUNCH_BUDGET,
            Technique::Prediction => PREDICTION_BUDGET,
            Technique::Birthday => BIRTHDAY_BUDGET,
        }
    }

    /// Pings that this side will send, answers to the peer's left out.
    #[must_use]
    pub fn expected(&self) -> u32 {
        let pings = u32::try_from(self.pings().len()).unwrap_or(u32::MAX);
        pings.saturating_mul(self.pace().2).min(self.budget())
    }

    /// What is pinged in one pass, in order.
    fn pings(&self) -> Vec<(Local, SocketAddr)> {
        let targets = self.targets.iter();
        match (self.technique, self.sockets) {
            (Technique::Birthday, 0) => targets
                .take(usize::from(BIRTHDAY_GUESSES))
                .map(|t| (Local::Main, *t))
                .collect(),
            (Technique::Birthday, n) => (0..n.min(BIRTHDAY_SOCKETS))
                .filter_map(|i| Some((Local::Aux(i), *self.targets.first()?)))
                .collect(),
            (_, 0) => targets
                .take(MAX_TARGETS)
                .map(|t| (Local::Main, *t))
                .collect(),
            (_, _) => targets
                .take(MAX_TARGETS)
                .map(|t| (Local::Aux(0), *t))
                .collect(),
        }
    }

    /// Pings at once, time between, passes over all of them.
    fn pace(&self) -> (usize, Duration, u32) {
        match (self.technique, self.sockets) {
            (Technique::Birthday, 0) => (GUESS_BURST, BURST, 1),
            (Technique::Birthday, _) => (SOCKET_BURST, BURST, 1),
            _ => (usize::MAX, ROUND, ROUNDS),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Pinging,
    /// Everything is sent; the last answers may come.
    Waiting,
    /// This pair answered; the server is told so, and has to answer that.
    Nominating {
        from: Local,
        to: SocketAddr,
        sent: u32,
    },
    Ended,
}

/// The machine of one attempt on one side.
#[derive(Debug)]
pub struct Puncher {
    plan: PunchPlan,
    pings: Vec<(Local, SocketAddr)>,
    nonces: BTreeMap<u64, (Local, SocketAddr, bool)>,
    /// Pairs over which a ping came in, in a birthday attempt. The budget of pings
    /// bounds what is worth keeping; a peer that sends from more is not answered more.
    met: BTreeSet<(Local, SocketAddr)>,
    rng: StdRng,
    phase: Phase,
    next: Instant,
    /// Next of `pings` in the pass under way.
    at: usize,
    passes: u32,
    sent: u32,
    pending: VecDeque<PunchAction>,
}

impl Puncher {
    /// Starts an attempt.
    #[must_use]
    pub fn new(now: Instant, plan: PunchPlan) -> Self {
        let pings = plan.pings();
        let mut puncher = Self {
            pings,
            nonces: BTreeMap::new(),
            met: BTreeSet::new(),
            rng: StdRng::seed_from_u64(plan.seed),
            phase: Phase::Pinging,
            next: plan.start,
            at: 0,
            passes: 0,
            sent: 0,
            pending: VecDeque::new(),
            plan,
        };
        if puncher.pings.is_empty() {
            puncher.end(PunchAction::Failed);
        }
        puncher.handle_timeout(now);
        puncher
    }

    /// The technique that runs.
    #[must_use]
    pub fn technique(&self) -> Technique {
        self.plan.technique
    }

    /// The peer's ping came in from `from` at our socket `at`; the shell answers it.
    pub fn handle_ping(&mut self, at: Local, from: SocketAddr, nominate: bool) {
        // What watches a circuit or a WebSocket tells of no new address.
        if self.phase == Phase::Ended || is_virtual(&from) {
            return;
        }
        if nominate && !self.plan.client && self.nominates() {
            self.end(PunchAction::Reached { from: at, to: from });
            return;
        }
        if matches!(self.phase, Phase::Nominating { .. }) {
            return;
        }
        if self.plan.technique == Technique::Birthday {
            // Our ping may have met a closed NAT, and there is no next round.
            if self.sent < self.plan.budget() && self.met.insert((at, from)) {
                self.ping(at, from, false);
            }
        } else if !self.pings.contains(&(at, from)) && self.pings.len() < MAX_TARGETS {
            self.ping(at, from, false);
            self.pings.push((at, from));
        }
    }

    /// A pong with this nonce came in from `from`.
    pub fn handle_pong(&mut self, now: Instant, from: SocketAddr, nonce: u64) {
        let Some(&(local, to, nominated)) = self.nonces.get(&nonce) else {
            return;
        };
        if to != from || self.phase == Phase::Ended {
            return;
        }
        if nominated || !self.nominates() {
            self.end(PunchAction::Reached { from: local, to });
        } else if self.plan.client && !matches!(self.phase, Phase::Nominating { .. }) {
            self.phase = Phase::Nominating {
                from: local,
                to,
                sent: 0,
            };
            self.next = now;
            self.handle_timeout(now);
        }
    }

    /// Time has come to [`timeout`](Self::timeout).
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.next {
            return;
        }
        match self.phase {
            Phase::Ended => {}
            Phase::Waiting => self.end(PunchAction::Failed),
            Phase::Pinging => self.burst(now),
            Phase::Nominating { from, to, sent } => {
                if sent >= NOMINATIONS {
                    self.end(PunchAction::Failed);
                    return;
                }
                let sent = sent + 1;
                self.phase = Phase::Nominating { from, to, sent };
                self.next = now + ROUND;
                self.send(from, to, true, None);
            }
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout); `None` once it has ended.
    #[must_use]
    pub fn timeout(&self) -> Option<Instant> {
        (self.phase != Phase::Ended).then_some(self.next)
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<PunchAction> {
        self.pending.pop_front()
    }

    /// Pings sent so far.
    #[must_use]
    pub fn sent(&self) -> u32 {
        self.sent
    }

    fn nominates(&self) -> bool {
        self.plan.technique.is_of_family()
    }

    fn end(&mut self, action: PunchAction) {
        self.phase = Phase::Ended;
        self.pending.push_back(action);
    }

    fn burst(&mut self, now: Instant) {
        let (burst, wait, passes) = self.plan.pace();
        let until = self.at.saturating_add(burst).min(self.pings.len());
        for n in self.at..until {
            let (from, to) = self.pings[n];
            self.ping(from, to, true);
        }
        self.at = until;
        self.next = now + wait;
        if self.at >= self.pings.len() {
            self.at = 0;
            self.passes += 1;
        }
        if self.passes >= passes || self.sent >= self.plan.budget() {
            self.phase = Phase::Waiting;
            let waits = self.plan.technique == Technique::Birthday && self.plan.sockets > 0;
            self.next = now + if waits { GUESSES_WAIT } else { TAIL };
        }
    }

    fn ping(&mut self, from: Local, to: SocketAddr, opening: bool) {
        // Nominations are few and have their own limit.
        if self.sent < self.plan.budget() {
            let opening = opening && self.passes < OPENING_ROUNDS;
            let ttl = self.plan.ttl.filter(|_| opening);
            self.send(from, to, false, ttl);
        }
    }

    fn send(&mut self, from: Local, to: SocketAddr, nominate: bool, ttl: Option<u8>) {
        self.sent += 1;
        let nonce = self.rng.random();
        self.nonces.insert(nonce, (from, to, nominate));
        self.pending.push_back(PunchAction::Ping {
            from,
            to,
            nonce,
            nominate,
            ttl,
        });
    }
}

/// Ports to guess in a birthday attempt, each once, in random order. Those below 1024
/// are left out: NATs do not hand them out.
#[must_use]
pub fn birthday_ports(seed: u64) -> Vec<u16> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut ports = BTreeSet::new();
    let mut out = Vec::with_capacity(usize::from(BIRTHDAY_GUESSES));
    while out.len() < usize::from(BIRTHDAY_GUESSES) {
        let port = rng.random_range(1024..=u16::MAX);
        if ports.insert(port) {
            out.push(port);
        }
    }
    out
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
#[path = "punch_tests.rs"]
mod tests;
