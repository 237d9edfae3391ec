//! Frames of a `find/1` stream: one request, one answer.

use std::time::Duration;

use anyhop_base::PeerId;

use crate::{
    circuit::{MAX_HOPS, Refusal, RefusalReason},
    frame::{FrameError, decode, encode_frame, peer_id},
};

/// Largest request, bytes.
pub const MAX_FIND_FRAME: usize = 2048;
/// Largest answer, bytes: a path and a signed record.
pub const MAX_FOUND_FRAME: usize = 6 * 1024;
/// Nodes a search may be told to keep off.
pub const MAX_AVOID: usize = MAX_HOPS;
/// Refusals an answer names; further ones are left out.
pub const MAX_REFUSALS: usize = 8;

mod pb {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Find {
        #[prost(fixed64, tag = "1")]
        pub(super) nonce: u64,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) target: Vec<u8>,
        #[prost(uint32, tag = "3")]
        pub(super) hop_limit: u32,
        #[prost(uint32, tag = "4")]
        pub(super) budget_ms: u32,
        #[prost(bytes = "vec", repeated, tag = "5")]
        pub(super) route: Vec<Vec<u8>>,
        #[prost(bytes = "vec", repeated, tag = "6")]
        pub(super) avoid: Vec<Vec<u8>>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Answer {
        #[prost(oneof = "Verdict", tags = "1, 2")]
        pub(super) verdict: Option<Verdict>,
    }
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Verdict {
        #[prost(message, tag = "1")]
        Found(Found),
        #[prost(message, tag = "2")]
        Nothing(Nothing),
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Found {
        #[prost(bytes = "vec", repeated, tag = "1")]
        pub(super) path: Vec<Vec<u8>>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) record: Vec<u8>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Nothing {
        #[prost(uint32, tag = "1")]
        pub(super) reached: u32,
        #[prost(uint32, tag = "2")]
        pub(super) unanswered: u32,
        #[prost(bool, tag = "3")]
        pub(super) more_beyond: bool,
        #[prost(message, repeated, tag = "4")]
        pub(super) refusals: Vec<Refused>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Refused {
        #[prost(uint32, tag = "1")]
        pub(super) reason: u32,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) by: Vec<u8>,
    }
}

/// Asks a neighbour for a way to `target`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Find {
    /// The same in every request of one ring of one search.
    pub nonce: u64,
    /// Whom to find.
    pub target: PeerId,
    /// Relays that may still be crossed, the receiver included: 1 asks for its own
    /// links only.
    pub hop_limit: u32,
    /// How long the receiver may take for its answer, milliseconds.
    pub budget_ms: u32,
    /// Nodes crossed so far, the originator first, the sender last.
    pub route: Vec<PeerId>,
    /// Nodes the way must not cross.
    pub avoid: Vec<PeerId>,
}

impl Find {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_frame(&pb::Find {
            nonce: self.nonce,
            target: self.target.to_bytes(),
            hop_limit: self.hop_limit,
            budget_ms: self.budget_ms,
            route: put_ids(&self.route),
            avoid: put_ids(&self.avoid),
        })
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message or a list in it is too long.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let find: pb::Find = decode(content)?;
        Ok(Self {
            nonce: find.nonce,
            target: peer_id(&find.target)?,
            hop_limit: find.hop_limit,
            budget_ms: find.budget_ms,
            route: get_ids(&find.route, MAX_HOPS + 1)?,
            avoid: get_ids(&find.avoid, MAX_AVOID)?,
        })
    }

    /// How long the receiver may take for its answer.
    #[must_use]
    pub fn budget(&self) -> Duration {
        Duration::from_millis(self.budget_ms.into())
    }
}

/// What a search found behind the answering node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FindAnswer {
    /// A way.
    Found(Found),
    /// None, as far as was searched.
    Nothing(Nothing),
}

/// A way to the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The relays to cross, the answering node first, the target's neighbour last;
    /// empty when the target itself answers.
    pub path: Vec<PeerId>,
    /// The target's encoded `SignedRecord`; empty when its neighbour holds none.
    pub record: Vec<u8>,
}

/// How far a search went that found nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Nothing {
    /// Nodes that took part, each counted once.
    pub reached: u32,
    /// Nodes that did not answer in time.
    pub unanswered: u32,
    /// Whether there are links that were not followed: the hop limit, or a limit of a
    /// node on the way, ended the search.
    pub more_beyond: bool,
    /// Nodes that carry nothing on, with their reasons; at most [`MAX_REFUSALS`].
    pub refusals: Vec<Refusal>,
}

impl FindAnswer {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let verdict = match self {
            Self::Found(found) => pb::Verdict::Found(pb::Found {
                path: put_ids(&found.path),
                record: found.record.clone(),
            }),
            Self::Nothing(nothing) => pb::Verdict::Nothing(pb::Nothing {
                reached: nothing.reached,
                unanswered: nothing.unanswered,
                more_beyond: nothing.more_beyond,
                refusals: nothing.refusals.iter().map(put_refusal).collect(),
            }),
        };
        encode_frame(&pb::Answer {
            verdict: Some(verdict),
        })
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message or a list in it is too long.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        match decode::<pb::Answer>(content)?.verdict {
            Some(pb::Verdict::Found(found)) => Ok(Self::Found(Found {
                path: get_ids(&found.path, MAX_HOPS)?,
                record: found.record,
            })),
            Some(pb::Verdict::Nothing(nothing)) => {
                check_len(nothing.refusals.len(), MAX_REFUSALS)?;
                let refusals = nothing.refusals.iter();
                Ok(Self::Nothing(Nothing {
                    reached: nothing.reached,
                    unanswered: nothing.unanswered,
                    more_beyond: nothing.more_beyond,
                    refusals: refusals.map(get_refusal).collect::<Result<_, _>>()?,
                }))
            }
            None => Err(FrameError::Malformed("an answer without a verdict".into())),
        }
    }
}

