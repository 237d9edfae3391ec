//! Arguments of `port` and its commands.

use std::net::SocketAddr;

use clap::{Args, Subcommand};

use crate::spec::{MemberPort, Protocol, parse_host_port};

/// `port`.
#[derive(Debug, Subcommand)]
pub(crate) enum PortCommand {
    /// Have connections to a port of this machine go to a member's port, now and whenever
    /// the VPN is up. Needs CAP_NET_ADMIN and nftables
    Map(PortMapArgs),
    /// End that
    Unmap(PortArgs),
    /// List the ports that are mapped
    List,
}

/// A port of this machine.
#[derive(Debug, Clone, Args)]
pub(crate) struct PortArgs {
    /// tcp or udp
    #[arg(value_name = "PROTO")]
    pub(crate) protocol: Protocol,
    /// Where connections come in: 127.0.0.1:PORT for this machine's own, 0.0.0.0:PORT or
    /// [::]:PORT for others', too, or a port of one address
    #[arg(value_name = "HOST:PORT", value_parser = parse_host_port)]
    pub(crate) listen: SocketAddr,
}

/// `port map`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PortMapArgs {
    #[command(flatten)]
    pub(crate) port: PortArgs,
    /// The member, and its port
    #[arg(value_name = "MEMBER:PORT")]
    pub(crate) target: MemberPort,
}
