//! The small control frames between neighbours and session peers, each the first and
//! only frame in its direction on a stream of its own protocol.
//!
//! | protocol | opener sends | answer |
//! |---|---|---|
//! | `hello/1` (unidirectional) | [`Hello`] | none; the first stream of a dialled connection |
//! | `record/1` (unidirectional) | [`Hello`] | none; the sender's record changed |
//! | `lookup/1` | [`Query`] | [`Answer`]; none (the stream is reset) to whoever asks too often |
//! | `attach/1` | nothing | [`Attached`]; the open stream is the attachment |
//! | `reach/1` | [`Reach`] | [`Reached`]; a ping of the session follows, from a new port |

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhop_base::PeerId;

use crate::frame::{FrameError, decode, encode_frame, peer_id};

/// Records of relays that come with the answer to a lookup.
pub const MAX_RELATED: usize = 12;
/// Lookups a peer may make at once after a pause: a node that dials many asks for each.
pub const LOOKUP_BURST: u32 = 256;
/// Time after which it may make one more.
pub const LOOKUP_INTERVAL: Duration = Duration::from_millis(20);
/// Largest control frame, bytes.
pub const MAX_CONTROL_FRAME: usize = 8 * 1024;

mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Hello {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) record: Vec<u8>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Query {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) peer: Vec<u8>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Answer {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) record: Vec<u8>,
        #[prost(bool, tag = "2")]
        pub(super) linked: bool,
        #[prost(bytes = "vec", repeated, tag = "3")]
        pub(super) related: Vec<Vec<u8>>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Attached {
        #[prost(bool, tag = "1")]
        pub(super) relays: bool,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Reach {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) ip: Vec<u8>,
        #[prost(uint32, tag = "2")]
        pub(super) port: u32,
        #[prost(fixed64, tag = "3")]
        pub(super) nonce: u64,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Reached {
        #[prost(bool, tag = "1")]
        pub(super) trying: bool,
    }
}

/// Tells who we are: our signed record, empty when it could not be made yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// An encoded `SignedRecord`.
    pub record: Vec<u8>,
}

impl Hello {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_frame(&wire::Hello {
            record: self.record.clone(),
        })
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let wire::Hello { record } = decode(content)?;
        Ok(Self { record })
    }
}

/// Asks what the other side knows of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Whom.
    pub peer: PeerId,
}

impl Query {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_frame(&wire::Query {
            peer: self.peer.to_bytes(),
        })
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let wire::Query { peer } = decode(content)?;
        Ok(Self {
            peer: peer_id(&peer)?,
        })
    }
}

/// What is known of the queried peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its encoded `SignedRecord`; empty when none is held.
    pub record: Vec<u8>,
    /// Whether the answering node has a link to the peer now and relays.
    pub linked: bool,
    /// Encoded `SignedRecord`s of its attachments, of theirs, and so on, nearest first; at
    /// most [`MAX_RELATED`].
    pub related: Vec<Vec<u8>>,
}

impl Answer {
    /// Its frame. Related records for which there is no room in [`MAX_CONTROL_FRAME`] are
    /// left out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Tags and lengths take less than 8 bytes for each.
        let mut room = MAX_CONTROL_FRAME.saturating_sub(self.record.len() + 16);
        let fitting = self.related.iter().take(MAX_RELATED).filter(|record| {
            let size = record.len() + 8;
            let fits = size <= room;
            room -= if fits { size } else { 0 };
            fits
        });
        encode_frame(&wire::Answer {
            record: self.record.clone(),
            linked: self.linked,
            related: fitting.cloned().collect(),
        })
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let wire::Answer {
            record,
            linked,
            mut related,
        } = decode(content)?;
        related.truncate(MAX_RELATED);
        Ok(Self {
            record,
            linked,
            related,
        })
    }
}

/// The answer to an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// Whether the node forwards circuits.
    pub relays: bool,
}

impl Attached {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_frame(&wire::Attached {
            relays: self.relays,
        })
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let wire::Attached { relays } = decode(content)?;
        Ok(Self { relays })
    }
}

