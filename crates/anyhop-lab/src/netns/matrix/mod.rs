//! The matrix of [`crate::matrix`] on the real kernel: the real program in namespaces,
//! behind the same kinds of NAT made of nftables, over one relay.
//!
//! Each place stands twice in the lab (`world`), so that it can be paired with itself.
//! A run starts two daemons anew behind NATs that have forgotten everything, has one
//! ping the other, and waits for a direct path for as long as the model gives hope. Runs
//! that need different places go on at the same time. Times include what a busy machine
//! adds.

mod compare;
mod world;

pub use compare::{BEGIN_MARK, Comparison, END_MARK};

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhop::Technique;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

use self::world::World;
use super::{Daemon, LabError, Told};
use crate::matrix::{Expectation, Kind, Options, Outcome, PairReport, Report, possible};

/// Runs at once: daemons are idle most of the time, handshakes are not.
const AT_ONCE: usize = 4;

/// How long the first byte may take before the pair counts as not connected.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);

/// How long a direct path is waited for after that, and how long if there can be none.
const DIRECT_PATIENCE: Duration = Duration::from_secs(30);
const NO_DIRECT_PATIENCE: Duration = Duration::from_secs(2);

/// How long a daemon may take to answer on its control socket.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// How long a daemon may take to end.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Runs the matrix with the program at `binary`; `progress` is told how many runs of how
/// many are done. The seed decides nothing here: the kernel draws its own numbers.
///
/// # Errors
/// When the lab cannot be made or the relay does not start. A pair that does not connect
/// is no error but a result.
pub async fn run(
    binary: PathBuf,
    options: &Options,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Report, LabError> {
    let all = options.pairs();
    let total = all.len() * usize::try_from(options.runs).unwrap_or(usize::MAX);
    let mut done = 0;
    let mut pairs = Vec::new();
    for family in &options.families {
        let of_family: Vec<_> = all.iter().filter(|(f, ..)| f == family).collect();
        let world = World::new(&binary, *family, &options.kinds).await?;
        let world = Arc::new(world);
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        let mut running = JoinSet::new();
        for (n, (_, a, b)) in of_family.iter().enumerate() {
            for run in 0..options.runs {
                let (world, permits) = (Arc::clone(&world), Arc::clone(&permits));
                let pair = (*a, *b);
                running.spawn(async move {
                    // The permit last, so that who waits for a place holds up nobody.
                    let places = world.take(pair).await;
                    let _permit = permits.acquire().await;
                    let outcome = measure(&world, &places, pair, run).await;
                    (n, run, outcome)
                });
            }
        }
        let mut outcomes = vec![Vec::new(); of_family.len()];
        while let Some(ended) = running.join_next().await {
            done += 1;
            progress(done, total);
            if let Ok((n, run, outcome)) = ended {
                outcomes[n].push((run, outcome));
            }
        }
        pairs.extend(
            of_family
                .iter()
                .zip(&mut outcomes)
                .map(|((_, a, b), outcomes)| {
                    outcomes.sort_by_key(|(run, _)| *run);
                    let outcomes = outcomes.iter().map(|(_, outcome)| outcome);
                    PairReport::new(*family, *a, *b, outcomes)
                }),
        );
    }
    Ok(Report {
        seed: options.seed,
        runs: options.runs,
        pairs,
    })
}

/// One run; whatever goes wrong is part of its outcome. The two dial in turn.
async fn measure(world: &World, places: &world::Taken, pair: (Kind, Kind), run: u32) -> Outcome {
    let mut outcome = Outcome::default();
    let hope = possible(pair.0, pair.1);
    let played = async {
        let [a, b] = world.start(places, run).await?;
        let (from, to) = if run.is_multiple_of(2) {
            (&a, &b)
        } else {
            (&b, &a)
        };
        let played = play(from, to, hope, &mut outcome).await;
        // Gone before the next ones want their ports.
        let (a, b) = tokio::join!(a.stop(STOP_WITHIN), b.stop(STOP_WITHIN));
        let all = [played, a.map(drop), b.map(drop)];
        all.into_iter().collect::<Result<(), LabError>>()
    };
    if let Err(e) = played.await {
        outcome.complaints.push(e.to_string());
    }
    outcome
}

async fn play(
    from: &Daemon,
    to: &Daemon,
    hope: Expectation,
    outcome: &mut Outcome,
) -> Result<(), LabError> {
    let began = Instant::now();
    let pong = ping(from, to).await?;
    let first_byte = began.elapsed();
    outcome.first_byte = Some(first_byte);
    let patience = match hope {
        Expectation::CircuitOnly => NO_DIRECT_PATIENCE,
        _ => DIRECT_PATIENCE,
    };
    let direct = match pong["kind"] == "direct" {
        true => Some(first_byte),
        false => first_direct(from, to, patience)
            .await
            .map(|at| at.saturating_duration_since(began)),
    };
    if let Some(direct) = direct {
        outcome.direct = Some(direct);
        outcome.technique = technique(from, to).await;
    }
    ping(from, to).await.map(drop)
}

async fn ping(from: &Daemon, to: &Daemon) -> Result<Value, LabError> {
    let within = CONNECT_PATIENCE.as_secs() * 1000;
    let ask = json!({"peer": to.peer(), "timeout_ms": within});
    from.post("/v1/ping", &ask, CONNECT_PATIENCE + ANSWER_WITHIN)
        .await
}

/// When the dialler first had a direct path to the other.
async fn first_direct(from: &Daemon, to: &Daemon, within: Duration) -> Option<Instant> {
    let direct = |told: &Told| {
        let event = &told.event;
        event["event"] == "path_selected"
            && event["peer_id"] == to.peer()
            && event["path"]["kind"] == "direct"
    };
    let told = from.tells("a direct path", within, direct).await;
    told.ok().map(|told| told.at)
}

/// What led to the direct path: the last attempt of either side that did.
async fn technique(from: &Daemon, to: &Daemon) -> Option<Technique> {
    let of_dialler = explained(from, to).await;
    if let Some((Technique::WebSocket, _)) = of_dialler {
        return Some(Technique::WebSocket);
    }
    let of_both = [of_dialler, explained(to, from).await];
    let last = of_both.into_iter().flatten().min_by_key(|(_, ago)| *ago);
    last.map(|(technique, _)| technique)
}

/// The technique of the last attempt that led to a direct path, and how long ago that
/// was, milliseconds.
async fn explained(from: &Daemon, to: &Daemon) -> Option<(Technique, u64)> {
    let path = format!("/v1/explain/{}", to.peer());
    let explained = from.get(&path, ANSWER_WITHIN).await.ok()?;
    if explained["selected"]["carrier"] == "ws" {
        return Some((Technique::WebSocket, 0));
    }
    let attempts = explained["attempts"].as_array()?;
    let led = attempts
        .iter()
        .filter(|a| a["outcome"] == "connected" && a["technique"] != "circuit");
    led.filter_map(|attempt| {
        let technique = serde_json::from_value(attempt["technique"].clone()).ok()?;
        let ms = |key: &str| attempt[key].as_u64().unwrap_or(0);
        Some((
            technique,
            ms("started_ms_ago").saturating_sub(ms("took_ms")),
        ))
    })
    .min_by_key(|(_, ago)| *ago)
}

/// Where the program of this process is, which is what the matrix runs from the command
/// line.
///
/// # Errors
/// When the system does not tell.
pub fn own_binary() -> Result<PathBuf, LabError> {
    std::env::current_exe().map_err(|source| LabError::Run {
        what: "finding this program".into(),
        source,
    })
}
