//! Follows the sessions with the peers of a packet plane: their keys, and the path that each
//! has selected.
//!
//! - **Start**: a packet for a peer without a session has one dialled.
//! - **Steady state**: whenever a session, or the path that it has selected, is another one,
//!   all peers are looked at again. Keys of every connection open packets, those of the
//!   current one seal them. A session that carries packets counts as used.
//! - **Failure**: keys of a connection that has ended are taken for [`KEY_GRACE`] more, for
//!   what is on its way.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhop_base::PeerId;
use anyhop_os::StopFlag;
use anyhop_proto::circuit::LinkId;
use anyhop_vpn::{
    KEY_GRACE, Keyring, OVERHEAD, ReceiverIndex, Slot,
    firewall::{Caller, RuleSet},
    ip::MIN_MTU,
};
use tokio::{
    sync::{broadcast::error::RecvError, mpsc},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    VPN_MTU, VpnConfig, VpnError, VpnPeer, VpnPeerStatus, VpnStatus, info, peers::Peers,
    plane::Plane, routes::Accepted,
};
use crate::{
    Event, NetworkHandle,
    node::{Inner, Node},
    session::{Conn, Use},
};

/// For how long a session counts as used after a packet.
const IN_USE: Duration = Duration::from_secs(300);
/// Between looks at what changes by time alone.
const LOOK: Duration = Duration::from_secs(1);
/// For how long a new path is taken for one with the interface's MTU: until QUIC has found
/// out, a sender that is told less would believe it for minutes.
const MTU_SETTLES: Duration = Duration::from_secs(3);
/// What the peer's side of a new session may take to know its keys, beyond a round trip.
const ADOPTION: Duration = Duration::from_millis(10);

/// What is kept about a peer's sessions.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Keys that packets of the peer are opened with.
    keys: BTreeMap<ReceiverIndex, Keys>,
    /// What packets to the peer are sealed for, and since when that path is used.
    selected: Option<(LinkId, SocketAddr, Instant)>,
    /// As it was told to the egress last.
    told: Option<(ReceiverIndex, SocketAddr, usize)>,
    dialling: bool,
    rekeying: bool,
    /// Packets counted so far, when there were new ones last, and what keeps the session.
    traffic: u64,
    active: Option<Instant>,
    in_use: Option<Use>,
}

#[derive(Debug)]
struct Keys {
    conn: LinkId,
    /// When the connection had ended.
    ended: Option<Instant>,
}

/// The plane and whom it is for.
#[derive(Debug)]
pub(crate) struct Links {
    pub(super) node: Arc<Inner>,
    /// `None` once halted, so that the interface goes with the last that uses it.
    plane: Mutex<Option<Arc<Plane>>>,
    stop: Arc<StopFlag>,
    /// Age of keys at which new ones are made.
    rekey_after: Duration,
    peers: Mutex<Peers<State>>,
    /// Taken before that of the peers, and never with it.
    accepted: Mutex<Accepted>,
}

impl Links {
    pub(super) fn new(
        node: Arc<Inner>,
        plane: Arc<Plane>,
        stop: Arc<StopFlag>,
        rekey_after: Duration,
    ) -> Self {
        Self {
            node,
            plane: Mutex::new(Some(plane)),
            stop,
            rekey_after,
            peers: Mutex::default(),
            accepted: Mutex::default(),
        }
    }

