//! Nodes that only neighbours reach meet over chains of relays.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{net::Ipv4Addr, time::Duration};

use anyhop::{Config, DialError, NoRouteReason, Node, PathKind, PeerAddr, RelayConfig};
use anyhop_lab::net::{HostHandle, VirtualNet};
use common::{PORT, attached, config, eventually, exchange, link, receive, send_paced, start};
use tokio::time::{Instant, sleep};

/// Nodes on a network on which only neighbours reach each other.
struct Mesh {
    net: VirtualNet,
    hosts: Vec<HostHandle>,
    nodes: Vec<Node>,
}

impl Mesh {
    /// `bootstraps[n]` are the nodes that node `n` starts from; nobody else reaches it.
    async fn new(seed: u64, bootstraps: &[&[usize]]) -> Self {
        Self::with(seed, bootstraps, |_| config()).await
    }

    async fn with(seed: u64, bootstraps: &[&[usize]], config: impl Fn(usize) -> Config) -> Self {
        common::trace_to_stderr();
        let net = VirtualNet::new(seed);
        let host = |n: usize| {
            let ip = Ipv4Addr::new(203, 0, 113, u8::try_from(n).unwrap() + 1);
            net.public_host(&format!("n{n}"), ip).with_link(link(5))
        };
        let hosts: Vec<_> = (0..bootstraps.len()).map(host).collect();
        let joined = |a: usize, b: usize| bootstraps[a].contains(&b) || bootstraps[b].contains(&a);
        for a in 0..hosts.len() {
            for b in a + 1..hosts.len() {
                if !joined(a, b) {
                    net.block(&hosts[a], &hosts[b]);
                }
            }
        }
        let mut nodes: Vec<Node> = Vec::new();
        for (n, host) in hosts.iter().enumerate() {
            let at = |b: &usize| {
                let addr = (hosts[*b].ip(), PORT).into();
                PeerAddr::new(nodes[*b].peer_id(), addr).unwrap()
            };
            let config = Config {
                bootstrap: bootstraps[n].iter().map(at).collect(),
                ..config(n)
            };
            nodes.push(start(host, config).await);
        }
        for (n, node) in nodes.iter().enumerate() {
            let links = (0..nodes.len())
                .filter(|m| *m != n && joined(n, *m))
                .count();
            eventually("linked", Duration::from_secs(10), || {
                node.sessions().len() >= links
            })
            .await;
        }
        Self { net, hosts, nodes }
    }

