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

use anyhop::net::{DatagramSocket, EcnCodepoint, Host, RecvMeta, Transmit, Writable};
use bytes::Bytes;
use tokio::time::Instant;

use super::{HostId, Shared, fabric::Datagram};

/// Datagrams that wait in a socket; more are dropped and counted.
pub const RECEIVE_QUEUE: usize = 4096;

/// Datagrams one [`Transmit`] may hold.
pub const MAX_TRANSMIT_SEGMENTS: NonZeroUsize = NonZeroUsize::new(10).expect("not zero");

/// Datagrams of one source that one received buffer may hold.
pub const MAX_RECEIVE_SEGMENTS: NonZeroUsize = NonZeroUsize::new(16).expect("not zero");

/// Ports for sockets that ask for any.
const EPHEMERAL_PORTS: std::ops::RangeInclusive<u16> = 49_152..=u16::MAX;

/// A host as [`anyhop::Node::start_on`] takes it.
pub(super) struct SimHost {
    pub(super) shared: Arc<Shared>,
    pub(super) id: HostId,
    pub(super) name: Arc<str>,
    pub(super) addresses: Arc<[IpAddr]>,
}

impl fmt::Debug for SimHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virtual host {} {:?}", self.name, self.addresses)
    }
}

impl Host for SimHost {
    fn bind_udp(&self, addr: SocketAddr) -> io::Result<Arc<dyn DatagramSocket>> {
        let ip = addr.ip();
        if !(ip.is_unspecified() || ip.is_loopback() || self.addresses.contains(&ip)) {
            let message = format!("host {} does not have address {ip}", self.name);
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, message));
        }
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
            addresses: Arc::clone(&self.addresses),
            local,
            inbox,
        }))
    }

    fn interface_addresses(&self) -> io::Result<Vec<IpAddr>> {
        let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        Ok(self.addresses.iter().copied().chain(loopback).collect())
    }
}

struct SimSocket {
    shared: Arc<Shared>,
    host: HostId,
    addresses: Arc<[IpAddr]>,
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
        self.shared.lock().unbind(self.host, self.local);
    }
}

impl SimSocket {
    /// The source address of a datagram to `dst`.
    fn source(&self, dst: IpAddr, asked: Option<IpAddr>) -> io::Result<IpAddr> {
        let unusable = |why: String| io::Error::new(io::ErrorKind::AddrNotAvailable, why);
        if dst.is_ipv4() != self.local.is_ipv4() {
            return Err(unusable(format!("{dst} from a socket on {}", self.local)));
        }
        let bound = Some(self.local.ip()).filter(|ip| !ip.is_unspecified());
        if let Some(ip) = asked.filter(|ip| !ip.is_unspecified()).or(bound) {
            let own = ip.is_loopback() || self.addresses.contains(&ip);
            if !own || bound.is_some_and(|b| b != ip) {
                return Err(unusable(format!("{ip} is no source for {}", self.local)));
            }
            return Ok(ip);
        }
        if dst.is_loopback() {
            return Ok(dst);
        }
        let mut own = self.addresses.iter().copied();
        own.find(|ip| ip.is_ipv4() == dst.is_ipv4()).ok_or_else(|| {
            let message = format!("no address to reach {dst} from");
            io::Error::new(io::ErrorKind::NetworkUnreachable, message)
        })
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
        let invalid = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let dst = transmit.destination;
        if dst.port() == 0 || dst.ip().is_unspecified() {
            return invalid(format!("{dst} cannot be sent to"));
        }
        let src = SocketAddr::new(self.source(dst.ip(), transmit.src_ip)?, self.local.port());
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
        let datagrams = (0..segments).map(|i| Datagram {
            origin: self.host,
            src,
            dst,
            ecn: transmit.ecn,
            payload: contents.slice(i * segment..whole.min((i + 1) * segment)),
        });
        let wake = (self.shared.lock()).send(Instant::now().into_std(), datagrams);
        if wake {
            self.shared.wake.notify_one();
        }
        Ok(())
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
