//! The commands, one file each.

mod bench;
mod cat;
mod completions;
mod connect;
mod demo;
mod doctor;
mod explain;
mod expose;
mod firewall;
mod forward;
mod id;
mod job;
mod lab;
mod name;
mod network;
mod openapi;
mod path;
mod peers;
mod ping;
mod port;
mod publish;
mod recv;
mod request;
mod send;
mod socks;
mod status;
mod subscribe;
mod topics;
mod trace;
mod up;
mod vpn;

use std::io::Read as _;

use anyhop::{Carrier, NetworkName, PathInfo, PathKind};
use bytes::Bytes;

use crate::{
    api::{MessageReport, PathReport},
    args::{Cli, Command, MAX_BODY},
    client::Client,
    error::{CliError, Code},
    output::{self, Output},
    state::StateDir,
};

/// What every command has.
#[derive(Debug)]
struct Context {
    state_dir: StateDir,
    /// The network named, if one was.
    network: Option<NetworkName>,
    output: Output,
    verbose: u8,
}

impl Context {
    fn client(&self) -> Client {
        let network = self.network.as_ref().map(ToString::to_string);
        Client::new(self.state_dir.clone(), network)
    }
}

/// Does what was typed.
pub(crate) async fn run(cli: Cli) -> Result<(), CliError> {
    let output = Output::new(cli.global.json);
    // These need no state directory.
    match cli.command {
        Command::Completions { shell } => return completions::run(shell),
        Command::Openapi => return openapi::run(),
        Command::Demo => return demo::run(output).await,
        Command::Lab { command } => return lab::run(output, command).await,
        _ => {}
    }
    let state_dir = StateDir::choose(cli.global.state_dir)?;
    let (verbose, mut networks) = (cli.global.verbose, cli.global.network);
    if let Command::Up(args) = cli.command {
        return up::run(state_dir, networks, output, verbose > 0, args).await;
    }
    if networks.len() > 1 {
        return Err(CliError::usage("--network is given more than once")
            .hint("only `anyhop up` takes several networks"));
    }
    let context = Context {
        state_dir,
        network: networks.pop(),
        output,
        verbose,
    };
    match cli.command {
        Command::Id => id::run(&context),
        Command::Status => status::run(&context).await,
        Command::Peers => peers::run(&context).await,
        Command::Path(args) => path::run(&context, &args.peer).await,
        Command::Doctor(args) => doctor::run(&context, args).await,
        Command::Explain(args) => explain::run(&context, &args).await,
        Command::Trace(args) => trace::run(&context, &args).await,
        Command::Connect(args) => connect::run(&context, &args.peer).await,
        Command::Ping(args) => ping::run(&context, &args).await,
        Command::Send(args) => send::run(&context, args).await,
        Command::Request(args) => request::run(&context, args).await,
        Command::Recv(args) => recv::run(&context, args).await,
        Command::Broadcast(args) => publish::run(&context, String::new(), args).await,
        Command::Publish(args) => publish::run(&context, args.topic, args.what).await,
        Command::Subscribe(args) => subscribe::run(&context, args).await,
        Command::Topics => topics::run(&context).await,
        Command::Job { command } => job::run(&context, command).await,
        Command::Cat(args) => cat::run(&context, args).await,
        Command::Expose(args) => expose::run(&context, &args).await,
        Command::Forward(args) => forward::run(&context, &args).await,
        Command::Socks(args) => socks::run(&context, &args).await,
        Command::Bench(args) => bench::run(&context, &args).await,
        Command::Network { command } => network::run(context, command).await,
        Command::Name { command } => name::run(&context, command).await,
        Command::Firewall { command } => firewall::run(&context, command).await,
        Command::Port { command } => port::run(&context, command).await,
        Command::Vpn { command } => vpn::run(&context, command).await,
        Command::Up(_)
        | Command::Completions { .. }
        | Command::Openapi
        | Command::Demo
        | Command::Lab { .. } => Ok(()),
    }
}

/// A path in words, to stand after a peer.
pub(crate) fn path_text(path: &PathInfo) -> String {
    let carrier = match path.carrier {
        Carrier::Udp4 => "UDP over IPv4",
        Carrier::Udp6 => "UDP over IPv6",
        Carrier::Ws => "WebSocket",
    };
    match path.kind {
        PathKind::Direct => format!(
            "directly at {} ({carrier}, {:.1} ms)",
            path.remote, path.rtt_ms
        ),
        PathKind::Circuit => format!(
            "through {} at {} ({carrier}, {:.1} ms)",
            path.via.join(" and "),
            path.remote,
            path.rtt_ms
        ),
    }
}

fn paths_text(report: &PathReport) -> String {
    let mut text = report.peer_id.clone();
    for path in &report.paths {
        let mark = if path.selected { '*' } else { ' ' };
        text.push_str(&format!("\n  {mark} {}", path_text(path)));
    }
    text
}

/// Prints a reply: for people as it is, so that it can be piped on.
fn print_reply(context: &Context, reply: &MessageReport) -> Result<(), CliError> {
    if context.output.is_json() {
        return context.output.result(reply, |_| String::new());
    }
    if reply.body_base64 {
        return output::raw(&reply.bytes()?);
    }
    output::line(&reply.body)
}

/// The body typed, or all of standard input for `-`.
fn read_body(typed: String) -> Result<Bytes, CliError> {
    if typed != "-" {
        return Ok(typed.into());
    }
    let mut body = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_BODY as u64 + 1)
        .read_to_end(&mut body)
        .map_err(|e| CliError::new(Code::Failed, format!("cannot read standard input: {e}")))?;
    if body.len() > MAX_BODY {
        return Err(CliError::new(
            Code::Limit,
            format!("standard input has more than {MAX_BODY} bytes, which no message may have"),
        )
        .hint("send it over a stream, which has no size limit: `anyhop cat`"));
    }
    Ok(body.into())
}
