//! Where a node gets its sockets and host facts: the operating system, or a
//! simulator that implements the same two traits.
//!
//! Time is not part of it: everything in this crate reads `tokio::time`, so a
//! simulator drives it with tokio's paused clock.

mod os;

pub use os::OsHost;

use std::{
    fmt::Debug,
    future::Future,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

pub use noq::udp::{EcnCodepoint, RecvMeta, Transmit};

/// A future that resolves when a socket may accept another datagram.
pub type Writable = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// A machine with a network stack: the real one ([`OsHost`]) or a simulated one.
pub trait Host: Send + Sync + Debug + 'static {
    /// Binds a UDP socket. Port 0 asks for any free port. An IPv6 socket carries
    /// IPv6 only.
    fn bind_udp(&self, addr: SocketAddr) -> io::Result<Arc<dyn DatagramSocket>>;

    /// Addresses of this machine's interfaces that are up, loopback included.
    fn interface_addresses(&self) -> io::Result<Vec<IpAddr>>;
}

/// A bound UDP socket that moves batches of datagrams.
pub trait DatagramSocket: Send + Sync + Debug + 'static {
    /// The bound address.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// Fills up to `bufs.len()` buffers, each with one datagram or, where
    /// [`max_receive_segments`](Self::max_receive_segments) is above one, with
    /// several of one source at `RecvMeta::stride`. One task at a time polls.
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>>;

    /// Sends one datagram, or a batch of `segment_size` datagrams to one
    /// destination. `WouldBlock` means nothing was sent: wait for
    /// [`writable`](Self::writable).
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()>;

    /// Resolves when [`try_send`](Self::try_send) is worth another attempt. Any
    /// number of tasks may wait.
    fn writable(self: Arc<Self>) -> Writable;

    /// How many segments one `Transmit` may hold.
    fn max_transmit_segments(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    /// How many segments one received buffer may hold.
    fn max_receive_segments(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    /// Whether the network may fragment what is sent; path MTU discovery is off then.
    fn may_fragment(&self) -> bool {
        false
    }
}
