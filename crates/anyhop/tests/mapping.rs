//! Port mappings: asked for, verified from outside, told, renewed, removed, and not
//! believed when the gateway lies.

mod common;

use std::{net::Ipv4Addr, time::Duration};

use anyhop::{Config, GatewayState, MappingInfo, Node, PeerAddr};
use anyhop_lab::nat::{NatConfig, PortMapping};
use common::{PORT, World, attached, config, eventually, exchange, link, start};

/// Behind a NAT that lets nobody in but by a mapping.
fn strict(port_mapping: PortMapping) -> NatConfig {
    NatConfig {
        port_mapping,
        ..NatConfig::symmetric()
    }
}

fn mapping_config(world: &World) -> Config {
    Config {
        bootstrap: vec![world.bootstrap()],
        port_mapping: true,
        ..config()
    }
}

fn mapping(node: &Node) -> Option<MappingInfo> {
    node.status().nat.mappings.into_iter().next()
}

#[tokio::test(start_paused = true)]
async fn a_mapped_node_is_reached_by_a_stranger_and_the_mapping_goes_with_it() {
    let mut world = World::new(40).await;
    let config = mapping_config(&world);
    let a = world
        .natted_with("a", strict(PortMapping::Honest), config)
        .await;
    eventually("verified", Duration::from_secs(30), || {
        mapping(&a.node).is_some_and(|m| m.verified)
    })
    .await;
    let told = mapping(&a.node).unwrap();
    assert_eq!((told.protocol.as_str(), told.problem), ("pcp", None));
    assert_eq!(a.node.status().nat.reachability, "public");

    // A stranger behind a NAT of the worst kind knows the mapped address only.
    let net = &world.net;
    let outer = net.nat(
        "nat-s",
        Ipv4Addr::new(198, 51, 100, 250),
        NatConfig::symmetric(),
    );
    let host = net
        .host_behind(outer, "s", Ipv4Addr::new(10, 99, 0, 2))
        .with_link(link(5));
    let stranger = start(&host, common::config()).await;
    let external = told.external.parse().unwrap();
    stranger.add_address(&PeerAddr::new(a.node.peer_id(), external).unwrap());
    exchange(&stranger, &a.node, "through the mapping").await;

    let addr = told.external.clone();
    a.node.close().await;
    stranger.close().await;
    let inside = a.host.clone();
    drop(a);
    // The socket goes with the last of the node's tasks.
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Whoever takes the port next is let alone: nothing leads there any more.
    let heir = start(&inside, common::config()).await;
    let late_host = net.public_host("late", Ipv4Addr::new(203, 0, 113, 99));
    let late = start(&late_host, common::config()).await;
    late.add_address(&PeerAddr::new(heir.peer_id(), addr.parse().unwrap()).unwrap());
    assert!(
        late.connect(heir.peer_id()).await.is_err(),
        "the mapping outlived its node"
    );
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_only_promises_is_found_out() {
    let mut world = World::new(41).await;
    let config = mapping_config(&world);
    let a = world
        .natted_with("a", strict(PortMapping::Lying), config)
        .await;
    attached(&a.node).await;
    eventually("found out", Duration::from_secs(60), || {
        mapping(&a.node).is_some_and(|m| m.problem.is_some())
    })
    .await;
    let told = mapping(&a.node).unwrap();
    assert!(!told.verified);
    let problem = told.problem.unwrap();
    assert!(problem.contains("could not reach"), "{problem}");
    assert_ne!(a.node.status().nat.reachability, "public");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_below_another_nat_is_no_way_in() {
    let world = World::new(42).await;
    let net = &world.net;
    let isp = net.nat(
        "isp",
        Ipv4Addr::new(198, 51, 100, 201),
        NatConfig::symmetric(),
    );
    let home = net.nat_behind(
        isp,
        "home",
        Ipv4Addr::new(100, 64, 0, 7),
        strict(PortMapping::Honest),
    );
    let host = net.host_behind(home, "a", Ipv4Addr::new(192, 168, 1, 2));
    let a = start(&host, mapping_config(&world)).await;
    eventually("told", Duration::from_secs(30), || mapping(&a).is_some()).await;
    let told = mapping(&a).unwrap();
    assert!(!told.verified);
    assert!(told.problem.unwrap().contains("another NAT above"));
}

#[tokio::test(start_paused = true)]
async fn a_mapping_is_renewed_for_as_long_as_the_node_runs_and_follows_it() {
    let mut world = World::new(43).await;
    let config = mapping_config(&world);
    let a = world
        .natted_with("a", strict(PortMapping::Honest), config)
        .await;
    eventually("mapped", Duration::from_secs(30), || {
        mapping(&a.node).is_some()
    })
    .await;
    // Its lifetime is 600 s.
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let left = mapping(&a.node).unwrap().expires_s;
        assert!(left >= 200, "{left} s left");
    }
    let elsewhere = world.net.nat(
        "elsewhere",
        Ipv4Addr::new(198, 51, 100, 222),
        strict(PortMapping::Honest),
    );
    let room = Ipv4Addr::new(10, 88, 0, 2);
    world.net.move_host(&a.host, elsewhere, room);
    eventually("mapped anew", Duration::from_secs(30), || {
        mapping(&a.node).is_some_and(|m| m.external == format!("198.51.100.222:{PORT}"))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_mapping_that_the_gateway_forgot_is_made_again_before_it_would_expire() {
    let mut world = World::new(46).await;
    let config = mapping_config(&world);
    let a = world
        .natted_with("a", strict(PortMapping::Honest), config)
        .await;
    let verified = || mapping(&a.node).is_some_and(|m| m.verified);
    eventually("verified", Duration::from_secs(30), verified).await;
    // It lives for 600 s, and would be renewed after 300.
    let left = || mapping(&a.node).unwrap().expires_s;
    world.net.reset_nat(a.nat);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(left() < 545, "{} s left", left());
    eventually("made again", Duration::from_secs(80), || left() > 590).await;
    eventually("verified again", Duration::from_secs(10), verified).await;
    assert_eq!(mapping(&a.node).unwrap().problem, None);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_of_gateways_unless_told_to() {
    let mut world = World::new(44).await;
    let a = world.natted("a", strict(PortMapping::Honest)).await;
    attached(&a.node).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(mapping(&a.node).is_none());
    assert_eq!(a.node.status().nat.gateways.state, GatewayState::NotAsked);
}

#[tokio::test(start_paused = true)]
async fn what_came_of_asking_gateways_is_told() {
    let mut world = World::new(45).await;
    let state = |node: &Node| node.status().nat.gateways.state;
    let config = || mapping_config(&world);
    let (one, other, public) = (config(), config(), config());
    let refused = world
        .natted_with("refused", strict(PortMapping::Unsupported), one)
        .await;
    let mapped = world
        .natted_with("mapped", strict(PortMapping::Honest), other)
        .await;
    let host = world
        .net
        .public_host("public", Ipv4Addr::new(203, 0, 113, 50));
    let public = start(&host, public).await;
    for (node, expected) in [
        (&refused.node, GatewayState::Refused),
        (&mapped.node, GatewayState::Mapped),
        (&public, GatewayState::NotNeeded),
    ] {
        let what = format!("{expected:?}");
        eventually(&what, Duration::from_secs(30), || state(node) == expected).await;
    }
    let reason = |node: &Node| node.status().nat.gateways.reason;
    assert!(reason(&refused.node).is_some());
    assert_eq!(reason(&mapped.node), None);
}
