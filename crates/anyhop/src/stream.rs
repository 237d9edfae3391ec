//! Streams, opened by protocol name.
//!
//! The opener writes the name (a varint length and the text) and goes on with its data:
//! no round trip is spent on agreement. A peer without a handler stops the stream with a
//! code that becomes [`StreamError::UnknownProtocol`] here.

use std::{
    future::{Future, pending},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use anyhop_base::{
    PeerId,
    codec::{put_varint, take_varint},
};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    MAX_PROTOCOL_LEN, StreamError,
    engine::{self, Code, ReadError, WriteError},
    session::Use,
};

/// Stream codes from here on belong to the library; applications use smaller ones.
const LIBRARY_CODES: u32 = 0x6000_0000;

/// Codes with which the library itself ends a stream.
pub(crate) mod code {
    use super::LIBRARY_CODES;

    pub(crate) const UNKNOWN_PROTOCOL: u32 = LIBRARY_CODES + 1;
    pub(crate) const BUSY: u32 = LIBRARY_CODES + 2;
    /// A half was dropped before its end.
    pub(crate) const DROPPED: u32 = LIBRARY_CODES + 3;
    pub(crate) const MALFORMED: u32 = LIBRARY_CODES + 4;
}

/// Whom a stream goes to and what for: what its errors say.
#[derive(Debug, Clone)]
pub(crate) struct Purpose {
    pub(crate) peer: PeerId,
    pub(crate) protocol: Arc<str>,
    /// Keeps the session in use while the stream lives.
    pub(crate) in_use: Use,
}

impl Purpose {
    fn ended_with(&self, code: Code) -> StreamError {
        let code = code.into_inner();
        let (peer, protocol) = (self.peer, self.protocol.to_string());
        if code == u64::from(code::UNKNOWN_PROTOCOL) {
            StreamError::UnknownProtocol { peer, protocol }
        } else if code == u64::from(code::BUSY) {
            StreamError::Busy { peer, protocol }
        } else if code == u64::from(code::DROPPED) {
            StreamError::Dropped { peer }
        } else {
            StreamError::Stopped { peer, code }
        }
    }

    fn lost(&self, error: &engine::ConnectionError) -> StreamError {
        StreamError::SessionLost {
            peer: self.peer,
            reason: self.in_use.why_closed(error),
        }
    }

    fn write(&self, error: WriteError) -> StreamError {
        match error {
            WriteError::Stopped(code) => self.ended_with(code),
            WriteError::ConnectionLost(e) => self.lost(&e),
            _ => StreamError::Finished,
        }
    }

    fn read(&self, error: ReadError) -> StreamError {
        match error {
            ReadError::Reset(code) => self.ended_with(code),
            ReadError::ConnectionLost(e) => self.lost(&e),
            _ => StreamError::Finished,
        }
    }
}

/// The sending half of a stream.
///
/// [`finish`](Self::finish) or `AsyncWriteExt::shutdown` ends it in order; dropped
/// before that, it is reset, so that the peer never takes a part for the whole.
#[derive(Debug)]
pub struct SendStream {
    inner: engine::SendStream,
    purpose: Purpose,
    ended: bool,
}

impl SendStream {
    pub(crate) fn new(inner: engine::SendStream, purpose: Purpose) -> Self {
        Self {
            inner,
            purpose,
            ended: false,
        }
    }

    /// Writes all of `data`, waiting while the peer's window is full.
    ///
    /// # Errors
    /// When the peer stopped the stream or the session ended; how much arrived is then
    /// unknown.
    pub async fn write_all(&mut self, data: &[u8]) -> Result<(), StreamError> {
        let written = self.inner.write_all(data).await;
        written.map_err(|e| self.purpose.write(e))
    }

    /// Writes all of `data` without copying it.
    ///
    /// # Errors
    /// As [`write_all`](Self::write_all).
    pub async fn write_chunk(&mut self, data: Bytes) -> Result<(), StreamError> {
        let written = self.inner.write_chunk(data).await;
        written.map_err(|e| self.purpose.write(e))
    }

