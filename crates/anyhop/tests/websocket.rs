//! Sessions over WebSockets: where UDP is blocked from the start, for a while, or on one
//! side only, and circuits over them.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{net::Ipv4Addr, time::Duration};

use anyhop::{
    Carrier, Config, Endpoint, Node, PathKind, PeerAddr, PeerId, Technique, WebSocketConfig,
};
use anyhop_lab::nat::NatConfig;
use common::{
    Natted, PORT, World, attached, config, eventually, exchange, link, receive, selected,
    send_paced, start,
};
use tokio::time::{Instant, sleep};

const WSS: u16 = 443;

/// A node that serves WebSockets too.
fn serving() -> Config {
    Config {
        websocket: WebSocketConfig {
            listen: vec![([0, 0, 0, 0], WSS).into()],
            ..WebSocketConfig::default()
        },
        ..config()
    }
}

async fn world(seed: u64) -> World {
    World::with_relay(seed, serving()).await
}

/// The relay's WebSocket.
fn over_websocket(world: &World) -> PeerAddr {
    let addr = (world.relay_host.ip(), WSS).into();
    PeerAddr::at(world.relay.peer_id(), Endpoint::Ws { addr, tls: true }).unwrap()
}

async fn blocked(world: &mut World, name: &str, config: Config) -> Natted {
    let config = Config {
        bootstrap: vec![over_websocket(world)],
        ..config
    };
    let natted = world
        .natted_with(name, NatConfig::port_restricted_cone(), config)
        .await;
    world.net.block_udp(natted.nat);
    natted
}

/// Kind and carrier of the selected path.
fn path(node: &Node, peer: PeerId) -> Option<(PathKind, Carrier)> {
    let info = node.session_info(peer)?;
    let selected = info.paths.iter().find(|p| p.selected);
    selected.map(|p| (p.kind, p.carrier))
}

