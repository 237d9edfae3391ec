use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::{NetworkName, quic_multiaddr};

const NOW: u64 = 1_800_000_000;

fn key(seed: u8) -> Keypair {
    Keypair::ed25519_from_bytes([seed; 32]).unwrap()
}

fn peer(seed: u8) -> PeerId {
    key(seed).public().to_peer_id()
}

fn main_net() -> NetworkId {
    NetworkName::default().id()
}

fn address(text: &str) -> Multiaddr {
    quic_multiaddr(text.parse().unwrap()).unwrap()
}

fn sample() -> Record {
    Record {
        peer: peer(1),
        seq: 7,
        expires_unix_s: NOW + 3600,
        addresses: vec![address("192.0.2.1:4001"), address("[2001:db8::1]:4001")],
        attachments: vec![Attachment {
            relay: peer(2),
            addresses: vec![address("198.51.100.9:443")],
        }],
        reachability: Reachability::BehindNat,
        relays_for_others: true,
        offers: Vec::new(),
    }
}

fn decode(bytes: &[u8]) -> Result<SignedRecord, RecordError> {
    SignedRecord::decode(bytes, main_net(), NOW)
}

/// Signs payload bytes that [`Record::sign`] would not make.
fn sign_payload(payload: Vec<u8>) -> Vec<u8> {
    let signature = key(1).sign(&signed_bytes(main_net(), &payload)).unwrap();
    wire::Envelope { payload, signature }.encode_to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn a_signed_record_round_trips() {
    let signed = sample().sign(&key(1), main_net()).unwrap();
    assert_eq!(signed.record(), &sample());
    let back = decode(&signed.encode()).unwrap();
    assert_eq!(back, signed);
}

/// Pins the wire format, signature included (Ed25519 signatures are deterministic).
#[test]
fn the_bytes_of_a_record_are_stable() {
    let signed = sample().sign(&key(1), main_net()).unwrap();
    assert_eq!(hex(&signed.encode()), include_str!("golden.hex").trim());
}

#[test]
fn a_full_record_fits_and_one_more_of_anything_does_not() {
    let v6 = |n: usize| address(&format!("[2001:db8::{n}]:65535"));
    let mut full = sample();
    full.addresses = (1..=MAX_RECORD_ADDRESSES).map(v6).collect();
    full.attachments = (0..MAX_ATTACHMENTS)
        .map(|n| Attachment {
            relay: peer(10 + n as u8),
            addresses: (1..=MAX_ATTACHMENT_ADDRESSES).map(v6).collect(),
        })
        .collect();
    let signed = full.sign(&key(1), main_net()).unwrap();
    assert_eq!(decode(&signed.encode()).unwrap().record(), &full);

    let mut more: [Record; 3] = std::array::from_fn(|_| full.clone());
    more[0].addresses.push(v6(99));
    more[1].attachments.push(full.attachments[0].clone());
    more[2].attachments[1].addresses.push(v6(99));
    for record in more {
        let error = record.sign(&key(1), main_net()).unwrap_err();
        assert!(matches!(error, RecordError::TooMany { .. }), "{error}");
        let bytes = sign_payload(wire::Payload::from(&record).encode_to_vec());
        let error = decode(&bytes).unwrap_err();
        assert!(matches!(error, RecordError::TooMany { .. }), "{error}");
    }
}

#[test]
fn any_changed_bit_is_found() {
    let bytes = sample().sign(&key(1), main_net()).unwrap().encode();
    for i in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[i / 8] ^= 1 << (i % 8);
        assert!(decode(&bad).is_err(), "bit {i}");
    }
}

#[test]
fn a_record_is_worth_nothing_in_another_network() {
    let bytes = sample().sign(&key(1), main_net()).unwrap().encode();
    let other = NetworkName::new("other").unwrap().id();
    let error = SignedRecord::decode(&bytes, other, NOW).unwrap_err();
    assert!(matches!(error, RecordError::Signature { peer: p } if p == peer(1)));
}

#[test]
fn nobody_signs_for_another() {
    let error = sample().sign(&key(2), main_net()).unwrap_err();
    assert!(matches!(error, RecordError::OtherSigner { .. }));

    let payload = wire::Payload::from(&sample()).encode_to_vec();
    let signature = key(2).sign(&signed_bytes(main_net(), &payload)).unwrap();
    let forged = wire::Envelope { payload, signature }.encode_to_vec();
    let error = decode(&forged).unwrap_err();
    assert!(matches!(error, RecordError::Signature { .. }));
}

