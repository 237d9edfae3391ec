//! Names of members: asked for by others' programs over UDP and TCP, by this host's own
//! resolver, and a resolver that is left as it was found.

use std::{
    fs,
    net::{IpAddr, UdpSocket},
    path::Path,
    process::Command,
    thread,
};

use anyhop_lab::netns::{Namespace, NatKind, run};

use crate::{
    PATIENCE,
    node::Node,
    turn,
    vpn::{host_state, network, own, pings, status},
    world::World,
};

const DIG: &str = "/usr/bin/dig";
/// What the host has for a resolver before. A server of ours answers there.
const BEFORE: &str = "search example.org\nnameserver 127.0.0.1\noptions timeout:1 attempts:1\n";
/// What that server says of every name.
const OUTSIDE: [u8; 4] = [198, 51, 100, 9];

async fn output(mut command: Command, args: &[&str]) -> String {
    command.args(args);
    run(command, b"", PATIENCE).await.expect("runs").stdout
}

/// What `dig` says in a namespace, one line for each record.
async fn dig(host: &Namespace, server: &IpAddr, args: &[&str]) -> String {
    let server = format!("@{server}");
    let all = [&[&*server, "+tries=3", "+time=5"], args].concat();
    output(host.command(DIG), &all).await
}

/// The addresses that the C library finds.
async fn getent(host: &Namespace, database: &str, name: &str) -> String {
    let found = output(host.command("getent"), &[database, name]).await;
    let first = found.split_whitespace().next();
    first.unwrap_or_default().to_owned()
}

/// Answers every question for an IPv4 address with the same, as long as the test runs; others
/// with nothing.
fn serve_outside(host: &Namespace) {
    let bind = || UdpSocket::bind("127.0.0.1:53");
    let socket = host.enter(bind).expect("bound");
    thread::spawn(move || {
        let mut bytes = [0; 1500];
        while let Ok((len, from)) = socket.recv_from(&mut bytes) {
            // Up to the type and class of the question, which follow the name.
            let name = bytes[12..len].iter().position(|b| *b == 0).unwrap_or(0);
            let end = (12 + name + 5).min(len);
            let is_a = bytes[end - 3] == 1;
            let mut reply = bytes[..end].to_vec();
            reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
            if is_a {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
                reply.extend(OUTSIDE);
            }
            let _ = socket.send_to(&reply, from);
        }
    });
}

