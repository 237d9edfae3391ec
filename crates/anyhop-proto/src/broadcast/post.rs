//! Posts: what is published, signed by its origin and passed on by anyone.
//!
//! A [`Post`] is signed by the key in its origin's PeerId over its encoded payload, which
//! names the topic; a topic's id depends on the network. Whoever passes a post on can
//! therefore neither change it nor take it elsewhere. It expires after at most
//! [`MAX_POST_LIFETIME_S`], so that what must be remembered against replays is bounded.
//!
//! A body above [`MAX_INLINE_BODY`] does not travel in the post: it is announced by the
//! hashes of its parts and pulled from whoever sent the post, part by part.
//!
//! On the wire it is protobuf: `Signed { payload = 1, signature = 2 }`. The payload is kept
//! as it was signed, fields of later versions included.

use std::fmt;

use anyhop_base::{Keypair, NetworkId, PeerId, public_key_of};
use aws_lc_rs::digest;
use prost::Message as _;
use thiserror::Error;

/// Largest body inside a post, bytes.
pub const MAX_INLINE_BODY: usize = 32 * 1024;
/// Length of all parts of a larger body but the last, bytes.
pub const PART_LEN: usize = 256 * 1024;
/// Most parts of a body: 256 MiB.
pub const MAX_PARTS: usize = 1024;
/// Longest encoded post, bytes.
pub const MAX_POST_LEN: usize = 34 * 1024;
/// Longest name of a topic, bytes.
pub const MAX_TOPIC_LEN: usize = 256;
/// How far ahead a post may expire, seconds.
pub const MAX_POST_LIFETIME_S: u64 = 10 * 60;
/// How far the origin's clock may be ahead of the reader's, seconds.
pub const MAX_POST_SKEW_S: u64 = 60;

/// What is signed before the payload, so that the signature fits nothing else.
const SIGNATURE_DOMAIN: &[u8] = b"anyhop-post/1";
/// What is hashed before a topic's network and name.
const TOPIC_DOMAIN: &[u8] = b"anyhop-topic/1";

/// A hash that names a topic within its network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub [u8; 32]);

impl TopicId {
    /// The topic of this name; [`None`] when the name is longer than [`MAX_TOPIC_LEN`]. The
    /// empty name is that of what goes to all nodes.
    #[must_use]
    pub fn of(network: NetworkId, name: &str) -> Option<Self> {
        if name.len() > MAX_TOPIC_LEN {
            return None;
        }
        let hashed = [TOPIC_DOMAIN, network.as_bytes(), name.as_bytes()].concat();
        Some(Self(sha256(&hashed)))
    }
}

/// The hash of a post's payload.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PostId(pub [u8; 32]);

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicId({self})")
    }
}

impl fmt::Debug for PostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostId({self})")
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Display for PostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// What is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// Who publishes it.
    pub origin: PeerId,
    /// Where.
    pub topic: TopicId,
    /// Grows by one with every post of the origin to the topic; where it begins is the
    /// origin's affair, but never below what it used before.
    pub seq: u64,
    /// When it is worth nothing any more, seconds since the Unix epoch.
    pub expires_unix_s: u64,
    /// How to read the body; opaque here.
    pub encoding: u32,
    /// The body.
    pub content: Content,
}

/// The body of a post, or how to get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Here it is, at most [`MAX_INLINE_BODY`].
    Inline(Vec<u8>),
    /// Its length and the SHA-256 of each part of [`PART_LEN`].
    Parts {
        /// Bytes of the whole body.
        len: u64,
        /// One for each part, at most [`MAX_PARTS`].
        hashes: Vec<[u8; 32]>,
    },
}

impl Content {
    /// Of a body of any length up to [`MAX_PARTS`] times [`PART_LEN`].
    ///
    /// # Errors
    /// When it is longer.
    pub fn of(body: &[u8]) -> Result<Self, PostError> {
        if body.len() <= MAX_INLINE_BODY {
            return Ok(Self::Inline(body.to_vec()));
        }
        if body.len() > MAX_PARTS * PART_LEN {
            return Err(PostError::BodyTooLarge {
                len: body.len() as u64,
            });
        }
        Ok(Self::Parts {
            len: body.len() as u64,
            hashes: body.chunks(PART_LEN).map(sha256).collect(),
        })
    }

    /// Length of the body, bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Inline(body) => body.len() as u64,
            Self::Parts { len, .. } => *len,
        }
    }

    /// Whether the body has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether these bytes are the part of this number.
    #[must_use]
    pub fn fits(&self, part: usize, bytes: &[u8]) -> bool {
        let Self::Parts { len, hashes } = self else {
            return false;
        };
        let begins = (part * PART_LEN) as u64;
        let expected = len.saturating_sub(begins).min(PART_LEN as u64);
        bytes.len() as u64 == expected && hashes.get(part) == Some(&sha256(bytes))
    }
}

