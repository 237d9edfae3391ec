//! What can be typed.

mod firewall;
pub(crate) mod job;
mod network;
mod port;
mod vpn;

use std::{net::SocketAddr, path::PathBuf};

use anyhop::{DEFAULT_MAX_MESSAGE_SIZE, Encoding, NetworkName, PeerAddr};
use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser as _},
};

pub(crate) use firewall::{DefaultArgs, FirewallCommand, OneWayArg, RuleArgs, TestArgs};
pub(crate) use network::{
    AdminArgs, AdminChange, CreateArgs, ExportArgs, ImportArgs, InviteArgs, JoinArgs, LeaveArgs,
    NamePeerArgs, NetworkCommand, PassphraseArg, RenameArgs, RenewArgs, RotateArgs, SetArgs,
    Switch,
};
pub(crate) use port::PortCommand;
pub(crate) use vpn::VpnCommand;

use crate::spec::{ForwardTarget, PeerOrAddr, PeerSpec, Target, parse_local};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: peer unreachable, session or daemon lost, system error
  2  bad usage or input
  3  no daemon runs on the state directory
  4  a daemon already runs on the state directory
  5  the state directory or its key is unusable
  6  refused, or a limit was hit (unknown protocol, message too large, inbox full)
  7  no answer in time
  8  another peer answered than the one asked for
  9  `doctor` found something that fails
 10  the daemon is not in the network that was named

Errors go to standard error as `error:` and `hint:` lines, with --json as one object
{\"error\":{\"code\",\"message\",\"hint\"}}.

PEER is a PeerId, a unique beginning or end of a known one, a name given with
`anyhop name add`, or in a private network a member's name.";

/// Reaches any other node by its public key, through whatever lies between.
#[derive(Debug, Parser)]
#[command(name = "anyhop", version, after_long_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Directory of the key and the daemon's socket
    /// [default: $XDG_STATE_HOME/anyhop or ~/.local/state/anyhop]
    #[arg(long, global = true, value_name = "DIR", env = "ANYHOP_STATE_DIR",
          value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub(crate) state_dir: Option<PathBuf>,
    /// Network that the command is about, by name or id [default: the one that `up`
    /// named]. `up` takes several and runs a node in each; the first is its default, and
    /// names that are no private network's are of public ones [default: main]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) network: Vec<NetworkName>,
    /// Print JSON: one value, or one per line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Log to standard error; twice for more. RUST_LOG takes precedence
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon in the foreground until SIGINT or SIGTERM
    Up(UpArgs),
    /// Print this node's PeerId, making its key if there is none yet
    Id,
    /// Show the daemon's addresses, relay work and sessions
    Status,
    /// List sessions with their paths
    Peers,
    /// Show the paths to a peer, connecting to it if need be
    Path(PeerArg),
    /// Examine this host and its network, and tell what to do about what is wrong
    Doctor(DoctorArgs),
    /// Tell why a peer is reached as it is, or why it is not
    Explain(ExplainArgs),
    /// Measure each hop of the way to a peer
    Trace(TraceArgs),
    /// Connect to a peer, or to the peer at a multiaddr ending in /p2p/PEER_ID
    Connect(ConnectArgs),
    /// Measure the round trip to a peer
    Ping(PingArgs),
    /// Send a message; done when the peer's inbox has it
    Send(SendArgs),
    /// Send a request and print the reply
    Request(RequestArgs),
    /// Take received messages from the inbox
    Recv(RecvArgs),
    /// Publish to all nodes of the network
    Broadcast(WhatArgs),
    /// Publish to everybody on a topic
    Publish(PublishArgs),
    /// Print what is published on a topic, or to all, as long as this runs
    Subscribe(SubscribeArgs),
    /// List the topics this node is on
    Topics,
    /// Calls for bids on a topic, and bids
    Job {
        #[command(subcommand)]
        command: job::JobCommand,
    },
    /// Connect standard input and output to a peer over one stream
    Cat(CatArgs),
    /// Let peers connect to HOST:PORT through this node, as long as this runs
    Expose(ExposeArgs),
    /// Forward a local port to what a peer exposes, as long as this runs
    Forward(ForwardArgs),
    /// Run a SOCKS 5 and HTTP CONNECT proxy that knows members by name, as long as this runs
    Socks(SocksArgs),
    /// Measure the throughput to a peer
    Bench(BenchArgs),
    /// Show five nodes behind NATs meeting, on a virtual network in this process
    Demo,
    /// Prove what is claimed, on virtual networks in this process
    Lab {
        #[command(subcommand)]
        command: LabCommand,
    },
    /// Private networks: members, invitations, keys
    Network {
        #[command(subcommand)]
        command: NetworkCommand,
    },
    /// IP packets between the members of a private network
    Vpn {
        #[command(subcommand)]
        command: VpnCommand,
    },
    /// Which packets of members reach this host, and which of its reach them
    Firewall {
        #[command(subcommand)]
        command: FirewallCommand,
    },
    /// Ports of this machine that are ports of members, over the VPN
    Port {
        #[command(subcommand)]
        command: PortCommand,
    },
    /// Names for peers
    Name {
        #[command(subcommand)]
        command: NameCommand,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the OpenAPI document of the daemon's control API
    Openapi,
}

/// `lab`.
#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// Connect every kind of NAT with each, and compare with what the model says is possible
    Matrix(LabMatrixArgs),
    /// Run a scenario: a network, faults, traffic and what is expected, from a TOML file
    Run(LabRunArgs),
    /// Transfer data while the paths beneath it change at random
    Chaos(LabChaosArgs),
    /// Publish among thousands of simulated nodes, and measure reach, copies, hops and time
    Broadcast(LabBroadcastArgs),
}

