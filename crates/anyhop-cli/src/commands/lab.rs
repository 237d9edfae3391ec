//! `lab`.

mod matrix;

use crate::{args::LabCommand, error::CliError, output::Output};

pub(super) async fn run(output: Output, command: LabCommand) -> Result<(), CliError> {
    match command {
        LabCommand::Matrix(args) => matrix::run(output, args).await,
    }
}
