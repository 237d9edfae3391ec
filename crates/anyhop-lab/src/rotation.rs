//! How long a rotation of the swarm key takes in a network of many members, and what it
//! costs each: the gossip machines of all of them, joined by links with latencies.
//!
//! The graph is random: every member has links to as many others as it chose at its
//! start, and to those that chose it. Messages take the latency of their link; nothing is
//! lost, as on sessions.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use anyhop_base::{Keypair, PeerId};
use anyhop_proto::network::{
    Charter, Gossip, Membership,
    gossip::Message,
    statement::{Body, Certificate, OptOuts, Role, Signer, Statement},
    swarm::Epoch,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

/// Links that a member chooses; it has about twice as many.
const CHOSEN_LINKS: usize = 3;
/// Shortest and longest one-way latency of a link, milliseconds.
const LATENCY_MS: std::ops::RangeInclusive<u64> = 10..=100;
/// The time that statements are signed at, seconds since the Unix epoch.
const NOW_UNIX_S: u64 = 1_800_000_000;

/// What a rotation came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotation {
    /// Members, the one that rotated included.
    pub members: usize,
    /// Links between them.
    pub links: usize,
    /// Until half of the members had the new key.
    pub half: Duration,
    /// Until all had it.
    pub all: Duration,
    /// Messages sent over all links.
    pub messages: usize,
    /// Bytes of these, without what carries them.
    pub bytes: usize,
}

/// Rotates once among `members`, all of them connected.
///
/// # Panics
/// When the key does not reach everybody: a bug.
#[must_use]
pub fn rotate(members: usize, seed: u64) -> Rotation {
    let mut world = World::new(members, seed);
    world.run();
    let links = world.latencies.len() / 2;
    (world.messages, world.bytes) = (0, 0);
    let begun = world.now;
    let secret = [2; 32];
    let first = world.peers[0];
    let owner = world.nodes.get_mut(&first).expect("the owner is a member");
    let rotated = owner.rotate(NOW_UNIX_S, &authority(), secret);
    rotated.expect("the authority may rotate");
    world.collect(first);
    world.run();
    let mut reached: Vec<_> = world.reached.values().map(|at| *at - begun).collect();
    reached.sort_unstable();
    assert_eq!(reached.len(), members, "somebody was left out");
    Rotation {
        members,
        links,
        half: reached[members / 2],
        all: reached[members - 1],
        messages: world.messages,
        bytes: world.bytes,
    }
}

fn keypair(number: u64) -> Keypair {
    let mut secret = [0; 32];
    secret[..8].copy_from_slice(&number.to_be_bytes());
    Keypair::ed25519_from_bytes(secret).expect("32 bytes are a key")
}

fn authority() -> Signer {
    Signer::Authority(keypair(u64::MAX))
}

/// A message on its way: when it arrives, a number that orders equal times, from, to.
type InFlight = Reverse<(Instant, usize, PeerId, PeerId, Vec<u8>)>;

struct World {
    peers: Vec<PeerId>,
    nodes: BTreeMap<PeerId, Gossip>,
    latencies: BTreeMap<(PeerId, PeerId), Duration>,
    in_flight: BinaryHeap<InFlight>,
    now: Instant,
    /// When each had the key of epoch 2.
    reached: BTreeMap<PeerId, Instant>,
    sent: usize,
    messages: usize,
    bytes: usize,
}

