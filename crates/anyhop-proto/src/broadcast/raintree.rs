//! A structured broadcast: RainTree, as Pocket's specification describes it, with the
//! redundancy layer that it only outlines.
//!
//! All nodes have the same sorted list of peers; each sees it rotated, so that it is first
//! itself. A post of level `L` goes to the peers at one and two thirds of the first
//! `n * (2/3)^(max - L)`, where `max` is the logarithm of `n` to the base 3; who gets it goes
//! on at `L - 1`, and so does the sender after [`DEMOTE_AFTER`], down to level 1. That time is
//! to be that of one hop: a node that two levels reach hears of the higher one first then,
//! which the specification's figures presume, and drops the lower one as a duplicate.
//!
//! **Redundancy**: a post is acknowledged. One that is not is sent **again**, then to the next
//! peer of the list instead (**adjust**), which is nearly as good a place to go on from. A
//! node that has come down to level 0 tells its neighbours in the list, to the left and to
//! the right, that it has the post; they acknowledge or pull it, and one that is silent is
//! passed over. So the post goes round the ring of all live nodes, should the tree fail.
//! Neighbours in the ring are compared with now and then, as in [`Tree`](super::Tree).
//!
//! The list has to be known: this is for networks whose members are.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhop_base::PeerId;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    Event, Frame, PostId, SignedPost, Strategy, Verdict,
    history::{History, News},
    tree::{COMPARE_INTERVAL, MAX_PENDING},
};

/// Time until a sender goes on with the next lower level.
pub const DEMOTE_AFTER: Duration = Duration::from_millis(100);
/// How long an acknowledgement may take.
const ACK_WITHIN: Duration = Duration::from_millis(500);
/// How often a post is sent to the same peer.
const MAX_SENT: u32 = 2;
/// How often the peers beside one are told of a post until it is passed over.
const MAX_TOLD: u32 = 4;
/// How many peers in a row are passed over.
const MAX_ADJUSTED: usize = 16;
/// How long a silent peer is passed over at once.
const SILENT_FOR: Duration = Duration::from_secs(10);
/// Most posts and acknowledgements under way.
const MAX_UNDER_WAY: usize = 4096;

/// Levels of a broadcast among `n` nodes: the logarithm of `n` to the base 3, rounded up.
#[must_use]
pub fn max_level(n: usize) -> u8 {
    let mut level = 0;
    let mut reached = 1_usize;
    while reached < n {
        reached = reached.saturating_mul(3);
        level += 1;
    }
    level
}

/// The places in the rotated list of `n` to which a node sends at this level; a place of 0
/// is the node itself and left out.
pub fn targets(n: usize, level: u8) -> impl Iterator<Item = usize> {
    let down = u32::from(max_level(n).saturating_sub(level));
    let len = n as u128 * 2_u128.pow(down) / 3_u128.pow(down);
    let len = usize::try_from(len).expect("no longer than the whole list");
    [len / 3, 2 * len / 3]
        .into_iter()
        .filter(|place| *place > 0)
}

/// What is expected of a peer.
#[derive(Debug)]
struct Awaited {
    /// Level for the receiver; `None` for a neighbour in the ring, which is only told.
    level: Option<u8>,
    /// Place in the rotated list, and the step to the next one.
    step: isize,
    due: Instant,
    sent: u32,
    /// Peers passed over so far.
    adjusted: usize,
}

/// A post that this node sends out.
#[derive(Debug)]
struct Sending {
    hops: u8,
    /// The next level to send at.
    level: u8,
    at: Instant,
}

/// The machine of one node. See the module.
#[derive(Debug)]
pub struct RainTree {
    me: PeerId,
    rng: StdRng,
    /// All, this node included, sorted. Nodes of one process share the list.
    peers: Arc<Vec<PeerId>>,
    history: History,
    pending: BTreeMap<PostId, (Arc<SignedPost>, u8, u8)>,
    sending: BTreeMap<PostId, Sending>,
    awaited: BTreeMap<(PostId, PeerId), Awaited>,
    silent: BTreeMap<PeerId, Instant>,
    compare_at: Instant,
    transmits: VecDeque<(PeerId, Frame)>,
    events: VecDeque<Event>,
}

impl RainTree {
    /// Of a node among these peers; it is one itself.
    #[must_use]
    pub fn new(now: Instant, me: PeerId, peers: Arc<Vec<PeerId>>, seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let first = COMPARE_INTERVAL.mul_f64(rng.random_range(0.1..1.0));
        let mut tree = Self {
            me,
            rng,
            peers,
            history: History::default(),
            pending: BTreeMap::new(),
            sending: BTreeMap::new(),
            awaited: BTreeMap::new(),
            silent: BTreeMap::new(),
            compare_at: now + first,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        };
        tree.handle_up(now, me);
        tree
    }

