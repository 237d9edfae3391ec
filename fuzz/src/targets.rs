//! The targets: each takes any bytes, says whether they were valid, and panics only when
//! a property breaks.

mod broadcast;
mod job;
mod network;
mod vpn;

use anyhop_base::{
    Keypair, Multiaddr, NetworkId, NetworkName, PeerAddr, SignedRecord,
    codec::{MAX_VARINT_LEN, put_varint, take_varint},
    parse_multiaddr,
    record::{MAX_ATTACHMENTS, MAX_RECORD_ADDRESSES, MAX_RECORD_LEN},
};
use anyhop_proto::{
    FrameError,
    circuit::{Answer as CircuitAnswer, Open},
    control::{Answer, Attached, Hello, MAX_CONTROL_FRAME, Query, Reach, Reached},
    datagram::{Kind, Label, classify},
    message::Header,
    nat::check::{Request, Response},
    network::swarm::{
        Destination, Epoch, KeyRing, MAX_SWARM_KEY_TEXT, STAMP_LEN, SWARM_KEY_LEN, Stamps,
        SwarmKey, TICKET_LEN, destination, initial_token,
    },
    path::{MAX_CANDIDATES, MAX_PREDICTED, Offer, Prediction},
    probe::{PROBE_SECRET_LEN, ProbeKeys, read_token},
    proxy::{MAX_HTTP_HEAD, MAX_SOCKS_MESSAGE, greeting, http_request, socks_request},
    route::{Find, FindAnswer, Sample, Trace, TraceAnswer},
    take_frame,
    websocket::{Decoder, Frame, Sender, WebSocketError},
};

pub use broadcast::{topic_frames, topic_post};
pub use job::{call_frames, job_bid, job_call};
pub use network::{
    backup_text, charter, invitation_text, network_frames, network_state, statement_decode,
    statement_payload,
};

pub use vpn::{
    VPN_ADDRESSES, dns_query, ethernet_frame, firewall_packet, ip_packet, merged_packets,
    sealed_packet, vpn_secret,
};

/// The time at which records are read.
pub const NOW_UNIX_S: u64 = 1_800_000_000;

/// The network in which records are read.
#[must_use]
pub fn network() -> NetworkId {
    NetworkName::default().id()
}

/// The key that signs [`record_payload`]'s inputs.
///
/// # Panics
/// Never: any 32 bytes are an Ed25519 key.
#[must_use]
pub fn signer() -> Keypair {
    Keypair::ed25519_from_bytes([1; 32]).expect("32 bytes are a key")
}

/// A signed record as it arrives.
pub fn record_decode(data: &[u8]) -> bool {
    let Ok(signed) = SignedRecord::decode(data, network(), NOW_UNIX_S) else {
        return false;
    };
    let record = signed.record();
    assert!(data.len() <= MAX_RECORD_LEN);
    assert!(record.expires_unix_s > NOW_UNIX_S);
    assert!(record.addresses.len() <= MAX_RECORD_ADDRESSES);
    assert!(record.attachments.len() <= MAX_ATTACHMENTS);
    let attached = record.attachments.iter().flat_map(|a| &a.addresses);
    for address in record.addresses.iter().chain(attached) {
        let (_, peer) = parse_multiaddr(address).expect("only usable addresses are kept");
        assert_eq!(peer, None);
    }
    let again = SignedRecord::decode(&signed.encode(), network(), NOW_UNIX_S);
    assert_eq!(
        again.expect("what was believed once is believed again"),
        signed
    );
    true
}

/// A record's payload with a good signature, to get behind the check of it.
///
/// # Panics
/// As [`record_decode`].
pub fn record_payload(data: &[u8]) -> bool {
    let signed_bytes = [b"anyhop-record/1", &network().as_bytes()[..], data].concat();
    let signature = signer()
        .sign(&signed_bytes)
        .expect("Ed25519 signs anything");
    let mut envelope = Vec::with_capacity(data.len() + signature.len() + 8);
    for (tag, field) in [(0x0a, data), (0x12, &signature)] {
        envelope.push(tag);
        put_varint(&mut envelope, field.len() as u64);
        envelope.extend_from_slice(field);
    }
    record_decode(&envelope)
}

/// The text of a peer's address.
pub fn peer_addr_text(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let Ok(addr) = text.parse::<PeerAddr>() else {
        return false;
    };
    assert_eq!(Ok(addr), addr.to_string().parse(), "{text}");
    assert_ne!(addr.addr.addr().port(), 0);
    true
}

