//! Two nodes behind NATs meet over a third, go direct, and fall back.

mod common;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhop::{Carrier, Config, PathKind, PeerAddr};
use anyhop_lab::{nat::NatConfig, net::VirtualNet};
use common::{PORT, World, attached, eventually, exchange, pattern, receive, selected, send_paced};
use tokio::{io::AsyncReadExt, time::Instant};

#[tokio::test(start_paused = true)]
async fn cone_pair_meets_over_the_relay_and_goes_direct() {
    let mut world = World::new(1).await;
    let a = world.natted("a", NatConfig::port_restricted_cone()).await;
    let b = world.natted("b", NatConfig::port_restricted_cone()).await;
    attached(&a.node).await;
    attached(&b.node).await;
    let (pa, pb) = (a.node.peer_id(), b.node.peer_id());

    exchange(&a.node, &b.node, "over the circuit").await;
    assert_eq!(selected(&a.node, pb), Some(PathKind::Circuit));
    let info = a.node.session_info(pb).unwrap();
    assert_eq!(info.paths[0].via, [world.relay.peer_id().to_string()]);
    let back = b.node.session_info(pa).unwrap();
    assert_eq!(back.paths[0].via, [world.relay.peer_id().to_string()]);

    eventually("direct on both sides", Duration::from_secs(3), || {
        selected(&a.node, pb) == Some(PathKind::Direct)
            && selected(&b.node, pa) == Some(PathKind::Direct)
    })
    .await;
    exchange(&b.node, &a.node, "direct").await;
    let pong = a.node.ping(pb, Duration::from_secs(2)).await.unwrap();
    assert_eq!((pong.kind, pong.hops), (PathKind::Direct, 1));
    assert_eq!(a.node.sessions().len(), 2, "one session with each peer");
}

