//! Datagrams over a stream: a u16 length before each.
//!
//! The stream is reliable and in order; a datagram that must wait too long for it is
//! dropped before it enters, as a full queue on the way would.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, sleep_until},
};

/// A flow without datagrams either way for this long ends. RFC 4787 REQ-5 asks NATs for
/// two minutes at least.
pub(super) const IDLE: Duration = Duration::from_secs(120);
/// Largest UDP payload over IPv4, bytes.
pub(super) const MAX_DATAGRAM: usize = 65_507;

/// Writes one datagram.
pub(super) async fn write(out: &mut (impl AsyncWrite + Unpin), datagram: &[u8]) -> io::Result<()> {
    let len = u16::try_from(datagram.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "datagram of over 65535 bytes"))?;
    let mut framed = Vec::with_capacity(2 + datagram.len());
    framed.extend_from_slice(&len.to_be_bytes());
    framed.extend_from_slice(datagram);
    out.write_all(&framed).await
}

/// Reads one datagram into `buf`; `None` at the end of the stream.
pub(super) async fn read<'a>(
    input: &mut (impl AsyncRead + Unpin),
    buf: &'a mut Vec<u8>,
) -> io::Result<Option<&'a [u8]>> {
    let mut len = [0; 2];
    if input.read(&mut len[..1]).await? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut len[1..]).await?;
    buf.resize(usize::from(u16::from_be_bytes(len)), 0);
    input.read_exact(buf).await?;
    Ok(Some(buf))
}

/// When a flow last moved a datagram.
#[derive(Debug, Clone)]
pub(super) struct Activity {
    began: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Activity {
    /// Beginning now.
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            last_ms: Arc::default(),
        }
    }

    /// A datagram moved.
    pub(super) fn touch(&self) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms, Ordering::Relaxed);
    }

    /// Resolves when nothing moved for [`IDLE`].
    pub(super) async fn idle(&self) {
        loop {
            let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
            let due = self.began + last + IDLE;
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn datagrams_keep_their_boundaries_empty_ones_too() {
        let mut wire = Vec::new();
        for d in [&b"one"[..], b"", &[7; MAX_DATAGRAM]] {
            write(&mut wire, d).await.expect("a Vec");
        }
        let mut input = &wire[..];
        let mut buf = Vec::new();
        for d in [&b"one"[..], b"", &[7; MAX_DATAGRAM]] {
            assert_eq!(read(&mut input, &mut buf).await.expect("whole"), Some(d));
        }
        assert_eq!(read(&mut input, &mut buf).await.expect("the end"), None);
    }

    #[tokio::test]
    async fn a_datagram_cut_off_is_an_error() {
        let mut buf = Vec::new();
        for wire in [&b"\0"[..], b"\0\x03ab"] {
            let mut input = wire;
            assert!(read(&mut input, &mut buf).await.is_err());
        }
    }

    #[tokio::test]
    async fn oversize_datagrams_are_refused() {
        assert!(write(&mut Vec::new(), &[0; 65_536]).await.is_err());
    }
}
