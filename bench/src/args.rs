//! The command line.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhop::PeerAddr;
use clap::{Args, Parser, Subcommand};

/// Measures Anyhop on this machine, beside plain noq where there is something to compare.
#[derive(Debug, Parser)]
#[command(name = "anyhop-bench", version)]
pub(crate) struct Cli {
    /// Print one JSON value instead of Markdown tables.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Stream throughput over loopback, and as root over a veth pair, beside plain noq.
    Streams(Streams),
    /// What one relay process forwards.
    Circuit(Timing),
    /// Requests of 64 bytes per second, beside plain noq.
    Requests(Timing),
    /// Sessions established per second, beside plain noq.
    Sessions(Sessions),
    /// Resident memory of an idle session, beside plain noq.
    Memory(Memory),
    /// Time from dial to first byte, in round trips of a virtual network.
    FirstByte(FirstByte),
    /// IP packets through the VPN: direct, over a relay and over a WebSocket, beside
    /// WireGuard in user space and the devices alone. Needs root, iperf3, ping; wg for rivals.
    Vpn(Vpn),
    /// Everything, in short.
    All(All),
    /// One end of a measurement; started by the others.
    #[command(hide = true)]
    Worker,
    /// One end of a tunnel, or the relay between two; started by `vpn`.
    #[command(hide = true)]
    Tunnel(Tunnel),
}

/// Settings of `vpn`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Vpn {
    /// Rounds; contenders take turns in each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) rounds: u16,
    /// Seconds of each of a round's measurements.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=600))]
    pub(crate) seconds: u16,
    /// Another WireGuard in user space, besides wireguard-go, boringtun-cli and gotatun where
    /// they are on the path; may be given several times.
    #[arg(long = "rival", value_name = "NAME=PROGRAM")]
    pub(crate) rivals: Vec<String>,
    /// Only contenders whose name contains this, and the devices alone.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) only: String,
}

/// Settings of `tunnel`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Tunnel {
    /// Where to listen for UDP.
    #[arg(long)]
    pub(crate) listen: Vec<SocketAddr>,
    /// Where to serve WebSockets.
    #[arg(long)]
    pub(crate) listen_ws: Vec<SocketAddr>,
    /// The relay to be attached to.
    #[arg(long)]
    pub(crate) bootstrap: Vec<PeerAddr>,
    /// This end's address in the tunnel; none for a relay.
    #[arg(long)]
    pub(crate) ip: Option<Ipv4Addr>,
}

/// How long to measure.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Timing {
    /// Rounds; contenders take turns in each.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) rounds: u16,
    /// Seconds measured in a round, after a warm-up.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=600))]
    pub(crate) seconds: u16,
}

impl Timing {
    /// Time measured in a round.
    pub(crate) fn during(self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}

/// Settings of `streams`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Streams {
    #[command(flatten)]
    pub(crate) timing: Timing,
    /// Numbers of streams to measure with.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4], value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) streams: Vec<u16>,
}

/// Settings of `sessions`.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Sessions {
    /// Rounds; contenders take turns in each.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) rounds: u16,
    /// Peers dialled in a round, one session each.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) peers: u16,
}

/// Settings of `memory`.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Memory {
    /// Rounds.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) rounds: u16,
    /// Sessions.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=2000))]
    pub(crate) sessions: u16,
    /// Seconds the sessions idle before memory is read.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=600))]
    pub(crate) idle: u16,
}

/// Settings of `first-byte`.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct FirstByte {
    /// Rounds, each on a network of its own.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) rounds: u16,
    /// Latency of each host's link, milliseconds: a round trip crosses four.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) link_ms: u16,
}

/// Settings of `all`.
#[derive(Debug, Clone, Args)]
pub(crate) struct All {
    /// Put the tables into this file, between its two result marks.
    #[arg(long)]
    pub(crate) write: Option<PathBuf>,
    /// As many rounds and as much time as each subcommand takes by itself.
    #[arg(long)]
    pub(crate) full: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
