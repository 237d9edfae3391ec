//! What a node remembers of a topic: which posts it has had, and the recent ones themselves.
//!
//! A post is known by its id until it must have expired, so that no replay of it is taken
//! for a new one. Where there is no room for that, the oldest id goes, and of its origin
//! nothing is taken any more that is not younger. The posts themselves are kept for
//! neighbours who lack them, for [`KEPT_FOR`] and while there is room.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhop_base::PeerId;

use super::{
    PostId, SignedPost,
    post::{MAX_POST_LIFETIME_S, MAX_POST_SKEW_S},
    wire::{Digest, MAX_IDS},
};

/// Most ids of posts that are remembered.
pub const MAX_SEEN: usize = 65_536;
/// For how long an id is remembered: until every clock has it expired.
const SEEN_FOR: Duration = Duration::from_secs(MAX_POST_LIFETIME_S + 2 * MAX_POST_SKEW_S);
/// Most posts that are kept to be passed on later.
pub const MAX_KEPT: usize = MAX_IDS;
/// Most bytes of them.
pub const MAX_KEPT_BYTES: usize = 8 << 20;
/// For how long they are kept.
pub const KEPT_FOR: Duration = Duration::from_secs(120);
/// Most origins whose sequence is followed.
const MAX_ORIGINS: usize = 4096;
/// A sequence that goes on this much later has begun anew, and lacks nothing.
const MAX_GAP: u64 = 1024;

/// What a post is to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// It had it before.
    Known,
    /// It may have had it before it forgot.
    TooOld,
    /// It is new, and so is something before it that has not come.
    WithGap,
    /// It is new.
    New,
}

#[derive(Debug, Default)]
struct Origin {
    /// Nothing up to this is taken: ids up to here are forgotten.
    floor: u64,
    /// The highest sequence number so far.
    last: u64,
}

#[derive(Debug)]
struct Kept {
    post: Arc<SignedPost>,
    size: usize,
    until: Instant,
}

/// The memory of one topic.
#[derive(Debug, Default)]
pub(crate) struct History {
    seen: HashMap<PostId, (PeerId, u64)>,
    /// The ids of `seen` by age.
    order: VecDeque<(Instant, PostId)>,
    origins: BTreeMap<PeerId, Origin>,
    kept: HashMap<PostId, Kept>,
    /// The ids of `kept` by age.
    kept_order: VecDeque<PostId>,
    kept_bytes: usize,
    digest: Digest,
}

impl History {
    /// Whether the post has been had.
    pub(crate) fn knows(&self, id: &PostId) -> bool {
        self.seen.contains_key(id)
    }

    /// Takes note of a post.
    pub(crate) fn note(&mut self, now: Instant, post: &SignedPost) -> News {
        self.forget(now);
        let id = post.id();
        if self.knows(&id) {
            return News::Known;
        }
        let (origin, seq) = (post.post().origin, post.post().seq);
        if self.origins.len() >= MAX_ORIGINS && !self.origins.contains_key(&origin) {
            // One whose posts are all forgotten serves only to refuse old ones.
            self.origins.pop_first();
        }
        let known = self.origins.entry(origin).or_default();
        if seq <= known.floor {
            return News::TooOld;
        }
        let before = known.last;
        known.last = before.max(seq);
        if self.seen.len() >= MAX_SEEN {
            self.drop_oldest(true);
        }
        self.seen.insert(id, (origin, seq));
        self.order.push_back((now + SEEN_FOR, id));
        let ahead = seq.saturating_sub(before);
        if before > 0 && (2..=MAX_GAP).contains(&ahead) {
            News::WithGap
        } else {
            News::New
        }
    }

    /// Keeps a post for those who lack it.
    pub(crate) fn keep(&mut self, now: Instant, post: Arc<SignedPost>) {
        let (id, until, size) = (post.id(), now + KEPT_FOR, post.size());
        if self.kept.contains_key(&id) {
            return;
        }
        toggle(&mut self.digest, &id);
        self.kept.insert(id, Kept { post, size, until });
        self.kept_order.push_back(id);
        self.kept_bytes += size;
        while self.kept.len() > MAX_KEPT || self.kept_bytes > MAX_KEPT_BYTES {
            self.drop_kept();
        }
    }

    /// A post that is kept.
    pub(crate) fn get(&self, id: &PostId) -> Option<&Arc<SignedPost>> {
        Some(&self.kept.get(id)?.post)
    }

