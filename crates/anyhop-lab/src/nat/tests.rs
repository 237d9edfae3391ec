use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::*;

fn at(text: &str) -> SocketAddr {
    text.parse().expect("a socket address")
}

fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

const WAN: &str = "203.0.113.1";

fn nat(config: NatConfig) -> Nat {
    Nat::new(config, &[WAN.parse().expect("an address")], 7)
}

fn inside() -> SocketAddr {
    at("10.0.0.2:5000")
}

#[test]
fn mapping_axis_decides_which_remotes_see_the_same_port() {
    let remotes = ["198.51.100.1:1", "198.51.100.1:2", "198.51.100.2:1"].map(at);
    let cases = [
        (Mapping::EndpointIndependent, 1),
        (Mapping::AddressDependent, 2),
        (Mapping::AddressAndPortDependent, 3),
    ];
    for (mapping, distinct) in cases {
        let mut nat = nat(NatConfig {
            mapping,
            ..NatConfig::symmetric()
        });
        let now = start();
        let seen: BTreeSet<_> = remotes
            .map(|r| nat.outbound(now, inside(), r).expect("mapped"))
            .into();
        assert_eq!(seen.len(), distinct, "{mapping:?}");
    }
}

#[test]
fn filtering_axis_decides_who_gets_in() {
    let known = at("198.51.100.1:1");
    let (other_port, other_address) = (at("198.51.100.1:2"), at("198.51.100.2:1"));
    let cases = [
        (Filtering::EndpointIndependent, true, true),
        (Filtering::AddressDependent, true, false),
        (Filtering::AddressAndPortDependent, false, false),
    ];
    for (filtering, port_in, address_in) in cases {
        let mut nat = nat(NatConfig {
            filtering,
            ..NatConfig::full_cone()
        });
        let now = start();
        let external = nat.outbound(now, inside(), known).expect("mapped");
        let mut got = |from| nat.inbound(now, from, external);
        let expect = |admitted| {
            if admitted {
                Ok(inside())
            } else {
                Err(NatDrop::Filtered)
            }
        };
        assert_eq!(got(known), Ok(inside()), "{filtering:?}");
        assert_eq!(got(other_port), expect(port_in), "{filtering:?}");
        assert_eq!(got(other_address), expect(address_in), "{filtering:?}");
    }
}

#[test]
fn box_that_blocks_shuts_out_who_came_unasked_and_nobody_else() {
    let duration = Duration::from_secs(60);
    let config = NatConfig::port_restricted_cone().with_unsolicited_blocked(duration);
    let mut nat = nat(config);
    let (now, early, other) = (start(), at("198.51.100.1:1"), at("198.51.100.1:2"));
    let external = nat.outbound(now, inside(), other).expect("mapped");
    assert_eq!(nat.inbound(now, early, external), Err(NatDrop::Filtered));
    let opened = now + Duration::from_secs(1);
    assert_eq!(nat.outbound(opened, inside(), early), Ok(external));
    assert_eq!(nat.inbound(opened, early, external), Err(NatDrop::Blocked));
    assert_eq!(nat.inbound(opened, other, external), Ok(inside()));
    let fresh = at("10.0.0.2:5001");
    let second = nat.outbound(opened, fresh, early).expect("mapped");
    assert_eq!(nat.inbound(opened, early, second), Ok(fresh));
    assert_eq!(nat.inbound(now + duration, early, external), Ok(inside()));
}

#[test]
fn unmapped_port_lets_nothing_in() {
    let mut nat = nat(NatConfig::full_cone());
    let got = nat.inbound(start(), at("198.51.100.1:1"), at("203.0.113.1:5000"));
    assert_eq!(got, Err(NatDrop::NoMapping));
}

#[test]
fn preserving_keeps_the_port_until_a_second_host_wants_it() {
    let mut nat = nat(NatConfig::port_restricted_cone());
    let (now, remote) = (start(), at("198.51.100.1:1"));
    let first = nat.outbound(now, inside(), remote).expect("mapped");
    let second = nat
        .outbound(now, at("10.0.0.3:5000"), remote)
        .expect("mapped");
    assert_eq!(first.port(), 5000);
    assert_ne!(second.port(), 5000);
}

#[test]
fn sequential_counts_up_and_wraps_at_the_end_of_the_range() {
    let mut nat = nat(NatConfig {
        ports: 60_000..=60_002,
        ..NatConfig::symmetric_sequential().with_lifetime(Duration::from_secs(10))
    });
    let begin = start();
    let mut ports = Vec::new();
    for i in 0..4u16 {
        // Every mapping is dead when the fourth is made.
        let now = begin + Duration::from_secs(4) * u32::from(i);
        let remote = SocketAddr::new([198, 51, 100, 1].into(), i + 1);
        let external = nat.outbound(now, inside(), remote).expect("mapped");
        ports.push(external.port());
    }
    assert_eq!(ports, [60_000, 60_001, 60_002, 60_000]);
}

