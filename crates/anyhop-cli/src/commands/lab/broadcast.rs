//! `lab broadcast`.

use anyhop_lab::broadcast::{self, Options, Report, SITUATIONS, Strategy, replace_between_marks};

use super::replace;
use crate::{
    args::{LabBroadcastArgs, LabStrategy},
    error::{CliError, Code},
    output::{Output, count_bar},
};

pub(super) async fn run(output: Output, args: LabBroadcastArgs) -> Result<(), CliError> {
    let write = args.write.clone();
    let report = simulate(simulations(&args), args.seed.clone()).await?;
    if let Some(path) = &write {
        replace(path, |document| {
            replace_between_marks(document, &report.table())
        })?;
    }
    output.result(&report, Report::table)?;
    let missed = report.missed();
    let Some(first) = missed.first() else {
        return Ok(());
    };
    let text = format!(
        "{} of {} simulations left live nodes without a post",
        missed.len(),
        report.rows.len()
    );
    let seeds: Vec<_> = first.seeds.iter().map(u64::to_string).collect();
    Err(CliError::new(Code::Failed, text).hint(format!(
        "run one alone: anyhop lab broadcast --nodes {} --loss {} --killed {} --churn {} --seed {}",
        first.nodes,
        first.loss_percent,
        first.killed_percent,
        first.churn_percent,
        seeds.join(",")
    )))
}

/// One situation when any of it is given, else all of the table.
fn simulations(args: &LabBroadcastArgs) -> Vec<Options> {
    let situations = match (args.loss, args.killed, args.churn) {
        (None, None, None) => SITUATIONS.to_vec(),
        (loss, killed, churn) => vec![(
            loss.unwrap_or_default(),
            killed.unwrap_or_default(),
            churn.unwrap_or_default(),
        )],
    };
    let mut all = Vec::new();
    for nodes in &args.nodes {
        for (loss, killed, churn) in &situations {
            for strategy in &args.strategy {
                all.push(Options {
                    nodes: *nodes as usize,
                    loss: *loss,
                    killed: *killed,
                    churn: *churn,
                    strategy: match strategy {
                        LabStrategy::Tree => Strategy::Tree,
                        LabStrategy::Gossip => Strategy::Gossip,
                        LabStrategy::Raintree => Strategy::RainTree,
                    },
                });
            }
        }
    }
    all
}

async fn simulate(simulations: Vec<Options>, seeds: Vec<u64>) -> Result<Report, CliError> {
    let bar = count_bar("simulations");
    bar.set_length(simulations.len() as u64);
    let running = tokio::task::spawn_blocking(move || {
        let run = |options: Options| {
            let row = broadcast::run(options, &seeds);
            bar.inc(1);
            row
        };
        let rows = simulations.into_iter().map(run).collect();
        bar.finish_and_clear();
        Report { rows }
    });
    running
        .await
        .map_err(|e| CliError::new(Code::Failed, format!("the simulation broke off: {e}")))
}