    /// Everybody is known anew.
    pub fn set_peers(&mut self, now: Instant, peers: Arc<Vec<PeerId>>) {
        self.peers = peers;
        self.handle_up(now, self.me);
    }

    /// The peer at a place of the list that begins with this node.
    fn at(&self, place: usize) -> PeerId {
        let own = self.peers.binary_search(&self.me).unwrap_or(0);
        self.peers[(own + place) % self.peers.len()]
    }

    fn place_of(&self, peer: &PeerId) -> Option<usize> {
        let own = self.peers.binary_search(&self.me).unwrap_or(0);
        let place = self.peers.binary_search(peer).ok()?;
        let n = self.peers.len();
        Some((place + n - own) % n)
    }

    fn begin(&mut self, now: Instant, id: PostId, hops: u8, level: u8) {
        if self.sending.len() >= MAX_UNDER_WAY {
            return;
        }
        let sending = Sending {
            hops,
            level,
            at: now,
        };
        self.sending.insert(id, sending);
        self.go_on(now);
    }

    /// Sends at the levels that are due, then tells the ring.
    fn go_on(&mut self, now: Instant) {
        let due = self.sending.iter().filter(|(_, s)| s.at <= now);
        let due: Vec<_> = due.map(|(id, s)| (*id, s.level)).collect();
        for (id, level) in due {
            if level == 0 {
                self.sending.remove(&id);
                self.tell_ring(now, id);
                continue;
            }
            let n = self.peers.len();
            for place in targets(n, level.min(max_level(n))) {
                self.send_on(now, id, place, 1, Some(level - 1), 0);
            }
            if let Some(sending) = self.sending.get_mut(&id) {
                sending.level -= 1;
                sending.at = now + DEMOTE_AFTER;
            }
        }
    }

    fn tell_ring(&mut self, now: Instant, id: PostId) {
        let n = self.peers.len();
        if n > 1 {
            self.send_on(now, id, 1, 1, None, 0);
            self.send_on(now, id, n - 1, -1, None, 0);
        }
    }

    /// Sends to the peer at a place, or to the first one from there that is not silent.
    fn send_on(
        &mut self,
        now: Instant,
        id: PostId,
        place: usize,
        step: isize,
        level: Option<u8>,
        mut adjusted: usize,
    ) {
        if self.awaited.len() >= MAX_UNDER_WAY {
            return;
        }
        let n = self.peers.len();
        let mut place = place % n;
        while adjusted < MAX_ADJUSTED && place != 0 {
            let peer = self.at(place);
            let silent = self.silent.get(&peer).is_some_and(|until| *until > now);
            if silent {
                place = (place + n).wrapping_add_signed(step) % n;
                adjusted += 1;
                continue;
            }
            let awaited = Awaited {
                level,
                step,
                due: now + ACK_WITHIN,
                sent: 1,
                adjusted,
            };
            // Two levels may meet at one peer; one acknowledgement then serves for both.
            self.awaited.entry((id, peer)).or_insert(awaited);
            self.transmit(id, peer, level);
            return;
        }
    }

    fn transmit(&mut self, id: PostId, peer: PeerId, level: Option<u8>) {
        let Some(level) = level else {
            self.transmits.push_back((peer, Frame::IHave(vec![id])));
            return;
        };
        let hops = self.sending.get(&id).map_or(1, |s| s.hops);
        if let Some(post) = self.history.get(&id).cloned() {
            let frame = Frame::Post {
                post,
                hops,
                level,
                pulled: false,
            };
            self.transmits.push_back((peer, frame));
        }
    }

    /// Sends again what was not acknowledged, and at last to others.
    fn resend(&mut self, now: Instant) {
        let due = self.awaited.iter().filter(|(_, a)| a.due <= now);
        let due: Vec<_> = due.map(|(key, _)| *key).collect();
        for (id, peer) in due {
            let Some(awaited) = self.awaited.get_mut(&(id, peer)) else {
                continue;
            };
            let max = if awaited.level.is_some() {
                MAX_SENT
            } else {
                MAX_TOLD
            };
            if awaited.sent < max {
                awaited.sent += 1;
                awaited.due = now + ACK_WITHIN;
                let level = awaited.level;
                self.transmit(id, peer, level);
                continue;
            }
            let (level, step, adjusted) = (awaited.level, awaited.step, awaited.adjusted);
            self.awaited.remove(&(id, peer));
            self.silent.insert(peer, now + SILENT_FOR);
            if let Some(place) = self.place_of(&peer) {
                let n = self.peers.len();
                let next = (place + n).wrapping_add_signed(step) % n;
                self.send_on(now, id, next, step, level, adjusted + 1);
            }
        }
        self.silent.retain(|_, until| *until > now);
    }

