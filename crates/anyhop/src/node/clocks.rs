//! How far the clocks of peers are from ours, read off the records that they tell about
//! themselves: records of nodes whose clocks disagree too much are not believed.
//!
//! A node signs its record to expire [`RECORD_LIFETIME_S`] later and renews it when half of
//! that is left, or a quarter later at the most. So what is left of a record that its own
//! node tells bounds the difference of the clocks from both sides.

use std::collections::BTreeMap;

use anyhop_base::{PeerId, Record, RecordError};

use super::{Inner, Node, records::RECORD_LIFETIME_S};
use crate::PeerClock;

/// Peers whose clocks are remembered.
const MAX_CLOCKS: usize = 64;
/// What is left of a record at least, seconds, when its own node tells it.
const LEAST_LEFT_S: u64 = RECORD_LIFETIME_S / 4;

/// The clocks of the peers that told a record last.
pub(super) type Clocks = BTreeMap<PeerId, PeerClock>;

impl Node {
    /// How far the clocks of peers are from this node's, as far as their records tell.
    #[must_use]
    pub fn peer_clocks(&self) -> Vec<PeerClock> {
        self.0.book().clocks.values().cloned().collect()
    }
}

impl Inner {
    /// A peer told a record of its own, which was believed or not.
    pub(super) fn note_clock(&self, from: PeerId, told: &Result<Record, RecordError>) {
        let now = i128::from(self.now_unix_s());
        let (peer, left, refused) = match told {
            Ok(record) => (record.peer, i128::from(record.expires_unix_s) - now, false),
            Err(RecordError::Expired { peer, ago_s }) => (*peer, -i128::from(*ago_s), true),
            Err(RecordError::ExpiresTooLate { peer, ahead_s }) => {
                (*peer, i128::from(*ahead_s), true)
            }
            Err(_) => return,
        };
        // What somebody else says about a peer may be old.
        if peer != from {
            return;
        }
        let clamped = |s: i128| i64::try_from(s).unwrap_or(i64::MAX);
        let clock = PeerClock {
            peer_id: peer.to_string(),
            ahead_s_min: clamped(left - i128::from(RECORD_LIFETIME_S)),
            ahead_s_max: clamped(left - i128::from(LEAST_LEFT_S)),
            refused,
        };
        let mut book = self.book();
        if book.clocks.len() >= MAX_CLOCKS && !book.clocks.contains_key(&peer) {
            book.clocks.pop_first();
        }
        book.clocks.insert(peer, clock);
    }
}
