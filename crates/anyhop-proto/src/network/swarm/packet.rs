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
/// The type of a packet with a long header; 0 for an Initial.
const TYPE: u8 = 0x30;
/// Where the destination connection id of a long header begins.
const DESTINATION_AT: usize = 6;

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

/// Reads the token of an Initial packet of QUIC's first version (RFC 9000 section 17.2.2);
/// empty when it has none. `None` for any other packet.
#[must_use]
pub fn initial_token(datagram: &[u8]) -> Option<&[u8]> {
    let Some(Destination::Long { version: 1, cid }) = destination(datagram, 0) else {
        return None;
    };
    if datagram[0] & TYPE != 0 {
        return None;
    }
    let rest = &datagram[DESTINATION_AT + cid.len()..];
    let (source_len, rest) = rest.split_first()?;
    let rest = rest.get(usize::from(*source_len)..)?;
    let (first, after) = rest.split_first()?;
    // A variable-length integer (RFC 9000 section 16); one of more than two bytes would be
    // longer than any datagram.
    let (len, rest) = match first >> 6 {
        0 => (usize::from(*first), after),
        1 => {
            let (second, after) = after.split_first()?;
            (usize::from(first & 0x3f) << 8 | usize::from(*second), after)
        }
        _ => return None,
    };
    rest.get(..len)
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

    #[test]
    fn the_token_of_an_initial_is_read_whatever_its_length() {
        let head = [0xc3, 0, 0, 0, 1, 3, 7, 8, 9, 2, 5, 5];
        let packet = |token: &[u8]| [&head[..], token, &[0x40, 0x01, 0xff]].concat();
        assert_eq!(initial_token(&packet(&[0])), Some(&[][..]));
        assert_eq!(initial_token(&packet(&[2, 1, 2])), Some(&[1, 2][..]));
        let long = [&[0x40, 112][..], &[6; 112]].concat();
        assert_eq!(initial_token(&packet(&long)), Some(&[6; 112][..]));
        let mut handshake = packet(&[2, 1, 2]);
        handshake[0] = 0xe3;
        assert_eq!(initial_token(&handshake), None);
        let whole = packet(&[2, 1, 2]);
        for len in 0..15 {
            assert_eq!(initial_token(&whole[..len]), None, "{len} bytes");
        }
        let mut other_version = whole;
        other_version[4] = 2;
        assert_eq!(initial_token(&other_version), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            len in 0usize..=20,
        ) {
            let token = initial_token(&bytes);
            prop_assert!(token.is_none_or(|t| t.len() < bytes.len()));
            if let Some(Destination::Short { cid }) = destination(&bytes, len) {
                prop_assert_eq!(cid.len(), len);
            }
        }
    }
}
