//! What is derived from swarm keys: stamps, passes, and what Initial keys depend on.

use std::{fmt, sync::Arc};

use anyhop_base::NetworkId;
use aws_lc_rs::{
    aead::{AES_256_GCM, LessSafeKey, UnboundKey},
    constant_time, hkdf, hmac,
};

use super::{Epoch, KeyRing, SwarmKey};

/// Random bytes in front of a stamp or a pass.
pub const NONCE_LEN: usize = 8;
/// Length of a stamp or a pass, bytes: that of the longest QUIC connection id.
pub const STAMP_LEN: usize = 20;

/// What the derived keys are for: the info of HKDF-Expand (RFC 5869), before the network.
const FOR_STAMPS: &[u8] = b"anyhop-swarm/1 stamp\0";
const FOR_INITIALS: &[u8] = b"anyhop-swarm/1 initial\0";
const FOR_PASSES: &[u8] = b"anyhop-swarm/1 websocket\0";
const FOR_TICKETS: &[u8] = b"anyhop-swarm/1 ticket\0";

/// What a key of the ring is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Handshakes are begun under it.
    Current,
    /// It is let in on equal terms: others may have advanced to it already.
    Next,
    /// Its epoch is over: whoever still uses it may fetch the current key, and nothing
    /// else.
    Over,
}

/// The key that a handshake ran under, as the ring was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MadeUnder {
    /// The key's epoch.
    pub epoch: Epoch,
    /// What it was good for.
    pub standing: Standing,
}

/// The keys derived from the swarm key of one epoch, for one network. Clones share them.
#[derive(Clone)]
pub struct EpochKeys(pub(super) Arc<Derived>);

pub(super) struct Derived {
    epoch: Epoch,
    stamp: hmac::Key,
    initial: hmac::Key,
    pass: hmac::Key,
    pub(super) ticket: LessSafeKey,
}

impl EpochKeys {
    /// Derives them: HKDF-Expand with SHA-256 (RFC 5869) of the swarm key. The network is
    /// part of it, so that two networks with one swarm key take no notice of each other.
    #[must_use]
    pub fn new(network: NetworkId, key: &SwarmKey) -> Self {
        let secret = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, key.secret());
        let derive = |purpose: &[u8]| {
            let info = [purpose, network.as_bytes()];
            let okm = secret.expand(&info, hmac::HMAC_SHA256);
            hmac::Key::from(okm.expect("32 bytes are within HKDF's limit"))
        };
        let info = [FOR_TICKETS, network.as_bytes()];
        let ticket = secret.expand(&info, &AES_256_GCM);
        let ticket = UnboundKey::from(ticket.expect("32 bytes are within HKDF's limit"));
        Self(Arc::new(Derived {
            epoch: key.epoch(),
            stamp: derive(FOR_STAMPS),
            initial: derive(FOR_INITIALS),
            pass: derive(FOR_PASSES),
            ticket: LessSafeKey::new(ticket),
        }))
    }

    /// Their epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.0.epoch
    }

    /// The first destination connection id of a handshake. The nonce must be random.
    #[must_use]
    pub fn stamp(&self, nonce: [u8; NONCE_LEN]) -> [u8; STAMP_LEN] {
        authenticate(&self.0.stamp, nonce)
    }

    /// What a request for a WebSocket shows. The nonce must be random.
    #[must_use]
    pub fn pass(&self, nonce: [u8; NONCE_LEN]) -> [u8; STAMP_LEN] {
        authenticate(&self.0.pass, nonce)
    }

    /// What the Initial keys of a handshake are derived from, in place of its first
    /// destination connection id (RFC 9001 section 5.2), which everybody on the way sees.
    #[must_use]
    pub fn initial_cid(&self, cid: &[u8]) -> [u8; STAMP_LEN] {
        let mut secret = [0; STAMP_LEN];
        let tag = hmac::sign(&self.0.initial, cid);
        secret.copy_from_slice(&tag.as_ref()[..STAMP_LEN]);
        secret
    }
}

/// Without the keys.
impl fmt::Debug for EpochKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EpochKeys(epoch {})", self.epoch())
    }
}

fn authenticate(key: &hmac::Key, nonce: [u8; NONCE_LEN]) -> [u8; STAMP_LEN] {
    let mut out = [0; STAMP_LEN];
    let tag = hmac::sign(key, &nonce);
    out[..NONCE_LEN].copy_from_slice(&nonce);
    out[NONCE_LEN..].copy_from_slice(&tag.as_ref()[..STAMP_LEN - NONCE_LEN]);
    out
}

fn is_authentic(key: &hmac::Key, shown: &[u8; STAMP_LEN]) -> bool {
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(&shown[..NONCE_LEN]);
    constant_time::verify_slices_are_equal(&authenticate(key, nonce), shown).is_ok()
}

/// A ring's keys made ready for packets.
#[derive(Debug)]
pub struct Stamps {
    /// The current one first: it is what most stamps are made with.
    keys: Vec<(EpochKeys, Standing)>,
}

impl Stamps {
    /// Derives all keys of a ring.
    #[must_use]
    pub fn new(network: NetworkId, ring: &KeyRing) -> Self {
        let current = [(ring.current(), Standing::Current)].into_iter();
        let next = ring.next().map(|key| (key, Standing::Next));
        let over = ring.over().iter().chain(ring.guests());
        let over = over.map(|key| (key, Standing::Over));
        let all = current.chain(next).chain(over);
        Self {
            keys: all
                .map(|(key, standing)| (EpochKeys::new(network, key), standing))
                .collect(),
        }
    }

