//! TCP over a virtual network, as the hosts of nodes see it.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhop::net::{BoxStream, StreamListener};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, timeout},
};

use super::*;

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("a socket address")
}

async fn accept(listener: &dyn StreamListener) -> (BoxStream, SocketAddr) {
    poll_fn(|cx| listener.poll_accept(cx))
        .await
        .expect("accepted")
}

/// A listening public host, and one behind a NAT. A round trip takes 20 ms.
struct World {
    net: VirtualNet,
    nat: NatId,
    server: HostHandle,
    client: HostHandle,
    listener: Box<dyn StreamListener>,
}

impl World {
    fn new() -> Self {
        Self::behind(NatConfig::port_restricted_cone())
    }

    fn behind(config: NatConfig) -> Self {
        let net = VirtualNet::new(3);
        let server = net.public_host("server", ip("198.51.100.1"));
        let nat = net.nat("nat", ip("203.0.113.1"), config);
        let client = net.host_behind(nat, "client", ip("10.0.0.2"));
        let listener = server.host().listen_tcp(at("0.0.0.0:443"));
        Self {
            listener: listener.expect("listening"),
            net,
            nat,
            server,
            client,
        }
    }

    async fn connect(&self) -> io::Result<BoxStream> {
        self.client.host().connect_tcp(at("198.51.100.1:443")).await
    }

    async fn pair(&self) -> (BoxStream, BoxStream) {
        let client = self.connect().await.expect("connected");
        let (server, from) = accept(&*self.listener).await;
        assert_eq!(from.ip(), ip("203.0.113.1"), "translated");
        (client, server)
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 % 251) as u8).collect()
}

