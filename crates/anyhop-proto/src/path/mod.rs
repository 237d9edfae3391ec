//! Which paths a session keeps, uses, probes and gives up.
//!
//! One [`PathAgent`] serves one connection. It is told what the engine sees (paths
//! opened and closed, traffic counters, round trips) and what probes found, and it
//! answers with [`Action`]s. The engine moves the data; the agent never sees it.
//!
//! **Bootstrap**: the first path is whatever the handshake ran over. On a circuit, the
//! client side asks for a punch at once.
//!
//! **Steady state**: the cheapest live path is selected, a circuit stays open below a
//! direct path as standby. Traffic that goes out and brings nothing back makes a path
//! suspect; suspect paths are pinged, since QUIC acknowledgements may come back over
//! another path and prove nothing. With the selected path all are pinged. A session with a direct path over one IP family looks
//! for another over the other, so that losing one family loses nothing; both sides ask, and
//! so open what filters are between them.
//!
//! Without a direct path there are two circuits, over different relays where there are: the
//! death of a relay costs what it takes to notice it.
//!
//! **WebSockets** stand in for UDP where that is blocked: one to the peer is opened when
//! no direct path over UDP has lived for a while, by either side, and closed again when
//! one has held for [`WEBSOCKET_HOLD`].
//!
//! **Failure**: a path whose pings stay unanswered is dead; so is one that the peer calls
//! dead. It is not used any more and its packets are diverted to the selected path, by which
//! the engine learns what to resend (noq does not fail over by itself). After [`LOST_HOLD`] it
//! is closed, if another has answered meanwhile. The last path is never closed: the client
//! looks for a circuit, and when nothing lives for [`GIVE_UP`] the session ends with that
//! reason.
//!
//! **Moving**: when this host's network changes, every path is pinged at once and has less
//! time to answer, and what waited for a later attempt is tried now. While the host has no
//! network at all nothing is closed and nothing given up: all paths are as dead as the
//! network, and most are as alive when it is back.

mod agent;
mod dues;
pub mod ladder;
mod offer;
mod punch;
mod state;

pub use agent::{Action, CloseReason, PathAgent, PathKey, Role, Route, Sample};
pub use dues::Dues;
pub use ladder::{Ladder, Move, PingBudget, Step, Technique};
pub use offer::{
    Candidate, CandidateKind, MAX_CANDIDATES, MAX_OFFER_FRAME, MAX_PREDICTED, Offer, Prediction,
};
pub(crate) use offer::{get_socket, put_ip};
pub use punch::{
    AFTER_OPENERS, BEFORE_GUESSES, BIRTHDAY_BUDGET, Local, PREDICTION_BUDGET, PUNCH_BUDGET,
    PunchAction, PunchPlan, Puncher, birthday_ports,
};

use std::time::Duration;

/// A path with unanswered traffic is pinged after this long, or two round trips.
pub const SUSPECT_AFTER: Duration = Duration::from_millis(150);
/// A path with unanswered pings is dead after this long, or three round trips. Not much: one
/// that is called dead by mistake is taken back by its next answer.
pub const DEAD_AFTER: Duration = Duration::from_millis(500);
/// After this host's network changed, a path that does not answer is dead after this long,
/// or three round trips.
pub const DEAD_AFTER_CHANGE: Duration = Duration::from_millis(350);
/// How long a dead path stays open: it may come back, and its packets take another one
/// meanwhile, so that the engine finds out what was lost on it. Three times the longest wait
/// between two of the engine's probes.
pub const LOST_HOLD: Duration = Duration::from_secs(3);
/// A session without any live path ends after this long. Time in which this host has no
/// network does not count.
pub const GIVE_UP: Duration = Duration::from_secs(15);
/// How often counters are read while there is traffic.
pub const ACTIVE_TICK: Duration = Duration::from_millis(200);
/// How often while a path is suspect.
pub const SUSPECT_TICK: Duration = Duration::from_millis(50);
/// While there is traffic, a path beside the selected one is pinged when it has not answered
/// for this long: a standby that is not known to live is none.
pub const STANDBY_CHECK: Duration = Duration::from_secs(2);
/// How often counters are read on a silent session: the delay before the death of an
/// idle path can be noticed.
pub const IDLE_TICK: Duration = Duration::from_secs(1);
/// First wait before a failed punch is tried again; doubles up to [`PUNCH_RETRY_MAX`].
pub const PUNCH_RETRY: Duration = Duration::from_secs(1);
/// Longest wait between punches.
pub const PUNCH_RETRY_MAX: Duration = Duration::from_secs(60);
/// First wait before the peer is looked for again in an IP family that has no path yet;
/// doubles up to [`FAMILY_RETRY_MAX`].
pub const FAMILY_RETRY: Duration = Duration::from_secs(1);
/// Longest wait between such attempts.
pub const FAMILY_RETRY_MAX: Duration = Duration::from_secs(120);
/// First wait before a failed circuit is tried again; doubles up to [`CIRCUIT_RETRY_MAX`].
pub const CIRCUIT_RETRY: Duration = Duration::from_millis(500);
/// Longest wait between attempts to open a circuit.
pub const CIRCUIT_RETRY_MAX: Duration = Duration::from_secs(30);
/// How long a session has been on one circuit alone when it looks for a second one over
/// other relays: many go direct before.
pub const STANDBY_DELAY: Duration = Duration::from_secs(2);
/// First wait before a second circuit that was not found is looked for again; doubles up
/// to [`STANDBY_RETRY_MAX`].
pub const STANDBY_RETRY: Duration = Duration::from_secs(10);
/// Longest wait between attempts to open a second circuit.
pub const STANDBY_RETRY_MAX: Duration = Duration::from_secs(300);
/// A path over a WebSocket with unanswered pings is dead after this long, or three round
/// trips.
pub const WEBSOCKET_DEAD_AFTER: Duration = Duration::from_secs(1);
/// A WebSocket is closed when a direct path over UDP has been selected for this long.
pub const WEBSOCKET_HOLD: Duration = Duration::from_secs(30);
/// While nothing lives, addresses that worked before are asked this often.
pub const LOOK_BACK: Duration = Duration::from_secs(1);
/// First wait before a failed WebSocket is tried again; doubles up to
/// [`WEBSOCKET_RETRY_MAX`].
pub const WEBSOCKET_RETRY: Duration = Duration::from_secs(1);
/// Longest wait between attempts to open a WebSocket.
pub const WEBSOCKET_RETRY_MAX: Duration = Duration::from_secs(30);

/// How long a session does without a direct path over UDP before it tries a WebSocket: a
/// punch has the time it usually needs, and the client, which alone can open the path,
/// goes first. `stalled`: nothing else lives either.
const fn websocket_delay(role: Role, stalled: bool) -> Duration {
    Duration::from_millis(match (role, stalled) {
        (Role::Client, true) => 0,
        (Role::Client, false) => 1500,
        (Role::Server, true) => 500,
        (Role::Server, false) => 4000,
    })
}
