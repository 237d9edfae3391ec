//! A rate limit that costs one atomic.

use std::sync::atomic::{AtomicU64, Ordering};

/// Burst a rate limit lets through, nanoseconds of its rate.
const BURST_NS: u64 = 100_000_000;

/// Generic cell rate algorithm (ITU-T I.371) over one atomic: the time at which the
/// bytes let through so far will have drained.
#[derive(Debug, Default)]
pub(super) struct RateLimit {
    drained_at_ns: AtomicU64,
}

impl RateLimit {
    /// Whether `bytes` may pass now, at most `bytes_per_s` (0: no limit).
    pub(super) fn allow(&self, bytes_per_s: u64, bytes: usize, now_ns: u64) -> bool {
        if bytes_per_s == 0 {
            return true;
        }
        let cost = (bytes as u128 * 1_000_000_000 / u128::from(bytes_per_s)) as u64;
        self.drained_at_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |drained| {
                let start = drained.max(now_ns);
                (start - now_ns <= BURST_NS).then(|| start.saturating_add(cost))
            })
            .is_ok()
    }
}
