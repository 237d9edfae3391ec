//! Packets on the wire, sealed under keys of one handshake.
//!
//! ```text
//!  0      1        2                8                16
//!  +------+--------+----------------+----------------+------------------+---------+
//!  | 0x02 |  kind  | receiver index |    counter     |  sealed packet   |   tag   |
//!  +------+--------+----------------+----------------+------------------+---------+
//! ```
//!
//! - **Keys** are bytes of the TLS exporter (RFC 8446 section 7.5), so that both sides have
//!   them with the handshake and nothing is exchanged. Each direction and each cipher has
//!   its own. The sender chooses the cipher, by its CPU.
//! - **The kind** is the cipher's number, with [`ETHERNET`] if what is sealed is a frame and
//!   no IP packet, or [`UNSUMMED`] if it is a packet whose TCP or UDP checksum is not computed.
//! - **The receiver index** is 48 bits of the exporter, too: it tells the receiver the peer
//!   and the generation of its keys at once, and an observer neither.
//! - **The counter** is the nonce. A [`Sealer`] gives each out once, to whichever thread
//!   asks, and none above its limit: there are new keys long before, or no more packets.
//!   It has to live as long as the handshake's connection, since the exporter gives the
//!   same keys again.
//! - The header is authenticated with the packet. What was opened once is not opened again
//!   ([`Window`]).

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use aws_lc_rs::aead::{
    AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use thiserror::Error;

use crate::Window;

/// Length of the header in front of a sealed packet, bytes.
pub const SEALED_HEADER_LEN: usize = 16;
/// Length of the tag behind it, bytes.
pub const SEALED_TAG_LEN: usize = 16;
/// What sealing adds to a packet, bytes.
pub const OVERHEAD: usize = SEALED_HEADER_LEN + SEALED_TAG_LEN;
/// Bytes of key material to export from a session: an index and a key of each cipher for
/// each direction.
pub const SEALED_SECRET_LEN: usize = 2 * (INDEX_LEN + 2 * KEY_LEN);
/// Exporter label (RFC 8446 section 7.5) of the key material.
pub const SEALED_EXPORTER_LABEL: &[u8] = b"EXPORTER-anyhop-sealed-1";

/// Packets that one key seals at most. AES-GCM stays far within its bounds there.
const MAX_PACKETS: u64 = 1 << 40;

const SEALED: u8 = 0x02;
/// In the kind of a sealed frame.
const ETHERNET: u8 = 0x80;
/// In the kind of a sealed packet that has the pseudo-header's sum for its checksum: the tag
/// tells better than a checksum could whether it arrived as it was.
const UNSUMMED: u8 = 0x40;
const INDEX_LEN: usize = 6;
const KEY_LEN: usize = 32;
const COUNTER_AT: usize = 8;

/// Names keys at the side that receives under them.
pub type ReceiverIndex = u64;

/// What is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// An IP packet.
    Ip,
    /// An IP packet with TCP or UDP in it, the checksum of which is left to the receiver's host:
    /// in its place stands the sum of the pseudo-header.
    IpUnsummed,
    /// An ethernet frame, without its checksum.
    Ethernet,
}

impl Payload {
    fn wire(self) -> u8 {
        match self {
            Self::Ip => 0,
            Self::IpUnsummed => UNSUMMED,
            Self::Ethernet => ETHERNET,
        }
    }

    fn from_wire(kind: u8) -> Option<Self> {
        match kind & (ETHERNET | UNSUMMED) {
            0 => Some(Self::Ip),
            UNSUMMED => Some(Self::IpUnsummed),
            ETHERNET => Some(Self::Ethernet),
            _ => None,
        }
    }
}

/// How packets are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    /// AES-256-GCM: fast where the CPU has instructions for it.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439): fast everywhere else.
    ChaCha20Poly1305,
}

impl Cipher {
    /// The faster one on this CPU.
    #[must_use]
    pub fn of_this_cpu() -> Self {
        #[cfg(target_arch = "x86_64")]
        let aes = std::arch::is_x86_feature_detected!("aes")
            && std::arch::is_x86_feature_detected!("pclmulqdq");
        #[cfg(target_arch = "aarch64")]
        let aes = std::arch::is_aarch64_feature_detected!("aes");
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let aes = false;
        if aes {
            Self::Aes256Gcm
        } else {
            Self::ChaCha20Poly1305
        }
    }

    fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes256Gcm => &AES_256_GCM,
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }

    fn wire(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::ChaCha20Poly1305 => 2,
        }
    }

    fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }
}

/// Keys have sealed as many packets as they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "these keys have sealed {MAX_PACKETS} packets, which is the limit; a new session has new ones"
)]
pub struct Exhausted;

/// Why a packet was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OpenError {
    /// It is no sealed packet.
    #[error("too short for a sealed packet, or of an unknown kind")]
    Malformed,
    /// It was opened before, or is too late to tell.
    #[error("the packet came before")]
    Replayed,
    /// It is not what the peer sealed.
    #[error("the packet is not authentic")]
    NotAuthentic,
}

/// Both directions of one handshake.
#[derive(Debug)]
pub struct PacketKeys {
    /// For what this side sends.
    pub sealer: Sealer,
    /// For what this side receives.
    pub opener: Opener,
}

impl PacketKeys {
    /// Splits exported key material. `client` is whether this side dialled.
    #[must_use]
    pub fn new(secret: &[u8; SEALED_SECRET_LEN], client: bool, cipher: Cipher) -> Self {
        let (to_client, to_server) = secret.split_at(SEALED_SECRET_LEN / 2);
        let (out, back) = match client {
            true => (to_server, to_client),
            false => (to_client, to_server),
        };
        Self {
            sealer: Sealer::new(out, cipher),
            opener: Opener::new(back),
        }
    }
}

