//! The promise: whenever the graph of willing links joins two nodes they connect, else
//! each that asks gets a typed reason within 30 s. Random topologies against the ground
//! truth, in virtual time.
//!
//! `ANYHOP_TOPOLOGY_SEED` runs one topology, `ANYHOP_TOPOLOGIES` another number of them.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    collections::{BTreeSet, VecDeque},
    env,
    net::Ipv4Addr,
    time::Duration,
};

use anyhop::{Config, DialError, Keypair, Node, PathKind, PeerAddr, RelayConfig};
use anyhop_lab::{
    nat::NatConfig,
    net::{HostHandle, VirtualNet},
};
use common::{PORT, config, eventually, exchange, link};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::time::{Instant, sleep};

/// Topologies in an ordinary run.
const TOPOLOGIES: u64 = 36;
/// Pairs tried in each topology.
const PAIRS: usize = 6;
/// Within this time a dial is told why it failed.
const REASON_WITHIN: Duration = Duration::from_secs(30);

/// What a run is about, drawn from a seed.
#[derive(Debug)]
struct Topology {
    /// The NAT in front of each node; `None` for a public one. Public nodes come first.
    nats: Vec<Option<NatConfig>>,
    /// Whether each node relays.
    willing: Vec<bool>,
    /// Who bootstraps from whom: the second is public.
    edges: BTreeSet<(usize, usize)>,
}

impl Topology {
    fn draw(rng: &mut StdRng) -> Self {
        let nodes = rng.random_range(6..=14_usize);
        let public = rng.random_range(nodes / 3..=nodes);
        let kinds = [
            NatConfig::full_cone(),
            NatConfig::port_restricted_cone(),
            NatConfig::symmetric(),
        ];
        let nats = (0..nodes).map(|n| (n >= public).then(|| kinds.choose(rng).unwrap().clone()));
        let nats = nats.collect();
        let unwilling = rng.random_range(0..40);
        let willing = (0..nodes)
            .map(|_| rng.random_range(0..100) >= unwilling)
            .collect();
        let mut edges = BTreeSet::new();
        // Mostly one piece, sometimes two.
        let whole = rng.random_range(0..100) < 70;
        for node in 1..nodes {
            if whole || rng.random_range(0..100) < 85 {
                edges.insert((node, rng.random_range(0..node.min(public))));
            }
        }
        for _ in 0..rng.random_range(0..=nodes / 2) {
            let to = rng.random_range(0..public);
            let from = rng.random_range(0..nodes);
            if from > to {
                edges.insert((from, to));
            }
        }
        Self {
            nats,
            willing,
            edges,
        }
    }

    fn joined(&self, a: usize, b: usize) -> bool {
        self.edges.contains(&(a, b)) || self.edges.contains(&(b, a))
    }

    /// Whether a chain of willing nodes joins two nodes.
    fn reachable(&self, from: usize, to: usize) -> bool {
        let mut seen = BTreeSet::from([from]);
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            for next in 0..self.nats.len() {
                if self.joined(node, next) && seen.insert(next) {
                    if next == to {
                        return true;
                    }
                    if self.willing[next] {
                        queue.push_back(next);
                    }
                }
            }
        }
        false
    }
}

/// The nodes of a topology, running; only those joined by an edge reach each other, and
/// some behind NATs that could meet over others anyway.
struct Running {
    nodes: Vec<Node>,
    _hosts: Vec<HostHandle>,
}

