//! The node's WebSockets: those it serves, and those it opens to peers.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhop_base::{Endpoint, PeerId};
use tokio::{task::JoinSet, time::sleep};

use super::Inner;
use crate::{
    StartError, Technique, WebSocketConfig, WebSocketTls,
    carrier::{CarrierUse, Carriers, Dialer, Server},
    engine::Swarm,
    net::Host,
};

/// Endpoints of one peer that are tried for a WebSocket.
pub(super) const MAX_ENDPOINTS: usize = 4;
/// Head start of each over the next.
const STAGGER: Duration = Duration::from_millis(250);

/// What a node has of WebSockets.
pub(super) struct WebSockets {
    dialer: Dialer,
    /// Where they are served.
    bound: Vec<SocketAddr>,
    tls: bool,
}

impl std::fmt::Debug for WebSockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebSockets")
            .field("bound", &self.bound)
            .finish_non_exhaustive()
    }
}

impl WebSockets {
    /// Where they are served.
    pub(super) fn bound(&self) -> &[SocketAddr] {
        &self.bound
    }

    /// Whether TLS is around them.
    pub(super) fn tls(&self) -> bool {
        self.tls
    }

    /// Binds what is to be served; the servers are to be run.
    pub(super) fn new(
        host: &Arc<dyn Host>,
        carriers: &Arc<Carriers>,
        config: &WebSocketConfig,
        swarm: Option<&Arc<Swarm>>,
    ) -> Result<(Self, Vec<Server>), StartError> {
        let servers = Server::listen(&**host, config, swarm)?;
        let proxies = config.proxies.clone();
        let dialer = Dialer::new(
            Arc::clone(host),
            Arc::clone(carriers),
            proxies,
            swarm.cloned(),
        )?;
        let websockets = Self {
            dialer,
            bound: servers.iter().map(Server::addr).collect(),
            tls: !matches!(config.tls, WebSocketTls::Plain),
        };
        Ok((websockets, servers))
    }
}

impl Inner {
    /// Where others on our networks reach the WebSockets served here.
    pub(crate) fn websocket_endpoints(&self) -> Vec<Endpoint> {
        let tls = self.websockets.tls;
        let addrs = self.as_dialled(self.websockets.bound.clone()).into_iter();
        addrs.map(|addr| Endpoint::Ws { addr, tls }).collect()
    }

    /// Serves one listening socket until the node stops.
    pub(super) async fn serve_websockets(self: Arc<Self>, server: Server) {
        loop {
            let visitor = server.accept().await;
            self.spawn(visitor.serve(Arc::clone(&self.fabric.carriers)));
        }
    }

    /// Opens a WebSocket of a peer; it stays as long as the result, or a path, uses it.
    pub(super) async fn open_websocket(
        &self,
        peer: PeerId,
        addr: SocketAddr,
        tls: bool,
    ) -> Result<CarrierUse, String> {
        let (held, run) = self.websockets.dialer.dial(peer, addr, tls).await?;
        self.spawn(run);
        Ok(held)
    }

    /// Opens a WebSocket to a peer that has a session, at whichever of its endpoints
    /// answers first.
    pub(crate) async fn websocket_to(self: &Arc<Self>, peer: PeerId) -> Result<CarrierUse, String> {
        let mut ways = JoinSet::new();
        let mut delay = Duration::ZERO;
        for (addr, tls) in self.websockets_of(peer) {
            let node = Arc::clone(self);
            ways.spawn(async move {
                sleep(delay).await;
                let attempt = node.websocket_attempt(peer, addr, tls);
                let tried = node.open_websocket(peer, addr, tls).await;
                attempt.end(&tried);
                tried
            });
            delay += STAGGER;
        }
        let mut reasons = Vec::new();
        while let Some(tried) = ways.join_next().await {
            match tried {
                Ok(Ok(held)) => return Ok(held),
                Ok(Err(reason)) => reasons.push(reason),
                Err(_) => {}
            }
        }
        if reasons.is_empty() {
            reasons.push("the peer serves no WebSocket that is known here".to_owned());
        }
        Err(reasons.join("; "))
    }

    /// Notes an attempt at a WebSocket.
    pub(super) fn websocket_attempt(
        &self,
        peer: PeerId,
        addr: SocketAddr,
        tls: bool,
    ) -> super::Attempting {
        let (technique, local) = (Technique::WebSocket, "any".to_owned());
        let remote = Endpoint::Ws { addr, tls }.to_string();
        self.attempts.begin(peer, technique, local, remote)
    }

    fn websockets_of(&self, peer: PeerId) -> Vec<(SocketAddr, bool)> {
        let known = self.direct_addresses(&self.whereabouts(peer)).into_iter();
        known
            .filter_map(|endpoint| match endpoint {
                Endpoint::Udp(_) => None,
                Endpoint::Ws { addr, tls } => Some((addr, tls)),
            })
            .take(MAX_ENDPOINTS)
            .collect()
    }
}
