//! Frames of `topics/1` streams: what neighbours on a topic tell each other.

use std::sync::Arc;

use anyhop_base::PeerId;

use super::{PostError, PostId, SignedPost, TopicId, post::MAX_POST_LEN};
use crate::frame::{FrameError, decode, encode_frame, peer_id};

/// Largest frame, bytes.
pub const MAX_TOPIC_FRAME: usize = MAX_POST_LEN + 1024;
/// Most post ids in a frame.
pub const MAX_IDS: usize = 1024;
/// Most peers in a frame.
pub const MAX_PEERS: usize = 32;
/// Most peers in an answer.
pub const MAX_REPORTED: usize = 512;
/// Most topics in an announcement.
pub const MAX_ANNOUNCED: usize = 256;

/// What the sender's recent posts come to: the exclusive or of their ids.
pub type Digest = [u8; 32];

/// A frame: a topic, and what is said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFrame {
    /// Which.
    pub topic: TopicId,
    /// What.
    pub frame: Frame,
}

/// What is sent to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frames {
    /// All topics that the sender is on, but for the one that everybody is on.
    Announcement(Vec<TopicId>),
    /// A frame.
    Frame(TopicFrame),
}

/// What a neighbour tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A post.
    Post {
        /// It.
        post: Arc<SignedPost>,
        /// How many nodes passed it on before.
        hops: u8,
        /// In a structured broadcast: the level at which the receiver takes it.
        level: u8,
        /// Whether the receiver asked for it.
        pulled: bool,
    },
    /// The sender has these.
    IHave(Vec<PostId>),
    /// The sender wants these.
    Pull(Vec<PostId>),
    /// The sender wants these, and from now on all others pushed.
    Graft(Vec<PostId>),
    /// The sender gets posts from elsewhere: announce them instead of pushing.
    Prune,
    /// The sender has these now, as it was told.
    Ack(Vec<PostId>),
    /// What the sender's recent posts come to.
    Summary {
        /// The exclusive or of their ids.
        digest: Digest,
        /// Whether this answers one.
        answer: bool,
    },
    /// The sender joins the topic and knows nobody there but the receiver.
    Join,
    /// This peer joins; whoever the walk ends at takes it as a neighbour.
    ForwardJoin {
        /// Who.
        peer: PeerId,
        /// Steps left.
        ttl: u8,
    },
    /// The sender would like to be a neighbour.
    Neighbour {
        /// It has none, and must not be refused.
        urgent: bool,
    },
    /// The receiver is a neighbour now.
    Accepted,
    /// The receiver is no neighbour, or not any more.
    Disconnect,
    /// Some peers on the topic; where the walk ends as many are sent back.
    Shuffle {
        /// Who began it.
        origin: PeerId,
        /// Steps left.
        ttl: u8,
        /// At most [`MAX_PEERS`].
        peers: Vec<PeerId>,
    },
    /// Some peers on the topic, in return.
    ShuffleReply(Vec<PeerId>),
    /// Who has this post, of those beyond the receiver?
    Ask {
        /// The post.
        post: PostId,
        /// Names the question.
        nonce: u64,
        /// Time for an answer, milliseconds.
        within_ms: u32,
    },
    /// An answer.
    Answer {
        /// The question's.
        nonce: u64,
        /// How many have the post.
        have: u32,
        /// How many were asked.
        asked: u32,
        /// Who has it, as far as there was room: at most [`MAX_REPORTED`].
        peers: Vec<PeerId>,
    },
}

