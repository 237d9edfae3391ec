//! The firewall between two members on the real kernel: what is denied does not come in and is
//! counted, what was begun here comes back, and a new rule cuts what is going on.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhop_lab::netns::NatKind;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    PATIENCE,
    node::Node,
    turn,
    vpn::{echo, network, own, peer, pings, status},
    world::World,
};

const OPEN: u16 = 7000;
const CLOSED: u16 = 7001;
/// For what should not be answered.
const SILENCE: Duration = Duration::from_millis(700);

/// Returns every byte to who sent it, on one connection after another.
fn serve(node: &mut Node, ip: IpAddr, port: u16) {
    let listener = node
        .namespace()
        .enter(move || TcpListener::bind((ip, port)));
    let listener = listener.expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
}

fn connect(from: &mut Node, ip: IpAddr, port: u16, within: Duration) -> io::Result<TcpStream> {
    let at = SocketAddr::new(ip, port);
    let host = from.namespace();
    host.enter(move || TcpStream::connect_timeout(&at, within))
}

/// Whether a byte comes back.
fn answers(stream: &mut TcpStream, within: Duration) -> bool {
    stream.set_read_timeout(Some(within)).expect("a time");
    stream.write_all(&[7]).is_ok() && stream.read_exact(&mut [0]).is_ok()
}

async fn dropped(node: &Node, of: &Node) -> u64 {
    let status = status(node).await;
    let count = &peer(&status, &of.peer)["drops"]["firewall"];
    count.as_u64().unwrap_or_default()
}

async fn firewall(node: &Node, args: &[&str]) -> Value {
    node.json(&[&["firewall"], args].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_firewall_drops_and_counts_what_is_denied_and_lets_answers_in() {
    let Some(_turn) = turn().await else { return };
    let mut world = World::new().await;
    let mut a = world.behind("A", NatKind::PortRestrictedCone).await;
    network(&world.r, &[&a.node]).await;
    for node in [&world.r, &a.node] {
        node.json(&["vpn", "up"]).await;
    }
    let (r, a) = (&mut world.r, &mut a.node);
    let [at_r, at_r6] = own(&status(r).await);
    let [at_a, at_a6] = own(&status(a).await);
    for ip in [at_r, at_r6] {
        pings(a, ip, 3).await;
        serve(r, ip, OPEN);
        serve(r, ip, CLOSED);
    }
    serve(a, at_a, OPEN);

    let port = CLOSED.to_string();
    let denied = ["deny", "--member", "a", "--proto", "tcp", "--port", &port];
    firewall(r, &denied).await;
    for ip in [at_r, at_r6] {
        let before = dropped(r, a).await;
        let refused = connect(a, ip, CLOSED, SILENCE).map(|_| ());
        assert_eq!(refused.map_err(|e| e.kind()), Err(io::ErrorKind::TimedOut));
        assert!(dropped(r, a).await > before, "it is counted");
        let mut stream = connect(a, ip, OPEN, PATIENCE).expect("connected");
        assert!(answers(&mut stream, PATIENCE));
    }
    let test = ["test", "--from", "a", "--proto", "tcp", "--port", &port];
    let told = firewall(r, &test).await;
    assert_eq!(
        (&told["verdict"], &told["rule"]["id"]),
        (&"deny".into(), &"1".into())
    );

    // A connection that is going on is cut, and goes on when it may again.
    let mut stream = connect(a, at_r, OPEN, PATIENCE).expect("connected");
    assert!(answers(&mut stream, PATIENCE));
    let cut = firewall(r, &["deny", "--role", "member", "--first"]).await;
    assert!(!answers(&mut stream, SILENCE), "cut");
    let id = cut["id"].as_str().expect("a text");
    firewall(r, &["remove", id]).await;
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    stream.read_exact(&mut [0]).expect("TCP has sent it again");

    // Nothing comes in any more but answers.
    firewall(r, &["default", "deny"]).await;
    for (own, theirs) in [(at_r, at_a), (at_r6, at_a6)] {
        let host = a.namespace();
        assert!(host.enter(move || echo(own, 9)).is_err(), "{own} is asked");
        pings(r, theirs, 3).await;
    }
    assert!(connect(a, at_r, OPEN, SILENCE).is_err());
    let mut stream = connect(r, at_a, OPEN, PATIENCE).expect("connected");
    assert!(answers(&mut stream, PATIENCE));

    // The rules come back with the interface.
    r.json(&["vpn", "down"]).await;
    r.json(&["vpn", "up"]).await;
    pings(r, at_a, 1).await;
    assert!(connect(a, at_r, OPEN, SILENCE).is_err());

    // One for everybody, from the owner.
    firewall(r, &["default", "none"]).await;
    let open = OPEN.to_string();
    let wide = ["deny", "--network-wide", "--proto", "tcp", "--port", &open];
    firewall(r, &wide).await;
    let deadline = Instant::now() + PATIENCE;
    while firewall(a, &["list"]).await["rules"][0]["id"] != "n1" {
        assert!(Instant::now() < deadline, "the policy did not come");
        sleep(Duration::from_millis(20)).await;
    }
    let before = dropped(a, r).await;
    assert!(connect(r, at_a, OPEN, SILENCE).is_err());
    assert!(dropped(a, r).await > before);
}
