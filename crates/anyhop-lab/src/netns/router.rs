//! NAT routers made of nftables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    LabError, Namespace,
    command::{checked, text},
    enter::forget_flows,
    namespace::{Families, Uplink},
    rules,
};
use crate::nat::Filtering;

pub(super) const WAN: &str = "wan";
pub(super) const LAN: &str = "lan";

/// Addresses of a LAN that hosts get.
const MAX_LAN_HOST: u8 = 250;

/// How a router translates IPv4. All but [`FullCone`](Self::FullCone) drop what nobody
/// inside asked for. No kind hairpins, and UDP flows live as long as conntrack has them:
/// 30 s, 120 s once both sides have spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NatKind {
    /// EIM + EIF, port preserving. Two hosts inside must not use the same port.
    FullCone,
    /// EIM + ADF, port preserving. Two hosts inside must not use the same port.
    RestrictedCone,
    /// EIM + APDF, port preserving: what `masquerade` does as long as no two hosts inside
    /// use the same port.
    PortRestrictedCone,
    /// APDM + APDF, every flow gets the next port.
    SymmetricSequential,
    /// APDM + APDF, every flow gets a random port.
    SymmetricRandom,
    /// EIM + APDF, but the port is another one than inside: the outer one of two layers,
    /// shared by several customers.
    Carrier,
}

/// What a router does with each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouterConfig {
    /// Its NAT; `None` without IPv4.
    pub v4: Option<NatKind>,
    /// Who comes in over IPv6, which it does not translate (RFC 6092); `None` without it.
    pub v6: Option<Filtering>,
}

impl RouterConfig {
    pub(super) fn families(self) -> Families {
        match (self.v4, self.v6) {
            (None, _) => Families::V6,
            (Some(_), None) => Families::V4,
            (Some(_), Some(_)) => Families::Both,
        }
    }
}

impl From<NatKind> for RouterConfig {
    fn from(kind: NatKind) -> Self {
        Self {
            v4: Some(kind),
            v6: None,
        }
    }
}

/// A NAT router with its LAN.
#[derive(Debug)]
pub struct Router {
    namespace: Namespace,
    config: RouterConfig,
    lan: Uplink,
    hosts: u8,
}

impl Router {
    /// Makes a router of a namespace that has its WAN side. `lan` are its own addresses
    /// inside.
    pub(super) fn configure(
        namespace: Namespace,
        lan: (Ipv4Addr, Ipv6Addr),
        config: RouterConfig,
    ) -> Result<Self, LabError> {
        namespace.set(&[
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/send_redirects", "0"),
        ])?;
        namespace.add_bridge(LAN)?;
        let lan = Uplink {
            v4: config.families().v4().then_some(lan.0),
            v6: config.families().v6().then_some(lan.1),
            on_link: true,
            ..Uplink::default()
        };
        namespace.clone().attach(LAN, lan)?;
        let router = Self {
            namespace,
            config,
            lan,
            hosts: 0,
        };
        router.load()?;
        Ok(router)
    }

    /// Its namespace; the addresses are the external ones.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its external IPv4 address; unspecified without IPv4.
    #[must_use]
    pub fn wan(&self) -> Ipv4Addr {
        self.namespace.v4().unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    /// What it does.
    #[must_use]
    pub fn config(&self) -> RouterConfig {
        self.config
    }

    /// Addresses for one more host inside.
    pub(super) fn next_uplink(&mut self) -> Uplink {
        assert!(
            self.hosts < MAX_LAN_HOST,
            "the LAN of {} is full",
            self.namespace.name()
        );
        self.hosts += 1;
        Uplink {
            v4: self.lan.v4.map(|own| nth4(own, self.hosts)),
            v6: self.lan.v6.map(|own| nth6(own, self.hosts)),
            gateway4: self.lan.v4,
            gateway6: self.lan.v6,
            on_link: true,
        }
    }

    /// An IPv4 address inside that no host has had yet.
    pub fn spare_v4(&mut self) -> Option<Ipv4Addr> {
        self.next_uplink().v4
    }

    /// Drops UDP to and from an external address, from the next packet on.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn block_udp(&self, remote: impl Into<IpAddr>) -> Result<(), LabError> {
        self.change_block("add", remote.into())
    }

    /// Undoes [`block_udp`](Self::block_udp).
    ///
    /// # Errors
    /// When `nft` fails, also when the address is not blocked.
    pub fn unblock_udp(&self, remote: impl Into<IpAddr>) -> Result<(), LabError> {
        self.change_block("delete", remote.into())
    }

    /// Drops all UDP that it would forward, from the next packet on. TCP passes.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn block_all_udp(&self) -> Result<(), LabError> {
        self.nft(rules::SHUT)
    }

    /// Undoes [`block_all_udp`](Self::block_all_udp).
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn unblock_all_udp(&self) -> Result<(), LabError> {
        self.nft(rules::OPEN)
    }

    /// Packets that were dropped because of a block so far, both ways.
    ///
    /// # Errors
    /// When `nft` fails or says something unexpected.
    pub fn blocked_packets(&self) -> Result<u64, LabError> {
        let mut command = self.namespace.command("nft");
        command.args(["list", "counter", "inet", "lab", "blocked"]);
        let listed = checked(&mut command)?;
        let mut words = listed.split_whitespace();
        let count = words
            .find(|word| *word == "packets")
            .and_then(|_| words.next())
            .and_then(|count| count.parse().ok());
        count.ok_or_else(|| LabError::Failed {
            what: text(&command),
            status: "unexpected output".into(),
            stderr: listed,
        })
    }

    /// Forgets all mappings and flows, as a restart does. Blocks stay.
    ///
    /// # Errors
    /// When `nft` fails or the kernel does not let go of the flows.
    pub fn reboot(&self) -> Result<(), LabError> {
        self.nft(rules::FORGET)?;
        if let Some(kind) = self.config.v4 {
            self.nft(&rules::nat(kind, self.wan()))?;
        }
        self.namespace
            .enter(forget_flows)
            .map_err(|source| LabError::Run {
                what: format!("forgetting the flows of {}", self.namespace.name()),
                source,
            })
    }

    fn load(&self) -> Result<(), LabError> {
        let v6 = self.config.v6.unwrap_or(Filtering::AddressAndPortDependent);
        self.nft(&rules::filter(v6))?;
        match self.config.v4 {
            Some(kind) => self.nft(&rules::nat(kind, self.wan())),
            None => Ok(()),
        }
    }

    fn change_block(&self, act: &str, remote: IpAddr) -> Result<(), LabError> {
        let family = if remote.is_ipv4() { 4 } else { 6 };
        self.nft(&format!(
            "{act} element inet lab blocked{family} {{ {remote} }}\n"
        ))
    }

    fn nft(&self, script: &str) -> Result<(), LabError> {
        self.namespace.nft(script).map(drop)
    }
}

/// The address `n` after `own`, within its last byte.
fn nth4(own: Ipv4Addr, n: u8) -> Ipv4Addr {
    let [a, b, c, d] = own.octets();
    Ipv4Addr::new(a, b, c, d + n)
}

fn nth6(own: Ipv6Addr, n: u8) -> Ipv6Addr {
    Ipv6Addr::from_bits(own.to_bits() + u128::from(n))
}
