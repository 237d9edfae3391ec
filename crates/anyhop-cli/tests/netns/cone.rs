//! Two nodes behind cone NATs: over the relay, direct, and back when that is blocked,
//! in the middle of one transfer.

use std::time::Duration;

use anyhop_lab::netns::NatKind;
use tokio::time::Instant;

use crate::{
    TRANSFER,
    transfer::{Pace, Transfer},
    turn,
    world::World,
};

const RATE: u64 = 16_000_000;

/// Where the transfer waits for the direct path, and for the circuit again.
const FIRST_GATE: u64 = 70_000_000;
const SECOND_GATE: u64 = 150_000_000;

/// Bytes that have to arrive in each state.
const SOME: u64 = 10_000_000;

/// No machine is so slow that a fall-back takes this long. The time it took is printed.
const FALL_BACK_BOUND: Duration = Duration::from_secs(10);

fn pace(gate: u64) -> Pace {
    Pace {
        bytes_per_s: Some(RATE),
        gate,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_goes_from_circuit_to_direct_and_back_without_losing_a_byte() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let a = world.behind("A", NatKind::PortRestrictedCone).await;
    let b = world.behind("B", NatKind::PortRestrictedCone).await;
    let block = || a.router.block_udp(b.router.wan()).expect("blocked");
    let unblock = || a.router.unblock_udp(b.router.wan()).expect("unblocked");

    // Blocked at first, so that the beginning on the circuit is seen and not missed.
    block();
    let transfer = Transfer::start(&a.node, &b.node, TRANSFER, pace(FIRST_GATE)).await;
    transfer.reaches(SOME).await;
    let first = a.node.selects(&b.node, "circuit").await;
    assert_eq!(first.via, [world.r.peer.as_str()]);
    assert!(world.r.forwarded_bytes().await >= SOME);
    let tried = a.router.blocked_packets().expect("counted");
    assert!(tried > 0, "no direct path was tried");
    println!("{} bytes over the circuit", transfer.meter.bytes());

    unblock();
    let open = Instant::now();
    let direct = a.node.selects(&b.node, "direct").await;
    println!("direct {:?} after it was possible", open.elapsed());
    assert!(direct.via.is_empty());
    // Of the techniques that race, one has sockets of its own.
    let wan = format!("{}:", b.router.wan());
    assert!(direct.remote.starts_with(&wan), "{}", direct.remote);
    transfer.set_pace(pace(SECOND_GATE));
    let (arrived, forwarded) = (transfer.meter.bytes(), world.r.forwarded_bytes().await);
    transfer.reaches(arrived + 2 * SOME).await;
    let forwarded = world.r.forwarded_bytes().await - forwarded;
    assert!(forwarded < SOME, "{forwarded} bytes still went over R");
    assert_eq!(
        a.node.selected(&b.node).await.map(|p| p.kind),
        Some("direct".into())
    );
    println!("{} bytes, now direct", transfer.meter.bytes());

    transfer.meter.forget_gaps();
    let arrived = transfer.meter.bytes();
    assert!(arrived < TRANSFER - 2 * SOME, "too late to block anything");
    block();
    let blocked = Instant::now();
    a.node.selects(&b.node, "circuit").await;
    let noticed = blocked.elapsed();
    transfer.set_pace(pace(TRANSFER));
    transfer.reaches(arrived + SOME).await;
    let stall = transfer.meter.longest_gap();
    println!(
        "fell back: circuit selected {noticed:?} after the block, receiver still for {stall:?}"
    );
    assert!(stall < FALL_BACK_BOUND);
    assert!(a.router.blocked_packets().expect("counted") > tried);
    let speed = transfer.finish().await;
    println!("{TRANSFER} bytes, hashes equal, {speed:.1} MB/s (fed at {RATE} bytes/s)");

    a.node.pings(&b.node, 3).await;
    unblock();
    b.node.pings(&a.node, 3).await;
    a.node.sends(&b.node, "to B").await;
    b.node.sends(&a.node, "to A: grüße").await;
    a.node.stop().await;
    b.node.stop().await;
    world.r.stop().await;
}
