//! What is in front of a node: NAT behaviour in the words of RFC 4787, for each address
//! family.
//!
//! A [`Profile`] is filled in as tests bring results; what no test has shown stays
//! `None`. The ladder of [`path`](crate::path) chooses its techniques by it, and people
//! read it in a node's status.

pub mod check;
pub mod classify;

use std::{net::SocketAddr, time::Duration};

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(addr: &SocketAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// When a second remote endpoint is reached from the same external port (section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mapping {
    /// There is no NAT.
    None,
    /// EIM: always.
    EndpointIndependent,
    /// ADM: when it has the same address.
    AddressDependent,
    /// APDM: never.
    AddressAndPortDependent,
    /// EIM or ADM: a second address to ask from was missing.
    PortIndependent,
}

impl Mapping {
    /// Its name in RFC 4787's words; `None` while only part of it is known.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::None => Some("none"),
            Self::EndpointIndependent => Some("endpoint_independent"),
            Self::AddressDependent => Some("address_dependent"),
            Self::AddressAndPortDependent => Some("address_and_port_dependent"),
            Self::PortIndependent => None,
        }
    }
}

/// Who is let in from outside (section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Filtering {
    /// There is no filter: an open host.
    None,
    /// EIF: anybody, once something was sent.
    EndpointIndependent,
    /// ADF: any port of an address that was sent to.
    AddressDependent,
    /// APDF: only endpoints that were sent to.
    AddressAndPortDependent,
    /// EIF or ADF: a second address to be asked from was missing.
    PortIndependent,
}

impl Filtering {
    /// Its name in RFC 4787's words; `None` while only part of it is known.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::None => Some("none"),
            Self::EndpointIndependent => Some("endpoint_independent"),
            Self::AddressDependent => Some("address_dependent"),
            Self::AddressAndPortDependent => Some("address_and_port_dependent"),
            Self::PortIndependent => None,
        }
    }
}

/// How the external port of a new mapping is chosen (section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Allocation {
    /// The internal port.
    Preserving,
    /// The last one plus a step.
    Sequential {
        /// Ports from one mapping to the next; negative for a box that counts down.
        step: i16,
    },
    /// Any.
    Random,
}

impl Allocation {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Preserving => "preserving",
            Self::Sequential { .. } => "sequential",
            Self::Random => "random",
        }
    }
}

/// NAT behaviour towards one family, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Profile {
    /// Reuse of external ports.
    pub mapping: Option<Mapping>,
    /// Who is let in.
    pub filtering: Option<Filtering>,
    /// Choice of external ports.
    pub allocation: Option<Allocation>,
    /// Whether hosts inside reach each other at their external addresses (section 6).
    pub hairpin: Option<bool>,
    /// How long a mapping lives without traffic (section 4.3).
    pub lifetime: Option<Duration>,
    /// NATs between this host and the internet, as far as they show.
    pub layers: Option<u8>,
    /// An external address, as others saw it.
    pub external: Option<SocketAddr>,
}

impl Profile {
    /// Whether each destination may see another port, so that an address one peer saw
    /// says little about what the next will see.
    #[must_use]
    pub fn is_hard(&self) -> bool {
        matches!(
            self.mapping,
            Some(Mapping::AddressDependent | Mapping::AddressAndPortDependent)
        )
    }

    /// Whether a host that was sent to may answer from any of its ports; `None` when
    /// unknown.
    #[must_use]
    pub fn admits_other_ports(&self) -> Option<bool> {
        Some(self.filtering? != Filtering::AddressAndPortDependent)
    }

    /// Whether the next external port can be told before it is used.
    #[must_use]
    pub fn is_predictable(&self) -> bool {
        matches!(
            self.allocation,
            Some(Allocation::Preserving | Allocation::Sequential { .. })
        )
    }
}

/// The profiles of both families.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Profiles {
    /// Over IPv4.
    pub v4: Profile,
    /// Over IPv6.
    pub v6: Profile,
}

impl Profiles {
    /// The profile of one family.
    #[must_use]
    pub fn of(&self, family: Family) -> &Profile {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// The profile of one family, to be changed.
    pub fn of_mut(&mut self, family: Family) -> &mut Profile {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}
