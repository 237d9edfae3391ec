//! What the firewall sees of a packet: its ends, and which part it plays in its flow.
//!
//! Ports and identifiers are in the first fragment only; later ones are known by what they
//! have in common with it. What cannot be seen through is seen as `None`: more extension
//! headers than anybody sends (RFC 8200 section 4), and fragments made to hide or to replace
//! a TCP header (RFC 1858, RFC 3128).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhop_base::Protocol;

use crate::ip::{self, be16};

/// IPv6 extension headers that are looked through.
const MAX_EXTENSIONS: usize = 8;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
/// Of UDP and ICMP.
const SHORT_HEADER: usize = 8;

/// TCP: the last packet of its sender.
pub(super) const FIN: u8 = 0x01;
/// TCP: begins a connection, or with [`ACK`] answers that.
pub(super) const SYN: u8 = 0x02;
/// TCP: there is no connection.
pub(super) const RST: u8 = 0x04;
/// TCP: acknowledges.
pub(super) const ACK: u8 = 0x10;

/// A packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) ends: Ends,
    pub(super) part: Part,
    /// Known of fragments.
    pub(super) fragment: Option<FragmentId>,
}

/// Where a packet comes from and goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    /// Zero without ports. Echoes have their identifier on the side that is asked.
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
}

/// The part that a packet plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// TCP with these flags.
    Tcp(u8),
    /// An echo request.
    EchoRequest,
    /// A packet of a flow in which all are alike: UDP, echo replies, other protocols.
    Plain,
    /// Tells that a packet of these ends did not get through.
    Error(Ends),
    /// ICMP that belongs to no flow.
    Single,
    /// A fragment behind the first.
    LaterFragment,
}

/// What the fragments of one packet have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FragmentId {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    id: u32,
}

/// An IP header with its extensions.
struct Head {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// Where the transport begins.
    at: usize,
    /// Identification, and offset in units of 8 bytes.
    fragment: Option<(u32, usize)>,
}

impl Seen {
    /// Reads a packet; `None` when it is not whole, or cannot be seen through.
    pub(super) fn read(packet: &[u8]) -> Option<Self> {
        ip::addresses(packet)?;
        let head = Head::read(packet)?;
        let fragment = head.fragment.map(|(id, _)| FragmentId {
            source: head.source,
            destination: head.destination,
            protocol: head.protocol,
            id,
        });
        let tcp = head.protocol == Protocol::TCP;
        let (part, ports) = match head.fragment {
            // That would replace the flags of the first.
            Some((_, 1)) if tcp => return None,
            Some((_, 1..)) => (Part::LaterFragment, (0, 0)),
            Some((_, 0)) | None => transport(&head, packet.get(head.at..)?)?,
        };
        let ends = head.ends(ports);
        Some(Self {
            ends,
            part,
            fragment,
        })
    }

    /// Whether only the side that begins a flow sends such packets.
    pub(super) fn begins(&self) -> bool {
        match self.part {
            Part::Tcp(flags) => flags & (SYN | ACK | RST) == SYN,
            Part::EchoRequest => true,
            _ => false,
        }
    }
}

impl Ends {
    /// The port that rules are about.
    pub(super) fn called_port(&self) -> Option<u16> {
        let has_ports = Protocol::from_number(self.protocol).has_ports();
        has_ports.then_some(self.destination_port)
    }
}

