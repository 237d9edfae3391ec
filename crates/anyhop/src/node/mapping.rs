//! Port mappings on gateways: one for the node's UDP port, one for each TCP port that
//! WebSockets are served on.
//!
//! A mapping is asked for where this machine has no public IPv4 address, renewed at half of
//! its life and when it stops to work, made anew when the machine moves, and removed when the node stops. Gateways
//! lie: they name an external address that is private or not what others see, or promise a
//! port that stays closed. So a mapping of UDP counts as verified only when a connected peer
//! has reached this node there from a port it was never spoken to from, and one that is
//! known to be wrong is told to nobody. A mapping of TCP is never verified.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhop_base::{Endpoint, PeerId};
use anyhop_proto::{
    control::{MAX_CONTROL_FRAME, Reach, Reached},
    path::Role,
    probe::Probe,
};
use rand::RngExt;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{Inner, Network, protocols};
use crate::{
    GatewayInfo, GatewayState, MappingInfo, PathKind, StreamError,
    net::{BoxMapping, MapError, MappingProtocol, PortMapper, Transmit, Transport},
    session::{Command, Conn},
    stream::{RecvStream, SendStream, malformed, read_frame},
};

/// How long a gateway may take over all its protocols.
const MAP_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a gateway may take to remove a mapping while somebody waits.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(2);
/// First wait before a gateway that gave nothing is asked again; doubles up to
/// [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(60);
/// Longest wait.
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// A mapping is renewed no sooner than this, however short its life.
const MIN_RENEWAL: Duration = Duration::from_secs(15);
/// Wait before a mapping that nobody could try, or reach, is tried again.
const VERIFY_RETRY: Duration = Duration::from_secs(10);
/// Wait before one that works is tried again: gateways forget when they restart.
const VERIFY_AGAIN: Duration = Duration::from_secs(120);
/// Longest wait between looks for somebody to try it.
const VERIFY_LOOK: Duration = Duration::from_secs(1);
/// Longest wait between such tries; it doubles.
const VERIFY_RETRY_MAX: Duration = Duration::from_secs(600);
/// Peers asked in one try.
const MAX_ASKED: usize = 3;
/// How long a peer may take to reach us.
const REACH_TIMEOUT: Duration = Duration::from_secs(3);
/// When a peer pings an address it was asked to, after the request.
const REACH_PINGS: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_millis(500),
];
/// Requests to reach an address served for one neighbour at once.
pub(super) const REACH_BURST: u32 = 4;
/// Time for one more.
pub(super) const REACH_INTERVAL: Duration = Duration::from_secs(15);

/// A port of ours that is to be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    Udp,
    Ws { port: u16, tls: bool },
}

impl Port {
    fn transport(self) -> Transport {
        match self {
            Self::Udp => Transport::Udp,
            Self::Ws { .. } => Transport::Tcp,
        }
    }
}

/// A mapping that is held, as others are told of it.
#[derive(Debug, Clone)]
pub(super) struct Mapped {
    port: Port,
    protocol: MappingProtocol,
    external: SocketAddr,
    expires: Instant,
    verified: bool,
    problem: Option<String>,
}

/// The mappings, and what came of asking for them.
#[derive(Debug, Default)]
pub(super) struct Mappings {
    held: Vec<Mapped>,
    gateways: GatewayInfo,
}

/// What came of a try to be reached.
#[derive(Debug, PartialEq, Eq)]
enum Try {
    Reached,
    NotReached(PeerId),
    /// Nobody could be asked.
    NobodyAsked,
}

/// What is known of a mapping after a try.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// It worked, and does no more: the gateway may have restarted.
    Lost,
    Unproven,
}

impl Inner {
    /// Starts to keep mappings, where the configuration and the host let.
    pub(super) fn keep_mappings(self: &Arc<Self>) {
        let mapper = self.host.port_mapper().filter(|_| self.config.port_mapping);
        let Some(mapper) = mapper else {
            return;
        };
        let udp = self
            .sockets
            .iter()
            .any(|s| s.is_ipv4())
            .then_some(Port::Udp);
        let tls = self.websockets.tls();
        let ws = self.websockets.bound().iter();
        let ws = ws.filter(|a| a.is_ipv4() && !a.ip().is_loopback());
        let ws = ws.map(|a| Port::Ws {
            port: a.port(),
            tls,
        });
        for port in udp.into_iter().chain(ws) {
            self.note_gateways(GatewayState::Asking, None);
            // Not cancelled on stop: the mapping is removed then.
            let keep = Arc::clone(self).keep_mapping(Arc::clone(&mapper), port);
            self.spawn_unstopped(keep);
        }
    }

