use proptest::prelude::*;

use super::*;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const LIMIT: usize = 70_000;

fn framed(opcode: Opcode, payload: &[u8], mask: Mask) -> Vec<u8> {
    let mut out = Vec::new();
    put_frame(&mut out, opcode, payload, mask);
    out
}

/// What a whole stream of frames decodes to.
fn decode(sender: Sender, bytes: &[u8]) -> Result<Vec<(&'static str, Vec<u8>)>, WebSocketError> {
    let mut decoder = Decoder::new(sender, LIMIT);
    let (mut rest, mut out) = (bytes.to_vec(), Vec::new());
    while let Some((len, frame)) = decoder.take(&mut rest)? {
        out.push(match frame {
            Frame::Message(m) => ("message", m.to_vec()),
            Frame::Fragment => ("fragment", Vec::new()),
            Frame::Ping(p) => ("ping", p.to_vec()),
            Frame::Pong => ("pong", Vec::new()),
            Frame::Close => ("close", Vec::new()),
        });
        rest.drain(..len);
    }
    Ok(out)
}

#[test]
fn frames_have_the_bytes_of_rfc_6455_section_5_7() {
    assert_eq!(
        framed(Opcode::Pong, b"Hello", Some(KEY)),
        [
            0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58
        ]
    );
    let medium = framed(Opcode::Message, &[7; 256], None);
    assert_eq!(medium[..4], [0x82, 0x7e, 0x01, 0x00]);
    let long = framed(Opcode::Message, &[7; 65_536], None);
    assert_eq!(long[..10], [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(framed(Opcode::Close, b"", None), [0x88, 0]);
    let ping = [0x89, 0x05, b'H', b'e', b'l', b'l', b'o'];
    assert_eq!(
        decode(Sender::Server, &ping),
        Ok(vec![("ping", b"Hello".to_vec())])
    );
}

#[test]
fn a_message_in_fragments_is_put_together_around_a_ping() {
    let bytes = [
        0x02, 0x03, b'H', b'e', b'l', 0x89, 0x00, 0x80, 0x02, b'l', b'o', 0x82, 0x01, b'!',
    ];
    let expected = vec![
        ("fragment", vec![]),
        ("ping", vec![]),
        ("message", b"Hello".to_vec()),
        ("message", b"!".to_vec()),
    ];
    assert_eq!(decode(Sender::Server, &bytes), Ok(expected));
}

#[test]
fn what_breaks_the_rules_ends_the_connection() {
    let over = LIMIT as u64 + 1;
    let mut too_long = vec![0x82, 0x7f];
    too_long.extend_from_slice(&over.to_be_bytes());
    let cases: [(&[u8], WebSocketError); 8] = [
        (&[0x81, 0x00], WebSocketError::Kind(0x81)),
        (&[0xc2, 0x00], WebSocketError::Kind(0xc2)),
        (&[0x83, 0x00], WebSocketError::Kind(0x83)),
        (&[0x82, 0x80, 0, 0, 0, 0], WebSocketError::Masking),
        (&[0x80, 0x00], WebSocketError::Order),
        (&[0x09, 0x00], WebSocketError::Order),
        (&[0x89, 0x7e, 0x00, 0x7e], WebSocketError::Order),
        (
            &too_long,
            WebSocketError::TooLong {
                len: over,
                limit: LIMIT,
            },
        ),
    ];
    for (bytes, error) in cases {
        assert_eq!(decode(Sender::Server, bytes), Err(error), "{bytes:02x?}");
    }
    let unmasked = framed(Opcode::Message, b"x", None);
    assert_eq!(
        decode(Sender::Client, &unmasked),
        Err(WebSocketError::Masking)
    );
}

#[test]
fn fragments_together_stay_within_the_limit() {
    let mut bytes = vec![0x02, 0x7e, 0xff, 0xff];
    bytes.extend_from_slice(&[0; 0xffff]);
    bytes.extend_from_slice(&[0x80, 0x7e, 0xff, 0xff]);
    assert_eq!(
        decode(Sender::Server, &bytes),
        Err(WebSocketError::TooLong {
            len: 2 * 0xffff,
            limit: LIMIT
        })
    );
}

proptest! {
    #[test]
    fn messages_round_trip_however_they_are_cut(
        messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..8),
        key in proptest::option::of(any::<[u8; 4]>()),
        cut in 1..64_usize,
    ) {
        let mut stream = Vec::new();
        for message in &messages {
            let before = stream.len();
            put_frame(&mut stream, Opcode::Message, message, key);
            prop_assert_eq!(stream.len() - before, frame_len(message.len(), key.is_some()));
        }
        let sender = if key.is_some() { Sender::Client } else { Sender::Server };
        let mut decoder = Decoder::new(sender, LIMIT);
        let (mut buf, mut got) = (Vec::new(), Vec::new());
        for part in stream.chunks(cut) {
            buf.extend_from_slice(part);
            while let Some((len, frame)) = decoder.take(&mut buf).unwrap() {
                let Frame::Message(message) = frame else {
                    panic!("{frame:?}");
                };
                got.push(message.to_vec());
                buf.drain(..len);
            }
        }
        prop_assert_eq!(got, messages);
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for sender in [Sender::Client, Sender::Server] {
            if let Ok(frames) = decode(sender, &bytes) {
                let total: usize = frames.iter().map(|(_, payload)| payload.len()).sum();
                prop_assert!(total <= bytes.len());
            }
        }
    }
}
