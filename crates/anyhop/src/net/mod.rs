//! Where a node gets its sockets and host facts: the operating system, or a
//! simulator that implements the same two traits.
//!
//! Time is not part of it: everything in this crate reads `tokio::time`, so a
//! simulator drives it with tokio's paused clock.

mod live;
mod mapper;
mod os;

pub(crate) use live::LiveSocket;
pub use mapper::{
    Answer, BoxMapping, MapError, MappingProtocol, PortMapper, PortMapping, Transport,
};
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

pub use anyhop_os::{LocalService, Sighting};
pub use noq::udp::{EcnCodepoint, RecvMeta, Transmit};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

/// The mark (`SO_MARK`) of a node's own sockets, so that routes to an exit node do not count for
/// the packets that carry its session.
pub const SOCKET_MARK: u32 = 0x2068;

/// A future that resolves when a socket may accept another datagram.
pub type Writable = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// A machine with a network stack: the real one ([`OsHost`]) or a simulated one.
pub trait Host: Send + Sync + Debug + 'static {
    /// Binds a UDP socket. Port 0 asks for any free port. An IPv6 socket carries
    /// IPv6 only.
    fn bind_udp(&self, addr: SocketAddr) -> io::Result<Arc<dyn DatagramSocket>>;

    /// Addresses of this machine's interfaces that are up, loopback included.
    fn interface_addresses(&self) -> io::Result<Vec<IpAddr>>;

    /// Connects over TCP.
    fn connect_tcp(&self, addr: SocketAddr) -> ConnectTcp {
        let _ = addr;
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }

    /// Listens on TCP. Port 0 asks for any free port. An IPv6 socket carries IPv6 only.
    fn listen_tcp(&self, addr: SocketAddr) -> io::Result<Box<dyn StreamListener>> {
        let _ = addr;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The addresses of a host name, such as a proxy's, with this port. IP addresses are
    /// names of themselves.
    fn resolve(&self, name: &str, port: u16) -> Resolve {
        let ip: Result<IpAddr, _> = name.parse();
        let addresses = ip.map(|ip| vec![SocketAddr::new(ip, port)]);
        let addresses = addresses.map_err(|_| io::ErrorKind::Unsupported.into());
        Box::pin(std::future::ready(addresses))
    }

    /// A counter that grows whenever addresses, interfaces or routes of this machine
    /// change; `None` where that cannot be watched.
    fn network_changes(&self) -> Option<watch::Receiver<u64>> {
        None
    }

    /// Who asks this machine's gateways for port mappings; `None` where nobody can.
    fn port_mapper(&self) -> Option<Arc<dyn PortMapper>> {
        None
    }

    /// Announces a service on the local links and looks for others of its type.
    /// `Unsupported` where that cannot be done.
    fn local_discovery(&self, service: &LocalService) -> io::Result<Box<dyn LocalDiscovery>> {
        let _ = service;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// An announced service and a watch on others; dropping it ends both.
pub trait LocalDiscovery: Send + Debug + 'static {
    /// Replaces what is announced.
    fn announce(&mut self, service: &LocalService) -> io::Result<()>;

    /// The next sighting; `None` when none will come any more. Cancel-safe.
    fn next(&mut self) -> NextSighting<'_>;

    /// Takes the announcement back and ends.
    fn stop(self: Box<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// A sighting that is waited for.
pub type NextSighting<'a> = Pin<Box<dyn Future<Output = Option<Sighting>> + Send + 'a>>;

/// A TCP connection, or anything that reads and writes like one.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + Debug + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + Debug + 'static> ByteStream for T {}

/// A [`ByteStream`] of some kind.
pub type BoxStream = Box<dyn ByteStream>;

/// A TCP connection being made. Dropping it gives up.
pub type ConnectTcp = Pin<Box<dyn Future<Output = io::Result<BoxStream>> + Send>>;

/// A host name being looked up. Dropping it gives up.
pub type Resolve = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// A listening TCP socket.
pub trait StreamListener: Send + Sync + Debug + 'static {
    /// The bound address.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// The next connection and where it comes from. One task at a time polls.
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(BoxStream, SocketAddr)>>;
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

    /// Sends one datagram that routers drop after `ttl` hops (IPv4 TTL, IPv6 hop limit):
    /// it opens the NATs on this side and never reaches the other's. The socket's own
    /// TTL stays as it is. `Unsupported` where that cannot be done.
    fn try_send_ttl(&self, transmit: &Transmit<'_>, ttl: u8) -> io::Result<()> {
        let _ = (transmit, ttl);
        Err(io::ErrorKind::Unsupported.into())
    }

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

    /// The machine's network changed: what the socket found out about it holds no more.
    fn network_changed(&self) {}
}