impl Head {
    /// Reads a header, whatever follows it.
    fn read(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::read_v4(packet.get(..V4_HEADER)?),
            6 => Self::read_v6(packet),
            _ => None,
        }
    }

    fn read_v4(header: &[u8]) -> Option<Self> {
        let ip = |at: usize| <[u8; 4]>::try_from(&header[at..at + 4]).ok();
        let (id, flags) = (be16(header, 4) as u32, be16(header, 6));
        let (more, offset) = (flags & 0x2000 != 0, flags & 0x1fff);
        Some(Self {
            source: Ipv4Addr::from(ip(12)?).into(),
            destination: Ipv4Addr::from(ip(16)?).into(),
            protocol: header[9],
            at: usize::from(header[0] & 0xf) * 4,
            fragment: (more || offset > 0).then_some((id, offset)),
        })
    }

    fn read_v6(packet: &[u8]) -> Option<Self> {
        let header = packet.get(..V6_HEADER)?;
        let ip = |at: usize| <[u8; 16]>::try_from(&header[at..at + 16]).ok();
        let mut head = Self {
            source: Ipv6Addr::from(ip(8)?).into(),
            destination: Ipv6Addr::from(ip(24)?).into(),
            protocol: header[6],
            at: V6_HEADER,
            fragment: None,
        };
        for _ in 0..=MAX_EXTENSIONS {
            let extension = |len: usize| packet.get(head.at..head.at + len);
            let (next, len) = match head.protocol {
                // Hop-by-hop options, routing, destination options, mobility, HIP, shim6.
                0 | 43 | 60 | 135 | 139 | 140 => {
                    let start = extension(2)?;
                    (start[0], (1 + usize::from(start[1])) * 8)
                }
                44 => {
                    let start = extension(8)?;
                    let (offset, more) = (be16(start, 2) >> 3, start[3] & 1 != 0);
                    let id = <[u8; 4]>::try_from(&start[4..8]).ok()?;
                    let id = u32::from_be_bytes(id);
                    if offset > 0 {
                        head.protocol = start[0];
                        head.fragment = Some((id, offset));
                        return Some(head);
                    }
                    // One that is whole, for all that (RFC 6946).
                    head.fragment = more.then_some((id, 0));
                    (start[0], 8)
                }
                // Authentication header.
                51 => {
                    let start = extension(2)?;
                    (start[0], (2 + usize::from(start[1])) * 4)
                }
                _ => return Some(head),
            };
            head.protocol = next;
            head.at += len;
        }
        None
    }

    fn ends(&self, (source_port, destination_port): (u16, u16)) -> Ends {
        Ends {
            source: self.source,
            destination: self.destination,
            protocol: self.protocol,
            source_port,
            destination_port,
        }
    }
}

/// The part of a packet, or of a first fragment, and its ports.
fn transport(head: &Head, bytes: &[u8]) -> Option<(Part, (u16, u16))> {
    match head.protocol {
        Protocol::TCP => {
            let header = bytes.get(..TCP_HEADER)?;
            Some((Part::Tcp(header[13]), ports(header)?))
        }
        Protocol::UDP => Some((Part::Plain, ports(bytes.get(..SHORT_HEADER)?)?)),
        Protocol::ICMP | Protocol::ICMPV6 => icmp(head, bytes.get(..SHORT_HEADER)?, bytes),
        _ => Some((Part::Plain, (0, 0))),
    }
}

fn icmp(head: &Head, header: &[u8], bytes: &[u8]) -> Option<(Part, (u16, u16))> {
    let v4 = head.protocol == Protocol::ICMP;
    let part = match (v4, header[0]) {
        (true, 8) | (false, 128) => Part::EchoRequest,
        (true, 0) | (false, 129) => Part::Plain,
        // Unreachable, time exceeded, parameter problem, and with IPv6 too big.
        (true, 3 | 11 | 12) | (false, 1..=4) => match quoted(&bytes[SHORT_HEADER..]) {
            Some(ends) => Part::Error(ends),
            None => Part::Single,
        },
        _ => Part::Single,
    };
    let echo = echo_ports(part == Part::EchoRequest, header);
    let has_id = matches!(part, Part::EchoRequest | Part::Plain);
    Some((part, if has_id { echo } else { (0, 0) }))
}

/// The ends of a packet of which an ICMP error quotes the beginning.
fn quoted(packet: &[u8]) -> Option<Ends> {
    let head = Head::read(packet)?;
    if head.fragment.is_some_and(|(_, offset)| offset > 0) {
        return None;
    }
    let bytes = packet.get(head.at..)?;
    let ports = match head.protocol {
        Protocol::TCP | Protocol::UDP => ports(bytes)?,
        Protocol::ICMP | Protocol::ICMPV6 => {
            let header = bytes.get(..SHORT_HEADER)?;
            match (head.protocol == Protocol::ICMP, header[0]) {
                (true, 8) | (false, 128) => echo_ports(true, header),
                (true, 0) | (false, 129) => echo_ports(false, header),
                _ => return None,
            }
        }
        _ => (0, 0),
    };
    Some(head.ends(ports))
}

