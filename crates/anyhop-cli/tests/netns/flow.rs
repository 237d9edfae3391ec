//! Flows through the VPN that go on while something happens: datagrams at an even pace, of
//! which each counts, and a TCP connection, which may not break.

use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhop_lab::netns::Namespace;
use sha2::{Digest, Sha256};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::PATIENCE;

const PORT: u16 = 7100;
/// Datagrams sent at once, their length, and the time between two such bursts.
const BURST: u32 = 10;
const DATAGRAM: usize = 1000;
const BURST_EVERY: Duration = Duration::from_millis(4);
/// After such a silence no more datagrams are waited for.
const SILENCE: Duration = Duration::from_secs(2);
/// Bytes of one write to a TCP connection, and the time between two.
const CHUNK: usize = 50_000;
const WRITE_EVERY: Duration = Duration::from_millis(10);

/// Numbered datagrams at an even pace.
pub(crate) struct Paced {
    stop: Arc<AtomicBool>,
    sent: JoinHandle<u32>,
    arrived: JoinHandle<u32>,
}

impl Paced {
    pub(crate) fn start(from: &Namespace, to: &Namespace, ip: IpAddr) -> Self {
        let at = SocketAddr::new(ip, PORT);
        let sink = to.enter(move || UdpSocket::bind(at)).expect("bound");
        sink.set_read_timeout(Some(SILENCE)).expect("a limit");
        let arrived = tokio::task::spawn_blocking(move || {
            let (mut seen, mut packet) = (BTreeSet::new(), [0; DATAGRAM]);
            while sink.recv(&mut packet).is_ok() {
                let number = packet[..4].try_into().expect("4 bytes");
                seen.insert(u32::from_be_bytes(number));
            }
            seen.len() as u32
        });
        let any = SocketAddr::new(unspecified(ip), 0);
        let source = from.enter(move || UdpSocket::bind(any)).expect("bound");
        let stop = Arc::<AtomicBool>::default();
        let ends = Arc::clone(&stop);
        let sent = tokio::spawn(async move {
            let mut number = 0_u32;
            while !ends.load(Ordering::Relaxed) {
                for _ in 0..BURST {
                    let mut packet = [0; DATAGRAM];
                    packet[..4].copy_from_slice(&number.to_be_bytes());
                    source.send_to(&packet, at).expect("sent");
                    number += 1;
                }
                sleep(BURST_EVERY).await;
            }
            number
        });
        Self {
            stop,
            sent,
            arrived,
        }
    }

    /// Ends it: how many were sent, and how many arrived.
    pub(crate) async fn finish(self) -> (u32, u32) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sent.await.expect("ran");
        (sent, self.arrived.await.expect("ran"))
    }
}

fn unspecified(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => [0; 4].into(),
        IpAddr::V6(_) => [0; 16].into(),
    }
}

/// One TCP connection, in which bytes flow at an even pace.
pub(crate) struct Connection {
    arrived: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    sent: JoinHandle<io::Result<Vec<u8>>>,
    received: JoinHandle<io::Result<Vec<u8>>>,
}

impl Connection {
    pub(crate) fn start(from: &Namespace, to: &Namespace, ip: IpAddr) -> Self {
        let at = SocketAddr::new(ip, PORT);
        let listener = to.enter(move || TcpListener::bind(at)).expect("bound");
        let (arrived, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let connect = move || TcpStream::connect_timeout(&at, PATIENCE);
        // Before anything waits for it: a task that accepts for ever would outlive a failure.
        let mut stream = from.enter(connect).expect("connected");
        let count = Arc::clone(&arrived);
        let received = tokio::task::spawn_blocking(move || {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(PATIENCE))?;
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
        let ends = Arc::clone(&stop);
        let sent = tokio::spawn(async move {
            let (mut hash, mut number) = (Sha256::new(), 0_u8);
            while !ends.load(Ordering::Relaxed) {
                number = number.wrapping_add(1);
                let chunk = vec![number; CHUNK];
                hash.update(&chunk);
                tokio::task::block_in_place(|| stream.write_all(&chunk))?;
                sleep(WRITE_EVERY).await;
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

    /// Waits until so many more bytes have arrived.
    pub(crate) async fn goes_on(&self, bytes: u64, over: &str) {
        let begun = self.arrived.load(Ordering::Relaxed);
        let deadline = Instant::now() + PATIENCE;
        while self.arrived.load(Ordering::Relaxed) < begun + bytes {
            assert!(!self.sent.is_finished(), "the connection broke: {over}");
            assert!(Instant::now() < deadline, "nothing arrives: {over}");
            sleep(WRITE_EVERY).await;
        }
    }

    /// Ends it: the hashes of what was sent and of what arrived.
    pub(crate) async fn finish(self) -> [Vec<u8>; 2] {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sent.await.expect("ran").expect("no reset");
        [sent, self.received.await.expect("ran").expect("no reset")]
    }
}
