//! A stranger on a real socket throws 10,000 packets at a node of a private network: what
//! it never knew gets no byte, what it recorded no more than three times what it sent.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{net::SocketAddr, time::Duration};

use anyhop::{Config, Epoch, KeyRing, Keypair, Message, Node, PeerAddr, PeerId, SwarmKey};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    net::UdpSocket,
    time::{sleep, timeout},
};

/// Packets of each kind that a stranger can make by itself; 10,000 together.
const EACH: usize = 2_000;
/// Packets sent before the node has told what became of them: what fits the smallest
/// receive buffer of a kernel.
const BATCH: usize = 32;
/// Where a first packet has nothing left that is read before it decrypts: its header's end.
const BEHIND_THE_TICKET: usize = 200;
/// A node that does not tell by then hangs; it takes milliseconds.
const HANGS: Duration = Duration::from_secs(60);

fn on_loopback(secret: Option<u8>) -> Config {
    Config {
        listen: vec![([127, 0, 0, 1], 0).into()],
        swarm: secret.map(|s| KeyRing::new(SwarmKey::new(Epoch(1), [s; 32]))),
        dial_timeout: Duration::from_secs(1),
        ..Config::default()
    }
}

async fn node(secret: Option<u8>) -> Node {
    let key = Keypair::generate_ed25519();
    Node::start(key, on_loopback(secret)).await.unwrap()
}

fn address_of(node: &Node) -> SocketAddr {
    let addr: PeerAddr = node.addresses()[0].to_string().parse().unwrap();
    addr.addr.udp().unwrap()
}

/// What a node sends to begin a handshake with `peer`, recorded on the way to it.
async fn recorded(secret: Option<u8>, peer: PeerId) -> Vec<Vec<u8>> {
    let tap = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let dialler = node(secret).await;
    dialler.add_address(&PeerAddr::new(peer, tap.local_addr().unwrap()).unwrap());
    dialler.connect(peer).await.unwrap_err();
    dialler.close().await;
    let mut buf = [0; 2048];
    let mut packets = Vec::new();
    while let Ok(len) = tap.try_recv(&mut buf) {
        packets.push(buf[..len].to_vec());
    }
    assert!(packets.iter().all(|p| p[0] & 0x80 != 0 && p.len() >= 1200));
    assert!(packets.len() >= 2, "a first flight");
    packets
}

fn dropped(node: &Node) -> u64 {
    node.status().dropped.iter().map(|d| d.datagrams).sum()
}

struct Stranger {
    socket: UdpSocket,
    node: Node,
    sent: u64,
}

