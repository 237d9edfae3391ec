//! Routes from what is known: own links, and the attachments that records tell.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::Duration,
};

use anyhop_base::PeerId;

use crate::circuit::MAX_HOPS;

/// Routes offered at most.
pub const MAX_ROUTES: usize = 6;
/// How far attachments of attachments are followed from the target.
pub const MAX_DEPTH: usize = 4;
/// Nodes looked at for one plan.
const MAX_NODES: usize = 512;
/// Round trip assumed of a link that this node does not measure.
const UNMEASURED_RTT: Duration = Duration::from_millis(50);
/// What each relay costs on top of its links, so that of two equal ways the shorter one is
/// taken.
const RELAY_COST: Duration = Duration::from_millis(10);

/// A link of this node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OwnLink {
    /// Who is at its other end.
    pub peer: PeerId,
    /// Its round trip.
    pub rtt: Duration,
    /// The share of packets it loses, 0 to 1.
    pub loss: f64,
}

/// A node as its record tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownNode {
    /// Whose record it is.
    pub peer: PeerId,
    /// Relays it keeps links to.
    pub attachments: Vec<PeerId>,
    /// Whether it relays for others.
    pub relays: bool,
}

/// The peers whose records a plan towards `target` needs, nearest first: its attachments,
/// theirs, and so on, to [`MAX_DEPTH`]. `attachments` is what the record of a peer tells.
pub fn needed(target: PeerId, attachments: impl Fn(PeerId) -> Vec<PeerId>) -> Vec<PeerId> {
    let mut seen = BTreeSet::from([target]);
    let mut order = Vec::new();
    let mut ring = vec![target];
    for _ in 0..MAX_DEPTH {
        let mut next = Vec::new();
        for relay in ring.into_iter().flat_map(&attachments) {
            if seen.len() < MAX_NODES && seen.insert(relay) {
                order.push(relay);
                next.push(relay);
            }
        }
        ring = next;
    }
    order
}

/// Routes from `me` to `target` over own links and known attachments, best first: each
/// the relays to cross, nearest first, none twice, at most [`MAX_HOPS`]. None of `avoid`
/// is crossed. At most [`MAX_ROUTES`]: the best one, and the best ones that do without one
/// of its relays or start over another link.
#[must_use]
pub fn plan(
    me: PeerId,
    target: PeerId,
    links: &[OwnLink],
    known: &[KnownNode],
    avoid: &[PeerId],
) -> Vec<Vec<PeerId>> {
    let graph = Graph::new(me, target, links, known, avoid);
    let mut routes: Vec<(Duration, Vec<PeerId>)> = Vec::new();
    let mut offer = |route: Option<(Duration, Vec<PeerId>)>| {
        if let Some(route) = route
            && routes.iter().all(|(_, relays)| *relays != route.1)
        {
            routes.push(route);
        }
    };
    let best = graph.best(&BTreeSet::new());
    let mut without: BTreeSet<PeerId> = BTreeSet::new();
    for relay in best.iter().flat_map(|(_, relays)| relays) {
        offer(graph.best(&BTreeSet::from([*relay])));
    }
    offer(best);
    // Further first links, each kept off once it was used.
    for _ in 0..MAX_ROUTES {
        let Some(next) = graph.best(&without) else {
            break;
        };
        let Some(first) = next.1.first().copied() else {
            break;
        };
        without.insert(first);
        offer(Some(next));
    }
    routes.sort();
    routes.truncate(MAX_ROUTES);
    routes.into_iter().map(|(_, relays)| relays).collect()
}

struct Graph {
    me: PeerId,
    target: PeerId,
    /// Both ways, between relays that may be crossed, and to the target.
    edges: BTreeMap<PeerId, BTreeMap<PeerId, Duration>>,
}

