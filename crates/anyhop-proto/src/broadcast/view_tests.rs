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

/// Has two groups form, each in calm, and one node of the first told of one of the second.
fn parts_that_hear_of_each_other(first: usize, second: usize) -> (World, Vec<PeerId>) {
    let (mut world, peers) = World::of(u8::try_from(first + second).unwrap());
    let (one, other) = peers.split_at(first);
    for pair in one.windows(2).chain(other.windows(2)) {
        let view = world.views.get_mut(&pair[1]).unwrap();
        view.handle_candidate(world.now, pair[0]);
        world.run();
    }
    world.pass(Duration::from_secs(120));
    assert_eq!(world.reached_from(one[0]), first);
    let view = world.views.get_mut(&one[1]).unwrap();
    view.handle_candidate(world.now, other[1]);
    world.run();
    world.pass(Duration::from_secs(120));
    (world, peers)
}

#[test]
fn parts_that_formed_apart_become_one_when_one_node_is_told_of_another() {
    for sizes in [(6, 6), (30, 6), (30, 30)] {
        let (world, peers) = parts_that_hear_of_each_other(sizes.0, sizes.1);
        assert_eq!(world.reached_from(peers[0]), peers.len(), "{sizes:?}");
        world.assert_mutual();
    }
}

#[test]
fn one_that_joins_keeps_neighbours_of_its_own_from_the_walks() {
    let (mut world, peers) = World::of(9);
    let now = world.now;
    let view = world.views.get_mut(&peers[0]).unwrap();
    for peer in &peers[1..=MAX_ACTIVE] {
        view.handle_frame(now, *peer, Frame::Neighbour { urgent: false });
    }
    view.handle_candidate(now, peers[7]);
    view.handle_frame(now, peers[8], Frame::Neighbour { urgent: false });
    assert!(peers[1..=MAX_ACTIVE].iter().all(|p| view.is_active(p)));
    let end = world.views.get_mut(&peers[8]).unwrap();
    let (peer, ttl) = (peers[0], 0);
    end.handle_frame(now, peers[7], Frame::ForwardJoin { peer, ttl });
    assert!(!end.is_active(&peer));
    end.handle_frame(now, peer, Frame::Accepted);
    assert!(end.is_active(&peer));
}

#[test]
fn needed_neighbours_are_given_up_last() {
    let (mut world, peers) = World::of(12);
    let now = world.now;
    let view = world.views.get_mut(&peers[0]).unwrap();
    for peer in &peers[1..=MAX_ACTIVE] {
        view.handle_frame(now, *peer, Frame::Join);
    }
    view.set_needed(peers[1..MAX_ACTIVE].iter().copied());
    for peer in &peers[MAX_ACTIVE + 1..] {
        view.handle_frame(now, *peer, Frame::Join);
    }
    let kept = peers[1..MAX_ACTIVE].iter().filter(|p| view.is_active(p));
    assert_eq!(kept.count(), MAX_ACTIVE - 1);
}

#[test]
fn a_node_looks_for_others_while_it_has_too_few_and_nobody_to_ask() {
    let (mut world, peers) = World::of(3);
    let now = world.now;
    let view = world.views.get_mut(&peers[0]).unwrap();
    assert!(view.seeks(now));
    view.handle_candidate(now, peers[1]);
    assert!(!view.seeks(now), "it has just asked");
    assert!(view.seeks(now + ANSWER_WITHIN), "no answer");
    view.handle_frame(now + ANSWER_WITHIN, peers[1], Frame::Accepted);
    assert!(!view.seeks(now + ANSWER_WITHIN));
    assert!(view.seeks(now + ANSWER_WITHIN + SEEK_MORE_INTERVAL));
    view.handle_candidate(now, peers[2]);
    assert!(!view.seeks(now + SEEK_MORE_INTERVAL * 4), "one more to ask");
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
    view.handle_stranger(now, peers[7]);
    let told = view.poll_transmit();
    assert_eq!(told, Some((peers[7], Frame::Disconnect)));
    view.handle_disconnected(now, peers[1]);
    view.handle_stranger(now, peers[7]);
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
