//! Valid inputs for the targets to start from.

mod broadcast;
mod job;
mod network;
mod vpn;

use std::net::SocketAddr;

use anyhop_base::{
    Attachment, Endpoint, Keypair, Multiaddr, PeerAddr, PeerId, Reachability, Record,
    quic_multiaddr,
};
use anyhop_proto::{
    circuit::{Answer as CircuitAnswer, Open, Refusal, RefusalReason},
    control::{Answer, Attached, Hello, Query, Reach, Reached},
    datagram::Label,
    message::Header,
    nat::{
        Allocation, Family, Filtering, Mapping, Profile, Profiles,
        check::{From, Request, Response},
    },
    network::swarm::{Epoch, KeyRing, NONCE_LEN, SWARM_KEY_LEN, Stamps, SwarmKey},
    path::{Candidate, CandidateKind, Offer, Prediction, Technique},
    probe::{PROBE_SECRET_LEN, Probe, ProbeKeys},
    route::{
        Find, FindAnswer, Found, Known, LinkReport, Measured, Nothing, Sample, Trace, TraceAnswer,
    },
    take_frame,
    websocket::{Opcode, put_frame},
};

use crate::targets::{NOW_UNIX_S, network, signer};

pub(crate) use broadcast::{post_payloads, topic_contents};
pub(crate) use job::{call_contents, job_bids, job_calls};
pub(crate) use network::{
    backups, invitation_texts, network_contents, network_states, signed_statements,
    statement_payloads,
};

pub(crate) use vpn::{
    dns_queries, ethernet_frames, firewall_packets, ip_packets, sealed_packets, segments,
};

const V4: &str = "192.0.2.1:4001";
const V6: &str = "[2001:db8::1]:4001";

fn keypair(seed: u8) -> Keypair {
    Keypair::ed25519_from_bytes([seed; 32]).expect("32 bytes are a key")
}

fn peer(seed: u8) -> PeerId {
    keypair(seed).public().to_peer_id()
}

fn address(text: &str) -> Multiaddr {
    quic_multiaddr(socket(text)).expect("and can be dialled")
}

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address is written out here")
}

fn peer_addr(text: &str) -> PeerAddr {
    PeerAddr::new(peer(2), socket(text)).expect("and can be dialled")
}

/// The same peer over WebSocket, without TLS and with it.
fn websocket_addrs() -> [PeerAddr; 2] {
    [(V4, false), (V6, true)].map(|(text, tls)| {
        let addr = socket(text);
        let endpoint = Endpoint::Ws { addr, tls };
        PeerAddr::at(peer(2), endpoint).expect("and can be dialled")
    })
}

/// The content of one of our own frames.
fn content(frame: &[u8]) -> Vec<u8> {
    let content = take_frame(&mut &frame[..], usize::MAX);
    let content = content.expect("a frame of our own is well-formed");
    content.expect("and complete").to_vec()
}

pub(crate) fn signed_records() -> Vec<Vec<u8>> {
    let empty = Record {
        peer: signer().public().to_peer_id(),
        seq: 1,
        expires_unix_s: NOW_UNIX_S + 60,
        addresses: Vec::new(),
        attachments: Vec::new(),
        reachability: Reachability::Unknown,
        relays_for_others: false,
        offers: Vec::new(),
    };
    let full = Record {
        seq: u64::MAX,
        expires_unix_s: NOW_UNIX_S + 3600,
        addresses: vec![address(V4), address(V6)],
        attachments: vec![Attachment {
            relay: peer(2),
            addresses: vec![address(V6), address(V4)],
        }],
        reachability: Reachability::BehindNat,
        relays_for_others: true,
        offers: vec![([10, 0, 0, 0].into(), 8)],
        ..empty.clone()
    };
    let sign = |record: Record| {
        let signed = record.sign(&signer(), network());
        signed.expect("the record is well-formed").encode()
    };
    vec![sign(empty), sign(full)]
}

/// The payloads of [`signed_records`]: field 1, so tag and length before them.
pub(crate) fn record_payloads() -> Vec<Vec<u8>> {
    let records = signed_records().into_iter();
    let payload = |record: Vec<u8>| content(&record[1..]);
    records.map(payload).collect()
}

pub(crate) fn address_texts() -> Vec<Vec<u8>> {
    let text = |addr| peer_addr(addr).to_string().into_bytes();
    let websockets = websocket_addrs().map(|addr| addr.to_string().into_bytes());
    [text(V4), text(V6)].into_iter().chain(websockets).collect()
}

