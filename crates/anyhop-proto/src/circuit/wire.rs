//! Frames of a `circuit/1` stream.

use anyhop_base::PeerId;
use thiserror::Error;

use crate::{
    datagram::Label,
    frame::{FrameError, decode, encode_frame, peer_id},
};

/// Largest frame of a circuit stream, bytes.
pub const MAX_OPEN_FRAME: usize = 2048;
/// Relays on one circuit at most.
pub const MAX_HOPS: usize = 16;

mod pb {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Open {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) target: Vec<u8>,
        #[prost(bytes = "vec", repeated, tag = "2")]
        pub(super) next: Vec<Vec<u8>>,
        #[prost(bytes = "vec", repeated, tag = "3")]
        pub(super) route: Vec<Vec<u8>>,
        #[prost(uint32, tag = "4")]
        pub(super) hop_limit: u32,
        #[prost(fixed64, tag = "5")]
        pub(super) label: u64,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Answer {
        #[prost(oneof = "Verdict", tags = "1, 2")]
        pub(super) verdict: Option<Verdict>,
    }
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Verdict {
        #[prost(message, tag = "1")]
        Opened(Opened),
        #[prost(message, tag = "2")]
        Refused(Refused),
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Opened {
        #[prost(fixed64, tag = "1")]
        pub(super) label: u64,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Refused {
        #[prost(uint32, tag = "1")]
        pub(super) reason: u32,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) by: Vec<u8>,
    }
}

/// Asks a neighbour to carry a circuit towards `target`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The far end.
    pub target: PeerId,
    /// Relays still to cross after the receiver, in order; empty when the receiver is
    /// the target or its neighbour.
    pub next: Vec<PeerId>,
    /// Nodes crossed so far, the originator first.
    pub route: Vec<PeerId>,
    /// Relays that may still be crossed, the receiver included.
    pub hop_limit: u32,
    /// The label under which the sender receives this circuit's datagrams.
    pub label: Label,
}

impl Open {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let ids = |peers: &[PeerId]| peers.iter().map(|p| p.to_bytes()).collect();
        encode_frame(&pb::Open {
            target: self.target.to_bytes(),
            next: ids(&self.next),
            route: ids(&self.route),
            hop_limit: self.hop_limit,
            label: self.label.bits(),
        })
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message or names more than [`MAX_HOPS`] relays.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let open: pb::Open = decode(content)?;
        if open.next.len() > MAX_HOPS || open.route.len() > MAX_HOPS + 1 {
            return Err(FrameError::Malformed(format!(
                "a route of {} nodes, {MAX_HOPS} relays are allowed",
                open.next.len() + open.route.len()
            )));
        }
        let ids = |list: &[Vec<u8>]| list.iter().map(|b| peer_id(b)).collect::<Result<_, _>>();
        Ok(Self {
            target: peer_id(&open.target)?,
            next: ids(&open.next)?,
            route: ids(&open.route)?,
            hop_limit: open.hop_limit,
            label: Label::from_bits(open.label),
        })
    }
}

/// Why a circuit is not carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RefusalReason {
    /// The node does not relay.
    #[error("it does not relay for others")]
    NotRelaying,
    /// All its circuits are taken.
    #[error("it is full: its limit of circuits is reached")]
    Full,
    /// The asking neighbour has its share.
    #[error("it carries as many circuits for this neighbour as it allows")]
    PeerQuota,
    /// It has no link to the next node.
    #[error("it has no link to the next node")]
    NoLink,
    /// The route would cross it twice.
    #[error("the route would cross it twice")]
    Loop,
    /// No more relays may be crossed.
    #[error("the hop limit is reached")]
    HopLimit,
    /// The next node did not answer in time or broke the protocol.
    #[error("the next node did not answer")]
    NextFailed,
    /// The target takes no circuits now.
    #[error("the target does not accept it")]
    TargetRefused,
    /// The asking neighbour opens circuits faster than allowed.
    #[error("this neighbour asks for circuits too often")]
    TooOften,
    /// A reason this version does not know.
    #[error("it gave an unknown reason")]
    Unknown,
}

