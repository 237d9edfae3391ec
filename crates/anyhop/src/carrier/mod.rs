//! The WebSocket carrier: datagrams over TCP, for where UDP is blocked.
//!
//! ```text
//!   engine (mux)                                                        the other node
//!     | try_send: frames, masked                                    batches of datagrams |
//!     v                                                                                  |
//!   Carrier.outbox --- writer ---> [proxy] ---> TLS ---> HTTP upgrade ---> reader --> mux
//! ```
//!
//! Each connection is a [`Carrier`] with an address of ours inside the engine
//! ([`CarrierId::address`]), so that it serves as a session's path and as a circuit's link
//! like any UDP address. One binary message carries one datagram.
//!
//! **Start**: the client dials ([`dial`]), the server upgrades a request to its HTTP site
//! ([`serve`]); [`Carriers::run`] moves the data from then on. Nothing about the peer is
//! proven by this: TLS here only looks like HTTPS, and its certificate is not checked,
//! since an intercepting proxy may be between. Who is at the other end is proven by the
//! session's handshake inside, which nobody between can read or change.
//!
//! **Steady state**: what does not fit the outbox is refused with `WouldBlock`, which is
//! how the engine learns the TCP connection's speed. Forwarded datagrams are dropped then.
//!
//! **Failure**: a TCP connection that moves nothing for [`STALLED`] must not hold up the
//! other paths of a session, for whom the engine waits too: what is sent to it then is
//! dropped, and the path agent finds the path dead. A connection that no session uses is
//! closed after a grace.

mod dial;
mod limit;
mod pass;
mod proxy;
mod pump;
mod serve;
mod site;
mod tls;

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhop_proto::{
    carrier::CarrierId,
    websocket::{Opcode, Sender, frame_len, put_frame},
};
use rand::RngExt;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

pub(crate) use dial::Dialer;
pub use proxy::{BadProxy, Exempt, Proxies, Proxy};
pub(crate) use serve::Server;
pub use site::{MAX_SITE_BYTES, Page, Site};

/// The path under which the WebSocket is served.
pub(crate) const PATH: &str = "/anyhop";
/// Its subprotocol.
pub(crate) const SUBPROTOCOL: &str = "anyhop.datagrams.v1";

/// Longest datagram carried, bytes: what fits an Ethernet frame over UDP and IPv4.
pub(crate) const MAX_DATAGRAM: usize = 1472;
/// Frames waiting for a TCP connection, bytes: 1 ms at 1 Gbit/s.
const OUTBOX: usize = 128 << 10;
/// A TCP connection that takes nothing for this long is sent no more until it does.
const STALLED: Duration = Duration::from_millis(250);
/// Batches of received datagrams waiting for the engine, over all carriers; a connection
/// that finds no room is not read meanwhile.
const INCOMING: usize = 64;
/// Carriers of one node at once.
const MAX_CARRIERS: usize = 1024;

/// Datagrams of one length, the last of which may be shorter.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) from: CarrierId,
    pub(crate) stride: usize,
    pub(crate) bytes: Vec<u8>,
}

/// The carrier connections of one node.
pub(crate) struct Carriers {
    table: RwLock<HashMap<CarrierId, Arc<Carrier>>>,
    next: AtomicU64,
    incoming: mpsc::Sender<Batch>,
    /// Until the engine takes it.
    received: Mutex<Option<mpsc::Receiver<Batch>>>,
    /// Messages that were no datagram a node sends.
    pub(crate) unfit: AtomicU64,
}

impl fmt::Debug for Carriers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Carriers")
    }
}

impl Default for Carriers {
    fn default() -> Self {
        let (incoming, received) = mpsc::channel(INCOMING);
        Self {
            table: RwLock::default(),
            next: AtomicU64::new(1),
            incoming,
            received: Mutex::new(Some(received)),
            unfit: AtomicU64::new(0),
        }
    }
}

impl Carriers {
    /// What comes in over all of them; the first caller has it.
    pub(crate) fn take_received(&self) -> Option<mpsc::Receiver<Batch>> {
        self.received.lock().expect("no holder panics").take()
    }

    /// A new carrier to the TCP address `remote`; `sender` is whose frames come in.
    /// `None` when there are [`MAX_CARRIERS`].
    pub(crate) fn add(&self, remote: SocketAddr, sender: Sender) -> Option<CarrierUse> {
        let mut table = self.table.write().expect("no holder panics");
        if table.len() >= MAX_CARRIERS {
            return None;
        }
        let id = CarrierId(self.next.fetch_add(1, Ordering::Relaxed));
        let carrier = Arc::new(Carrier::new(id, remote, sender));
        table.insert(id, Arc::clone(&carrier));
        Some(CarrierUse::new(carrier))
    }

    pub(crate) fn get(&self, id: CarrierId) -> Option<Arc<Carrier>> {
        let table = self.table.read().expect("no holder panics");
        table.get(&id).cloned()
    }

    /// Keeps a carrier open for as long as the result lives; `None` when it is gone.
    pub(crate) fn hold(&self, id: CarrierId) -> Option<CarrierUse> {
        self.get(id).map(CarrierUse::new)
    }

    /// The TCP address at the other end of a carrier.
    pub(crate) fn remote(&self, id: CarrierId) -> Option<SocketAddr> {
        self.get(id).map(|c| c.remote)
    }

