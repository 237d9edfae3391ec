//! Who may have circuits forwarded here, and how many.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhop_base::PeerId;

use super::{
    share::Standing,
    wire::{Open, RefusalReason},
};

/// Circuits a neighbour may ask for at once after a pause.
pub const OPEN_BURST: u32 = 64;
/// Time after which it may ask for one more.
pub const OPEN_INTERVAL: Duration = Duration::from_millis(50);
/// Neighbours whose requests are counted; beyond, those at rest are forgotten.
const MAX_NEIGHBOURS: usize = 8192;

/// Limits on forwarding for others.
#[derive(Debug, Clone, Copy)]
pub struct RelayLimits {
    /// Whether anything is forwarded.
    pub enabled: bool,
    /// Whether strangers are served too.
    pub strangers: bool,
    /// Circuits at once.
    pub max_circuits: usize,
    /// Circuits at once asked for by one neighbour.
    pub max_circuits_per_peer: usize,
}

/// Counts circuits and decides on new ones.
///
/// A mutation only happens in [`admit`](Self::admit) and [`release`](Self::release); a
/// refused circuit leaves no trace.
#[derive(Debug)]
pub struct RelayBook {
    me: PeerId,
    limits: RelayLimits,
    asked_by: BTreeMap<PeerId, Neighbour>,
    circuits: usize,
}

/// One neighbour's share.
#[derive(Debug)]
struct Neighbour {
    circuits: usize,
    /// When its bucket of requests is full again.
    full_at: Instant,
}

/// What to do with an [`Open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// This node is the target: the circuit ends here.
    Terminate,
    /// Extend to `next` with this frame, its label to be filled in. The circuit is
    /// counted for the asking neighbour until [`RelayBook::release`].
    Extend {
        /// The neighbour to extend to.
        next: PeerId,
        /// What to send it.
        open: Box<Open>,
    },
}

impl RelayBook {
    /// An empty book of node `me`.
    #[must_use]
    pub fn new(me: PeerId, limits: RelayLimits) -> Self {
        Self {
            me,
            limits,
            asked_by: BTreeMap::new(),
            circuits: 0,
        }
    }

    /// Forwards from now on, or not. Circuits that are there stay counted until they are
    /// released.
    pub fn set_enabled(&mut self, enabled: bool) {
        self.limits.enabled = enabled;
    }

    /// Whether circuits are forwarded for such a neighbour.
    #[must_use]
    pub fn serves(&self, standing: Standing) -> bool {
        self.limits.enabled && (self.limits.strangers || standing == Standing::Known)
    }

    /// Circuits forwarded now.
    #[must_use]
    pub fn circuits(&self) -> usize {
        self.circuits
    }

    /// Decides on a circuit that neighbour `from` asks for.
    ///
    /// # Errors
    /// The reason to refuse it with.
    pub fn admit(
        &mut self,
        now: Instant,
        (from, standing): (PeerId, Standing),
        open: &Open,
    ) -> Result<Admission, RefusalReason> {
        if open.route.last() != Some(&from) || open.route.contains(&self.me) {
            return Err(RefusalReason::Loop);
        }
        if open.target == self.me {
            return Ok(Admission::Terminate);
        }
        if !self.serves(standing) {
            return Err(RefusalReason::NotRelaying);
        }
        if open.hop_limit == 0 {
            return Err(RefusalReason::HopLimit);
        }
        let (next, rest) = match open.next.split_first() {
            Some((&next, rest)) => (next, rest.to_vec()),
            None => (open.target, Vec::new()),
        };
        if next == self.me || open.route.contains(&next) {
            return Err(RefusalReason::Loop);
        }
        self.count(now, (from, standing))?;
        let mut route = open.route.clone();
        route.push(self.me);
        Ok(Admission::Extend {
            next,
            open: Box::new(Open {
                target: open.target,
                next: rest,
                route,
                hop_limit: open.hop_limit - 1,
                label: open.label,
            }),
        })
    }

    /// Whether a circuit that neighbour `from` asked for now would be carried, as far as
    /// this node goes.
    ///
    /// # Errors
    /// The reason it would be refused with.
    pub fn would_carry(&self, (from, standing): (PeerId, Standing)) -> Result<(), RefusalReason> {
        if !self.serves(standing) {
            return Err(RefusalReason::NotRelaying);
        }
        if self.circuits >= self.limits.max_circuits {
            return Err(RefusalReason::Full);
        }
        let its = self.asked_by.get(&from).map_or(0, |n| n.circuits);
        if its >= self.limits.max_circuits_per_peer {
            return Err(RefusalReason::PeerQuota);
        }
        Ok(())
    }

    /// Counts one more circuit for a neighbour, or says which limit is in the way.
    fn count(
        &mut self,
        now: Instant,
        (from, standing): (PeerId, Standing),
    ) -> Result<(), RefusalReason> {
        if self.asked_by.len() >= MAX_NEIGHBOURS {
            self.asked_by
                .retain(|_, n| n.circuits > 0 || n.full_at > now);
        }
        let neighbour = self.asked_by.entry(from).or_insert(Neighbour {
            circuits: 0,
            full_at: now,
        });
        let full_at = neighbour.full_at.max(now) + OPEN_INTERVAL;
        if full_at.saturating_duration_since(now) > OPEN_INTERVAL * OPEN_BURST {
            return Err(RefusalReason::TooOften);
        }
        neighbour.full_at = full_at;
        self.would_carry((from, standing))?;
        self.asked_by.entry(from).and_modify(|n| n.circuits += 1);
        self.circuits += 1;
        Ok(())
    }

