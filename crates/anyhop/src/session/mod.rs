//! Sessions: one QUIC connection to a peer with all its paths.

mod driver;
mod probing;

use std::{
    collections::VecDeque,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhop_base::PeerId;
use anyhop_proto::{
    circuit::{CircuitId, LinkId},
    network::swarm::MadeUnder,
    path::Role,
    probe::ProbeKeys,
    route::OwnLink,
};
use anyhop_vpn::Keyring;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

pub(crate) use driver::Driver;

use crate::{
    PathInfo, PathKind, SessionInfo, StreamError,
    engine::{self, Code, Connection, ConnectionError, close},
    node::{Inner, punch, trace::Over},
    stream::{Purpose, RecvStream, SendStream, encode_protocol},
};

/// Commands waiting for a session's driver.
const COMMAND_QUEUE: usize = 32;

/// What other parts tell a session's driver.
#[derive(Debug)]
pub(crate) enum Command {
    /// This side agreed to an attempt at a direct path.
    Punch(Box<punch::Agreed>),
    /// A circuit over this link is silent: let the peer hear from our current address.
    Probe,
    /// Send a probe, and tell when it is answered.
    Echo(Over, oneshot::Sender<()>),
    /// Tell when the peer's ping with this nonce comes in, from wherever.
    AwaitPing(u64, oneshot::Sender<()>),
    /// The peer told other addresses than before.
    PeerTold,
    /// A circuit that a path may run over was torn down.
    CircuitEnded(CircuitId),
}

/// What uses a connection; see [`Use`].
#[derive(Debug, Default)]
pub(crate) struct Uses {
    open: AtomicUsize,
    total: AtomicU64,
    /// Why this node closed the connection, if it did.
    closed_for: OnceLock<String>,
}

impl Uses {
    /// Uses now, and ever.
    pub(crate) fn counts(&self) -> (usize, u64) {
        (
            self.open.load(Ordering::Relaxed),
            self.total.load(Ordering::Relaxed),
        )
    }

    /// Puts the connection's end into words.
    pub(crate) fn why_closed(&self, error: &ConnectionError) -> String {
        match error {
            ConnectionError::ApplicationClosed(c) => {
                format!("the peer closed it: {}", String::from_utf8_lossy(&c.reason))
            }
            ConnectionError::LocallyClosed => match self.closed_for.get() {
                Some(reason) => reason.clone(),
                None => "this node is shutting down".to_owned(),
            },
            ConnectionError::TimedOut => "the peer has not answered for 25 s".to_owned(),
            ConnectionError::Reset => "the peer restarted and no longer knows it".to_owned(),
            other => other.to_string(),
        }
    }
}

/// Keeps a connection from being closed as idle.
pub(crate) struct Use(Arc<Uses>);

impl Use {
    /// Puts the connection's end into words.
    pub(crate) fn why_closed(&self, error: &ConnectionError) -> String {
        self.0.why_closed(error)
    }

    pub(crate) fn new(uses: &Arc<Uses>) -> Self {
        uses.open.fetch_add(1, Ordering::Relaxed);
        uses.total.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(uses))
    }
}

impl Clone for Use {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Use")
    }
}

/// A connection's paths as others see them, kept by its driver.
#[derive(Debug, Clone, Default)]
pub(crate) struct PathTable {
    /// The selected path first.
    pub(crate) paths: Vec<PathInfo>,
    /// Addresses of the paths that are no circuits, the one to send to first.
    pub(crate) direct: Vec<SocketAddr>,
    /// Where the selected path leads, as the engine names it, and the longest datagram that
    /// QUIC sends there, bytes.
    pub(crate) selected: Option<(SocketAddr, u16)>,
    /// Whether no path answers now.
    pub(crate) stalled: bool,
    /// Share of packets lost on the direct path, 0 to 1, since it was opened.
    pub(crate) loss: f64,
}

impl PathTable {
    /// Whether the connection is a link: has a path that is no circuit.
    pub(crate) fn is_link(&self) -> bool {
        !self.stalled && self.paths.iter().any(|p| p.kind == PathKind::Direct)
    }
}

/// Addresses kept that a peer's pings came from; the oldest is forgotten first. Above
/// what one node's tests use.
const MAX_SHOWN: usize = 32;
/// NAT checks for one peer within [`CHECK_WINDOW`].
const MAX_CHECKS: u32 = 16;
/// For how long checks are counted together.
const CHECK_WINDOW: Duration = Duration::from_secs(60);

/// Where a peer has shown itself, and how often it asked to be checked.
#[derive(Debug, Default)]
struct Shown {
    at: VecDeque<SocketAddr>,
    /// Where its checks were answered, as many at most. Kept apart, since a birthday
    /// attempt makes the others forgotten.
    checked: VecDeque<SocketAddr>,
    minute: Option<Instant>,
    checks: u32,
}

/// Makes an address the latest of a list.
fn remember(list: &mut VecDeque<SocketAddr>, addr: SocketAddr) {
    list.retain(|a| *a != addr);
    if list.len() >= MAX_SHOWN {
        list.pop_front();
    }
    list.push_back(addr);
}

