//! Nodes on a virtual network, for the tests beside this folder.
#![expect(clippy::unwrap_used, reason = "tests")]
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test file uses its part"
)]

use std::{net::Ipv4Addr, time::Duration};

use anyhop::{Config, Keypair, Message, Node, PathKind, PeerAddr, PeerId};
use anyhop_lab::{
    nat::NatConfig,
    net::{HostHandle, Link, NatId, VirtualNet},
};
use tokio::time::{Instant, sleep};

pub(crate) const PORT: u16 = 4001;

pub(crate) fn trace_to_stderr() {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
}

/// A network with one public relay.
pub(crate) struct World {
    pub(crate) net: VirtualNet,
    pub(crate) relay: Node,
    pub(crate) relay_host: HostHandle,
    next: u8,
}

/// A node behind a NAT of its own.
pub(crate) struct Natted {
    pub(crate) node: Node,
    pub(crate) host: HostHandle,
    pub(crate) nat: NatId,
}

pub(crate) fn link(ms: u64) -> Link {
    Link::with_latency(Duration::from_millis(ms))
}

pub(crate) fn config() -> Config {
    Config {
        listen: vec![([0, 0, 0, 0], PORT).into()],
        ..Config::default()
    }
}

impl World {
    pub(crate) async fn new(seed: u64) -> Self {
        Self::with_relay(seed, config()).await
    }

    pub(crate) async fn with_relay(seed: u64, config: Config) -> Self {
        trace_to_stderr();
        let net = VirtualNet::new(seed);
        let relay_host = net
            .public_host("relay", Ipv4Addr::new(203, 0, 113, 1))
            .with_link(link(10));
        let relay = start(&relay_host, config).await;
        Self {
            net,
            relay,
            relay_host,
            next: 10,
        }
    }

    pub(crate) fn bootstrap(&self) -> PeerAddr {
        PeerAddr::new(self.relay.peer_id(), (self.relay_host.ip(), PORT).into()).unwrap()
    }

    pub(crate) async fn natted(&mut self, name: &str, nat: NatConfig) -> Natted {
        let config = Config {
            bootstrap: vec![self.bootstrap()],
            ..config()
        };
        self.natted_with(name, nat, config).await
    }

    pub(crate) async fn natted_with(
        &mut self,
        name: &str,
        nat: NatConfig,
        config: Config,
    ) -> Natted {
        self.next += 1;
        let nat = self.net.nat(
            &format!("nat-{name}"),
            Ipv4Addr::new(198, 51, 100, self.next),
            nat,
        );
        let host = self
            .net
            .host_behind(nat, name, Ipv4Addr::new(10, 0, self.next, 2))
            .with_link(link(5));
        let node = start(&host, config).await;
        Natted { node, host, nat }
    }

    /// Cuts or restores the direct way between two nodes behind NATs.
    pub(crate) fn block(&self, a: &Natted, b: &Natted) {
        self.net
            .block(self.net.external(a.nat)[0], self.net.external(b.nat)[0]);
    }

    pub(crate) fn unblock(&self, a: &Natted, b: &Natted) {
        self.net
            .unblock(self.net.external(a.nat)[0], self.net.external(b.nat)[0]);
    }
}

pub(crate) async fn start(host: &HostHandle, config: Config) -> Node {
    Node::start_on(host.host(), Keypair::generate_ed25519(), config)
        .await
        .unwrap()
}

/// The kind of the selected path, if there is a session.
pub(crate) fn selected(node: &Node, peer: PeerId) -> Option<PathKind> {
    let info = node.session_info(peer)?;
    info.paths.iter().find(|p| p.selected).map(|p| p.kind)
}

/// Waits for a condition in virtual time.
pub(crate) async fn eventually(what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < within, "{what}: not within {within:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn attached(node: &Node) {
    eventually("attached", Duration::from_secs(10), || {
        !node.status().attachments.is_empty()
    })
    .await;
}

/// Sends a text and checks that it arrived.
pub(crate) async fn exchange(from: &Node, to: &Node, text: &str) {
    from.send(to.peer_id(), Message::text(text)).await.unwrap();
    let received = to.recv().await.unwrap();
    assert_eq!(received.from, from.peer_id());
    assert_eq!(received.message, Message::text(text));
}