/// What may not change on a host: what `host_state` tells, rules, settings, its resolver's file.
pub(crate) fn found_on(host: &Namespace) -> String {
    let rules = host.command("nft").args(["list", "ruleset"]).output();
    let rules = String::from_utf8(rules.expect("nft runs").stdout).expect("text");
    let resolver = fs::read_to_string(host.resolv_conf()).expect("readable");
    let settings = [
        "ipv4/ip_forward",
        "ipv6/conf/all/forwarding",
        "ipv6/conf/default/accept_ra",
    ];
    let settings = settings.map(|key| format!("/proc/sys/net/{key}"));
    let read = move || settings.map(std::fs::read_to_string).into_iter().collect();
    let settings: String = host.enter(read).expect("readable");
    host_state(host) + &rules + &settings + &resolver
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_found_by_name_over_udp_and_tcp_and_nobody_else_is() {
    let Some(_turn) = turn().await else { return };
    if !Path::new(DIG).exists() {
        println!("skipped: {DIG} is not installed");
        return;
    }
    let mut world = World::new().await;
    let mut a = world.behind("A", NatKind::PortRestrictedCone).await;
    network(&world.r, &[&a.node]).await;
    for node in [&world.r, &a.node] {
        node.json(&["vpn", "up"]).await;
    }
    let [seen, owner] = [status(&a.node).await, status(&world.r).await];
    let (at_a, at_owner) = (own(&seen), own(&owner));
    assert_eq!(seen["dns"]["address"], seen["address4"], "{seen}");
    assert_eq!(seen["dns"]["domain"], "lab.anyhop");
    assert_eq!(seen["dns"]["hook"], "resolv.conf");
    pings(&mut a.node, at_owner[0], 1).await;
    let host = a.node.namespace().clone();
    let by_id = format!("{}.lab.anyhop", world.r.peer);
    // On a host's own addresses, and a member's over the VPN. The loopback interface of A,
    // over which its own IPv6 address would be reached, has no IPv6.
    let owner_host = world.r.namespace().clone();
    let servers = [
        (&host, at_a[0]),
        (&host, at_owner[0]),
        (&host, at_owner[1]),
        (&owner_host, at_owner[1]),
    ];
    for (host, server) in &servers {
        for transport in ["+notcp", "+tcp"] {
            for (name, kind, ip) in [
                ("owner.lab.anyhop", "A", at_owner[0]),
                ("OWNER.Lab.anyhop", "AAAA", at_owner[1]),
                (&by_id, "A", at_owner[0]),
            ] {
                let found = dig(host, server, &[name, kind, transport, "+short"]).await;
                assert_eq!(found.trim(), ip.to_string(), "{name} at {server}");
            }
            for ip in &at_owner {
                let reverse = ["-x", &ip.to_string(), transport, "+short"];
                let name = dig(host, server, &reverse).await;
                assert_eq!(name.trim(), "owner.lab.anyhop.", "{ip} at {server}");
            }
            for (name, kind, code) in [
                ("nobody.lab.anyhop", "A", "NXDOMAIN"),
                ("owner.lab.anyhop", "MX", "NOERROR"),
                ("lab.anyhop", "AXFR", "REFUSED"),
                ("example.org", "A", "REFUSED"),
            ] {
                let said = dig(host, server, &[name, kind, transport, "+noidnout"]).await;
                let refused_transfer = kind == "AXFR" && said.contains("Transfer failed");
                let told = said.contains(&format!("status: {code}"));
                assert!(told || refused_transfer, "{name} at {server}: {said}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_finds_members_and_everybody_else_and_is_left_as_it_was() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let mut a = world.behind("A", NatKind::PortRestrictedCone).await;
    network(&world.r, &[&a.node]).await;
    let host = a.node.namespace().clone();
    fs::write(host.resolv_conf(), BEFORE).expect("written");
    serve_outside(&host);
    let outside = IpAddr::from(OUTSIDE).to_string();
    assert_eq!(getent(&host, "ahostsv4", "outside.example").await, outside);
    let found = found_on(&host);

    a.node.json(&["vpn", "up", "--no-dns"]).await;
    assert!(status(&a.node).await["dns"].is_null());
    assert_eq!(
        fs::read_to_string(host.resolv_conf()).expect("text"),
        BEFORE
    );
    a.node.json(&["vpn", "down"]).await;

    a.node.json(&["vpn", "up"]).await;
    let at_owner = {
        world.r.json(&["vpn", "up"]).await;
        own(&status(&world.r).await)
    };
    let by_name = |database, name| getent(&host, database, name);
    assert_eq!(
        by_name("ahostsv4", "owner.lab.anyhop").await,
        at_owner[0].to_string()
    );
    assert_eq!(
        by_name("ahostsv6", "owner.lab.anyhop").await,
        at_owner[1].to_string()
    );
    assert_eq!(by_name("ahostsv4", "nobody.lab.anyhop.").await, "");
    assert_eq!(by_name("ahostsv4", "outside.example").await, outside);
    a.node.json(&["vpn", "down"]).await;
    assert_eq!(found_on(&host), found, "after vpn down");

    // Somebody else writes there meanwhile: that stays.
    a.node.json(&["vpn", "up"]).await;
    let text = fs::read_to_string(host.resolv_conf()).expect("text");
    fs::write(host.resolv_conf(), format!("{text}options edns0\n")).expect("written");
    a.node.json(&["vpn", "down"]).await;
    let text = fs::read_to_string(host.resolv_conf()).expect("text");
    assert_eq!(text, format!("{BEFORE}options edns0\n"));
    fs::write(host.resolv_conf(), BEFORE).expect("written");

    a.node.json(&["vpn", "up"]).await;
    a.node.killed().await;
    assert_eq!(
        by_name("ahostsv4", "outside.example").await,
        outside,
        "after SIGKILL"
    );
    assert_ne!(found_on(&host), found, "nobody was left to put it back");
    let node = Node::up("A", &world.lab, host.clone(), &[]).await;
    assert_eq!(found_on(&host), found, "after SIGKILL and the next start");
    node.json(&["vpn", "up"]).await;
    assert_ne!(found_on(&host), found);
    node.stop().await;
    assert_eq!(found_on(&host), found, "after a stop");
}
