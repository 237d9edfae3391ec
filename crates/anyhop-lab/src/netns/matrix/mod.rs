//! The pair matrix on the real kernel: the real program behind every kind of NAT that
//! nftables can make, one relay, every pair connected and measured.
//!
//! Each place stands twice in the lab, once to dial from and once to be dialled. The
//! daemons start once and live on; pairs are measured in rounds in which no daemon takes
//! part twice, some at a time.

mod place;
mod report;
mod world;

pub use place::Place;
pub use report::{Cell, Report};

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

use self::world::World;
use super::{Daemon, LabError, Told};

/// How long a daemon may take to answer on its control socket.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What is measured, and how patiently.
#[derive(Debug, Clone)]
pub struct MatrixConfig {
    /// The `anyhop` program.
    pub binary: PathBuf,
    /// Which places; each is paired with each, itself included.
    pub places: Vec<Place>,
    /// Only pairs of which this holds, the dialler first.
    pub pairs: fn(Place, Place) -> bool,
    /// How long two may take to connect.
    pub connect_within: Duration,
    /// How long a direct path is waited for after that, by the pair.
    pub direct_within: fn(Place, Place) -> Duration,
    /// Pairs measured at once.
    pub at_once: usize,
}

impl MatrixConfig {
    /// All pairs of all places.
    #[must_use]
    pub fn new(binary: PathBuf) -> Self {
        Self {
            binary,
            places: Place::ALL.to_vec(),
            pairs: |_, _| true,
            connect_within: Duration::from_secs(20),
            direct_within: |_, _| Duration::from_secs(8),
            at_once: 4,
        }
    }
}

/// Runs the matrix; `on_cell` sees each pair as it is done.
///
/// # Errors
/// When the lab cannot be made or a daemon does not start. A pair that does not connect
/// is no error but a result.
pub async fn run(
    config: MatrixConfig,
    on_cell: &mut (dyn FnMut(&Cell) + Send),
) -> Result<Report, LabError> {
    let world = Arc::new(World::new(&config).await?);
    let config = Arc::new(config);
    let permits = Arc::new(Semaphore::new(config.at_once));
    let mut cells = BTreeMap::new();
    let n = config.places.len();
    for round in 0..n {
        let mut pairs = JoinSet::new();
        for i in 0..n {
            let j = (i + round) % n;
            if !(config.pairs)(config.places[i], config.places[j]) {
                continue;
            }
            let (world, config, permits) = (world.clone(), config.clone(), permits.clone());
            pairs.spawn(async move {
                let _permit = permits.acquire().await;
                let (from, to) = (world.dialler(i), world.dialled(j));
                let (a, b) = (config.places[i], config.places[j]);
                ((i, j), measure(&config, (a, from), (b, to)).await)
            });
        }
        while let Some(done) = pairs.join_next().await {
            let Ok((at, cell)) = done else { continue };
            on_cell(&cell);
            cells.insert(at, cell);
        }
    }
    Ok(Report {
        cells: cells.into_values().collect(),
    })
}

async fn measure(config: &MatrixConfig, from: (Place, &Daemon), to: (Place, &Daemon)) -> Cell {
    let ((a, from), (b, to)) = (from, to);
    let mut cell = Cell::new(a, b);
    let began = Instant::now();
    let pong = match ping(from, to, config.connect_within).await {
        Ok(pong) => pong,
        Err(e) => {
            cell.error = Some(e.to_string());
            return cell;
        }
    };
    let first_byte = began.elapsed();
    cell.first_byte_ms = Some(millis(first_byte));
    cell.hops = pong["hops"].as_u64();
    let direct = match pong["kind"] == "direct" {
        true => Some(first_byte),
        false => first_direct(from, to, (config.direct_within)(a, b))
            .await
            .map(|at| at.saturating_duration_since(began)),
    };
    if let Some(direct) = direct {
        cell.direct_ms = Some(millis(direct));
        cell.technique = technique(from, to).await;
    }
    if let Err(e) = ping(from, to, config.connect_within).await {
        cell.error = Some(format!("connected, then: {e}"));
    }
    cell
}

async fn ping(from: &Daemon, to: &Daemon, within: Duration) -> Result<Value, LabError> {
    let ask = json!({"peer": to.peer(), "timeout_ms": millis(within)});
    from.post("/v1/ping", &ask, within + ANSWER_WITHIN).await
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

/// What the dialler says led to its direct path.
async fn technique(from: &Daemon, to: &Daemon) -> Option<String> {
    let path = format!("/v1/explain/{}", to.peer());
    let explained = from.get(&path, ANSWER_WITHIN).await.ok()?;
    let attempts = explained["attempts"].as_array()?;
    let led =
        |attempt: &&Value| attempt["outcome"] == "connected" && attempt["technique"] != "circuit";
    let technique = attempts.iter().rev().find(led)?["technique"].as_str()?;
    Some(technique.to_owned())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