impl Stranger {
    async fn new(node: &Node) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(address_of(node)).await.unwrap();
        let node = node.clone();
        Self {
            socket,
            node,
            sent: 0,
        }
    }

    /// Sends packets, and waits until the node has counted each as dropped by its socket:
    /// none has come to the engine.
    async fn send_for_nothing(&mut self, packets: impl Iterator<Item = Vec<u8>>) {
        let packets: Vec<_> = packets.collect();
        for batch in packets.chunks(BATCH) {
            for packet in batch {
                self.socket.send(packet).await.unwrap();
            }
            self.sent += batch.len() as u64;
            let all = async {
                while dropped(&self.node) < self.sent {
                    sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(HANGS, all).await.expect("every packet is dropped");
            assert_eq!(dropped(&self.node), self.sent);
        }
    }

    /// All bytes that came back.
    async fn received(&self) -> usize {
        sleep(Duration::from_millis(300)).await;
        let (mut buf, mut bytes) = ([0; 2048], 0);
        while let Ok(len) = self.socket.try_recv(&mut buf) {
            bytes += len;
        }
        bytes
    }
}

/// One of the packets with a connection id of its own, as if made for this moment.
fn fresh(packets: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut packet = packets[rng.random_range(0..packets.len())].clone();
    let cid = 6..6 + usize::from(packet[5]);
    rng.fill_bytes(&mut packet[cid]);
    packet
}

#[tokio::test]
async fn what_a_stranger_makes_gets_no_byte_and_leaves_no_state() {
    let private = node(Some(1)).await;
    let without_key = recorded(None, private.peer_id()).await;
    let with_another = recorded(Some(2), private.peer_id()).await;
    let mut stranger = Stranger::new(&private).await;
    let mut rng = StdRng::seed_from_u64(1);
    let random = (0..EACH).map(|_| {
        let mut bytes = vec![0; rng.random_range(1..1472)];
        rng.fill_bytes(&mut bytes);
        bytes
    });
    stranger
        .send_for_nothing(random.collect::<Vec<_>>().into_iter())
        .await;
    for packets in [&without_key, &with_another] {
        let initials = (0..EACH).map(|nth| match nth % 2 {
            0 => packets[nth / 2 % packets.len()].clone(),
            _ => fresh(packets, &mut rng),
        });
        stranger
            .send_for_nothing(initials.collect::<Vec<_>>().into_iter())
            .await;
    }
    let baits = (0..EACH).map(|_| {
        let mut bait = fresh(&with_another, &mut rng);
        // A version nobody has, one that asks for negotiation, and 2; RFC 9000 section 15.
        let version = [0x0a1a_2a3a_u32, 0, 0x6b33_43cf][rng.random_range(0..3)];
        bait[1..5].copy_from_slice(&version.to_be_bytes());
        bait
    });
    stranger
        .send_for_nothing(baits.collect::<Vec<_>>().into_iter())
        .await;
    let short = (0..EACH).map(|_| {
        let mut packet = vec![0; rng.random_range(1..1472)];
        rng.fill_bytes(&mut packet);
        packet[0] = 0x40 | packet[0] & 0x3f;
        packet
    });
    stranger
        .send_for_nothing(short.collect::<Vec<_>>().into_iter())
        .await;
    assert_eq!(stranger.sent, 5 * EACH as u64);
    assert_eq!(stranger.received().await, 0);
    assert_eq!(private.status().sessions, 0);

    let member = node(Some(1)).await;
    member.add_address(&PeerAddr::new(private.peer_id(), address_of(&private)).unwrap());
    let hello = member.send(private.peer_id(), Message::text("hello"));
    hello.await.expect("members are answered as ever");
}

/// A node of the first swarm key that has just started.
async fn restarted(keypair: &Keypair) -> Node {
    let config = on_loopback(Some(1));
    Node::start(keypair.clone(), config).await.unwrap()
}

#[tokio::test]
async fn a_recorded_handshake_is_answered_once_within_the_limit_for_unproven_addresses() {
    let keypair = Keypair::generate_ed25519();
    let private = restarted(&keypair).await;
    let stamped = recorded(Some(1), private.peer_id()).await;
    let mut stranger = Stranger::new(&private).await;
    let mut sent = 0;
    for nth in 0..EACH {
        let packet = &stamped[nth % stamped.len()];
        stranger.socket.send(packet).await.unwrap();
        sent += packet.len();
        if nth % BATCH == 0 {
            sleep(Duration::from_millis(2)).await;
        }
    }
    let replies = stranger.received().await;
    assert!(replies > 0, "a member's own words");
    assert!(replies <= 3 * sent, "{replies} bytes for {sent}");
    assert_eq!(private.status().sessions, 0);

    // Its stamp and its ticket with anything else behind them, at a node that remembers
    // neither: they come to the engine, and decrypt under no key there.
    private.close().await;
    let private = restarted(&keypair).await;
    stranger = Stranger::new(&private).await;
    let mut rng = StdRng::seed_from_u64(2);
    for _ in 0..BATCH {
        let mut packet = stamped[0].clone();
        let at = rng.random_range(BEHIND_THE_TICKET..packet.len());
        packet[at] ^= 1;
        stranger.socket.send(&packet).await.unwrap();
    }
    assert_eq!(stranger.received().await, 0);
    assert_eq!(dropped(&private), 0);
    stranger.socket.send(&stamped[0]).await.unwrap();
    assert!(
        stranger.received().await > 0,
        "they did no harm to the true one"
    );
}
