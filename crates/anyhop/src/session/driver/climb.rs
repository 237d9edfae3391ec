//! Towards a direct path: the ladder's rounds on the client's side, attempts on both.
//!
//! Several attempts may run at once. On the client the first to reach the peer ends the
//! others, and the round when its path is open; the server goes on with all of them until a
//! direct path is there, since it cannot know which one the client's will be.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhop_proto::path::{
    CandidateKind, Offer, Role, Step, Technique as Rung,
    ladder::{Choice, MAX_RACING, Move},
};
use tokio::time::Instant;

use super::{Driver, Job, now, open_path};
use crate::{
    Technique,
    engine::Pin,
    node::{
        Attempting,
        punch::{self, Agreed},
    },
};

/// How long a pinned socket waits for the path that will run over it.
const PIN_UNUSED: Duration = Duration::from_secs(10);

/// An attempt under way. Dropped without an end it is noted as given up.
#[derive(Debug)]
pub(super) struct Attempt {
    log: Attempting,
    choice: Choice,
    /// Candidates that are port mappings.
    mapped: Vec<SocketAddr>,
    /// Pings taken from the node's allowance for it.
    allowed: u32,
    /// It got there; its path is being opened.
    reached: bool,
}

impl Driver {
    /// Starts a round of the ladder.
    pub(super) fn start_round(&mut self) {
        self.punching = true;
        self.ladder.start_round(now());
        self.climb();
    }

    /// Proposes what the ladder says, or ends the round.
    pub(super) fn climb(&mut self) {
        let now = now();
        if self.ladder.timeout().is_none_or(|at| at > now) {
            return;
        }
        let own = self.node.nat.profiles();
        let families = self.node.families();
        while let Some(next) = self.ladder.poll(now, &own, &families) {
            match next {
                Move::RoundFailed => self.round_done(false),
                Move::Take(Step::Skip((rung, _), reason)) => self.skip(rung, reason),
                Move::Take(Step::Try(choice)) => {
                    let (node, conn) = (Arc::clone(&self.node), Arc::clone(&self.conn));
                    self.jobs.spawn(async move {
                        let (peer, agreed) = punch::propose(&node, &conn, choice).await;
                        Job::Agreed(choice, peer.map(Box::new), agreed.map(Box::new))
                    });
                }
            }
        }
    }

    fn round_done(&mut self, success: bool) {
        self.ladder.end_round();
        if std::mem::take(&mut self.punching) {
            self.agent.handle_punch_done(now(), success);
        }
    }

    /// Notes an attempt that is not made, which never came to name addresses.
    fn skip(&self, rung: Rung, reason: &str) {
        let (log, peer) = (&self.node.attempts, self.conn.peer);
        log.skip(peer, name(rung), format!("any address of {peer}"), reason);
    }

    /// The peer answered a proposal, or did not.
    pub(super) fn agreed(
        &mut self,
        choice: Choice,
        peer: Option<&Offer>,
        agreed: Result<Box<Agreed>, String>,
    ) {
        if let Some(peer) = peer {
            let families = punch::families_of(&peer.candidates);
            self.ladder.handle_peer(peer.profiles, families);
        }
        match agreed {
            Ok(_) if !self.punching || self.is_reached() => {
                self.skip(choice.0, "another technique was faster");
            }
            Ok(agreed) => {
                self.ladder.handle_started(now());
                self.begin_attempt(*agreed, Duration::ZERO);
            }
            Err(reason) => {
                tracing::debug!(peer = %self.conn.peer, ?choice, reason, "no attempt");
                self.skip(choice.0, &reason);
                self.after_failure(choice);
            }
        }
    }

    /// Starts what was agreed on, once the peer has our answer.
    pub(super) fn begin_attempt(&mut self, agreed: Agreed, half_rtt: Duration) {
        let client = self.conn.role == Role::Client;
        let choice = agreed.choice;
        let plan = agreed.plan(&self.node, client, now(), half_rtt);
        let allowed = plan.and_then(|plan| {
            if plan.targets.is_empty() {
                return Err("the peer has no address that can be probed from here".to_owned());
            }
            self.node.nat.take_pings(plan.expected())?;
            Ok(plan)
        });
        let plan = match allowed {
            Ok(plan) => plan,
            Err(reason) => {
                self.skip(choice.0, &reason);
                return self.after_failure(choice);
            }
        };
        let local = match &agreed.aux {
            Some(_) => format!("{} auxiliary sockets", plan.sockets),
            None => self.node.local_towards(&plan.targets[0]),
        };
        // A peer that proposes more than its ladder would loses what it proposed first.
        self.end_attempts(|a| a.choice == choice);
        if let Some(oldest) = self.attempts.first().map(|a| a.choice)
            && self.attempts.len() >= MAX_RACING
        {
            self.end_attempts(|a| a.choice == oldest);
        }
        let (log, peer) = (&self.node.attempts, self.conn.peer);
        let log = log.begin(peer, name(choice.0), local, describe(&plan.targets));
        let candidates = agreed.peer.candidates.iter();
        let mapped = candidates.filter(|c| c.kind == CandidateKind::Mapped);
        self.attempts.push(Attempt {
            log,
            choice,
            mapped: mapped.map(|c| c.addr).collect(),
            allowed: plan.expected(),
            reached: false,
        });
        let found = self.probing.punch(now(), choice, plan, agreed.aux);
        self.handle_found(found);
    }

