//! The operating system's UDP sockets, through noq's batched socket calls.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    sync::Arc,
    task::{Context, Poll, ready},
};

use noq::udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;

use super::{DatagramSocket, Host, Writable};

/// Kernel buffer asked for in each direction, bytes: 4 ms at 10 Gbit/s. The kernel
/// caps it silently at its own limit.
const SOCKET_BUFFER: usize = 4 << 20;

/// The machine this process runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsHost;

impl Host for OsHost {
    fn bind_udp(&self, addr: SocketAddr) -> io::Result<Arc<dyn DatagramSocket>> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
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
            state,
        }))
    }

    fn interface_addresses(&self) -> io::Result<Vec<IpAddr>> {
        anyhop_os::interface_addresses()
    }
}

#[derive(Debug)]
struct OsSocket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
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
                self.state.recv((&self.io).into(), bufs, meta)
            });
            match received {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || {
            self.state.try_send((&self.io).into(), transmit)
        })
    }

    fn writable(self: Arc<Self>) -> Writable {
        Box::pin(async move { self.io.writable().await })
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> NonZeroUsize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}