    /// The relays of the selected path between two nodes, by their numbers.
    fn via(&self, from: usize, to: usize) -> Vec<usize> {
        let info = self.nodes[from].session_info(self.nodes[to].peer_id());
        let via = info.unwrap().paths[0].via.clone();
        let number = |id: String| {
            let mut nodes = self.nodes.iter();
            nodes.position(|n| n.peer_id().to_string() == id).unwrap()
        };
        via.into_iter().map(number).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn the_ends_of_a_chain_of_five_meet_over_three_relays() {
    let chain = Mesh::new(1, &[&[], &[0], &[1], &[2], &[3]]).await;
    attached(&chain.nodes[4]).await;
    let begin = Instant::now();
    exchange(&chain.nodes[0], &chain.nodes[4], "along the chain").await;
    let took = begin.elapsed();
    println!("first message after {took:?}");
    assert!(took < Duration::from_secs(1), "took {took:?}");
    assert_eq!(chain.via(0, 4), [1, 2, 3]);
    assert_eq!(chain.via(4, 0), [3, 2, 1]);
    exchange(&chain.nodes[4], &chain.nodes[0], "and back").await;
    let pong = chain.nodes[0].ping(chain.nodes[4].peer_id(), Duration::from_secs(2));
    let pong = pong.await.unwrap();
    assert_eq!((pong.kind, pong.hops), (PathKind::Circuit, 4));
    for relay in 1..4 {
        assert_eq!(chain.nodes[relay].status().relay.circuits, 1);
    }
    let trace = chain.net.trace();
    trace.assert_no_direct(&chain.hosts[0], &chain.hosts[4]);
}

#[tokio::test(start_paused = true)]
async fn a_chain_of_twelve_is_crossed_too() {
    let bootstraps: Vec<Vec<usize>> = (0..12_usize)
        .map(|n| n.checked_sub(1).into_iter().collect())
        .collect();
    let bootstraps: Vec<&[usize]> = bootstraps.iter().map(Vec::as_slice).collect();
    let chain = Mesh::new(2, &bootstraps).await;
    exchange(&chain.nodes[11], &chain.nodes[0], "eleven links").await;
    assert_eq!(chain.via(11, 0), (1..11).rev().collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn an_unwilling_relay_ends_the_chain_and_is_named() {
    let unwilling = |n: usize| Config {
        relay: RelayConfig {
            enabled: n != 2,
            ..RelayConfig::default()
        },
        ..config()
    };
    let chain = Mesh::with(3, &[&[], &[0], &[1], &[2]], unwilling).await;
    let begin = Instant::now();
    let far = chain.nodes[3].peer_id();
    let error = chain.nodes[0].connect(far).await.unwrap_err();
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(30), "took {took:?}");
    let said = error.to_string();
    match error {
        DialError::NoRoute {
            peer,
            asked,
            reached,
            reason,
            refused,
            ..
        } => {
            assert_eq!((peer, asked, reached), (far, 1, 1));
            assert_eq!(reason, NoRouteReason::Exhausted);
            assert_eq!(refused[0].by, chain.nodes[2].peer_id());
            assert!(said.contains("does not relay"), "{said}");
        }
        other => panic!("{other:?}"),
    }
    exchange(&chain.nodes[0], &chain.nodes[2], "but it takes its own").await;
}

#[tokio::test(start_paused = true)]
async fn a_trace_tells_every_hop_and_which_one_is_silent() {
    let chain = Mesh::new(4, &[&[], &[0], &[1], &[2], &[3]]).await;
    let (a, b) = (&chain.nodes[0], chain.nodes[4].peer_id());
    exchange(a, &chain.nodes[4], "both ends know the session").await;
    let hops = a.trace(b).await.unwrap();
    let ids: Vec<_> = hops.iter().map(|h| h.peer_id.clone()).collect();
    let expected = chain.nodes[1..].iter().map(|n| n.peer_id().to_string());
    assert_eq!(ids, expected.collect::<Vec<_>>());
    // Each link takes 10 ms one way.
    for (hop, nth) in hops.iter().zip(1..) {
        let rtt = hop.rtt_ms.unwrap();
        let expected = 20.0 * f64::from(nth);
        assert!(
            rtt >= expected && rtt < expected + 5.0,
            "hop {nth}: {rtt} ms"
        );
        assert_eq!((hop.loss, &*hop.reason), (Some(0.0), ""));
    }

    let hops = chain.nodes[1]
        .trace(chain.nodes[2].peer_id())
        .await
        .unwrap();
    assert_eq!(hops.len(), 1, "a neighbour is one hop");

    chain.net.cut(&chain.hosts[3]);
    let begin = Instant::now();
    let hops = a.trace(b).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(3));
    assert!(hops[0].rtt_ms.is_some() && hops[1].rtt_ms.is_some());
    for hop in &hops[2..] {
        assert_eq!((hop.rtt_ms, hop.loss), (None, None));
        assert!(!hop.reason.is_empty());
    }
}

/// Kills the relay that `victim` picks from the path in use, in the middle of a stream
/// between the first and the last node; returns how long the stream stood still.
async fn stall_when_a_relay_dies(mesh: &Mesh, victim: impl Fn(&[usize]) -> usize) -> Duration {
    let (first, last) = (0, mesh.nodes.len() - 1);
    let to = mesh.nodes[last].peer_id();
    let received = receive(&mesh.nodes[last]);
    let sender = {
        let node = mesh.nodes[first].clone();
        tokio::spawn(async move { send_paced(&node, to, 15).await })
    };
    sleep(Duration::from_secs(6)).await;
    let before = mesh.via(first, last);
    let victim = victim(&before);
    mesh.net.cut(&mesh.hosts[victim]);
    let sent = sender.await.unwrap();
    let (total, stall) = received.await.unwrap();
    assert_eq!(total, sent);
    let after = mesh.via(first, last);
    println!("{before:?} without {victim} became {after:?}, standing still for {stall:?}");
    assert!(!after.contains(&victim));
    stall
}

#[tokio::test(start_paused = true)]
async fn a_second_circuit_over_another_relay_stands_by_for_the_death_of_the_first() {
    let mesh = Mesh::new(5, &[&[], &[0], &[0], &[1, 2]]).await;
    let (a, b) = (&mesh.nodes[0], mesh.nodes[3].peer_id());
    exchange(a, &mesh.nodes[3], "over one").await;
    eventually("two circuits", Duration::from_secs(5), || {
        let paths = a.session_info(b).unwrap().paths;
        paths.len() == 2 && paths[0].via != paths[1].via
    })
    .await;
    let stall = stall_when_a_relay_dies(&mesh, |via| via[0]).await;
    assert!(stall < Duration::from_secs(2), "{stall:?}");
}

#[tokio::test(start_paused = true)]
async fn the_relay_in_the_middle_of_three_may_die_when_there_is_another_one() {
    // 0 - 1 - 2 or 3 - 4 - 5
    let mesh = Mesh::new(6, &[&[], &[0], &[1], &[1], &[2, 3], &[4]]).await;
    let stall = stall_when_a_relay_dies(&mesh, |via| via[1]).await;
    assert!(stall < Duration::from_secs(2), "{stall:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_standby_the_next_way_is_searched_when_a_relay_dies() {
    let mesh = Mesh::new(7, &[&[], &[0], &[1], &[1], &[2, 3], &[4]]).await;
    let (a, b) = (&mesh.nodes[0], &mesh.nodes[5]);
    exchange(a, b, "before").await;
    let used = mesh.via(0, 5)[1];
    mesh.net.cut(&mesh.hosts[used]);
    let begin = Instant::now();
    exchange(a, b, "after").await;
    let took = begin.elapsed();
    println!("repaired after {took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_names_a_dead_relay_does_not_keep_a_living_one_from_being_found() {
    let mesh = Mesh::new(8, &[&[], &[0], &[0], &[1, 2]]).await;
    let (a, b) = (&mesh.nodes[0], &mesh.nodes[3]);
    exchange(a, b, "its record is known now").await;
    // The link dies with its relay, and what the record says of it stays.
    a.connect(b.peer_id()).await.unwrap().close();
    sleep(Duration::from_secs(1)).await;
    mesh.net.cut(&mesh.hosts[1]);
    let begin = Instant::now();
    exchange(a, b, "over the other one").await;
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(mesh.via(0, 3), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_full_relay_is_gone_around_or_named() {
    let full = |n: usize| {
        let mut config = config();
        if n == 2 {
            config.relay.max_circuits = 0;
        }
        config
    };
    let mesh = Mesh::with(9, &[&[], &[0], &[1], &[2], &[1], &[4, 3]], full).await;
    exchange(&mesh.nodes[0], &mesh.nodes[5], "around").await;
    assert_eq!(mesh.via(0, 5), [1, 4]);
    let chain = Mesh::with(10, &[&[], &[0], &[1], &[2]], full).await;
    let far = chain.nodes[3].peer_id();
    match chain.nodes[0].connect(far).await.unwrap_err() {
        DialError::NoRoute { refused, .. } => {
            assert_eq!(refused[0].by, chain.nodes[2].peer_id());
            assert!(refused[0].reason.contains("full"), "{refused:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_ring_of_nodes_is_searched_without_going_round() {
    // Every search meets itself on the far side of the ring.
    let ring: Vec<Vec<usize>> = (0..10_usize)
        .map(|n| match n {
            0 => vec![],
            9 => vec![8, 0],
            n => vec![n - 1],
        })
        .collect();
    let ring: Vec<&[usize]> = ring.iter().map(Vec::as_slice).collect();
    let mesh = Mesh::new(11, &ring).await;
    exchange(&mesh.nodes[0], &mesh.nodes[5], "half way").await;
    assert_eq!(mesh.via(0, 5).len(), 4);
    let nobody = anyhop::Keypair::generate_ed25519().public().to_peer_id();
    match mesh.nodes[0].connect(nobody).await.unwrap_err() {
        DialError::NoRoute {
            reached, reason, ..
        } => assert_eq!((reached, reason), (9, NoRouteReason::Exhausted)),
        other => panic!("{other:?}"),
    }
}