/// One connection to a peer.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) id: LinkId,
    pub(crate) peer: PeerId,
    pub(crate) quic: Connection,
    pub(crate) role: Role,
    pub(crate) opened: Instant,
    pub(crate) uses: Arc<Uses>,
    pub(crate) keys: ProbeKeys,
    /// Keys of sealed packets, made when the packet plane first asks for them; `None` when
    /// that failed. They outlast a plane, since their counters must not begin anew.
    keyring: OnceLock<Option<Mutex<Keyring>>>,
    /// The swarm key of the handshake, in a private network.
    pub(crate) made_under: Option<MadeUnder>,
    pub(crate) paths: watch::Sender<PathTable>,
    pub(crate) commands: mpsc::Sender<Command>,
    /// Where authenticated pings of the peer came from lately, and what it asked for.
    shown: Mutex<Shown>,
    /// Another connection carries new streams; this one ends when it is unused.
    pub(crate) superseded: AtomicBool,
}

impl Conn {
    /// Wraps an authenticated connection; the driver makes it live.
    pub(crate) fn new(
        id: LinkId,
        peer: PeerId,
        quic: Connection,
    ) -> Option<(Arc<Self>, mpsc::Receiver<Command>)> {
        let keys = engine::probe_keys(&quic)?;
        let made_under = engine::made_under(&quic);
        let role = if quic.side().is_client() {
            Role::Client
        } else {
            Role::Server
        };
        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
        let conn = Self {
            id,
            peer,
            quic,
            role,
            opened: Instant::now(),
            uses: Arc::default(),
            keys,
            keyring: OnceLock::new(),
            made_under,
            paths: watch::Sender::new(PathTable::default()),
            commands,
            shown: Mutex::default(),
            superseded: AtomicBool::new(false),
        };
        Some((Arc::new(conn), receiver))
    }

    /// Does something with the keys of sealed packets; `None` when there are none.
    pub(crate) fn with_keyring<T>(&self, work: impl FnOnce(&mut Keyring) -> T) -> Option<T> {
        let made = self.keyring.get_or_init(|| {
            let keys = engine::packet_keys(&self.quic)?;
            let client = self.role == Role::Client;
            let now = Instant::now().into_std();
            Some(Mutex::new(Keyring::new(keys, client, now)))
        });
        let mut ring = made.as_ref()?.lock().expect("no holder panics");
        Some(work(&mut ring))
    }

    /// How many packets the packet plane has sealed for this connection.
    pub(crate) fn packets_sealed(&self) -> u64 {
        let ring = self.keyring.get().and_then(Option::as_ref);
        ring.map_or(0, |ring| ring.lock().expect("no holder panics").sealed())
    }

    /// The peer's ping came from there.
    pub(crate) fn shows_itself_at(&self, addr: SocketAddr) {
        let mut shown = self.shown.lock().expect("no holder panics");
        remember(&mut shown.at, addr);
        shown.checked.retain(|checked| *checked != addr);
    }

    /// Whether one of the peer's latest pings came from there.
    pub(crate) fn has_shown_itself_at(&self, addr: SocketAddr) -> bool {
        let shown = self.shown.lock().expect("no holder panics");
        shown.at.contains(&addr)
    }

    /// Where the peer's pings and checks left little that may still be sent there before it
    /// answers: ports that are not worth a guess either, since they are in use.
    pub(crate) fn spoken_for(&self) -> Vec<SocketAddr> {
        let shown = self.shown.lock().expect("no holder panics");
        shown.at.iter().chain(&shown.checked).copied().collect()
    }

    /// Counts a check at an address that the peer asks for; false when it asks too often, or
    /// again without having pinged from there since: that ping's answer and one check are
    /// three times what it sent.
    pub(crate) fn may_check(&self, at: SocketAddr) -> bool {
        let now = Instant::now();
        let mut shown = self.shown.lock().expect("no holder panics");
        let begun = shown.minute.is_some_and(|m| now - m < CHECK_WINDOW);
        if !begun {
            (shown.minute, shown.checks) = (Some(now), 0);
        }
        shown.checks += 1;
        let may = shown.checks <= MAX_CHECKS && !shown.checked.contains(&at);
        if may {
            remember(&mut shown.checked, at);
        }
        may
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.quic.close_reason().is_some()
    }

    pub(crate) fn is_link(&self) -> bool {
        self.paths.borrow().is_link() && !self.is_closed()
    }

    /// Where datagrams to the peer go that do not go over a circuit.
    pub(crate) fn link_addr(&self) -> Option<SocketAddr> {
        self.paths.borrow().direct.first().copied()
    }

    /// What routes over this link count with; `None` when it is none.
    pub(crate) fn own_link(&self) -> Option<OwnLink> {
        let table = self.paths.borrow();
        if !table.is_link() || self.is_closed() {
            return None;
        }
        let direct = table.paths.iter().find(|p| p.kind == PathKind::Direct)?;
        let rtt = Duration::try_from_secs_f64(direct.rtt_ms / 1e3).unwrap_or_default();
        Some(OwnLink {
            peer: self.peer,
            rtt,
            loss: table.loss,
        })
    }