impl Post {
    /// Signs the post.
    ///
    /// # Errors
    /// When the key is not the origin's or the body is too large.
    pub fn sign(self, keypair: &Keypair) -> Result<SignedPost, PostError> {
        if keypair.public().to_peer_id() != self.origin {
            return Err(PostError::OtherSigner(self.origin));
        }
        self.check_content()?;
        let payload = pb::Payload::from(&self).encode_to_vec();
        let signed = [SIGNATURE_DOMAIN, &payload].concat();
        let signature = keypair
            .sign(&signed)
            .map_err(|e| PostError::Signing(e.to_string()))?;
        Ok(SignedPost {
            id: PostId(sha256(&payload)),
            post: self,
            envelope: pb::Signed { payload, signature },
        })
    }

    fn check_content(&self) -> Result<(), PostError> {
        match &self.content {
            Content::Inline(body) if body.len() > MAX_INLINE_BODY => {
                let len = body.len() as u64;
                Err(PostError::InlineTooLarge { len })
            }
            Content::Parts { len, hashes } => {
                let parts = len.div_ceil(PART_LEN as u64);
                if parts > MAX_PARTS as u64 {
                    return Err(PostError::BodyTooLarge { len: *len });
                }
                if parts != hashes.len() as u64 || *len <= MAX_INLINE_BODY as u64 {
                    return Err(PostError::Parts);
                }
                Ok(())
            }
            Content::Inline(_) => Ok(()),
        }
    }
}

/// A post whose signature was made here or has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedPost {
    id: PostId,
    post: Post,
    envelope: pb::Signed,
}

impl SignedPost {
    /// Decodes and checks a post: size, signature, expiry, limits.
    ///
    /// # Errors
    /// When any check fails; then it is worth nothing and says nothing about its origin,
    /// only about who sent it.
    pub fn decode(bytes: &[u8], now_unix_s: u64) -> Result<Self, PostError> {
        if bytes.len() > MAX_POST_LEN {
            return Err(PostError::TooLarge { len: bytes.len() });
        }
        let malformed = |e: prost::DecodeError| PostError::Malformed(e.to_string());
        let envelope = pb::Signed::decode(bytes).map_err(malformed)?;
        let payload = pb::Payload::decode(&*envelope.payload).map_err(malformed)?;
        let post = payload.into_post()?;
        let key = public_key_of(&post.origin).ok_or(PostError::NotANodeKey(post.origin))?;
        let signed = [SIGNATURE_DOMAIN, &envelope.payload].concat();
        if !key.verify(&signed, &envelope.signature) {
            return Err(PostError::Signature(post.origin));
        }
        post.check_content()?;
        post.check_time(now_unix_s)?;
        Ok(Self {
            id: PostId(sha256(&envelope.payload)),
            post,
            envelope,
        })
    }

    /// The bytes to pass on, at most [`MAX_POST_LEN`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.envelope.encode_to_vec()
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.envelope.payload.len() + self.envelope.signature.len()
    }

    /// What names it.
    #[must_use]
    pub fn id(&self) -> PostId {
        self.id
    }

    /// What was published.
    #[must_use]
    pub fn post(&self) -> &Post {
        &self.post
    }
}

impl Post {
    fn check_time(&self, now_unix_s: u64) -> Result<(), PostError> {
        let (origin, expires) = (self.origin, self.expires_unix_s);
        if expires <= now_unix_s {
            let ago_s = now_unix_s - expires;
            return Err(PostError::Expired { origin, ago_s });
        }
        let ahead_s = expires - now_unix_s;
        if ahead_s > MAX_POST_LIFETIME_S + MAX_POST_SKEW_S {
            return Err(PostError::ExpiresTooLate { origin, ahead_s });
        }
        Ok(())
    }
}

