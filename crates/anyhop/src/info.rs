//! What a node tells about itself: plain values, ready to be serialised.

use serde::{Deserialize, Serialize};

/// A snapshot of a node, see [`Node::status`](crate::Node::status).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeStatus {
    /// This node's PeerId, base58.
    pub peer_id: String,
    /// Name of its network.
    pub network: String,
    /// Advertised multiaddrs, each ending in `/p2p/<PeerId>`.
    pub addresses: Vec<String>,
    /// Multiaddrs at which peers see this node, without `/p2p`.
    pub observed_addresses: Vec<String>,
    /// What this node forwards for others.
    pub relay: RelayStatus,
    /// Peers this node is attached to: relays it tells others to reach it through.
    pub attachments: Vec<String>,
    /// Number of sessions.
    pub sessions: usize,
    /// Seconds since the node started.
    pub uptime_s: u64,
    /// Datagrams dropped, by reason.
    pub dropped: Vec<DropCount>,
}

/// Datagrams dropped for one reason.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DropCount {
    /// Why.
    pub reason: String,
    /// How many since start.
    pub datagrams: u64,
}

/// What a node forwards for others.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RelayStatus {
    /// Whether it forwards at all.
    pub enabled: bool,
    /// Circuits through this node now.
    pub circuits: usize,
    /// Bytes forwarded since start, circuit headers not counted.
    pub forwarded_bytes: u64,
}

/// A session and its paths.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionInfo {
    /// The peer, base58.
    pub peer_id: String,
    /// Seconds since it was established.
    pub age_s: u64,
    /// Who dialled: `us` or `peer`.
    pub dialer: String,
    /// Its open paths, the selected one first.
    pub paths: Vec<PathInfo>,
}

/// One path of a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PathInfo {
    /// Direct, or a circuit through others.
    pub kind: PathKind,
    /// What carries its first hop.
    pub carrier: Carrier,
    /// Socket address of the first hop: the peer's for a direct path, the first
    /// relay's for a circuit.
    pub remote: String,
    /// PeerIds of the relays between, nearest first; empty for a direct path.
    pub via: Vec<String>,
    /// Smoothed round-trip time, milliseconds.
    pub rtt_ms: f64,
    /// Whether new data goes over this path.
    pub selected: bool,
}

impl PathInfo {
    /// Links from here to the peer: 1 for a direct path, one more for each relay.
    #[must_use]
    pub fn hops(&self) -> usize {
        self.via.len() + 1
    }
}

/// Whether a path crosses other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// Socket to socket.
    Direct,
    /// Through relays.
    Circuit,
}

/// What moves a path's datagrams over its first hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
    /// WebSocket.
    Ws,
}

/// The answer to one [`Node::ping`](crate::Node::ping).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pong {
    /// Round-trip time of the echo, milliseconds.
    pub rtt_ms: f64,
    /// Kind of the path selected when it was sent.
    pub kind: PathKind,
    /// Links crossed: 1 when direct.
    pub hops: usize,
}
