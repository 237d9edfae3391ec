//! The key of a node, kept in its state directory.
//!
//! The file `key` is text that an operator can recognise:
//!
//! ```text
//! anyhop-key 1
//! # The secret key of an Anyhop node. ...
//! peer-id 12D3KooW..
//! secret 08011240..
//! ```
//!
//! `secret` is the libp2p protobuf encoding of the Ed25519 key pair in hex; `peer-id` is
//! for the reader and guards against a damaged secret. The file appears complete or not
//! at all, and once there is only ever read: whatever is wrong with it is an error that
//! leaves it alone, because a lost key is a lost name.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use libp2p_identity::{KeyType, Keypair, PeerId, PublicKey};
use thiserror::Error;

use crate::fs::{create_atomic, create_private_dir};

/// Name of the key file in the state directory.
pub const KEY_FILE: &str = "key";

/// Largest key file that is read, bytes. Ours have about 400.
const MAX_KEY_FILE_LEN: u64 = 4096;

/// First line of a key file, before the version.
const MAGIC: &str = "anyhop-key";

/// The version written and read.
const VERSION: &str = "1";

/// Why there is no key to start with. A key file that exists is left as it is.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The state directory cannot be created.
    #[error("cannot create the state directory {}: {source}", path.display())]
    CreateDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key file cannot be read.
    #[error("cannot read the key file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A new key cannot be written.
    #[error("cannot write a new key to {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the owner may read or write the file.
    #[error(
        "the key file {} has mode {mode:04o}, so others may use this node's key: run `chmod 600 {}`, \
         or move the file away to start with a new identity if the key may have leaked",
        path.display(), path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is there, but no key can be had from it.
    #[error(
        "the key file {} is unusable: {fault}. It was left as it is: restore it from a backup, \
         or move it away to start with a new identity",
        path.display()
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        fault: KeyFault,
    },
    /// The new key could not be encoded.
    #[error("cannot encode a new key: {0}")]
    Encode(String),
}

/// What is wrong with a key file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyFault {
    /// It has no content.
    #[error("it is empty")]
    Empty,
    /// It does not begin as a key file does, or is far too large.
    #[error("it is not an Anyhop key file")]
    Foreign,
    /// It is of a version this program does not know.
    #[error("it has version {0:?} and this program reads version {VERSION} only")]
    Version(String),
    /// A line is missing, as after a copy that was cut off.
    #[error("it has no `{0}` line; it may have been cut off")]
    Missing(&'static str),
    /// A line is there twice or is not known.
    #[error("its line {0} does not belong there")]
    Line(usize),
    /// The secret is no key.
    #[error("its secret is damaged: {0}")]
    Secret(String),
    /// The `peer-id` line is no PeerId.
    #[error("its peer-id line is damaged")]
    PeerId,
    /// The key is not Ed25519.
    #[error("it holds a key of type {0}, and a node's key is Ed25519")]
    KeyType(String),
    /// The key is not that of the `peer-id` line.
    #[error("its secret belongs to {actual}, but its peer-id line says {stated}")]
    OtherPeer {
        /// Whose the secret is.
        actual: PeerId,
        /// Whose it should be.
        stated: PeerId,
    },
}

/// The key in `state_dir`, made and stored first if there is none.
///
/// Creates the directory with mode 0700 and the file with mode 0600. Of two callers at
/// once one stores its key and both return that one.
///
/// # Errors
/// When the file cannot be read or written, is readable by others, or is no valid key
/// file. An existing file is never changed.
pub fn load_or_create_keypair(state_dir: &Path) -> Result<Keypair, KeyError> {
    let path = state_dir.join(KEY_FILE);
    if let Some(keypair) = load(&path)? {
        return Ok(keypair);
    }
    create_private_dir(state_dir).map_err(|source| KeyError::CreateDir {
        path: state_dir.to_owned(),
        source,
    })?;
    let keypair = Keypair::generate_ed25519();
    let text = encode(&keypair)?;
    match create_atomic(&path, text.as_bytes(), 0o600) {
        Ok(()) => Ok(keypair),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match load(&path)? {
            Some(keypair) => Ok(keypair),
            None => Err(KeyError::Write { path, source: e }),
        },
        Err(source) => Err(KeyError::Write { path, source }),
    }
}

/// Multihash code of the identity function: the digest is the key itself.
const IDENTITY: u64 = 0;

/// The Ed25519 key that a node's id holds; `None` for ids of other kinds.
#[must_use]
pub fn public_key_of(peer: &PeerId) -> Option<PublicKey> {
    let hash = peer.as_ref();
    let key = (hash.code() == IDENTITY)
        .then(|| PublicKey::try_decode_protobuf(hash.digest()).ok())
        .flatten();
    key.filter(|key| key.key_type() == KeyType::Ed25519)
}

