use proptest::prelude::*;

use super::*;
use crate::network::testing::{NOW, keypair, peer};
use crate::{
    network::{
        admission::EpochKey,
        book::RedeemRefusal,
        statement::{Appointment, OptOuts},
    },
    take_frame,
};

const TEXT: &str = "\
    anyhop-invite:bkhaccabcibwyylcditaajaiaejcbcui4poxicprsx6vfwznhs5f24wkm4e36hmuci\
    n7g5eiag2a6324eitaajaiaejcbajzo4hkq7ixl5lkgvdgyngh5tglrwfjdnhog6rf35qploh4tm4ufi\
    fqjsyaoeazcaqpuhgqgmraa4dqobyha4dqobyha4dqobyha4dqobyha4dqobyha4dqobyha4dtrpfeu7\
    namqabcjadtxe4ez7ojgxn5bzqivx2b5jfwbsbuirtmitk2y4td24xabuunzpue4nwaxbh2rdpf23y6r\
    r26jkp7gr3dfzfpiwwnkklojiri45bbc36qtr3";
const ID: &str = "7fddc627a45d6d7c";
const ENTRY: &str = "f5c2fd6a61305a10a41a578081035c1e25859d3b094c01c3dace34085243734d";
const PROOF: &str = "a683050702881249d7314597ddf327bc2a2fc37b9a7de37afb22daea1ffbb552";

fn invitation() -> Invitation {
    Invitation {
        charter: Charter::new("lab".parse().unwrap(), peer(1)).unwrap(),
        inviter: peer(2),
        addresses: vec!["/ip4/203.0.113.1/udp/4001/quic-v1".parse().unwrap()],
        secret: [7; 32],
        expires_unix_s: NOW + 60,
        approve: true,
    }
}

fn authority() -> Signer {
    Signer::Authority(keypair(1))
}

fn admin(seed: u8, appointed: u8) -> Signer {
    let body = Body::Appointment(Appointment {
        admin: peer(appointed),
        term: 1,
        standing: true,
        issued_unix_s: NOW,
    });
    let appointment = Statement::sign(body, &authority(), &invitation().charter).unwrap();
    Signer::Admin {
        keypair: keypair(seed),
        appointment: appointment.into(),
    }
}

fn text_of(bytes: &[u8]) -> String {
    let bytes = [bytes, &check_sum(bytes)].concat();
    let text = BASE32_NOPAD.encode(&bytes).to_ascii_lowercase();
    format!("{INVITATION_PREFIX}{text}")
}

fn bytes_of(text: &str) -> Vec<u8> {
    let text = text[INVITATION_PREFIX.len()..].to_ascii_uppercase();
    let mut bytes = BASE32_NOPAD.decode(text.as_bytes()).unwrap();
    bytes.truncate(bytes.len() - CHECK_LEN);
    bytes
}

#[test]
fn an_invitation_is_read_as_it_was_made_by_the_authority_or_an_admin() {
    for signer in [authority(), admin(2, 2)] {
        let text = invitation().sign(&signer).unwrap();
        assert!(text.len() < 700, "{}", text.len());
        assert_eq!(Invitation::parse(&text).unwrap(), invitation());
        // As in a QR code, and as pasted.
        let shouted = format!(" {}\n", text.to_ascii_uppercase());
        assert_eq!(Invitation::parse(&shouted).unwrap(), invitation());
    }
}

/// Pins the text and what is derived: a change would make invitations worthless that are out.
#[test]
fn the_text_and_the_keys_of_an_invitation_are_stable() {
    let text = invitation().sign(&authority()).unwrap();
    let payload = wire::Payload::from(&invitation()).encode_to_vec();
    let ids = [peer(1), peer(2)].map(|p| p.to_bytes());
    let address = invitation().addresses[0].to_vec();
    let expected = [
        &[0x08, 1, 0x12, 3, b'l', b'a', b'b', 0x1a, 38][..],
        &ids[0],
        &[0x22, 38],
        &ids[1],
        &[0x2a, 11],
        &address,
        &[0x32, 32],
        &[7; 32],
        &[0x38, 0xbc, 0xa4, 0xa7, 0xda, 0x06, 0x40, 1],
    ];
    assert_eq!(payload, expected.concat());
    assert_eq!(text, TEXT);
    let keys = invitation().keys();
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
    assert_eq!(hex(&keys.id), ID);
    assert_eq!(hex(keys.entry.secret()), ENTRY);
    assert_eq!(hex(&keys.prove(peer(5), b"channel")), PROOF);
}

#[test]
fn a_changed_or_cut_text_is_noticed_before_anything_is_sent() {
    let text = invitation().sign(&authority()).unwrap();
    for (at, _) in text.char_indices().skip(INVITATION_PREFIX.len()) {
        let mut changed = text.clone().into_bytes();
        changed[at] = if changed[at] == b'a' { b'b' } else { b'a' };
        let changed = String::from_utf8(changed).unwrap();
        let error = Invitation::parse(&changed).unwrap_err();
        assert_eq!(error, InvitationError::Damaged, "at {at}");
        let error = Invitation::parse(&text[..at]).unwrap_err();
        assert_eq!(error, InvitationError::Damaged, "cut at {at}");
    }
    for foreign in ["", "anyhop-invite", "https://example.org", "anyhop-invité:"] {
        assert_eq!(Invitation::parse(foreign), Err(InvitationError::Foreign));
    }
    let long = format!("{INVITATION_PREFIX}{}", "a".repeat(MAX_INVITATION_TEXT));
    assert_eq!(Invitation::parse(&long), Err(InvitationError::Foreign));
}