/// `lab run`.
#[derive(Debug, Args)]
pub(crate) struct LabRunArgs {
    /// The scenario; docs/scenarios in the project has examples
    #[arg(value_name = "SCENARIO.toml")]
    pub(crate) file: PathBuf,
    /// Use this seed instead of the file's
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

/// `lab chaos`.
#[derive(Debug, Args)]
pub(crate) struct LabChaosArgs {
    /// Decides what happens when
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Changes of paths
    #[arg(long, value_name = "N", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) changes: u32,
    /// Bytes of the transfer
    #[arg(long, value_name = "N", default_value_t = 1_000_000_000,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub(crate) bytes: u64,
}

/// `lab broadcast`.
#[derive(Debug, Args)]
pub(crate) struct LabBroadcastArgs {
    /// How many nodes
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1000,10000",
          value_parser = clap::value_parser!(u32).range(2..=20_000))]
    pub(crate) nodes: Vec<u32>,
    /// Share of frames lost, percent [default: each situation of the table]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u8).range(0..=50))]
    pub(crate) loss: Option<u8>,
    /// Share of nodes killed while a post spreads, percent
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u8).range(0..=90))]
    pub(crate) killed: Option<u8>,
    /// Share of nodes replaced each minute, percent
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) churn: Option<u8>,
    /// How posts spread
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "tree,gossip,raintree"
    )]
    pub(crate) strategy: Vec<LabStrategy>,
    /// Decides everything that is random; with several, a line of the table is all of them
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,2,3")]
    pub(crate) seed: Vec<u64>,
    /// Write the table into this document, between its marks
    #[arg(long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
}

/// Strategies of `lab broadcast`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LabStrategy {
    /// HyParView and PlumTree
    Tree,
    /// Every post to every neighbour
    Gossip,
    /// RainTree over the list of all nodes
    Raintree,
}

/// `lab matrix`.
#[derive(Debug, Args)]
pub(crate) struct LabMatrixArgs {
    /// Decides keys, ports and losses
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Runs of each pair
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) runs: u32,
    /// Which IP family
    #[arg(long, value_enum, default_value_t = LabFamily::Both)]
    pub(crate) family: LabFamily,
    /// Only these kinds, such as public,port-restricted [default: all]
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub(crate) kinds: Vec<anyhop_lab::matrix::Kind>,
    /// Run it in network namespaces, too, with this program and the kernel's NATs, and
    /// show where the two differ. Needs root, ip and nft
    #[arg(long)]
    pub(crate) netns: bool,
    /// Write the table into this document, between its marks
    #[arg(long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
}

/// IP families of `lab matrix`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LabFamily {
    /// IPv4
    V4,
    /// IPv6
    V6,
    /// One after the other
    Both,
}

