use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// Two nodes' carriers with a pipe of `capacity` bytes between.
struct Rig {
    client: Arc<Carriers>,
    server: Arc<Carriers>,
    to_server: CarrierUse,
    to_client: CarrierUse,
    at_client: mpsc::Receiver<Batch>,
    at_server: mpsc::Receiver<Batch>,
}

fn remote() -> SocketAddr {
    "192.0.2.1:443".parse().unwrap()
}

fn run(carriers: &Arc<Carriers>, held: &CarrierUse, stream: DuplexStream) {
    let upgraded = pump::Upgraded {
        stream: Box::new(stream),
        early: bytes::Bytes::new(),
    };
    let carrier = Arc::clone(held.carrier());
    tokio::spawn(Arc::clone(carriers).run(carrier, upgraded, Duration::from_secs(5)));
}

impl Rig {
    fn new(capacity: usize) -> Self {
        let (client, server) = (Arc::<Carriers>::default(), Arc::<Carriers>::default());
        let to_server = client.add(remote(), Sender::Server).unwrap();
        let to_client = server.add(remote(), Sender::Client).unwrap();
        let (a, b) = duplex(capacity);
        run(&client, &to_server, a);
        run(&server, &to_client, b);
        Self {
            at_client: client.take_received().unwrap(),
            at_server: server.take_received().unwrap(),
            client,
            server,
            to_server,
            to_client,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn datagrams_arrive_whole_in_order_and_in_batches_of_one_length() {
    let mut rig = Rig::new(64 << 10);
    let batch: Vec<u8> = (0..2500).map(|n| n as u8).collect();
    rig.to_server
        .carrier()
        .try_send(&batch, Some(1000))
        .unwrap();
    rig.to_server
        .carrier()
        .try_send(b"longer than 500?", None)
        .unwrap();
    let first = rig.at_server.recv().await.unwrap();
    assert_eq!(first.from, rig.to_client.carrier().id);
    assert_eq!((first.stride, first.bytes), (1000, batch));
    let second = rig.at_server.recv().await.unwrap();
    assert_eq!(
        (second.stride, second.bytes),
        (16, b"longer than 500?".to_vec())
    );
    rig.to_client.carrier().try_send(b"back", None).unwrap();
    assert_eq!(rig.at_client.recv().await.unwrap().bytes, b"back");
}

#[tokio::test(start_paused = true)]
async fn a_full_outbox_refuses_and_room_is_told() {
    let mut rig = Rig::new(1 << 10);
    let carrier = Arc::clone(rig.to_server.carrier());
    let datagram = [7; 1200];
    let mut sent = 0;
    let refused = loop {
        match carrier.try_send(&datagram, None) {
            Ok(()) => sent += 1,
            Err(e) => break e,
        }
    };
    assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    assert!(sent * 1200 <= OUTBOX);
    Arc::clone(&carrier).writable().await.unwrap();
    carrier.try_send(&datagram, None).unwrap();
    let mut arrived = 0;
    while arrived <= sent {
        let batch = rig.at_server.recv().await.unwrap();
        arrived += batch.bytes.len() / 1200;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_moves_nothing_holds_nobody_up() {
    let carriers = Arc::<Carriers>::default();
    let held = carriers.add(remote(), Sender::Server).unwrap();
    // Nobody reads the other end.
    let (near, _far) = duplex(1 << 10);
    run(&carriers, &held, near);
    let carrier = Arc::clone(held.carrier());
    let start = Instant::now();
    let stalled = loop {
        match carrier.try_send(&[0; 1200], None) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                Arc::clone(&carrier).writable().await.unwrap();
            }
            Err(e) => break e,
        }
        assert!(start.elapsed() < STALLED * 4);
    };
    assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_carrier_ends_for_both_when_nobody_uses_it_and_not_before() {
    let rig = Rig::new(1 << 10);
    let (id, ended) = (rig.to_client.carrier().id, rig.to_client.carrier().ended());
    let second = rig.client.hold(rig.to_server.carrier().id).unwrap();
    assert!(rig.to_server.is_shared());
    drop(rig.to_server);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(rig.server.get(id).is_some());
    drop(second);
    ended.await;
    assert!(rig.server.get(id).is_none());
    let after = rig.to_client.carrier().try_send(b"x", None).unwrap_err();
    assert_eq!(after.kind(), io::ErrorKind::NotConnected);
}

#[tokio::test(start_paused = true)]
async fn pings_are_answered_and_foreign_frames_end_the_connection() {
    let carriers = Arc::<Carriers>::default();
    let held = carriers.add(remote(), Sender::Server).unwrap();
    let (near, mut far) = duplex(1 << 10);
    run(&carriers, &held, near);
    far.write_all(&[0x89, 0x02, b'h', b'i']).await.unwrap();
    let mut pong = [0; 8];
    far.read_exact(&mut pong).await.unwrap();
    assert_eq!(pong[..2], [0x8a, 0x82]);
    let payload = [pong[6] ^ pong[2], pong[7] ^ pong[3]];
    assert_eq!(&payload, b"hi");
    // Text is nothing that a node sends.
    far.write_all(&[0x81, 0x00]).await.unwrap();
    held.carrier().ended().await;
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_no_datagrams_are_counted_and_dropped() {
    let mut rig = Rig::new(64 << 10);
    let carrier = rig.to_server.carrier();
    carrier.try_send(&[1; MAX_DATAGRAM + 1], None).unwrap();
    carrier.try_send(&[2; MAX_DATAGRAM], None).unwrap();
    let batch = rig.at_server.recv().await.unwrap();
    assert_eq!(batch.bytes, [2; MAX_DATAGRAM]);
    assert_eq!(rig.server.unfit.load(Ordering::Relaxed), 1);
}

#[test]
fn carriers_stay_within_their_limit() {
    let carriers = Carriers::default();
    let held: Vec<_> = (0..=MAX_CARRIERS)
        .filter_map(|_| carriers.add(remote(), Sender::Client))
        .collect();
    assert_eq!(held.len(), MAX_CARRIERS);
}
