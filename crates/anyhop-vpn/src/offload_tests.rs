use proptest::prelude::*;

use super::*;
use crate::ip::tests::packet;

const FLAGS_AT: usize = 13;

/// A TCP packet with a complete checksum.
fn tcp(v6: bool, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let (from, to) = match v6 {
        false => ("100.64.0.2", "100.64.0.1"),
        true => ("fd00::2", "fd00::1"),
    };
    let transport = if v6 { 40 } else { 20 };
    let mut out = packet(from, to, transport + 32 + payload.len());
    out[if v6 { 6 } else { 9 }] = TCP;
    let header = &mut out[transport..];
    header[..4].copy_from_slice(&[0x10, 0, 0x20, 0]);
    header[4..8].copy_from_slice(&sequence.to_be_bytes());
    (header[12], header[FLAGS_AT]) = (8 << 4, flags);
    header[32..].copy_from_slice(payload);
    let (headers, payload) = out.split_at_mut(transport + 32);
    set_lengths(headers, transport, payload.len(), 0);
    let sum = transport_checksum(headers, transport, payload);
    headers[transport + 16..transport + 18].copy_from_slice(&sum.to_be_bytes());
    out
}

/// Whether lengths and checksums are right.
fn is_sound(packet: &[u8]) -> bool {
    let Some(_) = ip::addresses(packet) else {
        return false;
    };
    let v4 = packet[0] >> 4 == 4;
    let transport = if v4 { 20 } else { 40 };
    let protocol = transport_protocol(packet);
    let pseudo = pseudo_header(packet, protocol, packet.len() - transport);
    let header = !v4 || checksum(&[&packet[..20]]) == 0;
    header && checksum(&[&pseudo, &packet[transport..]]) == 0
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 % 251) as u8).collect()
}

/// The header of a packet that the kernel wants cut.
fn gso(packet: &[u8], size: u16) -> VnetHeader {
    let v6 = packet[0] >> 4 == 6;
    VnetHeader {
        flags: NEEDS_CHECKSUM,
        gso_type: if v6 { GSO_TCP_V6 } else { GSO_TCP_V4 },
        gso_size: size,
        ..VnetHeader::default()
    }
}

fn cut(header: VnetHeader, packet: Vec<u8>) -> Option<Vec<Vec<u8>>> {
    Some(cut_for(header, packet, false)?.1)
}

/// The same where checksums may be left out, and whether they were.
fn cut_for(
    header: VnetHeader,
    mut packet: Vec<u8>,
    unsummed: bool,
) -> Option<(bool, Vec<Vec<u8>>)> {
    let longest = header.cut_len(&packet);
    let mut segments = Segments::new(header, &mut packet, unsummed)?;
    let left_out = segments.are_unsummed();
    let mut out = Vec::new();
    while let Some(parts) = segments.next_packet() {
        out.push(parts.concat());
    }
    assert_eq!(out.iter().map(Vec::len).max().unwrap_or_default(), longest);
    Some((left_out, out))
}

/// What a merger makes of packets in one batch: header and packet of each.
fn merge(packets: &[Vec<u8>]) -> Vec<(VnetHeader, Vec<u8>)> {
    let summed = packets.iter().map(|p| (p.clone(), false));
    merge_all(&summed.collect::<Vec<_>>())
}

/// The same with packets that may be without their checksums.
fn merge_all(packets: &[(Vec<u8>, bool)]) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut buffer = packets
        .iter()
        .flat_map(|(p, _)| p.clone())
        .collect::<Vec<_>>();
    let mut merger = Merger::default();
    let mut at = 0;
    for (packet, unsummed) in packets {
        merger.push(&buffer, at..at + packet.len(), *unsummed);
        at += packet.len();
    }
    let mut out = Vec::new();
    merger.drain(&mut buffer, |header, buffer, payloads, headers| {
        let parts = [headers].into_iter().chain(payloads.iter().cloned());
        out.push((header, parts.flat_map(|p| buffer[p].to_vec()).collect()));
    });
    merger.drain(&mut buffer, |_, _, _, _| panic!("it is empty"));
    out
}

#[test]
fn the_header_has_these_bytes() {
    let header = VnetHeader {
        flags: 1,
        gso_type: 4,
        header_len: 0x0102,
        gso_size: 0x0304,
        checksum_start: 0x0506,
        checksum_offset: 0x0708,
    };
    let mut expected = vec![1, 4];
    for word in [0x0102_u16, 0x0304, 0x0506, 0x0708] {
        expected.extend_from_slice(&word.to_ne_bytes());
    }
    assert_eq!(header.bytes().to_vec(), expected);
    expected.push(0x45);
    let (read, packet) = VnetHeader::read(&mut expected).unwrap();
    assert_eq!((read, &*packet), (header, &[0x45][..]));
    assert!(VnetHeader::read(&mut [0; 9]).is_none());
}

