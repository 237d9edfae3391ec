use std::net::SocketAddr;
use std::time::Duration;

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UdpSocket,
    process::ChildStdin,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// Long enough for a datagram to cross this machine.
const SILENCE: Duration = Duration::from_millis(500);

const PORT: u16 = 4001;

fn ip4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, last)
}

fn at(ip: Ipv4Addr) -> SocketAddr {
    SocketAddr::from((ip, PORT))
}

/// Says why and answers true where namespaces cannot be made.
fn skipped() -> bool {
    match skip_reason() {
        Some(reason) => {
            println!("skipped: {reason}");
            true
        }
        None => false,
    }
}

/// Marks what [`talker_process`] says among the test harness's own lines.
const MARK: &str = "talker: ";

/// No test: the other end of a [`Talker`]. Sends an empty datagram to every address it
/// reads, prints the source of every datagram it gets.
#[tokio::test]
#[ignore = "started by other tests, in a namespace"]
async fn talker_process() {
    let socket = UdpSocket::bind(("0.0.0.0", PORT)).await.expect("bound");
    println!("\n{MARK}ready");
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let mut buf = [0; 64];
    loop {
        tokio::select! {
            order = orders.next_line() => {
                let Ok(Some(order)) = order else { return };
                socket.send_to(b"x", order.as_str()).await.expect("sent");
            }
            got = socket.recv_from(&mut buf) => {
                // An ICMP error of an earlier send is no datagram.
                if let Ok((_, from)) = got {
                    println!("{MARK}{from}");
                }
            }
        }
    }
}

/// A UDP socket on port 4001 of a namespace.
struct Talker {
    process: Process,
    orders: ChildStdin,
}

impl Talker {
    async fn new(at: &Namespace) -> Self {
        let own = std::env::current_exe().expect("this test's program");
        let mut command = at.command(own);
        command.args(["--ignored", "--exact", "--nocapture"]);
        command.arg("netns::tests::talker_process");
        let mut process = Process::start(command).expect("started");
        let orders = process.take_stdin().expect("a pipe");
        let mut talker = Self { process, orders };
        assert_eq!(talker.next(PATIENCE).await.as_deref(), Some("ready"));
        talker
    }

    async fn next(&mut self, within: Duration) -> Option<String> {
        loop {
            let line = match self.process.line(within).await {
                Ok(line) => line,
                Err(LabError::Timeout { .. }) => return None,
                Err(e) => panic!("{e}"),
            };
            if let Some(said) = line.strip_prefix(MARK) {
                return Some(said.to_owned());
            }
        }
    }

    async fn send(&mut self, to: SocketAddr) {
        let order = format!("{to}\n");
        let sent = self.orders.write_all(order.as_bytes()).await;
        sent.expect("the process reads");
    }

    /// Source of the next datagram.
    async fn hears(&mut self) -> SocketAddr {
        let heard = self.next(PATIENCE).await.expect("a datagram");
        heard.parse().expect("an address")
    }

    async fn hears_nothing(&mut self) -> bool {
        self.next(SILENCE).await.is_none()
    }
}

#[tokio::test]
async fn cone_router_keeps_the_port_and_lets_no_stranger_in() {
    if skipped() {
        return;
    }
    let mut lab = NetLab::new().expect("a lab");
    let [r, q] = [1, 2].map(|i| lab.public_host(&format!("r{i}"), ip4(i)).expect("a host"));
    let mut nat = lab.router("nat", ip4(10), NatKind::Cone).expect("a router");
    let a = lab.host_behind(&mut nat, "a").expect("a host");
    let (mut r, mut q, mut a) = (
        Talker::new(&r).await,
        Talker::new(&q).await,
        Talker::new(&a).await,
    );

    a.send(at(ip4(1))).await;
    assert_eq!(r.hears().await, at(nat.wan()));
    r.send(at(nat.wan())).await;
    assert_eq!(a.hears().await, at(ip4(1)));
    q.send(at(nat.wan())).await;
    assert!(a.hears_nothing().await, "a stranger got in");
    a.send(at(ip4(2))).await;
    assert_eq!(q.hears().await, at(nat.wan()), "another port");
}

