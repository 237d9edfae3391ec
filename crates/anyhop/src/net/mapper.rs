//! Asking gateways to let others in: PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP-IGD.
//!
//! Behind a trait, so that a simulator offers mappings of its NATs. Gateways are asked one
//! after the other, PCP and NAT-PMP before UPnP, which needs a search and an XML exchange.
//! NAT-PMP is tried too where PCP stays unanswered: a gateway that only knows NAT-PMP is to
//! say so, and some are silent. IPv4 only: what IPv6 hosts lack is no address but a hole in a
//! filter, which PCP grants to the address that asks. That must be a global one, and the
//! library's requests to a gateway's link-local address leave from a link-local one.

use std::{
    fmt::Debug,
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    num::NonZeroU16,
    pin::Pin,
    time::Duration,
};

use anyhop_os::default_gateways;
use crab_nat::{InternetProtocol, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp, pcp};
use igd_next::{PortMappingProtocol, SearchError, SearchOptions, aio};
use thiserror::Error;

/// Lifetime asked for; gateways may give less.
const LIFETIME: Duration = Duration::from_secs(7200);
/// First wait for an answer to PCP or NAT-PMP; doubles with each of [`RETRIES`].
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Requests repeated before the next protocol is tried.
const RETRIES: usize = 2;
/// How long a UPnP gateway is searched.
const SEARCH: Duration = Duration::from_secs(3);
/// How a mapping is named on the gateway's pages.
const DESCRIPTION: &str = "anyhop";

/// What a mapping is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// How a gateway is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MappingProtocol {
    /// RFC 6887.
    Pcp,
    /// RFC 6886.
    NatPmp,
    /// UPnP Internet Gateway Device.
    UpnpIgd,
}

impl MappingProtocol {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pcp => "pcp",
            Self::NatPmp => "nat_pmp",
            Self::UpnpIgd => "upnp_igd",
        }
    }

    /// Its name in texts.
    fn title(self) -> &'static str {
        match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::UpnpIgd => "UPnP",
        }
    }
}

/// An answer on its way.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whoever can map ports on this machine's gateways.
pub trait PortMapper: Send + Sync + Debug {
    /// Maps a port of this machine: `port` from outside, if the gateway likes, else another.
    fn map(&self, transport: Transport, port: u16) -> Answer<'_, Result<BoxMapping, MapError>>;
}

/// Why there is no mapping, with what came of each gateway and protocol.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MapError {
    /// Nobody answered.
    #[error("no gateway answers: {0}")]
    NoAnswer(String),
    /// A gateway answered, and mapped nothing.
    #[error("no gateway maps a port: {0}")]
    Refused(String),
}

impl MapError {
    /// What came of each.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::NoAnswer(reason) | Self::Refused(reason) => reason,
        }
    }

    fn with_reason(self, reason: String) -> Self {
        match self {
            Self::NoAnswer(_) => Self::NoAnswer(reason),
            Self::Refused(_) => Self::Refused(reason),
        }
    }

    /// Of several, answers among them or not.
    fn join(errors: &[Self]) -> Self {
        let reasons: Vec<_> = errors.iter().map(Self::reason).collect();
        let reasons = reasons.join("; ");
        match errors.iter().any(|e| matches!(e, Self::Refused(_))) {
            true => Self::Refused(reasons),
            false => Self::NoAnswer(reasons),
        }
    }
}

/// A mapping on a gateway. Dropping it leaves it there until it expires.
pub trait PortMapping: Send + Sync + Debug {
    /// How the gateway was spoken to.
    fn protocol(&self) -> MappingProtocol;

    /// Where others are let in, as the gateway says.
    fn external(&self) -> SocketAddr;

    /// For how long, from when it was made or renewed.
    fn lifetime(&self) -> Duration;

    /// Asks for the whole lifetime anew.
    fn renew(&mut self) -> Answer<'_, Result<(), String>>;

    /// Removes it.
    fn remove(self: Box<Self>) -> Answer<'static, Result<(), String>>;
}

/// A mapping of some kind.
pub type BoxMapping = Box<dyn PortMapping>;

/// The gateways of this machine's default routes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OsMapper;

impl PortMapper for OsMapper {
    fn map(&self, transport: Transport, port: u16) -> Answer<'_, Result<BoxMapping, MapError>> {
        Box::pin(async move {
            let Some(port) = NonZeroU16::new(port) else {
                return Err(MapError::Refused("port 0 cannot be mapped".to_owned()));
            };
            let mut errors = Vec::new();
            for gateway in v4_gateways() {
                match map_at(gateway, transport, port).await {
                    Ok(mapping) => return Ok(mapping),
                    Err(e) => {
                        let reason = format!("{gateway}: {}", e.reason());
                        errors.push(e.with_reason(reason));
                    }
                }
            }
            if errors.is_empty() {
                let reason = "this machine has no IPv4 gateway".to_owned();
                errors.push(MapError::NoAnswer(reason));
            }
            Err(MapError::join(&errors))
        })
    }
}