#[test]
fn expiry_is_neither_past_nor_too_far_ahead() {
    let at = |expires_unix_s| {
        let record = Record {
            expires_unix_s,
            ..sample()
        };
        decode(&record.sign(&key(1), main_net()).unwrap().encode())
    };
    assert!(matches!(
        at(0),
        Err(RecordError::Expired { ago_s: NOW, .. })
    ));
    assert!(matches!(
        at(NOW),
        Err(RecordError::Expired { ago_s: 0, .. })
    ));
    assert!(at(NOW + 1).is_ok());
    let latest = NOW + MAX_RECORD_LIFETIME_S + MAX_CLOCK_SKEW_S;
    assert!(at(latest).is_ok());
    for expiry in [latest + 1, u64::MAX] {
        let error = at(expiry).unwrap_err();
        assert!(matches!(error, RecordError::ExpiresTooLate { .. }));
    }
}

#[test]
fn useless_addresses_are_never_signed() {
    let named = address("192.0.2.1:1").with(multiaddr::Protocol::P2p(peer(1)));
    for bad in [
        "/ip4/192.0.2.1/udp/0/quic-v1".parse().unwrap(),
        "/ip4/0.0.0.0/udp/1/quic-v1".parse().unwrap(),
        "/ip4/192.0.2.1/tcp/1".parse().unwrap(),
        named,
    ] {
        let mut direct = sample();
        direct.addresses.push(bad);
        let mut attached = sample();
        attached.attachments[0].addresses = direct.addresses.clone();
        for record in [direct, attached] {
            let error = record.sign(&key(1), main_net()).unwrap_err();
            assert!(
                matches!(
                    error,
                    RecordError::Address(_) | RecordError::AddressNamesPeer(_)
                ),
                "{error}"
            );
        }
    }
}

#[test]
fn addresses_this_version_cannot_dial_are_left_out_and_passed_on() {
    let mut record = sample();
    let good = record.addresses.clone();
    record
        .addresses
        .push("/ip4/192.0.2.1/udp/0/quic-v1".parse().unwrap());
    record.addresses.push(
        "/ip4/192.0.2.1/udp/443/quic-v1/webtransport"
            .parse()
            .unwrap(),
    );
    let bytes = sign_payload(wire::Payload::from(&record).encode_to_vec());
    let signed = decode(&bytes).unwrap();
    assert_eq!(signed.record().addresses, good);
    assert_eq!(signed.encode(), bytes);
}

#[test]
fn fields_of_later_versions_are_ignored_and_passed_on() {
    // Field 15, varint 1; field 16, two bytes.
    let later = [0x78, 0x01, 0x82, 0x01, 0x02, 0xaa, 0xbb];
    let mut payload = wire::Payload::from(&sample()).encode_to_vec();
    payload.extend_from_slice(&later);
    let bytes = sign_payload(payload);
    let signed = decode(&bytes).unwrap();
    assert_eq!(signed.record(), &sample());
    assert_eq!(signed.encode(), bytes);

    let around = [bytes.as_slice(), &later].concat();
    assert_eq!(decode(&around).unwrap().record(), &sample());
}

#[test]
fn an_unknown_reachability_is_read_as_unknown() {
    let payload = wire::Payload::from(&Record {
        reachability: Reachability::Unknown,
        ..sample()
    });
    // Field 6, varint 9.
    let bytes = sign_payload([payload.encode_to_vec(), vec![0x30, 9]].concat());
    let record = decode(&bytes).unwrap();
    assert_eq!(record.record().reachability, Reachability::Unknown);
}

#[test]
fn offers_are_these_bytes_and_what_is_none_is_left_out() {
    let record = Record {
        offers: vec![
            ("192.168.7.0".parse().unwrap(), 24),
            ("::".parse().unwrap(), 0),
        ],
        ..sample()
    };
    let plain = wire::Payload::from(&sample()).encode_to_vec();
    let bytes = wire::Payload::from(&record).encode_to_vec();
    let tail = format!("420518c0a807004211{}", "00".repeat(17));
    assert_eq!(hex(&bytes[plain.len()..]), tail);
    // Longer than its family has, and of no family.
    let odd = [&bytes[..], &[0x42, 5, 33, 1, 2, 3, 4, 0x42, 2, 1, 1]].concat();
    let read = decode(&sign_payload(odd)).unwrap();
    assert_eq!(read.record().offers, record.offers);
    let many = [plain, [0x42, 5, 8, 10, 0, 0, 0].repeat(MAX_OFFERS + 1)].concat();
    let error = decode(&sign_payload(many)).unwrap_err();
    assert!(matches!(error, RecordError::TooMany { what: "offers", .. }));
}

