//! What a node keeps of a private network: one file, written anew with every change that
//! must not be lost.
//!
//! ```text
//! anyhop-network 1\n     magic and version
//! ..                     protobuf
//! 32 bytes               SHA-256 of all before
//! ```
//!
//! It holds secrets: swarm keys, those of invitations, and the owner's the authority's key.
//! It is written whole or not at all by who stores it; the check sum tells a file that was cut
//! off by other means. Statements are checked again on reading.

mod wire;

use std::{fmt, sync::Arc};

use anyhop_base::{Keypair, PeerAddr};
use aws_lc_rs::digest;
use prost::Message as _;
use thiserror::Error;

use super::{
    Charter, Membership,
    book::InvitationBook,
    invitation::Invitation,
    statement::{MemberName, OptOuts, Statement},
    swarm::SwarmKey,
};

/// First bytes of the file, before the version.
const MAGIC: &str = "anyhop-network ";
/// The version written and read.
const VERSION: &str = "1";
/// Bytes of the check sum.
const CHECK_LEN: usize = 32;
/// Largest state that is read, bytes: above what the limits of a network come to.
pub const MAX_STATE_LEN: usize = 256 << 20;
/// Most addresses of members kept for the next start.
pub const MAX_CONTACTS: usize = 32;

/// All that a node keeps of a network.
#[derive(Clone)]
pub struct NetworkState {
    /// The network.
    pub charter: Charter,
    /// Its authority's key, on the owner's node.
    pub authority: Option<Keypair>,
    /// What has been said in it.
    pub membership: Membership,
    /// The swarm keys.
    pub keys: Vec<SwarmKey>,
    /// The invitations that this node has given out.
    pub invitations: InvitationBook,
    /// Where members were seen last; at most [`MAX_CONTACTS`].
    pub contacts: Vec<PeerAddr>,
    /// The invitation that is being redeemed, until this node is a member.
    pub joining: Option<Invitation>,
    /// The name that this node would like.
    pub name: Option<MemberName>,
    /// What this node wants to be left out of.
    pub opt_outs: OptOuts,
    /// How often this node starts a new epoch by itself, seconds.
    pub rotate_every_s: Option<u64>,
}

/// Without the secrets.
impl fmt::Debug for NetworkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkState")
            .field("membership", &self.membership)
            .field("owner", &self.authority.is_some())
            .field("joining", &self.joining.is_some())
            .finish_non_exhaustive()
    }
}

/// Why stored bytes are no state of a network.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StateError {
    /// They begin otherwise.
    #[error("it is not the state of an Anyhop network")]
    Foreign,
    /// They are of a version that is not known here.
    #[error("it has version {0:?} and this program reads version {VERSION} only")]
    Version(String),
    /// The check sum is wrong.
    #[error("it is damaged or cut off: its check sum is wrong")]
    Damaged,
    /// The content is not what a state holds.
    #[error("its content is unusable: {0}")]
    Malformed(String),
}

impl NetworkState {
    /// Of a network about which nothing but its charter is known.
    #[must_use]
    pub fn new(charter: Charter) -> Self {
        Self {
            membership: Membership::new(charter.clone()),
            charter,
            authority: None,
            keys: Vec::new(),
            invitations: InvitationBook::default(),
            contacts: Vec::new(),
            joining: None,
            name: None,
            opt_outs: OptOuts::default(),
            rotate_every_s: None,
        }
    }

    /// The bytes to store.
    ///
    /// # Errors
    /// When the authority's key refuses to be encoded.
    pub fn encode(&self) -> Result<Vec<u8>, StateError> {
        let content = wire::State::try_from(self)?;
        let mut bytes = format!("{MAGIC}{VERSION}\n").into_bytes();
        content
            .encode(&mut bytes)
            .map_err(|e| malformed(&e.to_string()))?;
        let check = digest::digest(&digest::SHA256, &bytes);
        bytes.extend_from_slice(check.as_ref());
        Ok(bytes)
    }

    /// Reads stored bytes.
    ///
    /// # Errors
    /// When they are not such a state, or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        if bytes.len() > MAX_STATE_LEN {
            return Err(StateError::Foreign);
        }
        let rest = bytes
            .strip_prefix(MAGIC.as_bytes())
            .ok_or(StateError::Foreign)?;
        let line = rest.iter().take(16).position(|b| *b == b'\n');
        let (version, rest) = rest.split_at(line.ok_or(StateError::Foreign)?);
        if version != VERSION.as_bytes() {
            let version = String::from_utf8_lossy(version).into_owned();
            return Err(StateError::Version(version));
        }
        let (content, check) = rest[1..]
            .split_last_chunk::<CHECK_LEN>()
            .ok_or(StateError::Damaged)?;
        let summed = &bytes[..bytes.len() - CHECK_LEN];
        if digest::digest(&digest::SHA256, summed).as_ref() != check {
            return Err(StateError::Damaged);
        }
        let content = wire::State::decode(content).map_err(|e| malformed(&e.to_string()))?;
        content.into_state()
    }
}