    pub(super) fn accepted(&self) -> MutexGuard<'_, Accepted> {
        self.accepted.lock().expect("no holder panics")
    }

    pub(super) fn peers(&self) -> MutexGuard<'_, Peers<State>> {
        self.peers.lock().expect("no holder panics")
    }

    pub(super) fn plane(&self) -> Option<Arc<Plane>> {
        self.plane.lock().expect("no holder panics").clone()
    }

    /// Moves no more packets; the interface goes.
    pub(super) fn halt(&self) {
        let plane = self.plane.lock().expect("no holder panics").take();
        if plane.is_some() {
            self.node.fabric.set_sealed_sink(None);
            self.node.set_offers(Vec::new());
            self.stop.set();
        }
    }

    pub(super) fn add_peer(&self, peer: VpnPeer) -> Result<(), VpnError> {
        let Some(plane) = self.plane() else {
            return Ok(());
        };
        let mut peers = self.peers();
        let caller = peer.caller();
        let slot = peers.add(peer)?;
        welcome(&plane, slot, caller);
        apply_routes(&plane, &peers);
        self.node.links_changed.notify_one();
        Ok(())
    }

    pub(super) fn remove_peer(&self, peer: PeerId) -> bool {
        let mut peers = self.peers();
        let Some(entry) = peers.remove(peer) else {
            return false;
        };
        if let Some(plane) = self.plane() {
            forget(&plane, entry.slot);
            apply_routes(&plane, &peers);
        }
        true
    }

    /// Runs until stopped, or until the node stops; then the plane is halted.
    pub(super) async fn follow(
        self: Arc<Self>,
        mut dial: mpsc::Receiver<Slot>,
        network: Option<NetworkHandle>,
        stop: CancellationToken,
    ) {
        let mut events = Node(Arc::clone(&self.node)).events();
        self.take_members(network.as_ref());
        let mut next_look = Instant::now();
        loop {
            next_look = self.look().unwrap_or_else(|| next_look + LOOK);
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.node.stopped() => break,
                () = self.node.links_changed.notified() => {}
                Some(slot) = dial.recv() => self.dial(slot),
                event = events.recv(), if network.is_some() => match event {
                    Ok(Event::MembersChanged | Event::Joined) | Err(RecvError::Lagged(_)) => {
                        self.take_members(network.as_ref());
                    }
                    Ok(_) => {}
                    Err(RecvError::Closed) => break,
                },
                () = sleep_until(next_look) => {}
            }
        }
        self.halt();
    }

    /// Replaces this host's own firewall rules.
    pub(super) fn set_local_rules(&self, local: RuleSet) {
        if let Some(plane) = self.plane() {
            plane.firewall().set_local(local);
        }
    }

    /// Has the peers be the other members of the network, and its firewall rules hold.
    fn take_members(&self, network: Option<&NetworkHandle>) {
        let (Some(network), Some(plane)) = (network, self.plane()) else {
            return;
        };
        plane.firewall().set_network(network.rules());
        let members = network.overlay().others;
        let mut peers = self.peers();
        let wanted: BTreeSet<PeerId> = members.iter().map(|m| m.peer).collect();
        let gone: Vec<_> = peers.iter().map(|e| e.peer.peer).collect();
        for peer in gone.into_iter().filter(|p| !wanted.contains(p)) {
            if let Some(entry) = peers.remove(peer) {
                forget(&plane, entry.slot);
            }
        }
        for member in members {
            let peer = member.peer;
            if peers.get_mut(peer).is_some_and(|e| e.peer == member) {
                continue;
            }
            let caller = member.caller();
            match peers.add(member) {
                Ok(slot) => welcome(&plane, slot, caller),
                Err(e) => tracing::warn!(%peer, error = %e, "a member gets no packets"),
            }
        }
        apply_routes(&plane, &peers);
        self.node.links_changed.notify_one();
    }

    /// Has a session made with a peer.
    fn dial(self: &Arc<Self>, slot: Slot) {
        let mut peers = self.peers();
        let Some(peer) = peers.at(slot) else { return };
        let Some(entry) = peers.get_mut(peer) else {
            return;
        };
        if std::mem::replace(&mut entry.state.dialling, true) {
            return;
        }
        let this = Arc::clone(self);
        self.node.spawn(async move {
            let dialled = Node(Arc::clone(&this.node)).connect(peer).await;
            let mut peers = this.peers();
            if let Some(entry) = peers.get_mut(peer) {
                entry.state.dialling = false;
            }
            drop(peers);
            match dialled {
                Ok(_) => this.node.links_changed.notify_one(),
                Err(e) => {
                    tracing::debug!(%peer, error = %e, "no session for packets");
                    if let Some(plane) = this.plane() {
                        plane.egress().give_up(slot);
                    }
                }
            }
        });
    }

    /// Looks at all sessions with peers. Answers when to look again at the latest; `None`
    /// once halted.
    fn look(self: &Arc<Self>) -> Option<Instant> {
        let plane = self.plane()?;
        let now = Instant::now();
        self.apply_accepted(&plane);
        self.ask_for_offers(now);
        let mut again = now + LOOK;
        let conns = self.node.all_conns();
        let mut peers = self.peers();
        for conn in &conns {
            if let Some(entry) = peers.get_mut(conn.peer) {
                let slot = entry.slot;
                take_keys(&plane, slot, &mut entry.state, conn);
            }
        }
        let alive: BTreeSet<LinkId> = conns.iter().map(|c| c.id).collect();
        let mut held = Vec::new();
        for entry in peers.iter_mut() {
            let (slot, state) = (entry.slot, &mut entry.state);
            drop_keys(&plane, state, &alive, now);
            let current = self.node.current(entry.peer.peer);
            if let Some(conn) = &current
                && let Some(ready) = ready_at(conn).filter(|ready| *ready > now)
            {
                // The former link, if there is one, serves until then.
                again = again.min(ready);
                continue;
            }
            let frames = select(&plane, slot, state, current.as_ref(), now);
            held.extend(frames.into_iter().map(|frame| (slot, frame)));
            note_use(&plane, slot, state, current.as_ref(), now);
            if let Some(conn) = current {
                self.rekey_when_due(state, conn, now);
            }
        }
        drop(peers);
        plane.send_held(held);
        Some(again)
    }

    fn rekey_when_due(self: &Arc<Self>, state: &mut State, conn: Arc<Conn>, now: Instant) {
        let (now, after) = (now.into_std(), self.rekey_after);
        let begins = |ring: &mut Keyring| ring.is_due(now, after) && ring.begin(now);
        if state.rekeying || conn.with_keyring(begins) != Some(true) {
            return;
        }
        state.rekeying = true;
        let this = Arc::clone(self);
        self.node.spawn(async move {
            this.rekey(&conn).await;
            if let Some(entry) = this.peers().get_mut(conn.peer) {
                entry.state.rekeying = false;
            }
        });
    }

    /// Opens packets with the keys that a connection has now.
    pub(super) fn open_with_keys_of(&self, conn: &Conn) {
        let Some(plane) = self.plane() else { return };
        if let Some(entry) = self.peers().get_mut(conn.peer) {
            take_keys(&plane, entry.slot, &mut entry.state, conn);
        }
    }

    /// Whether somebody is on the plane.
    pub(super) fn knows(&self, peer: PeerId) -> bool {
        self.peers().get_mut(peer).is_some()
    }

    pub(super) fn status(
        &self,
        interface: &str,
        config: &VpnConfig,
        note: Option<&str>,
    ) -> VpnStatus {
        let mut status = VpnStatus::of(interface, config, note);
        let Some(plane) = self.plane() else {
            return status;
        };
        let drops = [
            plane.egress().drops().clone(),
            plane.inbound().ingress.drops().clone(),
        ];
        status.drops = info::drop_counts(&drops);
        let peers = self.peers();
        for entry in peers.iter() {
            let (sent, came) = (
                plane.egress().counters(entry.slot),
                plane.inbound().ingress.counters(entry.slot),
            );
            let conn = self.node.current(entry.peer.peer);
            let rekeys = conn
                .as_ref()
                .and_then(|c| c.with_keyring(|ring| ring.rekeys()));
            let rekeys = rekeys.unwrap_or_default();
            let path =
                conn.and_then(|c| c.paths.borrow().paths.iter().find(|p| p.selected).cloned());
            status.peers.push(VpnPeerStatus {
                peer_id: entry.peer.peer.to_string(),
                name: entry.peer.name.clone(),
                address4: entry.peer.address4.map(|ip| ip.to_string()),
                address6: entry.peer.address6.map(|ip| ip.to_string()),
                path,
                tx_bytes: sent.0,
                rx_bytes: came.0,
                tx_packets: sent.1,
                rx_packets: came.1,
                rekeys,
                macs: macs_behind(&plane, entry.slot),
                drops: info::drop_counts(&[sent.2, came.2]),
            });
        }
        status
    }
}