#[tokio::test]
async fn symmetric_router_shows_another_port_to_every_remote() {
    if skipped() {
        return;
    }
    let mut lab = NetLab::new().expect("a lab");
    let mut nat = lab
        .router("nat", ip4(10), NatKind::Symmetric)
        .expect("a router");
    let a = lab.host_behind(&mut nat, "a").expect("a host");
    let mut a = Talker::new(&a).await;
    let mut ports = Vec::new();
    for i in 1..=3 {
        let r = lab.public_host(&format!("r{i}"), ip4(i)).expect("a host");
        let mut r = Talker::new(&r).await;
        a.send(at(ip4(i))).await;
        let from = r.hears().await;
        assert_eq!(from.ip(), nat.wan());
        r.send(from).await;
        assert_eq!(a.hears().await, at(ip4(i)));
        ports.push(from.port());
    }
    ports.sort_unstable();
    ports.dedup();
    // Three random ports of some 60,000: two may coincide, all three hardly ever do.
    assert!(ports.len() > 1, "one port for all: {ports:?}");
}

#[tokio::test]
async fn two_cone_routers_are_punched_until_one_blocks() {
    if skipped() {
        return;
    }
    let mut lab = NetLab::new().expect("a lab");
    let mut nats = [10, 20].map(|i| {
        let name = format!("nat{i}");
        lab.router(&name, ip4(i), NatKind::Cone).expect("a router")
    });
    let [nat_a, nat_b] = &mut nats;
    let a = lab.host_behind(nat_a, "a").expect("a host");
    let b = lab.host_behind(nat_b, "b").expect("a host");
    let (mut a, mut b) = (Talker::new(&a).await, Talker::new(&b).await);
    a.send(at(nat_b.wan())).await;
    assert!(b.hears_nothing().await);
    b.send(at(nat_a.wan())).await;
    assert_eq!(a.hears().await, at(nat_b.wan()));
    a.send(at(nat_b.wan())).await;
    assert_eq!(b.hears().await, at(nat_a.wan()));

    nat_a.block_udp(nat_b.wan()).expect("blocked");
    a.send(at(nat_b.wan())).await;
    assert!(b.hears_nothing().await);
    b.send(at(nat_a.wan())).await;
    assert!(a.hears_nothing().await);
    assert_eq!(nat_a.blocked_packets().expect("counted"), 2);
    nat_a.unblock_udp(nat_b.wan()).expect("unblocked");
    a.send(at(nat_b.wan())).await;
    assert_eq!(b.hears().await, at(nat_a.wan()));
}

#[tokio::test]
async fn lab_removes_what_it_made_and_what_dead_ones_left() {
    if skipped() {
        return;
    }
    // Above the kernel's highest pid.
    let stale = format!("{PREFIX}4194999-0-x");
    let exists = |name: &str| ip(&["netns", "list"]).expect("listed").contains(name);
    ip(&["netns", "add", &stale]).expect("made");
    let mut lab = NetLab::new().expect("a lab");
    assert!(!exists(&stale));

    let host = lab.public_host("r", ip4(1)).expect("a host");
    let mut sleeper = host.command("sleep");
    sleeper.arg("1000");
    let mut sleeper = Process::start(sleeper).expect("started");
    assert!(exists(host.name()) && sleeper.is_running());
    drop(lab);
    assert!(!exists(host.name()));
    let ended = sleeper.finish(PATIENCE).await.expect("killed with its lab");
    assert_eq!(ended.code, None);
}

#[tokio::test]
async fn process_that_runs_on_is_killed_at_its_deadline() {
    let mut sleeper = Command::new("sleep");
    sleeper.arg("1000");
    let late = run(sleeper, b"", SILENCE).await;
    assert!(matches!(late, Err(LabError::Timeout { .. })), "{late:?}");
}

#[tokio::test]
async fn command_gets_its_input_and_gives_output_and_code() {
    let mut script = Command::new("sh");
    script.args(["-c", "cat; echo oops >&2; exit 3"]);
    let ended = run(script, b"in and out", PATIENCE).await.expect("ran");
    assert_eq!(ended.code, Some(3));
    assert_eq!(ended.stdout, "in and out");
    assert_eq!(ended.stderr, "oops\n");
}
