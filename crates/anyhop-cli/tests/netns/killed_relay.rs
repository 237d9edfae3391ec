//! The relay dies: who needs it is told, who does not goes on.

use std::time::Duration;

use anyhop_lab::netns::NatKind;
use tokio::time::{Instant, sleep};

use crate::{
    PATIENCE,
    node::{Node, parse},
    transfer::{Pace, Transfer},
    turn,
    world::World,
};

/// What still runs when the relay is killed.
const RUNNING: u64 = 40_000_000;

/// Seconds that `ping` waits for its answer.
const PING_TIMEOUT: &str = "5";

/// A command that knows its deadline has ended by then, or it hangs.
const NO_HANG: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread")]
async fn killed_relay_is_reported_and_direct_sessions_go_on() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let a = world.behind("A", NatKind::PortRestrictedCone).await;
    let b = world.behind("B", NatKind::PortRestrictedCone).await;
    let s = world.behind("S", NatKind::SymmetricRandom).await;
    let t = world.behind("T", NatKind::SymmetricRandom).await;
    a.node.pings(&b.node, 1).await;
    a.node.selects(&b.node, "direct").await;
    assert_eq!(s.node.pings(&t.node, 1).await, ["circuit"]);
    let pace = Pace {
        bytes_per_s: Some(10_000_000),
        gate: RUNNING / 2,
    };
    let transfer = Transfer::start(&a.node, &b.node, RUNNING, pace).await;
    transfer.reaches(RUNNING / 8).await;
    let doomed = Transfer::start(&s.node, &t.node, RUNNING, pace).await;
    doomed.reaches(RUNNING / 8).await;

    world.r.kill();
    transfer.set_pace(Pace {
        gate: RUNNING,
        ..pace
    });
    let killed = Instant::now();
    let reason = ping_fails(&s.node, &t.node).await;
    println!("S to T, {:?} after the kill: {reason}", killed.elapsed());
    while s.node.paths(&t.node).await.is_some() {
        assert!(killed.elapsed() < PATIENCE, "the dead session is kept");
        sleep(Duration::from_millis(200)).await;
    }
    println!(
        "the session of S and T ended {:?} after the kill",
        killed.elapsed()
    );
    let reason = ping_fails(&s.node, &t.node).await;
    println!("S to T, then: {reason}");

    let (sender, receiver) = doomed.fails(NO_HANG).await;
    println!("cat from S to T: sender: {sender}; receiver: {receiver}");

    transfer.finish().await;
    assert_eq!(a.node.pings(&b.node, 3).await, ["direct"; 3]);
    b.node.sends(&a.node, "still here").await;
}

/// Pings once and expects exit code 1 with an error that says why.
async fn ping_fails(from: &Node, to: &Node) -> String {
    let args = [
        "--json",
        "ping",
        &to.peer,
        "-c",
        "1",
        "--timeout",
        PING_TIMEOUT,
    ];
    let done = from.try_run(&args, NO_HANG).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    let error = done.stderr.lines().last().expect("an error");
    let error = parse(error)["error"].clone();
    let message = error["message"].as_str().expect("a message").to_owned();
    assert!(message.contains(&to.peer), "whom it is about: {message}");
    assert!(error["code"].is_string(), "{error}");
    message
}
