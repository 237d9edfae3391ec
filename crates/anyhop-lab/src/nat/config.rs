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
    /// The next free one, counting up; what others behind the box open in between
    /// ([`NatConfig::other_traffic`]) counts too.
    Sequential,
    /// Any free one.
    Random,
}

/// How a NAT answers those inside who ask for a port mapping (PCP, NAT-PMP, UPnP-IGD).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortMapping {
    /// It offers none.
    Unsupported,
    /// It makes the mapping.
    Honest,
    /// It says that it made the mapping, and did not.
    Lying,
}

/// What a NAT does with addresses of a family on their way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// They become its own.
    Translated,
    /// They stay; a stateful filter decides who may answer.
    Untranslated,
    /// Packets with them are dropped.
    Blocked,
}

/// Behaviour of a [`Nat`](super::Nat). Start from a preset.
#[derive(Debug, Clone, PartialEq)]
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
    /// Whether what comes in keeps its mapping and filter entry alive too (RFC 4787 §4.3).
    pub inbound_refresh: bool,
    /// Mappings held at once; a datagram that needs one more is dropped.
    pub max_mappings: usize,
    /// Mappings held at once for one address inside, the quota of a carrier's NAT.
    pub max_mappings_per_host: usize,
    /// External ports per second that others behind the box open, on average; only
    /// [`PortAllocation::Sequential`] shows it.
    pub other_traffic: f64,
    /// IPv6 behind the box keeps its addresses, and this filter decides who gets in;
    /// `None` translates IPv6 as IPv4, or drops it without an external IPv6 address.
    pub ipv6_firewall: Option<Filtering>,
    /// Port mappings on request.
    pub port_mapping: PortMapping,
    /// For how long a remote endpoint whose datagram was not let in is shut out from that
    /// external port, whatever is sent there afterwards: what some routers and firewalls do
    /// against scans, and NATs that keep a state for every packet. `None` forgets it.
    pub unsolicited_blocked: Option<Duration>,
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

    /// A carrier's box: EIM + APDF (RFC 6888 asks for EIM), random ports, a quota of
    /// mappings for each customer.
    #[must_use]
    pub fn carrier_grade() -> Self {
        Self {
            allocation: PortAllocation::Random,
            max_mappings: 65_536,
            max_mappings_per_host: 1000,
            ..Self::port_restricted_cone()
        }
    }

    fn cone(filtering: Filtering) -> Self {
        Self {
            mapping: Mapping::EndpointIndependent,
            filtering,
            allocation: PortAllocation::Preserving,
            hairpin: false,
            lifetime: Duration::from_secs(120),
            inbound_refresh: false,
            max_mappings: 4096,
            max_mappings_per_host: usize::MAX,
            other_traffic: 0.0,
            ipv6_firewall: None,
            port_mapping: PortMapping::Unsupported,
            unsolicited_blocked: None,
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

    /// The same, letting IPv6 out untranslated behind a filter of this kind.
    #[must_use]
    pub fn with_ipv6_firewall(self, filtering: Filtering) -> Self {
        Self {
            ipv6_firewall: Some(filtering),
            ..self
        }
    }

    /// The same with another [`port_mapping`](Self::port_mapping).
    #[must_use]
    pub fn with_port_mapping(self, port_mapping: PortMapping) -> Self {
        Self {
            port_mapping,
            ..self
        }
    }

    /// The same, [blocking](Self::unsolicited_blocked) those that come unasked.
    #[must_use]
    pub fn with_unsolicited_blocked(self, duration: Duration) -> Self {
        Self {
            unsolicited_blocked: Some(duration),
            ..self
        }
    }

    /// The same with others opening this many ports per second.
    #[must_use]
    pub fn with_other_traffic(self, ports_per_s: f64) -> Self {
        Self {
            other_traffic: ports_per_s,
            ..self
        }
    }
}
