//! A node: one participant of one network.
//!
//! [`Inner`] is what its tasks share. Each part of its state has one small lock, never
//! held across an await; decisions are made by the machines of `anyhop-proto`.

mod accept;
mod attach;
mod attempts;
mod calls;
mod clocks;
mod dial;
mod explain;
mod families;
mod find;
mod handlers;
mod inbox;
mod jobs;
mod keep;
mod mapping;
mod mdns;
mod monitor;
mod nat;
mod natcheck;
mod private;
pub(crate) mod punch;
mod records;
mod registry;
mod start;
mod topics;
pub(crate) mod trace;
mod ways;
mod websocket;
mod willing;

use std::{
    collections::HashMap,
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, Weak, atomic::AtomicU64},
    time::Duration,
};

use anyhop_base::{
    Endpoint, Keypair, Multiaddr, NetworkId, NetworkName, PeerAddr, PeerId, Reachability,
    quic_multiaddr,
};
use anyhop_proto::{
    circuit::{CircuitId, LinkId, RelayBook},
    nat::Family,
    route::{PerNeighbour, SearchBook},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, broadcast, mpsc, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

pub use accept::Listener;
pub use attempts::MAX_ATTEMPTS;
pub(crate) use attempts::{AttemptLog, Attempting};
pub(crate) use calls::Counts;
pub use handlers::Handling;
pub(crate) use jobs::{JobReader, JobsMember};
pub(crate) use monitor::Network;
pub use private::{InviteOptions, NetworkHandle};
pub(crate) use topics::Member;
pub(crate) use ways::Apart;

use crate::{
    Config, DialError, Encoding, Incoming, JobError, JobId, Jobs, KeyRing, MadeUnder, Message,
    MessageError, NatStatus, NoSwarmKey, NodeStatus, OwnJob, PathInfo, PathKind, Pong,
    ProtocolTaken, Published, Received, RecvStream, RelayStatus, SendStream, Session, SessionInfo,
    StartError, StreamError, Topic, TopicError, TopicInfo, TypeTaken,
    circuit::Circuits,
    engine::{Engine, Fabric, Swarm},
    net::{Host, LiveSocket, OsHost},
};

/// Names of the library's own protocols, within the network's prefix.
pub(crate) mod protocols {
    pub(crate) const HELLO: &str = "hello/1";
    pub(crate) const ADMISSION: &str = "admission/1";
    pub(crate) const INVITATION: &str = "invitation/1";
    pub(crate) const GREET: &str = "greet/1";
    pub(crate) const MEMBERSHIP: &str = "membership/1";
    pub(crate) const RECORD: &str = "record/1";
    pub(crate) const LOOKUP: &str = "lookup/1";
    pub(crate) const FIND: &str = "find/1";
    pub(crate) const PEERS: &str = "peers/1";
    pub(crate) const TRACE: &str = "trace/1";
    pub(crate) const ATTACH: &str = "attach/1";
    pub(crate) const NATCHECK: &str = "natcheck/1";
    pub(crate) const REACH: &str = "reach/1";
    pub(crate) const PUNCH: &str = "punch/2";
    pub(crate) const CIRCUIT: &str = "circuit/1";
    pub(crate) const MESSAGE: &str = "message/1";
    pub(crate) const CALL: &str = "call/1";
    pub(crate) const REKEY: &str = "rekey/1";
    pub(crate) const TOPICS: &str = "topics/1";
    pub(crate) const BODY: &str = "body/1";
    pub(crate) const PING: &str = "ping/1";
    /// Prefix of the applications' protocols.
    pub(crate) const APP: &str = "app/";
}

/// Events a slow reader may lag behind before it loses the oldest.
const EVENT_QUEUE: usize = 256;

/// What happened on a node.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// The first session with a peer, or a new one after it was lost.
    SessionOpened {
        /// The peer.
        peer: PeerId,
    },
    /// The session with a peer ended.
    SessionClosed {
        /// The peer.
        peer: PeerId,
        /// Why.
        reason: String,
    },
    /// New data to a peer goes over this path now; says nothing twice in a row.
    PathSelected {
        /// The peer.
        peer: PeerId,
        /// The path.
        path: PathInfo,
    },
    /// A path to a peer is gone; the session goes on if it has another.
    PathLost {
        /// The peer.
        peer: PeerId,
        /// The path as it was last.
        path: PathInfo,
        /// Why.
        reason: String,
    },
    /// What this node tells others about itself changed: addresses or attachments.
    AddressesChanged,
    /// The addresses of this machine's interfaces changed.
    LocalAddressesChanged {
        /// All of them now, loopback left out.
        addresses: Vec<IpAddr>,
    },
    /// Whether strangers can dial this node changed.
    ReachabilityChanged {
        /// What it is now.
        reachability: Reachability,
    },
    /// What is known about the NATs in front of this node changed.
    NatChanged {
        /// What is known now.
        nat: NatStatus,
    },
    /// The first record of a peer since its session was opened, or one that says something
    /// else than before. It comes after [`SessionOpened`](Self::SessionOpened).
    PeerIdentified {
        /// The peer.
        peer: PeerId,
        /// The addresses it tells.
        addresses: Vec<Multiaddr>,
    },
    /// New data to a peer goes over a direct path now, or over others, or nowhere. It
    /// follows [`SessionOpened`](Self::SessionOpened) and
    /// [`SessionClosed`](Self::SessionClosed), and says nothing twice in a row.
    PeerConnectedness {
        /// The peer.
        peer: PeerId,
        /// How.
        connectedness: Connectedness,
    },
    /// This node has become a member of its private network.
    Joined,
    /// Somebody has redeemed an invitation of this node that needs approval.
    JoinRequested {
        /// Who.
        peer: PeerId,
        /// The name it would like; empty for none.
        name: String,
    },
    /// Something was said about members of the private network.
    MembersChanged,
    /// The private network has a new swarm key.
    EpochChanged {
        /// Its epoch.
        epoch: u32,
    },
}

