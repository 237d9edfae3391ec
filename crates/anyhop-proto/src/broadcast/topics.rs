//! All topics of a node.
//!
//! **Finding others**: a node tells every peer with a session which topics it is on. While it
//! knows nobody on one of its topics it asks peers to let it join there; who is not on the
//! topic itself answers with those that it knows are. **To all** nodes of the network goes a
//! topic of its own: everybody is on it, its neighbours are the peers with a session, and it
//! costs nothing until somebody uses it.
//!
//! **Misbehaviour** takes points from who sent it, on whichever topic; see [`Scores`].

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhop_base::PeerId;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{
    Event, Frame, Overlay, PostId, Report, Scores, SignedPost, Topic, TopicFrame, TopicFrameError,
    TopicId, Tree, Verdict, View,
    topic::is_worth_a_dial,
    wire::{Frames, MAX_ANNOUNCED, MAX_PEERS},
};

/// Most topics that a node is on.
pub const MAX_TOPICS: usize = MAX_ANNOUNCED;
/// Peers that are asked at once for a way into a topic.
const MAX_SOUGHT: usize = 8;
/// Time between attempts to find somebody on a topic.
const SEEK_INTERVAL: Duration = Duration::from_secs(5);
/// Peers that are neighbours in what goes to all.
pub const MAX_BROADCAST_NEIGHBOURS: usize = 64;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicsEvent {
    /// A post that is new here: its verdict is wanted.
    Arrived {
        /// Where.
        topic: TopicId,
        /// Who sent it.
        from: PeerId,
        /// It.
        post: Arc<SignedPost>,
        /// Links that it crossed.
        hops: u8,
    },
    /// The answer to [`Topics::ask`].
    Report(Report),
}

/// What to send to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The peer.
    pub peer: PeerId,
    /// What.
    pub frames: Frames,
    /// Whether to open a session for it. When none can be opened,
    /// [`Topics::handle_disconnected`] says so.
    pub worth_a_dial: bool,
}

/// The machine of one node. See the module.
#[derive(Debug)]
pub struct Topics {
    me: PeerId,
    rng: StdRng,
    /// The topic that all are on.
    broadcast: TopicId,
    topics: BTreeMap<TopicId, Topic>,
    /// Peers with a session, and what they are on.
    peers: BTreeMap<PeerId, BTreeSet<TopicId>>,
    scores: Scores,
    seek_at: Option<Instant>,
    /// Topics with frames or events to be fetched.
    busy: BTreeSet<TopicId>,
    transmits: VecDeque<Transmit>,
}

impl Topics {
    /// Of a node without peers, on no topic but the one that everybody is on.
    #[must_use]
    pub fn new(me: PeerId, broadcast: TopicId, seed: [u8; 32]) -> Self {
        Self {
            me,
            rng: StdRng::from_seed(seed),
            broadcast,
            topics: BTreeMap::new(),
            peers: BTreeMap::new(),
            scores: Scores::default(),
            seek_at: None,
            busy: BTreeSet::new(),
            transmits: VecDeque::new(),
        }
    }

    /// The topics that this node is on, with their neighbours and others known there.
    pub fn topics(&self) -> impl Iterator<Item = (&TopicId, &Topic)> {
        self.topics.iter()
    }

    /// What peers have lost.
    #[must_use]
    pub fn scores(&self) -> &Scores {
        &self.scores
    }

    /// Goes on a topic; false when this node is on [`MAX_TOPICS`] already.
    pub fn join(&mut self, now: Instant, id: TopicId) -> bool {
        if self.topics.contains_key(&id) {
            return true;
        }
        if self.topics.len() >= MAX_TOPICS {
            return false;
        }
        if id == self.broadcast {
            self.open_broadcast(now);
            return true;
        }
        let view = Box::new(View::new(now, self.me, self.rng.random()));
        self.open(now, id, Overlay::Chosen(view));
        self.announce();
        let on_it = self.peers.iter().filter(|(_, on)| on.contains(&id));
        let on_it: Vec<_> = on_it.map(|(peer, _)| *peer).collect();
        for peer in on_it {
            self.with(id, |topic| topic.handle_candidate(now, peer));
        }
        self.seek(now);
        true
    }

    /// Leaves a topic.
    pub fn leave(&mut self, id: TopicId) {
        let Some(mut topic) = self.topics.remove(&id) else {
            return;
        };
        topic.leave();
        self.busy.remove(&id);
        while let Some((peer, frame)) = topic.poll_transmit() {
            self.transmits.push_back(transmit(id, peer, frame));
        }
        self.announce();
    }

