//! Who begins a handshake: told in its first packets, before anything is answered.
//!
//! A stamp proves that its maker has, or had, the swarm key. A former member has it, too.
//! So that such a one gets no answer either, each first packet carries a ticket: the
//! dialler's public key and its signature over the stamp and the peer that it dials, sealed
//! under the epoch's key, so that nobody on the way learns who dials.
//!
//! ```text
//!   0                  32                             96            112
//!   +------------------+------------------------------+-------------+
//!   | Ed25519 key      | signature                    | AEAD tag    |
//!   +------------------+------------------------------+-------------+
//! ```
//!
//! AES-256-GCM, nonce: the first 12 bytes of the stamp; associated data: the stamp. What is
//! signed: the domain, the stamp, the PeerId that is dialled.

use anyhop_base::{Keypair, PeerId, public_key_of};
use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};

use super::{EpochKeys, STAMP_LEN};

/// Length of a ticket, bytes.
pub const TICKET_LEN: usize = KEY_LEN + SIGNATURE_LEN + TAG_LEN;

const KEY_LEN: usize = 32;
const SIGNATURE_LEN: usize = 64;
const TAG_LEN: usize = 16;
const DOMAIN: &[u8] = b"anyhop-swarm/1 ticket\0";
/// In front of the key in a PeerId: an identity multihash of 36 bytes, and in those the
/// Ed25519 key in libp2p's protobuf.
const PEER_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// A ticket that a key of the ring opens, its signature not yet checked.
#[derive(Debug)]
pub struct Ticket {
    /// Who it says that it is of.
    pub claimed: PeerId,
    signature: [u8; SIGNATURE_LEN],
    signed: Vec<u8>,
}

impl Ticket {
    /// Whether it is of whom it says.
    #[must_use]
    pub fn is_genuine(&self) -> bool {
        public_key_of(&self.claimed).is_some_and(|key| key.verify(&self.signed, &self.signature))
    }
}

impl EpochKeys {
    /// The ticket to go with a stamp or a pass towards `target`; `None` for a key that is
    /// not Ed25519.
    #[must_use]
    pub fn ticket(
        &self,
        stamp: &[u8; STAMP_LEN],
        dialler: &Keypair,
        target: PeerId,
    ) -> Option<[u8; TICKET_LEN]> {
        let id = dialler.public().to_peer_id().to_bytes();
        let key = id.strip_prefix(&PEER_PREFIX)?;
        let signature = dialler.sign(&signed(stamp, target)).ok()?;
        let mut sealed = [key, &signature].concat();
        let tag = self.ticket_key().seal_in_place_separate_tag(
            nonce(stamp),
            Aad::from(stamp),
            &mut sealed,
        );
        sealed.extend_from_slice(tag.ok()?.as_ref());
        sealed.try_into().ok()
    }

    /// Opens a ticket that came with a stamp or a pass to `me`.
    #[must_use]
    pub fn open_ticket(&self, stamp: &[u8], me: PeerId, ticket: &[u8]) -> Option<Ticket> {
        let stamp = <&[u8; STAMP_LEN]>::try_from(stamp).ok()?;
        let mut ticket = <[u8; TICKET_LEN]>::try_from(ticket).ok()?;
        let opened =
            self.ticket_key()
                .open_in_place(nonce(stamp), Aad::from(stamp), &mut ticket[..]);
        let (key, rest) = opened.ok()?.split_first_chunk::<KEY_LEN>()?;
        let claimed = PeerId::from_bytes(&[&PEER_PREFIX[..], key].concat()).ok()?;
        Some(Ticket {
            claimed,
            signature: rest.try_into().ok()?,
            signed: signed(stamp, me),
        })
    }

    fn ticket_key(&self) -> &LessSafeKey {
        &self.0.ticket
    }
}

fn signed(stamp: &[u8; STAMP_LEN], target: PeerId) -> Vec<u8> {
    [DOMAIN, stamp, &target.to_bytes()].concat()
}

