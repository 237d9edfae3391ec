//! How often neighbours may ask for something.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhop_base::PeerId;

/// Neighbours whose requests are counted; beyond, those at rest are forgotten.
const MAX_NEIGHBOURS: usize = 8192;

/// A bucket of requests that fills up with time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    pub(super) burst: u32,
    pub(super) interval: Duration,
}

impl Bucket {
    /// Takes `count` requests, or none when there are fewer. The bucket's state is the
    /// time at which it is full again.
    pub(super) fn take(self, full_at: &mut Instant, now: Instant, count: u32) -> bool {
        let after = (*full_at).max(now) + self.interval * count;
        let allowed = after.saturating_duration_since(now) <= self.interval * self.burst;
        if allowed {
            *full_at = after;
        }
        allowed
    }
}

/// One bucket for each neighbour.
#[derive(Debug)]
pub struct PerNeighbour {
    bucket: Bucket,
    full_at: BTreeMap<PeerId, Instant>,
}

impl PerNeighbour {
    /// Full buckets of `burst` requests, one more after each `interval`.
    #[must_use]
    pub fn new(burst: u32, interval: Duration) -> Self {
        Self {
            bucket: Bucket { burst, interval },
            full_at: BTreeMap::new(),
        }
    }

    /// Whether a neighbour may make one more request now; it is counted then.
    pub fn allow(&mut self, now: Instant, from: PeerId) -> bool {
        if self.full_at.len() >= MAX_NEIGHBOURS {
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        let full_at = self.full_at.entry(from).or_insert(now);
        self.bucket.take(full_at, now, 1)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
mod tests {
    use anyhop_base::Keypair;

    use super::*;
    use crate::{
        control::{LOOKUP_BURST, LOOKUP_INTERVAL},
        route::{SAMPLE_BURST, SAMPLE_INTERVAL, TRACE_BURST, TRACE_INTERVAL},
    };

    #[test]
    fn a_neighbour_has_its_burst_then_one_request_each_interval_whatever_others_do() {
        let peer = || Keypair::generate_ed25519().public().to_peer_id();
        let (greedy, modest) = (peer(), peer());
        for (burst, interval) in [
            (LOOKUP_BURST, LOOKUP_INTERVAL),
            (SAMPLE_BURST, SAMPLE_INTERVAL),
            (TRACE_BURST, TRACE_INTERVAL),
        ] {
            let (mut now, mut limit) = (Instant::now(), PerNeighbour::new(burst, interval));
            let mut allowed = 0;
            while limit.allow(now, greedy) {
                allowed += 1;
            }
            assert_eq!(allowed, burst);
            assert!(limit.allow(now, modest));
            now += interval;
            assert!(limit.allow(now, greedy));
            assert!(!limit.allow(now, greedy));
        }
    }
}