    /// The ids of all posts that are kept, the oldest first.
    pub(crate) fn kept(&self) -> impl Iterator<Item = PostId> {
        self.kept_order.iter().copied()
    }

    /// Whether no post is kept.
    pub(crate) fn is_idle(&self) -> bool {
        self.kept_order.is_empty()
    }

    /// What they come to.
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// Forgets what is over.
    pub(crate) fn forget(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            self.drop_oldest(false);
        }
        while let Some(kept) = self.kept_order.front().and_then(|id| self.kept.get(id)) {
            if kept.until > now {
                break;
            }
            self.drop_kept();
        }
    }

    fn drop_oldest(&mut self, early: bool) {
        let Some((_, id)) = self.order.pop_front() else {
            return;
        };
        let Some((origin, seq)) = self.seen.remove(&id) else {
            return;
        };
        if early && let Some(origin) = self.origins.get_mut(&origin) {
            origin.floor = origin.floor.max(seq);
        }
    }

    fn drop_kept(&mut self) {
        let dropped = self.kept_order.pop_front();
        if let Some(id) = dropped
            && let Some(kept) = self.kept.remove(&id)
        {
            self.kept_bytes -= kept.size;
            toggle(&mut self.digest, &id);
        }
    }
}

fn toggle(digest: &mut Digest, id: &PostId) {
    for (d, i) in digest.iter_mut().zip(id.0) {
        *d ^= i;
    }
}

#[cfg(test)]
mod tests {
    use anyhop_base::Keypair;

    use super::*;
    use crate::broadcast::{Content, Post, TopicId};

    fn post(seq: u64, body: usize) -> Arc<SignedPost> {
        let key = Keypair::ed25519_from_bytes([1; 32]).unwrap();
        let post = Post {
            origin: key.public().to_peer_id(),
            topic: TopicId([0; 32]),
            seq,
            expires_unix_s: 60,
            encoding: 0,
            content: Content::Inline(vec![0; body]),
        };
        Arc::new(post.sign(&key).unwrap())
    }

    #[expect(clippy::disallowed_methods, reason = "some instant to begin with")]
    fn begun() -> (History, Instant) {
        (History::default(), Instant::now())
    }

    #[test]
    fn a_post_is_news_once_until_it_has_expired_everywhere() {
        let (mut history, now) = begun();
        assert_eq!(history.note(now, &post(7, 0)), News::New);
        let last = now + SEEN_FOR - Duration::from_secs(1);
        assert_eq!(history.note(last, &post(7, 0)), News::Known);
        history.forget(now + SEEN_FOR);
        assert!(!history.knows(&post(7, 0).id()));
    }

    #[test]
    fn a_gap_shows_between_numbers_of_one_sequence_only() {
        let (mut history, now) = begun();
        assert_eq!(history.note(now, &post(100, 0)), News::New);
        assert_eq!(history.note(now, &post(102, 0)), News::WithGap);
        assert_eq!(history.note(now, &post(101, 0)), News::New);
        assert_eq!(history.note(now, &post(103, 0)), News::New);
        let anew = 103 + MAX_GAP + 1;
        assert_eq!(history.note(now, &post(anew, 0)), News::New);
    }

    #[test]
    fn what_had_to_be_forgotten_early_is_not_taken_again() {
        let (mut history, now) = begun();
        history.note(now, &post(5, 0));
        history.drop_oldest(true);
        assert_eq!(history.note(now, &post(5, 0)), News::TooOld);
        assert_eq!(history.note(now, &post(6, 0)), News::New);
    }

    #[test]
    fn posts_are_kept_within_bounds_and_the_digest_follows() {
        let (mut history, now) = begun();
        let size = 32 * 1024;
        let fits = (MAX_KEPT_BYTES / size) as u64;
        for seq in 1..=fits + 8 {
            history.keep(now, post(seq, size));
        }
        assert!(history.kept_bytes <= MAX_KEPT_BYTES);
        assert!(history.get(&post(1, size).id()).is_none());
        assert!(history.get(&post(fits + 8, size).id()).is_some());
        assert_ne!(history.digest(), Digest::default());
        history.forget(now + KEPT_FOR);
        assert_eq!((history.kept().count(), history.kept_bytes), (0, 0));
        assert_eq!(history.digest(), Digest::default());
    }
}
