//! Connections by public key, through whatever lies between.
//!
//! A [`Node`] is a participant of one network, named by its public key. It reaches any
//! other node by key alone: directly where the networks between allow it, over other
//! nodes where they do not, and it moves between the two without losing a byte.
//!
//! ```no_run
//! use anyhop::{Config, Keypair, Message, Node, PeerAddr, PeerId};
//!
//! # async fn example(relay: PeerAddr, peer: PeerId) -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config {
//!     bootstrap: vec![relay],
//!     ..Config::default()
//! };
//! let node = Node::start(Keypair::generate_ed25519(), config).await?;
//! node.send(peer, Message::text("hello")).await?;
//! let (send, recv) = node.open_bi(peer, "chat/1").await?;
//! # let _ = (send, recv);
//! # Ok(())
//! # }
//! ```
//!
//! - [`Node`] starts, accepts, connects; [`Config`] says with which limits.
//! - [`Session`] is what holds between two nodes; its paths come and go.
//! - [`SendStream`] and [`RecvStream`] carry bytes, opened by protocol name.
//! - [`Message`]s are single values with a type: sent, or asked with a reply. A [`Call`]
//!   carries many, both ways; a [`Body`] is typed.
//! - A [`Topic`] carries single values to everybody who is on it, [`Jobs`] calls for bids.
//! - [`net`] is the seam to the operating system, and to a simulator.

mod body;
mod call;
mod carrier;
mod circuit;
mod config;
mod engine;
mod error;
mod explain;
mod host;
mod info;
mod job;
mod message;
pub mod net;
mod node;
mod private;
mod session;
mod stream;
mod topic;
mod vpn;

pub use anyhop_base::record::MAX_OFFERS;
pub use anyhop_base::{BadRule, Direction, Ports, Protocol, Role, Rule, Verdict, Who};
pub use anyhop_base::{Endpoint, Keypair, Multiaddr, NetworkName, PeerAddr, PeerId, Reachability};
pub use anyhop_proto::network::membership::{MembershipError, PolicyChange};
pub use anyhop_proto::network::statement::{
    BadMemberName, MAX_POLICY_RULES, MemberName, OptOuts, Policy, PolicyRule,
};
pub use anyhop_proto::network::swarm::{
    Epoch, KeyRing, MadeUnder, Standing, SwarmKey, SwarmKeyTextError,
};
pub use anyhop_vpn::{
    BadPrefix, Prefix,
    firewall::{Caller, MAX_LOCAL_RULES, Opening, RuleSet, RuleSource, Rules, Ruling},
};
pub use body::{Body, BodyError, Item, Json, Protobuf};
pub use call::{Call, CallReceiver, CallSender, IncomingCall};
pub use carrier::{BadProxy, Exempt, MAX_SITE_BYTES, Page, Proxies, Proxy, Site};
pub use config::{
    Config, DEFAULT_MAX_MESSAGE_SIZE, KEEP_ALIVE, Limits, MAX_KEEP_ALIVE, MIN_KEEP_ALIVE,
    RelayConfig, Strangers, WebSocketConfig, WebSocketTls,
};
pub use error::{
    Attempt, DialError, ErrorKind, MessageError, NoRouteReason, NoSwarmKey, ProtocolTaken, Refused,
    StartError, StreamError, TypeTaken,
};
pub use explain::{
    CandidateInfo, CandidateLists, CandidateSource, DialFailure, Explanation, PeerState,
};
pub use host::{HostJournal, JournalError};
pub use info::{
    AttemptInfo, AttemptOutcome, Carrier, DropCount, GatewayInfo, GatewayState, MappingInfo,
    MessageCounts, NatInfo, NatStatus, NextAttempt, NodeStatus, PathInfo, PathKind, PeerClock,
    Pong, RelayStatus, SessionInfo, Technique, TraceHop,
};
pub use job::{
    BidVerdict, Compare, Constraint, JobError, JobFormatError, JobId, JobName, JobSpec, JobWatch,
    Jobs, MAX_BID_BODY, MAX_BIDS, MAX_JOB_LEN, MAX_JOB_LIFETIME_S, OfferedJob, OwnJob, PlacedBid,
    work_type,
};
pub use message::{Encoding, MAX_TYPE_LEN, Message, Received, Responder};
pub use net::SOCKET_MARK;
pub use node::{
    Connectedness, Event, Handling, InviteOptions, Listener, MAX_ATTEMPTS, NetworkHandle, Node,
};
pub use private::{
    CERTIFICATE_LIFETIME_S, Invited, JoinError, MemberInfo, NetworkError, NetworkInfo, NetworkKind,
    PrivateNetwork, RequestInfo, StoreError,
};
pub use session::Session;
pub use stream::{Incoming, RecvStream, SendStream};
pub use topic::{
    DeliveryReport, PostId, PostVerdict, Posted, Published, SUBSCRIPTION_QUEUE, Subscription,
    Topic, TopicError, TopicInfo, VERDICT_WITHIN,
};
pub use vpn::{
    AcceptedRoute, DNS_PORT, EXIT_TABLE, MAX_ACCEPTED, NameServer, NameServerConfig, VPN_MTU, Vpn,
    VpnConfig, VpnError, VpnMode, VpnOptions, VpnPeer, VpnPeerStatus, VpnStatus,
};

/// Longest protocol name on the wire, bytes: an application's name and the network's
/// prefix of 29 bytes in front of it.
pub const MAX_PROTOCOL_LEN: usize = 255;

/// Compiles the README's example.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
