//! How nodes get direct paths through NATs of every kind, and what they tell about it.

mod common;

use std::time::Duration;

use anyhop::{AttemptOutcome, PathKind, Technique};
use anyhop_lab::nat::NatConfig;
use common::{World, attached, eventually, exchange, selected};

#[tokio::test(start_paused = true)]
async fn attempts_tell_how_a_peer_was_reached_and_what_is_next() {
    let mut world = World::new(21).await;
    let a = world.natted("a", NatConfig::port_restricted_cone()).await;
    let b = world.natted("b", NatConfig::port_restricted_cone()).await;
    attached(&a.node).await;
    attached(&b.node).await;
    let (pa, pb) = (a.node.peer_id(), b.node.peer_id());
    exchange(&a.node, &b.node, "hello").await;
    eventually("direct", Duration::from_secs(3), || {
        selected(&a.node, pb) == Some(PathKind::Direct)
            && selected(&b.node, pa) == Some(PathKind::Direct)
    })
    .await;
    for (node, peer) in [(&a.node, pb), (&b.node, pa)] {
        let attempts = node.attempts(peer);
        let punch = attempts.iter().find(|t| t.technique == Technique::Punch);
        assert_eq!(punch.unwrap().outcome, AttemptOutcome::Connected);
        assert!(punch.unwrap().remote.starts_with("198.51.100."));
    }
    let attempts = a.node.attempts(pb);
    let circuit = attempts
        .iter()
        .find(|t| t.technique == Technique::Circuit)
        .unwrap();
    assert_eq!(circuit.outcome, AttemptOutcome::Connected);
    assert_eq!(circuit.remote, world.relay.peer_id().to_string());

    world.block(&a, &b);
    exchange(&a.node, &b.node, "over the circuit").await;
    eventually("another punch planned", Duration::from_secs(60), || {
        let next = a.node.next_attempts(pb);
        next.iter()
            .any(|n| n.technique == Technique::Punch && n.in_ms > 0)
    })
    .await;
    let failed = |t: &anyhop::AttemptInfo| {
        t.technique == Technique::Punch
            && t.outcome == AttemptOutcome::Failed
            && t.reason == "no answer"
    };
    eventually("a failed punch told", Duration::from_secs(10), || {
        a.node.attempts(pb).iter().any(failed)
    })
    .await;
}
