//! Where a QUIC packet goes, from what all versions of QUIC have in common (RFC 8999).

/// The destination of a QUIC packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination<'a> {
    /// That of a packet with a long header: of a handshake.
    Long {
        /// The version of QUIC; 0 in an answer that negotiates one.
        version: u32,
        /// The destination connection id.
        cid: &'a [u8],
    },
    /// That of a packet with a short header: of an established connection.
    Short {
        /// The destination connection id.
        cid: &'a [u8],
    },
}

const LONG: u8 = 0x80;

/// Reads the destination of the first QUIC packet of a datagram. A short header does not
/// tell how long its connection id is: the receiver gave it out and knows. `None` when the
/// packet ends before its connection id does.
#[must_use]
pub fn destination(datagram: &[u8], short_cid_len: usize) -> Option<Destination<'_>> {
    let (first, rest) = datagram.split_first()?;
    if first & LONG == 0 {
        let cid = rest.get(..short_cid_len)?;
        return Some(Destination::Short { cid });
    }
    let (version, rest) = rest.split_first_chunk()?;
    let (len, rest) = rest.split_first()?;
    let cid = rest.get(..usize::from(*len))?;
    let version = u32::from_be_bytes(*version);
    Some(Destination::Long { version, cid })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_destination_is_read_from_either_header() {
        let long = [0xc3, 0, 0, 0, 1, 3, 7, 8, 9, 0, 0x40];
        let cid = &[7, 8, 9][..];
        assert_eq!(
            destination(&long, 8),
            Some(Destination::Long { version: 1, cid })
        );
        let short = [0x43, 7, 8, 9, 1, 2];
        assert_eq!(destination(&short, 3), Some(Destination::Short { cid }));
    }

    #[test]
    fn a_packet_that_breaks_off_has_none() {
        let long = [0xc3, 0, 0, 0, 1, 3, 7, 8, 9];
        for len in 0..long.len() {
            assert_eq!(destination(&long[..len], 3), None, "{len} bytes");
        }
        for len in 0..4 {
            assert_eq!(destination(&[0x43, 7, 8, 9][..len], 3), None, "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            len in 0usize..=20,
        ) {
            if let Some(Destination::Short { cid }) = destination(&bytes, len) {
                prop_assert_eq!(cid.len(), len);
            }
        }
    }
}