/// The index and the key for a cipher in half of the exported bytes.
fn split(half: &[u8], cipher: Cipher) -> (ReceiverIndex, LessSafeKey) {
    let (index, keys) = half.split_at(INDEX_LEN);
    let mut bytes = [0; 8];
    bytes[8 - INDEX_LEN..].copy_from_slice(index);
    let key = match cipher {
        Cipher::Aes256Gcm => &keys[..KEY_LEN],
        Cipher::ChaCha20Poly1305 => &keys[KEY_LEN..],
    };
    let key = UnboundKey::new(cipher.algorithm(), key).expect("both ciphers have 32-byte keys");
    (ReceiverIndex::from_be_bytes(bytes), LessSafeKey::new(key))
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Seals packets of one direction. Threads may share it.
#[derive(Debug)]
pub struct Sealer {
    index: ReceiverIndex,
    cipher: Cipher,
    key: LessSafeKey,
    next: AtomicU64,
    limit: u64,
}

impl Sealer {
    fn new(half: &[u8], cipher: Cipher) -> Self {
        let (index, key) = split(half, cipher);
        Self {
            index,
            cipher,
            key,
            next: AtomicU64::new(0),
            limit: MAX_PACKETS,
        }
    }

    /// Appends a packet, sealed, to `out`: [`OVERHEAD`] bytes more than it has. The packet
    /// comes in parts, so that a header may be changed without a copy.
    ///
    /// # Errors
    /// When the keys have sealed as many packets as they may; nothing is appended then.
    pub fn seal(
        &self,
        payload: Payload,
        packet: &[&[u8]],
        out: &mut Vec<u8>,
    ) -> Result<(), Exhausted> {
        let taken = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                (next < self.limit).then_some(next + 1)
            });
        let counter = taken.map_err(|_| Exhausted)?;
        let start = out.len();
        out.extend_from_slice(&self.index.to_be_bytes());
        out[start] = SEALED;
        out[start + 1] = self.cipher.wire() | payload.wire();
        out.extend_from_slice(&counter.to_be_bytes());
        packet.iter().for_each(|part| out.extend_from_slice(part));
        let (header, body) = out[start..].split_at_mut(SEALED_HEADER_LEN);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(counter), Aad::from(header), body);
        let tag = tag.expect("a packet is far shorter than what an AEAD takes");
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Packets sealed so far.
    #[must_use]
    pub fn sealed(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Has less room than it had.
    #[cfg(test)]
    pub(crate) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// For which keys of the receiver this seals.
    #[must_use]
    pub fn index(&self) -> ReceiverIndex {
        self.index
    }

    /// Whether the keys have sealed half of the packets that they may.
    #[must_use]
    pub fn is_half_spent(&self) -> bool {
        self.sealed() >= self.limit / 2
    }
}

/// Opens packets of one direction, each once.
#[derive(Debug)]
pub struct Opener {
    index: ReceiverIndex,
    aes: LessSafeKey,
    chacha: LessSafeKey,
    window: Mutex<Window>,
}

impl Opener {
    fn new(half: &[u8]) -> Self {
        let (index, aes) = split(half, Cipher::Aes256Gcm);
        let (_, chacha) = split(half, Cipher::ChaCha20Poly1305);
        Self {
            index,
            aes,
            chacha,
            window: Mutex::default(),
        }
    }

    /// What packets for these keys say: see [`read_index`].
    #[must_use]
    pub fn index(&self) -> ReceiverIndex {
        self.index
    }

    /// Whether a packet was opened.
    #[must_use]
    pub fn has_opened(&self) -> bool {
        let window = self.window.lock().expect("no holder panics");
        !window.is_empty()
    }

    /// Opens a packet in place; answers what was sealed.
    ///
    /// # Errors
    /// Why it is not opened. The bytes are of no use then.
    pub fn open<'a>(&self, datagram: &'a mut [u8]) -> Result<(Payload, &'a mut [u8]), OpenError> {
        if read_index(datagram) != Some(self.index) {
            return Err(OpenError::Malformed);
        }
        let (header, body) = datagram.split_at_mut(SEALED_HEADER_LEN);
        let payload = Payload::from_wire(header[1]).ok_or(OpenError::Malformed)?;
        let key = match Cipher::from_wire(header[1] & !(ETHERNET | UNSUMMED)) {
            Some(Cipher::Aes256Gcm) => &self.aes,
            Some(Cipher::ChaCha20Poly1305) => &self.chacha,
            None => return Err(OpenError::Malformed),
        };
        let counter = header[COUNTER_AT..].try_into().expect("8 bytes of 16");
        let counter = u64::from_be_bytes(counter);
        // Cheap, and tells most replays before any cryptography.
        let known = |window: &Window| !window.is_new(counter);
        if known(&self.window.lock().expect("no holder panics")) {
            return Err(OpenError::Replayed);
        }
        let opened = key.open_in_place(nonce(counter), Aad::from(&*header), body);
        let packet = opened.map_err(|_| OpenError::NotAuthentic)?;
        let mut window = self.window.lock().expect("no holder panics");
        match window.note(counter) {
            true => Ok((payload, packet)),
            false => Err(OpenError::Replayed),
        }
    }
}

/// For which keys a datagram is; `None` when it is too short for a sealed packet or none.
#[must_use]
pub fn read_index(datagram: &[u8]) -> Option<ReceiverIndex> {
    if datagram.len() < OVERHEAD || datagram[0] != SEALED {
        return None;
    }
    let mut bytes = [0; 8];
    bytes[2..].copy_from_slice(&datagram[2..COUNTER_AT]);
    Some(ReceiverIndex::from_be_bytes(bytes))
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
