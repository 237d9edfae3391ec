//! Which networks the daemon is in, and which of them a command means.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhop_base::NetworkId;

use super::Presence;
use crate::error::{CliError, Code};

/// Networks of one daemon. Each costs a node: its sockets, sessions and tasks.
pub(super) const MAX_NETWORKS: usize = 64;

/// The networks.
#[derive(Debug, Default)]
pub(super) struct Networks(Mutex<Running>);

#[derive(Debug, Default)]
struct Running {
    presences: BTreeMap<NetworkId, Arc<Presence>>,
    /// The one that is meant where none is named.
    default: Option<NetworkId>,
}

impl Networks {
    fn running(&self) -> MutexGuard<'_, Running> {
        // The map is whole after every single operation on it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them, in the order of their names; whether each is the default.
    pub(super) fn all(&self) -> Vec<(Arc<Presence>, bool)> {
        let running = self.running();
        let mut all: Vec<_> = running
            .presences
            .iter()
            .map(|(id, presence)| (Arc::clone(presence), running.default == Some(*id)))
            .collect();
        drop(running);
        all.sort_by_cached_key(|(presence, _)| (presence.name(), presence.id()));
        all
    }

    /// The network of this name or id, or the default one.
    pub(super) fn find(&self, named: Option<&str>) -> Result<Arc<Presence>, CliError> {
        let Some(named) = named else {
            let running = self.running();
            let default = running.default.and_then(|id| running.presences.get(&id));
            let nowhere = || CliError::new(Code::NoNetwork, "this daemon is in no network");
            return default.cloned().ok_or_else(nowhere);
        };
        let all = self.all();
        if let Some((presence, _)) = all.iter().find(|(p, _)| p.id().to_string() == named) {
            return Ok(Arc::clone(presence));
        }
        let mut fitting = all.iter().filter(|(p, _)| p.name() == named);
        match (fitting.next(), fitting.next()) {
            (Some((presence, _)), None) => Ok(Arc::clone(presence)),
            (None, _) => {
                let names: Vec<_> = all.iter().map(|(p, _)| p.name()).collect();
                Err(unknown(named, &names))
            }
            (Some(_), Some(_)) => Err(ambiguous(named, &all)),
        }
    }

    /// The network of this id.
    pub(super) fn get(&self, id: NetworkId) -> Option<Arc<Presence>> {
        self.running().presences.get(&id).cloned()
    }

    /// Whether it is the one that is meant where none is named.
    pub(super) fn is_default(&self, id: NetworkId) -> bool {
        self.running().default == Some(id)
    }

    pub(super) fn set_default(&self, id: NetworkId) {
        self.running().default = Some(id);
    }

    /// Whether one more can be entered.
    pub(super) fn check_room(&self) -> Result<(), CliError> {
        if self.running().presences.len() < MAX_NETWORKS {
            return Ok(());
        }
        let message = format!("this daemon is in {MAX_NETWORKS} networks, which is the limit");
        Err(CliError::new(Code::Limit, message)
            .hint("leave one with `anyhop network leave NAME`, or run another daemon with another --state-dir"))
    }

    pub(super) fn insert(&self, presence: Arc<Presence>) {
        self.running().presences.insert(presence.id(), presence);
    }

    /// Takes one out; `None` when it is not there any more.
    pub(super) fn remove(&self, id: NetworkId) -> Option<Arc<Presence>> {
        self.running().presences.remove(&id)
    }
}

fn unknown(named: &str, names: &[String]) -> CliError {
    let message = format!("this daemon is not in a network {named:?}");
    let hint = format!(
        "it is in: {}. Make one with `anyhop network create NAME`, or join one with `anyhop network join INVITE`",
        names.join(", ")
    );
    CliError::new(Code::NoNetwork, message).hint(hint)
}

fn ambiguous(named: &str, all: &[(Arc<Presence>, bool)]) -> CliError {
    let of_name = all.iter().filter(|(p, _)| p.name() == named);
    let each = of_name.map(|(p, _)| {
        let kind = match p.node.private_network() {
            Some(_) => "private",
            None => "public",
        };
        format!("{} ({kind})", p.id())
    });
    let each: Vec<_> = each.collect();
    CliError::usage(format!(
        "this daemon is in {} networks named {named:?}",
        each.len()
    ))
    .hint(format!("give the id instead: {}", each.join(", ")))
}