    /// Ends the stream after what was written. Delivery goes on in the background.
    ///
    /// # Errors
    /// When it has ended before.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        self.ended = true;
        self.inner.finish().map_err(|_| StreamError::Finished)
    }

    /// Waits until the peer has acknowledged everything up to the end (`None`), or has
    /// stopped the stream with a code of its application.
    ///
    /// # Errors
    /// When the session ended first, or the peer's library refused the stream.
    pub async fn stopped(&mut self) -> Result<Option<u64>, StreamError> {
        match self.inner.stopped().await {
            Ok(None) => Ok(None),
            Ok(Some(code)) => match self.purpose.ended_with(code) {
                StreamError::Stopped { code, .. } => Ok(Some(code)),
                refused => Err(refused),
            },
            Err(e) => Err(StreamError::SessionLost {
                peer: self.purpose.peer,
                reason: e.to_string(),
            }),
        }
    }

    /// Resolves when the peer has stopped the stream, or its session has ended.
    pub(crate) fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        let stopped = self.inner.stopped();
        async move {
            // All of it has arrived: nobody has gone.
            if let Ok(None) = stopped.await {
                pending::<()>().await;
            }
        }
    }

    /// Streams of a higher priority are sent first; 0 unless told otherwise.
    pub(crate) fn set_priority(&self, priority: i32) {
        // Fails only when the stream has ended: then there is nothing to be sent.
        let _ = self.inner.set_priority(priority);
    }

    /// Abandons the stream; the peer's reader fails with `code`. Codes below
    /// `0x6000_0000` are the application's.
    pub fn reset(&mut self, code: u32) {
        self.ended = true;
        // Fails only when it has ended already: then there is nothing to abandon.
        let _ = self.inner.reset(Code::from_u32(code));
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        if !self.ended {
            self.reset(code::DROPPED);
        }
    }
}

impl AsyncWrite for SendStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, buf));
        Poll::Ready(written.map_err(|e| io::Error::other(this.purpose.write(e))))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().finish().map_err(io::Error::other))
    }
}

/// The receiving half of a stream. Dropping it before its end tells the peer to stop.
#[derive(Debug)]
pub struct RecvStream {
    inner: engine::RecvStream,
    purpose: Purpose,
    ended: bool,
}

impl RecvStream {
    pub(crate) fn new(inner: engine::RecvStream, purpose: Purpose) -> Self {
        Self {
            inner,
            purpose,
            ended: false,
        }
    }

    /// Who is at the other end.
    pub(crate) fn peer(&self) -> PeerId {
        self.purpose.peer
    }

    /// Reads up to `buf.len()` bytes; `None` at the end of the stream.
    ///
    /// # Errors
    /// When the peer abandoned the stream, or the session ended.
    pub async fn read(&mut self, buf: &mut [u8]) -> Result<Option<usize>, StreamError> {
        let read = self.inner.read(buf).await;
        self.note_end(read)
    }

    /// Reads the next chunk, at most `max` bytes, without copying; `None` at the end.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, StreamError> {
        let chunk = self.inner.read_chunk(max).await;
        self.note_end(chunk)
    }

    /// Fills `buf`.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`StreamError::Finished`] when the stream ends first.
    pub async fn read_exact(&mut self, buf: &mut [u8]) -> Result<(), StreamError> {
        let mut at = 0;
        while at < buf.len() {
            match self.read(&mut buf[at..]).await? {
                Some(n) => at += n,
                None => return Err(StreamError::Finished),
            }
        }
        Ok(())
    }

    /// Tells the peer to stop sending; its writer fails with `code`.
    pub fn stop(&mut self, code: u32) {
        self.ended = true;
        // Fails only when the stream has ended: then there is nothing to stop.
        let _ = self.inner.stop(Code::from_u32(code));
    }

    fn note_end<T>(
        &mut self,
        read: Result<Option<T>, ReadError>,
    ) -> Result<Option<T>, StreamError> {
        self.ended |= !matches!(read, Ok(Some(_)));
        read.map_err(|e| self.purpose.read(e))
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        if !self.ended {
            self.stop(code::DROPPED);
        }
    }
}

impl AsyncRead for RecvStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let unfilled = buf.initialize_unfilled();
        let wanted = unfilled.len();
        let read = ready!(this.inner.poll_read(cx, unfilled));
        let read = read.map(|n| (n > 0 || wanted == 0).then_some(n));
        let n = this.note_end(read).map_err(io::Error::other)?;
        buf.advance(n.unwrap_or(0));
        Poll::Ready(Ok(()))
    }
}

/// A stream a peer opened to one of this node's protocols.
#[derive(Debug)]
pub struct Incoming {
    /// Who opened it.
    pub peer: PeerId,
    /// What the peer sends.
    pub recv: RecvStream,
    /// The way back; `None` for a unidirectional stream.
    pub send: Option<SendStream>,
}

