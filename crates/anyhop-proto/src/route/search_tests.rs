use anyhop_base::Keypair;
use proptest::prelude::*;

use super::*;

fn peer(seed: u8) -> PeerId {
    let key = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
    key.public().to_peer_id()
}

fn relaying(peers: &[u8]) -> Vec<Neighbour> {
    let link = |seed: &u8| Neighbour {
        peer: peer(*seed),
        relays: true,
    };
    peers.iter().map(link).collect()
}

fn find(nonce: u64, target: u8, hop_limit: u32, route: &[u8]) -> Find {
    Find {
        nonce,
        target: peer(target),
        hop_limit,
        budget_ms: 1000,
        route: route.iter().map(|s| peer(*s)).collect(),
        avoid: Vec::new(),
    }
}

fn nothing(admission: Admission) -> Nothing {
    match admission {
        Admission::Nothing(nothing) => nothing,
        other => panic!("{other:?}"),
    }
}

fn forward(admission: Admission) -> Forward {
    match admission {
        Admission::Forward(forward) => *forward,
        other => panic!("{other:?}"),
    }
}

fn refused_for(admission: Admission) -> RefusalReason {
    nothing(admission).refusals[0].reason
}

#[test]
fn the_targets_neighbour_answers_and_each_node_puts_itself_in_front() {
    let now = Instant::now();
    let mut far = SearchBook::new(peer(3));
    let asked = find(1, 9, 1, &[1, 2]);
    let Admission::Here { path } = far.admit(now, peer(2), &asked, Ok(()), &relaying(&[2, 9]))
    else {
        panic!("not found");
    };
    assert_eq!(path, [peer(3)]);
    let mut near = SearchBook::new(peer(2));
    let mut on = forward(near.admit(
        now,
        peer(1),
        &find(1, 9, 2, &[1]),
        Ok(()),
        &relaying(&[1, 3]),
    ));
    assert_eq!(on.to, [peer(3)], "not back to where it came from");
    assert_eq!(on.find.route, [peer(1), peer(2)]);
    assert_eq!((on.find.hop_limit, on.find.budget_ms), (1, 500));
    let found = Found {
        path,
        record: vec![1],
    };
    let found = on
        .gather
        .answered(peer(3), Some(FindAnswer::Found(found)))
        .unwrap();
    assert_eq!(found.path, [peer(2), peer(3)]);
}

#[test]
fn a_ring_is_followed_once_and_again_only_with_more_hops_left() {
    let now = Instant::now();
    let mut book = SearchBook::new(peer(2));
    let links = relaying(&[1, 3, 4]);
    let first = forward(book.admit(now, peer(1), &find(7, 9, 3, &[1]), Ok(()), &links));
    assert_eq!(first.gather.finish().reached, 1);
    for hops in [3, 2] {
        let again = nothing(book.admit(now, peer(4), &find(7, 9, hops, &[4]), Ok(()), &links));
        assert_eq!(again, Nothing::default(), "with {hops} hops left");
    }
    let further = forward(book.admit(now, peer(4), &find(7, 9, 4, &[4]), Ok(()), &links));
    assert_eq!(further.gather.finish().reached, 0, "counted once");
    let later = now + SEEN_FOR;
    forward(book.admit(later, peer(1), &find(7, 9, 3, &[1]), Ok(()), &links));
    assert_eq!(book.seen.len(), 1, "the old one is forgotten");
}

#[test]
fn forged_routes_loops_and_unwilling_nodes_are_refused_by_name() {
    let now = Instant::now();
    let mut book = SearchBook::new(peer(2));
    let links = relaying(&[1, 3]);
    let cases = [
        (find(1, 9, 4, &[3]), Ok(()), RefusalReason::Loop),
        (find(2, 9, 4, &[2, 1]), Ok(()), RefusalReason::Loop),
        (find(3, 9, 4, &[]), Ok(()), RefusalReason::Loop),
        (find(4, 9, 0, &[1]), Ok(()), RefusalReason::HopLimit),
        (
            find(5, 9, 4, &[1]),
            Err(RefusalReason::Full),
            RefusalReason::Full,
        ),
    ];
    for (find, carry, reason) in cases {
        let answer = nothing(book.admit(now, peer(1), &find, carry, &links));
        assert_eq!(
            answer.refusals,
            [Refusal {
                by: peer(2),
                reason
            }]
        );
        assert_eq!((answer.reached, answer.more_beyond), (0, false));
    }
    assert!(book.seen.is_empty());
}

