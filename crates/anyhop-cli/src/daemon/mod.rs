//! The daemon: one node, and the control API that commands use it through.
//!
//! ```text
//! run      start, ready line, events, signals, stop
//! server   the control socket and its limits
//! api      routes that answer with a value
//! pipe     `cat`: a stream over an upgraded connection
//! inbox    `recv`: messages, none lost between daemon and command
//! forward  `expose` and `forward`
//! bench    `bench`, both sides
//! trace    `trace`: rounds put together
//! ```
//!
//! Every upgraded connection is one task that owns what it set up (a listener, an
//! exposed target, a stream), so that the command's end, however it ends, undoes it.

mod api;
mod bench;
mod forward;
mod inbox;
mod pipe;
mod run;
mod server;
mod trace;

use std::sync::Arc;

use anyhop::{Node, PeerId};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use run::run;

use self::{bench::BenchGate, forward::Exposed, inbox::Inbox};
use crate::{
    error::{CliError, Code},
    spec::PeerSpec,
    state::StateDir,
};

/// What the daemon's tasks share.
#[derive(Debug)]
struct Daemon {
    node: Node,
    state_dir: StateDir,
    inbox: Inbox,
    exposed: Arc<Exposed>,
    bench: Arc<BenchGate>,
    /// Cancelled when the daemon stops.
    stop: CancellationToken,
    /// All tasks but the HTTP server's own.
    tasks: TaskTracker,
}

impl Daemon {
    fn new(node: Node, state_dir: StateDir) -> Arc<Self> {
        Arc::new(Self {
            inbox: Inbox::new(node.clone()),
            node,
            state_dir,
            exposed: Arc::default(),
            bench: Arc::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// Runs a task until it ends or the daemon stops.
    fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            // `None` is a stop; the task's values are dropped either way.
            let _ = stop.run_until_cancelled_owned(task).await;
        });
    }

    /// The peer a user means.
    fn resolve(&self, text: &str) -> Result<PeerId, CliError> {
        let spec: PeerSpec = text.parse()?;
        if let Some(peer) = spec.full() {
            return Ok(peer);
        }
        let names = self.state_dir.names()?;
        let known = self.node.known_peers();
        spec.resolve(names.iter(), known.into_iter().chain([self.node.peer_id()]))
    }

    /// Serves the protocols that every daemon speaks.
    fn serve_protocols(self: &Arc<Self>) -> Result<(), CliError> {
        let taken = |e: anyhop::ProtocolTaken| CliError::new(Code::Failed, e.to_string());
        let forward = self.node.accept(forward::PROTOCOL).map_err(taken)?;
        self.spawn(forward::serve(Arc::clone(&self.exposed), forward));
        let bench = self.node.accept(bench::PROTOCOL).map_err(taken)?;
        self.spawn(bench::serve(Arc::clone(&self.bench), bench));
        Ok(())
    }
}