#[tokio::test(start_paused = true)]
async fn a_websocket_is_told_and_carries_a_session_when_udp_is_blocked() {
    let mut world = world(1).await;
    let told: Vec<_> = world
        .relay
        .addresses()
        .iter()
        .map(ToString::to_string)
        .collect();
    let wss = over_websocket(&world).to_string();
    assert!(told.contains(&wss), "{told:?}");
    let a = blocked(&mut world, "a", config()).await;
    let relay = world.relay.peer_id();
    exchange(&a.node, &world.relay, "over TLS").await;
    exchange(&world.relay, &a.node, "and back").await;
    let info = a.node.session_info(relay).unwrap();
    assert_eq!(info.paths[0].kind, PathKind::Direct);
    assert_eq!(info.paths[0].carrier, Carrier::Ws);
    assert_eq!(info.paths[0].remote, "203.0.113.1:443");
    let pong = a.node.ping(relay, Duration::from_secs(2)).await.unwrap();
    assert_eq!(pong.hops, 1);
    // What the relay sees of it is an address of its own making, and nobody's business.
    assert_eq!(a.node.status().observed_addresses, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn where_udp_gets_no_answer_the_dial_is_over_a_websocket_within_a_second() {
    let mut world = world(2).await;
    let nat = NatConfig::port_restricted_cone();
    let a = world.natted_with("a", nat, config()).await;
    world.net.block_udp(a.nat);
    a.node.add_address(&world.bootstrap());
    a.node.add_address(&over_websocket(&world));
    let begin = Instant::now();
    a.node.connect(world.relay.peer_id()).await.unwrap();
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    let tried = a.node.attempts(world.relay.peer_id());
    let techniques: Vec<_> = tried.iter().map(|t| t.technique).collect();
    assert!(techniques.contains(&Technique::WebSocket), "{techniques:?}");
}

/// A session between two nodes of which one serves WebSockets, while UDP between them is
/// blocked for some time.
async fn blocked_mid_transfer(world: &mut World, from_client: bool) {
    let a = world.natted("a", NatConfig::port_restricted_cone()).await;
    attached(&a.node).await;
    let relay = world.relay.peer_id();
    let (from, to) = if from_client {
        (&a.node, &world.relay)
    } else {
        (&world.relay, &a.node)
    };
    let received = receive(to);
    let sender = {
        let (from, to) = (from.clone(), to.peer_id());
        tokio::spawn(async move { send_paced(&from, to, 40).await })
    };
    sleep(Duration::from_secs(3)).await;
    assert_eq!(
        path(&a.node, relay),
        Some((PathKind::Direct, Carrier::Udp4))
    );
    world.net.block_udp(a.nat);
    let cut = Instant::now();
    eventually("on the WebSocket", Duration::from_secs(3), || {
        path(&a.node, relay) == Some((PathKind::Direct, Carrier::Ws))
    })
    .await;
    println!("on the WebSocket after {:?}", cut.elapsed());
    sleep(Duration::from_secs(6)).await;
    world.net.unblock_udp(a.nat);
    let back = Instant::now();
    eventually("on UDP again", Duration::from_secs(30), || {
        path(&a.node, relay) == Some((PathKind::Direct, Carrier::Udp4))
    })
    .await;
    println!("on UDP again after {:?}", back.elapsed());
    let sent = sender.await.unwrap();
    let (total, stall) = received.await.unwrap();
    assert_eq!(total, sent);
    println!("longest stall {stall:?}");
    assert!(stall < Duration::from_secs(3), "stalled for {stall:?}");
    assert_eq!(a.node.sessions().len(), 1, "one session all the time");
    eventually("the WebSocket is closed", Duration::from_secs(45), || {
        a.node.session_info(relay).unwrap().paths.len() == 1
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_sending_session_moves_to_a_websocket_when_udp_is_blocked_and_back() {
    let mut world = world(3).await;
    blocked_mid_transfer(&mut world, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_receiving_session_moves_to_a_websocket_when_udp_is_blocked_and_back() {
    let mut world = world(4).await;
    blocked_mid_transfer(&mut world, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_websocket_is_dialled_by_the_side_that_can_when_only_the_other_serves_one() {
    let mut world = World::new(5).await;
    let a = world.natted("a", NatConfig::port_restricted_cone()).await;
    let public = world
        .net
        .public_host("p", Ipv4Addr::new(203, 0, 113, 7))
        .with_link(link(5));
    // It knows A over the relay only, and does not relay, so that nobody attaches to it: it
    // is the one who dials.
    let mut known = Config {
        bootstrap: vec![world.bootstrap()],
        ..serving()
    };
    known.relay.enabled = false;
    let p = start(&public, known).await;
    attached(&a.node).await;
    attached(&p).await;
    exchange(&p, &a.node, "hello").await;
    let (pa, pp) = (a.node.peer_id(), p.peer_id());
    assert_eq!(p.session_info(pa).unwrap().dialer, "us");
    eventually("direct", Duration::from_secs(5), || {
        selected(&p, pa) == Some(PathKind::Direct)
    })
    .await;
    // Nothing of A's gets out over UDP any more, not even to the relay.
    world.net.block_udp(a.nat);
    eventually("on a WebSocket", Duration::from_secs(15), || {
        path(&p, pa) == Some((PathKind::Direct, Carrier::Ws))
            && path(&a.node, pp) == Some((PathKind::Direct, Carrier::Ws))
    })
    .await;
    exchange(&a.node, &p, "still there").await;
    assert_eq!(p.session_info(pa).unwrap().dialer, "us", "the same session");
}

#[tokio::test(start_paused = true)]
async fn two_nodes_without_udp_meet_over_a_relays_websocket() {
    let mut world = world(6).await;
    let a = blocked(&mut world, "a", config()).await;
    let b = blocked(&mut world, "b", config()).await;
    attached(&a.node).await;
    attached(&b.node).await;
    let received = receive(&b.node);
    let begin = Instant::now();
    exchange(&a.node, &b.node, "hello").await;
    assert!(begin.elapsed() < Duration::from_secs(1));
    let sent = send_paced(&a.node, b.node.peer_id(), 5).await;
    assert_eq!(received.await.unwrap().0, sent);
    let info = a.node.session_info(b.node.peer_id()).unwrap();
    assert_eq!(info.paths[0].kind, PathKind::Circuit);
    assert_eq!(info.paths[0].carrier, Carrier::Ws, "its first hop");
    assert_eq!(info.paths[0].remote, "203.0.113.1:443");
}

#[tokio::test(start_paused = true)]
async fn a_circuit_crosses_from_udp_to_a_websocket_and_back() {
    let mut world = world(7).await;
    let a = blocked(&mut world, "a", config()).await;
    let b = world.natted("b", NatConfig::symmetric()).await;
    attached(&a.node).await;
    attached(&b.node).await;
    exchange(&a.node, &b.node, "to UDP").await;
    exchange(&b.node, &a.node, "to the WebSocket").await;
    let received = receive(&a.node);
    let sent = send_paced(&b.node, a.node.peer_id(), 5).await;
    assert_eq!(received.await.unwrap().0, sent);
    assert_eq!(selected(&b.node, a.node.peer_id()), Some(PathKind::Circuit));
    assert!(world.relay.status().relay.forwarded_bytes > sent);
}

#[tokio::test(start_paused = true)]
async fn circuits_go_on_when_the_link_under_them_moves_to_a_websocket() {
    let mut world = world(8).await;
    let a = world.natted("a", NatConfig::symmetric()).await;
    let b = world.natted("b", NatConfig::symmetric()).await;
    attached(&a.node).await;
    attached(&b.node).await;
    let received = receive(&b.node);
    let sender = {
        let (node, pb) = (a.node.clone(), b.node.peer_id());
        tokio::spawn(async move { send_paced(&node, pb, 15).await })
    };
    sleep(Duration::from_secs(3)).await;
    world.net.block_udp(a.nat);
    let sent = sender.await.unwrap();
    let (total, stall) = received.await.unwrap();
    assert_eq!(total, sent);
    println!("longest stall {stall:?}");
    assert!(stall < Duration::from_secs(4), "stalled for {stall:?}");
    let relay = world.relay.peer_id();
    assert_eq!(path(&a.node, relay), Some((PathKind::Direct, Carrier::Ws)));
}

#[tokio::test(start_paused = true)]
async fn who_has_no_udp_reaches_a_peer_at_a_relay_it_never_heard_of() {
    let mut world = world(9).await;
    // Knows everybody's record, and carries nothing.
    let host = world
        .net
        .public_host("r2", Ipv4Addr::new(203, 0, 113, 2))
        .with_link(link(5));
    let mut knowing = serving();
    knowing.relay.enabled = false;
    let knowing = start(&host, knowing).await;
    let at = |tls| {
        let addr = (host.ip(), if tls { WSS } else { PORT }).into();
        let endpoint = if tls {
            Endpoint::Ws { addr, tls }
        } else {
            Endpoint::Udp(addr)
        };
        PeerAddr::at(knowing.peer_id(), endpoint).unwrap()
    };
    let b = world.natted("b", NatConfig::symmetric()).await;
    attached(&b.node).await;
    b.node.add_address(&at(false));
    b.node.connect(knowing.peer_id()).await.unwrap();
    let config = Config {
        bootstrap: vec![at(true)],
        ..config()
    };
    let a = world.natted_with("a", NatConfig::symmetric(), config).await;
    world.net.block_udp(a.nat);
    // B's record tells where its relay serves a WebSocket.
    exchange(&a.node, &b.node, "hello").await;
    let info = a.node.session_info(b.node.peer_id()).unwrap();
    assert_eq!(info.paths[0].via, [world.relay.peer_id().to_string()]);
    assert_eq!(info.paths[0].remote, "203.0.113.1:443");
}

#[tokio::test(start_paused = true)]
async fn udp_that_is_back_is_found_when_the_websocket_dies_at_that_moment() {
    let mut world = world(10).await;
    let a = world.natted("a", NatConfig::port_restricted_cone()).await;
    attached(&a.node).await;
    let relay = world.relay.peer_id();
    let received = receive(&world.relay);
    let sender = {
        let node = a.node.clone();
        tokio::spawn(async move { send_paced(&node, relay, 20).await })
    };
    sleep(Duration::from_secs(2)).await;
    world.net.block_udp(a.nat);
    eventually("on the WebSocket", Duration::from_secs(3), || {
        path(&a.node, relay) == Some((PathKind::Direct, Carrier::Ws))
    })
    .await;
    sleep(Duration::from_secs(3)).await;
    // Nothing is left to agree on a punch over.
    world.net.unblock_udp(a.nat);
    world.net.block_tcp(a.nat);
    eventually("on UDP", Duration::from_secs(6), || {
        path(&a.node, relay) == Some((PathKind::Direct, Carrier::Udp4))
    })
    .await;
    let sent = sender.await.unwrap();
    let (total, stall) = received.await.unwrap();
    assert_eq!(total, sent);
    println!("longest stall {stall:?}");
    assert!(stall < Duration::from_secs(4), "stalled for {stall:?}");
    assert_eq!(a.node.sessions().len(), 1);
}
