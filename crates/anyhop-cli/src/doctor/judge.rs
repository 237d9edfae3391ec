//! From facts to checks.

use std::{fmt::Write as _, net::IpAddr};

use anyhop::{Carrier, Endpoint, GatewayState, NatInfo, NatStatus, PathInfo, PathKind};

use super::{
    Check, Status,
    facts::{Facts, Family},
    probe::{PAYLOAD_OF_1280, Probe},
};
use crate::words;

/// Sockets ask for buffers of 4 MiB; below this, bursts of a fast path are lost.
const ENOUGH_BUFFER: u64 = 1 << 20;
/// Clocks that differ by more are told, seconds.
const NOTABLE_SKEW_S: i64 = 60;
/// Clocks that differ by more make records unbelievable, seconds.
const MAX_SKEW_S: i64 = anyhop_base::record::MAX_CLOCK_SKEW_S.cast_signed();
/// Least MTU of an IPv6 link (RFC 8200 section 5).
const MIN_MTU: u64 = 1280;

const OTHER_NAT_WAYS: &str = "switch on UPnP, NAT-PMP or PCP on the router, forward this node's \
     UDP port there, or use IPv6; until then peers behind such NATs meet over relays";

/// All checks, in the order in which they are shown.
pub(super) fn judge(facts: &Facts) -> Vec<Check> {
    vec![
        family(facts, false),
        family(facts, true),
        udp(facts, false),
        udp(facts, true),
        nat(facts),
        port_mapping(facts),
        relays(facts),
        websocket(facts),
        proxy(facts),
        captive_portal(facts),
        clock(facts),
        mtu(facts),
        socket_buffers(facts),
        state_dir(facts),
    ]
}

fn name(ipv6: bool) -> &'static str {
    if ipv6 { "IPv6" } else { "IPv4" }
}

fn of(facts: &Facts, ipv6: bool) -> &Family {
    if ipv6 { &facts.v6 } else { &facts.v4 }
}

fn join<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|i| i.to_string()).collect();
    items.join(", ")
}

/// Addresses and default route.
fn family(facts: &Facts, ipv6: bool) -> Check {
    let check = if ipv6 { "ipv6" } else { "ipv4" };
    let (this, other) = (of(facts, ipv6), of(facts, !ipv6));
    let (family, other_family) = (name(ipv6), name(!ipv6));
    let detail = join(&this.addresses);
    if this.addresses.is_empty() {
        let summary = format!("no {family} address");
        return if !other.addresses.is_empty() || ipv6 {
            Check::new(check, Status::Warn, summary).remedy(format!(
                "none is needed where peers have {other_family} too; else ask the network's \
                 operator or provider for {family}"
            ))
        } else {
            Check::new(check, Status::Fail, summary).remedy(
                "connect this host to a network: bring an interface up and see that it gets an \
                 address (`ip address`)",
            )
        };
    }
    match this.source {
        Err(ref why) => Check::new(
            check,
            Status::Warn,
            format!("{family} addresses, but no way to the internet"),
        )
        .detail(format!("{detail}; {why}"))
        .remedy(format!(
            "add a default route for {family} (`ip route`), unless only this network is to be \
             reached"
        )),
        Ok(source) => {
            let mut summary = format!("{family} from {source}");
            if let Some(gateway) = this.gateways.first() {
                let _ = write!(summary, " via {} ({})", gateway.address, gateway.interface);
            }
            if matches!(source, IpAddr::V6(ip) if ip.is_unique_local()) {
                summary.push_str(", a local address that the internet does not know");
            }
            Check::ok(check, summary).detail(detail)
        }
    }
}

fn carried_by(path: &PathInfo, ipv6: bool) -> bool {
    let carrier = if ipv6 { Carrier::Udp6 } else { Carrier::Udp4 };
    path.kind == PathKind::Direct && path.carrier == carrier
}

fn outcome_line(probe: &Probe) -> String {
    match &probe.outcome {
        Ok(reached) => format!(
            "{} answered in {:.1} ms (payload of {} bytes)",
            probe.endpoint, reached.rtt_ms, reached.mtu
        ),
        Err(why) => format!("{}: {why}", probe.endpoint),
    }
}