/// `up`.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// UDP address to listen on, once for IPv4 and once for IPv6; port 0 takes any
    /// [default: all addresses, any port]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Vec<SocketAddr>,
    /// TCP address to serve WebSockets on, for peers whose UDP is blocked; may be given
    /// several times. Port 443 passes most firewalls, port 0 takes any
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen_ws: Vec<SocketAddr>,
    /// Certificate for --listen-ws: a PEM chain [default: one made at start]
    #[arg(long, value_name = "FILE", requires = "ws_key", requires = "listen_ws")]
    pub(crate) ws_cert: Option<PathBuf>,
    /// Its key, in PEM
    #[arg(long, value_name = "FILE", requires = "ws_cert")]
    pub(crate) ws_key: Option<PathBuf>,
    /// No TLS around WebSockets, for labs and behind a proxy that adds it
    #[arg(long, requires = "listen_ws", conflicts_with = "ws_cert")]
    pub(crate) ws_plain: bool,
    /// Files to show at --listen-ws to everybody who wants no WebSocket, read at start
    /// [default: one page that says that it works]
    #[arg(long, value_name = "DIR", requires = "listen_ws")]
    pub(crate) ws_site: Option<PathBuf>,
    /// Peer to stay connected to, such as /ip4/203.0.113.5/udp/4001/quic-v1/p2p/12D3..;
    /// may be given several times
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) bootstrap: Vec<PeerAddr>,
    /// Do not forward for others
    #[arg(long)]
    pub(crate) no_relay: bool,
    /// Circuits to forward for others at once [default: 1024]
    #[arg(long, value_name = "N", conflicts_with = "no_relay")]
    pub(crate) max_circuits: Option<usize>,
    /// Do not help others to find each other
    #[arg(long)]
    pub(crate) no_signalling: bool,
    /// Do not look for direct paths: sessions stay on their first path
    #[arg(long)]
    pub(crate) no_direct: bool,
    /// Do not ask routers for port mappings (PCP, NAT-PMP, UPnP)
    #[arg(long)]
    pub(crate) no_port_mapping: bool,
    /// Do not announce this node on the local network nor meet others there (multicast DNS)
    #[arg(long)]
    pub(crate) no_mdns: bool,
    /// Carry IP packets in every private network, as `vpn up` does. Needs CAP_NET_ADMIN
    #[arg(long)]
    pub(crate) vpn: bool,
    /// Do not answer for names of members, and leave this host's resolver alone
    #[arg(long)]
    pub(crate) no_dns: bool,
}

/// A peer alone.
#[derive(Debug, Args)]
pub(crate) struct PeerArg {
    /// PeerId, unique part of one, or name
    pub(crate) peer: PeerSpec,
}

/// `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Peer to examine with, by a temporary node, even if a daemon runs; may be given
    /// several times [default: the daemon's own]
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) bootstrap: Vec<PeerAddr>,
    /// Do not have a temporary node ask routers for port mappings
    #[arg(long)]
    pub(crate) no_port_mapping: bool,
}

/// `explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// PeerId, unique part of one, or name
    pub(crate) peer: PeerSpec,
    /// Tell only what is known: do not dial a peer without a session
    #[arg(long)]
    pub(crate) no_dial: bool,
}

/// Most rounds of one `trace`: relays answer about that many at once.
pub(crate) const MAX_TRACE_ROUNDS: u16 = 16;

/// `trace`.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// PeerId, unique part of one, or name
    pub(crate) peer: PeerSpec,
    /// Rounds to average, of some probes of each hop
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_TRACE_ROUNDS)))]
    pub(crate) count: u16,
}

/// `connect`.
#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// PeerId, unique part of one, name, or multiaddr ending in /p2p/PEER_ID
    #[arg(value_name = "PEER|MULTIADDR")]
    pub(crate) peer: PeerOrAddr,
}

/// `ping`.
#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    /// PeerId, unique part of one, or name
    pub(crate) peer: PeerSpec,
    /// How many
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,
    /// Seconds between two
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = parse_seconds)]
    pub(crate) interval: f64,
    /// Seconds to wait for each answer, making the session included
    #[arg(long, value_name = "S", default_value_t = 15.0, value_parser = parse_seconds)]
    pub(crate) timeout: f64,
}

/// How a message is labelled.
#[derive(Debug, Args)]
pub(crate) struct MessageArgs {
    /// What the message is, for the receiving application
    #[arg(long = "type", value_name = "T", default_value = "text")]
    pub(crate) kind: String,
    /// How its body is to be read
    #[arg(long, value_enum, default_value_t = EncodingArg::Utf8)]
    pub(crate) encoding: EncodingArg,
}

