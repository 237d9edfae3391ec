use std::{
    future::poll_fn,
    io::{self, IoSliceMut},
    net::SocketAddr,
    time::Duration,
};

use anyhop::net::{DatagramSocket, RecvMeta, Transmit};
use tokio::time::{Instant, timeout};

use super::*;

const MS: Duration = Duration::from_millis(1);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("a socket address")
}

/// A socket without a node, to see what the network does.
struct Raw(Arc<dyn DatagramSocket>);

impl Raw {
    fn bind(host: &HostHandle, addr: &str) -> Self {
        Self(host.host().bind_udp(at(addr)).expect("bound"))
    }

    fn send(&self, to: SocketAddr, bytes: &[u8]) {
        self.send_batch(to, bytes, None).expect("sent");
    }

    fn send_ttl(&self, to: SocketAddr, bytes: &[u8], ttl: u8) {
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents: bytes,
            segment_size: None,
            src_ip: None,
        };
        self.0.try_send_ttl(&transmit, ttl).expect("sent");
    }

    fn send_batch(&self, to: SocketAddr, bytes: &[u8], segment: Option<usize>) -> io::Result<()> {
        self.0.try_send(&Transmit {
            destination: to,
            ecn: None,
            contents: bytes,
            segment_size: segment,
            src_ip: None,
        })
    }

    async fn recv_batch(&self) -> (RecvMeta, Vec<u8>) {
        let mut buf = vec![0; 64 << 10];
        let mut meta = [RecvMeta::default()];
        let received = poll_fn(|cx| {
            let mut bufs = [IoSliceMut::new(&mut buf)];
            self.0.poll_recv(cx, &mut bufs, &mut meta)
        });
        assert_eq!(received.await.expect("received"), 1);
        buf.truncate(meta[0].len);
        (meta[0], buf)
    }

    async fn recv(&self) -> (SocketAddr, Vec<u8>) {
        let (meta, bytes) = self.recv_batch().await;
        (meta.addr, bytes)
    }

    async fn hears_nothing(&self) -> bool {
        timeout(10 * Duration::from_secs(1), self.recv())
            .await
            .is_err()
    }
}

/// A public host and one behind a NAT, each with a socket on port 4001.
struct Pair {
    net: VirtualNet,
    nat: NatId,
    public: HostHandle,
    inside: HostHandle,
    public_socket: Raw,
    inside_socket: Raw,
}

impl Pair {
    fn new(config: NatConfig) -> Self {
        let net = VirtualNet::new(1);
        let public = net.public_host("r", ip("198.51.100.1"));
        let nat = net.nat("nat", ip("203.0.113.1"), config);
        let inside = net.host_behind(nat, "a", ip("10.0.0.2"));
        Self {
            public_socket: Raw::bind(&public, "0.0.0.0:4001"),
            inside_socket: Raw::bind(&inside, "0.0.0.0:4001"),
            net,
            nat,
            public,
            inside,
        }
    }

    fn public_at(&self) -> SocketAddr {
        SocketAddr::new(self.public.ip(), 4001)
    }
}

#[tokio::test(start_paused = true)]
async fn round_trip_takes_what_the_links_say() {
    let pair = Pair::new(NatConfig::port_restricted_cone());
    pair.net
        .set_link(pair.nat, Link::with_latency(Duration::from_millis(12)));
    pair.net
        .set_link(&pair.public, Link::with_latency(Duration::from_millis(7)));
    pair.net
        .set_link(&pair.inside, Link::with_latency(Duration::from_millis(3)));

    let start = Instant::now();
    pair.inside_socket.send(pair.public_at(), b"ping");
    let (from, _) = pair.public_socket.recv().await;
    assert_eq!(start.elapsed(), 22 * MS);
    assert_eq!(from, at("203.0.113.1:4001"));
    pair.public_socket.send(from, b"pong");
    let (from, bytes) = pair.inside_socket.recv().await;
    assert_eq!(start.elapsed(), 44 * MS);
    assert_eq!((from, &bytes[..]), (pair.public_at(), &b"pong"[..]));
}

#[tokio::test]
async fn round_trip_takes_no_less_in_real_time() {
    let pair = Pair::new(NatConfig::port_restricted_cone());
    let start = Instant::now();
    pair.inside_socket.send(pair.public_at(), b"ping");
    let (from, _) = pair.public_socket.recv().await;
    pair.public_socket.send(from, b"pong");
    pair.inside_socket.recv().await;
    assert!(start.elapsed() >= 4 * DEFAULT_LATENCY);
}