/// Whether UDP gets out and an answer comes back.
fn udp(facts: &Facts, ipv6: bool) -> Check {
    let check = if ipv6 { "udp_ipv6" } else { "udp_ipv4" };
    let family = name(ipv6);
    let probes: Vec<_> = facts
        .probes
        .iter()
        .filter(|p| p.endpoint.udp().is_some_and(|a| a.is_ipv6() == ipv6))
        .collect();
    let sessions = facts.sessions.iter().flat_map(|s| &s.paths);
    let answered: Vec<_> = sessions
        .filter(|p| carried_by(p, ipv6))
        .map(|p| format!("{} answers on a session", p.remote))
        .collect();
    let mut lines: Vec<_> = probes.iter().map(|p| outcome_line(p)).collect();
    lines.extend(answered.iter().take(3).cloned());
    let detail = lines.join("; ");
    if !answered.is_empty() || probes.iter().any(|p| p.outcome.is_ok()) {
        return Check::ok(check, format!("UDP over {family} gets out and is answered"))
            .detail(detail);
    }
    if probes.is_empty() {
        return Check::skipped(check, format!("no peer with an {family} address to ask"))
            .remedy("name a peer that runs, with --bootstrap MULTIADDR");
    }
    if of(facts, ipv6).addresses.is_empty() {
        return Check::skipped(check, format!("this host has no {family}")).detail(detail);
    }
    let other = |p: &&Probe| p.endpoint.udp().is_none_or(|a| a.is_ipv6() != ipv6);
    let elsewhere = facts.probes.iter().any(|p| other(&p) && p.outcome.is_ok());
    let status = if elsewhere {
        Status::Warn
    } else {
        Status::Fail
    };
    Check::new(check, status, format!("no answer to UDP over {family}"))
        .detail(detail)
        .remedy(
            "check that the peers named run and have these addresses; if they do, a firewall \
             drops UDP: allow it out and its answers in, or reach a peer over WebSocket \
             (--bootstrap with its /tcp/../wss address)",
        )
}

/// What the NATs in front of this host do.
fn nat(facts: &Facts) -> Check {
    let nat = &facts.status.nat;
    let lines = words::nat_lines(nat);
    let detail = lines.join("; ");
    let families: Vec<(&str, &NatInfo)> = [("IPv4", &nat.v4), ("IPv6", &nat.v6)]
        .into_iter()
        .filter_map(|(family, info)| Some((family, info.as_ref()?)))
        .filter(|(_, info)| info.mapping.is_some())
        .collect();
    if families.is_empty() {
        return match nat.reachability.as_str() {
            "public" => Check::ok("nat", "no NAT: strangers can dial this node"),
            "behind_nat" => Check::skipped("nat", "behind a NAT of a kind not found out yet")
                .detail(detail)
                .remedy("name two or more peers on different hosts with --bootstrap, which show how the NAT treats each"),
            _ => Check::skipped("nat", "nobody has told how this node is seen from outside")
                .remedy("name peers that run, with --bootstrap MULTIADDR: two or more tell most"),
        };
    }
    let kinds = families.iter();
    let summary = join(kinds.map(|(family, info)| format!("{family}: {}", words::kind(info))));
    let mapping = |info: &NatInfo| info.mapping.clone().unwrap_or_default();
    let hard = |info: &NatInfo| !matches!(&*mapping(info), "none" | "endpoint_independent");
    let layered = |info: &NatInfo| info.layers.is_some_and(|l| l > 1);
    if families.iter().all(|(_, info)| hard(info)) {
        return Check::new("nat", Status::Warn, summary)
            .detail(detail)
            .remedy(format!(
                "this NAT gives each destination another port, which defeats simple hole \
                 punching: {OTHER_NAT_WAYS}"
            ));
    }
    if families.iter().all(|(_, info)| layered(info)) {
        return Check::new("nat", Status::Warn, format!("{summary}, several in a row"))
            .detail(detail)
            .remedy(
                "the provider has a NAT of its own (CGNAT): port mappings on your router do not \
                 help; ask for a public address, or use IPv6",
            );
    }
    Check::ok("nat", summary).detail(detail)
}

