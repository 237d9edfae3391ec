//! Connection ids and stateless resets that outlive the process.
//!
//! A node that starts again does not know its earlier connections, and their peers would
//! wait until they time out. The keys are derived from the node's own, so that it has them
//! again (RFC 9000 section 10.3.2): it recognises ids of its earlier life and tells their
//! peers that the connection is gone. Other ids get no answer.

use anyhop_base::Keypair;
use aws_lc_rs::{constant_time, hmac};
use noq::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use rand::RngExt;

use crate::StartError;

const DOMAIN: &[u8] = b"anyhop stateless reset 1";
/// Random bytes of a connection id, and bytes of the code that proves it to be ours: a
/// stranger hits on one in 2^32.
const RANDOM_LEN: usize = 4;
const CODE_LEN: usize = 4;
/// Length of the connection ids of this node, bytes.
pub(super) const OWN_LEN: usize = RANDOM_LEN + CODE_LEN;

/// What a node answers strange packets with.
pub(super) struct Keys {
    /// Makes the tokens of resets.
    pub(super) tokens: hmac::Key,
    pub(super) ids: Ids,
}

impl Keys {
    pub(super) fn new(keypair: &Keypair) -> Result<Self, StartError> {
        let secret = keypair
            .derive_secret(DOMAIN)
            .ok_or_else(|| StartError::Engine("this kind of key derives no secret".to_owned()))?;
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let derive = |purpose: &[u8]| {
            let derived = hmac::sign(&secret, purpose);
            hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())
        };
        Ok(Self {
            tokens: derive(b"tokens"),
            ids: Ids(derive(b"connection ids")),
        })
    }
}

/// Makes and recognises connection ids.
#[derive(Debug, Clone)]
pub(super) struct Ids(hmac::Key);

impl Ids {
    fn code(&self, random: &[u8]) -> [u8; CODE_LEN] {
        let tag = hmac::sign(&self.0, random);
        std::array::from_fn(|i| tag.as_ref()[i])
    }
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; OWN_LEN];
        rand::rng().fill(&mut id[..RANDOM_LEN]);
        let code = self.code(&id[..RANDOM_LEN]);
        id[RANDOM_LEN..].copy_from_slice(&code);
        ConnectionId::new(&id)
    }

    fn validate(&self, id: ConnectionId) -> Result<(), InvalidCid> {
        let (random, code) = id.split_at_checked(RANDOM_LEN).ok_or(InvalidCid)?;
        constant_time::verify_slices_are_equal(&self.code(random), code).map_err(|_| InvalidCid)
    }

    fn cid_len(&self) -> usize {
        OWN_LEN
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_recognised_by_the_same_node_after_a_restart_and_by_no_other() {
        let (one, other) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let ids = |key| Keys::new(key).expect("derived").ids;
        let id = ids(&one).generate_cid();
        assert_eq!(id.len(), 8);
        assert!(ids(&one).validate(id).is_ok());
        assert!(ids(&other).validate(id).is_err());
        let mut forged = [0; 8];
        forged.copy_from_slice(&id);
        forged[0] ^= 1;
        assert!(ids(&one).validate(ConnectionId::new(&forged)).is_err());
        assert!(ids(&one).validate(ConnectionId::new(&[])).is_err());
    }
}