#[test]
fn neighbours_that_say_they_do_not_relay_are_not_asked_but_named() {
    let mut links = relaying(&[1, 3]);
    links.push(Neighbour {
        peer: peer(4),
        relays: false,
    });
    let mut book = SearchBook::new(peer(2));
    let on = forward(book.admit(
        Instant::now(),
        peer(1),
        &find(1, 9, 4, &[1]),
        Ok(()),
        &links,
    ));
    assert_eq!(on.to, [peer(3)]);
    let named = Refusal {
        by: peer(4),
        reason: RefusalReason::NotRelaying,
    };
    assert_eq!(on.gather.finish().refusals, [named]);
}

#[test]
fn nodes_to_avoid_are_not_asked() {
    let mut asked = find(1, 9, 4, &[1]);
    asked.avoid = vec![peer(3)];
    let mut book = SearchBook::new(peer(2));
    let links = relaying(&[1, 3, 4]);
    let on = forward(book.admit(Instant::now(), peer(1), &asked, Ok(()), &links));
    assert_eq!(
        (on.to, on.find.avoid),
        (vec![peer(4)], vec![peer(3)]),
        "and the others are told"
    );
}

#[test]
fn a_neighbour_that_floods_is_slowed_down_and_others_are_not() {
    let mut now = Instant::now();
    let mut book = SearchBook::new(peer(2));
    let links = relaying(&[1, 3]);
    let mut ask = |now, from: u8, nonce| {
        book.admit(now, peer(from), &find(nonce, 9, 1, &[from]), Ok(()), &links)
    };
    for nonce in 0..u64::from(FIND_BURST) {
        assert!(nothing(ask(now, 1, nonce)).refusals.is_empty());
    }
    let refusal = nothing(ask(now, 1, 1 << 32));
    assert_eq!(refusal.refusals[0].reason, RefusalReason::TooOften);
    assert!(refusal.more_beyond, "another time it would go on");
    assert!(nothing(ask(now, 3, 1 << 33)).refusals.is_empty());
    now += FIND_INTERVAL;
    assert!(nothing(ask(now, 1, 1 << 34)).refusals.is_empty());
}

#[test]
fn what_is_passed_on_is_limited_in_total() {
    let now = Instant::now();
    let mut book = SearchBook::new(peer(2));
    let neighbours: Vec<u8> = (10..110).collect();
    let links = relaying(&neighbours);
    let mut passed_on = 0;
    for from in neighbours {
        let asked = find(from.into(), 9, 4, &[from]);
        match book.admit(now, peer(from), &asked, Ok(()), &links) {
            Admission::Forward(on) => passed_on += on.to.len() as u32,
            other => {
                assert_eq!(refused_for(other), RefusalReason::TooOften);
                break;
            }
        }
    }
    assert!(passed_on <= FORWARD_BURST && passed_on > FORWARD_BURST / 2);
}

#[test]
fn answers_that_cannot_be_true_count_as_none() {
    let lies = [
        vec![],
        vec![peer(4)],
        vec![peer(3), peer(3)],
        vec![peer(3), peer(2)],
        vec![peer(3), peer(9)],
        vec![peer(3), peer(4), peer(5), peer(6)],
    ];
    for path in lies {
        let mut gather = Gather::new(Some(peer(2)), peer(9), 3);
        let lie = FindAnswer::Found(Found {
            path: path.clone(),
            record: vec![],
        });
        assert_eq!(gather.answered(peer(3), Some(lie)), None, "{path:?}");
        assert_eq!(gather.finish().unanswered, 1);
    }
}

#[test]
fn rings_grow_until_the_graph_or_the_limit_ends() {
    let beyond = Nothing {
        reached: 2,
        more_beyond: true,
        ..Nothing::default()
    };
    let mut search = Search::new();
    let mut limits = vec![search.first().hop_limit];
    while let Some(ring) = search.handle_nothing(1, beyond.clone()) {
        limits.push(ring.hop_limit);
        assert_eq!(ring.pause, Duration::ZERO);
    }
    assert_eq!(limits, RINGS);
    assert_eq!(search.report().reason, EndReason::Limit);

    let mut search = Search::new();
    assert_eq!(search.report().reason, EndReason::OutOfTime);
    search.handle_nothing(1, beyond).unwrap();
    let all = Nothing {
        reached: 3,
        ..Nothing::default()
    };
    assert_eq!(search.handle_nothing(1, all), None);
    let report = search.report();
    assert_eq!(
        (report.reason, report.reached, report.hop_limit),
        (EndReason::Exhausted, 3, 2)
    );

    let mut search = Search::new();
    assert_eq!(search.handle_nothing(0, Nothing::default()), None);
    assert_eq!(search.report().reason, EndReason::NoNeighbours);
}

