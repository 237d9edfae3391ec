use std::path::PathBuf;

use anyhop::{
    GatewayInfo, Keypair, MappingInfo, NatStatus, NodeStatus, PeerAddr, PeerClock, PeerId,
    RelayStatus, SessionInfo,
};
use anyhop_os::SocketBufferLimits;

use super::*;
use crate::doctor::{
    facts::StateFacts,
    probe::Reached,
    site::{Site, SiteAnswer},
};

const NOW: i64 = 1_800_000_000;

fn peer() -> PeerId {
    Keypair::generate_ed25519().public().to_peer_id()
}

fn host_family(addresses: &[&str]) -> Family {
    let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().expect("IP")).collect();
    Family {
        source: addresses
            .first()
            .copied()
            .ok_or_else(|| "no route".to_owned()),
        addresses,
        gateways: Vec::new(),
    }
}

/// A host with IPv4, a node that knows nobody.
fn facts() -> Facts {
    Facts {
        status: NodeStatus {
            peer_id: String::new(),
            network: String::new(),
            addresses: Vec::new(),
            observed_addresses: Vec::new(),
            nat: NatStatus {
                reachability: "unknown".to_owned(),
                ..NatStatus::default()
            },
            relay: RelayStatus {
                enabled: true,
                circuits: 0,
                forwarded_bytes: 0,
            },
            attachments: Vec::new(),
            sessions: 0,
            uptime_s: 1,
            dropped: Vec::new(),
            messages: anyhop::MessageCounts::default(),
        },
        sessions: Vec::new(),
        clocks: Vec::new(),
        bootstrap: Vec::new(),
        probes: Vec::new(),
        sites: Vec::new(),
        v4: host_family(&["192.0.2.7"]),
        v6: host_family(&[]),
        mtus: vec![("eth0".to_owned(), 1500), ("lo".to_owned(), 65_536)],
        buffers: Some(SocketBufferLimits {
            receive: 4 << 20,
            send: 4 << 20,
        }),
        state: StateFacts {
            path: PathBuf::from("/state"),
            mode: Some(0o700),
            key: Ok(()),
            writable: Ok(()),
        },
        proxies: Vec::new(),
        bad_proxies: Vec::new(),
        now_unix_s: NOW,
    }
}

fn probe(endpoint: &str, outcome: Result<u16, &str>) -> Probe {
    let id = peer();
    let text = format!("{endpoint}/p2p/{id}");
    let addr: PeerAddr = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
    Probe {
        endpoint: addr.addr,
        outcome: match outcome {
            Ok(mtu) => Ok(Reached { rtt_ms: 3.0, mtu }),
            Err(why) => Err(why.to_owned()),
        },
    }
}

const V4: &str = "/ip4/203.0.113.1/udp/4001/quic-v1";
const V6: &str = "/ip6/2001:db8::1/udp/4001/quic-v1";
const WS: &str = "/ip4/203.0.113.1/tcp/80/ws";

/// Every problem has a way out, and what is good needs none.
#[track_caller]
fn expect(check: &Check, status: Status) {
    assert_eq!(check.status, status, "{check:?}");
    assert!(!check.summary.is_empty(), "{check:?}");
    match status {
        Status::Warn | Status::Fail => assert!(!check.remediation.is_empty(), "{check:?}"),
        Status::Ok => assert_eq!(check.remediation, "", "{check:?}"),
        Status::Skipped => {}
    }
}

#[test]
fn every_check_is_there_once_whatever_is_known() {
    let checks = judge(&facts());
    let names: Vec<_> = checks.iter().map(|c| c.check.as_str()).collect();
    let documented = include_str!("../../../../../docs/cli.md");
    for name in &names {
        assert!(documented.contains(&format!("| `{name}` |")), "{name}");
        assert_eq!(names.iter().filter(|n| *n == name).count(), 1, "{name}");
    }
    // A node that knows nobody has no failure: nothing was seen to fail.
    for check in &checks {
        assert_ne!(check.status, Status::Fail, "{check:?}");
        expect(check, check.status);
    }
}

#[test]
fn a_family_needs_an_address_and_a_route() {
    let mut f = facts();
    expect(&family(&f, false), Status::Ok);
    expect(&family(&f, true), Status::Warn);
    f.v4.source = Err("Network is unreachable".to_owned());
    let check = family(&f, false);
    expect(&check, Status::Warn);
    assert!(check.detail.contains("Network is unreachable"), "{check:?}");
    f.v4 = host_family(&[]);
    expect(&family(&f, false), Status::Fail);
    f.v6 = host_family(&["2001:db8::7"]);
    expect(&family(&f, false), Status::Warn);
    expect(&family(&f, true), Status::Ok);
}

#[test]
fn udp_fails_only_where_it_was_tried_and_nothing_else_works() {
    let mut f = facts();
    expect(&udp(&f, false), Status::Skipped);
    f.probes = vec![probe(V4, Err("no answer")), probe(V6, Err("no answer"))];
    expect(&udp(&f, false), Status::Fail);
    // Without IPv6 there is nothing to fail.
    expect(&udp(&f, true), Status::Skipped);
    f.probes.push(probe(WS, Ok(1452)));
    let check = udp(&f, false);
    expect(&check, Status::Warn);
    assert!(check.remediation.contains("WebSocket"), "{check:?}");
    f.probes[0] = probe(V4, Ok(1452));
    expect(&udp(&f, false), Status::Ok);
}