    /// As if this had come in.
    #[cfg(test)]
    pub(crate) fn receive(&self, batch: Batch) {
        self.incoming.try_send(batch).expect("few are waiting");
    }

    /// Moves a carrier's datagrams over an upgraded connection until it ends, or until
    /// nobody has used it for `grace`.
    pub(crate) async fn run(
        self: Arc<Self>,
        carrier: Arc<Carrier>,
        stream: pump::Upgraded,
        grace: Duration,
    ) {
        // Also when the node stops and this is dropped half-way.
        let _listed = Listed(&self, &carrier);
        let why = pump::run(&self, &carrier, stream, grace).await;
        tracing::debug!(remote = %carrier.remote, why, "WebSocket ended");
    }
}

/// Strikes a carrier off the table.
struct Listed<'a>(&'a Carriers, &'a Carrier);

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        let mut table = self.0.table.write().expect("no holder panics");
        table.remove(&self.1.id);
        drop(table);
        self.1.ended.cancel();
    }
}

/// Frames on their way out.
#[derive(Debug)]
struct Outbox {
    frames: Vec<u8>,
    /// The answer to the latest ping of the other side.
    pong: Option<Vec<u8>>,
    /// When the connection last took something.
    moved: Instant,
}

/// One WebSocket.
#[derive(Debug)]
pub(crate) struct Carrier {
    pub(crate) id: CarrierId,
    /// The TCP address of the other end; the peer's own even if a proxy is between.
    pub(crate) remote: SocketAddr,
    /// Whose frames come in.
    sender: Sender,
    outbox: Mutex<Outbox>,
    filled: Notify,
    drained: Notify,
    uses: AtomicUsize,
    uses_changed: Notify,
    ended: CancellationToken,
}

impl Carrier {
    fn new(id: CarrierId, remote: SocketAddr, sender: Sender) -> Self {
        Self {
            id,
            remote,
            sender,
            outbox: Mutex::new(Outbox {
                frames: Vec::new(),
                pong: None,
                moved: Instant::now(),
            }),
            filled: Notify::new(),
            drained: Notify::new(),
            uses: AtomicUsize::new(0),
            uses_changed: Notify::new(),
            ended: CancellationToken::new(),
        }
    }

    /// Queues one datagram, or several of `segment` bytes: all or none.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room now, `TimedOut` when the connection has stalled,
    /// `NotConnected` when it has ended.
    pub(crate) fn try_send(&self, contents: &[u8], segment: Option<usize>) -> io::Result<()> {
        if self.ended.is_cancelled() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let stride = segment.unwrap_or(contents.len()).max(1);
        let masks = self.sender == Sender::Server;
        let count = contents.len().div_ceil(stride);
        let room = count * frame_len(stride, masks);
        {
            let mut outbox = self.outbox();
            if outbox.frames.is_empty() {
                outbox.moved = Instant::now();
            } else if outbox.frames.len() + room > OUTBOX {
                return Err(if outbox.moved.elapsed() >= STALLED {
                    io::ErrorKind::TimedOut.into()
                } else {
                    io::ErrorKind::WouldBlock.into()
                });
            }
            outbox.frames.reserve(room);
            let mut rng = rand::rng();
            for datagram in contents.chunks(stride) {
                let mask = masks.then(|| rng.random());
                put_frame(&mut outbox.frames, Opcode::Message, datagram, mask);
            }
        }
        self.filled.notify_one();
        Ok(())
    }

    /// Resolves when [`try_send`](Self::try_send) is worth another attempt: when there is
    /// room, or the connection has to be taken for stalled.
    pub(crate) async fn writable(self: Arc<Self>) -> io::Result<()> {
        let drained = self.drained.notified();
        tokio::pin!(drained);
        drained.as_mut().enable();
        // The writer takes all that waits at once.
        let waits = !self.outbox().frames.is_empty();
        if waits {
            let _ = timeout(STALLED, drained).await;
        }
        Ok(())
    }

    /// Resolves when the connection has ended.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        self.ended.clone().cancelled_owned()
    }

    /// Resolves when nobody has used it for `grace`.
    async fn unused_for(&self, grace: Duration) {
        loop {
            let changed = self.uses_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.uses.load(Ordering::Relaxed) > 0 {
                changed.await;
            } else if timeout(grace, changed).await.is_err() {
                return;
            }
        }
    }

    /// Takes the frames that wait to be sent.
    #[cfg(test)]
    pub(crate) fn take_frames(&self) -> Vec<u8> {
        std::mem::take(&mut self.outbox().frames)
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().expect("no holder panics")
    }
}

/// Keeps a carrier open.
#[derive(Debug)]
pub(crate) struct CarrierUse(Arc<Carrier>);

impl CarrierUse {
    fn new(carrier: Arc<Carrier>) -> Self {
        carrier.uses.fetch_add(1, Ordering::Relaxed);
        carrier.uses_changed.notify_waiters();
        Self(carrier)
    }

    /// The carrier's address inside the engine.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.id.address()
    }

    pub(crate) fn carrier(&self) -> &Arc<Carrier> {
        &self.0
    }

    /// Whether somebody else uses it too.
    pub(crate) fn is_shared(&self) -> bool {
        self.0.uses.load(Ordering::Relaxed) > 1
    }
}

impl Drop for CarrierUse {
    fn drop(&mut self) {
        self.0.uses.fetch_sub(1, Ordering::Relaxed);
        self.0.uses_changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
