//! The command line.

use std::{path::PathBuf, time::Duration};

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
    /// Everything, in short.
    All(All),
    /// One end of a measurement; started by the others.
    #[command(hide = true)]
    Worker,
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
