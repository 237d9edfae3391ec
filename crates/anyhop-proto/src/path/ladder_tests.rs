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

#[test]
fn each_technique_comes_once_in_a_round_and_cools_down() {
    let mut now = Instant::now();
    let own = Profiles::default();
    let mut ladder = Ladder::default();
    let round = |ladder: &mut Ladder, now| -> Vec<Technique> {
        ladder.start_round();
        let steps = std::iter::from_fn(|| ladder.next(now, &own, V4));
        let tried = steps.map(|s| match s {
            Step::Try((technique, _)) => technique,
            Step::Skip(..) => panic!("nothing is hopeless here"),
        });
        tried.collect()
    };
    assert_eq!(round(&mut ladder, now).len(), 3);
    now += Duration::from_secs(5);
    assert_eq!(round(&mut ladder, now), [Technique::Punch]);
    ladder.network_changed();
    assert_eq!(round(&mut ladder, now).len(), 3);
}

#[test]
fn what_the_peer_tells_changes_the_plan_within_the_round() {
    let now = Instant::now();
    let own = Profiles {
        v4: symmetric(Allocation::Random),
        v6: Profile::default(),
    };
    let mut ladder = Ladder::default();
    ladder.start_round();
    assert_eq!(
        ladder.next(now, &own, V4),
        Some(Step::Try((Technique::Punch, Family::V4)))
    );
    ladder.handle_peer(own, vec![Family::V4]);
    assert!(matches!(
        ladder.next(now, &own, V4),
        Some(Step::Skip((Technique::Birthday, _), _))
    ));
    assert_eq!(ladder.next(now, &own, V4), None);
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
