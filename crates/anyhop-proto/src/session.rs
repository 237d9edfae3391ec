//! One session per peer: which connection stays when two meet.
//!
//! Both sides decide alone and must agree. A node that has a session never dials, so
//! two connections exist either because both dialled at once, or because one side
//! lost its state and dialled anew. Age tells the cases apart.

use std::time::Duration;

use anyhop_base::PeerId;

/// Two connections closer in age than this were dialled at once.
pub const SIMULTANEOUS: Duration = Duration::from_secs(15);

/// Which connection carries new streams from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The one that was there.
    Existing,
    /// The one that was just established.
    New,
}

/// A connection as the decision sees it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// Who dialled it.
    pub dialer: PeerId,
    /// Time since its handshake.
    pub age: Duration,
}

/// Decides between two connections to one peer. Of two simultaneous dials the one by
/// the smaller PeerId stays; otherwise the newer one, since its dialer would not have
/// dialled over a session that still works for it.
#[must_use]
pub fn arbitrate(existing: Candidate, new: Candidate) -> Keep {
    let simultaneous = existing.age.saturating_sub(new.age) < SIMULTANEOUS;
    if !simultaneous || existing.dialer == new.dialer {
        return Keep::New;
    }
    if existing.dialer < new.dialer {
        Keep::Existing
    } else {
        Keep::New
    }
}

#[cfg(test)]
mod tests {
    use anyhop_base::Keypair;

    use super::*;

    fn two_peers() -> (PeerId, PeerId) {
        let a = Keypair::generate_ed25519().public().to_peer_id();
        let b = Keypair::generate_ed25519().public().to_peer_id();
        (a.min(b), a.max(b))
    }

    fn candidate(dialer: PeerId, secs: u64) -> Candidate {
        Candidate {
            dialer,
            age: Duration::from_secs(secs),
        }
    }

    #[test]
    fn simultaneous_dials_end_in_the_same_connection_on_both_sides() {
        let (low, high) = two_peers();
        // Each side sees the two connections in its own order.
        let here = arbitrate(candidate(low, 1), candidate(high, 0));
        let there = arbitrate(candidate(high, 1), candidate(low, 0));
        assert_eq!((here, there), (Keep::Existing, Keep::New));
    }

    #[test]
    fn a_restarted_peer_replaces_its_old_connection() {
        let (low, high) = two_peers();
        assert_eq!(arbitrate(candidate(low, 60), candidate(high, 0)), Keep::New);
        assert_eq!(arbitrate(candidate(low, 1), candidate(low, 0)), Keep::New);
    }
}
