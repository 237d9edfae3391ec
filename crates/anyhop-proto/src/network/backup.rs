//! Backups of a network's state under a passphrase: the owner's way not to lose a network
//! with a machine.
//!
//! ```text
//! anyhop-backup 1
//! # ..
//! salt <32 hex digits>
//! nonce <24 hex digits>
//! sealed <base64>
//! ```
//!
//! Argon2id (RFC 9106) with [`MEMORY_KIB`], three passes and one lane makes a key of the
//! passphrase; ChaCha20-Poly1305 seals with it. The first line is authenticated too.

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use thiserror::Error;
use zeroize::Zeroizing;

/// Memory that a guess at the passphrase costs, KiB.
pub const MEMORY_KIB: u32 = 64 * 1024;
/// Passes over the memory.
const PASSES: u32 = 3;
/// First line.
const HEADER: &str = "anyhop-backup 1";
/// First word of the first line.
const MAGIC: &str = "anyhop-backup ";
/// Largest backup that is read, bytes.
pub const MAX_BACKUP_LEN: usize = 64 << 20;
/// Length of the salt, bytes.
pub const SALT_LEN: usize = 16;
/// Length of the nonce, bytes.
pub const NONCE_LEN: usize = 12;

/// Why a backup cannot be made or opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The text is no backup.
    #[error("this is no backup of an Anyhop network")]
    Foreign,
    /// It is of a version that is not known here.
    #[error("the backup has version {0:?} and this program reads version 1 only")]
    Version(String),
    /// A line is missing or malformed, as after a copy that was cut off.
    #[error("the backup is damaged: its `{0}` line is missing or malformed")]
    Damaged(&'static str),
    /// Wrong passphrase, or the content was changed; nobody can tell which.
    #[error("the passphrase is wrong, or the backup was changed")]
    Locked,
    /// An empty passphrase protects nothing.
    #[error("a backup needs a passphrase")]
    NoPassphrase,
    /// There is not enough memory, or too much to seal.
    #[error("cannot make the backup: {0}")]
    Failed(&'static str),
}

/// Seals bytes; `salt` and `nonce` must be random.
///
/// # Errors
/// When the passphrase is empty, or memory is short.
pub fn seal(
    plain: &[u8],
    passphrase: &str,
    salt: [u8; SALT_LEN],
    nonce: [u8; NONCE_LEN],
) -> Result<String, BackupError> {
    let key = key(passphrase, &salt)?;
    let mut sealed = plain.to_vec();
    key.seal_in_place_append_tag(
        Nonce::assume_unique_for_key(nonce),
        Aad::from(HEADER),
        &mut sealed,
    )
    .map_err(|_| BackupError::Failed("sealing failed"))?;
    let (salt, nonce) = (hex(&salt), hex(&nonce));
    let sealed = STANDARD.encode(sealed);
    Ok(format!(
        "{HEADER}\n\
         # The authority of an Anyhop network, sealed with a passphrase. Whoever has both\n\
         # is the owner of the network.\n\
         salt {salt}\nnonce {nonce}\nsealed {sealed}\n"
    ))
}

/// Opens a backup.
///
/// # Errors
/// When the text is no backup or the passphrase is not its.
pub fn open(text: &str, passphrase: &str) -> Result<Zeroizing<Vec<u8>>, BackupError> {
    if text.len() > MAX_BACKUP_LEN {
        return Err(BackupError::Foreign);
    }
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let version = first.strip_prefix(MAGIC).ok_or(BackupError::Foreign)?;
    if first != HEADER {
        return Err(BackupError::Version(version.to_owned()));
    }
    let lines: Vec<_> = lines.filter_map(|l| l.split_once(' ')).collect();
    let value = |name: &'static str| {
        let mut found = lines.iter().filter(|(n, _)| *n == name);
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Ok(*value),
            _ => Err(BackupError::Damaged(name)),
        }
    };
    let salt = unhex(value("salt")?).ok_or(BackupError::Damaged("salt"))?;
    let nonce = unhex(value("nonce")?).ok_or(BackupError::Damaged("nonce"))?;
    let sealed = STANDARD.decode(value("sealed")?);
    let mut sealed = Zeroizing::new(sealed.map_err(|_| BackupError::Damaged("sealed"))?);
    let key = key(passphrase, &salt)?;
    let nonce = Nonce::assume_unique_for_key(nonce);
    let opened = key.open_in_place(nonce, Aad::from(HEADER), &mut sealed);
    let len = opened.map_err(|_| BackupError::Locked)?.len();
    sealed.truncate(len);
    Ok(sealed)
}

fn key(passphrase: &str, salt: &[u8; SALT_LEN]) -> Result<LessSafeKey, BackupError> {
    if passphrase.is_empty() {
        return Err(BackupError::NoPassphrase);
    }
    let params = Params::new(MEMORY_KIB, PASSES, 1, Some(32));
    let params = params.map_err(|_| BackupError::Failed("its parameters are refused"))?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut key = Zeroizing::new([0; 32]);
    argon
        .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
        .map_err(|_| BackupError::Failed("the passphrase cannot be hashed"))?;
    let key = UnboundKey::new(&CHACHA20_POLY1305, &*key);
    key.map(LessSafeKey::new)
        .map_err(|_| BackupError::Failed("its key is refused"))
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"the authority";

    fn sealed() -> String {
        seal(PLAIN, "correct horse", [1; SALT_LEN], [2; NONCE_LEN]).unwrap()
    }

    /// Pins the format: a change would lock owners out of their backups.
    #[test]
    fn the_text_of_a_backup_is_stable_and_opens() {
        let text = sealed();
        assert_eq!(text.lines().last(), Some(SEALED));
        assert_eq!(open(&text, "correct horse").unwrap().as_slice(), PLAIN);
    }

    #[test]
    fn a_wrong_passphrase_and_a_changed_backup_open_nothing() {
        let text = sealed();
        assert_eq!(open(&text, "wrong"), Err(BackupError::Locked));
        let changed = text.replace("salt 01", "salt 02");
        assert_eq!(open(&changed, "correct horse"), Err(BackupError::Locked));
        assert_eq!(open(&text, ""), Err(BackupError::NoPassphrase));
        let none = seal(PLAIN, "", [0; SALT_LEN], [0; NONCE_LEN]);
        assert_eq!(none, Err(BackupError::NoPassphrase));
    }

    #[test]
    fn what_is_no_backup_is_told_apart_from_a_damaged_one() {
        let text = sealed();
        assert_eq!(open("", "x"), Err(BackupError::Foreign));
        assert_eq!(open("anyhop-key 1\n", "x"), Err(BackupError::Foreign));
        let later = text.replace("anyhop-backup 1", "anyhop-backup 2");
        assert_eq!(open(&later, "x"), Err(BackupError::Version("2".to_owned())));
        let cut = text.lines().take(4).collect::<Vec<_>>().join("\n");
        assert_eq!(open(&cut, "x"), Err(BackupError::Damaged("nonce")));
        let twice = format!("{text}salt 00\n");
        assert_eq!(open(&twice, "x"), Err(BackupError::Damaged("salt")));
        let odd = text.replace("nonce 02", "nonce 2");
        assert_eq!(open(&odd, "x"), Err(BackupError::Damaged("nonce")));
    }

    const SEALED: &str = "sealed OGz5dAJmm4ussJtllNv7nmZ2oFhnBf9+6GcBzSo=";
}
