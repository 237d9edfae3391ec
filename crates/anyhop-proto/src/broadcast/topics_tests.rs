use anyhop_base::Keypair;

use super::*;
use crate::broadcast::{Content, IGNORED_BELOW, Post, PostError};

const ALL: TopicId = TopicId([0; 32]);
const NEWS: TopicId = TopicId([7; 32]);

/// Nodes with sessions between some of them; frames arrive at once.
struct World {
    now: Instant,
    keys: BTreeMap<PeerId, Keypair>,
    nodes: BTreeMap<PeerId, Topics>,
    sessions: BTreeSet<(PeerId, PeerId)>,
    got: BTreeMap<PeerId, Vec<PostId>>,
    reports: Vec<Report>,
    refused: BTreeSet<PeerId>,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "some instant to begin with")]
    fn of(n: u8) -> (Self, Vec<PeerId>) {
        let keys = (1..=n).map(|i| Keypair::ed25519_from_bytes([i; 32]).unwrap());
        let keys: Vec<_> = keys.map(|k| (k.public().to_peer_id(), k)).collect();
        let peers: Vec<_> = keys.iter().map(|(p, _)| *p).collect();
        let seeds = (1..=n).map(|i| [i; 32]);
        let nodes = peers.iter().zip(seeds);
        let nodes = nodes.map(|(p, seed)| (*p, Topics::new(*p, ALL, seed)));
        let world = Self {
            now: Instant::now(),
            nodes: nodes.collect(),
            keys: keys.into_iter().collect(),
            sessions: BTreeSet::new(),
            got: BTreeMap::new(),
            reports: Vec::new(),
            refused: BTreeSet::new(),
        };
        (world, peers)
    }

    fn connect(&mut self, a: PeerId, b: PeerId) {
        for (me, other) in [(a, b), (b, a)] {
            if self.sessions.insert((me, other)) {
                let node = self.nodes.get_mut(&me).unwrap();
                node.handle_connected(self.now, other);
            }
        }
    }

    fn node(&mut self, peer: PeerId) -> &mut Topics {
        self.nodes.get_mut(&peer).unwrap()
    }

    fn run(&mut self) {
        loop {
            let mut sent = Vec::new();
            for (me, node) in &mut self.nodes {
                while let Some(event) = node.poll_event() {
                    match event {
                        TopicsEvent::Arrived {
                            topic, from, post, ..
                        } => {
                            let bad = self.refused.contains(me);
                            let verdict = if bad {
                                Verdict::Reject
                            } else {
                                Verdict::Accept
                            };
                            let id = post.id();
                            node.handle_verdict(self.now, topic, from, &id, verdict);
                            if !bad {
                                self.got.entry(*me).or_default().push(id);
                            }
                        }
                        TopicsEvent::Report(report) => self.reports.push(report),
                    }
                }
                while let Some(transmit) = node.poll_transmit() {
                    sent.push((*me, transmit));
                }
            }
            if sent.is_empty() {
                return;
            }
            for (
                me,
                Transmit {
                    peer,
                    frames,
                    worth_a_dial,
                },
            ) in sent
            {
                if worth_a_dial {
                    self.connect(me, peer);
                }
                if !self.sessions.contains(&(me, peer)) {
                    continue;
                }
                let (now, node) = (self.now, self.nodes.get_mut(&peer).unwrap());
                match frames {
                    Frames::Announcement(topics) => node.handle_announcement(now, me, topics),
                    Frames::Frame(frame) => node.handle_frame(now, me, Ok(frame)),
                }
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = self.nodes.values().filter_map(Topics::poll_timeout).min();
            let Some(next) = next.filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            for node in self.nodes.values_mut() {
                node.handle_timeout(self.now);
            }
            self.run();
        }
        self.now = end;
    }

    fn publish(&mut self, from: PeerId, topic: TopicId, seq: u64) -> PostId {
        let post = Post {
            origin: from,
            topic,
            seq,
            expires_unix_s: 60,
            encoding: 0,
            content: Content::Inline(Vec::new()),
        };
        let post = Arc::new(post.sign(&self.keys[&from]).unwrap());
        let (now, id) = (self.now, post.id());
        self.node(from).publish(now, post);
        self.run();
        id
    }

    fn got(&self, peer: &PeerId, post: PostId) -> usize {
        let got = self.got.get(peer).into_iter().flatten();
        got.filter(|id| **id == post).count()
    }
}

#[test]
fn members_of_a_topic_find_each_other_over_a_node_that_is_not_on_it() {
    let (mut world, peers) = World::of(3);
    world.connect(peers[0], peers[1]);
    world.connect(peers[1], peers[2]);
    let now = world.now;
    for peer in [peers[0], peers[2]] {
        assert!(world.node(peer).join(now, NEWS));
        world.run();
    }
    world.pass(Duration::from_secs(10));
    let id = world.publish(peers[0], NEWS, 1);
    assert_eq!(world.got(&peers[2], id), 1);
    assert_eq!(world.got(&peers[1], id), 0);
    assert!(world.sessions.contains(&(peers[0], peers[2])));
}

