//! The QUIC engine: the only place that names noq, so that another engine remains a way
//! out.

mod aux;
mod divert;
mod kick;
mod mux;
mod rekey;
mod reset;
mod sealed;
mod swarm;
mod tls;
mod turns;

use std::{
    net::SocketAddr,
    ops::Deref,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhop_base::{Keypair, PeerId};
use anyhop_proto::probe::{PROBE_EXPORTER_LABEL, PROBE_SECRET_LEN, ProbeKeys};
use anyhop_vpn::{Cipher, PacketKeys, SEALED_EXPORTER_LABEL, SEALED_SECRET_LEN};
use noq::{
    EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rand::RngExt;

pub(crate) use aux::{AuxSet, Pin};
pub(crate) use divert::Diversions;
pub(crate) use kick::Kicks;
pub(crate) use mux::{Fabric, PROBE_QUEUE, ProbePacket, canonical};
pub(crate) use noq::{
    ConnectionError, Path, PathError, PathEvent, PathEvents, PathId, PathStatus, ReadError,
    RecvStream, SendStream, VarInt as Code, WriteError,
};
pub(crate) use rekey::RekeyError;
pub(crate) use sealed::{SealedSink, Way};
pub(crate) use swarm::{Swarm, made_under};

use crate::{KEEP_ALIVE, Limits, StartError};
use swarm::SwarmServer;

/// A connection that hears nothing at all for this long is gone. The path agent gives up
/// earlier, with a reason. Up to 25 s noq sends at least every second on a silent path,
/// above that every two: so soon does it notice that a network is back.
const MAX_IDLE: Duration = Duration::from_secs(25);
/// Paths of one connection at once, closing ones included. Each costs five connection ids
/// on both sides from the start, about 1 KiB.
const MAX_PATHS: u32 = 8;
/// Not used to find paths: what this extension brings is that both sides take a path's
/// packets from other addresses too; see [`divert`].
const NAT_TRAVERSAL_ADDRESSES: u8 = 1;
/// Receive window of one stream. noq 1.4.0 aborts streams with "too many gaps" above
/// 2.4 MB (pinned by a test in `tests/`).
const STREAM_WINDOW: u32 = 2_400_000;
/// Receive window of one connection over all its streams: what stalled readers can make
/// this node hold for one peer.
const CONNECTION_WINDOW: u32 = 64 << 20;
/// Unacknowledged bytes kept for resending on one connection.
const SEND_WINDOW: u64 = 8 << 20;

/// Round trip assumed before one is measured. RFC 9002 section 6.2.2 proposes 333 ms, by
/// which the pacer holds back the second packet of the first flight (the post-quantum key
/// share needs two) for 27 ms. A path that is slower gets its first flight twice.
pub(crate) const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Close codes of a connection.
pub(crate) mod close {
    /// The node stops.
    pub(crate) const SHUTDOWN: u32 = 1;
    /// Nobody used it.
    pub(crate) const IDLE: u32 = 2;
    /// Another connection to the same peer stays.
    pub(crate) const SUPERSEDED: u32 = 3;
    /// The accepting node has its limit of sessions.
    pub(crate) const TOO_MANY_SESSIONS: u32 = 4;
    /// The other side broke the protocol.
    pub(crate) const PROTOCOL: u32 = 5;
    /// No path works any more.
    pub(crate) const NO_PATH: u32 = 6;
    /// The other side is no member of the private network, or not served here.
    pub(crate) const NOT_ADMITTED: u32 = 7;
}

/// What a failed handshake was about.
#[derive(Debug)]
pub(crate) enum ConnectError {
    WrongPeer(PeerId),
    Refused(String),
    Failed(String),
}

/// A connection.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    quic: noq::Connection,
    /// Where the packets of its dead paths go.
    pub(crate) diversions: Arc<Diversions>,
    /// Has packets sent at once.
    pub(crate) kicks: Arc<Kicks>,
}

impl Deref for Connection {
    type Target = noq::Connection;

    fn deref(&self) -> &noq::Connection {
        &self.quic
    }
}

/// A handshake of somebody else.
#[derive(Debug)]
pub(crate) struct Incoming {
    incoming: noq::Incoming,
    server: ServerConfig,
    transport: TransportConfig,
}

impl Incoming {
    /// Tells the other side that it is not taken.
    pub(crate) fn refuse(self) {
        self.incoming.refuse();
    }

    /// Has the other side prove its address first; returned if it has.
    pub(crate) fn ask_for_proof(self) -> Option<Self> {
        let asked = self.incoming.retry().err()?;
        Some(Self {
            incoming: asked.into_incoming(),
            ..self
        })
    }

    /// Completes the handshake.
    pub(crate) async fn complete(self) -> Result<Connection, ConnectionError> {
        let Self {
            incoming,
            mut server,
            transport,
        } = self;
        let kicks = Arc::<Kicks>::default();
        server.transport_config(kicked(&transport, &kicks));
        let server = Arc::new(server);
        let (connecting, diversions) = Diversions::of_new(|| incoming.accept_with(server));
        let quic = connecting?.await?;
        Ok(Connection {
            quic,
            diversions,
            kicks,
        })
    }
}

/// The endpoint of one node.
#[derive(Debug)]
pub(crate) struct Engine {
    endpoint: noq::Endpoint,
    identity: tls::Identity,
    transport: TransportConfig,
    server: ServerConfig,
    /// In a private network.
    swarm: Option<Arc<Swarm>>,
}

impl Engine {
    pub(crate) fn new(
        keypair: &Keypair,
        alpn: Vec<u8>,
        fabric: Arc<Fabric>,
        limits: &Limits,
    ) -> Result<Self, StartError> {
        let identity = tls::Identity::new(keypair, alpn)?;
        let transport = transport_config(limits);
        let engine = |e: &dyn std::fmt::Display| StartError::Engine(e.to_string());
        let crypto = identity.server().map_err(|e| engine(&e))?;
        let crypto = QuicServerConfig::try_from(crypto).map_err(|e| engine(&e))?;
        let swarm = fabric.swarm.clone();
        let mut server = match swarm.clone() {
            None => ServerConfig::with_crypto(Arc::new(crypto)),
            Some(swarm) => ServerConfig::with_crypto(Arc::new(SwarmServer::new(crypto, swarm))),
        };
        server
            .transport_config(Arc::new(transport.clone()))
            .max_incoming(limits.max_handshakes)
            .incoming_buffer_size(64 * 1024);
        let reset = reset::Keys::new(keypair)?;
        let mut config = EndpointConfig::new(Arc::new(reset.tokens));
        config.cid_generator(Arc::new(move || Box::new(reset.ids.clone())));
        // The fixed bit tells QUIC from our own packets.
        config.grease_quic_bit(false);
        let endpoint = noq::Endpoint::new_with_abstract_socket(
            config,
            Some(server.clone()),
            Box::new(mux::MuxSocket::new(fabric)),
            Arc::<turns::TurnsRuntime>::default(),
        )
        .map_err(|e| engine(&e))?;
        Ok(Self {
            endpoint,
            identity,
            transport,
            server,
            swarm,
        })
    }

    /// Handshakes with `peer` at `addr`, a socket address or a circuit's.
    pub(crate) async fn connect(
        &self,
        addr: SocketAddr,
        peer: PeerId,
    ) -> Result<Connection, ConnectError> {
        let failed = |e: &dyn std::fmt::Display| ConnectError::Failed(e.to_string());
        let client = self.identity.client(peer).map_err(|e| failed(&e))?;
        let crypto = QuicClientConfig::try_from(client.config).map_err(|e| failed(&e))?;
        let mut config = match &self.swarm {
            None => noq::ClientConfig::new(Arc::new(crypto)),
            Some(swarm) => swarm.client(crypto, peer),
        };
        let kicks = Arc::<Kicks>::default();
        config.transport_config(kicked(&self.transport, &kicks));
        // The server name is unused: the certificate is checked against the PeerId.
        let (connecting, diversions) =
            Diversions::of_new(|| self.endpoint.connect_with(config, addr, "anyhop"));
        match connecting.map_err(|e| failed(&e))?.await {
            Ok(quic) if quic.is_multipath_enabled() => Ok(Connection {
                quic,
                diversions,
                kicks,
            }),
            Ok(connection) => {
                connection.close(Code::from_u32(close::PROTOCOL), b"multipath is required");
                Err(ConnectError::Failed(
                    "the peer speaks QUIC without multipath".to_owned(),
                ))
            }
            Err(e) => Err(explain(e, &client.impostor)),
        }
    }

    /// What a handshake without an answer may be about.
    pub(crate) fn silence(&self, what: &str) -> String {
        match &self.swarm {
            None => what.to_owned(),
            Some(swarm) => format!(
                "{what}; is its swarm key the one of epoch {} here?",
                swarm.current().epoch()
            ),
        }
    }

    /// The next handshake of somebody else; `None` once closed. In a private network it
    /// is one of somebody who has a key of the ring.
    pub(crate) async fn accept(&self) -> Option<Incoming> {
        loop {
            let incoming = self.endpoint.accept().await?;
            match &self.swarm {
                Some(swarm) if !swarm.admits(&incoming) => incoming.ignore(),
                _ => {
                    return Some(Incoming {
                        incoming,
                        server: self.server.clone(),
                        transport: self.transport.clone(),
                    });
                }
            }
        }
    }

    /// Whether the other side of a handshake may be asked to prove its address first.
    pub(crate) fn asks_for_proof(&self) -> bool {
        self.swarm.is_none()
    }

    /// This machine's network changed: connections forget which address they sent from, and
    /// send again at once on paths whose timers have backed off.
    pub(crate) fn network_changed(&self) {
        self.endpoint
            .handle_network_change(Some(Arc::new(PathsStay)));
    }

    /// Closes every connection and waits until the peers could be told.
    pub(crate) async fn close(&self) {
        self.endpoint.close(
            Code::from_u32(close::SHUTDOWN),
            b"the node is shutting down",
        );
        self.endpoint.wait_all_draining().await;
    }
}

/// Which paths are given up after a change is our path agents' to say.
#[derive(Debug)]
struct PathsStay;

impl noq::NetworkChangeHint for PathsStay {
    fn is_path_recoverable(&self, _: PathId, _: noq::FourTuple) -> bool {
        true
    }
}

/// The number that both sides know a path by.
pub(crate) fn path_number(id: PathId) -> u32 {
    // noq shows it and has no other way to tell.
    id.to_string().parse().unwrap_or(u32::MAX)
}

fn transport_config(limits: &Limits) -> TransportConfig {
    let idle = IdleTimeout::try_from(MAX_IDLE).expect("25 s fits a QUIC idle timeout");
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(limits.max_streams_per_session))
        .max_concurrent_uni_streams(VarInt::from_u32(limits.max_streams_per_session))
        .max_idle_timeout(Some(idle))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .initial_rtt(INITIAL_RTT)
        .max_concurrent_multipath_paths(MAX_PATHS)
        .max_remote_nat_traversal_addresses(NAT_TRAVERSAL_ADDRESSES)
        .default_path_keep_alive_interval(Some(KEEP_ALIVE))
        .default_path_max_idle_timeout(Some(MAX_IDLE))
        .send_observed_address_reports(true)
        .receive_observed_address_reports(true)
        .datagram_receive_buffer_size(None);
    transport
}

