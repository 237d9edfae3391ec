//! TCP of virtual hosts: connections and listeners in the fabric, and the streams that
//! nodes read and write.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use anyhop::net::{BoxStream, StreamListener};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant as Clock,
};

use super::{
    HostId, Shared,
    fabric::{Fabric, overlap, wildcard},
    packet::{Body, DEFAULT_TTL, Packet},
    tcp::{Conn, Segment},
    trace::DropReason,
};

/// Connections that wait to be accepted; a SYN above it is dropped, and comes again.
pub const ACCEPT_QUEUE: usize = 128;

/// Connections of one host.
const MAX_CONNECTIONS: usize = 4096;

/// Ports for sockets that ask for any.
pub(super) const EPHEMERAL_PORTS: RangeInclusive<u16> = 49_152..=u16::MAX;

/// Bytes that one read or write moves under the fabric's lock.
const MAX_COPY: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConnId(u64);

/// A connection's end on a host.
#[derive(Debug)]
pub(super) struct ConnState {
    machine: Conn,
    host: HostId,
    local: SocketAddr,
    remote: SocketAddr,
    armed: Option<Instant>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The address and id of the listener that gets it once its handshake is done.
    listener: Option<(SocketAddr, u64)>,
}

/// What TCP keeps for one host.
#[derive(Debug, Default)]
pub(super) struct HostStreams {
    /// By local and remote address.
    by_addrs: BTreeMap<(SocketAddr, SocketAddr), ConnId>,
    listeners: BTreeMap<SocketAddr, Listening>,
    /// Ports are handed out in turn, so that one is not reused while the other end or a
    /// NAT remembers it.
    next_port: u16,
}

impl HostStreams {
    pub(super) fn forget_listeners(&mut self) {
        self.listeners.clear();
    }
}

#[derive(Debug, Default)]
struct Listening {
    /// Tells it from one that had the address before a crash.
    id: u64,
    queue: VecDeque<(ConnId, SocketAddr)>,
    /// Handshakes in progress.
    opening: usize,
    acceptor: Option<Waker>,
}

impl Fabric {
    /// Starts a connection from `source` to `remote`.
    fn connect(
        &mut self,
        now: Instant,
        host: HostId,
        source: IpAddr,
        remote: SocketAddr,
    ) -> io::Result<ConnId> {
        let streams = &mut self.hosts[host.0].streams;
        let range = EPHEMERAL_PORTS;
        let local = range.clone().find_map(|_| {
            let last = streams.next_port;
            streams.next_port = if range.contains(&last) && last < *range.end() {
                last + 1
            } else {
                *range.start()
            };
            let local = SocketAddr::new(source, streams.next_port);
            (!streams.by_addrs.contains_key(&(local, remote))).then_some(local)
        });
        let local = local.ok_or(io::ErrorKind::AddrInUse)?;
        self.add_conn(now, host, Conn::connect(now), local, remote, None)
            .ok_or_else(|| io::Error::other(format!("the host has {MAX_CONNECTIONS} connections")))
    }

    fn add_conn(
        &mut self,
        now: Instant,
        host: HostId,
        machine: Conn,
        local: SocketAddr,
        remote: SocketAddr,
        listener: Option<(SocketAddr, u64)>,
    ) -> Option<ConnId> {
        let streams = &mut self.hosts[host.0].streams;
        if streams.by_addrs.len() >= MAX_CONNECTIONS {
            return None;
        }
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        streams.by_addrs.insert((local, remote), id);
        let state = ConnState {
            machine,
            host,
            local,
            remote,
            armed: None,
            reader: None,
            writer: None,
            listener,
        };
        self.conns.insert(id, state);
        self.pump(now, id);
        Some(id)
    }

    fn listen(&mut self, host: HostId, addr: SocketAddr) -> io::Result<(SocketAddr, u64)> {
        let id = self.next_conn;
        self.next_conn += 1;
        let listeners = &mut self.hosts[host.0].streams.listeners;
        let is_free = |port: &u16| {
            let wanted = SocketAddr::new(addr.ip(), *port);
            !listeners.keys().any(|bound| overlap(*bound, wanted))
        };
        let port = match addr.port() {
            0 => EPHEMERAL_PORTS.clone().find(is_free),
            port => Some(port).filter(is_free),
        };
        let local = SocketAddr::new(addr.ip(), port.ok_or(io::ErrorKind::AddrInUse)?);
        let listening = Listening {
            id,
            ..Listening::default()
        };
        listeners.insert(local, listening);
        Ok((local, id))
    }