#[test]
fn a_large_packet_is_cut_into_sound_ones_that_merge_into_it_again() {
    for v6 in [false, true] {
        let whole = tcp(v6, u32::MAX - 1000, ACK | PSH, &bytes(3500));
        let parts = cut(gso(&whole, 1000), whole.clone()).unwrap();
        assert_eq!(parts.len(), 4);
        assert!(parts.iter().all(|p| is_sound(p)));
        let flags = |p: &Vec<u8>| p[if v6 { 40 } else { 20 } + FLAGS_AT];
        let flags: Vec<_> = parts.iter().map(flags).collect();
        assert_eq!(flags, [ACK, ACK, ACK, ACK | PSH]);

        let merged = merge(&parts);
        assert_eq!(merged.len(), 1);
        let (header, packet) = &merged[0];
        assert_eq!(header.gso_size, 1000);
        // Cut once more it is the same: the checksum of the whole is the kernel's to make.
        assert_eq!(cut(*header, packet.clone()).unwrap(), parts);
    }
}

#[test]
fn flags_that_end_something_come_with_the_last_segment_only() {
    let whole = tcp(false, 7, ACK | FIN | CWR, &bytes(250));
    let parts = cut(gso(&whole, 100), whole).unwrap();
    let flags: Vec<_> = parts.iter().map(|p| p[20 + FLAGS_AT]).collect();
    assert_eq!(flags, [ACK | CWR, ACK, ACK | FIN]);
}

#[test]
fn udp_is_cut_into_datagrams() {
    let mut whole = packet("fd00::2", "fd00::1", 48 + 250);
    whole[48..].copy_from_slice(&bytes(250));
    let header = VnetHeader {
        flags: NEEDS_CHECKSUM,
        gso_type: GSO_UDP,
        gso_size: 100,
        ..VnetHeader::default()
    };
    let parts = cut(header, whole).unwrap();
    let lens: Vec<_> = parts.iter().map(|p| be16(p, 44)).collect();
    assert_eq!(lens, [108, 108, 58]);
    assert!(parts.iter().all(|p| is_sound(p)));
}

#[test]
fn a_whole_packet_gets_the_checksum_that_was_left_out() {
    let complete = tcp(true, 1, ACK, b"data");
    let mut partial = complete.clone();
    let pseudo = pseudo_header(&partial, TCP, partial.len() - 40);
    partial[56..58].copy_from_slice(&(!checksum(&[&pseudo])).to_be_bytes());
    let header = VnetHeader {
        flags: NEEDS_CHECKSUM,
        checksum_start: 40,
        checksum_offset: 16,
        ..VnetHeader::default()
    };
    assert_eq!(
        cut(header, partial).unwrap(),
        std::slice::from_ref(&complete)
    );
    let none = VnetHeader::default();
    assert_eq!(cut(none, complete.clone()).unwrap(), [complete]);
}

#[test]
fn checksums_that_the_kernel_left_out_are_left_to_the_receivers_kernel() {
    for v6 in [false, true] {
        let whole = tcp(v6, 7, ACK, &bytes(2500));
        let header = gso(&whole, 1000);
        let sound = cut(header, whole.clone()).unwrap();
        let (left_out, parts) = cut_for(header, whole, true).unwrap();
        assert!(left_out && parts.iter().all(|p| !is_sound(p)));
        let unsummed: Vec<_> = parts.iter().map(|p| (p.clone(), true)).collect();
        // One by one, and as one packet.
        for part in &unsummed {
            let merged = merge_all(std::slice::from_ref(part));
            let (header, packet) = &merged[0];
            let completed = cut(*header, packet.clone()).unwrap();
            assert!(sound.contains(&completed[0]), "{header:?}");
            // What came so may go on so.
            let (left_out, same) = cut_for(*header, packet.clone(), true).unwrap();
            assert!(left_out && same[0] == part.0);
        }
        let merged = merge_all(&unsummed);
        assert_eq!(merged.len(), 1);
        let (header, packet) = &merged[0];
        assert_eq!(cut(*header, packet.clone()).unwrap(), sound);
    }
}

#[test]
fn packets_with_checksums_and_without_do_not_become_one() {
    let first = tcp(false, 1000, ACK, &bytes(100));
    let next = tcp(false, 1100, ACK, &bytes(100));
    let merged = merge_all(&[(first.clone(), true), (next, false)]);
    assert_eq!(merged.len(), 2);
    assert_eq!(merged[0].0.flags, NEEDS_CHECKSUM);
    assert_eq!(merged[1].0, VnetHeader::default());
}

