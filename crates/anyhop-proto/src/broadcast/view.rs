//! Who is a neighbour on a topic: HyParView (Leitão, Pereira, Rodrigues, DSN 2007).
//!
//! A node has few **active** neighbours, both ways and over sessions, and knows a larger
//! **passive** set of others to replace them from. **Starting**, it joins at one node, which
//! has random walks carry its id to new neighbours. **In the steady state** shuffles mix the
//! passive sets. **On failure** of a neighbour passive ones are asked in turn; a node that
//! has no neighbour left is never refused.
//!
//! The paper presumes links that lose nothing while they stand. Here an answer may be lost:
//! a request that stays unanswered is given up, and one who takes us for a neighbour without
//! being ours hears so with its next frame. So both sides agree in the end.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use anyhop_base::PeerId;
use rand::{
    RngExt, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};

use super::wire::{Frame, MAX_PEERS};

/// Most active neighbours: the fan-out and one.
pub const MAX_ACTIVE: usize = 5;
/// Most passive peers.
pub const MAX_PASSIVE: usize = 30;
/// Steps of the walk that a join makes.
const JOIN_STEPS: u8 = 6;
/// Steps left of such a walk at the node that takes the joiner into its passive set.
const PASSIVE_AT: u8 = 3;
/// Steps of a shuffle's walk.
const SHUFFLE_STEPS: u8 = 6;
/// Active and passive peers that a shuffle names.
const SHUFFLED: (usize, usize) = (3, 4);
/// Time between shuffles.
pub const SHUFFLE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a peer may take to answer that it is a neighbour, until it is asked again.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How often it is asked, ever more slowly, since a dial may come before its answer. One
/// that is to let this node join is asked until there is no session with it.
const MAX_ASKED_TIMES: u32 = 3;
/// Requests under way at once.
const MAX_ASKED: usize = 3;
/// Frames that wait to be fetched; what comes above is dropped, as if it were lost.
const MAX_TRANSMITS: usize = 256;

/// A request under way.
#[derive(Debug, Clone, Copy)]
struct Asked {
    /// Whether it is to join, and not only to be a neighbour.
    join: bool,
    due: Instant,
    times: u32,
}

/// Neighbours come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewEvent {
    /// A new neighbour.
    Up(PeerId),
    /// It is none any more.
    Down(PeerId),
}

/// The machine of one node on one topic. See the module.
#[derive(Debug)]
pub struct View {
    me: PeerId,
    rng: StdRng,
    active: BTreeSet<PeerId>,
    passive: BTreeSet<PeerId>,
    /// Peers that have been asked to be neighbours.
    asked: BTreeMap<PeerId, Asked>,
    /// Peers that refused; asked again after the next shuffle.
    refused: BTreeSet<PeerId>,
    /// What the last shuffle named: replaced first by what comes back.
    shuffled: Vec<PeerId>,
    shuffle_at: Instant,
    transmits: VecDeque<(PeerId, Frame)>,
    events: VecDeque<ViewEvent>,
}

