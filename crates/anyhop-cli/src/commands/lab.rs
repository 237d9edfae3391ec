//! `lab`.

mod broadcast;
mod matrix;
mod scenario;

use std::path::Path;

use anyhop_lab::matrix::MissingMarks;

use crate::{
    args::LabCommand,
    error::{CliError, Code},
    output::Output,
};

pub(super) async fn run(output: Output, command: LabCommand) -> Result<(), CliError> {
    match command {
        LabCommand::Matrix(args) => matrix::run(output, args).await,
        LabCommand::Run(args) => scenario::run(output, args).await,
        LabCommand::Broadcast(args) => broadcast::run(output, args).await,
        LabCommand::Chaos(args) => scenario::chaos(output, args).await,
    }
}

/// Writes the document anew with what `replaced` makes of it.
fn replace(
    path: &Path,
    replaced: impl Fn(&str) -> Result<String, MissingMarks>,
) -> Result<(), CliError> {
    let failed = |why: String| {
        CliError::new(
            Code::Failed,
            format!("cannot write the table into {}: {why}", path.display()),
        )
    };
    let document = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    let document = replaced(&document).map_err(|e| {
        failed(e.to_string())
            .hint("the document of that name in the project's docs/ shows where they stand")
    })?;
    std::fs::write(path, document).map_err(|e| failed(e.to_string()))
}
