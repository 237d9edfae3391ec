use std::net::{Ipv4Addr, Ipv6Addr};

use anyhop_base::NetworkName;
use proptest::prelude::*;

use super::*;
use crate::network::testing::{NOW, charter, keypair, peer};

fn authority() -> Signer {
    Signer::Authority(keypair(1))
}

fn appointment(admin: u8, term: u64, standing: bool) -> Statement {
    let body = Body::Appointment(Appointment {
        admin: peer(admin),
        term,
        standing,
        issued_unix_s: NOW,
    });
    Statement::sign(body, &authority(), &charter()).unwrap()
}

fn admin(seed: u8, term: u64) -> Signer {
    Signer::Admin {
        keypair: keypair(seed),
        appointment: Arc::new(appointment(seed, term, true)),
    }
}

fn certificate(of: u8) -> Certificate {
    Certificate {
        peer: peer(of),
        version: 1,
        name: "laptop".parse().unwrap(),
        role: Role::Member,
        overlay: Vec::new(),
        opt_outs: OptOuts::default(),
        issued_unix_s: NOW,
        expires_unix_s: NOW + 3600,
    }
}

fn epoch() -> Body {
    Body::Epoch(EpochNotice {
        epoch: Epoch(7),
        key: KeyId([9; 32]),
        issued_unix_s: NOW,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Pins the payloads: a change would make every certificate worthless.
#[test]
fn the_bytes_of_payloads_are_stable() {
    let full = Certificate {
        version: 300,
        role: Role::Owner,
        overlay: vec![
            Ipv4Addr::new(10, 1, 2, 3).into(),
            Ipv6Addr::LOCALHOST.into(),
        ],
        opt_outs: OptOuts {
            no_relaying: true,
            no_signalling: true,
            stealth: true,
        },
        ..certificate(2)
    };
    let revocation = Revocation {
        peer: peer(2),
        version: 2,
        issued_unix_s: NOW,
    };
    let appointed = appointment(2, 3, true).body;
    let id = hex(&peer(2).to_bytes());
    let cases = [
        (
            Body::Certificate(full),
            format!(
                "1880a4a7da06\
                 22590a26{id}10ac021a066c6170746f702001\
                 2a040a0102032a1000000000000000000000000000000001300138014001\
                 4890c0a7da06"
            ),
        ),
        (
            Body::Revocation(revocation),
            format!("1880a4a7da062a2a0a26{id}1002"),
        ),
        (appointed, format!("1880a4a7da06322c0a26{id}10031801")),
        (
            epoch(),
            format!("1880a4a7da063a2408071220{}", "09".repeat(32)),
        ),
    ];
    for (body, expected) in cases {
        let statement = Statement::sign(body, &authority(), &charter()).unwrap();
        assert_eq!(hex(&statement.envelope.payload), expected);
    }
    let of_admin = Statement::sign(epoch(), &admin(2, 3), &charter()).unwrap();
    let payload = hex(&of_admin.envelope.payload);
    assert!(payload.starts_with(&format!("0a26{id}1003")), "{payload}");
}

/// Pins domain, network id and signature around the payload.
#[test]
fn the_signature_of_a_statement_is_stable() {
    let statement = Statement::sign(epoch(), &authority(), &charter()).unwrap();
    assert_eq!(hex(&statement.id()), "c68b95252849352c39252623fafcd6d7");
    assert_eq!(
        hex(&statement.envelope.signature),
        "27ed041f7a77ad2d8fb6779544a336b146523bf6c447a5ae1e126bf14160c7bf9c20e8b946810ba46607a8446465dedf4de6c79ce9d5e5807c00dbfa6323730b"
    );
    let key = SwarmKey::new(Epoch(7), [5; 32]);
    assert_eq!(
        hex(&KeyId::of(&key, &charter()).0),
        "e9b2cef642d7e53bc6beeda51b3ee1804a6c6d746fafafb4d1f2220ed05d5cea"
    );
}

#[test]
fn an_admins_statement_is_checked_with_nothing_but_the_charter() {
    let body = Body::Certificate(certificate(5));
    let statement = Statement::sign(body.clone(), &admin(2, 3), &charter()).unwrap();
    let read = Statement::decode(&statement.encode(), &charter()).unwrap();
    assert_eq!(read, statement);
    assert_eq!(read.body(), &body);
    let term = Issuer::Admin {
        peer: peer(2),
        term: 3,
    };
    assert_eq!(read.issuer(), term);
    assert_eq!(read.appointment(), Some(&Arc::new(appointment(2, 3, true))));
}

#[test]
fn a_statement_is_worth_nothing_in_another_network_or_under_another_authority() {
    let statement = Statement::sign(epoch(), &authority(), &charter()).unwrap();
    let renamed = Charter::new("other".parse().unwrap(), peer(1)).unwrap();
    let usurped = Charter::new("lab".parse().unwrap(), peer(9)).unwrap();
    for other in [renamed, usurped] {
        let error = Statement::decode(&statement.encode(), &other).unwrap_err();
        assert_eq!(error, StatementError::Signature);
    }
    let public = NetworkName::new("lab").unwrap().id();
    assert_ne!(charter().id(), public);
}

#[test]
fn any_changed_byte_of_a_statement_is_noticed() {
    let body = Body::Certificate(certificate(5));
    let statement = Statement::sign(body, &admin(2, 3), &charter()).unwrap();
    let good = statement.encode();
    for i in 0..good.len() {
        let mut bad = good.clone();
        bad[i] ^= 1;
        if let Ok(read) = Statement::decode(&bad, &charter()) {
            assert_eq!(read, statement, "byte {i}");
        }
    }
}

#[test]
fn only_who_is_appointed_signs_and_only_what_is_an_admins_to_say() {
    let with = |appointment: Statement| Signer::Admin {
        keypair: keypair(2),
        appointment: Arc::new(appointment),
    };
    for wrong in [appointment(3, 1, true), appointment(2, 1, false)] {
        let error = Statement::sign(epoch(), &with(wrong), &charter()).unwrap_err();
        assert_eq!(error, StatementError::NotAppointed);
    }
    let owner = Certificate {
        role: Role::Owner,
        ..certificate(2)
    };
    for body in [
        Body::Certificate(owner),
        appointment(5, 1, true).body().clone(),
    ] {
        let error = Statement::sign(body, &admin(2, 1), &charter()).unwrap_err();
        assert!(matches!(error, StatementError::AuthorityOnly(_)), "{error}");
    }
    let stranger = Signer::Authority(keypair(9));
    let error = Statement::sign(epoch(), &stranger, &charter()).unwrap_err();
    assert_eq!(error, StatementError::OtherAuthority);
}

/// A statement signed by hand, as an attacker would.
fn forged(issuer: Issuer, body: &Body, signer: &Keypair, appointment: Vec<u8>) -> Vec<u8> {
    let payload = wire::Payload::new(issuer, body).encode_to_vec();
    let signature = signer.sign(&signed_bytes(&charter(), &payload)).unwrap();
    let envelope = wire::Envelope {
        payload,
        signature,
        appointment,
    };
    envelope.encode_to_vec()
}

#[test]
fn statements_of_those_who_were_not_appointed_are_refused() {
    let body = Body::Certificate(certificate(5));
    let as_admin = |term| Issuer::Admin {
        peer: peer(2),
        term,
    };
    let other_admin = appointment(3, 1, true).encode();
    let ended = appointment(2, 1, false).encode();
    let own = Statement::sign(epoch(), &authority(), &charter()).unwrap();
    let by_an_admin = forged(
        as_admin(1),
        appointment(2, 2, true).body(),
        &keypair(2),
        appointment(2, 1, true).encode(),
    );
    for wrong in [Vec::new(), other_admin, ended, own.encode(), by_an_admin] {
        let bytes = forged(as_admin(1), &body, &keypair(2), wrong);
        let error = Statement::decode(&bytes, &charter()).unwrap_err();
        assert_eq!(error, StatementError::NotAppointed);
    }
    let other_term = forged(
        as_admin(2),
        &body,
        &keypair(2),
        appointment(2, 1, true).encode(),
    );
    let error = Statement::decode(&other_term, &charter()).unwrap_err();
    assert_eq!(error, StatementError::NotAppointed);
    let not_the_authority = forged(Issuer::Authority, &body, &keypair(2), Vec::new());
    let error = Statement::decode(&not_the_authority, &charter()).unwrap_err();
    assert_eq!(error, StatementError::Signature);
    let owner = Body::Certificate(Certificate {
        role: Role::Owner,
        ..certificate(2)
    });
    let self_made = forged(
        as_admin(1),
        &owner,
        &keypair(2),
        appointment(2, 1, true).encode(),
    );
    let error = Statement::decode(&self_made, &charter()).unwrap_err();
    assert!(matches!(error, StatementError::AuthorityOnly(_)), "{error}");
}

#[test]
fn fields_of_later_versions_are_ignored_and_passed_on() {
    let mut payload = wire::Payload::new(Issuer::Authority, &epoch()).encode_to_vec();
    payload.extend([0xf2, 0x07, 3, b'n', b'e', b'w']);
    let signature = keypair(1)
        .sign(&signed_bytes(&charter(), &payload))
        .unwrap();
    let envelope = wire::Envelope {
        payload,
        signature,
        appointment: Vec::new(),
    };
    let bytes = envelope.encode_to_vec();
    let read = Statement::decode(&bytes, &charter()).unwrap();
    assert_eq!(read.body(), &epoch());
    assert_eq!(read.encode(), bytes);
}

#[test]
fn the_largest_statement_fits_and_a_larger_one_is_refused() {
    let mut largest = Certificate {
        version: u64::MAX,
        name: MemberName::new("x".repeat(MAX_MEMBER_NAME_LEN)).unwrap(),
        overlay: vec![Ipv6Addr::LOCALHOST.into(); MAX_OVERLAY_ADDRESSES],
        opt_outs: OptOuts {
            no_relaying: true,
            no_signalling: true,
            stealth: true,
        },
        issued_unix_s: u64::MAX,
        expires_unix_s: u64::MAX,
        ..certificate(5)
    };
    let signer = admin(2, u64::MAX);
    let body = Body::Certificate(largest.clone());
    let statement = Statement::sign(body, &signer, &charter()).unwrap();
    Statement::decode(&statement.encode(), &charter()).unwrap();
    largest.overlay.push(Ipv6Addr::LOCALHOST.into());
    let error = Statement::sign(Body::Certificate(largest), &signer, &charter()).unwrap_err();
    assert_eq!(error, StatementError::TooManyAddresses { count: 9 });
    let error = Statement::decode(&[0; MAX_POLICY_LEN + 1], &charter()).unwrap_err();
    let (len, limit) = (4097, MAX_POLICY_LEN);
    assert_eq!(error, StatementError::TooLarge { len, limit });
    // Padded with a field that nobody knows, under a good signature.
    let mut payload = wire::Payload::new(Issuer::Authority, &epoch()).encode_to_vec();
    payload.extend([0xfa, 0x07, 0xe8, 0x07]);
    payload.resize(payload.len() + 1000, 0);
    let signed = keypair(1).sign(&signed_bytes(&charter(), &payload));
    let envelope = wire::Envelope {
        payload,
        signature: signed.unwrap(),
        appointment: Vec::new(),
    };
    let padded = Statement::decode(&envelope.encode_to_vec(), &charter()).unwrap_err();
    let limit = MAX_STATEMENT_LEN;
    assert!(matches!(padded, StatementError::TooLarge { limit: l, .. } if l == limit));
}

fn policy(rules: &[&str]) -> Body {
    let rules = (1..).zip(rules);
    Body::Policy(Policy {
        version: 9,
        default: Some(Verdict::Deny),
        rules: rules
            .map(|(id, rule)| PolicyRule {
                id,
                rule: rule.parse().unwrap(),
            })
            .collect(),
        issued_unix_s: NOW,
    })
}

/// Pins the payload, as for the other kinds.
#[test]
fn the_bytes_of_a_policy_are_stable() {
    let peer_rule = format!("deny both peer:{} any any", peer(2));
    let body = policy(&[
        "allow in role:admin tcp 22",
        &peer_rule,
        "deny out name:nas udp 1-65535",
        "allow in any icmp any",
    ]);
    let id = hex(&peer(2).to_bytes());
    let rules = [
        "1a1008011001180130023806420408161016".to_owned(),
        format!("1a2c080210022226{id}"),
        "1a150803100218022a036e617338114206080110ffff03".to_owned(),
        "1a08080410011801 3801".replace(' ', ""),
    ];
    let content = format!("08091002{}", rules.concat());
    let statement = Statement::sign(body.clone(), &authority(), &charter()).unwrap();
    let expected = format!("1880a4a7da0642{:02x}{content}", content.len() / 2);
    assert_eq!(hex(&statement.envelope.payload), expected);
    let read = Statement::decode(&statement.encode(), &charter()).unwrap();
    assert_eq!(read.body(), &body);
}

#[test]
fn a_policy_is_the_authoritys_or_an_admins_and_has_its_limits() {
    let body = policy(&["deny in any any any"]);
    Statement::sign(body.clone(), &admin(2, 3), &charter()).unwrap();
    // A member signs it as if it were an admin, or the authority.
    let member = Issuer::Admin {
        peer: peer(5),
        term: 1,
    };
    let forgeries = [
        (
            forged(member, &body, &keypair(5), Vec::new()),
            StatementError::NotAppointed,
        ),
        (
            forged(member, &body, &keypair(5), appointment(2, 1, true).encode()),
            StatementError::NotAppointed,
        ),
        (
            forged(Issuer::Authority, &body, &keypair(5), Vec::new()),
            StatementError::Signature,
        ),
    ];
    for (bytes, refused) in forgeries {
        let error = Statement::decode(&bytes, &charter()).unwrap_err();
        assert_eq!(error, refused);
    }
    let many = policy(&vec!["deny in any any any"; MAX_POLICY_RULES + 1]);
    let error = Statement::sign(many, &authority(), &charter()).unwrap_err();
    assert_eq!(error, StatementError::TooManyRules { count: 65 });
    let long = format!("deny in name:{} any any", "x".repeat(63));
    let large = policy(&vec![&*long; MAX_POLICY_RULES]);
    let error = Statement::sign(large, &authority(), &charter()).unwrap_err();
    assert!(matches!(
        error,
        StatementError::TooLarge {
            limit: MAX_POLICY_LEN,
            ..
        }
    ));
}

#[test]
fn names_of_members_are_dns_labels() {
    for good in ["a", "laptop-2", &"x".repeat(63)] {
        assert_eq!(MemberName::new(good).unwrap().as_str(), good);
    }
    for bad in ["", "-a", "a-", "A", "a.b", "a b", "ä", &"x".repeat(64)] {
        assert_eq!(MemberName::new(bad), Err(BadMemberName(bad.to_owned())));
    }
}

fn bodies() -> impl Strategy<Value = Body> {
    let address = any::<IpAddr>();
    let certificate = (
        (
            1..9_u8,
            any::<u64>(),
            "[a-z0-9]{1,20}",
            any::<u64>(),
            any::<u64>(),
        ),
        (
            any::<[bool; 4]>(),
            prop::collection::vec(address, 0..=MAX_OVERLAY_ADDRESSES),
        ),
    );
    let certificate =
        certificate.prop_map(|((of, version, name, issued, expires), (flags, overlay))| {
            Body::Certificate(Certificate {
                peer: peer(of),
                version,
                name: name.parse().unwrap(),
                role: if flags[3] { Role::Owner } else { Role::Member },
                overlay,
                opt_outs: OptOuts {
                    no_relaying: flags[0],
                    no_signalling: flags[1],
                    stealth: flags[2],
                },
                issued_unix_s: issued,
                expires_unix_s: expires,
            })
        });
    let numbers = (1..9_u8, any::<u64>(), any::<bool>(), any::<u64>());
    let revocation = numbers.clone().prop_map(|(of, version, _, at)| {
        Body::Revocation(Revocation {
            peer: peer(of),
            version,
            issued_unix_s: at,
        })
    });
    let appointment = numbers.prop_map(|(of, term, standing, at)| {
        Body::Appointment(Appointment {
            admin: peer(of),
            term,
            standing,
            issued_unix_s: at,
        })
    });
    let epoch = (any::<u32>(), any::<[u8; 32]>(), any::<u64>()).prop_map(|(epoch, key, at)| {
        Body::Epoch(EpochNotice {
            epoch: Epoch(epoch),
            key: KeyId(key),
            issued_unix_s: at,
        })
    });
    let policy = (
        any::<u64>(),
        prop::collection::vec(rules(), 0..8),
        any::<u64>(),
    );
    let policy = policy.prop_map(|(version, rules, at)| {
        let rules = (0..).zip(rules).map(|(id, rule)| PolicyRule { id, rule });
        Body::Policy(Policy {
            version,
            default: [None, Some(Verdict::Allow), Some(Verdict::Deny)][(version % 3) as usize],
            rules: rules.collect(),
            issued_unix_s: at,
        })
    });
    prop_oneof![certificate, revocation, appointment, epoch, policy]
}

fn rules() -> impl Strategy<Value = Rule> {
    let who = prop_oneof![
        Just("any".to_owned()),
        (1..9_u8).prop_map(|n| format!("peer:{}", peer(n))),
        "[a-z0-9]{1,20}".prop_map(|name| format!("name:{name}")),
        prop::sample::select(vec!["role:owner", "role:admin", "role:member"])
            .prop_map(str::to_owned),
    ];
    let words = (
        prop::sample::select(vec!["allow", "deny"]),
        prop::sample::select(vec!["in", "out", "both"]),
        who,
        prop::sample::select(vec![
            "any any",
            "tcp 22",
            "udp 1-65535",
            "any 0",
            "icmp any",
            "0 any",
        ]),
    );
    words.prop_map(|(verdict, direction, who, what)| {
        let text = format!("{verdict} {direction} {who} {what}");
        text.parse().unwrap()
    })
}

proptest! {
    #[test]
    fn every_statement_survives_a_round_trip(body in bodies(), by_admin: bool) {
        let signer = if by_admin { admin(2, 3) } else { authority() };
        match Statement::sign(body.clone(), &signer, &charter()) {
            Ok(statement) => {
                let bytes = statement.encode();
                prop_assert!(bytes.len() <= limit_of(&body));
                let read = Statement::decode(&bytes, &charter()).unwrap();
                prop_assert_eq!(&read, &statement);
                prop_assert_eq!(read.body(), &body);
            }
            Err(e) => prop_assert!(by_admin && matches!(e, StatementError::AuthorityOnly(_))),
        }
    }

    #[test]
    fn any_bytes_are_refused_without_harm(bytes: Vec<u8>) {
        prop_assert!(Statement::decode(&bytes, &charter()).is_err());
    }
}
