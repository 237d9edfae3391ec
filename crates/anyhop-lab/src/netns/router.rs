//! NAT routers, as people have them at home, made of nftables.

use std::{net::Ipv4Addr, process::Command};

use super::{
    LabError, Namespace,
    command::{checked, text},
};

pub(super) const WAN: &str = "wan";
pub(super) const LAN: &str = "lan";

/// Addresses of a LAN that hosts get.
const MAX_LAN_HOST: u8 = 250;

/// How a router chooses external ports. Both kinds drop what nobody inside asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatKind {
    /// The internal port, the same towards every remote: behaves as EIM + APDF.
    Cone,
    /// A random port for every remote: APDM + APDF.
    Symmetric,
}

/// A NAT router with its LAN.
#[derive(Debug)]
pub struct Router {
    namespace: Namespace,
    lan: Ipv4Addr,
    hosts: u8,
}

impl Router {
    pub(super) fn configure(
        namespace: Namespace,
        lan: Ipv4Addr,
        kind: NatKind,
    ) -> Result<Self, LabError> {
        namespace.write("/proc/sys/net/ipv4/ip_forward", "1")?;
        let router = Self {
            namespace,
            lan,
            hosts: 0,
        };
        router.nft(&ruleset(kind))?;
        Ok(router)
    }

    /// Its namespace; the address is the external one.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its external address.
    #[must_use]
    pub fn wan(&self) -> Ipv4Addr {
        self.namespace.ip
    }

    /// Its address inside.
    #[must_use]
    pub fn lan(&self) -> Ipv4Addr {
        self.lan
    }

    pub(super) fn next_address(&mut self) -> Ipv4Addr {
        assert!(self.hosts < MAX_LAN_HOST, "LAN {} is full", self.lan);
        self.hosts += 1;
        let [a, b, c, own] = self.lan.octets();
        Ipv4Addr::new(a, b, c, own + self.hosts)
    }

    /// Drops UDP to and from an external address, from the next packet on.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn block_udp(&self, remote: Ipv4Addr) -> Result<(), LabError> {
        self.nft(&format!("add element ip lab blocked {{ {remote} }}\n"))
    }

    /// Undoes [`block_udp`](Self::block_udp).
    ///
    /// # Errors
    /// When `nft` fails, also when the address is not blocked.
    pub fn unblock_udp(&self, remote: Ipv4Addr) -> Result<(), LabError> {
        self.nft(&format!("delete element ip lab blocked {{ {remote} }}\n"))
    }

    /// Packets that [`block_udp`](Self::block_udp) has dropped so far, both ways.
    ///
    /// # Errors
    /// When `nft` fails or says something unexpected.
    pub fn blocked_packets(&self) -> Result<u64, LabError> {
        let mut command = self.namespace.command("nft");
        command.args(["list", "counter", "ip", "lab", "blocked"]);
        let listed = checked(&mut command)?;
        let mut words = listed.split_whitespace();
        let count = words
            .find(|word| *word == "packets")
            .and_then(|_| words.next())
            .and_then(|count| count.parse().ok());
        count.ok_or_else(|| unexpected(&command, &listed))
    }

    fn nft(&self, script: &str) -> Result<(), LabError> {
        let mut command = self.namespace.command("nft");
        checked(command.arg(script)).map(drop)
    }
}

fn unexpected(command: &Command, said: &str) -> LabError {
    LabError::Failed {
        what: text(command),
        status: "unexpected output".into(),
        stderr: said.to_owned(),
    }
}

fn ruleset(kind: NatKind) -> String {
    let masquerade = match kind {
        NatKind::Cone => "masquerade persistent",
        NatKind::Symmetric => "masquerade random,fully-random",
    };
    format!(
        "table ip lab {{
            set blocked {{ type ipv4_addr; }}
            counter blocked {{ }}
            chain block {{
                type filter hook forward priority -10; policy accept;
                meta l4proto udp ip daddr @blocked counter name blocked drop
                meta l4proto udp ip saddr @blocked counter name blocked drop
            }}
            chain input {{
                type filter hook input priority filter; policy drop;
                ct state established,related accept
                iifname {{ \"{LAN}\", \"lo\" }} accept
            }}
            chain forward {{
                type filter hook forward priority filter; policy drop;
                ct state established,related accept
                iifname \"{LAN}\" oifname \"{WAN}\" accept
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat; policy accept;
                oifname \"{WAN}\" {masquerade}
            }}
        }}\n"
    )
}
