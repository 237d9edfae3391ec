//! Networks that drop all UDP: sessions go over R's WebSocket.

use anyhop_lab::netns::NatKind;

use crate::{
    transfer::{Pace, Transfer},
    turn,
    watched::Watched,
    world::World,
};

const BYTES: u64 = 20_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_without_udp_connect_over_the_relays_websocket() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::with_websockets().await;
    let routers = ["A", "B"].map(|name| {
        let router = world.router(name, NatKind::PortRestrictedCone);
        router.block_all_udp().expect("blocked");
        router
    });
    let [at_a, at_b] = routers;
    let a = world.behind_router("A", at_a).await;
    let b = world.behind_router("B", at_b).await;
    assert_eq!(a.node.pings(&b.node, 2).await, ["circuit"; 2]);
    let path = a.node.selects(&b.node, "circuit").await;
    assert_eq!(path.carrier, "ws");
    assert_eq!(path.via, [world.r.peer.as_str()]);
    let unlimited = Pace {
        bytes_per_s: None,
        gate: u64::MAX,
    };
    for (from, to) in [(&a, &b), (&b, &a)] {
        let transfer = Transfer::start(&from.node, &to.node, BYTES, unlimited).await;
        let speed = transfer.finish().await;
        println!("{BYTES} bytes over two WebSockets, hashes equal, {speed:.1} MB/s");
    }
    let direct = a.node.selects(&world.r, "direct").await;
    assert_eq!(direct.carrier, "ws");
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_goes_on_over_a_websocket_while_udp_is_blocked() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::with_websockets().await;
    let a = world.behind("A", NatKind::PortRestrictedCone).await;
    let b = world.behind("B", NatKind::PortRestrictedCone).await;
    let transfer = Watched::start(&a.node, &b.node).await;
    a.node.selects(&b.node, "direct").await;

    a.router.block_all_udp().expect("blocked");
    transfer.goes_on_after("UDP blocked at the sender").await;
    let over_ws = |path: &crate::node::Selected| path.carrier == "ws";
    a.node
        .selects_such(&b.node, "over a WebSocket", over_ws)
        .await;
    b.router.block_all_udp().expect("blocked");
    transfer.goes_on_after("UDP blocked at both ends").await;

    a.router.unblock_all_udp().expect("unblocked");
    b.router.unblock_all_udp().expect("unblocked");
    transfer.goes_on_after("UDP unblocked").await;
    let over_udp = |path: &crate::node::Selected| path.carrier == "udp4" && path.kind == "direct";
    a.node
        .selects_such(&b.node, "direct over UDP", over_udp)
        .await;
    transfer.goes_on_after("direct again").await;
    transfer.finish().await;
}