/// Port mappings on gateways.
fn port_mapping(facts: &Facts) -> Check {
    const CHECK: &str = "port_mapping";
    let nat = &facts.status.nat;
    if !nat.mappings.is_empty() {
        return mapped(CHECK, nat);
    }
    if nat.reachability == "public" {
        return Check::ok(CHECK, "none is needed");
    }
    // What is not known to be needed is not known to be missed.
    let missed = |summary: &str| {
        let status = match nat.reachability.as_str() {
            "behind_nat" => Status::Warn,
            _ => Status::Skipped,
        };
        let reason = nat.gateways.reason.clone();
        Check::new(CHECK, status, summary).detail(reason.unwrap_or_default())
    };
    match nat.gateways.state {
        GatewayState::NotAsked => missed("no gateway is asked").remedy(
            "have the daemon ask: start it with an IPv4 address and without --no-port-mapping",
        ),
        GatewayState::NotNeeded => Check::ok(
            CHECK,
            "none is needed: this host has a public IPv4 address, or no IPv4 network",
        ),
        GatewayState::Asking => Check::skipped(CHECK, "no gateway has answered yet")
            .remedy("look again in a few seconds"),
        GatewayState::NoAnswer => missed("no gateway answers PCP, NAT-PMP or UPnP").remedy(
            "switch one of them on at the router, or forward this node's UDP port there; without \
             it, direct paths depend on hole punching",
        ),
        GatewayState::Refused | GatewayState::Mapped => {
            missed("a gateway answers, and maps no port").remedy(
                "allow this host and its UDP port in the router's settings for UPnP, NAT-PMP and \
                 PCP, or forward the port there",
            )
        }
    }
}

/// Mappings that a gateway says there are.
fn mapped(check: &str, nat: &NatStatus) -> Check {
    let lines: Vec<_> = nat.mappings.iter().map(words::mapping_line).collect();
    let detail = lines.join("; ");
    if nat.mappings.iter().any(|m| m.verified) {
        return Check::ok(check, "a port of the gateway leads to this node").detail(detail);
    }
    let known_bad = nat.mappings.iter().all(|m| m.problem.is_some());
    let summary = match known_bad {
        true => "the gateway maps a port, and that leads nowhere",
        false => "the gateway says that it maps a port, and nobody has come in through it",
    };
    Check::new(check, Status::Warn, summary)
        .detail(detail)
        .remedy(
            "there may be another NAT behind the gateway (compare its external address with \
             `observed_addresses` in `anyhop status`), or its firewall drops what it maps",
        )
}

/// Relays that others reach this node through.
fn relays(facts: &Facts) -> Check {
    let status = &facts.status;
    let attached = status.attachments.len();
    let detail = format!(
        "attachments: {attached}, sessions: {}, bootstrap peers: {}",
        status.sessions,
        facts.bootstrap.len()
    );
    let public = status.nat.reachability == "public";
    if attached > 0 {
        let summary = match attached {
            1 => "attached to one relay".to_owned(),
            n => format!("attached to {n} relays"),
        };
        return Check::ok("relays", summary).detail(detail);
    }
    if public {
        return Check::ok("relays", "none is needed: strangers can dial this node").detail(detail);
    }
    if facts.bootstrap.is_empty() {
        return Check::new(
            "relays",
            Status::Warn,
            "no bootstrap peer, so nobody to meet over",
        )
        .detail(detail)
        .remedy("start the node with --bootstrap MULTIADDR of a node that others use too");
    }
    if status.sessions > 0 {
        return Check::new(
            "relays",
            Status::Warn,
            "no connected peer relays for this node",
        )
        .detail(detail)
        .remedy(
            "name a bootstrap peer that relays (one that runs without --no-relay and is \
                 reached directly)",
        );
    }
    Check::new("relays", Status::Fail, "no bootstrap peer is reached")
        .detail(format!(
            "{detail}; {}",
            join(facts.probes.iter().map(outcome_line))
        ))
        .remedy(
            "see that they run and that their addresses and PeerIds are right; see the checks of \
             UDP and WebSocket for what keeps packets from them",
        )
}

/// WebSocket as the way out where UDP is blocked.
fn websocket(facts: &Facts) -> Check {
    let is_ws = |p: &&Probe| matches!(p.endpoint, Endpoint::Ws { .. });
    let probes: Vec<_> = facts.probes.iter().filter(is_ws).collect();
    let detail = join(probes.iter().map(|p| outcome_line(p)));
    let open = facts.sessions.iter().flat_map(|s| &s.paths);
    if open.filter(|p| p.carrier == Carrier::Ws).count() > 0 {
        return Check::ok("websocket", "a session has a WebSocket").detail(detail);
    }
    if probes.is_empty() {
        return Check::skipped("websocket", "no peer's WebSocket address is known").remedy(
            "for networks that block UDP, name a peer's /tcp/../wss address with --bootstrap \
                 (the peer serves it with `up --listen-ws`)",
        );
    }
    if probes.iter().any(|p| p.outcome.is_ok()) {
        return Check::ok("websocket", "a peer is reached over WebSocket").detail(detail);
    }
    let udp_works = facts.probes.iter().any(|p| p.outcome.is_ok())
        || facts.sessions.iter().any(|s| !s.paths.is_empty());
    let status = if udp_works {
        Status::Warn
    } else {
        Status::Fail
    };
    Check::new("websocket", status, "no peer is reached over WebSocket")
        .detail(detail)
        .remedy(
            "check that the peers serve it there (`up --listen-ws`) and that TCP to that port is \
             let out; behind a proxy set HTTPS_PROXY for the daemon",
        )
}

