//! The connections of a node: which one is a peer's session.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
};

use anyhop_base::{PeerId, Record};
use anyhop_proto::{
    circuit::{CircuitId, LinkId},
    route::OwnLink,
    session::{Candidate, Keep, arbitrate},
};

use tracing::Instrument;

use super::Inner;
use crate::{
    Connectedness, DialError, Event, PathInfo,
    circuit::LocalCircuit,
    engine::Connection,
    session::{Command, Conn, Driver},
};

/// All live connections.
#[derive(Debug, Default)]
pub(super) struct Registry {
    peers: BTreeMap<PeerId, Entry>,
    links: HashMap<LinkId, Arc<Conn>>,
}

#[derive(Debug)]
struct Entry {
    current: Arc<Conn>,
    /// Superseded connections whose streams still run.
    others: Vec<Arc<Conn>>,
    /// As it was told last.
    connectedness: Connectedness,
    /// The path that was told last.
    path: Option<PathInfo>,
    /// Whether a record of the peer was told since the session was opened.
    identified: bool,
}

impl Entry {
    /// The selected path, if that is another one than was told last.
    fn path_change(&mut self) -> Option<PathInfo> {
        let table = self.current.paths.borrow();
        // While no path is selected, the last one may live again.
        let selected = table.paths.iter().find(|p| p.selected)?;
        if self
            .path
            .as_ref()
            .is_some_and(|told| told.leads_as(selected))
        {
            return None;
        }
        self.path = Some(selected.clone());
        Some(selected.clone())
    }

    /// How the peer is connected over this path, if that is another way than was told last.
    fn connectedness_change(&mut self, path: &PathInfo) -> Option<Connectedness> {
        let now = Connectedness::from(path.kind);
        (std::mem::replace(&mut self.connectedness, now) != now).then_some(now)
    }
}

impl Registry {
    fn insert(&mut self, conn: &Arc<Conn>, me: PeerId) {
        self.links.insert(conn.id, Arc::clone(conn));
        let Some(entry) = self.peers.get_mut(&conn.peer) else {
            let entry = Entry {
                current: Arc::clone(conn),
                others: Vec::new(),
                connectedness: Connectedness::NotConnected,
                path: None,
                identified: false,
            };
            self.peers.insert(conn.peer, entry);
            return;
        };
        let candidate = |c: &Conn| Candidate {
            dialer: c.dialer(me),
            age: c.opened.elapsed(),
        };
        let keep = if entry.current.is_closed() || entry.current.paths.borrow().stalled {
            Keep::New
        } else {
            arbitrate(candidate(&entry.current), candidate(conn))
        };
        let loser = match keep {
            Keep::Existing => Arc::clone(conn),
            Keep::New => std::mem::replace(&mut entry.current, Arc::clone(conn)),
        };
        loser.superseded.store(true, Ordering::Relaxed);
        entry.others.push(loser);
    }

    /// Removes a connection; true when its peer has no other.
    fn remove(&mut self, conn: &Conn) -> bool {
        self.links.remove(&conn.id);
        let Some(entry) = self.peers.get_mut(&conn.peer) else {
            return false;
        };
        entry.others.retain(|c| c.id != conn.id);
        if entry.current.id != conn.id {
            return false;
        }
        if let Some(next) = entry.others.pop() {
            next.superseded.store(false, Ordering::Relaxed);
            entry.current = next;
            return false;
        }
        self.peers.remove(&conn.peer);
        true
    }
}

impl Inner {
    /// Makes an authenticated connection live, with the circuit of ours that its handshake
    /// ran over. `None` when it is closed already.
    pub(super) fn adopt(
        self: &Arc<Self>,
        quic: Connection,
        peer: PeerId,
        circuit: Option<LocalCircuit>,
    ) -> Option<Arc<Conn>> {
        let id = self.next_link.fetch_add(1, Ordering::Relaxed);
        let (conn, commands) = Conn::new(id, peer, quic)?;
        let driver = Driver::new(Arc::clone(self), Arc::clone(&conn), commands, circuit)?;
        {
            let mut sessions = self.sessions.lock().expect("no holder panics");
            let first = !sessions.peers.contains_key(&peer);
            sessions.insert(&conn, self.me);
            // Under the lock, as all events of sessions, so that they come in order.
            if first {
                self.emit(Event::SessionOpened { peer });
            }
            self.tell_path(&mut sessions, peer);
        }
        self.session_changed.notify_waiters();
        self.links_changed.notify_one();
        self.member_connected(peer);
        self.topics_connected(peer);
        // Not cancelled on stop: it ends with its connection, which the stop closes.
        let span = tracing::debug_span!("conn", id, role = ?conn.role);
        self.spawn_unstopped(driver.run().instrument(span));
        Some(conn)
    }

