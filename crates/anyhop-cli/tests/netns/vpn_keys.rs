//! Keys of sealed packets are replaced while packets flow, and none is lost over that.

use anyhop_lab::netns::NatKind;
use serde_json::Value;
use tokio::time::{Duration, Instant, sleep};

use crate::{
    PATIENCE,
    flow::Paced,
    turn,
    vpn::{joins, own, peer, pings, status, tcp},
    world::World,
};

const UP: &[&str] = &["vpn", "up", "--rekey-after", "1"];
/// How often keys have to be replaced during each flow.
const REKEYS: u64 = 3;
/// Why a packet would be dropped if the two ends had different keys.
const ABOUT_KEYS: [&str; 4] = [
    "unknown_keys",
    "not_authentic",
    "replayed",
    "keys_exhausted",
];

fn rekeys(status: &Value, of: &str) -> u64 {
    peer(status, of)["rekeys"].as_u64().expect("a number")
}

/// Packets that a node dropped for a reason that has to do with keys.
fn dropped(status: &Value, of: &str) -> u64 {
    let counted = [&status["drops"], &peer(status, of)["drops"]];
    let counts = counted
        .iter()
        .flat_map(|drops| ABOUT_KEYS.map(|why| drops[why].as_u64()));
    counts.flatten().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_replaced_under_load_and_no_packet_is_lost_over_it() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let mut a = world.behind("A", NatKind::PortRestrictedCone).await;
    world
        .r
        .json(&["network", "create", "lab", "--listen", "0.0.0.0:4002"])
        .await;
    joins(&a.node, &world.r).await;
    for node in [&world.r, &a.node] {
        node.json(UP).await;
    }
    let [at_r, _] = own(&status(&world.r).await);
    pings(&mut a.node, at_r, 3).await;
    let before = rekeys(&status(&a.node).await, &world.r.peer);
    let flow = Paced::start(a.node.namespace(), world.r.namespace(), at_r);
    let deadline = Instant::now() + PATIENCE;
    let (seen, paced) = loop {
        let seen = status(&a.node).await;
        let paced = rekeys(&seen, &world.r.peer) - before;
        if paced >= REKEYS {
            break (seen, paced);
        }
        assert!(Instant::now() < deadline, "the keys stay: {seen}");
        sleep(Duration::from_millis(50)).await;
    };
    let (sent, arrived) = flow.finish().await;
    println!("{arrived} of {sent} packets arrived, keys replaced {paced} times");
    assert_eq!(arrived, sent);

    // As much as the hosts can do, both ways, in as many transfers as it takes.
    let [at_a, _] = own(&seen);
    let deadline = Instant::now() + PATIENCE;
    while rekeys(&status(&a.node).await, &world.r.peer) < before + paced + REKEYS {
        assert!(Instant::now() < deadline, "the keys stay");
        tcp(&mut a.node, &mut world.r, at_r).await;
        tcp(&mut world.r, &mut a.node, at_a).await;
    }
    for (node, of) in [(&a.node, &world.r.peer), (&world.r, &a.node.peer)] {
        let seen = status(node).await;
        assert_eq!(dropped(&seen, of), 0, "{}: {seen}", node.name);
        assert!(rekeys(&seen, of) >= 2 * REKEYS, "both sides count: {seen}");
    }
}
