//! Ports of one machine that are ports of a member: for its own programs and for other
//! machines, TCP and UDP beside each other, and nothing of it stays.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhop_lab::netns::{Families, Namespace};

use crate::{
    PATIENCE,
    names::found_on,
    turn,
    vpn::{network, own, pings, status},
    world::World,
};

/// How long one answer is waited for.
const ANSWER: Duration = Duration::from_secs(2);
/// The member's port.
const PORT: u16 = 7300;

/// Answers at a member's overlay address: over TCP and UDP, each with its name and who asks.
fn serve(host: &Namespace, ip: IpAddr) {
    let at = SocketAddr::new(ip, PORT);
    let tcp = host.enter(move || TcpListener::bind(at)).expect("bound");
    let udp = host.enter(move || UdpSocket::bind(at)).expect("bound");
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream?;
            let from = stream.peer_addr()?.ip();
            stream.write_all(format!("tcp {from}").as_bytes())?;
        }
        Ok::<_, io::Error>(())
    });
    thread::spawn(move || answer(&udp));
}

fn answer(udp: &UdpSocket) -> io::Result<()> {
    let mut bytes = [0; 100];
    loop {
        let (_, from) = udp.recv_from(&mut bytes)?;
        udp.send_to(format!("udp {}", from.ip()).as_bytes(), from)?;
    }
}

fn ask_tcp(host: &Namespace, at: &str) -> io::Result<String> {
    let at: SocketAddr = at.parse().expect("an address");
    host.enter(move || {
        let mut stream = TcpStream::connect_timeout(&at, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    })
}

fn ask_udp(host: &Namespace, at: &str) -> io::Result<String> {
    let at: SocketAddr = at.parse().expect("an address");
    host.enter(move || {
        let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(ANSWER))?;
        socket.connect(at)?;
        socket.send(b"?")?;
        let mut bytes = [0; 100];
        let len = socket.recv(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes[..len]).into_owned())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapped_port_leads_to_a_member_and_is_gone_when_the_daemon_is() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let host = world.lab.public_host("a", Families::Both).expect("a host");
    let other = world.lab.public_host("c", Families::Both).expect("a host");
    let mut a = world.up("A", host.clone()).await;
    network(&world.r, &[&a]).await;
    let found = found_on(&host);
    let refused = a
        .try_run(
            &["port", "map", "tcp", "127.0.0.1:80", "owner:7300"],
            PATIENCE,
        )
        .await;
    assert_eq!(refused.code, Some(6), "without a VPN: {}", refused.stderr);
    assert!(
        refused.stderr.contains("anyhop vpn up"),
        "{}",
        refused.stderr
    );
    for node in [&world.r, &a] {
        node.json(&["vpn", "up", "--no-dns"]).await;
    }
    let at_owner = own(&status(&world.r).await);
    let at_a = own(&status(&a).await);
    for ip in at_owner {
        pings(&mut a, ip, 1).await;
        serve(world.r.namespace(), ip);
    }

    let (v4, v6) = (host.v4().expect("IPv4"), host.v6().expect("IPv6"));
    for (protocol, listen) in [
        ("tcp", "127.0.0.1:80".to_owned()),
        ("udp", "127.0.0.1:80".to_owned()),
        ("tcp", format!("{v4}:81")),
        ("udp", "0.0.0.0:81".to_owned()),
        ("tcp", "[::]:82".to_owned()),
        ("udp", format!("[{v6}]:82")),
    ] {
        let mapped = a
            .json(&["port", "map", protocol, &listen, "owner:7300"])
            .await;
        assert_eq!(mapped["active"], true, "{mapped}");
        assert_eq!(mapped["member"], "owner", "{mapped}");
    }
    let works = |host: &Namespace, other: &Namespace| {
        let [a4, a6] = at_a.map(|ip| ip.to_string());
        for (from, at, ip) in [
            (host, "127.0.0.1:80".to_owned(), &a4),
            (host, format!("{v4}:81"), &a4),
            (other, format!("{v4}:81"), &a4),
            (host, format!("[{v6}]:82"), &a6),
            (other, format!("[{v6}]:82"), &a6),
        ] {
            let name = from.name();
            let said = ask_tcp(from, &at).unwrap_or_else(|e| panic!("tcp {at} from {name}: {e}"));
            assert_eq!(said, format!("tcp {ip}"), "{at} from {name}");
            let said = ask_udp(from, &at).unwrap_or_else(|e| panic!("udp {at} from {name}: {e}"));
            assert_eq!(said, format!("udp {ip}"), "{at} from {name}");
        }
    };
    works(&host, &other);
    // Of this machine alone.
    assert!(ask_tcp(&other, &format!("{v4}:80")).is_err());

    for (args, code, says) in [
        (
            &["map", "tcp", "127.0.0.1:80", "owner:1"][..],
            6,
            "port unmap tcp 127.0.0.1:80",
        ),
        (&["map", "tcp", "0.0.0.0:81", "owner:1"], 6, "mapped"),
        (
            &["map", "tcp", "192.0.2.1:90", "owner:1"],
            2,
            "no address of this host",
        ),
        (&["map", "tcp", "[::1]:90", "owner:1"], 2, "::1"),
        (&["map", "udp", "0.0.0.0:4001", "owner:1"], 6, "in use"),
        (&["map", "tcp", "127.0.0.1:90", "nobody:1"], 2, "nobody"),
        (&["unmap", "udp", "127.0.0.1:79"], 2, "port list"),
        (
            &["unmap", "tcp", "127.0.0.1:82"],
            2,
            "is tcp [::]:82 meant?",
        ),
    ] {
        let all = [&["port"], args].concat();
        let done = a.try_run(&all, PATIENCE).await;
        assert_eq!(done.code, Some(code), "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains(says), "{args:?}: {}", done.stderr);
    }

    a.json(&["vpn", "down"]).await;
    assert_eq!(found_on(&host), found, "after vpn down");
    let listed = a.json(&["port", "list"]).await;
    assert_eq!(listed.as_array().map(Vec::len), Some(6), "{listed}");
    assert_eq!(listed[0]["active"], false, "{listed}");
    a.json(&["vpn", "up", "--no-dns"]).await;
    a.killed().await;
    assert_ne!(found_on(&host), found, "nobody was left to undo it");
    let mut a = world.up("A", host.clone()).await;
    assert_eq!(found_on(&host), found, "after SIGKILL and the next start");
    a.json(&["vpn", "up", "--no-dns"]).await;
    for ip in at_owner {
        pings(&mut a, ip, 1).await;
    }
    works(&host, &other);
    a.json(&["port", "unmap", "tcp", "127.0.0.1:80"]).await;
    assert!(ask_tcp(&host, "127.0.0.1:80").is_err());
    assert!(
        ask_udp(&host, "127.0.0.1:80").is_ok(),
        "udp has a map of its own"
    );
    a.stop().await;
    assert_eq!(found_on(&host), found, "after a stop");
}
