//! `lab matrix`.

use anyhop_lab::{
    matrix::{self, Family, Options, Report, replace_between_marks},
    netns::{
        self,
        matrix::{Comparison, own_binary},
    },
};
use tokio::signal::unix::{SignalKind, signal};

use super::replace;
use crate::{
    args::{LabFamily, LabMatrixArgs},
    error::{CliError, Code},
    output::{Output, count_bar},
};

pub(super) async fn run(output: Output, args: LabMatrixArgs) -> Result<(), CliError> {
    let (write, netns) = (args.write.clone(), args.netns);
    let options = options(args);
    let report = measure(options.clone()).await?;
    if !netns {
        if let Some(path) = &write {
            replace(path, |document| {
                replace_between_marks(document, &report.table())
            })?;
        }
        output.result(&report, Report::table)?;
        return judge(&report);
    }
    let real = measure_in_namespaces(options).await?;
    let comparison = Comparison {
        real,
        simulated: report,
    };
    if let Some(path) = &write {
        replace(path, |document| comparison.replace_between_marks(document))?;
    }
    output.result(&comparison, Comparison::table)?;
    judge(&comparison.real)
}

fn judge(report: &Report) -> Result<(), CliError> {
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

fn options(args: LabMatrixArgs) -> Options {
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
    options
}

/// Runs the matrix in namespaces. A signal ends it; they are removed then as well.
async fn measure_in_namespaces(options: Options) -> Result<Report, CliError> {
    let cannot = |why: String| {
        CliError::new(
            Code::Failed,
            format!("cannot run the matrix in namespaces: {why}"),
        )
    };
    if let Some(reason) = netns::skip_reason() {
        return Err(
            cannot(reason).hint("run it as root where ip (iproute2) and nft (nftables) are")
        );
    }
    let binary = own_binary().map_err(|e| cannot(e.to_string()))?;
    let bar = count_bar("runs in namespaces");
    let progress = |done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| cannot(e.to_string()))?;
    let report = tokio::select! {
        report = netns::matrix::run(binary, &options, &progress) => report,
        _ = tokio::signal::ctrl_c() => return Err(cannot("interrupted".into())),
        _ = terminate.recv() => return Err(cannot("terminated".into())),
    };
    bar.finish_and_clear();
    report.map_err(|e| cannot(e.to_string()))
}

/// Runs the matrix on threads of its own, since it keeps its own clock.
async fn measure(options: Options) -> Result<Report, CliError> {
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
