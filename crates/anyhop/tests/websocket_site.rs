//! What is between a node and a WebSocket, and what is around one: proxies, the HTTP site,
//! strangers.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
#[path = "common/proxy.rs"]
mod proxy;

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use anyhop::{
    Carrier, Config, DialError, Endpoint, Node, PeerAddr, Proxies, Proxy, WebSocketConfig,
    WebSocketTls,
    net::{BoxStream, Host},
};
use anyhop_lab::{nat::NatConfig, net::HostHandle};
use common::{World, config, exchange, link};
use proxy::{PROXY_PORT, Policy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

const WS: u16 = 8080;

fn serving(tls: WebSocketTls) -> Config {
    Config {
        websocket: WebSocketConfig {
            listen: vec![([0, 0, 0, 0], WS).into()],
            tls,
            ..WebSocketConfig::default()
        },
        ..config()
    }
}

fn websocket(world: &World, tls: bool) -> PeerAddr {
    let addr = (world.relay_host.ip(), WS).into();
    PeerAddr::at(world.relay.peer_id(), Endpoint::Ws { addr, tls }).unwrap()
}

/// A node that reaches nothing but a proxy, which it was told of as `url`.
async fn behind_proxy(
    world: &mut World,
    policy: Policy,
    url: &str,
) -> (Node, Arc<std::sync::Mutex<proxy::Seen>>) {
    let proxy_host = world
        .net
        .public_host("proxy", Ipv4Addr::new(203, 0, 113, 8))
        .with_link(link(1));
    let seen = proxy::serve(proxy_host.host(), policy);
    let proxy: Proxy = url.parse().unwrap();
    let config = Config {
        websocket: WebSocketConfig {
            proxies: Proxies {
                wss: Some(proxy.clone()),
                ws: Some(proxy),
                exempt: Vec::new(),
            },
            ..WebSocketConfig::default()
        },
        ..config()
    };
    let a = world
        .natted_with("a", NatConfig::port_restricted_cone(), config)
        .await;
    let addr = (proxy_host.ip(), PROXY_PORT).into();
    world.net.proxy_only(a.nat, addr);
    (a.node, seen)
}

#[tokio::test(start_paused = true)]
async fn a_node_that_reaches_only_a_proxy_goes_through_it() {
    for (tls, url, credentials) in [
        (true, "http://203.0.113.8:3128", None),
        (false, "203.0.113.8:3128", None),
        // Base64 of `me:p@ss`.
        (
            true,
            "http://me:p%40ss@203.0.113.8:3128/",
            Some("Basic bWU6cEBzcw=="),
        ),
    ] {
        let kind = if tls {
            WebSocketTls::SelfMade
        } else {
            WebSocketTls::Plain
        };
        let mut world = World::with_relay(1, serving(kind)).await;
        let policy = Policy {
            credentials,
            ..Policy::default()
        };
        let (node, seen) = behind_proxy(&mut world, policy, url).await;
        node.add_address(&websocket(&world, tls));
        exchange(&node, &world.relay, "through the proxy").await;
        let info = node.session_info(world.relay.peer_id()).unwrap();
        assert_eq!(info.paths[0].carrier, Carrier::Ws);
        assert_eq!(info.paths[0].remote, "203.0.113.1:8080", "the peer's own");
        let seen = seen.lock().unwrap();
        assert!(seen.requests[0].starts_with("CONNECT 203.0.113.1:8080 HTTP/1.1\r\n"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_opens_tls_sees_a_websocket_and_nothing_in_it() {
    let mut world = World::with_relay(2, serving(WebSocketTls::SelfMade)).await;
    let policy = Policy {
        intercepts: true,
        ..Policy::default()
    };
    let (node, seen) = behind_proxy(&mut world, policy, "http://203.0.113.8:3128").await;
    node.add_address(&websocket(&world, true));
    exchange(&node, &world.relay, "for the relay's eyes").await;
    let seen = seen.lock().unwrap();
    assert!(
        seen.inside[0].starts_with("GET /anyhop HTTP/1.1\r\n"),
        "{seen:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_refuses_is_named_with_its_reason_and_without_the_password() {
    let mut world = World::with_relay(3, serving(WebSocketTls::SelfMade)).await;
    let policy = Policy {
        credentials: Some("Basic b3RoZXI6cGFzcw=="),
        ..Policy::default()
    };
    let url = "http://me:secret@203.0.113.8:3128";
    let (node, _) = behind_proxy(&mut world, policy, url).await;
    node.add_address(&websocket(&world, true));
    let error = node.connect(world.relay.peer_id()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("http://203.0.113.8:3128"), "{text}");
    assert!(text.contains("407") && !text.contains("secret"), "{text}");
}

async fn connect(from: &HostHandle, world: &World) -> BoxStream {
    let addr = (world.relay_host.ip(), WS).into();
    from.host().connect_tcp(addr).await.unwrap()
}

async fn visitor(world: &World) -> HostHandle {
    world
        .net
        .public_host("visitor", Ipv4Addr::new(203, 0, 113, 9))
        .with_link(link(1))
}

#[tokio::test(start_paused = true)]
async fn everybody_else_sees_an_ordinary_site() {
    let world = World::with_relay(4, serving(WebSocketTls::Plain)).await;
    let host = visitor(&world).await;
    for (request, status, content) in [
        ("GET / HTTP/1.1", "200 OK", "It works"),
        ("GET /anyhop HTTP/1.1", "404 Not Found", "not found"),
        ("HEAD /index.html HTTP/1.0", "200 OK", ""),
        ("DELETE / HTTP/1.1", "405 Method Not Allowed", ""),
        ("nonsense", "400 Bad Request", ""),
    ] {
        let mut stream = connect(&host, &world).await;
        let request = format!("{request}\r\nHost: example.org\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let first = answer.lines().next().unwrap_or_default();
        assert!(first.ends_with(status), "{request}: {first}");
        assert!(answer.contains(content), "{answer}");
        assert!(!answer.to_lowercase().contains("anyhop"), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn silent_slow_and_endless_visitors_are_cut() {
    for tls in [WebSocketTls::Plain, WebSocketTls::SelfMade] {
        let world = World::with_relay(5, serving(tls)).await;
        let host = visitor(&world).await;
        let mut silent = connect(&host, &world).await;
        let cut = timeout(Duration::from_secs(30), silent.read(&mut [0; 64])).await;
        assert!(cut.is_ok(), "a silent visitor is cut");
        let mut slow = connect(&host, &world).await;
        let begin = Instant::now();
        for byte in b"GET / HTTP/1.1\r\nX-Slow: "
            .iter()
            .chain([b'a'].iter().cycle())
        {
            if slow.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(
                begin.elapsed() < Duration::from_secs(70),
                "a slow visitor is cut"
            );
        }
        let mut endless = connect(&host, &world).await;
        let mut sent = 0;
        while endless.write_all(&[b'x'; 1024]).await.is_ok() {
            sent += 1024;
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert!(sent < 4 << 20, "an endless head is cut");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_websocket_without_a_session_is_closed_and_its_frames_reach_nobody() {
    let world = World::with_relay(6, serving(WebSocketTls::Plain)).await;
    let host = visitor(&world).await;
    let mut stream = connect(&host, &world).await;
    let request = "GET /anyhop HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: anyhop.datagrams.v1\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    // A masked frame of a circuit that nobody opened.
    let mut frame = vec![0x82, 0x89, 0, 0, 0, 0];
    frame.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    stream.write_all(&frame).await.unwrap();
    let begin = Instant::now();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
    assert!(text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{text}");
    assert!(answer.ends_with(&[0x88, 0x00]), "it says goodbye");
    assert!(begin.elapsed() < Duration::from_secs(20));
    let dropped = world.relay.status().dropped;
    assert_eq!(dropped[0].reason, "unknown circuit label");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_anyhop_is_told_as_what_it_is() {
    let mut world = World::with_relay(7, serving(WebSocketTls::Plain)).await;
    let a = world
        .natted_with("a", NatConfig::port_restricted_cone(), config())
        .await;
    // TLS towards a plain one, a port where nobody listens, an ordinary web server.
    let web = visitor(&world).await;
    serve_web(&*web.host());
    for (ip, port, tls, why) in [
        (world.relay_host.ip(), WS, true, "TLS with 203.0.113.1:8080"),
        (
            world.relay_host.ip(),
            81,
            false,
            "nothing listens on TCP 203.0.113.1:81",
        ),
        (
            web.ip(),
            80,
            false,
            "a web server without Anyhop's WebSocket",
        ),
    ] {
        let nobody = anyhop::Keypair::generate_ed25519().public().to_peer_id();
        let endpoint = Endpoint::Ws {
            addr: (ip, port).into(),
            tls,
        };
        a.node.add_address(&PeerAddr::at(nobody, endpoint).unwrap());
        let error = a.node.connect(nobody).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    let other = anyhop::Keypair::generate_ed25519().public().to_peer_id();
    let mut wrong = websocket(&world, false);
    wrong.peer = other;
    a.node.add_address(&wrong);
    let error = a.node.connect(other).await.unwrap_err();
    let DialError::WrongPeer { actual, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(actual, world.relay.peer_id());
}

fn serve_web(host: &dyn Host) {
    let listener = host.listen_tcp(([0, 0, 0, 0], 80).into()).unwrap();
    tokio::spawn(async move {
        loop {
            let accepted = std::future::poll_fn(|cx| listener.poll_accept(cx)).await;
            let (mut stream, _) = accepted.unwrap();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
                    .await;
            });
        }
    });
}
