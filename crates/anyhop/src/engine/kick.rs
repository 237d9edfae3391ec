//! A packet on each path at once, though its congestion window may be full of lost ones.
//!
//! noq counts what was lost on a path as in flight until something sent later is
//! acknowledged, and sends nothing later while that fills the window, but for a probe with
//! each probe timeout: up to a second after the path has come back to life, or has been
//! given another route. [`Kicks::kick`] lets two packets out on each path of a connection,
//! whose acknowledgement shows the loss in one round trip.

use std::{
    any::Any,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use noq::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use noq_proto::RttEstimator;

/// What a kick lets out on a path, bytes: two packets.
const ALLOWED: u64 = 2 * 1500;

/// Of one connection.
#[derive(Debug, Default)]
pub(crate) struct Kicks(AtomicU64);

impl Kicks {
    /// Lets packets out; a ping on each path that matters has to be asked for besides.
    pub(crate) fn kick(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes the controllers of a connection's paths: noq's own, which obey kicks.
pub(super) struct Kicked {
    kicks: Arc<Kicks>,
    inner: Arc<CubicConfig>,
}

impl Kicked {
    pub(super) fn new(kicks: Arc<Kicks>) -> Self {
        Self {
            kicks,
            inner: Arc::default(),
        }
    }
}

impl ControllerFactory for Kicked {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(OnPath {
            inner: Arc::clone(&self.inner).build(now, current_mtu),
            seen: AtomicU64::new(self.kicks.0.load(Ordering::Relaxed)),
            kicks: Arc::clone(&self.kicks),
            in_flight: 0,
            allowed: AtomicU64::new(0),
        })
    }
}

/// The controller of one path. Atomics, since a window is asked for through a shared
/// reference; one task at a time does.
struct OnPath {
    inner: Box<dyn Controller>,
    kicks: Arc<Kicks>,
    /// The last kick that was obeyed.
    seen: AtomicU64,
    /// Bytes, as the engine counts them.
    in_flight: u64,
    /// The window that the last kick opened; 0 once something has been acknowledged.
    allowed: AtomicU64,
}

impl fmt::Debug for OnPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnPath")
            .field("inner", &self.inner)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

impl Controller for OnPath {
    fn on_sent(&mut self, now: Instant, bytes: u64, largest_pn: u64) {
        self.in_flight = self.in_flight.saturating_add(bytes);
        self.inner.on_sent(now, bytes, largest_pn);
    }

    fn on_packet_sent(&mut self, now: Instant, bytes: u16, pn: u64) {
        self.inner.on_packet_sent(now, bytes, pn);
    }

    fn on_cwnd_limited(&mut self) {
        self.inner.on_cwnd_limited();
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        pn: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.inner.on_ack(now, sent, bytes, pn, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.in_flight = in_flight;
        self.allowed.store(0, Ordering::Relaxed);
        self.inner
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        is_ecn: bool,
        lost_bytes: u64,
        largest_lost_pn: u64,
    ) {
        self.in_flight = self.in_flight.saturating_sub(lost_bytes);
        self.inner.on_congestion_event(
            now,
            sent,
            is_persistent_congestion,
            is_ecn,
            lost_bytes,
            largest_lost_pn,
        );
    }

    fn on_packet_lost(&mut self, lost_bytes: u16, pn: u64, now: Instant) {
        self.inner.on_packet_lost(lost_bytes, pn, now);
    }

    fn on_spurious_congestion_event(&mut self) {
        self.inner.on_spurious_congestion_event();
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn on_ack_frequency_update(
        &mut self,
        ack_eliciting_threshold: u64,
        requested_max_ack_delay: Duration,
    ) {
        self.inner
            .on_ack_frequency_update(ack_eliciting_threshold, requested_max_ack_delay);
    }

    fn window(&self) -> u64 {
        let kick = self.kicks.0.load(Ordering::Relaxed);
        if self.seen.swap(kick, Ordering::Relaxed) != kick {
            self.allowed
                .store(self.in_flight.saturating_add(ALLOWED), Ordering::Relaxed);
        }
        self.inner
            .window()
            .max(self.allowed.load(Ordering::Relaxed))
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            kicks: Arc::clone(&self.kicks),
            seen: AtomicU64::new(self.seen.load(Ordering::Relaxed)),
            in_flight: self.in_flight,
            allowed: AtomicU64::new(self.allowed.load(Ordering::Relaxed)),
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
mod tests {
    use super::*;

    #[test]
    fn a_kick_opens_a_full_window_by_two_packets_until_something_is_acknowledged() {
        let kicks = Arc::<Kicks>::default();
        let now = Instant::now();
        let mut path = Arc::new(Kicked::new(Arc::clone(&kicks))).build(now, 1200);
        let window = path.window();
        path.on_sent(now, 2 * window, 1);
        assert_eq!(path.window(), window);
        kicks.kick();
        assert_eq!(path.window(), 2 * window + ALLOWED);
        path.on_sent(now, ALLOWED, 2);
        assert_eq!(path.window(), 2 * window + ALLOWED, "no further");
        path.on_end_acks(now, window / 2, false, Some(2));
        assert_eq!(path.window(), window);
        kicks.kick();
        assert_eq!(path.window(), window.max(window / 2 + ALLOWED));
    }

    #[test]
    fn a_path_made_after_a_kick_is_not_kicked_by_it() {
        let kicks = Arc::<Kicks>::default();
        kicks.kick();
        let now = Instant::now();
        let mut path = Arc::new(Kicked::new(kicks)).build(now, 1200);
        let window = path.window();
        path.on_sent(now, window, 1);
        assert_eq!(path.window(), window);
    }
}
