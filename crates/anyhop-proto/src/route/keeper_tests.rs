use anyhop_base::Keypair;
use proptest::prelude::*;

use super::*;

fn peer(seed: u8) -> PeerId {
    let key = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
    key.public().to_peer_id()
}

fn prefix(net: u8) -> Prefix {
    IpAddr::from([192, net, 0, 1]).into()
}

fn candidate(seed: u8, net: u8, known_s: u64) -> Candidate {
    Candidate {
        peer: peer(seed),
        prefix: prefix(net),
        public: true,
        known_for: Duration::from_secs(known_s),
    }
}

/// A keeper in a world where attaching works or not.
struct World {
    keeper: Keeper,
    now: Instant,
    held: BTreeMap<PeerId, Prefix>,
    nets: BTreeMap<PeerId, Prefix>,
    public: bool,
}

impl World {
    fn new(pinned: &[u8]) -> Self {
        Self {
            keeper: Keeper::new([7; 32], pinned.iter().map(|s| peer(*s))),
            now: Instant::now() + Duration::from_secs(100_000),
            held: BTreeMap::new(),
            nets: BTreeMap::new(),
            public: false,
        }
    }

    fn learn(&mut self, candidates: &[Candidate]) {
        self.nets
            .extend(candidates.iter().map(|c| (c.peer, c.prefix)));
        let known = candidates.iter().copied();
        self.keeper.handle_candidates(self.now, known);
    }

    fn state(&mut self) {
        let held = self.held.clone();
        self.keeper.handle_state(self.now, held, self.public, true);
    }

    /// Lets everything that is asked for succeed until nothing is.
    fn settle(&mut self) -> Vec<KeeperAction> {
        let mut done = Vec::new();
        while let Some(action) = self.keeper.poll_action() {
            done.push(action);
            match action {
                KeeperAction::Attach(peer) => {
                    self.held.insert(peer, self.nets[&peer]);
                    self.state();
                }
                KeeperAction::Detach(peer) => {
                    self.held.remove(&peer);
                    self.keeper.handle_ended(self.now, peer);
                }
                KeeperAction::AskNeighbours => {}
            }
        }
        done
    }
}

#[test]
fn three_are_kept_from_different_networks_the_longest_known_first() {
    let mut w = World::new(&[]);
    w.learn(&[
        candidate(1, 1, 10),
        candidate(2, 1, 1000),
        candidate(3, 2, 5),
        candidate(4, 3, 1),
        candidate(5, 2, 1),
    ]);
    w.settle();
    let held: BTreeSet<_> = w.held.keys().copied().collect();
    assert_eq!(held, BTreeSet::from([peer(2), peer(3), peer(4)]));
}

#[test]
fn those_that_strangers_are_known_to_reach_come_first_and_others_only_for_want_of_them() {
    let maybe = |seed| Candidate {
        public: false,
        ..candidate(seed, seed, 1000)
    };
    for public in [false, true] {
        let mut w = World::new(&[]);
        w.public = public;
        w.state();
        w.learn(&[maybe(1), candidate(2, 2, 1), maybe(3), candidate(4, 4, 1)]);
        w.settle();
        assert!(w.held.contains_key(&peer(2)) && w.held.contains_key(&peer(4)));
        assert_eq!(w.held.len(), ATTACHMENTS);
    }
}

#[test]
fn bootstrap_peers_count_and_are_left_to_others() {
    let mut w = World::new(&[1, 2]);
    w.held = BTreeMap::from([(peer(1), prefix(1)), (peer(2), prefix(2))]);
    w.state();
    w.learn(&[candidate(1, 1, 9), candidate(3, 3, 1), candidate(4, 4, 1)]);
    w.settle();
    assert_eq!(w.held.len(), ATTACHMENTS);
    assert!(w.held.contains_key(&peer(1)) && w.held.contains_key(&peer(2)));
}

