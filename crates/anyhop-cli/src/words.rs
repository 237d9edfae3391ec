//! NAT behaviour in words: what RFC 4787 calls it, and what people call it.

use anyhop::{GatewayInfo, GatewayState, MappingInfo, NatInfo, NatStatus};

/// What is known, a line for each part.
pub(crate) fn nat_lines(nat: &NatStatus) -> Vec<String> {
    let mut lines = vec![reachability(&nat.reachability).to_owned()];
    for (family, info) in [("IPv4", &nat.v4), ("IPv6", &nat.v6)] {
        lines.extend(info.iter().map(|i| format!("{family}: {}", family_line(i))));
    }
    lines.extend(nat.mappings.iter().map(mapping_line));
    lines
}

/// Whether strangers can dial this node.
pub(crate) fn reachability(reachability: &str) -> &'static str {
    match reachability {
        "public" => "strangers can dial this node",
        "behind_nat" => "strangers cannot dial this node",
        _ => "whether strangers can dial this node is not known",
    }
}

/// The NAT of one family.
pub(crate) fn family_line(info: &NatInfo) -> String {
    let mut parts = vec![kind(info).to_owned()];
    let behaviours = [("mapping", &info.mapping), ("filtering", &info.filtering)];
    for (what, how) in behaviours {
        if let Some(how) = how.as_deref().filter(|how| *how != "none") {
            parts.push(format!("{} {what}", how.replace('_', "-")));
        }
    }
    if let Some(how) = info.allocation.as_deref() {
        let how = match how {
            "preserving" => "external ports are those inside",
            "sequential" => "external ports are counted up",
            _ => "external ports are random",
        };
        parts.push(how.to_owned());
    }
    match info.hairpin {
        Some(true) => parts.push("hairpins".to_owned()),
        Some(false) => parts.push("does not hairpin".to_owned()),
        None => {}
    }
    if let Some(seconds) = info.lifetime_s {
        parts.push(format!("forgets silent mappings after {seconds} s"));
    }
    if let Some(layers @ 2..) = info.layers {
        parts.push(format!("{layers} NATs in a row"));
    }
    if let Some(external) = &info.external {
        parts.push(format!("seen at {external}"));
    }
    parts.join(", ")
}

/// The common name of a NAT.
pub(crate) fn kind(info: &NatInfo) -> &'static str {
    match (info.mapping.as_deref(), info.filtering.as_deref()) {
        (Some("none"), Some("none")) => "no NAT",
        (Some("none"), Some(_)) => "no NAT, behind a firewall",
        (Some("none"), None) => "no NAT, perhaps a firewall",
        (Some("endpoint_independent"), Some("endpoint_independent" | "none")) => "full-cone NAT",
        (Some("endpoint_independent"), Some("address_dependent")) => "restricted-cone NAT",
        (Some("endpoint_independent"), Some("address_and_port_dependent")) => {
            "port-restricted-cone NAT"
        }
        (Some("endpoint_independent"), _) => "cone NAT",
        (Some("address_dependent" | "address_and_port_dependent"), _) => "symmetric NAT",
        _ => "kind of NAT not found out yet",
    }
}

/// A mapping on the gateway.
pub(crate) fn mapping_line(mapping: &MappingInfo) -> String {
    let protocol = match mapping.protocol.as_str() {
        "pcp" => "PCP",
        "nat_pmp" => "NAT-PMP",
        "upnp_igd" => "UPnP",
        other => other,
    };
    let worth = match (&mapping.problem, mapping.verified) {
        (Some(problem), _) => format!("of no use: {problem}"),
        (None, true) => "seen to work".to_owned(),
        (None, false) => "not seen to work".to_owned(),
    };
    format!(
        "{protocol} mapping at {} for {} s, {worth}",
        mapping.external, mapping.expires_s
    )
}

/// What came of asking gateways for mappings; `None` where the mappings say it, or none is
/// needed.
pub(crate) fn gateway_line(gateways: &GatewayInfo) -> Option<String> {
    let reason = gateways.reason.as_deref().unwrap_or("no reason told");
    match gateways.state {
        GatewayState::NotAsked => Some("gateways are not asked for port mappings".to_owned()),
        GatewayState::Asking => Some("gateways are being asked for port mappings".to_owned()),
        GatewayState::NoAnswer => Some(format!("no gateway answers ({reason})")),
        GatewayState::Refused => Some(format!("no gateway maps a port ({reason})")),
        GatewayState::NotNeeded | GatewayState::Mapped => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nats_are_named_as_people_name_them_and_described_as_the_rfc_does() {
        let info = |mapping: &str, filtering: Option<&str>| NatInfo {
            mapping: Some(mapping.to_owned()),
            filtering: filtering.map(str::to_owned),
            ..NatInfo::default()
        };
        let (eim, apdm) = ("endpoint_independent", "address_and_port_dependent");
        let table = [
            (info("none", Some("none")), "no NAT"),
            (
                info("none", Some(apdm)),
                "no NAT, behind a firewall, address-and-port-dependent filtering",
            ),
            (info(eim, None), "cone NAT, endpoint-independent mapping"),
            (
                info(eim, Some(apdm)),
                "port-restricted-cone NAT, endpoint-independent mapping, \
                 address-and-port-dependent filtering",
            ),
            (
                info(apdm, None),
                "symmetric NAT, address-and-port-dependent mapping",
            ),
            (NatInfo::default(), "kind of NAT not found out yet"),
        ];
        for (info, words) in table {
            assert_eq!(family_line(&info), words);
        }
    }

    #[test]
    fn what_is_wrong_with_a_mapping_is_told() {
        let mut mapping = MappingInfo {
            protocol: "nat_pmp".to_owned(),
            external: "198.51.100.7:4001".to_owned(),
            expires_s: 3600,
            verified: true,
            problem: None,
        };
        let line = "NAT-PMP mapping at 198.51.100.7:4001 for 3600 s, ";
        assert_eq!(mapping_line(&mapping), format!("{line}seen to work"));
        mapping.verified = false;
        assert_eq!(mapping_line(&mapping), format!("{line}not seen to work"));
        mapping.problem = Some("nobody gets in".to_owned());
        let told = mapping_line(&mapping);
        assert_eq!(told, format!("{line}of no use: nobody gets in"));
    }

    #[test]
    fn everything_found_out_is_told() {
        let line = family_line(&NatInfo {
            mapping: Some("address_dependent".to_owned()),
            filtering: None,
            allocation: Some("sequential".to_owned()),
            hairpin: Some(false),
            lifetime_s: Some(30),
            layers: Some(2),
            external: Some("192.0.2.1:7".to_owned()),
        });
        for part in [
            "counted up",
            "does not hairpin",
            "30 s",
            "2 NATs",
            "192.0.2.1:7",
        ] {
            assert!(line.contains(part), "{line}");
        }
    }
}
