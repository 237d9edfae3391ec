//! How a NAT behaves, axis by axis.

use std::{ops::RangeInclusive, time::Duration};

/// When a second remote endpoint is reached from the same external port (RFC 4787 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// EIM: always.
    EndpointIndependent,
    /// ADM: when it has the same address.
    AddressDependent,
    /// APDM: never; every remote endpoint sees another port.
    AddressAndPortDependent,
}

/// Who may send to a mapping from outside (RFC 4787 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filtering {
    /// EIF: anybody.
    EndpointIndependent,
    /// ADF: any port of an address that was sent to.
    AddressDependent,
    /// APDF: only endpoints that were sent to.
    AddressAndPortDependent,
}

/// How the external port of a new mapping is chosen (RFC 4787 §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortAllocation {
    /// The internal port while it is free, else as [`Sequential`](Self::Sequential).
    Preserving,
    /// The next free one, counting up.
    Sequential,
    /// Any free one.
    Random,
}

/// Behaviour of a [`Nat`](super::Nat). Start from a preset.
#[derive(Debug, Clone)]
pub struct NatConfig {
    /// Reuse of external ports.
    pub mapping: Mapping,
    /// What is let in.
    pub filtering: Filtering,
    /// Choice of external ports.
    pub allocation: PortAllocation,
    /// Whether two hosts inside reach each other through the external address.
    pub hairpin: bool,
    /// How long a mapping, and each filter entry, lives after the last outbound datagram.
    pub lifetime: Duration,
    /// Mappings held at once; a datagram that needs one more is dropped.
    pub max_mappings: usize,
    /// External ports that are handed out. A preserved port may lie outside.
    pub ports: RangeInclusive<u16>,
}

impl NatConfig {
    /// EIM + EIF, port preserving.
    #[must_use]
    pub fn full_cone() -> Self {
        Self::cone(Filtering::EndpointIndependent)
    }

    /// EIM + ADF, port preserving.
    #[must_use]
    pub fn restricted_cone() -> Self {
        Self::cone(Filtering::AddressDependent)
    }

    /// EIM + APDF, port preserving: the common home router.
    #[must_use]
    pub fn port_restricted_cone() -> Self {
        Self::cone(Filtering::AddressAndPortDependent)
    }

    /// APDM + APDF with random ports: the hardest box to get through.
    #[must_use]
    pub fn symmetric() -> Self {
        Self {
            mapping: Mapping::AddressAndPortDependent,
            allocation: PortAllocation::Random,
            ..Self::port_restricted_cone()
        }
    }

    /// APDM + APDF with ports counting up, which can be predicted.
    #[must_use]
    pub fn symmetric_sequential() -> Self {
        Self {
            allocation: PortAllocation::Sequential,
            ..Self::symmetric()
        }
    }

    fn cone(filtering: Filtering) -> Self {
        Self {
            mapping: Mapping::EndpointIndependent,
            filtering,
            allocation: PortAllocation::Preserving,
            hairpin: false,
            lifetime: Duration::from_secs(120),
            max_mappings: 4096,
            ports: 1024..=u16::MAX,
        }
    }

    /// The same with another [`lifetime`](Self::lifetime).
    #[must_use]
    pub fn with_lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// The same with hairpinning.
    #[must_use]
    pub fn with_hairpin(self) -> Self {
        Self {
            hairpin: true,
            ..self
        }
    }
}
