//! Hosts that move, and NATs that restart, in the middle of a transfer.

use anyhop_lab::{
    nat::Filtering,
    netns::{NatKind, RouterConfig},
};

use crate::{
    turn,
    watched::Watched,
    world::{Behind, World},
};

/// Does everything to `host` that a laptop goes through in a day.
async fn moves(world: &mut World, host: &mut Behind, transfer: &Watched) {
    let spare = host.router.spare_v4().expect("IPv4");
    host.node.namespace().renumber(spare).expect("renumbered");
    transfer.goes_on_after("another address").await;

    host.node.namespace().link_down().expect("down");
    transfer.stands_still().await;
    host.node.namespace().link_up().expect("up");
    transfer.goes_on_after("interface down and up").await;

    let cafe = world.lab.router("cafe", NatKind::PortRestrictedCone);
    let mut cafe = cafe.expect("a router");
    let moved = world.lab.move_host(host.node.namespace(), &mut cafe);
    moved.expect("moved");
    host.router = cafe;
    transfer.goes_on_after("another network").await;

    host.router.reboot().expect("rebooted");
    transfer.goes_on_after("NAT restarted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_survives_what_happens_to_its_sender() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let mut a = world.behind("A", NatKind::PortRestrictedCone).await;
    let b = world.behind("B", NatKind::PortRestrictedCone).await;
    let transfer = Watched::start(&a.node, &b.node).await;
    a.node.selects(&b.node, "direct").await;
    moves(&mut world, &mut a, &transfer).await;
    a.node.selects(&b.node, "direct").await;
    transfer.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_survives_what_happens_to_its_receiver() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let a = world.behind("A", NatKind::PortRestrictedCone).await;
    let mut b = world.behind("B", NatKind::PortRestrictedCone).await;
    let transfer = Watched::start(&a.node, &b.node).await;
    a.node.selects(&b.node, "direct").await;
    moves(&mut world, &mut b, &transfer).await;
    a.node.selects(&b.node, "direct").await;
    transfer.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuit_survives_a_restart_of_symmetric_nats() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let s = world.behind("S", NatKind::SymmetricRandom).await;
    let t = world.behind("T", NatKind::SymmetricRandom).await;
    let transfer = Watched::start(&s.node, &t.node).await;
    s.router.reboot().expect("rebooted");
    transfer.goes_on_after("sender's NAT restarted").await;
    t.router.reboot().expect("rebooted");
    transfer.goes_on_after("receiver's NAT restarted").await;
    transfer.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_is_handed_over_between_families() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let both = RouterConfig {
        v4: Some(NatKind::PortRestrictedCone),
        v6: Some(Filtering::AddressAndPortDependent),
    };
    let mut a = world.behind("A", both).await;
    let b = world.behind("B", both).await;
    let transfer = Watched::start(&a.node, &b.node).await;
    a.node.selects(&b.node, "direct").await;

    a.node.namespace().lose_v4().expect("lost");
    transfer.goes_on_after("IPv4 lost").await;
    a.node.namespace().regain_v4().expect("back");
    transfer.goes_on_after("IPv4 back").await;
    let (six_of_b, r6) = (b.node.v6(), world.r.v6());
    for remote in [six_of_b, r6] {
        a.router.block_udp(remote).expect("blocked");
    }
    transfer.goes_on_after("IPv6 blocked").await;
    transfer.finish().await;
}
