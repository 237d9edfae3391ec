//! Ten million datagrams that no member sealed, or not for this, reach a host's packet plane:
//! each is dropped and counted, none leaves anything behind.

use std::{net::IpAddr, sync::Arc, time::Instant};

use anyhop_vpn::{
    Cipher, DropReason, Ingress, PacketKeys, Payload, Prefix, ReceiverIndex, Routes,
    SEALED_SECRET_LEN,
};

const DATAGRAMS: u64 = 10_000_000;
/// One of so many is for keys that are known, which costs cryptography.
const FOR_KNOWN_KEYS: u64 = 16;
const ME: &str = "fd00::1";
const PEER: &str = "fd00::2";

/// A generator whose numbers are the same every time (xorshift64*).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

fn keys(network: u8, client: bool) -> PacketKeys {
    let mut secret = [network; SEALED_SECRET_LEN];
    secret[0] ^= 0xff;
    PacketKeys::new(&secret, client, Cipher::of_this_cpu())
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address is written out above")
}

/// An IPv6 packet with these addresses.
fn packet(from: &str, to: &str) -> Vec<u8> {
    let mut packet = vec![0; 60];
    (packet[0], packet[5], packet[6]) = (0x60, 20, 59);
    for (at, text) in [(8, from), (24, to)] {
        if let IpAddr::V6(ip) = ip(text) {
            packet[at..at + 16].copy_from_slice(&ip.octets());
        }
    }
    packet
}

fn host() -> (Ingress, ReceiverIndex) {
    let mut routes = Routes::default();
    routes.insert(Prefix::host(ip(PEER)), 0);
    let mut ingress = Ingress::new([ip(ME)]);
    ingress.set_routes(Arc::new(routes));
    let opener = Arc::new(keys(1, false).opener);
    let index = opener.index();
    ingress.add_keys(0, opener);
    (ingress, index)
}

#[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
fn start() -> Instant {
    Instant::now()
}

#[test]
fn ten_million_random_datagrams_are_dropped_and_counted() {
    let ((mut ingress, index), now) = (host(), start());
    let mut noise = Noise(0x5eed);
    let mut buffer = [0; 256];
    for n in 0..DATAGRAMS {
        let len = noise.next() as usize % buffer.len();
        let datagram = &mut buffer[..len];
        noise.fill(datagram);
        // Half of them look like sealed packets, some of these as if for this host.
        if n % 2 == 0 && len > 16 {
            (datagram[0], datagram[1]) = (2, 1 + (noise.next() % 3) as u8);
            if n % FOR_KNOWN_KEYS == 0 {
                datagram[2..8].copy_from_slice(&index.to_be_bytes()[2..]);
            }
        }
        assert_eq!(ingress.handle_datagram(datagram, now), None, "{n}");
    }
    let of_peer = ingress.counters(0);
    let strangers: u64 = ingress.drops().iter().map(|(_, n)| n).sum();
    let forged: u64 = of_peer.2.iter().map(|(_, n)| n).sum();
    assert_eq!((of_peer.1, strangers + forged), (0, DATAGRAMS));
    let forgeries = of_peer.2.of(DropReason::NotAuthentic);
    assert!(forgeries > DATAGRAMS / FOR_KNOWN_KEYS / 2, "{forgeries}");
    // What the peer seals still comes in.
    let mut sealed = Vec::new();
    let inner = packet(PEER, ME);
    let client = keys(1, true).sealer;
    client
        .seal(Payload::Ip, &[&inner], &mut sealed)
        .expect("new keys seal");
    assert!(ingress.handle_datagram(&mut sealed, now).is_some());
}

#[test]
fn packets_of_other_networks_truncated_ones_and_replays_are_told_apart() {
    let ((mut ingress, _), now) = (host(), start());
    let seal = |network: u8, counter: usize, inner: &[u8]| {
        let client = keys(network, true).sealer;
        let mut out = Vec::new();
        for _ in 0..=counter {
            out.clear();
            client
                .seal(Payload::Ip, &[inner], &mut out)
                .expect("new keys seal");
        }
        out
    };
    let good = packet(PEER, ME);
    let mut first = seal(1, 0, &good);
    let mut replayed = first.clone();
    let mut truncated = seal(1, 1, &good);
    truncated.pop();
    let cases = [
        (seal(2, 0, &good), false, DropReason::UnknownKeys),
        (first[..20].to_vec(), false, DropReason::Malformed),
        (truncated, true, DropReason::NotAuthentic),
        (
            seal(1, 2, &packet("fd00::3", ME)),
            true,
            DropReason::ForeignSource,
        ),
        (
            seal(1, 3, &packet(PEER, "fd00::3")),
            true,
            DropReason::NotForThisHost,
        ),
        (seal(1, 4, &good[..30]), true, DropReason::Malformed),
    ];
    assert!(ingress.handle_datagram(&mut first, now).is_some());
    assert!(ingress.handle_datagram(&mut replayed, now).is_none());
    assert_eq!(ingress.counters(0).2.of(DropReason::Replayed), 1);
    for (mut datagram, of_peer, reason) in cases {
        assert!(
            ingress.handle_datagram(&mut datagram, now).is_none(),
            "{reason:?}"
        );
        let counted = match of_peer {
            true => ingress.counters(0).2.of(reason),
            false => ingress.drops().of(reason),
        };
        assert_eq!(counted, 1, "{reason:?}");
    }
}