/// Why a post cannot be signed, or is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PostError {
    /// It is longer than [`MAX_POST_LEN`].
    #[error("a post of {len} bytes is larger than the limit of {MAX_POST_LEN} bytes")]
    TooLarge {
        /// Its length, bytes.
        len: usize,
    },
    /// The body inside it is longer than [`MAX_INLINE_BODY`].
    #[error("a post holds a body of {len} bytes, and {MAX_INLINE_BODY} are allowed inside")]
    InlineTooLarge {
        /// Its length, bytes.
        len: u64,
    },
    /// The body has more than [`MAX_PARTS`] parts.
    #[error("a body of {len} bytes is larger than the limit of {} bytes", MAX_PARTS * PART_LEN)]
    BodyTooLarge {
        /// Its length, bytes.
        len: u64,
    },
    /// The bytes are no post.
    #[error("malformed post: {0}")]
    Malformed(String),
    /// The hashes are not as many as the body's length says.
    #[error("malformed post: its hashes do not fit the length of its body")]
    Parts,
    /// The origin's id holds no Ed25519 key, as every node's does.
    #[error("post of {0}, which is not the id of an Ed25519 key")]
    NotANodeKey(PeerId),
    /// The signature does not fit origin and content.
    #[error("post of {0} has a wrong signature: it was changed, or is not by {0}")]
    Signature(PeerId),
    /// Its time is over.
    #[error("post of {origin} expired {ago_s} s ago")]
    Expired {
        /// Whose.
        origin: PeerId,
        /// How long ago, seconds.
        ago_s: u64,
    },
    /// It claims a longer life than allowed, or the clocks disagree.
    #[error(
        "post of {origin} expires {ahead_s} s from now, and {MAX_POST_LIFETIME_S} s are allowed: \
         its clock or this one is wrong"
    )]
    ExpiresTooLate {
        /// Whose.
        origin: PeerId,
        /// How far ahead, seconds.
        ahead_s: u64,
    },
    /// On signing: the key is someone else's.
    #[error("cannot sign a post of {0} with another's key")]
    OtherSigner(PeerId),
    /// On signing: the key refused.
    #[error("cannot sign the post: {0}")]
    Signing(String),
}

impl PostError {
    /// Whether only who does not follow the protocol sends such a post. Clocks that differ
    /// and what was long under way are nobody's fault.
    #[must_use]
    pub fn is_misbehaviour(&self) -> bool {
        !matches!(self, Self::Expired { .. } | Self::ExpiresTooLate { .. })
    }
}

/// The SHA-256 of some bytes.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let hash = digest::digest(&digest::SHA256, bytes);
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

