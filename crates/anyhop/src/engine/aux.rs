//! Auxiliary UDP sockets: what finds out how NATs behave, and what gets through the ones
//! that give each socket another port.
//!
//! An auxiliary socket speaks probes only; anything else that arrives there is dropped.
//! When an attempt has found that a peer answers on one, the socket is **pinned** to the
//! peer's address: from then on everything this node sends to that address leaves
//! through it, and what it receives goes to the engine like what the main sockets
//! receive. The rest of its set is closed with the attempt; the pin with its path.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    io::{self, IoSliceMut},
    net::SocketAddr,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use anyhop_proto::probe::PROBE_LEN;
use rand::RngExt;
use tokio::sync::{mpsc, oneshot};

use super::mux::{Fabric, PROBE_QUEUE, ProbePacket, canonical};
use crate::net::{DatagramSocket, Host, RecvMeta};

/// Auxiliary sockets of one node at once, pinned ones left out: four birthday attempts.
pub(crate) const MAX_AUX_SOCKETS: usize = 1024;
/// Pinned sockets of one node at once.
pub(crate) const MAX_PINS: usize = 256;
/// Receive buffer of an auxiliary socket, bytes: a batch of 64 probes.
const AUX_BUFFER: usize = 64 * PROBE_LEN;

/// Ports tried for a socket before the host chooses one.
const RANDOM_PORTS: u32 = 4;
/// Where they are taken from (RFC 6335 section 6).
const EPHEMERAL_PORTS: std::ops::RangeInclusive<u16> = 49_152..=u16::MAX;

type Socket = Arc<dyn DatagramSocket>;

/// The pinned sockets of one node.
#[derive(Debug, Default)]
pub(super) struct Pins {
    table: RwLock<BTreeMap<SocketAddr, Socket>>,
    /// Entries of the table: the common case of none costs no lock.
    len: AtomicUsize,
    /// Pinned sockets whose own task has stopped reading: the mux reads them.
    readable: RwLock<Vec<Socket>>,
    /// Changes of `readable`.
    version: AtomicU64,
    /// The mux's, to be woken for a new socket.
    waker: Mutex<Option<Waker>>,
    /// Auxiliary sockets open now.
    open: AtomicUsize,
}

