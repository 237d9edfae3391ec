//! The text format of libp2p's pre-shared keys, `swarm.key` (libp2p specification
//! "Pre-shared key based private networks"):
//!
//! ```text
//! /key/swarm/psk/1.0.0/
//! /base16/
//! 0001..1e1f
//! ```
//!
//! The second line may be `/base64/` or `/bin/` (the 32 bytes as they are). The format has
//! no place for an epoch.

use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use thiserror::Error;
use zeroize::Zeroizing;

use super::{Epoch, SWARM_KEY_LEN, SwarmKey};

/// Longest text read, bytes; all valid ones are shorter.
pub const MAX_SWARM_KEY_TEXT: usize = 128;

const HEADER: &[u8] = b"/key/swarm/psk/1.0.0/\n";
const BASE16: &[u8] = b"/base16/\n";
const BASE64: &[u8] = b"/base64/\n";
const BIN: &[u8] = b"/bin/\n";

/// Standard base64 with padding, and with no bits that say nothing.
const STRICT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical)
        .with_decode_allow_trailing_bits(false),
);

impl SwarmKey {
    /// Reads libp2p's text format, in any of its three encodings. A line feed may follow the
    /// key, nothing else.
    ///
    /// # Errors
    /// Says which part of the text is wrong, and never what is in it.
    pub fn from_text(epoch: Epoch, text: &[u8]) -> Result<Self, SwarmKeyTextError> {
        if text.len() > MAX_SWARM_KEY_TEXT {
            return Err(SwarmKeyTextError::TooLong { len: text.len() });
        }
        let body = text.strip_prefix(HEADER);
        let body = body.ok_or(SwarmKeyTextError::NoHeader)?;
        let secret = if let Some(key) = body.strip_prefix(BASE16) {
            base16(line(key))?
        } else if let Some(key) = body.strip_prefix(BASE64) {
            base64(line(key))?
        } else if let Some(key) = body.strip_prefix(BIN) {
            bin(key)?
        } else {
            return Err(SwarmKeyTextError::UnknownEncoding);
        };
        Ok(Self { epoch, secret })
    }

    /// Writes libp2p's text format in base16. The epoch is not in it.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(MAX_SWARM_KEY_TEXT));
        for part in [HEADER, BASE16] {
            text.extend(part.iter().map(|&b| char::from(b)));
        }
        for byte in self.secret.iter() {
            for half in [byte >> 4, byte & 0xf] {
                text.extend(char::from_digit(u32::from(half), 16));
            }
        }
        text.push('\n');
        text
    }
}

type Secret = Zeroizing<[u8; SWARM_KEY_LEN]>;

/// What is left without the line feed at the end.
fn line(key: &[u8]) -> &[u8] {
    key.strip_suffix(b"\n").unwrap_or(key)
}

fn base16(key: &[u8]) -> Result<Secret, SwarmKeyTextError> {
    let digit = |at: usize| char::from(key[at]).to_digit(16);
    if let Some(at) = (0..key.len()).find(|&at| digit(at).is_none()) {
        return Err(SwarmKeyTextError::BadCharacter { at });
    }
    if key.len() != 2 * SWARM_KEY_LEN {
        return Err(SwarmKeyTextError::WrongLength {
            bits: key.len() * 4,
        });
    }
    let mut secret = Secret::default();
    for (byte, at) in secret.iter_mut().zip((0..key.len()).step_by(2)) {
        let halves = digit(at).zip(digit(at + 1));
        let (high, low) = halves.expect("all are digits");
        *byte = (high << 4 | low) as u8;
    }
    Ok(secret)
}

fn base64(key: &[u8]) -> Result<Secret, SwarmKeyTextError> {
    let bytes = STRICT_BASE64.decode(key).map(Zeroizing::new);
    let bytes = bytes.map_err(|e| match e {
        base64::DecodeError::InvalidByte(at, _) => SwarmKeyTextError::BadCharacter { at },
        _ => SwarmKeyTextError::BadBase64,
    })?;
    bin(&bytes)
}

fn bin(key: &[u8]) -> Result<Secret, SwarmKeyTextError> {
    // A binary key may end in a line feed of its own.
    let key = match key.strip_suffix(b"\n") {
        Some(before) if before.len() == SWARM_KEY_LEN => before,
        _ => key,
    };
    let secret = <[u8; SWARM_KEY_LEN]>::try_from(key);
    let wrong = |_| SwarmKeyTextError::WrongLength {
        bits: key.len() * 8,
    };
    secret.map(Zeroizing::new).map_err(wrong)
}