    fn take_post(
        &mut self,
        now: Instant,
        from: PeerId,
        post: Arc<SignedPost>,
        hops: u8,
        level: u8,
    ) {
        let id = post.id();
        if self.pending.len() >= MAX_PENDING {
            return;
        }
        self.transmits.push_back((from, Frame::Ack(vec![id])));
        if matches!(self.history.note(now, &post), News::New | News::WithGap) {
            let max = max_level(self.peers.len());
            self.pending
                .insert(id, (Arc::clone(&post), hops, level.min(max)));
            self.events.push_back(Event::Arrived { from, post, hops });
        }
    }

    fn take_announced(&mut self, from: PeerId, ids: Vec<PostId>) {
        let (known, wanted): (Vec<_>, Vec<_>) =
            ids.into_iter().partition(|id| self.history.knows(id));
        if !known.is_empty() {
            self.transmits.push_back((from, Frame::Ack(known)));
        }
        if !wanted.is_empty() {
            self.transmits.push_back((from, Frame::Pull(wanted)));
        }
    }

    fn give(&mut self, to: PeerId, ids: &[PostId]) {
        let posts = ids.iter().filter_map(|id| self.history.get(id)).cloned();
        for post in posts.collect::<Vec<_>>() {
            let frame = Frame::Post {
                post,
                hops: 1,
                level: 0,
                pulled: true,
            };
            self.transmits.push_back((to, frame));
        }
    }

    fn compare(&mut self, now: Instant) {
        self.history.forget(now);
        let jitter = self.rng.random_range(0.8..1.2);
        self.compare_at = now + COMPARE_INTERVAL.mul_f64(jitter);
        let n = self.peers.len();
        if n < 2 {
            return;
        }
        let place = self.rng.random_range(1..n);
        let peer = self.at(place);
        let digest = self.history.digest();
        let answer = false;
        let summary = Frame::Summary { digest, answer };
        self.transmits.push_back((peer, summary));
    }
}

impl Strategy for RainTree {
    fn neighbours(&self) -> Vec<PeerId> {
        let others = self.peers.iter().copied();
        others.filter(|p| *p != self.me).collect()
    }

    fn handle_up(&mut self, _: Instant, peer: PeerId) {
        if let Err(at) = self.peers.binary_search(&peer) {
            Arc::make_mut(&mut self.peers).insert(at, peer);
        }
    }

    fn handle_down(&mut self, _: Instant, peer: PeerId) {
        if peer != self.me
            && let Ok(at) = self.peers.binary_search(&peer)
        {
            Arc::make_mut(&mut self.peers).remove(at);
        }
    }

    fn handle_publish(&mut self, now: Instant, post: Arc<SignedPost>) {
        self.history.note(now, &post);
        self.history.keep(now, Arc::clone(&post));
        let level = max_level(self.peers.len());
        self.begin(now, post.id(), 1, level);
    }

    fn handle_frame(&mut self, now: Instant, from: PeerId, frame: Frame) {
        // Whoever sends is not silent.
        self.silent.remove(&from);
        match frame {
            Frame::Post {
                post, hops, level, ..
            } => self.take_post(now, from, post, hops, level),
            Frame::IHave(ids) => self.take_announced(from, ids),
            Frame::Pull(ids) => {
                for id in &ids {
                    self.awaited.remove(&(*id, from));
                }
                self.give(from, &ids);
            }
            Frame::Ack(ids) => {
                for id in ids {
                    self.awaited.remove(&(id, from));
                }
            }
            Frame::Summary { digest, answer } if digest != self.history.digest() => {
                let ids: Vec<_> = self.history.kept().collect();
                self.transmits.push_back((from, Frame::IHave(ids)));
                if !answer {
                    let (digest, answer) = (self.history.digest(), true);
                    let summary = Frame::Summary { digest, answer };
                    self.transmits.push_back((from, summary));
                }
            }
            _ => {}
        }
    }

    fn handle_verdict(&mut self, now: Instant, id: &PostId, verdict: Verdict) {
        let Some((post, hops, level)) = self.pending.remove(id) else {
            return;
        };
        if verdict == Verdict::Accept {
            self.history.keep(now, post);
            self.begin(now, *id, hops.saturating_add(1), level);
        }
    }

