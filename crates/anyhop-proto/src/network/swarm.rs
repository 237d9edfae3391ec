//! The swarm key of a private network: 32 bytes that all its members hold.
//!
//! A key belongs to an [`Epoch`]. Rotation gives the remaining members the key of a later
//! one. Keys are exchanged with libp2p in its text format ([`SwarmKey::to_text`]).

mod text;

use std::fmt;

use zeroize::Zeroizing;

pub use text::{MAX_SWARM_KEY_TEXT, SwarmKeyTextError};

/// Length of a swarm key, bytes.
pub const SWARM_KEY_LEN: usize = 32;

/// Counts the swarm keys of a network; later ones have greater numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The swarm key of one epoch. Wiped from memory when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SwarmKey {
    epoch: Epoch,
    secret: Zeroizing<[u8; SWARM_KEY_LEN]>,
}

impl SwarmKey {
    /// The key with these bytes, which must be random.
    #[must_use]
    pub fn new(epoch: Epoch, secret: [u8; SWARM_KEY_LEN]) -> Self {
        Self {
            epoch,
            secret: Zeroizing::new(secret),
        }
    }

    /// Its epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The secret itself: for storing it, and for members.
    #[must_use]
    pub fn secret(&self) -> &[u8; SWARM_KEY_LEN] {
        &self.secret
    }
}

/// Without the secret.
impl fmt::Debug for SwarmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SwarmKey(epoch {})", self.epoch)
    }
}
