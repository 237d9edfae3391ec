//! Targets for what neighbours on a topic send.

use anyhop_base::codec::put_varint;
use anyhop_proto::broadcast::{
    Frames, MAX_POST_LEN, MAX_POST_LIFETIME_S, MAX_POST_SKEW_S, SignedPost,
};

use super::{NOW_UNIX_S, network::content, signer};

/// The contents of the frames of topics.
pub fn topic_frames(data: &[u8]) -> bool {
    let Ok(frames) = Frames::decode(data, NOW_UNIX_S) else {
        return false;
    };
    let again = Frames::decode(content(&frames.encode()), NOW_UNIX_S);
    assert_eq!(again, Ok(frames));
    true
}

/// A post's payload with a good signature of [`signer`], to get behind the check of it.
///
/// # Panics
/// When a property breaks.
pub fn topic_post(data: &[u8]) -> bool {
    let signed = [b"anyhop-post/1", data].concat();
    let signature = signer().sign(&signed).expect("Ed25519 signs anything");
    let mut envelope = Vec::with_capacity(data.len() + signature.len() + 8);
    for (tag, field) in [(0x0a, data), (0x12, &signature)] {
        envelope.push(tag);
        put_varint(&mut envelope, field.len() as u64);
        envelope.extend_from_slice(field);
    }
    let Ok(post) = SignedPost::decode(&envelope, NOW_UNIX_S) else {
        return false;
    };
    assert!(envelope.len() <= MAX_POST_LEN);
    let expires = post.post().expires_unix_s;
    assert!(expires > NOW_UNIX_S);
    assert!(expires <= NOW_UNIX_S + MAX_POST_LIFETIME_S + MAX_POST_SKEW_S);
    let again = SignedPost::decode(&post.encode(), NOW_UNIX_S);
    assert_eq!(again, Ok(post));
    true
}