    fn has(&self, id: &PostId) -> bool {
        self.history.get(id).is_some()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let sending = self.sending.values().map(|s| s.at);
        let awaited = self.awaited.values().map(|a| a.due);
        let compare = (!self.history.is_idle()).then_some(self.compare_at);
        sending.chain(awaited).chain(compare).min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.go_on(now);
        self.resend(now);
        if self.compare_at <= now {
            self.compare(now);
        }
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_transmit(&mut self) -> Option<(PeerId, Frame)> {
        self.transmits.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use anyhop_base::Keypair;

    use super::*;
    use crate::broadcast::{Content, Post, TopicId};

    /// Reads and writes of posts, as the specification counts them, of each node in order of
    /// the list. The first publishes, and every hop takes [`DEMOTE_AFTER`].
    #[expect(clippy::disallowed_methods, reason = "some instant to begin with")]
    fn reads_and_writes(n: u8) -> Vec<(u32, u32)> {
        let start = Instant::now();
        let mut keys: Vec<_> = (1..=n)
            .map(|i| Keypair::ed25519_from_bytes([i; 32]).unwrap())
            .collect();
        keys.sort_by_key(|key| key.public().to_peer_id());
        let peers: Vec<_> = keys.iter().map(|k| k.public().to_peer_id()).collect();
        let mut nodes: BTreeMap<_, _> = peers
            .iter()
            .map(|me| {
                let peers = Arc::new(peers.clone());
                (*me, RainTree::new(start, *me, peers, [1; 32]))
            })
            .collect();
        let post = Post {
            origin: peers[0],
            topic: TopicId([0; 32]),
            seq: 1,
            expires_unix_s: 60,
            encoding: 0,
            content: Content::Inline(Vec::new()),
        };
        let post = Arc::new(post.sign(&keys[0]).unwrap());
        let id = post.id();
        let first = nodes.get_mut(&peers[0]).unwrap();
        first.handle_publish(start, post);
        let mut counts = BTreeMap::new();
        let mut travelling: Vec<(PeerId, PeerId, Frame)> = Vec::new();
        // Long before the first comparison there is nothing to be sent any more.
        for step in 0..=u32::from(2 * max_level(usize::from(n))) + 2 {
            let now = start + DEMOTE_AFTER * step;
            for (from, to, frame) in std::mem::take(&mut travelling) {
                if matches!(frame, Frame::Post { .. }) {
                    counts.entry(to).or_insert((0, 0)).0 += 1;
                }
                nodes.get_mut(&to).unwrap().handle_frame(now, from, frame);
            }
            for (me, node) in &mut nodes {
                while let Some(Event::Arrived { .. }) = node.poll_event() {
                    node.handle_verdict(now, &id, Verdict::Accept);
                }
                node.go_on(now);
                while let Some((to, frame)) = node.poll_transmit() {
                    if matches!(frame, Frame::Post { .. }) {
                        counts.entry(*me).or_insert((0, 0)).1 += 1;
                    }
                    travelling.push((*me, to, frame));
                }
            }
        }
        assert!(travelling.is_empty() && nodes.values().all(|node| node.has(&id)));
        peers
            .iter()
            .map(|p| counts.get(p).copied().unwrap_or_default())
            .collect()
    }

    #[test]
    fn a_few_nodes_read_and_write_as_published() {
        assert_eq!(reads_and_writes(1), [(0, 0)]);
        assert_eq!(reads_and_writes(2), [(0, 1), (1, 0)]);
        assert_eq!(reads_and_writes(4), [(0, 3), (2, 1), (2, 1), (1, 0)]);
    }

    #[test]
    fn nine_nodes_read_and_write_as_published() {
        let mut expected = [(1, 0); 9];
        expected[0] = (0, 4);
        expected[3] = (1, 2);
        expected[6] = (1, 2);
        assert_eq!(reads_and_writes(9), expected);
    }

    #[test]
    fn twelve_nodes_read_and_write_as_published() {
        let third = [(3, 2), (2, 2), (2, 0)];
        let expected = [
            [(1, 6)].as_slice(),
            &third,
            &[(2, 4)],
            &third,
            &[(2, 4)],
            &third,
        ];
        assert_eq!(reads_and_writes(12), expected.concat());
    }

    #[test]
    fn twenty_seven_nodes_read_and_write_as_published() {
        let mut expected = [(1, 0); 27];
        expected[0] = (0, 6);
        for v in [10, 19] {
            expected[v - 1] = (1, 4);
        }
        for v in [4, 7, 13, 16, 22, 25] {
            expected[v - 1] = (1, 2);
        }
        assert_eq!(reads_and_writes(27), expected);
    }

    #[test]
    fn levels_and_places_are_those_of_the_specification() {
        let levels = [1, 2, 3, 4, 9, 10, 27, 28].map(max_level);
        assert_eq!(levels, [0, 1, 1, 2, 2, 3, 3, 4]);
        let places = |level| targets(27, level).collect::<Vec<_>>();
        assert_eq!(
            [places(3), places(2), places(1)],
            [[9, 18], [6, 12], [4, 8]]
        );
        assert_eq!(targets(2, 1).collect::<Vec<_>>(), [1]);
    }
}
