//! Records: what a node says about itself, signed, and passed on by anyone.
//!
//! A [`Record`] is signed by the key in its PeerId, over its network and its encoded
//! payload, so that whoever passes it on can neither change it nor take it to another
//! network. It expires after at most [`MAX_RECORD_LIFETIME_S`]; a newer one
//! ([`Record::seq`]) replaces an older one.
//!
//! On the wire it is protobuf: `SignedRecord { payload = 1, signature = 2 }` around the
//! payload of the private `wire` module. The payload is kept as it was signed, fields
//! of later versions included.

use std::net::IpAddr;

use libp2p_identity::{Keypair, PeerId, PublicKey, SigningError};
use multiaddr::Multiaddr;
use prost::Message as _;
use thiserror::Error;

use crate::{
    addr::{AddrError, parse_multiaddr},
    identity::public_key_of,
    network::NetworkId,
};

mod wire;

/// Longest encoded signed record, bytes.
pub const MAX_RECORD_LEN: usize = 4096;
/// Most addresses in a record.
pub const MAX_RECORD_ADDRESSES: usize = 16;
/// Most attachments in a record.
pub const MAX_ATTACHMENTS: usize = 3;
/// Most addresses of one attachment.
pub const MAX_ATTACHMENT_ADDRESSES: usize = 4;
/// Most prefixes that a node offers to forward to.
pub const MAX_OFFERS: usize = 32;
/// How far ahead a record may expire, seconds.
pub const MAX_RECORD_LIFETIME_S: u64 = 2 * 60 * 60;
/// How far the signer's clock may be ahead of the reader's, seconds.
pub const MAX_CLOCK_SKEW_S: u64 = 5 * 60;

/// What is signed before network and payload, so that the signature fits nothing else.
const SIGNATURE_DOMAIN: &[u8] = b"anyhop-record/1";

/// What a node says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose record this is.
    pub peer: PeerId,
    /// Grows with every record of the peer, over restarts too; milliseconds since the
    /// Unix epoch when it was signed serve well.
    pub seq: u64,
    /// When it ends, seconds since the Unix epoch.
    pub expires_unix_s: u64,
    /// Where the node may be dialled, without `/p2p/`; at most [`MAX_RECORD_ADDRESSES`].
    pub addresses: Vec<Multiaddr>,
    /// Relays through which the node is reached; at most [`MAX_ATTACHMENTS`].
    pub attachments: Vec<Attachment>,
    /// Whether strangers can dial the node.
    pub reachability: Reachability,
    /// Whether the node forwards circuits of others.
    pub relays_for_others: bool,
    /// Prefixes to which the node forwards IP packets of other members: first address and
    /// length; at most [`MAX_OFFERS`].
    pub offers: Vec<(IpAddr, u8)>,
}

/// A relay to which a node keeps a link for others to come in through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The relay.
    pub relay: PeerId,
    /// Where the relay may be dialled, without `/p2p/`; at most
    /// [`MAX_ATTACHMENT_ADDRESSES`].
    pub addresses: Vec<Multiaddr>,
}

/// What a node believes about being dialled by strangers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reachability {
    /// Not found out yet, or something this version has no word for.
    #[default]
    Unknown,
    /// Strangers can dial at least one of its addresses.
    Public,
    /// A NAT or firewall keeps strangers out.
    BehindNat,
}

impl Reachability {
    /// Its name in reports: `unknown`, `public` or `behind_nat`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Public => "public",
            Self::BehindNat => "behind_nat",
        }
    }
}

impl Record {
    /// Signs the record for a network.
    ///
    /// # Errors
    /// When the key is not the record's, a limit is passed, or an address cannot be
    /// dialled by others.
    pub fn sign(&self, keypair: &Keypair, network: NetworkId) -> Result<SignedRecord, RecordError> {
        let signer = keypair.public().to_peer_id();
        if signer != self.peer {
            return Err(RecordError::OtherSigner {
                peer: self.peer,
                signer,
            });
        }
        public_key_in(&self.peer)?;
        self.check()?;
        let payload = wire::Payload::from(self).encode_to_vec();
        let signature = keypair
            .sign(&signed_bytes(network, &payload))
            .map_err(RecordError::Signing)?;
        let signed = SignedRecord {
            record: self.clone(),
            envelope: wire::Envelope { payload, signature },
        };
        check_len(signed.envelope.encoded_len())?;
        Ok(signed)
    }

    /// Whether two records differ in nothing but their time.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        let timeless = |record: &Self| Self {
            seq: 0,
            expires_unix_s: 0,
            ..record.clone()
        };
        timeless(self) == timeless(other)
    }

    fn check(&self) -> Result<(), RecordError> {
        check_count("addresses", self.addresses.len(), MAX_RECORD_ADDRESSES)?;
        check_count("attachments", self.attachments.len(), MAX_ATTACHMENTS)?;
        check_count("offers", self.offers.len(), MAX_OFFERS)?;
        self.addresses.iter().try_for_each(check_address)?;
        for attachment in &self.attachments {
            let count = attachment.addresses.len();
            check_count("attachment addresses", count, MAX_ATTACHMENT_ADDRESSES)?;
            attachment.addresses.iter().try_for_each(check_address)?;
        }
        Ok(())
    }
}

/// A record with a signature that was made here or has been checked.
#[derive(Debug, Clone, PartialEq)]
pub struct SignedRecord {
    record: Record,
    envelope: wire::Envelope,
}