/// A multiaddr in binary.
pub fn multiaddr_binary(data: &[u8]) -> bool {
    let Ok(multiaddr) = Multiaddr::try_from(data.to_vec()) else {
        return false;
    };
    let Ok((addr, peer)) = parse_multiaddr(&multiaddr) else {
        return false;
    };
    let plain = addr.to_multiaddr().expect("what was parsed can be dialled");
    let again = match peer {
        Some(peer) => PeerAddr { peer, addr }.to_multiaddr(),
        None => plain,
    };
    assert_eq!(parse_multiaddr(&again), Ok((addr, peer)));
    true
}

/// Varints, one after the other.
pub fn varint(data: &[u8]) -> bool {
    let mut rest = data;
    while let before = rest
        && let Ok(Some(value)) = take_varint(&mut rest)
    {
        let mut again = Vec::new();
        put_varint(&mut again, value);
        assert!(again.len() <= MAX_VARINT_LEN);
        assert_eq!(again, before[..before.len() - rest.len()]);
    }
    rest.len() < data.len()
}

/// The content of the frames between neighbours. What is read survives another trip.
pub fn control_frames(data: &[u8]) -> bool {
    // Each is tried, whether or not another kind has fitted already.
    round_trip(Hello::decode(data), Hello::encode, Hello::decode)
        | round_trip(Query::decode(data), Query::encode, Query::decode)
        | round_trip(Answer::decode(data), Answer::encode, Answer::decode)
        | round_trip(Attached::decode(data), Attached::encode, Attached::decode)
        | round_trip(Reach::decode(data), Reach::encode, Reach::decode)
        | round_trip(Reached::decode(data), Reached::encode, Reached::decode)
}

/// The content of what both ends of a punch tell each other.
pub fn punch_offer(data: &[u8]) -> bool {
    let offer = Offer::decode(data);
    if let Ok(offer) = &offer {
        assert!(offer.candidates.len() <= MAX_CANDIDATES);
        assert!(offer.candidates.iter().all(|c| c.addr.port() != 0));
        let predicted = offer.prediction.iter().flat_map(Prediction::addresses);
        let mut predicted: Vec<_> = predicted.collect();
        assert!(predicted.len() <= usize::from(MAX_PREDICTED));
        predicted.sort_unstable();
        predicted.dedup();
        assert!(predicted.iter().all(|a| a.port() != 0));
    }
    round_trip(offer, Offer::encode, Offer::decode)
}

/// The content of the frames of a NAT check.
pub fn nat_check(data: &[u8]) -> bool {
    let request = Request::decode(data);
    if let Ok(request) = &request {
        assert_ne!(request.at.port(), 0);
        assert!(!request.at.ip().is_unspecified() && !request.at.ip().is_multicast());
    }
    round_trip(request, Request::encode, Request::decode)
        | round_trip(Response::decode(data), Response::encode, Response::decode)
}

/// The content of a circuit stream's frames.
pub fn circuit_frames(data: &[u8]) -> bool {
    let (encode, decode) = (CircuitAnswer::encode, CircuitAnswer::decode);
    round_trip(Open::decode(data), Open::encode, Open::decode)
        | round_trip(decode(data), encode, decode)
}

/// The content of the frames that search and trace ways.
pub fn route_frames(data: &[u8]) -> bool {
    let (encode, decode) = (TraceAnswer::encode, TraceAnswer::decode);
    round_trip(Trace::decode(data), Trace::encode, Trace::decode)
        | round_trip(Sample::decode(data), Sample::encode, Sample::decode)
        | round_trip(decode(data), encode, decode)
        | round_trip(Find::decode(data), Find::encode, Find::decode)
        | round_trip(
            FindAnswer::decode(data),
            FindAnswer::encode,
            FindAnswer::decode,
        )
}

/// The header of a message.
pub fn message_header(data: &[u8]) -> bool {
    round_trip(Header::decode(data), Header::encode, Header::decode)
}

/// Whatever arrives on the UDP socket, before any session is known.
pub fn udp_payload(data: &[u8]) -> bool {
    let kind = classify(data);
    if let Some(label) = Label::read(data) {
        assert_eq!(kind, Kind::Circuit);
        assert!(data.starts_with(&label.header()));
    }
    if read_token(data).is_some() {
        assert_eq!(kind, Kind::Probe);
    }
    let keys = ProbeKeys::new(&[7; PROBE_SECRET_LEN], true);
    if keys.open(data).is_some() {
        assert_eq!(read_token(data), Some(keys.token()));
    }
    let mut rest = data;
    while let Ok(Some(content)) = take_frame(&mut rest, MAX_CONTROL_FRAME) {
        assert!(content.len() <= MAX_CONTROL_FRAME);
    }
    kind != Kind::Unknown
}

