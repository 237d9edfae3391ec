use Direction::{In, Out};
use proptest::prelude::*;

use super::{
    packet::{
        ACK, FIN, RST, SYN,
        tests::{built, echo, error, tcp, udp},
    },
    rules::tests::{caller, set},
    *,
};

const HOST: &str = "100.64.0.1";
const PEER: &str = "100.64.0.2";
const SLOT: Slot = 3;

/// A firewall with one member, and a clock.
struct World {
    firewall: Firewall,
    now: Instant,
}

impl World {
    fn new(default: Option<Verdict>, rules: &[&str]) -> Self {
        let mut firewall = Firewall::default();
        firewall.set_peer(SLOT, caller(1, "laptop"));
        let mut world = Self {
            firewall,
            now: Instant::now(),
        };
        world.rules(default, rules);
        world
    }

    fn rules(&mut self, default: Option<Verdict>, rules: &[&str]) {
        self.firewall.set_local(set(default, rules));
    }

    fn admits(&mut self, direction: Direction, packet: &[u8]) -> bool {
        self.firewall.admits(self.now, direction, SLOT, packet)
    }
}

fn closed() -> World {
    World::new(Some(Verdict::Deny), &[])
}

#[test]
fn what_this_host_began_comes_back_and_nothing_else_comes_in_where_all_is_denied() {
    let mut world = closed();
    let (ours, theirs) = ((HOST, 5000), (PEER, 443));
    assert!(!world.admits(In, &tcp(theirs, ours, SYN)), "nobody asked");
    assert!(!world.admits(In, &tcp(theirs, ours, SYN | ACK)));
    assert!(world.admits(Out, &tcp(ours, theirs, SYN)));
    assert!(world.admits(In, &tcp(theirs, ours, SYN | ACK)));
    assert!(world.admits(Out, &tcp(ours, theirs, ACK)));
    assert!(world.admits(In, &tcp(theirs, ours, ACK)));
    assert!(
        !world.admits(In, &tcp((PEER, 444), ours, ACK)),
        "another port"
    );
    assert!(
        !world.admits(In, &tcp(theirs, ours, SYN)),
        "the other way round"
    );

    assert!(world.admits(Out, &udp(ours, (PEER, 53))));
    assert!(world.admits(In, &udp((PEER, 53), ours)));
    assert!(!world.admits(In, &udp((PEER, 54), ours)));

    assert!(world.admits(Out, &echo(HOST, PEER, true, 7)));
    assert!(world.admits(In, &echo(PEER, HOST, false, 7)));
    assert!(!world.admits(In, &echo(PEER, HOST, false, 8)));
    assert!(!world.admits(In, &echo(PEER, HOST, true, 7)));

    let gre = built(HOST, PEER, 47, &[0; 8]);
    assert!(!world.admits(In, &built(PEER, HOST, 47, &[0; 8])));
    assert!(world.admits(Out, &gre));
    assert!(world.admits(In, &built(PEER, HOST, 47, &[0; 8])));
}

#[test]
fn errors_come_in_about_what_is_known_only() {
    let mut world = closed();
    let sent = udp((HOST, 5000), (PEER, 53));
    assert!(!world.admits(In, &error(PEER, HOST, &sent)));
    assert!(world.admits(Out, &sent));
    assert!(world.admits(In, &error(PEER, HOST, &sent)));
    let never = udp((HOST, 5001), (PEER, 53));
    assert!(!world.admits(In, &error(PEER, HOST, &never)));
    let other_way = udp((PEER, 53), (HOST, 5000));
    assert!(
        !world.admits(In, &error(PEER, HOST, &other_way)),
        "not of this host"
    );
    assert!(world.admits(Out, &echo(HOST, PEER, true, 7)));
    let asked = echo(HOST, PEER, true, 7);
    assert!(world.admits(In, &error(PEER, HOST, &asked)));
}

