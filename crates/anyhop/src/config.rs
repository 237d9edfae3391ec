//! What a node is told before it starts.

use std::{fmt, net::SocketAddr, time::Duration};

use anyhop_base::{NetworkName, PeerAddr, PeerId};
use anyhop_proto::network::swarm::KeyRing;

use crate::{PrivateNetwork, Proxies, Site};

/// Settings of a [`Node`](crate::Node). [`Config::default`] suits a node on a home
/// network; every limit says what it costs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The network this node lives in; nodes of different networks never speak.
    pub network: NetworkName,
    /// The swarm keys of a private network. Whoever has none of them gets no answer from
    /// this node, not even that it is there. `None` for a public network.
    pub swarm: Option<KeyRing>,
    /// The private network this node lives in, instead of the public one of the name in
    /// [`network`](Self::network).
    pub private: Option<PrivateNetwork>,
    /// UDP addresses to listen on: at most one IPv4 and one IPv6, port 0 for any.
    /// Empty: one of each on all interfaces, on any port.
    pub listen: Vec<SocketAddr>,
    /// WebSockets, for where UDP is blocked.
    pub websocket: WebSocketConfig,
    /// Peers to stay connected to: the first source of records and circuits.
    pub bootstrap: Vec<PeerAddr>,
    /// Forwarding for others.
    pub relay: RelayConfig,
    /// Whether others are helped to find each other: told where peers are, which of them
    /// relay, and asked on. Costs some messages for each search that comes by.
    pub signalling: bool,
    /// Limits on sessions.
    pub limits: Limits,
    /// A session without open streams, circuits or pins is closed after this long.
    /// Each idle session costs a keep-alive per path every [`KEEP_ALIVE`].
    pub idle_timeout: Duration,
    /// Largest message accepted or sent, bytes.
    pub max_message_size: usize,
    /// How long a dial may take over all its attempts.
    pub dial_timeout: Duration,
    /// Whether sessions look for direct paths. Off leaves them on their first path.
    pub direct_paths: bool,
    /// Whether gateways are asked for port mappings. Off by default: a library does not
    /// reconfigure routers unasked. The daemon has it on.
    pub port_mapping: bool,
    /// Whether the node announces itself on the local network by multicast DNS and meets
    /// the peers it finds there. Off by default: everybody on the link sees the PeerId.
    /// A node with [`swarm`](Self::swarm) keys does neither: the link is full of strangers.
    pub mdns: bool,
}

impl Config {
    /// Whether the node is to be seen on the local network.
    pub(crate) fn meets_local_peers(&self) -> bool {
        self.mdns && self.swarm.is_none()
    }
}

/// Default for [`Config::max_message_size`].
pub const DEFAULT_MAX_MESSAGE_SIZE: usize = 16 << 20;

/// Time between keep-alives on an otherwise silent path, as long as nothing is known of the
/// NATs on the way. Below the 30 s after which common NATs drop a UDP mapping (RFC 4787
/// REQ-5 asks for 120 s; many keep 30).
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Shortest time between keep-alives, however short-lived mappings are.
pub const MIN_KEEP_ALIVE: Duration = Duration::from_secs(4);

/// Longest time between keep-alives, however long mappings live: a path that is silent for
/// 25 s is taken for dead.
pub const MAX_KEEP_ALIVE: Duration = Duration::from_secs(20);

impl Default for Config {
    fn default() -> Self {
        Self {
            network: NetworkName::default(),
            swarm: None,
            private: None,
            listen: Vec::new(),
            websocket: WebSocketConfig::default(),
            bootstrap: Vec::new(),
            relay: RelayConfig::default(),
            signalling: true,
            limits: Limits::default(),
            idle_timeout: Duration::from_secs(600),
            max_message_size: DEFAULT_MAX_MESSAGE_SIZE,
            dial_timeout: Duration::from_secs(12),
            direct_paths: true,
            port_mapping: false,
            mdns: false,
        }
    }
}

