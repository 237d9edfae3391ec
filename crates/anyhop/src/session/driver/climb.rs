//! Towards a direct path: the ladder's rounds on the client's side, attempts on both.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhop_proto::path::{CandidateKind, Offer, Role, Step, Technique as Rung};
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

/// An attempt under way.
#[derive(Debug)]
pub(super) struct Attempt {
    log: Attempting,
    technique: Technique,
    /// Candidates that are port mappings.
    mapped: Vec<SocketAddr>,
    /// Pings taken from the node's allowance for it.
    allowed: u32,
}

impl Driver {
    /// Starts a round of the ladder.
    pub(super) fn start_round(&mut self) {
        self.punching = true;
        self.ladder.start_round();
        self.next_technique();
    }

    /// Proposes the next technique of the round, or ends the round.
    fn next_technique(&mut self) {
        loop {
            let own = self.node.nat.profiles();
            let families = self.node.families();
            match self.ladder.next(now(), &own, &families) {
                None => return self.round_done(false),
                Some(Step::Skip((rung, _), reason)) => {
                    let (log, peer) = (&self.node.attempts, self.conn.peer);
                    log.skip(peer, name(rung), self.whereto(), reason);
                }
                Some(Step::Try(choice)) => {
                    let (node, conn) = (Arc::clone(&self.node), Arc::clone(&self.conn));
                    self.proposed = choice.0;
                    self.jobs.spawn(async move {
                        let (peer, agreed) = punch::propose(&node, &conn, choice).await;
                        Job::Agreed(peer.map(Box::new), agreed.map(Box::new))
                    });
                    return;
                }
            }
        }
    }

    fn round_done(&mut self, success: bool) {
        if std::mem::take(&mut self.punching) {
            self.agent.handle_punch_done(now(), success);
        }
    }

    /// What an attempt that never came to name addresses was about.
    fn whereto(&self) -> String {
        format!("any address of {}", self.conn.peer)
    }

    /// The peer answered a proposal, or did not.
    pub(super) fn agreed(&mut self, peer: Option<&Offer>, agreed: Result<Box<Agreed>, String>) {
        if let Some(peer) = peer {
            let families = punch::families_of(&peer.candidates);
            self.ladder.handle_peer(peer.profiles, families);
        }
        match agreed {
            Ok(agreed) => self.begin_attempt(*agreed, Duration::ZERO),
            Err(reason) => {
                let rung = self.proposed;
                tracing::debug!(peer = %self.conn.peer, ?rung, reason, "no attempt");
                let (log, peer) = (&self.node.attempts, self.conn.peer);
                log.skip(peer, name(rung), self.whereto(), &reason);
                self.next_technique();
            }
        }
    }

    /// Starts what was agreed on, once the peer has our answer.
    pub(super) fn begin_attempt(&mut self, agreed: Agreed, half_rtt: Duration) {
        let client = self.conn.role == Role::Client;
        let rung = agreed.choice.0;
        let plan = agreed.plan(&self.node, client, now(), half_rtt);
        let allowed = plan.and_then(|plan| {
            self.node.nat.take_pings(plan.expected())?;
            Ok(plan)
        });
        let (log, peer) = (&self.node.attempts, self.conn.peer);
        let plan = match allowed {
            Ok(plan) if plan.targets.is_empty() => {
                let reason = "the peer has no address that can be probed from here";
                log.skip(peer, name(rung), self.whereto(), reason);
                return self.after_failure();
            }
            Ok(plan) => plan,
            Err(reason) => {
                log.skip(peer, name(rung), self.whereto(), &reason);
                return self.after_failure();
            }
        };
        let local = match &agreed.aux {
            Some(_) => format!("{} auxiliary sockets", plan.sockets),
            None => self.node.local_towards(&plan.targets[0]),
        };
        let log = log.begin(peer, name(rung), local, describe(&plan.targets));
        let candidates = agreed.peer.candidates.iter();
        let mapped = candidates.filter(|c| c.kind == CandidateKind::Mapped);
        self.end_attempt();
        self.attempt = Some(Attempt {
            log,
            technique: name(rung),
            mapped: mapped.map(|c| c.addr).collect(),
            allowed: plan.expected(),
        });
        let found = self.probing.punch(now(), plan, agreed.aux);
        self.handle_found(found);
    }

    /// An address answered. The client opens a path to it; the server waits for that.
    pub(super) fn reached(&mut self, addr: SocketAddr, pin: Option<Pin>) {
        if let Some(pin) = pin {
            self.pins.push((pin, Instant::now()));
        }
        self.settle_pings();
        if self.conn.role == Role::Server {
            return self.attempt_succeeded(addr);
        }
        if let Some(known) = self.path_at(addr) {
            // One that was dead answers again.
            self.agent.handle_pong(now(), known);
            return self.attempt_succeeded(addr);
        }
        let conn = Arc::clone(&self.conn);
        self.jobs
            .spawn(async move { Job::DirectPath(open_path(&conn, addr).await.map(|()| addr)) });
    }

    pub(super) fn attempt_succeeded(&mut self, addr: SocketAddr) {
        self.settle_pings();
        if let Some(attempt) = self.attempt.take() {
            let technique = if self.node.is_lan(&addr) {
                Technique::Lan
            } else if attempt.mapped.contains(&addr) {
                Technique::PortMapping
            } else {
                attempt.technique
            };
            attempt.log.connected(addr, technique);
        }
        self.round_done(true);
    }

    pub(super) fn attempt_failed(&mut self, reason: &str) {
        self.settle_pings();
        if let Some(attempt) = self.attempt.take() {
            tracing::debug!(peer = %self.conn.peer, technique = ?attempt.technique, reason, "attempt failed");
            attempt.log.end(&Err::<(), _>(reason));
        }
        self.after_failure();
    }

    fn after_failure(&mut self) {
        if self.punching {
            self.next_technique();
        }
    }

    /// The attempt before gives way to another.
    fn end_attempt(&mut self) {
        self.settle_pings();
        if let Some(attempt) = self.attempt.take() {
            let reason = "given up for another attempt";
            attempt.log.end(&Err::<(), _>(reason));
        }
    }

    /// Ends the pinging, and gives back what it has left of its allowance.
    fn settle_pings(&mut self) {
        if let Some(attempt) = &mut self.attempt {
            let left = std::mem::take(&mut attempt.allowed).saturating_sub(self.probing.sent());
            self.node.nat.give_back_pings(left);
        }
        self.probing.end_punch();
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
