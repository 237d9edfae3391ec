//! A private network of five: its owner is public, the members are behind NATs of two kinds.
//! They join by invitation, reach each other by name, get new keys, and one is revoked.

use std::time::Duration;

use anyhop_lab::netns::NatKind;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{PATIENCE, node::Node, turn, world::World};

/// The owner's node of the network, where invitations lead to.
const LISTEN: &str = "0.0.0.0:4002";

/// Runs a command about the network.
async fn network(node: &Node, args: &[&str]) -> Value {
    node.json(&[&["network"], args].concat()).await
}

/// Waits until `network show` tells this epoch.
async fn is_in_epoch(node: &Node, epoch: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shown = network(node, &["show", "lab"]).await;
        if shown["epoch"] == epoch {
            return;
        }
        assert!(Instant::now() < deadline, "{}: {shown}", node.name);
        sleep(Duration::from_millis(20)).await;
    }
}

/// How long this node's sessions of the network have been there.
async fn ages(node: &Node) -> Vec<(String, u64)> {
    let peers = node.json(&["peers", "--network", "lab"]).await;
    let peers = peers.as_array().expect("a list").iter();
    let age = |p: &Value| {
        let peer = p["peer_id"].as_str().expect("a text").to_owned();
        (peer, p["age_s"].as_u64().expect("a number"))
    };
    peers.map(age).collect()
}

async fn joins(node: &Node, owner: &Node, name: &str) {
    let invited = network(owner, &["invite", "lab"]).await;
    let invite = invited["invite"].as_str().expect("a text");
    let joined = network(node, &["join", invite, "--name", name]).await;
    assert_eq!(joined["peer_id"], node.peer.as_str());
}

async fn pings(from: &Node, to: &str) -> Option<i32> {
    let args = ["--network", "lab", "ping", to, "-c", "1"];
    from.try_run(&args, PATIENCE).await.code
}

#[tokio::test(flavor = "multi_thread")]
async fn five_members_over_nats_join_meet_rotate_and_revoke() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let created = ["create", "lab", "--listen", LISTEN, "--listen", "[::]:4002"];
    network(&world.r, &created).await;
    let kinds = [
        ("A", NatKind::PortRestrictedCone),
        ("B", NatKind::PortRestrictedCone),
        ("S", NatKind::SymmetricRandom),
        ("T", NatKind::SymmetricRandom),
    ];
    let mut members = Vec::new();
    for (name, kind) in kinds {
        let member = world.behind(name, kind).await;
        joins(&member.node, &world.r, &name.to_lowercase()).await;
        members.push(member);
    }
    let nodes: Vec<&Node> = members.iter().map(|m| &m.node).collect();
    for from in &nodes {
        for to in ["a", "b", "s", "t", "owner"] {
            if from.name.to_lowercase() != to {
                assert_eq!(pings(from, to).await, Some(0), "{} to {to}", from.name);
            }
        }
    }

    let mut before = Vec::new();
    for node in nodes.iter().chain([&&world.r]) {
        before.push(ages(node).await);
    }
    let begun = Instant::now();
    network(&world.r, &["rotate", "lab"]).await;
    for node in &nodes {
        is_in_epoch(node, 2).await;
    }
    println!("all had the new epoch within {:.2?}", begun.elapsed());
    for (node, before) in nodes.iter().chain([&&world.r]).zip(before) {
        let now = ages(node).await;
        for (peer, age) in before {
            let kept = now.iter().any(|(p, a)| *p == peer && *a >= age);
            assert!(kept, "{}: the session with {peer} was dropped", node.name);
        }
    }

    network(&world.r, &["revoke", "lab", "t"]).await;
    for node in &nodes[..3] {
        is_in_epoch(node, 3).await;
    }
    let t = nodes[3];
    // With its old key it hears nothing, from whomever it asks.
    for to in [&world.r.peer, &nodes[0].peer] {
        let args = ["--network", "lab", "ping", to, "-c", "1", "--timeout", "5"];
        assert_eq!(t.try_run(&args, PATIENCE).await.code, Some(1));
    }
    let shown = network(t, &["show", "lab"]).await;
    assert_eq!(shown["epoch"], 2, "the new key is kept from it");
    let listed = network(nodes[0], &["members", "lab"]).await;
    assert_eq!(listed.as_array().map(Vec::len), Some(4), "{listed}");
    assert_eq!(pings(nodes[0], "s").await, Some(0), "the others go on");
}
