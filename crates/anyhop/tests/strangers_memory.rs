//! Whether strangers make a private node's memory grow. Alone in its process, whose memory
//! it reads.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{fs, net::SocketAddr, time::Duration};

use anyhop::{Config, KeyRing, Keypair, Node, PeerAddr, SwarmKey};
use anyhop_proto::network::swarm::Epoch;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tokio::{net::UdpSocket, time::sleep};

/// Packets between two looks.
const PACKETS: u64 = 10_000;
/// Growth that is allowed, bytes: less than a tenth of what a connection's first state
/// takes, times the packets.
const ALLOWED: u64 = 512 * 1024;
/// Packets sent before it is waited for their being counted.
const BATCH: u64 = 32;

async fn node(secret: u8) -> Node {
    let config = Config {
        listen: vec![([127, 0, 0, 1], 0).into()],
        swarm: Some(KeyRing::new(SwarmKey::new(Epoch(1), [secret; 32]))),
        dial_timeout: Duration::from_secs(1),
        ..Config::default()
    };
    let key = Keypair::generate_ed25519();
    Node::start(key, config).await.unwrap()
}

/// Resident memory of this process, bytes; see `proc_pid_statm(5)`.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// The first packet of a handshake under another key.
async fn initial(of: &Node) -> Vec<u8> {
    let tap = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = PeerAddr::new(of.peer_id(), tap.local_addr().unwrap()).unwrap();
    let dialler = node(2).await;
    dialler.add_address(&at);
    dialler.connect(of.peer_id()).await.unwrap_err();
    dialler.close().await;
    let mut buf = [0; 2048];
    let len = tap.try_recv(&mut buf).unwrap();
    buf[..len].to_vec()
}

#[tokio::test]
async fn what_strangers_send_takes_no_memory() {
    let private = node(1).await;
    let mut packet = initial(&private).await;
    let address: PeerAddr = private.addresses()[0].to_string().parse().unwrap();
    let address: SocketAddr = address.addr.udp().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(address).await.unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    let dropped = || -> u64 { private.status().dropped.iter().map(|d| d.datagrams).sum() };
    let (mut sent, mut looks) = (0, Vec::new());
    for _ in 0..4 {
        for nth in 1..=PACKETS {
            // A connection id of its own each time, as if it were a new handshake.
            let cid = 6..6 + usize::from(packet[5]);
            rng.fill_bytes(&mut packet[cid]);
            let whole = nth % 2 == 0;
            let len = if whole {
                packet.len()
            } else {
                rng.random_range(30..packet.len())
            };
            socket.send(&packet[..len]).await.unwrap();
            sent += 1;
            while nth % BATCH == 0 && dropped() < sent {
                sleep(Duration::from_millis(1)).await;
            }
        }
        looks.push(resident());
    }
    println!("resident memory after each {PACKETS} packets, bytes: {looks:?}");
    // The first ones fill buffers and caches.
    let growth = looks[3].saturating_sub(looks[0]);
    assert!(growth < ALLOWED, "{looks:?}");
}