fn ports(header: &[u8]) -> Option<(u16, u16)> {
    let header = header.get(..4)?;
    Some((be16(header, 0) as u16, be16(header, 2) as u16))
}

fn echo_ports(request: bool, header: &[u8]) -> (u16, u16) {
    let id = be16(header, 4) as u16;
    if request { (0, id) } else { (id, 0) }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ip::tests::packet;

    /// A packet of this protocol with this transport header.
    pub(crate) fn built(from: &str, to: &str, protocol: u8, transport: &[u8]) -> Vec<u8> {
        let head = if from.contains(':') {
            V6_HEADER
        } else {
            V4_HEADER
        };
        let mut out = packet(from, to, head + transport.len());
        out[if head == V4_HEADER { 9 } else { 6 }] = protocol;
        out[head..].copy_from_slice(transport);
        out
    }

    pub(crate) fn tcp(from: (&str, u16), to: (&str, u16), flags: u8) -> Vec<u8> {
        let mut header = [0; TCP_HEADER];
        header[..2].copy_from_slice(&from.1.to_be_bytes());
        header[2..4].copy_from_slice(&to.1.to_be_bytes());
        (header[12], header[13]) = (0x50, flags);
        built(from.0, to.0, Protocol::TCP, &header)
    }

    pub(crate) fn udp(from: (&str, u16), to: (&str, u16)) -> Vec<u8> {
        let mut header = [0; SHORT_HEADER];
        header[..2].copy_from_slice(&from.1.to_be_bytes());
        header[2..4].copy_from_slice(&to.1.to_be_bytes());
        built(from.0, to.0, Protocol::UDP, &header)
    }

    pub(crate) fn echo(from: &str, to: &str, request: bool, id: u16) -> Vec<u8> {
        let [high, low] = id.to_be_bytes();
        let (protocol, ask, answer) = match from.contains(':') {
            false => (Protocol::ICMP, 8, 0),
            true => (Protocol::ICMPV6, 128, 129),
        };
        let kind = if request { ask } else { answer };
        built(from, to, protocol, &[kind, 0, 0, 0, high, low, 0, 1])
    }

    /// An ICMP error about a packet.
    pub(crate) fn error(from: &str, to: &str, about: &[u8]) -> Vec<u8> {
        let (protocol, kind) = match from.contains(':') {
            false => (Protocol::ICMP, 3),
            true => (Protocol::ICMPV6, 1),
        };
        let header = [kind, 4, 0, 0, 0, 0, 0, 0];
        built(from, to, protocol, &[&header, about].concat())
    }

    const HOSTS: [(&str, &str); 2] = [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")];

    #[test]
    fn ports_flags_and_identifiers_are_read_in_both_families() {
        for (from, to) in HOSTS {
            let seen = Seen::read(&tcp((from, 5000), (to, 22), SYN)).unwrap();
            assert_eq!(seen.part, Part::Tcp(SYN));
            assert_eq!(seen.ends.called_port(), Some(22));
            assert!(seen.begins());
            let seen = Seen::read(&tcp((from, 22), (to, 5000), SYN | ACK)).unwrap();
            assert!(!seen.begins());
            let seen = Seen::read(&udp((from, 5000), (to, 53))).unwrap();
            let ports = (seen.ends.source_port, seen.ends.destination_port);
            assert_eq!((seen.part, ports), (Part::Plain, (5000, 53)));
            let seen = Seen::read(&echo(from, to, true, 7)).unwrap();
            let ports = (seen.ends.source_port, seen.ends.destination_port);
            assert_eq!((seen.part, ports), (Part::EchoRequest, (0, 7)));
            assert_eq!(seen.ends.called_port(), None);
            let seen = Seen::read(&echo(from, to, false, 7)).unwrap();
            let ports = (seen.ends.source_port, seen.ends.destination_port);
            assert_eq!((seen.part, ports), (Part::Plain, (7, 0)));
        }
    }

    #[test]
    fn an_error_tells_whose_packet_it_is_about() {
        for (from, to) in HOSTS {
            let about = udp((from, 5000), (to, 53));
            let ends = Seen::read(&about).unwrap().ends;
            let seen = Seen::read(&error(to, from, &about)).unwrap();
            assert_eq!(seen.part, Part::Error(ends));
            // Quoted are the header and 8 bytes at least, of a longer packet.
            let seen = Seen::read(&error(to, from, &about[..about.len() - 9])).unwrap();
            assert_eq!(seen.part, Part::Single);
        }
    }

    #[test]
    fn extension_headers_are_looked_through_up_to_a_limit() {
        let plain = udp(("fd00::1", 5000), ("fd00::2", 53));
        let with = |extensions: usize| {
            let mut transport = Vec::new();
            for n in 1..=extensions {
                let next = if n == extensions { Protocol::UDP } else { 60 };
                transport.extend([next, 0, 0, 0, 0, 0, 0, 0]);
            }
            transport.extend(&plain[V6_HEADER..]);
            Seen::read(&built("fd00::1", "fd00::2", 60, &transport))
        };
        let ends = Seen::read(&plain).unwrap().ends;
        assert_eq!(with(1).unwrap().ends, ends);
        assert_eq!(with(MAX_EXTENSIONS).unwrap().ends, ends);
        assert_eq!(with(MAX_EXTENSIONS + 1), None);
    }

    #[test]
    fn fragments_are_told_and_those_that_hide_a_header_are_not_seen_through() {
        let whole = tcp(("10.0.0.1", 5000), ("10.0.0.2", 22), SYN);
        let fragment = |bytes: &[u8], offset: u16, more: bool| {
            let mut bytes = bytes.to_vec();
            bytes[4..6].copy_from_slice(&9_u16.to_be_bytes());
            let flags = offset | if more { 0x2000 } else { 0 };
            bytes[6..8].copy_from_slice(&flags.to_be_bytes());
            Seen::read(&bytes)
        };
        let first = fragment(&whole, 0, true).unwrap();
        assert_eq!(first.part, Part::Tcp(SYN));
        let later = fragment(&whole, 3, false).unwrap();
        assert_eq!(later.part, Part::LaterFragment);
        assert_eq!(
            (first.fragment, first.fragment.is_some()),
            (later.fragment, true)
        );
        assert_eq!(fragment(&whole, 1, false), None, "over the flags");
        let mut tiny = whole[..V4_HEADER + 8].to_vec();
        tiny[3] = 28;
        assert_eq!(fragment(&tiny, 0, true), None, "without flags");
        assert_eq!(fragment(&whole, 0, false).unwrap().fragment, None);

        let v6 = |offset: u16, more: u16, protocol: u8| {
            let mut header = vec![protocol, 0];
            header.extend((offset << 3 | more).to_be_bytes());
            header.extend([0, 0, 0, 9]);
            let udp = udp(("fd00::1", 5000), ("fd00::2", 53));
            header.extend(&udp[V6_HEADER..]);
            Seen::read(&built("fd00::1", "fd00::2", 44, &header)).unwrap()
        };
        let (first, later) = (v6(0, 1, Protocol::UDP), v6(2, 0, Protocol::UDP));
        assert_eq!(first.ends.called_port(), Some(53));
        assert_eq!(later.part, Part::LaterFragment);
        assert_eq!(
            (first.fragment, first.fragment.is_some()),
            (later.fragment, true)
        );
        assert_eq!(v6(0, 0, Protocol::UDP).fragment, None, "whole");
    }

    proptest! {
        #[test]
        fn any_bytes_are_seen_without_a_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            version in prop::sample::select(vec![0x45_u8, 0x4f, 0x60]),
        ) {
            let len = bytes.len() as u16;
            if let Some(head) = bytes.get_mut(..40) {
                head[0] = version;
                let (at, len) = if version == 0x60 { (4, len - 40) } else { (2, len) };
                head[at..at + 2].copy_from_slice(&len.to_be_bytes());
            }
            let _ = Seen::read(&bytes);
        }
    }
}
