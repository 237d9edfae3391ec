//! The values of subnet routes and exit nodes.
//!
//! ```text
//! GET  /v1/vpn/routes                 RoutesReport
//! POST /v1/vpn/offer                  OfferAsk -> RoutesReport
//! POST /v1/vpn/accept                 AcceptAsk -> RoutesReport
//! ```
//!
//! A route is a prefix, or `exit` for whatever else there is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is reached over others, and what others reach over this host.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct RoutesReport {
    /// The network.
    pub(crate) network: String,
    /// What this host forwards to.
    pub(crate) offers: Vec<OfferReport>,
    /// What members offer, and what is accepted of them.
    pub(crate) routes: Vec<RouteReport>,
}

/// What this host forwards to.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct OfferReport {
    /// The route.
    pub(crate) route: String,
    /// Whether packets leave with this host's own address.
    pub(crate) masquerade: bool,
    /// Whether it does so now.
    pub(crate) active: bool,
    /// Why not.
    pub(crate) why: Option<String>,
}

/// A route over a member.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub(crate) struct RouteReport {
    /// The route.
    pub(crate) route: String,
    /// The member, base58.
    pub(crate) peer_id: String,
    /// Its name.
    pub(crate) name: String,
    /// Whether it offers it, as far as is known.
    pub(crate) offered: bool,
    /// Whether it is accepted here.
    pub(crate) accepted: bool,
    /// Whether packets go there.
    pub(crate) active: bool,
    /// Why not, of what is accepted.
    pub(crate) why: Option<String>,
}

/// Offers a route.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct OfferAsk {
    /// The route.
    pub(crate) route: String,
    /// Offers it no more.
    #[serde(default)]
    pub(crate) remove: bool,
    /// Packets keep the addresses that they came with.
    #[serde(default)]
    pub(crate) no_masquerade: bool,
}

/// Accepts a route.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct AcceptAsk {
    /// The route.
    pub(crate) route: String,
    /// Of whom: PeerId, part of one, or name; of the one who offers it without.
    #[serde(default)]
    pub(crate) from: Option<String>,
    /// Accepts it no more.
    #[serde(default)]
    pub(crate) remove: bool,
}
