//! The world of a simulated broadcast.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhop_base::{Keypair, PeerId};
use anyhop_proto::broadcast::{
    Content, Event, Flood, Frame, Overlay, Post, PostId, RainTree, SignedPost,
    Strategy as Spreading, Topic, TopicId, Tree, Verdict, View,
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde::{Deserialize, Serialize};

use super::report::Row;

/// Time a frame takes, milliseconds.
const LATENCY_MS: std::ops::Range<u64> = 20..100;
/// Time after which a neighbour's death is noticed, milliseconds: a session that has no live
/// path ends within 15 s.
const NOTICED_MS: std::ops::Range<u64> = 1_000..15_000;
/// Time in which all nodes join.
const JOINING: Duration = Duration::from_secs(30);
/// Time after that in which the overlay settles.
const SETTLING: Duration = Duration::from_secs(60);
/// Posts for the tree to settle, and those that are measured.
const POSTS: (usize, usize) = (10, 10);
/// Time between looks of a node for whether it knows anybody.
const SEEKING: Duration = Duration::from_secs(5);
/// Time between posts.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long after the first measured post nodes are killed: while it spreads.
const KILLED_AFTER: Duration = Duration::from_millis(150);
/// Time for repair after the last post.
const REPAIR: Duration = Duration::from_secs(90);
/// Body of a post, bytes.
const BODY: usize = 64;

/// How posts spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// HyParView and PlumTree.
    Tree,
    /// Every post to every neighbour of HyParView.
    Gossip,
    /// RainTree over the list of all nodes.
    RainTree,
}

/// What to simulate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How many nodes.
    pub nodes: usize,
    /// Share of frames that are lost, percent.
    pub loss: u8,
    /// Share of nodes that are killed while the first measured post spreads, percent.
    pub killed: u8,
    /// Share of nodes that are replaced by new ones each minute, percent.
    pub churn: u8,
    /// How posts spread.
    pub strategy: Strategy,
}

/// Runs one simulation for each seed, which decides everything that is random.
#[must_use]
pub fn run(options: Options, seeds: &[u64]) -> Row {
    let mut all = Tally::default();
    for seed in seeds {
        let mut world = World::new(options, *seed);
        world.run();
        all.add(world.tally());
    }
    Row::of(&options, seeds, &all)
}

/// What is counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Live nodes that were there when a post was published, and those of them that got it.
    pub(super) expected: u64,
    pub(super) reached: u64,
    /// Posts that reached everybody who was to get them.
    pub(super) complete: usize,
    pub(super) posts: usize,
    /// Into how many parts the overlay of live nodes fell when a measured post was
    /// published, at most.
    pub(super) parts: usize,
    /// Copies of the measured posts that came in, and that were sent.
    pub(super) copies: u64,
    pub(super) copies_sent: u64,
    /// Other frames while they spread.
    pub(super) control: u64,
    /// Of each delivery of a measured post: its time, milliseconds, and its hops.
    pub(super) times_ms: Vec<u32>,
    pub(super) hops: Vec<u8>,
}

impl Tally {
    /// Adds what another simulation came to.
    fn add(&mut self, other: Self) {
        self.expected += other.expected;
        self.reached += other.reached;
        self.complete += other.complete;
        self.posts += other.posts;
        self.parts = self.parts.max(other.parts);
        self.copies += other.copies;
        self.copies_sent += other.copies_sent;
        self.control += other.control;
        self.times_ms.extend(other.times_ms);
        self.hops.extend(other.hops);
    }
}

enum Happening {
    Arrive {
        from: usize,
        to: usize,
        frame: Frame,
    },
    Wake(usize),
    Join(usize),
    Seek(usize),
    Publish(usize),
    KillMany,
    Replace,
    Noticed {
        by: usize,
        gone: usize,
    },
}

/// Its place in time: in order of being planned where that is the same.
struct At(Duration, u64, Happening);

