//! The network and the nodes of a scenario, and what happens to them.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhop::{Config, Endpoint, Keypair, Node, PeerAddr, WebSocketConfig};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::spec::{Action, PlaceRef, Scenario};
use crate::{
    matrix::Family,
    net::{Addresses, End, HostHandle, NatId, Place, Site, VirtualNet},
};

/// How long all nodes may take to be attached to a relay.
const ATTACH_PATIENCE: Duration = Duration::from_secs(60);

const PORT: u16 = 4001;
const WEBSOCKET_PORT: u16 = 443;

/// An address of documentation (RFC 5737, RFC 3849) that no scenario should use: nobody
/// has reason to send there.
const BYSTANDERS: [&str; 2] = ["192.0.2.254", "2001:db8:ffff::fe"];

pub(super) struct World {
    pub(super) net: VirtualNet,
    nats: Vec<NatId>,
    hosts: Vec<HostHandle>,
    nodes: Vec<Option<Node>>,
    /// Killed nodes on their way out.
    closing: Vec<Option<JoinHandle<()>>>,
    relays: Vec<PeerAddr>,
    /// What is blocked between two places, as it was when they were.
    blocked: Vec<Blocked>,
}

struct Blocked {
    between: (PlaceRef, PlaceRef),
    ends: Vec<(End, End)>,
}

impl World {
    /// Builds the network, starts the nodes, and sees them attached.
    pub(super) async fn start(scenario: &Scenario) -> Result<Self, String> {
        let net = VirtualNet::new(scenario.seed);
        for ip in BYSTANDERS {
            let ip: IpAddr = ip.parse().expect("an address");
            net.bystander(Site::Internet, "bystander", ip);
        }
        let mut nats: Vec<NatId> = Vec::new();
        for spec in &scenario.nats {
            let (ips, config) = (Addresses::from(&spec.addresses[..]), spec.config.clone());
            let nat = match spec.behind {
                Some(outer) => net.nat_behind(nats[outer], &spec.name, ips, config),
                None => net.nat(&spec.name, ips, config),
            };
            net.set_link(nat, spec.link);
            nats.push(nat);
        }
        let host = |spec: &super::HostSpec| {
            let ips = Addresses::from(&spec.addresses[..]);
            let host = match spec.behind {
                Some(nat) => net.host_behind(nats[nat], &spec.name, ips),
                None => net.public_host(&spec.name, ips),
            };
            host.with_link(spec.link)
        };
        let hosts: Vec<_> = scenario.hosts.iter().map(host).collect();
        let mut world = Self {
            net: net.clone(),
            nats,
            nodes: hosts.iter().map(|_| None).collect(),
            closing: hosts.iter().map(|_| None).collect(),
            hosts,
            relays: relays(scenario)?,
            blocked: Vec::new(),
        };
        // Relays first: the others look for them when they start.
        let (relays, others): (Vec<_>, Vec<_>) =
            (0..scenario.hosts.len()).partition(|i| scenario.hosts[*i].relay);
        for i in relays.into_iter().chain(others) {
            world.start_node(scenario, i).await?;
        }
        world.see_attached(scenario).await?;
        Ok(world)
    }

    pub(super) fn node(&self, host: usize) -> Option<Node> {
        self.nodes[host].clone()
    }

    async fn start_node(&mut self, scenario: &Scenario, i: usize) -> Result<(), String> {
        let spec = &scenario.hosts[i];
        let any = |family| match family {
            Family::V4 => IpAddr::from([0; 4]),
            Family::V6 => IpAddr::from([0; 16]),
        };
        let listen = |port| {
            let families = scenario.families(i);
            families.map(move |family| SocketAddr::new(any(family), port))
        };
        let mut websocket = WebSocketConfig::default();
        if spec.relay {
            websocket.listen = listen(WEBSOCKET_PORT).collect();
        }
        let key = keypair(scenario, i)?;
        let me = key.public().to_peer_id();
        let config = Config {
            listen: listen(PORT).collect(),
            websocket,
            bootstrap: (self.relays.iter().copied())
                .filter(|relay| relay.peer != me)
                .collect(),
            ..Config::default()
        };
        let started = Node::start_on(self.hosts[i].host(), key, config).await;
        let node = started.map_err(|e| format!("{} did not start: {e}", spec.name))?;
        self.nodes[i] = Some(node);
        Ok(())
    }

