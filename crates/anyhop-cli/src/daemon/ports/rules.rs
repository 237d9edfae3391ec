//! What nftables and the kernel are told about mapped ports.
//!
//! A packet to a mapped port gets the member's overlay address as its destination, whether
//! it comes from this machine or through it, and this machine's as its source, so that the
//! answer comes back here. What comes from members is left out: they would reach others in
//! this node's name.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhop::{HostJournal, JournalError, PeerId};
use anyhop_os::{
    nft::{Table, equals, field, meta},
    sysctl,
};
use serde_json::{Value, json};

use super::store::PortMap;
use crate::error::CliError;

/// Priorities of destination and source NAT; packets of this machine have their own.
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;
/// Where the kernel has its settings of interfaces.
const INTERFACES: &str = "/proc/sys/net/ipv6/conf";

/// All that maps do to the host.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rules {
    interface: String,
    maps: Vec<(PortMap, SocketAddr)>,
}

impl Rules {
    /// Of those maps whose members have an address.
    pub(super) fn of(
        interface: &str,
        maps: &[PortMap],
        addresses: impl Fn(PeerId) -> Vec<IpAddr>,
    ) -> Self {
        let with_target = |map: &PortMap| {
            let target = target(map, &addresses(map.peer)).ok()?;
            Some((map.clone(), target))
        };
        Self {
            interface: interface.to_owned(),
            maps: maps.iter().filter_map(with_target).collect(),
        }
    }

    /// Whether a map is among them.
    pub(super) fn has(&self, map: &PortMap) -> bool {
        self.maps.iter().any(|(m, _)| m == map)
    }

    /// Has the host do it; without maps, nothing of it.
    pub(super) fn apply(&self, journal: &HostJournal, owner: &str) -> Result<(), JournalError> {
        if self.maps.is_empty() {
            for told in journal.undo_all(owner) {
                tracing::warn!("{told}");
            }
            return Ok(());
        }
        for (key, value) in self.settings() {
            journal.set_sysctl(owner, &key, value)?;
        }
        journal.apply_table(owner, &self.table())
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&self.interface, "ports")
            .base_chain("prerouting", "nat", "prerouting", DSTNAT)
            .base_chain("output", "nat", "output", DSTNAT)
            .base_chain("postrouting", "nat", "postrouting", SRCNAT);
        let not_from_members = json!({ "match": {
            "op": "!=", "left": meta("iifname"), "right": self.interface,
        } });
        for (map, target) in &self.maps {
            let rule = redirect(map, *target);
            let through = [std::slice::from_ref(&not_from_members), &rule[..]].concat();
            table.rule("prerouting", &through);
            table.rule("output", &rule);
        }
        let redirected = json!({ "match": {
            "op": "in", "left": { "ct": { "key": "status" } }, "right": "dnat",
        } });
        let out = equals(&meta("oifname"), self.interface.as_str());
        let masquerade = json!({ "masquerade": null });
        table.rule("postrouting", &[out, redirected, masquerade]);
        table
    }

    /// Settings of the kernel that it takes: packets of this machine to its loopback
    /// addresses may leave it, and those of other machines may pass through.
    fn settings(&self) -> Vec<(String, &'static str)> {
        let hosts = || self.maps.iter().map(|(map, _)| map.listen.ip());
        let mut settings = Vec::new();
        // 0.0.0.0 stands for 127.0.0.1, too.
        if hosts().any(|ip| ip.is_ipv4() && (ip.is_loopback() || ip.is_unspecified())) {
            let key = format!("net/ipv4/conf/{}/route_localnet", self.interface);
            settings.push((key, "1"));
        }
        let open = |v4: bool| hosts().any(|ip| ip.is_ipv4() == v4 && !ip.is_loopback());
        if open(true) {
            settings.push(("net/ipv4/ip_forward".to_owned(), "1"));
        }
        if open(false) {
            // A host that forwards takes no routes from routers unless this says 2.
            let learning = learning_interfaces().into_iter();
            let keep = learning.map(|name| (format!("net/ipv6/conf/{name}/accept_ra"), "2"));
            settings.extend(keep);
            settings.push(("net/ipv6/conf/all/forwarding".to_owned(), "1"));
        }
        settings
    }
}

/// Where packets of a map go, by the member's addresses.
pub(super) fn target(map: &PortMap, addresses: &[IpAddr]) -> Result<SocketAddr, String> {
    if addresses.is_empty() {
        return Err("it is no member".to_owned());
    }
    let same_family = |ip: &&IpAddr| ip.is_ipv4() == map.listen.is_ipv4();
    match addresses.iter().find(same_family) {
        Some(ip) => Ok(SocketAddr::new(*ip, map.port)),
        None => Err(format!("it has no address of {}'s family", map.listen.ip())),
    }
}