/// Proxies that the environment names.
fn proxy(facts: &Facts) -> Check {
    let lines = facts
        .proxies
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let detail = join(lines);
    if !facts.bad_proxies.is_empty() {
        return Check::new("proxy", Status::Warn, "one is set and cannot be used")
            .detail(join(&facts.bad_proxies))
            .remedy(
                "WebSockets go through HTTP proxies only: http://[USER:PASSWORD@]HOST[:PORT]; \
                 correct or unset the variable and start the daemon again",
            );
    }
    let names_one = facts
        .proxies
        .iter()
        .any(|(name, _)| !name.eq_ignore_ascii_case("no_proxy"));
    if !names_one {
        return Check::ok("proxy", "none is set in the environment").detail(detail);
    }
    let used = facts.sessions.iter().flat_map(|s| &s.paths);
    let used = used.filter(|p| p.carrier == Carrier::Ws).count();
    let summary = match used {
        0 => "one is set; WebSockets would go through it, and none is open".to_owned(),
        n => format!("one is set; WebSockets go through it, and {n} are open"),
    };
    Check::ok("proxy", summary).detail(detail)
}

/// Whether something answers in the peers' place.
fn captive_portal(facts: &Facts) -> Check {
    const CHECK: &str = "captive_portal";
    if facts.sites.is_empty() {
        return Check::skipped(CHECK, "no peer with a plain WebSocket address to ask");
    }
    let is_genuine = |addr| {
        let plain = Endpoint::Ws { addr, tls: false };
        let mut probes = facts.probes.iter();
        probes.any(|p| p.endpoint == plain && p.outcome.is_ok())
    };
    let mut detail = Vec::new();
    let (mut genuine, mut strange) = (0, 0);
    for site in &facts.sites {
        match &site.outcome {
            _ if is_genuine(site.addr) => {
                genuine += 1;
                detail.push(format!("{} is the peer's own", site.addr));
            }
            Err(why) => detail.push(format!("{}: {why}", site.addr)),
            Ok(answer) => {
                strange += 1;
                let to = answer.location.as_ref();
                let to = to.map_or_else(String::new, |to| format!(", leads to {to}"));
                detail.push(format!("{} answers {}{to}", site.addr, answer.status));
            }
        }
    }
    let detail = detail.join("; ");
    match (strange, genuine) {
        (1.., _) => Check::new(
            CHECK,
            Status::Fail,
            "something else answers HTTP in a peer's place",
        )
        .detail(detail)
        .remedy(
            "sign in to the network: open any http:// page in a browser. If there is nothing to \
             sign in to, check the address, or use the peer's wss address, which nobody between \
             can answer for",
        ),
        (0, 1..) => Check::ok(CHECK, "peers answer for themselves").detail(detail),
        _ => Check::skipped(CHECK, "no site answered").detail(detail),
    }
}

/// This host's clock against those of peers.
fn clock(facts: &Facts) -> Check {
    const CHECK: &str = "clock";
    // By how much each is ahead, at least and at most.
    let mut seen: Vec<(String, i64, i64)> = Vec::new();
    for site in &facts.sites {
        if let Some(date) = site.outcome.as_ref().ok().and_then(|a| a.date_unix_s) {
            let ahead = date.saturating_sub(facts.now_unix_s);
            seen.push((site.addr.to_string(), ahead - 2, ahead + 2));
        }
    }
    for clock in &facts.clocks {
        seen.push((clock.peer_id.clone(), clock.ahead_s_min, clock.ahead_s_max));
    }
    // The least by which a clock must be off: positive when it is ahead of ours.
    let off = |min: i64, max: i64| min.max(0) + max.min(0);
    let table: Vec<_> = seen
        .iter()
        .map(|(who, min, max)| (who, off(*min, *max)))
        .collect();
    let told = table.iter().filter(|(_, off)| off.abs() > NOTABLE_SKEW_S);
    let detail = join(told.clone().map(|(who, off)| {
        let way = if *off > 0 { "ahead" } else { "behind" };
        format!("{who} is {} s {way} or more", off.abs())
    }));
    let (agree, differ) = (table.len() - told.clone().count(), told.clone().count());
    let refused = facts.clocks.iter().any(|c| c.refused);
    let worst = told.map(|(_, off)| off.abs()).max().unwrap_or(0);
    match (agree, differ) {
        (0, 0) => Check::skipped(CHECK, "no peer to compare clocks with"),
        (_, 0) => Check::ok(CHECK, "agrees with those of peers"),
        // The others agree with ours.
        (1.., _) if agree >= differ => {
            Check::new(CHECK, Status::Warn, "the clock of some peer is wrong")
                .detail(detail)
                .remedy("have those hosts set their clocks; their records may not be believed")
        }
        _ => {
            let fails = refused || worst > MAX_SKEW_S;
            let status = if fails { Status::Fail } else { Status::Warn };
            Check::new(
                CHECK,
                status,
                "this host's clock differs from those of peers",
            )
            .detail(detail)
            .remedy(
                "set the clock and keep it by NTP (`timedatectl set-ntp true`): nodes whose \
                     clocks differ by more than 5 minutes do not believe each other's records",
            )
        }
    }
}

