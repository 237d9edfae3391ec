use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhop::net::{DatagramSocket, Transmit};

use super::super::*;
use crate::nat::NatConfig;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn bind(host: &HostHandle) -> Arc<dyn DatagramSocket> {
    let any = "0.0.0.0:4001".parse().expect("an address");
    host.host().bind_udp(any).expect("bound")
}

/// Sends `bytes` from a socket and waits until they are where they go.
async fn send(socket: &dyn DatagramSocket, to: &str, first: u8, bytes: usize) {
    send_now(socket, to, first, bytes);
    tokio::time::sleep(Duration::from_millis(100)).await;
}

fn send_now(socket: &dyn DatagramSocket, to: &str, first: u8, bytes: usize) {
    let mut contents = vec![0; bytes];
    contents[0] = first;
    let transmit = Transmit {
        destination: to.parse().expect("a socket address"),
        ecn: None,
        contents: &contents,
        segment_size: None,
        src_ip: None,
    };
    socket.try_send(&transmit).expect("sent");
}

const QUIC: u8 = 0xc0;
const SESSION: u8 = 0x40;
const PROBE: u8 = 3;

/// Two participants, one of them behind a NAT, and a bystander.
struct World {
    net: VirtualNet,
    public: Arc<dyn DatagramSocket>,
    inside: Arc<dyn DatagramSocket>,
    bystander: Arc<dyn DatagramSocket>,
}

impl World {
    fn new() -> Self {
        let net = VirtualNet::new(1);
        let public = net.public_host("public", ip("198.51.100.1"));
        let nat = net.nat("nat", ip("203.0.113.1"), NatConfig::full_cone());
        let inside = net.host_behind(nat, "inside", ip("10.0.0.2"));
        let bystander = net.bystander(Site::Internet, "bystander", ip("192.0.2.1"));
        Self {
            public: bind(&public),
            inside: bind(&inside),
            bystander: bind(&bystander),
            net,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn participants_their_nats_and_who_spoke_first_are_invited() {
    let world = World::new();
    send(&*world.inside, "198.51.100.1:4001", PROBE, 64).await;
    send(&*world.public, "203.0.113.1:9999", PROBE, 64).await;
    send(&*world.public, "10.0.0.2:4001", PROBE, 64).await;
    send(&*world.bystander, "198.51.100.1:4001", PROBE, 64).await;
    send(&*world.public, "192.0.2.1:4001", PROBE, 64).await;
    send(&*world.inside, "224.0.0.251:5353", PROBE, 64).await;
    send(&*world.inside, "127.0.0.1:1", PROBE, 64).await;
    world.net.assert_no_uninvited();
}

#[tokio::test(start_paused = true)]
async fn packet_to_a_bystander_or_to_nobody_is_uninvited() {
    for (to, who) in [("192.0.2.1:4001", 2), ("192.0.2.99:1", 1)] {
        let world = World::new();
        send(&*world.inside, to, PROBE, 64).await;
        let breaches = world.net.uninvited();
        assert_eq!(breaches.len(), who, "{to}: {breaches:?}");
        assert_eq!(&*breaches[0].host, "inside");
    }
}

#[tokio::test(start_paused = true)]
async fn bystander_with_an_invited_address_is_overheard() {
    let world = World::new();
    let other = world
        .net
        .nat("other", ip("203.0.113.2"), NatConfig::full_cone());
    let a = world.net.host_behind(other, "a", ip("10.0.0.3"));
    let _lan = world.net.bystander(other, "printer", ip("10.0.0.2"));
    send(&*bind(&a), "10.0.0.2:4001", PROBE, 64).await;
    let breaches = world.net.uninvited();
    assert_eq!(breaches.len(), 1);
    assert!(
        breaches[0].what.contains("bystander printer"),
        "{breaches:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn silent_remote_that_spoke_first_gets_three_times_what_it_sent() {
    for (bytes, ok) in [(300, true), (301, false)] {
        let world = World::new();
        send(&*world.inside, "198.51.100.1:4001", QUIC, 100).await;
        send(&*world.public, "203.0.113.1:4001", QUIC, bytes).await;
        assert_eq!(world.net.amplified(3).is_empty(), ok, "{bytes}");
        // What arrives now came after something was sent there.
        send(&*world.inside, "198.51.100.1:4001", QUIC, 1).await;
        let loud = send(&*world.public, "203.0.113.1:4001", QUIC, 1000);
        loud.await;
        assert_eq!(world.net.amplified(3).is_empty(), ok, "it has answered");
    }
}

#[tokio::test(start_paused = true)]
async fn established_session_may_challenge_a_new_address() {
    for (first, ok) in [(SESSION, true), (QUIC, false)] {
        let world = World::new();
        send(&*world.inside, "198.51.100.1:4001", SESSION, 100).await;
        send(&*world.public, "203.0.113.1:4001", first, 1200).await;
        assert_eq!(world.net.amplified(3).is_empty(), ok);
        send(&*world.public, "203.0.113.1:4001", first, 1200).await;
        assert_eq!(world.net.amplified(3).is_empty(), ok);
        send(&*world.public, "203.0.113.1:4001", first, 301).await;
        assert!(!world.net.amplified(3).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn dials_and_probes_of_silent_addresses_have_budgets() {
    let over = |budget: u64, first, to: fn(u64) -> String, later| async move {
        let world = World::new();
        let mut spent = 0;
        for i in 0.. {
            assert!(world.net.amplified(3).is_empty(), "after {spent} bytes");
            if spent + 1000 > budget {
                break;
            }
            send_now(&*world.inside, &to(i), first, 1000);
            spent += 1000;
        }
        // In the next window it would be fine.
        if later {
            tokio::time::sleep(BUDGET_WINDOW).await;
        }
        send_now(&*world.inside, &to(0), first, 1000);
        !world.net.amplified(3).is_empty()
    };
    let one = |_| "198.51.100.1:9".to_owned();
    let many = |i| format!("198.51.100.1:{}", 1000 + i);
    for later in [false, true] {
        assert_eq!(over(FIRST_FLIGHT_BUDGET, QUIC, one, later).await, !later);
        assert_eq!(over(PROBE_BUDGET, PROBE, one, later).await, !later);
        assert_eq!(over(PROBED_HOST_BUDGET, PROBE, many, later).await, !later);
    }
}
