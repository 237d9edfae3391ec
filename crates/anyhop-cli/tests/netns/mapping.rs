//! Port mappings of a real gateway, Debian's miniupnpd on a router of the lab: made over
//! each protocol, used by strangers, renewed, removed, and found out when they lead nowhere.

use std::{net::Ipv4Addr, path::Path, time::Duration};

use anyhop_lab::netns::{NatKind, Process, Router, run};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    PATIENCE,
    node::{Node, PORT, parse},
    turn,
    world::World,
};

const PROGRAM: &str = "/usr/sbin/miniupnpd";

/// The gateway's external address: miniupnpd serves on no address for documentation.
/// Nothing that is sent there leaves the namespaces.
const WAN: Ipv4Addr = Ipv4Addr::new(192, 0, 1, 1);

/// Lifetime of mappings that the gateway grants over PCP, seconds. Nodes renew at half of
/// it, no sooner than after 15 s.
const LIFETIME_S: u64 = 30;

/// Everybody may map ports.
const ALLOW: &str = "allow 1024-65535 0.0.0.0/0 1024-65535\n";

/// Where miniupnpd puts its rules. Its accepting rules are not needed: the lab's routers
/// forward what was translated.
const TABLE: &str = "table inet upnp {
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        jump translate
    }
    chain translate { }
    chain accepted { }
    chain postrouting { }
}\n";

/// Drops PCP without an answer, as gateways did that knew NAT-PMP only. Both have one
/// port; the version is the first byte behind the UDP header.
const WITHOUT_PCP: &str = "table inet old {
    chain input {
        type filter hook input priority -5; policy accept;
        udp dport 5351 @th,64,8 2 drop
    }
}\n";

/// Drops whatever comes in unasked, before it is translated.
const SHUT: &str = "table inet shut {
    chain prerouting {
        type filter hook prerouting priority -150; policy accept;
        iifname \"wan\" ct state new meta l4proto udp drop
    }
}\n";

/// What a gateway speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Pcp,
    NatPmp,
    Upnp,
}

impl Speaks {
    /// As `status` names it.
    fn name(self) -> &'static str {
        match self {
            Self::Pcp => "pcp",
            Self::NatPmp => "nat_pmp",
            Self::Upnp => "upnp_igd",
        }
    }
}

/// A router that maps ports. The program ends before its namespace goes.
struct Home {
    miniupnpd: Process,
    router: Router,
    world: World,
}

impl Home {
    /// `None`, with the reason printed, where there is no miniupnpd.
    async fn new(speaks: Speaks) -> Option<Self> {
        Self::with(speaks, ALLOW).await
    }

    /// The same with more lines of the program's configuration.
    async fn with(speaks: Speaks, settings: &str) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            println!("skipped: {PROGRAM} is not installed");
            return None;
        }
        let mut world = World::new().await;
        // A NAT that lets nobody in but through a mapping, whatever is sent from inside.
        let router = world
            .lab
            .router_with_wan("home", NatKind::SymmetricRandom, WAN);
        let router = router.expect("a router");
        nft(&router, TABLE).await;
        if speaks == Speaks::NatPmp {
            nft(&router, WITHOUT_PCP).await;
        }
        let miniupnpd = start(&world, &router, speaks, settings).await;
        Some(Self {
            miniupnpd,
            router,
            world,
        })
    }

    /// Starts a node inside that knows the relay, and waits until it has a mapping.
    async fn node(&mut self) -> Node {
        let host = self.world.lab.host_behind(&mut self.router, "a");
        let bootstrap = format!("--bootstrap={}", self.relay());
        let host = host.expect("a host");
        let a = Node::up("A", &self.world.lab, host, &[bootstrap]).await;
        has_mapping(&a, "there", |_| true).await;
        a
    }

    fn relay(&self) -> String {
        let v4 = self.world.r.multiaddrs().find(|a| a.starts_with("/ip4/"));
        v4.expect("an address")
    }

    /// The translations that the gateway has for mappings.
    async fn translations(&self) -> Vec<String> {
        let mut list = self.router.namespace().command("nft");
        list.args(["list", "chain", "inet", "upnp", "translate"]);
        let listed = run(list, b"", PATIENCE).await.expect("it ran");
        assert_eq!(listed.code, Some(0), "{}", listed.stderr);
        let lines = listed.stdout.lines().filter(|l| l.contains("dnat"));
        lines.map(|l| l.trim().to_owned()).collect()
    }

    /// What `doctor` says of mappings where there is no daemon, from inside.
    async fn examined(&mut self, name: &str) -> Value {
        let host = self.world.lab.host_behind(&mut self.router, name);
        let state = self.world.lab.directory(name).expect("a directory");
        let mut command = host.expect("a host").command(env!("CARGO_BIN_EXE_anyhop"));
        command.arg("--state-dir").arg(state.join("none"));
        command.args(["--json", "doctor", "--bootstrap", &self.relay()]);
        let done = run(command, b"", PATIENCE).await.expect("it ran");
        check(&parse(&done.stdout))
    }
}