/// How a peer is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connectedness {
    /// There is no session.
    NotConnected,
    /// Over other nodes.
    Relayed,
    /// Over a path that is no circuit.
    Direct,
}

impl From<PathKind> for Connectedness {
    fn from(kind: PathKind) -> Self {
        match kind {
            PathKind::Direct => Self::Direct,
            PathKind::Circuit => Self::Relayed,
        }
    }
}

/// What the tasks of a node share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) me: PeerId,
    pub(crate) config: Config,
    pub(crate) fabric: Arc<Fabric>,
    pub(crate) relay: Mutex<RelayBook>,
    pub(crate) circuits: Circuits,
    pub(crate) attempts: Arc<AttemptLog>,
    pub(crate) nat: nat::Nat,
    private: Option<private::Private>,
    willing: watch::Sender<willing::Willing>,
    keypair: Keypair,
    network_id: NetworkId,
    /// What the names of its own protocols begin with.
    prefix: Box<str>,
    host: Arc<dyn Host>,
    sockets: Vec<Arc<LiveSocket>>,
    /// Told when one of the sockets fails.
    socket_failed: Arc<Notify>,
    network: watch::Sender<Network>,
    pub(crate) engine: Engine,
    websockets: websocket::WebSockets,
    local_peers: mdns::LocalPeers,
    clock: records::WallClock,
    started: Instant,
    book: Mutex<records::Book>,
    sessions: Mutex<registry::Registry>,
    dials: Mutex<dial::Dials>,
    searches: Mutex<SearchBook>,
    traces: Mutex<PerNeighbour>,
    samples: Mutex<PerNeighbour>,
    lookups: Mutex<PerNeighbour>,
    reaches: Mutex<PerNeighbour>,
    mappings: Mutex<mapping::Mappings>,
    protocols: Mutex<HashMap<String, mpsc::Sender<Incoming>>>,
    inbox: inbox::Inbox,
    handlers: handlers::Handlers,
    topics: topics::TopicsShell,
    jobs: jobs::JobsShell,
    calls: calls::CallsShell,
    record_dirty: Notify,
    session_changed: Notify,
    /// Told to the packet plane: a connection came or went, or selected another path.
    pub(crate) links_changed: Notify,
    /// The packet plane's, while there is one.
    packet_links: Mutex<Weak<crate::vpn::Links>>,
    attachments_changed: Notify,
    events: broadcast::Sender<Event>,
    next_link: AtomicU64,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Tells in a log which node of the process speaks.
    span: tracing::Span,
}

