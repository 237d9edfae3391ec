//! What the demo tells while it runs, and at the end.

use std::{fmt, time::Duration};

use anyhop::{DialError, MessageError, PathKind, StartError, StreamError};
use serde::Serialize;
use thiserror::Error;

/// One thing seen. `Display` is a line for people, `Serialize` for programs; names are
/// the demo's (`R`, `A`, `B`, `S`), times milliseconds, measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum DemoEvent {
    /// A node runs.
    Started {
        /// Name.
        node: &'static str,
        /// Its public key is all that others know it by.
        peer_id: String,
        /// Its own address.
        address: String,
        /// What lies between it and the internet.
        behind: &'static str,
    },
    /// A node has a session with the public node.
    Attached {
        /// Name.
        node: &'static str,
        /// The public node.
        relay: &'static str,
        /// Since its start.
        after_ms: f64,
    },
    /// A dial by PeerId alone led to a session.
    Connected {
        /// Who dialled.
        from: &'static str,
        /// Whom.
        to: &'static str,
        /// Kind of its first path.
        kind: PathKind,
        /// Relays between.
        via: Vec<&'static str>,
        /// Since the dial.
        after_ms: f64,
    },
    /// A message arrived.
    Message {
        /// Sender.
        from: &'static str,
        /// Receiver.
        to: &'static str,
        /// Its text, as received.
        text: String,
        /// From send to acknowledgement.
        took_ms: f64,
    },
    /// A session moved to a direct path.
    Direct {
        /// One end.
        from: &'static str,
        /// Other end.
        to: &'static str,
        /// Address of the other end, a port that its NAT opened.
        remote: String,
        /// Since the session began, or since the path was unblocked.
        after_ms: f64,
        /// Round trip over the circuit, as its path measured it; `None` if it had not.
        circuit_rtt_ms: Option<f64>,
        /// Echo round trip over the direct path.
        rtt_ms: f64,
    },
    /// A stream began to carry data.
    TransferBegan {
        /// Sender.
        from: &'static str,
        /// Receiver.
        to: &'static str,
    },
    /// How far the stream is.
    Progress {
        /// Bytes that arrived.
        bytes: u64,
        /// Kind of path selected by the sender.
        kind: Option<PathKind>,
    },
    /// The direct path was cut: the network drops everything between the two NATs.
    Cut {
        /// External address of one NAT.
        a: String,
        /// Of the other.
        b: String,
    },
    /// The session went on over the circuit.
    FellBack {
        /// One end.
        from: &'static str,
        /// Other end.
        to: &'static str,
        /// Relays between.
        via: Vec<&'static str>,
        /// Since the cut, until new data went over the circuit.
        after_ms: f64,
        /// Longest time the receiver of the stream got nothing.
        stall_ms: f64,
    },
    /// The direct path is open again.
    Restored,
    /// The stream ended.
    TransferDone {
        /// Bytes received.
        bytes: u64,
        /// Of what was sent, and of what was received.
        sha256: String,
    },
    /// A session without a way to a direct path stays on its circuit.
    StaysOnCircuit {
        /// One end.
        from: &'static str,
        /// Other end.
        to: &'static str,
        /// Since the session began.
        after_ms: f64,
        /// Datagrams that went directly between the two hosts.
        direct_datagrams: u64,
        /// Echo round trip over the circuit.
        rtt_ms: f64,
        /// Bytes moved over it, their hashes equal.
        bytes: u64,
    },
}

impl fmt::Display for DemoEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started {
                node,
                peer_id,
                address,
                behind,
            } => write!(f, "{node} runs as {peer_id} at {address}, {behind}"),
            Self::Attached {
                node,
                relay,
                after_ms,
            } => write!(f, "{node} is attached to {relay} after {after_ms:.0} ms"),
            Self::Connected {
                from,
                to,
                kind,
                via,
                after_ms,
            } => write!(
                f,
                "{from} reached {to} by its public key in {after_ms:.0} ms, {}",
                Way(*kind, via)
            ),
            Self::Message {
                from,
                to,
                text,
                took_ms,
            } => write!(f, "{to} got {text:?} from {from} ({took_ms:.0} ms)"),
            Self::Direct { .. } | Self::FellBack { .. } => self.fmt_move(f),
            Self::TransferBegan { from, to } => write!(f, "{from} streams data to {to}"),
            Self::Progress { bytes, kind } => {
                let way = match kind {
                    Some(PathKind::Direct) => "directly",
                    Some(PathKind::Circuit) => "over the circuit",
                    None => "between paths",
                };
                write!(f, "  {:.1} MB arrived, {way}", *bytes as f64 / 1e6)
            }
            Self::Cut { a, b } => {
                write!(f, "cut: the network drops everything between {a} and {b}")
            }
            Self::Restored => write!(f, "the cut is undone"),
            Self::TransferDone { bytes, sha256 } => write!(
                f,
                "the stream ended: {bytes} bytes, both ends have sha256 {}…",
                sha256.get(..16).unwrap_or(sha256)
            ),
            Self::StaysOnCircuit {
                from,
                to,
                after_ms,
                direct_datagrams,
                rtt_ms,
                bytes,
            } => write!(
                f,
                "{from} and {to} are still on their circuit after {:.1} s ({direct_datagrams} \
                 datagrams went directly): ping {rtt_ms:.0} ms, {bytes} bytes moved, hashes equal",
                after_ms / 1e3
            ),
        }
    }
}