/// Statements in stored form, checked anew.
fn merge(membership: &mut Membership, encoded: &[Vec<u8>]) -> Result<(), StateError> {
    for bytes in encoded {
        let statement = Statement::decode(bytes, membership.charter());
        let statement = statement.map_err(|e| malformed(&e.to_string()))?;
        membership.merge(Arc::new(statement));
    }
    Ok(())
}

fn malformed(why: &str) -> StateError {
    StateError::Malformed(why.to_owned())
}

#[cfg(test)]
mod tests {
    use anyhop_base::Endpoint;

    use super::*;
    use crate::network::testing::{NOW, keypair, peer};
    use crate::network::{
        Gossip,
        statement::{Body, Certificate, Issuer, Role, Signer},
        swarm::Epoch,
    };

    fn state() -> NetworkState {
        let charter = Charter::new("lab".parse().unwrap(), peer(1)).unwrap();
        let signer = Signer::Authority(keypair(1));
        let mut membership = Membership::new(charter.clone());
        let certificate = Certificate {
            peer: peer(2),
            version: 1,
            name: "home".parse().unwrap(),
            role: Role::Owner,
            overlay: Vec::new(),
            opt_outs: OptOuts::default(),
            issued_unix_s: NOW,
            expires_unix_s: NOW + 60,
        };
        let body = membership.certify(certificate, Issuer::Authority).unwrap();
        membership.merge(Statement::sign(body, &signer, &charter).unwrap());
        let mut gossip = Gossip::new(peer(2), membership, []);
        gossip.rotate(NOW, &signer, [3; 32]).unwrap();
        let mut state = NetworkState::new(charter.clone());
        state.membership = gossip.membership().clone();
        state.keys = gossip.keys().cloned().collect();
        state.authority = Some(keypair(1));
        state.invitations.give(NOW, [4; 32], 60, 2, true).unwrap();
        let addr = Endpoint::Udp("203.0.113.1:4001".parse().unwrap());
        state.contacts = vec![PeerAddr::at(peer(5), addr).unwrap()];
        state.joining = Some(Invitation {
            charter,
            inviter: peer(2),
            addresses: Vec::new(),
            secret: [7; 32],
            expires_unix_s: NOW,
            approve: false,
        });
        state.name = Some("home".parse().unwrap());
        state.opt_outs.stealth = true;
        state.rotate_every_s = Some(3600);
        state
    }

    fn assert_same(one: &NetworkState, other: &NetworkState) {
        assert_eq!(one.charter, other.charter);
        assert_eq!(one.membership, other.membership);
        assert_eq!(one.keys, other.keys);
        assert_eq!(one.invitations, other.invitations);
        assert_eq!(one.contacts, other.contacts);
        assert_eq!(one.joining, other.joining);
        assert_eq!((&one.name, one.opt_outs), (&other.name, other.opt_outs));
        assert_eq!(one.rotate_every_s, other.rotate_every_s);
        let public = |s: &NetworkState| s.authority.as_ref().map(|k| k.public());
        assert_eq!(public(one), public(other));
    }

    #[test]
    fn a_state_is_read_as_it_was_stored() {
        let bytes = state().encode().unwrap();
        assert!(bytes.starts_with(b"anyhop-network 1\n"));
        let read = NetworkState::decode(&bytes).unwrap();
        assert_same(&read, &state());
        assert_eq!(read.keys[0].epoch(), Epoch(1));
        let empty = NetworkState::new(state().charter);
        let read = NetworkState::decode(&empty.encode().unwrap()).unwrap();
        assert_same(&read, &empty);
    }

    #[test]
    fn a_state_that_was_cut_off_or_changed_anywhere_is_refused() {
        let good = state().encode().unwrap();
        for len in 0..good.len() {
            assert!(NetworkState::decode(&good[..len]).is_err(), "{len}");
        }
        for i in (0..good.len()).step_by(7) {
            let mut bad = good.clone();
            bad[i] ^= 0x10;
            assert!(NetworkState::decode(&bad).is_err(), "{i}");
        }
        let mut later = good;
        later[15] = b'2';
        let version = StateError::Version("2".to_owned());
        assert_eq!(NetworkState::decode(&later).unwrap_err(), version);
    }

    #[test]
    fn statements_in_a_state_are_believed_no_more_than_any() {
        let other = Charter::new("lab".parse().unwrap(), peer(9)).unwrap();
        let body = Body::Epoch(crate::network::statement::EpochNotice {
            epoch: Epoch(5),
            key: crate::network::statement::KeyId([1; 32]),
            issued_unix_s: NOW,
        });
        let forged = Statement::sign(body, &Signer::Authority(keypair(9)), &other).unwrap();
        let mut membership = Membership::new(state().charter);
        let error = merge(&mut membership, &[forged.encode()]).unwrap_err();
        assert!(matches!(error, StateError::Malformed(_)), "{error}");
    }
}
