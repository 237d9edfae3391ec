//! What is told about a packet plane.

use std::{collections::BTreeMap, net::IpAddr};

use anyhop_vpn::Drops;
use serde::{Deserialize, Serialize};

use super::VpnConfig;
use crate::PathInfo;

/// A snapshot of a packet plane.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VpnStatus {
    /// Name of its interface.
    pub interface: String,
    /// `l3`: IP packets, `l2`: ethernet frames.
    pub mode: String,
    /// This node's IPv4 address on it.
    pub address4: Option<String>,
    /// This node's IPv6 address on it.
    pub address6: Option<String>,
    /// Longest packet that the interface takes, bytes.
    pub mtu: u16,
    /// Why an address is missing.
    #[serde(default)]
    pub note: Option<String>,
    /// Who is on it, by PeerId.
    pub peers: Vec<VpnPeerStatus>,
    /// Packets dropped that belong to no peer, by reason.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
}

/// A peer on a packet plane.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VpnPeerStatus {
    /// Who.
    pub peer_id: String,
    /// Its name.
    pub name: String,
    /// Its IPv4 address.
    pub address4: Option<String>,
    /// Its IPv6 address.
    pub address6: Option<String>,
    /// The path that packets to it take; none while there is no session.
    pub path: Option<PathInfo>,
    /// Bytes of packets sent to it, before they were sealed.
    pub tx_bytes: u64,
    /// Bytes of packets that came from it.
    pub rx_bytes: u64,
    /// Packets sent to it.
    #[serde(default)]
    pub tx_packets: u64,
    /// Packets that came from it.
    #[serde(default)]
    pub rx_packets: u64,
    /// Times that the keys of the session with it were replaced.
    #[serde(default)]
    pub rekeys: u64,
    /// The hardware addresses that were heard behind it; of a plane that carries frames.
    #[serde(default)]
    pub macs: Vec<String>,
    /// Packets dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}

impl VpnStatus {
    /// Without peers.
    pub(super) fn of(interface: &str, config: &VpnConfig, note: Option<&str>) -> Self {
        let address = |wanted: fn(&IpAddr) -> bool| {
            let mut own = config.addresses.iter().map(|(ip, _)| ip);
            own.find(|ip| wanted(ip)).map(ToString::to_string)
        };
        Self {
            interface: interface.to_owned(),
            mode: config.options.mode.as_str().to_owned(),
            address4: address(IpAddr::is_ipv4),
            address6: address(IpAddr::is_ipv6),
            mtu: config.options.mode.mtu(),
            note: note.map(str::to_owned),
            peers: Vec::new(),
            drops: BTreeMap::new(),
        }
    }
}

/// Puts counts together.
pub(super) fn drop_counts(drops: &[Drops]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for (reason, packets) in drops.iter().flat_map(Drops::iter) {
        *counts.entry(reason.as_str().to_owned()).or_default() += packets;
    }
    counts
}
