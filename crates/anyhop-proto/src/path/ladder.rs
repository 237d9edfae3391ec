//! The ladder of techniques towards a direct path: which is tried, in what order, and
//! when again.
//!
//! The client of a session owns the [`Ladder`]; both ends compute the same [`plan`] from
//! both NAT profiles, so that the server refuses what cannot work. A technique that has
//! failed is not repeated in its round: 97.6 % of the holes that DCUtR punches are
//! punched by the first attempt, so another technique is worth more than another try.
//!
//! **A round is a race.** The next technique starts when the one before has had its
//! [head start](Technique::head_start), or at once when nothing that runs is in the plan
//! any more: a round begins before the NATs are known, and the plan changes with what is
//! learned. Each has sockets of its own, or tells its pings from those of the others, so
//! that both may win; the first to get there ends the others. When all have failed the
//! round has, and the path agent waits before the next.
//!
//! What runs, on which side:
//!
//! | one side | other side | technique |
//! |---|---|---|
//! | EIM or unknown | EIM or unknown | punch; low-TTL openers, then with swapped roles |
//! | ADM, APDM | EIM, lets other ports in | punch: the filter admits the unforeseen port |
//! | ADM, APDM, predictable | EIM + APDF | prediction; then birthday |
//! | ADM, APDM, random | EIM + APDF | birthday |
//! | ADM, APDM, predictable | the same | prediction of both |
//! | ADM, APDM, random | ADM, APDM | nothing: about 54,000 probes for an even chance |

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::nat::{Family, Profile, Profiles};

/// Sockets that the side with the unforeseeable NAT opens in a birthday attempt.
pub const BIRTHDAY_SOCKETS: u16 = 256;
/// Ports that the other side guesses in one.
pub const BIRTHDAY_GUESSES: u16 = 1024;
/// Ports that a prediction guesses: room for what else the host sends meanwhile.
pub const PREDICTION_GUESSES: u16 = 16;
/// Wait before a birthday attempt with the same peer is repeated.
pub const BIRTHDAY_COOL_DOWN: Duration = Duration::from_secs(60);
/// Wait before a prediction is repeated.
pub const PREDICTION_COOL_DOWN: Duration = Duration::from_secs(5);
/// Wait before low-TTL openers are repeated.
pub const LOW_TTL_COOL_DOWN: Duration = Duration::from_secs(30);
/// How long the technique before another has for itself: a punch that works takes a round
/// trip, and the next costs a socket and some pings.
pub const HEAD_START: Duration = Duration::from_millis(400);
/// The same before a birthday attempt, which costs 256 sockets and a thousand pings.
pub const BIRTHDAY_HEAD_START: Duration = Duration::from_millis(800);
/// Techniques of one session that run at once, on either side.
pub const MAX_RACING: usize = 4;
/// How often a round looks whether there is something to try by what was learned.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A way of getting a direct path that both ends must take part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Technique {
    /// Both ping all of each other's candidates at once.
    Punch,
    /// The same between fresh sockets, but the server's first pings die on the way, so that
    /// the client's NAT hears nothing before it has sent.
    LowTtlServer,
    /// The same with swapped roles.
    LowTtlClient,
    /// Guessing the next ports of NATs that can be foreseen.
    Prediction,
    /// Many sockets on one side, many guesses on the other.
    Birthday,
}

impl Technique {
    /// Its number on the wire.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Punch => 1,
            Self::LowTtlServer => 2,
            Self::LowTtlClient => 3,
            Self::Prediction => 4,
            Self::Birthday => 5,
        }
    }

    /// The technique of a number.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        [
            Self::Punch,
            Self::LowTtlServer,
            Self::LowTtlClient,
            Self::Prediction,
            Self::Birthday,
        ]
        .into_iter()
        .find(|t| u32::from(t.code()) == code)
    }

    /// Whether it pings ports that nobody has named, so that it needs a budget of its own.
    #[must_use]
    pub fn guesses(self) -> bool {
        matches!(self, Self::Prediction | Self::Birthday)
    }

    /// Whether an attempt is for one family only, between sockets that it may have for
    /// itself; a punch is for all addresses of both main sockets.
    #[must_use]
    pub fn is_of_family(self) -> bool {
        self != Self::Punch
    }

    /// How long the technique before it runs alone.
    #[must_use]
    pub fn head_start(self) -> Duration {
        match self {
            Self::Birthday => BIRTHDAY_HEAD_START,
            _ => HEAD_START,
        }
    }

    /// Wait before it is repeated with the same peer.
    #[must_use]
    pub fn cool_down(self) -> Duration {
        match self {
            Self::Punch => Duration::ZERO,
            Self::LowTtlServer | Self::LowTtlClient => LOW_TTL_COOL_DOWN,
            Self::Prediction => PREDICTION_COOL_DOWN,
            Self::Birthday => BIRTHDAY_COOL_DOWN,
        }
    }
}

