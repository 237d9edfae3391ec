//! Families, blocked UDP, chains and hosts that move.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
};

use super::{observe::Plain, *};
use crate::nat::Filtering;

#[test]
fn blocked_udp_leaves_tcp_alone() {
    if skipped() {
        return;
    }
    let mut lab = NetLab::new().expect("a lab");
    let public = lab.public_host("r", Families::V4).expect("a host");
    let r = Plain::at(&public, 4001);
    let mut router = lab
        .router("nat", NatKind::PortRestrictedCone)
        .expect("a router");
    let host = lab.host_behind(&mut router, "a").expect("a host");
    let a = Plain::at(&host, 4001);
    a.seen_by(&r);

    router.block_all_udp().expect("blocked");
    a.send(r.addr, "blocked");
    let listener = public
        .enter(|| TcpListener::bind("0.0.0.0:443"))
        .expect("bound");
    let to = SocketAddr::new(r.addr.ip(), 443);
    let mut tcp = host
        .enter(move || TcpStream::connect(to))
        .expect("connected");
    tcp.write_all(b"over tcp").expect("sent");
    drop(tcp);
    let mut text = String::new();
    let (mut accepted, from) = listener.accept().expect("accepted");
    accepted.read_to_string(&mut text).expect("read");
    assert_eq!(
        (text.as_str(), from.ip()),
        ("over tcp", IpAddr::from(router.wan()))
    );
    assert_eq!(router.blocked_packets().expect("counted"), 1);

    router.unblock_all_udp().expect("unblocked");
    a.send(r.addr, "passes");
    assert_eq!(r.next().1, "passes");
}

#[test]
fn ipv6_is_not_translated_and_lets_in_whom_the_filter_says() {
    if skipped() {
        return;
    }
    let mut lab = NetLab::new().expect("a lab");
    let hosts = ["p", "q"].map(|name| lab.public_host(name, Families::V6).expect("a host"));
    let at = |host: &Namespace, port| Plain::new(host, host.v6().expect("IPv6"), port);
    let ([p, q], other_port) = (
        hosts.each_ref().map(|host| at(host, 4001)),
        at(&hosts[0], 4002),
    );
    for (name, filtering, strangers) in [
        ("open", Filtering::EndpointIndependent, [true, true]),
        ("half", Filtering::AddressDependent, [false, true]),
        ("shut", Filtering::AddressAndPortDependent, [false, false]),
    ] {
        let config = RouterConfig {
            v4: None,
            v6: Some(filtering),
        };
        let router = lab.router(&format!("gate-{name}"), config);
        let host = lab
            .host_behind(&mut router.expect("a router"), name)
            .expect("a host");
        let a = Plain::new(&host, host.v6().expect("IPv6"), 4001);
        assert_eq!(a.seen_by(&p), a.addr);
        let let_in = [&q, &other_port].map(|stranger| a.lets_in(stranger, a.addr, &p));
        assert_eq!(let_in, strangers, "{filtering:?}");
        assert_eq!(a.seen_by(&q), a.addr);
        assert!(a.lets_in(&q, a.addr, &p));
    }
}

#[test]
fn only_a_host_with_both_families_reaches_both() {
    if skipped() {
        return;
    }
    let mut lab = NetLab::new().expect("a lab");
    let config = RouterConfig {
        v4: Some(NatKind::PortRestrictedCone),
        v6: Some(Filtering::AddressAndPortDependent),
    };
    let mut router = lab.router("gate", config).expect("a router");
    let both = lab.host_behind(&mut router, "both").expect("a host");
    let four = lab.public_host("four", Families::V4).expect("a host");
    let six = lab.public_host("six", Families::V6).expect("a host");
    let f = Plain::at(&four, 4001);
    let s = Plain::new(&six, six.v6().expect("IPv6"), 4001);
    let seen4 = Plain::at(&both, 4001).seen_by(&f);
    assert_eq!(seen4, (router.wan(), 4001).into());
    let six_of_both = both.v6().expect("IPv6");
    let seen6 = Plain::new(&both, six_of_both, 4001).seen_by(&s);
    assert_eq!(seen6, (six_of_both, 4001).into());

    let (to4, to6) = (f.addr, s.addr);
    let sent = four.enter(move || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?.send_to(b"x", to6));
    assert!(sent.is_err(), "IPv6 without an address: {sent:?}");
    let sent = six.enter(move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(b"x", to4));
    assert!(sent.is_err(), "IPv4 without an address: {sent:?}");
}