#[test]
fn a_session_shows_that_udp_works_where_nothing_was_probed() {
    let mut f = facts();
    f.sessions = vec![SessionInfo {
        peer_id: peer().to_string(),
        age_s: 1,
        dialer: "peer".to_owned(),
        paths: vec![PathInfo {
            kind: PathKind::Direct,
            carrier: Carrier::Udp4,
            remote: "203.0.113.1:4001".to_owned(),
            via: Vec::new(),
            rtt_ms: 1.0,
            mtu: 1452,
            selected: true,
        }],
    }];
    let check = udp(&f, false);
    expect(&check, Status::Ok);
    assert!(check.detail.contains("203.0.113.1:4001"), "{check:?}");
    expect(&mtu(&f), Status::Ok);
    // A circuit proves nothing about UDP to the peer.
    f.sessions[0].paths[0].kind = PathKind::Circuit;
    expect(&udp(&f, false), Status::Skipped);
}

#[test]
fn nats_that_defeat_punching_are_told_with_a_way_out() {
    let info = |mapping: &str, layers| NatInfo {
        mapping: Some(mapping.to_owned()),
        layers,
        ..NatInfo::default()
    };
    let (eim, apdm) = ("endpoint_independent", "address_and_port_dependent");
    let table = [
        (Some(info(eim, None)), None, Status::Ok),
        (Some(info("none", None)), None, Status::Ok),
        (Some(info(apdm, None)), None, Status::Warn),
        (Some(info(eim, Some(2))), None, Status::Warn),
        // The other family makes up for it.
        (Some(info(apdm, None)), Some(info("none", None)), Status::Ok),
        (None, None, Status::Skipped),
    ];
    for (v4, v6, status) in table {
        let mut f = facts();
        (f.status.nat.v4, f.status.nat.v6) = (v4, v6);
        expect(&nat(&f), status);
    }
    let mut f = facts();
    f.status.nat.reachability = "public".to_owned();
    expect(&nat(&f), Status::Ok);
}

#[test]
fn a_gateways_word_counts_only_when_somebody_came_in() {
    let mapping = |verified| MappingInfo {
        protocol: "upnp_igd".to_owned(),
        external: "198.51.100.7:4001".to_owned(),
        expires_s: 3600,
        verified,
        problem: None,
    };
    let mut f = facts();
    f.status.nat.reachability = "behind_nat".to_owned();
    expect(&port_mapping(&f), Status::Warn);
    f.status.nat.mappings = vec![mapping(false)];
    let check = port_mapping(&f);
    expect(&check, Status::Warn);
    assert!(check.summary.contains("says"), "{check:?}");
    f.status.nat.mappings[0].problem = Some("the port is closed".to_owned());
    let check = port_mapping(&f);
    expect(&check, Status::Warn);
    assert!(check.summary.contains("leads nowhere"), "{check:?}");
    assert!(check.detail.contains("the port is closed"), "{check:?}");
    f.status.nat.mappings.push(mapping(true));
    expect(&port_mapping(&f), Status::Ok);
}

#[test]
fn silent_gateways_are_told_from_those_that_refuse_and_those_not_asked() {
    let check = |state, reachability: &str| {
        let mut f = facts();
        f.status.nat.reachability = reachability.to_owned();
        let asked = matches!(state, GatewayState::NoAnswer | GatewayState::Refused);
        f.status.nat.gateways = GatewayInfo {
            state,
            reason: asked.then(|| "10.0.0.1: as it said".to_owned()),
        };
        port_mapping(&f)
    };
    let (natted, unknown) = ("behind_nat", "unknown");
    let table = [
        (GatewayState::NotAsked, natted, Status::Warn, "is asked"),
        (GatewayState::NotAsked, unknown, Status::Skipped, "is asked"),
        (GatewayState::NotNeeded, unknown, Status::Ok, "needed"),
        (GatewayState::Asking, natted, Status::Skipped, "yet"),
        (
            GatewayState::NoAnswer,
            natted,
            Status::Warn,
            "no gateway answers",
        ),
        (
            GatewayState::NoAnswer,
            unknown,
            Status::Skipped,
            "no gateway answers",
        ),
        (GatewayState::Refused, natted, Status::Warn, "maps no port"),
    ];
    for (state, reachability, status, says) in table {
        let check = check(state, reachability);
        expect(&check, status);
        assert!(check.summary.contains(says), "{check:?}");
        let asked = matches!(state, GatewayState::NoAnswer | GatewayState::Refused);
        assert_eq!(check.detail.contains("as it said"), asked, "{check:?}");
    }
}