#[test]
fn random_allocation_finds_the_last_free_port_and_then_refuses() {
    let mut nat = nat(NatConfig {
        ports: 2000..=2199,
        ..NatConfig::symmetric()
    });
    let now = start();
    let mut taken = BTreeSet::new();
    for i in 0..200u16 {
        let remote = SocketAddr::new([198, 51, 100, 1].into(), i + 1);
        taken.insert(nat.outbound(now, inside(), remote).expect("mapped").port());
    }
    assert_eq!(taken.len(), 200);
    let refused = nat.outbound(now, inside(), at("198.51.100.2:1"));
    assert_eq!(refused, Err(NatDrop::TableFull));
}

#[test]
fn limit_on_mappings_refuses_the_next_until_one_expires() {
    let lifetime = Duration::from_secs(30);
    let mut nat = nat(NatConfig {
        max_mappings: 1,
        ..NatConfig::port_restricted_cone().with_lifetime(lifetime)
    });
    let (now, remote) = (start(), at("198.51.100.1:1"));
    let other = at("10.0.0.3:6000");
    nat.outbound(now, inside(), remote).expect("mapped");
    assert_eq!(nat.outbound(now, other, remote), Err(NatDrop::TableFull));
    let later = now + lifetime;
    assert!(nat.outbound(later, other, remote).is_ok());
}

#[test]
fn only_outbound_datagrams_keep_a_mapping_alive() {
    let lifetime = Duration::from_secs(30);
    let mut nat = nat(NatConfig::full_cone().with_lifetime(lifetime));
    let (begin, remote) = (start(), at("198.51.100.1:1"));
    let external = nat.outbound(begin, inside(), remote).expect("mapped");

    let refreshed = begin + lifetime - Duration::from_secs(1);
    assert!(nat.inbound(refreshed, remote, external).is_ok());
    assert_eq!(nat.outbound(refreshed, inside(), remote), Ok(external));

    let just_alive = refreshed + lifetime - Duration::from_secs(1);
    assert!(nat.inbound(just_alive, remote, external).is_ok());
    let dead = refreshed + lifetime;
    assert_eq!(nat.inbound(dead, remote, external), Err(NatDrop::NoMapping));
}

#[test]
fn filter_entry_expires_though_its_mapping_lives() {
    let lifetime = Duration::from_secs(30);
    let mut nat = nat(NatConfig::port_restricted_cone().with_lifetime(lifetime));
    let (begin, old, busy) = (start(), at("198.51.100.1:1"), at("198.51.100.2:1"));
    let external = nat.outbound(begin, inside(), old).expect("mapped");
    let later = begin + lifetime;
    let before = later - Duration::from_secs(1);
    assert_eq!(nat.outbound(before, inside(), busy), Ok(external));
    assert_eq!(nat.inbound(later, old, external), Err(NatDrop::Filtered));
    assert_eq!(nat.inbound(later, busy, external), Ok(inside()));
}

#[test]
fn hairpin_needs_to_be_on() {
    let (now, remote) = (start(), at("198.51.100.1:1"));
    let (a, b) = (inside(), at("10.0.0.3:6000"));
    for on in [false, true] {
        let mut nat = nat(NatConfig {
            hairpin: on,
            ..NatConfig::port_restricted_cone()
        });
        let a_ext = nat.outbound(now, a, remote).expect("mapped");
        let b_ext = nat.outbound(now, b, remote).expect("mapped");
        let to_b = nat.outbound(now, a, b_ext);
        if on {
            assert_eq!(to_b, Ok(a_ext));
            assert_eq!(nat.inbound(now, a_ext, b_ext), Err(NatDrop::Filtered));
            nat.outbound(now, b, a_ext).expect("opens b's filter");
            assert_eq!(nat.inbound(now, a_ext, b_ext), Ok(b));
        } else {
            assert_eq!(to_b, Err(NatDrop::NoHairpin));
        }
    }
}

#[test]
fn family_without_external_address_is_refused() {
    let mut nat = nat(NatConfig::full_cone());
    let got = nat.outbound(start(), at("[fd00::2]:1"), at("[2001:db8::1]:1"));
    assert_eq!(got, Err(NatDrop::NoAddress));
}

