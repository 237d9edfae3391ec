//! The nftables rules of each kind of router.
//!
//! conntrack by itself translates each flow for itself: a reply comes back, nobody else
//! comes in. Where a kind wants less than that, maps that outbound packets write make up
//! for it.

use std::{fmt::Write as _, net::Ipv4Addr};

use super::router::{LAN, NatKind, WAN};
use crate::nat::Filtering;

/// Seconds that a mapping of a full or restricted cone, a permission, or an IPv6 filter's
/// memory live after the last outbound packet. All else lives as long as conntrack's
/// flows.
const MAP_LIFETIME_S: u32 = 120;

/// Entries of one such map.
const MAP_SIZE: u32 = 8192;

/// First external port of a kind that hands ports out by itself, and how many it has.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 8192;

/// Seed of the hash that picks a carrier's ports. Two endpoints inside with one hash
/// would get one port, and the second no way out; with a fixed seed that is no matter of
/// luck.
const SEED: &str = "seed 0x616e7968";

/// The filter of every router: what nobody inside asked for is dropped without a word.
/// Of IPv6, which is not translated, as much more is let in as `v6` says.
pub(super) fn filter(v6: Filtering) -> String {
    let dynamic = dynamic();
    let invited = match v6 {
        Filtering::EndpointIndependent => "ip6 daddr . udp dport @open6 accept",
        Filtering::AddressDependent => "ip6 saddr . ip6 daddr . udp dport @permitted6 accept",
        Filtering::AddressAndPortDependent => "",
    };
    format!(
        "table inet lab {{
            set open6 {{ type ipv6_addr . inet_service; {dynamic} }}
            set permitted6 {{ type ipv6_addr . ipv6_addr . inet_service; {dynamic} }}
            chain remember {{
                type filter hook forward priority -5; policy accept;
                oifname \"{WAN}\" meta nfproto ipv6 meta l4proto udp \
                    update @open6 {{ ip6 saddr . udp sport }} \
                    update @permitted6 {{ ip6 daddr . ip6 saddr . udp sport }}
            }}
            set blocked4 {{ type ipv4_addr; }}
            set blocked6 {{ type ipv6_addr; }}
            counter blocked {{ }}
            chain shut {{ }}
            chain block {{
                type filter hook forward priority -10; policy accept;
                meta l4proto udp ip daddr @blocked4 counter name blocked drop
                meta l4proto udp ip saddr @blocked4 counter name blocked drop
                meta l4proto udp ip6 daddr @blocked6 counter name blocked drop
                meta l4proto udp ip6 saddr @blocked6 counter name blocked drop
                jump shut
            }}
            chain input {{
                type filter hook input priority filter; policy drop;
                ct state established,related accept
                iifname {{ \"{LAN}\", \"lo\" }} accept
                meta l4proto ipv6-icmp accept
            }}
            chain forward {{
                type filter hook forward priority filter; policy drop;
                ct state established,related accept
                ct status dnat accept
                {invited}
                iifname \"{LAN}\" oifname \"{WAN}\" accept
            }}
        }}\n"
    )
}

/// What drops all UDP that is forwarded, as long as it is in place.
pub(super) const SHUT: &str = "add rule inet lab shut meta l4proto udp counter name blocked drop\n";
/// What ends that.
pub(super) const OPEN: &str = "flush chain inet lab shut\n";

/// What makes the filter forget whom it let in.
pub(super) const FORGET: &str = "flush set inet lab open6\nflush set inet lab permitted6\n";

/// The translation of a kind, as a table that takes the place of an earlier one.
pub(super) fn nat(kind: NatKind, wan: Ipv4Addr) -> String {
    let table = match kind {
        NatKind::FullCone => cone("", wan),
        NatKind::RestrictedCone => cone("ip saddr . udp dport @permitted", wan),
        NatKind::PortRestrictedCone => translate("", "masquerade persistent"),
        NatKind::SymmetricRandom => translate("", "masquerade random,fully-random"),
        NatKind::SymmetricSequential => ports("numgen inc", "", wan),
        NatKind::Carrier => ports("jhash ip saddr . udp sport", SEED, wan),
    };
    format!("table ip nat {{ }}\ndelete table ip nat\ntable ip nat {{ {table} }}\n")
}

/// One port for each endpoint inside, its own, and a way back in for everybody of whom
/// `permits` holds.
fn cone(permits: &str, wan: Ipv4Addr) -> String {
    let dynamic = dynamic();
    let chains = format!(
        "map inside {{ type inet_service : ipv4_addr . inet_service; {dynamic} }}
        set permitted {{ type ipv4_addr . inet_service; {dynamic} }}
        chain remember {{
            type filter hook postrouting priority srcnat - 1; policy accept;
            oifname \"{WAN}\" meta l4proto udp \
                update @inside {{ udp sport : ip saddr . udp sport }} \
                update @permitted {{ ip daddr . udp sport }}
        }}
        chain prerouting {{
            type nat hook prerouting priority dstnat; policy accept;
            iifname \"{WAN}\" ip daddr {wan} meta l4proto udp {permits} \
                dnat ip to udp dport map @inside
        }}\n"
    );
    translate(&chains, "masquerade persistent")
}

/// What makes a set or map one that packets write.
fn dynamic() -> String {
    format!("flags dynamic,timeout; timeout {MAP_LIFETIME_S}s; size {MAP_SIZE};")
}

/// A port for each flow, or for each endpoint inside, picked by a generator of numbers.
/// The numbers go through a map, since they have the byte order of this machine.
fn ports(generator: &str, seed: &str, wan: Ipv4Addr) -> String {
    let mut map = String::new();
    for i in 0..PORTS {
        let _ = write!(map, "{i} : {}, ", FIRST_PORT + i);
    }
    let rule =
        format!("meta l4proto udp snat to {wan} : {generator} mod {PORTS} {seed} map {{ {map} }}");
    let chain = format!("chain numbered {{ {rule}\n }}\n");
    translate(
        &chain,
        &format!("jump numbered\n oifname \"{WAN}\" masquerade"),
    )
}

fn translate(before: &str, rule: &str) -> String {
    format!(
        "{before}
        chain postrouting {{
            type nat hook postrouting priority srcnat; policy accept;
            oifname \"{WAN}\" {rule}
        }}\n"
    )
}