mod pb {
    /// Exactly one of the fields from 2 on is there.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Frame {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) topic: Vec<u8>,
        #[prost(
            oneof = "Body",
            tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18"
        )]
        pub(super) body: Option<Body>,
    }
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Body {
        #[prost(message, tag = "2")]
        Post(Post),
        /// Ids of 32 bytes each, here and below.
        #[prost(bytes = "vec", tag = "3")]
        IHave(Vec<u8>),
        #[prost(bytes = "vec", tag = "4")]
        Pull(Vec<u8>),
        #[prost(bytes = "vec", tag = "5")]
        Graft(Vec<u8>),
        #[prost(bool, tag = "6")]
        Prune(bool),
        #[prost(bytes = "vec", tag = "7")]
        Ack(Vec<u8>),
        #[prost(message, tag = "8")]
        Summary(Summary),
        #[prost(bool, tag = "9")]
        Join(bool),
        #[prost(message, tag = "10")]
        ForwardJoin(Walk),
        #[prost(bool, tag = "11")]
        Neighbour(bool),
        #[prost(bool, tag = "12")]
        Accepted(bool),
        #[prost(bool, tag = "13")]
        Disconnect(bool),
        #[prost(message, tag = "14")]
        Shuffle(Walk),
        #[prost(message, tag = "15")]
        ShuffleReply(Walk),
        #[prost(message, tag = "16")]
        Ask(Ask),
        #[prost(message, tag = "17")]
        Answer(Answer),
        /// Ids of topics, of 32 bytes each.
        #[prost(bytes = "vec", tag = "18")]
        Announcement(Vec<u8>),
    }
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(super) struct Post {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) post: Vec<u8>,
        #[prost(uint32, tag = "2")]
        pub(super) hops: u32,
        #[prost(uint32, tag = "3")]
        pub(super) level: u32,
        #[prost(bool, tag = "4")]
        pub(super) pulled: bool,
    }
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(super) struct Summary {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) digest: Vec<u8>,
        #[prost(bool, tag = "2")]
        pub(super) answer: bool,
    }
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(super) struct Walk {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) origin: Vec<u8>,
        #[prost(uint32, tag = "2")]
        pub(super) ttl: u32,
        #[prost(bytes = "vec", repeated, tag = "3")]
        pub(super) peers: Vec<Vec<u8>>,
    }
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(super) struct Ask {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) post: Vec<u8>,
        #[prost(fixed64, tag = "2")]
        pub(super) nonce: u64,
        #[prost(uint32, tag = "3")]
        pub(super) within_ms: u32,
    }
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(super) struct Answer {
        #[prost(fixed64, tag = "1")]
        pub(super) nonce: u64,
        #[prost(uint32, tag = "2")]
        pub(super) have: u32,
        #[prost(uint32, tag = "3")]
        pub(super) asked: u32,
        #[prost(bytes = "vec", repeated, tag = "4")]
        pub(super) peers: Vec<Vec<u8>>,
    }
}

/// Why a frame of a neighbour was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicFrameError {
    /// It is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The post in it is not to be believed.
    #[error(transparent)]
    Post(#[from] PostError),
    /// The post in it belongs to another topic.
    #[error("a post of another topic than its frame")]
    OtherTopic,
}

impl TopicFrameError {
    /// Whether only who does not follow the protocol sends such a frame.
    #[must_use]
    pub fn is_misbehaviour(&self) -> bool {
        match self {
            Self::Post(e) => e.is_misbehaviour(),
            Self::Frame(_) | Self::OtherTopic => true,
        }
    }
}

impl Frames {
    /// The frame, at most [`MAX_TOPIC_FRAME`] and its length.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let frame = match self {
            Self::Announcement(topics) => {
                let topics: Vec<_> = topics.iter().take(MAX_ANNOUNCED).map(|t| t.0).collect();
                pb::Frame {
                    topic: Vec::new(),
                    body: Some(pb::Body::Announcement(topics.concat())),
                }
            }
            Self::Frame(TopicFrame { topic, frame }) => pb::Frame {
                topic: topic.0.to_vec(),
                body: Some(body_of(frame)),
            },
        };
        encode_frame(&frame)
    }

    /// Reads a frame's content, and checks the post in it.
    ///
    /// # Errors
    /// When it is none, or the post is not to be believed.
    pub fn decode(content: &[u8], now_unix_s: u64) -> Result<Self, TopicFrameError> {
        let pb::Frame { topic, body } = decode(content)?;
        let body = body.ok_or_else(|| FrameError::malformed("a frame without content"))?;
        if let pb::Body::Announcement(topics) = &body {
            return Ok(Self::Announcement(announced(topics)?));
        }
        let topic = TopicId(hash(topic)?);
        let frame = frame_of(body, now_unix_s)?;
        match &frame {
            Frame::Post { post, .. } if post.post().topic != topic => {
                Err(TopicFrameError::OtherTopic)
            }
            _ => Ok(Self::Frame(TopicFrame { topic, frame })),
        }
    }
}