impl PartialEq for At {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for At {}

impl PartialOrd for At {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for At {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

enum Machine {
    Topic(Box<Topic>),
    Rain(Box<RainTree>),
}

struct Node {
    key: Keypair,
    peer: PeerId,
    machine: Machine,
    alive: bool,
    since: Duration,
    wake: Option<Duration>,
    seq: u64,
}

/// A post, and who got it when.
struct Published {
    origin: usize,
    at: Duration,
    measured: bool,
    got: HashSet<usize>,
}

struct World {
    options: Options,
    begun: Instant,
    now: Duration,
    rng: StdRng,
    nodes: Vec<Node>,
    live: Vec<usize>,
    index: HashMap<PeerId, usize>,
    /// The list that RainTree goes by.
    members: Arc<Vec<PeerId>>,
    plan: BinaryHeap<Reverse<At>>,
    planned: u64,
    posts: Vec<Published>,
    post_index: HashMap<PostId, usize>,
    tally: Tally,
}

impl World {
    fn new(options: Options, seed: u64) -> Self {
        let mut world = Self {
            options,
            begun: tokio::time::Instant::now().into_std(),
            now: Duration::ZERO,
            rng: StdRng::seed_from_u64(seed),
            nodes: Vec::new(),
            live: Vec::new(),
            index: HashMap::new(),
            members: Arc::default(),
            plan: BinaryHeap::new(),
            planned: 0,
            posts: Vec::new(),
            post_index: HashMap::new(),
            tally: Tally::default(),
        };
        for number in 0..options.nodes {
            world.make_node();
            let share = number as f64 / options.nodes as f64;
            world.plan_at(JOINING.mul_f64(share), Happening::Join(number));
        }
        world.use_members();
        let first = JOINING + SETTLING;
        let (settling, measured) = POSTS;
        for number in 0..settling + measured {
            let at = first + INTERVAL * number as u32;
            world.plan_at(at, Happening::Publish(number));
        }
        let measured_from = first + INTERVAL * settling as u32;
        if options.killed > 0 {
            world.plan_at(measured_from + KILLED_AFTER, Happening::KillMany);
        }
        if options.churn > 0 {
            world.plan_at(first, Happening::Replace);
        }
        world
    }

    fn run(&mut self) {
        let (settling, measured) = POSTS;
        let last = JOINING + SETTLING + INTERVAL * (settling + measured) as u32;
        let end = last + REPAIR;
        while let Some(Reverse(At(at, _, happening))) = self.plan.pop() {
            if at > end {
                break;
            }
            self.now = at;
            self.happen(happening);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive { from, to, frame } => self.arrive(from, to, frame),
            Happening::Wake(number) => {
                if self.nodes[number].wake == Some(self.now) {
                    self.nodes[number].wake = None;
                    let now = self.instant();
                    match &mut self.nodes[number].machine {
                        Machine::Topic(topic) => topic.handle_timeout(now),
                        Machine::Rain(rain) => rain.handle_timeout(now),
                    }
                    self.drain(number);
                }
            }
            Happening::Join(number) => self.join(number),
            Happening::Seek(number) => self.seek(number),
            Happening::Publish(number) => self.publish(number),
            Happening::KillMany => self.kill_many(),
            Happening::Replace => self.replace(),
            Happening::Noticed { by, gone } => {
                let (now, peer) = (self.instant(), self.nodes[gone].peer);
                if let Machine::Topic(topic) = &mut self.nodes[by].machine {
                    topic.handle_disconnected(now, peer);
                }
                self.drain(by);
            }
        }
    }

    fn instant(&self) -> Instant {
        self.begun + self.now
    }

    fn plan_at(&mut self, at: Duration, happening: Happening) {
        self.planned += 1;
        self.plan.push(Reverse(At(at, self.planned, happening)));
    }

    fn make_node(&mut self) -> usize {
        let number = self.nodes.len();
        let key = Keypair::ed25519_from_bytes(self.rng.random::<[u8; 32]>());
        let key = key.expect("32 bytes are a key");
        let peer = key.public().to_peer_id();
        let now = self.instant();
        let machine = match self.options.strategy {
            Strategy::RainTree => {
                let members = Arc::clone(&self.members);
                let rain = RainTree::new(now, peer, members, self.rng.random());
                Machine::Rain(Box::new(rain))
            }
            Strategy::Tree | Strategy::Gossip => {
                let spreading: Box<dyn Spreading> = match self.options.strategy {
                    Strategy::Gossip => Box::new(Flood::default()),
                    _ => Box::new(Tree::new(now, self.rng.random())),
                };
                let view = Box::new(View::new(now, peer, self.rng.random()));
                let overlay = Overlay::Chosen(view);
                let topic = Topic::new(peer, overlay, spreading, self.rng.random());
                Machine::Topic(Box::new(topic))
            }
        };
        self.nodes.push(Node {
            key,
            peer,
            machine,
            alive: false,
            since: self.now,
            wake: None,
            seq: 0,
        });
        self.index.insert(peer, number);
        number
    }

    /// Has RainTree know everybody who is there.
    fn use_members(&mut self) {
        if self.options.strategy != Strategy::RainTree {
            return;
        }
        let starting = self.now == Duration::ZERO;
        let there = self.nodes.iter().filter(|n| n.alive || starting);
        let mut members: Vec<_> = there.map(|n| n.peer).collect();
        members.sort_unstable();
        self.members = Arc::new(members);
        let now = self.instant();
        for node in &mut self.nodes {
            if let Machine::Rain(rain) = &mut node.machine
                && (node.alive || starting)
            {
                rain.set_peers(now, Arc::clone(&self.members));
            }
        }
    }

