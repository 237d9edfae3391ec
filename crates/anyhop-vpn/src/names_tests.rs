use anyhop_base::Keypair;
use proptest::prelude::*;

use super::*;

const V4: &str = "100.113.254.123";
const V6: &str = "fd3a:4c41:9d20::7b";

fn peer(seed: u8) -> PeerId {
    let key = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
    key.public().to_peer_id()
}

fn member(seed: u8, name: &str, addresses: &[&str]) -> NamedMember {
    NamedMember {
        peer: peer(seed),
        name: name.to_owned(),
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
    }
}

fn zone() -> NameZone {
    let prefixes = ["100.113.0.0/16", "fd3a:4c41:9d20::/64"].map(|p| p.parse().unwrap());
    let members = [
        member(1, "owner", &["100.113.0.1", "fd3a:4c41:9d20::1"]),
        member(2, "laptop", &[V4, V6]),
        member(3, "v6only", &["fd3a:4c41:9d20::3"]),
        member(4, "abroad", &["192.0.2.7"]),
    ];
    NameZone::new("home", &prefixes, &members, 7)
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask(query: &Message) -> Message {
    match zone().answer(&query.to_vec().unwrap(), Transport::Udp) {
        Answer::Reply(reply) => Message::from_vec(&reply).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Code, and the data of what was answered.
fn asked(name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
    let reply = ask(&query(name, kind));
    assert!(reply.authoritative && reply.message_type == MessageType::Response);
    assert!(reply.recursion_desired && !reply.recursion_available);
    assert_eq!((reply.id, reply.queries.len()), (0x1234, 1));
    let soa = reply.authorities.iter().map(Record::record_type);
    let soa: Vec<_> = soa.collect();
    assert_eq!(
        soa.is_empty(),
        !reply.answers.is_empty(),
        "SOA exactly where nothing is"
    );
    let data = reply.answers.iter().map(|r| r.data.to_string());
    (reply.response_code, data.collect())
}

#[test]
fn members_are_found_by_name_and_by_peer_id_whatever_the_case() {
    let id = format!("{}.home.anyhop.", peer(2).to_base58());
    for name in ["laptop.home.anyhop.", "LapTop.HOME.anyhop.", &id] {
        let found = |kind| asked(name, kind);
        assert_eq!(
            found(RecordType::A),
            (ResponseCode::NoError, vec![V4.to_owned()])
        );
        assert_eq!(
            found(RecordType::AAAA),
            (ResponseCode::NoError, vec![V6.to_owned()])
        );
        assert_eq!(found(RecordType::ANY).1.len(), 2);
    }
    let reply = ask(&query("LapTop.home.anyhop.", RecordType::A));
    assert_eq!(reply.answers[0].name.to_ascii(), "LapTop.home.anyhop.");
}

#[test]
fn addresses_are_found_in_reverse() {
    let table = [
        ("123.254.113.100.in-addr.arpa.", "laptop.home.anyhop."),
        ("7.2.0.192.IN-ADDR.arpa.", "abroad.home.anyhop."),
        (
            "b.7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.d.9.1.4.c.4.a.3.d.f.ip6.arpa.",
            "laptop.home.anyhop.",
        ),
    ];
    for (name, expected) in table {
        let (code, data) = asked(name, RecordType::PTR);
        assert_eq!(
            (code, data),
            (ResponseCode::NoError, vec![expected.to_owned()]),
            "{name}"
        );
    }
}

#[test]
fn what_is_not_there_is_told_apart_from_what_has_no_such_record() {
    let table = [
        ("nobody.home.anyhop.", RecordType::A, ResponseCode::NXDomain),
        (
            "x.laptop.home.anyhop.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
        (
            "9.9.113.100.in-addr.arpa.",
            RecordType::PTR,
            ResponseCode::NXDomain,
        ),
        ("v6only.home.anyhop.", RecordType::A, ResponseCode::NoError),
        ("laptop.home.anyhop.", RecordType::MX, ResponseCode::NoError),
        ("home.anyhop.", RecordType::A, ResponseCode::NoError),
        (
            "254.113.100.in-addr.arpa.",
            RecordType::PTR,
            ResponseCode::NoError,
        ),
    ];
    for (name, kind, expected) in table {
        assert_eq!(asked(name, kind), (expected, Vec::new()), "{name} {kind}");
    }
}

#[test]
fn the_zone_has_a_start_of_authority_and_a_server() {
    for top in ["home.anyhop.", "113.100.in-addr.arpa."] {
        let (_, soa) = asked(top, RecordType::SOA);
        assert!(
            soa[0].starts_with("owner.home.anyhop. hostmaster.home.anyhop. 7 "),
            "{soa:?}"
        );
        assert_eq!(asked(top, RecordType::NS).1, ["owner.home.anyhop."]);
    }
    let reply = ask(&query("nobody.home.anyhop.", RecordType::A));
    let soa = &reply.authorities[0];
    assert_eq!(
        (soa.name.to_ascii().as_str(), soa.ttl),
        ("home.anyhop.", NEGATIVE_TTL_S)
    );
    assert_eq!(zone().domain(), "home.anyhop");
    let reverse = [
        "113.100.in-addr.arpa",
        "0.0.0.0.0.2.d.9.1.4.c.4.a.3.d.f.ip6.arpa",
    ];
    assert_eq!(zone().reverse_domains(), reverse);
}

#[test]
fn what_is_none_of_the_zones_is_left_to_others() {
    let names = [
        "example.org.",
        "laptop.other.anyhop.",
        "anyhop.",
        "laptop.",
        "1.1.168.192.in-addr.arpa.",
        "123.254.113.0100.in-addr.arpa.",
        "100.in-addr.arpa.",
        ".",
    ];
    for name in names {
        let query = query(name, RecordType::A).to_vec().unwrap();
        assert_eq!(
            zone().answer(&query, Transport::Udp),
            Answer::Outside,
            "{name}"
        );
        let refused = Message::from_vec(&refuse(&query).unwrap()).unwrap();
        assert_eq!(refused.response_code, ResponseCode::Refused);
        assert_eq!((refused.id, refused.queries.len()), (0x1234, 1));
    }
}

#[test]
fn transfers_other_classes_and_other_operations_are_refused() {
    let of = |query: &Message| ask(query).response_code;
    let transfer = query("home.anyhop.", RecordType::AXFR);
    assert_eq!(of(&transfer), ResponseCode::Refused);
    let mut chaos = query("laptop.home.anyhop.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(of(&chaos), ResponseCode::Refused);
    let mut status = query("laptop.home.anyhop.", RecordType::A);
    status.metadata.op_code = OpCode::Notify;
    assert_eq!(of(&status), ResponseCode::NotImp);
    let mut two = query("laptop.home.anyhop.", RecordType::A);
    two.add_query(two.queries[0].clone());
    assert_eq!(of(&two), ResponseCode::FormErr);
    let mut newer = query("laptop.home.anyhop.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    // Of 16, which has a second name.
    assert_eq!(u16::from(of(&newer)), u16::from(ResponseCode::BADVERS));
}

#[test]
fn no_answer_is_given_to_what_is_no_query() {
    let whole = query("laptop.home.anyhop.", RecordType::A)
        .to_vec()
        .unwrap();
    for len in 0..HEADER_LEN {
        assert_eq!(
            zone().answer(&whole[..len], Transport::Udp),
            Answer::Nothing
        );
        assert_eq!(refuse(&whole[..len]), None);
    }
    let Answer::Reply(reply) = zone().answer(&whole, Transport::Udp) else {
        panic!("it is one");
    };
    assert_eq!(zone().answer(&reply, Transport::Udp), Answer::Nothing);
    assert_eq!(refuse(&reply), None);
    let cut = zone().answer(&whole[..HEADER_LEN + 3], Transport::Udp);
    let Answer::Reply(cut) = cut else {
        panic!("{cut:?}")
    };
    let cut = Message::from_vec(&cut).unwrap();
    assert_eq!((cut.id, cut.response_code), (0x1234, ResponseCode::FormErr));
}

#[test]
fn an_answer_too_long_for_its_datagram_is_cut_and_whole_over_tcp() {
    let addresses: Vec<_> = (0..60)
        .map(|n| format!("fd3a:4c41:9d20::1:{n:x}"))
        .collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let zone = NameZone::new("home", &[], &[member(1, "many", &addresses)], 1);
    let plain = query("many.home.anyhop.", RecordType::AAAA);
    let mut large = plain.clone();
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    large.set_edns(edns);
    let table = [
        (&plain, Transport::Udp, true, 512),
        (&large, Transport::Udp, true, 1232),
        (&plain, Transport::Tcp, false, 65_535),
    ];
    for (query, transport, cut, limit) in table {
        let Answer::Reply(bytes) = zone.answer(&query.to_vec().unwrap(), transport) else {
            panic!("{transport:?}");
        };
        let reply = Message::from_vec(&bytes).unwrap();
        assert!(bytes.len() <= limit, "{transport:?} {}", bytes.len());
        assert_eq!((reply.truncation, reply.answers.is_empty()), (cut, cut));
        assert_eq!(reply.edns.is_some(), query.edns.is_some());
    }
}

#[test]
fn the_answer_is_pinned() {
    let query = query("laptop.home.anyhop.", RecordType::A)
        .to_vec()
        .unwrap();
    let Answer::Reply(reply) = zone().answer(&query, Transport::Udp) else {
        panic!("it is the zone's");
    };
    let expected = b"\x12\x34\x85\x00\0\x01\0\x01\0\0\0\0\
        \x06laptop\x04home\x06anyhop\0\0\x01\0\x01\
        \xc0\x0c\0\x01\0\x01\0\0\0\x1e\0\x04\x64\x71\xfe\x7b";
    assert_eq!(reply, expected);
}

#[test]
fn names_that_are_no_labels_become_some_and_stay_apart() {
    let table = [
        ("laptop", "laptop"),
        ("Bob's Mac", "bob-s-mac"),
        ("-a_b.c-", "a-b-c"),
        ("grün", "gr-n"),
        ("", "x"),
        ("...", "x"),
    ];
    for (name, label) in table {
        assert_eq!(dns_label(name), label);
    }
    assert_eq!(dns_label(&"a".repeat(80)).len(), MAX_LABEL);
    let long = "a".repeat(MAX_LABEL);
    let members = [
        member(1, "a.b", &["10.0.0.1"]),
        member(2, "a_b", &["10.0.0.2"]),
        member(3, "a b", &["10.0.0.3"]),
        member(4, &long, &["10.0.0.4"]),
        member(5, &long, &["10.0.0.5"]),
    ];
    let zone = NameZone::new("My.Net", &[], &members, 1);
    assert_eq!(zone.domain(), "my-net.anyhop");
    let labels = [
        "a-b",
        "a-b-2",
        "a-b-3",
        &long,
        &format!("{}-2", "a".repeat(61)),
    ];
    for (label, member) in labels.iter().zip(&members) {
        assert_eq!(zone.forward.get(*label), Some(&member.addresses), "{label}");
        assert_eq!(zone.reverse[&member.addresses[0]], **label);
    }
}

proptest! {
    #[test]
    fn whatever_comes_is_answered_within_its_limit_or_not_at_all(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        if let Answer::Reply(reply) = zone().answer(&bytes, Transport::Udp) {
            prop_assert!(reply.len() <= usize::from(MAX_UDP_ANSWER));
            prop_assert_eq!(&reply[..2], &bytes[..2]);
            prop_assert!(reply[2] & 0x80 != 0);
        }
    }

    #[test]
    fn every_address_has_one_reverse_name(bits in any::<u128>(), v4 in any::<bool>()) {
        let ip = match v4 {
            true => IpAddr::from(Ipv4Addr::from_bits(bits as u32)),
            false => IpAddr::from(Ipv6Addr::from_bits(bits)),
        };
        let host = Prefix::host(ip);
        let name = Name::from_ascii(reverse_of(ip, host.len()) + ".").unwrap();
        prop_assert_eq!(reversed(&name), Some(host));
    }
}
