//! `first-byte`: how long it takes from a dial to the first byte, in round trips.
//!
//! Everything runs in this process on a virtual network with a latency on each link, in
//! real time: the figures hold the processing of both ends, and the round trip that they
//! are compared with is measured on the same session.

use std::{net::Ipv4Addr, time::Duration};

use anyhop::{Config, Incoming, Keypair, Node, PathKind, PeerAddr, PeerId};
use anyhop_lab::{
    nat::NatConfig,
    net::{HostHandle, Link, VirtualNet},
};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::progress;
use crate::{
    args::FirstByte,
    child::threads,
    error::{BenchError, Result},
    report::Report,
    stats::Spread,
};

const PORT: u16 = 4001;
const PROTOCOL: &str = "echo/1";
/// Pings of which the fastest is the round trip.
const PINGS: usize = 5;
/// How long a ping or an attachment may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at whether a node is attached.
const POLL: Duration = Duration::from_millis(20);

/// One dial, in seconds.
struct Dialled {
    rtt: f64,
    /// Until the dialler could send.
    connected: f64,
    /// Until the first byte of the answer was there.
    first_byte: f64,
}

pub(crate) fn first_byte(args: FirstByte) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads())
        .enable_all()
        .build()
        .map_err(BenchError::io("starting the runtime"))?;
    let mut ways = [("direct", Vec::new()), ("circuit", Vec::new())];
    for round in 0..args.rounds {
        progress("first-byte", round, args.rounds);
        let latency = Duration::from_millis(args.link_ms.into());
        let seed = u64::from(round);
        let [direct, circuit] = &mut ways;
        direct
            .1
            .push(runtime.block_on(runtime.spawn(dial_directly(seed, latency))));
        circuit
            .1
            .push(runtime.block_on(runtime.spawn(dial_over_relay(seed, latency))));
    }
    let mut rows = Vec::new();
    for (way, rounds) in ways {
        let rounds = rounds.into_iter().map(|round| {
            let joined = round.map_err(BenchError::while_("running a dial"));
            joined.and_then(|dialled| dialled)
        });
        rows.push((way, rounds.collect::<Result<Vec<_>>>()?));
    }
    Ok(report(&rows, args))
}

/// Two public hosts; the dialler was told the address.
async fn dial_directly(seed: u64, latency: Duration) -> Result<Dialled> {
    let net = VirtualNet::new(seed);
    let hosts = [1, 2].map(|n| {
        net.public_host(&format!("host-{n}"), Ipv4Addr::new(203, 0, 113, n))
            .with_link(Link::with_latency(latency))
    });
    let a = start(&hosts[0], None).await?;
    let b = start(&hosts[1], None).await?;
    a.add_address(&address(&b, &hosts[1])?);
    dial(&a, b.peer_id(), PathKind::Direct).await
}

/// Two hosts behind symmetric NATs, attached to one public relay; the dialler knows
/// nothing but the PeerId.
async fn dial_over_relay(seed: u64, latency: Duration) -> Result<Dialled> {
    let net = VirtualNet::new(seed);
    let relay_host = net
        .public_host("relay", Ipv4Addr::new(203, 0, 113, 1))
        .with_link(Link::default());
    let relay = start(&relay_host, None).await?;
    let bootstrap = address(&relay, &relay_host)?;
    let mut nodes = Vec::new();
    for n in [1, 2] {
        let wan = Ipv4Addr::new(198, 51, 100, n);
        let nat = net.nat(&format!("nat-{n}"), wan, NatConfig::symmetric());
        net.set_link(nat, Link::default());
        let host = net
            .host_behind(nat, &format!("host-{n}"), Ipv4Addr::new(10, 0, n, 2))
            .with_link(Link::with_latency(latency));
        nodes.push(start(&host, Some(bootstrap)).await?);
    }
    for node in &nodes {
        timeout(PATIENCE, attached(node))
            .await
            .map_err(BenchError::while_("attaching to the relay"))?;
    }
    dial(&nodes[0], nodes[1].peer_id(), PathKind::Circuit).await
}

async fn attached(node: &Node) {
    while node.status().attachments.is_empty() {
        sleep(POLL).await;
    }
}

