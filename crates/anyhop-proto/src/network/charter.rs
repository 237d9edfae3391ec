//! What a private network is: its name and the key of its authority.

use anyhop_base::{NetworkId, NetworkName, PeerId, PublicKey, public_key_of};
use thiserror::Error;

/// A private network as everybody who is to check its statements must know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charter {
    name: NetworkName,
    authority: PeerId,
    key: PublicKey,
    id: NetworkId,
}

/// The authority's id holds no Ed25519 key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0} cannot be the authority of a network: it is not the id of an Ed25519 key")]
pub struct BadAuthority(pub PeerId);

impl Charter {
    /// The network of this name under this authority.
    ///
    /// # Errors
    /// When the authority's key is not in its id.
    pub fn new(name: NetworkName, authority: PeerId) -> Result<Self, BadAuthority> {
        let key = public_key_of(&authority).ok_or(BadAuthority(authority))?;
        Ok(Self {
            id: name.private_id(&authority),
            name,
            authority,
            key,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &NetworkName {
        &self.name
    }

    /// The id of the authority's key.
    #[must_use]
    pub fn authority(&self) -> PeerId {
        self.authority
    }

    /// The authority's key.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The network's id, from both.
    #[must_use]
    pub fn id(&self) -> NetworkId {
        self.id
    }
}
