//! Stamps and passes that were shown: each is good for once.

use std::collections::{HashSet, VecDeque};

use super::STAMP_LEN;

/// Stamps and passes remembered, about 300 KiB. Only authentic ones are, so that nobody
/// without a key can have one forgotten.
pub const MAX_REMEMBERED: usize = 4096;

/// Remembers what was shown lately. A packet that was recorded on the way and is sent once
/// more gets no answer as long as its stamp is remembered; after that, and after a restart,
/// QUIC's limit for unproven addresses holds (three times what came, RFC 9000 section 8).
#[derive(Debug, Default)]
pub struct Replays {
    known: HashSet<[u8; STAMP_LEN]>,
    /// The oldest first.
    order: VecDeque<[u8; STAMP_LEN]>,
}

impl Replays {
    /// Notes an authentic stamp or pass; false when it was shown before, or is none at all.
    pub fn first_showing(&mut self, shown: &[u8]) -> bool {
        let Ok(shown) = <[u8; STAMP_LEN]>::try_from(shown) else {
            return false;
        };
        if !self.known.insert(shown) {
            return false;
        }
        self.order.push_back(shown);
        if self.order.len() > MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    /// How many are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(n: u32) -> [u8; STAMP_LEN] {
        let mut stamp = [0; STAMP_LEN];
        stamp[..4].copy_from_slice(&n.to_be_bytes());
        stamp
    }

    #[test]
    fn a_stamp_is_good_once() {
        let mut replays = Replays::default();
        assert!(replays.first_showing(&stamp(1)));
        assert!(!replays.first_showing(&stamp(1)));
        assert!(replays.first_showing(&stamp(2)));
        assert!(!replays.first_showing(&[0; 19]), "no stamp at all");
    }

    #[test]
    fn the_oldest_of_too_many_is_forgotten() {
        let mut replays = Replays::default();
        let count = MAX_REMEMBERED as u32 + 10;
        assert!((0..count).all(|n| replays.first_showing(&stamp(n))));
        assert_eq!(replays.remembered(), MAX_REMEMBERED);
        assert_eq!(replays.known.len(), MAX_REMEMBERED);
        assert!(replays.first_showing(&stamp(9)), "forgotten");
        assert!(!replays.first_showing(&stamp(11)), "remembered");
    }
}