    pub(crate) fn dialer(&self, me: PeerId) -> PeerId {
        match self.role {
            Role::Client => me,
            Role::Server => self.peer,
        }
    }

    pub(crate) fn close(&self, code: u32, reason: &str) {
        // The first reason is the one that ended it.
        let _ = self.uses.closed_for.set(reason.to_owned());
        self.quic.close(Code::from_u32(code), reason.as_bytes());
    }

    /// Closes the connection without telling the peer why.
    pub(crate) fn close_silently(&self, code: u32, reason: &str) {
        let _ = self.uses.closed_for.set(reason.to_owned());
        self.quic.close(Code::from_u32(code), b"");
    }

    pub(crate) fn info(&self) -> SessionInfo {
        SessionInfo {
            peer_id: self.peer.to_string(),
            age_s: self.opened.elapsed().as_secs(),
            dialer: match self.role {
                Role::Client => "us".to_owned(),
                Role::Server => "peer".to_owned(),
            },
            paths: self.paths.borrow().paths.clone(),
        }
    }

    pub(crate) fn purpose(&self, protocol: &str) -> Purpose {
        Purpose {
            peer: self.peer,
            protocol: protocol.into(),
            in_use: Use::new(&self.uses),
        }
    }

    /// Opens a stream of a wire protocol; `shown` is its name in errors.
    pub(crate) async fn open_bi(
        &self,
        protocol: &str,
        shown: &str,
    ) -> Result<(SendStream, RecvStream), StreamError> {
        self.open_bi_with(protocol, shown, &[]).await
    }

    /// The same, with the first bytes of the stream in the packet that names the protocol.
    /// A peer may refuse that early, so their failure shows on reading.
    pub(crate) async fn open_bi_with(
        &self,
        protocol: &str,
        shown: &str,
        first: &[u8],
    ) -> Result<(SendStream, RecvStream), StreamError> {
        let mut head = encode_protocol(protocol)?;
        head.extend_from_slice(first);
        let purpose = self.purpose(shown);
        let (send, recv) = self.quic.open_bi().await.map_err(|e| self.lost(&e))?;
        let mut send = SendStream::new(send, purpose.clone());
        let recv = RecvStream::new(recv, purpose);
        send.write_all(&head).await?;
        Ok((send, recv))
    }

    /// Opens a unidirectional stream; see [`open_bi`](Self::open_bi).
    pub(crate) async fn open_uni(
        &self,
        protocol: &str,
        shown: &str,
    ) -> Result<SendStream, StreamError> {
        let header = encode_protocol(protocol)?;
        let purpose = self.purpose(shown);
        let send = self.quic.open_uni().await.map_err(|e| self.lost(&e))?;
        let mut send = SendStream::new(send, purpose);
        send.write_all(&header).await?;
        Ok(send)
    }

    fn lost(&self, error: &ConnectionError) -> StreamError {
        StreamError::SessionLost {
            peer: self.peer,
            reason: self.uses.why_closed(error),
        }
    }
}

/// A session with one peer: streams opened here go over whatever path is best when they
/// move, and survive its change. Clones are handles to the same session.
#[derive(Debug, Clone)]
pub struct Session {
    pub(crate) node: Arc<Inner>,
    pub(crate) conn: Arc<Conn>,
}

impl Session {
    /// Who is at the other end.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.conn.peer
    }

    /// The swarm key that its handshake ran under; `None` in a public network.
    #[must_use]
    pub fn made_under(&self) -> Option<MadeUnder> {
        self.current().made_under
    }

    /// The open paths, the selected one first.
    #[must_use]
    pub fn paths(&self) -> Vec<PathInfo> {
        self.current().paths.borrow().paths.clone()
    }

    /// Opens a bidirectional stream of a protocol.
    ///
    /// # Errors
    /// When the name is malformed or the session has ended. A peer that does not know
    /// the protocol shows when the stream is used.
    pub async fn open_bi(&self, protocol: &str) -> Result<(SendStream, RecvStream), StreamError> {
        let wire = self.node.app_protocol(protocol)?;
        self.current().open_bi(&wire, protocol).await
    }

    /// Opens a unidirectional stream of a protocol.
    ///
    /// # Errors
    /// As [`open_bi`](Self::open_bi).
    pub async fn open_uni(&self, protocol: &str) -> Result<SendStream, StreamError> {
        let wire = self.node.app_protocol(protocol)?;
        self.current().open_uni(&wire, protocol).await
    }

    /// Closes the session for both sides; open streams fail.
    pub fn close(&self) {
        self.current()
            .close(close::SHUTDOWN, "the application closed the session");
    }

    /// Waits for the session's end and says why it came.
    pub async fn closed(&self) -> String {
        let conn = self.current();
        conn.uses.why_closed(&conn.quic.closed().await)
    }

    /// The connection that carries new streams: after simultaneous dials it may be
    /// another one than this handle was made for.
    fn current(&self) -> Arc<Conn> {
        let current = self.node.current(self.conn.peer);
        current.unwrap_or_else(|| Arc::clone(&self.conn))
    }
}
