//! What arrives on a stream: how much, and how long nothing did.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Counts bytes and remembers the longest gap between two arrivals. Clones share.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Mutex<Gauge>>);

#[derive(Debug, Default)]
struct Gauge {
    bytes: u64,
    last: Option<Instant>,
    longest_gap: Duration,
}

impl Meter {
    /// Counts an arrival now.
    pub fn add(&self, bytes: usize) {
        let now = Instant::now();
        let mut gauge = self.lock();
        gauge.bytes += bytes as u64;
        if let Some(last) = gauge.last.replace(now) {
            gauge.longest_gap = gauge.longest_gap.max(now - last);
        }
    }

    /// Bytes that arrived so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Forgets the gaps that have ended.
    pub fn forget_gaps(&self) {
        self.lock().longest_gap = Duration::ZERO;
    }

    /// Longest gap since [`forget_gaps`](Self::forget_gaps) that ended with an arrival.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        self.lock().longest_gap
    }

    fn lock(&self) -> MutexGuard<'_, Gauge> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn longest_gap_is_between_two_arrivals_and_can_be_forgotten() {
        let meter = Meter::default();
        let pause = |ms| tokio::time::sleep(Duration::from_millis(ms));
        pause(500).await;
        meter.add(1);
        for ms in [10, 300, 20] {
            pause(ms).await;
            meter.add(1);
        }
        assert_eq!(meter.longest_gap(), Duration::from_millis(300));
        meter.forget_gaps();
        pause(40).await;
        assert_eq!(meter.longest_gap(), Duration::ZERO);
        meter.add(1);
        assert_eq!(meter.longest_gap(), Duration::from_millis(40));
        assert_eq!(meter.bytes(), 5);
    }
}