impl Inner {
    /// The wire name of one of the library's protocols.
    pub(crate) fn protocol(&self, name: &str) -> String {
        [&*self.prefix, name].concat()
    }

    /// Who follows sessions for the packet plane, while there is one.
    pub(crate) fn packet_links(&self) -> Option<Arc<crate::vpn::Links>> {
        self.packet_links
            .lock()
            .expect("no holder panics")
            .upgrade()
    }

    pub(crate) fn set_packet_links(&self, links: Weak<crate::vpn::Links>) {
        *self.packet_links.lock().expect("no holder panics") = links;
    }

    /// The wire name of an application's protocol.
    pub(crate) fn app_protocol(&self, name: &str) -> Result<String, StreamError> {
        let wire = self
            .network_id
            .protocol(&format!("{}{name}", protocols::APP));
        if name.is_empty() || wire.len() > crate::MAX_PROTOCOL_LEN {
            return Err(StreamError::BadProtocolName(name.to_owned()));
        }
        Ok(wire)
    }

    /// Runs a task until it ends or the node stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.spawn_unstopped(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Runs a task until it ends; a stopping node waits for that.
    pub(crate) fn spawn_unstopped(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task.instrument(self.span.clone()));
    }

    pub(crate) fn emit(&self, event: Event) {
        // Nobody listening is fine.
        let _ = self.events.send(event);
    }

    pub(crate) fn set_link(&self, link: LinkId, addresses: Vec<SocketAddr>) {
        self.fabric
            .switch
            .write()
            .expect("no holder panics")
            .set_link(link, addresses);
    }

    /// Where a circuit's datagrams leave this node to.
    pub(crate) fn first_hop(&self, circuit: CircuitId) -> Option<SocketAddr> {
        let switch = self.fabric.switch.read().expect("no holder panics");
        switch.egress(circuit).map(|(to, _)| to)
    }

    /// Whether the session with a peer must not be closed for being idle.
    pub(crate) fn is_pinned(&self, peer: PeerId) -> bool {
        self.config.bootstrap.iter().any(|b| b.peer == peer) || self.local_peers.is_kept(peer)
    }

    /// Addresses of our sockets as others on our networks may use them: a wildcard
    /// becomes the interfaces' addresses, loopback only where there is nothing else.
    pub(crate) fn listen_addrs(&self) -> Vec<SocketAddr> {
        self.as_dialled(self.fabric.local_addrs())
    }

    /// Bound addresses as others on our networks may use them.
    fn as_dialled(&self, bound: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let interfaces = self.host.interface_addresses().unwrap_or_default();
        let mut out = Vec::new();
        for local in bound {
            if !local.ip().is_unspecified() {
                out.push(local);
                continue;
            }
            let of_family = interfaces
                .iter()
                .filter(|ip| ip.is_ipv4() == local.is_ipv4());
            let (loopback, others): (Vec<_>, Vec<_>) =
                of_family.copied().partition(|ip| ip.is_loopback());
            let usable = if others.is_empty() { loopback } else { others };
            out.extend(
                usable
                    .into_iter()
                    .map(|ip| SocketAddr::new(ip, local.port())),
            );
        }
        // Loopback of one family helps nobody when the other has real addresses.
        if out.iter().any(|a| !a.ip().is_loopback()) {
            out.retain(|a| !a.ip().is_loopback());
        }
        out
    }

    /// What is known about the NATs in front of this node.
    pub(crate) fn nat_status(&self) -> NatStatus {
        NatStatus {
            reachability: self.reachability().as_str().to_owned(),
            v4: self.nat_info(Family::V4),
            v6: self.nat_info(Family::V6),
            mappings: self.mapping_infos(),
            gateways: self.gateway_info(),
        }
    }

    /// Resolves when the node stops.
    pub(crate) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    fn book(&self) -> MutexGuard<'_, records::Book> {
        self.book.lock().expect("no holder panics")
    }
}

/// A running participant of one network. Clones are handles to the same node; it runs
/// until [`close`](Self::close).
#[derive(Debug, Clone)]
pub struct Node(pub(crate) Arc<Inner>);

