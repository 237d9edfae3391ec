//! Measures messages of 1 KiB, beside rust-libp2p in the same run.
//!
//! ```text
//! main      rounds, turns, the table        pair    one to one: requests, messages
//! stats     percentiles of a round          crowd   one to a hundred: posts
//! spread    medians over rounds, shared with the other benchmarks
//! ours      Anyhop as a contender           rival   rust-libp2p as one
//! ```
//!
//! All nodes of a round live in this process, on one runtime, and speak over sockets on
//! loopback. Contenders take turns within a round, with fresh nodes each time.

mod crowd;
mod ours;
mod pair;
mod rival;
#[path = "../../src/stats.rs"]
mod spread;
mod stats;

use std::{error::Error, time::Duration};

use clap::{Parser, ValueEnum};
use serde::Serialize;

use self::{rival::Transport, spread::Spread, stats::Sample};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Bytes of a message, a request, a reply and a post.
const BODY: usize = 1024;
/// Requests and messages in flight at once, one row each.
const IN_FLIGHT: [usize; 2] = [1, 64];

/// Measures messages of Anyhop and of rust-libp2p.
#[derive(Debug, Parser)]
#[command(name = "anyhop-bench-messages", version)]
struct Cli {
    /// Rounds; what is printed is their median and extremes.
    #[arg(long, default_value_t = 5)]
    rounds: u16,
    /// Seconds that each contender is measured in each round.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Nodes that get what one publishes.
    #[arg(long, default_value_t = 100)]
    readers: usize,
    /// Only these.
    #[arg(long, value_enum)]
    only: Vec<Work>,
    /// Only contenders whose names contain this.
    #[arg(long, default_value = "")]
    contender: String,
    /// Print one JSON value instead of a Markdown table.
    #[arg(long)]
    json: bool,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Work {
    /// One to one: 1 KiB there and 1 KiB back.
    Requests,
    /// One to one: 1 KiB there, and word that it arrived.
    Messages,
    /// One to many.
    Posts,
}

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contender {
    Anyhop,
    Libp2p(Transport),
}

impl Contender {
    const ALL: [Self; 3] = [
        Self::Anyhop,
        Self::Libp2p(Transport::Quic),
        Self::Libp2p(Transport::Tcp),
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Anyhop => "Anyhop",
            Self::Libp2p(Transport::Quic) => "rust-libp2p, QUIC",
            Self::Libp2p(Transport::Tcp) => "rust-libp2p, TCP",
        }
    }
}

/// A line of the table.
#[derive(Debug, Serialize)]
struct Row {
    what: String,
    contender: &'static str,
    per_second: Spread,
    p50_ms: Spread,
    p99_ms: Spread,
    cpu_us: Spread,
    /// Share of posts' deliveries that came in the time of the round.
    reach: Spread,
    /// Anyhop's rate by this contender's, round by round.
    ratio: Spread,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut rows = Vec::new();
    for work in [Work::Requests, Work::Messages, Work::Posts] {
        if !cli.only.is_empty() && !cli.only.contains(&work) {
            continue;
        }
        let variants = match work {
            Work::Posts => vec![crowd::IN_FLIGHT],
            Work::Requests | Work::Messages => IN_FLIGHT.to_vec(),
        };
        for in_flight in variants {
            rows.extend(compare(&cli, work, in_flight)?);
        }
    }
    match cli.json {
        true => println!("{:#}", serde_json::to_value(&rows)?),
        false => print_table(&rows),
    }
    Ok(())
}

/// All rounds of one kind of work.
fn compare(cli: &Cli, work: Work, in_flight: usize) -> Result<Vec<Row>> {
    let contenders = Contender::ALL.into_iter();
    let contenders = contenders.filter(|c| c.name().contains(&cli.contender));
    let mut samples: Vec<(Contender, Vec<Sample>)> = contenders.map(|c| (c, Vec::new())).collect();
    let what = match work {
        Work::Requests => format!("requests, {in_flight} in flight"),
        Work::Messages => format!("messages, {in_flight} in flight"),
        Work::Posts => format!("posts to {}, {in_flight} in flight", cli.readers),
    };
    for round in 0..cli.rounds {
        for (contender, samples) in &mut samples {
            eprintln!(
                "{what}: round {} of {}, {}",
                round + 1,
                cli.rounds,
                contender.name()
            );
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()?;
            let sample = runtime.block_on(measure(cli, work, in_flight, *contender));
            samples.push(sample?);
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }
    Ok(rows_of(&what, &samples))
}

async fn measure(cli: &Cli, work: Work, in_flight: usize, who: Contender) -> Result<Sample> {
    let during = Duration::from_secs_f64(cli.seconds);
    match (work, who) {
        (Work::Posts, Contender::Anyhop) => {
            let crowd = ours::crowd(cli.readers).await?;
            crowd::run(crowd, cli.readers, during).await
        }
        (Work::Posts, Contender::Libp2p(transport)) => {
            let crowd = rival::crowd(transport, cli.readers).await?;
            crowd::run(crowd, cli.readers, during).await
        }
        (work, Contender::Anyhop) => {
            let pair = ours::Pair::start().await?;
            pair::run(pair, work == Work::Requests, in_flight, during).await
        }
        (work, Contender::Libp2p(transport)) => {
            let pair = rival::Pair::start(transport).await?;
            pair::run(pair, work == Work::Requests, in_flight, during).await
        }
    }
}

fn rows_of(what: &str, samples: &[(Contender, Vec<Sample>)]) -> Vec<Row> {
    let rates = |samples: &[Sample]| samples.iter().map(|s| s.per_second).collect::<Vec<_>>();
    let ours = samples.iter().find(|(c, _)| *c == Contender::Anyhop);
    let ours = ours.map(|(_, s)| rates(s)).unwrap_or_default();
    let row = |(contender, samples): &(Contender, Vec<Sample>)| {
        let of = |figure: fn(&Sample) -> f64| Spread::of(samples.iter().map(figure));
        Row {
            what: what.to_owned(),
            contender: contender.name(),
            per_second: of(|s| s.per_second),
            p50_ms: of(|s| s.p50_ms),
            p99_ms: of(|s| s.p99_ms),
            cpu_us: of(|s| s.cpu_us),
            reach: of(|s| s.reach),
            ratio: Spread::of_ratios(&ours, &rates(samples)),
        }
    };
    samples.iter().map(row).collect()
}

fn print_table(rows: &[Row]) {
    println!(
        "| what | contender | per second | p50, ms | p99, ms | CPU, µs each | arrived | Anyhop by it |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for row in rows {
        println!(
            "| {} | {} | {:.0} | {:.2} | {:.2} | {:.1} | {:.3} | {:.2} |",
            row.what,
            row.contender,
            row.per_second,
            row.p50_ms,
            row.p99_ms,
            row.cpu_us,
            row.reach,
            row.ratio
        );
    }
}
