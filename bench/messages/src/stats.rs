//! What is said of one round.

use std::time::Duration;

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};

use crate::Result;

/// One contender in one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Requests, messages, or posts that reached everybody.
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// CPU time of this process for each of them, microseconds.
    pub(crate) cpu_us: f64,
    /// Share of deliveries that happened.
    pub(crate) reach: f64,
}

impl Sample {
    /// Of what was done `count` times in `took`.
    pub(crate) fn new(
        count: usize,
        took: Duration,
        cpu: Duration,
        reach: f64,
        mut latencies: Vec<Duration>,
    ) -> Result<Self> {
        if count == 0 || latencies.is_empty() {
            return Err("nothing was done in the time of a round".into());
        }
        latencies.sort_unstable();
        let at = |share: f64| {
            let index = (latencies.len() as f64 * share) as usize;
            latencies[index.min(latencies.len() - 1)].as_secs_f64() * 1e3
        };
        Ok(Self {
            per_second: count as f64 / took.as_secs_f64(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            cpu_us: cpu.as_secs_f64() * 1e6 / count as f64,
            reach,
        })
    }
}

/// CPU time of this process so far, user and system.
pub(crate) fn cpu_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_a_hundred_is_slower_than_the_99th_percentile() {
        let latencies = (1..=1000).rev().map(Duration::from_millis).collect();
        let second = Duration::from_secs(1);
        let sample = Sample::new(1000, second, second, 1.0, latencies).unwrap();
        assert_eq!((sample.p50_ms, sample.p99_ms), (501.0, 991.0));
        assert_eq!((sample.per_second, sample.cpu_us), (1000.0, 1000.0));
    }

    #[test]
    fn a_round_without_a_message_is_no_figure() {
        let no_time = Duration::ZERO;
        assert!(Sample::new(0, no_time, no_time, 1.0, Vec::new()).is_err());
    }
}