/// For one connection, whose paths obey its kicks.
fn kicked(transport: &TransportConfig, kicks: &Arc<Kicks>) -> Arc<TransportConfig> {
    let mut transport = transport.clone();
    let kicked = kick::Kicked::new(Arc::clone(kicks));
    transport.congestion_controller_factory(Arc::new(kicked));
    Arc::new(transport)
}

fn explain(error: ConnectionError, impostor: &Mutex<Option<PeerId>>) -> ConnectError {
    if let Some(actual) = *impostor.lock().expect("no holder panics") {
        return ConnectError::WrongPeer(actual);
    }
    match error {
        ConnectionError::ApplicationClosed(close) => {
            ConnectError::Refused(String::from_utf8_lossy(&close.reason).into_owned())
        }
        ConnectionError::ConnectionClosed(close)
            if close.error_code == noq::TransportErrorCode::CONNECTION_REFUSED =>
        {
            ConnectError::Refused("it refuses new connections now".to_owned())
        }
        ConnectionError::ConnectionClosed(close) => {
            ConnectError::Failed(format!("the handshake was refused: {close}"))
        }
        ConnectionError::TimedOut => ConnectError::Failed("no answer".to_owned()),
        other => ConnectError::Failed(other.to_string()),
    }
}

/// Who is at the other end of an established connection.
pub(crate) fn peer_of(connection: &Connection) -> Option<PeerId> {
    let chain = connection.peer_identity()?;
    let chain = chain.downcast_ref::<Vec<rustls::pki_types::CertificateDer<'static>>>()?;
    tls::peer_id(chain)
}

/// The keys of a connection's probes, the same on both sides.
pub(crate) fn probe_keys(connection: &Connection) -> Option<ProbeKeys> {
    let mut secret = [0; PROBE_SECRET_LEN];
    connection
        .export_keying_material(&mut secret, PROBE_EXPORTER_LABEL, b"")
        .ok()?;
    Some(ProbeKeys::new(&secret, connection.side().is_client()))
}

/// The keys of a connection's sealed packets. Made once for each: their counters must live
/// as long as it does.
pub(crate) fn packet_keys(connection: &Connection) -> Option<PacketKeys> {
    let mut secret = [0; SEALED_SECRET_LEN];
    connection
        .export_keying_material(&mut secret, SEALED_EXPORTER_LABEL, b"")
        .ok()?;
    let client = connection.side().is_client();
    Some(PacketKeys::new(&secret, client, Cipher::of_this_cpu()))
}

/// A seed from the operating system's randomness.
pub(crate) fn random_seed() -> [u8; 32] {
    rand::rng().random()
}