    /// There is a session with a peer.
    pub fn handle_connected(&mut self, now: Instant, peer: PeerId) {
        self.peers.entry(peer).or_default();
        let own = self.own();
        if !own.is_empty() {
            self.tell(peer, own);
            self.seek_at.get_or_insert(now);
        }
        let broadcast = self.broadcast;
        if self.peers.len() <= MAX_BROADCAST_NEIGHBOURS {
            self.with(broadcast, |topic| topic.handle_candidate(now, peer));
        }
    }

    /// There is no session with the peer any more, or none could be opened.
    pub fn handle_disconnected(&mut self, now: Instant, peer: PeerId) {
        self.peers.remove(&peer);
        let ids: Vec<_> = self.topics.keys().copied().collect();
        for id in ids {
            self.with(id, |topic| topic.handle_disconnected(now, peer));
        }
    }

    /// A peer tells which topics it is on.
    pub fn handle_announcement(&mut self, now: Instant, from: PeerId, topics: Vec<TopicId>) {
        let Some(on) = self.peers.get_mut(&from) else {
            return;
        };
        let topics: BTreeSet<_> = topics.into_iter().take(MAX_ANNOUNCED).collect();
        let new: Vec<_> = topics.difference(on).copied().collect();
        *on = topics;
        for id in new {
            if id == self.broadcast {
                continue;
            }
            self.with(id, |topic| topic.handle_candidate(now, from));
        }
    }

    /// A peer sent a frame, or what was to be one.
    pub fn handle_frame(
        &mut self,
        now: Instant,
        from: PeerId,
        frame: Result<TopicFrame, TopicFrameError>,
    ) {
        if self.scores.ignores(now, &from) {
            return;
        }
        let TopicFrame { topic: id, frame } = match frame {
            Ok(frame) => frame,
            Err(e) => {
                if e.is_misbehaviour() {
                    self.handle_misbehaviour(now, from);
                }
                return;
            }
        };
        if id == self.broadcast && matches!(frame, Frame::Post { .. } | Frame::Summary { .. }) {
            self.open_broadcast(now);
        }
        if self.topics.contains_key(&id) {
            self.with(id, |topic| topic.handle_frame(now, from, frame));
        } else if matches!(frame, Frame::Join) {
            self.show_the_way(from, id);
        } else if is_worth_a_dial(&frame) || matches!(frame, Frame::Post { .. }) {
            let away = transmit(id, from, Frame::Disconnect);
            self.transmits.push_back(away);
        }
    }

    /// A peer broke the protocol.
    pub fn handle_misbehaviour(&mut self, now: Instant, from: PeerId) {
        self.scores.handle_misbehaviour(now, from);
        self.drop_ignored(now, from);
    }

    /// Publishes a post of this node on a topic that it is on.
    pub fn publish(&mut self, now: Instant, post: Arc<SignedPost>) {
        let id = post.post().topic;
        self.with(id, |topic| topic.publish(now, post));
    }

    /// What is to become of a post that arrived from a peer.
    pub fn handle_verdict(
        &mut self,
        now: Instant,
        id: TopicId,
        from: PeerId,
        post: &PostId,
        verdict: Verdict,
    ) {
        self.scores.handle_verdict(now, from, verdict);
        self.with(id, |topic| topic.handle_verdict(now, post, verdict));
        self.drop_ignored(now, from);
    }

