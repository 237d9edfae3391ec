//! What the runs of a pair come to, and the table of all.

use std::{fmt::Write as _, time::Duration};

use anyhop::Technique;
use serde::{Serialize, Serializer};
use thiserror::Error;

use super::{
    CONE_DIRECT_LIMIT, Expectation, FIRST_BYTE_LIMIT, Family, Kind, Outcome, possible,
    technique_text,
};

/// Lines of a document between which the table stands.
pub const BEGIN_MARK: &str = "<!-- matrix: begin -->";
/// See [`BEGIN_MARK`].
pub const END_MARK: &str = "<!-- matrix: end -->";

/// Of all pairs.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The seed of all runs.
    pub seed: u64,
    /// Runs of each pair, but for those that a probability asks more of.
    pub runs: u32,
    /// In the order of the table.
    pub pairs: Vec<PairReport>,
}

/// Of all runs of one pair. Times are medians, virtual, in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct PairReport {
    /// The family.
    #[serde(serialize_with = "family")]
    pub family: Family,
    /// One side.
    #[serde(serialize_with = "kind")]
    pub a: Kind,
    /// The other.
    #[serde(serialize_with = "kind")]
    pub b: Kind,
    /// Runs made.
    pub runs: usize,
    /// Runs in which a byte came back.
    pub connected: usize,
    /// Runs in which both sides went direct.
    pub direct: usize,
    /// The technique that most direct paths came from.
    pub technique: Option<Technique>,
    /// Until a byte came back, over the runs that connected.
    pub first_byte_ms: Option<f64>,
    /// Until both sides were direct, over the runs that got there.
    pub direct_ms: Option<f64>,
    /// What the model says.
    #[serde(serialize_with = "expectation")]
    pub possible: Expectation,
    /// The share of runs that must be direct by it.
    pub direct_share_expected: f64,
    /// What is not as it should be; empty is good.
    pub missed: Vec<String>,
}

impl PairReport {
    pub(crate) fn new<'a>(
        family: Family,
        a: Kind,
        b: Kind,
        outcomes: impl Iterator<Item = &'a Outcome> + Clone,
    ) -> Self {
        let first_bytes: Vec<_> = outcomes.clone().filter_map(|o| o.first_byte).collect();
        let directs: Vec<_> = outcomes.clone().filter_map(|o| o.direct).collect();
        let techniques: Vec<_> = outcomes.clone().filter_map(|o| o.technique).collect();
        let possible = possible(a, b);
        let mut report = Self {
            family,
            a,
            b,
            runs: outcomes.clone().count(),
            connected: first_bytes.len(),
            direct: directs.len(),
            technique: most_frequent(&techniques),
            first_byte_ms: median_ms(first_bytes),
            direct_ms: median_ms(directs),
            possible,
            direct_share_expected: possible.direct_share(),
            missed: Vec::new(),
        };
        report.missed = report.compare();
        let mut complaints: Vec<_> = outcomes.flat_map(|o| o.complaints.clone()).collect();
        complaints.sort();
        complaints.dedup();
        report.missed.extend(complaints);
        report
    }

    /// What falls short of the model.
    fn compare(&self) -> Vec<String> {
        let mut missed = Vec::new();
        if self.connected < self.runs {
            let failed = self.runs - self.connected;
            missed.push(format!("{failed} of {} runs not connected", self.runs));
        }
        let share = self.direct as f64 / self.runs.max(1) as f64;
        if share < self.direct_share_expected {
            missed.push(format!(
                "direct in {:.0} % of the runs, {:.1} % expected",
                share * 100.0,
                self.direct_share_expected * 100.0
            ));
        }
        let limit_ms = |limit: Duration| limit.as_secs_f64() * 1000.0;
        if self
            .first_byte_ms
            .is_some_and(|ms| ms >= limit_ms(FIRST_BYTE_LIMIT))
        {
            missed.push(format!("first byte later than {FIRST_BYTE_LIMIT:?}"));
        }
        let punched = self.possible == Expectation::Direct(Technique::Punch);
        if punched
            && self
                .direct_ms
                .is_some_and(|ms| ms >= limit_ms(CONE_DIRECT_LIMIT))
        {
            missed.push(format!("direct later than {CONE_DIRECT_LIMIT:?}"));
        }
        missed
    }

    /// A row of the table, under [`HEADINGS`].
    pub(crate) fn cells(&self) -> [String; 7] {
        let of_runs = |n: usize| format!("{:.0} %", n as f64 * 100.0 / self.runs.max(1) as f64);
        let ms = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms"));
        [
            format!("{} - {}", self.a, self.b),
            of_runs(self.connected),
            of_runs(self.direct),
            self.technique.map_or("circuit", technique_text).to_owned(),
            ms(self.first_byte_ms),
            ms(self.direct_ms),
            self.possible.text(),
        ]
    }
}