pub(super) fn apply_routes(plane: &Plane, peers: &Peers<State>) {
    plane.egress().set_routes(peers.routes());
    plane.inbound().ingress.set_routes(peers.routes());
}

/// The hardware addresses behind a peer; none where packets are carried.
fn macs_behind(plane: &Plane, slot: Slot) -> Vec<String> {
    let now = Instant::now().into_std();
    let macs = plane.switch().map(|switch| switch.behind(slot, now));
    macs.into_iter()
        .flatten()
        .map(|mac| mac.to_string())
        .collect()
}

fn welcome(plane: &Plane, slot: Slot, caller: Caller) {
    plane.firewall().set_peer(slot, caller);
    plane.egress().add_peer(slot);
}

fn forget(plane: &Plane, slot: Slot) {
    plane.firewall().remove_peer(slot);
    plane.egress().remove_peer(slot);
    plane.inbound().ingress.remove_peer(slot);
    if let Some(mut switch) = plane.switch() {
        switch.remove_member(slot);
    }
}

/// Opens packets with a connection's keys, as they are now.
fn take_keys(plane: &Plane, slot: Slot, state: &mut State, conn: &Conn) {
    let now = Instant::now().into_std();
    let openers = conn.with_keyring(|ring| ring.openers(now).cloned().collect::<Vec<_>>());
    let openers = openers.unwrap_or_default();
    let ingress = &mut plane.inbound().ingress;
    state.keys.retain(|index, keys| {
        let keep = keys.conn != conn.id || openers.iter().any(|o| o.index() == *index);
        if !keep {
            ingress.remove_keys(*index);
        }
        keep
    });
    for opener in openers {
        state.keys.entry(opener.index()).or_insert_with(|| {
            ingress.add_keys(slot, opener);
            Keys {
                conn: conn.id,
                ended: None,
            }
        });
    }
}