#[test]
fn what_goes_to_all_crosses_a_chain_of_nodes_once_and_opens_no_sessions() {
    let (mut world, peers) = World::of(6);
    for pair in peers.windows(2) {
        world.connect(pair[0], pair[1]);
    }
    let (sessions, now) = (world.sessions.len(), world.now);
    world.node(peers[0]).join(now, ALL);
    let id = world.publish(peers[0], ALL, 1);
    for peer in &peers[1..] {
        assert_eq!(world.got(peer, id), 1);
    }
    assert_eq!(world.sessions.len(), sessions);
    assert!(world.nodes.values().all(|n| n.own().is_empty()));
}

#[test]
fn who_connects_later_gets_what_went_to_all_lately() {
    let (mut world, peers) = World::of(3);
    world.connect(peers[0], peers[1]);
    let now = world.now;
    world.node(peers[0]).join(now, ALL);
    let id = world.publish(peers[0], ALL, 1);
    world.connect(peers[1], peers[2]);
    world.run();
    world.pass(Duration::from_secs(5));
    assert_eq!(world.got(&peers[2], id), 1);
}

#[test]
fn a_node_that_leaves_a_topic_gets_nothing_more() {
    let (mut world, peers) = World::of(2);
    world.connect(peers[0], peers[1]);
    let now = world.now;
    for peer in &peers {
        world.node(*peer).join(now, NEWS);
        world.run();
    }
    let first = world.publish(peers[0], NEWS, 1);
    assert_eq!(world.got(&peers[1], first), 1);
    world.node(peers[1]).leave(NEWS);
    world.run();
    let second = world.publish(peers[0], NEWS, 2);
    assert_eq!(world.got(&peers[1], second), 0);
    assert_eq!(world.node(peers[0]).topics().count(), 1);
    let topic = world.node(peers[0]).topics.get(&NEWS).unwrap();
    assert!(topic.neighbours().is_empty());
}

#[test]
fn a_report_counts_every_node_once_and_names_who_has_the_post() {
    let (mut world, peers) = World::of(12);
    for (i, a) in peers.iter().enumerate() {
        for b in &peers[i + 1..] {
            world.connect(*a, *b);
        }
    }
    let now = world.now;
    for peer in &peers {
        world.node(*peer).join(now, NEWS);
        world.run();
    }
    world.pass(Duration::from_secs(30));
    world.refused.insert(peers[3]);
    let id = world.publish(peers[0], NEWS, 1);
    let now = world.now;
    let within = Duration::from_secs(5);
    let nonce = world.node(peers[0]).ask(now, NEWS, id, within);
    world.run();
    world.pass(within);
    let report = &world.reports[0];
    assert_eq!(Some(report.nonce), nonce);
    assert_eq!((report.have, report.asked), (11, 12));
    let named: BTreeSet<_> = report.peers.iter().copied().collect();
    assert_eq!(named.len(), 11);
    assert!(!named.contains(&peers[3]));
}

#[test]
fn who_sends_wrong_signatures_is_heard_no_more_until_time_has_passed() {
    let (mut world, peers) = World::of(2);
    world.connect(peers[0], peers[1]);
    let now = world.now;
    world.node(peers[0]).join(now, NEWS);
    let node = world.node(peers[0]);
    for _ in 0..3 {
        let forged = Err(TopicFrameError::Post(PostError::Signature(peers[1])));
        node.handle_frame(now, peers[1], forged);
    }
    assert!(node.scores().of(now, &peers[1]) < IGNORED_BELOW);
    let join = TopicFrame {
        topic: NEWS,
        frame: Frame::Join,
    };
    node.handle_frame(now, peers[1], Ok(join.clone()));
    assert!(node.topics[&NEWS].neighbours().is_empty());
    let later = now + Duration::from_secs(60);
    node.handle_frame(later, peers[1], Ok(join));
    assert_eq!(node.topics[&NEWS].neighbours(), [peers[1]]);
}

#[test]
fn an_expired_post_costs_its_sender_nothing() {
    let (mut world, peers) = World::of(2);
    world.connect(peers[0], peers[1]);
    let (now, origin) = (world.now, peers[1]);
    let expired = Err(TopicFrameError::Post(PostError::Expired {
        origin,
        ago_s: 5,
    }));
    let node = world.node(peers[0]);
    node.handle_frame(now, peers[1], expired);
    assert_eq!(node.scores().of(now, &peers[1]), 0);
}

#[test]
fn topics_are_bounded() {
    let (mut world, peers) = World::of(1);
    let now = world.now;
    let node = world.node(peers[0]);
    for i in 0..MAX_TOPICS {
        let mut id = [1; 32];
        id[..8].copy_from_slice(&(i as u64).to_be_bytes());
        assert!(node.join(now, TopicId(id)));
    }
    assert!(!node.join(now, NEWS));
}
