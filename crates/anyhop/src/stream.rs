//! Streams.
use std::{io, pin::Pin, task::{Context, Poll}};
use anyhop_base::PeerId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use crate::StreamError;

/// Sending half. `AsyncWrite::shutdown` finishes it (half-close); dropping it unfinished resets it.
#[derive(Debug)]
pub struct SendStream(());
/// Receiving half. Dropping it tells the peer to stop.
#[derive(Debug)]
pub struct RecvStream(());

impl SendStream {
    /// Writes all.
    pub async fn write_all(&mut self, _data: &[u8]) -> Result<(), StreamError> { panic!() }
    /// Ends the stream after what was written.
    pub fn finish(&mut self) -> Result<(), StreamError> { panic!() }
    /// Resolves when the peer received all after `finish` (None) or stopped it with a code.
    pub async fn stopped(&mut self) -> Result<Option<u64>, StreamError> { panic!() }
    /// Abandons with a code.
    pub fn reset(&mut self, _code: u32) { panic!() }
}
impl RecvStream {
    /// Reads some bytes; None at the end.
    pub async fn read(&mut self, _buf: &mut [u8]) -> Result<Option<usize>, StreamError> { panic!() }
    /// Reads the next chunk of at most max bytes; None at the end.
    pub async fn read_chunk(&mut self, _max: usize) -> Result<Option<bytes::Bytes>, StreamError> { panic!() }
    /// Tells the peer to stop, with a code.
    pub fn stop(&mut self, _code: u32) { panic!() }
}
impl AsyncWrite for SendStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> { panic!() }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> { panic!() }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> { panic!() }
}
impl AsyncRead for RecvStream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> { panic!() }
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
