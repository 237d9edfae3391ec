//! One pair of places, one run: two nodes who know a relay and each other's key, and a
//! stream between them.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhop::{
    AttemptOutcome, Carrier, Config, Endpoint, Keypair, Node, PathKind, PeerAddr, PeerId,
    Technique, WebSocketConfig,
};
use tokio::time::{Instant, sleep, timeout};

use super::kind::{Family, Kind};
use crate::net::{HostHandle, Link, Site, VirtualNet};

/// One-way latency of the relay's link, and of what is in front of each node.
const RELAY_LATENCY: Duration = Duration::from_millis(10);
const LATENCIES: [Duration; 2] = [Duration::from_millis(8), Duration::from_millis(12)];

/// How long a node may take to be attached to the relay.
const ATTACH_PATIENCE: Duration = Duration::from_secs(30);

/// How long the first byte may take before the pair counts as not connected.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);

/// How long after the first byte a direct path is waited for.
const DIRECT_PATIENCE: Duration = Duration::from_secs(60);

const LOOK_EVERY: Duration = Duration::from_millis(5);

const PORT: u16 = 4001;

/// Where public nodes serve WebSockets.
const WEBSOCKET_PORT: u16 = 443;
const PROTOCOL: &str = "matrix/1";

/// What came of one run; times are virtual.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// From the call that opens a stream until its first byte has come back.
    pub first_byte: Option<Duration>,
    /// From that call until both sides had selected a direct path.
    pub direct: Option<Duration>,
    /// What led to the direct path.
    pub technique: Option<Technique>,
    /// What else is worth telling: why there was no connection, what was sent uninvited.
    pub complaints: Vec<String>,
}

/// Runs one pair; the first node dials the second.
pub(super) async fn run(a: Kind, b: Kind, family: Family, seed: u64) -> Outcome {
    let mut outcome = Outcome::default();
    let world = match World::start([a, b], family, seed).await {
        Ok(world) => world,
        Err(why) => {
            outcome.complaints.push(why);
            return outcome;
        }
    };
    if let Err(why) = world.play(&mut outcome).await {
        outcome.complaints.push(why);
    }
    let breaches = world.net.uninvited().into_iter();
    let breaches = breaches.chain(world.net.amplified(3));
    outcome
        .complaints
        .extend(breaches.map(|breach| breach.to_string()));
    for node in [&world.a, &world.b, &world.relay] {
        node.close().await;
    }
    outcome
}

struct World {
    net: VirtualNet,
    relay: Node,
    a: Node,
    b: Node,
}

impl World {
    async fn start(kinds: [Kind; 2], family: Family, seed: u64) -> Result<Self, String> {
        let net = VirtualNet::new(seed);
        let (relay_ip, bystander_ip, any): (IpAddr, IpAddr, IpAddr) = match family {
            Family::V4 => (
                [203, 0, 113, 1].into(),
                [192, 0, 2, 1].into(),
                [0; 4].into(),
            ),
            Family::V6 => (
                [0x2001, 0xdb8, 0, 100, 0, 0, 0, 1].into(),
                [0x2001, 0xdb8, 0, 200, 0, 0, 0, 1].into(),
                [0; 16].into(),
            ),
        };
        net.bystander(Site::Internet, "bystander", bystander_ip);
        let relay_host = net
            .public_host("relay", relay_ip)
            .with_link(Link::with_latency(RELAY_LATENCY));
        let relay = start(&relay_host, Kind::Public, any, seed, 0, vec![]).await?;
        let ways = [
            Endpoint::Udp((relay_ip, PORT).into()),
            Endpoint::Ws {
                addr: (relay_ip, WEBSOCKET_PORT).into(),
                tls: true,
            },
        ];
        let peer = relay.peer_id();
        let bootstrap = ways.map(|addr| PeerAddr { peer, addr });
        let mut nodes = Vec::new();
        for (n, kind) in (1u8..).zip(kinds) {
            let name = ["a", "b"][usize::from(n) - 1];
            let placed = kind.place(&net, family, name, n);
            let link = Link::with_latency(LATENCIES[usize::from(n) - 1]);
            match placed.nats.first() {
                Some(outermost) => net.set_link(*outermost, link),
                None => net.set_link(&placed.host, link),
            }
            nodes.push(start(&placed.host, kind, any, seed, n, bootstrap.to_vec()).await?);
        }
        let (b, a) = (nodes.pop(), nodes.pop());
        let (a, b) = (a.expect("two were started"), b.expect("two were started"));
        Ok(Self { net, relay, a, b })
    }

