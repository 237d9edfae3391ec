use std::{collections::BTreeSet, thread};

use proptest::prelude::*;

use super::*;

fn secret() -> [u8; SEALED_SECRET_LEN] {
    let mut secret = [0; SEALED_SECRET_LEN];
    for (at, byte) in secret.iter_mut().enumerate() {
        *byte = at as u8;
    }
    secret
}

fn pair(cipher: Cipher) -> (PacketKeys, PacketKeys) {
    let of = |client| PacketKeys::new(&secret(), client, cipher);
    (of(true), of(false))
}

fn seal(keys: &PacketKeys, packet: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    keys.sealer.seal(Payload::Ip, &[packet], &mut out).unwrap();
    out
}

#[test]
fn a_sealed_packet_has_these_bytes() {
    let golden = |cipher| {
        let (client, _) = pair(cipher);
        seal(&client, b"first");
        let bytes = seal(&client, b"hello");
        bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    assert_eq!(golden(Cipher::Aes256Gcm), GOLDEN_AES);
    assert_eq!(golden(Cipher::ChaCha20Poly1305), GOLDEN_CHACHA);
}

const GOLDEN_AES: &str =
    "0201464748494a4b00000000000000011e6b3088695e3135099bd5b1006976aeaa65e91175";
const GOLDEN_CHACHA: &str =
    "0202464748494a4b0000000000000001e45906c2dcb86c929e91c177ad0c934afee48a9ddf";

#[test]
fn both_directions_and_ciphers_are_opened_by_the_other_side_once() {
    for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
        let (client, server) = pair(cipher);
        for (from, to) in [(&client, &server), (&server, &client)] {
            let mut sealed = seal(from, b"packet");
            let mut again = sealed.clone();
            assert_eq!(sealed.len(), b"packet".len() + OVERHEAD);
            assert_eq!(read_index(&sealed), Some(to.opener.index()));
            assert_eq!(to.opener.open(&mut sealed).unwrap().1, b"packet");
            let replayed = to.opener.open(&mut again).unwrap_err();
            assert_eq!(replayed, OpenError::Replayed);
        }
        // What a side sealed is not taken back by itself.
        let mut own = seal(&client, b"packet");
        let refused = client.opener.open(&mut own).unwrap_err();
        assert_eq!(refused, OpenError::Malformed);
    }
}

#[test]
fn parts_are_sealed_as_one_packet_behind_what_is_there() {
    let (client, server) = pair(Cipher::of_this_cpu());
    let mut out = b"label".to_vec();
    client
        .sealer
        .seal(Payload::Ethernet, &[b"head", b"", b"body"], &mut out)
        .unwrap();
    let opened = server.opener.open(&mut out[5..]).unwrap();
    assert_eq!(
        (opened.0, &*opened.1),
        (Payload::Ethernet, &b"headbody"[..])
    );
}

#[test]
fn what_is_sealed_is_told_in_the_kind_and_nothing_else_is_taken() {
    let (client, server) = pair(Cipher::Aes256Gcm);
    for (payload, kind) in [
        (Payload::Ip, 0x01),
        (Payload::IpUnsummed, 0x41),
        (Payload::Ethernet, 0x81),
    ] {
        let mut out = Vec::new();
        client.sealer.seal(payload, &[b"x"], &mut out).unwrap();
        assert_eq!(out[1], kind);
        let mut both = out.clone();
        both[1] |= 0xc0;
        assert_eq!(server.opener.open(&mut both), Err(OpenError::Malformed));
        assert_eq!(server.opener.open(&mut out).unwrap().0, payload);
    }
}

#[test]
fn a_forged_packet_leaves_the_counter_to_the_authentic_one() {
    let (client, server) = pair(Cipher::Aes256Gcm);
    let mut sealed = seal(&client, b"packet");
    let mut forged = sealed.clone();
    *forged.last_mut().unwrap() ^= 1;
    let refused = server.opener.open(&mut forged).unwrap_err();
    assert_eq!(refused, OpenError::NotAuthentic);
    assert_eq!(server.opener.open(&mut sealed).unwrap().1, b"packet");
}

#[test]
fn no_nonce_is_given_out_twice_and_none_above_the_limit() {
    const LIMIT: u64 = 1000;
    let (mut client, server) = pair(Cipher::Aes256Gcm);
    client.sealer.limit = LIMIT;
    let seal_all = || {
        let mut counters = Vec::new();
        loop {
            let mut out = Vec::new();
            match client.sealer.seal(Payload::Ip, &[b"x"], &mut out) {
                Ok(()) => counters.push(u64::from_be_bytes(out[8..16].try_into().unwrap())),
                Err(Exhausted) => {
                    assert!(out.is_empty());
                    return counters;
                }
            }
        }
    };
    let counters: Vec<u64> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(seal_all)).collect();
        let done = threads.into_iter().flat_map(|t| t.join().unwrap());
        done.collect()
    });
    let distinct: BTreeSet<u64> = counters.iter().copied().collect();
    assert_eq!(counters.len() as u64, LIMIT);
    assert_eq!(distinct, (0..LIMIT).collect());
    assert_eq!(client.sealer.sealed(), LIMIT);
    // The other direction has keys of its own, and goes on.
    assert!(client.opener.open(&mut seal(&server, b"y")).is_ok());
}

proptest! {
    #[test]
    fn what_was_sealed_is_opened_and_nothing_else(
        packet in prop::collection::vec(any::<u8>(), 0..2000),
        flip in any::<prop::sample::Index>(),
        bit in 0_u8..8,
        cut in any::<prop::sample::Index>(),
    ) {
        let (client, server) = pair(Cipher::of_this_cpu());
        let sealed = seal(&client, &packet);
        let mut changed = sealed.clone();
        changed[flip.index(sealed.len())] ^= 1 << bit;
        prop_assert!(server.opener.open(&mut changed).is_err());
        let mut short = sealed[..cut.index(sealed.len())].to_vec();
        prop_assert!(server.opener.open(&mut short).is_err());
        let mut sealed = sealed;
        prop_assert_eq!(server.opener.open(&mut sealed).unwrap().1, &packet[..]);
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let (_, server) = pair(Cipher::of_this_cpu());
        prop_assert!(server.opener.open(&mut bytes).is_err());
    }
}
