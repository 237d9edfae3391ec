//! The packet plane: IP packets between members of a network, over whatever path their
//! session has selected.
//!
//! - **Start**: an interface with this node's addresses appears; each peer that is added has
//!   routes. A session with a peer is made when the first packet for it comes.
//! - **Steady state**: packets do not go through QUIC. They are sealed under keys from the
//!   session's TLS exporter (`anyhop_vpn`) and leave on the same sockets, over the session's
//!   selected path; `links` follows what sessions and paths there are, `plane` moves packets.
//! - **Failure**: a peer without a session costs the packets that wait for it. The interface
//!   lives as long as this process has it open: however it ends, addresses and routes go.
//!
//! Adding and removing peers touches nothing of the others'.

mod info;
mod links;
mod names;
mod peers;
mod plane;
pub(crate) mod rekey;
mod routes;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use anyhop_base::{PeerId, Role};
use anyhop_os::{StopFlag, Tun, TunKind};
use anyhop_vpn::{
    ETHERNET_HEADER_LEN, Ingress, MAX_PEERS, MAX_ROUTES_PER_PEER, Prefix, REKEY_AFTER,
    REKEY_INTERVAL, Switch,
    firewall::{Caller, Firewall, RuleSet, Rules},
};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use info::{VpnPeerStatus, VpnStatus};
pub use names::{DNS_PORT, NameServer, NameServerConfig};
pub use routes::{AcceptedRoute, EXIT_TABLE, MAX_ACCEPTED};

pub(crate) use self::links::Links;
use self::plane::Plane;
use crate::{ErrorKind, NetworkHandle, node::Node};

/// MTU of the interface, bytes: what the longest datagrams that QUIC looks for carry, on a
/// network of 1500. Senders are told where a path takes less.
pub const VPN_MTU: u16 = 1420;

/// Peers without a session at once that one is asked for.
const DIAL_QUEUE: usize = 64;

/// This node's end of a packet plane.
#[derive(Debug, Clone)]
pub struct VpnConfig {
    /// Names that the interface may have, at most 15 bytes each: the first that is free.
    pub interface: Vec<String>,
    /// This node's addresses, each with the length of the prefix that is routed to the
    /// interface.
    pub addresses: Vec<(IpAddr, u8)>,
    /// This host's own firewall rules.
    pub firewall: RuleSet,
    /// What else can be chosen.
    pub options: VpnOptions,
}

/// What a packet plane carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VpnMode {
    /// IP packets: each to the peer whose address it is for.
    #[default]
    L3,
    /// Ethernet frames, of any protocol: the peers are ports of a switch.
    L2,
}

impl VpnMode {
    /// Its name in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::L3 => "l3",
            Self::L2 => "l2",
        }
    }

    /// MTU of the interface, bytes: a frame has its header besides.
    fn mtu(self) -> u16 {
        match self {
            Self::L3 => VPN_MTU,
            Self::L2 => VPN_MTU - ETHERNET_HEADER_LEN as u16,
        }
    }
}

/// What can be chosen about a packet plane, whosever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct VpnOptions {
    /// Age at which the keys of a session that carries packets are replaced; at least
    /// [`REKEY_INTERVAL`](anyhop_vpn::REKEY_INTERVAL).
    pub rekey_after: Duration,
    /// What is carried; the same at all peers.
    pub mode: VpnMode,
}

impl Default for VpnOptions {
    fn default() -> Self {
        Self {
            rekey_after: REKEY_AFTER,
            mode: VpnMode::default(),
        }
    }
}

/// A peer of a packet plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VpnPeer {
    /// Who.
    pub peer: PeerId,
    /// Its name, for reports and firewall rules.
    pub name: String,
    /// What it may do in the network, for firewall rules.
    pub role: Option<Role>,
    /// Its IPv4 address, for reports.
    pub address4: Option<Ipv4Addr>,
    /// Its IPv6 address, for reports.
    pub address6: Option<Ipv6Addr>,
    /// Packets to these go to it, and it may send from these; a longer prefix of another
    /// peer goes first.
    pub routes: Vec<Prefix>,
}

impl VpnPeer {
    /// As the firewall knows it.
    fn caller(&self) -> Caller {
        Caller {
            peer: self.peer,
            name: self.name.clone(),
            role: self.role,
        }
    }
}