/// A file with a swarm key.
pub fn swarm_key_text(data: &[u8]) -> bool {
    let Ok(key) = SwarmKey::from_text(Epoch(1), data) else {
        return false;
    };
    assert!(data.len() <= MAX_SWARM_KEY_TEXT);
    let again = SwarmKey::from_text(Epoch(1), key.to_text().as_bytes());
    assert_eq!(again, Ok(key));
    true
}

/// A QUIC packet that arrives at a private network's node. The first byte tells how long
/// connection ids are here.
pub fn quic_destination(data: &[u8]) -> bool {
    let Some((first, packet)) = data.split_first() else {
        return false;
    };
    let short = usize::from(first % 21);
    let found = destination(packet, short);
    match found {
        Some(Destination::Short { cid }) => {
            assert_eq!(packet[0] & 0x80, 0);
            assert_eq!(cid.len(), short);
        }
        Some(Destination::Long { cid, .. }) => assert_eq!(usize::from(packet[5]), cid.len()),
        None => {}
    }
    let cid = match found {
        Some(Destination::Short { cid } | Destination::Long { cid, .. }) => cid,
        None => return false,
    };
    let ring = KeyRing::new(SwarmKey::new(Epoch(1), [1; SWARM_KEY_LEN]));
    let stamps = Stamps::new(network(), &ring);
    let token = initial_token(packet).unwrap_or_default();
    assert!(token.len() < packet.len());
    if let Some((keys, _)) = stamps.recognise(cid) {
        assert_eq!(cid.len(), STAMP_LEN);
        let me = signer().public().to_peer_id();
        if keys.open_ticket(cid, me, token).is_some() {
            assert_eq!(token.len(), TICKET_LEN);
        }
    }
    true
}

/// Longest message in [`websocket_frames`].
const MAX_MESSAGE: usize = 2048;

/// One direction of a WebSocket. The first byte's lowest bit tells whose, the others how
/// much of it each read brings.
pub fn websocket_frames(data: &[u8]) -> bool {
    let Some((&first, stream)) = data.split_first() else {
        return false;
    };
    let sender = if first & 1 == 0 {
        Sender::Client
    } else {
        Sender::Server
    };
    let whole = websocket_messages(sender, stream, stream.len().max(1));
    let in_parts = websocket_messages(sender, stream, 1 + usize::from(first >> 1));
    assert_eq!(whole, in_parts, "reads change what a stream means");
    let Ok(messages) = whole else {
        return false;
    };
    let total: usize = messages.iter().map(Vec::len).sum();
    assert!(total <= stream.len());
    !messages.is_empty()
}

fn websocket_messages(
    sender: Sender,
    stream: &[u8],
    step: usize,
) -> Result<Vec<Vec<u8>>, WebSocketError> {
    let mut decoder = Decoder::new(sender, MAX_MESSAGE);
    let (mut buf, mut messages) = (Vec::new(), Vec::new());
    for part in stream.chunks(step) {
        buf.extend_from_slice(part);
        while let Some((len, frame)) = decoder.take(&mut buf)? {
            if let Frame::Message(message) = frame {
                assert!(message.len() <= MAX_MESSAGE);
                messages.push(message.to_vec());
            }
            assert!(len > 0);
            buf.drain(..len);
        }
    }
    Ok(messages)
}

fn round_trip<T: PartialEq + std::fmt::Debug>(
    read: Result<T, FrameError>,
    encode: fn(&T) -> Vec<u8>,
    decode: fn(&[u8]) -> Result<T, FrameError>,
) -> bool {
    let Ok(value) = read else {
        return false;
    };
    let frame = encode(&value);
    let content = take_frame(&mut &frame[..], usize::MAX)
        .expect("a frame of our own is well-formed")
        .expect("and complete");
    assert_eq!(decode(content).as_ref(), Ok(&value));
    true
}

/// What a client of a proxy says, in SOCKS after its greeting or in HTTP; valid when it asks for
/// a connection.
pub fn proxy_request(data: &[u8]) -> bool {
    if let Ok(Some((_, len))) = greeting(data) {
        assert!(len <= data.len());
    }
    let parsed = match data.first() {
        Some(5) => {
            assert!(data.len() < MAX_SOCKS_MESSAGE || socks_request(data) != Ok(None));
            socks_request(data)
        }
        _ => {
            assert!(data.len() < MAX_HTTP_HEAD || http_request(data) != Ok(None));
            http_request(data)
        }
    };
    let Ok(Some((request, len))) = parsed else {
        return false;
    };
    assert!(request.port > 0 && len <= data.len());
    // What comes behind it changes nothing.
    let more = [data, b"x"].concat();
    let again = match data.first() {
        Some(5) => socks_request(&more),
        _ => http_request(&more),
    };
    assert_eq!(again, Ok(Some((request, len))));
    true
}
