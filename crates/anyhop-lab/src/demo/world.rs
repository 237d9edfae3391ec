//! The demo's network and nodes.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhop::{Config, Keypair, Listener, Node, PeerAddr, PeerId};
use tokio::time::Instant;

use super::{DemoError, DemoEvent, PATIENCE, ms};
use crate::{
    nat::NatConfig,
    net::{HostHandle, HostId, Link, Trace, VirtualNet},
};

const PORT: u16 = 4001;

const R_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const NAT_A_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const NAT_B_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
const NAT_S_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 30);
const NAT_T_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 40);

/// One-way latency of R's link to the internet, and of the NATs'. The way between A
/// and B over R is longer than the direct one by twice R's.
const R_LATENCY: Duration = Duration::from_millis(6);
const A_LATENCY: Duration = Duration::from_millis(8);
const B_LATENCY: Duration = Duration::from_millis(10);
const S_LATENCY: Duration = Duration::from_millis(12);

/// How long a datagram is under way between A and B.
pub(super) const DIRECT_LATENCY: Duration = A_LATENCY.saturating_add(B_LATENCY);

/// A node, with its place in the network.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub(super) name: &'static str,
    pub(super) node: Node,
    pub(super) peer: PeerId,
    host: HostId,
}

impl Who {
    /// The node's listener for `protocol`.
    pub(super) fn accept(&self, protocol: &str) -> Result<Listener, DemoError> {
        self.node.accept(protocol).map_err(|e| {
            let message = format!("{} cannot listen: {e}", self.name);
            DemoError::Wrong(message)
        })
    }
}

/// All of it; clones are handles to the same.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) net: VirtualNet,
    pub(super) r: Who,
    pub(super) a: Who,
    pub(super) b: Who,
    pub(super) s: Who,
    pub(super) t: Who,
}

impl World {
    /// Starts the network and the nodes, and sees all others attached to R.
    pub(super) async fn start(
        report: &mut (dyn FnMut(DemoEvent) + Send),
    ) -> Result<Self, DemoError> {
        let net = VirtualNet::new(0);
        let cone = NatConfig::port_restricted_cone;
        let behind = |name, wan: Ipv4Addr, latency, config, lan: [u8; 4]| {
            let nat = net.nat(name, wan, config);
            net.set_link(nat, Link::with_latency(latency));
            net.host_behind(nat, name, IpAddr::from(lan))
        };
        let r = net
            .public_host("R", R_IP)
            .with_link(Link::with_latency(R_LATENCY));
        let a = behind("A", NAT_A_IP, A_LATENCY, cone(), [10, 0, 1, 2]);
        let b = behind("B", NAT_B_IP, B_LATENCY, cone(), [10, 0, 2, 2]);
        let s = behind(
            "S",
            NAT_S_IP,
            S_LATENCY,
            NatConfig::symmetric(),
            [10, 0, 3, 2],
        );
        let t = behind(
            "T",
            NAT_T_IP,
            S_LATENCY,
            NatConfig::symmetric(),
            [10, 0, 4, 2],
        );

        let r = start("R", &r, "on the public internet", None, report).await?;
        let relay = PeerAddr {
            peer: r.peer,
            addr: SocketAddr::from((R_IP, PORT)).into(),
        };
        let at = Some(relay);
        let (cone, symmetric) = (
            "behind a port-restricted cone NAT",
            "behind a symmetric NAT",
        );
        let world = Self {
            a: start("A", &a, cone, at, report).await?,
            b: start("B", &b, cone, at, report).await?,
            s: start("S", &s, symmetric, at, report).await?,
            t: start("T", &t, symmetric, at, report).await?,
            net,
            r,
        };
        let began = Instant::now();
        for who in [&world.a, &world.b, &world.s, &world.t] {
            world.sees_attached(who, began, report).await?;
        }
        Ok(world)
    }

    async fn sees_attached(
        &self,
        who: &Who,
        began: Instant,
        report: &mut (dyn FnMut(DemoEvent) + Send),
    ) -> Result<(), DemoError> {
        let relay = self.r.peer.to_base58();
        while !who.node.status().attachments.contains(&relay) {
            if began.elapsed() > PATIENCE {
                let status = who.node.status();
                return Err(DemoError::NotSeen {
                    what: format!("{} attached to {}", who.name, self.r.name),
                    within: PATIENCE,
                    instead: format!(
                        "{} sessions, attached to {:?}",
                        status.sessions, status.attachments
                    ),
                });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        report(DemoEvent::Attached {
            node: who.name,
            relay: self.r.name,
            after_ms: ms(began.elapsed()),
        });
        Ok(())
    }

    /// Drops everything between the NATs of A and B; answers their addresses.
    pub(super) fn cut_direct(&self) -> (Ipv4Addr, Ipv4Addr) {
        self.net.block(NAT_A_IP, NAT_B_IP);
        (NAT_A_IP, NAT_B_IP)
    }

    /// Undoes [`cut_direct`](Self::cut_direct).
    pub(super) fn restore_direct(&self) {
        self.net.unblock(NAT_A_IP, NAT_B_IP);
    }

    /// Datagrams that went from one node's host to the other's with no host between.
    pub(super) fn direct(&self, trace: &Trace, a: &Who, b: &Who) -> u64 {
        trace.between(a.host, b.host).datagrams
    }

    /// The demo's names for PeerIds; an unknown one is `?`.
    pub(super) fn names(&self, peers: &[String]) -> Vec<&'static str> {
        let all = [&self.r, &self.a, &self.b, &self.s, &self.t];
        let name = |peer: &String| {
            let who = all.iter().find(|who| who.peer.to_base58() == *peer);
            who.map_or("?", |who| who.name)
        };
        peers.iter().map(name).collect()
    }

    /// Stops all nodes.
    pub(super) async fn close(&self) {
        for who in [&self.a, &self.b, &self.s, &self.t, &self.r] {
            who.node.close().await;
        }
    }
}

async fn start(
    name: &'static str,
    host: &HostHandle,
    behind: &'static str,
    bootstrap: Option<PeerAddr>,
    report: &mut (dyn FnMut(DemoEvent) + Send),
) -> Result<Who, DemoError> {
    let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let config = Config {
        listen: vec![listen],
        bootstrap: bootstrap.into_iter().collect(),
        ..Config::default()
    };
    let keypair = Keypair::generate_ed25519();
    let node = Node::start_on(host.host(), keypair, config)
        .await
        .map_err(|source| DemoError::Start { node: name, source })?;
    report(DemoEvent::Started {
        node: name,
        peer_id: node.peer_id().to_base58(),
        address: SocketAddr::new(host.ip(), PORT).to_string(),
        behind,
    });
    Ok(Who {
        name,
        peer: node.peer_id(),
        node,
        host: host.id(),
    })
}