/// Whether packets to an address can be sent on; answers the address as it is listed.
pub(super) fn check_listen(listen: SocketAddr) -> Result<SocketAddr, CliError> {
    let listen = SocketAddr::new(listen.ip().to_canonical(), listen.port());
    let why = match listen.ip() {
        _ if listen.port() == 0 => "port 0 cannot be connected to",
        IpAddr::V6(ip) if ip.is_loopback() => {
            "Linux lets no packet from ::1 leave the loopback interface"
        }
        ip if ip.is_multicast() => "it is a multicast address",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "it is a broadcast address",
        _ => return Ok(listen),
    };
    let message = format!("{listen} cannot be mapped: {why}");
    Err(CliError::usage(message)
        .hint("map 127.0.0.1:PORT, 0.0.0.0:PORT, [::]:PORT, or a port of an address of this host"))
}

fn redirect(map: &PortMap, target: SocketAddr) -> Vec<Value> {
    let (family, protocol) = match map.listen {
        SocketAddr::V4(_) => ("ip", "ipv4"),
        SocketAddr::V6(_) => ("ip6", "ipv6"),
    };
    let mut rule = match map.listen.ip() {
        ip if ip.is_unspecified() => {
            let local = json!({ "fib": { "result": "type", "flags": ["daddr"] } });
            vec![equals(&meta("nfproto"), protocol), equals(&local, "local")]
        }
        ip => vec![equals(&field(family, "daddr"), ip.to_string())],
    };
    let port = field(map.protocol.as_str(), "dport");
    rule.push(equals(&port, map.listen.port()));
    rule.push(json!({ "dnat": {
        "family": family, "addr": target.ip().to_string(), "port": target.port(),
    } }));
    rule
}

/// Interfaces that take their routes from routers, as hosts do.
fn learning_interfaces() -> Vec<String> {
    let entries = std::fs::read_dir(INTERFACES)
        .into_iter()
        .flatten()
        .flatten();
    let names = entries.filter_map(|e| e.file_name().into_string().ok());
    let learns = |name: &String| {
        let key = format!("net/ipv6/conf/{name}/accept_ra");
        name != "all" && sysctl(&key).is_ok_and(|value| value == "1")
    };
    let mut names: Vec<String> = names.filter(learns).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{daemon::ports::store, spec::Protocol};

    fn map(protocol: Protocol, listen: &str) -> PortMap {
        store::map(protocol, listen, 8080)
    }

    fn addresses(_: PeerId) -> Vec<IpAddr> {
        ["100.64.0.2", "fd00::2"]
            .map(|ip| ip.parse().expect("valid"))
            .into()
    }

    #[test]
    fn a_map_leads_to_the_member_s_address_of_its_family() {
        let table = [
            ("127.0.0.1:80", Ok("100.64.0.2:8080")),
            ("[::]:80", Ok("[fd00::2]:8080")),
        ];
        for (listen, expected) in table {
            let map = map(Protocol::Tcp, listen);
            let found = target(&map, &addresses(map.peer)).map(|t| t.to_string());
            assert_eq!(found.as_deref(), expected, "{listen}");
            let v6 = ["fd00::2".parse().expect("valid")];
            assert_eq!(target(&map, &v6).is_ok(), map.listen.is_ipv6());
            assert!(target(&map, &[]).is_err());
        }
    }

    #[test]
    fn what_cannot_be_mapped_is_refused_with_a_reason() {
        for bad in [
            "[::1]:80",
            "127.0.0.1:0",
            "224.0.0.1:80",
            "255.255.255.255:80",
        ] {
            let error = check_listen(bad.parse().expect("valid")).expect_err(bad);
            assert!(error.hint.is_some(), "{error}");
        }
        let mapped = check_listen("[::ffff:127.0.0.1]:80".parse().expect("valid"));
        assert_eq!(mapped.map(|a| a.to_string()), Ok("127.0.0.1:80".to_owned()));
    }

    #[test]
    fn the_kernel_is_told_no_more_than_a_map_takes() {
        let keys = |listen: &[&str]| {
            let maps: Vec<_> = listen.iter().map(|l| map(Protocol::Udp, l)).collect();
            let rules = Rules::of("anyhop-lab", &maps, addresses);
            let settings = rules.settings().into_iter().map(|(key, _)| key);
            // Which interfaces learn routes is this host's.
            settings
                .filter(|key| !key.ends_with("accept_ra"))
                .collect::<Vec<_>>()
        };
        let localnet = "net/ipv4/conf/anyhop-lab/route_localnet";
        assert_eq!(keys(&["127.0.0.1:80"]), [localnet]);
        assert_eq!(keys(&["0.0.0.0:80"]), [localnet, "net/ipv4/ip_forward"]);
        assert_eq!(keys(&["192.0.2.1:80"]), ["net/ipv4/ip_forward"]);
        assert_eq!(keys(&["[::]:80"]), ["net/ipv6/conf/all/forwarding"]);
        assert!(keys(&[]).is_empty());
    }
}
