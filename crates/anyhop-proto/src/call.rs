//! Calls on a `call/1` stream: items each way, under one deadline.
//!
//! ```text
//!   caller   Head, Part::Item and its body ..., end of the stream      callee
//!            <------- Part::Item and its body ..., Part::End, end of the stream
//! ```
//!
//! Both directions go on at once. Who stops either of them gives the call up.

use crate::frame::{FrameError, decode, encode_frame};

/// Largest frame with a head, bytes.
pub const MAX_CALL_HEAD: usize = 1024;
/// Largest frame with a part, its body not counted, bytes.
pub const MAX_CALL_PART: usize = 512;
/// Longest reason in an end, bytes; what is longer is cut.
pub const MAX_REASON: usize = 256;

mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Head {
        #[prost(string, tag = "1")]
        pub(super) kind: String,
        #[prost(uint32, tag = "2")]
        pub(super) within_ms: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Part {
        #[prost(uint32, tag = "1")]
        pub(super) encoding: u32,
        #[prost(uint64, tag = "2")]
        pub(super) len: u64,
        /// 0 for an item.
        #[prost(uint32, tag = "3")]
        pub(super) end: u32,
        #[prost(string, tag = "4")]
        pub(super) reason: String,
        #[prost(uint64, tag = "5")]
        pub(super) limit: u64,
    }
}

/// What a call begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The application's type.
    pub kind: String,
    /// For how long the caller waits for the end, milliseconds.
    pub within_ms: u32,
}

impl Head {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_frame(&wire::Head {
            kind: self.kind.clone(),
            within_ms: self.within_ms,
        })
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let wire::Head { kind, within_ms } = decode(content)?;
        Ok(Self { kind, within_ms })
    }
}

/// What follows, each way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A body of this length follows.
    Item {
        /// The encoding tag, opaque here.
        encoding: u32,
        /// Length of the body, bytes.
        len: u64,
    },
    /// The callee's last word.
    End(End),
}

/// How a call ended, as the callee says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// All was said.
    Done,
    /// Nobody there takes calls of this type.
    NoHandler,
    /// Its time was over first.
    Late,
    /// An item was larger than allowed.
    TooLarge {
        /// The limit, bytes.
        limit: u64,
    },
    /// As many calls go on as may.
    Busy,
    /// The application failed.
    Failed {
        /// Why.
        reason: String,
    },
    /// An item could not be read.
    Unreadable {
        /// Why.
        reason: String,
    },
    /// Something of a later version; the call has failed.
    Other(u32),
}

impl End {
    fn tag(&self) -> u32 {
        match self {
            Self::Done => 1,
            Self::NoHandler => 2,
            Self::Late => 3,
            Self::TooLarge { .. } => 4,
            Self::Busy => 5,
            Self::Failed { .. } => 6,
            Self::Unreadable { .. } => 7,
            Self::Other(tag) => *tag,
        }
    }

    fn from_wire(part: wire::Part) -> Self {
        let (limit, reason) = (part.limit, part.reason);
        match part.end {
            1 => Self::Done,
            2 => Self::NoHandler,
            3 => Self::Late,
            4 => Self::TooLarge { limit },
            5 => Self::Busy,
            6 => Self::Failed { reason },
            7 => Self::Unreadable { reason },
            other => Self::Other(other),
        }
    }
}

impl Part {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut part = wire::Part::default();
        match self {
            Self::Item { encoding, len } => (part.encoding, part.len) = (*encoding, *len),
            Self::End(end) => {
                part.end = end.tag();
                match end {
                    End::TooLarge { limit } => part.limit = *limit,
                    End::Failed { reason } | End::Unreadable { reason } => {
                        part.reason = cut(reason).to_owned();
                    }
                    _ => {}
                }
            }
        }
        encode_frame(&part)
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let part: wire::Part = decode(content)?;
        Ok(match part.end {
            0 => Self::Item {
                encoding: part.encoding,
                len: part.len,
            },
            _ => Self::End(End::from_wire(part)),
        })
    }
}

/// The beginning of a reason that is not too long.
#[must_use]
pub fn cut(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAX_REASON)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::take_frame;

    #[test]
    fn a_head_and_parts_have_these_bytes() {
        let head = Head {
            kind: "t".to_owned(),
            within_ms: 300,
        };
        assert_eq!(head.encode(), [6, 0x0a, 1, b't', 0x10, 0xac, 2]);
        let item = Part::Item {
            encoding: 2,
            len: 5,
        };
        assert_eq!(item.encode(), [4, 0x08, 2, 0x10, 5]);
        assert_eq!(Part::End(End::Done).encode(), [2, 0x18, 1]);
        let failed = End::Failed {
            reason: "no".to_owned(),
        };
        assert_eq!(
            Part::End(failed).encode(),
            [6, 0x18, 6, 0x22, 2, b'n', b'o']
        );
        let too_large = End::TooLarge { limit: 9 };
        assert_eq!(Part::End(too_large).encode(), [4, 0x18, 4, 0x28, 9]);
    }

    #[test]
    fn an_end_of_a_later_version_is_an_end() {
        assert_eq!(Part::decode(&[0x18, 99]), Ok(Part::End(End::Other(99))));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let reason = "ü".repeat(MAX_REASON);
        let part = Part::End(End::Failed { reason });
        assert!(part.encode().len() <= MAX_CALL_PART);
        assert_eq!(
            cut(&format!("x{}", "ü".repeat(MAX_REASON))).len(),
            MAX_REASON - 1
        );
    }

    proptest! {
        #[test]
        fn heads_and_parts_survive_a_round_trip(kind in ".{0,60}", within_ms: u32, encoding: u32, len: u64, tag in 1..20_u32, reason in ".{0,50}", limit: u64) {
            let head = Head { kind, within_ms };
            let frame = head.encode();
            let content = take_frame(&mut &frame[..], MAX_CALL_HEAD).unwrap().unwrap();
            prop_assert_eq!(Head::decode(content).unwrap(), head);
            let end = End::from_wire(wire::Part { end: tag, reason, limit, ..wire::Part::default() });
            for part in [Part::Item { encoding, len }, Part::End(end)] {
                let frame = part.encode();
                let content = take_frame(&mut &frame[..], MAX_CALL_PART).unwrap().unwrap();
                prop_assert_eq!(Part::decode(content).unwrap(), part);
            }
        }
    }
}
