//! `doctor`.

use std::fmt::Write as _;

use anyhop::{Config, Keypair, Node, RelayConfig, WebSocketConfig};

use super::Context;
use crate::{
    args::DoctorArgs,
    doctor::{self, Check, Report, Status},
    environment,
    error::{CliError, Code},
    output::{self, Mark},
};

pub(super) async fn run(context: &Context, args: DoctorArgs) -> Result<(), CliError> {
    let bar = output::spinner("examining".to_owned());
    let report = examine(context, args).await;
    bar.finish_and_clear();
    let report = report?;
    let dir = context.state_dir.path().display().to_string();
    context.output.result(&report, |r| text(r, &dir))?;
    let failed: Vec<_> = of_status(&report, Status::Fail).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = failed.iter().map(|c| c.check.as_str()).collect();
    let message = format!(
        "{} of {} checks failed: {}",
        failed.len(),
        report.checks.len(),
        names.join(", ")
    );
    Err(CliError::new(Code::Unhealthy, message).hint("what to do is told with each of them"))
}

/// Asks the daemon; without one, or with peers to examine by, a temporary node.
async fn examine(context: &Context, args: DoctorArgs) -> Result<Report, CliError> {
    if args.bootstrap.is_empty() {
        match context.client().get("/v1/doctor").await {
            // Nobody in the network that is named is known without one.
            Err(e) if e.code == Code::NoDaemon && context.network.is_none() => {}
            // Then the directory is what is to be examined.
            Err(e) if e.code == Code::StateDir => {}
            report => return report,
        }
    }
    let mut config = Config {
        bootstrap: args.bootstrap,
        websocket: WebSocketConfig {
            proxies: environment::proxies().0,
            ..WebSocketConfig::default()
        },
        relay: RelayConfig {
            enabled: false,
            ..RelayConfig::default()
        },
        port_mapping: !args.no_port_mapping,
        ..Config::default()
    };
    if let Some(network) = &context.network {
        config.network = network.clone();
    }
    let node = Node::start(Keypair::generate_ed25519(), config).await?;
    let report = doctor::examine(&node, &context.state_dir, false).await;
    node.close().await;
    Ok(report)
}

fn of_status(report: &Report, status: Status) -> impl Iterator<Item = &Check> {
    report.checks.iter().filter(move |c| c.status == status)
}

fn text(report: &Report, dir: &str) -> String {
    let mut out = match report.daemon {
        true => format!("the daemon on {dir} examined itself"),
        false => {
            format!("examined with a temporary node; no daemon was asked (state directory {dir})")
        }
    };
    let width = report.checks.iter().map(|c| c.check.len()).max();
    let width = width.unwrap_or_default();
    for check in &report.checks {
        let mark = match check.status {
            Status::Ok => Mark::Ok,
            Status::Warn => Mark::Warn,
            Status::Fail => Mark::Fail,
            Status::Skipped => Mark::Skipped,
        };
        let (mark, name) = (mark.text(), &check.check);
        let _ = write!(out, "\n{mark} {name:width$}  {}", check.summary);
        let further = [("", &check.detail), ("do: ", &check.remediation)];
        for (what, line) in further.iter().filter(|(_, line)| !line.is_empty()) {
            let _ = write!(out, "\n  {:width$}  {what}{line}", "");
        }
    }
    let count = |status| of_status(report, status).count();
    let _ = write!(
        out,
        "\n{} ok, {} to look at, {} failed, {} not known",
        count(Status::Ok),
        count(Status::Warn),
        count(Status::Fail),
        count(Status::Skipped)
    );
    out
}
