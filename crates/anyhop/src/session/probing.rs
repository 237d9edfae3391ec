//! The probes of one session: pings that watch paths, and at most one punch.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhop_proto::{
    circuit::CircuitId,
    path::{PathKey, PunchAction, Puncher},
    probe::{Probe, Token},
};
use rand::RngExt;
use tokio::sync::{mpsc, oneshot};

use super::Conn;
use crate::engine::{Fabric, PROBE_QUEUE, ProbePacket, canonical};

/// Pings whose pongs are waited for; the oldest is forgotten first.
const MAX_PINGS: usize = 64;

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
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// This path answers.
    Alive(PathKey),
    /// The peer sees us here, on a path that is no circuit.
    SeenAt(SocketAddr),
    /// The peer pinged from here.
    PingedFrom(SocketAddr),
    /// The peer answers at this address, which is no path yet.
    AnswersAt(SocketAddr),
    /// The punch reached this address.
    Reached(SocketAddr),
    /// The punch failed.
    PunchFailed,
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
    punch: Option<Puncher>,
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
            punch: None,
        }
    }

    /// The next probe for this session.
    pub(super) async fn recv(&mut self) -> Option<Box<ProbePacket>> {
        self.incoming.recv().await
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
        self.send(to, Probe::Ping { nonce });
    }

    /// Starts a punch after `delay`, ending the one before.
    pub(super) fn punch(
        &mut self,
        now: Instant,
        delay: Duration,
        candidates: &[SocketAddr],
    ) -> Vec<Found> {
        let seed = rand::rng().random();
        self.punch = Some(Puncher::new(now, now + delay, candidates, seed));
        self.drain_punch()
    }

    /// Handles an incoming probe; anything not made by the peer is ignored.
    pub(super) fn handle(&mut self, packet: &ProbePacket) -> Vec<Found> {
        match self.conn.keys.open(&packet.bytes) {
            Some(Probe::Ping { nonce }) => {
                let observed = packet.from;
                self.send(packet.from, Probe::Pong { nonce, observed });
                if let Some(punch) = &mut self.punch {
                    punch.handle_ping(packet.from);
                }
                let mut found = self.drain_punch();
                found.push(Found::PingedFrom(packet.from));
                found
            }
            Some(Probe::Pong { nonce, observed }) => self.handle_pong(packet.from, nonce, observed),
            None => Vec::new(),
        }
    }

    /// How long until [`handle_timeout`](Self::handle_timeout) is due.
    pub(super) fn timeout(&self, now: Instant) -> Option<Duration> {
        let at = self.punch.as_ref()?.timeout()?;
        Some(at.saturating_duration_since(now))
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Found> {
        if let Some(punch) = &mut self.punch {
            punch.handle_timeout(now);
        }
        self.drain_punch()
    }

    fn handle_pong(&mut self, from: SocketAddr, nonce: u64, observed: SocketAddr) -> Vec<Found> {
        let asked = self.pings.iter().position(|p| p.nonce == nonce);
        if let Some(ping) = asked.and_then(|at| self.pings.remove(at)) {
            if let Some(waiting) = ping.waiting.filter(|_| ping.to == from) {
                // Whoever asked may have gone.
                let _ = waiting.send(());
            }
            return match ping.path {
                _ if ping.to != from => Vec::new(),
                None => vec![Found::AnswersAt(from)],
                Some(path) if CircuitId::from_address(&from).is_some() => vec![Found::Alive(path)],
                Some(path) => vec![Found::Alive(path), Found::SeenAt(canonical(observed))],
            };
        }
        if let Some(punch) = &mut self.punch {
            punch.handle_pong(from, nonce);
        }
        self.drain_punch()
    }

    fn drain_punch(&mut self) -> Vec<Found> {
        let mut found = Vec::new();
        while let Some(action) = self.punch.as_mut().and_then(Puncher::poll_action) {
            match action {
                PunchAction::Ping(to, nonce) => self.send(to, Probe::Ping { nonce }),
                PunchAction::Reached(addr) => found.push(Found::Reached(addr)),
                PunchAction::Failed => found.push(Found::PunchFailed),
            }
        }
        if !found.is_empty() {
            self.punch = None;
        }
        found
    }

    fn send(&self, to: SocketAddr, probe: Probe) {
        self.fabric.send_datagram(to, &self.conn.keys.seal(probe));
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.fabric.remove_probe_route(&self.token);
    }
}