#[test]
fn a_checksum_that_a_receiver_would_not_find_is_not_left_out() {
    // A fragment, and a transport that is neither TCP nor UDP.
    let mut fragment = tcp(false, 1, ACK, b"data");
    fragment[6] = 0x20;
    let mut other = tcp(false, 1, ACK, b"data");
    other[9] = 132;
    let header = VnetHeader {
        flags: NEEDS_CHECKSUM,
        checksum_start: 20,
        checksum_offset: 16,
        ..VnetHeader::default()
    };
    for packet in [fragment, other] {
        assert!(!cut_for(header, packet, true).unwrap().0);
    }
}

#[test]
fn only_segments_that_follow_each_other_are_merged() {
    let first = tcp(false, 1000, ACK, &bytes(100));
    let next = tcp(false, 1100, ACK, &bytes(100));
    let lens = |packets: &[Vec<u8>]| -> Vec<usize> {
        merge(packets).iter().map(|(_, p)| p.len()).collect()
    };
    assert_eq!(lens(&[first.clone(), next.clone()]), [252]);
    let mut other_window = next.clone();
    other_window[20 + 15] = 9;
    let mut other_port = next.clone();
    other_port[21] = 1;
    let mut other_options = next.clone();
    other_options[20 + 25] = 1;
    let mut other_ttl = next.clone();
    other_ttl[8] = 1;
    for other in [
        tcp(false, 1101, ACK, &bytes(100)),
        tcp(false, 1100, ACK | FIN, &bytes(100)),
        tcp(false, 1100, ACK, &bytes(101)),
        tcp(false, 1100, ACK, &[]),
        tcp(true, 1100, ACK, &bytes(100)),
        packet("100.64.0.2", "100.64.0.1", 152),
        other_window,
        other_port,
        other_options,
        other_ttl,
    ] {
        let (one, two) = (first.len(), other.len());
        assert_eq!(lens(&[first.clone(), other]), [one, two]);
    }
    // After a shorter one, or one that is pushed, something new begins.
    let short = tcp(false, 1100, ACK, &bytes(50));
    let after = tcp(false, 1150, ACK, &bytes(50));
    assert_eq!(lens(&[first.clone(), short, after]), [202, 102]);
    let pushed = tcp(false, 1000, ACK | PSH, &bytes(100));
    assert_eq!(lens(&[pushed.clone(), next.clone()]), [152, 152]);
    // What goes alone goes as it came.
    assert_eq!(
        merge(std::slice::from_ref(&first)),
        [(VnetHeader::default(), first)]
    );
}

proptest! {
    #[test]
    fn whatever_is_cut_merges_and_is_cut_alike(
        v6: bool, sequence: u32, len in 1_usize..20_000, size in 1_u16..1500,
    ) {
        let whole = tcp(v6, sequence, ACK, &bytes(len));
        let parts = cut(gso(&whole, size), whole).unwrap();
        prop_assert_eq!(parts.len(), len.div_ceil(usize::from(size)));
        prop_assert!(parts.iter().all(|p| is_sound(p)));
        let mut again = Vec::new();
        for (header, packet) in merge(&parts) {
            again.extend(cut(header, packet).unwrap());
        }
        // Identifications are counted anew in each.
        let known = |mut p: Vec<u8>| {
            if !v6 {
                p[4..6].fill(0);
                p[10..12].fill(0);
            }
            p
        };
        let again: Vec<_> = again.into_iter().map(known).collect();
        let parts: Vec<_> = parts.into_iter().map(known).collect();
        prop_assert_eq!(again, parts);
    }

    #[test]
    fn no_header_makes_a_packet_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        version in prop_oneof![Just(0x45_u8), Just(0x60), Just(0x4f), any::<u8>()],
        gso_type in prop_oneof![Just(1_u8), Just(4), Just(5), any::<u8>()],
        words: [u16; 4], flags: u8, unsummed: bool,
    ) {
        let mut packet = bytes;
        if let Some(first) = packet.first_mut() {
            *first = version;
        }
        let [header_len, gso_size, checksum_start, checksum_offset] = words;
        let header = VnetHeader { flags, gso_type, header_len, gso_size, checksum_start, checksum_offset };
        let _ = cut(header, packet.clone());
        let small = VnetHeader { gso_size: gso_size % 64, ..header };
        let _ = cut(small, packet.clone());
        let _ = cut_for(header, packet.clone(), true);
        let _ = merge_all(&[(packet.clone(), unsummed), (packet, unsummed)]);
    }
}