impl Graph {
    fn new(
        me: PeerId,
        target: PeerId,
        links: &[OwnLink],
        known: &[KnownNode],
        avoid: &[PeerId],
    ) -> Self {
        let unwilling: BTreeSet<PeerId> = known
            .iter()
            .filter(|k| !k.relays)
            .map(|k| k.peer)
            .chain(avoid.iter().copied())
            .collect();
        let crossed = |peer: PeerId| peer == target || !unwilling.contains(&peer);
        let mut graph = Self {
            me,
            target,
            edges: BTreeMap::new(),
        };
        for link in links.iter().filter(|l| crossed(l.peer) && l.peer != target) {
            let loss = link.loss.clamp(0.0, 0.9);
            graph.add(me, link.peer, link.rtt.div_f64(1.0 - loss));
        }
        for node in known.iter().filter(|k| k.peer != me && crossed(k.peer)) {
            for relay in node.attachments.iter().filter(|r| crossed(**r)) {
                if *relay != me {
                    graph.add(node.peer, *relay, UNMEASURED_RTT);
                }
            }
        }
        graph
    }

    fn add(&mut self, a: PeerId, b: PeerId, cost: Duration) {
        if a == b {
            return;
        }
        for (from, to) in [(a, b), (b, a)] {
            if self.edges.len() < MAX_NODES || self.edges.contains_key(&from) {
                self.edges
                    .entry(from)
                    .or_default()
                    .entry(to)
                    .or_insert(cost);
            }
        }
    }

    /// The cheapest route that crosses none of `without`, by Dijkstra's algorithm over
    /// nodes and hops, so that a way that is cheap but too long hides no shorter one.
    fn best(&self, without: &BTreeSet<PeerId>) -> Option<(Duration, Vec<PeerId>)> {
        let start = (Duration::ZERO, 0, self.me);
        let mut costs = BTreeMap::from([((self.me, 0), Duration::ZERO)]);
        let mut before: BTreeMap<(PeerId, usize), PeerId> = BTreeMap::new();
        let mut queue = BinaryHeap::from([Reverse(start)]);
        while let Some(Reverse((cost, hops, node))) = queue.pop() {
            if node == self.target {
                return Some((cost, self.walk_back(&before, hops)));
            }
            if hops > MAX_HOPS || costs.get(&(node, hops)).is_some_and(|c| *c < cost) {
                continue;
            }
            for (next, edge) in self.edges.get(&node).into_iter().flatten() {
                if *next == self.me || without.contains(next) {
                    continue;
                }
                let cost = cost + *edge + RELAY_COST;
                let mut shorter = costs.range((*next, 0)..=(*next, hops + 1));
                if shorter.any(|(_, known)| *known <= cost) {
                    continue;
                }
                costs.insert((*next, hops + 1), cost);
                before.insert((*next, hops + 1), node);
                queue.push(Reverse((cost, hops + 1, *next)));
            }
        }
        None
    }

    fn walk_back(&self, before: &BTreeMap<(PeerId, usize), PeerId>, hops: usize) -> Vec<PeerId> {
        let mut route = Vec::new();
        let mut node = self.target;
        for hops in (1..=hops).rev() {
            node = before[&(node, hops)];
            route.push(node);
        }
        // The last one is this node.
        route.pop();
        route.reverse();
        route
    }
}

#[cfg(test)]
mod tests {
    use anyhop_base::Keypair;
    use proptest::prelude::*;

    use super::*;

    fn peer(seed: u8) -> PeerId {
        let key = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
        key.public().to_peer_id()
    }

    fn peers(seeds: &[u8]) -> Vec<PeerId> {
        seeds.iter().map(|s| peer(*s)).collect()
    }

    fn link(seed: u8, ms: u64) -> OwnLink {
        OwnLink {
            peer: peer(seed),
            rtt: Duration::from_millis(ms),
            loss: 0.0,
        }
    }

    fn known(seed: u8, attachments: &[u8]) -> KnownNode {
        KnownNode {
            peer: peer(seed),
            attachments: peers(attachments),
            relays: true,
        }
    }

