//! The node.
use std::{sync::Arc, time::Duration};
use anyhop_base::{Keypair, Multiaddr, NetworkName, PeerAddr, PeerId};
use tokio::sync::broadcast;
use crate::*;

/// What happened on a node.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// First session with a peer, or again after it was lost.
    SessionOpened { #[doc = "whom"] peer: PeerId },
    /// The last session with the peer ended.
    SessionClosed { #[doc = "whom"] peer: PeerId, #[doc = "why"] reason: String },
    /// New data to the peer goes over this path now.
    PathSelected { #[doc = "whom"] peer: PeerId, #[doc = "which"] path: PathInfo },
    /// A path is gone.
    PathLost { #[doc = "whom"] peer: PeerId, #[doc = "which"] path: PathInfo, #[doc = "why"] reason: String },
    /// The advertised or observed addresses changed.
    AddressesChanged,
}

/// A running participant of one network. Clones are handles to the same node.
#[derive(Debug, Clone)]
pub struct Node(());

impl Node {
    /// Starts on the operating system's network.
    pub async fn start(keypair: Keypair, config: Config) -> Result<Self, StartError> { let _ = (keypair, config); panic!() }
    /// Starts on another host.
    pub async fn start_on(host: Arc<dyn net::Host>, keypair: Keypair, config: Config) -> Result<Self, StartError> { let _ = (host, keypair, config); panic!() }
    /// Own id.
    pub fn peer_id(&self) -> PeerId { panic!() }
    /// Own network.
    pub fn network(&self) -> NetworkName { panic!() }
    /// Advertised multiaddrs with `/p2p/` suffix. Known as soon as `start` returns.
    pub fn addresses(&self) -> Vec<Multiaddr> { panic!() }
    /// Snapshot.
    pub fn status(&self) -> NodeStatus { panic!() }
    /// All sessions.
    pub fn sessions(&self) -> Vec<SessionInfo> { panic!() }
    /// The session with one peer, if there is one.
    pub fn session_info(&self, _peer: PeerId) -> Option<SessionInfo> { panic!() }
    /// Peers this node has a session with or a record of, for completing a prefix.
    pub fn known_peers(&self) -> Vec<PeerId> { panic!() }
    /// Remembers an address to dial a peer at.
    pub fn add_address(&self, _addr: &PeerAddr) { panic!() }
    /// The session with the peer, dialled if there is none.
    pub async fn connect(&self, _peer: PeerId) -> Result<Session, DialError> { panic!() }
    /// Opens a bidirectional stream (dials if needed).
    pub async fn open_bi(&self, _peer: PeerId, _protocol: &str) -> Result<(SendStream, RecvStream), StreamError> { panic!() }
    /// Opens a unidirectional stream (dials if needed).
    pub async fn open_uni(&self, _peer: PeerId, _protocol: &str) -> Result<SendStream, StreamError> { panic!() }
    /// Accepts streams of a protocol until the listener is dropped. Bounded queue.
    pub fn accept(&self, _protocol: &str) -> Result<Listener, ProtocolTaken> { panic!() }
    /// One echo.
    pub async fn ping(&self, _peer: PeerId, _timeout: Duration) -> Result<Pong, MessageError> { panic!() }
    /// Sends one message; returns when the peer's inbox has it.
    pub async fn send(&self, _peer: PeerId, _message: Message) -> Result<(), MessageError> { panic!() }
    /// Sends a request, waits for its reply.
    pub async fn request(&self, _peer: PeerId, _message: Message, _timeout: Duration) -> Result<Message, MessageError> { panic!() }
    /// Takes the next received message or request; None once closed. Concurrent callers each get different ones.
    pub async fn recv(&self) -> Option<Received> { panic!() }
    /// What happens on this node from now on; a slow reader loses the oldest.
    pub fn events(&self) -> broadcast::Receiver<Event> { panic!() }
    /// Closes all sessions gracefully and stops. Idempotent.
    pub async fn close(&self) { panic!() }
}

/// A session with one peer; survives path changes.
#[derive(Debug, Clone)]
pub struct Session(());
impl Session {
    /// The peer.
    pub fn peer_id(&self) -> PeerId { panic!() }
    /// Paths.
    pub fn paths(&self) -> Vec<PathInfo> { panic!() }
    /// Opens a stream.
    pub async fn open_bi(&self, _protocol: &str) -> Result<(SendStream, RecvStream), StreamError> { panic!() }
    /// Opens a stream.
    pub async fn open_uni(&self, _protocol: &str) -> Result<SendStream, StreamError> { panic!() }
    /// Resolves with the reason when it ended.
    pub async fn closed(&self) -> String { panic!() }
}

/// Streams of one protocol that peers open.
#[derive(Debug)]
pub struct Listener(());
impl Listener {
    /// The next stream; None once the node is closed.
    pub async fn next(&mut self) -> Option<Incoming> { panic!() }
}

impl Responder {
    /// Sends the reply.
    pub async fn reply(self, _message: Message) -> Result<(), MessageError> { panic!() }
}