/// `send`.
#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// PeerId, unique part of one, or name
    pub(crate) peer: PeerSpec,
    /// The body; `-` reads standard input
    #[arg(value_name = "TEXT|-", allow_hyphen_values = true)]
    pub(crate) body: String,
    #[command(flatten)]
    pub(crate) message: MessageArgs,
}

/// `request`.
#[derive(Debug, Args)]
pub(crate) struct RequestArgs {
    /// PeerId, unique part of one, or name
    pub(crate) peer: PeerSpec,
    /// The body; `-` reads standard input
    #[arg(value_name = "TEXT|-", allow_hyphen_values = true)]
    pub(crate) body: String,
    #[command(flatten)]
    pub(crate) message: MessageArgs,
    /// Seconds to wait for the reply
    #[arg(long, value_name = "S", default_value_t = 30.0, value_parser = parse_seconds)]
    pub(crate) timeout: f64,
}

/// What `publish` and `broadcast` publish.
#[derive(Debug, Args)]
pub(crate) struct WhatArgs {
    /// The body; `-` reads standard input
    #[arg(value_name = "TEXT|-", allow_hyphen_values = true)]
    pub(crate) body: String,
    /// How the body is to be read
    #[arg(long, value_enum, default_value_t = EncodingArg::Utf8)]
    pub(crate) encoding: EncodingArg,
}

/// `publish`.
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// The topic's name
    #[arg(value_name = "TOPIC", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) what: WhatArgs,
}

/// `subscribe`.
#[derive(Debug, Args)]
pub(crate) struct SubscribeArgs {
    /// The topic's name [default: what goes to all nodes]
    #[arg(value_name = "TOPIC", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) topic: Option<String>,
    /// End after this many posts [default: never]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Seconds to wait for each post. When they pass, --count not reached is an error;
    /// without --count it just ends
    #[arg(long, value_name = "S", value_parser = parse_seconds)]
    pub(crate) timeout: Option<f64>,
}

/// `recv`.
#[derive(Debug, Args)]
pub(crate) struct RecvArgs {
    /// Only messages of this type; others stay in the inbox
    #[arg(long = "type", value_name = "T")]
    pub(crate) kind: Option<String>,
    /// End after this many messages [default: never]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Answer each request with this text
    #[arg(
        long,
        value_name = "TEXT",
        conflicts_with = "echo",
        allow_hyphen_values = true
    )]
    pub(crate) reply: Option<String>,
    /// Answer each request with itself
    #[arg(long)]
    pub(crate) echo: bool,
    /// Seconds to wait for each message. When they pass, --count not reached is an
    /// error; without --count it just ends. 0 takes what is there
    #[arg(long, value_name = "S", value_parser = parse_seconds)]
    pub(crate) timeout: Option<f64>,
}

/// `cat`.
#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// PeerId, unique part of one, or name
    #[arg(required_unless_present = "listen", conflicts_with = "listen")]
    pub(crate) peer: Option<PeerSpec>,
    /// Wait for one stream from any peer instead
    #[arg(long)]
    pub(crate) listen: bool,
    /// Tells several listeners on one node apart
    #[arg(long, value_name = "N", value_parser = parse_stream_name)]
    pub(crate) name: Option<String>,
}

/// `expose`.
#[derive(Debug, Args)]
pub(crate) struct ExposeArgs {
    /// What to connect to; exactly this, nothing else becomes reachable
    #[arg(
        value_name = "HOST:PORT",
        required_unless_present = "exit",
        conflicts_with = "exit"
    )]
    pub(crate) target: Option<Target>,
    /// UDP instead of TCP
    #[arg(long, conflicts_with = "exit")]
    pub(crate) udp: bool,
    /// Connect to any host of the internet for members of a private network, as
    /// `anyhop socks --exit` asks for it
    #[arg(long)]
    pub(crate) exit: bool,
    /// To this host and its own networks, too
    #[arg(long, requires = "exit")]
    pub(crate) allow_private: bool,
}

/// `socks`.
#[derive(Debug, Args)]
pub(crate) struct SocksArgs {
    /// Where to listen: PORT or IP:PORT, on 127.0.0.1 if no IP is given; port 0 takes any.
    /// Whoever can connect there may use it
    #[arg(long, value_name = "LOCAL", default_value = "1080", value_parser = parse_local)]
    pub(crate) listen: SocketAddr,
    /// The member that connects to what is no member, as `anyhop expose --exit` there allows
    #[arg(long, value_name = "MEMBER")]
    pub(crate) exit: Option<PeerSpec>,
}