    #[test]
    fn two_attachments_are_crossed_and_collapse_where_they_coincide() {
        let links = [link(1, 20), link(2, 30)];
        let records = [known(9, &[3]), known(3, &[1])];
        let routes = plan(peer(0), peer(9), &links, &records, &[]);
        assert_eq!(routes, [peers(&[1, 3])]);
        let records = [known(9, &[2, 3]), known(3, &[1])];
        let routes = plan(peer(0), peer(9), &links, &records, &[]);
        assert_eq!(routes, [peers(&[2]), peers(&[1, 3])], "the short one first");
    }

    #[test]
    fn round_trip_and_loss_of_own_links_decide_between_equal_ways() {
        let records = [known(9, &[1, 2])];
        let slow_first = [link(1, 90), link(2, 30)];
        let routes = plan(peer(0), peer(9), &slow_first, &records, &[]);
        assert_eq!(routes, [peers(&[2]), peers(&[1])]);
        let mut lossy = link(2, 30);
        lossy.loss = 0.8;
        let routes = plan(peer(0), peer(9), &[link(1, 90), lossy], &records, &[]);
        assert_eq!(routes, [peers(&[1]), peers(&[2])]);
    }

    #[test]
    fn unwilling_and_avoided_relays_are_not_crossed() {
        let links = [link(1, 20), link(2, 20), link(3, 20)];
        let mut unwilling = known(1, &[]);
        unwilling.relays = false;
        let records = [known(9, &[1, 2, 3]), unwilling];
        let routes = plan(peer(0), peer(9), &links, &records, &[peer(2)]);
        assert_eq!(routes, [peers(&[3])]);
    }

    #[test]
    fn records_are_needed_to_the_fourth_attachment() {
        let attachments = |of: PeerId| {
            let seed = (0..20).find(|s| peer(*s) == of).unwrap();
            peers(&[seed + 1, 1])
        };
        assert_eq!(needed(peer(1), attachments), peers(&[2, 3, 4, 5]));
    }

    #[test]
    fn a_chain_longer_than_the_limit_is_no_route() {
        let chain = |relays: u8| -> Vec<KnownNode> {
            (1..relays)
                .map(|n| known(n + 1, &[n]))
                .chain([known(99, &[relays])])
                .collect()
        };
        let limit = MAX_HOPS as u8;
        let links = [link(1, 10)];
        let routes = plan(peer(0), peer(99), &links, &chain(limit), &[]);
        assert_eq!(routes[0].len(), MAX_HOPS);
        let routes = plan(peer(0), peer(99), &links, &chain(limit + 1), &[]);
        assert_eq!(routes, Vec::<Vec<PeerId>>::new());
    }

    proptest! {
        #[test]
        fn routes_follow_known_edges_and_cross_nobody_twice(
            edges in proptest::collection::vec((0..12_u8, 0..12_u8), 0..40),
            avoid in 1..9_u8,
        ) {
            let records: Vec<_> = (0..12).map(|n| {
                let to: Vec<u8> = edges.iter().filter(|(a, _)| *a == n).map(|(_, b)| *b).collect();
                known(n, &to)
            }).collect();
            let joined = |a: PeerId, b: PeerId| edges.iter().any(|(x, y)| {
                (peer(*x), peer(*y)) == (a, b) || (peer(*y), peer(*x)) == (a, b)
            });
            let links: Vec<_> = (1..12).filter(|n| joined(peer(0), peer(*n))).map(|n| link(n, 10)).collect();
            for route in plan(peer(0), peer(11), &links, &records, &[peer(avoid)]) {
                prop_assert!(!route.contains(&peer(avoid)));
                let way: Vec<_> = [peer(0)].into_iter().chain(route).chain([peer(11)]).collect();
                let distinct: BTreeSet<_> = way.iter().collect();
                prop_assert_eq!(distinct.len(), way.len());
                for pair in way.windows(2) {
                    prop_assert!(joined(pair[0], pair[1]));
                }
            }
        }
    }
}