/// The key in the file, or `None` when there is no file.
fn load(path: &Path) -> Result<Option<Keypair>, KeyError> {
    let text = match read(path) {
        Ok(text) => text,
        Err(KeyError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            // A dangling link is an operator's mistake, not a missing key.
            if path.is_symlink() {
                return Err(KeyError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    let keypair = decode(&text).map_err(|fault| KeyError::Unusable {
        path: path.to_owned(),
        fault,
    })?;
    Ok(Some(keypair))
}

fn read(path: &Path) -> Result<Vec<u8>, KeyError> {
    let failed = |source| KeyError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    // Of the opened file, so that it is the one that is read.
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(KeyError::Unusable {
            path: path.to_owned(),
            fault: KeyFault::Foreign,
        });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = Vec::new();
    file.take(MAX_KEY_FILE_LEN + 1)
        .read_to_end(&mut text)
        .map_err(failed)?;
    Ok(text)
}

fn encode(keypair: &Keypair) -> Result<String, KeyError> {
    let secret = keypair
        .to_protobuf_encoding()
        .map_err(|e| KeyError::Encode(e.to_string()))?;
    let mut text = format!(
        "{MAGIC} {VERSION}\n\
         # The secret key of an Anyhop node. Whoever has this file is that node:\n\
         # keep it private, and keep a backup, for it cannot be made again.\n\
         peer-id {}\n\
         secret ",
        keypair.public().to_peer_id()
    );
    for byte in secret {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
    Ok(text)
}

fn decode(file: &[u8]) -> Result<Keypair, KeyFault> {
    if file.is_empty() {
        return Err(KeyFault::Empty);
    }
    let text = std::str::from_utf8(file).map_err(|_| KeyFault::Foreign)?;
    let mut lines = text.lines().zip(1..);
    let version = lines
        .next()
        .and_then(|(line, _)| line.strip_prefix(MAGIC)?.strip_prefix(' '))
        .ok_or(KeyFault::Foreign)?;
    if version != VERSION {
        return Err(KeyFault::Version(version.to_owned()));
    }
    if file.len() as u64 > MAX_KEY_FILE_LEN {
        return Err(KeyFault::Foreign);
    }
    let (mut peer_id, mut secret) = (None, None);
    for (line, number) in lines {
        let field = match line.split_once(' ') {
            _ if line.is_empty() || line.starts_with('#') => continue,
            Some(("peer-id", value)) => peer_id.replace(value),
            Some(("secret", value)) => secret.replace(value),
            _ => return Err(KeyFault::Line(number)),
        };
        if field.is_some() {
            return Err(KeyFault::Line(number));
        }
    }
    let stated = peer_id.ok_or(KeyFault::Missing("peer-id"))?;
    let stated: PeerId = stated.parse().map_err(|_| KeyFault::PeerId)?;
    let keypair = decode_secret(secret.ok_or(KeyFault::Missing("secret"))?)?;
    let actual = keypair.public().to_peer_id();
    if actual != stated {
        return Err(KeyFault::OtherPeer { actual, stated });
    }
    Ok(keypair)
}

fn decode_secret(hex: &str) -> Result<Keypair, KeyFault> {
    let damaged = |reason: &str| KeyFault::Secret(reason.to_owned());
    let (pairs, odd) = hex.as_bytes().as_chunks::<2>();
    if !odd.is_empty() {
        return Err(damaged("it is cut off"));
    }
    let digit = |c: u8| char::from(c).to_digit(16).map(|d| d as u8);
    let bytes: Option<Vec<u8>> = pairs
        .iter()
        .map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?))
        .collect();
    let bytes = bytes.ok_or_else(|| damaged("it is not hexadecimal"))?;
    let keypair = Keypair::from_protobuf_encoding(&bytes)
        .map_err(|e| damaged(&format!("it is not a key ({e})")))?;
    match keypair.key_type() {
        KeyType::Ed25519 => Ok(keypair),
        other => Err(KeyFault::KeyType(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        thread,
    };

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// A state directory with a valid key, and the key's file.
    fn with_key() -> (tempfile::TempDir, PathBuf, PeerId) {
        let dir = tempfile::tempdir().unwrap();
        let key = load_or_create_keypair(dir.path()).unwrap();
        let path = dir.path().join(KEY_FILE);
        (dir, path, key.public().to_peer_id())
    }

    fn fault_of(content: &[u8]) -> KeyFault {
        let (dir, path, _) = with_key();
        fs::write(&path, content).unwrap();
        let error = load_or_create_keypair(dir.path()).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), content, "the file was changed");
        let text = error.to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
        assert!(text.contains("backup") && text.contains("new identity"));
        match error {
            KeyError::Unusable { fault, .. } => fault,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_key_is_made_once_and_then_kept() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/state");
        let first = load_or_create_keypair(&state).unwrap();
        let again = load_or_create_keypair(&state).unwrap();
        assert_eq!(first.public(), again.public());
        assert_eq!(mode_of(&state), 0o700);
        assert_eq!(mode_of(&state.join(KEY_FILE)), 0o600);
        let entries = fs::read_dir(&state).unwrap().count();
        assert_eq!(entries, 1, "something besides the key was left");
    }

    #[test]
    fn racing_starts_agree_on_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let peers: Vec<PeerId> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| load_or_create_keypair(dir.path()).unwrap()))
                .collect();
            let keys = threads.into_iter().map(|t| t.join().unwrap());
            keys.map(|k| k.public().to_peer_id()).collect()
        });
        let stored = load_or_create_keypair(dir.path()).unwrap();
        let stored = stored.public().to_peer_id();
        assert!(peers.iter().all(|p| *p == stored), "{peers:?}");
    }

    /// Pins the file's format: a change would take every operator's key away.
    #[test]
    fn version_1_files_are_read() {
        let text = "anyhop-key 1\n# comment\n\n\
            peer-id 12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5\n\
            secret 08011240\
            0101010101010101010101010101010101010101010101010101010101010101\
            8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c\n";
        let key = decode(text.as_bytes()).unwrap();
        assert_eq!(
            key.public().to_peer_id().to_string(),
            "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"
        );
        assert_eq!(
            decode(encode(&key).unwrap().as_bytes()).unwrap().public(),
            key.public()
        );
    }

    #[test]
    fn damaged_files_are_refused_and_left_alone() {
        let (_dir, path, peer) = with_key();
        let good = fs::read_to_string(&path).unwrap();
        let other = Keypair::generate_ed25519().public().to_peer_id();
        let swapped = good.replace(&peer.to_string(), &other.to_string());

        assert_eq!(fault_of(b""), KeyFault::Empty);
        assert_eq!(fault_of(b"\xff\xfe\x00"), KeyFault::Foreign);
        assert_eq!(
            fault_of(b"-----BEGIN PRIVATE KEY-----\n"),
            KeyFault::Foreign
        );
        assert_eq!(fault_of(b"anyhop-key"), KeyFault::Foreign);
        assert_eq!(
            fault_of(b"anyhop-key 2\n"),
            KeyFault::Version("2".to_owned())
        );
        assert_eq!(fault_of(b"anyhop-key 1\n"), KeyFault::Missing("peer-id"));
        let huge = format!("{good}{}", "#\n".repeat(4096));
        assert_eq!(fault_of(huge.as_bytes()), KeyFault::Foreign);
        let doubled = format!("{good}peer-id {peer}\n");
        assert_eq!(fault_of(doubled.as_bytes()), KeyFault::Line(6));
        assert_eq!(
            fault_of(swapped.as_bytes()),
            KeyFault::OtherPeer {
                actual: peer,
                stated: other
            }
        );
    }

    #[test]
    fn a_file_cut_off_anywhere_is_refused() {
        let (_dir, path, _) = with_key();
        let good = fs::read(&path).unwrap();
        // Without only its last newline the file is still complete.
        for len in 0..good.len() - 1 {
            decode(&good[..len]).unwrap_err();
        }
        decode(&good[..good.len() - 1]).unwrap();
    }

    #[test]
    fn a_secret_with_any_changed_digit_is_refused() {
        let (_dir, path, _) = with_key();
        let good = fs::read(&path).unwrap();
        let start = good.len() - 1 - 2 * 68;
        for i in start..good.len() - 1 {
            let mut bad = good.clone();
            bad[i] = if bad[i] == b'0' { b'1' } else { b'0' };
            assert!(decode(&bad).is_err(), "digit {i}");
        }
    }

    #[test]
    fn a_key_others_can_read_is_refused_with_the_remedy() {
        for mode in [0o640, 0o604, 0o620, 0o666] {
            let (dir, path, _) = with_key();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = load_or_create_keypair(dir.path()).unwrap_err();
            assert!(matches!(error, KeyError::Exposed { mode: m, .. } if m == mode));
            assert!(error.to_string().contains("chmod 600"));
        }
    }

    #[test]
    fn a_directory_in_the_keys_place_is_no_key() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(KEY_FILE)).unwrap();
        let error = load_or_create_keypair(dir.path()).unwrap_err();
        assert!(error.to_string().contains("not an Anyhop key file"));
    }

    #[test]
    fn a_link_to_nowhere_is_not_taken_for_a_missing_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        std::os::unix::fs::symlink(dir.path().join("usb-stick/key"), &path).unwrap();
        let error = load_or_create_keypair(dir.path()).unwrap_err();
        assert!(matches!(error, KeyError::Read { .. }), "{error}");
    }

    #[test]
    fn a_state_directory_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = load_or_create_keypair(&file.join("state")).unwrap_err();
        assert!(error.to_string().contains("file/state"), "{error}");
    }
}