fn announced(topics: &[u8]) -> Result<Vec<TopicId>, FrameError> {
    let (topics, rest) = topics.as_chunks::<32>();
    if !rest.is_empty() || topics.len() > MAX_ANNOUNCED {
        return Err(FrameError::malformed("no list of topics"));
    }
    Ok(topics.iter().copied().map(TopicId).collect())
}

fn body_of(frame: &Frame) -> pb::Body {
    match frame {
        Frame::Post {
            post,
            hops,
            level,
            pulled,
        } => pb::Body::Post(pb::Post {
            post: post.encode(),
            hops: u32::from(*hops),
            level: u32::from(*level),
            pulled: *pulled,
        }),
        Frame::IHave(ids) => pb::Body::IHave(joined(ids)),
        Frame::Pull(ids) => pb::Body::Pull(joined(ids)),
        Frame::Graft(ids) => pb::Body::Graft(joined(ids)),
        Frame::Prune => pb::Body::Prune(true),
        Frame::Ack(ids) => pb::Body::Ack(joined(ids)),
        Frame::Summary { digest, answer } => pb::Body::Summary(pb::Summary {
            digest: digest.to_vec(),
            answer: *answer,
        }),
        Frame::Join => pb::Body::Join(true),
        Frame::ForwardJoin { peer, ttl } => pb::Body::ForwardJoin(walk(Some(peer), *ttl, &[])),
        Frame::Neighbour { urgent } => pb::Body::Neighbour(*urgent),
        Frame::Accepted => pb::Body::Accepted(true),
        Frame::Disconnect => pb::Body::Disconnect(true),
        Frame::Shuffle { origin, ttl, peers } => pb::Body::Shuffle(walk(Some(origin), *ttl, peers)),
        Frame::ShuffleReply(peers) => pb::Body::ShuffleReply(walk(None, 0, peers)),
        Frame::Ask {
            post,
            nonce,
            within_ms,
        } => pb::Body::Ask(pb::Ask {
            post: post.0.to_vec(),
            nonce: *nonce,
            within_ms: *within_ms,
        }),
        Frame::Answer {
            nonce,
            have,
            asked,
            peers,
        } => pb::Body::Answer(pb::Answer {
            nonce: *nonce,
            have: *have,
            asked: *asked,
            peers: bytes_of(peers),
        }),
    }
}