/// A technique and the family it is for.
pub type Choice = (Technique, Family);

/// What a plan says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Try this.
    Try(Choice),
    /// This is not worth trying.
    Skip(Choice, &'static str),
}

/// What a [`Ladder`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Propose this technique to the peer, or note why it is not worth trying.
    Take(Step),
    /// Nothing is left that could be tried.
    RoundFailed,
}

/// The techniques for two NATs over one family, in order. Both ends compute the same:
/// it matters not which of them is the client.
#[must_use]
pub fn plan_family(family: Family, a: &Profile, b: &Profile) -> Vec<Step> {
    use Technique::{Birthday, LowTtlClient, LowTtlServer, Prediction, Punch};
    let steps = |techniques: &[Technique]| -> Vec<Step> {
        let tries = techniques.iter().map(|t| Step::Try((*t, family)));
        tries.collect()
    };
    let (hard, easy) = match (a.is_hard(), b.is_hard()) {
        (false, false) => return steps(&[Punch, LowTtlServer, LowTtlClient]),
        (true, true) if a.is_predictable() && b.is_predictable() => return steps(&[Prediction]),
        (true, true) => {
            let why = "each NAT takes another port for each destination, and one of them at random";
            return vec![Step::Skip((Birthday, family), why)];
        }
        (true, false) => (a, b),
        (false, true) => (b, a),
    };
    let guesses: &[Technique] = if hard.is_predictable() {
        &[Prediction, Birthday]
    } else {
        &[Birthday]
    };
    match easy.admits_other_ports() {
        Some(true) => steps(&[Punch, LowTtlServer, LowTtlClient]),
        Some(false) => steps(guesses),
        None => [steps(&[Punch]), steps(guesses)].concat(),
    }
}

/// The techniques for two nodes over all families that both have, in order. One punch
/// covers both families.
#[must_use]
pub fn plan(families: &[Family], a: &Profiles, b: &Profiles) -> Vec<Step> {
    let mut out: Vec<Step> = Vec::new();
    for family in families {
        for step in plan_family(*family, a.of(*family), b.of(*family)) {
            let again = |s: &Step| match (s, &step) {
                (Step::Try((a, _)), Step::Try((b, _))) => a == b && !a.is_of_family(),
                _ => false,
            };
            if !out.iter().any(again) {
                out.push(step);
            }
        }
    }
    // Stable: what needs no guessing first.
    out.sort_by_key(|step| match step {
        Step::Try((technique, _)) => technique.code(),
        Step::Skip(..) => u8::MAX,
    });
    out
}

/// Chooses the techniques of one session, on its client's side.
#[derive(Debug, Default)]
pub struct Ladder {
    peer: Profiles,
    /// Families that the peer has addresses of; `None` before it told.
    peer_families: Option<Vec<Family>>,
    /// Settled in this round: tried, skipped or refused.
    settled: Vec<Choice>,
    /// Those of them that run now, [`MAX_RACING`] at most.
    running: Vec<Choice>,
    /// When the latest of them started, unless one has failed since.
    started: Option<Instant>,
    /// Whether a round runs.
    racing: bool,
    /// When there may be something to do.
    look_at: Option<Instant>,
    /// When each may be tried again.
    cool_until: BTreeMap<Choice, Instant>,
}

impl Ladder {
    /// Begins a round: everything that has cooled down may be tried again.
    pub fn start_round(&mut self, now: Instant) {
        self.settled.clear();
        self.running.clear();
        self.started = None;
        self.racing = true;
        self.look_at = Some(now);
    }

    /// Ends the round: nothing more is tried.
    pub fn end_round(&mut self) {
        self.racing = false;
        self.look_at = None;
    }

    /// The network changed: what failed may work now.
    pub fn handle_network_changed(&mut self) {
        self.settled.clear();
        self.cool_until.clear();
    }

    /// What the peer says of its NATs and its addresses.
    pub fn handle_peer(&mut self, profiles: Profiles, families: Vec<Family>) {
        self.peer = profiles;
        self.peer_families = Some(families);
    }

    /// An attempt begins to ping: its head start counts from now.
    pub fn handle_started(&mut self, now: Instant) {
        self.started = Some(now);
    }

