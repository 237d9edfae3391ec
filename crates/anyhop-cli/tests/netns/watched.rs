//! A transfer to which things are done while it runs.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    PATIENCE,
    node::Node,
    transfer::{Pace, Transfer},
};

const BYTES: u64 = 100_000_000;
const RATE: u64 = 10_000_000;

/// Bytes that have to arrive after each change: more than what is under way.
const SOME: u64 = 5_000_000;

/// Nothing arrives from a host that is off the net.
const STILL: Duration = Duration::from_secs(1);

/// A transfer whose end waits until all has been done to it.
pub(crate) struct Watched(Transfer);

impl Watched {
    pub(crate) async fn start(from: &Node, to: &Node) -> Self {
        let pace = Pace {
            bytes_per_s: Some(RATE),
            gate: BYTES - SOME,
        };
        let transfer = Transfer::start(from, to, BYTES, pace).await;
        transfer.reaches(SOME).await;
        transfer.meter.forget_gaps();
        Self(transfer)
    }

    /// Waits for bytes that were sent after a change, and tells how long it took.
    pub(crate) async fn goes_on_after(&self, change: &str) {
        let (changed, arrived) = (Instant::now(), self.0.meter.bytes());
        assert!(arrived < BYTES - 3 * SOME, "too late for: {change}");
        self.0.reaches(arrived + SOME).await;
        let stall = self.0.meter.longest_gap();
        println!(
            "{change}: receiver still for {stall:?}, {SOME} bytes more after {:?}",
            changed.elapsed()
        );
        self.0.meter.forget_gaps();
    }

    pub(crate) async fn stands_still(&self) {
        let deadline = Instant::now() + PATIENCE;
        let (mut bytes, mut since) = (self.0.meter.bytes(), Instant::now());
        while since.elapsed() < STILL {
            assert!(Instant::now() < deadline, "it goes on");
            sleep(Duration::from_millis(20)).await;
            if self.0.meter.bytes() != bytes {
                (bytes, since) = (self.0.meter.bytes(), Instant::now());
            }
        }
    }

    pub(crate) async fn finish(self) {
        self.0.set_pace(Pace {
            bytes_per_s: None,
            gate: BYTES,
        });
        self.0.finish().await;
    }
}