/// Takes the keys of connections that ended a while ago away.
fn drop_keys(plane: &Plane, state: &mut State, alive: &BTreeSet<LinkId>, now: Instant) {
    state.keys.retain(|index, keys| {
        if alive.contains(&keys.conn) {
            return true;
        }
        let ended = *keys.ended.get_or_insert(now);
        let keep = now < ended + KEY_GRACE;
        if !keep {
            plane.inbound().ingress.remove_keys(*index);
        }
        keep
    });
}

/// When both sides of a connection know its keys.
fn ready_at(conn: &Conn) -> Option<Instant> {
    let table = conn.paths.borrow();
    let rtt = table.paths.iter().find(|p| p.selected)?.rtt_ms;
    let rtt = Duration::try_from_secs_f64(rtt / 1e3).unwrap_or_default();
    Some(conn.opened + rtt + ADOPTION)
}

/// Sends packets over the path that the current connection has selected. Answers what waited
/// for that.
fn select(
    plane: &Plane,
    slot: Slot,
    state: &mut State,
    current: Option<&Arc<Conn>>,
    now: Instant,
) -> impl IntoIterator<Item = Vec<u8>> + use<> {
    let link = current.and_then(|conn| {
        let (path, mtu) = conn.paths.borrow().selected?;
        Some((conn, path, mtu))
    });
    let Some((conn, path, path_mtu)) = link else {
        state.selected = None;
        if state.told.take().is_some() {
            plane.egress().unset_link(slot);
        }
        return Default::default();
    };
    let since = match state.selected {
        Some((id, known, since)) if (id, known) == (conn.id, path) => since,
        _ => now,
    };
    state.selected = Some((conn.id, path, since));
    let mtu = inner_mtu(path_mtu, now - since);
    let Some(sealer) = conn.with_keyring(|ring| Arc::clone(ring.sealer())) else {
        return Default::default();
    };
    let link = (sealer.index(), path, mtu);
    if state.told.replace(link) == Some(link) {
        return Default::default();
    }
    plane.egress().set_link(slot, sealer, path, mtu)
}

/// Longest packet that goes over a path on which QUIC sends datagrams of `path_mtu` bytes.
fn inner_mtu(path_mtu: u16, age: Duration) -> usize {
    let most = usize::from(VPN_MTU);
    if age < MTU_SETTLES {
        return most;
    }
    let found = usize::from(path_mtu).saturating_sub(OVERHEAD);
    found.clamp(MIN_MTU, most)
}

/// Keeps the session of a peer that packets go to or come from.
fn note_use(
    plane: &Plane,
    slot: Slot,
    state: &mut State,
    current: Option<&Arc<Conn>>,
    now: Instant,
) {
    let traffic = plane.egress().counters(slot).1 + plane.inbound().ingress.counters(slot).1;
    if traffic != state.traffic {
        (state.traffic, state.active) = (traffic, Some(now));
    }
    let active = state.active.is_some_and(|at| now < at + IN_USE);
    state.in_use = match current {
        Some(conn) if active => Some(Use::new(&conn.uses)),
        _ => None,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inner_mtu_is_true_once_the_path_is_known_and_never_below_that_of_ipv6() {
        let (new, settled) = (Duration::ZERO, MTU_SETTLES);
        assert_eq!(inner_mtu(1200, new), usize::from(VPN_MTU));
        assert_eq!(inner_mtu(1452, settled), usize::from(VPN_MTU));
        assert_eq!(inner_mtu(1400, settled), 1400 - OVERHEAD);
        assert_eq!(inner_mtu(1200, settled), MIN_MTU);
        assert_eq!(inner_mtu(9000, settled), usize::from(VPN_MTU));
    }
}
