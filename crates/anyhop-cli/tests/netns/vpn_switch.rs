//! Members on one virtual ethernet switch, some of them over a relay.

use std::{
    fs, io,
    net::{Ipv6Addr, SocketAddrV6, UdpSocket},
    time::Duration,
};

use anyhop_lab::netns::{Namespace, NatKind};
use nix::net::if_::if_nametoindex;
use tokio::time::{Instant, sleep};

use crate::{
    PATIENCE, turn,
    vpn::{host_state, network, own, peer, pings, status, tcp},
    world::World,
};

const INTERFACE: &str = "anyhop-lab";
const UP: &[&str] = &["vpn", "up", "--l2"];
const PORT: u16 = 7200;
/// A multicast group of the link.
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x7a7a);

/// A socket that hears the group on the interface.
fn hears(host: &mut Namespace) -> UdpSocket {
    let made = host.enter(|| -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, PORT, 0, 0))?;
        socket.join_multicast_v6(&GROUP, if_nametoindex(INTERFACE)?)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(socket)
    });
    made.expect("a socket")
}

/// Says something to the group.
fn says(host: &mut Namespace, what: &'static str) {
    let said = host.enter(move || -> io::Result<usize> {
        let scope = if_nametoindex(INTERFACE)?;
        let socket = UdpSocket::bind(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0))?;
        socket.send_to(what.as_bytes(), SocketAddrV6::new(GROUP, PORT, 0, scope))
    });
    said.expect("sent");
}

fn mac(host: &mut Namespace) -> String {
    let path = format!("/sys/class/net/{INTERFACE}/address");
    // What /sys shows belongs to the namespace in which it was mounted.
    let out = host
        .command("ip")
        .args(["-o", "link", "show", INTERFACE])
        .output();
    let out = String::from_utf8(out.expect("ip runs").stdout).expect("text");
    let mac = out
        .split_whitespace()
        .skip_while(|w| *w != "link/ether")
        .nth(1);
    mac.map_or_else(|| fs::read_to_string(path).expect("a file"), str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_on_one_ethernet_segment_over_direct_paths_and_circuits() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let mut a = world.behind("A", NatKind::PortRestrictedCone).await;
    let mut b = world.behind("B", NatKind::PortRestrictedCone).await;
    a.router.block_udp(b.router.wan()).expect("blocked");
    network(&world.r, &[&a.node, &b.node]).await;
    let found = host_state(a.node.namespace());
    for node in [&world.r, &a.node, &b.node] {
        let up = node.json(UP).await;
        assert_eq!(
            (&up["mode"], &up["mtu"]),
            (&"l2".into(), &1406.into()),
            "{up}"
        );
    }
    let other = a.node.try_run(&["vpn", "up"], PATIENCE).await;
    assert_eq!(other.code, Some(6), "another mode: {}", other.stderr);
    let (at_r, at_b) = (status(&world.r).await, status(&b.node).await);
    for ip in own(&at_r).into_iter().chain(own(&at_b)) {
        pings(&mut a.node, ip, 5).await;
    }
    // Who answered was heard, and only where it is.
    let seen = status(&a.node).await;
    for node in [&mut world.r, &mut b.node] {
        let listed = peer(&seen, &node.peer);
        assert_eq!(
            listed["macs"],
            serde_json::json!([mac(node.namespace())]),
            "{seen}"
        );
    }
    assert_eq!(peer(&seen, &b.node.peer)["path"]["kind"], "circuit");
    for ip in own(&at_b) {
        tcp(&mut a.node, &mut b.node, ip).await;
    }
    // Multicast reaches all of them.
    let ears = [hears(world.r.namespace()), hears(b.node.namespace())];
    let deadline = Instant::now() + PATIENCE;
    for ear in &ears {
        let mut heard = [0; 100];
        loop {
            says(a.node.namespace(), "to all");
            if let Ok(len) = tokio::task::block_in_place(|| ear.recv(&mut heard)) {
                assert_eq!(&heard[..len], b"to all");
                break;
            }
            assert!(Instant::now() < deadline, "nobody heard it");
            sleep(Duration::from_millis(50)).await;
        }
    }
    a.node.json(&["vpn", "down"]).await;
    assert_eq!(host_state(a.node.namespace()), found, "after vpn down");
}
