//! `lab`.

mod matrix;
mod scenario;

use crate::{args::LabCommand, error::CliError, output::Output};

pub(super) async fn run(output: Output, command: LabCommand) -> Result<(), CliError> {
    match command {
        LabCommand::Matrix(args) => matrix::run(output, args).await,
        LabCommand::Run(args) => scenario::run(output, args).await,
        LabCommand::Chaos(args) => scenario::chaos(output, args).await,
    }
}
