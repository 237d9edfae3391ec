//! The real matrix beside the simulated one.

use serde::Serialize;

use crate::matrix::{HEADINGS, MissingMarks, PairReport, Report, replace_between, rows_text};

/// Lines of a document between which the table stands.
pub const BEGIN_MARK: &str = "<!-- netns matrix: begin -->";
/// See [`BEGIN_MARK`].
pub const END_MARK: &str = "<!-- netns matrix: end -->";

/// Both reports of the same options.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// In namespaces.
    pub real: Report,
    /// On the virtual network.
    pub simulated: Report,
}

impl Comparison {
    /// Where the two differ, one line for each pair.
    #[must_use]
    pub fn differences(&self) -> Vec<String> {
        let pairs = self.real.pairs.iter();
        let differ = pairs.filter_map(|real| {
            let difference = self.difference(real)?;
            Some(format!("{} - {}: {difference}", real.a, real.b))
        });
        differ.collect()
    }

    /// The table of the real one, with a column that says where the other differs.
    #[must_use]
    pub fn table(&self) -> String {
        self.real.tables(|pairs| {
            let mut headings = HEADINGS.to_vec();
            headings.push("simulated");
            let rows = pairs.iter().map(|real| {
                let mut row = real.cells().to_vec();
                row.push(self.difference(real).unwrap_or_else(|| "same".to_owned()));
                row
            });
            rows_text(&headings, &rows.collect::<Vec<_>>())
        })
    }

    /// The document with the table between its marks instead of what stood there.
    ///
    /// # Errors
    /// If it has no marks.
    pub fn replace_between_marks(&self, document: &str) -> Result<String, MissingMarks> {
        replace_between(document, BEGIN_MARK, END_MARK, &self.table())
    }

    /// What the simulator came to, if that is something else.
    fn difference(&self, real: &PairReport) -> Option<String> {
        let mut pairs = self.simulated.pairs.iter();
        let same_pair = |p: &&PairReport| (p.family, p.a, p.b) == (real.family, real.a, real.b);
        let simulated = pairs.find(same_pair)?;
        let comes_to = |pair: &PairReport| {
            let way = match (pair.connected, pair.direct) {
                (0, _) => "not connected",
                (_, 0) => "circuit",
                _ => "direct",
            };
            (way, pair.technique.filter(|_| pair.direct > 0))
        };
        let (ours, theirs) = (comes_to(real), comes_to(simulated));
        let [_, connected, direct, technique, ..] = simulated.cells();
        (ours != theirs).then(|| match theirs.0 {
            "direct" => format!("{direct} direct by {technique}"),
            way => format!("{way}, {connected} connected"),
        })
    }
}
