//! Nodes that have no address family in common meet at one that has both.

use anyhop_lab::{
    nat::Filtering,
    netns::{NatKind, RouterConfig},
};

use crate::{
    transfer::{Pace, Transfer},
    turn,
    world::World,
};

const BYTES: u64 = 20_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn node_with_ipv4_only_and_one_with_ipv6_only_connect_over_one_with_both() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let four = world.behind("Four", NatKind::PortRestrictedCone).await;
    let config = RouterConfig {
        v4: None,
        v6: Some(Filtering::AddressAndPortDependent),
    };
    let six = world.behind("Six", config).await;
    let unlimited = Pace {
        bytes_per_s: None,
        gate: u64::MAX,
    };
    for (from, to) in [(&four.node, &six.node), (&six.node, &four.node)] {
        assert_eq!(from.pings(to, 2).await, ["circuit"; 2]);
        from.sends(to, "hello").await;
        let path = from.selects(to, "circuit").await;
        assert_eq!(path.via, [world.r.peer.as_str()]);
        Transfer::start(from, to, BYTES, unlimited)
            .await
            .finish()
            .await;
    }
    let paths = six.node.paths(&four.node).await.expect("a session");
    for path in paths {
        let remote = path["remote"].as_str().expect("an address");
        assert!(!remote.contains("ffff:"), "a mapped address: {remote}");
    }
}
