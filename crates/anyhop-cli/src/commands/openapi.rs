//! `openapi`.

use crate::{daemon, error::CliError, output};

pub(super) fn run() -> Result<(), CliError> {
    let document = daemon::openapi();
    output::raw(format!("{document:#}\n").as_bytes())
}
