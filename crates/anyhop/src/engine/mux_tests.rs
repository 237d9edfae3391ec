use std::sync::Mutex;

use anyhop_base::{Keypair, NetworkName, PeerId};
use anyhop_proto::{
    circuit::Standing,
    network::swarm::{Epoch, EpochKeys, KeyRing, SwarmKey},
    probe::ProbeKeys,
    websocket::{Decoder, Frame, Sender},
};
use noq::ConnectionIdGenerator;
use proptest::prelude::*;

use super::*;

const LINK_A: &str = "192.0.2.1:4001";
const LINK_B: &str = "192.0.2.2:4001";

/// A socket that serves prepared batches and records what is sent.
#[derive(Debug, Default)]
struct FakeSocket {
    batches: Mutex<VecDeque<(SocketAddr, usize, Vec<u8>)>>,
    sent: Mutex<Vec<(SocketAddr, Vec<u8>)>>,
}

impl DatagramSocket for FakeSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(([0, 0, 0, 0], 4001).into())
    }

    fn poll_recv(
        &self,
        _: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut batches = self.batches.lock().unwrap();
        let mut n = 0;
        while n < bufs.len() {
            let Some((from, stride, bytes)) = batches.pop_front() else {
                break;
            };
            bufs[n][..bytes.len()].copy_from_slice(&bytes);
            meta[n] = RecvMeta::default();
            meta[n].addr = from;
            meta[n].stride = stride;
            meta[n].len = bytes.len();
            n += 1;
        }
        if n == 0 {
            return Poll::Pending;
        }
        Poll::Ready(Ok(n))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let stride = transmit.segment_size.unwrap_or(transmit.contents.len());
        let mut sent = self.sent.lock().unwrap();
        for segment in transmit.contents.chunks(stride) {
            sent.push((transmit.destination, segment.to_vec()));
        }
        Ok(())
    }

    fn writable(self: Arc<Self>) -> Writable {
        Box::pin(std::future::ready(Ok(())))
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        NonZeroUsize::new(3).unwrap()
    }

    fn max_receive_segments(&self) -> NonZeroUsize {
        NonZeroUsize::new(64).unwrap()
    }
}

/// A node with links to A and B: `forward` goes from A to B, `local` ends here.
struct Rig {
    socket: Arc<FakeSocket>,
    fabric: Arc<Fabric>,
    mux: MuxSocket,
    forward: Label,
    out: Label,
    local: Label,
    circuit: CircuitId,
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

impl Rig {
    fn new() -> Self {
        Self::in_network(None)
    }

    fn in_network(swarm: Option<Arc<Swarm>>) -> Self {
        let socket = Arc::new(FakeSocket::default());
        let v4 = Arc::<FakeSocket>::clone(&socket);
        let fabric = Fabric::new(Some(v4), None, [1; 32], swarm);
        let out = Label::from_bits(0xbeef);
        let (forward, local, circuit) = {
            let mut switch = fabric.switch.write().unwrap();
            switch.set_link(1, vec![addr(LINK_A)]);
            switch.set_link(2, vec![addr(LINK_B)]);
            let (forward, local) = (switch.fresh_label(), switch.fresh_label());
            let circuit = switch.fresh_circuit();
            switch.forward((1, forward), (2, out), 0, Standing::Known);
            switch.terminate(circuit, 1, local, Label::from_bits(0xcafe));
            (forward, local, circuit)
        };
        Self {
            mux: MuxSocket::new(Arc::clone(&fabric)),
            socket,
            fabric,
            forward,
            out,
            local,
            circuit,
        }
    }

    fn receive(&self, from: &str, stride: usize, segments: &[Vec<u8>]) {
        let mut batches = self.socket.batches.lock().unwrap();
        batches.push_back((addr(from), stride, segments.concat()));
    }