    async fn keep_mapping(self: Arc<Self>, mapper: Arc<dyn PortMapper>, port: Port) {
        let mut wait = RETRY;
        while !self.stop.is_cancelled() {
            if let Some(number) = self.port_to_map(port) {
                self.note_gateways(GatewayState::Asking, None);
                let asked = timeout(MAP_TIMEOUT, mapper.map(port.transport(), number));
                let mapped = tokio::select! {
                    () = self.stop.cancelled() => return,
                    mapped = asked => mapped,
                };
                let late = |_| Err(MapError::NoAnswer(format!("not within {MAP_TIMEOUT:?}")));
                match mapped.unwrap_or_else(late) {
                    Ok(mapping) => {
                        wait = RETRY;
                        self.hold_mapping(port, mapping).await;
                        continue;
                    }
                    Err(e) => self.note_failure(port, &e),
                }
            } else {
                self.note_gateways(GatewayState::NotNeeded, None);
            }
            let moved = tokio::select! {
                () = self.stop.cancelled() => return,
                moved = self.moved_within(wait) => moved,
            };
            wait = if moved {
                RETRY
            } else {
                (wait * 2).min(RETRY_MAX)
            };
        }
    }

    /// Keeps a mapping until it is lost, the machine moves or the node stops.
    async fn hold_mapping(&self, port: Port, mut mapping: BoxMapping) {
        let mut network = self.network();
        let changes = network.borrow_and_update().changes;
        let mut verify_wait = VERIFY_RETRY;
        let mut verify_at = Instant::now();
        self.note_mapping(port, &mapping);
        let mut renew_at = renewal(&mapping);
        let remove = loop {
            tokio::select! {
                () = self.stop.cancelled() => break true,
                () = moved_since(&mut network, changes) => break true,
                () = sleep_until(renew_at) => match timeout(MAP_TIMEOUT, mapping.renew()).await {
                    Ok(Ok(())) => {
                        self.note_mapping(port, &mapping);
                        renew_at = renewal(&mapping);
                    }
                    failed => {
                        tracing::info!(external = %mapping.external(), ?failed, "port mapping not renewed");
                        break false;
                    }
                },
                tried = self.verify_at(verify_at, mapping.external()), if port == Port::Udp => {
                    let now = Instant::now();
                    match self.note_try(port, &tried) {
                        Verdict::Good => (verify_at, verify_wait) = (now + VERIFY_AGAIN, VERIFY_RETRY),
                        Verdict::Lost => (renew_at, verify_at) = (now, now),
                        Verdict::Unproven => {
                            verify_at = now + verify_wait;
                            verify_wait = (verify_wait * 2).min(VERIFY_RETRY_MAX);
                        }
                    }
                }
            }
        };
        self.forget_mapping(port);
        if remove {
            let external = mapping.external();
            match timeout(REMOVE_TIMEOUT, mapping.remove()).await {
                Ok(Ok(())) => tracing::debug!(%external, "port mapping removed"),
                failed => tracing::info!(%external, ?failed, "port mapping not removed"),
            }
        }
    }

    /// The number of a port that needs a mapping: none where the machine has a public
    /// address, or no network.
    fn port_to_map(&self, port: Port) -> Option<u16> {
        let addresses = self.host.interface_addresses().unwrap_or_default();
        let mut v4 = addresses.iter().filter_map(|ip| match ip {
            IpAddr::V4(ip) if !ip.is_loopback() => Some(ip),
            _ => None,
        });
        let mut any = false;
        let private = v4.all(|ip| {
            any = true;
            !is_public(*ip)
        });
        if !any || !private {
            return None;
        }
        match port {
            Port::Udp => {
                let mut locals = self.fabric.local_addrs().into_iter();
                let mapped = locals.find(|a| a.is_ipv4() && !a.ip().is_loopback());
                mapped.map(|a| a.port())
            }
            Port::Ws { port, .. } => Some(port),
        }
    }

    fn note_mapping(&self, port: Port, mapping: &BoxMapping) {
        let external = mapping.external();
        let problem = self.lie(external);
        if let Some(problem) = &problem {
            tracing::info!(%external, problem, "the gateway's port mapping is of no use");
        } else {
            tracing::info!(%external, protocol = mapping.protocol().name(), "port mapped");
        }
        {
            let mut mappings = self.mappings();
            let held = &mut mappings.held;
            let before = held.iter().position(|m| m.port == port);
            let before = before.map(|at| held.swap_remove(at));
            let verified = before.is_some_and(|b| b.external == external && b.verified);
            held.push(Mapped {
                port,
                protocol: mapping.protocol(),
                external,
                expires: Instant::now() + mapping.lifetime(),
                verified,
                problem,
            });
        }
        self.record_changed();
    }

    fn forget_mapping(&self, port: Port) {
        self.mappings().held.retain(|m| m.port != port);
        self.record_changed();
    }