/// Why there is no packet plane, or a peer is not on it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VpnError {
    /// The process may not make interfaces.
    #[error(
        "cannot make the interface {interface}: this process lacks the capability CAP_NET_ADMIN"
    )]
    NotPermitted {
        /// Its name.
        interface: String,
    },
    /// The kernel has no TUN devices.
    #[error("cannot make the interface {interface}: the kernel has no /dev/net/tun")]
    NoTun {
        /// Its name.
        interface: String,
    },
    /// Something else about the interface failed.
    #[error("cannot make the interface {interface}: {source}")]
    Interface {
        /// Its name.
        interface: String,
        /// What the system said.
        source: io::Error,
    },
    /// The node has one already.
    #[error("this node carries IP packets already")]
    Running,
    /// The node is not in a network that has addresses for it.
    #[error("this node has no overlay address: it is not a member of a private network yet")]
    NoAddress,
    /// The peer's routes are another peer's.
    #[error("{prefix} cannot be routed to {peer}: it is {owner}'s")]
    Taken {
        /// The peer.
        peer: PeerId,
        /// The prefix.
        prefix: Prefix,
        /// Whose it is.
        owner: PeerId,
    },
    /// A limit was passed.
    #[error("a packet plane has at most {limit} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
    },
}

impl VpnError {
    /// The class of this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotPermitted { .. } | Self::NoAddress => ErrorKind::Refused,
            Self::NoTun { .. } | Self::Interface { .. } => ErrorKind::System,
            Self::Running | Self::Taken { .. } => ErrorKind::InvalidInput,
            Self::Limit { .. } => ErrorKind::Limit,
        }
    }
}

/// A running packet plane of a node. It ends when this is stopped or dropped, or with the
/// node.
#[derive(Debug)]
pub struct Vpn {
    links: Arc<Links>,
    interface: String,
    config: VpnConfig,
    /// Why this node has no IPv4 address, where it should.
    note: Option<String>,
    /// Cancelled to end the task that follows sessions.
    stop: CancellationToken,
    /// Cancelled when that task has ended.
    ended: CancellationToken,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Vpn {
    /// Starts a packet plane without peers.
    ///
    /// # Panics
    /// Outside of the node's runtime.
    ///
    /// # Errors
    /// When the interface cannot be made, or the node has a plane already.
    pub fn start(node: &Node, config: VpnConfig) -> Result<Self, VpnError> {
        Self::start_following(node, config, None, None)
    }

    /// Starts one for a private network: this node's addresses are those that the network's
    /// members compute for it, its peers the other members, as they come and go. The firewall
    /// has these rules, and behind them the network's.
    ///
    /// # Errors
    /// As [`start`](Self::start), and when this node is not a member yet.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn start_in(
        network: &NetworkHandle,
        options: VpnOptions,
        firewall: RuleSet,
    ) -> Result<Self, VpnError> {
        let overlay = network.overlay();
        let me = overlay.me.as_ref().ok_or(VpnError::NoAddress)?;
        let (mut addresses, mut note) = (Vec::new(), None);
        for (ip, prefix) in overlay.own_addresses(me) {
            match occupied(prefix) {
                Some(other) => {
                    let told = format!(
                        "{ip} is left out: this host has a route to {other}, which overlaps \
                         with the network's {prefix}"
                    );
                    tracing::warn!("{told}");
                    note = Some(told);
                }
                None => addresses.push((ip, prefix.len())),
            }
        }
        let config = VpnConfig {
            interface: interface_names(&network.name().to_string(), &network.id().to_string()),
            addresses,
            options,
            firewall,
        };
        Self::start_following(
            &Node(Arc::clone(&network.0)),
            config,
            Some(network.clone()),
            note,
        )
    }

