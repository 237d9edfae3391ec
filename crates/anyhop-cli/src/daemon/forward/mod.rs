//! `expose` and `forward`: TCP connections and UDP flows through a session.
//!
//! Each connection, and each source address of datagrams, is one stream of protocol
//! `forward/1`. It starts with the service wanted; the exposing side connects to it only
//! if exactly that is exposed (everything else is refused) and answers before any data.
//!
//! ```text
//! expose   what is exposed, and the serving side of the streams
//! local    the listening side: sockets that become streams
//! tcp      bytes both ways, with half-close; a reset stays a reset
//! udp      datagrams with a length before each
//! exit     connections to anywhere, by a node that allows it
//! wire     the start of a stream
//! ```

mod exit;
mod expose;
mod local;
mod tcp;
mod udp;
mod wire;

use std::{fmt, net::SocketAddr};

use anyhop::{Node, PeerId, RecvStream, SendStream};
use tokio::sync::mpsc;

pub(super) use exit::Reach;
pub(super) use expose::{Exposed, expose, serve};
pub(super) use local::Forward;
pub(super) use tcp::splice;

use crate::{
    api::Notice,
    client::{Reader, Writer},
    error::CliError,
    spec::Target,
};

/// Name of the protocol.
pub(super) const PROTOCOL: &str = "forward/1";

/// Connections or flows at once of one `forward`, and over all exposed services.
const MAX_FLOWS: usize = 1024;
/// Failures that wait to be told; more are only logged.
const NOTICE_QUEUE: usize = 64;

/// What is exposed and asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Service {
    target: Target,
    udp: bool,
}

impl Service {
    /// A host's port.
    pub(super) fn new(target: Target, udp: bool) -> Self {
        Self { target, udp }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.target, if self.udp { " (UDP)" } else { "" })
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Exactly this, as it is exposed.
    Service(Service),
    /// What is exposed over TCP at this port.
    Port(u16),
    /// A TCP connection from the node to anywhere.
    Exit(Target),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => service.fmt(f),
            Self::Port(port) => write!(f, "port {port}"),
            Self::Exit(target) => write!(f, "{target} as an exit"),
        }
    }
}

/// Tells a command where a socket listens, then what happens there, until the work on it is
/// done or the command leaves.
pub(super) async fn tell_work<F, Fut>(
    local: SocketAddr,
    mut reader: Reader,
    mut writer: Writer,
    work: F,
) where
    F: FnOnce(mpsc::Sender<Notice>) -> Fut,
    Fut: Future<Output = Result<(), CliError>>,
{
    let ready = Notice::Ready {
        exposed: None,
        local: Some(local.to_string()),
    };
    if writer.json(&ready).await.is_err() {
        return;
    }
    let (notices, mut due) = mpsc::channel(NOTICE_QUEUE);
    let telling = async {
        while let Some(notice) = due.recv().await {
            if writer.json(&notice).await.is_err() {
                break;
            }
        }
    };
    let ended = tokio::select! {
        ended = work(notices) => ended,
        () = telling => return,
        // The command says nothing: what comes is its end.
        _ = reader.next() => return,
    };
    if let Err(e) = ended {
        let _ = writer.error(e).await;
    }
}

/// A stream to what is wanted of a peer, agreed to by it.
pub(super) async fn open(
    node: &Node,
    peer: PeerId,
    wanted: &Wanted,
) -> Result<(SendStream, RecvStream), CliError> {
    let (mut send, mut recv) = node.open_bi(peer, PROTOCOL).await?;
    // What breaks the ask shows in the answer, with its reason.
    let _ = wire::write_ask(&mut send, wanted).await;
    wire::read_answer(&mut recv, peer, wanted).await?;
    Ok((send, recv))
}
