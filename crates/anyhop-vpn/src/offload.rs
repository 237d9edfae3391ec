//! Packets that the kernel leaves to be cut, and those that it takes as one.
//!
//! A device with `vnet_hdr` puts a header in front of each packet (virtio 1.2 section
//! 5.1.6), in the host's byte order:
//!
//! ```text
//!  0       1          2         4          6            8             10
//!  +-------+----------+---------+----------+------------+-------------+
//!  | flags | gso type | hdr len | gso size | csum start | csum offset |
//!  +-------+----------+---------+----------+------------+-------------+
//! ```
//!
//! - **Out**: one that holds several segments becomes as many packets, each with lengths,
//!   sequence number and checksum of its own ([`Segments`]).
//! - **Checksums** that the kernel left out stay out where the receiver may know of it: the
//!   pseudo-header's sum goes in their place, and the receiver's kernel takes that for a
//!   checksum still to be computed, as it does between virtual machines.
//! - **In**: TCP segments of one batch that follow each other become one packet
//!   ([`Merger`]), which the kernel takes as what a network card would have merged.

use std::ops::Range;

use crate::ip::{self, be16, checksum, pseudo_header};

/// Length of the header, bytes.
pub const VNET_HEADER_LEN: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;
const GSO_UDP: u8 = 5;
/// Congestion was told; stands beside a type.
const GSO_ECN: u8 = 0x80;

const V6_HEADER: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;
const MIN_TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// Longest headers of a packet that is cut: IP without IPv6 extensions, and TCP.
const MAX_HEADERS: usize = 60 + 60;
const MAX_PACKET: usize = 65_535;
/// Most packets that become one.
pub const MAX_MERGED: usize = 64;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;

/// What a device says about a packet, or is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VnetHeader {
    flags: u8,
    gso_type: u8,
    header_len: u16,
    gso_size: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

impl VnetHeader {
    /// Splits what a device gave; `None` when that is too short.
    #[must_use]
    pub fn read(frame: &mut [u8]) -> Option<(Self, &mut [u8])> {
        let (header, packet) = frame.split_at_mut_checked(VNET_HEADER_LEN)?;
        let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let read = Self {
            flags: header[0],
            gso_type: header[1] & !GSO_ECN,
            header_len: word(2),
            gso_size: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        };
        Some((read, packet))
    }

    /// That of a frame, as that of the packet which follows its `link` bytes of header.
    #[must_use]
    pub fn without_link(self, link: usize) -> Self {
        let less = |at: u16| at.saturating_sub(link as u16);
        Self {
            header_len: less(self.header_len),
            checksum_start: less(self.checksum_start),
            ..self
        }
    }

    /// Length of the longest packet that a packet of the host becomes.
    #[must_use]
    pub fn cut_len(&self, packet: &[u8]) -> usize {
        let transport = match packet.first().map(|first| first >> 4) {
            Some(4) => usize::from(packet[0] & 0xf) * 4,
            _ => V6_HEADER,
        };
        let headers = match self.gso_type {
            GSO_NONE => return packet.len(),
            GSO_UDP => transport + UDP_HEADER,
            _ => {
                let offset = packet.get(transport + 12).copied().unwrap_or_default();
                transport + usize::from(offset >> 4) * 4
            }
        };
        packet.len().min(headers + usize::from(self.gso_size))
    }

