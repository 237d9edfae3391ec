use super::*;
use crate::network::testing::{NOW, charter, keypair, peer};
use crate::network::{
    Charter,
    membership::MembershipError,
    statement::{Certificate, Issuer, OptOuts, Role},
};

fn authority() -> Signer {
    Signer::Authority(keypair(1))
}

fn sign(body: Result<Body, MembershipError>) -> Arc<Statement> {
    Arc::new(Statement::sign(body.unwrap(), &authority(), &charter()).unwrap())
}

fn certificate(of: u8) -> Certificate {
    Certificate {
        peer: peer(of),
        version: 0,
        name: format!("host-{of}").parse().unwrap(),
        role: if of == 10 { Role::Owner } else { Role::Member },
        overlay: Vec::new(),
        opt_outs: OptOuts::default(),
        issued_unix_s: NOW,
        expires_unix_s: NOW + 3600,
    }
}

/// Members 10 to 10 + n, an owner and an admin first, in their first epoch.
fn members(n: u8) -> (Membership, SwarmKey) {
    let mut network = Membership::new(charter());
    for of in 10..10 + n {
        let body = network.certify(certificate(of), Issuer::Authority);
        network.merge(sign(body));
    }
    if n > 1 {
        let body = network.appoint_admin(peer(11), NOW);
        network.merge(sign(body));
    }
    let mut owner = Gossip::new(peer(10), network, []);
    owner.rotate(NOW, &authority(), [1; 32]).unwrap();
    let key = owner.key().unwrap().clone();
    (owner.membership, key)
}

/// Nodes whose messages arrive at once, in order.
struct World {
    nodes: BTreeMap<PeerId, Gossip>,
    links: BTreeSet<(PeerId, PeerId)>,
    now: Instant,
    /// Messages delivered, and how many of them carried a key.
    sent: (usize, usize),
}

impl World {
    fn new(n: u8) -> Self {
        let (network, key) = members(n);
        let node = |of| Gossip::new(peer(of), network.clone(), [key.clone()]);
        Self {
            nodes: (10..10 + n).map(|of| (peer(of), node(of))).collect(),
            links: BTreeSet::new(),
            now: Instant::now(),
            sent: (0, 0),
        }
    }

    fn node(&mut self, of: u8) -> &mut Gossip {
        self.nodes.get_mut(&peer(of)).unwrap()
    }

    fn link(&mut self, a: u8, b: u8) {
        let now = self.now;
        for (from, to) in [(a, b), (b, a)] {
            self.links.insert((peer(from), peer(to)));
            self.node(from).handle_connected(now, peer(to));
        }
    }

    fn unlink(&mut self, a: u8, b: u8) {
        for (from, to) in [(a, b), (b, a)] {
            self.links.remove(&(peer(from), peer(to)));
            self.node(from).handle_disconnected(peer(to));
        }
    }

    fn settle(&mut self) {
        loop {
            let mut sent: Vec<_> = Vec::new();
            for (from, node) in &mut self.nodes {
                while node.poll_event().is_some() {}
                sent.extend(std::iter::from_fn(|| node.poll_transmit()).map(|t| (*from, t)));
            }
            if sent.is_empty() {
                return;
            }
            for (from, (to, message)) in sent {
                if !self.links.contains(&(from, to)) {
                    continue;
                }
                self.sent.0 += 1;
                self.sent.1 += usize::from(matches!(message, Message::Key { .. }));
                let frame = message.encode();
                let content = crate::take_frame(&mut &frame[..], MAX_GOSSIP_FRAME);
                let message = Message::decode(content.unwrap().unwrap()).unwrap();
                let node = self.nodes.get_mut(&to).unwrap();
                node.handle_message(self.now, NOW, from, message).unwrap();
            }
        }
    }

    fn tick(&mut self, time: Duration) {
        self.now += time;
        for node in self.nodes.values_mut() {
            node.handle_timeout(self.now);
        }
        self.settle();
    }

    fn assert_equal(&self) {
        let mut nodes = self.nodes.values();
        let first = nodes.next().unwrap();
        for node in nodes {
            assert_eq!(node.membership(), first.membership());
            assert_eq!(node.key(), first.key());
        }
    }
}

#[test]
fn what_is_said_anywhere_is_known_everywhere() {
    let mut world = World::new(5);
    for (a, b) in [(10, 11), (11, 12), (12, 13), (13, 14), (14, 10)] {
        world.link(a, b);
    }
    world.settle();
    let body = world
        .node(12)
        .membership()
        .revocation(peer(14), Issuer::Authority, NOW);
    let statement = sign(body);
    world.node(12).handle_own(NOW, vec![statement]);
    world.settle();
    world.assert_equal();
    for node in world.nodes.values() {
        assert_eq!(node.membership().standing(peer(14), NOW), Standing::Revoked);
    }
}

