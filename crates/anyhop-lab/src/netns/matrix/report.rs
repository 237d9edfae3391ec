//! What the matrix found.

use std::fmt;

use serde::Serialize;

use super::Place;

/// One pair.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// Who dialled.
    pub from: Place,
    /// Who was dialled.
    pub to: Place,
    /// From the dial to the answer to the first ping, milliseconds; `None` if there was
    /// none.
    pub first_byte_ms: Option<u64>,
    /// Links that the first ping crossed.
    pub hops: Option<u64>,
    /// From the dial to the first direct path, milliseconds; `None` if there was none.
    pub direct_ms: Option<u64>,
    /// How the direct path was got, if the program tells.
    pub technique: Option<String>,
    /// What went wrong.
    pub error: Option<String>,
}

impl Cell {
    pub(super) fn new(from: Place, to: Place) -> Self {
        Self {
            from,
            to,
            first_byte_ms: None,
            hops: None,
            direct_ms: None,
            technique: None,
            error: None,
        }
    }

    /// Whether the two exchanged anything.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.first_byte_ms.is_some()
    }

    /// Whether they got a direct path.
    #[must_use]
    pub fn direct(&self) -> bool {
        self.direct_ms.is_some()
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        let yes = |yes| if yes { "yes" } else { "no" };
        write!(
            f,
            "{:<20} {:<20} {:>9} {:>6}  {:<12} {:>10} {:>10}",
            self.from,
            self.to,
            yes(self.connected()),
            yes(self.direct()),
            self.technique.as_deref().unwrap_or("-"),
            ms(self.first_byte_ms),
            ms(self.direct_ms),
        )?;
        match &self.error {
            Some(error) => write!(f, "  {error}"),
            None => Ok(()),
        }
    }
}

/// All pairs.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// By dialler, then by who was dialled.
    pub cells: Vec<Cell>,
}

impl Report {
    /// Pairs that did not connect.
    pub fn failed(&self) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(|cell| !cell.connected())
    }

    /// The middle of the times to the first byte, of pairs that connected.
    #[must_use]
    pub fn median_first_byte_ms(&self) -> Option<u64> {
        median(self.cells.iter().filter_map(|cell| cell.first_byte_ms))
    }

    /// The middle of the times to a direct path, of pairs that got one.
    #[must_use]
    pub fn median_direct_ms(&self) -> Option<u64> {
        median(self.cells.iter().filter_map(|cell| cell.direct_ms))
    }

    /// The columns of the table.
    #[must_use]
    pub fn heading() -> String {
        format!(
            "{:<20} {:<20} {:>9} {:>6}  {:<12} {:>10} {:>10}",
            "dialler", "dialled", "connected", "direct", "technique", "first byte", "direct in"
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", Self::heading())?;
        for cell in &self.cells {
            writeln!(f, "{cell}")?;
        }
        let total = self.cells.len();
        let connected = total - self.failed().count();
        let direct = self.cells.iter().filter(|cell| cell.direct()).count();
        let ms = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        write!(
            f,
            "{connected} of {total} connected, {direct} direct; median first byte {}, direct {}",
            ms(self.median_first_byte_ms()),
            ms(self.median_direct_ms()),
        )
    }
}

fn median(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}