    /// An address answered. The client opens a path to it; the server waits for that.
    pub(super) fn reached(&mut self, choice: Choice, addr: SocketAddr, pin: Option<Pin>) {
        let known = self.attempts.iter().any(|a| a.choice == choice);
        if !known || self.is_reached() {
            return;
        }
        if let Some(pin) = pin {
            self.pins.push((pin, Instant::now()));
        }
        if self.conn.role == Role::Server {
            return self.attempt_succeeded(choice, addr);
        }
        self.end_attempts(|a| a.choice != choice);
        if let Some(known) = self.path_at(addr) {
            // One that was dead answers again.
            self.agent.handle_pong(now(), known);
            return self.attempt_succeeded(choice, addr);
        }
        self.settle_pings(choice);
        self.ladder.handle_reached(choice);
        for attempt in &mut self.attempts {
            attempt.reached = true;
        }
        let conn = Arc::clone(&self.conn);
        self.jobs.spawn(async move {
            let opened = open_path(&conn, addr).await;
            Job::DirectPath(choice, opened.map(|()| addr))
        });
    }

    /// Whether an attempt of the client's got there, so that a path is being opened.
    fn is_reached(&self) -> bool {
        self.attempts.iter().any(|a| a.reached)
    }

    pub(super) fn attempt_succeeded(&mut self, choice: Choice, addr: SocketAddr) {
        if let Some(attempt) = self.take_attempt(choice) {
            let technique = if self.node.is_lan(&addr) {
                Technique::Lan
            } else if attempt.mapped.contains(&addr) {
                Technique::PortMapping
            } else {
                name(choice.0)
            };
            attempt.log.connected(addr, technique);
        }
        if self.conn.role == Role::Client {
            self.round_done(true);
        }
    }

    pub(super) fn attempt_failed(&mut self, choice: Choice, reason: &str) {
        if let Some(attempt) = self.take_attempt(choice) {
            tracing::debug!(peer = %self.conn.peer, ?choice, reason, "attempt failed");
            attempt.log.end(&Err::<(), _>(reason));
        }
        self.after_failure(choice);
    }

    fn after_failure(&mut self, choice: Choice) {
        self.ladder.handle_failed(now(), choice);
        self.climb();
    }

    /// A direct path is open, whatever led to it: nothing more needs to be tried.
    pub(super) fn direct_path_opened(&mut self) {
        self.end_attempts(|a| !a.reached);
        if !self.is_reached() {
            self.round_done(true);
        }
    }

    /// Gives up attempts under way.
    fn end_attempts(&mut self, which: impl Fn(&Attempt) -> bool) {
        let ended = self.attempts.iter().filter(|a| which(a));
        let ended: Vec<_> = ended.map(|a| a.choice).collect();
        for choice in ended {
            self.take_attempt(choice);
        }
    }

    fn take_attempt(&mut self, choice: Choice) -> Option<Attempt> {
        self.settle_pings(choice);
        let at = self.attempts.iter().position(|a| a.choice == choice)?;
        Some(self.attempts.remove(at))
    }

    /// Ends an attempt's pinging, and gives back what it has left of its allowance.
    fn settle_pings(&mut self, choice: Choice) {
        let attempt = self.attempts.iter_mut().find(|a| a.choice == choice);
        if let Some(attempt) = attempt {
            let sent = self.probing.sent(choice);
            let left = std::mem::take(&mut attempt.allowed).saturating_sub(sent);
            self.node.nat.give_back_pings(left);
        }
        self.probing.end_punch(choice);
    }

    /// Closes pinned sockets that no path came to use.
    pub(super) fn prune_pins(&mut self) {
        let paths = &self.paths;
        self.pins.retain(|(pin, since)| {
            since.elapsed() < PIN_UNUSED || paths.values().any(|p| p.remote == pin.remote())
        });
    }

    /// Tells what will be tried without being asked.
    pub(super) fn publish_plan(&self) {
        let punch = self.agent.next_punch().map(|at| (self.next_rung(), at));
        let circuit = self.agent.next_circuit().map(|at| (Technique::Circuit, at));
        let websocket = self.agent.next_websocket();
        let websocket = websocket.map(|at| (Technique::WebSocket, at));
        let planned = punch.into_iter().chain(circuit).chain(websocket);
        let planned = planned.map(|(technique, at)| (technique, Instant::from_std(at)));
        self.node.attempts.plan(self.conn.peer, planned);
    }

    /// What the next round will begin with.
    fn next_rung(&self) -> Technique {
        let own = self.node.nat.profiles();
        let first = self.ladder.first(&own, &self.node.families());
        first.map_or(Technique::Punch, name)
    }
}

/// What people know a technique as.
fn name(rung: Rung) -> Technique {
    match rung {
        Rung::Punch => Technique::Punch,
        Rung::LowTtlServer | Rung::LowTtlClient => Technique::LowTtl,
        Rung::Prediction => Technique::Prediction,
        Rung::Birthday => Technique::Birthday,
    }
}

/// The first few targets, and how many more.
fn describe(targets: &[SocketAddr]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<_> = targets
        .iter()
        .take(SHOWN)
        .map(ToString::to_string)
        .collect();
    match targets.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