#[tokio::test(start_paused = true)]
async fn symmetric_pair_stays_on_its_circuit() {
    let mut world = World::new(2).await;
    let s = world.natted("s", NatConfig::symmetric()).await;
    let t = world.natted("t", NatConfig::symmetric()).await;
    attached(&s.node).await;
    attached(&t.node).await;
    exchange(&s.node, &t.node, "hello").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    exchange(&t.node, &s.node, "still there").await;
    assert_eq!(selected(&s.node, t.node.peer_id()), Some(PathKind::Circuit));
    world.net.trace().assert_no_direct(&s.host, &t.host);
    let pong = s.node.ping(t.node.peer_id(), Duration::from_secs(2)).await;
    assert_eq!(pong.unwrap().hops, 2);
    assert_eq!(world.relay.status().relay.circuits, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_survives_the_move_to_direct_and_the_fall_back() {
    let mut world = World::new(3).await;
    let a = world.natted("a", NatConfig::port_restricted_cone()).await;
    let b = world.natted("b", NatConfig::port_restricted_cone()).await;
    attached(&a.node).await;
    attached(&b.node).await;
    let pb = b.node.peer_id();
    let received = receive(&b.node);
    let sender = {
        let node = a.node.clone();
        tokio::spawn(async move { send_paced(&node, pb, 20).await })
    };
    eventually("direct", Duration::from_secs(5), || {
        selected(&a.node, pb) == Some(PathKind::Direct)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.block(&a, &b);
    let cut = Instant::now();
    eventually("back on the circuit", Duration::from_secs(2), || {
        selected(&a.node, pb) == Some(PathKind::Circuit)
    })
    .await;
    println!("fell back after {:?}", cut.elapsed());
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.unblock(&a, &b);
    eventually("direct again", Duration::from_secs(10), || {
        selected(&a.node, pb) == Some(PathKind::Direct)
    })
    .await;
    let sent = sender.await.unwrap();
    let (total, stall) = received.await.unwrap();
    assert_eq!(total, sent);
    println!("longest stall {stall:?}");
    assert!(stall < Duration::from_secs(2), "stalled for {stall:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_notices_and_falls_back_too() {
    let mut world = World::new(4).await;
    let a = world.natted("a", NatConfig::port_restricted_cone()).await;
    let b = world.natted("b", NatConfig::port_restricted_cone()).await;
    attached(&a.node).await;
    attached(&b.node).await;
    let pb = b.node.peer_id();
    exchange(&a.node, &b.node, "hello").await;
    eventually("direct", Duration::from_secs(5), || {
        selected(&a.node, pb) == Some(PathKind::Direct)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    world.block(&a, &b);
    let cut = Instant::now();
    exchange(&a.node, &b.node, "after the cut").await;
    let took = cut.elapsed();
    assert!(took < Duration::from_secs(3), "took {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_circuit_whose_relay_dies_is_replaced_over_another_relay() {
    let mut world = World::new(6).await;
    let other_host = world
        .net
        .public_host("relay2", std::net::Ipv4Addr::new(203, 0, 113, 2));
    let other = common::start(&other_host, common::config()).await;
    let second = PeerAddr::new(other.peer_id(), (other_host.ip(), common::PORT).into()).unwrap();
    let config = anyhop::Config {
        bootstrap: vec![world.bootstrap(), second],
        ..common::config()
    };
    let nat = NatConfig::symmetric;
    let s = world.natted_with("s", nat(), config.clone()).await;
    let t = world.natted_with("t", nat(), config).await;
    eventually("both attached twice", Duration::from_secs(10), || {
        s.node.status().attachments.len() == 2 && t.node.status().attachments.len() == 2
    })
    .await;
    let pt = t.node.peer_id();
    let received = receive(&t.node);
    let sender = {
        let node = s.node.clone();
        tokio::spawn(async move { send_paced(&node, pt, 15).await })
    };
    tokio::time::sleep(Duration::from_secs(4)).await;
    let via = s.node.session_info(pt).unwrap().paths[0].via[0].clone();
    let host = if via == other.peer_id().to_string() {
        &other_host
    } else {
        &world.relay_host
    };
    world.net.cut(host);
    eventually("over the other relay", Duration::from_secs(3), || {
        let info = s.node.session_info(pt).unwrap();
        info.paths.first().is_some_and(|p| p.via[0] != via)
    })
    .await;
    let sent = sender.await.unwrap();
    let (total, stall) = received.await.unwrap();
    assert_eq!(total, sent);
    println!("longest stall {stall:?}");
}

#[tokio::test(start_paused = true)]
async fn a_session_outlives_forty_losses_of_its_direct_path() {
    let mut world = World::new(9).await;
    let a = world.natted("a", NatConfig::port_restricted_cone()).await;
    let b = world.natted("b", NatConfig::port_restricted_cone()).await;
    attached(&a.node).await;
    attached(&b.node).await;
    let pb = b.node.peer_id();
    exchange(&a.node, &b.node, "hello").await;
    let (mut send, mut recv) = {
        b.node
            .handle("echo/1", |incoming| async move {
                let (mut recv, mut send) = (incoming.recv, incoming.send.unwrap());
                let _ = tokio::io::copy(&mut recv, &mut send).await;
            })
            .unwrap();
        a.node.open_bi(pb, "echo/1").await.unwrap()
    };
    for round in 0..40_u8 {
        for kind in [PathKind::Direct, PathKind::Circuit] {
            eventually(
                &format!("{kind:?} in round {round}"),
                Duration::from_secs(20),
                || selected(&a.node, pb) == Some(kind),
            )
            .await;
            send.write_all(&[round; 1000]).await.unwrap();
            let mut back = [0; 1000];
            recv.read_exact(&mut back).await.unwrap();
            assert_eq!(back, [round; 1000]);
            match kind {
                PathKind::Direct => world.block(&a, &b),
                PathKind::Circuit => world.unblock(&a, &b),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_rebooted_nat_gives_new_ports_and_the_stream_goes_on() {
    let mut world = World::new(7).await;
    let a = world.natted("a", NatConfig::port_restricted_cone()).await;
    let s = world.natted("s", NatConfig::symmetric()).await;
    attached(&a.node).await;
    attached(&s.node).await;
    let pa = a.node.peer_id();
    let received = receive(&a.node);
    let sender = {
        let node = s.node.clone();
        tokio::spawn(async move { send_paced(&node, pa, 20).await })
    };
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(4)).await;
        world.net.reset_nat(s.nat);
    }
    let sent = sender.await.unwrap();
    let (total, stall) = received.await.unwrap();
    assert_eq!(total, sent);
    println!("longest stall {stall:?}");
    assert!(stall < Duration::from_secs(5), "stalled for {stall:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_with_ipv4_only_meets_one_with_ipv6_only_over_a_node_with_both() {
    common::trace_to_stderr();
    let net = VirtualNet::new(8);
    let (r4, r6) = (
        Ipv4Addr::new(203, 0, 113, 1),
        "2001:db8::1".parse().unwrap(),
    );
    let relay_host = net.public_host("relay", (r4, r6));
    let both = Config {
        listen: vec![([0, 0, 0, 0], PORT).into(), "[::]:4001".parse().unwrap()],
        ..Config::default()
    };
    let relay = common::start(&relay_host, both).await;
    let at = |ip: IpAddr| PeerAddr::new(relay.peer_id(), (ip, PORT).into()).unwrap();
    let host4 = net.public_host("four", Ipv4Addr::new(203, 0, 113, 4));
    let four = Config {
        bootstrap: vec![at(r4.into())],
        ..common::config()
    };
    let four = common::start(&host4, four).await;
    let host6 = net.public_host("six", "2001:db8::6".parse::<Ipv6Addr>().unwrap());
    let six = Config {
        listen: vec!["[::]:4001".parse().unwrap()],
        bootstrap: vec![at(r6.into())],
        ..Config::default()
    };
    let six = common::start(&host6, six).await;
    attached(&four).await;
    attached(&six).await;
    exchange(&four, &six, "across the families").await;
    exchange(&six, &four, "and back").await;
    let path = four.session_info(six.peer_id()).unwrap().paths[0].clone();
    assert_eq!(
        (path.kind, path.carrier),
        (PathKind::Circuit, Carrier::Udp4)
    );
    let path = six.session_info(four.peer_id()).unwrap().paths[0].clone();
    assert_eq!(
        (path.kind, path.carrier),
        (PathKind::Circuit, Carrier::Udp6)
    );
}

#[tokio::test(start_paused = true)]
async fn bytes_echo_over_the_circuit_with_half_close() {
    let mut world = World::new(5).await;
    let s = world.natted("s", NatConfig::symmetric()).await;
    let a = world.natted("a", NatConfig::port_restricted_cone()).await;
    attached(&s.node).await;
    attached(&a.node).await;
    a.node
        .handle("echo/1", |incoming| async move {
            let mut recv = incoming.recv;
            let mut all = Vec::new();
            recv.read_to_end(&mut all).await.unwrap();
            let mut send = incoming.send.unwrap();
            send.write_all(&all).await.unwrap();
            send.finish().unwrap();
        })
        .unwrap();
    let (mut send, mut recv) = s.node.open_bi(a.node.peer_id(), "echo/1").await.unwrap();
    let data = pattern(0, 3_000_000);
    send.write_all(&data).await.unwrap();
    send.finish().unwrap();
    let mut back = Vec::new();
    recv.read_to_end(&mut back).await.unwrap();
    assert_eq!(back.len(), data.len());
    assert!(back == data);
}