async fn run(topology: &Topology, rng: &mut StdRng) -> Running {
    let net = VirtualNet::new(rng.random());
    let count = topology.nats.len();
    let hosts: Vec<_> = (0..count).map(|n| host(&net, topology, n)).collect();
    for a in 0..count {
        for b in a + 1..count {
            let both_natted = topology.nats[a].is_some() && topology.nats[b].is_some();
            let open = both_natted && topology.reachable(a, b) && rng.random();
            if !topology.joined(a, b) && !open {
                net.block(&hosts[a], &hosts[b]);
            }
        }
    }
    let key = |_| {
        let bytes: [u8; 32] = rng.random();
        Keypair::ed25519_from_bytes(bytes).unwrap()
    };
    let keys: Vec<_> = (0..count).map(key).collect();
    let mut nodes = Vec::new();
    for n in 0..count {
        let at = |to: usize| {
            let peer = keys[to].public().to_peer_id();
            PeerAddr::new(peer, (hosts[to].ip(), PORT).into()).unwrap()
        };
        let bootstraps = topology.edges.iter().filter(|(from, _)| *from == n);
        let config = Config {
            bootstrap: bootstraps.map(|(_, to)| at(*to)).collect(),
            relay: RelayConfig {
                enabled: topology.willing[n],
                ..RelayConfig::default()
            },
            ..config()
        };
        let node = Node::start_on(hosts[n].host(), keys[n].clone(), config).await;
        nodes.push(node.unwrap());
    }
    for (from, to) in &topology.edges {
        for (here, there) in [(from, to), (to, from)] {
            let peer = nodes[*there].peer_id();
            eventually("linked", Duration::from_secs(10), || {
                common::selected(&nodes[*here], peer) == Some(PathKind::Direct)
            })
            .await;
        }
    }
    Running {
        nodes,
        _hosts: hosts,
    }
}

fn host(net: &VirtualNet, topology: &Topology, n: usize) -> HostHandle {
    let number = u8::try_from(n).unwrap() + 1;
    let host = match &topology.nats[n] {
        None => net.public_host(&format!("n{n}"), Ipv4Addr::new(203, 0, 113, number)),
        Some(nat) => {
            let outside = Ipv4Addr::new(198, 51, 100, number);
            let nat = net.nat(&format!("nat{n}"), outside, nat.clone());
            net.host_behind(nat, &format!("n{n}"), Ipv4Addr::new(10, 0, number, 2))
        }
    };
    host.with_link(link(u64::from(number) * 2))
}

/// Tries some pairs; returns how many were joined and how many were not.
async fn check(topology: &Topology, rng: &mut StdRng) -> (usize, usize) {
    let running = run(topology, rng).await;
    let nodes = &running.nodes;
    let (mut joined, mut apart) = (0, 0);
    for _ in 0..PAIRS {
        let a = rng.random_range(0..nodes.len());
        let b = rng.random_range(0..nodes.len());
        if a == b {
            continue;
        }
        if topology.reachable(a, b) {
            joined += 1;
            if let Err(e) = nodes[a].connect(nodes[b].peer_id()).await {
                panic!("{a} -> {b} are joined: {e}");
            }
            exchange(&nodes[a], &nodes[b], "there").await;
            exchange(&nodes[b], &nodes[a], "and back").await;
        } else {
            apart += 1;
            let (there, back) =
                tokio::join!(reason(&nodes[a], &nodes[b]), reason(&nodes[b], &nodes[a]));
            for error in [there, back] {
                let typed = matches!(
                    error,
                    DialError::NoRoute { .. } | DialError::Unknown { asked: 0, .. }
                );
                assert!(typed, "{a} -> {b}: {error:?}");
            }
        }
        // The limits on searches are for floods, not for this test.
        sleep(Duration::from_secs(5)).await;
    }
    for node in nodes {
        node.close().await;
    }
    (joined, apart)
}

async fn reason(from: &Node, to: &Node) -> DialError {
    let begin = Instant::now();
    let outcome = from.connect(to.peer_id()).await;
    let took = begin.elapsed();
    assert!(took < REASON_WITHIN, "told after {took:?}");
    match outcome {
        Ok(_) => panic!("connected, but no chain of willing nodes joins them"),
        Err(e) => e,
    }
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name}={text:?} is no number")))
}

#[test]
fn nodes_connect_exactly_when_willing_links_join_them_else_each_is_told_why() {
    common::trace_to_stderr();
    let seeds = match number("ANYHOP_TOPOLOGY_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("ANYHOP_TOPOLOGIES").unwrap_or(TOPOLOGIES),
    };
    let (mut joined, mut apart) = (0, 0);
    for seed in seeds {
        let mut rng = StdRng::seed_from_u64(seed);
        let topology = Topology::draw(&mut rng);
        println!("ANYHOP_TOPOLOGY_SEED={seed}: {topology:?}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let (yes, no) = runtime.block_on(check(&topology, &mut rng));
        joined += yes;
        apart += no;
    }
    println!("{joined} pairs were joined, {apart} were not");
    // Without both the test would show nothing.
    assert!(number("ANYHOP_TOPOLOGY_SEED").is_some() || joined > 20 && apart > 10);
}
