use proptest::prelude::*;

use super::*;

fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 4000))
}

fn plan(technique: Technique, client: bool, start: Instant, targets: &[SocketAddr]) -> PunchPlan {
    PunchPlan {
        technique,
        client,
        start,
        targets: targets.to_vec(),
        sockets: 0,
        ttl: None,
        seed: 1,
    }
}

fn puncher(now: Instant, targets: &[SocketAddr]) -> Puncher {
    Puncher::new(now, plan(Technique::Punch, true, now, targets))
}

fn drain(p: &mut Puncher) -> Vec<PunchAction> {
    std::iter::from_fn(|| p.poll_action()).collect()
}

fn run_out(p: &mut Puncher) -> Vec<PunchAction> {
    let mut actions = drain(p);
    while let Some(at) = p.timeout() {
        p.handle_timeout(at);
        actions.extend(drain(p));
    }
    actions
}

fn pings(actions: &[PunchAction]) -> Vec<(Local, SocketAddr, u64, Option<u8>)> {
    let pings = actions.iter().filter_map(|a| match *a {
        PunchAction::Ping {
            from,
            to,
            nonce,
            ttl,
            ..
        } => Some((from, to, nonce, ttl)),
        _ => None,
    });
    pings.collect()
}

#[test]
fn only_the_answer_to_our_own_ping_from_its_target_counts() {
    let now = Instant::now();
    let mut p = puncher(now, &[addr(1)]);
    let (_, to, nonce, _) = pings(&drain(&mut p))[0];
    p.handle_pong(now, addr(9), nonce);
    p.handle_pong(now, to, nonce.wrapping_add(1));
    assert_eq!(drain(&mut p), []);
    p.handle_pong(now, to, nonce);
    let reached = PunchAction::Reached {
        from: Local::Main,
        to: addr(1),
    };
    assert_eq!(drain(&mut p), [reached]);
    assert_eq!(p.timeout(), None);
}

#[test]
fn a_peer_reflexive_candidate_is_pinged_at_once() {
    let now = Instant::now();
    let mut p = puncher(now, &[addr(1)]);
    drain(&mut p);
    p.handle_ping(Local::Main, addr(2), false);
    assert_eq!(pings(&drain(&mut p))[0].1, addr(2));
}

#[test]
fn a_ping_that_watches_a_circuit_is_no_candidate() {
    let now = Instant::now();
    let mut p = puncher(now, &[addr(1)]);
    drain(&mut p);
    p.handle_ping(Local::Main, crate::circuit::CircuitId(7).address(), false);
    assert_eq!(drain(&mut p), []);
}

#[test]
fn nothing_is_sent_before_the_agreed_start() {
    let now = Instant::now();
    let start = now + Duration::from_millis(30);
    let mut p = Puncher::new(now, plan(Technique::Punch, true, start, &[addr(1)]));
    assert_eq!((drain(&mut p), p.timeout()), (vec![], Some(start)));
    p.handle_timeout(start);
    assert_eq!(drain(&mut p).len(), 1);
}

#[test]
fn no_candidates_fail_at_once() {
    let now = Instant::now();
    assert_eq!(drain(&mut puncher(now, &[])), [PunchAction::Failed]);
}

#[test]
fn an_openers_first_pings_die_on_the_way_and_later_ones_do_not() {
    let now = Instant::now();
    let opener = PunchPlan {
        ttl: Some(2),
        ..plan(Technique::LowTtlServer, false, now, &[addr(1)])
    };
    let mut p = Puncher::new(now, opener);
    p.handle_ping(Local::Main, addr(7), false);
    let sent = pings(&run_out(&mut p));
    let first: Vec<_> = sent.iter().filter(|s| s.1 == addr(1)).collect();
    assert_eq!((first[0].3, first.last().unwrap().3), (Some(2), None));
    assert!(sent.iter().find(|s| s.1 == addr(7)).unwrap().3.is_none());
}

