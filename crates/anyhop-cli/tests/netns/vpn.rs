//! IP packets between members: over a direct path and over a circuit, both families, and a
//! host that is left as it was found.

use std::{
    fs,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhop_lab::netns::{Namespace, NatKind};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, recv,
    send, setsockopt, socket, sockopt,
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};

use crate::{PATIENCE, node::Node, turn, world::World};

const LISTEN: &str = "0.0.0.0:4002";
const INTERFACE: &str = "anyhop-lab";
const PORT: u16 = 7000;
const TRANSFER: usize = 30_000_000;
/// How long one echo is waited for.
const ECHO: Duration = Duration::from_secs(1);

/// Founds the network at `owner` and has `members` join.
pub(crate) async fn network(owner: &Node, members: &[&Node]) {
    let create = [
        "network",
        "create",
        "lab",
        "--listen",
        LISTEN,
        "--listen",
        "[::]:4002",
    ];
    owner.json(&create).await;
    for member in members {
        joins(member, owner).await;
    }
}

pub(crate) async fn joins(member: &Node, owner: &Node) {
    let invited = owner.json(&["network", "invite", "lab"]).await;
    let invite = invited["invite"].as_str().expect("a text");
    let name = member.name.to_lowercase();
    let join = ["network", "join", invite, "--name", &name];
    member.json(&join).await;
}

pub(crate) async fn status(node: &Node) -> Value {
    node.json(&["vpn", "status"]).await
}

/// This node's overlay addresses.
pub(crate) fn own(status: &Value) -> [IpAddr; 2] {
    ["address4", "address6"].map(|key| {
        let text = status[key].as_str();
        let ip = text.and_then(|ip| ip.parse().ok());
        ip.unwrap_or_else(|| panic!("no {key}: {status}"))
    })
}

/// What a status says about a peer.
pub(crate) fn peer<'a>(status: &'a Value, peer: &str) -> &'a Value {
    let peers = status["peers"].as_array().expect("a list");
    let found = peers.iter().find(|p| p["peer_id"] == peer);
    found.unwrap_or_else(|| panic!("{peer} is not in {status}"))
}

/// Sends an ICMP echo request, and waits for its answer.
pub(crate) fn echo(to: IpAddr, sequence: u8) -> io::Result<()> {
    let (family, protocol, ask, answer, header) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8, 0, 20),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129, 0),
    };
    let fd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    let limit = nix::sys::time::TimeVal::new(ECHO.as_secs().cast_signed(), 0);
    setsockopt(&fd, sockopt::ReceiveTimeout, &limit)?;
    connect(
        fd.as_raw_fd(),
        &SockaddrStorage::from(SocketAddr::new(to, 0)),
    )?;
    // The sum of what is not zero in it; the kernel computes ICMPv6's.
    let sum = !(u16::from_be_bytes([ask, 0]) + u16::from(sequence));
    let [high, low] = if to.is_ipv4() {
        sum.to_be_bytes()
    } else {
        [0; 2]
    };
    send(
        fd.as_raw_fd(),
        &[ask, 0, high, low, 0, 0, 0, sequence],
        MsgFlags::empty(),
    )?;
    let mut packet = [0; 2000];
    loop {
        let len = recv(fd.as_raw_fd(), &mut packet, MsgFlags::empty())?;
        let icmp = packet[..len].get(header..).unwrap_or_default();
        if icmp.first() == Some(&answer) && icmp.get(7) == Some(&sequence) {
            return Ok(());
        }
    }
}

/// Waits until echoes are answered; then all of `count` are.
pub(crate) async fn pings(from: &mut Node, to: IpAddr, count: u8) {
    let name = from.name;
    let deadline = Instant::now() + PATIENCE;
    let host = from.namespace();
    while let Err(e) = host.enter(move || echo(to, 0)) {
        assert!(Instant::now() < deadline, "{name} to {to}: {e}");
        sleep(Duration::from_millis(50)).await;
    }
    for sequence in 1..=count {
        let answered = host.enter(move || echo(to, sequence));
        answered.unwrap_or_else(|e| panic!("{name} to {to}, echo {sequence}: {e}"));
    }
}

/// Moves bytes over one TCP connection; the two ends hash what they see.
pub(crate) async fn tcp(from: &mut Node, to: &mut Node, ip: IpAddr) {
    let at = SocketAddr::new(ip, PORT);
    let listener = to
        .namespace()
        .enter(move || TcpListener::bind(at))
        .expect("bound");
    let receive = tokio::task::spawn_blocking(move || -> io::Result<(usize, Vec<u8>)> {
        let (mut stream, _) = listener.accept()?;
        let (mut hash, mut all, mut bytes) = (Sha256::new(), 0, vec![0; 64 << 10]);
        loop {
            let len = stream.read(&mut bytes)?;
            if len == 0 {
                return Ok((all, hash.finalize().to_vec()));
            }
            hash.update(&bytes[..len]);
            all += len;
        }
    });
    let connect = move || TcpStream::connect_timeout(&at, PATIENCE);
    let mut stream = from.namespace().enter(connect).expect("connected");
    let send = tokio::task::spawn_blocking(move || -> io::Result<Vec<u8>> {
        let chunk: Vec<u8> = (0..=u8::MAX).cycle().take(TRANSFER / 100).collect();
        let mut hash = Sha256::new();
        for _ in 0..100 {
            stream.write_all(&chunk)?;
            hash.update(&chunk);
        }
        Ok(hash.finalize().to_vec())
    });
    let begun = Instant::now();
    let sent = send.await.expect("ran").expect("sent");
    let (len, received) = receive.await.expect("ran").expect("received");
    assert_eq!((len, received), (TRANSFER, sent), "{} to {ip}", from.name);
    let speed = TRANSFER as f64 / begun.elapsed().as_secs_f64() / 1e6;
    println!(
        "{} to {ip}: {TRANSFER} bytes, hashes equal, {speed:.0} MB/s",
        from.name
    );
}

