//! Messages to many: how a post reaches every node of a topic.
//!
//! ```text
//!   SignedPost   what is published: signed, numbered, with an expiry          (post)
//!   Frames       what neighbours tell each other                              (wire)
//!   View         who is a neighbour: HyParView                                (view)
//!   Strategy     how posts spread: Tree (PlumTree), RainTree, Flood
//!   Topic        neighbours and a Tree, and who has a post                    (topic)
//!   Topics       all topics of a node, and what its peers are on              (topics)
//! ```
//!
//! The caller checks posts as they come ([`Frames::decode`]) and says of each whether it
//! is good ([`Verdict`]), at its leisure; until then it is not passed on. A neighbour that
//! sends what is not, loses points, and in the end is heard no more.

mod flood;
mod history;
mod post;
mod raintree;
mod score;
mod topic;
mod topics;
mod tree;
mod view;
pub mod wire;

use std::{fmt, sync::Arc, time::Instant};

use anyhop_base::PeerId;

pub use flood::Flood;
pub use history::{KEPT_FOR, MAX_KEPT, MAX_KEPT_BYTES, MAX_SEEN};
pub use post::{
    Content, MAX_INLINE_BODY, MAX_PARTS, MAX_POST_LEN, MAX_POST_LIFETIME_S, MAX_POST_SKEW_S,
    MAX_TOPIC_LEN, PART_LEN, Post, PostError, PostId, SignedPost, TopicId,
};
pub use raintree::{DEMOTE_AFTER, RainTree, max_level, targets};
pub use score::{IGNORED_BELOW, MAX_SCORES, Scores};
pub use topic::{LONGEST_QUESTION, Overlay, Report, Topic};
pub use topics::{MAX_BROADCAST_NEIGHBOURS, MAX_TOPICS, Topics, TopicsEvent, Transmit};
pub use tree::{COMPARE_INTERVAL, MAX_PENDING, Tree};
pub use view::{ANSWER_WITHIN, MAX_ACTIVE, MAX_PASSIVE, SHUFFLE_INTERVAL, View, ViewEvent};
pub use wire::{Frame, Frames, MAX_TOPIC_FRAME, TopicFrame, TopicFrameError};

/// What is to become of a post.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is good: deliver it, and pass it on.
    Accept,
    /// It is of no use; nobody is to blame.
    Ignore,
    /// Who follows the rules neither makes nor passes on such a post.
    Reject,
}

/// What the caller is to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A post that is new here: its verdict is wanted.
    Arrived {
        /// Who sent it.
        from: PeerId,
        /// It.
        post: Arc<SignedPost>,
        /// Links that it crossed, as those who sent it say.
        hops: u8,
    },
}

/// How posts spread among neighbours: one node's part in it.
pub trait Strategy: fmt::Debug + Send {
    /// All neighbours.
    fn neighbours(&self) -> Vec<PeerId>;
    /// The neighbours without which posts would be late.
    fn needed(&self) -> Vec<PeerId> {
        self.neighbours()
    }
    /// A new neighbour.
    fn handle_up(&mut self, now: Instant, peer: PeerId);
    /// A neighbour is none any more.
    fn handle_down(&mut self, now: Instant, peer: PeerId);
    /// This node publishes a post.
    fn handle_publish(&mut self, now: Instant, post: Arc<SignedPost>);
    /// A frame of a neighbour, or a post of anyone.
    fn handle_frame(&mut self, now: Instant, from: PeerId, frame: Frame);
    /// What is to become of a post that arrived.
    fn handle_verdict(&mut self, now: Instant, id: &PostId, verdict: Verdict);
    /// Whether a good post is here.
    fn has(&self, id: &PostId) -> bool;
    /// When [`handle_timeout`](Self::handle_timeout) is due.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Time has passed.
    fn handle_timeout(&mut self, now: Instant);
    /// What happened.
    fn poll_event(&mut self) -> Option<Event>;
    /// The next frame to a neighbour. Frames may be lost; none is worth a dial.
    fn poll_transmit(&mut self) -> Option<(PeerId, Frame)>;
}