/// The header that names a stream's protocol.
///
/// # Errors
/// When the name is empty or too long.
pub(crate) fn encode_protocol(name: &str) -> Result<Vec<u8>, StreamError> {
    if name.is_empty() || name.len() > MAX_PROTOCOL_LEN {
        return Err(StreamError::BadProtocolName(name.to_owned()));
    }
    let mut header = Vec::with_capacity(name.len() + 2);
    put_varint(&mut header, name.len() as u64);
    header.extend_from_slice(name.as_bytes());
    Ok(header)
}

/// Reads the protocol name off a new stream; `None` when it is malformed or the stream
/// ended.
pub(crate) async fn read_protocol(recv: &mut engine::RecvStream) -> Option<String> {
    let mut header = Vec::with_capacity(2);
    let len = loop {
        let mut byte = [0];
        recv.read_exact(&mut byte).await.ok()?;
        header.push(byte[0]);
        if let Some(len) = take_varint(&mut &header[..]).ok()? {
            break usize::try_from(len).ok()?;
        }
    };
    if len == 0 || len > MAX_PROTOCOL_LEN {
        return None;
    }
    let mut name = vec![0; len];
    recv.read_exact(&mut name).await.ok()?;
    String::from_utf8(name).ok()
}

/// Reads one frame of at most `max` bytes off a stream.
pub(crate) async fn read_frame(recv: &mut RecvStream, max: usize) -> Result<Vec<u8>, StreamError> {
    let mut prefix = Vec::with_capacity(2);
    let len = loop {
        let mut byte = [0];
        recv.read_exact(&mut byte).await?;
        prefix.push(byte[0]);
        match take_varint(&mut &prefix[..]) {
            Ok(Some(len)) => break len,
            Ok(None) => {}
            Err(_) => return Err(malformed(recv)),
        }
    };
    let Some(len) = usize::try_from(len).ok().filter(|l| *l <= max) else {
        return Err(malformed(recv));
    };
    let mut content = vec![0; len];
    recv.read_exact(&mut content).await?;
    Ok(content)
}

/// The same; `None` when the stream ended before the frame began.
pub(crate) async fn read_frame_or_end(
    recv: &mut RecvStream,
    max: usize,
) -> Result<Option<Vec<u8>>, StreamError> {
    let mut first = [0];
    if recv.read(&mut first).await?.is_none() {
        return Ok(None);
    }
    let mut prefix = vec![first[0]];
    let len = loop {
        match take_varint(&mut &prefix[..]) {
            Ok(Some(len)) => break len,
            Ok(None) => {}
            Err(_) => return Err(malformed(recv)),
        }
        recv.read_exact(&mut first).await?;
        prefix.push(first[0]);
    };
    let Some(len) = usize::try_from(len).ok().filter(|l| *l <= max) else {
        return Err(malformed(recv));
    };
    let mut content = vec![0; len];
    recv.read_exact(&mut content).await?;
    Ok(Some(content))
}

/// Reads one frame of at most `max` bytes on a connection that is no session; `None` when
/// it is malformed or does not come.
pub(crate) async fn read_raw_frame(recv: &mut engine::RecvStream, max: usize) -> Option<Vec<u8>> {
    let mut prefix = Vec::with_capacity(2);
    let len = loop {
        let mut byte = [0];
        recv.read_exact(&mut byte).await.ok()?;
        prefix.push(byte[0]);
        if let Some(len) = take_varint(&mut &prefix[..]).ok()? {
            break usize::try_from(len).ok().filter(|l| *l <= max)?;
        }
    };
    let mut content = vec![0; len];
    recv.read_exact(&mut content).await.ok()?;
    Some(content)
}

/// Reads so many bytes, and nothing behind them.
pub(crate) async fn read_len(
    recv: &mut RecvStream,
    len: usize,
    chunk: usize,
) -> Result<Bytes, StreamError> {
    let mut body = Vec::with_capacity(len.min(chunk));
    while body.len() < len {
        match recv.read_chunk(chunk.min(len - body.len())).await? {
            Some(chunk) => body.extend_from_slice(&chunk),
            None => return Err(malformed(recv)),
        }
    }
    Ok(body.into())
}

/// Ends a stream whose peer broke the protocol.
pub(crate) fn malformed(recv: &mut RecvStream) -> StreamError {
    recv.stop(code::MALFORMED);
    StreamError::Stopped {
        peer: recv.purpose.peer,
        code: u64::from(code::MALFORMED),
    }
}