#[test]
fn neighbours_are_asked_at_once_and_then_ever_less_often() {
    let mut w = World::new(&[]);
    assert_eq!(w.keeper.timeout(), None, "there is nobody to ask");
    w.state();
    let mut asked = Vec::new();
    while asked.len() < 5 {
        if w.settle().contains(&KeeperAction::AskNeighbours) {
            asked.push(w.now);
        }
        w.now = w.keeper.timeout().unwrap();
        w.keeper.handle_timeout(w.now);
    }
    let waits: Vec<_> = asked.windows(2).map(|p| (p[1] - p[0]).as_secs()).collect();
    assert_eq!(waits, [2, 4, 8, 16]);
}

#[test]
fn a_relay_that_is_not_reached_is_tried_ever_later_and_others_meanwhile() {
    let mut w = World::new(&[]);
    w.learn(&[candidate(1, 1, 1000)]);
    let mut tries = Vec::new();
    while tries.len() < 4 {
        while let Some(action) = w.keeper.poll_action() {
            assert_eq!(action, KeeperAction::Attach(peer(1)));
            tries.push(w.now);
            w.keeper.handle_ended(w.now, peer(1));
        }
        w.now = w.keeper.timeout().unwrap();
        w.keeper.handle_timeout(w.now);
    }
    let waits: Vec<_> = tries.windows(2).map(|p| (p[1] - p[0]).as_secs()).collect();
    assert_eq!(waits, [30, 60, 120]);
    while w.keeper.poll_action().is_some() {}
    w.keeper.handle_ended(w.now, peer(1));
    w.learn(&[candidate(2, 1, 1)]);
    assert_eq!(w.keeper.poll_action(), Some(KeeperAction::Attach(peer(2))));
}

#[test]
fn a_lost_attachment_is_replaced_at_once() {
    let mut w = World::new(&[]);
    w.learn(&[1, 2, 3, 4].map(|n| candidate(n, n, 100 - u64::from(n))));
    w.settle();
    assert!(!w.held.contains_key(&peer(4)));
    w.held.remove(&peer(2));
    w.keeper.handle_ended(w.now, peer(2));
    w.settle();
    assert!(w.held.contains_key(&peer(4)) && w.held.len() == ATTACHMENTS);
}

#[test]
fn one_from_another_network_replaces_one_of_two_from_the_same() {
    let mut w = World::new(&[]);
    w.learn(&[candidate(1, 1, 9), candidate(2, 1, 8), candidate(3, 2, 7)]);
    w.settle();
    assert_eq!(w.held.len(), 3);
    w.learn(&[candidate(4, 3, 1)]);
    let done = w.settle();
    assert_eq!(done[0], KeeperAction::Attach(peer(4)));
    let nets: BTreeSet<_> = w.held.values().collect();
    assert_eq!((w.held.len(), nets.len()), (3, 3), "{done:?}");
    assert_eq!(w.settle(), [], "and there it rests");
}

#[test]
fn a_public_node_chooses_at_random_and_keeps_its_choice() {
    let mut chosen = BTreeSet::new();
    for seed in 0..20 {
        let mut w = World::new(&[]);
        w.keeper = Keeper::new([seed; 32], []);
        w.public = true;
        w.state();
        w.learn(
            &(1..=20)
                .map(|n| candidate(n, 1, n.into()))
                .collect::<Vec<_>>(),
        );
        w.settle();
        assert_eq!(w.held.len(), ATTACHMENTS);
        chosen.extend(w.held.into_keys());
    }
    assert!(chosen.len() > 10, "only {} ever chosen", chosen.len());
}

proptest! {
    #[test]
    fn whatever_is_told_there_are_never_more_than_the_limits(
        told in proptest::collection::vec((1..=200_u8, 0..6_u8, 0..5000_u64, any::<bool>()), 0..300)
    ) {
        let mut w = World::new(&[1]);
        for (seed, net, known, lose) in told {
            w.learn(&[candidate(seed, net, known)]);
            w.settle();
            if lose && let Some(peer) = w.held.keys().next().copied() {
                w.held.remove(&peer);
                w.keeper.handle_ended(w.now, peer);
                w.settle();
            }
            w.now += Duration::from_secs(1);
            w.keeper.handle_timeout(w.now);
            prop_assert!(w.held.len() <= ATTACHMENTS);
            prop_assert!(w.keeper.candidates.len() <= MAX_CANDIDATES);
            prop_assert!(!w.held.contains_key(&peer(1)), "the bootstrap peer is kept by others");
        }
    }
}