#[test]
fn forged_invitations_and_wrong_signers_are_told_apart() {
    let text = invitation().sign(&authority()).unwrap();
    let mut envelope = Envelope::decode(&*bytes_of(&text)).unwrap();
    // Another address and a right check sum.
    let moved = Invitation {
        addresses: vec!["/ip4/198.51.100.6/udp/1/quic-v1".parse().unwrap()],
        ..invitation()
    };
    envelope.payload = wire::Payload::from(&moved).encode_to_vec();
    let forged = text_of(&envelope.encode_to_vec());
    assert_eq!(Invitation::parse(&forged), Err(InvitationError::Forged));

    let stranger = keypair(9);
    let payload = wire::Payload::from(&invitation()).encode_to_vec();
    let signature = stranger.sign(&signed_bytes(&payload)).unwrap();
    let Signer::Admin { appointment, .. } = admin(3, 3) else {
        unreachable!()
    };
    let of_another = Envelope {
        payload,
        signature,
        appointment: appointment.encode(),
    };
    let text = text_of(&of_another.encode_to_vec());
    assert_eq!(Invitation::parse(&text), Err(InvitationError::WrongSigner));

    let not_appointed = invitation().sign(&admin(2, 3));
    assert_eq!(not_appointed, Err(InvitationError::WrongSigner));
    let for_another_node = invitation().sign(&admin(3, 3));
    assert_eq!(for_another_node, Err(InvitationError::WrongSigner));
    let other_authority = invitation().sign(&Signer::Authority(keypair(9)));
    assert!(matches!(other_authority, Err(InvitationError::Signing(_))));
}

#[test]
fn an_invitation_has_an_end_and_a_version() {
    assert_eq!(invitation().check_time(NOW + 59), Ok(()));
    let expired = invitation().check_time(NOW + 61);
    assert_eq!(expired, Err(InvitationError::Expired { ago_s: 1 }));
    let text = invitation().sign(&authority()).unwrap();
    let mut envelope = Envelope::decode(&*bytes_of(&text)).unwrap();
    envelope.payload[1] = 2;
    let later = text_of(&envelope.encode_to_vec());
    assert_eq!(Invitation::parse(&later), Err(InvitationError::Version(2)));
}

#[test]
fn frames_of_a_redemption_have_these_bytes() {
    let redeem = Redeem {
        invitation: [1; 8],
        proof: vec![2; 32],
        name: Some("pc".parse().unwrap()),
        opt_outs: OptOuts {
            stealth: true,
            ..OptOuts::default()
        },
    };
    let expected = [
        &[50, 0x0a, 8][..],
        &[1; 8],
        &[0x12, 32],
        &[2; 32],
        &[0x1a, 2, b'p', b'c', 0x30, 1],
    ];
    assert_eq!(redeem.encode(), expected.concat());
    assert_eq!(RedeemAnswer::Waiting.encode(), [2, 0x28, 1]);
    let refused = RedeemAnswer::Refused(RedeemRefusal::UsedUp);
    assert_eq!(refused.encode(), [2, 0x20, 2]);
    let admitted = RedeemAnswer::Admitted {
        certificate: vec![3],
        key: EpochKey {
            statement: vec![4],
            secret: [5; 32],
        },
    };
    let expected = [&[40, 0x0a, 1, 3, 0x12, 1, 4, 0x1a, 32][..], &[5; 32]];
    assert_eq!(admitted.encode(), expected.concat());
}

fn refusals() -> impl Strategy<Value = RedeemRefusal> {
    (1..7_u32).prop_map(|n| RedeemRefusal::from_number(n).unwrap())
}

proptest! {
    #[test]
    fn every_invitation_survives_a_round_trip(
        secret: [u8; 32],
        ports in prop::collection::vec(any::<u16>(), 0..=MAX_INVITATION_ADDRESSES),
        expires_unix_s: u64,
        approve: bool,
    ) {
        let address = |port: u16| format!("/ip6/2001:db8::1/udp/{port}/quic-v1").parse().unwrap();
        let invitation = Invitation {
            addresses: ports.into_iter().map(address).collect(),
            secret,
            expires_unix_s,
            approve,
            ..invitation()
        };
        let text = invitation.sign(&admin(2, 2)).unwrap();
        prop_assert!(text.len() <= MAX_INVITATION_TEXT);
        prop_assert_eq!(Invitation::parse(&text).unwrap(), invitation);
    }

    #[test]
    fn any_text_is_refused_without_harm(text in "(anyhop-invite:)?[a-z2-7]{0,200}") {
        prop_assert!(Invitation::parse(&text).is_err());
    }

    #[test]
    fn frames_of_a_redemption_survive_a_round_trip(
        invitation: [u8; 8],
        proof: [u8; 32],
        name in proptest::option::of("[a-z]{1,10}"),
        flags: [bool; 3],
        refusal in refusals(),
    ) {
        let redeem = Redeem {
            invitation,
            proof: proof.to_vec(),
            name: name.map(|n| n.parse().unwrap()),
            opt_outs: OptOuts {
                no_relaying: flags[0],
                no_signalling: flags[1],
                stealth: flags[2],
            },
        };
        let frame = redeem.encode();
        let content = take_frame(&mut &frame[..], MAX_REDEEM_FRAME).unwrap().unwrap();
        prop_assert_eq!(Redeem::decode(content).unwrap(), redeem);
        let answer = RedeemAnswer::Refused(refusal);
        let frame = answer.encode();
        let content = take_frame(&mut &frame[..], MAX_REDEEM_FRAME).unwrap().unwrap();
        prop_assert_eq!(RedeemAnswer::decode(content).unwrap(), answer);
    }
}
