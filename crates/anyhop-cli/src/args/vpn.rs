//! Arguments of `vpn` and its commands.

use clap::{Args, Subcommand};

use super::parse_seconds;
use crate::spec::PeerSpec;

/// `vpn`.
#[derive(Debug, Subcommand)]
pub(crate) enum VpnCommand {
    /// Make the interface `anyhop-NETWORK`, and carry IP packets between it and the other
    /// members' until `vpn down` or the daemon's end. Needs CAP_NET_ADMIN
    Up(VpnUpArgs),
    /// Remove the interface
    Down,
    /// Show the interface, its addresses, and the members with theirs
    Status,
    /// Show which prefixes members offer, which are accepted, and what this host offers
    Routes,
    /// Forward packets of members to a prefix, or to whatever else there is. Needs nftables
    Offer(OfferArgs),
    /// Reach a prefix, or whatever else there is, over a member that offers it
    Accept(AcceptArgs),
}

/// `vpn offer`.
#[derive(Debug, Clone, Args)]
pub(crate) struct OfferArgs {
    /// ADDRESS/LENGTH, or `exit`
    #[arg(value_name = "PREFIX|exit")]
    pub(crate) route: String,
    /// Offer it no more
    #[arg(long)]
    pub(crate) remove: bool,
    /// Leave members' addresses in their packets; the hosts there need a route back
    #[arg(long, conflicts_with = "remove")]
    pub(crate) no_masquerade: bool,
}

/// `vpn accept`.
#[derive(Debug, Clone, Args)]
pub(crate) struct AcceptArgs {
    /// ADDRESS/LENGTH, or `exit`
    #[arg(value_name = "PREFIX|exit")]
    pub(crate) route: String,
    /// The member: PeerId, unique part of one, or name [default: the one that offers it]
    #[arg(long, value_name = "MEMBER", conflicts_with = "remove")]
    pub(crate) from: Option<PeerSpec>,
    /// Accept it no more
    #[arg(long)]
    pub(crate) remove: bool,
}

/// `vpn up`.
#[derive(Debug, Clone, Args)]
pub(crate) struct VpnUpArgs {
    /// Carry ethernet frames: the members are on one virtual switch. The same at all members
    #[arg(long)]
    pub(crate) l2: bool,
    /// Seconds after which the keys of a session that carries packets are replaced, at least 1
    #[arg(long, value_name = "S", default_value_t = 120.0, value_parser = parse_seconds)]
    pub(crate) rekey_after: f64,
    /// Do not answer for the members' names, and leave this host's resolver alone
    #[arg(long)]
    pub(crate) no_dns: bool,
}