#[test]
fn reset_forgets_every_mapping() {
    let mut nat = nat(NatConfig::full_cone());
    let (now, remote) = (start(), at("198.51.100.1:1"));
    let external = nat.outbound(now, inside(), remote).expect("mapped");
    nat.reset();
    assert_eq!(nat.mappings(now), 0);
    assert_eq!(nat.inbound(now, remote, external), Err(NatDrop::NoMapping));
}

#[test]
fn inbound_refreshes_only_where_the_box_is_told_to() {
    let lifetime = Duration::from_secs(30);
    for refresh in [false, true] {
        let mut nat = nat(NatConfig {
            inbound_refresh: refresh,
            ..NatConfig::port_restricted_cone().with_lifetime(lifetime)
        });
        let (begin, remote) = (start(), at("198.51.100.1:1"));
        let external = nat.outbound(begin, inside(), remote).expect("mapped");
        let half = begin + lifetime / 2;
        assert_eq!(nat.inbound(half, remote, external), Ok(inside()));
        let later = nat.inbound(begin + lifetime, remote, external);
        assert_eq!(later.is_ok(), refresh);
    }
}

#[test]
fn quota_stops_one_host_and_no_other() {
    let mut nat = nat(NatConfig {
        max_mappings_per_host: 2,
        ..NatConfig::carrier_grade()
    });
    let (now, remote) = (start(), at("198.51.100.1:1"));
    for port in [1, 2] {
        let src = SocketAddr::new(inside().ip(), port);
        nat.outbound(now, src, remote).expect("within the quota");
    }
    assert_eq!(nat.outbound(now, inside(), remote), Err(NatDrop::TableFull));
    assert!(nat.outbound(now, at("10.0.0.3:1"), remote).is_ok());
}

#[test]
fn traffic_of_others_moves_a_sequential_box_on_and_repeats_under_its_seed() {
    let ports = |rate, seed| {
        let config = NatConfig::symmetric_sequential().with_other_traffic(rate);
        let mut nat = Nat::new(config, &[WAN.parse().expect("an address")], seed);
        let begin = start();
        (0..20u16)
            .map(|i| {
                let remote = SocketAddr::new([198, 51, 100, 1].into(), i + 1);
                let now = begin + Duration::from_secs(u64::from(i));
                nat.outbound(now, inside(), remote).expect("mapped").port()
            })
            .collect::<Vec<_>>()
    };
    let quiet = ports(0.0, 1);
    assert!(quiet.windows(2).all(|w| w[1] == w[0] + 1));
    let busy = ports(10.0, 1);
    let moved = busy[19] - busy[0];
    assert!((150..260).contains(&moved), "{moved} in 19 s at 10 per s");
    assert_eq!(busy, ports(10.0, 1));
    assert_ne!(busy, ports(10.0, 2));
}

#[test]
fn ipv6_firewall_keeps_addresses_and_admits_whom_its_filter_knows() {
    let (src, known, stranger) = (
        at("[2001:db8:1::2]:5000"),
        at("[2001:db8::1]:1"),
        at("[2001:db8::9]:1"),
    );
    let mut nat =
        nat(NatConfig::symmetric().with_ipv6_firewall(Filtering::AddressAndPortDependent));
    let now = start();
    assert_eq!(nat.inbound(now, known, src), Err(NatDrop::NoMapping));
    assert_eq!(nat.outbound(now, src, known), Ok(src));
    assert_eq!(nat.inbound(now, known, src), Ok(src));
    assert_eq!(nat.inbound(now, stranger, src), Err(NatDrop::Filtered));
    assert_eq!(nat.outbound(now, src, stranger), Ok(src));
}

#[test]
fn requested_mapping_lets_everybody_in_until_it_expires_or_is_removed() {
    let config = NatConfig::symmetric().with_port_mapping(PortMapping::Honest);
    let mut nat = nat(config);
    let (now, hour) = (start(), Duration::from_secs(3600));
    let external = nat.map(now, inside(), 7000, hour).expect("mapped");
    assert_eq!(external, at("203.0.113.1:7000"));
    let stranger = at("198.51.100.9:9");
    assert_eq!(nat.inbound(now, stranger, external), Ok(inside()));
    assert_eq!(nat.outbound(now, inside(), stranger), Ok(external));
    let other = nat.map(now, at("10.0.0.3:1"), 7000, hour).expect("mapped");
    assert_ne!(other, external, "7000 is taken");

    assert_eq!(nat.map(now, inside(), 0, hour), Ok(external), "a renewal");
    let gone = Err(NatDrop::NoMapping);
    assert_eq!(nat.inbound(now + hour, stranger, external), gone);
    let nothing = Duration::ZERO;
    nat.map(now, inside(), 0, nothing).expect("removed");
    assert_eq!(nat.inbound(now, stranger, external), gone);
}