    async fn see_attached(&self, scenario: &Scenario) -> Result<(), String> {
        if self.relays.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        for (spec, node) in scenario.hosts.iter().zip(&self.nodes) {
            let Some(node) = node.as_ref().filter(|_| !spec.relay) else {
                continue;
            };
            while node.status().attachments.is_empty() {
                if began.elapsed() > ATTACH_PATIENCE {
                    return Err(format!("{} was not attached to a relay", spec.name));
                }
                sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }

    fn place(&self, place: PlaceRef) -> Place {
        match place {
            PlaceRef::Host(i) => self.hosts[i].id().into(),
            PlaceRef::Nat(i) => self.nats[i].into(),
        }
    }

    fn ends(&self, place: PlaceRef) -> Vec<End> {
        match place {
            PlaceRef::Host(i) => vec![End::Host(self.hosts[i].id())],
            PlaceRef::Nat(i) => {
                let external = self.net.external(self.nats[i]);
                external.into_iter().map(End::Address).collect()
            }
        }
    }

    /// Makes an event happen.
    pub(super) async fn apply(
        &mut self,
        scenario: &Scenario,
        action: &Action,
    ) -> Result<(), String> {
        match action {
            Action::Block(a, b) => {
                let (of_a, of_b) = (self.ends(*a), self.ends(*b));
                let pairs: Vec<_> = (of_a.iter())
                    .flat_map(|a| of_b.iter().map(move |b| (*a, *b)))
                    .collect();
                pairs.iter().for_each(|(a, b)| self.net.block(*a, *b));
                self.blocked.push(Blocked {
                    between: (*a, *b),
                    ends: pairs,
                });
            }
            Action::Unblock(a, b) => {
                let net = &self.net;
                self.blocked.retain(|blocked| {
                    let these = [(*a, *b), (*b, *a)].contains(&blocked.between);
                    if these {
                        blocked.ends.iter().for_each(|(a, b)| net.unblock(*a, *b));
                    }
                    !these
                });
            }
            Action::Cut(i) => self.net.cut(&self.hosts[*i]),
            Action::Restore(i) => self.net.restore(&self.hosts[*i]),
            Action::Drop(at, what) => self.net.block_traffic(self.place(*at), *what),
            Action::Pass(at, what) => self.net.unblock_traffic(self.place(*at), *what),
            Action::ResetNat(i) => self.net.reset_nat(self.nats[*i]),
            Action::Renumber(PlaceRef::Host(i), to) => {
                self.net.renumber(&self.hosts[*i], &to[..]);
            }
            Action::Renumber(PlaceRef::Nat(i), to) => {
                self.net.renumber_nat(self.nats[*i], &to[..]);
            }
            Action::Kill(i) => {
                self.net.crash(&self.hosts[*i]);
                if let Some(node) = self.nodes[*i].take() {
                    self.closing[*i] = Some(tokio::spawn(async move { node.close().await }));
                }
            }
            Action::Start(i) if self.nodes[*i].is_none() => {
                if let Some(closing) = self.closing[*i].take() {
                    // It ends for good before it could be heard again.
                    let _ = closing.await;
                }
                self.net.restore(&self.hosts[*i]);
                self.start_node(scenario, *i).await?;
            }
            Action::Start(i) => {
                return Err(format!("{} runs already", scenario.hosts[*i].name));
            }
        }
        Ok(())
    }

    pub(super) async fn close(&self) {
        for node in self.nodes.iter().flatten() {
            node.close().await;
        }
    }
}

/// Where the relays are, over UDP and WebSockets.
fn relays(scenario: &Scenario) -> Result<Vec<PeerAddr>, String> {
    let mut relays = Vec::new();
    for (i, spec) in scenario.hosts.iter().enumerate().filter(|(_, h)| h.relay) {
        let peer = keypair(scenario, i)?.public().to_peer_id();
        for ip in &spec.addresses {
            let udp = Endpoint::Udp((*ip, PORT).into());
            let ws = Endpoint::Ws {
                addr: (*ip, WEBSOCKET_PORT).into(),
                tls: true,
            };
            relays.extend([udp, ws].map(|addr| PeerAddr { peer, addr }));
        }
    }
    Ok(relays)
}

/// The key of a host's node: the same in every run under a seed.
fn keypair(scenario: &Scenario, host: usize) -> Result<Keypair, String> {
    let mut key = [7; 32];
    key[..8].copy_from_slice(&scenario.seed.to_be_bytes());
    key[8..16].copy_from_slice(&(host as u64).to_be_bytes());
    Keypair::ed25519_from_bytes(key).map_err(|e| e.to_string())
}