async fn start(world: &World, router: &Router, speaks: Speaks, settings: &str) -> Process {
    let on = |is_on| if is_on { "yes" } else { "no" };
    let (upnp, pmp) = (on(speaks == Speaks::Upnp), on(speaks != Speaks::Upnp));
    let config = format!(
        "ext_ifname=wan\nlistening_ip=lan\nipv6_disable=yes\nsecure_mode=yes\n\
         enable_upnp={upnp}\nenable_natpmp={pmp}\n\
         min_lifetime=1\nmax_lifetime={LIFETIME_S}\n\
         upnp_table_name=upnp\nupnp_nat_table_name=upnp\nupnp_forward_chain=accepted\n\
         upnp_nat_chain=translate\nupnp_nat_postrouting_chain=postrouting\n\
         uuid=00000000-0000-0000-0000-000000000001\n\
         {settings}"
    );
    let files = world.lab.directory("miniupnpd").expect("a directory");
    std::fs::write(files.join("conf"), config).expect("written");
    let mut command = router.namespace().command(PROGRAM);
    command.arg("-d").arg("-f").arg(files.join("conf"));
    command.arg("-P").arg(files.join("pid"));
    let process = Process::start(command).expect("miniupnpd");
    let ready = match speaks {
        Speaks::Upnp => "HTTP listening on port",
        Speaks::Pcp | Speaks::NatPmp => "Listening for NAT-PMP/PCP",
    };
    let deadline = Instant::now() + PATIENCE;
    while !process.stderr().contains(ready) {
        let said = process.stderr();
        assert!(Instant::now() < deadline, "miniupnpd is not ready: {said}");
        sleep(Duration::from_millis(20)).await;
    }
    process
}

async fn nft(router: &Router, script: &str) {
    let mut command = router.namespace().command("nft");
    command.args(["-f", "-"]);
    let done = run(command, script.as_bytes(), PATIENCE).await;
    let done = done.expect("it ran");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
}

/// Waits until the node has a mapping of which `wanted` holds.
async fn has_mapping(node: &Node, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = node.json(&["status"]).await;
        let mapping = &status["nat"]["mappings"][0];
        if !mapping.is_null() && wanted(mapping) {
            return mapping.clone();
        }
        let nat = &status["nat"];
        assert!(
            Instant::now() < deadline,
            "no mapping that is {what}: {nat}"
        );
        sleep(Duration::from_millis(100)).await;
    }
}

fn check(report: &Value) -> Value {
    let checks = report["checks"].as_array().expect("checks");
    let found = checks.iter().find(|c| c["check"] == "port_mapping");
    found.expect("it is always there").clone()
}