impl SignedRecord {
    /// Decodes and checks a record: size, signature, network, expiry, limits.
    ///
    /// Fields of later versions are ignored, and kept for [`encode`](Self::encode).
    /// Addresses that this version cannot dial are left out of [`record`](Self::record).
    ///
    /// # Errors
    /// When any check fails; then it is worth nothing and says nothing about its peer.
    pub fn decode(bytes: &[u8], network: NetworkId, now_unix_s: u64) -> Result<Self, RecordError> {
        check_len(bytes.len())?;
        let envelope = wire::Envelope::decode(bytes).map_err(RecordError::Malformed)?;
        let payload = wire::Payload::decode(&*envelope.payload).map_err(RecordError::Malformed)?;
        let peer = peer_id(&payload.peer)?;
        let signed = signed_bytes(network, &envelope.payload);
        if !public_key_in(&peer)?.verify(&signed, &envelope.signature) {
            return Err(RecordError::Signature { peer });
        }
        let record = payload.into_record(peer)?;
        record.check_time(now_unix_s)?;
        Ok(Self { record, envelope })
    }

    /// The bytes to pass on, at most [`MAX_RECORD_LEN`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.envelope.encode_to_vec()
    }

    /// What the peer says.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Whether this replaces `other`: the same peer's, with a higher sequence number.
    #[must_use]
    pub fn is_newer_than(&self, other: &Self) -> bool {
        self.record.peer == other.record.peer && self.record.seq > other.record.seq
    }
}

impl Record {
    fn check_time(&self, now_unix_s: u64) -> Result<(), RecordError> {
        let Self {
            peer,
            expires_unix_s,
            ..
        } = *self;
        if expires_unix_s <= now_unix_s {
            let ago_s = now_unix_s - expires_unix_s;
            return Err(RecordError::Expired { peer, ago_s });
        }
        let ahead_s = expires_unix_s - now_unix_s;
        if ahead_s > MAX_RECORD_LIFETIME_S + MAX_CLOCK_SKEW_S {
            return Err(RecordError::ExpiresTooLate { peer, ahead_s });
        }
        Ok(())
    }
}

/// Why a record cannot be signed, or is not believed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It is longer than [`MAX_RECORD_LEN`].
    #[error("record of {len} bytes is larger than the limit of {MAX_RECORD_LEN} bytes")]
    TooLarge {
        /// Its length, bytes.
        len: usize,
    },
    /// The bytes are no record.
    #[error("malformed record: {0}")]
    Malformed(#[source] prost::DecodeError),
    /// A PeerId in it is none.
    #[error("malformed record: a peer id in it is invalid")]
    BadPeerId,
    /// The PeerId holds no Ed25519 key, as every node's does.
    #[error("record of {0}, which is not the id of an Ed25519 key")]
    NotANodeKey(PeerId),
    /// The signature does not fit peer, network and content.
    #[error("record of {peer} has a wrong signature: it was changed, or made for another network")]
    Signature {
        /// Who is said to have signed.
        peer: PeerId,
    },
    /// Its time is over.
    #[error("record of {peer} expired {ago_s} s ago")]
    Expired {
        /// Whose.
        peer: PeerId,
        /// How long ago, seconds.
        ago_s: u64,
    },
    /// It claims a longer life than allowed, or the clocks disagree.
    #[error(
        "record of {peer} expires {ahead_s} s from now, and {MAX_RECORD_LIFETIME_S} s are allowed: \
         the peer's clock or this one is wrong"
    )]
    ExpiresTooLate {
        /// Whose.
        peer: PeerId,
        /// How far ahead, seconds.
        ahead_s: u64,
    },
    /// A list in it is too long.
    #[error("record has {count} {what}, and {limit} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// On signing: an address is of no use to others.
    #[error("cannot sign a record with this address: {0}")]
    Address(#[source] AddrError),
    /// On signing: an address names a peer.
    #[error("cannot sign a record with address {0}: it must not end in /p2p/..")]
    AddressNamesPeer(Multiaddr),
    /// On signing: the key is someone else's.
    #[error("cannot sign the record of {peer} with the key of {signer}")]
    OtherSigner {
        /// Whose record.
        peer: PeerId,
        /// Whose key.
        signer: PeerId,
    },
    /// On signing: the key refused.
    #[error("cannot sign the record: {0}")]
    Signing(#[source] SigningError),
}

fn signed_bytes(network: NetworkId, payload: &[u8]) -> Vec<u8> {
    [SIGNATURE_DOMAIN, network.as_bytes(), payload].concat()
}

fn check_len(len: usize) -> Result<(), RecordError> {
    if len > MAX_RECORD_LEN {
        return Err(RecordError::TooLarge { len });
    }
    Ok(())
}

fn check_count(what: &'static str, count: usize, limit: usize) -> Result<(), RecordError> {
    if count > limit {
        return Err(RecordError::TooMany { what, count, limit });
    }
    Ok(())
}

fn check_address(address: &Multiaddr) -> Result<(), RecordError> {
    match parse_multiaddr(address) {
        Ok((_, None)) => Ok(()),
        Ok((_, Some(_))) => Err(RecordError::AddressNamesPeer(address.clone())),
        Err(e) => Err(RecordError::Address(e)),
    }
}

fn peer_id(bytes: &[u8]) -> Result<PeerId, RecordError> {
    PeerId::from_bytes(bytes).map_err(|_| RecordError::BadPeerId)
}

fn public_key_in(peer: &PeerId) -> Result<PublicKey, RecordError> {
    public_key_of(peer).ok_or(RecordError::NotANodeKey(*peer))
}

#[cfg(test)]
mod tests;