/// Sends `len` bytes one way and checks what arrives, to the end of the stream.
async fn transfer(mut from: BoxStream, mut to: BoxStream, len: usize) {
    let sender = tokio::spawn(async move {
        from.write_all(&pattern(len)).await.expect("written");
        from.shutdown().await.expect("ended");
        from
    });
    let mut got = Vec::new();
    to.read_to_end(&mut got).await.expect("read");
    assert!(got == pattern(len), "{} bytes of {len}", got.len());
    sender.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn connecting_takes_a_round_trip_and_bytes_go_both_ways() {
    let world = World::new();
    let start = Instant::now();
    let mut client = world.connect().await.expect("connected");
    assert_eq!(start.elapsed(), 20 * MS);
    client.write_all(b"hello").await.expect("written");
    let (mut server, _) = accept(&*world.listener).await;
    let mut got = [0; 5];
    server.read_exact(&mut got).await.expect("read");
    assert_eq!((&got, start.elapsed()), (b"hello", 30 * MS));
    server.write_all(b"world").await.expect("written");
    client.read_exact(&mut got).await.expect("read");
    assert_eq!(&got, b"world");
}

#[tokio::test(start_paused = true)]
async fn each_direction_ends_on_its_own() {
    let world = World::new();
    let (mut client, mut server) = world.pair().await;
    client.write_all(b"question").await.expect("written");
    client.shutdown().await.expect("ended");
    let mut got = Vec::new();
    server.read_to_end(&mut got).await.expect("read");
    assert_eq!(got, b"question");
    sleep(SEC).await;
    server.write_all(b"answer").await.expect("still open");
    drop(server);
    got.clear();
    client.read_to_end(&mut got).await.expect("read");
    assert_eq!(got, b"answer");
    drop(client);
    sleep(60 * SEC).await;
    assert!(world.net.lock().conns.is_empty(), "all forgotten");
}

#[tokio::test(start_paused = true)]
async fn loss_and_a_narrow_link_lose_no_byte() {
    let world = World::new();
    let narrow = Link::with_latency(5 * MS).bandwidth(2_000_000, 60_000);
    world.net.set_link(world.nat, narrow.loss(0.03));
    let (client, server) = world.pair().await;
    transfer(client, server, 3_000_000).await;
    let (client, server) = world.pair().await;
    transfer(server, client, 3_000_000).await;
    assert!(world.net.trace().dropped(DropReason::Loss).datagrams > 50);
}

#[tokio::test(start_paused = true)]
async fn cut_way_is_waited_out_with_growing_pauses() {
    let world = World::new();
    let (mut client, mut server) = world.pair().await;
    world.net.cut(&world.server);
    let before = world.net.trace();
    client.write_all(b"late").await.expect("buffered");
    sleep(30 * SEC).await;
    let sent = world.net.trace().since(&before).sent(&world.client);
    assert!((6..12).contains(&sent.datagrams), "{sent}");
    world.net.restore(&world.server);
    let mut got = [0; 4];
    timeout(60 * SEC, server.read_exact(&mut got))
        .await
        .expect("in time")
        .expect("read");
    assert_eq!(&got, b"late");
}

#[tokio::test(start_paused = true)]
async fn nobody_listening_refuses_and_nobody_there_times_out() {
    let world = World::new();
    let host = world.client.host();
    let refused = host.connect_tcp(at("198.51.100.1:80")).await;
    let kind = refused.expect_err("nobody listens").kind();
    assert_eq!(kind, io::ErrorKind::ConnectionRefused);
    let start = Instant::now();
    let silent = host.connect_tcp(at("192.0.2.1:80")).await;
    let kind = silent.expect_err("nobody is there").kind();
    assert_eq!(kind, io::ErrorKind::TimedOut);
    assert_eq!(start.elapsed(), 127 * SEC);
    let no_family = host.connect_tcp(at("[2001:db8::1]:80")).await;
    let kind = no_family.expect_err("no IPv6 here").kind();
    assert_eq!(kind, io::ErrorKind::NetworkUnreachable);
}

#[tokio::test(start_paused = true)]
async fn forgotten_mapping_resets_whoever_speaks() {
    for client_speaks in [true, false] {
        let world = World::behind(NatConfig::symmetric());
        let (mut client, mut server) = world.pair().await;
        world.net.reset_nat(world.nat);
        let speaker = if client_speaks {
            &mut client
        } else {
            &mut server
        };
        speaker.write_all(b"anybody?").await.expect("buffered");
        let end = timeout(SEC, speaker.read_u8()).await.expect("in time");
        let kind = end.expect_err("reset").kind();
        assert_eq!(kind, io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test(start_paused = true)]
async fn udp_and_tcp_have_mappings_of_their_own() {
    let world = World::behind(NatConfig::port_restricted_cone().with_lifetime(30 * SEC));
    let (mut client, mut server) = world.pair().await;
    assert_eq!(world.net.mappings(world.nat), 0, "none for UDP");
    sleep(3600 * SEC).await;
    server.write_all(b"x").await.expect("written");
    assert_eq!(client.read_u8().await.expect("still mapped"), b'x');
}

#[tokio::test(start_paused = true)]
async fn slow_reader_holds_the_writer_back() {
    let world = World::new();
    let (mut client, mut server) = world.pair().await;
    let chunk = vec![1; 100_000];
    let mut written = 0;
    while timeout(SEC, client.write_all(&chunk)).await.is_ok() {
        written += chunk.len() as u64;
    }
    let held = tcp::UNSENT + tcp::RECEIVE_BUFFER;
    assert!(written <= held, "{written} bytes in flight");
    assert!(written > held - 2 * chunk.len() as u64, "{written}");
    let mut sink = vec![0; 900_000];
    server.read_exact(&mut sink).await.expect("read");
    let more = timeout(SEC, client.write_all(&chunk)).await;
    more.expect("room again").expect("written");
}

#[tokio::test(start_paused = true)]
async fn closed_window_is_asked_about_until_it_opens() {
    let world = World::new();
    let (client, mut server) = world.pair().await;
    let len = 2_500_000;
    let sender = tokio::spawn(async move {
        let mut client = client;
        client.write_all(&pattern(len)).await.expect("written");
        client.shutdown().await.expect("ended");
    });
    sleep(30 * SEC).await;
    // What tells that the window has opened is lost.
    world.net.cut(&world.server);
    let mut got = vec![0; 1_000_000];
    server.read_exact(&mut got).await.expect("read");
    sleep(5 * SEC).await;
    world.net.restore(&world.server);
    server.read_to_end(&mut got).await.expect("read");
    assert!(got == pattern(len));
    sender.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn dropped_reader_resets_the_writer() {
    let world = World::new();
    let (mut client, server) = world.pair().await;
    drop(server);
    client.write_all(b"to nobody").await.expect("buffered");
    sleep(SEC).await;
    let kind = client.write_all(b"x").await.expect_err("reset").kind();
    assert_eq!(kind, io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn abandoned_connect_leaves_nothing_behind() {
    let world = World::new();
    let silent = world.client.host().connect_tcp(at("192.0.2.1:80"));
    assert!(timeout(SEC, silent).await.is_err());
    assert!(world.net.lock().conns.is_empty());
}

#[tokio::test(start_paused = true)]
async fn office_lets_out_tcp_to_its_proxy_only() {
    let world = World::new();
    let proxy = at("198.51.100.9:3128");
    let host = world.net.public_host("proxy", ip("198.51.100.9"));
    let listener = host
        .host()
        .listen_tcp(at("0.0.0.0:3128"))
        .expect("listening");
    world.net.proxy_only(world.nat, proxy);
    let direct = timeout(10 * SEC, world.connect()).await;
    assert!(direct.is_err(), "nothing answers");
    let through = world.client.host().connect_tcp(proxy).await;
    let mut through = through.expect("connected");
    through.write_all(b"CONNECT").await.expect("written");
    assert_eq!(
        accept(&*listener).await.0.read_u8().await.expect("read"),
        b'C'
    );
    let datagrams = world
        .client
        .host()
        .bind_udp(at("0.0.0.0:0"))
        .expect("bound");
    datagrams
        .try_send(&anyhop::net::Transmit {
            destination: at("198.51.100.9:3128"),
            ecn: None,
            contents: b"x",
            segment_size: None,
            src_ip: None,
        })
        .expect("sent");
    sleep(SEC).await;
    assert!(world.net.trace().dropped(DropReason::NotTheProxy).datagrams >= 2);
    world.net.open_egress(world.nat);
    assert!(world.connect().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn blocked_tcp_spares_udp_and_listeners_free_their_port() {
    let world = World::new();
    world.net.block_tcp(world.nat);
    assert!(timeout(10 * SEC, world.connect()).await.is_err());
    world.net.unblock_tcp(world.nat);
    assert!(world.connect().await.is_ok());
    let again = || world.server.host().listen_tcp(at("198.51.100.1:443"));
    let kind = again().expect_err("taken").kind();
    assert_eq!(kind, io::ErrorKind::AddrInUse);
    drop(world.listener);
    assert!(again().is_ok());
}

#[tokio::test(start_paused = true)]
async fn accept_queue_is_bounded_and_the_rest_come_later() {
    let world = World::new();
    let connects: Vec<_> = (0..ACCEPT_QUEUE + 20)
        .map(|_| {
            let connecting = world.client.host().connect_tcp(at("198.51.100.1:443"));
            tokio::spawn(connecting)
        })
        .collect();
    sleep(500 * MS).await;
    let dropped = world.net.trace().dropped(DropReason::ReceiveQueueFull);
    assert_eq!(dropped.datagrams, 20);
    for _ in 0..ACCEPT_QUEUE + 20 {
        timeout(5 * SEC, accept(&*world.listener))
            .await
            .expect("the SYN comes again");
    }
    for connect in connects {
        assert!(connect.await.expect("no panic").is_ok());
    }
}
