//! Admission: both sides of a new connection prove that they are members, before anything
//! else is served on it.
//!
//! ```text
//! client                                        server
//!   Credentials {certificate, proof, key id} -->
//!                    <-- Answer {credentials, the current key if the client lacks it}
//! ```
//!
//! The **proof** is a signature with the key of the PeerId over the network, the signer's
//! side, its certificate, and a secret that the TLS handshake gave to these two alone (RFC
//! 8446 section 7.5, RFC 9266). What was said on another connection, or by the other
//! side, proves nothing here; nor does a certificate without the key it names.
//!
//! **Failure**: a member whose certificate has expired is told so. Anybody else gets no
//! answer: the connection is closed without a word, and a former member learns as little as
//! one who never was.

use std::sync::Arc;

use anyhop_base::{Keypair, PeerId, public_key_of};
use thiserror::Error;

use super::{
    Charter, Membership,
    membership::Standing,
    statement::{KeyId, MAX_STATEMENT_LEN, Statement},
    swarm::SWARM_KEY_LEN,
};
use crate::frame::{FrameError, decode, encode_frame};

/// Exporter label of what binds a proof to its connection.
pub const ADMISSION_EXPORTER_LABEL: &[u8] = b"EXPORTER-anyhop-admission-1";
/// Bytes to export.
pub const ADMISSION_SECRET_LEN: usize = 32;
/// Largest frame of an admission, bytes.
pub const MAX_ADMISSION_FRAME: usize = 4 * 1024;

/// What is signed before all else, so that the signature fits nothing else.
const PROOF_DOMAIN: &[u8] = b"anyhop-admission/1";
/// Longest signature, bytes; those of Ed25519 have 64.
const MAX_PROOF_LEN: usize = 64;

mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Credentials {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) certificate: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) proof: Vec<u8>,
        /// Empty without a key.
        #[prost(bytes = "vec", tag = "3")]
        pub(super) key: Vec<u8>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Answer {
        /// Absent in a refusal.
        #[prost(message, optional, tag = "1")]
        pub(super) credentials: Option<Credentials>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) epoch: Vec<u8>,
        #[prost(bytes = "vec", tag = "3")]
        pub(super) secret: Vec<u8>,
        /// 1: the certificate has expired.
        #[prost(uint32, tag = "4")]
        pub(super) refusal: u32,
    }
}

/// Which end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who dialled.
    Client,
    /// Who was dialled.
    Server,
}

/// A connection as a proof is bound to it.
#[derive(Clone, Copy)]
pub struct Channel {
    /// What its handshake exported under [`ADMISSION_EXPORTER_LABEL`] without a context.
    pub secret: [u8; ADMISSION_SECRET_LEN],
}

/// Without the secret.
impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Channel")
    }
}

/// What a side shows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// An encoded certificate.
    pub certificate: Vec<u8>,
    /// The signature.
    pub proof: Vec<u8>,
    /// Its current key.
    pub key: Option<KeyId>,
}

/// The server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The client is admitted, if it admits the server.
    Admitted {
        /// The server's.
        credentials: Credentials,
        /// The current key, for a client that lacks it.
        key: Option<EpochKey>,
    },
    /// It is not.
    Refused(Refusal),
}

/// A swarm key with the statement that announces it.
#[derive(Clone, PartialEq, Eq)]
pub struct EpochKey {
    /// The encoded statement.
    pub statement: Vec<u8>,
    /// The key.
    pub secret: [u8; SWARM_KEY_LEN],
}

/// Without the key.
impl std::fmt::Debug for EpochKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EpochKey")
    }
}

/// Why the other side is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It was a member until its certificate ended.
    #[error("the certificate has expired: an admin of the network renews it")]
    Expired,
    /// It was revoked, or never was a member.
    #[error("it is no member of the network")]
    NotAMember,
    /// It does not prove to be who it says.
    #[error("its proof does not fit this connection")]
    Proof,
    /// What it shows is no certificate of its own.
    #[error("what it shows is no certificate of its own in this network")]
    Certificate,
}

impl Refusal {
    /// Whether the other side is told: only who proved to be known.
    #[must_use]
    pub fn is_told(self) -> bool {
        self == Self::Expired
    }
}

impl Credentials {
    /// Those of a member on a connection.
    ///
    /// # Errors
    /// What the key says when it refuses to sign.
    pub fn new(
        keypair: &Keypair,
        certificate: &Statement,
        charter: &Charter,
        side: Side,
        channel: &Channel,
        key: Option<KeyId>,
    ) -> Result<Self, String> {
        let signed = proof_bytes(charter, side, channel, certificate);
        Ok(Self {
            certificate: certificate.encode(),
            proof: keypair.sign(&signed).map_err(|e| e.to_string())?,
            key,
        })
    }

