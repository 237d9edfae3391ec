//! Connections to anywhere, by a node that allows it.
//!
//! A name is resolved here, and what is connected to is one of the addresses that were looked
//! at: a name cannot be another address the second time. Unless it was allowed, this host
//! itself and its own networks are left out.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::expose::CONNECT_TIME;
use crate::spec::Target;

/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 8;

/// How far an exit leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::daemon) enum Reach {
    /// To addresses of the internet.
    Public,
    /// To this host and its networks, too.
    All,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum ExitError {
    /// It is not allowed to there.
    NotAllowed,
    /// It failed.
    Failed(String),
}

/// Connects to a host, as far as that is allowed.
pub(super) async fn connect(target: &Target, reach: Reach) -> Result<TcpStream, ExitError> {
    let failed = |e: io::Error| ExitError::Failed(e.to_string());
    let late = |_| ExitError::Failed("no connection in time".to_owned());
    let looked_up = timeout(CONNECT_TIME, lookup_host((target.host(), target.port()))).await;
    let found = looked_up.map_err(late)?.map_err(failed)?;
    let own = match reach {
        Reach::Public => anyhop_os::interface_addresses().map_err(failed)?,
        Reach::All => Vec::new(),
    };
    let allowed = |at: &SocketAddr| {
        let ip = at.ip().to_canonical();
        reach == Reach::All || is_public(ip) && !own.contains(&ip)
    };
    let allowed: Vec<SocketAddr> = found.filter(allowed).take(MAX_ADDRESSES).collect();
    if allowed.is_empty() {
        return Err(ExitError::NotAllowed);
    }
    let connected = timeout(CONNECT_TIME, TcpStream::connect(&*allowed)).await;
    connected.map_err(late)?.map_err(failed)
}

/// Whether an address is of the internet, and of no network of somebody's own (registries of
/// special-purpose addresses, RFC 6890).
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => match ip.segments() {
            // 6to4 has an IPv4 address in it.
            [0x2002, high, low, ..] => {
                is_public_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
            }
            // Teredo, and others that are no host's, but for documentation.
            [0x2001, 0..=0x1ff, ..] => false,
            // All that is given out (RFC 4291 section 2.4).
            [first, ..] => first & 0xe000 == 0x2000,
        },
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let own = match ip.octets() {
        [0, ..] | [192, 0, 0, _] | [198, 18..=19, ..] | [240..=255, ..] => true,
        [100, b, ..] => (64..128).contains(&b),
        _ => ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_multicast(),
    };
    !own
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn what_is_somebody_s_own_is_not_public() {
        let own = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.1.1",
            "172.16.0.1",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
            "2001::1",
            "::ffff:10.0.0.1",
        ];
        for ip in own {
            let ip: IpAddr = ip.parse().expect("valid");
            assert!(!is_public(ip.to_canonical()), "{ip}");
        }
        let public = [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.32.0.1",
            "198.51.100.1",
            "2606:4700::1",
            "2a00::1",
            "2002:101:101::1",
            "::ffff:1.1.1.1",
        ];
        for ip in public {
            let ip: IpAddr = ip.parse().expect("valid");
            assert!(is_public(ip.to_canonical()), "{ip}");
        }
    }

    #[tokio::test]
    async fn an_exit_leads_to_its_own_host_only_where_that_is_allowed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("bound");
        for spelled in [at.to_string(), format!("localhost:{}", at.port())] {
            let target: Target = spelled.parse().expect("valid");
            let refused = connect(&target, Reach::Public).await;
            assert!(matches!(refused, Err(ExitError::NotAllowed)), "{refused:?}");
            connect(&target, Reach::All).await.expect("allowed");
        }
    }
}