impl World {
    fn new(members: usize, seed: u64) -> Self {
        let charter = Charter::new(
            "lab".parse().expect("a name"),
            keypair(u64::MAX).public().to_peer_id(),
        )
        .expect("an Ed25519 key");
        let peers: Vec<_> = (0..members as u64)
            .map(|n| keypair(n).public().to_peer_id())
            .collect();
        let mut membership = Membership::new(charter.clone());
        for (number, peer) in peers.iter().enumerate() {
            membership.merge(certificate(&charter, *peer, number));
        }
        let mut owner = Gossip::new(peers[0], membership, []);
        let founded = owner.rotate(NOW_UNIX_S, &authority(), [1; 32]);
        founded.expect("the authority may rotate");
        let key = owner.key().expect("it has just been made").clone();
        let membership = owner.membership();
        let node = |peer: &PeerId| {
            let known = membership.clone();
            (*peer, Gossip::new(*peer, known, [key.clone()]))
        };
        let mut world = Self {
            nodes: peers.iter().map(node).collect(),
            latencies: BTreeMap::new(),
            in_flight: BinaryHeap::new(),
            now: Instant::now(),
            reached: BTreeMap::new(),
            sent: 0,
            messages: 0,
            bytes: 0,
            peers,
        };
        world.connect(&mut SmallRng::seed_from_u64(seed));
        world
    }

    fn connect(&mut self, random: &mut SmallRng) {
        for at in 0..self.peers.len() {
            for _ in 0..CHOSEN_LINKS {
                let other = random.random_range(0..self.peers.len());
                let (a, b) = (self.peers[at], self.peers[other]);
                let latency = Duration::from_millis(random.random_range(LATENCY_MS));
                if a != b && !self.latencies.contains_key(&(a, b)) {
                    self.latencies.insert((a, b), latency);
                    self.latencies.insert((b, a), latency);
                    self.connected(a, b);
                    self.connected(b, a);
                }
            }
        }
    }

    fn connected(&mut self, here: PeerId, to: PeerId) {
        if let Some(node) = self.nodes.get_mut(&here) {
            node.handle_connected(self.now.into_std(), to);
        }
        self.collect(here);
    }

    /// Sends what a node has to send.
    fn collect(&mut self, from: PeerId) {
        let Some(node) = self.nodes.get_mut(&from) else {
            return;
        };
        while node.poll_event().is_some() {}
        if node.key().is_some_and(|k| k.epoch() == Epoch(2)) {
            self.reached.entry(from).or_insert(self.now);
        }
        while let Some((to, message)) = node.poll_transmit() {
            let frame = message.encode();
            self.messages += 1;
            self.bytes += frame.len();
            self.sent += 1;
            let arrives = self.now + self.latencies[&(from, to)];
            self.in_flight
                .push(Reverse((arrives, self.sent, from, to, frame)));
        }
    }

    /// Delivers until nothing is on its way.
    fn run(&mut self) {
        while let Some(Reverse((at, _, from, to, frame))) = self.in_flight.pop() {
            self.now = at;
            let content = anyhop_proto::take_frame(&mut &frame[..], frame.len());
            let content = content.expect("our own frame").expect("is complete");
            let message = Message::decode(content).expect("and well-formed");
            if let Some(node) = self.nodes.get_mut(&to) {
                let taken = node.handle_message(at.into_std(), NOW_UNIX_S, from, message);
                taken.expect("nobody misbehaves");
            }
            self.collect(to);
        }
    }
}

fn certificate(charter: &Charter, peer: PeerId, number: usize) -> Statement {
    let body = Body::Certificate(Certificate {
        peer,
        version: 1,
        name: format!("host-{number}").parse().expect("a name"),
        role: if number == 0 {
            Role::Owner
        } else {
            Role::Member
        },
        overlay: Vec::new(),
        opt_outs: OptOuts::default(),
        issued_unix_s: NOW_UNIX_S,
        expires_unix_s: NOW_UNIX_S + 3600,
    });
    Statement::sign(body, &authority(), charter).expect("the authority certifies")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_members_have_the_new_key_within_a_second_for_a_few_messages_each() {
        let rotation = rotate(100, 1);
        assert!(rotation.all < Duration::from_secs(1), "{rotation:?}");
        // At least one each, and at most one both ways on every link.
        assert!(rotation.messages >= 99, "{rotation:?}");
        assert!(rotation.messages <= 2 * rotation.links, "{rotation:?}");
        assert_eq!(rotation, rotate(100, 1), "the same seed, the same run");
    }
}
