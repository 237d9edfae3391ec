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
    is_virtual,
    nat::{Family, Filtering, Mapping, Profile, Profiles},
    path::{PingBudget, Role, Technique},
    probe::Probe,
};
use rand::RngExt;
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    Inner,
    punch::{is_private, near},
};
use crate::{Event, NatInfo, NatStatus, engine::AuxSet, session::Conn};

/// Times a sample is asked for before its responder is given up.
const SAMPLE_TRIES: u32 = 3;
/// How long one is waited for.
const SAMPLE_WAIT: Duration = Duration::from_millis(400);
/// How long it takes at most, as a rule, from foreseeing a port until both sides have used it.
const QUIET: Duration = Duration::from_secs(1);
/// Peers whose last attempt that guesses ports is remembered; the oldest is forgotten.
const MAX_GUESSERS: usize = 1024;

/// A node's knowledge of its NATs.
#[derive(Debug)]
pub(crate) struct Nat {
    profiles: Mutex<Profiles>,
    /// As it was told last.
    told: Mutex<NatStatus>,
    budget: Mutex<PingBudget>,
    /// Until when tests open no mapping that can wait.
    quiet_until: Mutex<Instant>,
    /// When each peer last had us guess ports, or open sockets for its guesses.
    guessed: Mutex<BTreeMap<(PeerId, Technique), Instant>>,
}

impl Nat {
    pub(super) fn new() -> Self {
        Self {
            told: Mutex::default(),
            profiles: Mutex::default(),
            budget: Mutex::new(PingBudget::new(Instant::now().into_std())),
            quiet_until: Mutex::new(Instant::now()),
            guessed: Mutex::default(),
        }
    }

    /// What is known now.
    pub(crate) fn profiles(&self) -> Profiles {
        *self.profiles.lock().expect("no holder panics")
    }

    /// Keeps what a run of tests showed.
    pub(super) fn learn(&self, family: Family, profile: Profile) {
        let mut profiles = self.profiles.lock().expect("no holder panics");
        let known = profiles.of_mut(family);
        *known = Profile {
            lifetime: known.lifetime,
            layers: profile.layers.max(known.layers),
            ..profile
        };
    }

    /// Keeps how long a mapping was seen to live without traffic.
    pub(super) fn set_lifetime(&self, family: Family, lifetime: Option<Duration>) {
        let mut profiles = self.profiles.lock().expect("no holder panics");
        profiles.of_mut(family).lifetime = lifetime;
    }

    /// The network is another one.
    pub(super) fn forget(&self, family: Family) {
        let mut profiles = self.profiles.lock().expect("no holder panics");
        *profiles.of_mut(family) = Profile::default();
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

    /// The next mapping is about to be foretold to a peer: nothing of ours should come
    /// between. What cannot wait, such as a dial, does.
    pub(crate) fn keep_quiet(&self) {
        let mut until = self.quiet_until.lock().expect("no holder panics");
        *until = Instant::now() + QUIET;
    }

    /// Waits until no mapping is being foretold.
    pub(super) async fn quiet(&self) {
        loop {
            let until = *self.quiet_until.lock().expect("no holder panics");
            if Instant::now() >= until {
                return;
            }
            sleep_until(until).await;
        }
    }

    /// Whether a peer may have us take part in a technique that guesses ports. Its ladder
    /// waits for the cool-down; half of that is held against one that does not.
    pub(crate) fn admit_guesses(&self, peer: PeerId, technique: Technique) -> Result<(), String> {
        let now = Instant::now();
        let key = (peer, technique);
        let mut guessed = self.guessed.lock().expect("no holder panics");
        if let Some(since) = guessed.get(&key).map(|t| now - *t)
            && since < technique.cool_down() / 2
        {
            return Err(format!("it took part in guessing ports {since:?} ago"));
        }
        if guessed.len() >= MAX_GUESSERS && !guessed.contains_key(&key) {
            let oldest = guessed.iter().min_by_key(|(_, t)| **t).map(|(k, _)| *k);
            oldest.and_then(|k| guessed.remove(&k));
        }
        guessed.insert(key, now);
        Ok(())
    }

    fn budget(&self) -> MutexGuard<'_, PingBudget> {
        self.budget.lock().expect("no holder panics")
    }
}

impl Inner {
    /// What is known about the NATs in front of this node.
    pub(crate) fn nat_info(&self, family: Family) -> Option<NatInfo> {
        let profiles = self.nat.profiles();
        let profile = profiles.of(family);
        let observed = self.observed_addrs();
        let external = observed.iter().find(|a| Family::of(a) == family);
        if external.is_none() && *profile == Profile::default() {
            return None;
        }
        let word = |w: &'static str| w.to_owned();
        Some(NatInfo {
            mapping: profile.mapping.and_then(Mapping::name).map(word),
            filtering: profile.filtering.and_then(Filtering::name).map(word),
            allocation: profile.allocation.map(|a| a.name().to_owned()),
            hairpin: profile.hairpin,
            lifetime_s: profile.lifetime.map(|l| l.as_secs()),
            layers: profile.layers,
            external: external.map(ToString::to_string),
        })
    }

    /// Tells of changes of what is known about the NATs.
    pub(crate) fn nat_changed(&self) {
        let now = self.nat_status();
        let before = {
            let mut told = self.nat.told.lock().expect("no holder panics");
            if *told == now {
                return;
            }
            std::mem::replace(&mut *told, now.clone())
        };
        if before.reachability != now.reachability {
            let reachability = self.reachability();
            self.emit(Event::ReachabilityChanged { reachability });
            self.record_changed();
        }
        self.emit(Event::NatChanged { nat: now });
    }

    /// Peers that can tell how our NAT translates: dialled by us, over a direct path of
    /// the family, not known to be behind a NAT themselves, and not on our own private
    /// network, from where no NAT is seen. Bootstrap peers first.
    pub(crate) fn responders(&self, family: Family) -> Vec<(Arc<Conn>, SocketAddr)> {
        let mut conns = self.current_conns();
        conns.retain(|c| c.role == Role::Client && !c.is_closed());
        conns.sort_by_key(|c| !self.is_pinned(c.peer));
        let own = self.host.interface_addresses().unwrap_or_default();
        let inside = |ip| is_private(ip) && own.iter().any(|o| near(*o, ip));
        let direct = conns.into_iter().filter_map(|c| {
            let addresses = c.paths.borrow().direct.clone();
            let mut direct = addresses.into_iter().filter(|a| !is_virtual(a));
            let of_family = direct.find(|a| Family::of(a) == family && !inside(a.ip()))?;
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
        aux.send(n, to, &conn.keys.seal(Probe::ping(nonce)), None);
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
