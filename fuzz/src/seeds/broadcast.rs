//! Frames and posts of topics.

use std::sync::Arc;

use anyhop_base::codec::take_varint;
use anyhop_proto::broadcast::{
    Content, Frame, Frames, PART_LEN, Post, PostId, SignedPost, TopicFrame, TopicId,
};

use super::{keypair, peer};
use crate::targets::{NOW_UNIX_S, signer};

const TOPIC: TopicId = TopicId([7; 32]);

fn post(content: Content) -> SignedPost {
    let post = Post {
        origin: signer().public().to_peer_id(),
        topic: TOPIC,
        seq: 1,
        expires_unix_s: NOW_UNIX_S + 60,
        encoding: 1,
        content,
    };
    post.sign(&signer()).expect("a small post of its own")
}

fn posts() -> Vec<SignedPost> {
    let parts = Content::Parts {
        len: PART_LEN as u64 + 1,
        hashes: vec![[1; 32], [2; 32]],
    };
    vec![post(Content::Inline(b"hello".to_vec())), post(parts)]
}

/// What is signed in a post: the first field of its envelope.
pub(crate) fn post_payloads() -> Vec<Vec<u8>> {
    let payload = |post: &SignedPost| {
        let envelope = post.encode();
        let mut rest = &envelope[1..];
        let len = take_varint(&mut rest)
            .expect("a length")
            .expect("all of it");
        rest[..usize::try_from(len).expect("a short one")].to_vec()
    };
    posts().iter().map(payload).collect()
}

pub(crate) fn topic_contents() -> Vec<Vec<u8>> {
    let ids = vec![PostId([1; 32]), PostId([2; 32])];
    let mut frames: Vec<_> = posts()
        .into_iter()
        .map(|post| Frame::Post {
            post: Arc::new(post),
            hops: 3,
            level: 2,
            pulled: true,
        })
        .collect();
    frames.extend([
        Frame::IHave(ids.clone()),
        Frame::Graft(ids),
        Frame::Prune,
        Frame::Summary {
            digest: [3; 32],
            answer: true,
        },
        Frame::ForwardJoin {
            peer: keypair(2).public().to_peer_id(),
            ttl: 6,
        },
        Frame::Neighbour { urgent: true },
        Frame::Shuffle {
            origin: peer(2),
            ttl: 6,
            peers: vec![peer(3), peer(4)],
        },
        Frame::Ask {
            post: PostId([4; 32]),
            nonce: 5,
            within_ms: 900,
        },
        Frame::Answer {
            nonce: 5,
            have: 2,
            asked: 3,
            peers: vec![peer(3)],
        },
    ]);
    let of_topic = |frame| {
        let topic = TOPIC;
        Frames::Frame(TopicFrame { topic, frame })
    };
    let mut frames: Vec<_> = frames.into_iter().map(of_topic).collect();
    frames.push(Frames::Announcement(vec![TOPIC]));
    let content = |frame: Frames| {
        let encoded = frame.encode();
        let mut rest = &encoded[..];
        take_varint(&mut rest).expect("a length");
        rest.to_vec()
    };
    frames.into_iter().map(content).collect()
}
