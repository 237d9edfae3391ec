//! Dead paths of a connection: the peer is told, and their packets take a living one.

use std::net::SocketAddr;

use anyhop_proto::path::PathKey;

use super::{Driver, now};
use crate::engine::{PathId, path_number};

impl Driver {
    /// Tells the peer that a path is dead.
    pub(super) fn tell_lost(&mut self, key: PathKey, used: bool) {
        let selected = self.agent.selected().and_then(|key| self.paths.get(&key));
        if let (Some(lost), Some(over)) = (self.paths.get(&key), selected) {
            self.probing
                .tell_lost(over.remote, path_number(lost.id), used);
        }
    }

    /// The peer says that a path is dead.
    pub(super) fn peer_lost(&mut self, id: u32, used: bool) {
        if let Some(&key) = self.keys.get(&PathId::from(id)) {
            self.agent.handle_peer_lost(now(), key, used);
        }
    }

    /// Has the packets of dead paths take the selected one.
    pub(super) fn divert(&mut self) {
        let wanted = self.wanted_diversions();
        if wanted == self.diverted {
            return;
        }
        self.conn.quic.diversions.set(wanted.clone());
        self.conn.quic.kicks.kick();
        for open in self.paths.values() {
            let is_new = |pair: &&(SocketAddr, SocketAddr)| !self.diverted.contains(pair);
            let mut pairs = wanted.iter().filter(is_new);
            if pairs.any(|(from, _)| *from == open.remote) {
                // Not to wait for the engine's own probe; fails only for a path that is
                // being closed.
                let _ = open.path.ping();
            }
        }
        self.diverted = wanted;
    }

    fn wanted_diversions(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let selected = self.agent.selected().filter(|key| self.agent.alive(*key));
        let Some(over) = selected.and_then(|key| self.paths.get(&key)) else {
            return Vec::new();
        };
        let dead = self
            .paths
            .iter()
            .filter(|(key, _)| !self.agent.alive(**key));
        dead.map(|(_, open)| (open.remote, over.remote))
            .filter(|(from, to)| from != to)
            .collect()
    }
}