    /// As a device takes it.
    #[must_use]
    pub fn bytes(&self) -> [u8; VNET_HEADER_LEN] {
        let mut out = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        let words = [
            self.header_len,
            self.gso_size,
            self.checksum_start,
            self.checksum_offset,
        ];
        for (at, word) in (2..).step_by(2).zip(words) {
            out[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        out
    }
}

/// A packet of the host as the packets that go out.
#[derive(Debug)]
pub struct Segments<'a> {
    /// Headers of the packet before it is cut; empty when it is not.
    headers: &'a [u8],
    /// Where its transport header begins.
    transport: usize,
    /// Where that has its checksum.
    checksum: usize,
    unsummed: bool,
    payload: &'a [u8],
    /// Of each packet's payload.
    size: usize,
    /// Begin of the next packet's payload; beyond the payload when all came.
    at: usize,
    current: [u8; MAX_HEADERS],
}

impl<'a> Segments<'a> {
    /// Cuts a packet as its header says. Checksums that the kernel left out are computed, or
    /// left out where `unsummed` allows that. `None` when packet and header do not fit together.
    #[must_use]
    pub fn new(header: VnetHeader, packet: &'a mut [u8], unsummed: bool) -> Option<Self> {
        if header.gso_type == GSO_NONE {
            let needed = header.flags & NEEDS_CHECKSUM != 0;
            let place = [header.checksum_start, header.checksum_offset].map(usize::from);
            let left_out = needed && unsummed && checksum_place(packet) == Some(place);
            if needed && !left_out {
                complete_checksum(header, packet)?;
            }
            let size = packet.len();
            let mut whole = Self::of(&[], 0, 0, packet, size);
            whole.unsummed = left_out;
            return Some(whole);
        }
        let transport = match (header.gso_type, packet.first()? >> 4) {
            (GSO_TCP_V4 | GSO_UDP, 4) => usize::from(packet[0] & 0xf) * 4,
            (GSO_TCP_V6 | GSO_UDP, 6) => V6_HEADER,
            _ => return None,
        };
        let (protocol, checksum, len) = match header.gso_type {
            GSO_UDP => (UDP, 6, UDP_HEADER),
            _ => (TCP, 16, usize::from(*packet.get(transport + 12)? >> 4) * 4),
        };
        let least = if protocol == TCP {
            MIN_TCP_HEADER
        } else {
            UDP_HEADER
        };
        let (end, size) = (transport + len, usize::from(header.gso_size));
        let fits = transport >= 20 && len >= least && size > 0 && packet.len() > end;
        if !fits || transport_protocol(packet) != protocol {
            return None;
        }
        let unsummed = unsummed && checksum_place(packet) == Some([transport, checksum]);
        let (headers, payload) = packet.split_at(end);
        let mut cut = Self::of(headers, transport, checksum, payload, size);
        cut.unsummed = unsummed;
        Some(cut)
    }

    /// Whether the packets are without their checksums.
    #[must_use]
    pub fn are_unsummed(&self) -> bool {
        self.unsummed
    }

    fn of(
        headers: &'a [u8],
        transport: usize,
        checksum: usize,
        payload: &'a [u8],
        size: usize,
    ) -> Self {
        Self {
            headers,
            transport,
            checksum,
            unsummed: false,
            payload,
            size,
            at: 0,
            current: [0; MAX_HEADERS],
        }
    }

