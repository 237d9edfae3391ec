//! Generations of keys between two nodes: a new handshake brings new ones, and no packet on
//! its way is lost over that.
//!
//! - **Start**: the keys of the connection's own handshake seal and open.
//! - **Rekeying**: a fresh handshake over the session makes the next generation. A side
//!   opens with it at once, says so, seals with it when the other side has said so, and says
//!   that, too.
//! - **Steady state**: the former generation opens for [`KEY_GRACE`] after the peer has said
//!   that it seals with the new one, or has shown it.
//! - **Failure**: a handshake that comes to nothing is made again after [`REKEY_RETRY`]; the
//!   keys that there are go on until they have sealed as many packets as they may.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{Opener, PacketKeys, ReceiverIndex, Sealer};

/// Age of keys at which new ones are made, unless configured otherwise.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);
/// How long former keys still open what is on its way.
pub const KEY_GRACE: Duration = Duration::from_secs(10);
/// Wait before a handshake that failed is made again.
pub const REKEY_RETRY: Duration = Duration::from_secs(5);
/// Least time between two handshakes, whoever begins them.
pub const REKEY_INTERVAL: Duration = Duration::from_secs(1);
/// Generations that open at once at most: as many as can be former ones, and a few whose
/// handshakes broke off.
pub const MAX_GENERATIONS: usize = 16;

/// One side's keys of one connection. See the module.
#[derive(Debug)]
pub struct Keyring {
    client: bool,
    sealer: Arc<Sealer>,
    since: Instant,
    /// Waits until the peer opens with its generation, which this side's opener names.
    next: Option<(ReceiverIndex, Arc<Sealer>)>,
    /// Newest last.
    openers: VecDeque<Generation>,
    /// When the last handshake began.
    begun: Option<Instant>,
    /// Packets sealed with former keys.
    sealed: u64,
    rekeys: u64,
}

#[derive(Debug)]
struct Generation {
    opener: Arc<Opener>,
    /// Since when the peer seals with a newer one.
    former: Option<Instant>,
}

impl Keyring {
    /// With the keys of the connection's handshake. `client` is whether this side dialled.
    #[must_use]
    pub fn new(first: PacketKeys, client: bool, now: Instant) -> Self {
        let generation = Generation {
            opener: Arc::new(first.opener),
            former: None,
        };
        Self {
            client,
            sealer: Arc::new(first.sealer),
            since: now,
            next: None,
            openers: VecDeque::from([generation]),
            begun: None,
            sealed: 0,
            rekeys: 0,
        }
    }

    /// What packets are sealed with now.
    #[must_use]
    pub fn sealer(&self) -> &Arc<Sealer> {
        &self.sealer
    }

    /// What packets are opened with now.
    pub fn openers(&mut self, now: Instant) -> impl Iterator<Item = &Arc<Opener>> {
        let used = self.openers.iter().rposition(|g| g.opener.has_opened());
        self.outdate(used.unwrap_or(0), now);
        self.openers
            .retain(|g| g.former.is_none_or(|at| now < at + KEY_GRACE));
        self.openers.iter().map(|g| &g.opener)
    }

    /// Whether this side should begin a handshake: its keys carried packets and are older
    /// than `after`, or have sealed half of what they may. The side that dialled goes first.
    #[must_use]
    pub fn is_due(&self, now: Instant, after: Duration) -> bool {
        if self
            .begun
            .is_some_and(|at| now < at + REKEY_RETRY.min(after))
        {
            return false;
        }
        let used = self.sealer.sealed() > 0 || self.openers.iter().any(|g| g.opener.has_opened());
        let age = now.saturating_duration_since(self.since);
        let patience = match self.client {
            true => after,
            false => after + after / 2,
        };
        used && age >= patience || self.sealer.is_half_spent()
    }

    /// Notes that a handshake begins, by whichever side; false when the last one is too
    /// short ago.
    pub fn begin(&mut self, now: Instant) -> bool {
        let too_soon = self.begun.is_some_and(|at| now < at + REKEY_INTERVAL);
        if !too_soon {
            self.begun = Some(now);
        }
        !too_soon
    }

    /// Takes the keys of a handshake: they open from now on, and seal once
    /// [promoted](Self::promote). Answers the name of the generation on this side.
    pub fn add(&mut self, keys: PacketKeys) -> ReceiverIndex {
        let index = keys.opener.index();
        if self.openers.len() >= MAX_GENERATIONS {
            // One that the peer has left, or that it has hardly ever come to: where the
            // handshake broke off after the keys were there.
            let former = self.openers.iter().position(|g| g.former.is_some());
            self.openers.remove(former.unwrap_or(1));
        }
        self.openers.push_back(Generation {
            opener: Arc::new(keys.opener),
            former: None,
        });
        self.next = Some((index, Arc::new(keys.sealer)));
        index
    }

    /// The peer opens with that generation: it seals from now on. False when another one
    /// came meanwhile.
    pub fn promote(&mut self, index: ReceiverIndex, now: Instant) -> bool {
        let Some((_, sealer)) = self.next.take_if(|(of, _)| *of == index) else {
            return false;
        };
        let former = std::mem::replace(&mut self.sealer, sealer);
        self.sealed += former.sealed();
        self.since = now;
        self.rekeys += 1;
        true
    }

    /// The peer seals with that generation: older ones open what is on its way, and no more.
    pub fn outdate_before(&mut self, index: ReceiverIndex, now: Instant) {
        let current = self.openers.iter().position(|g| g.opener.index() == index);
        self.outdate(current.unwrap_or(0), now);
    }

    fn outdate(&mut self, first: usize, now: Instant) {
        for generation in self.openers.iter_mut().take(first) {
            generation.former.get_or_insert(now);
        }
    }

    /// Packets sealed with all keys so far.
    #[must_use]
    pub fn sealed(&self) -> u64 {
        self.sealed + self.sealer.sealed()
    }

    /// How many times new keys have replaced others.
    #[must_use]
    pub fn rekeys(&self) -> u64 {
        self.rekeys
    }
}

#[cfg(test)]
#[path = "keyring_tests.rs"]
mod tests;