    /// Everything the engine gets, datagram by datagram.
    fn poll(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut out = Vec::new();
        loop {
            let mut space = vec![vec![0; 64 * 1500]; 4];
            let mut bufs: Vec<_> = space.iter_mut().map(|b| IoSliceMut::new(b)).collect();
            let mut meta = vec![RecvMeta::default(); 4];
            let Poll::Ready(n) = self.mux.poll_recv(&mut cx, &mut bufs, &mut meta) else {
                return out;
            };
            for (buf, meta) in bufs.iter().zip(&meta).take(n.unwrap()) {
                for datagram in buf[..meta.len].chunks(meta.stride.max(1)) {
                    out.push((canonical(meta.addr), datagram.to_vec()));
                }
            }
        }
    }

    fn sent(&self) -> Vec<(SocketAddr, Vec<u8>)> {
        std::mem::take(&mut *self.socket.sent.lock().unwrap())
    }

    fn dropped(&self, reason: &str) -> u64 {
        let counts = self.fabric.drop_counts();
        let count = counts.iter().find(|c| c.reason == reason);
        count.map_or(0, |c| c.datagrams)
    }
}

fn quic(n: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![n; len];
    packet[0] = 0x40 | (n & 0x3f);
    packet
}

fn labelled(label: Label, inner: &[u8]) -> Vec<u8> {
    [&label.header()[..], inner].concat()
}

#[test]
fn a_batch_on_a_forwarded_circuit_goes_on_with_swapped_labels() {
    let mut rig = Rig::new();
    let inner: Vec<_> = (0..7)
        .map(|n| quic(n, if n == 6 { 40 } else { 92 }))
        .collect();
    let batch: Vec<_> = inner.iter().map(|i| labelled(rig.forward, i)).collect();
    rig.receive(LINK_A, 100, &batch);
    assert_eq!(rig.poll(), []);
    let expected: Vec<_> = inner
        .iter()
        .map(|i| (addr(LINK_B), labelled(rig.out, i)))
        .collect();
    assert_eq!(rig.sent(), expected);
}

#[test]
fn a_circuit_that_ends_here_is_shown_under_its_address_without_header() {
    let mut rig = Rig::new();
    let inner = [quic(1, 50), quic(2, 50), quic(3, 20)];
    let batch: Vec<_> = inner.iter().map(|i| labelled(rig.local, i)).collect();
    rig.receive(LINK_A, 58, &batch);
    let expected: Vec<_> = inner
        .iter()
        .map(|i| (rig.circuit.address(), i.clone()))
        .collect();
    assert_eq!(rig.poll(), expected);
}

#[test]
fn what_is_not_for_us_is_dropped_and_counted() {
    let mut rig = Rig::new();
    rig.receive(LINK_B, 20, &[labelled(rig.forward, &quic(1, 12))]);
    rig.receive(LINK_A, 20, &[labelled(Label::from_bits(1), &quic(1, 12))]);
    rig.receive(LINK_A, 8, &[rig.forward.header().to_vec()]);
    rig.receive(LINK_A, 5, &[vec![0, 1, 2, 3, 4]]);
    rig.receive(
        LINK_A,
        64,
        &[ProbeKeys::new(&[9; 72], true)
            .seal(anyhop_proto::probe::Probe::ping(1))
            .to_vec()],
    );
    assert_eq!(rig.poll(), []);
    assert_eq!(rig.sent(), []);
    for reason in [
        "circuit label from another link",
        "unknown circuit label",
        "malformed circuit header",
        "unknown kind of packet",
        "probe of no session",
    ] {
        assert_eq!(rig.dropped(reason), 1, "{reason}");
    }
}

/// Keeps what it gets, without the headers.
#[derive(Debug, Default)]
struct Sink(Mutex<Vec<Vec<u8>>>);

impl SealedSink for Sink {
    fn receive(&self, batch: &mut [u8], stride: usize, header: usize) {
        let mut got = self.0.lock().unwrap();
        got.extend(batch.chunks(stride).map(|d| d[header..].to_vec()));
    }
}

#[test]
fn sealed_packets_go_to_the_plane_while_there_is_one_and_the_rest_of_a_batch_goes_on() {
    let mut rig = Rig::new();
    let sealed = |n: u8| [&[2][..], &[n; 39]].concat();
    let batch = [sealed(1), quic(1, 40), sealed(2), sealed(3)];
    let circuit: Vec<_> = batch.iter().map(|p| labelled(rig.local, p)).collect();
    rig.receive(LINK_A, 40, &batch);
    assert_eq!(rig.poll(), [(addr(LINK_A), quic(1, 40))]);
    assert_eq!(rig.dropped("sealed packet, and no VPN is up"), 3);

    let sink = Arc::new(Sink::default());
    rig.fabric.set_sealed_sink(Some(Arc::clone(&sink) as _));
    rig.receive(LINK_A, 40, &batch);
    rig.receive(LINK_A, 48, &circuit);
    let shown = [addr(LINK_A), rig.circuit.address()].map(|from| (from, quic(1, 40)));
    assert_eq!(rig.poll(), shown);
    let got = std::mem::take(&mut *sink.0.lock().unwrap());
    assert_eq!(got, [1, 2, 3, 1, 2, 3].map(sealed));

    rig.fabric.set_sealed_sink(None);
    rig.receive(LINK_A, 40, &batch);
    rig.poll();
    assert_eq!(sink.0.lock().unwrap().len(), 0);
}

#[test]
fn sealed_packets_leave_over_links_and_circuits_alike() {
    let rig = Rig::new();
    let packets: Vec<Vec<u8>> = (0..5).map(|n| vec![2, n, n]).collect();
    let over = |path: SocketAddr| {
        let way = rig.fabric.way(path).unwrap();
        let each = packets.iter().map(|p| [way.header(), p].concat());
        let bytes = each.collect::<Vec<_>>().concat();
        let segment = bytes.len() / packets.len();
        let sent = rig.fabric.send_sealed(&way, &bytes, Some(segment));
        assert_eq!(sent.unwrap(), bytes.len());
        rig.sent()
    };
    let direct: Vec<_> = packets.iter().map(|p| (addr(LINK_B), p.clone())).collect();
    assert_eq!(over(addr(LINK_B)), direct);
    let out = Label::from_bits(0xcafe);
    let labelled = packets.iter().map(|p| (addr(LINK_A), labelled(out, p)));
    assert_eq!(over(rig.circuit.address()), labelled.collect::<Vec<_>>());
}

/// Length of each packet below.
const LEN: usize = 200;

/// A handshake's packet to this connection id with this token.
fn long(version: u32, cid: &[u8], token: &[u8]) -> Vec<u8> {
    let mut packet = [&[0xc3][..], &version.to_be_bytes()].concat();
    packet.push(cid.len() as u8);
    packet.extend_from_slice(cid);
    packet.extend_from_slice(&[0, 0x40, token.len() as u8]);
    packet.extend_from_slice(token);
    packet.resize(LEN, 7);
    packet
}

/// Packets for a member in a private network, then packets of strangers.
fn members_and_strangers() -> (Arc<Swarm>, [Vec<Vec<u8>>; 2]) {
    let (network, keypair) = (NetworkName::default().id(), Keypair::generate_ed25519());
    let rings = [1, 2].map(|secret| KeyRing::new(SwarmKey::new(Epoch(1), [secret; 32])));
    let swarm = Swarm::new(network, &rings[0], &keypair).unwrap();
    let me = keypair.public().to_peer_id();
    let [dialler, former] = [3, 4].map(|_| Keypair::generate_ed25519());
    let former_id = former.public().to_peer_id();
    swarm.set_gate(Arc::new(move |peer, _| peer != former_id));
    let mut nonce = 0;
    let mut initial = |ring: usize, by: &Keypair, target: PeerId| {
        nonce += 1;
        let keys = EpochKeys::new(network, rings[ring].current());
        let stamp = keys.stamp([nonce; 8]);
        let ticket = keys.ticket(&stamp, by, target).unwrap();
        (stamp, ticket)
    };
    let (stamp, ticket) = initial(0, &dialler, me);
    let ours = long(1, &stamp, &ticket);
    let mut other_version = ours.clone();
    other_version[4] = 2;
    let mut no_initial = ours.clone();
    no_initial[0] |= 0x20;
    let [other_key, shut_out, to_another] = [
        initial(1, &dialler, me),
        initial(0, &former, me),
        initial(0, &dialler, former_id),
    ]
    .map(|(stamp, ticket)| long(1, &stamp, &ticket));
    let mut ids = crate::engine::reset::Keys::new(&keypair).unwrap().ids;
    let short = |cid: &[u8]| {
        let mut packet = [&[0x43][..], cid].concat();
        packet.resize(LEN, 7);
        packet
    };
    let own = ids.generate_cid();
    let members = vec![
        ours,
        short(&own),
        long(1, &own, &[]),
        short(&ids.generate_cid()),
        short(&own),
    ];
    let strangers = vec![
        other_key,
        shut_out,
        to_another,
        other_version,
        no_initial,
        long(1, &stamp, &[]),
        long(1, &stamp, &[0; 112]),
        long(0, &own, &[]),
        long(1, &[0; 8], &[]),
        long(1, &[], &[]),
        short(&[0; 8]),
        short(&own[1..]),
    ];
    (swarm, [members, strangers])
}

#[test]
fn a_private_network_takes_its_members_packets_out_of_any_batch_and_no_other() {
    let strangers_dropped = "no stamp of the network's swarm key";
    let (swarm, [members, strangers]) = members_and_strangers();
    let mixed: Vec<_> = strangers
        .iter()
        .zip(members.iter().cycle())
        .flat_map(|(stranger, member)| [stranger.clone(), member.clone()])
        .collect();
    let expected = |from: SocketAddr| -> Vec<_> {
        let members = members.iter().cycle().take(strangers.len());
        members.map(|m| (from, m.clone())).collect()
    };
    let mut rig = Rig::in_network(Some(swarm));
    let count = strangers.len() as u64;
    rig.receive(LINK_A, LEN, &mixed);
    assert_eq!(rig.poll(), expected(addr(LINK_A)));
    assert_eq!(rig.dropped(strangers_dropped), count);

    // Over a circuit what is left out is unreadable for the engine (no fixed bit).
    let labelled: Vec<_> = mixed.iter().map(|p| labelled(rig.local, p)).collect();
    rig.receive(LINK_A, LEN + CIRCUIT_HEADER_LEN, &labelled);
    let mut shown = rig.poll();
    shown.retain(|(_, packet)| packet[0] & 0x40 != 0);
    assert_eq!(shown, expected(rig.circuit.address()));
    assert_eq!(rig.dropped(strangers_dropped), 2 * count);

    let strangers: Vec<_> = labelled.into_iter().step_by(2).collect();
    rig.receive(LINK_A, LEN + CIRCUIT_HEADER_LEN, &strangers);
    assert_eq!(rig.poll(), []);
    assert_eq!(rig.dropped(strangers_dropped), 3 * count);
}

#[test]
fn a_forged_source_does_not_pass_for_a_circuit() {
    let mut rig = Rig::new();
    let forged = rig.circuit.address().to_string();
    rig.receive(&forged, 30, &[quic(1, 30)]);
    assert_eq!(rig.poll(), []);
    assert_eq!(rig.dropped("circuit label from another link"), 1);
}

#[test]
fn sending_on_a_circuit_puts_the_label_before_each_segment() {
    let rig = Rig::new();
    let mut sender = rig.mux.create_sender();
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let contents = [quic(1, 30), quic(2, 30), quic(3, 10)].concat();
    let sent = sender.as_mut().poll_send(
        &Transmit {
            destination: rig.circuit.address(),
            ecn: None,
            contents: &contents,
            segment_size: Some(30),
            src_ip: None,
        },
        &mut cx,
    );
    assert!(matches!(sent, Poll::Ready(Ok(()))));
    let label = Label::from_bits(0xcafe);
    assert_eq!(
        rig.sent(),
        [quic(1, 30), quic(2, 30), quic(3, 10)].map(|p| (addr(LINK_A), labelled(label, &p)))
    );
}

/// The datagrams that wait for a WebSocket.
fn queued(carrier: &Carrier) -> Vec<Vec<u8>> {
    let mut frames = carrier.take_frames();
    // What we send as a server, the other side reads.
    let mut decoder = Decoder::new(Sender::Server, 2048);
    let (mut at, mut out) = (0, Vec::new());
    while let Some((len, frame)) = decoder.take(&mut frames[at..]).unwrap() {
        let Frame::Message(datagram) = frame else {
            panic!("{frame:?}");
        };
        out.push(datagram.to_vec());
        at += len;
    }
    out
}

#[test]
fn a_circuit_crosses_between_udp_and_a_websocket_in_both_directions() {
    let mut rig = Rig::new();
    let held = rig
        .fabric
        .carriers
        .add(addr(LINK_B), Sender::Client)
        .unwrap();
    let (there, back) = (
        rig.forward,
        rig.fabric.switch.write().unwrap().fresh_label(),
    );
    {
        let mut switch = rig.fabric.switch.write().unwrap();
        switch.set_link(2, vec![held.address()]);
        switch.forward((2, back), (1, rig.out), 0, Standing::Known);
    }
    let inner: Vec<_> = (0..100).map(|n| quic(n, 92)).collect();
    let batch: Vec<_> = inner[..60].iter().map(|i| labelled(there, i)).collect();
    rig.receive(LINK_A, 100, &batch);
    assert_eq!(rig.poll(), []);
    let expected: Vec<_> = inner[..60].iter().map(|i| labelled(rig.out, i)).collect();
    assert_eq!(queued(held.carrier()), expected);

    // More than fits one of the engine's buffers.
    let bytes: Vec<_> = inner.iter().flat_map(|i| labelled(back, i)).collect();
    rig.fabric.carriers.receive(Batch {
        from: held.carrier().id,
        stride: 100,
        bytes,
    });
    assert_eq!(rig.poll(), []);
    let expected: Vec<_> = inner
        .iter()
        .map(|i| (addr(LINK_A), labelled(rig.out, i)))
        .collect();
    assert_eq!(rig.sent(), expected);
}

#[test]
fn what_comes_over_a_websocket_is_shown_under_its_address_and_labels_keep_to_their_link() {
    let mut rig = Rig::new();
    let held = rig
        .fabric
        .carriers
        .add(addr(LINK_B), Sender::Client)
        .unwrap();
    let mut bytes = quic(1, 40);
    bytes.extend(quic(2, 40));
    bytes.extend(labelled(rig.forward, &quic(3, 20)));
    rig.fabric.carriers.receive(Batch {
        from: held.carrier().id,
        stride: 40,
        bytes,
    });
    let up = [quic(1, 40), quic(2, 40)].map(|packet| (held.address(), packet));
    assert_eq!(rig.poll(), up);
    assert_eq!(rig.dropped("circuit label from another link"), 1);
    // Nobody on UDP has its address.
    rig.receive(&held.address().to_string(), 30, &[quic(1, 30)]);
    assert_eq!(rig.poll(), []);
    assert_eq!(rig.dropped("circuit label from another link"), 2);
}

#[test]
fn sending_to_a_websocket_waits_for_room_and_loses_what_has_ended() {
    let rig = Rig::new();
    let held = rig
        .fabric
        .carriers
        .add(addr(LINK_B), Sender::Client)
        .unwrap();
    let destination = held.address();
    let mut sender = rig.mux.create_sender();
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let contents = vec![0x40; 64 * 1200];
    let transmit = Transmit {
        destination,
        ecn: None,
        contents: &contents,
        segment_size: Some(1200),
        src_ip: None,
    };
    let mut send = || sender.as_mut().poll_send(&transmit, &mut cx).is_ready();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let _entered = runtime.as_ref().unwrap().enter();
    assert!(send());
    assert!(!send(), "it is full");
    assert_eq!(queued(held.carrier()).len(), 64);
    assert_eq!(rig.dropped("socket refused"), 0);
    // One that nobody knows any more.
    let gone = anyhop_proto::carrier::CarrierId(99).address();
    let mut sender = rig.mux.create_sender();
    let transmit = Transmit {
        destination: gone,
        ..transmit
    };
    assert!(sender.as_mut().poll_send(&transmit, &mut cx).is_ready());
    assert_eq!(rig.dropped("socket refused"), 1);
}

#[test]
fn ipv4_as_the_engine_names_it_leaves_by_the_ipv4_socket_and_never_as_ipv6() {
    let [four, six] = [(); 2].map(|()| Arc::new(FakeSocket::default()));
    let fabric = Fabric::new(Some(four.clone()), Some(six.clone()), [1; 32], None);
    let mut sender = MuxSocket::new(fabric).create_sender();
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let contents = quic(1, 30);
    for destination in ["[::ffff:192.0.2.9]:4001", "[2001:db8::9]:4001"] {
        let sent = sender.as_mut().poll_send(
            &Transmit {
                destination: addr(destination),
                ecn: None,
                contents: &contents,
                segment_size: None,
                src_ip: None,
            },
            &mut cx,
        );
        assert!(matches!(sent, Poll::Ready(Ok(()))));
    }
    let sent = |socket: &FakeSocket| std::mem::take(&mut *socket.sent.lock().unwrap());
    assert_eq!(sent(&four), [(addr("192.0.2.9:4001"), contents.clone())]);
    assert_eq!(sent(&six), [(addr("[2001:db8::9]:4001"), contents)]);
}

/// One segment of a mixed batch.
#[derive(Debug, Clone, Copy)]
enum Segment {
    Quic,
    Forward,
    Local,
    Junk,
}

proptest! {
    /// However the kernel coalesces, each datagram ends up where it would alone.
    #[test]
    fn mixed_batches_are_sorted_datagram_by_datagram(
        kinds in proptest::collection::vec(
            prop_oneof![
                Just(Segment::Quic), Just(Segment::Forward), Just(Segment::Local), Just(Segment::Junk)
            ],
            1..64,
        ),
        last in 9..60_usize,
    ) {
        let mut rig = Rig::new();
        let (mut up, mut on, mut batch) = (Vec::new(), Vec::new(), Vec::new());
        for (n, kind) in kinds.iter().enumerate() {
            let len = if n + 1 == kinds.len() { last } else { 60 };
            let inner = quic(n as u8, len - CIRCUIT_HEADER_LEN);
            batch.push(match kind {
                Segment::Quic => {
                    let packet = quic(n as u8, len);
                    up.push((addr(LINK_A), packet.clone()));
                    packet
                }
                Segment::Forward => {
                    on.push((addr(LINK_B), labelled(rig.out, &inner)));
                    labelled(rig.forward, &inner)
                }
                Segment::Local => {
                    up.push((rig.circuit.address(), inner.clone()));
                    labelled(rig.local, &inner)
                }
                Segment::Junk => vec![0; len],
            });
        }
        rig.receive(LINK_A, 60, &batch);
        prop_assert_eq!(rig.poll(), up);
        prop_assert_eq!(rig.sent(), on);
    }
}
