//! Targets of the packet plane.

use std::{net::IpAddr, sync::Arc, time::Instant};

use anyhop_base::{Direction, Keypair, Verdict};
use anyhop_vpn::{
    Answer, Cipher, Egress, Forward, Ingress, MAX_UDP_ANSWER, Merger, NameZone, NamedMember,
    PacketKeys, Prefix, Routes, SEALED_SECRET_LEN, Segments, Switch, Transport,
    ethernet_header_len,
    firewall::{Caller, Firewall, RuleSet, Rules},
    ip::{self, MIN_MTU},
    refuse,
};

/// Addresses of the peer and of this host.
pub const VPN_ADDRESSES: [&str; 2] = ["fd00::2", "fd00::1"];

/// The key material that packets are sealed with.
#[must_use]
pub fn vpn_secret() -> [u8; SEALED_SECRET_LEN] {
    let mut secret = [0; SEALED_SECRET_LEN];
    (0_u8..).zip(&mut secret).for_each(|(n, byte)| *byte = n);
    secret
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address is written out above")
}

#[expect(
    clippy::disallowed_methods,
    reason = "what is fuzzed takes the time as an argument, which has to come from somewhere"
)]
fn start() -> Instant {
    Instant::now()
}

/// A datagram for the packet plane; valid when it reaches the host.
///
/// # Panics
/// When a property breaks.
pub fn sealed_packet(data: &[u8]) -> bool {
    let keys = PacketKeys::new(&vpn_secret(), false, Cipher::Aes256Gcm);
    let [peer, me] = VPN_ADDRESSES.map(address);
    let mut routes = Routes::default();
    routes.insert(Prefix::host(peer), 0);
    let mut ingress = Ingress::new([me]);
    ingress.set_routes(Arc::new(routes));
    ingress.add_keys(0, Arc::new(keys.opener));
    let mut datagram = data.to_vec();
    let reached = match ingress.handle_datagram(&mut datagram, start()) {
        None => false,
        Some(opened) => {
            let addresses = ip::addresses(opened.packet).expect("it was checked");
            assert_eq!((addresses.source, addresses.destination), (peer, me));
            true
        }
    };
    let mut again = data.to_vec();
    assert_eq!(ingress.handle_datagram(&mut again, start()), None, "twice");
    let (_, packets, drops) = ingress.counters(0);
    let dropped = drops.iter().chain(ingress.drops().iter());
    assert_eq!(packets, u64::from(reached));
    assert_eq!(packets + dropped.map(|(_, n)| n).sum::<u64>(), 2);
    reached
}

