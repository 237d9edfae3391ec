//! Peers on the local links, found by multicast DNS (RFC 6762, RFC 6763).
//!
//! **Start**: the node announces itself as an instance of `_anyhop._udp.local.`, named by its
//! PeerId, with its network in a property, and looks for others. A node that listens on
//! loopback only has nothing to announce and stays silent.
//!
//! **Steady state**: an announcement proves nothing. It is believed as far as it names an
//! address near one of our own, which is dialled like any address: who answers there is
//! proven by the handshake. Links to the first [`MAX_LOCAL_LINKS`] peers are kept, so that
//! a local network holds together without any other bootstrap.
//!
//! **Failure**: where multicast does not work the node goes on without. When it stops it
//! says goodbye; others forget one that could not by the records' lifetime.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhop_base::{Endpoint, NetworkId, PeerId, dialable};
use tokio::{sync::Semaphore, time::sleep};

use super::{Inner, punch::near};
use crate::net::{LocalDiscovery, LocalService, Sighting};

/// The service type (RFC 6763 section 7).
const SERVICE: &str = "_anyhop._udp.local.";
/// Instances remembered; more are ignored until one says goodbye.
const MAX_LOCAL_PEERS: usize = 256;
/// Addresses of one instance.
const MAX_LOCAL_ADDRESSES: usize = 8;
/// Local peers that links are kept to.
const MAX_LOCAL_LINKS: usize = 8;
/// Local peers dialled at once, so that forged announcements cannot make this node flood
/// its neighbours.
const MAX_LOCAL_DIALS: usize = 4;
/// Head start of the smaller PeerId: two nodes see each other at once, and one dial is
/// enough.
const HEAD_START: Duration = Duration::from_secs(1);

/// Property with the PeerId.
const ID: &str = "id";
/// Property with the network.
const NETWORK: &str = "net";
/// Property with the UDP port for IPv6, where it is another than for IPv4.
const PORT_V6: &str = "port6";

/// The peers seen on the local links.
#[derive(Debug)]
pub(super) struct LocalPeers {
    seen: Mutex<Seen>,
    dials: Arc<Semaphore>,
}

impl Default for LocalPeers {
    fn default() -> Self {
        Self {
            seen: Mutex::default(),
            dials: Arc::new(Semaphore::new(MAX_LOCAL_DIALS)),
        }
    }
}

