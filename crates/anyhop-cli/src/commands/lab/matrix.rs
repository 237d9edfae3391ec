//! `lab matrix`.

use std::path::Path;

use anyhop_lab::matrix::{self, Family, Options, Report, replace_between_marks};

use crate::{
    args::{LabFamily, LabMatrixArgs},
    error::{CliError, Code},
    output::{Output, count_bar},
};

pub(super) async fn run(output: Output, args: LabMatrixArgs) -> Result<(), CliError> {
    let write = args.write.clone();
    let report = measure(args).await?;
    if let Some(path) = &write {
        replace(path, &report)?;
    }
    output.result(&report, |report| report.table())?;
    if report.is_good() {
        return Ok(());
    }
    let missed = report.missed();
    let text = format!(
        "{} of {} pairs fell short of the model:\n{}",
        report.pairs.iter().filter(|p| !p.missed.is_empty()).count(),
        report.pairs.len(),
        missed.join("\n")
    );
    Err(CliError::new(Code::Failed, text)
        .hint("run one pair alone with --kinds, and with -vv to see what its nodes do"))
}

/// Runs the matrix on threads of its own, since it keeps its own clock.
async fn measure(args: LabMatrixArgs) -> Result<Report, CliError> {
    let mut options = Options {
        seed: args.seed,
        runs: args.runs,
        families: match args.family {
            LabFamily::V4 => vec![Family::V4],
            LabFamily::V6 => vec![Family::V6],
            LabFamily::Both => vec![Family::V4, Family::V6],
        },
        ..Options::default()
    };
    if !args.kinds.is_empty() {
        options.kinds = args.kinds;
    }
    let bar = count_bar("runs");
    let running = tokio::task::spawn_blocking(move || {
        let report = matrix::run(&options, &|done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        });
        bar.finish_and_clear();
        report
    });
    running
        .await
        .map_err(|e| CliError::new(Code::Failed, format!("the matrix broke off: {e}")))
}

fn replace(path: &Path, report: &Report) -> Result<(), CliError> {
    let failed = |why: String| {
        CliError::new(
            Code::Failed,
            format!("cannot write the table into {}: {why}", path.display()),
        )
    };
    let document = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    let document = replace_between_marks(&document, &report.table()).map_err(|e| {
        failed(e.to_string()).hint("docs/connectivity.md of the project shows where they stand")
    })?;
    std::fs::write(path, document).map_err(|e| failed(e.to_string()))
}
