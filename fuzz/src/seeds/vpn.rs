//! Inputs of the packet plane.

use std::net::Ipv6Addr;

use anyhop_vpn::{Cipher, PacketKeys, Payload};

use crate::targets::{VPN_ADDRESSES, vpn_secret};

pub(crate) fn ip_packets() -> Vec<Vec<u8>> {
    let mut v4 = vec![0; 60];
    v4[0] = 0x45;
    (v4[3], v4[9]) = (60, 17);
    v4[12..20].copy_from_slice(&[100, 64, 0, 2, 100, 64, 0, 1]);
    let mut echo = v4.clone();
    (echo[9], echo[20]) = (1, 8);
    let mut v6 = vec![0; 80];
    v6[0] = 0x60;
    (v6[5], v6[6]) = (40, 17);
    for (at, text) in [8, 24].into_iter().zip(VPN_ADDRESSES) {
        let ip: Ipv6Addr = text.parse().expect("an address is written out there");
        v6[at..at + 16].copy_from_slice(&ip.octets());
    }
    vec![v4, echo, v6]
}

/// Those, TCP, a first fragment, and a UDP packet behind an IPv6 extension header.
pub(crate) fn firewall_packets() -> Vec<Vec<u8>> {
    let mut packets = ip_packets();
    let mut tcp = packets[0].clone();
    (tcp[9], tcp[33]) = (6, 2);
    let mut fragment = packets[0].clone();
    fragment[6] = 0x20;
    let mut extended = packets[2].clone();
    (extended[6], extended[40]) = (60, 17);
    packets.extend([tcp, fragment, extended]);
    packets
}

pub(crate) fn sealed_packets() -> Vec<Vec<u8>> {
    let inner = ip_packets().pop().expect("the IPv6 packet is the last");
    let seal = |cipher| {
        let keys = PacketKeys::new(&vpn_secret(), true, cipher);
        let mut out = Vec::new();
        let sealed = keys.sealer.seal(Payload::Ip, &[&inner], &mut out);
        sealed.expect("new keys seal");
        out
    };
    vec![seal(Cipher::Aes256Gcm), seal(Cipher::ChaCha20Poly1305)]
}

/// Frames of the host and of a member, one after the other; see `ethernet_frames`.
pub(crate) fn ethernet_frames() -> Vec<Vec<u8>> {
    let frame = |port: u8, to: u8, from: u8, kind: &[u8]| {
        let mac = |n: u8| [2, 0, 0, 0, 0, n];
        let packet = ip_packets().pop().expect("the IPv6 packet is the last");
        let frame = [&mac(to)[..], &mac(from), kind, &packet].concat();
        [&[port, frame.len() as u8][..], &frame].concat()
    };
    let ipv6 = [0x86, 0xdd];
    let tagged = [0x81, 0, 0, 7, 0x86, 0xdd];
    // Where a member is, is learned from what it sends.
    [&ipv6[..], &tagged]
        .map(|kind| [frame(1, 1, 2, kind), frame(0, 2, 1, kind)].concat())
        .into()
}

/// Two TCP segments that follow each other, and the length of the first in front.
pub(crate) fn segments() -> Vec<Vec<u8>> {
    let segment = |number: u8| {
        let mut packet = vec![0; 60];
        packet[0] = 0x45;
        (packet[3], packet[9]) = (60, 6);
        packet[12..20].copy_from_slice(&[100, 64, 0, 2, 100, 64, 0, 1]);
        // Without options; 20 bytes of data.
        (packet[27], packet[32], packet[33]) = (20 * number, 5 << 4, 0x10);
        packet
    };
    vec![[vec![60], segment(0), segment(1)].concat()]
}

/// A name's labels, the type asked for, and whether there is an OPT record.
pub(crate) fn dns_queries() -> Vec<Vec<u8>> {
    let query = |labels: &[&str], kind: u8, extended: bool| {
        let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(extended)];
        for label in labels {
            out.push(label.len() as u8);
            out.extend(label.as_bytes());
        }
        out.extend([0, 0, kind, 0, 1]);
        if extended {
            out.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
        }
        out
    };
    let zeros = ["0"; 15];
    let reverse = [&["1"], &zeros[..], &zeros[..14], &["d", "f", "ip6", "arpa"]].concat();
    vec![
        query(&["laptop", "home", "anyhop"], 1, false),
        query(&["LapTop", "home", "anyhop"], 28, true),
        query(&["home", "anyhop"], 6, false),
        query(&reverse, 12, true),
        query(&["example", "org"], 1, false),
    ]
}
