//! Asking gateways to let others in: PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP-IGD.
//!
//! Behind a trait, so that a simulator offers mappings of its NATs. Gateways are asked one
//! after the other, PCP and NAT-PMP before UPnP, which needs a search and an XML exchange.
//! IPv4 only: what IPv6 hosts lack is no address but a hole in a filter.

use std::{
    fmt::Debug,
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    num::NonZeroU16,
    pin::Pin,
    time::Duration,
};

use anyhop_os::default_gateways;
use crab_nat::{InternetProtocol, PortMappingOptions, PortMappingType, TimeoutConfig};
use igd_next::{PortMappingProtocol, SearchOptions, aio};

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
}

/// An answer on its way.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whoever can map ports on this machine's gateways.
pub trait PortMapper: Send + Sync + Debug {
    /// Maps a port of this machine: `port` from outside, if the gateway likes, else another.
    /// An error says what each gateway and protocol answered.
    fn map(&self, transport: Transport, port: u16) -> Answer<'_, Result<BoxMapping, String>>;
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
    fn map(&self, transport: Transport, port: u16) -> Answer<'_, Result<BoxMapping, String>> {
        Box::pin(async move {
            let port = NonZeroU16::new(port).ok_or("port 0 cannot be mapped")?;
            let mut reasons = Vec::new();
            for gateway in v4_gateways() {
                match map_at(gateway, transport, port).await {
                    Ok(mapping) => return Ok(mapping),
                    Err(reason) => reasons.push(format!("{gateway}: {reason}")),
                }
            }
            if reasons.is_empty() {
                reasons.push("this machine has no IPv4 gateway".to_owned());
            }
            Err(reasons.join("; "))
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
) -> Result<BoxMapping, String> {
    let local = local_towards(gateway).map_err(|e| format!("no address towards it: {e}"))?;
    let first = match map_by_pcp(gateway, local, transport, port).await {
        Ok(mapping) => return Ok(Box::new(mapping)),
        Err(reason) => format!("PCP and NAT-PMP: {reason}"),
    };
    match map_by_upnp(local, transport, port).await {
        Ok(mapping) => Ok(Box::new(mapping)),
        Err(reason) => Err(format!("{first}; UPnP: {reason}")),
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
) -> Result<PcpMapping, String> {
    let protocol = match transport {
        Transport::Udp => InternetProtocol::Udp,
        Transport::Tcp => InternetProtocol::Tcp,
    };
    let options = PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: u32::try_from(LIFETIME.as_secs()).ok(),
        timeout_config: Some(timeouts()),
    };
    let mapping =
        crab_nat::PortMapping::new(gateway.into(), local.into(), protocol, port, options).await;
    let mapping = mapping.map_err(|e| e.to_string())?;
    let ip = match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => external_ip.to_canonical(),
        PortMappingType::NatPmp => {
            let asked = crab_nat::natpmp::external_address(gateway.into(), Some(timeouts())).await;
            asked
                .map_err(|e| format!("no external address: {e}"))?
                .into()
        }
    };
    Ok(PcpMapping {
        external: SocketAddr::new(ip, mapping.external_port().get()),
        mapping,
    })
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
) -> Result<UpnpMapping, String> {
    let mut options = SearchOptions::default();
    options.bind_addr = SocketAddr::from((local, 0));
    options.timeout = Some(SEARCH);
    options.single_search_timeout = Some(SEARCH);
    let gateway = aio::tokio::search_gateway(options)
        .await
        .map_err(|e| e.to_string())?;
    let ip = gateway.get_external_ip().await.map_err(|e| e.to_string())?;
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
            .map_err(|e| e.to_string())?;
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
