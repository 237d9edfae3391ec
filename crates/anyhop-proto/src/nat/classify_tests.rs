use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const OUTSIDE: [u8; 4] = [198, 51, 100, 7];

/// A box in as few words as the tests can tell apart.
#[derive(Debug)]
struct Box4 {
    mapping: Mapping,
    filtering: Filtering,
    allocation: Allocation,
    hairpin: bool,
    next: u16,
    mappings: BTreeMap<(u16, IpAddr, u16), u16>,
}

const PORTS: [u16; 5] = [50_001, 50_007, 50_003, 50_009, 50_013];

fn responder(n: usize) -> IpAddr {
    IpAddr::from([203, 0, 113, n as u8 + 1])
}

impl Box4 {
    fn new(mapping: Mapping, filtering: Filtering, allocation: Allocation) -> Self {
        Self {
            mapping,
            filtering,
            allocation,
            hairpin: false,
            next: 2000,
            mappings: BTreeMap::new(),
        }
    }

    fn seen(&mut self, socket: u16, ip: IpAddr, port: u16) -> SocketAddr {
        let any = IpAddr::from([0; 4]);
        let key = match self.mapping {
            Mapping::EndpointIndependent => (socket, any, 0),
            Mapping::AddressDependent => (socket, ip, 0),
            _ => (socket, ip, port),
        };
        let fresh = match self.allocation {
            Allocation::Preserving => PORTS[usize::from(socket)],
            Allocation::Sequential { step } => self.next.wrapping_add_signed(step),
            Allocation::Random => self.next.wrapping_mul(31).wrapping_add(7919),
        };
        let taken = self.mappings.values().any(|p| *p == fresh);
        let fresh = if taken { fresh + 1000 } else { fresh };
        let external = *self.mappings.entry(key).or_insert_with(|| {
            self.next = fresh;
            fresh
        });
        (OUTSIDE, external).into()
    }

    fn run(&mut self, responders: usize) -> Profile {
        let own = vec![IpAddr::from([10, 0, 0, 2])];
        let mut classifier = Classifier::new(responders, own, PORTS.to_vec());
        for _ in 0..=MAX_TESTS {
            let Some(test) = classifier.test() else {
                return classifier.profile();
            };
            classifier.handle_outcome(self.answer(test));
        }
        panic!("more than {MAX_TESTS} tests");
    }

    fn answer(&mut self, test: Test) -> Outcome {
        match test {
            Test::Seen {
                socket,
                responder: n,
            } => Outcome::Seen(Some(self.seen(socket, responder(n), 4001))),
            Test::OtherPort => {
                let strict = self.filtering == Filtering::AddressAndPortDependent;
                Outcome::Arrived(Some(!strict))
            }
            Test::SeenByOtherPort => Outcome::Seen(Some(self.seen(0, responder(0), 5001))),
            Test::Unasked { .. } => {
                let open = self.filtering == Filtering::EndpointIndependent;
                Outcome::Arrived(Some(open))
            }
            Test::Hairpin { .. } => Outcome::Arrived(Some(self.hairpin)),
        }
    }
}

#[test]
fn every_behaviour_is_told_with_two_responders_and_none_is_guessed_with_one() {
    use Filtering as F;
    use Mapping as M;
    for mapping in [
        M::EndpointIndependent,
        M::AddressDependent,
        M::AddressAndPortDependent,
    ] {
        for filtering in [
            F::EndpointIndependent,
            F::AddressDependent,
            F::AddressAndPortDependent,
        ] {
            for allocation in [
                Allocation::Preserving,
                Allocation::Sequential { step: 1 },
                Allocation::Sequential { step: -2 },
                Allocation::Random,
            ] {
                let fresh = || Box4::new(mapping, filtering, allocation);
                let told = fresh().run(2);
                assert_eq!(told.mapping, Some(mapping));
                assert_eq!(told.filtering, Some(filtering));
                let one = fresh().run(1);
                assert_eq!(one.allocation, Some(allocation), "{mapping:?}");
                assert_eq!(one.hairpin, (!one.is_hard()).then_some(false));
                assert_eq!(one.is_hard(), mapping == M::AddressAndPortDependent);
                assert_eq!(
                    one.admits_other_ports(),
                    Some(filtering != F::AddressAndPortDependent)
                );
                let names = (one.mapping.unwrap().name(), one.filtering.unwrap().name());
                assert_eq!(names.0.is_some(), mapping == M::AddressAndPortDependent);
                assert_eq!(names.1.is_some(), filtering == F::AddressAndPortDependent);
            }
        }
    }
}

fn public(arrived: Option<bool>) -> Profile {
    let own = vec![IpAddr::from(OUTSIDE)];
    let mut classifier = Classifier::new(1, own, PORTS.to_vec());
    classifier.handle_outcome(Outcome::Seen(Some((OUTSIDE, PORTS[0]).into())));
    let silent = SocketAddr::from((OUTSIDE, PORTS[4]));
    assert!(matches!(classifier.test(), Some(Test::Unasked { at, .. }) if at == silent));
    classifier.handle_outcome(Outcome::Arrived(arrived));
    classifier.profile()
}

#[test]
fn an_open_host_is_one_that_is_reached_where_it_sent_nothing() {
    let open = public(Some(true));
    assert_eq!(
        (open.mapping, open.filtering, open.layers),
        (Some(Mapping::None), Some(Filtering::None), Some(0))
    );
    assert_eq!(public(Some(false)).filtering, None);
    assert_eq!(public(None).filtering, None);
}

#[test]
fn without_responders_nothing_is_tested_or_told() {
    let classifier = Classifier::new(0, Vec::new(), PORTS.to_vec());
    assert_eq!(classifier.test(), None);
    assert_eq!(classifier.profile(), Profile::default());
}

proptest! {
    #[test]
    fn whatever_comes_of_tests_a_run_ends(
        responders in 0..4_usize,
        outcomes in proptest::collection::vec((any::<bool>(), proptest::option::of(any::<u16>()), proptest::option::of(any::<bool>())), MAX_TESTS + 1),
    ) {
        let mut classifier = Classifier::new(responders, vec![IpAddr::from(OUTSIDE)], PORTS.to_vec());
        let mut tests = 0;
        for (seen, port, arrived) in outcomes {
            let Some(test) = classifier.test() else { break };
            prop_assert_eq!(classifier.test(), Some(test));
            tests += 1;
            let fits = matches!(test, Test::Seen { .. } | Test::SeenByOtherPort) == seen;
            classifier.handle_outcome(match (seen, fits) {
                (true, _) => Outcome::Seen(port.map(|p| (OUTSIDE, p).into())),
                (false, _) => Outcome::Arrived(arrived),
            });
        }
        prop_assert!(tests <= MAX_TESTS);
        prop_assert_eq!(classifier.test(), None);
    }
}