/// Asks a neighbour to ping an address of ours from a port that it never spoke to us from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// Where; its IP is one that the neighbour sees us at, or it refuses.
    pub address: SocketAddr,
    /// The nonce of the ping.
    pub nonce: u64,
}

impl Reach {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_frame(&wire::Reach {
            ip: match self.address.ip() {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            },
            port: self.address.port().into(),
            nonce: self.nonce,
        })
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message, or names no address.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let wire::Reach { ip, port, nonce } = decode(content)?;
        let v4 = <[u8; 4]>::try_from(&ip[..]).map(|ip| IpAddr::V4(Ipv4Addr::from(ip)));
        let v6 = <[u8; 16]>::try_from(&ip[..]).map(|ip| IpAddr::V6(Ipv6Addr::from(ip)));
        let no_address = || FrameError::Malformed("no address".to_owned());
        let ip = v4.or(v6).map_err(|_| no_address())?;
        let port = u16::try_from(port).map_err(|_| no_address())?;
        Ok(Self {
            address: SocketAddr::new(ip, port),
            nonce,
        })
    }
}

/// Whether the neighbour tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// False when it does not see us there, or was asked too often.
    pub trying: bool,
}

impl Reached {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_frame(&wire::Reached {
            trying: self.trying,
        })
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let wire::Reached { trying } = decode(content)?;
        Ok(Self { trying })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::take_frame;

    #[test]
    fn an_answer_has_these_bytes_and_leaves_out_what_does_not_fit() {
        let answer = Answer {
            record: vec![7],
            linked: true,
            related: vec![vec![8, 9]],
        };
        let bytes = [9, 0x0a, 1, 7, 0x10, 1, 0x1a, 2, 8, 9];
        assert_eq!(answer.encode(), bytes);
        let large = Answer {
            record: vec![1; 4096],
            linked: false,
            related: vec![vec![2; 1500]; MAX_RELATED],
        };
        let frame = large.encode();
        let content = take_frame(&mut &frame[..], MAX_CONTROL_FRAME)
            .unwrap()
            .unwrap();
        assert_eq!(Answer::decode(content).unwrap().related.len(), 2);
    }

    #[test]
    fn requests_to_be_reached_have_golden_bytes() {
        let four = Reach {
            address: "192.0.2.1:4001".parse().unwrap(),
            nonce: 0x0102_0304_0506_0708,
        };
        let expected =
            b"\x12\x0a\x04\xc0\x00\x02\x01\x10\xa1\x1f\x19\x08\x07\x06\x05\x04\x03\x02\x01";
        assert_eq!(four.encode(), expected);
        assert_eq!(Reach::decode(&expected[1..]), Ok(four));
        let six = Reach {
            address: "[2001:db8::1]:1".parse().unwrap(),
            nonce: 1,
        };
        assert_eq!(Reach::decode(&six.encode()[1..]), Ok(six));
        assert_eq!(Reached { trying: true }.encode(), b"\x02\x08\x01");
        assert!(Reach::decode(b"\x0a\x03\xc0\x00\x02").is_err());
    }

    proptest! {
        #[test]
        fn frames_survive_a_round_trip(
            record in proptest::collection::vec(any::<u8>(), 0..2000),
            linked: bool,
            related in 0..=MAX_RELATED,
        ) {
            let answer = Answer { record, linked, related: vec![vec![7; 400]; related] };
            let frame = answer.encode();
            let mut input = &frame[..];
            let content = take_frame(&mut input, MAX_CONTROL_FRAME).unwrap().unwrap();
            prop_assert_eq!(Answer::decode(content).unwrap(), answer);
            prop_assert!(input.is_empty());
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Hello::decode(&bytes);
            let _ = Query::decode(&bytes);
            let _ = Answer::decode(&bytes);
            let _ = Reach::decode(&bytes);
            let _ = Reached::decode(&bytes);
            let _ = take_frame(&mut &bytes[..], 64);
        }
    }
}
