//! IPv4 and IPv6: nodes with both use both, and lose nothing when one goes.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhop::{Carrier, Config, Node, PathKind, PeerAddr, PeerId};
use anyhop_lab::net::{HostHandle, VirtualNet};
use common::{PORT, attached, eventually, exchange, link, receive, send_paced, start};

fn both_families() -> Config {
    Config {
        listen: vec![
            ([0, 0, 0, 0], PORT).into(),
            (Ipv6Addr::UNSPECIFIED, PORT).into(),
        ],
        ..Config::default()
    }
}

fn six_only() -> Config {
    Config {
        listen: vec![(Ipv6Addr::UNSPECIFIED, PORT).into()],
        ..Config::default()
    }
}

fn v4(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, n)
}

fn v6(n: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n)
}

fn addr(peer: PeerId, ip: impl Into<IpAddr>) -> PeerAddr {
    PeerAddr::new(peer, (ip.into(), PORT).into()).unwrap()
}

/// The carriers of a session's direct paths, the selected one first.
fn carriers(node: &Node, peer: PeerId) -> Vec<Carrier> {
    let info = node.session_info(peer);
    let paths = info.into_iter().flat_map(|i| i.paths);
    paths
        .filter(|p| p.kind == PathKind::Direct)
        .map(|p| p.carrier)
        .collect()
}

fn has_both(node: &Node, peer: PeerId) -> bool {
    let carriers = carriers(node, peer);
    carriers.contains(&Carrier::Udp4) && carriers.contains(&Carrier::Udp6)
}

/// Two public nodes with both families, of which the first knows one address of the second.
async fn dual_pair(net: &VirtualNet, known: impl Into<IpAddr>) -> ([Node; 2], [HostHandle; 2]) {
    let hosts = [1, 2].map(|n: u8| {
        net.public_host(&format!("h{n}"), (v4(n), v6(u16::from(n))))
            .with_link(link(10))
    });
    let nodes = [
        start(&hosts[0], both_families()).await,
        start(&hosts[1], both_families()).await,
    ];
    nodes[0].add_address(&addr(nodes[1].peer_id(), known));
    exchange(&nodes[0], &nodes[1], "hello").await;
    (nodes, hosts)
}

#[tokio::test(start_paused = true)]
async fn a_session_over_one_family_gets_a_path_over_the_other() {
    for (seed, known) in [IpAddr::from(v4(2)), v6(2).into()].into_iter().enumerate() {
        let net = VirtualNet::new(seed as u64);
        let (nodes, _) = dual_pair(&net, known).await;
        eventually("both families", Duration::from_secs(3), || {
            has_both(&nodes[0], nodes[1].peer_id()) && has_both(&nodes[1], nodes[0].peer_id())
        })
        .await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(carriers(&nodes[0], nodes[1].peer_id()).len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_loses_nothing_when_one_family_goes_and_then_the_other() {
    common::trace_to_stderr();
    let net = VirtualNet::new(3);
    let (nodes, _) = dual_pair(&net, v4(2)).await;
    let peer = nodes[1].peer_id();
    let received = receive(&nodes[1]);
    let sender = {
        let node = nodes[0].clone();
        tokio::spawn(async move { send_paced(&node, peer, 30).await })
    };
    eventually("both families", Duration::from_secs(3), || {
        has_both(&nodes[0], peer)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    net.block(IpAddr::from(v4(1)), IpAddr::from(v4(2)));
    eventually("IPv6 alone", Duration::from_secs(3), || {
        carriers(&nodes[0], peer) == [Carrier::Udp6]
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    net.unblock(IpAddr::from(v4(1)), IpAddr::from(v4(2)));
    eventually("both again", Duration::from_secs(12), || {
        has_both(&nodes[0], peer)
    })
    .await;
    net.block(IpAddr::from(v6(1)), IpAddr::from(v6(2)));
    eventually("IPv4 alone", Duration::from_secs(3), || {
        carriers(&nodes[0], peer) == [Carrier::Udp4]
    })
    .await;
    let sent = sender.await.unwrap();
    let (total, stall) = received.await.unwrap();
    assert_eq!(total, sent);
    println!("longest stall {stall:?}");
    assert!(stall < Duration::from_secs(3), "stalled for {stall:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dial_is_not_held_up_by_a_family_that_leads_nowhere() {
    for dead in [true, false] {
        let net = VirtualNet::new(4);
        let (nodes, _) = dual_pair(&net, v4(2)).await;
        let peer = nodes[1].peer_id();
        let third_host = net.public_host("third", (v4(3), v6(3))).with_link(link(10));
        let third = start(&third_host, both_families()).await;
        third.add_address(&addr(peer, v4(2)));
        third.add_address(&addr(peer, v6(2)));
        if dead {
            net.block(IpAddr::from(v6(3)), IpAddr::from(v6(2)));
        } else {
            net.block(IpAddr::from(v4(3)), IpAddr::from(v4(2)));
        }
        let start = tokio::time::Instant::now();
        third.connect(peer).await.unwrap();
        let took = start.elapsed();
        assert!(
            took < Duration::from_millis(500),
            "IPv6 dead {dead}: {took:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_relay_met_over_ipv4_is_told_with_its_ipv6_address() {
    let net = VirtualNet::new(5);
    // The relay is attachment of one side only; the other knows a third node.
    let relay_host = net.public_host("relay", (v4(1), v6(1)));
    let relay = start(&relay_host, both_families()).await;
    let entry_host = net.public_host("entry", v6(2));
    let entry_config = Config {
        bootstrap: vec![addr(relay.peer_id(), v6(1))],
        ..six_only()
    };
    let entry = start(&entry_host, entry_config).await;
    let four_host = net.public_host("four", v4(4));
    let four_config = Config {
        bootstrap: vec![addr(relay.peer_id(), v4(1))],
        ..common::config()
    };
    let four = start(&four_host, four_config).await;
    let six_host = net.public_host("six", v6(6));
    let six_config = Config {
        bootstrap: vec![addr(entry.peer_id(), v6(2))],
        ..six_only()
    };
    let six = start(&six_host, six_config).await;
    attached(&four).await;
    attached(&six).await;
    attached(&entry).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    exchange(&six, &four, "from six").await;
    exchange(&four, &six, "from four").await;
}
