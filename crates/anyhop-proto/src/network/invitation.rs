//! Invitations: one text that lets somebody become a member.
//!
//! `anyhop-invite:` and then, in base32, a signed payload and a check sum. It names the
//! network, the node that redeems it, where that is to be dialled, and holds a secret that
//! is used for three things, each by a key of its own: an **entry key**, which stamps
//! packets to the inviter as a swarm key would, but admits to redeeming only; a **proof**
//! that the invitation is held, bound to the connection it is given on; and its **id**.
//! There is no swarm key in it: that is handed to those who are admitted. A text that is
//! used up or has expired opens nothing.
//!
//! The signature is the authority's or an admin's, and checked before anything is sent, so
//! that a text which somebody has changed leads nowhere else.

mod wire;

use std::{fmt, str::FromStr};

use anyhop_base::{Endpoint, Multiaddr, PeerId, parse_multiaddr, public_key_of};
use aws_lc_rs::{constant_time, digest, hmac};
use data_encoding::BASE32_NOPAD;
use prost::Message as _;
use thiserror::Error;

pub use wire::{MAX_REDEEM_FRAME, Redeem, RedeemAnswer};

use super::{
    Charter,
    statement::{Body, Envelope, Issuer, Signer, Statement, StatementError},
    swarm::{Epoch, SWARM_KEY_LEN, SwarmKey},
};

/// What every invitation begins with, in any case.
pub const INVITATION_PREFIX: &str = "anyhop-invite:";
/// Longest text of an invitation.
pub const MAX_INVITATION_TEXT: usize = 2048;
/// Most addresses in an invitation.
pub const MAX_INVITATION_ADDRESSES: usize = 8;
/// Length of an invitation's secret, bytes.
pub const INVITATION_SECRET_LEN: usize = 32;
/// Length of an [`InvitationId`], bytes.
pub const INVITATION_ID_LEN: usize = 8;

/// What is signed before the payload, so that the signature fits nothing else.
const SIGNATURE_DOMAIN: &[u8] = b"anyhop-invitation/1";
/// The version of the payload.
const VERSION: u32 = 1;
/// Bytes of SHA-256 behind the payload.
const CHECK_LEN: usize = 4;

/// Names an invitation to those who know it.
pub type InvitationId = [u8; INVITATION_ID_LEN];

/// What an invitation says.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The network.
    pub charter: Charter,
    /// The node that redeems it.
    pub inviter: PeerId,
    /// Where that is to be dialled, or greeters with their PeerIds; at most [`MAX_INVITATION_ADDRESSES`].
    pub addresses: Vec<Multiaddr>,
    /// Known to the inviter and to whoever has the text.
    pub secret: [u8; INVITATION_SECRET_LEN],
    /// When it ends, seconds since the Unix epoch.
    pub expires_unix_s: u64,
    /// Whether a person must approve of who redeems it.
    pub approve: bool,
}

/// Without the secret.
impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invitation")
            .field("network", self.charter.name())
            .field("inviter", &self.inviter)
            .field("expires_unix_s", &self.expires_unix_s)
            .field("approve", &self.approve)
            .finish_non_exhaustive()
    }
}

/// The keys that come from an invitation's secret.
#[derive(Clone)]
pub struct InvitationKeys {
    /// Names the invitation.
    pub id: InvitationId,
    /// Stamps packets to the inviter; of no epoch.
    pub entry: SwarmKey,
    proof: hmac::Key,
}

impl InvitationKeys {
    /// Derives them.
    #[must_use]
    pub fn new(secret: &[u8; INVITATION_SECRET_LEN]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derive = |what: &[u8]| hmac::sign(&root, what);
        let entry = derive(b"anyhop-invitation/1 entry");
        let entry: [u8; SWARM_KEY_LEN] = entry.as_ref().try_into().expect("both have 32 bytes");
        let id = derive(b"anyhop-invitation/1 id");
        let id = id.as_ref().first_chunk().expect("HMAC-SHA256 is longer");
        let proof = derive(b"anyhop-invitation/1 proof");
        Self {
            id: *id,
            entry: SwarmKey::new(Epoch(0), entry),
            proof: hmac::Key::new(hmac::HMAC_SHA256, proof.as_ref()),
        }
    }