/// By the instance's name.
#[derive(Debug, Default)]
struct Seen(BTreeMap<String, LocalPeer>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct LocalPeer {
    peer: PeerId,
    addresses: Vec<Endpoint>,
}

impl LocalPeers {
    /// Where a peer is on the local links.
    pub(super) fn addresses(&self, peer: PeerId) -> Vec<Endpoint> {
        let seen = self.lock();
        let of_peer = seen.0.values().filter(|p| p.peer == peer);
        of_peer.flat_map(|p| p.addresses.clone()).collect()
    }

    /// Whether a link to this peer is to be kept.
    pub(super) fn is_kept(&self, peer: PeerId) -> bool {
        let seen = self.lock();
        let mut kept = seen.0.values().take(MAX_LOCAL_LINKS);
        kept.any(|p| p.peer == peer)
    }

    /// Remembers an instance; false when it says nothing new or there is no room.
    fn insert(&self, name: String, peer: LocalPeer) -> bool {
        let mut seen = self.lock();
        let full = seen.0.len() >= MAX_LOCAL_PEERS && !seen.0.contains_key(&name);
        !full && seen.0.insert(name, peer.clone()) != Some(peer)
    }

    fn remove(&self, name: &str) -> Option<LocalPeer> {
        self.lock().0.remove(name)
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no holder panics")
    }
}

/// Reads an instance of our network; `None` for anything else. Addresses are those that
/// `is_near` believes.
fn read(
    network: NetworkId,
    addresses: &[SocketAddr],
    properties: &[(String, String)],
    is_near: impl Fn(IpAddr) -> bool,
) -> Option<LocalPeer> {
    let property = |key| {
        let mut of_key = properties.iter().filter(|(k, _)| k == key);
        of_key.next().map(|(_, value)| value.as_str())
    };
    if property(NETWORK)? != network.to_string() {
        return None;
    }
    let peer = property(ID)?.parse().ok()?;
    let port_v6 = property(PORT_V6).and_then(|port| port.parse().ok());
    let addresses: Vec<_> = addresses
        .iter()
        .map(|addr| match (addr, port_v6) {
            (SocketAddr::V6(_), Some(port)) => SocketAddr::new(addr.ip(), port),
            _ => *addr,
        })
        .filter_map(|addr| dialable(addr).ok())
        .filter(|addr| is_near(addr.ip()))
        .take(MAX_LOCAL_ADDRESSES)
        .map(Endpoint::Udp)
        .collect();
    (!addresses.is_empty()).then_some(LocalPeer { peer, addresses })
}

impl Inner {
    /// Announces this node and meets others until the node stops, then says goodbye.
    pub(super) async fn meet_local_peers(self: Arc<Self>) {
        let mut network = self.network();
        let mut announced = None;
        let mut discovery = None;
        loop {
            self.announce(&mut discovery, &mut announced);
            tokio::select! {
                () = self.stop.cancelled() => break,
                Ok(()) = network.changed() => {}
                sighting = next(&mut discovery) => match sighting {
                    Some(sighting) => self.sighted(sighting),
                    None => {
                        tracing::info!("multicast DNS ended; local peers are found no more");
                        discovery = None;
                    }
                },
            }
        }
        if let Some(discovery) = discovery {
            discovery.stop().await;
        }
    }

    /// Announces what is true now, if it is not announced yet.
    fn announce(
        &self,
        discovery: &mut Option<Box<dyn LocalDiscovery>>,
        announced: &mut Option<LocalService>,
    ) {
        let service = self.local_service();
        if service == *announced {
            return;
        }
        announced.clone_from(&service);
        let Some(service) = service else {
            *discovery = None;
            return;
        };
        let done = match discovery {
            Some(discovery) => discovery.announce(&service),
            None => self
                .host
                .local_discovery(&service)
                .map(|started| *discovery = Some(started)),
        };
        if let Err(e) = done {
            tracing::info!(error = %e, "peers on the local network are not looked for");
        }
    }

    /// This node as it is announced; `None` when it has no address on a link.
    fn local_service(&self) -> Option<LocalService> {
        let mut listening = self.listen_addrs();
        listening.retain(|addr| !addr.ip().is_loopback() && dialable(*addr).is_ok());
        let port = |v6| {
            listening
                .iter()
                .find(|a| a.is_ipv6() == v6)
                .map(SocketAddr::port)
        };
        let mut properties = vec![
            (ID, self.me.to_string()),
            (NETWORK, self.network_id.to_string()),
        ];
        let port_v6 = port(true);
        let main_port = port(false).or(port_v6)?;
        if let Some(port) = port_v6.filter(|port| *port != main_port) {
            properties.push((PORT_V6, port.to_string()));
        }
        let id = self.me.to_bytes();
        let tail = id[id.len().saturating_sub(8)..].iter();
        Some(LocalService {
            kind: SERVICE,
            instance: self.me.to_string(),
            host: tail.fold("anyhop-".to_owned(), |name, b| format!("{name}{b:02x}")),
            addresses: listening.iter().map(SocketAddr::ip).collect(),
            port: main_port,
            properties,
        })
    }

    fn sighted(self: &Arc<Self>, sighting: Sighting) {
        match sighting {
            Sighting::Seen {
                name,
                addresses,
                properties,
            } => {
                let own = self.listen_addrs();
                let is_near = |ip| own.iter().any(|o| near(o.ip(), ip));
                let peer = read(self.network_id, &addresses, &properties, is_near);
                let Some(peer) = peer.filter(|p| p.peer != self.me) else {
                    return;
                };
                tracing::debug!(peer = %peer.peer, addresses = ?peer.addresses, "seen on the local network");
                let id = peer.peer;
                if self.local_peers.insert(name, peer) {
                    self.meet(id);
                }
            }
            Sighting::Gone { name } => {
                if let Some(gone) = self.local_peers.remove(&name) {
                    tracing::debug!(peer = %gone.peer, "gone from the local network");
                }
            }
        }
    }

    /// Makes a link to a local peer, if one is wanted and its side has not made it.
    fn meet(self: &Arc<Self>, peer: PeerId) {
        if !self.local_peers.is_kept(peer) {
            return;
        }
        let node = Arc::clone(self);
        self.spawn(async move {
            if node.me > peer {
                sleep(HEAD_START).await;
            }
            let dials = Arc::clone(&node.local_peers.dials);
            let Ok(_place) = dials.acquire().await else {
                return;
            };
            if node.link_to(peer).is_none()
                && let Err(e) = node.connect(peer).await
            {
                tracing::debug!(%peer, error = %e, "a local peer is not reached");
            }
        });
    }
}

/// The next sighting; never without a discovery.
async fn next(discovery: &mut Option<Box<dyn LocalDiscovery>>) -> Option<Sighting> {
    match discovery {
        Some(discovery) => discovery.next().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use anyhop_base::{Keypair, NetworkName};
    use proptest::prelude::*;

    use super::*;

    fn network() -> NetworkId {
        NetworkName::default().id()
    }

    fn peer() -> PeerId {
        Keypair::generate_ed25519().public().to_peer_id()
    }

    fn properties(peer: PeerId) -> Vec<(String, String)> {
        let pairs = [
            (ID, peer.to_string()),
            (NETWORK, network().to_string()),
            (PORT_V6, "4006".to_owned()),
        ];
        pairs.map(|(key, value)| (key.to_owned(), value)).to_vec()
    }

    fn addresses() -> Vec<SocketAddr> {
        [
            "10.1.0.2:4001",
            "[fd00::2]:4001",
            "[fe80::1]:4001",
            "203.0.113.7:4001",
        ]
        .map(|a| a.parse().expect("an address"))
        .to_vec()
    }

    fn on_link(ip: IpAddr) -> bool {
        !matches!(ip, IpAddr::V4(ip) if ip.octets()[0] != 10)
    }

    #[test]
    fn only_addresses_on_our_links_are_believed_and_ipv6_may_have_its_own_port() {
        let peer = peer();
        let read = read(network(), &addresses(), &properties(peer), on_link).expect("one of ours");
        assert_eq!(read.peer, peer);
        let expected = ["10.1.0.2:4001", "[fd00::2]:4006"];
        assert_eq!(
            read.addresses,
            expected.map(|a| Endpoint::Udp(a.parse().expect("an address")))
        );
    }

    #[test]
    fn other_networks_and_nodes_without_an_id_are_not_ours() {
        let other = NetworkName::new("testnet").expect("a name").id();
        let told = properties(peer());
        assert_eq!(read(other, &addresses(), &told, on_link), None);
        assert_eq!(read(network(), &addresses(), &told[1..], on_link), None);
        assert_eq!(read(network(), &[], &told, on_link), None);
    }

    #[test]
    fn the_table_of_local_peers_is_bounded_and_goodbyes_make_room() {
        let table = LocalPeers::default();
        let local = |peer| LocalPeer {
            peer,
            addresses: vec![Endpoint::Udp(addresses()[0])],
        };
        let known = peer();
        assert!(table.insert("known".into(), local(known)));
        assert!(!table.insert("known".into(), local(known)), "nothing new");
        for n in 1..MAX_LOCAL_PEERS {
            assert!(table.insert(format!("{n:04}"), local(peer())));
        }
        assert!(!table.insert("late".into(), local(peer())));
        assert_eq!(table.addresses(known).len(), 1);
        table.remove("known");
        assert_eq!(table.addresses(known), []);
        assert!(table.insert("late".into(), local(peer())));
        let all: Vec<_> = table.lock().0.values().map(|p| p.peer).collect();
        let kept = all.iter().filter(|p| table.is_kept(**p)).count();
        assert_eq!(kept, MAX_LOCAL_LINKS);
    }

    proptest! {
        #[test]
        fn any_announcement_is_read_or_ignored(
            pairs in proptest::collection::vec(("(id|net|port6|[a-z]{0,4})", "\\PC{0,60}"), 0..8),
            ports in proptest::collection::vec(any::<(IpAddr, u16)>(), 0..12),
        ) {
            let mut pairs = pairs;
            pairs.push((NETWORK.to_owned(), network().to_string()));
            let addresses: Vec<_> = ports.into_iter().map(SocketAddr::from).collect();
            if let Some(peer) = read(network(), &addresses, &pairs, |_| true) {
                prop_assert!(peer.addresses.len() <= MAX_LOCAL_ADDRESSES);
            }
        }
    }
}