#[tokio::test(start_paused = true)]
async fn unsolicited_datagram_stops_at_the_nat() {
    let pair = Pair::new(NatConfig::port_restricted_cone());
    pair.public_socket.send(at("203.0.113.1:4001"), b"knock");
    assert!(pair.inside_socket.hears_nothing().await);
    let dropped = pair.net.trace().dropped_from(
        &pair.public,
        DropReason::Nat(crate::nat::NatDrop::NoMapping),
    );
    assert_eq!(dropped.datagrams, 1);
}

#[tokio::test(start_paused = true)]
async fn two_cone_nats_are_punched_by_sending_both_ways() {
    let net = VirtualNet::new(1);
    let sockets = [1u8, 2].map(|i| {
        let nat = net.nat(
            "nat",
            IpAddr::from([203, 0, 113, i]),
            NatConfig::port_restricted_cone(),
        );
        let host = net.host_behind(nat, "host", IpAddr::from([10, 0, i, 2]));
        (Raw::bind(&host, "0.0.0.0:4001"), host)
    });
    let [(a, a_host), (b, b_host)] = sockets;
    a.send(at("203.0.113.2:4001"), b"opens a's NAT, stops at b's");
    tokio::time::sleep(50 * MS).await;
    net.trace().assert_no_direct(&a_host, &b_host);
    b.send(at("203.0.113.1:4001"), b"from b");
    assert_eq!(a.recv().await.0, at("203.0.113.2:4001"));
    a.send(at("203.0.113.2:4001"), b"from a");
    assert_eq!(b.recv().await.1, b"from a");
    assert_eq!(net.trace().between(&a_host, &b_host).datagrams, 2);
}

