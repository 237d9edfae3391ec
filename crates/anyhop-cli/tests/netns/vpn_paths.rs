//! Flows inside of the VPN outlive what happens to the path below, whatever NATs there are.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhop_lab::netns::{Families, NatKind};
use sha2::{Digest, Sha256};
use tokio::{
    task::JoinHandle,
    time::{Duration, Instant, sleep},
};

use crate::{
    PATIENCE,
    node::Node,
    turn,
    vpn::{joins, own, peer, pings, status},
    world::World,
};

const PORT: u16 = 7300;
const WEBSOCKET: &str = "0.0.0.0:8443";
/// Bytes of one write, and the time between two.
const CHUNK: usize = 50_000;
const EVERY: Duration = Duration::from_millis(10);
/// Bytes that have to arrive on each path.
const ON_EACH: u64 = 5_000_000;

/// One TCP connection, in which bytes flow at an even pace.
struct Flow {
    arrived: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    sent: JoinHandle<io::Result<Vec<u8>>>,
    received: JoinHandle<io::Result<Vec<u8>>>,
}

impl Flow {
    fn start(from: &mut Node, to: &mut Node, ip: IpAddr) -> Self {
        let at = SocketAddr::new(ip, PORT);
        let bind = move || TcpListener::bind(at);
        let listener = to.namespace().enter(bind).expect("bound");
        let (arrived, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let count = Arc::clone(&arrived);
        let received = tokio::task::spawn_blocking(move || {
            let (mut stream, _) = listener.accept()?;
            let (mut hash, mut bytes) = (Sha256::new(), vec![0; CHUNK]);
            loop {
                let len = stream.read(&mut bytes)?;
                if len == 0 {
                    return Ok(hash.finalize().to_vec());
                }
                hash.update(&bytes[..len]);
                count.fetch_add(len as u64, Ordering::Relaxed);
            }
        });
        let connect = move || TcpStream::connect_timeout(&at, PATIENCE);
        let mut stream = from.namespace().enter(connect).expect("connected");
        let ends = Arc::clone(&stop);
        let sent = tokio::spawn(async move {
            let (mut hash, mut number) = (Sha256::new(), 0_u8);
            while !ends.load(Ordering::Relaxed) {
                number = number.wrapping_add(1);
                let chunk = vec![number; CHUNK];
                hash.update(&chunk);
                tokio::task::block_in_place(|| stream.write_all(&chunk))?;
                sleep(EVERY).await;
            }
            Ok(hash.finalize().to_vec())
        });
        Self {
            arrived,
            stop,
            sent,
            received,
        }
    }

    /// Waits until as many more bytes have arrived as each path has to carry.
    async fn goes_on(&self, over: &str) {
        let begun = self.arrived.load(Ordering::Relaxed);
        let deadline = Instant::now() + PATIENCE;
        while self.arrived.load(Ordering::Relaxed) < begun + ON_EACH {
            assert!(!self.sent.is_finished(), "the connection broke: {over}");
            assert!(Instant::now() < deadline, "nothing arrives: {over}");
            sleep(EVERY).await;
        }
    }

    async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sent.await.expect("ran").expect("no reset");
        let received = self.received.await.expect("ran").expect("no reset");
        assert_eq!(sent, received);
    }
}

/// Waits until packets to a peer go over such a path.
async fn goes_over(from: &Node, to: &Node, kind: &str, carrier: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = status(from).await;
        let path = peer(&seen, &to.peer)["path"].clone();
        if path["kind"] == kind && (kind == "circuit" || path["carrier"] == carrier) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "not {kind} over {carrier}: {path}"
        );
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_flow_outlives_relay_direct_websocket_and_direct_again() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let mut a = world.behind("A", NatKind::PortRestrictedCone).await;
    let host = world.lab.public_host("c", Families::Both).expect("a host");
    let at_r: Vec<_> = world
        .r
        .multiaddrs()
        .map(|at| format!("--bootstrap={at}"))
        .collect();
    let c = Node::up("C", &world.lab, host, &at_r).await;
    let create = [
        "network",
        "create",
        "lab",
        "--listen",
        "0.0.0.0:4002",
        "--listen-ws",
        WEBSOCKET,
    ];
    world.r.json(&create).await;
    joins(&c, &world.r).await;
    joins(&a.node, &world.r).await;
    for node in [&world.r, &c, &a.node] {
        node.json(&["vpn", "up"]).await;
    }
    let [ip, _] = own(&status(&world.r).await);
    pings(&mut a.node, ip, 3).await;
    let r_wan = world.r.namespace().v4().expect("an address");
    let nft = |rules: String| {
        let mut nft = a.router.namespace().command("nft");
        let done = nft.arg(rules).status().expect("nft runs");
        assert!(done.success());
    };
    a.router.block_udp(r_wan).expect("blocked");
    nft(format!(
        "add table inet notcp; add chain inet notcp f {{ type filter hook forward priority -5; }}; \
         add rule inet notcp f ip daddr {r_wan} meta l4proto tcp drop"
    ));
    // The session ends or moves; the flow's first packet has one made over C.
    let flow = Flow::start(&mut a.node, &mut world.r, ip);
    goes_over(&a.node, &world.r, "circuit", "").await;
    flow.goes_on("relay").await;
    a.router.unblock_udp(r_wan).expect("unblocked");
    goes_over(&a.node, &world.r, "direct", "udp4").await;
    flow.goes_on("direct").await;
    nft("delete table inet notcp".to_owned());
    a.router.block_udp(r_wan).expect("blocked");
    goes_over(&a.node, &world.r, "direct", "ws").await;
    flow.goes_on("WebSocket").await;
    a.router.unblock_udp(r_wan).expect("unblocked");
    goes_over(&a.node, &world.r, "direct", "udp4").await;
    flow.goes_on("direct again").await;
    flow.finish().await;
}