#[test]
fn a_client_nominates_the_pair_that_answered_and_waits_for_the_server() {
    let now = Instant::now();
    let guesses: Vec<_> = (1..4).map(addr).collect();
    let mut client = Puncher::new(now, plan(Technique::Prediction, true, now, &guesses));
    let (_, to, nonce, _) = pings(&drain(&mut client))[1];
    client.handle_pong(now, to, nonce);
    let sent = drain(&mut client);
    let [
        PunchAction::Ping {
            to: nominated,
            nonce,
            nominate: true,
            ..
        },
    ] = sent[..]
    else {
        panic!("{sent:?}");
    };
    assert_eq!(nominated, to);
    client.handle_pong(now, to, nonce);
    assert_eq!(
        drain(&mut client),
        [PunchAction::Reached {
            from: Local::Main,
            to
        }]
    );
}

#[test]
fn a_server_uses_the_socket_it_is_told_to() {
    let now = Instant::now();
    let many = PunchPlan {
        sockets: BIRTHDAY_SOCKETS,
        ..plan(Technique::Birthday, false, now, &[addr(1)])
    };
    let mut server = Puncher::new(now, many);
    drain(&mut server);
    server.handle_ping(Local::Aux(3), addr(1), false);
    server.handle_ping(Local::Aux(9), addr(1), true);
    assert!(drain(&mut server).contains(&PunchAction::Reached {
        from: Local::Aux(9),
        to: addr(1)
    }));
}

#[test]
fn a_birthday_attempt_uses_every_socket_and_every_guess_once() {
    let now = Instant::now();
    let many = PunchPlan {
        sockets: BIRTHDAY_SOCKETS,
        ..plan(Technique::Birthday, true, now, &[addr(1), addr(2)])
    };
    let sent = pings(&run_out(&mut Puncher::new(now, many)));
    let sockets: std::collections::BTreeSet<_> = sent.iter().map(|s| s.0).collect();
    assert_eq!((sockets.len(), sent.len()), (256, 256));
    assert!(sent.iter().all(|s| s.1 == addr(1)));
    let ports = birthday_ports(5);
    let guesses: Vec<_> = ports
        .iter()
        .map(|p| SocketAddr::from(([192, 0, 2, 1], *p)))
        .collect();
    let mut easy = Puncher::new(now, plan(Technique::Birthday, true, now, &guesses));
    let sent = pings(&run_out(&mut easy));
    let distinct: std::collections::BTreeSet<_> = sent.iter().map(|s| s.1).collect();
    assert_eq!((sent.len(), distinct.len()), (1024, 1024));
}

proptest! {
    #[test]
    fn the_budget_holds_the_end_comes_and_the_run_repeats(
        code in 1_u32..=5,
        client: bool,
        sockets in prop::sample::select(vec![0, 1, BIRTHDAY_SOCKETS, u16::MAX]),
        candidates in 0..40_u8,
        reflexive in proptest::collection::vec((0..300_u16, 0..60_u8), 0..80),
        seed: u64,
    ) {
        let start = Instant::now();
        let targets: Vec<_> = (0..candidates).map(addr).collect();
        let plan = PunchPlan {
            sockets,
            seed,
            ..plan(Technique::from_code(code).unwrap(), client, start, &targets)
        };
        let run = || {
            let mut p = Puncher::new(start, plan.clone());
            for (socket, n) in &reflexive {
                p.handle_ping(Local::Aux(*socket), addr(100 + n), false);
            }
            let actions = run_out(&mut p);
            (actions, p.sent())
        };
        let (actions, sent) = run();
        prop_assert_eq!(run(), (actions.clone(), sent));
        prop_assert!(sent <= plan.budget());
        prop_assert_eq!(pings(&actions).len(), sent as usize);
        prop_assert_eq!(actions.last(), Some(&PunchAction::Failed));
        let ends = actions.len() - pings(&actions).len();
        prop_assert_eq!(ends, 1);
    }
}
