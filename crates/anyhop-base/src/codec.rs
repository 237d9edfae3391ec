//! Unsigned varints and length-delimited frames, as in the multiformats
//! `unsigned-varint` specification: little-endian base 128, at most nine bytes, in the
//! shortest form only.
//!
//! The `take_*` functions work on a slice that they shorten; on [`Ok(None)`](None), when
//! more bytes are needed, and on an error they leave it as it was.

use thiserror::Error;

/// Longest varint, bytes.
pub const MAX_VARINT_LEN: usize = 9;

/// Largest value a varint carries: 63 bits.
pub const MAX_VARINT: u64 = u64::MAX >> 1;

/// Why bytes are no varint or frame. Always the sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The varint goes on after its ninth byte.
    #[error("varint is longer than {MAX_VARINT_LEN} bytes")]
    VarintTooLong,
    /// The varint ends in a zero byte it does not need.
    #[error("varint is not in its shortest form")]
    VarintNotMinimal,
    /// The frame announces more bytes than the reader takes.
    #[error("frame of {len} bytes is larger than the limit of {limit} bytes")]
    FrameTooLarge {
        /// What it announces.
        len: u64,
        /// What the reader takes.
        limit: usize,
    },
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

/// Takes a varint from the front of `input`, or [`None`] when it is not complete yet.
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

/// Appends `body` with its length before it.
pub fn put_frame(out: &mut Vec<u8>, body: &[u8]) {
    put_varint(out, body.len() as u64);
    out.extend_from_slice(body);
}

/// Takes a frame's body from the front of `input`, or [`None`] when it is not complete
/// yet. The limit is checked as soon as the length is there, before any of the body.
///
/// # Errors
/// When the length is no varint or over `limit`.
pub fn take_frame<'a>(input: &mut &'a [u8], limit: usize) -> Result<Option<&'a [u8]>, CodecError> {
    let mut rest = *input;
    let Some(len) = take_varint(&mut rest)? else {
        return Ok(None);
    };
    let len = match usize::try_from(len) {
        Ok(len) if len <= limit => len,
        _ => return Err(CodecError::FrameTooLarge { len, limit }),
    };
    let Some((body, rest)) = rest.split_at_checked(len) else {
        return Ok(None);
    };
    *input = rest;
    Ok(Some(body))
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

    #[test]
    fn a_frame_over_the_limit_is_refused_before_its_body_arrives() {
        let mut out = Vec::new();
        put_varint(&mut out, 5);
        let limit = 4;
        assert_eq!(
            take_frame(&mut out.as_slice(), limit),
            Err(CodecError::FrameTooLarge { len: 5, limit })
        );
        put_varint(&mut out, MAX_VARINT);
        let mut huge = &out[1..];
        assert!(take_frame(&mut huge, usize::MAX / 4).is_err());
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

        #[test]
        fn frames_round_trip_however_they_are_cut(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..5),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = Vec::new();
            for body in &bodies {
                put_frame(&mut bytes, body);
            }
            let cut = cut.index(bytes.len() + 1);
            let mut taken: Vec<Vec<u8>> = Vec::new();
            let mut first = &bytes[..cut];
            while let Some(body) = take_frame(&mut first, 300).unwrap() {
                taken.push(body.to_vec());
            }
            let left = [first, &bytes[cut..]].concat();
            let mut second = left.as_slice();
            while let Some(body) = take_frame(&mut second, 300).unwrap() {
                taken.push(body.to_vec());
            }
            prop_assert!(second.is_empty());
            prop_assert_eq!(taken, bodies);
        }
    }
}