#[tokio::test(start_paused = true)]
async fn nested_nats_translate_twice() {
    let net = VirtualNet::new(1);
    let public = net.public_host("r", ip("198.51.100.1"));
    let outer = net.nat("cgnat", ip("203.0.113.1"), NatConfig::symmetric());
    let inner = net.nat_behind(outer, "home", ip("100.64.0.2"), NatConfig::full_cone());
    let host = net.host_behind(inner, "a", ip("192.168.1.2"));
    let (r, a) = (
        Raw::bind(&public, "0.0.0.0:1"),
        Raw::bind(&host, "0.0.0.0:2"),
    );
    a.send(at("198.51.100.1:1"), b"out");
    let (from, _) = r.recv().await;
    assert_eq!(from.ip(), ip("203.0.113.1"));
    r.send(from, b"back");
    assert_eq!(a.recv().await, (at("198.51.100.1:1"), b"back".to_vec()));
    assert_eq!((net.mappings(inner), net.mappings(outer)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn hosts_behind_one_nat_reach_each_other_inside_and_by_hairpin() {
    for hairpin in [false, true] {
        let net = VirtualNet::new(1);
        let config = NatConfig {
            hairpin,
            ..NatConfig::full_cone()
        };
        let public = net.public_host("r", ip("198.51.100.1"));
        let nat = net.nat("nat", ip("203.0.113.1"), config);
        let hosts = [2u8, 3].map(|i| net.host_behind(nat, "h", IpAddr::from([10, 0, 0, i])));
        let [a, b] = [0, 1].map(|i| Raw::bind(&hosts[i], "0.0.0.0:4001"));
        a.send(at("10.0.0.3:4001"), b"inside");
        assert_eq!(b.recv().await.0, at("10.0.0.2:4001"));

        let r = Raw::bind(&public, "0.0.0.0:1");
        b.send(at("198.51.100.1:1"), b"makes a mapping");
        let (b_outside, _) = r.recv().await;
        a.send(b_outside, b"around the corner");
        if hairpin {
            assert_eq!(b.recv().await.0.ip(), ip("203.0.113.1"));
        } else {
            assert!(b.hears_nothing().await);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nat_reset_closes_what_was_open() {
    let pair = Pair::new(NatConfig::full_cone());
    pair.inside_socket.send(pair.public_at(), b"ping");
    let (from, _) = pair.public_socket.recv().await;
    pair.net.reset_nat(pair.nat);
    pair.public_socket.send(from, b"pong");
    assert!(pair.inside_socket.hears_nothing().await);
}

#[tokio::test(start_paused = true)]
async fn ipv4_and_ipv6_of_one_host_are_apart() {
    let net = VirtualNet::new(1);
    let dual = |n: u16| {
        let v4 = Ipv4Addr::new(198, 51, 100, u8::try_from(n).expect("small"));
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n);
        net.public_host("dual", (v4, v6))
    };
    let (a, b) = (dual(1), dual(2));
    let a6 = Raw::bind(&a, "[::]:4001");
    let b4 = Raw::bind(&b, "0.0.0.0:4001");
    let b6 = Raw::bind(&b, "[::]:4001");
    a6.send(at("[2001:db8::2]:4001"), b"six");
    assert_eq!(b6.recv().await.0, at("[2001:db8::1]:4001"));
    assert!(b4.hears_nothing().await);
    let wrong = a6.send_batch(at("198.51.100.2:4001"), b"four", None);
    assert!(wrong.is_err());
    let known = a.host().interface_addresses().expect("addresses");
    for expected in ["198.51.100.1", "2001:db8::1", "127.0.0.1", "::1"] {
        assert!(known.contains(&ip(expected)), "{expected}");
    }
}

#[tokio::test(start_paused = true)]
async fn packet_above_the_mtu_is_dropped_and_counted() {
    let pair = Pair::new(NatConfig::full_cone());
    pair.net.set_link(pair.nat, Link::default().mtu(1280));
    pair.inside_socket.send(pair.public_at(), &[0; 1252]);
    assert_eq!(pair.public_socket.recv().await.1.len(), 1252);
    pair.inside_socket.send(pair.public_at(), &[0; 1253]);
    assert!(pair.public_socket.hears_nothing().await);
    assert_eq!(pair.net.trace().dropped(DropReason::TooBig).datagrams, 1);
}

#[tokio::test(start_paused = true)]
async fn loss_hits_about_as_many_as_it_says_and_repeats_under_a_seed() {
    async fn survivors(seed: u64) -> Vec<u8> {
        let net = VirtualNet::new(seed);
        let a = net.public_host("a", ip("198.51.100.1"));
        let b = net
            .public_host("b", ip("198.51.100.2"))
            .with_link(Link::default().loss(0.25));
        let (a, b) = (Raw::bind(&a, "0.0.0.0:1"), Raw::bind(&b, "0.0.0.0:1"));
        let mut seen = Vec::new();
        for i in 0..2000u32 {
            let id = u8::try_from(i % 251).expect("small");
            a.send(at("198.51.100.2:1"), &[id]);
            if let Ok((_, bytes)) = timeout(MS * 100, b.recv()).await {
                seen.push(bytes[0]);
            }
        }
        let lost = net.trace().dropped(DropReason::Loss).datagrams as usize;
        assert_eq!(lost + seen.len(), 2000);
        seen
    }
    let first = survivors(5).await;
    assert!((1400..1600).contains(&first.len()), "{}", first.len());
    assert_eq!(first, survivors(5).await);
    assert_ne!(first, survivors(6).await);
}

#[tokio::test(start_paused = true)]
async fn limited_speed_spaces_datagrams_and_drops_what_its_queue_cannot_hold() {
    let pair = Pair::new(NatConfig::full_cone());
    // One 1000-byte packet each 10 ms, five of them queued.
    let slow = Link::default().bandwidth(100_000, 5000);
    pair.net.set_link(&pair.public, Link::default());
    pair.net.set_link(pair.nat, slow);
    let start = Instant::now();
    for i in 0..8u8 {
        pair.inside_socket.send(pair.public_at(), &[i; 972]);
    }
    for i in 0..5u32 {
        let (_, bytes) = pair.public_socket.recv().await;
        assert_eq!(u32::from(bytes[0]), i);
        assert_eq!(start.elapsed(), (i + 1) * 10 * MS);
    }
    assert!(pair.public_socket.hears_nothing().await);
    let dropped = pair.net.trace().dropped(DropReason::LinkQueueFull);
    assert_eq!(dropped.datagrams, 3);
}

#[tokio::test(start_paused = true)]
async fn batch_is_split_on_the_way_and_joined_at_the_receiver() {
    let pair = Pair::new(NatConfig::full_cone());
    let mut batch = vec![1u8; 1000];
    batch.extend([2; 1000]);
    batch.extend([3; 400]);
    pair.inside_socket
        .send_batch(pair.public_at(), &batch, Some(1000))
        .expect("sent");
    pair.inside_socket.send(pair.public_at(), b"another size");
    tokio::time::sleep(50 * MS).await;
    let (meta, bytes) = pair.public_socket.recv_batch().await;
    assert_eq!((meta.stride, meta.len), (1000, 2400));
    assert_eq!(bytes, batch);
    assert_eq!(pair.public_socket.recv().await.1, b"another size");
    let delivered = pair.net.trace().delivered(&pair.inside, &pair.public);
    assert_eq!((delivered.datagrams, delivered.bytes), (4, 2412));
}

#[tokio::test(start_paused = true)]
async fn transmit_of_too_many_segments_is_refused() {
    let pair = Pair::new(NatConfig::full_cone());
    let allowed = MAX_TRANSMIT_SEGMENTS.get();
    let send = |n: usize| {
        pair.inside_socket
            .send_batch(pair.public_at(), &vec![0; n * 10], Some(10))
    };
    assert!(send(allowed).is_ok());
    assert!(send(allowed + 1).is_err());
}

#[tokio::test(start_paused = true)]
async fn datagrams_of_two_sources_are_not_joined() {
    let net = VirtualNet::new(1);
    let [a, b, c] = [1u8, 2, 3].map(|i| net.public_host("h", IpAddr::from([198, 51, 100, i])));
    let to = Raw::bind(&a, "0.0.0.0:9");
    Raw::bind(&b, "0.0.0.0:9").send(at("198.51.100.1:9"), b"bb");
    Raw::bind(&c, "0.0.0.0:9").send(at("198.51.100.1:9"), b"cc");
    tokio::time::sleep(50 * MS).await;
    assert_eq!(to.recv().await, (at("198.51.100.2:9"), b"bb".to_vec()));
    assert_eq!(to.recv().await, (at("198.51.100.3:9"), b"cc".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn receive_queue_is_bounded() {
    let pair = Pair::new(NatConfig::full_cone());
    for _ in 0..RECEIVE_QUEUE + 7 {
        pair.inside_socket.send(pair.public_at(), b"x");
    }
    tokio::time::sleep(50 * MS).await;
    let dropped = pair.net.trace().dropped(DropReason::ReceiveQueueFull);
    assert_eq!(dropped.datagrams, 7);
}

#[tokio::test(start_paused = true)]
async fn block_between_external_addresses_spares_the_rest() {
    let pair = Pair::new(NatConfig::full_cone());
    let other = pair.net.public_host("o", ip("198.51.100.9"));
    let other_socket = Raw::bind(&other, "0.0.0.0:4001");
    let outside = ip("203.0.113.1");
    pair.net.block(outside, pair.public.ip());
    pair.inside_socket.send(pair.public_at(), b"blocked");
    pair.inside_socket.send(at("198.51.100.9:4001"), b"free");
    assert_eq!(other_socket.recv().await.1, b"free");
    assert!(pair.public_socket.hears_nothing().await);
    pair.public_socket.send(at("203.0.113.1:4001"), b"blocked");
    assert!(pair.inside_socket.hears_nothing().await);
    assert_eq!(pair.net.trace().dropped(DropReason::Blocked).datagrams, 2);

    pair.net.unblock(outside, pair.public.ip());
    pair.inside_socket.send(pair.public_at(), b"free again");
    assert_eq!(pair.public_socket.recv().await.1, b"free again");
}

#[tokio::test(start_paused = true)]
async fn one_way_block_leaves_the_way_back() {
    let pair = Pair::new(NatConfig::full_cone());
    pair.net.block_one_way(&pair.public, &pair.inside);
    pair.inside_socket.send(pair.public_at(), b"gets through");
    let (from, _) = pair.public_socket.recv().await;
    pair.public_socket.send(from, b"does not");
    assert!(pair.inside_socket.hears_nothing().await);
}

#[tokio::test(start_paused = true)]
async fn cut_host_hears_and_says_nothing_until_restored() {
    let pair = Pair::new(NatConfig::full_cone());
    pair.inside_socket.send(pair.public_at(), b"ping");
    let (from, _) = pair.public_socket.recv().await;
    pair.net.cut(&pair.inside);
    pair.public_socket.send(from, b"pong");
    pair.inside_socket.send(pair.public_at(), b"ping");
    assert!(pair.inside_socket.hears_nothing().await);
    assert!(pair.public_socket.hears_nothing().await);
    pair.net.restore(&pair.inside);
    pair.public_socket.send(from, b"pong");
    assert_eq!(pair.inside_socket.recv().await.1, b"pong");
}

#[tokio::test(start_paused = true)]
async fn host_without_udp_sends_none() {
    let pair = Pair::new(NatConfig::full_cone());
    pair.net.block_udp(&pair.inside);
    pair.inside_socket.send(pair.public_at(), b"ping");
    assert!(pair.public_socket.hears_nothing().await);
    pair.net.unblock_udp(&pair.inside);
    pair.inside_socket.send(pair.public_at(), b"ping");
    assert_eq!(pair.public_socket.recv().await.1, b"ping");
}

#[tokio::test(start_paused = true)]
async fn nat_without_udp_passes_none_either_way() {
    let pair = Pair::new(NatConfig::full_cone());
    pair.inside_socket.send(pair.public_at(), b"ping");
    let (from, _) = pair.public_socket.recv().await;
    pair.net.block_udp(pair.nat);
    pair.inside_socket.send(pair.public_at(), b"ping");
    pair.public_socket.send(from, b"pong");
    assert!(pair.inside_socket.hears_nothing().await);
    assert!(pair.public_socket.hears_nothing().await);
    assert_eq!(
        pair.net.trace().dropped(DropReason::UdpBlocked).datagrams,
        2
    );
}

#[tokio::test(start_paused = true)]
async fn lost_family_leaves_the_other() {
    let net = VirtualNet::new(1);
    let dual = |n: u16| {
        let v4 = Ipv4Addr::new(198, 51, 100, u8::try_from(n).expect("small"));
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n);
        net.public_host("dual", (v4, v6))
    };
    let (a, b) = (dual(1), dual(2));
    let (a4, a6) = (Raw::bind(&a, "0.0.0.0:1"), Raw::bind(&a, "[::]:1"));
    let (b4, b6) = (Raw::bind(&b, "0.0.0.0:1"), Raw::bind(&b, "[::]:1"));
    net.block_traffic(&b, Traffic::Ipv4);
    a4.send(at("198.51.100.2:1"), b"four");
    a6.send(at("[2001:db8::2]:1"), b"six");
    assert_eq!(b6.recv().await.1, b"six");
    assert!(b4.hears_nothing().await);
    net.unblock_traffic(&b, Traffic::Ipv4);
    a4.send(at("198.51.100.2:1"), b"four");
    assert_eq!(b4.recv().await.1, b"four");
}

#[tokio::test(start_paused = true)]
async fn short_ttl_opens_the_own_nats_and_dies_before_the_others() {
    let net = VirtualNet::new(1);
    let outer = net.nat("cgnat", ip("203.0.113.1"), NatConfig::carrier_grade());
    let home = NatConfig::port_restricted_cone();
    let inner = net.nat_behind(outer, "home", ip("100.64.0.2"), home.clone());
    let a_host = net.host_behind(inner, "a", ip("192.168.1.2"));
    let nat_b = net.nat("b", ip("203.0.113.2"), home);
    let b_host = net.host_behind(nat_b, "b", ip("192.168.1.2"));
    let a = Raw::bind(&a_host, "0.0.0.0:4001");
    let b = Raw::bind(&b_host, "0.0.0.0:4001");
    let expired = || net.trace().dropped(DropReason::TtlExpired).datagrams;

    // Dies at the first router, which opens nothing; then at the second; then beyond.
    for (ttl, opened) in [
        (1, (0, 0)),
        (2, (1, 0)),
        (3, (1, 1)),
        (2 + INTERNET_HOPS, (1, 1)),
    ] {
        let before = expired();
        a.send_ttl(at("203.0.113.2:4001"), b"opener", ttl);
        tokio::time::sleep(100 * MS).await;
        let mapped = (net.mappings(inner), net.mappings(outer));
        assert_eq!((mapped, expired() - before), (opened, 1), "ttl {ttl}");
    }
    // Beyond the internet it reaches the other NAT, and expires there before it is seen.
    a.send_ttl(at("203.0.113.2:4001"), b"x", 3 + INTERNET_HOPS);
    tokio::time::sleep(100 * MS).await;
    let unseen = net
        .trace()
        .dropped(DropReason::Nat(crate::nat::NatDrop::NoMapping));
    assert_eq!(unseen.datagrams, 0);
    a.send_ttl(at("203.0.113.2:4001"), b"x", 4 + INTERNET_HOPS);
    tokio::time::sleep(100 * MS).await;
    let seen = net
        .trace()
        .dropped(DropReason::Nat(crate::nat::NatDrop::NoMapping));
    assert_eq!(seen.datagrams, 1);
    drop(b);
}

#[tokio::test(start_paused = true)]
async fn renumbered_host_goes_on_with_its_wildcard_socket_and_is_told() {
    let pair = Pair::new(NatConfig::port_restricted_cone());
    let mut changes = pair.inside.host().network_changes().expect("watched");
    let old = Raw::bind(&pair.inside, "10.0.0.2:5000");
    pair.net.renumber(&pair.inside, ip("10.0.0.77"));
    assert!(changes.has_changed().expect("the host lives"));
    changes.mark_unchanged();
    assert_eq!(pair.inside.ip(), ip("10.0.0.77"));
    pair.inside_socket.send(pair.public_at(), b"new");
    let (from, _) = pair.public_socket.recv().await;
    pair.public_socket.send(from, b"back");
    assert_eq!(pair.inside_socket.recv().await.1, b"back");
    let stale = old.send_batch(pair.public_at(), b"x", None);
    let kind = stale.expect_err("its address is gone").kind();
    assert_eq!(kind, io::ErrorKind::AddrNotAvailable);

    pair.net.set_interface(&pair.inside, false);
    assert!(changes.has_changed().expect("the host lives"));
    let down = pair.inside_socket.send_batch(pair.public_at(), b"x", None);
    let kind = down.expect_err("no address").kind();
    assert_eq!(kind, io::ErrorKind::NetworkUnreachable);
    pair.net.set_interface(&pair.inside, true);
    pair.inside_socket.send(pair.public_at(), b"up");
    assert_eq!(pair.public_socket.recv().await.1, b"up");
}

#[tokio::test(start_paused = true)]
async fn moved_host_is_behind_another_nat_and_gone_from_its_first() {
    let pair = Pair::new(NatConfig::full_cone());
    let cafe = pair
        .net
        .nat("cafe", ip("203.0.113.9"), NatConfig::full_cone());
    pair.net.move_host(&pair.inside, cafe, ip("172.16.0.5"));
    assert_eq!(pair.net.gateway(&pair.inside), Some(cafe));
    pair.inside_socket.send(pair.public_at(), b"from the cafe");
    let (from, _) = pair.public_socket.recv().await;
    assert_eq!(from.ip(), ip("203.0.113.9"));
    let other = pair.net.host_behind(pair.nat, "other", ip("10.0.0.2"));
    assert_eq!(other.ip(), ip("10.0.0.2"), "the old address is free");
    pair.net
        .move_host(&pair.inside, Site::Internet, ip("198.51.100.50"));
    pair.inside_socket.send(pair.public_at(), b"on the street");
    assert_eq!(pair.public_socket.recv().await.0.ip(), ip("198.51.100.50"));
}

#[tokio::test(start_paused = true)]
async fn renumbered_nat_shows_another_address_and_forgets() {
    let pair = Pair::new(NatConfig::full_cone());
    pair.inside_socket.send(pair.public_at(), b"ping");
    let (from, _) = pair.public_socket.recv().await;
    pair.net.renumber_nat(pair.nat, ip("203.0.113.200"));
    pair.public_socket.send(from, b"to the old address");
    assert!(pair.inside_socket.hears_nothing().await);
    pair.inside_socket.send(pair.public_at(), b"ping");
    let (from, _) = pair.public_socket.recv().await;
    assert_eq!(from.ip(), ip("203.0.113.200"));
}

#[tokio::test(start_paused = true)]
async fn ipv6_firewall_routes_to_hosts_inside_and_stops_strangers() {
    let net = VirtualNet::new(1);
    let filter = crate::nat::Filtering::AddressAndPortDependent;
    let config = NatConfig::port_restricted_cone().with_ipv6_firewall(filter);
    let (v4, v6) = (
        Ipv4Addr::new(10, 0, 0, 2),
        "2001:db8:1::2".parse().expect("v6"),
    );
    let outer = net.nat("outer", ip("203.0.113.1"), config.clone());
    let inner = net.nat_behind(outer, "inner", ip("100.64.0.2"), config);
    let inside = net.host_behind(inner, "a", (v4, v6));
    let public = net.public_host("r", ip("2001:db8::1"));
    let a = Raw::bind(&inside, "[::]:4001");
    let r = Raw::bind(&public, "[::]:4001");
    r.send(at("[2001:db8:1::2]:4001"), b"stranger");
    assert!(a.hears_nothing().await);
    a.send(at("[2001:db8::1]:4001"), b"hello");
    assert_eq!(r.recv().await.0, at("[2001:db8:1::2]:4001"));
    r.send(at("[2001:db8:1::2]:4001"), b"known");
    assert_eq!(a.recv().await.1, b"known");
}

#[tokio::test(start_paused = true)]
async fn requested_port_mapping_lets_a_stranger_in() {
    let config = NatConfig::symmetric().with_port_mapping(crate::nat::PortMapping::Honest);
    let pair = Pair::new(config);
    let gateway = pair.net.gateway(&pair.inside).expect("behind a NAT");
    let hour = Duration::from_secs(3600);
    let external = pair
        .net
        .map_port(gateway, Transport::Udp, at("10.0.0.2:4001"), 0, hour)
        .expect("mapped");
    pair.public_socket.send(external, b"uninvited");
    assert_eq!(pair.inside_socket.recv().await.1, b"uninvited");
}

#[tokio::test(start_paused = true)]
async fn loopback_stays_on_the_host() {
    let pair = Pair::new(NatConfig::full_cone());
    pair.net.cut(&pair.inside);
    let local = Raw::bind(&pair.inside, "127.0.0.1:0");
    let local_at = local.0.local_addr().expect("bound");
    pair.inside_socket.send(local_at, b"here");
    assert_eq!(local.recv().await.0, at("127.0.0.1:4001"));
    let carried = pair.net.trace().carried(&pair.inside);
    assert_eq!(carried, Count::default());
}

#[tokio::test(start_paused = true)]
async fn taken_port_and_foreign_address_are_refused_and_dropped_sockets_free_theirs() {
    let pair = Pair::new(NatConfig::full_cone());
    let host = pair.inside.host();
    let kind = |addr| host.bind_udp(at(addr)).err().map(|e| e.kind());
    assert_eq!(kind("10.0.0.2:4001"), Some(io::ErrorKind::AddrInUse));
    assert_eq!(kind("10.9.9.9:1"), Some(io::ErrorKind::AddrNotAvailable));
    drop(pair.inside_socket);
    assert_eq!(kind("10.0.0.2:4001"), None);
}

#[tokio::test(start_paused = true)]
async fn snapshots_tell_what_happened_between() {
    let pair = Pair::new(NatConfig::full_cone());
    pair.inside_socket.send(pair.public_at(), b"before");
    pair.public_socket.recv().await;
    let before = pair.net.trace();
    pair.inside_socket.send(pair.public_at(), b"after!!");
    pair.public_socket.recv().await;
    let after = pair.net.trace().since(&before);
    assert_eq!(after.delivered(&pair.inside, &pair.public).bytes, 7);
    assert_eq!(after.carried(pair.nat).datagrams, 1);
    assert_eq!(after.sent(&pair.inside).datagrams, 1);
}

#[tokio::test(start_paused = true)]
async fn unknown_destination_and_closed_port_are_counted() {
    let pair = Pair::new(NatConfig::full_cone());
    pair.inside_socket.send(at("192.0.2.77:1"), b"nobody");
    pair.inside_socket.send(at("198.51.100.1:9"), b"no socket");
    tokio::time::sleep(50 * MS).await;
    let drops = pair.net.trace().drops();
    assert_eq!(drops[&DropReason::NoRoute].datagrams, 1);
    assert_eq!(drops[&DropReason::NoSocket].datagrams, 1);
}

#[tokio::test(start_paused = true)]
async fn task_ends_with_the_last_handle() {
    let before = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    let pair = Pair::new(NatConfig::full_cone());
    tokio::time::sleep(MS).await;
    drop(pair);
    tokio::time::sleep(MS).await;
    let after = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    assert_eq!(after, before);
}