    /// Proves to hold the invitation, as `peer`, on a connection that exported `channel`.
    #[must_use]
    pub fn prove(&self, peer: PeerId, channel: &[u8]) -> Vec<u8> {
        hmac::sign(&self.proof, &[&peer.to_bytes(), channel].concat())
            .as_ref()
            .to_vec()
    }

    /// Whether a proof is right.
    #[must_use]
    pub fn verify(&self, proof: &[u8], peer: PeerId, channel: &[u8]) -> bool {
        constant_time::verify_slices_are_equal(proof, &self.prove(peer, channel)).is_ok()
    }
}

/// Without the keys.
impl fmt::Debug for InvitationKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InvitationKeys")
    }
}

/// Why a text is no invitation, or none can be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvitationError {
    /// It begins otherwise, or is far too long.
    #[error("this is no invitation: one begins with {INVITATION_PREFIX:?}")]
    Foreign,
    /// The check sum is wrong.
    #[error("the invitation is damaged: copy it again, all of it")]
    Damaged,
    /// It is of a version that is not known here.
    #[error("the invitation has version {0}, and this program reads version {VERSION}: update it")]
    Version(u32),
    /// Its content is not what an invitation holds.
    #[error("malformed invitation: {0}")]
    Malformed(String),
    /// It was changed, or made by somebody else than it says.
    #[error(
        "the invitation is forged: its signature is not that of the network's authority or of an admin"
    )]
    Forged,
    /// Its signer may not invite.
    #[error("the invitation is signed by somebody whom the network's authority has not appointed")]
    WrongSigner,
    /// Its time is over.
    #[error("the invitation expired {ago_s} s ago: ask for a new one")]
    Expired {
        /// How long ago.
        ago_s: u64,
    },
    /// On making one: a limit is passed.
    #[error(
        "cannot make an invitation with {count} addresses: {MAX_INVITATION_ADDRESSES} are allowed"
    )]
    TooManyAddresses {
        /// How many.
        count: usize,
    },
    /// On making one: the key refused.
    #[error("cannot sign the invitation: {0}")]
    Signing(#[source] StatementError),
}

impl Invitation {
    /// Who is to be dialled and where: the inviter, or a [greeter](super::greeting) whose
    /// PeerId its address ends with.
    pub fn doors(&self) -> impl Iterator<Item = (PeerId, Endpoint)> {
        let parsed = self
            .addresses
            .iter()
            .filter_map(|a| parse_multiaddr(a).ok());
        parsed.map(|(endpoint, peer)| (peer.unwrap_or(self.inviter), endpoint))
    }

    /// The text to hand over.
    ///
    /// # Errors
    /// When the signer may not invite, or a limit is passed.
    pub fn sign(&self, signer: &Signer) -> Result<String, InvitationError> {
        let count = self.addresses.len();
        if count > MAX_INVITATION_ADDRESSES {
            return Err(InvitationError::TooManyAddresses { count });
        }
        let (keypair, appointment) = match signer {
            Signer::Authority(keypair) if keypair.public() == *self.charter.key() => {
                (keypair, Vec::new())
            }
            Signer::Authority(_) => {
                return Err(InvitationError::Signing(StatementError::OtherAuthority));
            }
            Signer::Admin {
                keypair,
                appointment,
            } => (keypair, appointment.encode()),
        };
        let issuer = signer.issuer().ok_or(InvitationError::WrongSigner)?;
        if let Issuer::Admin { peer, .. } = issuer
            && peer != self.inviter
        {
            return Err(InvitationError::WrongSigner);
        }
        let payload = wire::Payload::from(self).encode_to_vec();
        let signature = keypair.sign(&signed_bytes(&payload));
        let signature = signature
            .map_err(|e| InvitationError::Signing(StatementError::Signing(e.to_string())))?;
        let mut bytes = Envelope {
            payload,
            signature,
            appointment,
        }
        .encode_to_vec();
        bytes.extend_from_slice(&check_sum(&bytes));
        let text = BASE32_NOPAD.encode(&bytes).to_ascii_lowercase();
        Ok(format!("{INVITATION_PREFIX}{text}"))
    }

