//! What came of simulated broadcasts.

use serde::{Deserialize, Serialize};

use super::sim::{Options, Strategy, Tally};
use crate::matrix::{MissingMarks, replace_between};

/// Where the table begins in a document.
pub const BEGIN_MARK: &str = "<!-- broadcast: begin -->";
/// Where it ends.
pub const END_MARK: &str = "<!-- broadcast: end -->";

/// One situation, simulated once for each seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// How posts spread.
    pub strategy: Strategy,
    /// How many nodes.
    pub nodes: usize,
    /// Share of frames lost, percent.
    pub loss_percent: u8,
    /// Share of nodes killed, percent.
    pub killed_percent: u8,
    /// Share of nodes replaced each minute, percent.
    pub churn_percent: u8,
    /// Of the simulations, each of which decides everything that is random.
    pub seeds: Vec<u64>,
    /// Measured posts.
    pub posts: usize,
    /// Those that reached every live node that was there when they were published.
    pub complete: usize,
    /// Into how many parts the overlay of live nodes fell when a post was published, at
    /// most; 0 where there is no overlay.
    pub parts: usize,
    /// Share of such nodes that a post reached, percent.
    pub reach_percent: f64,
    /// Copies of a post that came in, for each node it reached.
    pub copies: f64,
    /// The same, with those that were lost or sent to dead nodes.
    pub copies_sent: f64,
    /// Other frames sent, for each node and post.
    pub control: f64,
    /// Links that a post crossed, on the average and at most.
    pub hops: (f64, u8),
    /// Time from publishing to delivery, milliseconds: the median, 99 of 100, the last.
    pub time_ms: (u32, u32, u32),
}

impl Row {
    pub(super) fn of(options: &Options, seeds: &[u64], tally: &Tally) -> Self {
        let mut times = tally.times_ms.clone();
        times.sort_unstable();
        let at = |share: f64| {
            let last = times.len().saturating_sub(1);
            times.get((last as f64 * share) as usize).copied()
        };
        let percentile = |share| at(share).unwrap_or_default();
        let delivered = tally.times_ms.len().max(1) as f64;
        let hops: u64 = tally.hops.iter().map(|h| u64::from(*h)).sum();
        Self {
            strategy: options.strategy,
            nodes: options.nodes,
            loss_percent: options.loss,
            killed_percent: options.killed,
            churn_percent: options.churn,
            seeds: seeds.to_vec(),
            posts: tally.posts,
            complete: tally.complete,
            parts: tally.parts,
            reach_percent: 100.0 * tally.reached as f64 / tally.expected.max(1) as f64,
            copies: tally.copies as f64 / delivered,
            copies_sent: tally.copies_sent as f64 / delivered,
            control: tally.control as f64 / delivered,
            hops: (
                hops as f64 / delivered,
                tally.hops.iter().copied().max().unwrap_or_default(),
            ),
            time_ms: (percentile(0.5), percentile(0.99), percentile(1.0)),
        }
    }
}

/// Some simulations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// One for each.
    pub rows: Vec<Row>,
}

impl Report {
    /// The table of the document.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::from(
            "| nodes | loss | killed | churn | strategy | parts | reach | complete | copies | sent | control | hops | p50 | p99 | last |\n\
             |--:|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        );
        for row in &self.rows {
            text.push_str(&line(row));
        }
        text
    }

    /// Simulations in which a repaired strategy left somebody out.
    #[must_use]
    pub fn missed(&self) -> Vec<&Row> {
        let repaired = self.rows.iter().filter(|r| r.strategy != Strategy::Gossip);
        repaired.filter(|r| r.complete < r.posts).collect()
    }
}

fn line(row: &Row) -> String {
    let name = match row.strategy {
        Strategy::Tree => "tree",
        Strategy::Gossip => "gossip",
        Strategy::RainTree => "raintree",
    };
    let (hops, most) = row.hops;
    let (p50, p99, last) = row.time_ms;
    format!(
        "\n| {} | {} % | {} % | {} % | {name} | {} | {:.3} % | {}/{} | {:.3} | {:.3} | {:.1} | {hops:.1}, {most} | {p50} ms | {p99} ms | {last} ms |",
        row.nodes,
        row.loss_percent,
        row.killed_percent,
        row.churn_percent,
        row.parts,
        row.reach_percent,
        row.complete,
        row.posts,
        row.copies,
        row.copies_sent,
        row.control,
    )
}

/// The document with this table in the place of its old one.
///
/// # Errors
/// If it has no marks.
pub fn replace_between_marks(document: &str, table: &str) -> Result<String, MissingMarks> {
    replace_between(document, BEGIN_MARK, END_MARK, table)
}
