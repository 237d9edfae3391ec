//! A flow inside of the VPN outlives what happens to the path below.

use anyhop_lab::netns::{Families, NatKind};
use tokio::time::{Duration, Instant, sleep};

use crate::{
    PATIENCE,
    flow::Connection,
    node::Node,
    turn,
    vpn::{joins, own, peer, pings, status},
    world::World,
};

const CREATE: [&str; 7] = [
    "network",
    "create",
    "lab",
    "--listen",
    "0.0.0.0:4002",
    "--listen-ws",
    "0.0.0.0:8443",
];
/// Bytes that have to arrive on each path.
const ON_EACH: u64 = 5_000_000;

/// Waits until packets to a peer go over such a path.
async fn goes_over(from: &Node, to: &Node, kind: &str, carrier: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = status(from).await;
        let path = peer(&seen, &to.peer)["path"].clone();
        if path["kind"] == kind && (kind == "circuit" || path["carrier"] == carrier) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "not {kind} over {carrier}: {path}"
        );
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_flow_outlives_relay_direct_websocket_and_direct_again() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let mut a = world.behind("A", NatKind::PortRestrictedCone).await;
    let host = world.lab.public_host("c", Families::Both).expect("a host");
    let c = world.up("C", host).await;
    world.r.json(&CREATE).await;
    joins(&c, &world.r).await;
    joins(&a.node, &world.r).await;
    for node in [&world.r, &c, &a.node] {
        node.json(&["vpn", "up"]).await;
    }
    let [ip, _] = own(&status(&world.r).await);
    pings(&mut a.node, ip, 3).await;
    let r_wan = world.r.namespace().v4().expect("an address");
    let nft = |rules: String| {
        let mut nft = a.router.namespace().command("nft");
        let done = nft.arg(rules).status().expect("nft runs");
        assert!(done.success());
    };
    // R is the only one that A was told of; seconds later it has to know another.
    a.router.block_udp(r_wan).expect("blocked");
    nft(format!(
        "add table inet notcp; add chain inet notcp f {{ type filter hook forward priority -5; }}; \
         add rule inet notcp f ip daddr {r_wan} meta l4proto tcp drop"
    ));
    let flow = Connection::start(a.node.namespace(), world.r.namespace(), ip);
    goes_over(&a.node, &world.r, "circuit", "").await;
    flow.goes_on(ON_EACH, "relay").await;
    a.router.unblock_udp(r_wan).expect("unblocked");
    goes_over(&a.node, &world.r, "direct", "udp4").await;
    flow.goes_on(ON_EACH, "direct").await;
    nft("delete table inet notcp".to_owned());
    a.router.block_udp(r_wan).expect("blocked");
    goes_over(&a.node, &world.r, "direct", "ws").await;
    flow.goes_on(ON_EACH, "WebSocket").await;
    a.router.unblock_udp(r_wan).expect("unblocked");
    goes_over(&a.node, &world.r, "direct", "udp4").await;
    flow.goes_on(ON_EACH, "direct again").await;
    let [sent, received] = flow.finish().await;
    assert_eq!(sent, received);
}
