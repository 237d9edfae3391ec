//! The protobuf form of a record. Field numbers are for ever.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use multiaddr::Multiaddr;

use super::{
    Attachment, MAX_ATTACHMENT_ADDRESSES, MAX_ATTACHMENTS, MAX_OFFERS, MAX_RECORD_ADDRESSES,
    Reachability, Record, RecordError, check_address, check_count, peer_id,
};
use crate::PeerId;

/// `SignedRecord`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Envelope {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) payload: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) signature: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Payload {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) peer: Vec<u8>,
    #[prost(uint64, tag = "2")]
    seq: u64,
    #[prost(uint64, tag = "3")]
    expires_unix_s: u64,
    /// Multiaddrs in binary.
    #[prost(bytes = "vec", repeated, tag = "4")]
    addresses: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "5")]
    attachments: Vec<WireAttachment>,
    /// 0 unknown, 1 public, 2 behind a NAT; others are read as unknown.
    #[prost(uint32, tag = "6")]
    reachability: u32,
    #[prost(bool, tag = "7")]
    relays_for_others: bool,
    /// A byte with the length, then the first address: 4 or 16 bytes.
    #[prost(bytes = "vec", repeated, tag = "8")]
    offers: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireAttachment {
    #[prost(bytes = "vec", tag = "1")]
    relay: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    addresses: Vec<Vec<u8>>,
}

impl From<&Record> for Payload {
    fn from(record: &Record) -> Self {
        let attachment = |a: &Attachment| WireAttachment {
            relay: a.relay.to_bytes(),
            addresses: a.addresses.iter().map(Multiaddr::to_vec).collect(),
        };
        Self {
            peer: record.peer.to_bytes(),
            seq: record.seq,
            expires_unix_s: record.expires_unix_s,
            addresses: record.addresses.iter().map(Multiaddr::to_vec).collect(),
            attachments: record.attachments.iter().map(attachment).collect(),
            reachability: match record.reachability {
                Reachability::Unknown => 0,
                Reachability::Public => 1,
                Reachability::BehindNat => 2,
            },
            relays_for_others: record.relays_for_others,
            offers: record.offers.iter().map(offer_bytes).collect(),
        }
    }
}

impl Payload {
    /// The record, with `peer` as already parsed from it.
    pub(super) fn into_record(self, peer: PeerId) -> Result<Record, RecordError> {
        check_count("attachments", self.attachments.len(), MAX_ATTACHMENTS)?;
        check_count("offers", self.offers.len(), MAX_OFFERS)?;
        let attachments = self.attachments.into_iter();
        Ok(Record {
            peer,
            seq: self.seq,
            expires_unix_s: self.expires_unix_s,
            addresses: usable("addresses", self.addresses, MAX_RECORD_ADDRESSES)?,
            attachments: attachments
                .map(WireAttachment::into_attachment)
                .collect::<Result<_, _>>()?,
            reachability: match self.reachability {
                1 => Reachability::Public,
                2 => Reachability::BehindNat,
                _ => Reachability::Unknown,
            },
            relays_for_others: self.relays_for_others,
            // Those that are none may be of a kind that comes later.
            offers: self.offers.iter().filter_map(|o| offer(o)).collect(),
        })
    }
}

impl WireAttachment {
    fn into_attachment(self) -> Result<Attachment, RecordError> {
        let what = "attachment addresses";
        Ok(Attachment {
            relay: peer_id(&self.relay)?,
            addresses: usable(what, self.addresses, MAX_ATTACHMENT_ADDRESSES)?,
        })
    }
}

fn offer_bytes((first, len): &(IpAddr, u8)) -> Vec<u8> {
    let octets = match first {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    [&[*len][..], &octets].concat()
}

fn offer(bytes: &[u8]) -> Option<(IpAddr, u8)> {
    let (len, octets) = bytes.split_first()?;
    let (first, width) = match octets.len() {
        4 => (Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into(), 32),
        16 => (
            Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into(),
            128,
        ),
        _ => return None,
    };
    (*len <= width).then_some((first, *len))
}

/// Those of the addresses that this version can dial. Others may be of carriers that
/// come later.
fn usable(
    what: &'static str,
    addresses: Vec<Vec<u8>>,
    limit: usize,
) -> Result<Vec<Multiaddr>, RecordError> {
    check_count(what, addresses.len(), limit)?;
    let parsed = addresses
        .into_iter()
        .filter_map(|bytes| Multiaddr::try_from(bytes).ok());
    Ok(parsed.filter(|a| check_address(a).is_ok()).collect())
}