impl Node {
    /// Starts a node on the operating system's network.
    ///
    /// # Errors
    /// When a listen address cannot be bound.
    pub async fn start(keypair: Keypair, config: Config) -> Result<Self, StartError> {
        Self::start_on(Arc::new(OsHost), keypair, config).await
    }

    /// Starts a node on another host, such as a simulated one.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_on(
        host: Arc<dyn Host>,
        keypair: Keypair,
        config: Config,
    ) -> Result<Self, StartError> {
        start::start(host, keypair, config).map(Self)
    }

    /// This node's id.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.0.me
    }

    /// The network this node lives in.
    #[must_use]
    pub fn network(&self) -> &NetworkName {
        &self.0.config.network
    }

    /// Replaces the swarm keys of a private network's node, for handshakes to come.
    /// Sessions stay; those that were made under a key which the ring has no more, too.
    ///
    /// # Errors
    /// When the node was started without swarm keys: it is in a public network.
    pub fn replace_swarm_keys(&self, ring: &KeyRing) -> Result<(), NoSwarmKey> {
        self.swarm()?.replace(ring);
        Ok(())
    }

    /// Has a private network's node answer only those who `gate` holds for: it is asked
    /// before a handshake gets its first answer, with who begins it, proven by a signature,
    /// and under which key. Everybody else hears as little as a stranger. It is called
    /// where packets are received and must not wait.
    ///
    /// # Errors
    /// When the node was started without swarm keys: it is in a public network.
    pub fn answer_only(
        &self,
        gate: impl Fn(PeerId, MadeUnder) -> bool + Send + Sync + 'static,
    ) -> Result<(), NoSwarmKey> {
        self.swarm()?.set_gate(Arc::new(gate));
        Ok(())
    }

    fn swarm(&self) -> Result<&Swarm, NoSwarmKey> {
        let swarm = self.0.fabric.swarm.as_deref();
        swarm.ok_or_else(|| NoSwarmKey(self.network().clone()))
    }

    /// The private network of this node; `None` in a public one.
    #[must_use]
    pub fn private_network(&self) -> Option<NetworkHandle> {
        self.0.private.as_ref()?;
        Some(NetworkHandle(Arc::clone(&self.0)))
    }

    /// The peers this node stays connected to.
    #[must_use]
    pub fn bootstrap(&self) -> &[PeerAddr] {
        &self.0.config.bootstrap
    }

    /// The multiaddrs others may dial, each ending in `/p2p/<PeerId>`.
    #[must_use]
    pub fn addresses(&self) -> Vec<Multiaddr> {
        let udp = self.0.listen_addrs().into_iter().map(Endpoint::Udp);
        udp.chain(self.0.websocket_endpoints())
            .filter_map(|e| PeerAddr::at(self.0.me, e).ok())
            .map(|a| a.to_multiaddr())
            .collect()
    }

    /// The same for somebody who is elsewhere: port mappings and where peers see this node
    /// come first.
    pub(crate) fn reachable_addresses(&self) -> Vec<Multiaddr> {
        let mapped = self.0.mapped_endpoints().into_iter();
        let observed = self.0.observed_addrs().into_iter().map(Endpoint::Udp);
        let outside = mapped.chain(observed);
        let outside = outside.filter_map(|e| e.to_multiaddr().ok());
        let own = self.0.listen_addrs().into_iter().map(Endpoint::Udp);
        let own = own.chain(self.0.websocket_endpoints());
        let mut all: Vec<_> = outside.collect();
        all.extend(own.filter_map(|e| e.to_multiaddr().ok()));
        let mut known = std::collections::BTreeSet::new();
        all.retain(|a| known.insert(a.to_string()));
        all
    }

    /// A snapshot of this node.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let inner = &self.0;
        let observed = inner.observed_addrs().into_iter();
        let relay = RelayStatus {
            enabled: inner.relays(),
            circuits: inner.relay.lock().expect("no holder panics").circuits(),
            forwarded_bytes: inner
                .fabric
                .switch
                .read()
                .expect("no holder panics")
                .forwarded_bytes(),
        };
        NodeStatus {
            peer_id: inner.me.to_string(),
            network: inner.config.network.to_string(),
            addresses: self.addresses().iter().map(ToString::to_string).collect(),
            observed_addresses: observed
                .filter_map(|a| quic_multiaddr(a).ok())
                .map(|a| a.to_string())
                .collect(),
            nat: inner.nat_status(),
            relay,
            attachments: inner.book().attachments().map(|p| p.to_string()).collect(),
            sessions: inner.current_conns().len(),
            uptime_s: inner.started.elapsed().as_secs(),
            dropped: inner.fabric.drop_counts(),
            messages: inner.message_counts(),
        }
    }

    /// All sessions.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let conns = self.0.current_conns();
        conns.iter().map(|c| c.info()).collect()
    }

    /// The session with one peer, if there is one.
    #[must_use]
    pub fn session_info(&self, peer: PeerId) -> Option<SessionInfo> {
        self.0.current(peer).map(|c| c.info())
    }

    /// Peers this node has a session with or knows something of, without duplicates.
    #[must_use]
    pub fn known_peers(&self) -> Vec<PeerId> {
        let mut peers: Vec<_> = self.0.book().peers().collect();
        peers.extend(self.0.current_conns().iter().map(|c| c.peer));
        peers.sort_unstable();
        peers.dedup();
        peers
    }

    /// Remembers an address to dial a peer at.
    pub fn add_address(&self, addr: &PeerAddr) {
        self.0.remember(addr.peer, addr.addr);
    }

    /// The session with a peer; dials when there is none. Concurrent calls share one
    /// dial.
    ///
    /// # Errors
    /// Why no way to the peer worked, each with its reason.
    pub async fn connect(&self, peer: PeerId) -> Result<Session, DialError> {
        let conn = self.0.connect(peer).await?;
        Ok(Session {
            node: Arc::clone(&self.0),
            conn,
        })
    }

    /// Opens a bidirectional stream; dials when there is no session.
    ///
    /// # Errors
    /// When the peer cannot be reached or the name is malformed. An unknown protocol
    /// shows when the stream is used.
    pub async fn open_bi(
        &self,
        peer: PeerId,
        protocol: &str,
    ) -> Result<(SendStream, RecvStream), StreamError> {
        self.connect(peer).await?.open_bi(protocol).await
    }

    /// Opens a unidirectional stream; dials when there is no session.
    ///
    /// # Errors
    /// As [`open_bi`](Self::open_bi).
    pub async fn open_uni(&self, peer: PeerId, protocol: &str) -> Result<SendStream, StreamError> {
        self.connect(peer).await?.open_uni(protocol).await
    }

    /// Accepts streams of a protocol until the listener is dropped.
    ///
    /// # Errors
    /// When the protocol has a listener already.
    pub fn accept(&self, protocol: &str) -> Result<Listener, ProtocolTaken> {
        self.0.listen(protocol)
    }

    /// Runs `handler` for each incoming stream of a protocol, concurrently, until the
    /// node stops.
    ///
    /// # Errors
    /// When the protocol has a listener already.
    pub fn handle<F, T>(&self, protocol: &str, handler: F) -> Result<(), ProtocolTaken>
    where
        F: Fn(Incoming) -> T + Send + Sync + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let mut listener = self.accept(protocol)?;
        let inner = Arc::clone(&self.0);
        self.0.spawn(async move {
            while let Some(incoming) = listener.next().await {
                inner.spawn(handler(incoming));
            }
        });
        Ok(())
    }

    /// Sends one echo over the session's selected path; dials when there is no session.
    ///
    /// # Errors
    /// When the peer cannot be reached or does not answer in time.
    pub async fn ping(&self, peer: PeerId, timeout: Duration) -> Result<Pong, MessageError> {
        self.0.ping(peer, timeout).await
    }

    /// Sends one message; returns when the peer has it in its inbox.
    ///
    /// # Errors
    /// When the peer cannot be reached or does not take it; nothing is kept then.
    pub async fn send(&self, peer: PeerId, message: Message) -> Result<(), MessageError> {
        self.0.send(peer, message).await
    }

    /// Sends a request and waits for its reply.
    ///
    /// # Errors
    /// As [`send`](Self::send), and when no reply comes in time.
    pub async fn request(
        &self,
        peer: PeerId,
        message: Message,
        timeout: Duration,
    ) -> Result<Message, MessageError> {
        self.0.request(peer, message, timeout).await
    }

    /// Has `handler` take messages and requests of one type, concurrently, instead of the
    /// inbox. A request is answered with what it returns; `None` tells the requester that
    /// nobody answers, and for a message it does not matter. It is dropped when the requester
    /// gives up, when its time is over, or after `within`, whichever comes first.
    ///
    /// # Errors
    /// When the type has a handler, or cannot have one.
    pub fn on_message<F, T>(
        &self,
        kind: &str,
        within: Duration,
        handler: F,
    ) -> Result<Handling, TypeTaken>
    where
        F: Fn(PeerId, Message) -> T + Send + Sync + 'static,
        T: Future<Output = Option<Message>> + Send + 'static,
    {
        self.0.add_handler(kind, within, handler)
    }

    /// Whether messages and requests of types without a handler are refused at once. They go
    /// to the inbox unless that is asked for.
    pub fn refuse_unhandled(&self, refuse: bool) {
        self.0.handlers.set_only(refuse);
    }

    /// Takes the next received message or request, in order of arrival; `None` once the
    /// node is closed. Concurrent callers each get different ones. Cancel-safe: a call
    /// that is dropped before it returns has taken nothing.
    pub async fn recv(&self) -> Option<Received> {
        tokio::select! {
            received = self.0.inbox.pop(None) => Some(received),
            () = self.0.stop.cancelled() => None,
        }
    }

    /// The same for messages of one type; others stay where they are.
    pub async fn recv_type(&self, kind: &str) -> Option<Received> {
        tokio::select! {
            received = self.0.inbox.pop(Some(kind)) => Some(received),
            () = self.0.stop.cancelled() => None,
        }
    }

    /// A topic of this network, which the node goes on: it gets and passes on what is
    /// published there as long as a handle or a subscription is held.
    ///
    /// # Errors
    /// When the name is too long, or the node is on too many topics.
    pub fn topic(&self, name: &str) -> Result<Topic, TopicError> {
        self.0.topic(name)
    }

    /// What goes to all nodes of the network: a topic that everybody passes on.
    ///
    /// # Errors
    /// As [`topic`](Self::topic).
    pub fn to_all(&self) -> Result<Topic, TopicError> {
        self.0.topic("")
    }

    /// Publishes to all nodes of the network; see [`Topic::publish`].
    ///
    /// # Errors
    /// As [`Topic::publish`].
    pub fn broadcast(
        &self,
        encoding: Encoding,
        body: impl Into<Bytes>,
    ) -> Result<Published, TopicError> {
        self.to_all()?.publish(encoding, body)
    }

    /// The jobs of a topic: published there, watched, bid on.
    ///
    /// # Errors
    /// As [`topic`](Self::topic).
    pub fn jobs(&self, topic: &str) -> Result<Jobs, TopicError> {
        self.0.jobs_on(topic)
    }

    /// Bids on a job that a watch of this node has shown, as [`OfferedJob::bid`] does.
    ///
    /// # Errors
    /// As there, and when no such job is known.
    ///
    /// [`OfferedJob::bid`]: crate::OfferedJob::bid
    pub async fn bid_on(
        &self,
        job: JobId,
        encoding: Encoding,
        body: impl Into<Bytes>,
    ) -> Result<(), JobError> {
        self.0.bid(job, encoding, body.into()).await
    }

    /// A job that this node has published.
    ///
    /// # Errors
    /// [`JobError::Unknown`] when it has not, or longer ago than it is remembered.
    pub fn own_job(&self, id: JobId) -> Result<OwnJob, JobError> {
        self.0.own_job(id)
    }

    /// The topics that this node is on.
    #[must_use]
    pub fn topics(&self) -> Vec<TopicInfo> {
        self.0.topic_infos()
    }

    /// What happens on this node from now on. A reader that lags loses the oldest.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    /// Tells every peer, closes all sessions and stops. Can be called more than once.
    pub async fn close(&self) {
        self.0.engine.close().await;
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        self.0.store_what_waits().await;
    }
}
