//! Arguments of `vpn` and its commands.

use clap::{Args, Subcommand};

use super::parse_seconds;

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
