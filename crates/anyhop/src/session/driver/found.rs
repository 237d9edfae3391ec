//! What probes tell a connection: who answers, from where the peer shows itself, and where it
//! sees us.

use std::{net::SocketAddr, sync::Arc};

use anyhop_proto::{
    carrier::CarrierId,
    is_virtual,
    nat::Family,
    path::{PathKey, Role},
};

use super::{Driver, Job, is_circuit, now, open_path};
use crate::{
    engine::{PathId, canonical},
    session::probing::Found,
};

/// Direct paths of one session, above which a new address of the peer's is left alone.
const ENOUGH_DIRECT: usize = 3;
/// Addresses of the peer's asked at once in a family that has no path.
const MAX_FAMILY_ADDRESSES: usize = 4;

impl Driver {
    /// Does what probes found out.
    pub(super) fn handle_found(&mut self, found: Vec<Found>) {
        for found in found {
            tracing::trace!(peer = %self.conn.peer, ?found, "probing");
            match found {
                Found::Alive(key, from) => self.answered(key, from),
                Found::PeerLost { path, used } => self.peer_lost(path, used),
                Found::SeenAt(addr) => self.seen_at(addr),
                Found::PingedFrom(addr) => {
                    self.conn.shows_itself_at(addr);
                    self.pinged_from(addr);
                }
                Found::AnswersAt(addr) => self.answers_at(addr),
                Found::Reached(choice, addr, pin) => self.reached(choice, addr, pin),
                Found::PunchFailed(choice, reason) => self.attempt_failed(choice, reason),
            }
        }
    }

    /// A path answers, and so proves its address.
    fn answered(&mut self, key: PathKey, from: SocketAddr) {
        if let Some(open) = self.paths.get_mut(&key)
            && open.remote == from
            && open.proven != from
        {
            open.proven = from;
            self.publish();
        }
        self.agent.handle_pong(now(), key);
    }

    /// A ping from an unknown address: the peer's may have changed. Of a client the engine
    /// follows the packets and checks them; we look often for a while what it found. A
    /// server that moved gets a new path, if it answers there.
    fn pinged_from(&mut self, addr: SocketAddr) {
        if let Some(carrier) = CarrierId::from_address(&addr) {
            self.join_websocket(carrier);
            return;
        }
        if is_circuit(addr) || self.path_at(addr).is_some() {
            return;
        }
        self.look_often();
        if self.conn.role == Role::Client {
            self.agent.handle_peer_elsewhere(now());
        }
        let wanted = self.conn.role == Role::Client && self.node.config.direct_paths;
        if wanted && !self.punching && self.direct_paths() < ENOUGH_DIRECT {
            self.probing.check(addr);
        }
    }

    /// Living direct paths over UDP.
    fn direct_paths(&self) -> usize {
        let alive = self.paths.iter().filter(|(key, _)| self.agent.alive(**key));
        alive.filter(|(_, p)| !is_virtual(&p.remote)).count()
    }

    /// The open path that leads to an address.
    pub(super) fn path_at(&self, addr: SocketAddr) -> Option<PathKey> {
        let found = self.paths.iter().find(|(_, open)| open.remote == addr);
        found.map(|(key, _)| *key)
    }

    fn answers_at(&mut self, addr: SocketAddr) {
        let known = self.path_at(addr).is_some();
        if known || self.opening_found || self.conn.role != Role::Client {
            return;
        }
        self.opening_found = true;
        let conn = Arc::clone(&self.conn);
        self.jobs
            .spawn(async move { Job::FoundPath(open_path(&conn, addr).await) });
    }

    /// Asks where else the peer is, over the family that has no path.
    pub(super) fn try_family(&mut self, family: Family) {
        let addresses = self.node.addresses_of(self.conn.peer, family);
        for addr in addresses.into_iter().take(MAX_FAMILY_ADDRESSES) {
            self.probing.check(addr);
        }
    }

    /// The peer told where it sees us. Over a circuit or a WebSocket that says nothing, and a
    /// stranger who dialled us could say anything to have others probe the address.
    pub(super) fn observed(&self, id: PathId, addr: SocketAddr) {
        if self.remote_of(id).is_some_and(|r| !is_virtual(&r)) {
            self.seen_at(canonical(addr));
        }
    }

    fn seen_at(&self, addr: SocketAddr) {
        // Over circuits and WebSockets the peer sees an address of its own making.
        if self.conn.role == Role::Client && !is_virtual(&addr) {
            self.node.observed(self.conn.id, addr);
        }
    }
}
