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
//!
//! Nor does it say what becomes of **parts** that formed apart, as they do when frames are lost
//! while many join, or when a network was cut in two: with all the neighbours that they want,
//! nodes of one ask nobody of another. So a node that begins, and seldom later, or when the
//! caller names somebody new, *exchanges* a neighbour for one that it knows. And a walk that
//! ends asks the one who joined, who may have neighbours of its own that need it.

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
/// Refusals between two shuffles after which nobody else is asked: most are full.
const MAX_REFUSED: usize = 3;
/// First shuffles of a node with each of which it exchanges a neighbour.
const YOUNG: u32 = 4;
/// Share of later shuffles with which it does.
const EXCHANGED: f64 = 1.0 / 12.0;
/// Time between looks for others of a node that lacks neighbours and has nobody to ask.
const SEEK_MORE_INTERVAL: Duration = Duration::from_secs(30);
/// Most peers that are remembered to have come from elsewhere than the overlay.
const MAX_TOLD: usize = 16;
/// Frames that wait to be fetched; what comes above is dropped, as if it were lost.
const MAX_TRANSMITS: usize = 256;

/// A request under way.
#[derive(Debug, Clone, Copy)]
struct Asked {
    how: Ask,
    due: Instant,
    times: u32,
}

/// What a peer is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// To let this node join.
    Join,
    /// To be a neighbour if there is room, or if this node has none.
    Fill,
    /// To be one in the place of another.
    Exchange,
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
    /// Peers that the caller has named, and not the overlay: the newest last.
    told: VecDeque<PeerId>,
    /// Whether the newest one has not been tried.
    told_anew: bool,
    /// Neighbours that are not to be given up for others.
    needed: BTreeSet<PeerId>,
    /// When others were looked for, or the last neighbour was lost.
    sought_at: Instant,
    shuffles: u32,
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
            told: VecDeque::new(),
            told_anew: false,
            needed: BTreeSet::new(),
            sought_at: now,
            shuffles: 0,
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

    /// These neighbours are given up for others only when there is nobody else to give up.
    pub fn set_needed(&mut self, peers: impl IntoIterator<Item = PeerId>) {
        self.needed = peers.into_iter().take(MAX_ACTIVE).collect();
    }

    /// Whether the caller should look for others on the topic: now and then while neighbours
    /// are lacking and there is nobody to ask, and often while there are none. Those few whom
    /// this node knows may know nobody else either.
    #[must_use]
    pub fn seeks(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.sought_at);
        let seeks = match (self.active.is_empty(), self.passive.is_empty()) {
            (true, true) => true,
            (true, false) => since >= ANSWER_WITHIN,
            (false, true) => self.has_room() && since >= SEEK_MORE_INTERVAL,
            (false, false) => false,
        };
        if seeks {
            self.sought_at = now;
        }
        seeks
    }

    /// This peer is said to be on the topic.
    pub fn handle_candidate(&mut self, now: Instant, peer: PeerId) {
        if peer == self.me {
            return;
        }
        if !self.told.contains(&peer) {
            self.told.push_back(peer);
            self.told_anew = true;
            if self.told.len() > MAX_TOLD {
                self.told.pop_front();
            }
        }
        self.add_passive(peer);
        if self.active.is_empty() && self.asked.is_empty() {
            self.ask(now, peer, Ask::Join);
        } else {
            self.fill(now);
        }
    }

    /// There is no session with the peer any more, or none could be opened.
    pub fn handle_disconnected(&mut self, now: Instant, peer: PeerId) {
        self.asked.remove(&peer);
        self.passive.remove(&peer);
        self.told.retain(|p| *p != peer);
        self.drop_active(now, peer);
        self.fill(now);
    }

    /// A frame that concerns neighbours; others are passed over.
    pub fn handle_frame(&mut self, now: Instant, from: PeerId, frame: Frame) {
        let walks = matches!(frame, Frame::ForwardJoin { .. } | Frame::Shuffle { .. });
        if walks && !self.is_active(&from) {
            self.handle_stranger(now, from);
        }
        match frame {
            Frame::Join => self.take_join(now, from),
            Frame::ForwardJoin { peer, ttl } => self.take_forward_join(now, from, peer, ttl),
            Frame::Neighbour { urgent } => {
                if urgent || self.has_room() || self.is_active(&from) {
                    self.add_active(now, from);
                    self.send(from, Frame::Accepted);
                } else {
                    self.add_passive(from);
                    self.send(from, Frame::Disconnect);
                }
            }
            Frame::Accepted => {
                let asked = self.asked.remove(&from).is_some();
                if asked || self.has_room() {
                    self.add_active(now, from);
                } else if !self.is_active(&from) {
                    self.send(from, Frame::Disconnect);
                }
            }
            Frame::Disconnect => {
                if self.asked.remove(&from).is_some() {
                    self.refused.insert(from);
                }
                if self.is_active(&from) {
                    self.drop_active(now, from);
                    self.add_passive(from);
                }
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
    pub fn handle_stranger(&mut self, now: Instant, from: PeerId) {
        if self.has_room() || self.asked.contains_key(&from) {
            self.add_active(now, from);
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
            if asked.how == Ask::Join || asked.times < MAX_ASKED_TIMES {
                self.ask(now, peer, asked.how);
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
            self.shuffles = self.shuffles.saturating_add(1);
            self.exchange(now);
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

    fn take_join(&mut self, now: Instant, from: PeerId) {
        self.add_active(now, from);
        self.send(from, Frame::Accepted);
        let (peer, ttl) = (from, JOIN_STEPS);
        let others: Vec<_> = self.active.iter().copied().filter(|p| *p != from).collect();
        for other in others {
            self.send(other, Frame::ForwardJoin { peer, ttl });
        }
    }

    fn take_forward_join(&mut self, now: Instant, from: PeerId, peer: PeerId, ttl: u8) {
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
                // In the paper it is urgent. One that had neighbours of its own when it
                // joined would lose them all to the walks, and they the way to the others.
                if !self.is_active(&peer) {
                    self.ask(now, peer, Ask::Fill);
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

    /// Now and then asks a peer to be a neighbour in the place of another. Parts of the
    /// overlay that came to be apart, by losses or because nobody of one knew anybody of the
    /// other, would stay apart where all have all the neighbours that they want.
    fn exchange(&mut self, now: Instant) {
        let anew = std::mem::take(&mut self.told_anew);
        let other = |p: &&PeerId| !self.is_active(p);
        let newest = self.told.back().filter(|p| anew && !self.is_active(p));
        let told: Vec<_> = self.told.iter().filter(other).copied().collect();
        let known: Vec<_> = self.passive.iter().copied().collect();
        let newest = newest.copied();
        let due = self.shuffles <= YOUNG || self.rng.random_bool(EXCHANGED);
        let peer = match newest {
            Some(peer) => Some(peer),
            None if !due => None,
            // The overlay names its own, so that others have more to offer.
            None if !told.is_empty() && self.rng.random_bool(0.5) => {
                told.choose(&mut self.rng).copied()
            }
            None => known.choose(&mut self.rng).copied(),
        };
        if let Some(peer) = peer {
            self.ask(now, peer, Ask::Exchange);
        }
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
    fn add_active(&mut self, now: Instant, peer: PeerId) {
        if peer == self.me || !self.active.insert(peer) {
            return;
        }
        self.passive.remove(&peer);
        self.asked.remove(&peer);
        self.events.push_back(ViewEvent::Up(peer));
        if self.active.len() > MAX_ACTIVE
            && let Some(gone) = self.spare(peer)
        {
            self.drop_active(now, gone);
            self.add_passive(gone);
            self.send(gone, Frame::Disconnect);
        }
    }

    /// The neighbour to give up for this one.
    fn spare(&mut self, peer: PeerId) -> Option<PeerId> {
        let mut kept: Vec<_> = self.needed.iter().copied().collect();
        kept.push(peer);
        let spare = self.random_active(&kept);
        spare.or_else(|| self.random_active(&[peer]))
    }

    fn drop_active(&mut self, now: Instant, peer: PeerId) {
        if self.active.remove(&peer) {
            if self.active.is_empty() {
                self.sought_at = now;
            }
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
        let alone = self.active.is_empty();
        if !open(self) || (self.refused.len() >= MAX_REFUSED && !alone) {
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
            self.ask(now, peer, Ask::Fill);
        }
    }

    fn ask(&mut self, now: Instant, peer: PeerId, how: Ask) {
        let urgent = self.active.is_empty() || how == Ask::Exchange;
        let asked = self.asked.entry(peer).or_insert(Asked {
            how,
            due: now,
            times: 0,
        });
        asked.times = asked.times.saturating_add(1);
        asked.due = now + ANSWER_WITHIN * asked.times.min(MAX_ASKED_TIMES);
        let frame = if asked.how == Ask::Join {
            Frame::Join
        } else {
            Frame::Neighbour { urgent }
        };
        self.send(peer, frame);
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
