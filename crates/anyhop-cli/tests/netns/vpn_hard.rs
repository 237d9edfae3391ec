//! Members behind NATs that are hard to traverse, and on links that are small.

use anyhop_lab::netns::NatKind;
use tokio::time::Instant;

use crate::{
    PATIENCE, turn,
    vpn::{network, own, peer, pings, status, tcp},
    world::World,
};

#[tokio::test(flavor = "multi_thread")]
async fn members_behind_symmetric_nats_and_small_links_reach_each_other() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let mut s = world.behind("S", NatKind::SymmetricRandom).await;
    let mut t = world.behind("T", NatKind::SymmetricRandom).await;
    // A link on which a packet of the interface's MTU has no room.
    let mut ip = s.node.namespace().command("ip");
    let done = ip.args(["link", "set", "eth0", "mtu", "1400"]).status();
    assert!(done.expect("ip runs").success());
    network(&world.r, &[&s.node, &t.node]).await;
    for node in [&world.r, &s.node, &t.node] {
        node.json(&["vpn", "up"]).await;
    }
    let (at_s, at_t) = (status(&s.node).await, status(&t.node).await);
    for ip in own(&at_t) {
        pings(&mut s.node, ip, 3).await;
        tcp(&mut s.node, &mut t.node, ip).await;
    }
    for ip in own(&at_s) {
        tcp(&mut t.node, &mut s.node, ip).await;
    }
    // Once QUIC knows the path, senders are told.
    let deadline = Instant::now() + PATIENCE;
    let [ip, _] = own(&at_t);
    loop {
        tcp(&mut s.node, &mut t.node, ip).await;
        let seen = status(&s.node).await;
        if peer(&seen, &t.node.peer)["drops"]["too_big"].as_u64() > Some(0) {
            break;
        }
        assert!(Instant::now() < deadline, "nobody was told: {seen}");
    }
}
