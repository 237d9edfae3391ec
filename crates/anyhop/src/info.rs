//! What a node tells about itself: plain values, ready to be serialised.

use serde::{Deserialize, Serialize};

/// A snapshot of a node, see [`Node::status`](crate::Node::status).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NodeStatus {
    /// This node's PeerId, base58.
    pub peer_id: String,
    /// Name of its network.
    pub network: String,
    /// Advertised multiaddrs, each ending in `/p2p/<PeerId>`.
    pub addresses: Vec<String>,
    /// Multiaddrs at which peers see this node, without `/p2p`.
    pub observed_addresses: Vec<String>,
    /// What this node found out about the NATs in front of it.
    pub nat: NatStatus,
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
    /// Calls that go on, and replies that were of no use.
    #[serde(default)]
    pub messages: MessageCounts,
}

/// What is going on with messages and calls, and what came of them that answers nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MessageCounts {
    /// Replies and items made here for whom nobody waited any more.
    pub late_replies: u64,
    /// Replies behind the first one to a request. The first one holds.
    pub duplicate_replies: u64,
    /// Answers that this version does not know; what they answered has failed.
    pub unknown_replies: u64,
    /// Calls of peers that are being answered.
    pub calls: usize,
}

/// How this node is connected to the internet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NatStatus {
    /// Whether strangers can dial this node: `unknown`, `public` or `behind_nat`.
    pub reachability: String,
    /// Over IPv4; `None` without an IPv4 socket or before anything is known.
    pub v4: Option<NatInfo>,
    /// Over IPv6.
    pub v6: Option<NatInfo>,
    /// Port mappings held on gateways.
    pub mappings: Vec<MappingInfo>,
    /// What came of asking gateways for them.
    #[serde(default)]
    pub gateways: GatewayInfo,
}

/// NAT behaviour towards one address family, in the words of RFC 4787. A field is
/// `None` until it is found out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NatInfo {
    /// Reuse of external ports (section 4.1): `none` (no NAT),
    /// `endpoint_independent`, `address_dependent` or `address_and_port_dependent`.
    pub mapping: Option<String>,
    /// Who is let in (section 5): the same words; `none` is an open host.
    pub filtering: Option<String>,
    /// Choice of external ports (section 4.2): `preserving`, `sequential` or `random`.
    pub allocation: Option<String>,
    /// Whether hosts inside reach each other at their external addresses (section 6).
    pub hairpin: Option<bool>,
    /// How long a mapping lives without traffic (section 4.3), seconds.
    pub lifetime_s: Option<u64>,
    /// NATs between this host and the internet, as far as they show.
    pub layers: Option<u8>,
    /// The external address, as others see it.
    pub external: Option<String>,
}

/// What came of asking gateways for port mappings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GatewayInfo {
    /// How far that is.
    pub state: GatewayState,
    /// What each gateway answered over each protocol, if none of them mapped a port.
    pub reason: Option<String>,
}

/// How far asking gateways for port mappings is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum GatewayState {
    /// None is to be asked: so the configuration says, or there is no IPv4 socket to map.
    #[default]
    NotAsked,
    /// None needs to be asked: this machine has a public IPv4 address, or no IPv4 network.
    NotNeeded,
    /// No answer yet.
    Asking,
    /// None answers.
    NoAnswer,
    /// One answers and maps nothing.
    Refused,
    /// One maps a port.
    Mapped,
}

/// A port mapping on a gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MappingInfo {
    /// `pcp`, `nat_pmp` or `upnp_igd`.
    pub protocol: String,
    /// The mapped external address.
    pub external: String,
    /// Seconds until it must be renewed.
    pub expires_s: u64,
    /// Whether somebody outside has reached this node there; a gateway's word alone
    /// proves nothing.
    pub verified: bool,
    /// What is wrong with it, if that is known; others are not told of it then.
    #[serde(default)]
    pub problem: Option<String>,
}

/// A way of getting a direct path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Technique {
    /// One side dials an address of the other.
    Dial,
    /// An address in the same local network.
    Lan,
    /// A port mapping of the peer's gateway.
    PortMapping,
    /// Both send at once to each other's observed addresses.
    Punch,
    /// The same, opened by packets that die before they reach the other NAT.
    LowTtl,
    /// Guessing the next port of a NAT that counts up.
    Prediction,
    /// Many ports on one side, many guesses on the other.
    Birthday,
    /// A WebSocket to the peer.
    WebSocket,
    /// A chain of relays.
    Circuit,
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AttemptOutcome {
    /// It runs.
    Running,
    /// It led to a path.
    Connected,
    /// It led to none.
    Failed,
    /// It was not made.
    Skipped,
}

/// One attempt to reach a peer: what `explain` shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AttemptInfo {
    /// How.
    pub technique: Technique,
    /// Our end: an address, or `any`.
    pub local: String,
    /// The far end: an address, or the relays of a circuit, nearest first.
    pub remote: String,
    /// When it began, milliseconds before this was told.
    pub started_ms_ago: u64,
    /// How long it took; so far, if it runs.
    pub took_ms: u64,
    /// What came of it.
    pub outcome: AttemptOutcome,
    /// Why, for all but [`AttemptOutcome::Connected`]; empty for it.
    pub reason: String,
}

/// What is tried next to reach a peer better.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NextAttempt {
    /// How.
    pub technique: Technique,
    /// In how many milliseconds; 0 once it is due.
    pub in_ms: u64,
}

/// How far a peer's clock is from this node's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PeerClock {
    /// The peer, base58.
    pub peer_id: String,
    /// By how many seconds it is ahead at least; negative when it may be behind.
    pub ahead_s_min: i64,
    /// By how many seconds it is ahead at most; negative when it is behind.
    pub ahead_s_max: i64,
    /// Whether its record was refused for that.
    pub refused: bool,
}

/// Datagrams dropped for one reason.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DropCount {
    /// Why.
    pub reason: String,
    /// How many since start.
    pub datagrams: u64,
}

/// What a node forwards for others.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// Largest datagram that it is known to carry, bytes, without IP and UDP headers.
    pub mtu: u16,
    /// Whether new data goes over this path.
    pub selected: bool,
}

impl PathInfo {
    /// Links from here to the peer: 1 for a direct path, one more for each relay.
    #[must_use]
    pub fn hops(&self) -> usize {
        self.via.len() + 1
    }

    /// Whether it crosses the same nodes to the same address as another.
    pub(crate) fn leads_as(&self, other: &Self) -> bool {
        (self.kind, self.carrier) == (other.kind, other.carrier)
            && (&self.remote, &self.via) == (&other.remote, &other.via)
    }
}

/// Whether a path crosses other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// Socket to socket.
    Direct,
    /// Through relays.
    Circuit,
}

/// What moves a path's datagrams over its first hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
    /// WebSocket.
    Ws,
}

/// One hop of a path, see [`Node::trace`](crate::Node::trace).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TraceHop {
    /// Who is there, base58.
    pub peer_id: String,
    /// Mean round-trip time from here to there, milliseconds; `None` when it was not
    /// measured.
    pub rtt_ms: Option<f64>,
    /// Share of probes lost on the way there and back, 0 to 1; `None` as before.
    pub loss: Option<f64>,
    /// Why nothing was measured; empty when it was.
    pub reason: String,
}

/// The answer to one [`Node::ping`](crate::Node::ping).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Pong {
    /// Round-trip time of the echo, milliseconds.
    pub rtt_ms: f64,
    /// Kind of the path selected when it was sent.
    pub kind: PathKind,
    /// Links crossed: 1 when direct.
    pub hops: usize,
}