mod pb {
    use super::{Content, PeerId, PostError, TopicId};

    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(super) struct Signed {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) payload: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) signature: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Payload {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) origin: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) topic: Vec<u8>,
        #[prost(uint64, tag = "3")]
        pub(super) seq: u64,
        #[prost(uint64, tag = "4")]
        pub(super) expires_unix_s: u64,
        #[prost(uint32, tag = "5")]
        pub(super) encoding: u32,
        #[prost(bytes = "vec", tag = "6")]
        pub(super) body: Vec<u8>,
        /// Length of a body that is not here; 0 when it is.
        #[prost(uint64, tag = "7")]
        pub(super) len: u64,
        /// 32 bytes each.
        #[prost(bytes = "vec", tag = "8")]
        pub(super) hashes: Vec<u8>,
    }

    impl From<&super::Post> for Payload {
        fn from(post: &super::Post) -> Self {
            let (body, len, hashes) = match &post.content {
                Content::Inline(body) => (body.clone(), 0, Vec::new()),
                Content::Parts { len, hashes } => (Vec::new(), *len, hashes.concat()),
            };
            Self {
                origin: post.origin.to_bytes(),
                topic: post.topic.0.to_vec(),
                seq: post.seq,
                expires_unix_s: post.expires_unix_s,
                encoding: post.encoding,
                body,
                len,
                hashes,
            }
        }
    }

    impl Payload {
        pub(super) fn into_post(self) -> Result<super::Post, PostError> {
            let malformed = |what: &str| PostError::Malformed(what.to_owned());
            let origin = PeerId::from_bytes(&self.origin);
            let origin = origin.map_err(|_| malformed("its origin is no PeerId"))?;
            let topic = self.topic.try_into();
            let topic = TopicId(topic.map_err(|_| malformed("its topic is no hash"))?);
            let content = if self.len == 0 {
                Content::Inline(self.body)
            } else {
                let (hashes, rest) = self.hashes.as_chunks::<32>();
                if !rest.is_empty() || !self.body.is_empty() {
                    return Err(PostError::Parts);
                }
                Content::Parts {
                    len: self.len,
                    hashes: hashes.to_vec(),
                }
            };
            Ok(super::Post {
                origin,
                topic,
                seq: self.seq,
                expires_unix_s: self.expires_unix_s,
                encoding: self.encoding,
                content,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhop_base::NetworkName;
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn keypair(seed: u8) -> Keypair {
        Keypair::ed25519_from_bytes([seed; 32]).unwrap()
    }

    fn post(content: Content) -> Post {
        Post {
            origin: keypair(1).public().to_peer_id(),
            topic: TopicId([7; 32]),
            seq: 300,
            expires_unix_s: NOW + 60,
            encoding: 1,
            content,
        }
    }

    const GOLDEN: &str = "0a590a260024080112208a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf374\
        8801b40f6f5c1220070707070707070707070707070707070707070707070707070707070707070718ac0220bca4\
        a7da062801320268691240685990bd4af12bf3b87273a7bca8975919e21f33d1d9ef5775db1d664cb9690e82596a\
        c184819909364a3dee98776fb929442d283f4c5488638352e78302c606";

    #[test]
    fn a_signed_post_has_these_bytes() {
        let signed = post(Content::Inline(b"hi".to_vec())).sign(&keypair(1));
        let bytes = signed.unwrap().encode();
        let hex = data_encoding::HEXLOWER.encode(&bytes);
        assert_eq!(hex, GOLDEN);
    }

    #[test]
    fn topics_differ_by_name_and_by_network() {
        let network = |name: &str| name.parse::<NetworkName>().unwrap().id();
        let a = TopicId::of(network("a"), "news");
        assert_ne!(a, TopicId::of(network("b"), "news"));
        assert_ne!(a, TopicId::of(network("a"), "new"));
        assert_eq!(
            TopicId::of(network("a"), &"n".repeat(MAX_TOPIC_LEN + 1)),
            None
        );
    }

    #[test]
    fn any_changed_byte_of_a_post_is_noticed() {
        let signed = post(Content::Inline(b"hi".to_vec())).sign(&keypair(1));
        let good = signed.unwrap().encode();
        assert!(SignedPost::decode(&good, NOW).is_ok());
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            assert!(SignedPost::decode(&bad, NOW).is_err(), "byte {i}");
        }
    }

    #[test]
    fn a_post_lives_between_now_and_the_longest_life() {
        let expiring = |at| {
            let post = Post {
                expires_unix_s: at,
                ..post(Content::Inline(Vec::new()))
            };
            SignedPost::decode(&post.sign(&keypair(1)).unwrap().encode(), NOW)
        };
        let origin = keypair(1).public().to_peer_id();
        let error = PostError::Expired { origin, ago_s: 0 };
        assert_eq!(expiring(NOW), Err(error));
        let latest = MAX_POST_LIFETIME_S + MAX_POST_SKEW_S;
        assert!(expiring(NOW + latest).is_ok());
        let late = expiring(NOW + latest + 1).unwrap_err();
        assert!(matches!(late, PostError::ExpiresTooLate { .. }));
        assert!(!late.is_misbehaviour());
    }

    #[test]
    fn nobody_signs_for_others() {
        let other = post(Content::Inline(Vec::new())).sign(&keypair(2));
        assert!(matches!(other, Err(PostError::OtherSigner(_))));
    }

    #[test]
    fn a_large_body_is_told_by_the_hashes_of_its_parts() {
        let body: Vec<u8> = (0..PART_LEN + 9).map(|i| (i % 251) as u8).collect();
        let content = Content::of(&body).unwrap();
        let (first, second) = body.split_at(PART_LEN);
        assert!(content.fits(0, first) && content.fits(1, second));
        assert!(!content.fits(1, &second[1..]) && !content.fits(0, second));
        assert!(!content.fits(2, b""));
        let signed = post(content.clone()).sign(&keypair(1)).unwrap();
        let read = SignedPost::decode(&signed.encode(), NOW).unwrap();
        assert_eq!(read.post().content, content);
        let Content::Parts { len, mut hashes } = content else {
            panic!("it is larger than what a post holds");
        };
        hashes.pop();
        let short = post(Content::Parts { len, hashes }).sign(&keypair(1));
        assert_eq!(short, Err(PostError::Parts));
    }

    #[test]
    fn the_largest_posts_fit_their_limit() {
        let most = Content::Parts {
            len: (MAX_PARTS * PART_LEN) as u64,
            hashes: vec![[1; 32]; MAX_PARTS],
        };
        for content in [most, Content::Inline(vec![0; MAX_INLINE_BODY])] {
            let signed = post(content).sign(&keypair(1)).unwrap();
            assert!(SignedPost::decode(&signed.encode(), NOW).is_ok());
        }
    }

    proptest! {
        #[test]
        fn posts_survive_a_round_trip(seq: u64, encoding: u32, body: Vec<u8>) {
            let post = Post { seq, encoding, ..post(Content::Inline(body)) };
            let signed = post.clone().sign(&keypair(1)).unwrap();
            let read = SignedPost::decode(&signed.encode(), NOW).unwrap();
            prop_assert_eq!(read.post(), &post);
            prop_assert_eq!(read.id(), signed.id());
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = SignedPost::decode(&bytes, NOW);
        }
    }
}