    /// The next packet in two parts. The first one is good until the next call.
    pub fn next_packet(&mut self) -> Option<[&[u8]; 2]> {
        let start = self.at;
        let rest = self.payload.get(start..).filter(|rest| !rest.is_empty())?;
        let payload = &rest[..rest.len().min(self.size)];
        self.at += payload.len();
        if self.headers.is_empty() {
            return Some([&[], payload]);
        }
        let len = self.headers.len();
        self.current[..len].copy_from_slice(self.headers);
        let headers = &mut self.current[..len];
        if self.checksum == 16 {
            let last = self.at == self.payload.len();
            cut_tcp(&mut headers[self.transport..], start, last);
        }
        set_lengths(headers, self.transport, payload.len(), start / self.size);
        let at = self.transport + self.checksum;
        headers[at..at + 2].fill(0);
        let sum = match self.unsummed {
            true => pseudo_sum(headers, self.transport, payload.len()),
            false => transport_checksum(headers, self.transport, payload),
        };
        headers[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        Some([headers, payload])
    }
}

/// The protocol that an IP header names next.
fn transport_protocol(packet: &[u8]) -> u8 {
    match packet[0] >> 4 {
        4 => packet[9],
        _ => packet[6],
    }
}

/// Sequence number and flags of the TCP segment whose payload begins at `start`.
fn cut_tcp(tcp: &mut [u8], start: usize, last: bool) {
    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    let sequence = sequence.wrapping_add(start as u32);
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    if start > 0 {
        tcp[13] &= !CWR;
    }
    if !last {
        tcp[13] &= !(FIN | PSH);
    }
}

/// Lengths of the packet with this payload, and what else its IP header needs. `number` is
/// how many came before it.
fn set_lengths(headers: &mut [u8], transport: usize, payload: usize, number: usize) {
    let total = headers.len() + payload;
    if headers[0] >> 4 == 4 {
        headers[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        let id = (be16(headers, 4) as u16).wrapping_add(number as u16);
        headers[4..6].copy_from_slice(&id.to_be_bytes());
        headers[10..12].fill(0);
        let sum = checksum(&[&headers[..transport]]);
        headers[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        headers[4..6].copy_from_slice(&((total - V6_HEADER) as u16).to_be_bytes());
    }
    if transport_protocol(headers) == UDP {
        let udp = (total - transport) as u16;
        headers[transport + 4..transport + 6].copy_from_slice(&udp.to_be_bytes());
    }
}

/// The checksum over a transport header, whose own is zero, and its payload.
fn transport_checksum(headers: &[u8], transport: usize, payload: &[u8]) -> u16 {
    let protocol = transport_protocol(headers);
    let len = headers.len() - transport + payload.len();
    let pseudo = pseudo_header(headers, protocol, len);
    let sum = checksum(&[&pseudo, &headers[transport..], payload]);
    // For UDP zero means that there is none (RFC 768).
    if sum == 0 && protocol == UDP { !0 } else { sum }
}

/// What stands for a checksum that is left out, of a packet with this much payload.
fn pseudo_sum(headers: &[u8], transport: usize, payload: usize) -> u16 {
    let len = headers.len() - transport + payload;
    !checksum(&[&pseudo_header(headers, transport_protocol(headers), len)])
}

/// Where the transport header of a whole TCP or UDP packet begins, and where in that is its
/// checksum. `None` for all else, and for IPv6 with extension headers.
pub(crate) fn checksum_place(packet: &[u8]) -> Option<[usize; 2]> {
    let transport = match packet.first()? >> 4 {
        4 if packet.len() >= 20 && be16(packet, 6) & 0x3fff == 0 => {
            usize::from(packet[0] & 0xf) * 4
        }
        6 if packet.len() >= V6_HEADER => V6_HEADER,
        _ => return None,
    };
    let (header, checksum) = match transport_protocol(packet) {
        TCP => (MIN_TCP_HEADER, 16),
        UDP => (UDP_HEADER, 6),
        _ => return None,
    };
    (transport >= 20 && packet.len() >= transport + header).then_some([transport, checksum])
}

/// Computes what the kernel left out: at the offset stands the pseudo-header's sum.
fn complete_checksum(header: VnetHeader, packet: &mut [u8]) -> Option<()> {
    let start = usize::from(header.checksum_start);
    let at = start + usize::from(header.checksum_offset);
    if at + 2 > packet.len() {
        return None;
    }
    let sum = checksum(&[packet.get(start..)?]);
    let sum = if sum == 0 { !0 } else { sum };
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// A packet for the host: parts of a batch's buffer.
#[derive(Debug)]
struct Merged {
    headers: Range<usize>,
    payloads: Vec<Range<usize>>,
    transport: usize,
    len: usize,
    /// Payload of each segment but the last.
    size: usize,
    next_sequence: u32,
    /// The last one has PSH set.
    pushed: bool,
    /// Nothing may follow.
    closed: bool,
    /// It came without its checksum.
    unsummed: bool,
}

/// Merges the TCP segments of one batch. Packets are ranges of the batch's buffer.
#[derive(Debug, Default)]
pub struct Merger {
    /// Used again for each batch, with their allocations.
    spare: Vec<Vec<Range<usize>>>,
    merged: Vec<Merged>,
}

impl Merger {
    /// Takes a packet: `range` of `buffer`, with its checksum or without.
    pub fn push(&mut self, buffer: &[u8], range: Range<usize>, unsummed: bool) {
        let packet = &buffer[range.clone()];
        let Some(tcp) = TcpSegment::read(packet) else {
            self.begin(&range, 0, range.len(), 0, unsummed);
            return;
        };
        let headers_len = tcp.headers_len;
        if let Some(last) = self.merged.last_mut()
            && last.unsummed == unsummed
            && last.takes(buffer, packet, &tcp)
        {
            let payload = range.start + headers_len..range.end;
            last.pushed = tcp.flags & PSH != 0;
            last.closed = payload.len() < last.size || last.pushed;
            last.next_sequence = last.next_sequence.wrapping_add(payload.len() as u32);
            last.len += payload.len();
            last.payloads.push(payload);
            return;
        }
        let next = tcp
            .sequence
            .wrapping_add((packet.len() - headers_len) as u32);
        self.begin(&range, tcp.transport, headers_len, next, unsummed);
        if let Some(merged) = self.merged.last_mut() {
            merged.closed = tcp.flags & PSH != 0;
        }
    }

    /// Takes what goes to the host as it is: a frame.
    pub fn push_whole(&mut self, range: Range<usize>) {
        self.begin(&range, 0, range.len(), 0, false);
    }

    fn begin(
        &mut self,
        range: &Range<usize>,
        transport: usize,
        headers: usize,
        next: u32,
        unsummed: bool,
    ) {
        let mut payloads = self.spare.pop().unwrap_or_default();
        let split = range.start + headers;
        payloads.clear();
        if split < range.end {
            payloads.push(split..range.end);
        }
        self.merged.push(Merged {
            headers: range.start..split,
            payloads,
            transport,
            len: range.len(),
            size: range.end - split,
            next_sequence: next,
            pushed: false,
            closed: transport == 0,
            unsummed,
        });
    }

    /// Gives out what was pushed, each with its header, the packet's own headers made to
    /// fit, and its payloads. Empty afterwards.
    pub fn drain(
        &mut self,
        buffer: &mut [u8],
        mut each: impl FnMut(VnetHeader, &[u8], &[Range<usize>], Range<usize>),
    ) {
        for merged in self.merged.drain(..) {
            let header = merged.finish(buffer);
            each(header, buffer, &merged.payloads, merged.headers.clone());
            self.spare.push(merged.payloads);
        }
    }
}

impl Merged {
    /// Whether a segment follows this one directly and differs in nothing that counts.
    fn takes(&self, buffer: &[u8], packet: &[u8], tcp: &TcpSegment) -> bool {
        let payload = packet.len() - tcp.headers_len;
        let fits = !self.closed
            && self.payloads.len() < MAX_MERGED
            && tcp.headers_len == self.headers.len()
            && tcp.transport == self.transport
            && tcp.sequence == self.next_sequence
            && payload > 0
            && payload <= self.size
            && self.len + payload <= MAX_PACKET;
        fits && same_headers(&buffer[self.headers.clone()], packet, self.transport)
    }

    /// Makes the headers those of all payloads together.
    fn finish(&self, buffer: &mut [u8]) -> VnetHeader {
        if self.payloads.len() < 2 {
            // Every packet that came was authenticated, and its checksum with it; the host
            // may look at it all the same, if it is there.
            let place = self.unsummed.then(|| {
                let end = self.payloads.first().map_or(self.headers.end, |p| p.end);
                checksum_place(&buffer[self.headers.start..end])
            });
            let Some([transport, checksum]) = place.flatten() else {
                return VnetHeader::default();
            };
            return VnetHeader {
                flags: NEEDS_CHECKSUM,
                checksum_start: transport as u16,
                checksum_offset: checksum as u16,
                ..VnetHeader::default()
            };
        }
        let headers = &mut buffer[self.headers.clone()];
        if self.pushed {
            headers[self.transport + 13] |= PSH;
        }
        let len = headers.len();
        let payload = self.len - len;
        set_lengths(headers, self.transport, payload, 0);
        let sum = pseudo_sum(headers, self.transport, payload);
        let at = self.transport + 16;
        headers[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        VnetHeader {
            flags: NEEDS_CHECKSUM,
            gso_type: match headers[0] >> 4 {
                4 => GSO_TCP_V4,
                _ => GSO_TCP_V6,
            },
            header_len: len as u16,
            gso_size: self.size as u16,
            checksum_start: self.transport as u16,
            checksum_offset: 16,
        }
    }
}

/// What counts about a TCP segment that may be merged.
#[derive(Debug)]
struct TcpSegment {
    transport: usize,
    headers_len: usize,
    sequence: u32,
    flags: u8,
}

impl TcpSegment {
    /// Reads one that carries data and sets no flags but ACK and PSH; `None` for all else.
    fn read(packet: &[u8]) -> Option<Self> {
        ip::addresses(packet)?;
        let transport = match packet[0] >> 4 {
            // Without options, and not a fragment.
            4 if packet[0] == 0x45 && be16(packet, 6) & 0x3fff == 0 => 20,
            6 => V6_HEADER,
            _ => return None,
        };
        if transport_protocol(packet) != TCP {
            return None;
        }
        let tcp = packet
            .get(transport..)
            .filter(|t| t.len() > MIN_TCP_HEADER)?;
        let headers_len = transport + usize::from(tcp[12] >> 4) * 4;
        let data = headers_len >= transport + MIN_TCP_HEADER && packet.len() > headers_len;
        let flags = tcp[13];
        (data && flags & !PSH == ACK).then_some(Self {
            transport,
            headers_len,
            sequence: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
            flags,
        })
    }
}

/// Whether two TCP packets have the same headers, but for lengths, identification, sequence
/// number, PSH and checksums. `first` is the headers of a packet alone.
fn same_headers(first: &[u8], second: &[u8], transport: usize) -> bool {
    let same = |range: Range<usize>| first[range.clone()] == second[range];
    let ip = match first[0] >> 4 {
        4 => same(0..2) && same(6..10) && same(12..20),
        _ => same(0..4) && same(6..40),
    };
    let at = |offset: usize| transport + offset;
    ip && same(at(0)..at(4))
        && same(at(8)..at(13))
        && same(at(14)..at(16))
        && same(at(18)..first.len())
}

#[cfg(test)]
#[path = "offload_tests.rs"]
mod tests;
