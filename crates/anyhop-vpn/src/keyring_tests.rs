use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::{Cipher, OpenError, Payload, SEALED_SECRET_LEN, read_index};

/// Packets that a key seals in these tests.
const LIMIT: u64 = 40;
/// Longest time that a packet is on its way.
const LATEST: Duration = Duration::from_secs(8);

fn keys(handshake: u8, client: bool) -> PacketKeys {
    let mut secret = [handshake; SEALED_SECRET_LEN];
    // The two directions have indexes of their own, as those of an exporter do.
    secret[0] = !handshake;
    let mut keys = PacketKeys::new(&secret, client, Cipher::Aes256Gcm);
    keys.sealer.set_limit(LIMIT);
    keys
}

fn ring(client: bool, now: Instant) -> Keyring {
    Keyring::new(keys(0, client), client, now)
}

#[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
fn start() -> Instant {
    Instant::now()
}

fn after(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

#[test]
fn keys_are_renewed_by_age_when_they_are_used_by_the_dialling_side_first() {
    let start = start();
    let (mut client, server) = (ring(true, start), ring(false, start));
    let age = after(start, 120);
    assert!(!client.is_due(age, REKEY_AFTER), "nobody used them");
    for side in [&client, &server] {
        side.sealer()
            .seal(Payload::Ip, &[b"x"], &mut Vec::new())
            .unwrap();
    }
    assert!(!client.is_due(after(start, 119), REKEY_AFTER));
    assert!(client.is_due(age, REKEY_AFTER));
    assert!(!server.is_due(age, REKEY_AFTER));
    assert!(server.is_due(after(start, 180), REKEY_AFTER));
    // One that came to nothing is made again, but not at once.
    assert!(client.begin(age));
    assert!(!client.begin(age), "the other side's at the same time");
    assert!(!client.is_due(after(age, 4), REKEY_AFTER));
    assert!(client.is_due(after(age, 5), REKEY_AFTER));
}

#[test]
fn keys_are_renewed_when_half_of_their_packets_are_sealed() {
    let start = start();
    let server = ring(false, start);
    for _ in 0..LIMIT / 2 {
        assert!(!server.is_due(start, REKEY_AFTER));
        server
            .sealer()
            .seal(Payload::Ip, &[b"x"], &mut Vec::new())
            .unwrap();
    }
    assert!(server.is_due(start, REKEY_AFTER));
}

#[test]
fn former_keys_open_for_a_while_after_the_peer_left_them_and_no_longer() {
    let start = start();
    let mut ring = ring(true, start);
    let index = ring.add(keys(1, true));
    assert_eq!(ring.openers(after(start, 3600)).count(), 2);
    assert_eq!(ring.sealer().index(), keys(0, true).sealer.index());
    assert!(ring.promote(index, start));
    assert!(!ring.promote(index, start), "done already");
    assert_eq!(ring.sealer().index(), keys(1, true).sealer.index());
    ring.outdate_before(index, start);
    assert_eq!(ring.openers(after(start, 9)).count(), 2);
    assert_eq!(ring.openers(after(start, 10)).count(), 1);
}

#[test]
fn handshakes_that_break_off_leave_the_keys_that_are_used() {
    let start = start();
    let mut ring = ring(true, start);
    for handshake in 1..40 {
        ring.add(keys(handshake, true));
    }
    let mut sealed = Vec::new();
    let peer = keys(0, false);
    peer.sealer.seal(Payload::Ip, &[b"x"], &mut sealed).unwrap();
    let index = read_index(&sealed).unwrap();
    let openers: Vec<_> = ring.openers(start).cloned().collect();
    assert_eq!(openers.len(), MAX_GENERATIONS);
    let opener = openers.iter().find(|o| o.index() == index).unwrap();
    assert!(opener.open(&mut sealed).is_ok());
}

/// What the two sides say on the stream of a handshake, and how far it came.
#[derive(Debug, Clone, Copy)]
enum Said {
    Opens,
    Seals,
}

/// Two keyrings, a stream that keeps order, and packets that do not.
struct World {
    now: Instant,
    sides: [Keyring; 2],
    names: [BTreeMap<u8, ReceiverIndex>; 2],
    stream: [VecDeque<(u8, Said)>; 2],
    packets: [Vec<(Instant, Vec<u8>)>; 2],
    handshakes: u8,
    nonces: BTreeSet<(ReceiverIndex, [u8; 8])>,
}

#[derive(Debug, Clone)]
enum Step {
    Send {
        side: usize,
    },
    Receive {
        side: usize,
        which: prop::sample::Index,
    },
    Rekey,
    Read {
        side: usize,
    },
    Break,
    Wait {
        ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let side = 0_usize..2;
    prop_oneof![
        6 => side.clone().prop_map(|side| Step::Send { side }),
        5 => (side.clone(), any::<prop::sample::Index>())
            .prop_map(|(side, which)| Step::Receive { side, which }),
        1 => Just(Step::Rekey),
        4 => side.prop_map(|side| Step::Read { side }),
        1 => Just(Step::Break),
        2 => (0_u64..3000).prop_map(|ms| Step::Wait { ms }),
    ]
}

impl World {
    fn new() -> Self {
        let now = start();
        Self {
            now,
            sides: [ring(true, now), ring(false, now)],
            names: Default::default(),
            stream: Default::default(),
            packets: Default::default(),
            handshakes: 0,
            nonces: BTreeSet::new(),
        }
    }

    fn rekey(&mut self) {
        let busy = self.handshakes == u8::MAX / 2 || self.stream.iter().any(|s| !s.is_empty());
        if busy || !self.sides[0].begin(self.now) {
            return;
        }
        self.handshakes += 1;
        for side in 0..2 {
            let index = self.sides[side].add(keys(self.handshakes, side == 0));
            self.names[side].insert(self.handshakes, index);
            self.stream[1 - side].push_back((self.handshakes, Said::Opens));
        }
    }

    fn read(&mut self, side: usize) {
        let Some((handshake, said)) = self.stream[side].pop_front() else {
            return;
        };
        let index = self.names[side][&handshake];
        match said {
            Said::Opens => {
                if self.sides[side].promote(index, self.now) {
                    self.stream[1 - side].push_back((handshake, Said::Seals));
                }
            }
            Said::Seals => self.sides[side].outdate_before(index, self.now),
        }
    }

    fn send(&mut self, side: usize) {
        let mut packet = Vec::new();
        if self.sides[side]
            .sealer()
            .seal(Payload::Ip, &[b"x"], &mut packet)
            .is_err()
        {
            return;
        }
        let nonce = packet[8..16].try_into().unwrap();
        assert!(self.nonces.insert((read_index(&packet).unwrap(), nonce)));
        self.packets[1 - side].push((self.now, packet));
    }

    fn receive(&mut self, side: usize, at: usize) {
        let (sent, mut packet) = self.packets[side].swap_remove(at);
        let index = read_index(&packet).unwrap();
        let mut openers = self.sides[side].openers(self.now);
        let opener = openers.find(|o| o.index() == index);
        let opener = opener.unwrap_or_else(|| panic!("lost after {:?}", self.now - sent));
        let mut again = packet.clone();
        assert!(opener.open(&mut packet).is_ok());
        assert_eq!(opener.open(&mut again).unwrap_err(), OpenError::Replayed);
    }

    /// Time passes; packets do not stay on their way for longer than [`LATEST`].
    fn wait(&mut self, ms: u64) {
        let until = self.now + Duration::from_millis(ms);
        while self.now < until {
            self.now += Duration::from_millis(100);
            let late = |(sent, _): &(Instant, Vec<u8>)| *sent + LATEST <= self.now;
            let late = [0, 1].map(|side| self.packets[side].iter().filter(|p| late(p)).count());
            for (side, late) in late.into_iter().enumerate() {
                // In the order in which they were sent, so that the first are the latest.
                self.packets[side].sort_by_key(|(sent, _)| *sent);
                for at in (0..late).rev() {
                    self.receive(side, at);
                }
            }
        }
    }
}

proptest! {
    /// Whatever the order of things, no packet is lost and no nonce used again, unless more
    /// handshakes in a row break off than there are places for.
    #[test]
    fn rekeying_loses_nothing_and_repeats_no_nonce(steps in prop::collection::vec(step(), 1..300)) {
        let mut world = World::new();
        let mut broken = 0;
        for step in steps {
            match step {
                Step::Send { side } => world.send(side),
                Step::Receive { side, which } if !world.packets[side].is_empty() => {
                    let at = which.index(world.packets[side].len());
                    world.receive(side, at);
                }
                Step::Receive { .. } => {}
                Step::Rekey => {
                    world.rekey();
                    if broken == 3 {
                        broken = 0;
                        for side in [0, 1, 0, 1] {
                            world.read(side);
                        }
                    }
                }
                Step::Read { side } => world.read(side),
                Step::Break => {
                    broken += u8::from(world.stream.iter().any(|s| !s.is_empty()));
                    world.stream.iter_mut().for_each(VecDeque::clear);
                }
                Step::Wait { ms } => world.wait(ms),
            }
        }
        for side in 0..2 {
            while !world.packets[side].is_empty() {
                world.receive(side, 0);
            }
        }
        let sealed: u64 = world.sides.iter().map(Keyring::sealed).sum();
        prop_assert_eq!(sealed, world.nonces.len() as u64);
    }
}