    fn note_failure(&self, port: Port, error: &MapError) {
        tracing::debug!(?port, %error, "no port mapping");
        let state = match error {
            MapError::NoAnswer(_) => GatewayState::NoAnswer,
            MapError::Refused(_) => GatewayState::Refused,
        };
        self.note_gateways(state, Some(error.reason().to_owned()));
    }

    fn note_gateways(&self, state: GatewayState, reason: Option<String>) {
        self.mappings().gateways = GatewayInfo { state, reason };
        self.record_changed();
    }

    fn note_try(&self, port: Port, tried: &Try) -> Verdict {
        let verdict = {
            let mut mappings = self.mappings();
            let Some(mapped) = mappings.held.iter_mut().find(|m| m.port == port) else {
                return Verdict::Unproven;
            };
            let was_verified = mapped.verified;
            match tried {
                Try::Reached => (mapped.verified, mapped.problem) = (true, None),
                Try::NotReached(peer) => {
                    mapped.verified = false;
                    mapped.problem = Some(format!(
                        "{peer} could not reach this node there: the gateway or one above it \
                         keeps the port closed"
                    ));
                }
                Try::NobodyAsked if was_verified => {}
                Try::NobodyAsked => mapped.problem = self.lie(mapped.external),
            }
            match (was_verified, mapped.verified) {
                (_, true) => Verdict::Good,
                (true, false) => Verdict::Lost,
                (false, false) => Verdict::Unproven,
            }
        };
        self.record_changed();
        verdict
    }

    /// What is wrong with an external address on its face.
    fn lie(&self, external: SocketAddr) -> Option<String> {
        let IpAddr::V4(ip) = external.ip() else {
            return None;
        };
        if !is_public(ip) {
            return Some(format!(
                "the gateway's own address {ip} is not public: there is another NAT above it"
            ));
        }
        let mut seen = self.observed_addrs();
        seen.retain(|a| a.is_ipv4() && !is_local(a.ip()));
        if seen.is_empty() || seen.iter().any(|a| a.ip() == external.ip()) {
            return None;
        }
        Some(format!(
            "the gateway says {ip}, but peers see this host at {}",
            seen[0].ip()
        ))
    }

    /// Where this node is mapped to, as far as nothing speaks against it.
    pub(super) fn mapped_endpoints(&self) -> Vec<Endpoint> {
        let mappings = self.mappings();
        let good = mappings.held.iter().filter(|m| m.problem.is_none());
        good.map(|m| match m.port {
            Port::Udp => Endpoint::Udp(m.external),
            Port::Ws { tls, .. } => Endpoint::Ws {
                addr: m.external,
                tls,
            },
        })
        .collect()
    }

    /// Whether strangers can reach this node by a mapping.
    pub(super) fn has_verified_mapping(&self) -> bool {
        self.mappings().held.iter().any(|m| m.verified)
    }

    /// The mappings as reports show them.
    pub(super) fn mapping_infos(&self) -> Vec<MappingInfo> {
        let now = Instant::now();
        let mappings = self.mappings();
        let info = |m: &Mapped| MappingInfo {
            protocol: m.protocol.name().to_owned(),
            external: m.external.to_string(),
            expires_s: m.expires.saturating_duration_since(now).as_secs(),
            verified: m.verified,
            problem: m.problem.clone(),
        };
        mappings.held.iter().map(info).collect()
    }

    /// What came of asking gateways. Of several ports the last one's, unless one is mapped.
    pub(super) fn gateway_info(&self) -> GatewayInfo {
        let mappings = self.mappings();
        if mappings.held.is_empty() {
            return mappings.gateways.clone();
        }
        GatewayInfo {
            state: GatewayState::Mapped,
            reason: None,
        }
    }

