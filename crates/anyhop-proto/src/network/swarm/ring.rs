//! The keys that a member holds.

use super::SwarmKey;

/// Epochs that are over and still let in, to fetch the current key. A member that was away
/// for more rotations than these needs an invitation again. Each costs a stranger's packet
/// one more MAC, half a microsecond.
pub const MAX_OVER: usize = 8;

/// Keys of those who are invited and let in to ask for membership. Each costs the same.
pub const MAX_GUESTS: usize = 32;

/// The swarm keys that a member holds. Two keys may have one epoch's number: two admins that
/// rotate at the same time make such, and which of them is current is for the layer above
/// to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRing {
    current: SwarmKey,
    next: Option<SwarmKey>,
    /// The latest first.
    over: Vec<SwarmKey>,
    guests: Vec<SwarmKey>,
}

impl KeyRing {
    /// A ring of one key.
    #[must_use]
    pub fn new(current: SwarmKey) -> Self {
        Self {
            current,
            next: None,
            over: Vec::new(),
            guests: Vec::new(),
        }
    }

    /// The key that handshakes are begun under.
    #[must_use]
    pub fn current(&self) -> &SwarmKey {
        &self.current
    }

    /// The key that is let in already, and not yet used.
    #[must_use]
    pub fn next(&self) -> Option<&SwarmKey> {
        self.next.as_ref()
    }

    /// Keys of epochs that are over, the latest first; at most [`MAX_OVER`].
    #[must_use]
    pub fn over(&self) -> &[SwarmKey] {
        &self.over
    }

    /// Keys of those who are invited; at most [`MAX_GUESTS`].
    #[must_use]
    pub fn guests(&self) -> &[SwarmKey] {
        &self.guests
    }

    /// Lets somebody in who was given this key to ask for membership, on the terms of an
    /// epoch that is over. False when [`MAX_GUESTS`] are let in already.
    pub fn invite(&mut self, guest: SwarmKey) -> bool {
        let there_is_room = self.guests.len() < MAX_GUESTS;
        if there_is_room {
            self.guests.push(guest);
        }
        there_is_room
    }

    /// Lets members in that use this key already, on equal terms. One that was prepared
    /// before is forgotten.
    pub fn prepare(&mut self, next: SwarmKey) {
        self.over.retain(|key| key.secret() != next.secret());
        self.next = (next.secret() != self.current.secret()).then_some(next);
    }

    /// Makes this key the current one. What was current is over; a prepared key stays
    /// prepared unless it is this one.
    pub fn advance(&mut self, to: SwarmKey) {
        if to.secret() == self.current.secret() {
            self.current = to;
            return;
        }
        self.next.take_if(|next| next.secret() == to.secret());
        self.over.retain(|key| key.secret() != to.secret());
        let before = std::mem::replace(&mut self.current, to);
        self.let_in(before);
    }

    /// Lets members in that still use this key, to fetch the current one; nothing changes
    /// when it is good for more. When there are [`MAX_OVER`] such keys, the one of the
    /// earliest epoch is forgotten.
    pub fn let_in(&mut self, over: SwarmKey) {
        let is_over = |key: &SwarmKey| key.secret() == over.secret();
        let is_better = is_over(&self.current) || self.next.as_ref().is_some_and(is_over);
        if is_better || self.over.iter().any(is_over) {
            return;
        }
        self.over.push(over);
        self.over.sort_by_key(|key| std::cmp::Reverse(key.epoch()));
        self.over.truncate(MAX_OVER);
    }

    /// Lets nobody in any more who uses a key of an epoch that is over.
    pub fn forget_over(&mut self) {
        self.over.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::network::swarm::Epoch;

    fn key(epoch: u32) -> SwarmKey {
        SwarmKey::new(Epoch(epoch), [epoch as u8; 32])
    }

    fn epochs(keys: &[SwarmKey]) -> Vec<u32> {
        keys.iter().map(|k| k.epoch().0).collect()
    }

    #[test]
    fn a_prepared_key_becomes_current_and_the_one_before_is_over() {
        let mut ring = KeyRing::new(key(1));
        ring.prepare(key(2));
        assert_eq!((ring.current(), ring.next()), (&key(1), Some(&key(2))));
        ring.advance(key(2));
        assert_eq!((ring.current(), ring.next()), (&key(2), None));
        assert_eq!(epochs(ring.over()), [1]);
        ring.advance(key(2));
        assert_eq!(epochs(ring.over()), [1], "once more changes nothing");
        ring.forget_over();
        assert_eq!(ring.over(), []);
    }

    #[test]
    fn the_earliest_of_too_many_epochs_is_forgotten() {
        let mut ring = KeyRing::new(key(1));
        for epoch in 2..=20 {
            ring.advance(key(epoch));
        }
        assert_eq!(epochs(ring.over()), (12..=19).rev().collect::<Vec<_>>());
        ring.let_in(key(3));
        assert_eq!(ring.over().len(), MAX_OVER);
        assert!(!ring.over().contains(&key(3)), "the earliest of all");
    }

    #[test]
    fn of_two_keys_with_one_number_both_are_held() {
        let other = SwarmKey::new(Epoch(2), [0xee; 32]);
        let mut ring = KeyRing::new(key(1));
        ring.advance(key(2));
        ring.advance(other.clone());
        assert_eq!(ring.current(), &other);
        assert_eq!(epochs(ring.over()), [2, 1]);
    }

    #[test]
    fn guests_take_no_place_of_an_epoch_and_have_a_limit_of_their_own() {
        let mut ring = KeyRing::new(key(20));
        (1..=8).for_each(|epoch| ring.let_in(key(epoch)));
        let guest = |n: u8| SwarmKey::new(Epoch(0), [100 + n; 32]);
        assert!((0..MAX_GUESTS as u8).all(|n| ring.invite(guest(n))));
        assert!(!ring.invite(guest(99)));
        assert_eq!((ring.guests().len(), ring.over().len()), (MAX_GUESTS, 8));
    }

    proptest! {
        /// Whatever is done to a ring, it is bounded and holds no key twice.
        #[test]
        fn a_ring_holds_each_key_once(steps in proptest::collection::vec((0..3, 0u32..12), 0..60)) {
            let mut ring = KeyRing::new(key(0));
            for (act, epoch) in steps {
                match act {
                    0 => ring.prepare(key(epoch)),
                    1 => ring.advance(key(epoch)),
                    _ => ring.let_in(key(epoch)),
                }
                prop_assert!(ring.over().len() <= MAX_OVER);
                let all = ring.over().iter().chain(ring.next()).chain([ring.current()]);
                let mut held: Vec<_> = all.map(|k| *k.secret()).collect();
                let count = held.len();
                held.sort_unstable();
                held.dedup();
                prop_assert_eq!(held.len(), count);
            }
        }
    }
}
