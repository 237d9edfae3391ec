//! The swarm key on QUIC: what a node of a private network takes notice of, and what its
//! handshakes are encrypted under.
//!
//! Two lines of defence keep strangers out. The socket ([`Swarm::takes`]) drops packets of
//! handshakes whose connection id is neither a stamp nor one that this node gave out, and
//! every version of QUIC but the first, which the engine would answer. Behind it the engine
//! has no Initial keys for what bears no stamp ([`SwarmServer`]), and resets for connection
//! ids of this node only ([`reset`](super::reset)).
//!
//! A packet with the stamp of somebody else's handshake still has to decrypt under keys
//! that only members derive, before anything is answered ([`Swarm::admits`]); the same
//! packet once more finds its stamp used up. Retry is not spoken: a flood of valid Initials
//! takes the key, and a retry's connection id would be no stamp.
//!
//! A stamp proves no more than having, or having had, the key. Who dials, a
//! [`Ticket`] in the place of QUIC's token tells; whether such a one is answered, a [`Gate`]
//! says, so that a former member hears nothing either.
//!
//! The ring is replaced at run time. Connections stay, under what they were made.

use std::{
    any::Any,
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, OnceLock, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhop_base::{Keypair, NetworkId, PeerId};
use anyhop_proto::network::swarm::{
    Destination, EpochKeys, KeyRing, MadeUnder, NONCE_LEN, Replays, STAMP_LEN, Stamps, Standing,
    TICKET_LEN, Ticket, destination, initial_token,
};
use bytes::Bytes;
use noq::{
    ConnectionId, ConnectionIdGenerator, Side,
    crypto::{self, KeyPair, Keys, PacketKey, UnsupportedVersion},
};
use noq_proto::{
    ConnectError, TransportError,
    crypto::{ExportKeyingMaterialError, HeaderKey},
    transport_parameters::TransportParameters,
};
use rand::RngExt;

use super::reset::{self, Ids, OWN_LEN};
use crate::StartError;

/// The one version that nodes speak (RFC 9000).
const QUIC_V1: u32 = 1;
/// Connection ids of this node, and tickets, that are remembered for having been checked:
/// about 8 KiB.
const RECENT: usize = 64;

/// What a node of a private network holds of its swarm keys.
pub(crate) struct Swarm {
    network: NetworkId,
    keypair: Keypair,
    me: PeerId,
    stamps: RwLock<Arc<Stamps>>,
    gate: RwLock<Arc<Gate>>,
    shown: Mutex<Replays>,
    /// Tickets that were checked, as they came, the latest last. Each fits one stamp only.
    checked: Mutex<VecDeque<[u8; TICKET_LEN]>>,
    own: OwnIds,
}

/// Whether those are answered who begin a handshake under some key. Asked for each first
/// packet of a handshake: it must not wait.
pub(crate) type Gate = dyn Fn(PeerId, MadeUnder) -> bool + Send + Sync;

impl fmt::Debug for Swarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Swarm")
            .field("stamps", &self.stamps)
            .finish_non_exhaustive()
    }
}

impl Swarm {
    pub(crate) fn new(
        network: NetworkId,
        ring: &KeyRing,
        keypair: &Keypair,
    ) -> Result<Arc<Self>, StartError> {
        let own = OwnIds {
            ids: reset::Keys::new(keypair)?.ids,
            recent: [const { AtomicU64::new(0) }; RECENT],
        };
        Ok(Arc::new(Self {
            network,
            keypair: keypair.clone(),
            me: keypair.public().to_peer_id(),
            stamps: RwLock::new(Arc::new(Stamps::new(network, ring))),
            gate: RwLock::new(Arc::new(|_, _| true)),
            shown: Mutex::default(),
            checked: Mutex::default(),
            own,
        }))
    }

    /// Handshakes to come run under these keys.
    pub(crate) fn replace(&self, ring: &KeyRing) {
        let stamps = Arc::new(Stamps::new(self.network, ring));
        *self.stamps.write().expect("no holder panics") = stamps;
    }

    /// Handshakes to come are answered if this holds for them.
    pub(crate) fn set_gate(&self, gate: Arc<Gate>) {
        *self.gate.write().expect("no holder panics") = gate;
    }

    fn stamps(&self) -> Arc<Stamps> {
        Arc::clone(&self.stamps.read().expect("no holder panics"))
    }

    /// The keys that the next handshake is begun under.
    pub(super) fn current(&self) -> EpochKeys {
        self.stamps().current().clone()
    }

