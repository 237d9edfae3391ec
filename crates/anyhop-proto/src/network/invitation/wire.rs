//! The protobuf form of an invitation, and the frames by which one is redeemed.
//!
//! `invitation/1`: who was invited opens the stream and sends [`Redeem`]. Answers follow until
//! one is final: [`RedeemAnswer::Waiting`] may come before.

use anyhop_base::{Multiaddr, NetworkName, PeerId};
use prost::Message as _;

use super::{
    INVITATION_ID_LEN, Invitation, InvitationError, InvitationId, MAX_INVITATION_ADDRESSES,
    VERSION, malformed,
};
use crate::{
    frame::{FrameError, decode, encode_frame},
    network::{
        Charter,
        admission::{EpochKey, epoch_key},
        book::RedeemRefusal,
        statement::{MAX_STATEMENT_LEN, MemberName, OptOuts},
    },
};

/// Largest frame of a redemption, bytes.
pub const MAX_REDEEM_FRAME: usize = 4 * 1024;
/// Length of a proof, bytes.
const PROOF_LEN: usize = 32;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Payload {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    network: String,
    #[prost(bytes = "vec", tag = "3")]
    authority: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    inviter: Vec<u8>,
    /// Multiaddrs in binary.
    #[prost(bytes = "vec", repeated, tag = "5")]
    addresses: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "6")]
    secret: Vec<u8>,
    #[prost(uint64, tag = "7")]
    expires_unix_s: u64,
    #[prost(bool, tag = "8")]
    approve: bool,
}

impl From<&Invitation> for Payload {
    fn from(invitation: &Invitation) -> Self {
        Self {
            version: VERSION,
            network: invitation.charter.name().to_string(),
            authority: invitation.charter.authority().to_bytes(),
            inviter: invitation.inviter.to_bytes(),
            addresses: invitation.addresses.iter().map(Multiaddr::to_vec).collect(),
            secret: invitation.secret.to_vec(),
            expires_unix_s: invitation.expires_unix_s,
            approve: invitation.approve,
        }
    }
}

impl Payload {
    pub(super) fn into_invitation(self) -> Result<Invitation, InvitationError> {
        if self.version != VERSION {
            return Err(InvitationError::Version(self.version));
        }
        if self.addresses.len() > MAX_INVITATION_ADDRESSES {
            return Err(malformed("too many addresses"));
        }
        let name = NetworkName::new(self.network).map_err(|e| malformed(&e.to_string()))?;
        let peer = |bytes: &[u8]| {
            PeerId::from_bytes(bytes).map_err(|_| malformed("a peer id in it is invalid"))
        };
        let charter = Charter::new(name, peer(&self.authority)?);
        // Addresses of carriers that come later are passed over.
        let addresses = self.addresses.into_iter();
        let addresses = addresses.filter_map(|a| Multiaddr::try_from(a).ok());
        Ok(Invitation {
            charter: charter.map_err(|e| malformed(&e.to_string()))?,
            inviter: peer(&self.inviter)?,
            addresses: addresses.collect(),
            secret: self
                .secret
                .try_into()
                .map_err(|_| malformed("its secret has another length"))?,
            expires_unix_s: self.expires_unix_s,
            approve: self.approve,
        })
    }
}

mod pb {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Redeem {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) invitation: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) proof: Vec<u8>,
        /// Empty for none.
        #[prost(string, tag = "3")]
        pub(super) name: String,
        #[prost(bool, tag = "4")]
        pub(super) no_relaying: bool,
        #[prost(bool, tag = "5")]
        pub(super) no_signalling: bool,
        #[prost(bool, tag = "6")]
        pub(super) stealth: bool,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Answer {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) certificate: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) epoch: Vec<u8>,
        #[prost(bytes = "vec", tag = "3")]
        pub(super) secret: Vec<u8>,
        /// 0 unless it is refused.
        #[prost(uint32, tag = "4")]
        pub(super) refusal: u32,
        #[prost(bool, tag = "5")]
        pub(super) waiting: bool,
    }
}

/// Asks to become a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redeem {
    /// Which invitation.
    pub invitation: InvitationId,
    /// That it is held; see [`InvitationKeys::prove`](super::InvitationKeys::prove).
    pub proof: Vec<u8>,
    /// The name that the new member would like.
    pub name: Option<MemberName>,
    /// What it wants to be left out of.
    pub opt_outs: OptOuts,
}

impl Redeem {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_frame(&self.message())
    }

    /// Its frame's content, for another frame.
    pub(in crate::network) fn content(&self) -> Vec<u8> {
        self.message().encode_to_vec()
    }

    fn message(&self) -> pb::Redeem {
        pb::Redeem {
            invitation: self.invitation.to_vec(),
            proof: self.proof.clone(),
            name: self
                .name
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            no_relaying: self.opt_outs.no_relaying,
            no_signalling: self.opt_outs.no_signalling,
            stealth: self.opt_outs.stealth,
        }
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let redeem: pb::Redeem = decode(content)?;
        let invitation: [u8; INVITATION_ID_LEN] = redeem
            .invitation
            .try_into()
            .map_err(|_| FrameError::malformed("an id of another length"))?;
        if redeem.proof.len() != PROOF_LEN {
            return Err(FrameError::malformed("a proof of another length"));
        }
        let name = match &*redeem.name {
            "" => None,
            name => Some(MemberName::new(name).map_err(|e| FrameError::malformed(&e.to_string()))?),
        };
        Ok(Self {
            invitation,
            proof: redeem.proof,
            name,
            opt_outs: OptOuts {
                no_relaying: redeem.no_relaying,
                no_signalling: redeem.no_signalling,
                stealth: redeem.stealth,
            },
        })
    }
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedeemAnswer {
    /// A person is to decide; the final answer follows.
    Waiting,
    /// The asker is a member.
    Admitted {
        /// Its encoded certificate.
        certificate: Vec<u8>,
        /// The current key.
        key: EpochKey,
    },
    /// It is not.
    Refused(RedeemRefusal),
}

impl RedeemAnswer {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_frame(&match self {
            Self::Waiting => pb::Answer {
                waiting: true,
                ..pb::Answer::default()
            },
            Self::Admitted { certificate, key } => pb::Answer {
                certificate: certificate.clone(),
                epoch: key.statement.clone(),
                secret: key.secret.to_vec(),
                ..pb::Answer::default()
            },
            Self::Refused(refusal) => pb::Answer {
                refusal: *refusal as u32,
                ..pb::Answer::default()
            },
        })
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let answer: pb::Answer = decode(content)?;
        let key = epoch_key(answer.epoch, &answer.secret)?;
        match (answer.waiting, answer.refusal, &*answer.certificate, key) {
            (true, 0, [], None) => Ok(Self::Waiting),
            (false, 0, [_, ..], Some(key)) if answer.certificate.len() <= MAX_STATEMENT_LEN => {
                Ok(Self::Admitted {
                    certificate: answer.certificate,
                    key,
                })
            }
            (false, refusal, [], None) => RedeemRefusal::from_number(refusal)
                .map(Self::Refused)
                .ok_or_else(|| FrameError::malformed("an unknown refusal")),
            _ => Err(FrameError::malformed("an answer is of one kind")),
        }
    }
}
