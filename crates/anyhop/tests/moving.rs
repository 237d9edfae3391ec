//! Hosts that move: other addresses, other networks, no network for a while. Sessions
//! and their streams go on.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{net::Ipv4Addr, time::Duration};

use anyhop::{Config, Node, PathKind, PeerAddr};
use anyhop_lab::{
    nat::NatConfig,
    net::{HostHandle, VirtualNet},
};
use common::{
    PORT, World, attached, config, eventually, exchange, link, receive, selected, send_paced, start,
};

/// Longest time without a byte around a move.
const STALL: Duration = Duration::from_secs(3);

/// Which end of the session moves.
#[derive(Debug, Clone, Copy)]
enum Mover {
    Dialler,
    Dialled,
}

/// Which way the stream goes.
#[derive(Debug, Clone, Copy)]
enum Flow {
    FromMover,
    ToMover,
}

const CASES: [(Mover, Flow); 4] = [
    (Mover::Dialler, Flow::FromMover),
    (Mover::Dialler, Flow::ToMover),
    (Mover::Dialled, Flow::FromMover),
    (Mover::Dialled, Flow::ToMover),
];

/// Streams for `secs` between the mover and the other while `events` happen; returns the
/// longest stall.
async fn stream_during(
    mover: &Node,
    other: &Node,
    flow: Flow,
    secs: u64,
    events: impl Future<Output = ()>,
) -> Duration {
    let (from, to) = match flow {
        Flow::FromMover => (mover.clone(), other),
        Flow::ToMover => (other.clone(), mover),
    };
    let received = receive(to);
    let peer = to.peer_id();
    let sender = tokio::spawn(async move { send_paced(&from, peer, secs).await });
    events.await;
    let sent = sender.await.unwrap();
    let (total, stall) = received.await.unwrap();
    assert_eq!(total, sent);
    stall
}

