//! What goes wrong says so: each failure is a typed error, in bounded time, and leaves
//! the node working.

mod common;

use std::{net::Ipv4Addr, time::Duration};

use anyhop::{
    Config, DialError, ErrorKind, Keypair, Message, MessageError, NoRouteReason, Node, PeerAddr,
    RelayConfig, Strangers, StreamError,
};
use anyhop_lab::nat::NatConfig;
use common::{World, attached, config, eventually, exchange, link, start};

#[tokio::test(start_paused = true)]
async fn dialling_a_wrong_peer_id_names_who_answered() {
    let world = World::new(1).await;
    let host = world.net.public_host("a", Ipv4Addr::new(203, 0, 113, 2));
    let a = start(&host, config()).await;
    let wanted = Keypair::generate_ed25519().public().to_peer_id();
    a.add_address(&PeerAddr::at(wanted, world.bootstrap().addr).unwrap());
    match a.connect(wanted).await {
        Err(DialError::WrongPeer {
            expected, actual, ..
        }) => {
            assert_eq!((expected, actual), (wanted, world.relay.peer_id()));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_peer_and_oneself_are_told_apart() {
    let mut world = World::new(2).await;
    let a = world.natted("a", NatConfig::symmetric()).await;
    attached(&a.node).await;
    let nobody = Keypair::generate_ed25519().public().to_peer_id();
    let unknown = a.node.connect(nobody).await.unwrap_err();
    assert!(
        matches!(
            unknown,
            DialError::NoRoute {
                asked: 1,
                reached: 1,
                reason: NoRouteReason::Exhausted,
                ..
            }
        ),
        "{unknown:?}"
    );
    let myself = a.node.connect(a.node.peer_id()).await.unwrap_err();
    assert_eq!(myself.kind(), ErrorKind::InvalidInput);
}

#[tokio::test(start_paused = true)]
async fn an_oversize_message_is_refused_by_the_sender() {
    let mut world = World::new(3).await;
    let a = world.natted("a", NatConfig::symmetric()).await;
    attached(&a.node).await;
    let relay = world.relay.peer_id();
    let big = Message::binary("blob", vec![0; (16 << 20) + 1]);
    match a.node.send(relay, big).await {
        Err(MessageError::TooLarge { size, limit, whose }) => {
            assert_eq!(
                (size, limit, whose),
                ((16 << 20) + 1, 16 << 20, "this node's")
            );
        }
        other => panic!("{other:?}"),
    }
    exchange(&a.node, &world.relay, "still works").await;
}

#[tokio::test(start_paused = true)]
async fn the_peers_smaller_limit_and_its_full_inbox_are_reported() {
    let mut small = config();
    small.max_message_size = 1000;
    small.limits.max_inbox_messages = 2;
    let mut world = World::with_relay(4, small).await;
    let a = world.natted("a", NatConfig::symmetric()).await;
    attached(&a.node).await;
    let relay = world.relay.peer_id();
    let error = a
        .node
        .send(relay, Message::binary("blob", vec![0; 500_000]))
        .await;
    assert!(
        matches!(
            error,
            Err(MessageError::TooLarge {
                limit: 1000,
                whose: "the peer's",
                ..
            })
        ),
        "{error:?}"
    );
    a.node.send(relay, Message::text("one")).await.unwrap();
    a.node.send(relay, Message::text("two")).await.unwrap();
    let error = a.node.send(relay, Message::text("three")).await;
    assert!(
        matches!(error, Err(MessageError::InboxFull(_))),
        "{error:?}"
    );
    assert_eq!(
        world.relay.recv().await.unwrap().message,
        Message::text("one")
    );
    a.node.send(relay, Message::text("four")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unknown_protocol_is_an_error_on_the_stream_only() {
    let mut world = World::new(5).await;
    let a = world.natted("a", NatConfig::symmetric()).await;
    attached(&a.node).await;
    let (mut send, mut recv) = a
        .node
        .open_bi(world.relay.peer_id(), "nope/1")
        .await
        .unwrap();
    send.write_all(b"hello?").await.unwrap();
    let error = recv.read(&mut [0; 8]).await.unwrap_err();
    assert!(
        matches!(&error, StreamError::UnknownProtocol { protocol, .. } if protocol.ends_with("nope/1")),
        "{error:?}"
    );
    exchange(&a.node, &world.relay, "still works").await;
}

#[tokio::test(start_paused = true)]
async fn requests_are_answered_refused_or_time_out() {
    let mut world = World::new(6).await;
    let a = world.natted("a", NatConfig::symmetric()).await;
    attached(&a.node).await;
    let relay = world.relay.clone();
    let answering = tokio::spawn(async move {
        let first = relay.recv().await.unwrap();
        let echo = first.message.clone();
        first.reply.unwrap().reply(echo).await.unwrap();
        drop(relay.recv().await.unwrap());
        relay.recv().await.unwrap()
    });
    let (to, second) = (world.relay.peer_id(), Duration::from_secs(1));
    let reply = a
        .node
        .request(to, Message::text("a"), second)
        .await
        .unwrap();
    assert_eq!(reply, Message::text("a"));
    let dropped = a.node.request(to, Message::text("b"), second).await;
    assert!(
        matches!(dropped, Err(MessageError::NoResponder { .. })),
        "{dropped:?}"
    );
    let silent = a.node.request(to, Message::text("c"), second).await;
    assert!(
        matches!(silent, Err(MessageError::Timeout { .. })),
        "{silent:?}"
    );
    let unanswered = answering.await.unwrap();
    // The requester's goodbye takes a moment to arrive.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(
        unanswered
            .reply
            .unwrap()
            .reply(Message::text("late"))
            .await
            .is_err()
    );
}

/// Three nodes with symmetric NATs behind a relay of one circuit.
#[tokio::test(start_paused = true)]
async fn a_full_relay_says_so_and_frees_its_place() {
    let relay = Config {
        relay: RelayConfig {
            max_circuits: 1,
            ..RelayConfig::default()
        },
        ..config()
    };
    let mut world = World::with_relay(7, relay).await;
    let s = world.natted("s", NatConfig::symmetric()).await;
    let t = world.natted("t", NatConfig::symmetric()).await;
    let u = world.natted("u", NatConfig::symmetric()).await;
    for node in [&s.node, &t.node, &u.node] {
        attached(node).await;
    }
    exchange(&s.node, &t.node, "takes the place").await;
    let error = u.node.connect(t.node.peer_id()).await.unwrap_err();
    assert!(error.to_string().contains("limit of circuits"), "{error}");
    s.node.connect(t.node.peer_id()).await.unwrap().close();
    eventually("place freed", Duration::from_secs(5), || {
        world.relay.status().relay.circuits == 0
    })
    .await;
    exchange(&u.node, &t.node, "now it goes").await;
}

#[tokio::test(start_paused = true)]
async fn a_node_told_not_to_relay_refuses_and_is_no_attachment() {
    let relay = Config {
        relay: RelayConfig {
            enabled: false,
            ..RelayConfig::default()
        },
        ..config()
    };
    let mut world = World::with_relay(8, relay).await;
    let s = world.natted("s", NatConfig::symmetric()).await;
    let t = world.natted("t", NatConfig::symmetric()).await;
    eventually("both connected", Duration::from_secs(5), || {
        world.relay.sessions().len() == 2
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(s.node.status().attachments.is_empty());
    let error = s.node.connect(t.node.peer_id()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_killed_relay_is_an_error_in_bounded_time_and_its_return_repairs() {
    let mut world = World::new(9).await;
    let s = world.natted("s", NatConfig::symmetric()).await;
    let t = world.natted("t", NatConfig::symmetric()).await;
    attached(&s.node).await;
    attached(&t.node).await;
    exchange(&s.node, &t.node, "over the relay").await;
    world.net.cut(&world.relay_host);
    let error = s
        .node
        .ping(t.node.peer_id(), Duration::from_secs(5))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(
        error
            .to_string()
            .contains(&world.relay.peer_id().to_string()),
        "{error}"
    );
    eventually("session ended", Duration::from_secs(40), || {
        s.node.session_info(t.node.peer_id()).is_none()
    })
    .await;
    let error = s.node.connect(t.node.peer_id()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    world.net.restore(&world.relay_host);
    eventually("attached again", Duration::from_secs(90), || {
        !s.node.status().attachments.is_empty() && !t.node.status().attachments.is_empty()
    })
    .await;
    exchange(&s.node, &t.node, "back again").await;
}

#[tokio::test(start_paused = true)]
async fn the_session_limit_is_kept_and_told() {
    let mut limited = config();
    limited.limits.max_sessions = 1;
    let mut world = World::with_relay(10, limited).await;
    let a = world.natted("a", NatConfig::symmetric()).await;
    attached(&a.node).await;
    let host = world
        .net
        .public_host("b", Ipv4Addr::new(203, 0, 113, 9))
        .with_link(link(5));
    let b = start(&host, config()).await;
    b.add_address(&world.bootstrap());
    let outcome = match b.connect(world.relay.peer_id()).await {
        Err(e) => e.to_string(),
        // The refusal may come right after the handshake.
        Ok(session) => session.closed().await,
    };
    assert!(outcome.contains("limit of sessions"), "{outcome}");
    exchange(&a.node, &world.relay, "unharmed").await;
}

/// Two nodes with symmetric NATs behind a relay that knows one of them.
#[tokio::test(start_paused = true)]
async fn a_relay_that_refuses_strangers_serves_those_it_knows() {
    let key = Keypair::generate_ed25519();
    let relay = Config {
        relay: RelayConfig {
            known: vec![key.public().to_peer_id()],
            strangers: Strangers::Refused,
            ..RelayConfig::default()
        },
        ..config()
    };
    let mut world = World::with_relay(11, relay).await;
    let stranger = world.natted("stranger", NatConfig::symmetric()).await;
    let nat = Ipv4Addr::new(198, 51, 100, 99);
    let nat = world.net.nat("nat-known", nat, NatConfig::symmetric());
    let inside = Ipv4Addr::new(10, 0, 99, 2);
    let host = world.net.host_behind(nat, "known", inside);
    let bootstrap = vec![world.bootstrap()];
    let of_known = Config {
        bootstrap,
        ..config()
    };
    let known = Node::start_on(host.host(), key, of_known).await.unwrap();
    attached(&known).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(stranger.node.status().attachments.is_empty());
    let error = stranger.node.connect(known.peer_id()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("does not relay"), "{error}");
    exchange(&known, &stranger.node, "over its relay").await;
}
