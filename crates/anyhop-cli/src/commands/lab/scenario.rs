//! `lab run` and `lab chaos`.

use anyhop_lab::{
    chaos,
    clock::run_virtual,
    scenario::{Progress, Report, Scenario, TrafficReport},
};

use crate::{
    args::{LabChaosArgs, LabRunArgs},
    error::{CliError, Code},
    output::{Output, byte_bar},
};

pub(super) async fn run(output: Output, args: LabRunArgs) -> Result<(), CliError> {
    let path = args.file.display();
    let text = std::fs::read_to_string(&args.file)
        .map_err(|e| CliError::usage(format!("cannot read {path}: {e}")))?;
    let mut scenario =
        Scenario::parse(&text).map_err(|e| CliError::usage(format!("{path}, {e}")).hint(e.hint))?;
    scenario.seed = args.seed.unwrap_or(scenario.seed);
    play(output, scenario).await
}

pub(super) async fn chaos(output: Output, args: LabChaosArgs) -> Result<(), CliError> {
    let scenario = chaos::scenario(chaos::Options {
        seed: args.seed,
        changes: args.changes,
        bytes: args.bytes,
    });
    output.note(&format!("seed {}", args.seed));
    play(output, scenario).await
}

/// Runs on a thread of its own, since a scenario keeps its own clock.
async fn play(output: Output, scenario: Scenario) -> Result<(), CliError> {
    let bar = byte_bar(None);
    let running = tokio::task::spawn_blocking(move || {
        let mut tell = |progress| match progress {
            Progress::Moved { bytes, total } => {
                bar.set_length(total);
                bar.set_position(bytes);
            }
            Progress::Event { at_s, text } => {
                bar.suspend(|| output.note(&format!("{at_s:8.1} s  {text}")));
            }
        };
        let report = run_virtual(scenario.run(&mut tell));
        bar.finish_and_clear();
        report
    });
    let failed =
        |why: String| CliError::new(Code::Failed, format!("the scenario broke off: {why}"));
    let report = running
        .await
        .map_err(|e| failed(e.to_string()))?
        .map_err(|e| failed(e.to_string()))?
        .map_err(failed)?;
    output.result(&report, text)?;
    if report.is_good() {
        return Ok(());
    }
    let text = format!("not as expected:\n{}", report.missed.join("\n"));
    let seed = report.seed;
    Err(CliError::new(Code::Failed, text).hint(format!(
        "run it again with --seed {seed} and -vv to see what the nodes do"
    )))
}

fn text(report: &Report) -> String {
    let mut lines: Vec<_> = report.traffic.iter().map(traffic_text).collect();
    lines.push(format!(
        "{} events in {:.1} s of virtual time, seed {}",
        report.events,
        report.took_ms / 1000.0,
        report.seed
    ));
    lines.join("\n")
}

fn traffic_text(report: &TrafficReport) -> String {
    let after = |what: &str, ms: Option<f64>| match ms {
        Some(ms) => format!(", {what} after {ms:.0} ms"),
        None => format!(", not {what}"),
    };
    let mut text = format!("{} to {}", report.from, report.to);
    text += &after("connected", report.connected_ms);
    text += &after("direct", report.direct_ms);
    if let Some(equal) = report.hash_equal {
        let equal = if equal { "equal" } else { "different" };
        text += &format!(", {} bytes with {equal} hash", report.bytes);
    }
    text += &format!(", longest stall {:.0} ms", report.longest_stall_ms);
    for stall in &report.stalls {
        text += &format!(
            "\n    stalled for {:.0} ms until {:.1} s, after: {}",
            stall.ms,
            stall.at_ms / 1000.0,
            stall.after
        );
    }
    text
}
