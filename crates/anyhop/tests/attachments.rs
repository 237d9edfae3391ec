//! Nodes keep attachments to relays that they were never told of: neighbours know them.

mod common;

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use anyhop::{Config, Node, PeerAddr};
use anyhop_lab::{nat::NatConfig, net::HostHandle};
use common::{PORT, World, config, eventually, exchange, link, start};

/// `count` more public relays that start from the first, each in a network of its own.
async fn relays(world: &World, count: u8) -> Vec<(HostHandle, Node)> {
    let mut relays = Vec::new();
    for n in 0..count {
        let name = format!("relay{n}");
        let host = world
            .net
            .public_host(&name, Ipv4Addr::new(192, 10 + n, 2, 1))
            .with_link(link(10));
        let config = Config {
            bootstrap: vec![world.bootstrap()],
            ..config()
        };
        let node = start(&host, config).await;
        relays.push((host, node));
    }
    relays
}

fn attachments(node: &Node) -> BTreeSet<String> {
    node.status().attachments.into_iter().collect()
}

#[tokio::test(start_paused = true)]
async fn a_node_that_knows_one_relay_attaches_to_three_and_replaces_one_that_dies() {
    let mut world = World::new(1).await;
    let relays = relays(&world, 4).await;
    let a = world.natted("a", NatConfig::symmetric()).await;
    eventually("three attachments", Duration::from_secs(20), || {
        attachments(&a.node).len() == 3
    })
    .await;
    let before = attachments(&a.node);
    assert!(before.contains(&world.relay.peer_id().to_string()));
    let (host, dead) = relays
        .iter()
        .find(|(_, node)| before.contains(&node.peer_id().to_string()))
        .unwrap();
    world.net.cut(host);
    eventually("replaced", Duration::from_secs(60), || {
        let now = attachments(&a.node);
        now.len() == 3 && !now.contains(&dead.peer_id().to_string())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nodes_that_know_different_relays_meet_without_a_common_bootstrap() {
    let mut world = World::new(2).await;
    let relays = relays(&world, 3).await;
    let a = world.natted("a", NatConfig::symmetric()).await;
    let (host, relay) = &relays[2];
    let other = Config {
        bootstrap: vec![PeerAddr::new(relay.peer_id(), (host.ip(), PORT).into()).unwrap()],
        ..config()
    };
    let b = world.natted_with("b", NatConfig::symmetric(), other).await;
    common::attached(&a.node).await;
    common::attached(&b.node).await;
    exchange(&a.node, &b.node, "over what they found").await;
}

#[tokio::test(start_paused = true)]
async fn public_relays_link_up_among_themselves() {
    let world = World::new(3).await;
    let relays = relays(&world, 6).await;
    for (_, node) in &relays {
        eventually("three attachments", Duration::from_secs(60), || {
            attachments(node).len() == 3
        })
        .await;
    }
    // The one that all started from may die without tearing the graph apart.
    world.net.cut(&world.relay_host);
    tokio::time::sleep(Duration::from_secs(60)).await;
    for (_, node) in &relays[1..] {
        exchange(&relays[0].1, node, "still one piece").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_does_not_attach_to_those_that_do_not_relay_or_are_behind_a_nat() {
    let mut world = World::new(4).await;
    let host = world
        .net
        .public_host("unwilling", Ipv4Addr::new(192, 9, 2, 1));
    let mut unwilling = Config {
        bootstrap: vec![world.bootstrap()],
        ..config()
    };
    unwilling.relay.enabled = false;
    let _unwilling = start(&host, unwilling).await;
    let _natted = world.natted("n", NatConfig::full_cone()).await;
    let a = world.natted("a", NatConfig::symmetric()).await;
    common::attached(&a.node).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    let relay = world.relay.peer_id().to_string();
    assert_eq!(attachments(&a.node), BTreeSet::from([relay]));
    assert_eq!(a.node.sessions().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_first_neighbour_is_reached_over_a_later_one_when_it_is_blocked_seconds_after() {
    let mut world = World::new(5).await;
    let a = world.natted("a", NatConfig::symmetric()).await;
    common::attached(&a.node).await;
    let later = relays(&world, 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    world
        .net
        .block(world.net.external(a.nat)[0], &world.relay_host);
    // Longer than a session lives without a path.
    tokio::time::sleep(Duration::from_secs(20)).await;
    exchange(&a.node, &world.relay, "around the block").await;
    let over = later[0].1.peer_id().to_string();
    assert!(attachments(&a.node).contains(&over));
}