impl DemoEvent {
    fn fmt_move(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct {
                from,
                to,
                remote,
                after_ms,
                circuit_rtt_ms,
                rtt_ms,
            } => {
                write!(
                    f,
                    "{from} and {to} moved to a direct path ({remote}) after {after_ms:.0} ms: \
                     ping {rtt_ms:.0} ms"
                )?;
                match circuit_rtt_ms {
                    Some(ms) => write!(f, ", {ms:.0} ms over the circuit"),
                    None => Ok(()),
                }
            }
            Self::FellBack {
                from,
                to,
                via,
                after_ms,
                stall_ms,
            } => write!(
                f,
                "{from} and {to} fell back {} {after_ms:.0} ms after the cut; \
                 the stream stood still for {stall_ms:.0} ms",
                Way(PathKind::Circuit, via)
            ),
            _ => Ok(()),
        }
    }
}

struct Way<'a>(PathKind, &'a [&'static str]);

impl fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            PathKind::Direct => write!(f, "directly"),
            PathKind::Circuit => write!(f, "over a circuit via {}", self.1.join(", ")),
        }
    }
}

/// What the demo measured, milliseconds unless said otherwise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DemoSummary {
    /// From A's dial to its session with B, over the circuit.
    pub circuit_after_ms: f64,
    /// From the session's begin to its first direct path.
    pub direct_after_ms: f64,
    /// From the cut to the circuit.
    pub fall_back_ms: f64,
    /// Longest time the stream's receiver got nothing because of the cut.
    pub stall_ms: f64,
    /// From the end of the cut to the direct path.
    pub direct_again_ms: f64,
    /// Bytes the stream carried meanwhile; their hashes were equal.
    pub stream_bytes: u64,
    /// How long S was seen on its circuit.
    pub circuit_kept_ms: f64,
    /// The whole run.
    pub took_ms: f64,
}

impl fmt::Display for DemoSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seen in {:.1} s: session over the circuit in {:.0} ms, direct {:.0} ms later, \
             back on the circuit {:.0} ms after the cut (stream still for {:.0} ms), direct again \
             {:.0} ms after it was undone, {:.1} MB without a lost byte; the session of \
             two symmetric NATs kept its circuit for {:.1} s",
            self.took_ms / 1e3,
            self.circuit_after_ms,
            self.direct_after_ms,
            self.fall_back_ms,
            self.stall_ms,
            self.direct_again_ms,
            self.stream_bytes as f64 / 1e6,
            self.circuit_kept_ms / 1e3,
        )
    }
}

/// Why the demo ended early.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DemoError {
    /// A node did not start.
    #[error("node {node} did not start: {source}")]
    Start {
        /// Which.
        node: &'static str,
        /// Why.
        source: StartError,
    },
    /// A session was not made.
    #[error("{from} did not reach {to}: {source}")]
    Dial {
        /// Who dialled.
        from: &'static str,
        /// Whom.
        to: &'static str,
        /// Why.
        source: DialError,
    },
    /// A message or ping failed.
    #[error("{what} failed: {source}")]
    Message {
        /// What was tried.
        what: String,
        /// Why.
        source: MessageError,
    },
    /// A stream failed.
    #[error("{what} failed: {source}")]
    Stream {
        /// What was tried.
        what: String,
        /// Why.
        source: StreamError,
    },
    /// Something that should happen did not.
    #[error("not seen within {within:?}: {what}; seen instead: {instead}")]
    NotSeen {
        /// What was waited for.
        what: String,
        /// How long.
        within: Duration,
        /// The state at the end.
        instead: String,
    },
    /// Something was seen that should not be.
    #[error("{0}")]
    Wrong(String),
}