/// Why a text is no swarm key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SwarmKeyTextError {
    /// It is longer than [`MAX_SWARM_KEY_TEXT`].
    #[error(
        "{len} bytes are too long for a swarm key file: give the file that begins with /key/swarm/psk/1.0.0/"
    )]
    TooLong {
        /// Its length, bytes.
        len: usize,
    },
    /// Its first line is another one.
    #[error(
        "the first line of a swarm key file must be /key/swarm/psk/1.0.0/ and end in a single line feed"
    )]
    NoHeader,
    /// Its second line names no encoding.
    #[error(
        "the second line of a swarm key file must be /base16/, /base64/ or /bin/ and end in a single line feed"
    )]
    UnknownEncoding,
    /// A character is not of the encoding.
    #[error(
        "character {at} of the swarm key, counted from 0, is not of the encoding that its second line names"
    )]
    BadCharacter {
        /// Which one, from 0.
        at: usize,
    },
    /// The base64 text breaks off, or has bits that say nothing.
    #[error(
        "the swarm key is no complete base64 text: 44 characters with one '=' at the end are expected"
    )]
    BadBase64,
    /// The key is shorter or longer.
    #[error("the swarm key has {bits} bits, it must have 256")]
    WrongLength {
        /// Its length, bits.
        bits: usize,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "/key/swarm/psk/1.0.0/\n/base16/\n\
        000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";

    fn key() -> SwarmKey {
        SwarmKey::new(Epoch(7), std::array::from_fn(|i| i as u8))
    }

    fn read(text: &[u8]) -> Result<SwarmKey, SwarmKeyTextError> {
        SwarmKey::from_text(Epoch(7), text)
    }

    fn after(encoding: &str, key: &str) -> Result<SwarmKey, SwarmKeyTextError> {
        read(format!("/key/swarm/psk/1.0.0/\n/{encoding}/\n{key}").as_bytes())
    }

    #[test]
    fn a_key_has_this_text() {
        assert_eq!(*key().to_text(), TEXT);
    }

    #[test]
    fn the_three_encodings_of_libp2p_are_read() {
        let text = TEXT.trim_end();
        assert_eq!(read(text.as_bytes()), Ok(key()));
        let upper = text.replace("0a0b0c0d0e0f", "0A0B0C0D0E0F");
        assert_eq!(read(upper.as_bytes()), Ok(key()));
        let base64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        assert_eq!(after("base64", base64), Ok(key()));
        let mut bin = b"/key/swarm/psk/1.0.0/\n/bin/\n".to_vec();
        bin.extend(0..32);
        assert_eq!(read(&bin), Ok(key()));
        bin.push(b'\n');
        assert_eq!(read(&bin), Ok(key()));
    }

    #[test]
    fn a_binary_key_may_end_in_a_line_feed() {
        let secret = [b'\n'; SWARM_KEY_LEN];
        let text = [b"/key/swarm/psk/1.0.0/\n/bin/\n", &secret[..]].concat();
        assert_eq!(read(&text), Ok(SwarmKey::new(Epoch(7), secret)));
    }

    #[test]
    fn a_wrong_text_is_refused_with_its_fault() {
        use SwarmKeyTextError as E;
        let hex = &TEXT[TEXT.len() - 65..TEXT.len() - 1];
        for (text, fault) in [
            ("".to_owned(), E::NoHeader),
            (TEXT.replace("1.0.0", "2.0.0"), E::NoHeader),
            (TEXT.replace('\n', "\r\n"), E::NoHeader),
            (format!(" {TEXT}"), E::NoHeader),
            (TEXT.replace("base16", "base32"), E::UnknownEncoding),
            (TEXT.replace("base16/\n", "base16/"), E::UnknownEncoding),
            (TEXT.replace("0a0b", "0g0b"), E::BadCharacter { at: 21 }),
            (format!("{TEXT}\n"), E::BadCharacter { at: 64 }),
            (TEXT.replace("1e1f", "1e1"), E::WrongLength { bits: 252 }),
            (TEXT.replace("1e1f", "1e1f20"), E::WrongLength { bits: 264 }),
            (format!("{TEXT}{TEXT}"), E::TooLong { len: 192 }),
        ] {
            assert_eq!(read(text.as_bytes()), Err(fault), "{text:?}");
        }
        for (key, fault) in [
            ("AAEC".to_owned(), E::WrongLength { bits: 24 }),
            (
                "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8".to_owned(),
                E::BadBase64,
            ),
            (
                "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9=".to_owned(),
                E::BadBase64,
            ),
            (
                "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBka-xwdHh8=".to_owned(),
                E::BadCharacter { at: 36 },
            ),
            (hex.to_owned(), E::WrongLength { bits: 384 }),
        ] {
            assert_eq!(after("base64", &key), Err(fault), "{key:?}");
        }
        assert_eq!(after("bin", hex), Err(E::WrongLength { bits: 512 }));
    }

    #[test]
    fn neither_debug_nor_an_error_shows_a_key() {
        assert_eq!(format!("{:?}", key()), "SwarmKey(epoch 7)");
        let almost = TEXT.replace("1e1f", "1e1");
        let error = read(almost.as_bytes()).unwrap_err();
        assert!(!format!("{error:?} {error}").contains("0001"));
    }

    proptest! {
        #[test]
        fn every_key_reads_back(secret: [u8; SWARM_KEY_LEN], epoch: u32) {
            let key = SwarmKey::new(Epoch(epoch), secret);
            let text = key.to_text();
            prop_assert_eq!(SwarmKey::from_text(Epoch(epoch), text.as_bytes()), Ok(key));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
            let text = [HEADER, BASE64, &bytes].concat();
            let _ = read(&text);
        }
    }
}