#[test]
fn a_node_that_was_away_gets_what_it_missed_when_it_returns_and_tells_others() {
    let mut world = World::new(40);
    for of in 11..48 {
        world.link(10, of);
    }
    world.link(48, 49);
    world.settle();
    for of in 11..48 {
        let network = world.node(10).membership();
        let renamed = Certificate {
            name: format!("renamed-{of}").parse().unwrap(),
            ..certificate(of)
        };
        let statement = sign(network.certify(renamed, Issuer::Authority));
        world.node(10).handle_own(NOW, vec![statement]);
    }
    world.settle();
    world.link(10, 49);
    world.settle();
    world.tick(ANNOUNCE_DELAY);
    world.assert_equal();
}

#[test]
fn a_new_key_reaches_every_connected_member_and_costs_little_more_than_one_message_each() {
    let mut world = World::new(30);
    for of in 10..40_u8 {
        for step in [1, 7, 11] {
            let other = 10 + (of - 10 + step) % 30;
            if !world.links.contains(&(peer(of), peer(other))) {
                world.link(of, other);
            }
        }
    }
    world.settle();
    world.sent = (0, 0);
    world.node(10).rotate(NOW, &authority(), [2; 32]).unwrap();
    world.settle();
    world.assert_equal();
    assert_eq!(world.node(33).key().unwrap().epoch(), Epoch(2));
    let (all, keys) = world.sent;
    assert_eq!(all, keys, "nothing but keys is sent");
    // Six neighbours each, and none is told by whom it told.
    assert!((29..=30 * 5 + 1).contains(&keys), "{keys}");
}

#[test]
fn a_member_that_returns_gets_the_key_and_a_revoked_one_does_not() {
    let mut world = World::new(4);
    world.link(10, 11);
    world.settle();
    let body = world
        .node(10)
        .membership()
        .revocation(peer(13), Issuer::Authority, NOW);
    let statement = sign(body);
    world.node(10).handle_own(NOW, vec![statement]);
    world.node(10).rotate(NOW, &authority(), [2; 32]).unwrap();
    world.settle();
    world.link(11, 12);
    world.link(11, 13);
    world.settle();
    assert_eq!(world.node(12).key().unwrap().epoch(), Epoch(2));
    assert_eq!(world.node(13).key().unwrap().epoch(), Epoch(1));
}

#[test]
fn two_rotations_at_once_end_in_one_key() {
    let mut world = World::new(6);
    for of in 10..15 {
        world.link(of, of + 1);
    }
    world.settle();
    world.unlink(12, 13);
    let appointment = world
        .node(11)
        .membership()
        .appointment(peer(11))
        .unwrap()
        .clone();
    let admin = Signer::Admin {
        keypair: keypair(11),
        appointment,
    };
    world.node(14).rotate(NOW, &authority(), [2; 32]).unwrap();
    world.node(11).rotate(NOW, &admin, [3; 32]).unwrap();
    world.settle();
    let halves = [world.node(10).key().cloned(), world.node(15).key().cloned()];
    assert_ne!(halves[0], halves[1]);
    world.link(12, 13);
    world.settle();
    world.assert_equal();
    let key = world.node(10).key().cloned();
    assert!(halves.contains(&key), "a third key");
    let key = KeyId::of(&key.unwrap(), &charter());
    for half in halves.into_iter().flatten() {
        assert!(key <= KeyId::of(&half, &charter()), "the smaller id wins");
    }
}

#[test]
fn false_statements_and_wrong_keys_are_noticed_and_kept_by_nobody() {
    let mut world = World::new(2);
    let (now, before) = (world.now, world.node(10).membership().clone());
    let forged = {
        let body = Body::Certificate(certificate(20));
        let other = Charter::new("lab".parse().unwrap(), peer(9)).unwrap();
        let signer = Signer::Authority(keypair(9));
        Statement::sign(body, &signer, &other).unwrap()
    };
    let node = world.node(10);
    let message = Message::Statements(vec![forged.encode()]);
    let error = node
        .handle_message(now, NOW, peer(11), message)
        .unwrap_err();
    assert_eq!(error, Misbehaviour::Statement(StatementError::Signature));
    let statement = before.epoch_statement().unwrap().encode();
    let message = Message::Key {
        statement,
        secret: [7; 32],
    };
    let error = node
        .handle_message(now, NOW, peer(11), message)
        .unwrap_err();
    assert_eq!(error, Misbehaviour::WrongKey);
    assert_eq!(node.membership(), &before);
    assert_eq!(node.key().unwrap().secret(), &[1; 32]);
}

#[test]
fn a_key_is_told_of_once_and_old_ones_are_forgotten() {
    let mut world = World::new(1);
    let node = world.node(10);
    for round in 2..10_u8 {
        node.rotate(NOW, &authority(), [round; 32]).unwrap();
        let told: Vec<_> = std::iter::from_fn(|| node.poll_event()).collect();
        let key = SwarmKey::new(Epoch(round.into()), [round; 32]);
        assert_eq!(told, [GossipEvent::Changed, GossipEvent::NewKey(key)]);
    }
    assert_eq!(node.keys().count(), MAX_KEYS);
    assert_eq!(node.key().unwrap().epoch(), Epoch(9));
}
