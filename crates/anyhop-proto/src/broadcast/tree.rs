//! How posts spread on a topic: PlumTree (Leitão, Pereira, Rodrigues, SRDS 2007).
//!
//! **Starting**, all neighbours get posts pushed. Who gets one twice has the later sender
//! only announce from then on; what is left is a tree. **In the steady state** a post crosses
//! each link of the tree once, and its id each other link. **On failure** a post that is
//! announced and does not come is pulled from who announced it; if that happens twice in a
//! row, the link becomes part of the tree. In the paper it does so at once, which makes two
//! copies of the next post out of one that was lost. Behind the place where a post was lost
//! all lack it, and several pull it from elsewhere: these announce it to each other along the
//! tree and pull it from there, where in the paper they push it.
//!
//! A neighbour that comes later is only announced to at first, by both sides, where there is
//! a tree already: in the paper it is pushed to, which makes a second copy of each exchange of
//! a neighbour.
//!
//! Nothing here presumes that frames arrive. Neighbours tell each other what their recent
//! posts come to, when they become neighbours, when a gap in an origin's sequence shows and
//! now and then anyway; where that differs they announce all of them. So whoever stays
//! connected gets every post that lives for long enough.
//!
//! A post that comes in is passed on once the caller has said that it is good.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhop_base::PeerId;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{
    Event, PostId, SignedPost, Strategy, Verdict,
    history::{History, News},
    wire::{Frame, MAX_IDS},
};

/// Time in which announcements to a neighbour are gathered.
const ANNOUNCE_DELAY: Duration = Duration::from_millis(100);
/// How long an announced post may take to come before it is pulled.
const PULL_AFTER: Duration = Duration::from_millis(600);
/// How long a pulled one may take before another neighbour is asked.
const PULL_AGAIN_AFTER: Duration = Duration::from_millis(400);
/// Posts in a row that had to be pulled until the tree is changed.
const MAX_MISSED: u32 = 2;
/// How long after a gap shows a neighbour is compared with.
const GAP_DELAY: Duration = Duration::from_secs(1);
/// Time between comparisons with some neighbour.
pub const COMPARE_INTERVAL: Duration = Duration::from_secs(5);
/// Most posts that are known to be missing.
const MAX_MISSING: usize = MAX_IDS;
/// Most neighbours that are remembered to have a missing post.
const MAX_SOURCES: usize = 8;
/// Most posts that wait for a verdict.
pub const MAX_PENDING: usize = 256;
/// Most frames that wait to be fetched. What comes above is dropped, as if it were lost.
const MAX_TRANSMITS: usize = 8192;

#[derive(Debug)]
struct Link {
    /// Whether posts are pushed there: it is part of the tree.
    eager: bool,
    /// To announce.
    announce: Vec<PostId>,
}

#[derive(Debug)]
struct Missing {
    sources: VecDeque<PeerId>,
    due: Instant,
    /// Whether it was pulled already.
    asked: bool,
}

#[derive(Debug)]
struct Pending {
    post: Arc<SignedPost>,
    from: PeerId,
    hops: u8,
    pulled: bool,
    /// Those who have it as well.
    others: Vec<PeerId>,
}

/// How a post is passed on.
#[derive(Clone, Copy)]
struct Spread<'a> {
    hops: u8,
    late: bool,
    /// Those who have it.
    except: &'a [PeerId],
}

/// The machine of one node on one topic. See the module.
#[derive(Debug)]
pub struct Tree {
    rng: StdRng,
    links: BTreeMap<PeerId, Link>,
    history: History,
    missing: BTreeMap<PostId, Missing>,
    pending: BTreeMap<PostId, Pending>,
    /// Posts in a row that had to be pulled.
    missed: u32,
    announce_at: Option<Instant>,
    compare_at: Instant,
    /// Whom to compare with next: where a gap has shown.
    compare_with: Option<PeerId>,
    transmits: VecDeque<(PeerId, Frame)>,
    events: VecDeque<Event>,
}

