//! What a session's probes may cost an address that has not proven to be the peer's.
//!
//! Whoever can make a probe of the session can name any source address in it, so a probe
//! from a new address says nothing of who is there. Until something arrives from such an
//! address after something was sent to it, it gets at most [`FACTOR`] times what came from
//! it (RFC 9000 section 8.1). Addresses that this side spoke to first are others' business:
//! the peer consented to them in its offer, and budgets limit what they get.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

/// How many times what was received an unproven address gets.
pub(super) const FACTOR: u64 = 3;
/// Least that a QUIC packet which shows a new address of the peer has brought, bytes: header,
/// one frame and its tag.
pub(super) const LEAST_QUIC: u64 = 32;
/// Addresses kept in mind; the oldest is forgotten. More than a birthday attempt guesses.
const MAX_ADDRESSES: usize = 2048;

#[derive(Debug, Clone, Copy)]
enum Standing {
    /// This side sent first, or it has answered.
    Free,
    /// It spoke first and has not answered; bytes.
    Owed { received: u64, sent: u64 },
}

/// The account of one session.
#[derive(Debug, Default)]
pub struct Dues {
    standings: BTreeMap<SocketAddr, Standing>,
    by_age: VecDeque<SocketAddr>,
}

impl Dues {
    /// `bytes` of the peer's came from an address.
    pub fn handle_received(&mut self, from: SocketAddr, bytes: u64) {
        match self.standings.get_mut(&from) {
            None => self.insert(
                from,
                Standing::Owed {
                    received: bytes,
                    sent: 0,
                },
            ),
            Some(Standing::Owed { received, sent: 0 }) => *received += bytes,
            Some(standing) => *standing = Standing::Free,
        }
    }

    /// The peer shows itself at an address, by something that was not counted here.
    pub fn handle_shown(&mut self, at: SocketAddr) {
        if !self.standings.contains_key(&at) {
            self.handle_received(at, LEAST_QUIC);
        }
    }

    /// Whether `bytes` may be sent to an address now; they count as sent then.
    pub fn take(&mut self, to: SocketAddr, bytes: u64) -> bool {
        match self.standings.get_mut(&to) {
            None => self.insert(to, Standing::Free),
            Some(Standing::Free) => {}
            Some(Standing::Owed { received, sent }) => {
                if *sent + bytes > FACTOR * *received {
                    return false;
                }
                *sent += bytes;
            }
        }
        true
    }

    fn insert(&mut self, addr: SocketAddr, standing: Standing) {
        if self.by_age.len() >= MAX_ADDRESSES
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.standings.remove(&oldest);
        }
        self.standings.insert(addr, standing);
        self.by_age.push_back(addr);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PROBE: u64 = 64;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn who_speaks_first_and_does_not_answer_gets_three_times_what_it_sent() {
        let mut dues = Dues::default();
        dues.handle_received(addr(1), PROBE);
        let sent = (0..100).filter(|_| dues.take(addr(1), PROBE)).count();
        assert_eq!(sent, 3);
        dues.handle_received(addr(1), PROBE);
        assert!((0..100).all(|_| dues.take(addr(1), PROBE)), "it answered");
    }

    #[test]
    fn who_is_spoken_to_first_is_not_limited_here() {
        let mut dues = Dues::default();
        assert!((0..100).all(|_| dues.take(addr(1), PROBE)));
        dues.handle_shown(addr(1));
        dues.handle_received(addr(1), PROBE);
        assert!((0..100).all(|_| dues.take(addr(1), PROBE)));
    }

    #[test]
    fn an_address_that_a_quic_packet_shows_gets_one_probe() {
        let mut dues = Dues::default();
        dues.handle_shown(addr(1));
        dues.handle_shown(addr(1));
        assert!(dues.take(addr(1), PROBE));
        assert!(!dues.take(addr(1), PROBE));
    }

    #[test]
    fn as_many_addresses_are_kept_in_mind_as_the_limit_says() {
        let mut dues = Dues::default();
        for port in 0..3 * MAX_ADDRESSES as u16 {
            dues.handle_received(addr(port), PROBE);
        }
        assert_eq!(dues.standings.len(), MAX_ADDRESSES);
        assert_eq!(dues.by_age.len(), MAX_ADDRESSES);
    }

    proptest! {
        #[test]
        fn nothing_that_spoke_first_gets_more_before_it_answers(
            steps in proptest::collection::vec((any::<bool>(), 0_u16..3, 1_u64..1500), 0..200)
        ) {
            let mut dues = Dues::default();
            // Received and sent until proven; `None` for one that was spoken to first.
            let mut books: BTreeMap<u16, Option<(u64, u64)>> = BTreeMap::new();
            for (receives, port, bytes) in steps {
                if receives {
                    dues.handle_received(addr(port), bytes);
                    let book = books.entry(port).or_insert(Some((0, 0)));
                    match book {
                        Some((_, sent)) if *sent > 0 => *book = None,
                        Some((received, _)) => *received += bytes,
                        None => {}
                    }
                } else if dues.take(addr(port), bytes)
                    && let Some((received, sent)) = books.entry(port).or_insert(None)
                {
                    *sent += bytes;
                    prop_assert!(*sent <= FACTOR * *received);
                }
            }
        }
    }
}