    /// Asks who has a post of a topic; [`None`] when this node is not on it.
    pub fn ask(
        &mut self,
        now: Instant,
        id: TopicId,
        post: PostId,
        within: Duration,
    ) -> Option<u64> {
        let topic = self.topics.get_mut(&id)?;
        self.busy.insert(id);
        Some(topic.ask(now, post, within))
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let topics = self.topics.values().filter_map(Topic::poll_timeout);
        topics.chain(self.seek_at).min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due = self.topics.iter();
        let due = due.filter(|(_, t)| t.poll_timeout().is_some_and(|at| at <= now));
        let due: Vec<_> = due.map(|(id, _)| *id).collect();
        for id in due {
            self.with(id, |topic| topic.handle_timeout(now));
        }
        if self.seek_at.is_some_and(|at| at <= now) {
            self.seek(now);
        }
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<TopicsEvent> {
        for id in &self.busy {
            let Some(topic) = self.topics.get_mut(id) else {
                continue;
            };
            if let Some(Event::Arrived { from, post, hops }) = topic.poll_event() {
                return Some(TopicsEvent::Arrived {
                    topic: *id,
                    from,
                    post,
                    hops,
                });
            }
            if let Some(report) = topic.poll_report() {
                return Some(TopicsEvent::Report(report));
            }
        }
        None
    }

    /// The next frame, once there are no more events.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if let Some(transmit) = self.transmits.pop_front() {
            return Some(transmit);
        }
        while let Some(id) = self.busy.first().copied() {
            let topic = self.topics.get_mut(&id);
            if let Some((peer, frame)) = topic.and_then(Topic::poll_transmit) {
                return Some(transmit(id, peer, frame));
            }
            self.busy.remove(&id);
        }
        None
    }

    fn with(&mut self, id: TopicId, act: impl FnOnce(&mut Topic)) {
        if let Some(topic) = self.topics.get_mut(&id) {
            act(topic);
            self.busy.insert(id);
        }
    }

    fn open(&mut self, now: Instant, id: TopicId, overlay: Overlay) {
        let tree = Box::new(Tree::new(now, self.rng.random()));
        let topic = Topic::new(self.me, overlay, tree, self.rng.random());
        self.topics.insert(id, topic);
    }

    fn open_broadcast(&mut self, now: Instant) {
        let id = self.broadcast;
        if self.topics.contains_key(&id) {
            return;
        }
        self.open(now, id, Overlay::Given);
        let peers: Vec<_> = self.peers.keys().copied().collect();
        for peer in peers.into_iter().take(MAX_BROADCAST_NEIGHBOURS) {
            self.with(id, |topic| topic.handle_candidate(now, peer));
        }
    }

    /// The topics to announce.
    fn own(&self) -> Vec<TopicId> {
        let own = self.topics.keys().copied();
        own.filter(|id| *id != self.broadcast).collect()
    }

    fn announce(&mut self) {
        let own = self.own();
        let peers: Vec<_> = self.peers.keys().copied().collect();
        for peer in peers {
            self.tell(peer, own.clone());
        }
    }

    fn tell(&mut self, peer: PeerId, topics: Vec<TopicId>) {
        self.transmits.push_back(Transmit {
            peer,
            frames: Frames::Announcement(topics),
            worth_a_dial: false,
        });
    }

    /// Asks peers for a way into the topics where this node knows nobody, or too few.
    fn seek(&mut self, now: Instant) {
        let topics = self.topics.iter_mut();
        let few = topics.filter_map(|(id, topic)| topic.seeks(now).then_some(*id));
        let few: Vec<_> = few.collect();
        let on_any = self.topics.keys().any(|id| *id != self.broadcast);
        self.seek_at = on_any.then_some(now + SEEK_INTERVAL);
        for id in few {
            self.seek_on(now, id);
        }
    }

    fn seek_on(&mut self, now: Instant, id: TopicId) {
        let (on_it, others): (Vec<_>, Vec<_>) =
            self.peers.iter().partition(|(_, on)| on.contains(&id));
        let mut some = |peers: Vec<(&PeerId, _)>| -> Vec<PeerId> {
            let peers: Vec<_> = peers.into_iter().map(|(peer, _)| *peer).collect();
            peers.sample(&mut self.rng, MAX_SOUGHT).copied().collect()
        };
        let (on_it, others) = (some(on_it), some(others));
        for peer in on_it {
            self.with(id, |topic| topic.handle_candidate(now, peer));
        }
        for peer in others {
            let mut join = transmit(id, peer, Frame::Join);
            join.worth_a_dial = false;
            self.transmits.push_back(join);
        }
    }

    /// Answers one who wants to join a topic that this node is not on.
    fn show_the_way(&mut self, from: PeerId, id: TopicId) {
        let on_it = self.peers.iter();
        let on_it = on_it.filter(|(peer, on)| **peer != from && on.contains(&id));
        let peers: Vec<_> = on_it.map(|(peer, _)| *peer).take(MAX_PEERS).collect();
        if !peers.is_empty() {
            let way = transmit(id, from, Frame::ShuffleReply(peers));
            self.transmits.push_back(way);
        }
        let none = transmit(id, from, Frame::Disconnect);
        self.transmits.push_back(none);
    }

    fn drop_ignored(&mut self, now: Instant, peer: PeerId) {
        if self.scores.ignores(now, &peer) {
            let ids: Vec<_> = self.topics.keys().copied().collect();
            for id in ids {
                self.with(id, |topic| topic.handle_disconnected(now, peer));
            }
        }
    }
}

fn transmit(topic: TopicId, peer: PeerId, frame: Frame) -> Transmit {
    Transmit {
        peer,
        worth_a_dial: is_worth_a_dial(&frame),
        frames: Frames::Frame(TopicFrame { topic, frame }),
    }
}

#[cfg(test)]
#[path = "topics_tests.rs"]
mod tests;
