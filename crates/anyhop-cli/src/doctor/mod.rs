//! `doctor`: what keeps this host from connecting well, and what to do about it.
//!
//! ```text
//! facts   gathers: the host's settings, the node's state, probes of known peers
//! probe   can a peer be reached at one address, by a throw-away node
//! site    what answers plain HTTP where a peer serves WebSocket
//! judge   facts to checks; does no I/O
//! ```
//!
//! A daemon examines itself when it is asked to. Without one the command does the same
//! with a temporary node, which knows only the peers it was given. Either way packets go
//! to configured peers and to this network's gateways only, never to a third party.

mod facts;
mod judge;
mod probe;
mod site;

use anyhop::{NatStatus, Node};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::state::StateDir;

/// What was found.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Whether no check failed.
    pub(crate) ok: bool,
    /// Whether a daemon examined itself, or a temporary node was used.
    pub(crate) daemon: bool,
    /// The NATs in front of the node.
    pub(crate) nat: NatStatus,
    /// One for each thing examined, always the same and in the same order.
    pub(crate) checks: Vec<Check>,
}

/// One thing examined.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub(crate) struct Check {
    /// Its name; a contract, see `docs/cli.md`.
    pub(crate) check: String,
    /// How it is.
    pub(crate) status: Status,
    /// That in a few words.
    pub(crate) summary: String,
    /// What that was seen by; may be empty.
    pub(crate) detail: String,
    /// What to do about it; empty only if there is nothing to do.
    pub(crate) remediation: String,
}

/// How one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Good.
    Ok,
    /// Connections are worse for it.
    Warn,
    /// Connections fail for it.
    Fail,
    /// Not known, because something was missing.
    Skipped,
}

impl Check {
    fn new(check: &str, status: Status, summary: impl Into<String>) -> Self {
        Self {
            check: check.to_owned(),
            status,
            summary: summary.into(),
            detail: String::new(),
            remediation: String::new(),
        }
    }

    fn ok(check: &str, summary: impl Into<String>) -> Self {
        Self::new(check, Status::Ok, summary)
    }

    fn skipped(check: &str, summary: impl Into<String>) -> Self {
        Self::new(check, Status::Skipped, summary)
    }

    fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    fn remedy(mut self, remediation: impl Into<String>) -> Self {
        self.remediation = remediation.into();
        self
    }
}

/// Examines a node and the host under it. Takes as long as the slowest peer to be probed,
/// or gateway to be asked: some seconds at most.
pub(crate) async fn examine(node: &Node, state_dir: &StateDir, daemon: bool) -> Report {
    let facts = facts::gather(node, state_dir, daemon).await;
    let checks = judge::judge(&facts);
    Report {
        ok: checks.iter().all(|c| c.status != Status::Fail),
        daemon,
        nat: facts.status.nat,
        checks,
    }
}
