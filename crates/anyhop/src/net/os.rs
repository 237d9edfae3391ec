//! The operating system's sockets: UDP through noq's batched socket calls, TCP through
//! tokio's.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    pin::Pin,
    sync::{Arc, RwLock, RwLockReadGuard},
    task::{Context, Poll, ready},
    time::Duration,
};

use anyhop_os::{DnsSd, NetworkWatch};
use noq::udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    io::Interest,
    net::{TcpListener, TcpSocket, TcpStream, UnixDatagram},
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{
    BoxStream, ConnectTcp, DatagramSocket, Host, LocalDiscovery, LocalService, NextSighting,
    PortMapper, Resolve, StreamListener, Writable, mapper::OsMapper,
};

/// Kernel buffer asked for in each direction, bytes: 4 ms at 10 Gbit/s. The kernel
/// caps it silently at its own limit.
const SOCKET_BUFFER: usize = 4 << 20;

/// How often the clocks are compared for sleep, and addresses where there is no netlink.
const LOOK_AROUND: Duration = Duration::from_secs(2);

/// Events of the kernel taken at once; more are another change.
const MAX_EVENTS: usize = 1024;

/// Bytes that a TCP socket takes before they are on their way: what the kernel holds
/// beyond that makes datagrams late, and the engine takes late ones for a long path.
const UNSENT: u32 = 64 << 10;
/// TCP connections waiting to be accepted.
const BACKLOG: i32 = 256;

/// The machine this process runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsHost;

impl Host for OsHost {
    fn bind_udp(&self, addr: SocketAddr) -> io::Result<Arc<dyn DatagramSocket>> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        mark(&SockRef::from(&socket));
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Best effort: an unprivileged process gets what the kernel allows.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        socket.bind(&addr.into())?;
        let socket = std::net::UdpSocket::from(socket);
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Arc::new(OsSocket {
            io: tokio::net::UdpSocket::from_std(socket)?,
            state: RwLock::new(state),
        }))
    }

    fn interface_addresses(&self) -> io::Result<Vec<IpAddr>> {
        anyhop_os::interface_addresses()
    }

    fn connect_tcp(&self, addr: SocketAddr) -> ConnectTcp {
        Box::pin(async move {
            let socket = match addr {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            mark(&SockRef::from(&socket));
            let stream = socket.connect(addr).await?;
            prepare(&stream);
            let stream: BoxStream = Box::new(stream);
            Ok(stream)
        })
    }

    fn listen_tcp(&self, addr: SocketAddr) -> io::Result<Box<dyn StreamListener>> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        mark(&SockRef::from(&socket));
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // A restarted node must not wait for the connections of the one before.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(Box::new(OsListener(TcpListener::from_std(socket.into())?)))
    }

    fn resolve(&self, name: &str, port: u16) -> Resolve {
        let name = name.to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, port)).await?;
            Ok(found.collect())
        })
    }

    fn network_changes(&self) -> Option<watch::Receiver<u64>> {
        let (sender, changes) = watch::channel(0);
        tokio::spawn(watch_network(sender));
        Some(changes)
    }

    fn port_mapper(&self) -> Option<Arc<dyn PortMapper>> {
        Some(Arc::new(OsMapper))
    }

    fn local_discovery(&self, service: &LocalService) -> io::Result<Box<dyn LocalDiscovery>> {
        let started = DnsSd::start(service).map_err(io::Error::other)?;
        Ok(Box::new(OsDiscovery(started)))
    }
}

#[derive(Debug)]
struct OsDiscovery(DnsSd);

impl LocalDiscovery for OsDiscovery {
    fn announce(&mut self, service: &LocalService) -> io::Result<()> {
        self.0.announce(service).map_err(io::Error::other)
    }

    fn next(&mut self) -> NextSighting<'_> {
        Box::pin(self.0.next())
    }

    fn stop(self: Box<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            // Fails only when the runtime ends, and then nobody waits.
            let _ = tokio::task::spawn_blocking(move || self.0.stop()).await;
        })
    }
}

