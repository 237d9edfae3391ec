//! The matrix: each kind of place with each, what came of it, and whether that is what
//! the model says is possible.
//!
//! A run is two nodes on a virtual network of their own who know one relay and each
//! other's key (`pair`). All runs happen under tokio's paused clock, on threads of their
//! own, so that an hour of waiting takes a moment and times are the network's and not the
//! machine's. What the seed decides repeats: keys, ports, losses; what the nodes draw from
//! the system's randomness (connection ids, guesses) does not.

mod expect;
mod kind;
mod pair;
mod table;
#[cfg(test)]
mod tests;

pub use expect::{
    BIRTHDAY_PROBES, BIRTHDAY_SOCKETS, Expectation, PROBABILITY_MARGIN, birthday, possible,
    technique_text,
};
pub use kind::{Family, Kind, Placed, UnknownKind};
pub use pair::Outcome;
pub use table::{BEGIN_MARK, END_MARK, MissingMarks, PairReport, Report, replace_between_marks};
pub(crate) use table::{HEADINGS, replace_between, rows_text};

use std::{sync::Mutex, thread, time::Duration};

use crate::clock::run_virtual;

/// First bytes must come within this, in the median of a pair.
pub const FIRST_BYTE_LIMIT: Duration = Duration::from_secs(1);

/// Direct paths of pairs of cones must be there within this, in the median.
pub const CONE_DIRECT_LIMIT: Duration = Duration::from_secs(2);

/// Runs at least of a pair that the model has a probability for: so many that luck alone
/// takes it below [`PROBABILITY_MARGIN`] once in some thousand times.
pub const LIKELY_RUNS: u32 = 120;

/// Threads that run pairs.
const MAX_THREADS: usize = 8;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Decides keys, ports and losses.
    pub seed: u64,
    /// Runs of each pair, the two nodes dialling in turn; [`LIKELY_RUNS`] at least where the
    /// model has a probability.
    pub runs: u32,
    /// Over which families.
    pub families: Vec<Family>,
    /// Which kinds; each is paired with each, itself included.
    pub kinds: Vec<Kind>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            runs: 5,
            families: vec![Family::V4, Family::V6],
            kinds: Kind::ALL.to_vec(),
        }
    }
}

impl Options {
    /// How often a pair is run.
    fn runs_of(&self, a: Kind, b: Kind) -> usize {
        let runs = match possible(a, b) {
            Expectation::Likely(..) => self.runs.max(LIKELY_RUNS),
            _ => self.runs,
        };
        usize::try_from(runs).unwrap_or(usize::MAX)
    }

    /// The pairs that apply, in the order of the table.
    #[must_use]
    pub fn pairs(&self) -> Vec<(Family, Kind, Kind)> {
        let mut pairs = Vec::new();
        for family in &self.families {
            let kinds = self.kinds.iter().filter(|kind| kind.applies_to(*family));
            let kinds: Vec<_> = kinds.copied().collect();
            for (i, a) in kinds.iter().enumerate() {
                pairs.extend(kinds[i..].iter().map(|b| (*family, *a, *b)));
            }
        }
        pairs
    }
}

/// Runs the matrix; `progress` is told how many runs of how many are done. Blocks the
/// calling thread.
pub fn run(options: &Options, progress: &(dyn Fn(usize, usize) + Sync)) -> Report {
    let pairs = options.pairs();
    let jobs = pairs.iter().enumerate().flat_map(|(pair, (_, a, b))| {
        let runs = options.runs_of(*a, *b);
        (0..runs).map(move |run| (pair, run))
    });
    let total = jobs.clone().count();
    // Runs are taken one by one, so that no thread ends up with all the long ones.
    let work = Mutex::new((jobs, vec![Vec::new(); pairs.len()], 0));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads.min(MAX_THREADS) {
            scope.spawn(|| {
                let next = || lock(&work).0.next();
                while let Some((pair, run)) = next() {
                    let outcome = run_one(options.seed, pairs[pair], pair, run);
                    let mut work = lock(&work);
                    work.1[pair].push((run, outcome));
                    work.2 += 1;
                    progress(work.2, total);
                }
            });
        }
    });
    let (_, mut outcomes, _) = work.into_inner().expect("no holder panics");
    let reports = pairs.iter().zip(&mut outcomes);
    Report {
        seed: options.seed,
        runs: options.runs,
        pairs: reports
            .map(|((family, a, b), outcomes)| {
                outcomes.sort_by_key(|(run, _)| *run);
                let outcomes = outcomes.iter().map(|(_, outcome)| outcome);
                PairReport::new(*family, *a, *b, outcomes)
            })
            .collect(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}

fn run_one(seed: u64, (family, a, b): (Family, Kind, Kind), pair: usize, run: usize) -> Outcome {
    let (a, b) = if run.is_multiple_of(2) {
        (a, b)
    } else {
        (b, a)
    };
    // Seeds of different runs have nothing in common but the one they come from.
    let seed = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add((pair * 1_000_003 + run) as u64);
    run_virtual(pair::run(a, b, family, seed)).unwrap_or_else(|e| Outcome {
        complaints: vec![format!("no runtime: {e}")],
        ..Outcome::default()
    })
}
