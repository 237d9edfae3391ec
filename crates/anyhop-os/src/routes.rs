//! Where this host sends what it has no other route for.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The kernel's IPv4 routes, as text.
const V4_ROUTES: &str = "/proc/net/route";
/// The kernel's IPv6 routes, as text.
const V6_ROUTES: &str = "/proc/net/ipv6_route";
/// `RTF_UP`: the route is in use.
const ROUTE_UP: u32 = 1;

/// A router that a default route leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gateway {
    /// Its address. IPv6 routers mostly have a link-local one.
    pub address: IpAddr,
    /// Name of the interface it is reached over.
    pub interface: String,
}

/// The gateways of this host's default routes, each once and in order. Empty where the
/// system does not tell.
#[must_use]
pub fn default_gateways() -> Vec<Gateway> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let mut gateways = v4_gateways(&read(V4_ROUTES));
    gateways.extend(v6_gateways(&read(V6_ROUTES)));
    gateways.sort();
    gateways.dedup();
    gateways
}

/// The prefixes that this host has routes to, default ones left out. Empty where the system
/// does not tell.
#[must_use]
pub fn routed_prefixes() -> Vec<(IpAddr, u8)> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let mut prefixes = v4_prefixes(&read(V4_ROUTES));
    prefixes.extend(v6_prefixes(&read(V6_ROUTES)));
    prefixes.sort();
    prefixes.dedup();
    prefixes
}

fn v4_prefixes(table: &str) -> Vec<(IpAddr, u8)> {
    let prefix = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let hex = |at: usize| u32::from_str_radix(columns.get(at)?, 16).ok();
        let first = Ipv4Addr::from(hex(1)?.to_ne_bytes());
        let mask = hex(7)?.count_ones() as u8;
        let of_use = mask > 0 && hex(3)? & ROUTE_UP != 0;
        of_use.then_some((IpAddr::V4(first), mask))
    };
    table.lines().filter_map(prefix).collect()
}

/// What is link-local, of multicast or of the loopback interface says nothing about others.
fn v6_prefixes(table: &str) -> Vec<(IpAddr, u8)> {
    let prefix = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let first = Ipv6Addr::from(u128::from_str_radix(columns.first()?, 16).ok()?);
        let len = u8::from_str_radix(columns.get(1)?, 16).ok()?;
        let flags = u32::from_str_radix(columns.get(8)?, 16).ok()?;
        let local = first.is_unicast_link_local() || first.is_multicast();
        let of_use = len > 0 && !local && flags & ROUTE_UP != 0 && columns.get(9) != Some(&"lo");
        of_use.then_some((IpAddr::V6(first), len))
    };
    table.lines().filter_map(prefix).collect()
}

/// Columns: interface, destination, gateway, flags, …, mask at the eighth place; addresses
/// are hexadecimal in the host's byte order.
fn v4_gateways(table: &str) -> Vec<Gateway> {
    let gateway = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let hex = |at: usize| u32::from_str_radix(columns.get(at)?, 16).ok();
        let is_default = hex(1)? == 0 && hex(7)? == 0 && hex(3)? & ROUTE_UP != 0;
        let address = Ipv4Addr::from(hex(2)?.to_ne_bytes());
        (is_default && !address.is_unspecified()).then(|| Gateway {
            address: address.into(),
            interface: columns[0].to_owned(),
        })
    };
    table.lines().filter_map(gateway).collect()
}

/// Columns: destination, its prefix length, source, its prefix length, next hop, metric,
/// two counters, flags, interface.
fn v6_gateways(table: &str) -> Vec<Gateway> {
    let gateway = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let hex = |at: usize| u128::from_str_radix(columns.get(at)?, 16).ok();
        let is_default = hex(0)? == 0 && hex(1)? == 0 && hex(8)? & u128::from(ROUTE_UP) != 0;
        let address = Ipv6Addr::from(hex(4)?);
        (is_default && !address.is_unspecified()).then(|| Gateway {
            address: address.into(),
            interface: columns.get(9).copied().unwrap_or_default().to_owned(),
        })
    };
    table.lines().filter_map(gateway).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn the_default_ipv4_routes_name_their_gateways() {
        let table = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
eth1\t00000000\t0100000A\t0002\t0\t0\t200\t00000000\t0\t0\t0
ppp0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0
";
        let expected = Gateway {
            address: Ipv4Addr::new(192, 168, 1, 1).into(),
            interface: "eth0".to_owned(),
        };
        assert_eq!(v4_gateways(table), [expected]);
    }

    #[test]
    fn the_default_ipv6_routes_name_their_gateways() {
        let zero = "0".repeat(32);
        let router = "fe80000000000000000000000000beef";
        let table = format!(
            "{zero} 00 {zero} 00 {router} 00000400 00000001 00000000 00450003     eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n\
             fe80000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth0\n"
        );
        let expected = Gateway {
            address: "fe80::beef".parse().unwrap(),
            interface: "eth0".to_owned(),
        };
        assert_eq!(v6_gateways(&table), [expected]);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn the_prefixes_with_routes_are_told_without_default_ones() {
        let v4 = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
";
        assert_eq!(v4_prefixes(v4), [("192.168.1.0".parse().unwrap(), 24)]);
        let zero = "0".repeat(32);
        let line = |first: &str, len: &str, interface: &str| {
            format!(
                "{first} {len} {zero} 00 {zero} 00000100 00000001 00000000 00000001 {interface}\n"
            )
        };
        let v6 = [
            line(&zero, "00", "eth0"),
            line(&format!("fe80{}", "0".repeat(28)), "40", "eth0"),
            line(&format!("fd99{}", "0".repeat(28)), "40", "eth0"),
            line(&format!("{}1", "0".repeat(31)), "80", "lo"),
        ];
        assert_eq!(v6_prefixes(&v6.concat()), [("fd99::".parse().unwrap(), 64)]);
    }

    #[test]
    fn a_torn_table_names_nobody() {
        for table in ["", "\n\n", "eth0", "eth0 zz 00 0003 0 0 0 0", "0 0 0"] {
            assert_eq!((v4_gateways(table), v6_gateways(table)), (vec![], vec![]));
            assert_eq!((v4_prefixes(table), v6_prefixes(table)), (vec![], vec![]));
        }
    }
}