fn frame_of(body: pb::Body, now_unix_s: u64) -> Result<Frame, TopicFrameError> {
    Ok(match body {
        pb::Body::Post(p) => Frame::Post {
            post: Arc::new(SignedPost::decode(&p.post, now_unix_s)?),
            hops: u8::try_from(p.hops).unwrap_or(u8::MAX),
            level: u8::try_from(p.level).map_err(|_| FrameError::malformed("no level"))?,
            pulled: p.pulled,
        },
        pb::Body::IHave(bytes) => Frame::IHave(ids(&bytes)?),
        pb::Body::Pull(bytes) => Frame::Pull(ids(&bytes)?),
        pb::Body::Graft(bytes) => Frame::Graft(ids(&bytes)?),
        pb::Body::Prune(_) => Frame::Prune,
        pb::Body::Ack(bytes) => Frame::Ack(ids(&bytes)?),
        pb::Body::Summary(s) => Frame::Summary {
            digest: hash(s.digest)?,
            answer: s.answer,
        },
        pb::Body::Join(_) => Frame::Join,
        pb::Body::ForwardJoin(w) => Frame::ForwardJoin {
            peer: peer_id(&w.origin)?,
            ttl: ttl(&w)?,
        },
        pb::Body::Neighbour(urgent) => Frame::Neighbour { urgent },
        pb::Body::Accepted(_) => Frame::Accepted,
        pb::Body::Disconnect(_) => Frame::Disconnect,
        pb::Body::Shuffle(w) => Frame::Shuffle {
            origin: peer_id(&w.origin)?,
            ttl: ttl(&w)?,
            peers: peers(&w.peers, MAX_PEERS)?,
        },
        pb::Body::ShuffleReply(w) => Frame::ShuffleReply(peers(&w.peers, MAX_PEERS)?),
        pb::Body::Ask(a) => Frame::Ask {
            post: PostId(hash(a.post)?),
            nonce: a.nonce,
            within_ms: a.within_ms,
        },
        pb::Body::Announcement(_) => {
            return Err(FrameError::malformed("an announcement is of no topic").into());
        }
        pb::Body::Answer(a) => Frame::Answer {
            nonce: a.nonce,
            have: a.have,
            asked: a.asked,
            peers: peers(&a.peers, MAX_REPORTED)?,
        },
    })
}

fn joined(ids: &[PostId]) -> Vec<u8> {
    debug_assert!(ids.len() <= MAX_IDS, "the machines send no more");
    ids.iter().flat_map(|id| id.0).collect()
}

fn walk(origin: Option<&PeerId>, ttl: u8, peers: &[PeerId]) -> pb::Walk {
    pb::Walk {
        origin: origin.map_or_else(Vec::new, |p| p.to_bytes()),
        ttl: u32::from(ttl),
        peers: bytes_of(peers),
    }
}

fn bytes_of(peers: &[PeerId]) -> Vec<Vec<u8>> {
    peers.iter().map(|p| p.to_bytes()).collect()
}

fn hash(bytes: Vec<u8>) -> Result<[u8; 32], FrameError> {
    let hash = bytes.try_into();
    hash.map_err(|_| FrameError::malformed("a hash has 32 bytes"))
}

