//! A subnet behind a member, and an exit node, on the real kernel: what is offered and accepted
//! is reached, nothing else is, and hosts are left as they were found.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{Receiver, sync_channel},
    time::Duration,
};

use anyhop_lab::netns::{Families, Namespace, NatKind};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    PATIENCE,
    node::Node,
    turn,
    vpn::{echo, host_state, network, own, peer, pings, status},
    world::World,
};

const PORT: u16 = 7000;
/// For what should not be answered.
const SILENCE: Duration = Duration::from_millis(700);

/// Returns what comes, and tells from whom.
fn serve(host: &Namespace, ip: IpAddr) -> Receiver<IpAddr> {
    let listener = host.enter(move || TcpListener::bind((ip, PORT)));
    let listener = listener.expect("bound");
    let (seen, callers) = sync_channel(64);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let from = stream.peer_addr().expect("connected").ip();
            let mut word = [0; 4];
            let answered = stream
                .read_exact(&mut word)
                .and_then(|()| stream.write_all(&word));
            if answered.is_ok() && seen.try_send(from).is_err() {
                return;
            }
        }
    });
    callers
}

/// Whether a word comes back.
fn calls(from: &Namespace, ip: IpAddr, within: Duration) -> bool {
    let at = SocketAddr::new(ip, PORT);
    let call = move || {
        let mut stream = TcpStream::connect_timeout(&at, within)?;
        stream.set_read_timeout(Some(within))?;
        stream.write_all(b"word")?;
        stream.read_exact(&mut [0; 4])
    };
    from.enter(call).is_ok()
}

