//! Port mappings of virtual NATs, as nodes on virtual hosts ask for them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhop::net::{
    Answer, BoxMapping, MapError, MappingProtocol, PortMapper, PortMapping, Transport,
};
use tokio::time::Instant;

use super::{HostId, NatId, Place, Shared};

/// Lifetime of mappings.
const LIFETIME: Duration = Duration::from_secs(600);

/// Asks the NAT that a host hangs behind.
#[derive(Debug)]
pub(super) struct SimMapper {
    pub(super) shared: Arc<Shared>,
    pub(super) host: HostId,
}

impl PortMapper for SimMapper {
    fn map(&self, transport: Transport, port: u16) -> Answer<'_, Result<BoxMapping, MapError>> {
        let silent = |reason: &str| MapError::NoAnswer(reason.to_owned());
        let mapped = || {
            let nat = {
                let mut fabric = self.shared.lock();
                fabric.gateway(Place::Host(self.host))
            };
            let nat = nat.ok_or_else(|| silent("there is no gateway"))?;
            let ip = {
                let fabric = self.shared.lock();
                let mut own = fabric.addresses(self.host).iter().copied();
                own.find(IpAddr::is_ipv4)
            };
            let ip = ip.ok_or_else(|| silent("there is no IPv4 address"))?;
            let mut mapping = SimMapping {
                shared: Arc::clone(&self.shared),
                nat,
                transport,
                internal: SocketAddr::new(ip, port),
                external: SocketAddr::new(ip, port),
            };
            mapping.ask(LIFETIME).map_err(MapError::Refused)?;
            let mapping: BoxMapping = Box::new(mapping);
            Ok(mapping)
        };
        Box::pin(std::future::ready(mapped()))
    }
}

#[derive(Debug)]
struct SimMapping {
    shared: Arc<Shared>,
    nat: NatId,
    transport: Transport,
    internal: SocketAddr,
    external: SocketAddr,
}

impl SimMapping {
    fn ask(&mut self, lifetime: Duration) -> Result<(), String> {
        let now = Instant::now().into_std();
        let is_udp = self.transport == Transport::Udp;
        let (internal, wanted) = (self.internal, self.external.port());
        let mut fabric = self.shared.lock();
        let mapped = fabric.map_port(now, self.nat, is_udp, internal, wanted, lifetime);
        self.external = mapped.map_err(|e| e.to_string())?;
        Ok(())
    }
}

impl PortMapping for SimMapping {
    fn protocol(&self) -> MappingProtocol {
        MappingProtocol::Pcp
    }

    fn external(&self) -> SocketAddr {
        self.external
    }

    fn lifetime(&self) -> Duration {
        LIFETIME
    }

    fn renew(&mut self) -> Answer<'_, Result<(), String>> {
        Box::pin(std::future::ready(self.ask(LIFETIME)))
    }

    fn remove(mut self: Box<Self>) -> Answer<'static, Result<(), String>> {
        Box::pin(std::future::ready(self.ask(Duration::ZERO)))
    }
}
