//! Services on the local links: DNS-SD (RFC 6763) over multicast DNS (RFC 6762).
//!
//! One thread of `mdns-sd` answers and asks on UDP port 5353, which it shares with the
//! system's own responder. What comes in is said by whoever is on the link: it is proven
//! by nothing.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use mdns_sd::{Receiver, ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo};
use thiserror::Error;

/// How long the goodbye may take.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// A service as it is announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalService {
    /// Its type with the domain, such as `_anyhop._udp.local.`.
    pub kind: &'static str,
    /// The name of this instance, at most 63 bytes: one DNS label.
    pub instance: String,
    /// Name of this host, one DNS label; `.local.` is appended.
    pub host: String,
    /// Where it is.
    pub addresses: Vec<IpAddr>,
    /// On which port.
    pub port: u16,
    /// What else is told (RFC 6763 section 6), at most 255 bytes each.
    pub properties: Vec<(&'static str, String)>,
}

/// What is seen on the local links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sighting {
    /// An instance is there, or says something new.
    Seen {
        /// The full name of the instance.
        name: String,
        /// Where it says it is.
        addresses: Vec<SocketAddr>,
        /// What else it tells, keys in lower case.
        properties: Vec<(String, String)>,
    },
    /// An instance said goodbye or has not been heard of for its lifetime.
    Gone {
        /// The full name of the instance.
        name: String,
    },
}

/// Why local links cannot be used.
#[derive(Debug, Error)]
#[error("multicast DNS does not work here: {0}")]
pub struct DnsSdError(#[from] mdns_sd::Error);

/// A service that is announced, and a watch on others of its type.
pub struct DnsSd {
    daemon: ServiceDaemon,
    events: Receiver<ServiceEvent>,
    announced: String,
    stopped: bool,
}

impl fmt::Debug for DnsSd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DNS-SD of {}", self.announced)
    }
}

impl DnsSd {
    /// Announces a service and starts to look for others of its type.
    ///
    /// # Errors
    /// When there is no multicast socket to be had, or a name is malformed.
    pub fn start(service: &LocalService) -> Result<Self, DnsSdError> {
        let daemon = ServiceDaemon::new()?;
        let mut this = Self {
            events: daemon.browse(service.kind)?,
            daemon,
            announced: String::new(),
            stopped: false,
        };
        this.announce(service)?;
        Ok(this)
    }

    /// Replaces what is announced.
    ///
    /// # Errors
    /// When a name is malformed or the thread has ended.
    pub fn announce(&mut self, service: &LocalService) -> Result<(), DnsSdError> {
        let mut info = ServiceInfo::new(
            service.kind,
            &service.instance,
            &format!("{}.local.", service.host),
            &*service.addresses,
            service.port,
            &*service.properties,
        )?;
        // The names are made of a public key: nobody else has them.
        info.set_requires_probe(false);
        self.announced = info.get_fullname().to_owned();
        self.daemon.register(info)?;
        Ok(())
    }

    /// The next sighting; this node's own announcement is among them. `None` once the
    /// thread has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Sighting> {
        loop {
            match self.events.recv_async().await.ok()? {
                ServiceEvent::ServiceResolved(service) => return Some(seen(&service)),
                ServiceEvent::ServiceRemoved(_, name) => return Some(Sighting::Gone { name }),
                _ => {}
            }
        }
    }

    /// Says goodbye (RFC 6762 section 10.1) and ends. Blocks until it is said, a second at
    /// most.
    pub fn stop(mut self) {
        self.stopped = true;
        if let Ok(done) = self.daemon.unregister(&self.announced) {
            // Without an answer the goodbye may not have gone out: others forget by time.
            let _ = done.recv_timeout(GOODBYE_LIMIT);
        }
        let _ = self.daemon.shutdown();
    }
}

impl Drop for DnsSd {
    fn drop(&mut self) {
        if !self.stopped {
            // Best effort: both only queue a command for the thread.
            let _ = self.daemon.unregister(&self.announced);
            let _ = self.daemon.shutdown();
        }
    }
}

fn seen(service: &ResolvedService) -> Sighting {
    let port = service.get_port();
    let mut addresses: Vec<_> = service
        .get_addresses()
        .iter()
        .map(|ip| SocketAddr::new(ip.to_ip_addr(), port))
        .collect();
    addresses.sort_unstable();
    let properties = service.get_properties().iter();
    Sighting::Seen {
        name: service.get_fullname().to_owned(),
        addresses,
        properties: properties
            .map(|p| (p.key().to_ascii_lowercase(), p.val_str().to_owned()))
            .collect(),
    }
}
