//! One simultaneous punch: both sides ping the other's candidates until a ping comes
//! back.
//!
//! Each ping opens this side's NAT towards one candidate; once both have sent, pings
//! arrive. Both sides start at one time (the server waits half a round trip for its
//! answer to arrive), so that the first pings cross: one that comes in before its NAT has
//! sent out can make some NATs give the answer another port. An authenticated ping from an address that was no candidate adds it (a
//! peer-reflexive candidate, RFC 8445 section 7.3.1.3). Only an address that answered
//! *our* ping is reachable both ways and is reported.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Pings sent in one punch at most, over all candidates.
pub const PUNCH_BUDGET: u32 = 160;
/// Time between rounds of pings.
const ROUND: Duration = Duration::from_millis(100);
/// Rounds before a punch has failed.
const ROUNDS: u32 = 20;
/// Candidates at most, peer-reflexive ones included.
const MAX_TARGETS: usize = 24;

/// What the shell is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PunchAction {
    /// Send a ping with this nonce to this address.
    Ping(SocketAddr, u64),
    /// This address answers: the punch has succeeded.
    Reached(SocketAddr),
    /// Every round is spent.
    Failed,
}

/// The machine of one punch on one side.
#[derive(Debug)]
pub struct Puncher {
    targets: Vec<SocketAddr>,
    nonces: BTreeMap<u64, SocketAddr>,
    rng: StdRng,
    next_round: Instant,
    rounds: u32,
    sent: u32,
    ended: bool,
    pending: Vec<PunchAction>,
}

impl Puncher {
    /// Pings the peer's candidates, best first, from `start` on.
    #[must_use]
    pub fn new(now: Instant, start: Instant, candidates: &[SocketAddr], seed: u64) -> Self {
        let mut targets = candidates.to_vec();
        targets.truncate(MAX_TARGETS);
        let mut puncher = Self {
            targets,
            nonces: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
            next_round: start,
            rounds: 0,
            sent: 0,
            ended: false,
            pending: Vec::new(),
        };
        puncher.handle_timeout(now);
        puncher
    }

    /// The peer's ping came in from `from`; the shell answers it.
    pub fn handle_ping(&mut self, from: SocketAddr) {
        if self.ended || self.targets.contains(&from) || self.targets.len() >= MAX_TARGETS {
            return;
        }
        self.targets.push(from);
        self.ping(from);
    }

    /// A pong with this nonce came in from `from`.
    pub fn handle_pong(&mut self, from: SocketAddr, nonce: u64) {
        let expected = self.nonces.get(&nonce) == Some(&from);
        if expected && !self.ended {
            self.ended = true;
            self.pending.push(PunchAction::Reached(from));
        }
    }

    /// Time has come to [`timeout`](Self::timeout).
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.ended || now < self.next_round {
            return;
        }
        if self.rounds >= ROUNDS || self.sent >= PUNCH_BUDGET || self.targets.is_empty() {
            self.ended = true;
            self.pending.push(PunchAction::Failed);
            return;
        }
        self.rounds += 1;
        self.next_round = now + ROUND;
        for target in self.targets.clone() {
            self.ping(target);
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout); `None` once it has ended.
    #[must_use]
    pub fn timeout(&self) -> Option<Instant> {
        (!self.ended).then_some(self.next_round)
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<PunchAction> {
        (!self.pending.is_empty()).then(|| self.pending.remove(0))
    }

    fn ping(&mut self, target: SocketAddr) {
        if self.sent >= PUNCH_BUDGET {
            return;
        }
        self.sent += 1;
        let nonce = self.rng.random();
        self.nonces.insert(nonce, target);
        self.pending.push(PunchAction::Ping(target, nonce));
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addr(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 4000))
    }

    fn drain(p: &mut Puncher) -> Vec<PunchAction> {
        std::iter::from_fn(|| p.poll_action()).collect()
    }

    #[test]
    fn only_the_answer_to_our_own_ping_from_its_target_counts() {
        let now = Instant::now();
        let mut p = Puncher::new(now, now, &[addr(1)], 1);
        let [PunchAction::Ping(to, nonce)] = drain(&mut p)[..] else {
            panic!("one ping expected");
        };
        p.handle_pong(addr(9), nonce);
        p.handle_pong(to, nonce.wrapping_add(1));
        assert_eq!(drain(&mut p), []);
        p.handle_pong(to, nonce);
        assert_eq!(drain(&mut p), [PunchAction::Reached(addr(1))]);
        assert_eq!(p.timeout(), None);
    }

    #[test]
    fn a_peer_reflexive_candidate_is_pinged_at_once() {
        let now = Instant::now();
        let mut p = Puncher::new(now, now, &[addr(1)], 1);
        drain(&mut p);
        p.handle_ping(addr(2));
        assert!(matches!(drain(&mut p)[..], [PunchAction::Ping(to, _)] if to == addr(2)));
    }

    #[test]
    fn nothing_is_sent_before_the_agreed_start() {
        let now = Instant::now();
        let start = now + Duration::from_millis(30);
        let mut p = Puncher::new(now, start, &[addr(1)], 1);
        assert_eq!((drain(&mut p), p.timeout()), (vec![], Some(start)));
        p.handle_timeout(start);
        assert_eq!(drain(&mut p).len(), 1);
    }

    #[test]
    fn no_candidates_fail_at_once() {
        let now = Instant::now();
        let mut p = Puncher::new(now, now, &[], 1);
        assert_eq!(drain(&mut p), [PunchAction::Failed]);
    }

    proptest! {
        #[test]
        fn the_budget_holds_and_the_end_comes(candidates in 0..40_u8, reflexive in 0..60_u8) {
            let mut now = Instant::now();
            let list: Vec<_> = (0..candidates).map(addr).collect();
            let mut p = Puncher::new(now, now, &list, 3);
            for n in 0..reflexive {
                p.handle_ping(addr(100 + n));
            }
            let mut actions = drain(&mut p);
            while let Some(at) = p.timeout() {
                now = at;
                p.handle_timeout(now);
                actions.extend(drain(&mut p));
            }
            let pings = actions.iter().filter(|a| matches!(a, PunchAction::Ping(..))).count();
            prop_assert!(pings <= PUNCH_BUDGET as usize);
            prop_assert_eq!(actions.last(), Some(&PunchAction::Failed));
        }
    }
}