fn v4_gateways() -> Vec<Ipv4Addr> {
    let gateways = default_gateways().into_iter();
    gateways
        .filter_map(|gateway| match gateway.address {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        })
        .collect()
}

async fn map_at(
    gateway: Ipv4Addr,
    transport: Transport,
    port: NonZeroU16,
) -> Result<BoxMapping, MapError> {
    let local = local_towards(gateway)
        .map_err(|e| MapError::NoAnswer(format!("no address towards it: {e}")))?;
    let mut errors = Vec::new();
    for protocol in [
        MappingProtocol::Pcp,
        MappingProtocol::NatPmp,
        MappingProtocol::UpnpIgd,
    ] {
        // One port for both: where it is closed, the second one is not there either.
        let closed = matches!(&errors[..], [Failed { closed: true, .. }]);
        if protocol == MappingProtocol::NatPmp && closed {
            continue;
        }
        let mapped: Result<BoxMapping, Failed> = match protocol {
            MappingProtocol::Pcp => boxed(map_by_pcp(gateway, local, transport, port).await),
            MappingProtocol::NatPmp => boxed(map_by_nat_pmp(gateway, transport, port).await),
            MappingProtocol::UpnpIgd => boxed(map_by_upnp(local, transport, port).await),
        };
        match mapped {
            Ok(mapping) => return Ok(mapping),
            Err(failed) => errors.push(failed.of(protocol)),
        }
    }
    let errors: Vec<_> = errors.into_iter().map(|e| e.error).collect();
    Err(MapError::join(&errors))
}

fn boxed<M: PortMapping + 'static>(mapped: Result<M, Failed>) -> Result<BoxMapping, Failed> {
    mapped.map(|m| -> BoxMapping { Box::new(m) })
}

/// One protocol that led to nothing.
#[derive(Debug)]
struct Failed {
    error: MapError,
    /// The gateway's host said that nobody listens there.
    closed: bool,
}

impl Failed {
    fn silent(error: &impl ToString) -> Self {
        Self {
            error: MapError::NoAnswer(error.to_string()),
            closed: false,
        }
    }

    fn refused(error: &impl ToString) -> Self {
        Self {
            error: MapError::Refused(error.to_string()),
            closed: false,
        }
    }

    fn socket(error: &std::io::Error) -> Self {
        Self {
            error: MapError::NoAnswer(error.to_string()),
            closed: error.kind() == std::io::ErrorKind::ConnectionRefused,
        }
    }

    fn of(self, protocol: MappingProtocol) -> Self {
        let reason = format!("{}: {}", protocol.title(), self.error.reason());
        Self {
            error: self.error.with_reason(reason),
            ..self
        }
    }
}

/// The address of ours that a gateway sees. Nothing is sent.
fn local_towards(gateway: Ipv4Addr) -> std::io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((gateway, crab_nat::GATEWAY_PORT))?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(_) => Err(std::io::ErrorKind::AddrNotAvailable.into()),
    }
}

/// A mapping made with PCP or NAT-PMP.
#[derive(Debug)]
struct PcpMapping {
    mapping: crab_nat::PortMapping,
    external: SocketAddr,
}

async fn map_by_pcp(
    gateway: Ipv4Addr,
    local: Ipv4Addr,
    transport: Transport,
    port: NonZeroU16,
) -> Result<PcpMapping, Failed> {
    let request =
        pcp::BaseMapRequest::new(gateway.into(), local.into(), protocol_of(transport), port);
    let mapping = pcp::port_mapping(request, None, None, options(port)).await;
    let mapping = mapping.map_err(|e| match e {
        pcp::Failure::Socket(e) => Failed::socket(&e),
        pcp::Failure::Timeout => Failed::silent(&"no answer"),
        // Whoever says so speaks NAT-PMP and answers next.
        other => Failed::refused(&other),
    })?;
    let external = match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => external_ip.to_canonical(),
        PortMappingType::NatPmp => return Err(Failed::refused(&"it answers with NAT-PMP")),
    };
    Ok(PcpMapping {
        external: SocketAddr::new(external, mapping.external_port().get()),
        mapping,
    })
}

async fn map_by_nat_pmp(
    gateway: Ipv4Addr,
    transport: Transport,
    port: NonZeroU16,
) -> Result<PcpMapping, Failed> {
    let failed = |e| match e {
        natpmp::Failure::Socket(e) => Failed::socket(&e),
        natpmp::Failure::Timeout => Failed::silent(&"no answer"),
        other => Failed::refused(&other),
    };
    // First, since without it a mapping would only be in the way.
    let ip = natpmp::external_address(gateway.into(), Some(timeouts())).await;
    let ip = ip.map_err(failed)?;
    let mapping =
        natpmp::port_mapping(gateway.into(), protocol_of(transport), port, options(port)).await;
    let mapping = mapping.map_err(failed)?;
    Ok(PcpMapping {
        external: SocketAddr::new(ip.into(), mapping.external_port().get()),
        mapping,
    })
}