#[test]
fn a_node_that_reaches_none_of_its_peers_fails() {
    let mut f = facts();
    expect(&relays(&f), Status::Warn);
    f.bootstrap = vec![format!("{V4}/p2p/{}", peer()).parse().expect("valid")];
    f.probes = vec![probe(V4, Err("no answer"))];
    let check = relays(&f);
    expect(&check, Status::Fail);
    assert!(
        check.detail.contains("203.0.113.1:4001: no answer"),
        "{check:?}"
    );
    f.status.sessions = 1;
    expect(&relays(&f), Status::Warn);
    f.status.attachments = vec![peer().to_string()];
    expect(&relays(&f), Status::Ok);
}

#[test]
fn who_answers_in_a_peers_place_is_a_captive_portal() {
    let answer = |status, location: Option<&str>| Site {
        addr: "203.0.113.1:80".parse().expect("valid"),
        outcome: Ok(SiteAnswer {
            status,
            location: location.map(str::to_owned),
            date_unix_s: None,
        }),
    };
    let mut f = facts();
    expect(&captive_portal(&f), Status::Skipped);
    f.sites = vec![answer(302, Some("http://portal.example/"))];
    f.probes = vec![probe(WS, Err("HTTP 302 instead of a WebSocket"))];
    let check = captive_portal(&f);
    expect(&check, Status::Fail);
    assert!(check.detail.contains("portal.example"), "{check:?}");
    expect(&websocket(&f), Status::Fail);
    // The same site, and the WebSocket behind it is the peer's.
    f.probes = vec![probe(WS, Ok(1452))];
    expect(&captive_portal(&f), Status::Ok);
    expect(&websocket(&f), Status::Ok);
    f.probes.clear();
    f.sites[0].outcome = Err("Connection refused".to_owned());
    expect(&captive_portal(&f), Status::Skipped);
}

#[test]
fn clocks_are_compared_and_the_odd_one_out_is_blamed() {
    let clock = |min, max, refused| PeerClock {
        peer_id: peer().to_string(),
        ahead_s_min: min,
        ahead_s_max: max,
        refused,
    };
    let agrees = || clock(-600, 2100, false);
    let table = [
        (vec![], Status::Skipped),
        (vec![agrees()], Status::Ok),
        (vec![clock(90, 2800, false)], Status::Warn),
        (vec![clock(400, 3100, false)], Status::Fail),
        (vec![clock(-9000, -6300, true)], Status::Fail),
        (vec![agrees(), clock(7200, 9900, true)], Status::Warn),
        (
            vec![agrees(), clock(7200, 9900, true), clock(7200, 9900, true)],
            Status::Fail,
        ),
    ];
    for (clocks, status) in table {
        let mut f = facts();
        f.clocks = clocks;
        expect(&clock_of(&f), status);
    }
    let mut f = facts();
    f.sites = vec![Site {
        addr: "203.0.113.1:80".parse().expect("valid"),
        outcome: Ok(SiteAnswer {
            status: 200,
            location: None,
            date_unix_s: Some(NOW + 3600),
        }),
    }];
    expect(&clock_of(&f), Status::Fail);
}

fn clock_of(facts: &Facts) -> Check {
    clock(facts)
}

#[test]
fn small_packets_and_small_buffers_are_told() {
    let mut f = facts();
    expect(&mtu(&f), Status::Skipped);
    f.probes = vec![probe(V4, Ok(1200))];
    expect(&mtu(&f), Status::Warn);
    f.probes = vec![probe(V4, Ok(PAYLOAD_OF_1280))];
    expect(&mtu(&f), Status::Ok);
    f.mtus.push(("wg0".to_owned(), 1200));
    let check = mtu(&f);
    expect(&check, Status::Warn);
    assert!(check.detail.contains("wg0"), "{check:?}");
    f.buffers = Some(SocketBufferLimits {
        receive: 212_992,
        send: 4 << 20,
    });
    expect(&socket_buffers(&f), Status::Warn);
}

#[test]
fn an_unusable_state_directory_fails_and_an_open_one_warns() {
    let mut f = facts();
    expect(&state_dir(&f), Status::Ok);
    f.state.mode = Some(0o755);
    expect(&state_dir(&f), Status::Warn);
    f.state.writable = Err("Permission denied".to_owned());
    expect(&state_dir(&f), Status::Fail);
    f.state.key = Err(("exposed".to_owned(), "chmod 600 it".to_owned()));
    let check = state_dir(&f);
    expect(&check, Status::Fail);
    assert_eq!(check.remediation, "chmod 600 it");
    f.state.mode = None;
    expect(&state_dir(&f), Status::Skipped);
}

#[test]
fn a_proxy_in_the_environment_is_told() {
    let mut f = facts();
    f.proxies = vec![("no_proxy".to_owned(), ".lan".to_owned())];
    assert!(proxy(&f).summary.contains("none"), "{:?}", proxy(&f));
    f.proxies
        .push(("HTTPS_PROXY".to_owned(), "http://proxy:3128".to_owned()));
    let check = proxy(&f);
    expect(&check, Status::Ok);
    assert!(check.detail.contains("http://proxy:3128"), "{check:?}");
    f.bad_proxies = vec!["HTTPS_PROXY: socks5 is not spoken".to_owned()];
    let check = proxy(&f);
    expect(&check, Status::Warn);
    assert!(check.detail.contains("socks5"), "{check:?}");
}
