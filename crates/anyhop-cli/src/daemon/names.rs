//! Names of a network's members, for the resolver of this host.
//!
//! - **Start**: with the VPN: a server on the overlay addresses, and the host's resolver is
//!   told to ask it. What of that does not work is told, and does not keep the VPN from
//!   coming up.
//! - **Steady state**: systemd-resolved asks about the network's domain alone. The C library
//!   asks us about everything, at an address of the loopback interface: there, a daemon that
//!   was killed refuses at once and the next server is asked, without a delay.
//! - **Failure**: lines in the resolver's file are in the journal of host changes.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use anyhop::{HostJournal, NameServer, NameServerConfig, VpnStatus};
use anyhop_os::{Resolver, hook_resolved, resolver, resolver_lines};
use anyhop_vpn::{TOP_DOMAIN, dns_label};
use tokio::sync::Mutex;

use super::{Presence, enter::blocking};
use crate::{api::DnsReport, error::CliError};

/// How the host's resolver is told of us.
const RESOLVED: &str = "systemd-resolved";
const FILE: &str = "resolv.conf";
const NONE: &str = "none";

/// The names of one network, if they are served.
#[derive(Debug, Default)]
pub(super) struct NamesSwitch(Mutex<Option<Names>>);

#[derive(Debug)]
struct Names {
    /// None where it could not be started.
    server: Option<NameServer>,
    report: DnsReport,
}

impl NamesSwitch {
    pub(super) async fn report(&self) -> Option<DnsReport> {
        let names = self.0.lock().await;
        names.as_ref().map(|names| names.report.clone())
    }

    async fn stop(&self) {
        let names = self.0.lock().await.take();
        if let Some(server) = names.and_then(|names| names.server) {
            server.stop().await;
        }
    }
}

impl Presence {
    /// Serves names while the VPN is up; tells what keeps it from that.
    pub(super) async fn names_up(&self, status: &VpnStatus) {
        let mut names = self.names.0.lock().await;
        if names.is_some() {
            return;
        }
        match self.serve_names(status).await {
            Ok(served) => {
                if let Some(note) = &served.report.note {
                    tracing::warn!("{note}");
                }
                *names = Some(served);
            }
            Err(error) => tracing::warn!("names of members are not served: {error}"),
        }
    }

    /// Serves none any more. The resolver's file is put back by the journal.
    pub(super) async fn names_down(&self) {
        self.names.stop().await;
    }

    async fn serve_names(&self, status: &VpnStatus) -> Result<Names, CliError> {
        let network = self.private()?;
        let addresses = [&status.address4, &status.address6].into_iter().flatten();
        let addresses: Vec<IpAddr> = addresses.filter_map(|ip| ip.parse().ok()).collect();
        let found = blocking(resolver).await?;
        let mut config = NameServerConfig {
            addresses: addresses.clone(),
            ..NameServerConfig::default()
        };
        if let Resolver::File { servers, .. } = &found {
            config.local = addresses.first().map(|ip| on_loopback(*ip));
            config.upstream.clone_from(servers);
        }
        let local = config.local;
        let mut report = DnsReport {
            address: None,
            domain: format!("{}.{TOP_DOMAIN}", dns_label(&self.name())),
            hook: NONE.to_owned(),
            note: None,
        };
        let server = match NameServer::start(&network, config).await {
            Ok(server) => server,
            Err(e) => {
                let takes = match e.kind() {
                    io::ErrorKind::PermissionDenied => {
                        "; port 53 takes root or CAP_NET_BIND_SERVICE"
                    }
                    _ => "",
                };
                report.note = Some(format!("names of members are not served: {e}{takes}"));
                let server = None;
                return Ok(Names { server, report });
            }
        };
        report.address = addresses.first().map(ToString::to_string);
        let domains = server.domains();
        let hooked = match (found, local) {
            (Resolver::Resolved, _) => {
                let interface = status.interface.clone();
                let hook = move || hook_resolved(&interface, &addresses, &domains);
                let hooked = blocking(hook).await?;
                hooked.map(|()| RESOLVED).map_err(|e| e.to_string())
            }
            (Resolver::File { path, .. }, Some(local)) => {
                let lines = resolver_lines(&path, &format!("network {}", self.name()), local);
                let owner = self.host_owner("names");
                let hook =
                    move |journal: &HostJournal| journal.change(&owner, &lines, || lines.make());
                let hooked = self.with_journal(hook).await?;
                hooked.map(|()| FILE).map_err(|e| e.to_string())
            }
            (Resolver::File { .. }, None) => Err("this node has no overlay address".to_owned()),
            (Resolver::Unknown(why), _) => Err(why),
        };
        match hooked {
            Ok(hook) => report.hook = hook.to_owned(),
            Err(why) => {
                report.note = Some(format!("this host's resolver does not ask us: {why}"));
            }
        }
        let server = Some(server);
        Ok(Names { server, report })
    }
}

/// An address of the loopback interface that no other network of this host has: 127 and the
/// rest of its IPv4 address, or the end of its IPv6 one.
fn on_loopback(ip: IpAddr) -> IpAddr {
    let [b, c, d] = match ip {
        IpAddr::V4(ip) => {
            let [_, b, c, d] = ip.octets();
            [b, c, d]
        }
        IpAddr::V6(ip) => {
            let [.., b, c, d] = ip.octets();
            [b, c, d]
        }
    };
    Ipv4Addr::new(127, b, c, d).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_has_an_address_on_the_loopback_interface() {
        let table = [
            ("100.113.254.123", "127.113.254.123"),
            ("fd3a::12:3456", "127.18.52.86"),
        ];
        for (ip, expected) in table {
            let ip = on_loopback(ip.parse().expect("an address"));
            assert_eq!(ip.to_string(), expected);
            assert!(ip.is_loopback());
        }
    }
}