    fn start_following(
        node: &Node,
        mut config: VpnConfig,
        network: Option<NetworkHandle>,
        mut note: Option<String>,
    ) -> Result<Self, VpnError> {
        let inner = &node.0;
        if inner.fabric.has_sealed_sink() {
            return Err(VpnError::Running);
        }
        let tun = make_interface(&mut config, &mut note)?;
        let interface = tun.name().to_owned();
        let failed = |source| VpnError::Interface {
            interface: interface.clone(),
            source,
        };
        let own = config.addresses.iter().map(|(ip, _)| *ip);
        let (dial, to_dial) = mpsc::channel(DIAL_QUEUE);
        let fabric = Arc::clone(&inner.fabric);
        let switch = match config.options.mode {
            VpnMode::L3 => None,
            VpnMode::L2 => Some(Arc::<Mutex<Switch>>::default()),
        };
        let ingress = match &switch {
            None => Ingress::new(own),
            Some(switch) => Ingress::of_switch(Arc::clone(switch)),
        };
        let firewall = Firewall::new(Rules {
            local: std::mem::take(&mut config.firewall),
            network: network
                .as_ref()
                .map(NetworkHandle::rules)
                .unwrap_or_default(),
        });
        let plane = Arc::new(Plane::new(tun, fabric, ingress, switch, firewall, dial));
        let stop_flag = Arc::new(StopFlag::new().map_err(failed)?);
        let (for_thread, flag) = (Arc::clone(&plane), Arc::clone(&stop_flag));
        let thread = thread::Builder::new().name(interface.clone());
        // What is waited for there has timers of the runtime.
        let runtime = tokio::runtime::Handle::current();
        let thread = thread.spawn(move || {
            let _context = runtime.enter();
            if let Err(e) = for_thread.run(&flag) {
                tracing::warn!(error = %e, "the interface failed: no more packets are sent");
            }
        });
        let thread = thread.map_err(failed)?;
        inner.fabric.set_sealed_sink(Some(Arc::clone(&plane) as _));
        let links = {
            let rekey_after = config.options.rekey_after.max(REKEY_INTERVAL);
            Arc::new(Links::new(Arc::clone(inner), plane, stop_flag, rekey_after))
        };
        inner.set_packet_links(Arc::downgrade(&links));
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let guard = ended.clone().drop_guard();
        let follow = Arc::clone(&links).follow(to_dial, network, stop.clone());
        inner.spawn_unstopped(async move {
            follow.await;
            drop(guard);
        });
        Ok(Self {
            links,
            interface,
            config,
            note,
            stop,
            ended,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Adds a peer, or replaces its routes. Flows of others go on.
    ///
    /// # Errors
    /// When a route is another peer's, or there are too many.
    pub fn add_peer(&self, peer: VpnPeer) -> Result<(), VpnError> {
        self.links.add_peer(peer)
    }

    /// Removes a peer; false when it was none. Flows of others go on.
    pub fn remove_peer(&self, peer: PeerId) -> bool {
        self.links.remove_peer(peer)
    }

    /// What it carries.
    #[must_use]
    pub fn mode(&self) -> VpnMode {
        self.config.options.mode
    }

    /// Replaces this host's own firewall rules. They hold for the next packet; flows that they
    /// forbid are cut.
    pub fn set_rules(&self, local: RuleSet) {
        self.links.set_local_rules(local);
    }

    /// What it does, and for whom.
    #[must_use]
    pub fn status(&self) -> VpnStatus {
        self.links
            .status(&self.interface, &self.config, self.note.as_deref())
    }

    /// Ends it. The interface is gone when this returns.
    pub async fn stop(self) {
        self.halt();
        self.ended.cancelled().await;
        let thread = self.thread.lock().expect("no holder panics").take();
        if let Some(thread) = thread {
            // The flag is set: it ends with the packet at hand. Nothing is left to be told
            // of one that panicked.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    fn halt(&self) {
        self.stop.cancel();
        self.links.halt();
    }
}

impl Drop for Vpn {
    fn drop(&mut self) {
        self.halt();
    }
}

/// Makes the interface under the first name that is free. Addresses that this host does not
/// take leave `config`, and `note` tells.
fn make_interface(config: &mut VpnConfig, note: &mut Option<String>) -> Result<Tun, VpnError> {
    let mut taken = io::Error::from(io::ErrorKind::InvalidInput);
    let mut interface = String::new();
    for name in &config.interface {
        interface.clone_from(name);
        let kind = match config.options.mode {
            VpnMode::L3 => TunKind::Packets,
            VpnMode::L2 => TunKind::Frames,
        };
        let made = Tun::create(name, kind);
        let made = made.and_then(|tun| {
            let mtu = u32::from(config.options.mode.mtu());
            let left_out = tun.configure(mtu, &config.addresses)?;
            Ok((tun, left_out))
        });
        match made {
            Ok((tun, left_out)) => {
                if let Some(ip) = left_out.first() {
                    *note = Some(format!("{ip} is left out: this host has no IPv6"));
                }
                config.addresses.retain(|(ip, _)| !left_out.contains(ip));
                return Ok(tun);
            }
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => taken = e,
            Err(e) => {
                let interface = interface.clone();
                return Err(match e.kind() {
                    io::ErrorKind::PermissionDenied => VpnError::NotPermitted { interface },
                    io::ErrorKind::NotFound => VpnError::NoTun { interface },
                    _ => VpnError::Interface {
                        interface,
                        source: e,
                    },
                });
            }
        }
    }
    Err(VpnError::Interface {
        interface,
        source: taken,
    })
}

/// `anyhop-<network>`, and another one where that is too long or taken.
fn interface_names(network: &str, id: &str) -> Vec<String> {
    let room = anyhop_os::MAX_INTERFACE_NAME - anyhop_os::INTERFACE_PREFIX.len();
    let named = |tail: &str| format!("{}{tail}", anyhop_os::INTERFACE_PREFIX);
    let mut names = Vec::new();
    if network.len() <= room {
        names.push(named(network));
    }
    names.push(named(&id[..room.min(id.len())]));
    names
}

/// A route of this host that overlaps with a prefix, other than default ones.
fn occupied(prefix: Prefix) -> Option<Prefix> {
    let routes = anyhop_os::routed_prefixes().into_iter();
    let mut routes = routes.filter_map(|(ip, len)| Prefix::new(ip, len));
    routes.find(|route| route.len() > 0 && route.overlaps(&prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_named_after_its_network_where_that_fits() {
        let id = "0123456789abcdef";
        assert_eq!(
            interface_names("home", id),
            ["anyhop-home", "anyhop-01234567"]
        );
        assert_eq!(interface_names("a-long-name", id), ["anyhop-01234567"]);
    }
}
