//! Nodes behind symmetric NATs that cannot be guessed: everything over the relay, and it
//! stays there.

use std::time::Duration;

use anyhop_lab::netns::NatKind;
use tokio::time::sleep;

use crate::{
    TRANSFER,
    node::Node,
    transfer::{Pace, Transfer},
    turn,
    world::World,
};

/// Longer than the first attempts at a direct path.
const ATTEMPTS: Duration = Duration::from_secs(3);

const UNLIMITED: Pace = Pace {
    bytes_per_s: None,
    gate: u64::MAX,
};

#[tokio::test(flavor = "multi_thread")]
async fn two_random_nats_work_over_the_circuit_and_stay_on_it() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let s = world.behind("S", NatKind::SymmetricRandom).await;
    let t = world.behind("T", NatKind::SymmetricRandom).await;
    let (s, t) = (&s.node, &t.node);

    assert_eq!(s.pings(t, 3).await, ["circuit"; 3]);
    s.sends(t, "hello").await;
    t.sends(s, "hello back").await;
    moves_all_over(&world.r, s, t).await;
    sleep(ATTEMPTS).await;
    is_on_circuit(&world.r, s, t).await;
    assert_eq!(s.pings(t, 1).await, ["circuit"]);
}

async fn moves_all_over(relay: &Node, from: &Node, to: &Node) {
    let before = relay.forwarded_bytes().await;
    let transfer = Transfer::start(from, to, TRANSFER, UNLIMITED).await;
    while transfer.meter.bytes() < TRANSFER / 10 * 9 {
        is_on_circuit(relay, from, to).await;
        transfer.reaches(transfer.meter.bytes() + 1).await;
        sleep(Duration::from_millis(200)).await;
    }
    let speed = transfer.finish().await;
    let forwarded = relay.forwarded_bytes().await - before;
    assert!(forwarded >= TRANSFER, "only {forwarded} bytes went over R");
    println!(
        "{} to {}: {TRANSFER} bytes over the circuit, hashes equal, {speed:.1} MB/s",
        from.name, to.name
    );
}

/// Every path of the session is a circuit over `relay`.
async fn is_on_circuit(relay: &Node, from: &Node, to: &Node) {
    let paths = from.paths(to).await.expect("a session");
    assert!(!paths.is_empty(), "no path");
    for path in &paths {
        assert_eq!(path["kind"], "circuit", "{paths:?}");
        assert_eq!(path["via"][0], relay.peer.as_str(), "{paths:?}");
    }
}