pub(crate) fn binary_addresses() -> Vec<Vec<u8>> {
    let with_peer = |addr| peer_addr(addr).to_multiaddr().to_vec();
    let websockets = websocket_addrs().map(|addr| addr.to_multiaddr().to_vec());
    let udp = [with_peer(V4), with_peer(V6), address(V4).to_vec()];
    udp.into_iter().chain(websockets).collect()
}

pub(crate) fn varints() -> Vec<Vec<u8>> {
    let longest = [[0xff; 8].as_slice(), &[0x7f]].concat();
    vec![vec![0], vec![0xac, 0x02, 0x7f], longest]
}

pub(crate) fn control_contents() -> Vec<Vec<u8>> {
    let record = signed_records().remove(1);
    let frames = [
        Query { peer: peer(3) }.encode(),
        Attached { relays: true }.encode(),
        Reach {
            address: ([192, 0, 2, 1], 4001).into(),
            nonce: 7,
        }
        .encode(),
        Reached { trying: true }.encode(),
        Answer {
            record: record.clone(),
            linked: true,
            related: vec![record.clone()],
        }
        .encode(),
        Hello { record }.encode(),
    ];
    frames.iter().map(|frame| content(frame)).collect()
}

pub(crate) fn nat_checks() -> Vec<Vec<u8>> {
    let request = |from, text| Request {
        from,
        at: socket(text),
    };
    [
        request(From::SamePort, V4).encode(),
        request(From::OtherPort, V6).encode(),
        request(From::Unasked, V4).encode(),
        Response::Pinging { port: 5000 }.encode(),
        Response::Refused("not now".to_owned()).encode(),
    ]
    .iter()
    .map(|frame| content(frame))
    .collect()
}

pub(crate) fn punch_offers() -> Vec<Vec<u8>> {
    let candidate = |text: &str, kind| Candidate {
        addr: socket(text),
        kind,
    };
    let hard = Profile {
        mapping: Some(Mapping::AddressAndPortDependent),
        filtering: Some(Filtering::AddressAndPortDependent),
        allocation: Some(Allocation::Sequential { step: -3 }),
        layers: Some(2),
        ..Profile::default()
    };
    let proposal = Offer {
        technique: Technique::Prediction,
        family: Family::V4,
        consent: true,
        reason: String::new(),
        candidates: vec![
            candidate(V4, CandidateKind::Observed),
            candidate(V6, CandidateKind::Interface),
        ],
        profiles: Profiles {
            v4: hard,
            v6: Profile::default(),
        },
        prediction: Some(Prediction {
            ip: socket(V4).ip(),
            first: 5000,
            step: -3,
            count: 16,
        }),
    };
    let refusal = Offer {
        technique: Technique::Birthday,
        consent: false,
        reason: "not now".to_owned(),
        candidates: Vec::new(),
        prediction: None,
        ..proposal.clone()
    };
    [proposal, refusal]
        .iter()
        .map(|offer| content(&offer.encode()))
        .collect()
}

pub(crate) fn circuit_contents() -> Vec<Vec<u8>> {
    let open = Open {
        target: peer(3),
        next: vec![peer(4), peer(5)],
        route: vec![peer(6)],
        hop_limit: 4,
        label: Label::from_bits(0x1234_5678),
    };
    let refused = CircuitAnswer::Refused(Refusal {
        by: peer(4),
        reason: RefusalReason::Full,
    });
    let opened = CircuitAnswer::Opened(Label::from_bits(u64::MAX));
    let frames = [open.encode(), refused.encode(), opened.encode()];
    frames.iter().map(|frame| content(frame)).collect()
}

pub(crate) fn route_contents() -> Vec<Vec<u8>> {
    let find = Find {
        nonce: 7,
        target: peer(3),
        hop_limit: 4,
        budget_ms: 900,
        route: vec![peer(4), peer(5)],
        avoid: vec![peer(6)],
    };
    let found = FindAnswer::Found(Found {
        path: vec![peer(4), peer(5)],
        record: signed_records().remove(1),
    });
    let nothing = FindAnswer::Nothing(Nothing {
        reached: 5,
        unanswered: 1,
        more_beyond: true,
        refusals: vec![Refusal {
            by: peer(4),
            reason: RefusalReason::NotRelaying,
        }],
    });
    let trace = Trace {
        rest: vec![peer(4), peer(5)],
        budget_ms: 1500,
    };
    let measured = Measured {
        sent: 5,
        answered: 4,
        rtt_us: 20_000,
    };
    let link = |to, result| LinkReport { to, result };
    let links = TraceAnswer {
        links: vec![
            link(peer(4), Ok(measured)),
            link(peer(5), Err(RefusalReason::NoLink)),
        ],
    };
    let sample = Sample {
        peers: vec![Known {
            record: signed_records().remove(0),
            known_s: 600,
        }],
    };
    let frames = [
        find.encode(),
        found.encode(),
        nothing.encode(),
        trace.encode(),
        links.encode(),
        sample.encode(),
    ];
    frames.iter().map(|frame| content(frame)).collect()
}