#[test]
fn lying_box_promises_a_mapping_that_lets_nobody_in() {
    let mut nat = nat(NatConfig::full_cone().with_port_mapping(PortMapping::Lying));
    let (now, hour) = (start(), Duration::from_secs(3600));
    let external = nat.map(now, inside(), 7000, hour).expect("promised");
    let got = nat.inbound(now, at("198.51.100.9:9"), external);
    assert_eq!(got, Err(NatDrop::NoMapping));
    let mut honest = self::nat(NatConfig::full_cone());
    let refused = honest.map(now, inside(), 7000, hour);
    assert_eq!(refused, Err(MapRefused::Unsupported));
}

fn any_config() -> impl Strategy<Value = NatConfig> {
    let mapping = prop_oneof![
        Just(Mapping::EndpointIndependent),
        Just(Mapping::AddressDependent),
        Just(Mapping::AddressAndPortDependent),
    ];
    let filtering = prop_oneof![
        Just(Filtering::EndpointIndependent),
        Just(Filtering::AddressDependent),
        Just(Filtering::AddressAndPortDependent),
    ];
    let allocation = prop_oneof![
        Just(PortAllocation::Preserving),
        Just(PortAllocation::Sequential),
        Just(PortAllocation::Random),
    ];
    (mapping, filtering, allocation, 1..40usize).prop_map(
        |(mapping, filtering, allocation, max_mappings)| NatConfig {
            mapping,
            filtering,
            allocation,
            max_mappings,
            ports: 3000..=3023,
            ..NatConfig::full_cone().with_lifetime(Duration::from_secs(20))
        },
    )
}

/// One outbound datagram: seconds since the one before, internal host and port,
/// remote host and port.
type Step = (u64, u8, u16, u8, u16);

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0..8u64, 2..5u8, 3000..3003u16, 1..4u8, 1..4u16), 1..80)
}

proptest! {
    /// Whatever came before: the remote just sent to gets an answer back to exactly
    /// the internal socket, no two internal sockets share an external one, and the
    /// limit holds.
    #[test]
    fn replies_reach_the_sender_and_nobody_else(config in any_config(), steps in any_steps()) {
        let limit = config.max_mappings;
        let mut nat = nat(config);
        let mut now = start();
        for (pause, host, port, remote_host, remote_port) in steps {
            now += Duration::from_secs(pause);
            let src = SocketAddr::new([10, 0, 0, host].into(), port);
            let dst = SocketAddr::new([198, 51, 100, remote_host].into(), remote_port);
            match nat.outbound(now, src, dst) {
                Ok(external) => prop_assert_eq!(nat.inbound(now, dst, external), Ok(src)),
                Err(e) => prop_assert_eq!(e, NatDrop::TableFull),
            }
            prop_assert!(nat.mappings(now) <= limit);
            prop_assert_eq!(nat.bindings.len(), nat.by_external.len());
        }
    }

    /// The filter is no wider than its axis: a remote gets in only if something
    /// matching it was sent to within the lifetime.
    #[test]
    fn strangers_stay_out(config in any_config(), steps in any_steps(), stranger in (1..5u8, 1..5u16)) {
        let (filtering, lifetime) = (config.filtering, config.lifetime);
        let mut nat = nat(config);
        let mut now = start();
        let mut sent: Vec<(Instant, SocketAddr, SocketAddr)> = Vec::new();
        for (pause, host, port, remote_host, remote_port) in steps {
            now += Duration::from_secs(pause);
            let src = SocketAddr::new([10, 0, 0, host].into(), port);
            let dst = SocketAddr::new([198, 51, 100, remote_host].into(), remote_port);
            if let Ok(external) = nat.outbound(now, src, dst) {
                sent.push((now, external, dst));
            }
        }
        let from = SocketAddr::new([198, 51, 100, stranger.0].into(), stranger.1);
        for (_, external, _) in &sent {
            let invited = sent.iter().any(|(when, ext, dst)| {
                let matches = match filtering {
                    Filtering::EndpointIndependent => true,
                    Filtering::AddressDependent => dst.ip() == from.ip(),
                    Filtering::AddressAndPortDependent => *dst == from,
                };
                ext == external && matches && *when + lifetime > now
            });
            if nat.inbound(now, from, *external).is_ok() {
                prop_assert!(invited, "{from} got in at {external}");
            }
        }
    }
}
