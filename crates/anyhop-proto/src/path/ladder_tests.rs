use proptest::prelude::*;

use super::*;
use crate::nat::{Allocation, Filtering, Mapping};

const V4: &[Family] = &[Family::V4];

fn profile(mapping: Mapping, filtering: Filtering, allocation: Allocation) -> Profile {
    Profile {
        mapping: Some(mapping),
        filtering: Some(filtering),
        allocation: Some(allocation),
        ..Profile::default()
    }
}

fn cone(filtering: Filtering) -> Profile {
    profile(
        Mapping::EndpointIndependent,
        filtering,
        Allocation::Preserving,
    )
}

fn symmetric(allocation: Allocation) -> Profile {
    let filtering = Filtering::AddressAndPortDependent;
    profile(Mapping::AddressAndPortDependent, filtering, allocation)
}

fn tried(a: &Profile, b: &Profile) -> Vec<Technique> {
    let steps = plan_family(Family::V4, a, b);
    let tried = steps.into_iter().filter_map(|s| match s {
        Step::Try((technique, _)) => Some(technique),
        Step::Skip(..) => None,
    });
    tried.collect()
}

#[test]
fn the_techniques_follow_from_the_two_nats() {
    use Technique::{Birthday, LowTtlClient, LowTtlServer, Prediction, Punch};
    let unknown = Profile::default();
    let strict = cone(Filtering::AddressAndPortDependent);
    let restricted = cone(Filtering::AddressDependent);
    let full = cone(Filtering::EndpointIndependent);
    let unsure = Profile {
        filtering: None,
        ..strict
    };
    let sequential = symmetric(Allocation::Sequential { step: 1 });
    let random = symmetric(Allocation::Random);
    let punches: &[_] = &[Punch, LowTtlServer, LowTtlClient];
    let table: &[(&Profile, &Profile, &[Technique])] = &[
        (&unknown, &unknown, punches),
        (&strict, &strict, punches),
        (&sequential, &full, punches),
        (&random, &restricted, punches),
        (&sequential, &strict, &[Prediction, Birthday]),
        (&random, &strict, &[Birthday]),
        (&random, &unsure, &[Punch, Birthday]),
        (&sequential, &sequential, &[Prediction]),
        (&sequential, &random, &[]),
        (&random, &random, &[]),
    ];
    for (a, b, expected) in table {
        assert_eq!(tried(a, b), *expected, "{a:?} and {b:?}");
        assert_eq!(tried(b, a), *expected, "{b:?} and {a:?}");
    }
}

#[test]
fn random_towards_random_is_skipped_with_a_reason() {
    let random = symmetric(Allocation::Random);
    let steps = plan_family(Family::V4, &random, &random);
    let [Step::Skip((Technique::Birthday, Family::V4), why)] = steps[..] else {
        panic!("{steps:?}");
    };
    assert!(why.contains("at random"));
}

#[test]
fn an_open_second_family_is_punched_before_the_first_one_is_guessed_at() {
    let own = Profiles {
        v4: symmetric(Allocation::Random),
        v6: Profile::default(),
    };
    let peer = Profiles {
        v4: cone(Filtering::AddressAndPortDependent),
        v6: Profile::default(),
    };
    let steps = plan(&[Family::V4, Family::V6], &own, &peer);
    assert_eq!(steps[0], Step::Try((Technique::Punch, Family::V6)));
    assert_eq!(
        steps.last(),
        Some(&Step::Try((Technique::Birthday, Family::V4)))
    );
}

/// What a ladder does until `end` if nothing succeeds and each attempt takes `takes`.
fn race(
    ladder: &mut Ladder,
    own: &Profiles,
    start: Instant,
    takes: Duration,
) -> Vec<(Technique, Duration)> {
    let mut running: Vec<(Instant, Choice)> = Vec::new();
    let mut out = Vec::new();
    let mut now = start;
    ladder.start_round(now);
    loop {
        while let Some(did) = ladder.poll(now, own, V4) {
            match did {
                Move::RoundFailed => return out,
                Move::Take(Step::Skip(..)) => {}
                Move::Take(Step::Try(choice)) => {
                    out.push((choice.0, now - start));
                    running.push((now + takes, choice));
                    assert!(running.len() <= MAX_RACING);
                }
            }
        }
        let at = ladder.timeout().expect("a round runs");
        let ends = running.iter().map(|(at, _)| *at).min();
        now = ends.map_or(at, |ends| ends.min(at));
        let (ended, on): (Vec<_>, _) = running.into_iter().partition(|(at, _)| *at <= now);
        running = on;
        for (_, choice) in ended {
            ladder.handle_failed(now, choice);
        }
    }
}

fn techniques(raced: &[(Technique, Duration)]) -> Vec<Technique> {
    raced.iter().map(|(technique, _)| *technique).collect()
}

#[test]
fn each_technique_comes_once_in_a_round_and_cools_down() {
    use Technique::{LowTtlClient, LowTtlServer, Punch};
    let mut now = Instant::now();
    let own = Profiles::default();
    let mut ladder = Ladder::default();
    let takes = Duration::from_millis(1500);
    let all = [Punch, LowTtlServer, LowTtlClient];
    assert_eq!(techniques(&race(&mut ladder, &own, now, takes)), all);
    now += Duration::from_secs(5);
    assert_eq!(techniques(&race(&mut ladder, &own, now, takes)), [Punch]);
    ladder.handle_network_changed();
    assert_eq!(techniques(&race(&mut ladder, &own, now, takes)), all);
}