    fn join(&mut self, number: usize) {
        let known = self.random_live();
        let now = self.instant();
        if !self.nodes[number].alive {
            self.nodes[number].alive = true;
            self.nodes[number].since = self.now;
            self.live.push(number);
        }
        if let Some(known) = known {
            let known = self.nodes[known].peer;
            if let Machine::Topic(topic) = &mut self.nodes[number].machine {
                topic.handle_candidate(now, known);
            }
        }
        self.drain(number);
        self.plan_at(self.now + SEEKING, Happening::Seek(number));
    }

    /// Looks for others when it should, as the library does.
    fn seek(&mut self, number: usize) {
        let now = self.instant();
        let node = &mut self.nodes[number];
        let Machine::Topic(topic) = &mut node.machine else {
            return;
        };
        if !node.alive {
            return;
        }
        if topic.seeks(now) {
            self.join(number);
        } else {
            self.plan_at(self.now + SEEKING, Happening::Seek(number));
        }
    }

    fn random_live(&mut self) -> Option<usize> {
        self.live.choose(&mut self.rng).copied()
    }

    fn publish(&mut self, number: usize) {
        let measured = number >= POSTS.0;
        // One origin while the tree settles, then any: the tree is for all of them.
        let first = self.live.first().copied();
        let origin = if measured { self.random_live() } else { first };
        let origin = origin.expect("some node lives");
        if measured && self.options.strategy != Strategy::RainTree {
            self.tally.parts = self.tally.parts.max(self.parts());
        }
        let now = self.instant();
        let node = &mut self.nodes[origin];
        node.seq += 1;
        let post = Post {
            origin: node.peer,
            topic: TopicId([0; 32]),
            seq: node.seq,
            expires_unix_s: 600,
            encoding: 0,
            content: Content::Inline(vec![0; BODY]),
        };
        let post = Arc::new(post.sign(&node.key).expect("a small post of its own"));
        let id = post.id();
        self.post_index.insert(id, self.posts.len());
        self.posts.push(Published {
            origin,
            at: self.now,
            measured,
            got: HashSet::from([origin]),
        });
        match &mut node.machine {
            Machine::Topic(topic) => topic.publish(now, post),
            Machine::Rain(rain) => rain.handle_publish(now, post),
        }
        self.drain(origin);
    }

    /// Into how many parts the overlay of live nodes falls, by neighbours that both know of.
    fn parts(&self) -> usize {
        let links: Vec<Vec<usize>> = self.nodes.iter().map(|n| self.links_of(n)).collect();
        let mut seen = vec![false; self.nodes.len()];
        let mut parts = 0;
        for first in &self.live {
            if std::mem::replace(&mut seen[*first], true) {
                continue;
            }
            parts += 1;
            let mut open = vec![*first];
            while let Some(number) = open.pop() {
                for next in &links[number] {
                    if links[*next].contains(&number) && !std::mem::replace(&mut seen[*next], true)
                    {
                        open.push(*next);
                    }
                }
            }
        }
        parts
    }

    fn links_of(&self, node: &Node) -> Vec<usize> {
        let Machine::Topic(topic) = &node.machine else {
            return Vec::new();
        };
        let all = topic.neighbours().into_iter();
        let all = all.filter_map(|p| self.index.get(&p).copied());
        all.filter(|n| node.alive && self.nodes[*n].alive).collect()
    }

    fn kill_many(&mut self) {
        let origin = self.posts.last().map(|p| p.origin);
        let mut doomed = self.live.len() * usize::from(self.options.killed) / 100;
        while doomed > 0 && self.live.len() > 1 {
            let Some(number) = self.random_live() else {
                return;
            };
            if origin != Some(number) {
                self.kill(number);
                doomed -= 1;
            }
        }
    }

    /// One node goes, and another one comes.
    fn replace(&mut self) {
        if let Some(number) = self.random_live() {
            self.kill(number);
        }
        let new = self.make_node();
        self.join(new);
        self.use_members();
        let each_minute = self.options.nodes as f64 * f64::from(self.options.churn) / 100.0;
        let next = self.now + Duration::from_secs(60).div_f64(each_minute);
        let (settling, measured) = POSTS;
        // It ends with the last post, so that there is an end to repair.
        if next < JOINING + SETTLING + INTERVAL * (settling + measured) as u32 {
            self.plan_at(next, Happening::Replace);
        }
    }