    fn listening(&mut self, listener: &SimListener) -> Option<&mut Listening> {
        let listeners = &mut self.hosts[listener.host.0].streams.listeners;
        let listening = listeners.get_mut(&listener.local)?;
        (listening.id == listener.id).then_some(listening)
    }

    fn unlisten(&mut self, now: Instant, listener: &SimListener) {
        let Some(listening) = self.listening(listener).map(std::mem::take) else {
            return;
        };
        let listeners = &mut self.hosts[listener.host.0].streams.listeners;
        listeners.remove(&listener.local);
        for (id, _) in listening.queue {
            self.abandon(now, id);
        }
    }

    pub(super) fn deliver_segment(
        &mut self,
        now: Instant,
        host: HostId,
        packet: &Packet,
        segment: &Segment,
    ) -> Result<(), DropReason> {
        let addrs = (packet.dst, packet.src);
        let streams = &mut self.hosts[host.0].streams;
        if let Some(id) = streams.by_addrs.get(&addrs).copied() {
            let conn = self.conns.get_mut(&id).expect("listed by its addresses");
            conn.machine.handle(now, segment.clone());
            self.pump(now, id);
            return Ok(());
        }
        let bound = [packet.dst, wildcard(packet.dst)];
        let bound = bound
            .into_iter()
            .find(|a| streams.listeners.contains_key(a));
        let Some(bound) = bound.filter(|_| segment.opens()) else {
            if let Some(mut reset) = packet.reset() {
                reset.origin = host;
                self.send(now, reset);
            }
            return Err(DropReason::NoSocket);
        };
        let listening = streams.listeners.get_mut(&bound).expect("just found");
        if listening.queue.len() + listening.opening >= ACCEPT_QUEUE {
            return Err(DropReason::ReceiveQueueFull);
        }
        listening.opening += 1;
        let listener = (bound, listening.id);
        let (local, remote) = addrs;
        let conn = self.add_conn(now, host, Conn::accept(now), local, remote, Some(listener));
        if conn.is_none() {
            let listeners = &mut self.hosts[host.0].streams.listeners;
            listeners.get_mut(&bound).expect("just found").opening -= 1;
            return Err(DropReason::ReceiveQueueFull);
        }
        Ok(())
    }

    pub(super) fn on_timer(&mut self, now: Instant, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.armed = None;
            conn.machine.handle_timeout(now);
            self.pump(now, id);
        }
    }

    /// After anything was done to a connection: sends what it wants to, keeps its timer,
    /// wakes who waits, and forgets it when it is over.
    fn pump(&mut self, now: Instant, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let mut segments = Vec::new();
        conn.machine.transmit(now, &mut segments);
        let deadline = conn.machine.timeout();
        if deadline != conn.armed {
            if let Some(old) = conn.armed.take() {
                self.timers.remove(&(old, id));
            }
            if let Some(at) = deadline {
                self.timers.insert((at, id));
            }
            conn.armed = deadline;
        }
        if conn.machine.is_readable() {
            self.wakers.extend(conn.reader.take());
        }
        if conn.machine.is_writable() {
            self.wakers.extend(conn.writer.take());
        }
        let (host, local, remote) = (conn.host, conn.local, conn.remote);
        let established = conn.machine.established();
        let listener = match &established {
            Some(_) => conn.listener.take(),
            None => None,
        };
        let is_gone = conn.machine.is_gone();
        for segment in segments {
            let packet = Packet {
                origin: host,
                src: local,
                dst: remote,
                ttl: DEFAULT_TTL,
                body: Body::Tcp(segment),
            };
            self.send(now, packet);
        }
        if is_gone {
            self.conns.remove(&id);
            let streams = &mut self.hosts[host.0].streams;
            streams.by_addrs.remove(&(local, remote));
        }
        if let (Some(listener), Some(outcome)) = (listener, established) {
            self.opened(now, id, listener, outcome.is_ok());
        }
    }

    /// The handshake of a connection of a listener is over.
    fn opened(&mut self, now: Instant, id: ConnId, listener: (SocketAddr, u64), worked: bool) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        let (host, remote) = (conn.host, conn.remote);
        let (bound, listener) = listener;
        let listeners = &mut self.hosts[host.0].streams.listeners;
        // After a crash another may listen there, which knows nothing of it.
        if let Some(listening) = listeners.get_mut(&bound).filter(|l| l.id == listener) {
            listening.opening -= 1;
            if worked {
                listening.queue.push_back((id, remote));
                self.wakers.extend(listening.acceptor.take());
                return;
            }
        }
        self.abandon(now, id);
    }

    fn abandon(&mut self, now: Instant, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.machine.abandon(now);
            self.pump(now, id);
        }
    }
}

