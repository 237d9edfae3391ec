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
    net::{HostHandle, Link, NatId, Site, VirtualNet},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

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

/// Every scenario ends with the question whether anybody was bothered.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.net.assert_no_uninvited();
            self.net.assert_amplification(3);
        }
    }
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
        net.bystander(Site::Internet, "bystander", Ipv4Addr::new(192, 0, 2, 1));
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

/// Numbered bytes, so that any loss or repetition shows.
pub(crate) fn pattern(at: u64, len: usize) -> Vec<u8> {
    (at..at + len as u64)
        .map(|i| (i * 31 % 251) as u8)
        .collect()
}

/// Receives a patterned stream; returns its length and the longest time without bytes.
pub(crate) fn receive(node: &Node) -> JoinHandle<(u64, Duration)> {
    let mut listener = node.accept("data/1").unwrap();
    tokio::spawn(async move {
        let mut recv = listener.next().await.unwrap().recv;
        let (mut total, mut stall, mut last) = (0, Duration::ZERO, None);
        let mut buf = vec![0; 64 * 1024];
        loop {
            let n = recv.read(&mut buf).await.unwrap();
            let now = Instant::now();
            if let Some(last) = last.replace(now) {
                stall = stall.max(now - last);
            }
            let Some(n) = n else { break };
            assert_eq!(buf[..n], pattern(total, n), "at byte {total}");
            total += n as u64;
        }
        (total, stall)
    })
}

/// Sends a patterned stream at about 1 MB/s for `secs` seconds.
pub(crate) async fn send_paced(node: &Node, to: PeerId, secs: u64) -> u64 {
    let mut send = node.open_uni(to, "data/1").await.unwrap();
    let mut at = 0;
    for _ in 0..secs * 100 {
        send.write_all(&pattern(at, 10_000)).await.unwrap();
        at += 10_000;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    send.finish().unwrap();
    send.stopped().await.unwrap();
    at
}