fn ids(bytes: &[u8]) -> Result<Vec<PostId>, FrameError> {
    let (ids, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() || ids.len() > MAX_IDS {
        return Err(FrameError::malformed("no list of ids"));
    }
    Ok(ids.iter().copied().map(PostId).collect())
}

fn ttl(walk: &pb::Walk) -> Result<u8, FrameError> {
    u8::try_from(walk.ttl).map_err(|_| FrameError::malformed("no number of steps"))
}

fn peers(bytes: &[Vec<u8>], max: usize) -> Result<Vec<PeerId>, FrameError> {
    if bytes.len() > max {
        return Err(FrameError::malformed("too many peers"));
    }
    bytes.iter().map(|b| peer_id(b)).collect()
}

#[cfg(test)]
mod tests {
    use anyhop_base::Keypair;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        broadcast::{Content, Post},
        take_frame,
    };

    const NOW: u64 = 1_800_000_000;

    fn keypair(seed: u8) -> Keypair {
        Keypair::ed25519_from_bytes([seed; 32]).unwrap()
    }

    fn peer(seed: u8) -> PeerId {
        keypair(seed).public().to_peer_id()
    }

    fn post(body: usize) -> Frame {
        let post = Post {
            origin: peer(1),
            topic: TopicId([7; 32]),
            seq: 1,
            expires_unix_s: NOW + 60,
            encoding: 0,
            content: Content::Inline(vec![9; body]),
        };
        Frame::Post {
            post: Arc::new(post.sign(&keypair(1)).unwrap()),
            hops: 3,
            level: 2,
            pulled: true,
        }
    }

    fn all() -> Vec<Frame> {
        let ids = vec![PostId([1; 32]), PostId([2; 32])];
        vec![
            post(3),
            Frame::IHave(ids.clone()),
            Frame::Pull(ids.clone()),
            Frame::Graft(ids.clone()),
            Frame::Prune,
            Frame::Ack(ids),
            Frame::Summary {
                digest: [3; 32],
                answer: true,
            },
            Frame::Join,
            Frame::ForwardJoin {
                peer: peer(2),
                ttl: 6,
            },
            Frame::Neighbour { urgent: true },
            Frame::Neighbour { urgent: false },
            Frame::Accepted,
            Frame::Disconnect,
            Frame::Shuffle {
                origin: peer(2),
                ttl: 6,
                peers: vec![peer(3), peer(4)],
            },
            Frame::ShuffleReply(vec![peer(3)]),
            Frame::Ask {
                post: PostId([4; 32]),
                nonce: 5,
                within_ms: 900,
            },
            Frame::Answer {
                nonce: 5,
                have: 2,
                asked: 3,
                peers: vec![peer(3), peer(4)],
            },
        ]
    }

    fn content(frame: &[u8]) -> &[u8] {
        take_frame(&mut &frame[..], MAX_TOPIC_FRAME)
            .unwrap()
            .unwrap()
    }

    #[test]
    fn every_frame_survives_a_round_trip() {
        for frame in all() {
            let topic = TopicId([7; 32]);
            let frame = Frames::Frame(TopicFrame { topic, frame });
            let read = Frames::decode(content(&frame.encode()), NOW);
            assert_eq!(read, Ok(frame));
        }
    }

    #[test]
    fn frames_have_these_bytes() {
        let topic = TopicId([7; 32]);
        let encode = |frame| Frames::Frame(TopicFrame { topic, frame }).encode();
        let behind_topic = |frame| encode(frame)[35..].to_vec();
        assert_eq!(behind_topic(Frame::Prune), [0x30, 1]);
        assert_eq!(behind_topic(Frame::Join), [0x48, 1]);
        assert_eq!(behind_topic(Frame::Neighbour { urgent: false }), [0x58, 0]);
        let ids = behind_topic(Frame::IHave(vec![PostId([1; 32])]));
        assert_eq!(ids, [&[0x1a, 32][..], &[1; 32]].concat());
        let answer = Frame::Answer {
            nonce: 5,
            have: 2,
            asked: 3,
            peers: Vec::new(),
        };
        assert_eq!(
            behind_topic(answer),
            [0x8a, 1, 13, 9, 5, 0, 0, 0, 0, 0, 0, 0, 0x10, 2, 0x18, 3]
        );
    }

    #[test]
    fn the_largest_frames_fit_their_limit() {
        let frames = [
            post(crate::broadcast::MAX_INLINE_BODY),
            Frame::IHave(vec![PostId([1; 32]); MAX_IDS]),
            Frame::Answer {
                nonce: u64::MAX,
                have: u32::MAX,
                asked: u32::MAX,
                peers: vec![peer(1); MAX_REPORTED],
            },
        ];
        for frame in frames {
            let topic = TopicId([7; 32]);
            let encoded = Frames::Frame(TopicFrame { topic, frame }).encode();
            assert!(Frames::decode(content(&encoded), NOW).is_ok());
        }
    }

    #[test]
    fn a_post_does_not_move_to_another_topic() {
        let frame = Frames::Frame(TopicFrame {
            topic: TopicId([8; 32]),
            frame: post(3),
        });
        let read = Frames::decode(content(&frame.encode()), NOW);
        assert_eq!(read, Err(TopicFrameError::OtherTopic));
    }

    #[test]
    fn an_announcement_names_topics() {
        let topics = vec![TopicId([1; 32]), TopicId([2; 32])];
        let announcement = Frames::Announcement(topics);
        let frame = announcement.encode();
        assert_eq!(frame[..4], [67, 0x92, 1, 64]);
        assert_eq!(Frames::decode(content(&frame), NOW), Ok(announcement));
        assert!(Frames::decode(&[0x92, 1, 2, 0, 0], NOW).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Frames::decode(&bytes, NOW);
        }
    }
}