/// Frames, each behind its port (0 is the host) and its length; valid when one that the host
/// sends to a member goes to that one only.
///
/// # Panics
/// When a property breaks.
pub fn ethernet_frame(mut data: &[u8]) -> bool {
    let (mut switch, now, mut found) = (Switch::default(), start(), false);
    let mut egress = Egress::<()>::default();
    (0..4).for_each(|slot| egress.add_peer(slot));
    while let Some(([port, len], rest)) = data.split_first_chunk() {
        let (frame, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        data = rest;
        match port % 5 {
            0 => match switch.from_host(frame, now) {
                Ok(Forward::To(slot)) => {
                    found = true;
                    assert!(!switch.behind(slot, now).is_empty());
                    let link = ethernet_header_len(frame);
                    egress.handle_for(slot, frame, 0, link, frame.len());
                }
                Ok(Forward::All) | Err(_) => {}
            },
            // What a member may not claim, it is not found behind.
            member => {
                let slot = u32::from(member) - 1;
                let before = switch.behind(slot, now).len();
                let taken = switch.from_member(slot, frame, now).is_ok();
                let after = switch.behind(slot, now).len();
                assert!(after - before <= 1 && (!taken || after > 0));
            }
        }
    }
    found
}

/// Packets of a peer that may become one: any bytes, cut at any place. They are valid when
/// they are.
///
/// # Panics
/// When a property breaks.
pub fn merged_packets(data: &[u8]) -> bool {
    let Some((&cut, packets)) = data.split_first() else {
        return false;
    };
    let unsummed = packets.len() % 2 == 1;
    let cut = usize::from(cut).min(packets.len());
    let mut buffer = packets.to_vec();
    let mut merger = Merger::default();
    merger.push(&buffer, 0..cut, unsummed);
    merger.push(&buffer, cut..packets.len(), unsummed);
    let (mut given, mut bytes) = (0, 0);
    merger.drain(&mut buffer, |vnet, buffer, payloads, headers| {
        let parts = [headers].into_iter().chain(payloads.iter().cloned());
        let mut packet = parts.map(|p| &buffer[p]).collect::<Vec<_>>().concat();
        (given, bytes) = (given + 1, bytes + packet.len());
        if payloads.len() > 1 {
            let segments = Segments::new(vnet, &mut packet, unsummed);
            let mut segments = segments.expect("what was merged can be cut");
            for _ in payloads {
                let parts = segments.next_packet().expect("one for each").concat();
                assert!(ip::addresses(&parts).is_some());
            }
            assert!(segments.next_packet().is_none());
        }
    });
    let merged = given == 1;
    assert!(merged && bytes <= packets.len() || bytes == packets.len());
    merged
}

/// An IP packet of the host, and the answer to its sender.
///
/// # Panics
/// When a property breaks.
pub fn ip_packet(data: &[u8]) -> bool {
    let Some(addresses) = ip::addresses(data) else {
        assert_eq!(ip::too_big(data, MIN_MTU), None);
        return false;
    };
    if let Some(answer) = ip::too_big(data, MIN_MTU) {
        let told = ip::addresses(&answer).expect("the answer is a packet");
        assert_eq!(told.destination, addresses.source);
        assert!(answer.len() <= MIN_MTU);
        assert_eq!(ip::too_big(&answer, MIN_MTU), None, "no error about errors");
    }
    true
}

/// A DNS message as it comes in a datagram; valid when it asks for what is there, or for what is
/// none of the network's.
///
/// # Panics
/// When a property breaks.
pub fn dns_query(data: &[u8]) -> bool {
    /// Response and code, of a message's third and fourth byte.
    const RESPONSE: u8 = 0x80;
    const CODE: u8 = 0x0f;
    let key = Keypair::ed25519_from_bytes([2; 32]).expect("32 bytes are a key");
    let member = NamedMember {
        peer: key.public().to_peer_id(),
        name: "laptop".to_owned(),
        addresses: VPN_ADDRESSES.map(address).to_vec(),
    };
    let prefix = Prefix::new(address("fd00::"), 64).expect("a length that IPv6 has");
    let zone = NameZone::new("home", &[prefix], &[member], 1);
    let refused = refuse(data);
    let (reply, valid) = match zone.answer(data, Transport::Udp) {
        Answer::Reply(reply) => (Some(reply), false),
        Answer::Outside => {
            assert!(refused.is_some(), "what is asked can be refused");
            (None, true)
        }
        Answer::Nothing => (None, false),
    };
    for reply in [&reply, &refused].into_iter().flatten() {
        assert!(reply.len() <= usize::from(MAX_UDP_ANSWER));
        assert_eq!(reply[..2], data[..2]);
        assert!(reply[2] & RESPONSE != 0);
        assert_eq!(zone.answer(reply, Transport::Udp), Answer::Nothing);
    }
    valid || reply.is_some_and(|reply| reply[3] & CODE == 0)
}

/// A packet at a firewall that lets nothing in but answers; whether it may go out.
///
/// # Panics
/// When a property breaks.
#[expect(clippy::disallowed_methods, reason = "a start for a clock of its own")]
pub fn firewall_packet(data: &[u8]) -> bool {
    let caller = Caller {
        peer: super::signer().public().to_peer_id(),
        name: "laptop".to_owned(),
        role: None,
    };
    let mut firewall = Firewall::new(Rules {
        local: RuleSet {
            default: Some(Verdict::Deny),
            rules: Vec::new(),
        },
        ..Rules::default()
    });
    firewall.set_peer(1, caller);
    let now = Instant::now();
    assert!(
        !firewall.admits(now, Direction::In, 1, data),
        "nobody asked"
    );
    let out = firewall.admits(now, Direction::Out, 1, data);
    assert_eq!(firewall.admits(now, Direction::Out, 1, data), out);
    assert!(firewall.flows() <= 1);
    assert!(!out || ip::addresses(data).is_some());
    out
}
