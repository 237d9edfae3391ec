//! What a link does to the packets that cross it.

use std::time::{Duration, Instant};

use rand::{RngExt, rngs::StdRng};

use super::trace::DropReason;

/// One-way latency of what is attached to the internet, unless set otherwise: two
/// public hosts see a round trip of four times this.
pub const DEFAULT_LATENCY: Duration = Duration::from_millis(5);

/// Properties of a link, the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Time from one end to the other.
    pub latency: Duration,
    /// Probability that a packet is lost, 0 to 1.
    pub loss: f64,
    /// Largest IP packet, bytes; a larger one is dropped silently. A datagram's
    /// packet is its payload and 28 bytes of headers (48 for IPv6); TCP's are 12 longer.
    pub mtu: usize,
    /// Speed; `None` is unlimited.
    pub bandwidth: Option<Bandwidth>,
}

/// The speed of a link and the queue in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth {
    /// Bytes per second, IP headers included; at least 1.
    pub bytes_per_s: u64,
    /// Bytes that may wait; what does not fit is dropped.
    pub queue_bytes: u64,
}

impl Default for Link {
    /// No latency, no loss, Ethernet's MTU, unlimited speed.
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            loss: 0.0,
            mtu: 1500,
            bandwidth: None,
        }
    }
}

impl Link {
    /// A link that only takes time.
    #[must_use]
    pub fn with_latency(latency: Duration) -> Self {
        Self {
            latency,
            ..Self::default()
        }
    }

    /// The same with another [`loss`](Self::loss).
    #[must_use]
    pub fn loss(self, loss: f64) -> Self {
        Self { loss, ..self }
    }

    /// The same with another [`mtu`](Self::mtu).
    #[must_use]
    pub fn mtu(self, mtu: usize) -> Self {
        Self { mtu, ..self }
    }

    /// The same with a limited speed.
    #[must_use]
    pub fn bandwidth(self, bytes_per_s: u64, queue_bytes: u64) -> Self {
        Self {
            bandwidth: Some(Bandwidth {
                bytes_per_s,
                queue_bytes,
            }),
            ..self
        }
    }
}

/// One direction of a link: when its transmitter is free again.
#[derive(Debug, Default)]
pub(super) struct Lane {
    free_at: Option<Instant>,
}

impl Lane {
    /// Takes a packet of `size` bytes at `now`; answers when it is at the other end.
    pub(super) fn cross(
        &mut self,
        link: &Link,
        now: Instant,
        size: usize,
        rng: &mut StdRng,
    ) -> Result<Instant, DropReason> {
        if size > link.mtu {
            return Err(DropReason::TooBig);
        }
        if link.loss > 0.0 && rng.random_bool(link.loss.min(1.0)) {
            return Err(DropReason::Loss);
        }
        let sent = match link.bandwidth {
            Some(bandwidth) => self.transmit(bandwidth, now, size)?,
            None => now,
        };
        Ok(sent + link.latency)
    }

    fn transmit(
        &mut self,
        bandwidth: Bandwidth,
        now: Instant,
        size: usize,
    ) -> Result<Instant, DropReason> {
        let rate = bandwidth.bytes_per_s.max(1) as f64;
        let start = self.free_at.map_or(now, |t| t.max(now));
        let waiting = (start - now).as_secs_f64() * rate;
        if waiting + size as f64 > bandwidth.queue_bytes as f64 {
            return Err(DropReason::LinkQueueFull);
        }
        let done = start + Duration::from_secs_f64(size as f64 / rate);
        self.free_at = Some(done);
        Ok(done)
    }
}