impl View {
    /// Of a node that knows nobody on the topic yet.
    #[must_use]
    pub fn new(now: Instant, me: PeerId, seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        // Spread, so that nodes that start together do not shuffle together.
        let first = SHUFFLE_INTERVAL.mul_f64(rng.random_range(0.1..1.0));
        Self {
            me,
            rng,
            active: BTreeSet::new(),
            passive: BTreeSet::new(),
            asked: BTreeMap::new(),
            refused: BTreeSet::new(),
            shuffled: Vec::new(),
            shuffle_at: now + first,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The neighbours.
    pub fn active(&self) -> impl Iterator<Item = &PeerId> {
        self.active.iter()
    }

    /// Whether the peer is a neighbour.
    #[must_use]
    pub fn is_active(&self, peer: &PeerId) -> bool {
        self.active.contains(peer)
    }

    /// Others that are on the topic, or were.
    pub fn passive(&self) -> impl Iterator<Item = &PeerId> {
        self.passive.iter()
    }

    /// This peer is said to be on the topic.
    pub fn handle_candidate(&mut self, now: Instant, peer: PeerId) {
        self.add_passive(peer);
        if self.active.is_empty() && self.asked.is_empty() && peer != self.me {
            self.ask(now, peer, true);
        } else {
            self.fill(now);
        }
    }

    /// There is no session with the peer any more, or none could be opened.
    pub fn handle_disconnected(&mut self, now: Instant, peer: PeerId) {
        self.asked.remove(&peer);
        self.passive.remove(&peer);
        self.drop_active(peer);
        self.fill(now);
    }

    /// A frame that concerns neighbours; others are passed over.
    pub fn handle_frame(&mut self, now: Instant, from: PeerId, frame: Frame) {
        let walks = matches!(frame, Frame::ForwardJoin { .. } | Frame::Shuffle { .. });
        if walks && !self.is_active(&from) {
            self.handle_stranger(from);
        }
        match frame {
            Frame::Join => self.take_join(from),
            Frame::ForwardJoin { peer, ttl } => self.take_forward_join(from, peer, ttl),
            Frame::Neighbour { urgent } => {
                if urgent || self.has_room() || self.is_active(&from) {
                    self.add_active(from);
                    self.send(from, Frame::Accepted);
                } else {
                    self.add_passive(from);
                    self.send(from, Frame::Disconnect);
                }
            }
            Frame::Accepted => {
                let asked = self.asked.remove(&from).is_some();
                if asked || self.has_room() {
                    self.add_active(from);
                } else if !self.is_active(&from) {
                    self.send(from, Frame::Disconnect);
                }
            }
            Frame::Disconnect => {
                if self.asked.remove(&from).is_some() {
                    self.refused.insert(from);
                }
                self.drop_active(from);
                self.add_passive(from);
                self.fill(now);
            }
            Frame::Shuffle { origin, ttl, peers } => self.take_shuffle(from, origin, ttl, peers),
            Frame::ShuffleReply(peers) => {
                let named = std::mem::take(&mut self.shuffled);
                self.learn(peers, named);
                self.fill(now);
            }
            _ => {}
        }
    }

    /// A frame came from somebody who is no neighbour, though it takes us for one.
    pub fn handle_stranger(&mut self, from: PeerId) {
        if self.has_room() {
            self.add_active(from);
        } else {
            self.send(from, Frame::Disconnect);
        }
    }

    /// This node leaves the topic: tells its neighbours.
    pub fn leave(&mut self) {
        for peer in std::mem::take(&mut self.active) {
            self.send(peer, Frame::Disconnect);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        let answers = self.asked.values().map(|asked| asked.due);
        answers.fold(self.shuffle_at, Instant::min)
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let late = self.asked.iter().filter(|(_, asked)| asked.due <= now);
        let late: Vec<_> = late.map(|(peer, asked)| (*peer, *asked)).collect();
        for (peer, asked) in late {
            // Without that answer there may be no way from here to the others.
            if asked.join || asked.times < MAX_ASKED_TIMES {
                self.ask(now, peer, asked.join);
            } else {
                self.asked.remove(&peer);
                self.passive.remove(&peer);
            }
        }
        if self.shuffle_at <= now {
            let jitter = self.rng.random_range(0.8..1.2);
            self.shuffle_at = now + SHUFFLE_INTERVAL.mul_f64(jitter);
            self.refused.clear();
            self.shuffle();
        }
        self.fill(now);
    }

    /// A change among the neighbours.
    pub fn poll_event(&mut self) -> Option<ViewEvent> {
        self.events.pop_front()
    }

    /// The next frame. Those to ask for a neighbour are worth a dial, others are not.
    pub fn poll_transmit(&mut self) -> Option<(PeerId, Frame)> {
        self.transmits.pop_front()
    }

    fn send(&mut self, peer: PeerId, frame: Frame) {
        if self.transmits.len() < MAX_TRANSMITS && peer != self.me {
            self.transmits.push_back((peer, frame));
        }
    }

    fn has_room(&self) -> bool {
        self.active.len() < MAX_ACTIVE
    }

    fn take_join(&mut self, from: PeerId) {
        self.add_active(from);
        self.send(from, Frame::Accepted);
        let (peer, ttl) = (from, JOIN_STEPS);
        let others: Vec<_> = self.active.iter().copied().filter(|p| *p != from).collect();
        for other in others {
            self.send(other, Frame::ForwardJoin { peer, ttl });
        }
    }

    fn take_forward_join(&mut self, from: PeerId, peer: PeerId, ttl: u8) {
        if peer == self.me {
            return;
        }
        let ttl = ttl.min(JOIN_STEPS);
        if ttl == PASSIVE_AT {
            self.add_passive(peer);
        }
        let next = self.random_active(&[from, peer]);
        match next {
            Some(next) if ttl > 0 => {
                let ttl = ttl - 1;
                self.send(next, Frame::ForwardJoin { peer, ttl });
            }
            _ => {
                if !self.is_active(&peer) {
                    self.add_active(peer);
                    // It takes whom the walk has found, as in the paper.
                    self.send(peer, Frame::Neighbour { urgent: true });
                }
            }
        }
    }

    fn take_shuffle(&mut self, from: PeerId, origin: PeerId, ttl: u8, peers: Vec<PeerId>) {
        if origin == self.me {
            return;
        }
        let next = self.random_active(&[from, origin]);
        match next {
            Some(next) if ttl > 0 => {
                let ttl = ttl.min(SHUFFLE_STEPS) - 1;
                self.send(next, Frame::Shuffle { origin, ttl, peers });
            }
            _ => {
                let known: Vec<_> = self.passive.iter().copied().collect();
                let reply: Vec<_> = known
                    .sample(&mut self.rng, peers.len().min(MAX_PEERS))
                    .copied()
                    .collect();
                self.learn(peers, reply.clone());
                self.send(origin, Frame::ShuffleReply(reply));
            }
        }
    }

    fn shuffle(&mut self) {
        let Some(to) = self.random_active(&[]) else {
            return;
        };
        let pick = |set: &BTreeSet<PeerId>, n: usize, rng: &mut StdRng| -> Vec<PeerId> {
            let set: Vec<_> = set.iter().copied().filter(|p| *p != to).collect();
            set.sample(rng, n).copied().collect()
        };
        let mut peers = pick(&self.active, SHUFFLED.0, &mut self.rng);
        peers.extend(pick(&self.passive, SHUFFLED.1, &mut self.rng));
        self.shuffled.clone_from(&peers);
        peers.push(self.me);
        let (origin, ttl) = (self.me, SHUFFLE_STEPS);
        self.send(to, Frame::Shuffle { origin, ttl, peers });
    }

    /// Takes peers into the passive set, in the place of those that were told in return.
    fn learn(&mut self, peers: Vec<PeerId>, told: Vec<PeerId>) {
        let mut told = told.into_iter();
        for peer in peers {
            if peer == self.me || self.is_active(&peer) || self.passive.contains(&peer) {
                continue;
            }
            while self.passive.len() >= MAX_PASSIVE {
                match told.next() {
                    Some(old) => {
                        self.passive.remove(&old);
                    }
                    None => break,
                }
            }
            self.add_passive(peer);
        }
    }

    fn random_active(&mut self, except: &[PeerId]) -> Option<PeerId> {
        let others = self.active.iter().filter(|p| !except.contains(p));
        let others: Vec<_> = others.copied().collect();
        others.choose(&mut self.rng).copied()
    }

    /// Makes a peer a neighbour; where there is no room, another one goes.
    fn add_active(&mut self, peer: PeerId) {
        if peer == self.me || !self.active.insert(peer) {
            return;
        }
        self.passive.remove(&peer);
        self.asked.remove(&peer);
        self.events.push_back(ViewEvent::Up(peer));
        if self.active.len() > MAX_ACTIVE
            && let Some(gone) = self.random_active(&[peer])
        {
            self.drop_active(gone);
            self.add_passive(gone);
            self.send(gone, Frame::Disconnect);
        }
    }

    fn drop_active(&mut self, peer: PeerId) {
        if self.active.remove(&peer) {
            self.events.push_back(ViewEvent::Down(peer));
        }
    }

    fn add_passive(&mut self, peer: PeerId) {
        if peer == self.me || self.is_active(&peer) || !self.passive.insert(peer) {
            return;
        }
        if self.passive.len() > MAX_PASSIVE {
            let others: Vec<_> = self
                .passive
                .iter()
                .copied()
                .filter(|p| *p != peer)
                .collect();
            if let Some(gone) = others.choose(&mut self.rng) {
                self.passive.remove(gone);
            }
        }
    }

    /// Asks passive peers while neighbours are lacking.
    fn fill(&mut self, now: Instant) {
        let open =
            |s: &Self| s.asked.len() < MAX_ASKED && s.active.len() + s.asked.len() < MAX_ACTIVE;
        if !open(self) {
            return;
        }
        let known = self.passive.iter().copied();
        let mut free: Vec<_> = known
            .filter(|p| !self.asked.contains_key(p) && !self.refused.contains(p))
            .collect();
        free.shuffle(&mut self.rng);
        for peer in free {
            if !open(self) {
                break;
            }
            self.ask(now, peer, false);
        }
    }

    fn ask(&mut self, now: Instant, peer: PeerId, join: bool) {
        let urgent = self.active.is_empty();
        let asked = self.asked.entry(peer).or_insert(Asked {
            join,
            due: now,
            times: 0,
        });
        asked.times = asked.times.saturating_add(1);
        asked.due = now + ANSWER_WITHIN * asked.times.min(MAX_ASKED_TIMES);
        let frame = if asked.join {
            Frame::Join
        } else {
            Frame::Neighbour { urgent }
        };
        self.send(peer, frame);
    }
}

#[cfg(test)]
mod tests {
    use anyhop_base::Keypair;

    use super::*;

    /// Views that exchange frames at once and without loss.
    struct World {
        now: Instant,
        views: BTreeMap<PeerId, View>,
    }

    impl World {
        #[expect(clippy::disallowed_methods, reason = "some instant to begin with")]
        fn of(n: u8) -> (Self, Vec<PeerId>) {
            let now = Instant::now();
            let key = |i| Keypair::ed25519_from_bytes([i; 32]).unwrap();
            let peers: Vec<_> = (1..=n).map(|i| key(i).public().to_peer_id()).collect();
            let seeds = (1..=n).map(|i| [i; 32]);
            let views = peers.iter().zip(seeds);
            let views = views.map(|(p, seed)| (*p, View::new(now, *p, seed)));
            let views = views.collect();
            (Self { now, views }, peers)
        }

        fn run(&mut self) {
            loop {
                let mut sent = Vec::new();
                for (from, view) in &mut self.views {
                    while let Some((to, frame)) = view.poll_transmit() {
                        sent.push((*from, to, frame));
                    }
                }
                if sent.is_empty() {
                    return;
                }
                for (from, to, frame) in sent {
                    if let Some(view) = self.views.get_mut(&to) {
                        view.handle_frame(self.now, from, frame);
                    }
                }
            }
        }

        fn pass(&mut self, time: Duration) {
            let end = self.now + time;
            loop {
                let next = self.views.values().map(View::poll_timeout).min();
                let Some(next) = next.filter(|at| *at <= end) else {
                    break;
                };
                self.now = next;
                for view in self.views.values_mut() {
                    view.handle_timeout(next);
                }
                self.run();
            }
            self.now = end;
        }

        fn reached_from(&self, first: PeerId) -> usize {
            let mut known = BTreeSet::from([first]);
            let mut open = vec![first];
            while let Some(peer) = open.pop() {
                for next in self.views[&peer].active() {
                    if self.views.contains_key(next) && known.insert(*next) {
                        open.push(*next);
                    }
                }
            }
            known.len()
        }

        fn assert_mutual(&self) {
            for (peer, view) in &self.views {
                assert!(view.active.len() <= MAX_ACTIVE && view.passive.len() <= MAX_PASSIVE);
                for other in view.active() {
                    assert!(self.views[other].is_active(peer), "{peer} and {other}");
                }
            }
        }
    }

    fn joined(n: u8) -> (World, Vec<PeerId>) {
        let (mut world, peers) = World::of(n);
        for pair in peers.windows(2) {
            let view = world.views.get_mut(&pair[1]).unwrap();
            view.handle_candidate(world.now, pair[0]);
            world.run();
        }
        (world, peers)
    }

    #[test]
    fn nodes_that_join_one_after_the_other_are_one_graph_of_mutual_neighbours() {
        let (mut world, peers) = joined(60);
        world.pass(Duration::from_secs(60));
        assert_eq!(world.reached_from(peers[0]), 60);
        world.assert_mutual();
    }

    #[test]
    fn the_graph_stays_one_when_every_third_node_dies() {
        let (mut world, peers) = joined(60);
        world.pass(Duration::from_secs(60));
        let dead: Vec<_> = peers.iter().copied().step_by(3).collect();
        for peer in &dead {
            world.views.remove(peer);
        }
        for peer in &dead {
            for view in world.views.values_mut() {
                if view.is_active(peer) {
                    view.handle_disconnected(world.now, *peer);
                }
            }
        }
        world.run();
        world.pass(Duration::from_secs(60));
        assert_eq!(world.reached_from(peers[1]), 40);
        world.assert_mutual();
    }

    #[test]
    fn one_who_takes_us_for_a_neighbour_hears_that_it_is_none() {
        let (mut world, peers) = World::of(8);
        let now = world.now;
        let view = world.views.get_mut(&peers[0]).unwrap();
        for peer in &peers[1..=MAX_ACTIVE] {
            view.handle_frame(now, *peer, Frame::Neighbour { urgent: false });
        }
        while view.poll_transmit().is_some() {}
        view.handle_stranger(peers[7]);
        let told = view.poll_transmit();
        assert_eq!(told, Some((peers[7], Frame::Disconnect)));
        view.handle_disconnected(now, peers[1]);
        view.handle_stranger(peers[7]);
        assert!(view.is_active(&peers[7]));
    }

    #[test]
    fn a_request_without_an_answer_is_given_up_unless_it_is_the_only_way_in() {
        let (mut world, peers) = World::of(3);
        let now = world.now;
        let view = world.views.get_mut(&peers[0]).unwrap();
        view.handle_candidate(now, peers[1]);
        assert_eq!(view.poll_transmit(), Some((peers[1], Frame::Join)));
        view.handle_candidate(now, peers[2]);
        let mut joins = 0;
        let mut requests = 0;
        for times in 1..=20 {
            view.handle_timeout(now + ANSWER_WITHIN * times);
            while let Some((to, frame)) = view.poll_transmit() {
                joins += u32::from((to, &frame) == (peers[1], &Frame::Join));
                let neighbour = Frame::Neighbour { urgent: true };
                requests += u32::from((to, frame) == (peers[2], neighbour));
            }
        }
        assert!(joins > MAX_ASKED_TIMES);
        assert_eq!(requests, MAX_ASKED_TIMES);
        let passive: Vec<_> = view.passive().copied().collect();
        assert_eq!(passive, [peers[1]]);
        view.handle_disconnected(now, peers[1]);
        assert_eq!(view.passive().next(), None);
    }
}