/// WebSockets: where they are served, and how they are dialled. They carry the same
/// datagrams as UDP, so that a session goes over them when UDP is blocked.
#[derive(Debug, Clone, Default)]
pub struct WebSocketConfig {
    /// TCP addresses to serve them on, port 0 for any; none by default. Each connection
    /// costs up to 400 KiB.
    pub listen: Vec<SocketAddr>,
    /// What is around them.
    pub tls: WebSocketTls,
    /// What is shown there to everybody who asks for something else.
    pub site: Site,
    /// Proxies to dial them through.
    pub proxies: Proxies,
}

/// What is around the WebSockets that a node serves. It hides what they are; who the node
/// is, is proven by the session's handshake inside in each case, so clients take any
/// certificate.
#[derive(Clone, Default)]
pub enum WebSocketTls {
    /// TLS, with a certificate made at start.
    #[default]
    SelfMade,
    /// TLS, with this certificate.
    Pem {
        /// The chain in PEM, the node's own certificate first.
        chain: Vec<u8>,
        /// Its key in PEM.
        key: Vec<u8>,
    },
    /// Nothing: `ws` instead of `wss`.
    Plain,
}

/// Without the key.
impl fmt::Debug for WebSocketTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SelfMade => "SelfMade",
            Self::Pem { .. } => "Pem",
            Self::Plain => "Plain",
        })
    }
}

/// What a node does for others as a relay.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// Whether circuits of others are forwarded at all.
    pub enabled: bool,
    /// Circuits forwarded at once. Each costs about 1 KiB and two streams.
    pub max_circuits: usize,
    /// Circuits forwarded at once for one neighbour.
    pub max_circuits_per_peer: usize,
    /// Bytes per second forwarded for one circuit and direction; 0 for no limit. More is
    /// dropped, which the endpoints' congestion control takes as the path's speed.
    pub circuit_bytes_per_s: u64,
    /// Bytes per second forwarded in all, over all circuits and directions; 0 for no limit.
    /// When more is asked for, circuits have equal shares of it.
    pub bytes_per_s: u64,
    /// Peers to relay for before all others. Bootstrap peers and, in a private network, its
    /// members are known anyway.
    pub known: Vec<PeerId>,
    /// What is done for everybody else.
    pub strangers: Strangers,
}

/// What a relay does for peers that it does not know ([`RelayConfig::known`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strangers {
    /// It forwards their circuits, and keeps so much of [`RelayConfig::bytes_per_s`] for them
    /// while those it knows ask for all, percent. They may have all that is left over.
    Served {
        /// 0 to 100.
        percent: u8,
    },
    /// It refuses their circuits, and does not say in its record that it relays.
    Refused,
}

impl Strangers {
    pub(crate) fn percent(self) -> u8 {
        match self {
            Self::Served { percent } => percent,
            Self::Refused => 0,
        }
    }
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            max_circuits: 1024,
            max_circuits_per_peer: 64,
            circuit_bytes_per_s: 0,
            bytes_per_s: 0,
            known: Vec::new(),
            strangers: Strangers::Served { percent: 20 },
        }
    }
}

/// Limits on what others can make this node hold.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Sessions at once; more are refused. An idle session costs under 64 KiB.
    pub max_sessions: usize,
    /// Handshakes of strangers in progress at once; more are refused.
    pub max_handshakes: usize,
    /// Streams one peer may have open towards this node, each direction kind.
    pub max_streams_per_session: u32,
    /// Bytes of received messages held at once over all peers, read or waiting.
    pub max_inbox_bytes: usize,
    /// Received messages waiting to be taken.
    pub max_inbox_messages: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_sessions: 4096,
            max_handshakes: 256,
            max_streams_per_session: 1024,
            max_inbox_bytes: 128 << 20,
            max_inbox_messages: 4096,
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhop_proto::network::swarm::{Epoch, SwarmKey};

    use super::*;

    #[test]
    fn a_node_of_a_private_network_does_not_announce_itself() {
        let public = Config {
            mdns: true,
            ..Config::default()
        };
        assert!(public.meets_local_peers());
        let private = Config {
            swarm: Some(KeyRing::new(SwarmKey::new(Epoch(1), [1; 32]))),
            ..public
        };
        assert!(!private.meets_local_peers());
    }
}