#[test]
fn the_next_technique_starts_after_a_head_start_or_a_failure() {
    let (now, own) = (Instant::now(), Profiles::default());
    let slow = race(&mut Ladder::default(), &own, now, Duration::from_secs(3));
    let starts: Vec<_> = slow.iter().map(|(_, at)| *at).collect();
    assert_eq!(starts, [Duration::ZERO, HEAD_START, HEAD_START * 2]);
    let quick = Duration::from_millis(50);
    let quick = race(&mut Ladder::default(), &own, now, quick);
    let starts: Vec<_> = quick.iter().map(|(_, at)| at.as_millis()).collect();
    assert_eq!(starts, [0, 50, 100]);
}

#[test]
fn a_head_start_counts_from_the_first_ping() {
    let (now, own) = (Instant::now(), Profiles::default());
    let mut ladder = Ladder::default();
    ladder.start_round(now);
    assert!(ladder.poll(now, &own, V4).is_some());
    let agreed = now + Duration::from_millis(300);
    ladder.handle_started(agreed);
    let early = agreed + HEAD_START - Duration::from_millis(1);
    assert_eq!(ladder.poll(early, &own, V4), None);
    assert!(ladder.poll(agreed + HEAD_START, &own, V4).is_some());
}

#[test]
fn what_is_learned_in_a_round_is_tried_at_once() {
    let now = Instant::now();
    let mut own = Profiles::default();
    let mut ladder = Ladder::default();
    ladder.handle_peer(
        Profiles {
            v4: cone(Filtering::AddressAndPortDependent),
            v6: Profile::default(),
        },
        V4.to_vec(),
    );
    ladder.start_round(now);
    let punch = Step::Try((Technique::Punch, Family::V4));
    assert_eq!(ladder.poll(now, &own, V4), Some(Move::Take(punch)));
    assert_eq!(ladder.poll(now, &own, V4), None);
    own.v4 = symmetric(Allocation::Sequential { step: 1 });
    let at = ladder.timeout().expect("a round runs");
    assert!(at < now + HEAD_START);
    let prediction = Step::Try((Technique::Prediction, Family::V4));
    assert_eq!(ladder.poll(at, &own, V4), Some(Move::Take(prediction)));
    let at = ladder.timeout().expect("a round runs");
    assert_eq!(ladder.poll(at, &own, V4), None, "birthday waits for it");
}

#[test]
fn an_ended_round_tries_nothing_more() {
    let (now, own) = (Instant::now(), Profiles::default());
    let mut ladder = Ladder::default();
    ladder.start_round(now);
    assert!(ladder.poll(now, &own, V4).is_some());
    ladder.end_round();
    ladder.handle_failed(now, (Technique::Punch, Family::V4));
    assert_eq!((ladder.poll(now, &own, V4), ladder.timeout()), (None, None));
}

#[test]
fn a_round_goes_on_when_no_path_came_of_an_answer() {
    let (now, own) = (Instant::now(), Profiles::default());
    let mut ladder = Ladder::default();
    ladder.start_round(now);
    assert!(ladder.poll(now, &own, V4).is_some());
    let punch = (Technique::Punch, Family::V4);
    ladder.handle_reached(punch);
    let later = now + HEAD_START * 2;
    assert_eq!(
        (ladder.poll(later, &own, V4), ladder.timeout()),
        (None, None)
    );
    ladder.handle_failed(later, punch);
    assert!(ladder.poll(later, &own, V4).is_some());
}

#[test]
fn what_the_peer_tells_changes_the_plan_within_the_round() {
    let now = Instant::now();
    let own = Profiles {
        v4: symmetric(Allocation::Random),
        v6: Profile::default(),
    };
    let mut ladder = Ladder::default();
    ladder.start_round(now);
    let punch = (Technique::Punch, Family::V4);
    let did = ladder.poll(now, &own, V4);
    assert_eq!(did, Some(Move::Take(Step::Try(punch))));
    ladder.handle_peer(own, vec![Family::V4]);
    ladder.handle_failed(now, punch);
    assert!(matches!(
        ladder.poll(now, &own, V4),
        Some(Move::Take(Step::Skip((Technique::Birthday, _), _)))
    ));
    assert_eq!(ladder.poll(now, &own, V4), Some(Move::RoundFailed));
}

proptest! {
    #[test]
    fn the_ping_budget_holds_over_any_time(asks in proptest::collection::vec((0..3000_u64, 0..2000_u32), 0..200)) {
        let start = Instant::now();
        let mut now = start;
        let mut budget = PingBudget::new(now);
        let mut taken = 0_u64;
        for (wait_ms, n) in asks {
            now += Duration::from_millis(wait_ms);
            if budget.take(now, n) {
                taken += u64::from(n);
            }
            let allowed = u64::from(PingBudget::CAPACITY)
                + (now - start).as_secs() * u64::from(PingBudget::PER_SECOND);
            prop_assert!(taken <= allowed);
        }
    }
}