/// A node that knows nothing but the mapped address reaches the one behind it.
async fn a_stranger_comes_in_and_nothing_is_left_behind(speaks: Speaks) {
    let Some(_turn) = turn().await else { return };
    let Some(mut home) = Home::new(speaks).await else {
        return;
    };
    let a = home.node().await;
    let mapping = has_mapping(&a, "verified", |m| m["verified"] == true).await;
    assert_eq!(mapping["protocol"], speaks.name());
    assert_eq!(mapping["problem"], Value::Null);
    assert_eq!(mapping["external"], format!("{WAN}:{PORT}"));
    let status = a.json(&["status"]).await;
    assert_eq!(status["nat"]["gateways"]["state"], "mapped");
    assert_eq!(status["nat"]["reachability"], "public");
    assert_eq!(check(&a.json(&["doctor"]).await)["status"], "ok");

    let router = home.world.router("S", NatKind::SymmetricRandom);
    let mut router = router;
    let host = home.world.lab.host_behind(&mut router, "s");
    let only = format!("--bootstrap={}", a.at(WAN));
    let s = Node::up("S", &home.world.lab, host.expect("a host"), &[only]).await;
    s.is_linked_to(&a).await;
    let path = s.selects(&a, "direct").await;
    assert_eq!(path.remote, format!("{WAN}:{PORT}"));
    s.sends(&a, "through the gateway").await;
    s.stop().await;

    let [translation] = &home.translations().await[..] else {
        panic!("not one translation: {:?}", home.translations().await);
    };
    assert!(translation.contains(&format!(":{PORT}")), "{translation}");
    a.stop().await;
    assert_eq!(home.translations().await, [""; 0], "left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn stranger_comes_in_through_a_pcp_mapping() {
    a_stranger_comes_in_and_nothing_is_left_behind(Speaks::Pcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stranger_comes_in_through_a_nat_pmp_mapping() {
    a_stranger_comes_in_and_nothing_is_left_behind(Speaks::NatPmp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stranger_comes_in_through_an_upnp_mapping() {
    a_stranger_comes_in_and_nothing_is_left_behind(Speaks::Upnp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mapping_is_renewed_before_the_gateway_forgets_it() {
    let Some(_turn) = turn().await else { return };
    let Some(mut home) = Home::new(Speaks::Pcp).await else {
        return;
    };
    let a = home.node().await;
    let left = |mapping: &Value| mapping["expires_s"].as_u64().expect("seconds");
    let first = has_mapping(&a, "there", |_| true).await;
    assert!(left(&first) <= LIFETIME_S, "{first}");
    let half = LIFETIME_S / 2;
    let old = has_mapping(&a, "half as old", |m| left(m) <= half + 1).await;
    let renewed = has_mapping(&a, "renewed", |m| left(m) > half + 1).await;
    println!("{} s left, then {} s", left(&old), left(&renewed));
    assert_eq!(renewed["external"], first["external"]);
    assert_eq!(home.translations().await.len(), 1);
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_that_keeps_a_mapped_port_closed_is_found_out() {
    let Some(_turn) = turn().await else { return };
    let Some(mut home) = Home::new(Speaks::Pcp).await else {
        return;
    };
    nft(&home.router, SHUT).await;
    let a = home.node().await;
    a.is_linked_to(&home.world.r).await;
    let mapping = has_mapping(&a, "found out", |m| m["problem"].is_string()).await;
    assert_eq!(mapping["verified"], false);
    let problem = mapping["problem"].as_str().expect("a text");
    assert!(problem.contains("could not reach"), "{problem}");
    let status = a.json(&["status"]).await;
    assert_ne!(status["nat"]["reachability"], "public");
    assert!(a.run(&["status"]).await.contains(problem));
    let check = check(&a.json(&["doctor"]).await);
    assert_eq!(check["status"], "warn", "{check}");
    assert!(check["detail"].as_str().expect("a text").contains(problem));
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_that_names_an_address_of_somebody_else_is_found_out() {
    let Some(_turn) = turn().await else { return };
    let settings = format!("ext_ip=192.0.1.9\n{ALLOW}");
    let Some(mut home) = Home::with(Speaks::Pcp, &settings).await else {
        return;
    };
    let a = home.node().await;
    let mapping = has_mapping(&a, "found out", |m| m["problem"].is_string()).await;
    assert_eq!(mapping["external"], format!("192.0.1.9:{PORT}"));
    assert_eq!(mapping["verified"], false);
    let problem = mapping["problem"].as_str().expect("a text");
    assert!(
        problem.contains(&format!("peers see this host at {WAN}")),
        "{problem}"
    );
    a.stop().await;
    assert_eq!(home.translations().await, [""; 0], "left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_without_a_daemon_asks_the_gateway_and_gives_the_port_back() {
    let Some(_turn) = turn().await else { return };
    let Some(mut home) = Home::new(Speaks::Pcp).await else {
        return;
    };
    let mapped = home.examined("first").await;
    assert_eq!(mapped["status"], "ok", "{mapped}");
    assert!(mapped["detail"].as_str().expect("a text").contains("PCP"));
    assert_eq!(home.translations().await, [""; 0], "left behind");

    home.miniupnpd.kill();
    let silent = home.examined("second").await;
    assert_eq!(silent["status"], "warn", "{silent}");
    let summary = silent["summary"].as_str().expect("a text");
    assert!(summary.contains("no gateway answers"), "{silent}");
}
