//! What stops a measurement.

use std::io;

use thiserror::Error;

/// Any result of this crate.
pub(crate) type Result<T> = std::result::Result<T, BenchError>;

/// Why there is no figure.
#[derive(Debug, Error)]
pub(crate) enum BenchError {
    /// A file, pipe or process of this machine.
    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    /// A command that sets the machine up.
    #[error("{command} failed: {stderr}")]
    Command { command: String, stderr: String },
    /// A worker process ended or spoke nonsense.
    #[error("the worker process {0}")]
    Worker(String),
    /// A contender did not do what was to be measured.
    #[error("{what}: {reason}")]
    Measured { what: &'static str, reason: String },
}

impl BenchError {
    /// For `map_err`: a contender's failure while doing `what`.
    pub(crate) fn while_<E: ToString>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Measured {
            what,
            reason: error.to_string(),
        }
    }

    /// For `map_err`: the machine's failure while doing `what`.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