const REASONS: [RefusalReason; 10] = [
    RefusalReason::Unknown,
    RefusalReason::NotRelaying,
    RefusalReason::Full,
    RefusalReason::PeerQuota,
    RefusalReason::NoLink,
    RefusalReason::Loop,
    RefusalReason::HopLimit,
    RefusalReason::NextFailed,
    RefusalReason::TargetRefused,
    RefusalReason::TooOften,
];

impl RefusalReason {
    pub(crate) fn code(self) -> u32 {
        let at = REASONS.iter().position(|r| *r == self);
        at.unwrap_or(0) as u32
    }

    pub(crate) fn from_code(code: u32) -> Self {
        *REASONS.get(code as usize).unwrap_or(&Self::Unknown)
    }
}

/// A refused circuit: who refused, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{by} refused the circuit: {reason}")]
pub struct Refusal {
    /// The refusing node.
    pub by: PeerId,
    /// Its reason.
    pub reason: RefusalReason,
}

/// The answer to an [`Open`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The circuit stands; send to this label.
    Opened(Label),
    /// It does not.
    Refused(Refusal),
}

impl Answer {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let verdict = match self {
            Self::Opened(label) => pb::Verdict::Opened(pb::Opened {
                label: label.bits(),
            }),
            Self::Refused(r) => pb::Verdict::Refused(pb::Refused {
                reason: r.reason.code(),
                by: r.by.to_bytes(),
            }),
        };
        encode_frame(&pb::Answer {
            verdict: Some(verdict),
        })
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        match decode::<pb::Answer>(content)?.verdict {
            Some(pb::Verdict::Opened(o)) => Ok(Self::Opened(Label::from_bits(o.label))),
            Some(pb::Verdict::Refused(r)) => Ok(Self::Refused(Refusal {
                by: peer_id(&r.by)?,
                reason: RefusalReason::from_code(r.reason),
            })),
            None => Err(FrameError::Malformed("an answer without a verdict".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhop_base::Keypair;
    use proptest::prelude::*;

    use super::*;
    use crate::take_frame;

    fn peer() -> PeerId {
        Keypair::generate_ed25519().public().to_peer_id()
    }

    fn content(frame: &[u8]) -> Vec<u8> {
        take_frame(&mut &frame[..], MAX_OPEN_FRAME)
            .unwrap()
            .unwrap()
            .to_vec()
    }

    #[test]
    fn answer_has_these_bytes() {
        let frame = Answer::Opened(Label::from_bits(0x0102_0304)).encode();
        assert_eq!(frame, [11, 0x0a, 9, 0x09, 4, 3, 2, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn every_refusal_survives_a_round_trip() {
        let by = peer();
        for reason in REASONS {
            let answer = Answer::Refused(Refusal { by, reason });
            assert_eq!(Answer::decode(&content(&answer.encode())), Ok(answer));
        }
    }

    #[test]
    fn a_route_longer_than_the_limit_is_refused() {
        let open = Open {
            target: peer(),
            next: vec![peer(); MAX_HOPS + 1],
            route: vec![],
            hop_limit: 8,
            label: Label::from_bits(1),
        };
        assert!(Open::decode(&content(&open.encode())).is_err());
    }

    proptest! {
        #[test]
        fn open_survives_a_round_trip(next in 0..=MAX_HOPS, hop_limit: u32, label: u64) {
            let open = Open {
                target: peer(),
                next: (0..next).map(|_| peer()).collect(),
                route: vec![peer()],
                hop_limit,
                label: Label::from_bits(label),
            };
            prop_assert_eq!(Open::decode(&content(&open.encode())), Ok(open));
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Open::decode(&bytes);
            let _ = Answer::decode(&bytes);
        }
    }
}
