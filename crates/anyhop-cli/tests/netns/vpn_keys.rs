//! Keys of sealed packets are replaced while packets flow, and none is lost over that.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhop_lab::netns::NatKind;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    PATIENCE,
    node::Node,
    turn,
    vpn::{joins, own, peer, pings, status, tcp},
    world::World,
};

const UP: &[&str] = &["vpn", "up", "--rekey-after", "1"];
const PORT: u16 = 7100;
/// Packets of the paced flow, and the time between bursts of ten.
const PACKETS: u32 = 12_000;
const BURST_EVERY: Duration = Duration::from_millis(4);
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

/// Sends numbered datagrams at an even pace; answers how many arrived.
async fn paced(from: &mut Node, to: &mut Node, ip: IpAddr) -> usize {
    let at = SocketAddr::new(ip, PORT);
    let bind = move || UdpSocket::bind(at);
    let sink = to.namespace().enter(bind).expect("bound");
    sink.set_read_timeout(Some(Duration::from_secs(2)))
        .expect("a limit");
    let received = tokio::task::spawn_blocking(move || {
        let (mut seen, mut packet) = (BTreeSet::new(), [0; 1500]);
        while seen.len() < PACKETS as usize && sink.recv(&mut packet).is_ok() {
            let number = packet[..4].try_into().expect("4 bytes");
            seen.insert(u32::from_be_bytes(number));
        }
        seen.len()
    });
    let any: SocketAddr = match at {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0; 16], 0).into(),
    };
    let source = from
        .namespace()
        .enter(move || UdpSocket::bind(any))
        .expect("bound");
    for number in 0..PACKETS {
        let mut packet = [0; 1000];
        packet[..4].copy_from_slice(&number.to_be_bytes());
        source.send_to(&packet, at).expect("sent");
        if number % 10 == 9 {
            sleep(BURST_EVERY).await;
        }
    }
    received.await.expect("ran")
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
    let arrived = paced(&mut a.node, &mut world.r, at_r).await;
    let seen = status(&a.node).await;
    let paced = rekeys(&seen, &world.r.peer) - before;
    println!("{arrived} of {PACKETS} packets arrived, keys replaced {paced} times");
    assert!(paced >= REKEYS, "{seen}");
    assert_eq!(arrived, PACKETS as usize);

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