async fn start(host: &HostHandle, bootstrap: Option<PeerAddr>) -> Result<Node> {
    let config = Config {
        listen: vec![(Ipv4Addr::UNSPECIFIED, PORT).into()],
        bootstrap: bootstrap.into_iter().collect(),
        ..Config::default()
    };
    let node = Node::start_on(host.host(), Keypair::generate_ed25519(), config).await;
    let node = node.map_err(BenchError::while_("starting a node"))?;
    node.handle(PROTOCOL, echo)
        .map_err(BenchError::while_("serving"))?;
    Ok(node)
}

fn address(node: &Node, host: &HostHandle) -> Result<PeerAddr> {
    let addr = (host.ip(), PORT).into();
    PeerAddr::new(node.peer_id(), addr).map_err(BenchError::while_("naming an address"))
}

async fn echo(incoming: Incoming) {
    let Incoming { mut recv, send, .. } = incoming;
    let Some(mut send) = send else { return };
    let mut byte = [0];
    // A stream that fails here fails at its opener, which reports it.
    if recv.read_exact(&mut byte).await.is_ok() && send.write_all(&byte).await.is_ok() {
        let _ = send.finish();
    }
}

async fn dial(from: &Node, to: PeerId, expected: PathKind) -> Result<Dialled> {
    let start = Instant::now();
    let session = from.connect(to).await;
    let session = session.map_err(BenchError::while_("dialling"))?;
    let connected = start.elapsed().as_secs_f64();
    let echoed = async {
        let (mut send, mut recv) = session.open_bi(PROTOCOL).await?;
        send.write_all(&[1]).await?;
        recv.read_exact(&mut [0]).await
    };
    echoed.await.map_err(BenchError::while_("the first byte"))?;
    let first_byte = start.elapsed().as_secs_f64();
    let mut rtt = f64::INFINITY;
    for _ in 0..PINGS {
        let pong = from.ping(to, PATIENCE).await;
        let pong = pong.map_err(BenchError::while_("measuring the round trip"))?;
        if pong.kind != expected {
            return Err(BenchError::Measured {
                what: "the first byte",
                reason: format!("the path is {:?}, not {expected:?}", pong.kind),
            });
        }
        rtt = rtt.min(pong.rtt_ms / 1e3);
    }
    Ok(Dialled {
        rtt,
        connected,
        first_byte,
    })
}

fn report(ways: &[(&str, Vec<Dialled>)], args: FirstByte) -> Report {
    let cells = |(way, rounds): &(&str, Vec<Dialled>)| {
        let spread = |of: fn(&Dialled) -> f64| Spread::of(rounds.iter().map(of));
        let rtt = spread(|d| d.rtt * 1e3);
        let connected = spread(|d| d.connected * 1e3);
        let first_byte = spread(|d| d.first_byte * 1e3);
        let in_rtts = [
            spread(|d| d.connected / d.rtt),
            spread(|d| d.first_byte / d.rtt),
        ];
        let cells = vec![
            (*way).to_owned(),
            format!("{rtt:.1}"),
            format!("{connected:.1}"),
            in_rtts[0].to_string(),
            format!("{first_byte:.1}"),
            in_rtts[1].to_string(),
        ];
        let data = json!({
            "way": way,
            "rtt_ms": rtt,
            "connected_ms": connected,
            "connected_rtts": in_rtts[0],
            "first_byte_ms": first_byte,
            "first_byte_rtts": in_rtts[1],
        });
        (cells, data)
    };
    let (rows, data) = ways.iter().map(cells).unzip();
    Report {
        name: "first-byte",
        what: format!(
            "Virtual network in real time, {} ms on the link of each end; {} dials of each \
             kind between nodes that never met. Direct: the address is known, the least is 1 \
             round trip until the dialler can send and 2 until the first byte of the answer. \
             Circuit: only the PeerId is known; the record is asked for and the circuit is \
             opened first.",
            args.link_ms, args.rounds
        ),
        columns: vec![
            "way",
            "round trip, ms",
            "can send after, ms",
            "in round trips",
            "first byte back after, ms",
            "in round trips",
        ],
        rows,
        data,
    }
}
