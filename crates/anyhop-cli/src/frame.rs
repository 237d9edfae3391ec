//! Frames on an upgraded control connection.
//!
//! A raw byte pipe between daemon and command could not tell the end of a stream from
//! its loss. So each direction is a sequence of frames, one byte of kind and four bytes
//! of big-endian length before the payload: data, the end of the data, an
//! acknowledgement that the other direction was delivered, JSON, or the error that
//! ended it all. A connection that closes without `End` or `Error` was lost.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::error::{CliError, Code, ErrorBody};

/// Largest payload of a frame, bytes.
pub(crate) const MAX_PAYLOAD: usize = 1 << 20;
/// Data is read and sent in chunks of at most this many bytes.
pub(crate) const CHUNK: usize = 256 << 10;
/// Value of the `Upgrade` header, versions the frame format.
pub(crate) const UPGRADE: &str = "anyhop-frames/1";

const HEADER: usize = 5;
/// Least room a read is started with.
const MIN_READ: usize = 4096;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Bytes of the stream.
    Data(Bytes),
    /// No more data comes this way.
    End,
    /// All data of the opposite direction was delivered, its end included.
    Delivered,
    /// A JSON value.
    Json(Bytes),
    /// Everything ended early; a JSON [`ErrorBody`].
    Error(Bytes),
}

/// Bytes that are no frame.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum FrameError {
    /// The kind byte is none of ours.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// The payload is too long, or there is one where none belongs.
    #[error("frame of kind {kind} with {len} bytes is over the limit")]
    Length {
        /// Kind byte.
        kind: u8,
        /// Announced length.
        len: usize,
    },
}

impl Frame {
    fn parts(&self) -> (u8, &[u8]) {
        match self {
            Self::Data(b) => (0, b),
            Self::End => (1, &[]),
            Self::Delivered => (2, &[]),
            Self::Json(b) => (3, b),
            Self::Error(b) => (4, b),
        }
    }

    /// Appends the frame's bytes.
    #[cfg(test)]
    fn encode(&self, out: &mut BytesMut) {
        let (kind, payload) = self.parts();
        out.extend_from_slice(&header(kind, payload.len()));
        out.extend_from_slice(payload);
    }

    /// Takes one frame off the front, if it is there whole.
    pub(crate) fn decode(buf: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some(head) = buf.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let kind = head[0];
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if kind > 4 {
            return Err(FrameError::Kind(kind));
        }
        if len > MAX_PAYLOAD || (matches!(kind, 1 | 2) && len != 0) {
            return Err(FrameError::Length { kind, len });
        }
        if buf.len() < HEADER + len {
            buf.reserve(HEADER + len - buf.len());
            return Ok(None);
        }
        buf.advance(HEADER);
        let payload = buf.split_to(len).freeze();
        Ok(Some(match kind {
            0 => Self::Data(payload),
            1 => Self::End,
            2 => Self::Delivered,
            3 => Self::Json(payload),
            _ => Self::Error(payload),
        }))
    }
}

fn header(kind: u8, len: usize) -> [u8; HEADER] {
    let len = u32::try_from(len).expect("payloads are at most MAX_PAYLOAD bytes");
    let [a, b, c, d] = len.to_be_bytes();
    [kind, a, b, c, d]
}

/// Reads frames. Cancelling [`next`](Self::next) loses nothing.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    io: R,
    buf: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `io`.
    pub(crate) fn new(io: R) -> Self {
        Self {
            io,
            buf: BytesMut::with_capacity(CHUNK + HEADER),
        }
    }

    /// The next frame; `None` when the connection closed between two frames.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            let decoded = Frame::decode(&mut self.buf)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            if decoded.is_some() {
                return Ok(decoded);
            }
            if self.buf.capacity() - self.buf.len() < MIN_READ {
                self.buf.reserve(CHUNK + HEADER);
            }
            if self.io.read_buf(&mut self.buf).await? == 0 {
                return if self.buf.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    /// The next frame, which must be JSON of type `T`. `None` when the connection
    /// closed; an error frame becomes the error.
    pub(crate) async fn next_json<T: DeserializeOwned>(&mut self) -> Result<Option<T>, CliError> {
        match self.next().await.map_err(|e| broken(&e))? {
            None => Ok(None),
            Some(Frame::Json(b)) => Ok(Some(
                serde_json::from_slice(&b).map_err(|e| unexpected(&e.to_string()))?,
            )),
            Some(Frame::Error(b)) => Err(parse_error(&b)),
            Some(other) => Err(unexpected(&format!("frame kind {}", other.parts().0))),
        }
    }

    /// Data frames until `size` bytes have come.
    pub(crate) async fn next_body(&mut self, size: usize) -> Result<Bytes, CliError> {
        let mut body = BytesMut::with_capacity(size.min(MAX_PAYLOAD));
        while body.len() < size {
            match self.next().await.map_err(|e| broken(&e))? {
                Some(Frame::Data(b)) if body.len() + b.len() <= size => body.extend_from_slice(&b),
                Some(Frame::Error(b)) => return Err(parse_error(&b)),
                Some(_) => return Err(unexpected("not the announced body")),
                None => return Err(broken(&io::ErrorKind::UnexpectedEof.into())),
            }
        }
        Ok(body.freeze())
    }
}

