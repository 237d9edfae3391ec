//! Who is on a packet plane: slots, and whose prefixes are whose.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhop_base::PeerId;
use anyhop_vpn::{Prefix, Routes, Slot};

use super::{MAX_PEERS, MAX_ROUTES_PER_PEER, VpnError, VpnPeer};

/// A peer with its place.
#[derive(Debug)]
pub(super) struct Entry<S> {
    pub(super) slot: Slot,
    pub(super) peer: VpnPeer,
    /// Prefixes behind it that are used, beside its own.
    accepted: Vec<Prefix>,
    /// What `links` keeps about its sessions.
    pub(super) state: S,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Peers<S> {
    entries: BTreeMap<PeerId, Entry<S>>,
    by_slot: BTreeMap<Slot, PeerId>,
    free: BTreeSet<Slot>,
    routes: Arc<Routes>,
}

impl<S> Default for Peers<S> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            by_slot: BTreeMap::new(),
            free: BTreeSet::new(),
            routes: Arc::default(),
        }
    }
}

impl<S: Default> Peers<S> {
    /// Adds a peer, or replaces its routes; answers its slot.
    pub(super) fn add(&mut self, peer: VpnPeer) -> Result<Slot, VpnError> {
        let known = self.entries.get(&peer.peer).map(|e| e.slot);
        if peer.routes.len() > MAX_ROUTES_PER_PEER {
            let (what, limit) = ("routes of one peer", MAX_ROUTES_PER_PEER);
            return Err(VpnError::Limit { what, limit });
        }
        if known.is_none() && self.entries.len() >= MAX_PEERS {
            let (what, limit) = ("peers", MAX_PEERS);
            return Err(VpnError::Limit { what, limit });
        }
        for prefix in &peer.routes {
            self.check_free(peer.peer, known, *prefix)?;
        }
        let slot = known.or_else(|| self.free.pop_first());
        let slot = slot.unwrap_or(self.by_slot.len() as Slot);
        // Copied once for many that are added together.
        let routes = Arc::make_mut(&mut self.routes);
        routes.remove(slot);
        let accepted = self.entries.get(&peer.peer).map(|e| &*e.accepted);
        for prefix in peer.routes.iter().chain(accepted.unwrap_or_default()) {
            routes.insert(*prefix, slot);
        }
        self.by_slot.insert(slot, peer.peer);
        match self.entries.get_mut(&peer.peer) {
            Some(entry) => entry.peer = peer,
            None => {
                let (state, accepted) = (S::default(), Vec::new());
                let entry = Entry {
                    slot,
                    peer,
                    accepted,
                    state,
                };
                self.entries.insert(entry.peer.peer, entry);
            }
        }
        Ok(slot)
    }

    fn check_free(
        &self,
        peer: PeerId,
        known: Option<Slot>,
        prefix: Prefix,
    ) -> Result<(), VpnError> {
        match self.routes.owner(prefix) {
            Some(slot) if Some(slot) != known => Err(VpnError::Taken {
                peer,
                prefix,
                owner: self.by_slot[&slot],
            }),
            _ => Ok(()),
        }
    }

    /// Has packets for these prefixes, too, go to a peer; false when they did before. A prefix
    /// that is another peer's own stays that one's.
    pub(super) fn set_accepted(&mut self, peer: PeerId, prefixes: &[Prefix]) -> bool {
        let Some(entry) = self.entries.get_mut(&peer) else {
            return false;
        };
        if entry.accepted == prefixes {
            return false;
        }
        entry.accepted = prefixes.to_vec();
        let (slot, own) = (entry.slot, entry.peer.routes.clone());
        let routes = Arc::make_mut(&mut self.routes);
        routes.remove(slot);
        for prefix in own.iter().chain(prefixes) {
            let before = routes.insert(*prefix, slot);
            if let Some(other) = before.filter(|other| *other != slot) {
                routes.insert(*prefix, other);
            }
        }
        true
    }

    /// Removes a peer.
    pub(super) fn remove(&mut self, peer: PeerId) -> Option<Entry<S>> {
        let entry = self.entries.remove(&peer)?;
        self.by_slot.remove(&entry.slot);
        self.free.insert(entry.slot);
        Arc::make_mut(&mut self.routes).remove(entry.slot);
        Some(entry)
    }