    /// A connection's driver has ended.
    pub(crate) fn conn_ended(self: &Arc<Self>, conn: &Conn, reason: &str) {
        let last = {
            let mut sessions = self.sessions.lock().expect("no holder panics");
            let (peer, last) = (conn.peer, sessions.remove(conn));
            if last {
                let reason = reason.to_owned();
                self.emit(Event::SessionClosed { peer, reason });
                let connectedness = Connectedness::NotConnected;
                self.emit(Event::PeerConnectedness {
                    peer,
                    connectedness,
                });
            } else {
                self.tell_path(&mut sessions, peer);
            }
            last
        };
        if last {
            self.member_disconnected(conn.peer);
            self.topics_disconnected(conn.peer);
        }
        self.fabric
            .switch
            .write()
            .expect("no holder panics")
            .remove_link(conn.id);
        self.forget_observation(conn.id);
        self.session_changed.notify_waiters();
        self.links_changed.notify_one();
    }

    /// A connection has other paths, or selects another one.
    pub(crate) fn paths_changed(&self, conn: &Conn) {
        let mut sessions = self.sessions.lock().expect("no holder panics");
        self.tell_path(&mut sessions, conn.peer);
    }

    fn tell_path(&self, sessions: &mut Registry, peer: PeerId) {
        let Some(entry) = sessions.peers.get_mut(&peer) else {
            return;
        };
        let Some(path) = entry.path_change() else {
            return;
        };
        let connectedness = entry.connectedness_change(&path);
        self.emit(Event::PathSelected { peer, path });
        if let Some(connectedness) = connectedness {
            self.emit(Event::PeerConnectedness {
                peer,
                connectedness,
            });
        }
    }

    /// A peer's record was read; `changed` when it says something new. Told only of peers
    /// with a session: others are merely known of.
    pub(super) fn tell_identified(&self, record: &Record, changed: bool) {
        let mut sessions = self.sessions.lock().expect("no holder panics");
        let Some(entry) = sessions.peers.get_mut(&record.peer) else {
            return;
        };
        if !std::mem::replace(&mut entry.identified, true) || changed {
            self.emit(Event::PeerIdentified {
                peer: record.peer,
                addresses: record.addresses.clone(),
            });
        }
    }

    /// The connection that carries a peer's session.
    pub(crate) fn current(&self, peer: PeerId) -> Option<Arc<Conn>> {
        let sessions = self.sessions.lock().expect("no holder panics");
        let current = &sessions.peers.get(&peer)?.current;
        (!current.is_closed()).then(|| Arc::clone(current))
    }

    /// The connections that carry sessions.
    pub(crate) fn current_conns(&self) -> Vec<Arc<Conn>> {
        let sessions = self.sessions.lock().expect("no holder panics");
        let current = sessions.peers.values().map(|e| Arc::clone(&e.current));
        current.collect()
    }

    /// All connections, superseded ones included.
    pub(crate) fn all_conns(&self) -> Vec<Arc<Conn>> {
        let sessions = self.sessions.lock().expect("no holder panics");
        sessions.links.values().map(Arc::clone).collect()
    }

    /// The link to a neighbour: its session, when that has a direct path.
    pub(crate) fn link_to(&self, peer: PeerId) -> Option<Arc<Conn>> {
        let sessions = self.sessions.lock().expect("no holder panics");
        let entry = sessions.peers.get(&peer)?;
        let mut conns = std::iter::once(&entry.current).chain(&entry.others);
        conns.find(|c| c.is_link()).map(Arc::clone)
    }

    /// This node's links, one for each neighbour, with what they measure.
    pub(crate) fn own_links(&self) -> Vec<OwnLink> {
        let sessions = self.sessions.lock().expect("no holder panics");
        let mut links: Vec<_> = sessions
            .links
            .values()
            .filter_map(|c| c.own_link())
            .collect();
        links.sort_by_key(|link| (link.peer, link.rtt));
        links.dedup_by_key(|link| link.peer);
        links
    }

    /// The peers this node has links to.
    pub(crate) fn linked_peers(&self) -> Vec<PeerId> {
        let sessions = self.sessions.lock().expect("no holder panics");
        let mut peers: Vec<_> = sessions.links.values().collect();
        peers.retain(|c| c.is_link());
        let mut peers: Vec<_> = peers.into_iter().map(|c| c.peer).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }

    /// Has the link under a silent circuit speak up, so that the relay learns where we are
    /// if our NAT has given us another address.
    pub(crate) fn probe_link(&self, circuit: CircuitId) {
        let Some(link) = self.circuits.link(circuit) else {
            return;
        };
        let sessions = self.sessions.lock().expect("no holder panics");
        if let Some(conn) = sessions.links.get(&link) {
            // A full queue means that the driver is busy with the link already.
            let _ = conn.commands.try_send(Command::Probe);
        }
    }

    /// Refuses more sessions than the limit.
    pub(super) fn check_session_limit(&self, peer: PeerId) -> Result<(), DialError> {
        let limit = self.config.limits.max_sessions;
        let sessions = self.sessions.lock().expect("no holder panics");
        if sessions.links.len() >= limit && !sessions.peers.contains_key(&peer) {
            return Err(DialError::TooManySessions { peer, limit });
        }
        Ok(())
    }

    /// Connected peers to ask about `peer`: bootstraps first.
    pub(super) fn whom_to_ask(&self, peer: PeerId, max: usize) -> Vec<Arc<Conn>> {
        let mut conns = self.current_conns();
        conns.retain(|c| c.peer != peer && !c.is_closed());
        conns.sort_by_key(|c| !self.is_pinned(c.peer));
        conns.truncate(max);
        conns
    }
}
