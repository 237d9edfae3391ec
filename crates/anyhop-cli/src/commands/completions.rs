//! `completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::{args::Cli, error::CliError, output};

pub(super) fn run(shell: Shell) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "anyhop", &mut script);
    output::raw(&script)
}