#[test]
fn a_rule_opens_a_port_and_its_answers_go_out() {
    let mut world = World::new(Some(Verdict::Deny), &["allow in name:laptop tcp 22"]);
    let (ours, theirs) = ((HOST, 22), (PEER, 6000));
    assert!(world.admits(In, &tcp(theirs, ours, SYN)));
    assert!(world.admits(Out, &tcp(ours, theirs, SYN | ACK)));
    assert!(!world.admits(In, &tcp(theirs, (HOST, 23), SYN)));
    assert!(!world.admits(In, &udp(theirs, ours)));
    world.firewall.set_peer(SLOT, caller(1, "phone"));
    assert!(
        !world.admits(In, &tcp(theirs, ours, ACK)),
        "it is another name's now"
    );
    world.firewall.set_peer(SLOT, caller(1, "laptop"));
    assert!(world.admits(In, &tcp(theirs, ours, ACK)));
}

#[test]
fn what_a_new_rule_forbids_is_cut_in_both_directions() {
    let mut world = World::new(None, &[]);
    let (ours, theirs) = ((HOST, 22), (PEER, 6000));
    let talk = [
        (In, tcp(theirs, ours, SYN)),
        (Out, tcp(ours, theirs, SYN | ACK)),
        (In, udp(theirs, ours)),
        (Out, udp(ours, theirs)),
    ];
    for (direction, packet) in &talk {
        assert!(world.admits(*direction, packet));
    }
    world.rules(None, &["deny in any any 22", "deny in any icmp any"]);
    for (direction, packet) in talk.iter().rev() {
        assert!(!world.admits(*direction, packet), "{direction:?}");
    }
    assert!(!world.admits(Out, &tcp(ours, theirs, ACK)));
    assert!(!world.admits(In, &error(PEER, HOST, &udp(ours, theirs))));
    world.rules(None, &[]);
    assert!(world.admits(In, &tcp(theirs, ours, ACK)), "allowed again");
    // Rules about what comes in leave alone what this host began.
    assert!(world.admits(Out, &tcp((HOST, 5000), (PEER, 22), SYN)));
    world.rules(None, &["deny in any any 22", "deny in any any 5000"]);
    assert!(world.admits(In, &tcp((PEER, 22), (HOST, 5000), ACK)));
}

#[test]
fn a_connection_of_unknown_beginning_passes_where_both_sides_might_have_begun_it() {
    let (ours, theirs) = ((HOST, 22), (PEER, 6000));
    let middle = [(In, tcp(theirs, ours, ACK)), (Out, tcp(ours, theirs, ACK))];
    for (direction, packet) in &middle {
        assert!(World::new(None, &[]).admits(*direction, packet));
        assert!(!closed().admits(*direction, packet), "{direction:?}");
        let mut world = World::new(None, &["deny in any tcp 22"]);
        assert!(!world.admits(*direction, packet), "{direction:?}");
        let mut world = World::new(None, &["deny out any tcp 6000"]);
        assert!(!world.admits(*direction, packet), "{direction:?}");
    }
}

#[test]
fn rules_about_what_goes_out_hold() {
    let mut world = World::new(None, &["deny out any udp 53"]);
    assert!(!world.admits(Out, &udp((HOST, 5000), (PEER, 53))));
    assert!(world.admits(In, &udp((PEER, 5000), (HOST, 53))));
    assert!(
        world.admits(Out, &udp((HOST, 53), (PEER, 5000))),
        "the answer"
    );
}

#[test]
fn ports_are_used_again_after_a_connection_has_ended() {
    let mut world = closed();
    let (ours, theirs) = ((HOST, 5000), (PEER, 443));
    assert!(world.admits(Out, &tcp(ours, theirs, SYN)));
    assert!(world.admits(In, &tcp(theirs, ours, SYN | ACK)));
    assert!(world.admits(In, &tcp(theirs, ours, FIN | ACK)));
    assert!(world.admits(Out, &tcp(ours, theirs, FIN | ACK)));
    assert!(world.admits(In, &tcp(theirs, ours, ACK)), "the last one");
    assert!(!world.admits(In, &tcp(theirs, ours, SYN)));
    assert!(world.admits(Out, &tcp(ours, theirs, SYN)), "anew");
    assert!(world.admits(In, &tcp(theirs, ours, RST | ACK)));
    world.now += Duration::from_secs(241);
    assert!(!world.admits(In, &tcp(theirs, ours, ACK)), "long over");
}

