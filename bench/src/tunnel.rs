//! The process that is one end of an Anyhop VPN, or the relay between two: it tells its
//! addresses, is told the other end's, and says when the path that is wanted is selected.

use std::{
    io::{self, BufRead, Write},
    net::Ipv4Addr,
    time::Duration,
};

use anyhop::{
    Carrier, Config, Keypair, Node, PathKind, PeerAddr, RuleSet, Vpn, VpnConfig, VpnOptions,
    VpnPeer, WebSocketTls,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::{
    args::Tunnel,
    child::threads,
    error::{BenchError, Result},
};

/// How long the wanted path may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at the path.
const LOOK: Duration = Duration::from_millis(20);
/// Bits of the tunnel's prefix.
const PREFIX_LEN: u8 = 24;

/// Over what packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    Direct,
    Relay,
    WebSocket,
}

/// What a process says first: where it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Here {
    pub(crate) addrs: Vec<String>,
}

/// What it is told then.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Other {
    /// The other end: multiaddrs where it is to be dialled, its PeerId at the end.
    pub(crate) addrs: Vec<String>,
    /// Its address in the tunnel.
    pub(crate) ip: Ipv4Addr,
    /// What the selected path has to be.
    pub(crate) way: Way,
}

/// Runs until standard input is closed.
pub(crate) fn run(args: &Tunnel) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads())
        .enable_all()
        .build()
        .map_err(BenchError::io("starting the runtime"))?;
    runtime.block_on(serve(args))
}

async fn serve(args: &Tunnel) -> Result<()> {
    let mut config = Config {
        listen: args.listen.clone(),
        bootstrap: args.bootstrap.clone(),
        // The relayed way stays one.
        direct_paths: args.bootstrap.is_empty(),
        ..Config::default()
    };
    config.websocket.listen.clone_from(&args.listen_ws);
    config.websocket.tls = WebSocketTls::Plain;
    let node = Node::start(Keypair::generate_ed25519(), config).await;
    let node = node.map_err(BenchError::while_("starting a node"))?;
    while !args.bootstrap.is_empty() && node.status().attachments.is_empty() {
        sleep(LOOK).await;
    }
    let addrs = node.addresses().iter().map(ToString::to_string).collect();
    say(&Here { addrs })?;
    let mut lines = io::stdin().lock().lines();
    let Some(ip) = args.ip else {
        // The relay has nothing to do but to be there.
        lines.for_each(drop);
        return Ok(());
    };
    let config = VpnConfig {
        interface: vec!["anyhop-bench".to_owned()],
        addresses: vec![(ip.into(), PREFIX_LEN)],
        options: VpnOptions::default(),
        firewall: RuleSet::default(),
    };
    let vpn = Vpn::start(&node, config).map_err(BenchError::while_("starting the VPN"))?;
    while let Some(line) = lines.next().transpose().map_err(BenchError::io("input"))? {
        let other: Other = serde_json::from_str(&line).map_err(BenchError::while_("a command"))?;
        meet(&node, &vpn, &other).await?;
        say(&"ready")?;
    }
    vpn.stop().await;
    Ok(())
}

/// Has the other end be a peer, and waits for a session with it over the wanted path.
async fn meet(node: &Node, vpn: &Vpn, other: &Other) -> Result<()> {
    let addrs: std::result::Result<Vec<PeerAddr>, _> =
        other.addrs.iter().map(|text| text.parse()).collect();
    let addrs = addrs.map_err(BenchError::while_("reading an address"))?;
    let Some(peer) = addrs.first().map(|addr| addr.peer) else {
        return Err(BenchError::Worker("was told no address".to_owned()));
    };
    if other.way != Way::Relay {
        addrs.iter().for_each(|addr| node.add_address(addr));
    }
    let route = format!("{}/32", other.ip).parse();
    vpn.add_peer(VpnPeer {
        peer,
        name: String::new(),
        role: None,
        address4: Some(other.ip),
        address6: None,
        routes: vec![route.map_err(BenchError::while_("a route"))?],
    })
    .map_err(BenchError::while_("adding a peer"))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let session = node.connect(peer).await;
        session.map_err(BenchError::while_("connecting"))?;
        let info = node.session_info(peer);
        let selected = info.and_then(|i| i.paths.into_iter().find(|p| p.selected));
        if selected.is_some_and(|p| is(other.way, p.kind, p.carrier)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let reason = format!("no session over {:?} within {PATIENCE:?}", other.way);
            return Err(BenchError::Measured {
                what: "the tunnel",
                reason,
            });
        }
        sleep(LOOK).await;
    }
}

fn is(way: Way, kind: PathKind, carrier: Carrier) -> bool {
    match way {
        Way::Direct => kind == PathKind::Direct && carrier == Carrier::Udp4,
        Way::Relay => kind == PathKind::Circuit,
        Way::WebSocket => kind == PathKind::Direct && carrier == Carrier::Ws,
    }
}

fn say<T: Serialize>(value: &T) -> Result<()> {
    let line = serde_json::to_string(value).map_err(BenchError::while_("writing an answer"))?;
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(BenchError::io("standard output"))
}
