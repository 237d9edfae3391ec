//! IP packets, as far as the packet plane looks into them (RFC 791, RFC 8200), and the
//! answers that tell a sender of a smaller MTU (RFC 1191, RFC 4443 section 3.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Smallest MTU of a link under IPv6 (RFC 8200 section 5), and of this plane under IPv4, too.
pub const MIN_MTU: usize = 1280;

const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const ICMP_HEADER: usize = 8;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Most bytes of an ICMP answer: what every host takes (RFC 1812 section 4.3.2.3).
const MAX_V4_ANSWER: usize = 576;
const HOP_LIMIT: u8 = 64;

/// Where a packet comes from and goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
}

/// Reads a packet's addresses; `None` when it is no whole IP packet.
#[must_use]
pub fn addresses(packet: &[u8]) -> Option<Addresses> {
    match packet.first()? >> 4 {
        4 => {
            let header = packet.get(..V4_HEADER)?;
            let (head, total) = (usize::from(header[0] & 0xf) * 4, be16(header, 2));
            if head < V4_HEADER || total < head || total != packet.len() {
                return None;
            }
            let ip = |at: usize| <[u8; 4]>::try_from(&header[at..at + 4]).ok();
            Some(Addresses {
                source: Ipv4Addr::from(ip(12)?).into(),
                destination: Ipv4Addr::from(ip(16)?).into(),
            })
        }
        6 => {
            let header = packet.get(..V6_HEADER)?;
            if V6_HEADER + be16(header, 4) != packet.len() {
                return None;
            }
            let ip = |at: usize| <[u8; 16]>::try_from(&header[at..at + 16]).ok();
            Some(Addresses {
                source: Ipv6Addr::from(ip(8)?).into(),
                destination: Ipv6Addr::from(ip(24)?).into(),
            })
        }
        _ => None,
    }
}

/// Answers to the sender of a packet that is larger than `mtu`. It comes from the packet's
/// destination: hosts believe nobody who comes in with an address of theirs. `None` for
/// what is not to be answered: ICMP errors, multicast, and what is no packet.
#[must_use]
pub fn too_big(packet: &[u8], mtu: usize) -> Option<Vec<u8>> {
    let Addresses {
        source,
        destination,
    } = addresses(packet)?;
    let unicast = !source.is_multicast() && !source.is_unspecified() && !destination.is_multicast();
    if !unicast || is_icmp_error(packet) {
        return None;
    }
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            Some(too_big_v4(packet, mtu, destination, source))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            Some(too_big_v6(packet, mtu, destination, source))
        }
        _ => None,
    }
}

fn is_icmp_error(packet: &[u8]) -> bool {
    let kind = |at: usize| packet.get(at).copied();
    match packet[0] >> 4 {
        4 => {
            let head = usize::from(packet[0] & 0xf) * 4;
            // Everything but echoes (RFC 792).
            packet[9] == ICMP && !matches!(kind(head), Some(0 | 8))
        }
        _ => packet[6] == ICMPV6 && kind(V6_HEADER).is_none_or(|k| k < 128),
    }
}

fn too_big_v4(packet: &[u8], mtu: usize, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let quoted = &packet[..packet.len().min(MAX_V4_ANSWER - V4_HEADER - ICMP_HEADER)];
    let total = (V4_HEADER + ICMP_HEADER + quoted.len()) as u16;
    let mut out = vec![0x45, 0];
    out.extend_from_slice(&total.to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, 0, HOP_LIMIT, ICMP, 0, 0]);
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    let sum = checksum(&[&out]);
    out[10..12].copy_from_slice(&sum.to_be_bytes());
    // Destination unreachable, fragmentation needed.
    out.extend_from_slice(&[3, 4, 0, 0, 0, 0]);
    out.extend_from_slice(&(mtu as u16).to_be_bytes());
    out.extend_from_slice(quoted);
    let sum = checksum(&[&out[V4_HEADER..]]);
    out[V4_HEADER + 2..V4_HEADER + 4].copy_from_slice(&sum.to_be_bytes());
    out
}

fn too_big_v6(packet: &[u8], mtu: usize, from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let quoted = &packet[..packet.len().min(MIN_MTU - V6_HEADER - ICMP_HEADER)];
    let len = (ICMP_HEADER + quoted.len()) as u16;
    let mut out = vec![0x60, 0, 0, 0];
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&[ICMPV6, HOP_LIMIT]);
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    out.extend_from_slice(&[2, 0, 0, 0]);
    out.extend_from_slice(&(mtu as u32).to_be_bytes());
    out.extend_from_slice(quoted);
    let pseudo = pseudo_header(&out, ICMPV6, usize::from(len));
    let sum = checksum(&[&pseudo, &out[V6_HEADER..]]);
    out[V6_HEADER + 2..V6_HEADER + 4].copy_from_slice(&sum.to_be_bytes());
    out
}