/// Keeps what is sent there off the interfaces of packet planes.
fn mark(socket: &SockRef<'_>) {
    // Best effort: who may not do this makes no such interface either.
    let _ = socket.set_mark(super::SOCKET_MARK);
}

/// Settings of a connection that carries datagrams.
fn prepare(stream: &TcpStream) {
    // Best effort: without them it is slower and not wrong.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT);
}

#[derive(Debug)]
struct OsListener(TcpListener);

impl StreamListener for OsListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(BoxStream, SocketAddr)>> {
        let (stream, remote) = ready!(self.0.poll_accept(cx))?;
        prepare(&stream);
        Poll::Ready(Ok((Box::new(stream), remote)))
    }
}

/// Counts this machine's changes until nobody reads them.
async fn watch_network(changes: watch::Sender<u64>) {
    let mut known = NetworkWatch::new();
    let mut events = netlink();
    let mut look_around = interval(LOOK_AROUND);
    look_around.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let told = tokio::select! {
            () = changes.closed() => return,
            told = next_event(events.as_ref()) => Some(told),
            _ = look_around.tick() => None,
        };
        if let Some(Err(e)) = &told {
            tracing::debug!(error = %e, "netlink lost events");
            events = netlink();
        }
        let look = told.is_some() || events.is_none();
        // Both are asked, so that neither keeps old news.
        let (slept, changed) = (known.has_slept(), look && known.has_changed());
        if slept || changed {
            tracing::debug!(slept, changed, "the network changed");
            changes.send_modify(|count| *count += 1);
        }
    }
}

/// A netlink socket as tokio knows how to wait for one: it takes datagrams as any other.
fn netlink() -> Option<UnixDatagram> {
    let open = || {
        let socket = std::os::unix::net::UnixDatagram::from(anyhop_os::netlink_events()?);
        UnixDatagram::from_std(socket)
    };
    open()
        .inspect_err(|e| tracing::info!(error = %e, "no netlink: the network is polled"))
        .ok()
}

/// Waits for events and takes them. An error says that some were lost.
async fn next_event(events: Option<&UnixDatagram>) -> io::Result<()> {
    let Some(events) = events else {
        return std::future::pending().await;
    };
    events.readable().await?;
    let mut event = [0; 512];
    for _ in 0..MAX_EVENTS {
        match events.try_recv(&mut event) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[derive(Debug)]
struct OsSocket {
    io: tokio::net::UdpSocket,
    state: RwLock<UdpSocketState>,
}

impl OsSocket {
    fn state(&self) -> RwLockReadGuard<'_, UdpSocketState> {
        self.state.read().expect("no holder panics")
    }
}

impl DatagramSocket for OsSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received = self.io.try_io(Interest::READABLE, || {
                self.state().recv((&self.io).into(), bufs, meta)
            });
            match received {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || {
            self.state().try_send((&self.io).into(), transmit)
        })
    }

    fn try_send_ttl(&self, transmit: &Transmit<'_>, ttl: u8) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || {
            anyhop_os::send_with_ttl(&self.io, transmit.contents, transmit.destination, ttl)
        })
    }

    fn writable(self: Arc<Self>) -> Writable {
        Box::pin(async move { self.io.writable().await })
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        self.state().max_gso_segments()
    }

    fn max_receive_segments(&self) -> NonZeroUsize {
        self.state().gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state().may_fragment()
    }

    fn network_changed(&self) {
        // A source address that was gone looked to the state like a kernel that cannot
        // segment: it would send one by one for ever.
        match UdpSocketState::new((&self.io).into()) {
            Ok(state) => *self.state.write().expect("no holder panics") = state,
            Err(e) => tracing::debug!(error = %e, "socket options not renewed"),
        }
    }
}