/// The columns of the table.
pub(crate) const HEADINGS: [&str; 7] = [
    "pair",
    "connected",
    "direct",
    "technique",
    "first byte",
    "direct after",
    "possible",
];

impl Report {
    /// Whether every pair connected in every run and came to what the model says.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.pairs.iter().all(|pair| pair.missed.is_empty())
    }

    /// What is not as it should be, one line each.
    #[must_use]
    pub fn missed(&self) -> Vec<String> {
        let lines = self.pairs.iter().flat_map(|pair| {
            let of_pair = pair.missed.iter();
            of_pair.map(move |m| format!("{} - {}: {m}", pair.a, pair.b))
        });
        lines.collect()
    }

    /// The table in Markdown, one for each family; it reads as text too.
    #[must_use]
    pub fn table(&self) -> String {
        self.tables(|pairs| {
            let rows: Vec<_> = pairs.iter().map(|pair| pair.cells().to_vec()).collect();
            rows_text(&HEADINGS, &rows)
        })
    }

    /// A table for each family, made by `write`, under a line that says what it is.
    pub(crate) fn tables(&self, write: impl Fn(&[&PairReport]) -> String) -> String {
        let mut text = String::new();
        for (family, name) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
            let of_family = self.pairs.iter().filter(|pair| pair.family == family);
            let pairs: Vec<_> = of_family.collect();
            if pairs.is_empty() {
                continue;
            }
            let seed = self.seed;
            let runs = match self.runs {
                1 => "1 run".to_owned(),
                n => format!("{n} runs"),
            };
            let most = pairs.iter().map(|pair| pair.runs).max();
            let likely = match most.filter(|most| *most as u64 > u64::from(self.runs)) {
                Some(most) => format!(" ({most} of those with a probability)"),
                None => String::new(),
            };
            let rows = write(&pairs);
            let _ = writeln!(
                text,
                "{name}, {runs} of each pair{likely}, seed {seed}:\n\n{rows}"
            );
        }
        text
    }
}

/// Rows in Markdown, in columns that are as wide as they must be.
pub(crate) fn rows_text(headings: &[&str], rows: &[Vec<String>]) -> String {
    let headings: Vec<_> = headings.iter().map(|text| (*text).to_owned()).collect();
    let width = |i: usize| {
        let all = rows.iter().chain([&headings]).map(|row| row[i].len());
        all.max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |row: &[String]| {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "| {cell:width$} ");
        }
        text.push_str("|\n");
    };
    line(&headings);
    let rules: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
    line(&rules);
    rows.iter().for_each(|row| line(row));
    text
}

/// A document without the two marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the document has no lines {0:?} and {1:?}, in this order")]
pub struct MissingMarks(&'static str, &'static str);

/// The document with `table` between its marks instead of what stood there.
///
/// # Errors
/// If it has no marks.
pub fn replace_between_marks(document: &str, table: &str) -> Result<String, MissingMarks> {
    replace_between(document, BEGIN_MARK, END_MARK, table)
}

/// The same with other marks.
pub(crate) fn replace_between(
    document: &str,
    begin_mark: &'static str,
    end_mark: &'static str,
    table: &str,
) -> Result<String, MissingMarks> {
    let missing = MissingMarks(begin_mark, end_mark);
    let begin = document.find(begin_mark).ok_or(missing)? + begin_mark.len();
    let end = document[begin..].find(end_mark).ok_or(missing)? + begin;
    let (before, after) = (&document[..begin], &document[end..]);
    Ok(format!("{before}\n\n{}\n\n{after}", table.trim()))
}

fn most_frequent(techniques: &[Technique]) -> Option<Technique> {
    let count = |technique| techniques.iter().filter(|t| **t == technique).count();
    let mut all = techniques.to_vec();
    all.sort();
    all.dedup();
    all.into_iter().max_by_key(|technique| count(*technique))
}

fn median_ms(mut times: Vec<Duration>) -> Option<f64> {
    times.sort();
    let middle = times.get(times.len() / 2)?;
    Some(middle.as_secs_f64() * 1000.0)
}

fn family<S: Serializer>(family: &Family, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    })
}

fn kind<S: Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.name())
}

fn expectation<S: Serializer>(possible: &Expectation, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&possible.text())
}
