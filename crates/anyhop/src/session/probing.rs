//! The probes of one session: pings that watch paths, and the attempts at a direct path
//! that run now, one of each technique and family.

use std::{
    collections::VecDeque,
    future::poll_fn,
    net::SocketAddr,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use anyhop_proto::{
    is_virtual,
    nat::Family,
    path::{Dues, Local, PathKey, PunchAction, PunchPlan, Puncher, Technique, ladder::Choice},
    probe::{PROBE_LEN, Probe, Token},
};
use rand::RngExt;
use tokio::sync::{mpsc, oneshot};

use super::Conn;
use crate::engine::{AuxSet, Fabric, PROBE_QUEUE, Pin, ProbePacket, canonical};

/// Pings whose pongs are waited for; the oldest is forgotten first.
const MAX_PINGS: usize = 64;
/// Pings of the peer's waited for; the oldest is forgotten first.
const MAX_AWAITED: usize = 4;

#[derive(Debug)]
struct Ping {
    nonce: u64,
    /// `None` for an address that is no path yet.
    path: Option<PathKey>,
    to: SocketAddr,
    /// Told when it is answered.
    waiting: Option<oneshot::Sender<()>>,
}

/// What probes found out.
#[derive(Debug)]
pub(super) enum Found {
    /// This path answers, from there.
    Alive(PathKey, SocketAddr),
    /// The peer sees us here, on a path that is no circuit.
    SeenAt(SocketAddr),
    /// The peer pinged from here.
    PingedFrom(SocketAddr),
    /// The peer answers at this address, which is no path yet.
    AnswersAt(SocketAddr),
    /// The peer says that nothing comes back over the engine's path of this id, and whether
    /// it may have been in use.
    PeerLost { path: u32, used: bool },
    /// An attempt reached this address, from a socket of its own if there is a pin.
    Reached(Choice, SocketAddr, Option<Pin>),
    /// An attempt failed.
    PunchFailed(Choice, &'static str),
}

/// An attempt that runs.
#[derive(Debug)]
struct Run {
    choice: Choice,
    puncher: Puncher,
    aux: Option<AuxSet>,
}

/// Sends and understands a session's probes.
#[derive(Debug)]
pub(super) struct Probing {
    fabric: Arc<Fabric>,
    conn: Arc<Conn>,
    token: Token,
    /// Boxed, since a channel holds room for 32 whether they come or not.
    incoming: mpsc::Receiver<Box<ProbePacket>>,
    pings: VecDeque<Ping>,
    /// Pings that the peer was asked for.
    awaited: VecDeque<(u64, oneshot::Sender<()>)>,
    /// As many as the driver starts: it ends one before the next is too many.
    runs: Vec<Run>,
    /// What addresses may get that have not proven to be the peer's.
    dues: Dues,
}

impl Probing {
    pub(super) fn new(fabric: Arc<Fabric>, conn: Arc<Conn>) -> Self {
        let (sender, incoming) = mpsc::channel(PROBE_QUEUE);
        let token = conn.keys.token();
        fabric.add_probe_route(token, sender);
        Self {
            fabric,
            conn,
            token,
            incoming,
            pings: VecDeque::new(),
            awaited: VecDeque::new(),
            runs: Vec::new(),
            dues: Dues::default(),
        }
    }

    /// The peer's packets come from an address that it has not answered at yet.
    pub(super) fn shown(&mut self, at: SocketAddr) {
        self.dues.handle_shown(at);
    }

    /// The next probe for this session.
    pub(super) async fn recv(&mut self) -> Option<Box<ProbePacket>> {
        poll_fn(|cx| {
            if let Poll::Ready(packet) = self.incoming.poll_recv(cx) {
                return Poll::Ready(packet);
            }
            for aux in self.runs.iter_mut().filter_map(|run| run.aux.as_mut()) {
                if let Poll::Ready(Some(packet)) = aux.poll_recv(cx) {
                    return Poll::Ready(Some(packet));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Asks for an answer on a path.
    pub(super) fn ping(&mut self, path: PathKey, to: SocketAddr) {
        self.ask(Some(path), to, None);
    }

    /// Asks for an answer from an address that the peer sent from.
    pub(super) fn check(&mut self, to: SocketAddr) {
        self.ask(None, to, None);
    }

    /// Asks for an answer on a path, for somebody who waits for it.
    pub(super) fn echo(&mut self, path: PathKey, to: SocketAddr, waiting: oneshot::Sender<()>) {
        self.ask(Some(path), to, Some(waiting));
    }

    fn ask(&mut self, path: Option<PathKey>, to: SocketAddr, waiting: Option<oneshot::Sender<()>>) {
        let nonce = rand::rng().random();
        if self.pings.len() >= MAX_PINGS {
            self.pings.pop_front();
        }
        self.pings.push_back(Ping {
            nonce,
            path,
            to,
            waiting,
        });
        self.send(to, Probe::ping(nonce));
    }

    /// Starts an attempt.
    pub(super) fn punch(
        &mut self,
        now: Instant,
        choice: Choice,
        plan: PunchPlan,
        aux: Option<AuxSet>,
    ) -> Vec<Found> {
        let puncher = Puncher::new(now, plan);
        self.runs.push(Run {
            choice,
            puncher,
            aux,
        });
        self.drain_punches()
    }

    /// Pings that an attempt under way has sent.
    pub(super) fn sent(&self, choice: Choice) -> u32 {
        let run = self.runs.iter().find(|run| run.choice == choice);
        run.map_or(0, |run| run.puncher.sent())
    }

    /// Handles an incoming probe; anything not made by the peer is ignored.
    pub(super) fn handle(&mut self, now: Instant, packet: &ProbePacket) -> Vec<Found> {
        let probe = self.conn.keys.open(&packet.bytes);
        if probe.is_some() {
            self.dues.handle_received(packet.from, PROBE_LEN as u64);
        }
        match probe {
            Some(Probe::Ping {
                nonce,
                nominate,
                attempt,
            }) => {
                if self.was_awaited(nonce) {
                    return Vec::new();
                }
                self.answer(packet, nonce);
                if let Some((local, run)) = self.run_of(packet, attempt) {
                    run.puncher.handle_ping(local, packet.from, nominate);
                }
                let mut found = self.drain_punches();
                found.push(Found::PingedFrom(packet.from));
                found
            }
            Some(Probe::Pong { nonce, observed }) => {
                self.handle_pong(now, packet.from, nonce, observed)
            }
            Some(Probe::Lost { path, used }) => vec![Found::PeerLost { path, used }],
            None => Vec::new(),
        }
    }

    /// Tells the peer over a living path that another is dead, and whether
    /// that one may have been in use.
    pub(super) fn tell_lost(&mut self, over: SocketAddr, path: u32, used: bool) {
        self.send(over, Probe::Lost { path, used });
    }

    /// Tells `waiting` when the peer's ping with this nonce comes in.
    pub(super) fn await_ping(&mut self, nonce: u64, waiting: oneshot::Sender<()>) {
        if self.awaited.len() >= MAX_AWAITED {
            self.awaited.pop_front();
        }
        self.awaited.push_back((nonce, waiting));
    }

    /// The socket that an awaited ping came from takes no answer.
    fn was_awaited(&mut self, nonce: u64) -> bool {
        let at = self
            .awaited
            .iter()
            .position(|(awaited, _)| *awaited == nonce);
        let Some((_, waiting)) = at.and_then(|at| self.awaited.remove(at)) else {
            return false;
        };
        // Nobody waits any more: fine.
        let _ = waiting.send(());
        true
    }

    /// How long until [`handle_timeout`](Self::handle_timeout) is due.
    pub(super) fn timeout(&self, now: Instant) -> Option<Duration> {
        let timeouts = self.runs.iter().filter_map(|run| run.puncher.timeout());
        Some(timeouts.min()?.saturating_duration_since(now))
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Found> {
        for run in &mut self.runs {
            run.puncher.handle_timeout(now);
        }
        self.drain_punches()
    }

    /// The attempt that a ping belongs to, and which of its sockets it came in on. Only that
    /// one answers with a ping of its own: an address may get three times what it sent.
    /// A ping over a circuit or a WebSocket is no sign of a direct way.
    fn run_of(
        &mut self,
        packet: &ProbePacket,
        attempt: Option<Technique>,
    ) -> Option<(Local, &mut Run)> {
        if is_virtual(&packet.from) {
            return None;
        }
        let technique = attempt.unwrap_or(Technique::Punch);
        let family = Family::of(&packet.from);
        let run = self.runs.iter_mut().find(|run| {
            run.choice.0 == technique && (run.choice.1 == family || !technique.is_of_family())
        })?;
        let local = match &packet.via {
            None => Local::Main,
            Some(socket) => Local::Aux(run.aux.as_ref()?.number_of(socket)?),
        };
        Some((local, run))
    }

    /// A ping is answered from the socket it came in on.
    fn answer(&mut self, packet: &ProbePacket, nonce: u64) {
        let observed = packet.from;
        let pong = Probe::Pong { nonce, observed };
        match &packet.via {
            None => self.send(packet.from, pong),
            Some(socket) => {
                if !self.dues.take(packet.from, PROBE_LEN as u64) {
                    return;
                }
                let bytes = self.conn.keys.seal(pong);
                self.fabric.send_from(socket, packet.from, &bytes, None);
            }
        }
    }

    fn handle_pong(
        &mut self,
        now: Instant,
        from: SocketAddr,
        nonce: u64,
        observed: SocketAddr,
    ) -> Vec<Found> {
        let asked = self.pings.iter().position(|p| p.nonce == nonce);
        if let Some(ping) = asked.and_then(|at| self.pings.remove(at)) {
            if let Some(waiting) = ping.waiting.filter(|_| ping.to == from) {
                // Whoever asked may have gone.
                let _ = waiting.send(());
            }
            return match ping.path {
                _ if ping.to != from => Vec::new(),
                None => vec![Found::AnswersAt(from)],
                Some(path) if is_virtual(&from) => vec![Found::Alive(path, from)],
                Some(path) => vec![Found::Alive(path, from), Found::SeenAt(canonical(observed))],
            };
        }
        for run in &mut self.runs {
            run.puncher.handle_pong(now, from, nonce);
        }
        self.drain_punches()
    }

    fn drain_punches(&mut self) -> Vec<Found> {
        let mut found = Vec::new();
        for run in &mut self.runs {
            while let Some(action) = run.puncher.poll_action() {
                match action {
                    PunchAction::Ping {
                        from,
                        to,
                        nonce,
                        nominate,
                        ttl,
                    } => {
                        if !self.dues.take(to, PROBE_LEN as u64) {
                            continue;
                        }
                        let bytes = self.conn.keys.seal(Probe::Ping {
                            nonce,
                            nominate,
                            attempt: Some(run.choice.0),
                        });
                        run.send(&self.fabric, (from, to), &bytes, ttl);
                    }
                    PunchAction::Reached { from, to } => found.push(run.reached(from, to)),
                    PunchAction::Failed => found.push(Found::PunchFailed(run.choice, "no answer")),
                }
            }
        }
        found
    }

    /// Forgets an attempt under way, with the sockets it did not pin.
    pub(super) fn end_punch(&mut self, choice: Choice) {
        self.runs.retain(|run| run.choice != choice);
    }

    fn send(&mut self, to: SocketAddr, probe: Probe) {
        if !is_virtual(&to) && !self.dues.take(to, PROBE_LEN as u64) {
            return;
        }
        self.fabric.send_datagram(to, &self.conn.keys.seal(probe));
    }
}

impl Run {
    fn reached(&mut self, from: Local, to: SocketAddr) -> Found {
        let Local::Aux(n) = from else {
            return Found::Reached(self.choice, to, None);
        };
        match self.aux.as_mut().and_then(|aux| aux.pin(n, to)) {
            Some(pin) => Found::Reached(self.choice, to, Some(pin)),
            None => {
                let reason = "this node's limit of pinned sockets is reached";
                Found::PunchFailed(self.choice, reason)
            }
        }
    }

    fn send(
        &self,
        fabric: &Fabric,
        (from, to): (Local, SocketAddr),
        bytes: &[u8],
        ttl: Option<u8>,
    ) {
        match (from, &self.aux) {
            (Local::Aux(n), Some(aux)) => aux.send(n, to, bytes, ttl),
            (Local::Aux(_), None) => {}
            (Local::Main, _) if ttl.is_none() => fabric.send_datagram(to, bytes),
            (Local::Main, _) => {
                if let Some(socket) = fabric.socket_for(&to) {
                    fabric.send_from(&socket, to, bytes, ttl);
                }
            }
        }
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.fabric.remove_probe_route(&self.token);
    }
}
