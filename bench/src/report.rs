//! Results: a Markdown table for people and a JSON value for programs.

use std::fmt;

use serde_json::Value;

use crate::error::{BenchError, Result};

/// Where [`insert`] puts tables into a file.
const BEGIN: &str = "<!-- results -->";
const END: &str = "<!-- end of results -->";

/// The result of one subcommand.
#[derive(Debug)]
pub(crate) struct Report {
    /// Name of the subcommand.
    pub(crate) name: &'static str,
    /// What was done, in a line or two.
    pub(crate) what: String,
    pub(crate) columns: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
    /// The figures behind the rows, one value each.
    pub(crate) data: Vec<Value>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n\n{}\n", self.name, self.what)?;
        writeln!(f, "| {} |", self.columns.join(" | "))?;
        let rule: Vec<_> = self.columns.iter().map(|_| "---").collect();
        writeln!(f, "| {} |", rule.join(" | "))?;
        for row in &self.rows {
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        Ok(())
    }
}

/// All reports as one JSON object, by name.
pub(crate) fn json(reports: &[Report]) -> Value {
    let named = reports
        .iter()
        .map(|r| (r.name.to_owned(), Value::from(r.data.clone())));
    Value::Object(named.collect())
}

/// Puts tables between the two marks of a document.
pub(crate) fn insert(document: &str, tables: &str) -> Result<String> {
    let parts = document.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let Some((before, after)) = parts else {
        return Err(BenchError::Measured {
            what: "writing the tables",
            reason: format!("the file has no lines {BEGIN} and {END} to put them between"),
        });
    };
    let tables = tables.trim();
    Ok(format!("{before}{BEGIN}\n\n{tables}\n\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_replace_what_was_between_the_marks() {
        let document = format!("# Title\n{BEGIN}\nold\n{END}\nend\n");
        let once = insert(&document, "new\n").unwrap();
        assert_eq!(once, format!("# Title\n{BEGIN}\n\nnew\n\n{END}\nend\n"));
        assert_eq!(insert(&once, "new").unwrap(), once);
    }

    #[test]
    fn a_document_without_marks_is_left_alone() {
        assert!(insert("# Title\n", "new").is_err());
        assert!(insert(&format!("{END}\n{BEGIN}"), "new").is_err());
    }

    #[test]
    fn a_report_is_a_markdown_table() {
        let report = Report {
            name: "speed",
            what: "How fast.".to_owned(),
            columns: vec!["way", "Gbit/s"],
            rows: vec![vec!["direct".to_owned(), "2".to_owned()]],
            data: Vec::new(),
        };
        let text = "### speed\n\nHow fast.\n\n| way | Gbit/s |\n| --- | --- |\n| direct | 2 |\n";
        assert_eq!(report.to_string(), text);
    }
}