/// What may not change on a host, settings of the kernel and nftables among it.
fn whole_state(host: &Namespace) -> String {
    let run = |program: &str, args: &[&str]| {
        let out = host.command(program).args(args).output().expect("it runs");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let settings = [
        "net.ipv4.ip_forward",
        "net.ipv6.conf.all.forwarding",
        "net.ipv4.conf.all.rp_filter",
        "net.ipv4.conf.eth0.rp_filter",
        "net.ipv6.conf.eth0.accept_ra",
    ];
    let settings = run("sysctl", &settings);
    host_state(host) + &run("nft", &["list", "ruleset"]) + &settings
}

async fn vpn(node: &Node, args: &[&str]) -> Value {
    node.json(&[&["vpn"], args].concat()).await
}

/// Waits until a route over a member is as it should be.
async fn route_is(node: &Node, route: &str, key: &str, wanted: bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shown = vpn(node, &["routes"]).await;
        let routes = shown["routes"].as_array().expect("a list");
        let found = routes.iter().find(|r| r["route"] == route);
        if let Some(found) = found.filter(|r| r[key] == wanted) {
            return found.clone();
        }
        assert!(Instant::now() < deadline, "{}: {route}: {shown}", node.name);
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subnet_behind_a_member_and_an_exit_node_are_reached_and_hosts_left_as_found() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let mut a = world.behind("A", NatKind::PortRestrictedCone).await;
    let mut b = world.behind("B", NatKind::PortRestrictedCone).await;
    let printer = world
        .lab
        .host_behind(&mut a.router, "printer")
        .expect("a host");
    network(&world.r, &[&a.node, &b.node]).await;
    let (host_a, host_b) = (a.node.namespace().clone(), b.node.namespace().clone());
    let found = [&host_a, &host_b].map(whole_state);
    for node in [&world.r, &a.node, &b.node] {
        vpn(node, &["up", "--no-dns"]).await;
    }
    let at_printer = IpAddr::V4(printer.v4().expect("IPv4"));
    let callers = serve(&printer, at_printer);
    let octets = printer.v4().expect("IPv4").octets();
    let subnet = format!("{}.{}.{}.0/24", octets[0], octets[1], octets[2]);

    // A subnet.
    let up = whole_state(&host_a);
    let offered = vpn(&a.node, &["offer", &subnet]).await;
    assert_eq!(offered["offers"][0]["active"], true, "{offered}");
    let host_r = world.r.namespace().clone();
    assert!(!calls(&host_r, at_printer, SILENCE), "not accepted");
    // Somebody has to have heard of it.
    pings(&mut world.r, own(&status(&a.node).await)[0], 1).await;
    route_is(&world.r, &subnet, "offered", true).await;
    vpn(&world.r, &["accept", &subnet]).await;
    let used = route_is(&world.r, &subnet, "active", true).await;
    assert_eq!((&used["name"], &used["why"]), (&"a".into(), &Value::Null));
    pings(&mut world.r, at_printer, 3).await;
    assert!(calls(&host_r, at_printer, PATIENCE));
    let as_whom = callers.recv_timeout(PATIENCE).expect("a call");
    assert_eq!(
        Some(as_whom),
        host_a.v4().map(IpAddr::V4),
        "hidden behind A"
    );
    assert!(
        !calls(&host_b, at_printer, SILENCE),
        "B has not accepted it"
    );
    // What is forwarded passes A's firewall.
    let port = PORT.to_string();
    let denied = ["firewall", "deny", "--member", "owner", "--port", &port];
    a.node.json(&denied).await;
    assert!(!calls(&host_r, at_printer, SILENCE));
    let seen = status(&a.node).await;
    let drops = &peer(&seen, &world.r.peer)["drops"]["firewall"];
    assert!(drops.as_u64() > Some(0));
    a.node.json(&["firewall", "remove", "1"]).await;
    vpn(&a.node, &["offer", &subnet, "--remove"]).await;
    assert_eq!(whole_state(&host_a), up, "after the last offer");
    route_is(&world.r, &subnet, "active", false).await;
    assert!(!calls(&host_r, at_printer, SILENCE));
    vpn(&world.r, &["accept", &subnet, "--remove"]).await;

    // An exit node.
    let at_r = IpAddr::V4(host_r.v4().expect("IPv4"));
    let callers_of_r = serve(&host_r, at_r);
    assert!(calls(&host_b, at_r, PATIENCE));
    let usual = callers_of_r.recv_timeout(PATIENCE).expect("a call");
    assert_eq!(usual, IpAddr::V4(b.router.wan()));
    vpn(&a.node, &["offer", "exit"]).await;
    vpn(&b.node, &["accept", "exit", "--from", "a"]).await;
    route_is(&b.node, "exit", "active", true).await;
    pings(&mut b.node, at_printer, 5).await;
    assert!(calls(&host_b, at_printer, PATIENCE), "only A reaches it");
    assert!(calls(&host_b, at_r, PATIENCE));
    let as_whom = callers_of_r.recv_timeout(PATIENCE).expect("a call");
    assert_eq!(as_whom, IpAddr::V4(a.router.wan()), "A's way out");
    // The session's own packets take the usual way, and members are reached as before.
    let seen = status(&b.node).await;
    let path = &peer(&seen, &a.node.peer)["path"];
    let remote = path["remote"].as_str().expect("a text");
    let outside = [a.router.wan(), host_r.v4().expect("IPv4")].map(|ip| ip.to_string());
    assert!(outside.iter().any(|ip| remote.starts_with(ip)), "{path}");
    let members = own(&status(&world.r).await)[0];
    pings(&mut b.node, members, 3).await;
    let refused = a
        .node
        .try_run(&["vpn", "accept", "exit", "--from", "b"], PATIENCE)
        .await;
    assert_eq!(refused.code, Some(6), "{}", refused.stderr);

    // Killed, both leave what the next start takes away.
    for (node, found) in [(&mut a, &found[0]), (&mut b, &found[1])] {
        node.node.kill();
        let host = node.node.namespace().clone();
        assert_ne!(whole_state(&host), *found, "nobody was left to undo it");
    }
    let (name_a, name_b) = (a.node, b.node);
    drop((name_a, name_b));
    for (name, host, found) in [("A", &host_a, &found[0]), ("B", &host_b, &found[1])] {
        let node = Node::up(name, &world.lab, host.clone(), &[]).await;
        assert_eq!(whole_state(host), *found, "{name}: after the next start");
        // What was said is used again.
        vpn(&node, &["up", "--no-dns"]).await;
        assert_ne!(whole_state(host), *found);
        vpn(&node, &["down"]).await;
        assert_eq!(whole_state(host), *found, "{name}: after vpn down");
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_node_gives_ipv6_to_a_member_without_it() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let mut b = world.behind("B", NatKind::PortRestrictedCone).await;
    let host_a = world.lab.public_host("a", Families::Both).expect("a host");
    let a = world.up("A", host_a.clone()).await;
    network(&world.r, &[&a, &b.node]).await;
    let (host_b, host_r) = (b.node.namespace().clone(), world.r.namespace().clone());
    let found = [&host_a, &host_b].map(whole_state);
    for node in [&a, &b.node] {
        vpn(node, &["up", "--no-dns"]).await;
    }
    let at_r = IpAddr::V6(world.r.v6());
    let callers = serve(&host_r, at_r);
    assert!(!calls(&host_b, at_r, SILENCE), "B has IPv4 only");
    vpn(&a, &["offer", "exit"]).await;
    // Somebody has to have heard of it.
    pings(&mut b.node, own(&status(&a).await)[0], 1).await;
    vpn(&b.node, &["accept", "exit", "--from", "a"]).await;
    route_is(&b.node, "exit", "active", true).await;
    assert!(calls(&host_b, at_r, PATIENCE));
    let as_whom = callers.recv_timeout(PATIENCE).expect("a call");
    assert_eq!(Some(as_whom), host_a.v6().map(IpAddr::V6), "A's way out");
    for (node, host, found) in [(&a, &host_a, &found[0]), (&b.node, &host_b, &found[1])] {
        vpn(node, &["down"]).await;
        assert_eq!(whole_state(host), *found, "{}", node.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_no_way_to_each_other_for_somebody_else() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let mut a = world.behind("A", NatKind::PortRestrictedCone).await;
    network(&world.r, &[&a.node]).await;
    for node in [&world.r, &a.node] {
        vpn(node, &["up", "--no-dns"]).await;
    }
    let at_r = own(&status(&world.r).await)[0];
    vpn(&world.r, &["offer", "exit"]).await;
    vpn(&a.node, &["accept", "exit", "--from", "owner"]).await;
    route_is(&a.node, "exit", "active", true).await;
    pings(&mut a.node, at_r, 1).await;
    // Neither to links of the exit node's host, nor to addresses that no member has.
    let before = peer(&status(&world.r).await, &a.node.peer)["drops"].clone();
    let host = a.node.namespace();
    let IpAddr::V4(overlay) = at_r else {
        panic!("IPv4")
    };
    let nobody = IpAddr::from([overlay.octets()[0], overlay.octets()[1], 0, 1]);
    for ip in [IpAddr::from([169, 254, 1, 1]), nobody] {
        assert!(host.enter(move || echo(ip, 1)).is_err(), "{ip}");
    }
    let seen = status(&world.r).await;
    let after = &peer(&seen, &a.node.peer)["drops"];
    assert!(
        after["not_for_this_host"].as_u64() > before["not_for_this_host"].as_u64(),
        "{after}"
    );
}
