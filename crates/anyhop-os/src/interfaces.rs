//! Addresses of this host.

use std::{collections::BTreeSet, io, net::IpAddr};

use nix::{
    ifaddrs::{InterfaceAddress, getifaddrs},
    net::if_::InterfaceFlags,
};

/// What names of interfaces that Anyhop makes begin with.
pub const INTERFACE_PREFIX: &str = "anyhop-";

/// The IP addresses of all interfaces that are up and have a carrier, loopback included,
/// each once and in order. IPv6 link-local addresses, which mean nothing without their
/// interface, are left out, and so are those of Anyhop's own interfaces: a path there would run
/// over itself.
///
/// # Errors
/// What the system said.
pub fn interface_addresses() -> io::Result<Vec<IpAddr>> {
    let addresses: BTreeSet<IpAddr> = named_addresses()?.into_iter().map(|(_, ip)| ip).collect();
    Ok(addresses.into_iter().collect())
}

/// The same, each with the name of its interface.
pub(crate) fn named_addresses() -> io::Result<BTreeSet<(String, IpAddr)>> {
    let usable = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    let addresses = getifaddrs()?
        .filter(|interface| interface.flags.contains(usable))
        .filter_map(|interface| Some((ip_of(&interface)?, interface.interface_name)))
        .filter(|(ip, name)| is_of_use(ip) && !name.starts_with(INTERFACE_PREFIX))
        .map(|(ip, name)| (name, ip));
    Ok(addresses.collect())
}

fn ip_of(interface: &InterfaceAddress) -> Option<IpAddr> {
    let address = interface.address.as_ref()?;
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

fn is_of_use(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};

    use super::*;

    #[test]
    fn every_listed_address_is_this_hosts_own_and_listed_once() {
        let addresses = interface_addresses().unwrap();
        assert!(addresses.is_sorted_by(|a, b| a < b), "{addresses:?}");
        for ip in addresses {
            // Only an address of the host can be bound.
            UdpSocket::bind(SocketAddr::new(ip, 0)).unwrap_or_else(|e| panic!("{ip}: {e}"));
        }
    }

    #[test]
    fn loopback_is_listed_when_it_works() {
        if UdpSocket::bind("127.0.0.1:0").is_ok_and(|s| s.connect("127.0.0.1:9").is_ok()) {
            let addresses = interface_addresses().unwrap();
            assert!(addresses.iter().any(IpAddr::is_loopback), "{addresses:?}");
        }
    }

    #[test]
    fn link_local_and_unspecified_addresses_are_of_no_use() {
        for (ip, of_use) in [
            ("fe80::1", false),
            ("febf::1", false),
            ("::", false),
            ("0.0.0.0", false),
            ("fd00::1", true),
            ("169.254.1.1", true),
            ("::1", true),
        ] {
            assert_eq!(is_of_use(&ip.parse().unwrap()), of_use, "{ip}");
        }
    }
}
