//! What happens on the daemon's nodes, told on standard output and standard error.

use std::{
    io::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use anyhop::{Connectedness, Event, PeerAddr, Reachability};
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::Presence;
use crate::{error::CliError, output::Output};

/// Lines kept until the first one is out; more are dropped.
const MAX_EARLY: usize = 1024;

/// Tells as `up` was asked to. The line that says `ready` comes first.
#[derive(Debug, Clone)]
pub(super) struct Teller {
    output: Output,
    /// Whether people want to read of everything.
    all: bool,
    /// What is to be told after the first line; `None` once that is out.
    early: Arc<Mutex<Option<Vec<String>>>>,
}

impl Teller {
    /// JSON or for people, and these of everything or of what needs them.
    pub(super) fn new(output: Output, all: bool) -> Self {
        let early = Arc::new(Mutex::new(Some(Vec::new())));
        Self { output, all, early }
    }

    /// The line that says that commands are answered from now on.
    pub(super) fn ready(&self, presence: &Presence) {
        let report = presence.report(true);
        let peer_id = presence.node.peer_id().to_base58();
        if self.output.is_json() {
            let value = json!({
                "event": "ready",
                "network": report.network,
                "peer_id": peer_id,
                "addresses": report.addresses,
            });
            print(&value.to_string());
        } else {
            let words = ["ready".to_owned(), peer_id].into_iter();
            print(&words.chain(report.addresses).collect::<Vec<_>>().join(" "));
        }
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        early.take().iter().flatten().for_each(|line| print(line));
    }

    /// A further network was entered.
    pub(super) fn entered(&self, presence: &Presence) {
        let report = presence.report(false);
        let value = json!({
            "event": "network_entered",
            "network": report.network,
            "id": report.id,
            "addresses": report.addresses,
        });
        let text = || format!("entered the network {} ({})", report.network, report.id);
        self.event(&value, text);
    }

    /// A network was left.
    pub(super) fn left(&self, presence: &Presence) {
        let (name, id) = (presence.name(), presence.id().to_string());
        let value = json!({"event": "network_left", "network": name, "id": id});
        self.event(&value, || format!("left the network {name} ({id})"));
    }

    /// A network cannot be entered, or this node is to be no member of it.
    pub(super) fn network_failed(&self, network: &str, error: &CliError) {
        let value = json!({"event": "network_failed", "network": network, "error": error});
        self.warning(&value, error);
    }

    /// A bootstrap peer was not reached.
    pub(super) fn bootstrap_failed(&self, presence: &Presence, addr: &PeerAddr, error: &CliError) {
        let value = json!({
            "event": "bootstrap_failed",
            "network": presence.name(),
            "address": addr.to_string(),
            "error": error,
        });
        self.warning(&value, error);
    }

    fn warning(&self, value: &Value, error: &CliError) {
        if self.output.is_json() {
            return self.value(value);
        }
        let mut err = std::io::stderr().lock();
        let _ = writeln!(err, "warning: {}", error.message);
        if let Some(hint) = &error.hint {
            let _ = writeln!(err, "hint: {hint}");
        }
    }

    fn event(&self, value: &Value, text: impl FnOnce() -> String) {
        if self.output.is_json() {
            self.value(value);
        } else if self.all {
            let _ = writeln!(std::io::stderr(), "{}", text());
        }
    }

    fn value(&self, value: &Value) {
        let line = value.to_string();
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        match early.as_mut() {
            Some(early) if early.len() < MAX_EARLY => early.push(line),
            Some(_) => {}
            None => print(&line),
        }
    }

    /// Tells what happens on the node of a network, until it is closed.
    pub(super) async fn follow(self, name: String, mut events: broadcast::Receiver<Event>) {
        loop {
            let event = match events.recv().await {
                Ok(event) => event,
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::debug!(missed, "events came faster than they were printed");
                    continue;
                }
                Err(broadcast::error::RecvError::Closed) => return,
            };
            if self.output.is_json() {
                if let Some(mut value) = event_json(&event) {
                    value["network"] = name.clone().into();
                    self.value(&value);
                }
            } else if self.all {
                let _ = writeln!(std::io::stderr(), "{name}: {}", event_text(&event));
            }
        }
    }
}

/// Prints a line; whoever started the daemon may have stopped reading.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
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
        Event::Joined => json!({"event": "joined"}),
        Event::JoinRequested { peer, name } => {
            json!({"event": "join_requested", "peer_id": peer.to_base58(), "name": name})
        }
        Event::MembersChanged => json!({"event": "members_changed"}),
        Event::EpochChanged { epoch } => json!({"event": "epoch_changed", "epoch": epoch}),
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
        Event::Joined => "this node is a member now".to_owned(),
        Event::JoinRequested { peer, name } => {
            format!("{peer} asks to join as {name:?}: `anyhop network approve` or `deny`")
        }
        Event::MembersChanged => "members, or what is known of them, changed".to_owned(),
        Event::EpochChanged { epoch } => format!("epoch {epoch} has begun"),
        other => format!("{other:?}"),
    }
}