    /// An attempt got there and ended the others: nothing more is tried unless it fails.
    pub fn handle_reached(&mut self, choice: Choice) {
        self.running.retain(|c| *c == choice);
        self.look_at = None;
    }

    /// An attempt failed or was refused: the next one needs not wait.
    pub fn handle_failed(&mut self, now: Instant, choice: Choice) {
        self.running.retain(|c| *c != choice);
        self.started = None;
        self.look_at = self.racing.then_some(now);
    }

    /// What to do now, to be asked until there is nothing.
    pub fn poll(&mut self, now: Instant, own: &Profiles, families: &[Family]) -> Option<Move> {
        if self.look_at.is_none_or(|at| at > now) {
            return None;
        }
        let plan = plan(&self.common(families), own, &self.peer);
        let Some(step) = plan.iter().find(|step| self.is_due(now, step)) else {
            if self.running.is_empty() {
                self.end_round();
                return Some(Move::RoundFailed);
            }
            self.look_at = Some(now + LOOK_AGAIN);
            return None;
        };
        let (Step::Try(choice) | Step::Skip(choice, _)) = *step;
        if matches!(step, Step::Try(_)) {
            let full = self.running.len() >= MAX_RACING;
            let waits = self.waits_until(choice, &plan).filter(|at| *at > now);
            if full || waits.is_some() {
                let again = now + LOOK_AGAIN;
                self.look_at = Some(waits.map_or(again, |at| at.min(again)));
                return None;
            }
            self.running.push(choice);
            self.started = Some(now);
            self.cool_until.insert(choice, now + choice.0.cool_down());
        }
        self.settled.push(choice);
        Some(Move::Take(*step))
    }

    /// When to [`poll`](Self::poll) again; `None` while nothing is to be tried.
    #[must_use]
    pub fn timeout(&self) -> Option<Instant> {
        self.look_at
    }

    fn is_due(&self, now: Instant, step: &Step) -> bool {
        let (Step::Try(choice) | Step::Skip(choice, _)) = step;
        let cools = self.cool_until.get(choice).is_some_and(|at| *at > now);
        !cools && !self.settled.contains(choice)
    }

    /// Until when a technique leaves the field to those that run.
    fn waits_until(&self, next: Choice, plan: &[Step]) -> Option<Instant> {
        let hopeful = self.running.iter().any(|c| plan.contains(&Step::Try(*c)));
        let started = self.started.filter(|_| hopeful)?;
        Some(started + next.0.head_start())
    }

    fn common(&self, own: &[Family]) -> Vec<Family> {
        let both = own.iter().filter(|f| {
            let peer = self.peer_families.as_ref();
            peer.is_none_or(|p| p.contains(f))
        });
        both.copied().collect()
    }

    /// What the next round will begin with.
    #[must_use]
    pub fn first(&self, own: &Profiles, families: &[Family]) -> Option<Technique> {
        let plan = plan(&self.common(families), own, &self.peer);
        plan.into_iter().find_map(|step| match step {
            Step::Try((technique, _)) => Some(technique),
            Step::Skip(..) => None,
        })
    }
}

/// A node-wide allowance of pings to addresses that have proven nothing: a token bucket.
#[derive(Debug)]
pub struct PingBudget {
    tokens: u32,
    refilled: Instant,
}

impl PingBudget {
    /// Pings that may go out at once: two birthday attempts.
    pub const CAPACITY: u32 = 4096;
    /// Pings that are allowed again each second.
    pub const PER_SECOND: u32 = 64;

    /// A full allowance.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            tokens: Self::CAPACITY,
            refilled: now,
        }
    }

    /// Gives back what was taken and not used.
    pub fn give_back(&mut self, n: u32) {
        self.tokens = self.tokens.saturating_add(n).min(Self::CAPACITY);
    }

    /// Takes `n` pings; false, and nothing taken, when so many are not left.
    pub fn take(&mut self, now: Instant, n: u32) -> bool {
        let seconds = now.saturating_duration_since(self.refilled).as_secs();
        if seconds > 0 {
            let more = u32::try_from(seconds)
                .unwrap_or(u32::MAX)
                .saturating_mul(Self::PER_SECOND);
            self.tokens = self.tokens.saturating_add(more).min(Self::CAPACITY);
            self.refilled += Duration::from_secs(seconds);
        }
        let enough = self.tokens >= n;
        if enough {
            self.tokens -= n;
        }
        enough
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
#[path = "ladder_tests.rs"]
mod tests;
