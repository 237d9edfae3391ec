//! `up`: from start to stop.

use std::{path::Path, sync::Arc, time::Duration};

use anyhop::{HostJournal, PeerAddr};
use anyhop_os::{LockError, StateDirLock};
use futures_util::future::join_all;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Daemon, Networks, Presence, Settings, Tasks, Teller, server};
use crate::{
    error::{CliError, Code},
    output::Output,
    state::StateDir,
};

/// How long open control connections may take to end once the daemon stops.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// How long sessions may take to close.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// Runs a daemon until it is told to stop.
pub(crate) async fn run(
    state_dir: StateDir,
    settings: Settings,
    output: Output,
    tell: bool,
) -> Result<(), CliError> {
    let mut signals = Signals::new()?;
    let socket = state_dir.socket()?;
    let _lock = lock(&state_dir)?;
    state_dir.tidy();
    let journal = HostJournal::open(&state_dir.journal())?;
    // What a daemon changed that did not end well. Nothing else runs yet.
    for told in journal.undo_left() {
        tracing::warn!("{told}");
    }
    let daemon = Arc::new(Daemon {
        keypair: state_dir.keypair()?,
        state_dir,
        settings,
        networks: Arc::new(Networks::default()),
        journal: Arc::new(journal),
        teller: Teller::new(output, tell),
        tasks: Tasks::default(),
    });
    let result = serve(&daemon, &socket, &mut signals).await;
    tokio::select! {
        () = stop(&daemon) => {}
        () = signals.wait() => tracing::warn!("stopped at once by a second signal"),
    }
    result
}

async fn serve(daemon: &Arc<Daemon>, socket: &Path, signals: &mut Signals) -> Result<(), CliError> {
    let default = daemon.enter_all().await?;
    // Removed again when this is dropped.
    let (_file, listener) = server::bind(socket)?;
    server::serve(daemon, listener);
    daemon.teller.ready(&default);
    for addr in daemon.settings.config.bootstrap.clone() {
        let meet = meet(daemon.teller.clone(), Arc::clone(&default), addr);
        default.tasks.spawn(meet);
    }
    drop(default);
    signals.wait().await;
    tracing::info!("stopping");
    Ok(())
}

async fn stop(daemon: &Daemon) {
    daemon.tasks.stop.cancel();
    daemon.tasks.tracker.close();
    let networks = daemon.networks.all();
    let nodes = networks.iter().map(|(presence, _)| async {
        presence.vpn_stop().await;
        presence.node.close().await;
    });
    if tokio::time::timeout(CLOSE_GRACE, join_all(nodes))
        .await
        .is_err()
    {
        tracing::warn!("some sessions did not close in time");
    }
    // Of networks whose sessions took too long.
    for told in daemon.journal.undo_left() {
        tracing::warn!("{told}");
    }
    // Commands that still wait get the node's refusal, and time to read it.
    if tokio::time::timeout(STOP_GRACE, daemon.tasks.tracker.wait())
        .await
        .is_err()
    {
        tracing::debug!("some control connections did not end in time");
    }
}

fn lock(state_dir: &StateDir) -> Result<StateDirLock, CliError> {
    let path = state_dir.path();
    anyhop_base::fs::create_private_dir(path).map_err(|e| {
        CliError::new(
            Code::StateDir,
            format!("cannot create the state directory {}: {e}", path.display()),
        )
        .hint("choose another --state-dir, or create it with the right owner")
    })?;
    StateDirLock::acquire(path).map_err(|e| match e {
        LockError::Held { pid, .. } => {
            let who = pid.map_or_else(|| "another process".to_owned(), |p| format!("process {p}"));
            CliError::new(
                Code::InUse,
                format!("a daemon already runs on {} ({who})", path.display()),
            )
            .hint("use it as it is, stop it first, or give this one another --state-dir")
        }
        e => CliError::new(Code::StateDir, e.to_string())
            .hint("check the directory's owner and permissions, or choose another --state-dir"),
    })
}

/// Connects to a bootstrap peer, so that a wrong address or PeerId is told at once. The
/// node itself keeps trying.
async fn meet(teller: Teller, presence: Arc<Presence>, addr: PeerAddr) {
    if let Err(e) = presence.node.connect(addr.peer).await {
        let error = CliError::from(e).context(&format!("bootstrap {addr}"));
        teller.bootstrap_failed(&presence, &addr, &error);
    }
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, CliError> {
        let failed = |e| CliError::new(Code::Failed, format!("cannot listen for signals: {e}"));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