/// Connects from a host; dropping the future gives up.
pub(super) async fn connect(
    shared: Arc<Shared>,
    host: HostId,
    remote: SocketAddr,
) -> io::Result<BoxStream> {
    if remote.port() == 0 || remote.ip().is_unspecified() {
        let message = format!("{remote} cannot be connected to");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let (id, local) = {
        let mut fabric = shared.lock();
        let source = super::host::source(&fabric, host, remote.ip())?;
        let id = fabric.connect(Clock::now().into_std(), host, source, remote)?;
        (id, fabric.conns[&id].local)
    };
    let stream = SimStream {
        shared,
        id,
        local,
        remote,
    };
    stream.wake_fabric();
    std::future::poll_fn(|cx| stream.poll_established(cx)).await?;
    Ok(Box::new(stream))
}

/// Listens on a host.
pub(super) fn listen(
    shared: &Arc<Shared>,
    host: HostId,
    addr: SocketAddr,
) -> io::Result<Box<dyn StreamListener>> {
    let (local, id) = shared.lock().listen(host, addr)?;
    Ok(Box::new(SimListener {
        shared: Arc::clone(shared),
        host,
        local,
        id,
    }))
}

struct SimListener {
    shared: Arc<Shared>,
    host: HostId,
    local: SocketAddr,
    id: u64,
}

impl fmt::Debug for SimListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virtual TCP listener {}", self.local)
    }
}

impl StreamListener for SimListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(BoxStream, SocketAddr)>> {
        let mut fabric = self.shared.lock();
        let Some(listening) = fabric.listening(self) else {
            // The host has crashed: nothing comes any more.
            return Poll::Pending;
        };
        let Some((id, remote)) = listening.queue.pop_front() else {
            listening.acceptor = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let local = fabric.conns[&id].local;
        drop(fabric);
        let stream = SimStream {
            shared: Arc::clone(&self.shared),
            id,
            local,
            remote,
        };
        Poll::Ready(Ok((Box::new(stream), remote)))
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let now = Clock::now().into_std();
        self.shared.lock().unlisten(now, self);
        self.shared.settle();
    }
}

/// A TCP connection of a virtual host.
struct SimStream {
    shared: Arc<Shared>,
    id: ConnId,
    local: SocketAddr,
    remote: SocketAddr,
}

impl fmt::Debug for SimStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virtual TCP {} to {}", self.local, self.remote)
    }
}

impl SimStream {
    fn wake_fabric(&self) {
        self.shared.settle();
    }

    /// Does something to the connection and sends what follows from it.
    fn with<T>(&self, work: impl FnOnce(&mut ConnState) -> T) -> T {
        let mut fabric = self.shared.lock();
        let conn = fabric
            .conns
            .get_mut(&self.id)
            .expect("kept while its stream lives");
        let result = work(conn);
        fabric.pump(Clock::now().into_std(), self.id);
        drop(fabric);
        self.wake_fabric();
        result
    }

    fn poll_established(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.with(|conn| match conn.machine.established() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                conn.writer = Some(cx.waker().clone());
                Poll::Pending
            }
        })
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.with(|conn| {
            let room = buf.remaining().min(MAX_COPY);
            match conn.machine.read(buf.initialize_unfilled_to(room)) {
                Ok(Some(n)) => {
                    buf.advance(n);
                    Poll::Ready(Ok(()))
                }
                Ok(None) => {
                    conn.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
                Err(e) => Poll::Ready(Err(e)),
            }
        })
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with(
            |conn| match conn.machine.write(&buf[..buf.len().min(MAX_COPY)]) {
                Ok(Some(n)) => Poll::Ready(Ok(n)),
                Ok(None) => {
                    conn.writer = Some(cx.waker().clone());
                    Poll::Pending
                }
                Err(e) => Poll::Ready(Err(e)),
            },
        )
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // As with the kernel's sockets, what was written is on its way already.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|conn| conn.machine.finish());
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let now = Clock::now().into_std();
        self.shared.lock().abandon(now, self.id);
        self.wake_fabric();
    }
}