/// The internet checksum (RFC 1071) over parts of which all but the last have even length.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        // 32 bits at once, which come to the same when the sum is folded.
        let words = part.chunks_exact(4);
        let rest = words.remainder();
        let words = words.map(|w| u64::from(u32::from_be_bytes([w[0], w[1], w[2], w[3]])));
        sum += words.sum::<u64>();
        for word in rest.chunks(2) {
            let low = word.get(1).copied().unwrap_or_default();
            sum += u64::from(u16::from_be_bytes([word[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

/// What transport checksums begin with (RFC 9293 section 3.1, RFC 8200 section 8.1), for the
/// addresses of this IP header and `len` bytes of header and payload of the transport. It is
/// IPv6's for both: zeros change no sum.
pub(crate) fn pseudo_header(header: &[u8], protocol: u8, len: usize) -> [u8; V6_HEADER] {
    let addresses = match header[0] >> 4 {
        4 => &header[12..V4_HEADER],
        _ => &header[8..V6_HEADER],
    };
    let mut out = [0; V6_HEADER];
    out[..addresses.len()].copy_from_slice(addresses);
    out[32..36].copy_from_slice(&(len as u32).to_be_bytes());
    out[39] = protocol;
    out
}

pub(crate) fn be16(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A UDP packet of this length between two addresses of one family.
    pub(crate) fn packet(from: &str, to: &str, len: usize) -> Vec<u8> {
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let mut out = vec![0; len];
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                out[0] = 0x45;
                out[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                out[9] = 17;
                out[12..16].copy_from_slice(&from.octets());
                out[16..20].copy_from_slice(&to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                out[0] = 0x60;
                out[4..6].copy_from_slice(&((len - V6_HEADER) as u16).to_be_bytes());
                out[6] = 17;
                out[8..24].copy_from_slice(&from.octets());
                out[24..40].copy_from_slice(&to.octets());
            }
            _ => panic!("two families"),
        }
        out
    }

    #[test]
    fn addresses_are_read_of_whole_packets_only() {
        for (from, to) in [("100.64.0.1", "100.64.0.2"), ("fd00::1", "fd00::2")] {
            let whole = packet(from, to, 100);
            let read = addresses(&whole).unwrap();
            assert_eq!(read.source, from.parse::<IpAddr>().unwrap());
            assert_eq!(read.destination, to.parse::<IpAddr>().unwrap());
            assert_eq!(addresses(&whole[..99]), None);
            let mut longer = whole.clone();
            longer.push(0);
            assert_eq!(addresses(&longer), None);
        }
        let mut no_header = packet("100.64.0.1", "100.64.0.2", 100);
        no_header[0] = 0x44;
        assert_eq!(addresses(&no_header), None);
        assert_eq!(addresses(&[]), None);
    }

    #[test]
    fn the_sender_of_what_is_too_big_is_told_the_mtu() {
        let big = packet("100.64.0.1", "100.64.0.2", 1420);
        let told = too_big(&big, 1300).unwrap();
        assert_eq!(told.len(), MAX_V4_ANSWER);
        let ips = addresses(&told).unwrap();
        assert_eq!(ips.source.to_string(), "100.64.0.2");
        assert_eq!(ips.destination.to_string(), "100.64.0.1");
        assert_eq!(told[20..22], [3, 4]);
        assert_eq!(be16(&told, 26), 1300);
        assert_eq!(checksum(&[&told[..20]]), 0);
        assert_eq!(checksum(&[&told[20..]]), 0);
        assert!(big.starts_with(&told[28..]));

        let big = packet("fd00::1", "fd00::2", 1420);
        let told = too_big(&big, 1300).unwrap();
        assert_eq!(told.len(), MIN_MTU);
        assert_eq!(addresses(&told).unwrap().destination.to_string(), "fd00::1");
        assert_eq!(told[40..42], [2, 0]);
        assert_eq!(be16(&told, 46), 1300);
        let length = ((told.len() - 40) as u32).to_be_bytes();
        let pseudo = [&told[8..40], &length, &[0, 0, 0, ICMPV6], &told[40..]];
        assert_eq!(checksum(&pseudo), 0);
    }

    #[test]
    fn errors_and_multicast_are_not_answered() {
        let mut error = packet("100.64.0.1", "100.64.0.2", 1420);
        (error[9], error[20]) = (ICMP, 3);
        assert_eq!(too_big(&error, 1300), None);
        error[20] = 8;
        assert!(too_big(&error, 1300).is_some(), "an echo is");
        let mut error = packet("fd00::1", "fd00::2", 1420);
        (error[6], error[40]) = (ICMPV6, 1);
        assert_eq!(too_big(&error, 1300), None);
        assert_eq!(too_big(&packet("fd00::1", "ff02::1", 1420), 1300), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = too_big(&bytes, MIN_MTU);
        }
    }
}
