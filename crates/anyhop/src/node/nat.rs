//! What the NATs in front of this node are like, and what it may spend on getting
//! through them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhop_base::{PeerId, Reachability};
use anyhop_proto::{
    nat::{Family, Profiles},
    path::{PingBudget, Role, ladder::PREDICTION_COOL_DOWN},
    probe::Probe,
};
use rand::RngExt;
use tokio::time::{Instant, timeout};

use super::Inner;
use crate::{engine::AuxSet, session::Conn};

/// Times a sample is asked for before its responder is given up.
const SAMPLE_TRIES: u32 = 3;
/// How long one is waited for.
const SAMPLE_WAIT: Duration = Duration::from_millis(400);
/// Peers whose last attempt that guesses ports is remembered; the oldest is forgotten.
const MAX_GUESSERS: usize = 1024;

/// A node's knowledge of its NATs.
#[derive(Debug)]
pub(crate) struct Nat {
    profiles: Mutex<Profiles>,
    budget: Mutex<PingBudget>,
    /// When each peer last had us guess ports, or open sockets for its guesses.
    guessed: Mutex<BTreeMap<PeerId, Instant>>,
}

impl Nat {
    pub(super) fn new() -> Self {
        Self {
            profiles: Mutex::default(),
            budget: Mutex::new(PingBudget::new(Instant::now().into_std())),
            guessed: Mutex::default(),
        }
    }

    /// What is known now.
    pub(crate) fn profiles(&self) -> Profiles {
        *self.profiles.lock().expect("no holder panics")
    }

    /// Takes pings to unproven addresses from the node's allowance.
    pub(crate) fn take_pings(&self, n: u32) -> Result<(), &'static str> {
        let taken = self.budget().take(Instant::now().into_std(), n);
        taken
            .then_some(())
            .ok_or("this node has sent too many pings to unproven addresses just now")
    }

    /// Gives back what an attempt did not use.
    pub(crate) fn give_back_pings(&self, n: u32) {
        self.budget().give_back(n);
    }

    /// Whether a peer may have us take part in guessing again.
    pub(crate) fn admit_guesses(&self, peer: PeerId) -> Result<(), String> {
        let now = Instant::now();
        let mut guessed = self.guessed.lock().expect("no holder panics");
        if let Some(last) = guessed
            .get(&peer)
            .filter(|t| now - **t < PREDICTION_COOL_DOWN / 2)
        {
            let since = now - *last;
            return Err(format!("it took part in guessing ports {since:?} ago"));
        }
        if guessed.len() >= MAX_GUESSERS && !guessed.contains_key(&peer) {
            let oldest = guessed.iter().min_by_key(|(_, t)| **t).map(|(p, _)| *p);
            oldest.and_then(|p| guessed.remove(&p));
        }
        guessed.insert(peer, now);
        Ok(())
    }

    fn budget(&self) -> MutexGuard<'_, PingBudget> {
        self.budget.lock().expect("no holder panics")
    }
}

impl Inner {
    /// Peers that can tell how our NAT translates: dialled by us, over a direct path of
    /// the family, and not known to be behind a NAT themselves. Bootstrap peers first.
    pub(crate) fn responders(&self, family: Family) -> Vec<(Arc<Conn>, SocketAddr)> {
        let mut conns = self.current_conns();
        conns.retain(|c| c.role == Role::Client && !c.is_closed());
        conns.sort_by_key(|c| !self.is_pinned(c.peer));
        let direct = conns.into_iter().filter_map(|c| {
            let addresses = c.paths.borrow().direct.clone();
            let of_family = addresses.into_iter().find(|a| Family::of(a) == family)?;
            Some((c, of_family))
        });
        direct
            .filter(|(c, _)| self.told_reachability(c.peer) != Some(Reachability::BehindNat))
            .collect()
    }

    /// The external address that a fresh mapping of an auxiliary socket gets.
    pub(crate) async fn external_of(
        &self,
        aux: &mut AuxSet,
        n: u16,
        family: Family,
    ) -> Result<SocketAddr, String> {
        for (conn, addr) in self.responders(family) {
            if let Some(external) = ask_external(&conn, addr, aux, n).await {
                return Ok(external);
            }
        }
        Err("no public peer answered that could tell our external port".to_owned())
    }
}

/// Asks one responder from where it sees an auxiliary socket.
pub(crate) async fn ask_external(
    conn: &Conn,
    to: SocketAddr,
    aux: &mut AuxSet,
    n: u16,
) -> Option<SocketAddr> {
    for _ in 0..SAMPLE_TRIES {
        let nonce = rand::rng().random();
        let ping = Probe::Ping {
            nonce,
            nominate: false,
        };
        aux.send(n, to, &conn.keys.seal(ping), None);
        let answered = async {
            while let Some(packet) = aux.recv().await {
                match conn.keys.open(&packet.bytes) {
                    Some(Probe::Pong { nonce: n, observed }) if n == nonce => {
                        return Some(observed);
                    }
                    _ => {}
                }
            }
            None
        };
        if let Ok(Some(observed)) = timeout(SAMPLE_WAIT, answered).await {
            return Some(observed);
        }
    }
    None
}
