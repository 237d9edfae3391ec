//! The swarm key of a private network: 32 bytes that all its members hold, and by which a
//! node tells packets that it takes notice of from all others.
//!
//! A key belongs to an [`Epoch`]. A [`KeyRing`] holds the keys of the current epoch, of the
//! one to come and of some that are over; rotation [prepares](KeyRing::prepare) a key and
//! [advances](KeyRing::advance) to it. From each key three others are derived
//! ([`EpochKeys`]): the first connection id of a handshake is a [stamp](EpochKeys::stamp),
//! which only a member can make and which looks random to all others; the handshake's first
//! packets are encrypted under [keys](EpochKeys::initial_cid) that only a member can
//! derive; a request for a WebSocket comes with a [pass](EpochKeys::pass). With each goes a
//! [ticket](EpochKeys::ticket) that tells who dials, so that former members, who have the
//! key of an epoch that is over, can be left without an answer, too.
//!
//! ```text
//!   stamp, pass:    0          8                  20       the nonce is random and never
//!                   +----------+-------------------+       used again: Replays remembers
//!                   |  nonce   |   mac (12 of 32)  |       what was shown
//!                   +----------+-------------------+
//! ```
//!
//! **Failure**: what bears no stamp of the ring is dropped without an answer, so that a node
//! with another key sees nothing at all. An epoch that is over admits to fetching the
//! current key, which is for the layer above to hold to ([`Standing::Over`]).

mod packet;
mod replay;
mod ring;
mod stamp;
mod text;
mod ticket;

use std::fmt;

use zeroize::Zeroizing;

pub use packet::{Destination, destination, initial_token};
pub use replay::{MAX_REMEMBERED, Replays};
pub use ring::{KeyRing, MAX_GUESTS, MAX_OVER};
pub use stamp::{EpochKeys, MadeUnder, NONCE_LEN, STAMP_LEN, Stamps, Standing};
pub use text::{MAX_SWARM_KEY_TEXT, SwarmKeyTextError};
pub use ticket::{TICKET_LEN, Ticket};

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