#[test]
fn hosts_on_one_link_reach_each_other_past_the_routers_firewall() {
    if skipped() {
        return;
    }
    let mut lab = NetLab::new().expect("a lab");
    let config = RouterConfig {
        v4: Some(NatKind::PortRestrictedCone),
        v6: Some(Filtering::AddressAndPortDependent),
    };
    let mut home = lab.router("home", config).expect("a router");
    let [a, b] = ["a", "b"].map(|name| lab.host_behind(&mut home, name).expect("a host"));
    let [a4, b4] = [&a, &b].map(|host| Plain::at(host, 4001));
    assert_eq!(a4.seen_by(&b4), a4.addr);
    let [a6, b6] = [&a, &b].map(|host| Plain::new(host, host.v6().expect("IPv6"), 4001));
    assert_eq!(b6.seen_by(&a6), b6.addr);
}

#[test]
fn in_a_chain_only_neighbours_reach_each_other() {
    if skipped() {
        return;
    }
    let mut lab = NetLab::new().expect("a lab");
    let [a, c, b] = ["a", "c", "b"].map(|name| lab.lone_host(name).expect("a host"));
    let [a_to_c, c_to_a] = lab.link(&a, &c).expect("linked");
    let [c_to_b, b_to_c] = lab.link(&c, &b).expect("linked");
    for (near, near_ip, far, far_ip) in [(&a, a_to_c, &c, c_to_a), (&c, c_to_b, &b, b_to_c)] {
        let near = Plain::new(near, near_ip, 4001);
        let far = Plain::new(far, far_ip, 4001);
        assert_eq!(near.seen_by(&far), near.addr);
    }
    let to = SocketAddr::from((b_to_c, 4001));
    let sent = a.enter(move || UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", to));
    assert!(sent.is_err(), "a way from end to end: {sent:?}");
}

#[test]
fn host_is_reached_again_after_each_kind_of_move() {
    if skipped() {
        return;
    }
    let mut lab = NetLab::new().expect("a lab");
    let r = lab.public_host("r", Families::Both).expect("a host");
    let (r4, r6) = (
        Plain::at(&r, 4001),
        Plain::new(&r, r.v6().expect("IPv6"), 4001),
    );
    let config = RouterConfig {
        v4: Some(NatKind::PortRestrictedCone),
        v6: Some(Filtering::AddressAndPortDependent),
    };
    let [mut home, mut cafe] = ["home", "cafe"].map(|name| lab.router(name, config).expect("made"));
    let mut a = lab.host_behind(&mut home, "a").expect("a host");
    // A socket for each look, as an interface that goes takes routes along.
    let seen4 = |a: &Namespace| Plain::new(a, Ipv4Addr::UNSPECIFIED, 4001).seen_by(&r4);
    let seen6 = |a: &Namespace| Plain::new(a, Ipv6Addr::UNSPECIFIED, 4001).seen_by(&r6);
    let at_home = SocketAddr::from((home.wan(), 4001));
    assert_eq!(
        (seen4(&a), seen6(&a).ip()),
        (at_home, a.v6().expect("IPv6").into())
    );

    a.link_down().expect("down");
    let (to4, to6) = (r4.addr, r6.addr);
    let sent = a.enter(move || {
        UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", to4)?;
        UdpSocket::bind("[::]:0")?.send_to(b"x", to6)
    });
    assert!(sent.is_err(), "sent over an interface that is down");
    a.link_up().expect("up");
    assert_eq!(
        (seen4(&a), seen6(&a).ip()),
        (at_home, a.v6().expect("IPv6").into())
    );

    let (before, spare) = (a.v4(), home.spare_v4().expect("IPv4"));
    a.renumber(spare).expect("renumbered");
    assert_ne!(before, a.v4());
    // The old address still holds the port that both would like.
    assert_eq!(seen4(&a).ip(), at_home.ip());
    a.lose_v4().expect("lost");
    let sent = a.enter(move || UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", to4));
    assert!(sent.is_err(), "IPv4 without an address: {sent:?}");
    assert_eq!(seen6(&a).ip(), IpAddr::from(a.v6().expect("IPv6")));
    a.regain_v4().expect("back");
    assert_eq!(seen4(&a).ip(), at_home.ip());

    let six_at_home = a.v6();
    lab.move_host(&mut a, &mut cafe).expect("moved");
    assert_ne!(six_at_home, a.v6());
    let in_cafe = SocketAddr::from((cafe.wan(), 4001));
    assert_eq!(
        (seen4(&a), seen6(&a).ip()),
        (in_cafe, a.v6().expect("IPv6").into())
    );
}