    async fn play(&self, outcome: &mut Outcome) -> Result<(), String> {
        for (name, node) in [("a", &self.a), ("b", &self.b)] {
            let attached = || !node.status().attachments.is_empty();
            if !seen_within(ATTACH_PATIENCE, attached).await {
                return Err(format!("{name} did not attach to the relay"));
            }
        }
        let mut listener = self.b.accept(PROTOCOL).map_err(|e| e.to_string())?;
        tokio::spawn(async move {
            while let Some(mut incoming) = listener.next().await {
                if let Some(mut send) = incoming.send {
                    let _ = tokio::io::copy(&mut incoming.recv, &mut send).await;
                }
            }
        });
        let began = Instant::now();
        let _stream = timeout(CONNECT_PATIENCE, self.first_byte())
            .await
            .map_err(|_| format!("no byte within {CONNECT_PATIENCE:?}"))??;
        outcome.first_byte = Some(began.elapsed());
        let (pa, pb) = (self.a.peer_id(), self.b.peer_id());
        let direct = || is_direct(&self.a, pb) && is_direct(&self.b, pa);
        if seen_within(DIRECT_PATIENCE, direct).await {
            outcome.direct = Some(began.elapsed());
            outcome.technique = self.technique();
        }
        Ok(())
    }

    /// Opens an echo stream and waits for a byte to come back.
    async fn first_byte(&self) -> Result<impl Sized, String> {
        let opened = self.a.open_bi(self.b.peer_id(), PROTOCOL).await;
        let (mut send, mut recv) = opened.map_err(|e| e.to_string())?;
        send.write_all(b"?").await.map_err(|e| e.to_string())?;
        let mut byte = [0];
        let read = recv.read(&mut byte).await.map_err(|e| e.to_string())?;
        read.ok_or("the stream ended without a byte")?;
        Ok((send, recv))
    }

    /// What led to the direct path: the last attempt of either side that did.
    fn technique(&self) -> Option<Technique> {
        let (pa, pb) = (self.a.peer_id(), self.b.peer_id());
        if selected(&self.a, pb).is_some_and(|(_, carrier)| carrier == Carrier::Ws) {
            return Some(Technique::WebSocket);
        }
        let of_both = [self.a.attempts(pb), self.b.attempts(pa)];
        let worked = of_both.iter().flatten().filter(|attempt| {
            attempt.outcome == AttemptOutcome::Connected && attempt.technique != Technique::Circuit
        });
        let last = worked.min_by_key(|a| a.started_ms_ago.saturating_sub(a.took_ms));
        last.map(|attempt| attempt.technique)
    }
}

async fn start(
    host: &HostHandle,
    kind: Kind,
    any: IpAddr,
    seed: u64,
    n: u8,
    bootstrap: Vec<PeerAddr>,
) -> Result<Node, String> {
    let mut websocket = WebSocketConfig::default();
    if kind == Kind::Public {
        websocket.listen = vec![SocketAddr::new(any, WEBSOCKET_PORT)];
    }
    let config = Config {
        listen: vec![SocketAddr::new(any, PORT)],
        websocket,
        bootstrap,
        ..Config::default()
    };
    let mut key = [n; 32];
    key[..8].copy_from_slice(&seed.to_be_bytes());
    let key = Keypair::ed25519_from_bytes(key).map_err(|e| e.to_string())?;
    Node::start_on(host.host(), key, config)
        .await
        .map_err(|e| format!("{} did not start: {e}", host.name()))
}

fn selected(node: &Node, peer: PeerId) -> Option<(PathKind, Carrier)> {
    let info = node.session_info(peer)?;
    let path = info.paths.iter().find(|path| path.selected)?;
    Some((path.kind, path.carrier))
}

fn is_direct(node: &Node, peer: PeerId) -> bool {
    selected(node, peer).is_some_and(|(kind, _)| kind == PathKind::Direct)
}

async fn seen_within(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > patience {
            return false;
        }
        sleep(LOOK_EVERY).await;
    }
    true
}