    /// Whose addresses are whose.
    pub(super) fn routes(&self) -> Arc<Routes> {
        Arc::clone(&self.routes)
    }

    pub(super) fn get_mut(&mut self, peer: PeerId) -> Option<&mut Entry<S>> {
        self.entries.get_mut(&peer)
    }

    pub(super) fn at(&self, slot: Slot) -> Option<PeerId> {
        self.by_slot.get(&slot).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<S>> {
        self.entries.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry<S>> {
        self.entries.values_mut()
    }
}

#[cfg(test)]
mod tests {
    use anyhop_base::Keypair;

    use super::*;

    fn peer(seed: u8, routes: &[&str]) -> VpnPeer {
        let key = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
        VpnPeer {
            peer: key.public().to_peer_id(),
            name: String::new(),
            role: None,
            address4: None,
            address6: None,
            routes: routes.iter().map(|r| r.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_slot_is_given_out_again_and_routes_go_with_their_peer() {
        let mut peers = Peers::<()>::default();
        let (one, two) = (peer(1, &["10.0.0.1/32"]), peer(2, &["10.0.0.2/32"]));
        assert_eq!(peers.add(one.clone()).unwrap(), 0);
        assert_eq!(peers.add(two.clone()).unwrap(), 1);
        let find = |peers: &Peers<()>, ip: &str| peers.routes().find(ip.parse().unwrap());
        assert_eq!(find(&peers, "10.0.0.2"), Some(1));
        assert_eq!(peers.remove(one.peer).unwrap().slot, 0);
        assert_eq!((find(&peers, "10.0.0.1"), peers.at(0)), (None, None));
        assert_eq!(peers.add(peer(3, &["10.0.0.3/32"])).unwrap(), 0);
        assert_eq!(peers.add(peer(2, &["10.0.0.9/32"])).unwrap(), 1);
        assert_eq!(find(&peers, "10.0.0.2"), None);
        assert_eq!(find(&peers, "10.0.0.9"), Some(1));
    }

    #[test]
    fn accepted_prefixes_lead_to_a_peer_beside_its_own() {
        let mut peers = Peers::<()>::default();
        let (one, two) = (peer(1, &["10.0.0.1/32"]), peer(2, &["10.0.0.2/32"]));
        peers.add(one.clone()).unwrap();
        peers.add(two.clone()).unwrap();
        let prefixes =
            |texts: &[&str]| -> Vec<Prefix> { texts.iter().map(|t| t.parse().unwrap()).collect() };
        let find = |peers: &Peers<()>, ip: &str| peers.routes().find(ip.parse().unwrap());
        let accepted = prefixes(&["0.0.0.0/0", "10.0.0.1/32"]);
        assert!(peers.set_accepted(two.peer, &accepted));
        assert!(!peers.set_accepted(two.peer, &accepted), "as before");
        assert_eq!(find(&peers, "192.0.2.1"), Some(1));
        assert_eq!(find(&peers, "10.0.0.1"), Some(0), "its own stays its own");
        peers.add(peer(2, &["10.0.0.3/32"])).unwrap();
        assert_eq!(find(&peers, "192.0.2.1"), Some(1), "kept over a change");
        assert!(peers.set_accepted(two.peer, &[]));
        assert_eq!(find(&peers, "192.0.2.1"), None);
        assert_eq!(find(&peers, "10.0.0.3"), Some(1));
    }

    #[test]
    fn a_prefix_is_one_peers() {
        let mut peers = Peers::<()>::default();
        peers.add(peer(1, &["10.0.0.0/24"])).unwrap();
        let refused = peers.add(peer(2, &["10.0.0.0/24"])).unwrap_err();
        assert!(matches!(refused, VpnError::Taken { owner, .. } if owner == peer(1, &[]).peer));
        assert_eq!(peers.iter().count(), 1);
        peers.add(peer(2, &["10.0.0.5/32"])).unwrap();
        peers.add(peer(1, &["10.0.0.0/24"])).unwrap();
    }
}