/// Two public nodes with a session that the first dialled.
async fn public_pair(net: &VirtualNet, configs: [Config; 2]) -> ([Node; 2], [HostHandle; 2]) {
    let hosts = [1, 2].map(|n| {
        net.public_host(&format!("h{n}"), Ipv4Addr::new(203, 0, 113, n))
            .with_link(link(10))
    });
    let [first, second] = configs;
    let nodes = [
        start(&hosts[0], first).await,
        start(&hosts[1], second).await,
    ];
    let addr = PeerAddr::new(nodes[1].peer_id(), (hosts[1].ip(), PORT).into()).unwrap();
    nodes[0].add_address(&addr);
    exchange(&nodes[0], &nodes[1], "hello").await;
    (nodes, hosts)
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_renumbered_keeps_its_sessions() {
    for (n, (mover, flow)) in CASES.into_iter().enumerate() {
        common::trace_to_stderr();
        let net = VirtualNet::new(n as u64);
        let (nodes, hosts) = public_pair(&net, [config(), config()]).await;
        let (moves, stays) = match mover {
            Mover::Dialler => (0, 1),
            Mover::Dialled => (1, 0),
        };
        let stall = stream_during(&nodes[moves], &nodes[stays], flow, 12, async {
            for lease in [77, 78] {
                tokio::time::sleep(Duration::from_secs(4)).await;
                net.renumber(&hosts[moves], Ipv4Addr::new(203, 0, 113, lease));
            }
        })
        .await;
        println!("{mover:?}, {flow:?}: longest stall {stall:?}");
        assert!(stall < STALL, "{mover:?}, {flow:?}: stalled for {stall:?}");
        let told = nodes[moves].addresses()[0].to_string();
        assert!(told.contains("203.0.113.78"), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_socket_bound_to_an_address_follows_when_the_address_goes() {
    common::trace_to_stderr();
    let net = VirtualNet::new(1);
    let bound = Config {
        listen: vec![([203, 0, 113, 1], PORT).into()],
        ..Config::default()
    };
    let (nodes, hosts) = public_pair(&net, [bound, config()]).await;
    let stall = stream_during(&nodes[0], &nodes[1], Flow::FromMover, 12, async {
        for lease in [77, 1] {
            tokio::time::sleep(Duration::from_secs(4)).await;
            net.renumber(&hosts[0], Ipv4Addr::new(203, 0, 113, lease));
        }
    })
    .await;
    assert!(stall < STALL, "stalled for {stall:?}");
    assert!(nodes[0].addresses()[0].to_string().contains("203.0.113.1/"));
}

#[tokio::test(start_paused = true)]
async fn a_host_without_network_for_ten_seconds_goes_on_where_it_was() {
    for (n, (mover, flow)) in CASES.into_iter().enumerate() {
        common::trace_to_stderr();
        let net = VirtualNet::new(n as u64);
        let (nodes, hosts) = public_pair(&net, [config(), config()]).await;
        let (moves, stays) = match mover {
            Mover::Dialler => (0, 1),
            Mover::Dialled => (1, 0),
        };
        let down = Duration::from_secs(10);
        let stall = stream_during(&nodes[moves], &nodes[stays], flow, 25, async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            net.set_interface(&hosts[moves], false);
            tokio::time::sleep(down).await;
            net.set_interface(&hosts[moves], true);
        })
        .await;
        println!(
            "{mover:?}, {flow:?}: {:?} after the interface",
            stall - down
        );
        assert!(stall < down + STALL, "{mover:?}, {flow:?}: {stall:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_carried_behind_another_nat_is_direct_again() {
    for (n, (mover, flow)) in CASES.into_iter().enumerate() {
        let mut world = World::new(20 + n as u64).await;
        let a = world.natted("a", NatConfig::port_restricted_cone()).await;
        let b = world.natted("b", NatConfig::port_restricted_cone()).await;
        let elsewhere = world.net.nat(
            "nat-elsewhere",
            Ipv4Addr::new(198, 51, 100, 200),
            NatConfig::port_restricted_cone(),
        );
        attached(&a.node).await;
        attached(&b.node).await;
        exchange(&a.node, &b.node, "hello").await;
        let (moves, stays) = match mover {
            Mover::Dialler => (&a, &b),
            Mover::Dialled => (&b, &a),
        };
        let peer = stays.node.peer_id();
        eventually("direct", Duration::from_secs(5), || {
            selected(&moves.node, peer) == Some(PathKind::Direct)
        })
        .await;
        let stall = stream_during(&moves.node, &stays.node, flow, 15, async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let room = Ipv4Addr::new(10, 77, 0, 2);
            world.net.move_host(&moves.host, elsewhere, room);
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_eq!(selected(&moves.node, peer), Some(PathKind::Direct));
        })
        .await;
        println!("{mover:?}, {flow:?}: longest stall {stall:?}");
        assert!(stall < STALL, "{mover:?}, {flow:?}: stalled for {stall:?}");
        let seen = moves.node.status().observed_addresses;
        assert!(
            seen.iter().all(|a| a.contains("198.51.100.200")),
            "addresses of the old network are told: {seen:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_circuit_lives_on_when_one_end_moves() {
    for flow in [Flow::FromMover, Flow::ToMover] {
        let mut world = World::new(30).await;
        let s = world.natted("s", NatConfig::symmetric()).await;
        let t = world.natted("t", NatConfig::symmetric()).await;
        let outer = Ipv4Addr::new(198, 51, 100, 200);
        let elsewhere = world
            .net
            .nat("nat-elsewhere", outer, NatConfig::symmetric());
        attached(&s.node).await;
        attached(&t.node).await;
        let stall = stream_during(&s.node, &t.node, flow, 10, async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let room = Ipv4Addr::new(10, 77, 0, 2);
            world.net.move_host(&s.host, elsewhere, room);
        })
        .await;
        println!("{flow:?}: longest stall {stall:?}");
        assert!(stall < STALL, "{flow:?}: stalled for {stall:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_is_told_once_with_the_new_addresses() {
    let net = VirtualNet::new(2);
    let (nodes, hosts) = public_pair(&net, [config(), config()]).await;
    let mut events = nodes[0].events();
    // A swarm of changes, as an address that is renewed makes it.
    for lease in [5, 6, 7] {
        net.renumber(&hosts[0], Ipv4Addr::new(203, 0, 113, lease));
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let anyhop::Event::LocalAddressesChanged { addresses } = event {
            told.push(addresses);
        }
    }
    assert_eq!(told, [[std::net::IpAddr::from([203, 0, 113, 7])]]);
}