/// Whether packets of 1280 bytes pass.
fn mtu(facts: &Facts) -> Check {
    let small = facts
        .mtus
        .iter()
        .filter(|(interface, mtu)| interface != "lo" && (1..MIN_MTU).contains(mtu));
    let small = join(small.map(|(interface, mtu)| format!("{interface} carries {mtu}")));
    let direct = facts.sessions.iter().flat_map(|s| &s.paths);
    let direct = direct.filter(|p| p.kind == PathKind::Direct && p.carrier != Carrier::Ws);
    let probes = facts.probes.iter().filter(|p| p.endpoint.udp().is_some());
    let probed = probes.filter_map(|p| p.outcome.as_ref().ok());
    let seen = direct.map(|p| p.mtu).chain(probed.map(|r| r.mtu)).max();
    let remedy = "raise the MTU of the tunnel or link that lowers it to 1280 or more: IPv6 and \
                  circuits need that, and QUIC at least 1200 bytes inside";
    match seen {
        Some(mtu) if mtu < PAYLOAD_OF_1280 => Check::new(
            "mtu",
            Status::Warn,
            format!("no payload of more than {mtu} bytes was seen to pass"),
        )
        .detail(small)
        .remedy(remedy),
        _ if !small.is_empty() => {
            Check::new("mtu", Status::Warn, "an interface is below 1280 bytes")
                .detail(small)
                .remedy(remedy)
        }
        Some(mtu) => Check::ok("mtu", "packets of 1280 bytes pass")
            .detail(format!("payloads of {mtu} bytes were seen to pass")),
        None => Check::skipped("mtu", "no peer to send larger packets to"),
    }
}

/// The kernel's limits on socket buffers.
fn socket_buffers(facts: &Facts) -> Check {
    const CHECK: &str = "socket_buffers";
    let Some(limits) = facts.buffers else {
        return Check::skipped(CHECK, "the system does not tell its limits");
    };
    let least = limits.receive.min(limits.send);
    let detail = format!("receive {}, send {} bytes", limits.receive, limits.send);
    if least >= ENOUGH_BUFFER {
        return Check::ok(CHECK, format!("up to {} KiB", least / 1024)).detail(detail);
    }
    Check::new(
        CHECK,
        Status::Warn,
        format!("only {} KiB, and a node asks for 4 MiB", least / 1024),
    )
    .detail(detail)
    .remedy(
        "fast transfers lose packets: `sysctl -w net.core.rmem_max=4194304 \
         net.core.wmem_max=4194304`, and the same in /etc/sysctl.d to keep it",
    )
}

/// Key and permissions.
fn state_dir(facts: &Facts) -> Check {
    const CHECK: &str = "state_dir";
    let state = &facts.state;
    let path = state.path.display().to_string();
    let Some(mode) = state.mode else {
        return Check::skipped(CHECK, "there is none yet; `anyhop up` makes it").detail(path);
    };
    if let Err((why, hint)) = &state.key {
        return Check::new(CHECK, Status::Fail, "the key is unusable")
            .detail(why)
            .remedy(hint);
    }
    if let Err(why) = &state.writable {
        return Check::new(CHECK, Status::Fail, "it cannot be written to")
            .detail(format!("{path}: {why}"))
            .remedy("give it to the user who runs the daemon, or choose another --state-dir");
    }
    if mode & 0o077 != 0 {
        return Check::new(CHECK, Status::Warn, "others may look into it")
            .detail(format!("{path} has mode {mode:o}"))
            .remedy(format!("chmod 700 {path}"));
    }
    Check::ok(CHECK, "private and writable").detail(path)
}

#[cfg(test)]
mod tests;
