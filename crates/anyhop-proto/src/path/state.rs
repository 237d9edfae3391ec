//! What the path agent knows of one path, and when it tries again what failed.

use std::time::{Duration, Instant};

use super::{
    DEAD_AFTER, DEAD_AFTER_CHANGE, LOST_HOLD, SUSPECT_AFTER, WEBSOCKET_DEAD_AFTER, agent::Route,
};

/// What a circuit's round trip is charged on top of 1.5 times its length, so that a
/// direct path that is a little slower still relieves the relay.
const CIRCUIT_SURCHARGE: Duration = Duration::from_millis(20);

/// The same for a WebSocket on top of 1.25 times its round trip: below a circuit of the
/// same length, above UDP, since one lost segment holds up everything behind it.
const WEBSOCKET_SURCHARGE: Duration = Duration::from_millis(10);

/// Stands for a round trip that no sample has told yet: worse than any real one.
const UNMEASURED: Duration = Duration::from_secs(3600);
/// The peer is told so often in quick succession that a path is dead, since that may be lost.
const TELL_OFTEN: u32 = 3;
const TELL_INTERVAL: Duration = Duration::from_millis(100);
/// Then it is told this often, as long as that is so.
const TELL_AGAIN: Duration = Duration::from_millis(250);
/// A path that the peer has not called dead for this long is not, for the peer.
const PEER_SILENT: Duration = Duration::from_millis(600);
/// Datagrams between two readings of the counters that are more than keep-alives and
/// acknowledgements of such.
const CARRIES: u64 = 4;
/// Time between two pings to a path that is suspect, and to one that is lost.
const PING_INTERVAL: Duration = Duration::from_millis(100);
const LOST_PING_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct PathState {
    pub(super) route: Route,
    pub(super) rtt: Duration,
    pub(super) min_rtt: Duration,
    pub(super) tx: u64,
    pub(super) rx: u64,
    /// When traffic came in last, until its end has been looked into.
    pub(super) heard: Option<Instant>,
    /// When traffic went out that nothing has answered since.
    pub(super) unanswered_since: Option<Instant>,
    pub(super) pings: u32,
    pub(super) pinged_at: Option<Instant>,
    /// This host's network changed, and the path has not answered since.
    pub(super) doubted: bool,
    /// It does not answer, or the peer says that nothing comes back over it.
    pub(super) dead: bool,
    /// What it ran over is gone: it cannot come back.
    pub(super) ended: bool,
    /// Since when it has been dead or ended.
    pub(super) lost_since: Option<Instant>,
    /// There may be data in flight on it: it was the selected path then, or the peer's.
    pub(super) was_used: bool,
    /// Whether the peer says so of itself; `None` while it has not said that it is lost.
    pub(super) peer_used: Option<bool>,
    /// When the peer last said that it is lost, until it has not said so for a while.
    pub(super) peer_lost_at: Option<Instant>,
    /// When it last brought so much that the peer must have selected it.
    pub(super) carried_at: Option<Instant>,
    /// Nothing but a pong counts as an answer.
    pub(super) pong_wanted: bool,
    /// How often the peer was told.
    pub(super) told: u32,
    pub(super) told_at: Option<Instant>,
    /// When something last came in over it.
    pub(super) answered_at: Option<Instant>,
    pub(super) closing: bool,
}

impl PathState {
    pub(super) fn new(route: Route) -> Self {
        Self {
            route,
            rtt: Duration::from_millis(100),
            min_rtt: UNMEASURED,
            tx: 0,
            rx: 0,
            heard: None,
            unanswered_since: None,
            pings: 0,
            pinged_at: None,
            doubted: false,
            dead: false,
            ended: false,
            lost_since: None,
            was_used: false,
            peer_used: None,
            peer_lost_at: None,
            carried_at: None,
            pong_wanted: false,
            told: 0,
            told_at: None,
            answered_at: None,
            closing: false,
        }
    }

    /// Starts to wait for an answer to a ping that is sent now.
    pub(super) fn suspect(&mut self, now: Instant) {
        self.unanswered_since = Some(now);
        self.pings = 1;
        self.pinged_at = Some(now);
    }

    /// Datagrams that came in over it since the last reading.
    pub(super) fn carried(&mut self, now: Instant, datagrams: u64) {
        if datagrams >= CARRIES {
            self.carried_at = Some(now);
        }
    }

    /// Whether the next ping to a suspect or dead path is due, and it counts as sent then.
    pub(super) fn ping_due(&mut self, now: Instant) -> bool {
        let interval = if self.alive() {
            PING_INTERVAL
        } else {
            LOST_PING_INTERVAL
        };
        let last = self.pinged_at;
        let due = last.is_none_or(|at| now.saturating_duration_since(at) >= interval);
        if due {
            self.pings += 1;
            self.pinged_at = Some(now);
        }
        due
    }

    /// Whether the peer is to be told now that it is lost; it counts as told then.
    pub(super) fn tell_due(&mut self, now: Instant) -> bool {
        let interval = if self.told < TELL_OFTEN {
            TELL_INTERVAL
        } else {
            TELL_AGAIN
        };
        let last = self.told_at;
        let waited = last.is_none_or(|at| now.saturating_duration_since(at) >= interval);
        // What only the peer calls lost is not told back: each would wait for the other.
        let due = (self.dead || self.ended) && waited;
        if due {
            self.told = self.told.saturating_add(1);
            self.told_at = Some(now);
        }
        due
    }