    /// Checks what a peer shows, whom TLS has authenticated as `peer` on `side` of the
    /// channel; its certificate, to be merged before [`judge`] decides.
    ///
    /// # Errors
    /// When the certificate is not good in this network or not the peer's, or the proof
    /// is wrong.
    pub fn check(
        &self,
        peer: PeerId,
        charter: &Charter,
        side: Side,
        channel: &Channel,
    ) -> Result<Arc<Statement>, Refusal> {
        let certificate = Statement::decode(&self.certificate, charter);
        let certificate = certificate.map_err(|_| Refusal::Certificate)?;
        if certificate.certificate().map(|c| c.peer) != Some(peer) {
            return Err(Refusal::Certificate);
        }
        let key = public_key_of(&peer).ok_or(Refusal::Certificate)?;
        if !key.verify(
            &proof_bytes(charter, side, channel, &certificate),
            &self.proof,
        ) {
            return Err(Refusal::Proof);
        }
        Ok(Arc::new(certificate))
    }

    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_frame(&self.to_wire())
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        Self::from_wire(decode(content)?)
    }

    fn to_wire(&self) -> wire::Credentials {
        wire::Credentials {
            certificate: self.certificate.clone(),
            proof: self.proof.clone(),
            key: self.key.map_or_else(Vec::new, |k| k.0.to_vec()),
        }
    }

    fn from_wire(wire: wire::Credentials) -> Result<Self, FrameError> {
        if wire.certificate.len() > MAX_STATEMENT_LEN || wire.proof.len() > MAX_PROOF_LEN {
            return Err(FrameError::malformed("a field is too long"));
        }
        Ok(Self {
            certificate: wire.certificate,
            proof: wire.proof,
            key: match &*wire.key {
                [] => None,
                key => Some(KeyId(
                    key.try_into()
                        .map_err(|_| FrameError::malformed("key id too short"))?,
                )),
            },
        })
    }
}

/// Whether a peer with good [`Credentials`] is admitted, by all that is known.
///
/// # Errors
/// Why not.
pub fn judge(membership: &Membership, peer: PeerId, now_unix_s: u64) -> Result<(), Refusal> {
    match membership.standing(peer, now_unix_s) {
        Standing::Member => Ok(()),
        Standing::Expired => Err(Refusal::Expired),
        Standing::Revoked | Standing::Unknown => Err(Refusal::NotAMember),
    }
}

impl Answer {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_frame(&match self {
            Self::Admitted { credentials, key } => wire::Answer {
                credentials: Some(credentials.to_wire()),
                epoch: key.as_ref().map_or_else(Vec::new, |k| k.statement.clone()),
                secret: key.as_ref().map_or_else(Vec::new, |k| k.secret.to_vec()),
                refusal: 0,
            },
            Self::Refused(_) => wire::Answer {
                refusal: 1,
                ..wire::Answer::default()
            },
        })
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let answer: wire::Answer = decode(content)?;
        let Some(credentials) = answer.credentials else {
            return match answer.refusal {
                1 => Ok(Self::Refused(Refusal::Expired)),
                _ => Err(FrameError::malformed("neither credentials nor a reason")),
            };
        };
        if answer.refusal != 0 {
            return Err(FrameError::malformed("credentials and a reason"));
        }
        Ok(Self::Admitted {
            credentials: Credentials::from_wire(credentials)?,
            key: epoch_key(answer.epoch, &answer.secret)?,
        })
    }
}

/// A key that is there with its statement, or not at all.
pub(super) fn epoch_key(statement: Vec<u8>, secret: &[u8]) -> Result<Option<EpochKey>, FrameError> {
    if statement.is_empty() && secret.is_empty() {
        return Ok(None);
    }
    if statement.len() > MAX_STATEMENT_LEN {
        return Err(FrameError::malformed("a field is too long"));
    }
    let secret = secret
        .try_into()
        .map_err(|_| FrameError::malformed("a swarm key of another length"))?;
    Ok(Some(EpochKey { statement, secret }))
}

