//! The sockets of virtual hosts, as nodes see them.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use anyhop::net::{
    ConnectTcp, DatagramSocket, EcnCodepoint, Host, PortMapper, RecvMeta, StreamListener, Transmit,
    Writable,
};
use bytes::Bytes;
use tokio::{sync::watch, time::Instant};

use super::{
    HostId, Shared,
    fabric::Fabric,
    mapper::SimMapper,
    packet::{Body, DEFAULT_TTL, Packet},
    streams::{self, EPHEMERAL_PORTS},
};

/// Datagrams that wait in a socket; more are dropped and counted.
pub const RECEIVE_QUEUE: usize = 4096;

/// Datagrams one [`Transmit`] may hold.
pub const MAX_TRANSMIT_SEGMENTS: NonZeroUsize = NonZeroUsize::new(10).expect("not zero");

/// Datagrams of one source that one received buffer may hold.
pub const MAX_RECEIVE_SEGMENTS: NonZeroUsize = NonZeroUsize::new(16).expect("not zero");

/// A host as [`anyhop::Node::start_on`] takes it.
pub(super) struct SimHost {
    pub(super) shared: Arc<Shared>,
    pub(super) id: HostId,
    pub(super) name: Arc<str>,
}

impl fmt::Debug for SimHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virtual host {}", self.name)
    }
}

impl SimHost {
    /// An address that sockets may be bound to: a wildcard, loopback, or one of its own.
    fn check_local(&self, ip: IpAddr) -> io::Result<()> {
        let own = self.shared.lock().addresses(self.id).contains(&ip);
        if own || ip.is_unspecified() || ip.is_loopback() {
            return Ok(());
        }
        let message = format!("host {} does not have address {ip}", self.name);
        Err(io::Error::new(io::ErrorKind::AddrNotAvailable, message))
    }
}

impl Host for SimHost {
    fn bind_udp(&self, addr: SocketAddr) -> io::Result<Arc<dyn DatagramSocket>> {
        let ip = addr.ip();
        self.check_local(ip)?;
        let mut fabric = self.shared.lock();
        let is_free = |port: &u16| !fabric.is_taken(self.id, SocketAddr::new(ip, *port));
        let port = match addr.port() {
            0 => EPHEMERAL_PORTS.clone().find(is_free),
            port => Some(port).filter(is_free),
        };
        let port = port.ok_or_else(|| {
            let message = format!("{addr} is taken on host {}", self.name);
            io::Error::new(io::ErrorKind::AddrInUse, message)
        })?;
        let local = SocketAddr::new(ip, port);
        let inbox = Arc::new(Inbox::default());
        fabric.bind(self.id, local, Arc::clone(&inbox));
        Ok(Arc::new(SimSocket {
            shared: Arc::clone(&self.shared),
            host: self.id,
            local,
            inbox,
        }))
    }

    fn interface_addresses(&self) -> io::Result<Vec<IpAddr>> {
        let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let fabric = self.shared.lock();
        let own = fabric.addresses(self.id).iter().copied();
        Ok(own.chain(loopback).collect())
    }

    fn connect_tcp(&self, addr: SocketAddr) -> ConnectTcp {
        Box::pin(streams::connect(Arc::clone(&self.shared), self.id, addr))
    }

    fn listen_tcp(&self, addr: SocketAddr) -> io::Result<Box<dyn StreamListener>> {
        self.check_local(addr.ip())?;
        streams::listen(&self.shared, self.id, addr)
    }

    fn network_changes(&self) -> Option<watch::Receiver<u64>> {
        Some(self.shared.lock().changes(self.id).subscribe())
    }

    fn port_mapper(&self) -> Option<Arc<dyn PortMapper>> {
        Some(Arc::new(SimMapper {
            shared: Arc::clone(&self.shared),
            host: self.id,
        }))
    }
}

/// The address of a host from which `dst` is reached.
pub(super) fn source(fabric: &Fabric, host: HostId, dst: IpAddr) -> io::Result<IpAddr> {
    if dst.is_loopback() {
        return Ok(dst);
    }
    let mut own = fabric.addresses(host).iter().copied();
    own.find(|ip| ip.is_ipv4() == dst.is_ipv4()).ok_or_else(|| {
        let message = format!("no address to reach {dst} from");
        io::Error::new(io::ErrorKind::NetworkUnreachable, message)
    })
}

struct SimSocket {
    shared: Arc<Shared>,
    host: HostId,
    local: SocketAddr,
    inbox: Arc<Inbox>,
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virtual socket {}", self.local)
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        (self.shared.lock()).unbind(self.host, self.local, &self.inbox);
    }
}

