//! Who the tests of private networks are about.

use anyhop_base::{Keypair, PeerId};

use super::Charter;

/// A time of today, Unix seconds.
pub(super) const NOW: u64 = 1_800_000_000;

pub(super) fn keypair(seed: u8) -> Keypair {
    Keypair::ed25519_from_bytes([seed; 32]).unwrap()
}

pub(super) fn peer(seed: u8) -> PeerId {
    keypair(seed).public().to_peer_id()
}

/// The network `lab`, whose authority is number 1.
pub(super) fn charter() -> Charter {
    Charter::new("lab".parse().unwrap(), peer(1)).unwrap()
}