    fn kill(&mut self, gone: usize) {
        self.nodes[gone].alive = false;
        self.live.retain(|n| *n != gone);
        let peer = self.nodes[gone].peer;
        let mut noticing = Vec::new();
        for (by, node) in self.nodes.iter().enumerate() {
            if let Machine::Topic(topic) = &node.machine
                && node.alive
                && topic.neighbours().contains(&peer)
            {
                noticing.push(by);
            }
        }
        for by in noticing {
            let after = Duration::from_millis(self.rng.random_range(NOTICED_MS));
            self.plan_at(self.now + after, Happening::Noticed { by, gone });
        }
    }

    fn arrive(&mut self, from: usize, to: usize, frame: Frame) {
        if !self.nodes[to].alive {
            return;
        }
        if let Frame::Post { post, .. } = &frame
            && self.is_measured(post)
        {
            self.tally.copies += 1;
        }
        let (now, sender) = (self.instant(), self.nodes[from].peer);
        match &mut self.nodes[to].machine {
            Machine::Topic(topic) => topic.handle_frame(now, sender, frame),
            Machine::Rain(rain) => rain.handle_frame(now, sender, frame),
        }
        self.drain(to);
    }

    fn is_measured(&self, post: &SignedPost) -> bool {
        let number = self.post_index.get(&post.id());
        number.is_some_and(|n| self.posts[*n].measured)
    }

    /// Takes note of what a machine has to say, and sends its frames.
    fn drain(&mut self, number: usize) {
        let now = self.instant();
        loop {
            let event = match &mut self.nodes[number].machine {
                Machine::Topic(topic) => topic.poll_event(),
                Machine::Rain(rain) => rain.poll_event(),
            };
            let Some(Event::Arrived { post, hops, .. }) = event else {
                break;
            };
            self.deliver(number, &post.id(), hops);
            match &mut self.nodes[number].machine {
                Machine::Topic(t) => t.handle_verdict(now, &post.id(), Verdict::Accept),
                Machine::Rain(r) => r.handle_verdict(now, &post.id(), Verdict::Accept),
            }
        }
        loop {
            let transmit = match &mut self.nodes[number].machine {
                Machine::Topic(topic) => topic.poll_transmit(),
                Machine::Rain(rain) => rain.poll_transmit(),
            };
            let Some((peer, frame)) = transmit else { break };
            self.send(number, peer, frame);
        }
        self.plan_wake(number);
    }

    fn deliver(&mut self, number: usize, id: &PostId, hops: u8) {
        let Some(post) = self.post_index.get(id).map(|n| &mut self.posts[*n]) else {
            return;
        };
        let after = self.now - post.at;
        let new = post.got.insert(number);
        assert!(new, "a machine delivered a post twice");
        if post.measured && self.nodes[number].since <= post.at {
            let ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
            self.tally.times_ms.push(ms);
            self.tally.hops.push(hops);
        }
    }

    fn send(&mut self, from: usize, peer: PeerId, frame: Frame) {
        let Some(to) = self.index.get(&peer).copied() else {
            return;
        };
        match &frame {
            Frame::Post { post, .. } => {
                if self.is_measured(post) {
                    self.tally.copies_sent += 1;
                }
            }
            _ => {
                if self.posts.last().is_some_and(|p| p.measured) {
                    self.tally.control += 1;
                }
            }
        }
        let dialled = matches!(frame, Frame::Join | Frame::Neighbour { .. });
        if dialled && !self.nodes[to].alive {
            let after = Duration::from_millis(self.rng.random_range(NOTICED_MS));
            let (by, gone) = (from, to);
            self.plan_at(self.now + after, Happening::Noticed { by, gone });
            return;
        }
        if self.rng.random_range(0..100) < self.options.loss {
            return;
        }
        let latency = Duration::from_millis(self.rng.random_range(LATENCY_MS));
        self.plan_at(self.now + latency, Happening::Arrive { from, to, frame });
    }

    fn plan_wake(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let due = match &node.machine {
            Machine::Topic(topic) => topic.poll_timeout(),
            Machine::Rain(rain) => rain.poll_timeout(),
        };
        let due = due.map(|at| at.saturating_duration_since(self.begun).max(self.now));
        let Some(due) = due.filter(|_| node.alive) else {
            return;
        };
        if node.wake.is_none_or(|planned| planned > due) {
            node.wake = Some(due);
            self.plan_at(due, Happening::Wake(number));
        }
    }

    fn tally(&mut self) -> Tally {
        let mut tally = std::mem::take(&mut self.tally);
        for post in self.posts.iter().filter(|p| p.measured) {
            let nodes = self.nodes.iter().enumerate();
            let expected = nodes.filter(|(_, n)| n.alive && n.since <= post.at);
            let (mut all, mut got) = (0, 0);
            for (number, _) in expected {
                all += 1;
                got += u64::from(post.got.contains(&number));
            }
            tally.expected += all;
            tally.reached += got;
            tally.posts += 1;
            tally.complete += usize::from(all == got);
        }
        tally
    }
}
