//! Private networks: members with the swarm key connect over everything that carries
//! datagrams; whoever has another key, or none, hears nothing at all.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{net::Ipv4Addr, time::Duration};

use anyhop::{
    Carrier, Config, DialError, Endpoint, Epoch, KeyRing, MadeUnder, Node, PathKind, PeerAddr,
    Standing, SwarmKey, WebSocketConfig, WebSocketTls,
    net::{BoxStream, Host},
};
use anyhop_lab::nat::NatConfig;
use common::{World, attached, config, eventually, exchange, link, selected, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const WS: u16 = 8080;

fn key(epoch: u32) -> SwarmKey {
    SwarmKey::new(Epoch(epoch), [epoch as u8; 32])
}

fn private(ring: KeyRing) -> Config {
    Config {
        swarm: Some(ring),
        ..config()
    }
}

fn with_key(epoch: u32) -> Config {
    private(KeyRing::new(key(epoch)))
}

fn serving(config: Config) -> Config {
    let websocket = WebSocketConfig {
        listen: vec![([0, 0, 0, 0], WS).into()],
        tls: WebSocketTls::Plain,
        ..WebSocketConfig::default()
    };
    Config {
        websocket,
        ..config
    }
}

fn websocket_of(world: &World) -> PeerAddr {
    let addr = (world.relay_host.ip(), WS).into();
    PeerAddr::at(world.relay.peer_id(), Endpoint::Ws { addr, tls: false }).unwrap()
}

fn under(epoch: u32, standing: Standing) -> Option<MadeUnder> {
    let epoch = Epoch(epoch);
    Some(MadeUnder { epoch, standing })
}

/// A node with a public address beside the relay.
async fn public(world: &World, last: u8, config: Config) -> Node {
    let ip = Ipv4Addr::new(203, 0, 113, last);
    let host = world.net.public_host("member", ip).with_link(link(10));
    start(&host, config).await
}

fn failure(error: &DialError) -> String {
    error.to_string()
}

#[tokio::test(start_paused = true)]
async fn members_connect_directly_over_a_circuit_and_over_a_websocket() {
    let mut world = World::with_relay(1, serving(with_key(1))).await;
    let member = Config {
        bootstrap: vec![world.bootstrap()],
        ..with_key(1)
    };
    let cone = NatConfig::port_restricted_cone;
    let a = world.natted_with("a", cone(), member.clone()).await;
    let b = world.natted_with("b", cone(), member).await;
    world.block(&a, &b);
    attached(&a.node).await;
    attached(&b.node).await;
    let (relay, b_id) = (world.relay.peer_id(), b.node.peer_id());
    exchange(&a.node, &b.node, "over a circuit").await;
    assert_eq!(selected(&a.node, b_id), Some(PathKind::Circuit));
    assert_eq!(selected(&a.node, relay), Some(PathKind::Direct));
    world.unblock(&a, &b);
    eventually("direct", Duration::from_secs(120), || {
        selected(&a.node, b_id) == Some(PathKind::Direct)
    })
    .await;
    exchange(&a.node, &b.node, "directly").await;

    let c = public(&world, 9, with_key(1)).await;
    c.add_address(&websocket_of(&world));
    exchange(&c, &world.relay, "over a WebSocket").await;
    let info = c.session_info(relay).unwrap();
    assert_eq!(info.paths[0].carrier, Carrier::Ws);
    assert_eq!(
        c.connect(relay).await.unwrap().made_under(),
        under(1, Standing::Current)
    );
}

#[tokio::test(start_paused = true)]
async fn with_another_key_or_none_nothing_comes_back_and_the_error_says_what_to_check() {
    let world = World::with_relay(2, with_key(1)).await;
    let strangers = [with_key(2), config()];
    for (last, stranger) in (20..).zip(strangers) {
        let private = stranger.swarm.is_some();
        let node = public(&world, last, stranger).await;
        node.add_address(&world.bootstrap());
        let error = node.connect(world.relay.peer_id()).await.unwrap_err();
        let said = failure(&error);
        assert!(said.contains("no answer"), "{said}");
        assert_eq!(
            said.contains("swarm key the one of epoch 2"),
            private,
            "{said}"
        );
    }
    let sent = world.net.trace().sent(&world.relay_host);
    assert_eq!(
        (sent.datagrams, sent.bytes),
        (0, 0),
        "not a byte to strangers"
    );
    let dropped = world.relay.status().dropped;
    let strangers = dropped.iter().find(|d| d.reason.contains("swarm key"));
    assert!(strangers.unwrap().datagrams > 4, "{dropped:?}");
}

#[tokio::test(start_paused = true)]
async fn a_prepared_epoch_is_let_in_and_one_that_is_over_is_known_for_it() {
    let mut ring = KeyRing::new(key(1));
    ring.advance(key(2));
    ring.prepare(key(3));
    let world = World::with_relay(3, private(ring)).await;
    for (last, epoch, standing) in [
        (31, 1, Standing::Over),
        (32, 2, Standing::Current),
        (33, 3, Standing::Next),
    ] {
        let node = public(&world, last, with_key(epoch)).await;
        node.add_address(&world.bootstrap());
        exchange(&node, &world.relay, "hello").await;
        let seen = world.relay.connect(node.peer_id()).await.unwrap();
        assert_eq!(seen.made_under(), under(epoch, standing));
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_replaced_without_dropping_a_session() {
    let world = World::with_relay(4, with_key(1)).await;
    let a = public(&world, 41, with_key(1)).await;
    a.add_address(&world.bootstrap());
    exchange(&a, &world.relay, "under the first key").await;
    let ring = KeyRing::new(key(2));
    world.relay.replace_swarm_keys(&ring).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    exchange(&a, &world.relay, "still there").await;
    let session = a.connect(world.relay.peer_id()).await.unwrap();
    assert_eq!(session.made_under(), under(1, Standing::Current));
    session.close();
    tokio::time::sleep(Duration::from_secs(5)).await;
    a.connect(world.relay.peer_id()).await.unwrap_err();
    a.replace_swarm_keys(&ring).unwrap();
    exchange(&a, &world.relay, "under the second").await;
}

#[tokio::test(start_paused = true)]
async fn whoever_is_shut_out_hears_nothing_though_the_key_is_right() {
    let world = World::with_relay(7, serving(with_key(1))).await;
    let former = public(&world, 71, with_key(1)).await;
    let member = public(&world, 72, with_key(1)).await;
    let id = former.peer_id();
    world.relay.answer_only(move |peer, _| peer != id).unwrap();
    former.add_address(&world.bootstrap());
    former.connect(world.relay.peer_id()).await.unwrap_err();
    let sent = world.net.trace().sent(&world.relay_host);
    assert_eq!((sent.datagrams, sent.bytes), (0, 0));
    former.add_address(&websocket_of(&world));
    let error = former.connect(world.relay.peer_id()).await.unwrap_err();
    assert!(failure(&error).contains("HTTP 404"), "{error}");
    member.add_address(&world.bootstrap());
    exchange(&member, &world.relay, "as ever").await;
}

#[tokio::test(start_paused = true)]
async fn a_public_node_has_no_swarm_keys_to_replace() {
    let world = World::new(5).await;
    let error = world.relay.replace_swarm_keys(&KeyRing::new(key(1)));
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("network main is public")
    );
}

/// Asks the relay's site for the WebSocket; the answer's first line.
async fn ask(world: &World, host: &dyn Host, extra: &str) -> String {
    let addr = (world.relay_host.ip(), WS).into();
    let mut stream: BoxStream = host.connect_tcp(addr).await.unwrap();
    let request = format!(
        "GET /anyhop HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: anyhop.datagrams.v1\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let len = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..len]).into_owned()
}

#[tokio::test(start_paused = true)]
async fn the_site_of_a_private_node_shows_strangers_no_websocket() {
    let world = World::with_relay(6, serving(with_key(1))).await;
    let host = world
        .net
        .public_host("visitor", Ipv4Addr::new(203, 0, 113, 61));
    let host = host.host();
    let other_page = {
        let addr = (world.relay_host.ip(), WS).into();
        let mut stream = host.connect_tcp(addr).await.unwrap();
        let request = b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = vec![0; 4096];
        let len = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..len]).into_owned()
    };
    let undated = |answer: &str| {
        let lines = answer.lines().filter(|l| !l.starts_with("date:"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let pass = "Authorization: Bearer AAECAwQFBgd5C3rtLAkyYOmUWe4\r\n";
    for extra in ["", pass, "Authorization: Bearer x\r\n"] {
        let answer = ask(&world, &*host, extra).await;
        assert_eq!(undated(&answer), undated(&other_page));
    }
    let stranger = public(&world, 62, config()).await;
    stranger.add_address(&websocket_of(&world));
    let error = stranger.connect(world.relay.peer_id()).await.unwrap_err();
    assert!(failure(&error).contains("HTTP 404"), "{error}");
}