    /// What one handshake with `peer` is begun with.
    pub(super) fn client(
        &self,
        inner: crypto::rustls::QuicClientConfig,
        peer: PeerId,
    ) -> noq::ClientConfig {
        let keys = self.current();
        let stamp = keys.stamp(nonce());
        let ticket = keys.ticket(&stamp, &self.keypair, peer);
        let mut config = noq::ClientConfig::new(Arc::new(SwarmClient { inner, keys }));
        config
            .initial_dst_cid_provider(Arc::new(move || ConnectionId::new(&stamp)))
            .token_store(Arc::new(OwnTicket(ticket)));
        config
    }

    /// Whether a QUIC packet may be for this node.
    pub(super) fn takes(&self, packet: &[u8]) -> bool {
        match destination(packet, OWN_LEN) {
            None => false,
            Some(Destination::Short { cid }) => self.own.is_own(cid),
            Some(Destination::Long { version, cid }) => {
                version == QUIC_V1 && (self.own.is_own(cid) || self.hears(cid, packet))
            }
        }
    }

    /// Whether a handshake begins with this packet that may be answered.
    fn hears(&self, stamp: &[u8], packet: &[u8]) -> bool {
        let stamps = self.stamps();
        let Some((keys, under)) = stamps.recognise(stamp) else {
            return false;
        };
        initial_token(packet).is_some_and(|ticket| self.opens_gate(keys, under, stamp, ticket))
    }

    /// Whether those are answered who show this. The signature comes last, since it costs
    /// most: a former member is refused before.
    fn opens_gate(&self, keys: &EpochKeys, under: MadeUnder, stamp: &[u8], shown: &[u8]) -> bool {
        let Some(ticket) = keys.open_ticket(stamp, self.me, shown) else {
            return false;
        };
        let gate = Arc::clone(&self.gate.read().expect("no holder panics"));
        gate(ticket.claimed, under) && self.is_genuine(&ticket, shown)
    }

    /// Checks a ticket, once for all packets that it comes in.
    fn is_genuine(&self, ticket: &Ticket, shown: &[u8]) -> bool {
        let checked = || self.checked.lock().expect("no holder panics");
        if checked().iter().any(|before| before == shown) {
            return true;
        }
        let is_genuine = ticket.is_genuine();
        if let (true, Ok(shown)) = (is_genuine, shown.try_into()) {
            let mut checked = checked();
            if checked.len() >= RECENT {
                checked.pop_front();
            }
            checked.push_back(shown);
        }
        is_genuine
    }

    /// Whether a handshake may be answered: its first packet decrypts, and its stamp is
    /// shown for the first time.
    pub(super) fn admits(&self, incoming: &noq::Incoming) -> bool {
        incoming.decrypt().is_some() && self.first_showing(&incoming.orig_dst_cid())
    }

    /// What the next request for a WebSocket of `peer` shows: a pass, and its ticket.
    pub(crate) fn pass(&self, peer: PeerId) -> Vec<u8> {
        let keys = self.current();
        let pass = keys.pass(nonce());
        let ticket = keys.ticket(&pass, &self.keypair, peer);
        [&pass[..], ticket.as_ref().map_or(&[], |t| &t[..])].concat()
    }

    /// Whether a request for a WebSocket may be answered. A pass is good for once.
    pub(crate) fn admits_pass(&self, shown: &[u8]) -> bool {
        let Some((pass, ticket)) = shown.split_at_checked(STAMP_LEN) else {
            return false;
        };
        let stamps = self.stamps();
        let Some((keys, under)) = stamps.recognise_pass(pass) else {
            return false;
        };
        self.opens_gate(keys, under, pass, ticket) && self.first_showing(pass)
    }

    fn first_showing(&self, shown: &[u8]) -> bool {
        let mut replays = self.shown.lock().expect("no holder panics");
        replays.first_showing(shown)
    }
}

fn nonce() -> [u8; NONCE_LEN] {
    rand::rng().random()
}

/// Connection ids that this node gave out. Those that packets came for lately are kept, so
/// that not every packet costs a MAC.
#[derive(Debug)]
struct OwnIds {
    ids: Ids,
    /// Each in the place that its last bits say; 0 for none.
    recent: [AtomicU64; RECENT],
}