pub(crate) fn message_headers() -> Vec<Vec<u8>> {
    let header = Header {
        kind: "text".to_owned(),
        encoding: 1,
        len: 1 << 20,
        wants_reply: true,
        within_ms: 30_000,
    };
    vec![content(&header.encode())]
}

pub(crate) fn udp_payloads() -> Vec<Vec<u8>> {
    let peer_keys = ProbeKeys::new(&[7; PROBE_SECRET_LEN], false);
    let ping = peer_keys.seal(Probe::ping(1));
    let pong = peer_keys.seal(Probe::Pong {
        nonce: 2,
        observed: socket(V6),
    });
    let mut circuit = Label::from_bits(9).header().to_vec();
    circuit.extend_from_slice(b"datagram");
    vec![
        ping.to_vec(),
        pong.to_vec(),
        circuit,
        vec![0xc0, 0, 0, 0, 1],
    ]
}

pub(crate) fn websocket_streams() -> Vec<Vec<u8>> {
    let client = {
        let mut stream = vec![16];
        put_frame(
            &mut stream,
            Opcode::Message,
            &[0x40; 130],
            Some([1, 2, 3, 4]),
        );
        put_frame(&mut stream, Opcode::Pong, b"pong", Some([5, 6, 7, 8]));
        put_frame(&mut stream, Opcode::Message, b"datagram", Some([0; 4]));
        put_frame(&mut stream, Opcode::Close, &[], Some([9; 4]));
        stream
    };
    // A message in two fragments around a ping.
    let server = vec![
        7, 0x02, 0x03, b'o', b'n', b'e', 0x89, 0x00, 0x80, 0x03, b't', b'w', b'o',
    ];
    vec![client, server]
}

pub(crate) fn swarm_key_texts() -> Vec<Vec<u8>> {
    let key = SwarmKey::new(Epoch(1), std::array::from_fn(|i| i as u8));
    let base64 = "/key/swarm/psk/1.0.0/\n/base64/\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let mut bin = b"/key/swarm/psk/1.0.0/\n/bin/\n".to_vec();
    bin.extend_from_slice(key.secret());
    vec![
        key.to_text().as_bytes().to_vec(),
        base64.as_bytes().to_vec(),
        bin,
    ]
}

pub(crate) fn quic_packets() -> Vec<Vec<u8>> {
    let ring = KeyRing::new(SwarmKey::new(Epoch(1), [1; SWARM_KEY_LEN]));
    let stamps = Stamps::new(network(), &ring);
    let stamp = stamps.current().stamp([7; NONCE_LEN]);
    let ticket = stamps.current().ticket(&stamp, &signer(), peer(2));
    let ticket = ticket.expect("an Ed25519 key signs");
    let mut initial = vec![8, 0xc3, 0, 0, 0, 1, 20];
    initial.extend_from_slice(&stamp);
    initial.extend_from_slice(&[0, 0x40, 112]);
    initial.extend_from_slice(&ticket);
    initial.extend_from_slice(&[0x44, 0x9e]);
    let short = vec![8, 0x43, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    vec![initial, short]
}

pub(crate) fn proxy_requests() -> Vec<Vec<u8>> {
    vec![
        b"\x05\x01\0\x01\xc0\0\x02\x01\0\x50".to_vec(),
        b"\x05\x01\0\x03\x12laptop.home.anyhop\0\x16".to_vec(),
        b"\x05\x01\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x50".to_vec(),
        b"CONNECT laptop.home.anyhop:22 HTTP/1.1\r\nHost: laptop.home.anyhop:22\r\n\r\n".to_vec(),
        b"CONNECT [2001:db8::1]:443 HTTP/1.0\r\n\r\n".to_vec(),
    ]
}
