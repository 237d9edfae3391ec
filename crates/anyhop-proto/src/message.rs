//! Messages and requests on a `message/1` stream.
//!
//! The opener sends a [`Header`] frame and the body, then finishes. The answer is one
//! [`Status`] byte; after [`Status::Replied`] a header and a body follow.

use crate::frame::{FrameError, decode, encode_frame};

/// Largest header frame, bytes.
pub const MAX_HEADER: usize = 1024;

mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Header {
        #[prost(string, tag = "1")]
        pub(super) kind: String,
        #[prost(uint32, tag = "2")]
        pub(super) encoding: u32,
        #[prost(uint64, tag = "3")]
        pub(super) len: u64,
        #[prost(bool, tag = "4")]
        pub(super) wants_reply: bool,
        #[prost(uint32, tag = "5")]
        pub(super) within_ms: u32,
    }
}

/// What precedes a message's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The application's type.
    pub kind: String,
    /// The encoding tag, opaque here.
    pub encoding: u32,
    /// Length of the body, bytes.
    pub len: u64,
    /// Whether the sender waits for a reply.
    pub wants_reply: bool,
    /// For how long it waits, milliseconds; 0 when it does not say.
    pub within_ms: u32,
}

impl Header {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_frame(&wire::Header {
            kind: self.kind.clone(),
            encoding: self.encoding,
            len: self.len,
            wants_reply: self.wants_reply,
            within_ms: self.within_ms,
        })
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let wire::Header {
            kind,
            encoding,
            len,
            wants_reply,
            within_ms,
        } = decode(content)?;
        Ok(Self {
            kind,
            encoding,
            len,
            wants_reply,
            within_ms,
        })
    }
}

/// The receiver's verdict on a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// It is in the inbox.
    Accepted = 0,
    /// A reply follows.
    Replied = 1,
    /// Larger than the receiver allows; its limit follows as 8 bytes, network order.
    TooLarge = 2,
    /// The inbox has no room.
    InboxFull = 3,
    /// Nobody answers this request, or takes messages of this type.
    NoResponder = 4,
    /// The time for this request was over before there was a reply.
    Late = 5,
    /// The body is not what its type wants; why follows as a frame of text, at most
    /// [`MAX_REASON`](crate::call::MAX_REASON) bytes.
    Unreadable = 6,
}

impl Status {
    /// Reads a status byte.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Accepted,
            Self::Replied,
            Self::TooLarge,
            Self::InboxFull,
            Self::NoResponder,
            Self::Late,
            Self::Unreadable,
        ]
        .into_iter()
        .find(|s| *s as u8 == byte)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::take_frame;

    #[test]
    fn header_has_these_bytes() {
        let header = Header {
            kind: "text".to_owned(),
            encoding: 1,
            len: 300,
            wants_reply: true,
            within_ms: 0,
        };
        assert_eq!(
            header.encode(),
            [
                13, 0x0a, 4, b't', b'e', b'x', b't', 0x10, 1, 0x18, 0xac, 2, 0x20, 1
            ]
        );
    }

    #[test]
    fn the_time_to_wait_comes_behind_what_older_readers_know() {
        let header = Header {
            kind: "t".to_owned(),
            encoding: 0,
            len: 0,
            wants_reply: true,
            within_ms: 300,
        };
        assert_eq!(header.encode(), [8, 0x0a, 1, b't', 0x20, 1, 0x28, 0xac, 2]);
    }

    #[test]
    fn status_bytes_are_fixed() {
        assert_eq!(Status::from_byte(2), Some(Status::TooLarge));
        assert_eq!(Status::from_byte(5), Some(Status::Late));
        assert_eq!(Status::from_byte(6), Some(Status::Unreadable));
        assert_eq!(Status::from_byte(7), None);
    }

    proptest! {
        #[test]
        fn headers_survive_a_round_trip(kind in ".{0,60}", encoding: u32, len: u64, wants_reply: bool, within_ms: u32) {
            let header = Header { kind, encoding, len, wants_reply, within_ms };
            let frame = header.encode();
            let content = take_frame(&mut &frame[..], MAX_HEADER).unwrap().unwrap();
            prop_assert_eq!(Header::decode(content).unwrap(), header);
        }
    }
}
