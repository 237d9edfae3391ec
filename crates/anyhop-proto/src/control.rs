//! The small control frames between neighbours and session peers, each the first and
//! only frame in its direction on a stream of its own protocol.
//!
//! | protocol | opener sends | answer |
//! |---|---|---|
//! | `hello/1` (unidirectional) | [`Hello`] | none; the first stream of a dialled connection |
//! | `record/1` (unidirectional) | [`Hello`] | none; the sender's record changed |
//! | `lookup/1` | [`Query`] | [`Answer`] |
//! | `attach/1` | nothing | [`Attached`]; the open stream is the attachment |

use anyhop_base::PeerId;

use crate::frame::{FrameError, decode, encode_frame, peer_id};

/// Records of relays that come with the answer to a lookup.
pub const MAX_RELATED: usize = 12;
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
            let _ = take_frame(&mut &bytes[..], 64);
        }
    }
}