#[test]
fn an_id_without_a_key_in_it_signs_nothing() {
    // A SHA-256 multihash, as RSA peers have.
    let hashed = PeerId::from_bytes(&[&[0x12, 0x20][..], &[7; 32]].concat()).unwrap();
    let record = Record {
        peer: hashed,
        ..sample()
    };
    let bytes = sign_payload(wire::Payload::from(&record).encode_to_vec());
    assert!(matches!(decode(&bytes), Err(RecordError::NotANodeKey(p)) if p == hashed));
    assert!(matches!(
        decode(&sign_payload(Vec::new())),
        Err(RecordError::BadPeerId)
    ));
}

#[test]
fn a_record_over_the_size_limit_is_not_looked_at() {
    let error = decode(&[0; MAX_RECORD_LEN + 1]).unwrap_err();
    assert!(matches!(error, RecordError::TooLarge { len } if len == MAX_RECORD_LEN + 1));
}

#[test]
fn a_higher_sequence_number_of_the_same_peer_is_newer() {
    let signed = |seed: u8, seq| {
        let record = Record {
            peer: peer(seed),
            seq,
            ..sample()
        };
        record.sign(&key(seed), main_net()).unwrap()
    };
    assert!(signed(1, 8).is_newer_than(&signed(1, 7)));
    assert!(!signed(1, 7).is_newer_than(&signed(1, 7)));
    assert!(!signed(1, 6).is_newer_than(&signed(1, 7)));
    assert!(!signed(2, 8).is_newer_than(&signed(1, 7)));
}

fn some_addresses(max: usize) -> impl Strategy<Value = Vec<Multiaddr>> {
    let address = any::<SocketAddr>().prop_filter_map("not dialable", |a| quic_multiaddr(a).ok());
    prop::collection::vec(address, 0..=max)
}

prop_compose! {
    fn some_attachment()(
        seed: u8,
        addresses in some_addresses(MAX_ATTACHMENT_ADDRESSES),
    ) -> Attachment {
        Attachment { relay: peer(seed), addresses }
    }
}

fn some_offer() -> impl Strategy<Value = (IpAddr, u8)> {
    prop_oneof![
        (any::<Ipv4Addr>(), 0..=32_u8).prop_map(|(ip, len)| (ip.into(), len)),
        (any::<Ipv6Addr>(), 0..=128_u8).prop_map(|(ip, len)| (ip.into(), len)),
    ]
}

prop_compose! {
    fn some_record()(
        seed: u8,
        seq: u64,
        life in 1..=MAX_RECORD_LIFETIME_S,
        addresses in some_addresses(MAX_RECORD_ADDRESSES),
        attachments in prop::collection::vec(some_attachment(), 0..=MAX_ATTACHMENTS),
        reachability in prop::sample::select(vec![
            Reachability::Unknown, Reachability::Public, Reachability::BehindNat,
        ]),
        relays_for_others: bool,
        offers in prop::collection::vec(some_offer(), 0..=MAX_OFFERS),
    ) -> (Keypair, Record) {
        let record = Record {
            peer: peer(seed),
            seq,
            expires_unix_s: NOW + life,
            addresses,
            attachments,
            reachability,
            relays_for_others,
            offers,
        };
        (key(seed), record)
    }
}

proptest! {
    #[test]
    fn every_record_round_trips((key, record) in some_record()) {
        let signed = record.sign(&key, main_net()).unwrap();
        let bytes = signed.encode();
        prop_assert!(bytes.len() <= MAX_RECORD_LEN);
        let back = decode(&bytes).unwrap();
        prop_assert_eq!(back.record(), &record);
        prop_assert_eq!(back.encode(), bytes);
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(decode(&bytes).is_err());
    }

    /// Reaches what lies behind the signature check.
    #[test]
    fn arbitrary_signed_payloads_do_no_harm(
        tail in prop::collection::vec(any::<u8>(), 0..256),
    ) {
        let head = wire::Payload::from(&sample()).encode_to_vec();
        let bytes = sign_payload([head, tail].concat());
        if let Ok(signed) = decode(&bytes) {
            prop_assert_eq!(signed.encode(), bytes);
        }
    }
}