    /// Reads and checks a text: prefix, check sum, signature, the signer's right to invite.
    ///
    /// # Errors
    /// When any check fails.
    pub fn parse(text: &str) -> Result<Self, InvitationError> {
        let text = text.trim();
        let prefix = text.get(..INVITATION_PREFIX.len());
        let ours = prefix.is_some_and(|p| p.eq_ignore_ascii_case(INVITATION_PREFIX));
        if !ours || text.len() > MAX_INVITATION_TEXT {
            return Err(InvitationError::Foreign);
        }
        let text = text[INVITATION_PREFIX.len()..].to_ascii_uppercase();
        let bytes = BASE32_NOPAD.decode(text.as_bytes());
        let bytes = bytes.map_err(|_| InvitationError::Damaged)?;
        let (bytes, sum) = bytes
            .split_last_chunk::<CHECK_LEN>()
            .ok_or(InvitationError::Damaged)?;
        if check_sum(bytes) != *sum {
            return Err(InvitationError::Damaged);
        }
        let envelope = Envelope::decode(bytes).map_err(|e| malformed(&e.to_string()))?;
        let payload = wire::Payload::decode(&*envelope.payload);
        let payload = payload.map_err(|e| malformed(&e.to_string()))?;
        let invitation = payload.into_invitation()?;
        let key = invitation.signer(&envelope.appointment)?;
        if !key.verify(&signed_bytes(&envelope.payload), &envelope.signature) {
            return Err(InvitationError::Forged);
        }
        Ok(invitation)
    }

    /// Refuses one whose time is over.
    ///
    /// # Errors
    /// When it is.
    pub fn check_time(&self, now_unix_s: u64) -> Result<(), InvitationError> {
        if self.expires_unix_s <= now_unix_s {
            let ago_s = now_unix_s - self.expires_unix_s;
            return Err(InvitationError::Expired { ago_s });
        }
        Ok(())
    }

    /// What its secret gives.
    #[must_use]
    pub fn keys(&self) -> InvitationKeys {
        InvitationKeys::new(&self.secret)
    }

    /// The key that must have signed it.
    fn signer(&self, appointment: &[u8]) -> Result<anyhop_base::PublicKey, InvitationError> {
        if appointment.is_empty() {
            return Ok(self.charter.key().clone());
        }
        let appointment = Statement::decode(appointment, &self.charter);
        let appointment = appointment.map_err(|_| InvitationError::WrongSigner)?;
        match appointment.body() {
            Body::Appointment(a) if a.standing && a.admin == self.inviter => {
                public_key_of(&self.inviter).ok_or(InvitationError::WrongSigner)
            }
            _ => Err(InvitationError::WrongSigner),
        }
    }
}

impl FromStr for Invitation {
    type Err = InvitationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

fn signed_bytes(payload: &[u8]) -> Vec<u8> {
    [SIGNATURE_DOMAIN, payload].concat()
}

fn check_sum(bytes: &[u8]) -> [u8; CHECK_LEN] {
    let hash = digest::digest(&digest::SHA256, bytes);
    *hash.as_ref().first_chunk().expect("SHA-256 is longer")
}

fn malformed(why: &str) -> InvitationError {
    InvitationError::Malformed(why.to_owned())
}

#[cfg(test)]
mod tests;
