//! Commands that set the lab up: short, and an error when they fail.

use std::{
    io::{self, Write as _},
    process::{Command, Output, Stdio},
    time::Duration,
};

use thiserror::Error;

/// Why the lab could not do what a test asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LabError {
    /// A program could not be started, or its pipes failed.
    #[error("cannot run {what}: {source}")]
    Run {
        /// The command.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A command that has to succeed did not.
    #[error("{what} failed ({status}): {stderr}")]
    Failed {
        /// The command.
        what: String,
        /// How it ended.
        status: String,
        /// What it said.
        stderr: String,
    },
    /// A process did not do something in time. It was killed if it was to end.
    #[error("{what}: {waited_for} not within {within:?}; it said: {stderr}")]
    Timeout {
        /// The process.
        what: String,
        /// What was to happen.
        waited_for: &'static str,
        /// How long was waited.
        within: Duration,
        /// Last it wrote to standard error.
        stderr: String,
    },
    /// A process ended its output before it had said what was waited for.
    #[error("{what} ended its output early; it said: {stderr}")]
    Ended {
        /// The process.
        what: String,
        /// Last it wrote to standard error.
        stderr: String,
    },
    /// A daemon answered with an error.
    #[error("{what}: {message}")]
    Refused {
        /// Which daemon, and what it was asked.
        what: String,
        /// Its answer.
        message: String,
    },
    /// A limit of the lab.
    #[error("cannot make namespace {name}: a lab has at most {limit}")]
    TooMany {
        /// Which.
        name: String,
        /// The limit.
        limit: usize,
    },
}

/// Runs a command to its end.
pub(super) fn output(command: &mut Command) -> Result<Output, LabError> {
    command.output().map_err(|source| LabError::Run {
        what: text(command),
        source,
    })
}

/// Runs a command that has to succeed; answers its output.
pub(super) fn checked(command: &mut Command) -> Result<String, LabError> {
    let output = output(command)?;
    succeeded(command, &output)
}

/// The same with `input` as its standard input.
pub(super) fn checked_with(command: &mut Command, input: &str) -> Result<String, LabError> {
    let ran = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .and_then(|mut child| {
            // Dropped at the end of the statement, which is the end of the input.
            child
                .stdin
                .take()
                .map_or(Ok(()), |mut pipe| pipe.write_all(input.as_bytes()))?;
            child.wait_with_output()
        });
    let output = ran.map_err(|source| LabError::Run {
        what: text(command),
        source,
    })?;
    succeeded(command, &output)
}

fn succeeded(command: &Command, output: &Output) -> Result<String, LabError> {
    if !output.status.success() {
        return Err(LabError::Failed {
            what: text(command),
            status: output.status.to_string(),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as it would be typed.
pub(super) fn text(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}
