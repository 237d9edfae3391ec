//! Networks: isolated sets of nodes, told apart by name.
//!
//! A network's name is hashed into its [`NetworkId`], which is part of the ALPN and of
//! every protocol name, so that nodes of different networks fail at the handshake. The id
//! of a private network comes from its authority, too: a public network of the same name,
//! and a private one of somebody else, are other networks.

use std::{fmt, str::FromStr};

use libp2p_identity::PeerId;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Longest network name, bytes.
pub const MAX_NETWORK_NAME_LEN: usize = 64;

/// What is hashed before the name, so that the id is no hash of anything else.
const ID_DOMAIN: &[u8] = b"anyhop-network/1\0";

/// The same for private networks; then comes the authority's PeerId.
const PRIVATE_ID_DOMAIN: &[u8] = b"anyhop-private-network/1\0";

/// The name of a network: 1 to [`MAX_NETWORK_NAME_LEN`] characters of `a-z`, `0-9`, `.`,
/// `_` and `-`. The default is `main`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkName(String);

impl NetworkName {
    /// Checks a name.
    ///
    /// # Errors
    /// When it is empty, too long, or has other characters.
    pub fn new(name: impl Into<String>) -> Result<Self, NetworkNameError> {
        let name = name.into();
        if name.is_empty() {
            return Err(NetworkNameError::Empty);
        }
        if name.len() > MAX_NETWORK_NAME_LEN {
            return Err(NetworkNameError::TooLong { len: name.len() });
        }
        let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-');
        if let Some(found) = name.chars().find(|&c| !allowed(c)) {
            return Err(NetworkNameError::BadCharacter { name, found });
        }
        Ok(Self(name))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the public network of this name.
    #[must_use]
    pub fn id(&self) -> NetworkId {
        let mut hash = Sha256::new();
        hash.update(ID_DOMAIN);
        hash.update(self.0.as_bytes());
        NetworkId(hash.finalize().into())
    }

    /// The id of the private network of this name under an authority, the PeerId of its
    /// key.
    #[must_use]
    pub fn private_id(&self, authority: &PeerId) -> NetworkId {
        let mut hash = Sha256::new();
        hash.update(PRIVATE_ID_DOMAIN);
        hash.update(authority.to_bytes());
        hash.update(self.0.as_bytes());
        NetworkId(hash.finalize().into())
    }
}

impl Default for NetworkName {
    fn default() -> Self {
        Self("main".to_owned())
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NetworkName {
    type Err = NetworkNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

/// Why a text is no network name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NetworkNameError {
    /// It is empty.
    #[error("a network name cannot be empty; the default network is `main`")]
    Empty,
    /// It is longer than [`MAX_NETWORK_NAME_LEN`].
    #[error("network name of {len} bytes is too long: at most {MAX_NETWORK_NAME_LEN} are allowed")]
    TooLong {
        /// Its length, bytes.
        len: usize,
    },
    /// It has a character that is not allowed.
    #[error("network name {name:?} contains {found:?}: use only a-z, 0-9, '.', '_' and '-'")]
    BadCharacter {
        /// The text.
        name: String,
        /// The first character that is not allowed.
        found: char,
    },
}

/// The hash of a network's name. Its [`Display`](fmt::Display) form is the first eight
/// bytes in hex, as used in protocol names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId([u8; 32]);

impl NetworkId {
    /// All 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The TLS application protocol that nodes of this network offer each other.
    #[must_use]
    pub fn alpn(&self) -> Vec<u8> {
        format!("anyhop/1/{self}").into_bytes()
    }

    /// The full name of one of Anyhop's own protocols in this network:
    /// `/anyhop/<id>/<name>`.
    #[must_use]
    pub fn protocol(&self, name: &str) -> String {
        format!("/anyhop/{self}/{name}")
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetworkId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["main", "a", "test-net_2.example", &"x".repeat(64)] {
            assert_eq!(NetworkName::new(good).unwrap().to_string(), *good);
        }
        assert_eq!(NetworkName::new(""), Err(NetworkNameError::Empty));
        assert_eq!(
            NetworkName::new("x".repeat(65)),
            Err(NetworkNameError::TooLong { len: 65 })
        );
        for (bad, found) in [("Main", 'M'), ("a b", ' '), ("naïve", 'ï'), ("a/b", '/')] {
            assert_eq!(
                bad.parse::<NetworkName>(),
                Err(NetworkNameError::BadCharacter {
                    name: bad.to_owned(),
                    found
                })
            );
        }
    }

    #[test]
    fn the_default_network_is_main() {
        assert_eq!(NetworkName::default(), "main".parse().unwrap());
    }

    /// Pins the id: a change would cut every node off from its network.
    #[test]
    fn ids_and_protocol_names_are_stable() {
        let id = NetworkName::default().id();
        // printf 'anyhop-network/1\0main' | sha256sum
        assert_eq!(id.to_string(), "d84b3d82a87fea67");
        assert_eq!(id.alpn(), b"anyhop/1/d84b3d82a87fea67");
        assert_eq!(id.protocol("record/1"), "/anyhop/d84b3d82a87fea67/record/1");
    }

    /// Pins the id of private networks: the same.
    #[test]
    fn a_private_network_is_named_by_its_authority_too() {
        let authority = |seed| {
            let key = libp2p_identity::Keypair::ed25519_from_bytes([seed; 32]).unwrap();
            key.public().to_peer_id()
        };
        let main = NetworkName::default();
        let id = main.private_id(&authority(1));
        assert_eq!(id.to_string(), "fe23e0894bfea38a");
        assert_ne!(id, main.id());
        assert_ne!(id, main.private_id(&authority(2)));
        let other = NetworkName::new("other").unwrap();
        assert_ne!(id, other.private_id(&authority(1)));
    }

    #[test]
    fn different_names_have_different_ids() {
        let test = NetworkName::new("test").unwrap();
        assert_ne!(test.id(), NetworkName::default().id());
        assert_ne!(test.id().alpn(), NetworkName::default().id().alpn());
    }
}
