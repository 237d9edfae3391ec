//! Unsigned varints, as in the multiformats `unsigned-varint` specification:
//! little-endian base 128, at most nine bytes, in the shortest form only.

use thiserror::Error;

/// Longest varint, bytes.
pub const MAX_VARINT_LEN: usize = 9;

/// Largest value a varint carries: 63 bits.
pub const MAX_VARINT: u64 = u64::MAX >> 1;

/// Why bytes are no varint. Always the sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The varint goes on after its ninth byte.
    #[error("varint is longer than {MAX_VARINT_LEN} bytes")]
    VarintTooLong,
    /// The varint ends in a zero byte it does not need.
    #[error("varint is not in its shortest form")]
    VarintNotMinimal,
}

/// Appends `value`, which is at most [`MAX_VARINT`]; a larger one is a bug of the caller,
/// and no reader will take it.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    debug_assert!(value <= MAX_VARINT, "varint value {value} has 64 bits");
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a varint from the front of `input`, which it shortens; [`None`] when more bytes
/// are needed. Then, and on an error, `input` is left as it was.
///
/// # Errors
/// When no further bytes can make it a valid varint.
pub fn take_varint(input: &mut &[u8]) -> Result<Option<u64>, CodecError> {
    let mut value = 0_u64;
    for (i, &byte) in input.iter().take(MAX_VARINT_LEN).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            if byte == 0 && i > 0 {
                return Err(CodecError::VarintNotMinimal);
            }
            *input = &input[i + 1..];
            return Ok(Some(value));
        }
    }
    if input.len() >= MAX_VARINT_LEN {
        return Err(CodecError::VarintTooLong);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn varints_have_the_bytes_of_the_specification() {
        let cases: [(u64, &[u8]); 6] = [
            (0, &[0x00]),
            (1, &[0x01]),
            (127, &[0x7f]),
            (128, &[0x80, 0x01]),
            (300, &[0xac, 0x02]),
            (
                MAX_VARINT,
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
            ),
        ];
        for (value, bytes) in cases {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out, bytes);
            let mut input = bytes;
            assert_eq!(take_varint(&mut input), Ok(Some(value)));
            assert!(input.is_empty());
        }
    }

    #[test]
    fn padded_and_overlong_varints_are_refused_and_nothing_is_taken() {
        for (bytes, error) in [
            (&[0x80, 0x00][..], CodecError::VarintNotMinimal),
            (&[0x81, 0x80, 0x00][..], CodecError::VarintNotMinimal),
            (&[0x80; 9][..], CodecError::VarintTooLong),
            (&[0xff; 12][..], CodecError::VarintTooLong),
        ] {
            let mut input = bytes;
            assert_eq!(take_varint(&mut input), Err(error));
            assert_eq!(input, bytes);
        }
    }

    #[test]
    fn an_incomplete_varint_waits_for_more() {
        for bytes in [&[][..], &[0x80][..], &[0xff; 8][..]] {
            let mut input = bytes;
            assert_eq!(take_varint(&mut input), Ok(None));
            assert_eq!(input, bytes);
        }
    }

    proptest! {
        #[test]
        fn varints_round_trip_and_leave_the_rest(
            value in 0..=MAX_VARINT,
            rest in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert!(bytes.len() <= MAX_VARINT_LEN);
            bytes.extend_from_slice(&rest);
            let mut input = bytes.as_slice();
            prop_assert_eq!(take_varint(&mut input), Ok(Some(value)));
            prop_assert_eq!(input, rest.as_slice());
        }

        #[test]
        fn whatever_is_taken_was_written_by_the_same_rule(bytes: Vec<u8>) {
            let mut input = bytes.as_slice();
            if let Ok(Some(value)) = take_varint(&mut input) {
                let mut again = Vec::new();
                put_varint(&mut again, value);
                prop_assert_eq!(&again, &bytes[..bytes.len() - input.len()]);
            } else {
                prop_assert_eq!(input.len(), bytes.len());
            }
        }
    }
}