    fn mappings(&self) -> std::sync::MutexGuard<'_, Mappings> {
        self.mappings.lock().expect("no holder panics")
    }

    async fn verify_at(&self, at: Instant, external: SocketAddr) -> Try {
        sleep_until(at).await;
        let _ = timeout(VERIFY_RETRY, self.somebody_sees(external.ip())).await;
        let mut tried = Try::NobodyAsked;
        for conn in self.who_sees(external.ip()).into_iter().take(MAX_ASKED) {
            match self.ask_to_reach(&conn, external).await {
                Ok(true) => return Try::Reached,
                Ok(false) => tried = Try::NotReached(conn.peer),
                Err(e) => tracing::debug!(peer = %conn.peer, error = %e, "not asked"),
            }
        }
        tried
    }

    /// Waits until there is somebody to ask.
    async fn somebody_sees(&self, external: IpAddr) {
        while self.who_sees(external).is_empty() {
            let changed = self.session_changed.notified();
            let _ = timeout(VERIFY_LOOK, changed).await;
        }
    }

    /// Links whose peers are outside: we dialled them and they have public addresses.
    fn who_sees(&self, external: IpAddr) -> Vec<Arc<Conn>> {
        let mut conns = self.current_conns();
        conns.retain(|conn| {
            let remotes = direct_remotes(conn);
            conn.role == Role::Client
                && remotes
                    .iter()
                    .any(|r| r.is_ipv4() && !is_local(r.ip()) && r.ip() != external)
        });
        conns
    }

    /// Asks a peer to ping an address of ours from a new port; answers whether that arrived.
    async fn ask_to_reach(&self, conn: &Conn, address: SocketAddr) -> Result<bool, StreamError> {
        let (sender, arrived) = oneshot::channel();
        let nonce = rand::rng().random();
        let waiting = Command::AwaitPing(nonce, sender);
        if conn.commands.send(waiting).await.is_err() {
            return Ok(false);
        }
        let protocol = self.protocol(protocols::REACH);
        let (mut send, mut recv) = conn.open_bi(&protocol, protocols::REACH).await?;
        send.write_all(&Reach { address, nonce }.encode()).await?;
        send.finish()?;
        let frame = read_frame(&mut recv, MAX_CONTROL_FRAME).await?;
        let answer = Reached::decode(&frame).map_err(|_| malformed(&mut recv))?;
        if !answer.trying {
            return Err(StreamError::SessionLost {
                peer: conn.peer,
                reason: "it does not try to reach us there".to_owned(),
            });
        }
        Ok(matches!(timeout(REACH_TIMEOUT, arrived).await, Ok(Ok(()))))
    }

    /// Pings an address of a neighbour's for it, from a port it was never spoken to from.
    /// Only where we see the neighbour itself: nobody else is bothered.
    pub(super) async fn serve_reach(
        self: &Arc<Self>,
        conn: &Arc<Conn>,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), StreamError> {
        let frame = read_frame(&mut recv, MAX_CONTROL_FRAME).await?;
        let Reach { address, nonce } = Reach::decode(&frame).map_err(|_| malformed(&mut recv))?;
        let its_own = direct_remotes(conn).iter().any(|r| r.ip() == address.ip());
        let trying = its_own && address.port() != 0 && {
            let mut reaches = self.reaches.lock().expect("no holder panics");
            reaches.allow(Instant::now().into_std(), conn.peer)
        };
        if trying {
            let (node, conn) = (Arc::clone(self), Arc::clone(conn));
            self.spawn(async move {
                if let Err(e) = node.reach(&conn, address, nonce).await {
                    tracing::debug!(%address, error = %e, "address of a neighbour's not pinged");
                }
            });
        }
        send.write_all(&Reached { trying }.encode()).await?;
        send.finish()
    }

    async fn reach(&self, conn: &Conn, address: SocketAddr, nonce: u64) -> std::io::Result<()> {
        let any: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = self.host.bind_udp(SocketAddr::new(any, 0))?;
        let ping = conn.keys.seal(Probe::ping(nonce));
        let start = Instant::now();
        for at in REACH_PINGS {
            sleep_until(start + at).await;
            socket.try_send(&Transmit {
                destination: address,
                ecn: None,
                contents: &ping,
                segment_size: None,
                src_ip: None,
            })?;
        }
        // Its answers must find a socket, or the host tells of an error that is none.
        sleep(REACH_TIMEOUT).await;
        Ok(())
    }
}

/// Waits until the machine is in another network than after so many changes.
async fn moved_since(network: &mut watch::Receiver<Network>, changes: u64) {
    if network.wait_for(|n| n.changes != changes).await.is_err() {
        std::future::pending().await
    }
}

fn renewal(mapping: &BoxMapping) -> Instant {
    Instant::now() + (mapping.lifetime() / 2).max(MIN_RENEWAL)
}

fn direct_remotes(conn: &Conn) -> Vec<SocketAddr> {
    let table = conn.paths.borrow();
    let direct = table.paths.iter().filter(|p| p.kind == PathKind::Direct);
    direct.filter_map(|p| p.remote.parse().ok()).collect()
}

/// Whether an address means something everywhere: neither private (RFC 1918) nor shared
/// between a provider's customers (RFC 6598).
fn is_public(ip: Ipv4Addr) -> bool {
    let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
    !(shared || is_local(ip.into()) || ip.is_unspecified() || ip.is_broadcast())
}

fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_and_shared_addresses_are_not_public() {
        for (ip, public) in [
            ("192.168.1.1", false),
            ("10.0.0.1", false),
            ("100.64.0.1", false),
            ("100.127.255.255", false),
            ("100.128.0.1", true),
            ("169.254.0.1", false),
            ("0.0.0.0", false),
            ("198.51.100.7", true),
        ] {
            assert_eq!(is_public(ip.parse().unwrap()), public, "{ip}");
        }
    }
}