fn protocol_of(transport: Transport) -> InternetProtocol {
    match transport {
        Transport::Udp => InternetProtocol::Udp,
        Transport::Tcp => InternetProtocol::Tcp,
    }
}

fn options(port: NonZeroU16) -> PortMappingOptions {
    PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: u32::try_from(LIFETIME.as_secs()).ok(),
        timeout_config: Some(timeouts()),
    }
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig {
        initial_timeout: FIRST_WAIT,
        max_retries: RETRIES,
        max_retry_timeout: None,
    }
}

impl PortMapping for PcpMapping {
    fn protocol(&self) -> MappingProtocol {
        match self.mapping.mapping_type() {
            PortMappingType::Pcp { .. } => MappingProtocol::Pcp,
            PortMappingType::NatPmp => MappingProtocol::NatPmp,
        }
    }

    fn external(&self) -> SocketAddr {
        self.external
    }

    fn lifetime(&self) -> Duration {
        Duration::from_secs(self.mapping.lifetime().into())
    }

    fn renew(&mut self) -> Answer<'_, Result<(), String>> {
        Box::pin(async {
            self.mapping.renew().await.map_err(|e| e.to_string())?;
            self.external.set_port(self.mapping.external_port().get());
            if let PortMappingType::Pcp { external_ip, .. } = self.mapping.mapping_type() {
                self.external.set_ip(external_ip.to_canonical());
            }
            Ok(())
        })
    }

    fn remove(self: Box<Self>) -> Answer<'static, Result<(), String>> {
        Box::pin(async {
            let removed = self.mapping.try_drop().await;
            removed.map_err(|(e, _)| e.to_string())
        })
    }
}

/// A mapping made with UPnP.
#[derive(Debug)]
struct UpnpMapping {
    gateway: aio::Gateway<aio::tokio::Tokio>,
    transport: PortMappingProtocol,
    local: SocketAddr,
    external: SocketAddr,
}

async fn map_by_upnp(
    local: Ipv4Addr,
    transport: Transport,
    port: NonZeroU16,
) -> Result<UpnpMapping, Failed> {
    let mut options = SearchOptions::default();
    options.bind_addr = SocketAddr::from((local, 0));
    options.timeout = Some(SEARCH);
    options.single_search_timeout = Some(SEARCH);
    let gateway = aio::tokio::search_gateway(options).await;
    let gateway = gateway.map_err(|e| match e {
        SearchError::NoResponseWithinTimeout => Failed::silent(&"no answer"),
        // The socket's, a timeout among them.
        SearchError::IoError(e) => Failed::silent(&e),
        other => Failed::refused(&other),
    })?;
    let ip = gateway.get_external_ip().await;
    let ip = ip.map_err(|e| Failed::refused(&e))?;
    let mut mapping = UpnpMapping {
        gateway,
        transport: match transport {
            Transport::Udp => PortMappingProtocol::UDP,
            Transport::Tcp => PortMappingProtocol::TCP,
        },
        local: SocketAddrV4::new(local, port.get()).into(),
        external: SocketAddr::new(ip, port.get()),
    };
    if mapping.renew().await.is_err() {
        // The port we like is somebody else's.
        let lifetime = u32::try_from(LIFETIME.as_secs()).unwrap_or(u32::MAX);
        let any = mapping
            .gateway
            .add_any_port(mapping.transport, mapping.local, lifetime, DESCRIPTION)
            .await
            .map_err(|e| Failed::refused(&e))?;
        mapping.external.set_port(any);
    }
    Ok(mapping)
}

impl PortMapping for UpnpMapping {
    fn protocol(&self) -> MappingProtocol {
        MappingProtocol::UpnpIgd
    }

    fn external(&self) -> SocketAddr {
        self.external
    }

    fn lifetime(&self) -> Duration {
        LIFETIME
    }

    fn renew(&mut self) -> Answer<'_, Result<(), String>> {
        Box::pin(async {
            let lifetime = u32::try_from(LIFETIME.as_secs()).unwrap_or(u32::MAX);
            let port = self.external.port();
            let added = self
                .gateway
                .add_port(self.transport, port, self.local, lifetime, DESCRIPTION)
                .await;
            added.map_err(|e| e.to_string())
        })
    }

    fn remove(self: Box<Self>) -> Answer<'static, Result<(), String>> {
        Box::pin(async move {
            let port = self.external.port();
            let removed = self.gateway.remove_port(self.transport, port).await;
            removed.map_err(|e| e.to_string())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_among_several_silences_is_a_refusal() {
        let silent = |reason: &str| MapError::NoAnswer(reason.to_owned());
        let refused = MapError::Refused("PCP: not authorized".to_owned());
        assert_eq!(
            MapError::join(&[silent("PCP: no answer"), silent("UPnP: no answer")]),
            silent("PCP: no answer; UPnP: no answer")
        );
        assert_eq!(
            MapError::join(&[refused, silent("UPnP: no answer")]),
            MapError::Refused("PCP: not authorized; UPnP: no answer".to_owned())
        );
    }
}
