//! Where a node of the matrix stands.

use std::fmt;

use serde::Serialize;

use crate::netns::{Families, LabError, Namespace, NatKind, NetLab, RouterConfig};

/// A kind of surroundings for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Place {
    /// On the internet, IPv4.
    Public,
    /// Behind a NAT that anybody gets through once a port is open.
    FullCone,
    /// Behind a NAT that lets in who was sent to, from any port.
    Restricted,
    /// Behind the common home router.
    PortRestricted,
    /// Behind a NAT that hands out ports in turn, one for each flow.
    SymmetricSequential,
    /// Behind a NAT that picks a port at random for each flow.
    SymmetricRandom,
    /// Behind a home router behind a carrier's NAT.
    CgnatOverCone,
    /// Behind a home router that drops all UDP.
    UdpBlocked,
    /// On the internet, IPv6 only.
    V6Public,
    /// IPv6 only, behind a router that lets nothing in that was not asked for.
    V6Filtered,
}

impl Place {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Public,
        Self::FullCone,
        Self::Restricted,
        Self::PortRestricted,
        Self::SymmetricSequential,
        Self::SymmetricRandom,
        Self::CgnatOverCone,
        Self::UdpBlocked,
        Self::V6Public,
        Self::V6Filtered,
    ];

    /// Which addresses a node there has.
    #[must_use]
    pub fn families(self) -> Families {
        match self {
            Self::V6Public | Self::V6Filtered => Families::V6,
            _ => Families::V4,
        }
    }

    /// Whether two nodes there get a direct path without guessing: whoever is dialled
    /// lets the other in, if need be after sending to where it will come from.
    #[must_use]
    pub fn surely_direct(self, other: Self) -> bool {
        let families = (self.families(), other.families());
        let common = families.0 == families.1;
        let guess_free = match (self.access(), other.access()) {
            (None, _) | (_, None) => false,
            (Some(Access::Anybody), _) | (_, Some(Access::Anybody)) => true,
            (Some(Access::Moving), Some(other)) | (Some(other), Some(Access::Moving)) => {
                other == Access::Address
            }
            _ => true,
        };
        common && guess_free
    }

    /// Who gets in over UDP, once the node has sent there.
    fn access(self) -> Option<Access> {
        Some(match self {
            Self::Public | Self::V6Public | Self::FullCone => Access::Anybody,
            Self::Restricted => Access::Address,
            Self::PortRestricted | Self::CgnatOverCone | Self::V6Filtered => Access::Endpoint,
            Self::SymmetricSequential | Self::SymmetricRandom => Access::Moving,
            Self::UdpBlocked => return None,
        })
    }

    /// Makes a host in such a place.
    pub(super) fn build(self, lab: &mut NetLab, name: &str) -> Result<Namespace, LabError> {
        let nat = |kind: NatKind| RouterConfig::from(kind);
        let config = match self {
            Self::Public | Self::V6Public => return lab.public_host(name, self.families()),
            Self::CgnatOverCone => {
                let mut carrier = lab.router(&format!("cgn-{name}"), NatKind::Carrier)?;
                let kind = NatKind::PortRestrictedCone;
                let mut home = lab.router_behind(&mut carrier, &format!("nat-{name}"), kind)?;
                return lab.host_behind(&mut home, name);
            }
            Self::FullCone => nat(NatKind::FullCone),
            Self::Restricted => nat(NatKind::RestrictedCone),
            Self::PortRestricted | Self::UdpBlocked => nat(NatKind::PortRestrictedCone),
            Self::SymmetricSequential => nat(NatKind::SymmetricSequential),
            Self::SymmetricRandom => nat(NatKind::SymmetricRandom),
            Self::V6Filtered => RouterConfig { v4: None, v6: true },
        };
        let mut router = lab.router(&format!("nat-{name}"), config)?;
        if self == Self::UdpBlocked {
            router.block_all_udp()?;
        }
        lab.host_behind(&mut router, name)
    }
}

/// Whom a NAT lets in to a port of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Anybody,
    Address,
    Endpoint,
    /// As `Endpoint`, but the port is another one for each.
    Moving,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Public => "public",
            Self::FullCone => "full cone",
            Self::Restricted => "restricted",
            Self::PortRestricted => "port-restricted",
            Self::SymmetricSequential => "symmetric sequential",
            Self::SymmetricRandom => "symmetric random",
            Self::CgnatOverCone => "CGNAT over cone",
            Self::UdpBlocked => "UDP blocked",
            Self::V6Public => "IPv6 public",
            Self::V6Filtered => "IPv6 filtered",
        })
    }
}