fn proof_bytes(
    charter: &Charter,
    side: Side,
    channel: &Channel,
    certificate: &Statement,
) -> Vec<u8> {
    let side = match side {
        Side::Client => &b"client"[..],
        Side::Server => b"server",
    };
    [
        PROOF_DOMAIN,
        charter.id().as_bytes(),
        side,
        &channel.secret,
        &certificate.id(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::network::testing::{NOW, charter, keypair, peer};
    use crate::{
        network::statement::{Body, Certificate, OptOuts, Role, Signer},
        take_frame,
    };

    fn certificate(of: u8) -> Statement {
        let body = Body::Certificate(Certificate {
            peer: peer(of),
            version: 1,
            name: "laptop".parse().unwrap(),
            role: Role::Member,
            overlay: Vec::new(),
            opt_outs: OptOuts::default(),
            issued_unix_s: NOW,
            expires_unix_s: NOW + 60,
        });
        Statement::sign(body, &Signer::Authority(keypair(1)), &charter()).unwrap()
    }

    fn channel(secret: u8) -> Channel {
        Channel {
            secret: [secret; ADMISSION_SECRET_LEN],
        }
    }

    fn shown(of: u8, signer: u8, side: Side, secret: u8) -> Credentials {
        let (keypair, certificate) = (keypair(signer), certificate(of));
        Credentials::new(
            &keypair,
            &certificate,
            &charter(),
            side,
            &channel(secret),
            None,
        )
        .unwrap()
    }

    #[test]
    fn a_member_is_admitted_on_its_connection_and_its_side_only() {
        let credentials = shown(5, 5, Side::Client, 7);
        let check = |peer, side, secret| {
            let checked = credentials.check(peer, &charter(), side, &channel(secret));
            checked.map(|c| c.id())
        };
        assert_eq!(check(peer(5), Side::Client, 7), Ok(certificate(5).id()));
        // Replayed on another connection, reflected, or shown by somebody else.
        assert_eq!(check(peer(5), Side::Client, 8), Err(Refusal::Proof));
        assert_eq!(check(peer(5), Side::Server, 7), Err(Refusal::Proof));
        assert_eq!(check(peer(6), Side::Client, 7), Err(Refusal::Certificate));
    }

    #[test]
    fn a_certificate_without_its_key_and_one_of_another_network_admit_nobody() {
        let stolen = shown(5, 6, Side::Client, 7);
        let refused = stolen.check(peer(5), &charter(), Side::Client, &channel(7));
        assert_eq!(refused.unwrap_err(), Refusal::Proof);
        let other = Charter::new("lab".parse().unwrap(), peer(2)).unwrap();
        let refused =
            shown(5, 5, Side::Client, 7).check(peer(5), &other, Side::Client, &channel(7));
        assert_eq!(refused.unwrap_err(), Refusal::Certificate);
    }

    #[test]
    fn only_a_member_whose_time_is_over_is_told_why() {
        let mut membership = Membership::new(charter());
        assert_eq!(judge(&membership, peer(5), NOW), Err(Refusal::NotAMember));
        membership.merge(certificate(5));
        assert_eq!(judge(&membership, peer(5), NOW), Ok(()));
        assert_eq!(judge(&membership, peer(5), NOW + 60), Err(Refusal::Expired));
        let revocation =
            membership.revocation(peer(5), crate::network::statement::Issuer::Authority, NOW);
        let signer = Signer::Authority(keypair(1));
        let revocation = Statement::sign(revocation.unwrap(), &signer, &charter()).unwrap();
        membership.merge(revocation);
        let refusal = judge(&membership, peer(5), NOW + 60).unwrap_err();
        assert_eq!(refusal, Refusal::NotAMember);
        assert!(!refusal.is_told() && Refusal::Expired.is_told());
    }

    #[test]
    fn frames_of_admission_have_these_bytes() {
        let credentials = Credentials {
            certificate: vec![1],
            proof: vec![2, 3],
            key: Some(KeyId([4; 32])),
        };
        let inner = [&[0x0a, 1, 1, 0x12, 2, 2, 3, 0x1a, 32][..], &[4; 32]].concat();
        assert_eq!(credentials.encode(), [&[41][..], &inner].concat());
        let key = EpochKey {
            statement: vec![5],
            secret: [6; 32],
        };
        let admitted = Answer::Admitted {
            credentials,
            key: Some(key),
        };
        let expected = [
            &[80, 0x0a, 41][..],
            &inner,
            &[0x12, 1, 5, 0x1a, 32],
            &[6; 32],
        ];
        assert_eq!(admitted.encode(), expected.concat());
        assert_eq!(Answer::Refused(Refusal::Expired).encode(), [2, 0x20, 1]);
    }

    proptest! {
        #[test]
        fn frames_of_admission_survive_a_round_trip(
            certificate in prop::collection::vec(any::<u8>(), 0..400),
            proof in prop::collection::vec(any::<u8>(), 0..=MAX_PROOF_LEN),
            key in any::<Option<[u8; 32]>>(),
            epoch in any::<Option<[u8; 32]>>(),
        ) {
            let credentials = Credentials { certificate, proof, key: key.map(KeyId) };
            let frame = credentials.encode();
            let content = take_frame(&mut &frame[..], MAX_ADMISSION_FRAME).unwrap().unwrap();
            prop_assert_eq!(&Credentials::decode(content).unwrap(), &credentials);
            let key = epoch.map(|secret| EpochKey { statement: vec![1, 2], secret });
            let answer = Answer::Admitted { credentials, key };
            let frame = answer.encode();
            let content = take_frame(&mut &frame[..], MAX_ADMISSION_FRAME).unwrap().unwrap();
            prop_assert_eq!(Answer::decode(content).unwrap(), answer);
        }
    }
}
