//! What the measuring process and its workers tell each other: one JSON value per line,
//! commands on a worker's standard input, one answer to each on its standard output.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Anyhop nodes.
    Anyhop,
    /// noq endpoints as they are, with the same TLS and windows.
    Plain,
}

/// The first line to a worker; it answers [`Answer::Ready`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) kind: Kind,
    /// Nodes, or endpoints, in the process.
    pub(crate) nodes: usize,
    pub(crate) listen: Vec<SocketAddr>,
    /// A relay to be attached to, by each node.
    pub(crate) bootstrap: Option<Target>,
    /// Threads of the runtime.
    pub(crate) threads: usize,
}

/// A node to dial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) peer: String,
    /// Empty: it must be found by its id.
    pub(crate) addrs: Vec<SocketAddr>,
}

impl Target {
    /// The same peer, its addresses kept to oneself.
    pub(crate) fn without_address(&self) -> Self {
        Self {
            peer: self.peer.clone(),
            addrs: Vec::new(),
        }
    }
}

/// What a worker is asked to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Wait until each node is attached to its bootstrap.
    Attach,
    /// Dial the targets: the first from node `from`, each from the node after it.
    Connect {
        from: usize,
        targets: Vec<Target>,
        in_flight: usize,
    },
    /// Send on streams of the first session for a while.
    Send { streams: usize, millis: u64 },
    /// Request on the first session for a while.
    Ask { in_flight: usize, millis: u64 },
    /// Say what the process has used and what it holds.
    Look,
}

/// A worker's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Answer {
    Ready(Vec<Target>),
    Done { seconds: f64 },
    Sent(Amount),
    Asked(Amount),
    Looked(Look),
    Failed(String),
}

/// How much was done, in what time.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Amount {
    /// Bytes that arrived, or requests that were answered.
    pub(crate) count: u64,
    pub(crate) seconds: f64,
}

impl Amount {
    pub(crate) fn per_second(self) -> f64 {
        self.count as f64 / self.seconds
    }
}

/// A process at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Look {
    /// CPU seconds used so far, user and system.
    pub(crate) cpu_s: f64,
    /// Resident memory.
    pub(crate) rss_bytes: u64,
    /// Sessions over all nodes.
    pub(crate) sessions: usize,
    /// Kind of the first session's selected path: `direct` or `circuit`.
    pub(crate) path: Option<String>,
    /// Bytes forwarded for others.
    pub(crate) forwarded_bytes: u64,
}