impl Pins {
    /// The socket that a remote address is pinned to.
    pub(super) fn socket(&self, remote: &SocketAddr) -> Option<Socket> {
        if self.len.load(Ordering::Acquire) == 0 {
            return None;
        }
        let table = self.table.read().expect("no holder panics");
        table.get(remote).map(Arc::clone)
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The sockets that the mux reads.
    pub(super) fn readable(&self) -> Vec<Socket> {
        self.readable.read().expect("no holder panics").clone()
    }

    pub(super) fn set_waker(&self, waker: &Waker) {
        let mut current = self.waker.lock().expect("no holder panics");
        if !current.as_ref().is_some_and(|w| w.will_wake(waker)) {
            *current = Some(waker.clone());
        }
    }

    fn add(&self, remote: SocketAddr, socket: &Socket) -> bool {
        let mut table = self.table.write().expect("no holder panics");
        if table.len() >= MAX_PINS && !table.contains_key(&remote) {
            return false;
        }
        table.insert(remote, Arc::clone(socket));
        self.len.store(table.len(), Ordering::Release);
        true
    }

    fn remove(&self, remote: &SocketAddr, socket: &Socket) {
        let mut table = self.table.write().expect("no holder panics");
        if table.get(remote).is_some_and(|s| Arc::ptr_eq(s, socket)) {
            table.remove(remote);
        }
        self.len.store(table.len(), Ordering::Release);
        drop(table);
        let mut readable = self.readable.write().expect("no holder panics");
        readable.retain(|s| !Arc::ptr_eq(s, socket));
        drop(readable);
        self.changed();
    }

    /// A socket's own task has stopped: the mux goes on reading, if it is pinned still.
    fn hand_over(&self, socket: Socket) {
        let pinned = {
            let table = self.table.read().expect("no holder panics");
            table.values().any(|s| Arc::ptr_eq(s, &socket))
        };
        if pinned {
            let mut readable = self.readable.write().expect("no holder panics");
            readable.push(socket);
            drop(readable);
            self.changed();
        }
    }

    fn changed(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        let waker = self.waker.lock().expect("no holder panics").take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// An auxiliary socket with the task that reads it.
#[derive(Debug)]
struct Aux {
    socket: Socket,
    /// Tells the task to hand over; dropped, it ends the task.
    fate: Option<oneshot::Sender<()>>,
}

/// Auxiliary sockets of one attempt or test. Dropping it closes those not pinned.
#[derive(Debug)]
pub(crate) struct AuxSet {
    fabric: Arc<Fabric>,
    sockets: Vec<Aux>,
    incoming: mpsc::Receiver<Box<ProbePacket>>,
}

impl AuxSet {
    /// Opens `count` sockets of a family, bound to the main socket's IP address and to
    /// random ports: a NAT may still hold a mapping for a port that was used lately.
    pub(crate) fn open(
        host: &dyn Host,
        fabric: &Arc<Fabric>,
        v4: bool,
        count: u16,
    ) -> io::Result<Self> {
        let local = fabric.local_addrs().into_iter().find(|a| a.is_ipv4() == v4);
        let no_family = || io::Error::from(io::ErrorKind::AddrNotAvailable);
        let local = SocketAddr::new(local.ok_or_else(no_family)?.ip(), 0);
        let (sink, incoming) = mpsc::channel(PROBE_QUEUE);
        let mut set = Self {
            fabric: Arc::clone(fabric),
            sockets: Vec::with_capacity(usize::from(count)),
            incoming,
        };
        for _ in 0..count {
            set.sockets.push(open_one(host, fabric, local, &sink)?);
        }
        Ok(set)
    }

    /// The next probe that came in on any of them, not yet authenticated.
    pub(crate) async fn recv(&mut self) -> Option<Box<ProbePacket>> {
        self.incoming.recv().await
    }

    /// The same for those who wait for more than that.
    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Box<ProbePacket>>> {
        self.incoming.poll_recv(cx)
    }

    /// The socket of a number.
    pub(crate) fn socket(&self, n: u16) -> Option<&Socket> {
        self.sockets.get(usize::from(n)).map(|aux| &aux.socket)
    }

    /// The number of the socket that a probe came in on.
    pub(crate) fn number_of(&self, socket: &Socket) -> Option<u16> {
        let at = self
            .sockets
            .iter()
            .position(|aux| Arc::ptr_eq(&aux.socket, socket));
        at.and_then(|n| u16::try_from(n).ok())
    }

    /// Sends one datagram from a socket; it may be lost like any datagram.
    pub(crate) fn send(&self, n: u16, to: SocketAddr, bytes: &[u8], ttl: Option<u8>) {
        if let Some(socket) = self.socket(n) {
            self.fabric.send_from(socket, to, bytes, ttl);
        }
    }

    /// Pins a socket to a remote address. `None` when the node has its limit of pins.
    pub(crate) fn pin(&mut self, n: u16, remote: SocketAddr) -> Option<Pin> {
        let aux = self.sockets.get_mut(usize::from(n))?;
        if !self.fabric.pins.add(remote, &aux.socket) {
            return None;
        }
        // Already handed over when it is pinned a second time.
        if let Some(fate) = aux.fate.take() {
            let _ = fate.send(());
        }
        Some(Pin {
            fabric: Arc::clone(&self.fabric),
            socket: Arc::clone(&aux.socket),
            remote,
        })
    }
}

fn open_one(
    host: &dyn Host,
    fabric: &Arc<Fabric>,
    local: SocketAddr,
    sink: &mpsc::Sender<Box<ProbePacket>>,
) -> io::Result<Aux> {
    let place = Place::take(fabric)?;
    let socket = bind_anywhere(host, local)?;
    let (fate, told) = oneshot::channel();
    let (fabric, sink) = (Arc::clone(fabric), sink.clone());
    let reader = Arc::clone(&socket);
    tokio::spawn(async move {
        let _place = place;
        tokio::select! {
            biased;
            told = told => {
                if told.is_ok() {
                    fabric.pins.hand_over(reader);
                }
            }
            () = read(&reader, &sink) => {}
        }
    });
    Ok(Aux {
        socket,
        fate: Some(fate),
    })
}

fn bind_anywhere(host: &dyn Host, mut local: SocketAddr) -> io::Result<Socket> {
    for _ in 0..RANDOM_PORTS {
        local.set_port(rand::rng().random_range(EPHEMERAL_PORTS));
        match host.bind_udp(local) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            bound => return bound,
        }
    }
    local.set_port(0);
    host.bind_udp(local)
}

/// Passes on the probes that a socket receives; more than the queue holds are dropped.
async fn read(socket: &Socket, sink: &mpsc::Sender<Box<ProbePacket>>) {
    let mut space = vec![0; AUX_BUFFER];
    loop {
        let mut meta = [RecvMeta::default()];
        let received = poll_fn(|cx| {
            let mut bufs = [IoSliceMut::new(&mut space)];
            socket.poll_recv(cx, &mut bufs, &mut meta)
        });
        // An error belongs to one datagram: an ICMP message, as a rule.
        if received.await.is_err() {
            tokio::task::yield_now().await;
            continue;
        }
        let [meta] = meta;
        let from = canonical(meta.addr);
        for packet in space[..meta.len.min(AUX_BUFFER)].chunks(meta.stride.max(1)) {
            if let Ok(bytes) = <[u8; PROBE_LEN]>::try_from(packet) {
                let via = Some(Arc::clone(socket));
                let _ = sink.try_send(Box::new(ProbePacket { from, bytes, via }));
            }
        }
    }
}

/// One of the node's auxiliary sockets, counted while its task runs.
#[derive(Debug)]
struct Place(Arc<Fabric>);

impl Place {
    fn take(fabric: &Arc<Fabric>) -> io::Result<Self> {
        let open = &fabric.pins.open;
        let taken = open.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
            (n < MAX_AUX_SOCKETS).then_some(n + 1)
        });
        match taken {
            Ok(_) => Ok(Self(Arc::clone(fabric))),
            Err(n) => {
                let message = format!("{n} auxiliary sockets are open, the limit");
                Err(io::Error::new(io::ErrorKind::QuotaExceeded, message))
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.pins.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Keeps a socket pinned to a remote address.
#[derive(Debug)]
pub(crate) struct Pin {
    fabric: Arc<Fabric>,
    socket: Socket,
    remote: SocketAddr,
}

impl Pin {
    /// The address it is pinned to.
    pub(crate) fn remote(&self) -> SocketAddr {
        self.remote
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.fabric.pins.remove(&self.remote, &self.socket);
    }
}