impl OwnIds {
    fn is_own(&self, id: &[u8]) -> bool {
        let Ok(bytes) = <[u8; OWN_LEN]>::try_from(id) else {
            return false;
        };
        let number = u64::from_be_bytes(bytes);
        let place = &self.recent[number as usize % RECENT];
        if number != 0 && place.load(Ordering::Relaxed) == number {
            return true;
        }
        let is_own = self.ids.validate(ConnectionId::new(id)).is_ok();
        if is_own {
            place.store(number, Ordering::Relaxed);
        }
        is_own
    }
}

/// Begins handshakes under the keys of one epoch.
struct SwarmClient {
    inner: crypto::rustls::QuicClientConfig,
    keys: EpochKeys,
}

/// Puts a ticket where QUIC has tokens that servers gave earlier; there are none here.
struct OwnTicket(Option<[u8; TICKET_LEN]>);

impl noq::TokenStore for OwnTicket {
    fn insert(&self, _: &str, _: Bytes) {}

    fn take(&self, _: &str) -> Option<Bytes> {
        self.0.map(|ticket| Bytes::copy_from_slice(&ticket))
    }
}

impl crypto::ClientConfig for SwarmClient {
    fn start_session(
        &self,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn crypto::Session>, ConnectError> {
        let inner = self.inner.start_session(version, server_name, params)?;
        let made_under = MadeUnder {
            epoch: self.keys.epoch(),
            standing: Standing::Current,
        };
        Ok(Box::new(SwarmSession {
            inner,
            keys: SessionKeys::Client(self.keys.clone()),
            made_under: OnceLock::from(made_under),
        }))
    }
}

/// Answers handshakes that bear the stamp of a key in the ring.
pub(super) struct SwarmServer {
    inner: crypto::rustls::QuicServerConfig,
    swarm: Arc<Swarm>,
}

impl SwarmServer {
    pub(super) fn new(inner: crypto::rustls::QuicServerConfig, swarm: Arc<Swarm>) -> Self {
        Self { inner, swarm }
    }
}

impl crypto::ServerConfig for SwarmServer {
    /// "Unsupported" is what makes the engine drop a packet without an answer.
    fn initial_keys(&self, version: u32, cid: ConnectionId) -> Result<Keys, UnsupportedVersion> {
        let stamps = self.swarm.stamps();
        let (keys, _) = stamps.recognise(&cid).ok_or(UnsupportedVersion)?;
        self.inner
            .initial_keys(version, ConnectionId::new(&keys.initial_cid(&cid)))
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.inner.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(
        &self,
        version: u32,
        params: &TransportParameters,
    ) -> Box<dyn crypto::Session> {
        Box::new(SwarmSession {
            inner: self.inner.start_session(version, params),
            keys: SessionKeys::Server(Arc::clone(&self.swarm)),
            made_under: OnceLock::new(),
        })
    }
}

enum SessionKeys {
    Client(EpochKeys),
    /// Which of the ring's the handshake runs under, its stamp tells.
    Server(Arc<Swarm>),
}

/// A TLS session whose Initial keys come from a swarm key.
struct SwarmSession {
    inner: Box<dyn crypto::Session>,
    keys: SessionKeys,
    made_under: OnceLock<MadeUnder>,
}

impl crypto::Session for SwarmSession {
    fn initial_keys(&self, cid: ConnectionId, side: Side) -> Keys {
        let secret = match &self.keys {
            SessionKeys::Client(keys) => keys.initial_cid(&cid),
            SessionKeys::Server(swarm) => match swarm.stamps().recognise(&cid) {
                Some((keys, made_under)) => {
                    let _ = self.made_under.set(made_under);
                    keys.initial_cid(&cid)
                }
                // The ring was replaced in between: keys that nobody else has.
                None => rand::rng().random(),
            },
        };
        self.inner.initial_keys(ConnectionId::new(&secret), side)
    }

    /// The key that the handshake runs under, once there is something to say at all.
    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()?;
        Some(Box::new(*self.made_under.get()?))
    }

    /// No member sends one, and everybody can make one.
    fn is_valid_retry(&self, _: ConnectionId, _: &[u8], _: &[u8]) -> bool {
        false
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.inner.read_handshake(buf)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        self.inner.write_handshake(buf)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.inner.next_1rtt_keys()
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

/// The key that a connection's handshake ran under; `None` in a public network.
pub(crate) fn made_under(connection: &super::Connection) -> Option<MadeUnder> {
    let data = connection.handshake_data()?;
    data.downcast_ref().copied()
}