    /// Ends the count of a circuit that [`admit`](Self::admit) extended for `from`.
    pub fn release(&mut self, from: PeerId) {
        if let Some(neighbour) = self.asked_by.get_mut(&from)
            && neighbour.circuits > 0
        {
            neighbour.circuits -= 1;
            self.circuits -= 1;
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
mod tests {
    use anyhop_base::Keypair;

    use super::*;
    use crate::datagram::Label;

    fn peer() -> PeerId {
        Keypair::generate_ed25519().public().to_peer_id()
    }

    fn open(from: PeerId, target: PeerId, next: Vec<PeerId>) -> Open {
        Open {
            target,
            next,
            route: vec![from],
            hop_limit: 4,
            label: Label::from_bits(9),
        }
    }

    fn known(peer: PeerId) -> (PeerId, Standing) {
        (peer, Standing::Known)
    }

    fn book(me: PeerId) -> RelayBook {
        RelayBook::new(
            me,
            RelayLimits {
                enabled: true,
                strangers: true,
                max_circuits: 3,
                max_circuits_per_peer: 2,
            },
        )
    }

    #[test]
    fn extends_along_the_given_route_then_to_the_target() {
        let now = Instant::now();
        let (me, a, d, b) = (peer(), peer(), peer(), peer());
        let mut book = book(me);
        let Ok(Admission::Extend { next, open: onward }) =
            book.admit(now, known(a), &open(a, b, vec![d]))
        else {
            panic!("refused");
        };
        assert_eq!((next, onward.next, onward.route), (d, vec![], vec![a, me]));
        assert_eq!(onward.hop_limit, 3);
        let Ok(Admission::Extend { next, .. }) = book.admit(now, known(a), &open(a, b, vec![]))
        else {
            panic!("refused");
        };
        assert_eq!(next, b);
    }

    #[test]
    fn full_relay_and_greedy_peer_are_told_apart_and_released() {
        let now = Instant::now();
        let (me, a, c, b) = (peer(), peer(), peer(), peer());
        let mut book = book(me);
        book.admit(now, known(a), &open(a, b, vec![])).unwrap();
        book.admit(now, known(a), &open(a, b, vec![])).unwrap();
        assert_eq!(
            book.admit(now, known(a), &open(a, b, vec![])),
            Err(RefusalReason::PeerQuota)
        );
        book.admit(now, known(c), &open(c, b, vec![])).unwrap();
        assert_eq!(
            book.admit(now, known(c), &open(c, b, vec![])),
            Err(RefusalReason::Full)
        );
        book.release(a);
        assert_eq!(book.circuits(), 2);
        assert!(book.admit(now, known(c), &open(c, b, vec![])).is_ok());
    }

    #[test]
    fn loops_hop_limit_and_forged_routes_are_refused() {
        let now = Instant::now();
        let (me, a, b) = (peer(), peer(), peer());
        let mut book = book(me);
        assert_eq!(
            book.admit(now, known(a), &open(a, b, vec![a])),
            Err(RefusalReason::Loop)
        );
        assert_eq!(
            book.admit(now, known(a), &open(b, b, vec![])),
            Err(RefusalReason::Loop),
            "the route must end in the asking neighbour"
        );
        let mut spent = open(a, b, vec![]);
        spent.hop_limit = 0;
        assert_eq!(
            book.admit(now, known(a), &spent),
            Err(RefusalReason::HopLimit)
        );
        assert_eq!(book.circuits(), 0);
    }

    #[test]
    fn a_node_that_does_not_relay_still_takes_circuits_to_itself() {
        let now = Instant::now();
        let (me, a) = (peer(), peer());
        let mut book = RelayBook::new(
            me,
            RelayLimits {
                enabled: false,
                strangers: true,
                max_circuits: 0,
                max_circuits_per_peer: 0,
            },
        );
        assert_eq!(
            book.admit(now, known(a), &open(a, me, vec![])),
            Ok(Admission::Terminate)
        );
        assert_eq!(
            book.admit(now, known(a), &open(a, peer(), vec![])),
            Err(RefusalReason::NotRelaying)
        );
    }

    #[test]
    fn a_neighbour_that_asks_too_often_is_slowed_down() {
        let mut now = Instant::now();
        let (me, a, b) = (peer(), peer(), peer());
        let mut book = book(me);
        let mut asked = 0;
        let refused = loop {
            match book.admit(now, known(a), &open(a, b, vec![])) {
                Ok(_) => book.release(a),
                Err(reason) => break reason,
            }
            asked += 1;
        };
        assert_eq!((asked, refused), (OPEN_BURST, RefusalReason::TooOften));
        now += OPEN_INTERVAL;
        assert!(book.admit(now, known(a), &open(a, b, vec![])).is_ok());
    }

    #[test]
    fn a_node_that_relays_for_those_it_knows_refuses_strangers() {
        let now = Instant::now();
        let (me, a, b) = (peer(), peer(), peer());
        let mut book = book(me);
        book.limits.strangers = false;
        let (stranger, open) = ((a, Standing::Stranger), open(a, b, vec![]));
        assert_eq!(
            book.admit(now, stranger, &open),
            Err(RefusalReason::NotRelaying)
        );
        assert_eq!(book.would_carry(stranger), Err(RefusalReason::NotRelaying));
        assert!(book.admit(now, known(a), &open).is_ok());
    }
}