#[test]
fn silent_nodes_and_rate_limits_get_one_more_widest_ring() {
    let silent = Nothing {
        unanswered: 1,
        ..Nothing::default()
    };
    let mut search = Search::new();
    let mut rings = 1;
    while search.handle_nothing(2, silent.clone()).is_some() {
        rings += 1;
    }
    assert_eq!(rings, RINGS.len() + 1);
    assert_eq!(search.report().reason, EndReason::Unanswered);

    let mut search = Search::new();
    let busy = Nothing {
        more_beyond: true,
        refusals: vec![Refusal {
            by: peer(1),
            reason: RefusalReason::TooOften,
        }],
        ..Nothing::default()
    };
    let next = search.handle_nothing(1, busy).unwrap();
    assert_eq!(next.pause, TOO_OFTEN_PAUSE);
}

/// Runs a ring over a graph, answers in order of sending; returns the way and the
/// number of requests sent.
fn flood(graph: &BTreeMap<u8, Vec<u8>>, from: u8, to: u8, hops: u32) -> (FindAnswer, usize) {
    let mut books = BTreeMap::new();
    for node in graph.keys() {
        books.insert(*node, SearchBook::new(peer(*node)));
    }
    let ring = Ring {
        hop_limit: hops,
        wait: Duration::from_secs(1),
        pause: Duration::ZERO,
    };
    let start = books[&from].start(42, peer(to), &[], ring, &relaying(&graph[&from]));
    let mut sent = 0;
    let answer = settle(graph, &mut books, from, start, &mut sent);
    (answer, sent)
}

fn settle(
    graph: &BTreeMap<u8, Vec<u8>>,
    books: &mut BTreeMap<u8, SearchBook>,
    node: u8,
    mut on: Forward,
    sent: &mut usize,
) -> FindAnswer {
    for next in on.to {
        *sent += 1;
        let at = *graph.keys().find(|n| peer(**n) == next).unwrap();
        let links = relaying(&graph[&at]);
        let book = books.get_mut(&at).unwrap();
        let answer = match book.admit(Instant::now(), peer(node), &on.find, Ok(()), &links) {
            Admission::Here { path } => FindAnswer::Found(Found {
                path,
                record: vec![],
            }),
            Admission::Nothing(nothing) => FindAnswer::Nothing(nothing),
            Admission::Forward(further) => settle(graph, books, at, *further, sent),
        };
        if let Some(found) = on.gather.answered(next, Some(answer)) {
            return FindAnswer::Found(found);
        }
    }
    FindAnswer::Nothing(on.gather.finish())
}

fn graphs() -> impl Strategy<Value = BTreeMap<u8, Vec<u8>>> {
    proptest::collection::vec((0..10_u8, 0..10_u8), 5..25).prop_map(|edges| {
        let mut graph: BTreeMap<u8, Vec<u8>> = (0..10).map(|n| (n, Vec::new())).collect();
        for (a, b) in edges {
            if a != b && !graph[&a].contains(&b) {
                graph.entry(a).or_default().push(b);
                graph.entry(b).or_default().push(a);
            }
        }
        graph
    })
}

fn distance(graph: &BTreeMap<u8, Vec<u8>>, from: u8, to: u8) -> Option<u32> {
    let mut reached = BTreeMap::from([(from, 0)]);
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        for next in &graph[&node] {
            if !reached.contains_key(next) {
                reached.insert(*next, reached[&node] + 1);
                queue.push_back(*next);
            }
        }
    }
    reached.get(&to).copied()
}

proptest! {
    /// Even when the worst order of answers makes the flood go deep first.
    #[test]
    fn a_ring_finds_what_is_within_it_and_its_traffic_is_bounded(graph in graphs(), hops in 1..=16_u32) {
        let within = distance(&graph, 0, 9).is_some_and(|d| d <= hops + 1);
        let (answer, sent) = flood(&graph, 0, 9, hops);
        let links: usize = graph.values().map(Vec::len).sum();
        prop_assert!(sent <= links * hops as usize, "{} requests over {} links", sent, links / 2);
        match answer {
            FindAnswer::Found(found) => {
                prop_assert!(within);
                let way: Vec<_> = std::iter::once(peer(0)).chain(found.path).chain([peer(9)]).collect();
                for pair in way.windows(2) {
                    let joined = graph.iter().any(|(n, links)| {
                        peer(*n) == pair[0] && links.iter().any(|l| peer(*l) == pair[1])
                    });
                    prop_assert!(joined, "the way leaves the graph");
                }
            }
            FindAnswer::Nothing(nothing) => {
                prop_assert!(!within, "not found within {} hops", hops);
                let all = distance(&graph, 0, 9).is_none();
                prop_assert!(all || nothing.more_beyond, "there is more, and it does not say so");
            }
        }
    }
}