/// What may not change on a host: interfaces, addresses, routes, rules, resolver.
pub(crate) fn host_state(host: &Namespace) -> String {
    let show = |args: &[&str]| {
        let out = host.command("ip").args(args).output().expect("ip runs");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let mut state = [
        &["-brief", "address"][..],
        &["route", "show", "table", "all"],
        &["-6", "route", "show", "table", "all"],
        &["rule"],
        &["-6", "rule"],
    ]
    .map(show)
    .concat();
    state += &fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    state
}

#[tokio::test(flavor = "multi_thread")]
async fn members_exchange_ip_packets_directly_and_over_a_circuit() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let mut a = world.behind("A", NatKind::PortRestrictedCone).await;
    let mut b = world.behind("B", NatKind::PortRestrictedCone).await;
    // On a circuit, until this is undone.
    a.router.block_udp(b.router.wan()).expect("blocked");
    network(&world.r, &[&a.node, &b.node]).await;
    let found = host_state(a.node.namespace());
    for node in [&world.r, &a.node, &b.node] {
        let up = node.json(&["vpn", "up"]).await;
        assert_eq!(
            (&up["interface"], &up["mode"]),
            (&INTERFACE.into(), &"l3".into())
        );
        assert_eq!(up["mtu"], 1420, "{up}");
    }
    let (at_r, at_b) = (status(&world.r).await, status(&b.node).await);
    for ip in own(&at_r).into_iter().chain(own(&at_b)) {
        pings(&mut a.node, ip, 5).await;
    }
    let seen = status(&a.node).await;
    let listed = peer(&seen, &b.node.peer);
    assert_eq!(
        (&listed["name"], &listed["address6"]),
        (&"b".into(), &at_b["address6"])
    );
    assert_eq!(listed["path"]["kind"], "circuit", "{listed}");
    assert!(listed["tx_bytes"].as_u64() > Some(0) && listed["rx_bytes"].as_u64() > Some(0));
    for ip in own(&at_b) {
        tcp(&mut a.node, &mut b.node, ip).await;
    }

    a.router.unblock_udp(b.router.wan()).expect("unblocked");
    let deadline = Instant::now() + PATIENCE;
    while peer(&status(&a.node).await, &b.node.peer)["path"]["kind"] != "direct" {
        assert!(Instant::now() < deadline, "not direct");
        sleep(Duration::from_millis(50)).await;
    }
    for ip in own(&at_b) {
        tcp(&mut a.node, &mut b.node, ip).await;
        tcp(
            &mut b.node,
            &mut a.node,
            own(&seen)[usize::from(ip.is_ipv6())],
        )
        .await;
    }

    let down = a.node.json(&["vpn", "down"]).await;
    assert_eq!(down["interface"], INTERFACE);
    assert_eq!(host_state(a.node.namespace()), found, "after vpn down");
    let refused = a.node.try_run(&["vpn", "status"], PATIENCE).await;
    assert_eq!(refused.code, Some(6), "{}", refused.stderr);
    // It comes back on the same session, whose counters went on.
    a.node.json(&["vpn", "up"]).await;
    pings(&mut a.node, own(&at_b)[0], 3).await;
    a.node.kill();
    let deadline = Instant::now() + PATIENCE;
    while host_state(a.node.namespace()) != found {
        assert!(
            Instant::now() < deadline,
            "after SIGKILL: {}",
            host_state(a.node.namespace())
        );
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ip_packets_go_over_a_websocket_where_udp_is_blocked() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::with_websockets().await;
    let router = world.router("A", NatKind::PortRestrictedCone);
    router.block_all_udp().expect("blocked");
    let mut a = world.behind_router("A", router).await;
    let create = [
        "network",
        "create",
        "lab",
        "--listen",
        LISTEN,
        "--listen-ws",
        "0.0.0.0:8443",
    ];
    world.r.json(&create).await;
    joins(&a.node, &world.r).await;
    for node in [&world.r, &a.node] {
        node.json(&["vpn", "up"]).await;
    }
    for ip in own(&status(&world.r).await) {
        pings(&mut a.node, ip, 3).await;
        tcp(&mut a.node, &mut world.r, ip).await;
    }
    let seen = status(&a.node).await;
    let path = &peer(&seen, &world.r.peer)["path"];
    assert_eq!(
        (&path["kind"], &path["carrier"]),
        (&"direct".into(), &"ws".into())
    );
}
