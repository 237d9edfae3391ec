//! Each kind of router is what it says.

use super::{
    observe::{Behaviour, Observatory, Plain},
    *,
};
use crate::nat::{Filtering, Mapping, PortAllocation};

use Filtering as F;
use Mapping as M;
use PortAllocation as P;

#[test]
fn each_kind_maps_filters_and_allocates_as_it_says() {
    if skipped() {
        return;
    }
    let table = [
        (
            NatKind::FullCone,
            M::EndpointIndependent,
            F::EndpointIndependent,
            P::Preserving,
        ),
        (
            NatKind::RestrictedCone,
            M::EndpointIndependent,
            F::AddressDependent,
            P::Preserving,
        ),
        (
            NatKind::PortRestrictedCone,
            M::EndpointIndependent,
            F::AddressAndPortDependent,
            P::Preserving,
        ),
        (
            NatKind::SymmetricSequential,
            M::AddressAndPortDependent,
            F::AddressAndPortDependent,
            P::Sequential,
        ),
        (
            NatKind::SymmetricRandom,
            M::AddressAndPortDependent,
            F::AddressAndPortDependent,
            P::Random,
        ),
        (
            NatKind::Carrier,
            M::EndpointIndependent,
            F::AddressAndPortDependent,
            P::Random,
        ),
    ];
    let mut lab = NetLab::new().expect("a lab");
    let observatory = Observatory::new(&mut lab);
    for (i, (kind, mapping, filtering, allocation)) in table.into_iter().enumerate() {
        let mut router = lab.router(&format!("nat{i}"), kind).expect("a router");
        let host = lab
            .host_behind(&mut router, &format!("h{i}"))
            .expect("a host");
        let expected = Behaviour {
            mapping,
            filtering,
            allocation,
        };
        assert_eq!(observatory.observe(&host), expected, "{kind:?}");
    }
}

#[test]
fn two_customers_of_a_carrier_share_an_address_and_keep_their_mappings() {
    if skipped() {
        return;
    }
    let mut lab = NetLab::new().expect("a lab");
    let observatory = Observatory::new(&mut lab);
    let mut carrier = lab.router("cgn", NatKind::Carrier).expect("a router");
    let hosts = ["a", "b"].map(|name| {
        let kind = NatKind::PortRestrictedCone;
        let mut home = lab
            .router_behind(&mut carrier, &format!("nat-{name}"), kind)
            .expect("a router");
        assert!(home.wan().to_string().starts_with("100.64."), "{home:?}");
        lab.host_behind(&mut home, name).expect("a host")
    });
    for host in &hosts {
        let expected = Behaviour {
            mapping: M::EndpointIndependent,
            filtering: F::AddressAndPortDependent,
            allocation: P::Random,
        };
        assert_eq!(observatory.observe(host), expected);
    }
    let r = lab.public_host("r", Families::V4).expect("a host");
    let r = Plain::at(&r, 4001);
    let [a, b] = hosts.map(|host| Plain::at(&host, 4001).seen_by(&r));
    assert_eq!(
        (a.ip(), b.ip()),
        (carrier.wan().into(), carrier.wan().into())
    );
    assert_ne!(a.port(), b.port());
}

#[test]
fn rebooted_router_has_forgotten_its_mappings() {
    if skipped() {
        return;
    }
    let mut lab = NetLab::new().expect("a lab");
    let r = lab.public_host("r", Families::V4).expect("a host");
    let r = Plain::at(&r, 4001);
    for (name, kind) in [
        ("full", NatKind::FullCone),
        ("port", NatKind::PortRestrictedCone),
        ("random", NatKind::SymmetricRandom),
    ] {
        let mut router = lab.router(&format!("nat-{name}"), kind).expect("a router");
        let host = lab.host_behind(&mut router, name).expect("a host");
        let a = Plain::at(&host, 4001);
        let before = a.seen_by(&r);
        router.reboot().expect("rebooted");
        // To the old mapping, then to the new one: only the second arrives.
        r.send(before, "old");
        let after = a.seen_by(&r);
        r.send(after, "new");
        assert_eq!(a.next(), (r.addr, "new".into()), "{kind:?}");
        if kind == NatKind::SymmetricRandom {
            assert_ne!(before, after);
        }
    }
}

#[test]
fn two_cone_routers_are_punched_until_one_blocks() {
    if skipped() {
        return;
    }
    let mut lab = NetLab::new().expect("a lab");
    let r = lab.public_host("r", Families::V4).expect("a host");
    let r = Plain::at(&r, 4001);
    let [(nat_a, a), (nat_b, b)] = ["a", "b"].map(|name| {
        let kind = NatKind::PortRestrictedCone;
        let mut nat = lab.router(&format!("nat-{name}"), kind).expect("a router");
        let host = lab.host_behind(&mut nat, name).expect("a host");
        (nat, Plain::at(&host, 4001))
    });
    let (at_a, at_b) = (a.seen_by(&r), b.seen_by(&r));
    assert!(!b.lets_in(&a.known_as(at_a), at_b, &r));
    b.send(at_a, "from b");
    assert_eq!(a.next(), (at_b, "from b".into()));
    a.send(at_b, "from a");
    assert_eq!(b.next(), (at_a, "from a".into()));

    nat_a.block_udp(nat_b.wan()).expect("blocked");
    a.send(at_b, "blocked");
    b.send(at_a, "blocked");
    r.send(at_a, "passes");
    assert_eq!(a.next(), (r.addr, "passes".into()));
    assert_eq!(nat_a.blocked_packets().expect("counted"), 2);
    nat_a.unblock_udp(nat_b.wan()).expect("unblocked");
    a.send(at_b, "again");
    assert_eq!(b.next(), (at_a, "again".into()));
}
