//! Frames of a `trace/1` stream: each relay of a way measures its link to the next one.

use std::time::Duration;

use anyhop_base::PeerId;

use super::wire::{get_ids, put_ids};
use crate::{
    circuit::{MAX_HOPS, RefusalReason},
    frame::{FrameError, decode, encode_frame, peer_id},
};

/// Largest frame of a trace, bytes.
pub const MAX_TRACE_FRAME: usize = 2048;
/// Traces a neighbour may ask for at once after a pause.
pub const TRACE_BURST: u32 = 16;
/// Time after which it may ask for one more.
pub const TRACE_INTERVAL: Duration = Duration::from_millis(500);

mod pb {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Trace {
        #[prost(bytes = "vec", repeated, tag = "1")]
        pub(super) rest: Vec<Vec<u8>>,
        #[prost(uint32, tag = "2")]
        pub(super) budget_ms: u32,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Answer {
        #[prost(message, repeated, tag = "1")]
        pub(super) links: Vec<Link>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Link {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) to: Vec<u8>,
        #[prost(uint32, tag = "2")]
        pub(super) sent: u32,
        #[prost(uint32, tag = "3")]
        pub(super) answered: u32,
        #[prost(uint32, tag = "4")]
        pub(super) rtt_us: u32,
        #[prost(uint32, optional, tag = "5")]
        pub(super) refused: Option<u32>,
    }
}

/// Asks a relay for its link to the next relay, and those behind it for theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The relays behind the receiver, nearest first.
    pub rest: Vec<PeerId>,
    /// How long the receiver may take, milliseconds.
    pub budget_ms: u32,
}

impl Trace {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_frame(&pb::Trace {
            rest: put_ids(&self.rest),
            budget_ms: self.budget_ms,
        })
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message or names more than [`MAX_HOPS`] relays.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let trace: pb::Trace = decode(content)?;
        Ok(Self {
            rest: get_ids(&trace.rest, MAX_HOPS)?,
            budget_ms: trace.budget_ms,
        })
    }
}

/// What a relay says of its link to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkReport {
    /// The next relay.
    pub to: PeerId,
    /// What came of it.
    pub result: Result<Measured, RefusalReason>,
}

/// Probes over one link or path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measured {
    /// Probes sent.
    pub sent: u32,
    /// Probes answered.
    pub answered: u32,
    /// Mean round trip of those, microseconds; 0 without any.
    pub rtt_us: u32,
}

/// The links of a way, nearest first: one for each relay asked for, unless the way breaks
/// off before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TraceAnswer {
    /// At most [`MAX_HOPS`].
    pub links: Vec<LinkReport>,
}

impl TraceAnswer {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let link = |report: &LinkReport| {
            let measured = report.result.unwrap_or_default();
            pb::Link {
                to: report.to.to_bytes(),
                sent: measured.sent,
                answered: measured.answered,
                rtt_us: measured.rtt_us,
                refused: report.result.err().map(RefusalReason::code),
            }
        };
        encode_frame(&pb::Answer {
            links: self.links.iter().map(link).collect(),
        })
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message or has more than [`MAX_HOPS`] links.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let answer: pb::Answer = decode(content)?;
        super::wire::check_len(answer.links.len(), MAX_HOPS)?;
        let link = |link: &pb::Link| {
            Ok(LinkReport {
                to: peer_id(&link.to)?,
                result: match link.refused {
                    Some(code) => Err(RefusalReason::from_code(code)),
                    None => Ok(Measured {
                        sent: link.sent,
                        answered: link.answered.min(link.sent),
                        rtt_us: link.rtt_us,
                    }),
                },
            })
        };
        let links = answer.links.iter().map(link);
        Ok(Self {
            links: links.collect::<Result<_, FrameError>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use anyhop_base::Keypair;
    use proptest::prelude::*;

    use super::*;
    use crate::take_frame;

    fn peer(seed: u8) -> PeerId {
        let key = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
        key.public().to_peer_id()
    }

    fn content(frame: &[u8]) -> Vec<u8> {
        let content = take_frame(&mut &frame[..], MAX_TRACE_FRAME);
        content.unwrap().unwrap().to_vec()
    }

    #[test]
    fn frames_have_these_bytes() {
        let trace = Trace {
            rest: vec![peer(1)],
            budget_ms: 1500,
        };
        let mut expected = vec![43, 0x0a, 38];
        expected.extend(peer(1).to_bytes());
        expected.extend([0x10, 0xdc, 0x0b]);
        assert_eq!(trace.encode(), expected);
        let measured = LinkReport {
            to: peer(1),
            result: Ok(Measured {
                sent: 5,
                answered: 4,
                rtt_us: 300,
            }),
        };
        let refused = LinkReport {
            to: peer(2),
            result: Err(RefusalReason::NoLink),
        };
        let answer = TraceAnswer {
            links: vec![measured, refused],
        };
        let mut expected = vec![93, 0x0a, 47, 0x0a, 38];
        expected.extend(peer(1).to_bytes());
        expected.extend([0x10, 5, 0x18, 4, 0x20, 0xac, 0x02, 0x0a, 42, 0x0a, 38]);
        expected.extend(peer(2).to_bytes());
        expected.extend([0x28, 4]);
        assert_eq!(answer.encode(), expected);
        assert_eq!(TraceAnswer::decode(&content(&answer.encode())), Ok(answer));
    }

    #[test]
    fn the_longest_frames_fit() {
        let trace = Trace {
            rest: vec![peer(1); MAX_HOPS],
            budget_ms: u32::MAX,
        };
        assert_eq!(Trace::decode(&content(&trace.encode())), Ok(trace));
        let link = LinkReport {
            to: peer(1),
            result: Ok(Measured {
                sent: u32::MAX,
                answered: u32::MAX,
                rtt_us: u32::MAX,
            }),
        };
        let answer = TraceAnswer {
            links: vec![link; MAX_HOPS],
        };
        assert_eq!(TraceAnswer::decode(&content(&answer.encode())), Ok(answer));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Trace::decode(&bytes);
            let _ = TraceAnswer::decode(&bytes);
        }
    }
}
