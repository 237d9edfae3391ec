//! `up`: from start to stop.

use std::{io::Write as _, sync::Arc, time::Duration};

use anyhop::{Config, Connectedness, Event, Node, PeerAddr, Reachability};
use anyhop_os::{LockError, StateDirLock};
use serde_json::{Value, json};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::broadcast,
};

use super::{Daemon, server};
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
    config: Config,
    output: Output,
    tell: bool,
) -> Result<(), CliError> {
    let mut signals = Signals::new()?;
    let socket = state_dir.socket()?;
    let _lock = lock(&state_dir)?;
    let keypair = state_dir.keypair()?;
    let bootstrap = config.bootstrap.clone();
    let node = Node::start(keypair, config).await?;
    let daemon = Daemon::new(node, state_dir);
    let result = serve(&daemon, &socket, bootstrap, output, tell, &mut signals).await;
    tokio::select! {
        () = stop(&daemon) => {}
        () = signals.wait() => tracing::warn!("stopped at once by a second signal"),
    }
    result
}

async fn serve(
    daemon: &Arc<Daemon>,
    socket: &std::path::Path,
    bootstrap: Vec<PeerAddr>,
    output: Output,
    tell: bool,
    signals: &mut Signals,
) -> Result<(), CliError> {
    daemon.serve_protocols()?;
    // Removed again when this is dropped.
    let (_file, listener) = server::bind(socket)?;
    let events = daemon.node.events();
    server::serve(daemon, listener);
    ready(daemon, output);
    for addr in bootstrap {
        daemon.spawn(meet(Arc::clone(daemon), addr, output));
    }
    daemon.spawn(tell_events(events, output, tell));
    signals.wait().await;
    tracing::info!("stopping");
    Ok(())
}

async fn stop(daemon: &Daemon) {
    daemon.stop.cancel();
    daemon.tasks.close();
    if tokio::time::timeout(CLOSE_GRACE, daemon.node.close())
        .await
        .is_err()
    {
        tracing::warn!("some sessions did not close in time");
    }
    // Commands that still wait get the node's refusal, and time to read it.
    if tokio::time::timeout(STOP_GRACE, daemon.tasks.wait())
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

fn ready(daemon: &Daemon, output: Output) {
    let addresses: Vec<_> = daemon
        .node
        .addresses()
        .iter()
        .map(ToString::to_string)
        .collect();
    let peer_id = daemon.node.peer_id().to_base58();
    if output.is_json() {
        print(&json!({"event": "ready", "peer_id": peer_id, "addresses": addresses}).to_string());
    } else {
        print(
            &["ready".to_owned(), peer_id]
                .into_iter()
                .chain(addresses)
                .collect::<Vec<_>>()
                .join(" "),
        );
    }
}

/// Prints a line; whoever started the daemon may have stopped reading.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Connects to a bootstrap peer, so that a wrong address or PeerId is told at once. The
/// node itself keeps trying.
async fn meet(daemon: Arc<Daemon>, addr: PeerAddr, output: Output) {
    let Err(e) = daemon.node.connect(addr.peer).await else {
        return;
    };
    let error = CliError::from(e).context(&format!("bootstrap {addr}"));
    if output.is_json() {
        print(
            &json!({"event": "bootstrap_failed", "address": addr.to_string(), "error": error})
                .to_string(),
        );
        return;
    }
    let mut err = std::io::stderr().lock();
    let _ = writeln!(err, "warning: {}", error.message);
    if let Some(hint) = error.hint {
        let _ = writeln!(err, "hint: {hint}");
    }
}

async fn tell_events(mut events: broadcast::Receiver<Event>, output: Output, tell: bool) {
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                tracing::debug!(missed, "events came faster than they were printed");
                continue;
            }
            Err(broadcast::error::RecvError::Closed) => return,
        };
        if output.is_json() {
            if let Some(value) = event_json(&event) {
                print(&value.to_string());
            }
        } else if tell {
            let _ = writeln!(std::io::stderr(), "{}", event_text(&event));
        }
    }
}

fn event_json(event: &Event) -> Option<Value> {
    Some(match event {
        Event::SessionOpened { peer } => {
            json!({"event": "session_opened", "peer_id": peer.to_base58()})
        }
        Event::SessionClosed { peer, reason } => {
            json!({"event": "session_closed", "peer_id": peer.to_base58(), "reason": reason})
        }
        Event::PathSelected { peer, path } => {
            json!({"event": "path_selected", "peer_id": peer.to_base58(), "path": path})
        }
        Event::PathLost { peer, path, reason } => {
            json!({"event": "path_lost", "peer_id": peer.to_base58(), "path": path, "reason": reason})
        }
        Event::AddressesChanged => json!({"event": "addresses_changed"}),
        Event::LocalAddressesChanged { addresses } => {
            json!({"event": "local_addresses_changed", "addresses": addresses})
        }
        Event::ReachabilityChanged { reachability } => {
            json!({"event": "reachability_changed", "reachability": reachability.as_str()})
        }
        Event::NatChanged { nat } => json!({"event": "nat_changed", "nat": nat}),
        Event::PeerIdentified { peer, addresses } => {
            json!({"event": "peer_identified", "peer_id": peer.to_base58(), "addresses": addresses})
        }
        Event::PeerConnectedness {
            peer,
            connectedness,
        } => json!({
            "event": "peer_connectedness",
            "peer_id": peer.to_base58(),
            "connectedness": connectedness,
        }),
        // A library that is newer than this program.
        _ => return None,
    })
}

fn event_text(event: &Event) -> String {
    match event {
        Event::SessionOpened { peer } => format!("session with {peer} opened"),
        Event::SessionClosed { peer, reason } => format!("session with {peer} closed: {reason}"),
        Event::PathSelected { peer, path } => {
            format!("{peer} is reached {}", crate::commands::path_text(path))
        }
        Event::PathLost { peer, path, reason } => {
            format!(
                "{peer} is no longer reached {}: {reason}",
                crate::commands::path_text(path)
            )
        }
        Event::AddressesChanged => "this node's addresses changed".to_owned(),
        Event::LocalAddressesChanged { addresses } => {
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            format!("this host has these addresses now: {}", addresses.join(" "))
        }
        Event::ReachabilityChanged { reachability } => match reachability {
            Reachability::Unknown => "whether strangers can dial this node is unknown",
            Reachability::Public => "strangers can dial this node",
            Reachability::BehindNat => "strangers cannot dial this node: a NAT keeps them out",
        }
        .to_owned(),
        Event::NatChanged { nat } => crate::words::nat_lines(nat).join("; "),
        Event::PeerIdentified { peer, addresses } => {
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            match addresses.is_empty() {
                true => format!("{peer} tells no address"),
                false => format!("{peer} tells that it is at {}", addresses.join(" ")),
            }
        }
        Event::PeerConnectedness {
            peer,
            connectedness,
        } => {
            let how = match connectedness {
                Connectedness::NotConnected => "is not connected",
                Connectedness::Relayed => "is connected over others",
                Connectedness::Direct => "is connected directly",
            };
            format!("{peer} {how}")
        }
        other => format!("{other:?}"),
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