    /// The keys that handshakes are begun under.
    #[must_use]
    pub fn current(&self) -> &EpochKeys {
        &self.keys[0].0
    }

    /// Whose stamp a connection id is; `None` for any other.
    #[must_use]
    pub fn recognise(&self, cid: &[u8]) -> Option<(&EpochKeys, MadeUnder)> {
        self.find(cid, |keys| &keys.stamp)
    }

    /// Whose pass this is; `None` for anything else.
    #[must_use]
    pub fn recognise_pass(&self, pass: &[u8]) -> Option<(&EpochKeys, MadeUnder)> {
        self.find(pass, |keys| &keys.pass)
    }

    fn find(
        &self,
        shown: &[u8],
        key: impl Fn(&Derived) -> &hmac::Key,
    ) -> Option<(&EpochKeys, MadeUnder)> {
        let shown: &[u8; STAMP_LEN] = shown.try_into().ok()?;
        let mut keys = self.keys.iter();
        let (found, standing) = keys.find(|(keys, _)| is_authentic(key(&keys.0), shown))?;
        let made_under = MadeUnder {
            epoch: found.epoch(),
            standing: *standing,
        };
        Some((found, made_under))
    }
}

#[cfg(test)]
mod tests {
    use anyhop_base::NetworkName;
    use proptest::prelude::*;

    use super::*;

    const NONCE: [u8; NONCE_LEN] = [0, 1, 2, 3, 4, 5, 6, 7];

    fn network() -> NetworkId {
        NetworkName::default().id()
    }

    fn key(epoch: u32) -> SwarmKey {
        SwarmKey::new(Epoch(epoch), std::array::from_fn(|i| i as u8 + epoch as u8))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Computed by `docs/networks.md`'s script from the specifications alone.
    #[test]
    fn stamps_passes_and_initial_secrets_have_these_bytes() {
        let keys = EpochKeys::new(network(), &key(0));
        assert_eq!(
            hex(&keys.stamp(NONCE)),
            "0001020304050607e5cd9675c9188dc2baef942f"
        );
        assert_eq!(
            hex(&keys.pass(NONCE)),
            "0001020304050607790b7aed2c093260e99459ee"
        );
        assert_eq!(
            hex(&keys.initial_cid(&keys.stamp(NONCE))),
            "c3f4d645a9e0ae29cd4bfca13221597f3d8a7746"
        );
    }

    #[test]
    fn a_stamp_is_known_for_what_its_key_is_good_for() {
        let mut ring = KeyRing::new(key(1));
        ring.advance(key(2));
        ring.prepare(key(3));
        let stamps = Stamps::new(network(), &ring);
        for (epoch, standing) in [
            (1, Standing::Over),
            (2, Standing::Current),
            (3, Standing::Next),
        ] {
            let keys = EpochKeys::new(network(), &key(epoch));
            let under = MadeUnder {
                epoch: Epoch(epoch),
                standing,
            };
            let found = stamps.recognise(&keys.stamp(NONCE)).map(|(_, under)| under);
            assert_eq!(found, Some(under));
            let found = stamps.recognise_pass(&keys.pass(NONCE));
            assert_eq!(found.map(|(_, under)| under), Some(under));
            // One is not good for the other.
            assert!(stamps.recognise(&keys.pass(NONCE)).is_none());
            assert!(stamps.recognise_pass(&keys.stamp(NONCE)).is_none());
        }
        assert_eq!(stamps.current().epoch(), Epoch(2));
        ring.invite(key(9));
        let guest = EpochKeys::new(network(), &key(9)).stamp(NONCE);
        let stamps = Stamps::new(network(), &ring);
        let found = stamps.recognise(&guest).map(|(_, under)| under.standing);
        assert_eq!(found, Some(Standing::Over));
        let stranger = EpochKeys::new(network(), &key(4));
        assert!(stamps.recognise(&stranger.stamp(NONCE)).is_none());
    }

    #[test]
    fn networks_with_one_swarm_key_take_no_notice_of_each_other() {
        let other = NetworkName::new("other").unwrap().id();
        let stamps = Stamps::new(other, &KeyRing::new(key(1)));
        let foreign = EpochKeys::new(network(), &key(1)).stamp(NONCE);
        assert!(stamps.recognise(&foreign).is_none());
    }

    #[test]
    fn debug_shows_epochs_and_no_keys() {
        let stamps = Stamps::new(network(), &KeyRing::new(key(5)));
        let text = format!("{stamps:?}");
        assert_eq!(text, "Stamps { keys: [(EpochKeys(epoch 5), Current)] }");
    }

    proptest! {
        #[test]
        fn a_flipped_bit_anywhere_makes_a_stranger(bit in 0..STAMP_LEN * 8, nonce: [u8; NONCE_LEN]) {
            let stamps = Stamps::new(network(), &KeyRing::new(key(1)));
            let mut stamp = stamps.current().stamp(nonce);
            prop_assert!(stamps.recognise(&stamp).is_some());
            stamp[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(stamps.recognise(&stamp).is_none());
        }

        #[test]
        fn any_bytes_are_a_strangers(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let stamps = Stamps::new(network(), &KeyRing::new(key(1)));
            prop_assert!(stamps.recognise(&bytes).is_none());
            prop_assert!(stamps.recognise_pass(&bytes).is_none());
        }
    }
}