/// Writes frames.
#[derive(Debug)]
pub(crate) struct FrameWriter<W> {
    io: W,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes to `io`.
    pub(crate) fn new(io: W) -> Self {
        Self { io }
    }

    /// Writes one frame.
    pub(crate) async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        let (kind, payload) = frame.parts();
        self.write(kind, payload).await
    }

    /// Writes data, in as many frames as it takes.
    pub(crate) async fn data(&mut self, data: &[u8]) -> io::Result<()> {
        for chunk in data.chunks(CHUNK) {
            self.write(0, chunk).await?;
        }
        Ok(())
    }

    /// Writes a value as a JSON frame.
    pub(crate) async fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_vec(value)?;
        if text.len() > MAX_PAYLOAD {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a value of {} bytes does not fit a frame", text.len()),
            ));
        }
        self.write(3, &text).await
    }

    /// Writes the error that ends it all.
    pub(crate) async fn error(&mut self, error: CliError) -> io::Result<()> {
        let text = serde_json::to_vec(&error.into_body())?;
        self.write(4, &text[..text.len().min(MAX_PAYLOAD)]).await
    }

    async fn write(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let head = header(kind, payload.len());
        self.io
            .write_all_buf(&mut Buf::chain(&head[..], payload))
            .await?;
        self.io.flush().await
    }
}

/// The error inside an error frame.
pub(crate) fn parse_error(payload: &[u8]) -> CliError {
    serde_json::from_slice::<ErrorBody>(payload)
        .map(|b| b.error)
        .unwrap_or_else(|e| unexpected(&e.to_string()))
}

/// The connection between command and daemon failed.
pub(crate) fn broken(e: &io::Error) -> CliError {
    CliError::new(
        Code::Lost,
        format!("the connection between command and daemon broke: {e}"),
    )
    .hint("the daemon was stopped or the command was cut off; see the daemon's output")
}

/// The other end of the control connection does not speak as this one.
pub(crate) fn unexpected(what: &str) -> CliError {
    CliError::new(
        Code::Failed,
        format!("command and daemon do not understand each other: {what}"),
    )
    .hint("restart the daemon, so that both are of the same version")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame() -> impl Strategy<Value = Frame> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..600).prop_map(Bytes::from);
        prop_oneof![
            bytes().prop_map(Frame::Data),
            Just(Frame::End),
            Just(Frame::Delivered),
            bytes().prop_map(Frame::Json),
            bytes().prop_map(Frame::Error),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_any_fragmentation(
            frames in proptest::collection::vec(frame(), 0..12),
            cuts in proptest::collection::vec(1usize..700, 1..40),
        ) {
            let mut wire = BytesMut::new();
            for f in &frames {
                f.encode(&mut wire);
            }
            let mut buf = BytesMut::new();
            let mut seen = Vec::new();
            let mut cuts = cuts.iter().cycle();
            while !wire.is_empty() {
                let n = (*cuts.next().expect("endless")).min(wire.len());
                buf.extend_from_slice(&wire.split_to(n));
                while let Some(f) = Frame::decode(&mut buf).expect("well formed") {
                    seen.push(f);
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(buf.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut buf = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Frame::decode(&mut buf) {}
        }
    }

    #[test]
    fn the_wire_format_is_pinned() {
        let mut wire = BytesMut::new();
        Frame::Data(Bytes::from_static(b"hi")).encode(&mut wire);
        Frame::End.encode(&mut wire);
        Frame::Delivered.encode(&mut wire);
        Frame::Json(Bytes::from_static(b"1")).encode(&mut wire);
        Frame::Error(Bytes::from_static(b"{}")).encode(&mut wire);
        assert_eq!(
            &wire[..],
            b"\x00\0\0\0\x02hi\x01\0\0\0\0\x02\0\0\0\0\x03\0\0\0\x011\x04\0\0\0\x02{}"
        );
    }

    #[test]
    fn an_oversize_frame_is_refused_before_it_is_buffered() {
        let mut buf = BytesMut::from(&header(0, MAX_PAYLOAD)[..]);
        assert_eq!(Frame::decode(&mut buf), Ok(None));
        let mut buf = BytesMut::from(&header(0, MAX_PAYLOAD + 1)[..]);
        assert_eq!(
            Frame::decode(&mut buf),
            Err(FrameError::Length {
                kind: 0,
                len: MAX_PAYLOAD + 1
            })
        );
        let mut buf = BytesMut::from(&header(1, 1)[..]);
        assert_eq!(
            Frame::decode(&mut buf),
            Err(FrameError::Length { kind: 1, len: 1 })
        );
        let mut buf = BytesMut::from(&header(9, 0)[..]);
        assert_eq!(Frame::decode(&mut buf), Err(FrameError::Kind(9)));
    }

    #[tokio::test]
    async fn a_connection_cut_inside_a_frame_is_an_error_and_between_frames_is_not() {
        let mut wire = BytesMut::new();
        Frame::Data(Bytes::from_static(b"whole")).encode(&mut wire);
        let mut reader = FrameReader::new(&wire[..]);
        assert_eq!(
            reader.next().await.expect("whole frame"),
            Some(Frame::Data(Bytes::from_static(b"whole")))
        );
        assert_eq!(reader.next().await.expect("clean end"), None);
        let mut reader = FrameReader::new(&wire[..7]);
        assert!(reader.next().await.is_err());
    }
}