#[test]
fn later_fragments_pass_behind_their_first_one_in_their_direction() {
    let fragment = |id: u8, offset: u8, more: bool| {
        let mut packet = udp((PEER, 5000), (HOST, 53));
        packet[5] = id;
        (packet[6], packet[7]) = (if more { 0x20 } else { 0 }, offset);
        packet
    };
    let mut world = World::new(Some(Verdict::Deny), &["allow in any udp 53"]);
    assert!(!world.admits(In, &fragment(1, 3, false)), "none before");
    assert!(world.admits(In, &fragment(1, 0, true)));
    assert!(world.admits(In, &fragment(1, 3, true)));
    assert!(world.admits(In, &fragment(1, 9, false)));
    assert!(
        !world.admits(In, &fragment(2, 3, false)),
        "another packet's"
    );
    assert!(!world.admits(Out, &fragment(1, 3, false)));
    for id in 10..10 + MAX_FRAGMENTED as u8 {
        assert!(world.admits(In, &fragment(id, 0, true)));
    }
    assert!(!world.admits(In, &fragment(1, 3, false)), "too many since");
    world.now += FRAGMENTS_COME + Duration::from_secs(1);
    assert!(!world.admits(In, &fragment(12, 3, false)), "too late");
}

#[test]
fn frames_pass_by_the_packet_in_them() {
    let frame = |kind: [u8; 2], packet: &[u8]| {
        let mut frame = vec![2; 12];
        frame.extend(kind);
        frame.extend(packet);
        frame.resize(frame.len().max(60), 0);
        frame
    };
    let mut world = closed();
    let mut admits = |direction, frame: &[u8]| {
        let firewall = &mut world.firewall;
        firewall.admits_frame(world.now, direction, SLOT, frame)
    };
    let (v4, v6) = ([0x08, 0x00], [0x86, 0xdd]);
    let (sent, answer) = (udp((HOST, 5000), (PEER, 53)), udp((PEER, 53), (HOST, 5000)));
    assert!(!admits(In, &frame(v4, &answer)));
    assert!(admits(Out, &frame(v4, &sent)));
    assert!(admits(In, &frame(v4, &answer)));
    let tagged = [&[0, 7], &v4[..], &answer].concat();
    assert!(admits(In, &frame([0x81, 0x00], &tagged)));
    assert!(admits(In, &frame([0x08, 0x06], &[0; 28])), "ARP");
    let neighbour = built("fe80::2", "fe80::1", Protocol::ICMPV6, &[135; 24]);
    assert!(admits(In, &frame(v6, &neighbour)));
    assert!(!admits(
        In,
        &frame(v6, &echo("fe80::2", "fe80::1", true, 1))
    ));
    assert!(!admits(In, &frame(v6, &[0x60])[..20]), "torn");
    assert!(!admits(In, &[2; 13]), "no frame");
}

#[test]
fn who_is_no_member_and_what_is_no_packet_passes_nothing() {
    let mut world = World::new(None, &[]);
    let packet = udp((PEER, 5000), (HOST, 53));
    let (now, firewall) = (world.now, &mut world.firewall);
    assert!(!firewall.admits(now, In, SLOT + 1, &packet));
    assert!(!firewall.admits(now, In, SLOT, &packet[..20]));
    assert!(firewall.admits(now, In, SLOT, &packet));
    assert_eq!(firewall.flows(), 1);
    firewall.remove_peer(SLOT);
    assert_eq!(firewall.flows(), 0);
    assert!(!firewall.admits(now, In, SLOT, &packet));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Under a denying default a packet comes in only if one with its ends swapped went out.
    #[test]
    fn nothing_comes_in_that_was_not_asked_for(
        steps in prop::collection::vec((any::<bool>(), any::<bool>(), 0..4_u16, 0..4_u16, any::<u8>()), 1..200),
    ) {
        let mut world = closed();
        let mut asked = std::collections::HashSet::new();
        for (out, is_tcp, ours, theirs, flags) in steps {
            let (host, peer) = ((HOST, ours), (PEER, theirs));
            let (direction, from, to) = if out { (Out, host, peer) } else { (In, peer, host) };
            let packet = if is_tcp { tcp(from, to, flags) } else { udp(from, to) };
            let admitted = world.admits(direction, &packet);
            if out && admitted {
                asked.insert((is_tcp, ours, theirs));
            }
            if !out && admitted {
                prop_assert!(asked.contains(&(is_tcp, ours, theirs)));
            }
        }
    }
}