impl Tree {
    /// Of a node without neighbours.
    #[must_use]
    pub fn new(now: Instant, seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let first = COMPARE_INTERVAL.mul_f64(rng.random_range(0.1..1.0));
        Self {
            rng,
            links: BTreeMap::new(),
            history: History::default(),
            missing: BTreeMap::new(),
            pending: BTreeMap::new(),
            missed: 0,
            announce_at: None,
            compare_at: now + first,
            compare_with: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The neighbours to which posts are pushed.
    pub fn eager(&self) -> impl Iterator<Item = &PeerId> {
        let eager = self.links.iter().filter(|(_, link)| link.eager);
        eager.map(|(peer, _)| peer)
    }

    fn send(&mut self, peer: PeerId, frame: Frame) {
        if self.transmits.len() < MAX_TRANSMITS {
            self.transmits.push_back((peer, frame));
        }
    }

    fn take_post(
        &mut self,
        now: Instant,
        from: PeerId,
        post: Arc<SignedPost>,
        hops: u8,
        pulled: bool,
    ) {
        let id = post.id();
        if let Some(pending) = self.pending.get_mut(&id)
            && pending.others.len() < MAX_SOURCES
        {
            pending.others.push(from);
        }
        if !self.history.knows(&id) && self.pending.len() >= MAX_PENDING {
            // Left for later: it is still announced, or comes with the next comparison.
            return;
        }
        let news = self.history.note(now, &post);
        if matches!(news, News::Known | News::TooOld) {
            self.missing.remove(&id);
            if !pulled && let Some(link) = self.links.get_mut(&from) {
                link.eager = false;
                self.send(from, Frame::Prune);
            }
            return;
        }
        if news == News::WithGap {
            self.compare_with = Some(from);
            self.compare_at = self.compare_at.min(now + GAP_DELAY);
        }
        match self.links.get_mut(&from) {
            // The tree works, and is late.
            Some(link) if pulled && link.eager => {}
            Some(link) if !pulled => {
                link.eager = true;
                self.missed = 0;
            }
            _ => self.missed += 1,
        }
        let missing = self.missing.remove(&id);
        let pending = Pending {
            post: Arc::clone(&post),
            from,
            hops,
            pulled,
            others: missing.map_or_else(Vec::new, |m| m.sources.into()),
        };
        self.pending.insert(id, pending);
        self.events.push_back(Event::Arrived { from, post, hops });
    }

    /// Pushes a post along the tree and announces it elsewhere, but not to who has it. One
    /// that had to be pulled is late, and others of the tree may be pulling it too: it is
    /// announced to them at once.
    fn spread(&mut self, now: Instant, post: &Arc<SignedPost>, how: Spread<'_>) {
        let id = post.id();
        let mut along = Vec::new();
        for (peer, link) in &mut self.links {
            if how.except.contains(peer) {
                continue;
            }
            if link.eager {
                along.push(*peer);
            } else if link.announce.len() < MAX_IDS {
                link.announce.push(id);
                self.announce_at.get_or_insert(now + ANNOUNCE_DELAY);
            }
        }
        for peer in along {
            let frame = if how.late {
                Frame::IHave(vec![id])
            } else {
                push(post, how.hops, false)
            };
            self.send(peer, frame);
        }
    }

    fn take_announced(&mut self, now: Instant, from: PeerId, ids: Vec<PostId>) {
        let alone = !self.links.values().any(|link| link.eager);
        let eager = alone || self.links.get(&from).is_some_and(|link| link.eager);
        for id in ids {
            if let Some(pending) = self.pending.get_mut(&id)
                && pending.others.len() < MAX_SOURCES
            {
                pending.others.push(from);
            }
            if self.history.knows(&id) {
                continue;
            }
            if self.missing.len() >= MAX_MISSING && !self.missing.contains_key(&id) {
                break;
            }
            let jitter = self.rng.random_range(0.8..1.2);
            let missing = self.missing.entry(id).or_insert_with(|| Missing {
                sources: VecDeque::new(),
                due: now + PULL_AFTER.mul_f64(jitter),
                asked: false,
            });
            if eager && !missing.asked {
                // It will not push what it announces.
                missing.due = now;
                missing.sources.push_front(from);
                missing.sources.truncate(MAX_SOURCES);
            } else if missing.sources.len() < MAX_SOURCES && !missing.sources.contains(&from) {
                missing.sources.push_back(from);
            }
        }
    }

    /// Sends posts that a neighbour asked for.
    fn give(&mut self, to: PeerId, ids: &[PostId]) {
        let posts = ids.iter().filter_map(|id| self.history.get(id)).cloned();
        let posts: Vec<_> = posts.collect();
        for post in posts {
            // Its way here is not known any more, and only a figure.
            self.send(to, push(&post, 1, true));
        }
    }

    fn announce_all(&mut self, to: PeerId) {
        let ids: Vec<_> = self.history.kept().collect();
        if !ids.is_empty() {
            self.send(to, Frame::IHave(ids));
        }
    }

    fn summary(&self, answer: bool) -> Frame {
        Frame::Summary {
            digest: self.history.digest(),
            answer,
        }
    }

    /// Asks for what was announced and did not come.
    fn pull(&mut self, now: Instant) {
        let mut wanted: BTreeMap<PeerId, Vec<PostId>> = BTreeMap::new();
        let mut given_up = Vec::new();
        for (id, missing) in &mut self.missing {
            if missing.due > now {
                continue;
            }
            match missing.sources.pop_front() {
                Some(source) => {
                    missing.asked = true;
                    missing.due = now + PULL_AGAIN_AFTER;
                    wanted.entry(source).or_default().push(*id);
                }
                None => given_up.push(*id),
            }
        }
        for id in given_up {
            self.missing.remove(&id);
        }
        let alone = !self.links.values().any(|link| link.eager);
        for (peer, ids) in wanted {
            let graft = alone || self.missed >= MAX_MISSED;
            match self.links.get_mut(&peer) {
                Some(link) if graft => {
                    link.eager = true;
                    self.missed = 0;
                    self.send(peer, Frame::Graft(ids));
                }
                _ => self.send(peer, Frame::Pull(ids)),
            }
        }
    }

    fn flush_announcements(&mut self) {
        let links = self.links.iter_mut();
        let due: Vec<_> = links
            .filter(|(_, link)| !link.announce.is_empty())
            .map(|(peer, link)| (*peer, std::mem::take(&mut link.announce)))
            .collect();
        for (peer, ids) in due {
            self.send(peer, Frame::IHave(ids));
        }
    }

    fn compare(&mut self, now: Instant) {
        self.history.forget(now);
        let jitter = self.rng.random_range(0.8..1.2);
        self.compare_at = now + COMPARE_INTERVAL.mul_f64(jitter);
        let peers: Vec<_> = self.links.keys().copied().collect();
        let with = self.compare_with.take().filter(|p| peers.contains(p));
        if let Some(peer) = with.or_else(|| peers.choose(&mut self.rng).copied()) {
            let summary = self.summary(false);
            self.send(peer, summary);
        }
    }
}

impl Strategy for Tree {
    fn neighbours(&self) -> Vec<PeerId> {
        self.links.keys().copied().collect()
    }

    fn needed(&self) -> Vec<PeerId> {
        self.eager().copied().collect()
    }

    fn handle_up(&mut self, _: Instant, peer: PeerId) {
        // Or nothing has shown yet which links make a tree.
        let settled = !self.history.is_idle() && self.links.values().any(|link| link.eager);
        let link = Link {
            eager: !settled,
            announce: Vec::new(),
        };
        self.links.insert(peer, link);
        if settled {
            self.send(peer, Frame::Prune);
        }
        if !self.history.is_idle() {
            let summary = self.summary(false);
            self.send(peer, summary);
        }
    }

    fn handle_down(&mut self, _: Instant, peer: PeerId) {
        self.links.remove(&peer);
        for missing in self.missing.values_mut() {
            missing.sources.retain(|p| *p != peer);
        }
    }

    fn handle_publish(&mut self, now: Instant, post: Arc<SignedPost>) {
        self.history.note(now, &post);
        self.history.keep(now, Arc::clone(&post));
        let how = Spread {
            hops: 1,
            late: false,
            except: &[],
        };
        self.spread(now, &post, how);
    }

    fn handle_frame(&mut self, now: Instant, from: PeerId, frame: Frame) {
        if !matches!(frame, Frame::Post { .. }) && !self.links.contains_key(&from) {
            return;
        }
        match frame {
            Frame::Post {
                post, hops, pulled, ..
            } => self.take_post(now, from, post, hops, pulled),
            Frame::IHave(ids) => self.take_announced(now, from, ids),
            Frame::Pull(ids) => self.give(from, &ids),
            Frame::Graft(ids) => {
                if let Some(link) = self.links.get_mut(&from) {
                    link.eager = true;
                }
                self.give(from, &ids);
            }
            Frame::Prune => {
                if let Some(link) = self.links.get_mut(&from) {
                    link.eager = false;
                }
            }
            Frame::Summary { digest, answer } if digest != self.history.digest() => {
                self.announce_all(from);
                if !answer {
                    let summary = self.summary(true);
                    self.send(from, summary);
                }
            }
            _ => {}
        }
    }

    fn handle_verdict(&mut self, now: Instant, id: &PostId, verdict: Verdict) {
        let Some(pending) = self.pending.remove(id) else {
            return;
        };
        if verdict != Verdict::Accept {
            return;
        }
        let Pending {
            post,
            from,
            hops,
            pulled,
            mut others,
        } = pending;
        self.history.keep(now, Arc::clone(&post));
        others.push(from);
        let how = Spread {
            hops: hops.saturating_add(1),
            late: pulled,
            except: &others,
        };
        self.spread(now, &post, how);
    }

    fn has(&self, id: &PostId) -> bool {
        self.history.get(id).is_some()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let missing = self.missing.values().map(|m| m.due);
        // Who has nothing to compare leaves it to those who have.
        let idle = self.history.is_idle() && self.compare_with.is_none();
        let compare = (!idle).then_some(self.compare_at);
        missing.chain(self.announce_at).chain(compare).min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.pull(now);
        if self.announce_at.is_some_and(|at| at <= now) {
            self.announce_at = None;
            self.flush_announcements();
        }
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

fn push(post: &Arc<SignedPost>, hops: u8, pulled: bool) -> Frame {
    Frame::Post {
        post: Arc::clone(post),
        hops,
        level: 0,
        pulled,
    }
}

#[cfg(test)]
mod tests {
    use anyhop_base::Keypair;

    use super::*;
    use crate::broadcast::{Content, Post, TopicId};

    #[expect(clippy::disallowed_methods, reason = "some instant to begin with")]
    fn tree(neighbours: &[PeerId]) -> (Tree, Instant) {
        let now = Instant::now();
        let mut tree = Tree::new(now, [1; 32]);
        for peer in neighbours {
            tree.handle_up(now, *peer);
        }
        (tree, now)
    }

    fn peers(n: u8) -> Vec<PeerId> {
        let key = |i| Keypair::ed25519_from_bytes([i; 32]).unwrap();
        let mut peers: Vec<_> = (2..2 + n).map(|i| key(i).public().to_peer_id()).collect();
        peers.sort_unstable();
        peers
    }

    fn post(seq: u64) -> Arc<SignedPost> {
        let key = Keypair::ed25519_from_bytes([1; 32]).unwrap();
        let post = Post {
            origin: key.public().to_peer_id(),
            topic: TopicId([0; 32]),
            seq,
            expires_unix_s: 60,
            encoding: 0,
            content: Content::Inline(Vec::new()),
        };
        Arc::new(post.sign(&key).unwrap())
    }

    fn sent(tree: &mut Tree) -> Vec<(PeerId, Frame)> {
        std::iter::from_fn(|| tree.poll_transmit()).collect()
    }

    /// Takes a pushed post and has it accepted.
    fn take(tree: &mut Tree, now: Instant, from: PeerId, post: &Arc<SignedPost>) {
        tree.handle_frame(now, from, push(post, 1, false));
        while tree.poll_event().is_some() {}
        tree.handle_verdict(now, &post.id(), Verdict::Accept);
    }

    #[test]
    fn a_post_is_passed_on_when_it_is_accepted_and_not_before() {
        let peers = peers(3);
        let (mut tree, now) = tree(&peers);
        let good = post(1);
        tree.handle_frame(now, peers[0], push(&good, 4, false));
        assert!(matches!(
            tree.poll_event(),
            Some(Event::Arrived { hops: 4, .. })
        ));
        assert_eq!(sent(&mut tree), []);
        tree.handle_verdict(now, &good.id(), Verdict::Accept);
        let onward = push(&good, 5, false);
        assert_eq!(
            sent(&mut tree),
            [(peers[1], onward.clone()), (peers[2], onward)]
        );
        for (seq, verdict) in [(2, Verdict::Ignore), (3, Verdict::Reject)] {
            let bad = post(seq);
            tree.handle_frame(now, peers[0], push(&bad, 1, false));
            tree.handle_verdict(now, &bad.id(), verdict);
            assert!(!tree.has(&bad.id()));
        }
        assert_eq!(sent(&mut tree), []);
        assert!(tree.has(&good.id()));
    }

    #[test]
    fn who_sends_a_second_copy_only_announces_from_then_on() {
        let peers = peers(3);
        let (mut tree, now) = tree(&peers);
        take(&mut tree, now, peers[0], &post(1));
        sent(&mut tree);
        tree.handle_frame(now, peers[1], push(&post(1), 1, false));
        assert_eq!(sent(&mut tree), [(peers[1], Frame::Prune)]);
        take(&mut tree, now, peers[0], &post(2));
        let pushed = sent(&mut tree);
        assert_eq!(pushed, [(peers[2], push(&post(2), 2, false))]);
        tree.handle_timeout(now + ANNOUNCE_DELAY);
        let announced = Frame::IHave(vec![post(2).id()]);
        assert_eq!(sent(&mut tree), [(peers[1], announced)]);
    }

    #[test]
    fn an_announced_post_that_does_not_come_is_pulled_and_at_the_second_time_grafted() {
        let peers = peers(3);
        let (mut tree, now) = tree(&peers);
        tree.handle_frame(now, peers[1], Frame::Prune);
        for (seq, graft) in [(1, false), (2, false), (3, true)] {
            let id = post(seq).id();
            tree.handle_frame(now, peers[1], Frame::IHave(vec![id]));
            tree.handle_timeout(now + Duration::from_millis(100));
            assert_eq!(sent(&mut tree), [], "{seq}");
            tree.handle_timeout(now + PULL_AFTER * 2);
            let expected = if graft {
                Frame::Graft(vec![id])
            } else {
                Frame::Pull(vec![id])
            };
            assert_eq!(sent(&mut tree), [(peers[1], expected)]);
            tree.handle_frame(now, peers[1], push(&post(seq), 1, true));
            tree.handle_verdict(now, &id, Verdict::Accept);
            // Late, so that the others of the tree hear of it and do not get it.
            let told = sent(&mut tree);
            assert!(told.iter().all(|(_, f)| *f == Frame::IHave(vec![id])));
            assert_eq!(told.len(), 2);
        }
        assert!(tree.eager().any(|p| *p == peers[1]));
    }

    #[test]
    fn a_neighbour_of_the_tree_that_announces_is_asked_at_once_and_another_one_after_it() {
        let peers = peers(2);
        let (mut tree, now) = tree(&peers);
        let id = post(1).id();
        for peer in &peers {
            tree.handle_frame(now, *peer, Frame::IHave(vec![id]));
        }
        tree.handle_timeout(now);
        let first = sent(&mut tree);
        assert_eq!(first.len(), 1);
        tree.handle_timeout(now + PULL_AGAIN_AFTER);
        let second = sent(&mut tree);
        assert_eq!(second.len(), 1);
        assert_ne!(first[0].0, second[0].0);
        tree.handle_timeout(now + PULL_AGAIN_AFTER * 2);
        assert_eq!(sent(&mut tree), []);
    }

    #[test]
    fn neighbours_compare_what_they_have_and_announce_all_where_it_differs() {
        let peers = peers(1);
        let (mut tree, now) = tree(&peers);
        assert_eq!(tree.poll_timeout(), None);
        tree.handle_publish(now, post(1));
        sent(&mut tree);
        let other = Frame::Summary {
            digest: [9; 32],
            answer: false,
        };
        tree.handle_frame(now, peers[0], other);
        let own = Frame::Summary {
            digest: post(1).id().0,
            answer: true,
        };
        let announced = Frame::IHave(vec![post(1).id()]);
        assert_eq!(
            sent(&mut tree),
            [(peers[0], announced), (peers[0], own.clone())]
        );
        tree.handle_frame(now, peers[0], own);
        assert_eq!(sent(&mut tree), []);
        tree.handle_timeout(now + COMPARE_INTERVAL * 2);
        assert!(matches!(sent(&mut tree)[..], [(_, Frame::Summary { .. })]));
    }

    #[test]
    fn a_gap_in_a_sequence_has_its_sender_compared_with_soon() {
        let peers = peers(4);
        let (mut tree, now) = tree(&peers);
        take(&mut tree, now, peers[2], &post(5));
        take(&mut tree, now, peers[2], &post(7));
        sent(&mut tree);
        tree.handle_timeout(now + GAP_DELAY);
        let told = sent(&mut tree);
        assert!(matches!(told[..], [(to, Frame::Summary { .. })] if to == peers[2]));
    }

    #[test]
    fn a_new_neighbour_beside_a_tree_that_works_is_only_announced_to() {
        let peers = peers(3);
        let (mut tree, now) = tree(&peers[..1]);
        take(&mut tree, now, peers[0], &post(1));
        sent(&mut tree);
        tree.handle_up(now, peers[1]);
        assert_eq!(sent(&mut tree)[0], (peers[1], Frame::Prune));
        assert_eq!(tree.needed(), [peers[0]]);
        take(&mut tree, now, peers[0], &post(2));
        assert_eq!(sent(&mut tree), []);
        // Without one that works it is part of the tree at once.
        tree.handle_down(now, peers[0]);
        tree.handle_up(now, peers[2]);
        assert_eq!(tree.needed(), [peers[2]]);
    }

    #[test]
    fn who_has_nobody_that_pushes_takes_the_first_who_announces_into_the_tree() {
        let peers = peers(1);
        let (mut tree, now) = tree(&peers);
        tree.handle_frame(now, peers[0], Frame::Prune);
        let id = post(1).id();
        tree.handle_frame(now, peers[0], Frame::IHave(vec![id]));
        tree.handle_timeout(now);
        assert_eq!(sent(&mut tree), [(peers[0], Frame::Graft(vec![id]))]);
    }

    #[test]
    fn what_strangers_want_is_not_given() {
        let (mut tree, now) = tree(&[]);
        tree.handle_publish(now, post(1));
        tree.handle_frame(now, peers(1)[0], Frame::Pull(vec![post(1).id()]));
        assert_eq!(sent(&mut tree), []);
    }
}
