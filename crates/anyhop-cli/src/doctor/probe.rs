//! Reaching a peer at one address, with a node made for that alone: what works on the
//! session that a daemon has says nothing about the ways it does not use.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhop::{
    Config, Endpoint, Keypair, NetworkName, Node, PeerAddr, PeerId, Proxies, RelayConfig,
    WebSocketConfig,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// Addresses probed.
pub(super) const MAX_PROBES: usize = 8;
/// How long one may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(6);
/// How long the engine gets to find out that larger packets pass.
const MTU_WAIT: Duration = Duration::from_millis(1500);
/// Between two looks at that.
const MTU_LOOK: Duration = Duration::from_millis(50);
/// How long a probe's node may take to say goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// UDP payload that fills a packet of 1280 bytes, the least that IPv6 carries (RFC 8200
/// section 5), behind the headers of IPv6 and UDP.
pub(super) const PAYLOAD_OF_1280: u16 = 1280 - 40 - 8;

/// What came of probing one address.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    /// Where the peer was to answer.
    pub(super) endpoint: Endpoint,
    /// What came of it.
    pub(super) outcome: Result<Reached, String>,
}

/// A peer answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reached {
    /// Round trip, milliseconds.
    pub(super) rtt_ms: f64,
    /// UDP payload that passed, bytes.
    pub(super) mtu: u16,
}

/// Probes the addresses, all at once; results are in their order.
pub(super) async fn all(
    network: &NetworkName,
    proxies: &Proxies,
    peers: &[PeerAddr],
) -> Vec<Probe> {
    let mut running = JoinSet::new();
    for (at, peer) in peers.iter().take(MAX_PROBES).enumerate() {
        let (network, proxies, peer) = (network.clone(), proxies.clone(), *peer);
        running.spawn(async move {
            let outcome = timeout(PROBE_TIMEOUT, one(network, proxies, peer)).await;
            let outcome = outcome.unwrap_or_else(|_| Err("no answer".to_owned()));
            let probe = Probe {
                endpoint: peer.addr,
                outcome,
            };
            (at, probe)
        });
    }
    let mut probes = running.join_all().await;
    probes.sort_by_key(|(at, _)| *at);
    probes.into_iter().map(|(_, probe)| probe).collect()
}

async fn one(network: NetworkName, proxies: Proxies, peer: PeerAddr) -> Result<Reached, String> {
    let any: SocketAddr = match peer.addr.addr() {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let config = Config {
        network,
        listen: vec![any],
        relay: RelayConfig {
            enabled: false,
            ..RelayConfig::default()
        },
        websocket: WebSocketConfig {
            proxies,
            ..WebSocketConfig::default()
        },
        dial_timeout: PROBE_TIMEOUT,
        direct_paths: false,
        ..Config::default()
    };
    let node = Node::start(Keypair::generate_ed25519(), config).await;
    let node = node.map_err(|e| e.to_string())?;
    node.add_address(&peer);
    let reached = reach(&node, peer.peer).await;
    // The peer's idle timeout takes care of a goodbye that is lost.
    let _ = timeout(CLOSE_TIMEOUT, node.close()).await;
    reached
}

async fn reach(node: &Node, peer: PeerId) -> Result<Reached, String> {
    let session = node.connect(peer).await.map_err(|e| reason(&e))?;
    let connected = Instant::now();
    loop {
        let paths = session.paths();
        let path = paths.first().ok_or("it was lost again at once")?;
        if path.mtu >= PAYLOAD_OF_1280 || connected.elapsed() > MTU_WAIT {
            return Ok(Reached {
                rtt_ms: path.rtt_ms,
                mtu: path.mtu,
            });
        }
        sleep(MTU_LOOK).await;
    }
}

/// The reason alone where one way was tried.
fn reason(error: &anyhop::DialError) -> String {
    match error {
        anyhop::DialError::Unreachable { attempts, .. }
        | anyhop::DialError::NoRoute { attempts, .. }
            if !attempts.is_empty() =>
        {
            let mut reasons: Vec<_> = attempts.iter().map(|a| a.reason.as_str()).collect();
            reasons.dedup();
            reasons.join("; ")
        }
        other => other.to_string(),
    }
}