pub(super) fn put_ids(peers: &[PeerId]) -> Vec<Vec<u8>> {
    peers.iter().map(|p| p.to_bytes()).collect()
}

pub(super) fn get_ids(list: &[Vec<u8>], limit: usize) -> Result<Vec<PeerId>, FrameError> {
    check_len(list.len(), limit)?;
    list.iter().map(|b| peer_id(b)).collect()
}

pub(super) fn check_len(len: usize, limit: usize) -> Result<(), FrameError> {
    if len > limit {
        let why = format!("a list of {len} nodes, {limit} are allowed");
        return Err(FrameError::Malformed(why));
    }
    Ok(())
}

fn put_refusal(refusal: &Refusal) -> pb::Refused {
    pb::Refused {
        reason: refusal.reason.code(),
        by: refusal.by.to_bytes(),
    }
}

fn get_refusal(refused: &pb::Refused) -> Result<Refusal, FrameError> {
    Ok(Refusal {
        by: peer_id(&refused.by)?,
        reason: RefusalReason::from_code(refused.reason),
    })
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
        let content = take_frame(&mut &frame[..], MAX_FOUND_FRAME);
        content.unwrap().unwrap().to_vec()
    }

    #[test]
    fn a_request_has_these_bytes() {
        let (target, origin) = (peer(1), peer(2));
        let frame = Find {
            nonce: 0x0102_0304,
            target,
            hop_limit: 4,
            budget_ms: 300,
            route: vec![origin],
            avoid: vec![],
        }
        .encode();
        let mut expected = vec![94, 0x09, 4, 3, 2, 1, 0, 0, 0, 0, 0x12, 38];
        expected.extend(target.to_bytes());
        expected.extend([0x18, 4, 0x20, 0xac, 0x02, 0x2a, 38]);
        expected.extend(origin.to_bytes());
        assert_eq!(frame, expected);
    }

    #[test]
    fn answers_have_these_bytes() {
        let found = FindAnswer::Found(Found {
            path: vec![peer(1)],
            record: vec![7, 8],
        });
        let mut expected = vec![46, 0x0a, 44, 0x0a, 38];
        expected.extend(peer(1).to_bytes());
        expected.extend([0x12, 2, 7, 8]);
        assert_eq!(found.encode(), expected);
        let nothing = FindAnswer::Nothing(Nothing {
            reached: 3,
            unanswered: 1,
            more_beyond: true,
            refusals: vec![Refusal {
                by: peer(2),
                reason: RefusalReason::Full,
            }],
        });
        let mut expected = vec![52, 0x12, 50, 8, 3, 16, 1, 24, 1, 0x22, 42, 8, 2, 0x12, 38];
        expected.extend(peer(2).to_bytes());
        assert_eq!(nothing.encode(), expected);
    }

    #[test]
    fn the_longest_frames_fit_and_longer_lists_are_refused() {
        let find = |route: usize, avoid: usize| Find {
            nonce: u64::MAX,
            target: peer(1),
            hop_limit: u32::MAX,
            budget_ms: u32::MAX,
            route: vec![peer(2); route],
            avoid: vec![peer(3); avoid],
        };
        let longest = find(MAX_HOPS + 1, MAX_AVOID).encode();
        assert!(longest.len() <= MAX_FIND_FRAME, "{}", longest.len());
        assert!(Find::decode(&content(&longest)).is_ok());
        assert!(Find::decode(&content(&find(MAX_HOPS + 2, 0).encode())).is_err());
        assert!(Find::decode(&content(&find(0, MAX_AVOID + 1).encode())).is_err());
        let found = FindAnswer::Found(Found {
            path: vec![peer(1); MAX_HOPS],
            record: vec![0; anyhop_base::record::MAX_RECORD_LEN],
        });
        assert!(found.encode().len() <= MAX_FOUND_FRAME);
    }

    proptest! {
        #[test]
        fn requests_survive_a_round_trip(
            nonce: u64, hop_limit: u32, budget_ms: u32, route in 0..=MAX_HOPS, avoid in 0..=MAX_AVOID
        ) {
            let find = Find {
                nonce,
                target: peer(1),
                hop_limit,
                budget_ms,
                route: vec![peer(2); route],
                avoid: vec![peer(3); avoid],
            };
            prop_assert_eq!(Find::decode(&content(&find.encode())), Ok(find));
        }

        #[test]
        fn answers_survive_a_round_trip(
            reached: u32, unanswered: u32, more_beyond: bool, count in 0..=MAX_REFUSALS
        ) {
            let refusal = Refusal { by: peer(4), reason: RefusalReason::NotRelaying };
            let refusals = vec![refusal; count];
            let nothing = Nothing { reached, unanswered, more_beyond, refusals };
            let answer = FindAnswer::Nothing(nothing);
            prop_assert_eq!(FindAnswer::decode(&content(&answer.encode())), Ok(answer));
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Find::decode(&bytes);
            let _ = FindAnswer::decode(&bytes);
        }
    }
}
