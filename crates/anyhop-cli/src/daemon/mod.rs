//! The daemon: a node in each of its networks, and the control API that commands use them
//! through.
//!
//! ```text
//! run       start, ready line, signals, stop
//! networks  which networks it is in, and which one a command means
//! enter     nodes are started and left: public networks, private ones
//! presence  what belongs to one network: node, inbox, services
//! public    public networks that come back
//! listen    ports that stay the same
//! events    what happens on nodes, told
//! server    the control socket and its limits
//! api       routes, each with its description; `api::openapi` what these make together
//! join      `network join`: how it goes
//! pipe      `cat`: a stream over an upgraded connection
//! inbox     `recv`: messages, none lost between daemon and command
//! forward   `expose` and `forward`
//! socks     `socks`: a proxy that knows members
//! bench     `bench`, both sides
//! trace     `trace`: rounds put together
//! vpn       IP packets of private networks
//! firewall  which of them pass
//! routes    where else they go: subnets and exit nodes
//! ports     `port`: ports of this machine that are members'
//! kept      files of what firewall, routes and ports were told
//! names     names of their members, for the host's resolver
//! ```
//!
//! Networks share nothing but the process, the key and the state directory. Every upgraded
//! connection is one task that owns what it set up (a listener, an exposed target, a
//! stream), so that the command's end, however it ends, undoes it.

mod api;
mod bench;
mod enter;
mod events;
mod firewall;
mod forward;
mod inbox;
mod join;
mod kept;
mod listen;
mod names;
mod networks;
mod pipe;
mod ports;
mod presence;
mod public;
mod routes;
mod run;
mod server;
mod socks;
mod trace;
mod vpn;

use std::sync::Arc;

use anyhop::{HostJournal, Keypair};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use api::document as openapi;
pub(crate) use enter::Settings;
pub(crate) use run::run;

use self::{events::Teller, networks::Networks, presence::Presence};
use crate::state::StateDir;

/// What the daemon's tasks share.
#[derive(Debug)]
struct Daemon {
    state_dir: StateDir,
    keypair: Keypair,
    settings: Settings,
    networks: Arc<Networks>,
    /// What was changed on this host.
    journal: Arc<HostJournal>,
    teller: Teller,
    tasks: Tasks,
}

/// Tasks that end together. All but the HTTP server's own are such.
#[derive(Debug, Clone, Default)]
struct Tasks {
    /// Cancelled when they are to end.
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// Some of these, that can end before the others.
    fn child(&self) -> Self {
        Self {
            stop: self.stop.child_token(),
            tracker: self.tracker.clone(),
        }
    }

    /// Runs a task until it ends or all are to.
    fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            // `None` is a stop; the task's values are dropped either way.
            let _ = stop.run_until_cancelled_owned(task).await;
        });
    }
}