/// `forward`.
#[derive(Debug, Args)]
pub(crate) struct ForwardArgs {
    /// Where to listen: PORT or IP:PORT, on 127.0.0.1 if no IP is given; port 0 takes any
    #[arg(value_name = "LOCAL", value_parser = parse_local)]
    pub(crate) local: SocketAddr,
    /// The peer, and what it exposes, spelled as it was exposed
    #[arg(value_name = "PEER:HOST:PORT")]
    pub(crate) target: ForwardTarget,
    /// UDP instead of TCP
    #[arg(long)]
    pub(crate) udp: bool,
}

/// Longest `bench`, seconds.
pub(crate) const MAX_BENCH_SECONDS: u16 = 60;
/// Most streams of one `bench`.
pub(crate) const MAX_BENCH_STREAMS: u16 = 64;

/// `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// PeerId, unique part of one, or name
    pub(crate) peer: PeerSpec,
    /// How long
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_BENCH_SECONDS)))]
    pub(crate) seconds: u16,
    /// Over how many streams at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_BENCH_STREAMS)))]
    pub(crate) streams: u16,
    /// From the peer to here instead of from here to the peer
    #[arg(long)]
    pub(crate) reverse: bool,
}

/// `name`.
#[derive(Debug, Subcommand)]
pub(crate) enum NameCommand {
    /// Give a peer a name, or an existing name to another peer
    Add {
        /// Letters, digits, `-`, `_` and `.`
        name: String,
        /// PeerId, or a unique part of one that the running daemon knows
        peer: PeerSpec,
    },
    /// List names
    List,
    /// Remove a name
    Remove {
        /// The name
        name: String,
    },
}

/// [`Encoding`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EncodingArg {
    /// Any bytes
    Binary,
    /// Text
    Utf8,
    /// A JSON text
    Json,
    /// A protobuf message
    Protobuf,
}

impl From<EncodingArg> for Encoding {
    fn from(arg: EncodingArg) -> Self {
        match arg {
            EncodingArg::Binary => Self::Binary,
            EncodingArg::Utf8 => Self::Utf8,
            EncodingArg::Json => Self::Json,
            EncodingArg::Protobuf => Self::Protobuf,
        }
    }
}

/// Largest body the control API takes, bytes: above the default message limit, so that
/// the library's own refusal is what is seen, and bounded.
pub(crate) const MAX_BODY: usize = 4 * DEFAULT_MAX_MESSAGE_SIZE;

/// Longest time that can be asked for, seconds: a day.
const MAX_SECONDS: f64 = 86_400.0;

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.0..=MAX_SECONDS).contains(&s) => Ok(s),
        _ => Err(format!(
            "not a number of seconds between 0 and {MAX_SECONDS}"
        )),
    }
}

/// Longest `--name` of a `cat`.
const MAX_STREAM_NAME: usize = 64;

fn parse_stream_name(text: &str) -> Result<String, String> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > MAX_STREAM_NAME || !text.chars().all(ok) {
        return Err(format!(
            "a stream name is 1 to {MAX_STREAM_NAME} letters, digits, `-`, `_` and `.`"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_are_taken_after_the_subcommand_too() {
        let cli = Cli::try_parse_from(["anyhop", "id", "--json", "-vv", "--state-dir", "/x"])
            .expect("valid");
        assert!(cli.global.json);
        assert_eq!(cli.global.verbose, 2);
        assert_eq!(cli.global.state_dir, Some(PathBuf::from("/x")));
    }

    #[test]
    fn cat_takes_a_peer_or_listen_and_not_both() {
        assert!(Cli::try_parse_from(["anyhop", "cat"]).is_err());
        assert!(Cli::try_parse_from(["anyhop", "cat", "x", "--listen"]).is_err());
        assert!(Cli::try_parse_from(["anyhop", "cat", "x"]).is_ok());
        assert!(Cli::try_parse_from(["anyhop", "cat", "--listen", "--name", "a/b"]).is_err());
    }

    #[test]
    fn times_outside_a_day_and_nan_are_refused() {
        for bad in ["-1", "nan", "inf", "86401", "x"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_seconds("0.25"), Ok(0.25));
    }
}