impl SimSocket {
    /// The source address of a datagram to `dst`.
    fn source(&self, fabric: &Fabric, dst: IpAddr, asked: Option<IpAddr>) -> io::Result<IpAddr> {
        let unusable = |why: String| io::Error::new(io::ErrorKind::AddrNotAvailable, why);
        if dst.is_ipv4() != self.local.is_ipv4() {
            return Err(unusable(format!("{dst} from a socket on {}", self.local)));
        }
        let bound = Some(self.local.ip()).filter(|ip| !ip.is_unspecified());
        if let Some(ip) = asked.filter(|ip| !ip.is_unspecified()).or(bound) {
            let own = ip.is_loopback() || fabric.addresses(self.host).contains(&ip);
            if !own || bound.is_some_and(|b| b != ip) {
                return Err(unusable(format!("{ip} is no source for {}", self.local)));
            }
            return Ok(ip);
        }
        source(fabric, self.host, dst)
    }

    fn send(&self, transmit: &Transmit<'_>, ttl: u8) -> io::Result<()> {
        let invalid = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let dst = transmit.destination;
        if dst.port() == 0 || dst.ip().is_unspecified() {
            return invalid(format!("{dst} cannot be sent to"));
        }
        let whole = transmit.contents.len();
        let segment = transmit.segment_size.unwrap_or(whole);
        if segment == 0 && whole > 0 {
            return invalid("segments of no bytes".into());
        }
        let segments = whole.div_ceil(segment.max(1)).max(1);
        if segments > MAX_TRANSMIT_SEGMENTS.get() {
            return invalid(format!(
                "{segments} segments in one transmit, {MAX_TRANSMIT_SEGMENTS} allowed"
            ));
        }
        let contents = Bytes::copy_from_slice(transmit.contents);
        let now = Instant::now().into_std();
        let mut fabric = self.shared.lock();
        let ip = self.source(&fabric, dst.ip(), transmit.src_ip)?;
        for i in 0..segments {
            let packet = Packet {
                origin: self.host,
                src: SocketAddr::new(ip, self.local.port()),
                dst,
                ttl,
                body: Body::Udp {
                    ecn: transmit.ecn,
                    payload: contents.slice(i * segment..whole.min((i + 1) * segment)),
                },
            };
            fabric.send(now, packet);
        }
        if fabric.must_wake() {
            self.shared.wake.notify_one();
        }
        Ok(())
    }
}

impl DatagramSocket for SimSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut queue = self.inbox.lock();
        let mut filled = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some(received) = queue.take_batch(buf) else {
                break;
            };
            *meta = received;
            filled += 1;
        }
        if filled > 0 {
            return Poll::Ready(Ok(filled));
        }
        queue.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.send(transmit, DEFAULT_TTL)
    }

    fn try_send_ttl(&self, transmit: &Transmit<'_>, ttl: u8) -> io::Result<()> {
        self.send(transmit, ttl)
    }

    fn writable(self: Arc<Self>) -> Writable {
        Box::pin(std::future::ready(Ok(())))
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        MAX_TRANSMIT_SEGMENTS
    }

    fn max_receive_segments(&self) -> NonZeroUsize {
        MAX_RECEIVE_SEGMENTS
    }
}

/// A datagram in a socket's queue.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) src: SocketAddr,
    pub(super) dst: IpAddr,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) payload: Bytes,
}

/// What waits in a socket. Its lock is taken inside the fabric's, never around it.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Arrival>,
    reader: Option<Waker>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a datagram and answers the reader to wake, if one waits. `None` if full.
    pub(super) fn push(&self, arrival: Arrival) -> Option<Option<Waker>> {
        let mut queue = self.lock();
        if queue.waiting.len() >= RECEIVE_QUEUE {
            return None;
        }
        queue.waiting.push_back(arrival);
        Some(queue.reader.take())
    }
}

impl Queue {
    /// Moves the next datagram into `buf`, and those after it that continue it: same
    /// addresses, same size, the last one possibly smaller.
    fn take_batch(&mut self, buf: &mut [u8]) -> Option<RecvMeta> {
        let first = self.waiting.pop_front()?;
        let stride = first.payload.len().min(buf.len());
        buf[..stride].copy_from_slice(&first.payload[..stride]);
        let mut len = stride;
        let mut last = stride;
        for _ in 1..MAX_RECEIVE_SEGMENTS.get() {
            let Some(next) = self.waiting.front() else {
                break;
            };
            let size = next.payload.len();
            let continues = (next.src, next.dst, next.ecn) == (first.src, first.dst, first.ecn)
                && last == stride
                && (1..=stride).contains(&size)
                && stride == first.payload.len()
                && len + size <= buf.len();
            if !continues {
                break;
            }
            buf[len..len + size].copy_from_slice(&next.payload);
            len += size;
            last = size;
            self.waiting.pop_front();
        }
        let mut meta = RecvMeta::default();
        meta.addr = first.src;
        meta.len = len;
        meta.stride = stride;
        meta.ecn = first.ecn;
        meta.dst_ip = Some(first.dst);
        Some(meta)
    }
}