/// A stamp's random bytes are never used twice.
fn nonce(stamp: &[u8; STAMP_LEN]) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(&stamp[..NONCE_LEN]);
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use anyhop_base::NetworkName;
    use proptest::prelude::*;

    use super::*;
    use crate::network::swarm::{Epoch, SwarmKey};

    fn keys(secret: u8) -> EpochKeys {
        let key = SwarmKey::new(Epoch(1), [secret; 32]);
        EpochKeys::new(NetworkName::default().id(), &key)
    }

    fn node(seed: u8) -> (Keypair, PeerId) {
        let keypair = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
        let id = keypair.public().to_peer_id();
        (keypair, id)
    }

    #[test]
    fn a_ticket_tells_who_dials_to_who_is_dialled_and_to_nobody_else() {
        let (alice, alice_id) = node(1);
        let (_, bob) = node(2);
        let stamp = keys(7).stamp([3; 8]);
        let ticket = keys(7).ticket(&stamp, &alice, bob).unwrap();
        let opened = keys(7).open_ticket(&stamp, bob, &ticket).unwrap();
        assert_eq!(opened.claimed, alice_id);
        assert!(opened.is_genuine());
        let (_, carol) = node(3);
        let handed_on = keys(7).open_ticket(&stamp, carol, &ticket).unwrap();
        assert!(!handed_on.is_genuine(), "not for carol");
        let other = keys(7).stamp([4; 8]);
        assert!(keys(7).open_ticket(&other, bob, &ticket).is_none());
        assert!(keys(8).open_ticket(&stamp, bob, &ticket).is_none());
    }

    #[test]
    fn whoever_takes_a_members_name_without_its_key_is_found_out() {
        let (_, member) = node(1);
        let (_, bob) = node(2);
        let (thief, _) = node(9);
        let stamp = keys(7).stamp([3; 8]);
        let signature = thief.sign(&signed(&stamp, bob)).unwrap();
        let mut forged = [&member.to_bytes()[6..], &signature].concat();
        let tag = keys(7)
            .ticket_key()
            .seal_in_place_separate_tag(nonce(&stamp), Aad::from(&stamp), &mut forged)
            .unwrap();
        forged.extend_from_slice(tag.as_ref());
        let opened = keys(7).open_ticket(&stamp, bob, &forged).unwrap();
        assert_eq!(opened.claimed, member);
        assert!(!opened.is_genuine());
    }

    /// Ed25519 and AES-GCM give the same bytes each time.
    #[test]
    fn a_ticket_has_these_bytes() {
        let (alice, _) = node(1);
        let (_, bob) = node(2);
        let stamp = keys(7).stamp([3; 8]);
        let ticket = keys(7).ticket(&stamp, &alice, bob).unwrap();
        let hex: String = ticket.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    const GOLDEN: &str = "69d20537fb088af23c1cff9b87e60ffc85ee9921b2a53dfa1f932e0ac4a6dd5f1c8220cf4fa445911b9f01ef89079763a828f3c7d3658397dbf06bdf20400bf9acec5650800c761b8b130efa16c1420541641753d872c17d7e26a20f16245d9297069f7d235a288d91259105bec2b0c6";

    proptest! {
        #[test]
        fn a_flipped_bit_anywhere_opens_nothing(bit in 0..TICKET_LEN * 8) {
            let (alice, _) = node(1);
            let (_, bob) = node(2);
            let stamp = keys(7).stamp([3; 8]);
            let mut ticket = keys(7).ticket(&stamp, &alice, bob).unwrap();
            ticket[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(keys(7).open_ticket(&stamp, bob, &ticket).is_none());
        }

        #[test]
        fn any_bytes_are_refused_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            stamp in proptest::collection::vec(any::<u8>(), 0..30),
        ) {
            let (_, bob) = node(2);
            prop_assert!(keys(7).open_ticket(&stamp, bob, &bytes).is_none());
        }
    }
}