    /// Whether an answer came within this time.
    pub(super) fn answered_within(&self, now: Instant, time: Duration) -> bool {
        let since = |at| now.saturating_duration_since(at);
        self.answered_at.is_some_and(|at| since(at) < time)
    }

    /// Three round trips. The engine's estimate may tell of the past: of queues that are gone,
    /// and of acknowledgements that waited for another path.
    fn patience(&self) -> Duration {
        (self.rtt * 3).min(self.min_rtt.saturating_mul(3) + DEAD_AFTER)
    }

    pub(super) fn dead_after(&self) -> Duration {
        if self.doubted {
            return DEAD_AFTER_CHANGE.max(self.patience());
        }
        let least = match self.route {
            // TCP resends by itself before it goes on.
            Route::WebSocket(_) => WEBSOCKET_DEAD_AFTER,
            Route::Direct(_) | Route::Circuit(_) => DEAD_AFTER,
        };
        least.max(self.patience())
    }

    /// Whether what came in has ended: by the peer's will, or because the path is dead. One
    /// who only receives sends nothing that could stay unanswered.
    pub(super) fn has_gone_quiet(&mut self, now: Instant) -> bool {
        let after = self.suspect_after();
        let quiet = |at: &mut Instant| now.saturating_duration_since(*at) >= after;
        self.heard.take_if(quiet).is_some()
    }

    pub(super) fn suspect_after(&self) -> Duration {
        if self.doubted {
            Duration::ZERO
        } else {
            SUSPECT_AFTER.max(self.rtt * 2).min(DEAD_AFTER)
        }
    }

    pub(super) fn cost(&self) -> Duration {
        match self.route {
            Route::Direct(_) => self.min_rtt,
            Route::WebSocket(_) => self.min_rtt * 5 / 4 + WEBSOCKET_SURCHARGE,
            Route::Circuit(_) => self.min_rtt * 3 / 2 + CIRCUIT_SURCHARGE,
        }
    }

    pub(super) fn is_direct(&self) -> bool {
        matches!(self.route, Route::Direct(_))
    }

    pub(super) fn is_circuit(&self) -> bool {
        matches!(self.route, Route::Circuit(_))
    }

    pub(super) fn is_websocket(&self) -> bool {
        matches!(self.route, Route::WebSocket(_))
    }

    pub(super) fn alive(&self) -> bool {
        !self.dead && !self.ended && self.peer_lost_at.is_none()
    }

    /// Whether the peer has ceased to call it lost just now, and it lives.
    pub(super) fn peer_is_silent_about_it(&mut self, now: Instant) -> bool {
        let silent = |at: &mut Instant| now.saturating_duration_since(*at) >= PEER_SILENT;
        let ceased = self.peer_lost_at.take_if(silent).is_some();
        let lives = ceased && self.alive();
        if lives {
            self.regained();
        }
        lives
    }

    /// It lives again: what was known of its loss is over.
    fn regained(&mut self) {
        self.lost_since = None;
        self.peer_used = None;
        self.told = 0;
    }

    /// Answers whether it was dead until now.
    pub(super) fn answered(&mut self, now: Instant) -> bool {
        self.answered_at = Some(now);
        self.unanswered_since = None;
        self.pings = 0;
        self.doubted = false;
        let was_dead = std::mem::take(&mut self.dead);
        if self.alive() {
            self.regained();
        }
        was_dead && self.alive()
    }

    pub(super) fn lose(&mut self, now: Instant, selected: bool) {
        if self.lost_since.is_none() {
            let lately = |at| now.saturating_duration_since(at) < LOST_HOLD;
            self.lost_since = Some(now);
            self.was_used = selected || self.carried_at.is_some_and(lately);
        }
    }

    /// How long it stays open after it was lost.
    pub(super) fn hold(&self) -> Duration {
        if self.was_used || self.peer_used != Some(false) {
            LOST_HOLD
        } else {
            Duration::ZERO
        }
    }
}

/// When something that failed is tried again.
#[derive(Debug)]
pub(super) struct Retry {
    pub(super) first: Duration,
    pub(super) max: Duration,
    pub(super) failures: u32,
    pub(super) next: Option<Instant>,
    pub(super) running: bool,
}

impl Retry {
    pub(super) fn new(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            failures: 0,
            next: None,
            running: false,
        }
    }

    /// Whether to start now; the caller then starts it.
    pub(super) fn start(&mut self, now: Instant) -> bool {
        let due = !self.running && self.next.is_none_or(|at| at <= now);
        self.running |= due;
        due
    }

    pub(super) fn done(&mut self, now: Instant, success: bool) {
        self.running = false;
        if success {
            self.failures = 0;
            self.next = Some(now + self.first);
        } else {
            let wait = self.first * 2_u32.saturating_pow(self.failures.min(16));
            self.failures += 1;
            self.next = Some(now + wait.min(self.max));
        }
    }

    pub(super) fn planned(&self) -> Option<Instant> {
        self.next.filter(|_| !self.running)
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
        self.next = None;
    }
}
