//! `demo`.

use anyhop_lab::demo::{self, DemoError, DemoSummary};
use serde::Serialize;

use crate::{
    error::{CliError, Code},
    output::Output,
};

/// The summary as the last event.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Last<'a> {
    Summary(&'a DemoSummary),
}

pub(super) async fn run(output: Output) -> Result<(), CliError> {
    let mut printed = Ok(());
    let result = demo::run(&mut |event| {
        // A reader that left does not stop what the exit code tells.
        if printed.is_ok() {
            printed = output.result(&event, ToString::to_string);
        }
    })
    .await;
    let summary = result.map_err(failed)?;
    printed?;
    output.result(&Last::Summary(&summary), |_| summary.to_string())
}

fn failed(e: DemoError) -> CliError {
    let text = format!("the demo did not show what it should: {e}");
    let cause: CliError = match e {
        DemoError::Start { source, .. } => source.into(),
        DemoError::Dial { source, .. } => source.into(),
        DemoError::Message { source, .. } => source.into(),
        DemoError::Stream { source, .. } => source.into(),
        DemoError::NotSeen { .. } => CliError::new(Code::Timeout, ""),
        _ => CliError::new(Code::Failed, ""),
    };
    CliError::new(cause.code, text)
        .hint("a machine under heavy load can be too slow for it; run it again with -v to see more")
}
