//! The kinds of place that a node can be in.

use std::{fmt, net::IpAddr, str::FromStr};

pub use anyhop_proto::nat::Family;
use thiserror::Error;

use crate::{
    nat::{Filtering, NatConfig},
    net::{HostHandle, NatId, Site, VirtualNet},
};

/// How a node hangs on the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// With an address that everybody reaches.
    Public,
    /// Behind EIM + EIF.
    FullCone,
    /// Behind EIM + ADF.
    Restricted,
    /// Behind EIM + APDF.
    PortRestricted,
    /// Behind APDM + APDF with ports counting up.
    SymmetricSequential,
    /// Behind APDM + APDF with random ports.
    SymmetricRandom,
    /// Behind a port-restricted cone behind a carrier's NAT.
    CgnatCone,
    /// Behind a port-restricted cone that passes no UDP.
    UdpBlocked,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Public,
        Self::FullCone,
        Self::Restricted,
        Self::PortRestricted,
        Self::SymmetricSequential,
        Self::SymmetricRandom,
        Self::CgnatCone,
        Self::UdpBlocked,
    ];

    /// As it is typed and printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::FullCone => "full-cone",
            Self::Restricted => "restricted",
            Self::PortRestricted => "port-restricted",
            Self::SymmetricSequential => "symmetric-sequential",
            Self::SymmetricRandom => "symmetric-random",
            Self::CgnatCone => "cgnat-cone",
            Self::UdpBlocked => "udp-blocked",
        }
    }

    /// Whether there is such a place in a family. Over IPv6 nothing is translated, and NATs
    /// are firewalls with the filter of their kind: what translates nothing is not
    /// symmetric, and no carrier shares its IPv6 addresses.
    #[must_use]
    pub fn applies_to(self, family: Family) -> bool {
        family == Family::V4
            || !matches!(
                self,
                Self::SymmetricSequential | Self::SymmetricRandom | Self::CgnatCone
            )
    }

    /// The NATs between the node and the internet, the outermost first.
    #[must_use]
    pub fn layers(self) -> Vec<NatConfig> {
        match self {
            Self::Public => vec![],
            Self::FullCone => vec![NatConfig::full_cone()],
            Self::Restricted => vec![NatConfig::restricted_cone()],
            Self::PortRestricted | Self::UdpBlocked => vec![NatConfig::port_restricted_cone()],
            Self::SymmetricSequential => vec![NatConfig::symmetric_sequential()],
            Self::SymmetricRandom => vec![NatConfig::symmetric()],
            Self::CgnatCone => vec![
                NatConfig::carrier_grade(),
                NatConfig::port_restricted_cone(),
            ],
        }
    }

    /// The filter that decides who may send to the node, `None` for a public one.
    #[must_use]
    pub fn filtering(self) -> Option<Filtering> {
        self.layers().first().map(|nat| nat.filtering)
    }

    /// Puts a host of this kind on a network, with what is in front of it; `n` is 1 or 2
    /// and tells its addresses from those of the other.
    pub fn place(self, net: &VirtualNet, family: Family, name: &str, n: u8) -> Placed {
        let mut site = Site::Internet;
        let mut nats = Vec::new();
        for (depth, config) in (0u8..).zip(self.layers()) {
            let config = match family {
                Family::V4 => config,
                Family::V6 => {
                    let filter = config.filtering;
                    config.with_ipv6_firewall(filter)
                }
            };
            let name = format!("nat-{name}-{depth}");
            let nat = match site {
                Site::Internet => net.nat(&name, outside(family, n), config),
                Site::Behind(outer) => {
                    net.nat_behind(outer, &name, IpAddr::from([100, 64, n, 2]), config)
                }
            };
            site = Site::Behind(nat);
            nats.push(nat);
        }
        if self == Self::UdpBlocked {
            nats.iter().for_each(|nat| net.block_udp(*nat));
        }
        let host = match site {
            Site::Internet => net.public_host(name, outside(family, n)),
            Site::Behind(nat) => net.host_behind(nat, name, inside(family, n)),
        };
        Placed { host, nats }
    }
}

/// A host and what is in front of it.
#[derive(Debug)]
pub struct Placed {
    /// The host.
    pub host: HostHandle,
    /// The NATs, the outermost first.
    pub nats: Vec<NatId>,
}

fn outside(family: Family, n: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([198, 51, 100, n]),
        Family::V6 => IpAddr::from([0x2001, 0xdb8, 0, u16::from(n), 0, 0, 0, 1]),
    }
}

/// Addresses of the inside; those of IPv6 hosts are global.
fn inside(family: Family, n: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([192, 168, n, 2]),
        Family::V6 => IpAddr::from([0x2001, 0xdb8, 0, u16::from(n), 1, 0, 0, 2]),
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A word that names no [`Kind`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no kind {0:?} of place; known are {known}", known = known())]
pub struct UnknownKind(pub String);

fn known() -> String {
    Kind::ALL.map(Kind::name).join(", ")
}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|kind| kind.name() == s)
            .ok_or_else(|| UnknownKind(s.to_owned()))
    }
}
