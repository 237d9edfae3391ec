//! Several networks in one process, on the same hosts, under the same keys: nothing crosses.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhop::{
    Config, Encoding, Event, InviteOptions, Keypair, Message, Multiaddr, Node, OptOuts, PeerAddr,
    PrivateNetwork, Subscription, Topic,
};
use anyhop_lab::net::{HostHandle, VirtualNet};
use common::{eventually, link};
use tokio::{
    sync::broadcast::error::TryRecvError,
    task::JoinSet,
    time::{Instant, sleep},
};

const HOSTS: u8 = 4;
const LOAD: Duration = Duration::from_secs(60);
/// Time between two messages of one node.
const EVERY: Duration = Duration::from_millis(50);
/// Time between two epochs of a private network.
const ROTATION: Duration = Duration::from_secs(10);

/// One network: a node on each host, all on this port.
struct Net {
    name: &'static str,
    port: u16,
    nodes: Vec<Node>,
}

fn keypair(host: u8) -> Keypair {
    Keypair::ed25519_from_bytes([host; 32]).unwrap()
}

async fn start(host: &HostHandle, key: Keypair, port: u16, config: Config) -> Node {
    let config = Config {
        listen: vec![([0, 0, 0, 0], port).into()],
        ..config
    };
    Node::start_on(host.host(), key, config).await.unwrap()
}

fn at(host: &HostHandle, node: &Node, port: u16) -> PeerAddr {
    PeerAddr::new(node.peer_id(), (host.ip(), port).into()).unwrap()
}

async fn public(hosts: &[HostHandle], name: &'static str, port: u16) -> Net {
    let mut nodes: Vec<Node> = Vec::new();
    for (host, n) in hosts.iter().zip(1..) {
        let bootstrap = nodes.first().map(|first| at(&hosts[0], first, port));
        let config = Config {
            network: name.parse().unwrap(),
            bootstrap: bootstrap.into_iter().collect(),
            ..Config::default()
        };
        nodes.push(start(host, keypair(n), port, config).await);
    }
    Net { name, port, nodes }
}

async fn private(hosts: &[HostHandle], name: &'static str, port: u16) -> Net {
    let mut nodes: Vec<Node> = Vec::new();
    for (host, n) in hosts.iter().zip(1..) {
        let network = match nodes.first() {
            None => {
                let (name, owner) = (name.parse().unwrap(), "owner".parse().unwrap());
                PrivateNetwork::create(name, &keypair(n), &owner, OptOuts::default()).unwrap()
            }
            Some(owner) => invited_by(owner).await,
        };
        nodes.push(member(host, n, port, network).await);
    }
    Net { name, port, nodes }
}

async fn invited_by(owner: &Node) -> PrivateNetwork {
    let owner = owner.private_network().unwrap();
    let invited = owner.invite(InviteOptions::default()).await.unwrap();
    PrivateNetwork::join(&invited.invite, None, OptOuts::default()).unwrap()
}

async fn member(host: &HostHandle, n: u8, port: u16, network: PrivateNetwork) -> Node {
    let config = Config {
        private: Some(network),
        ..Config::default()
    };
    let node = start(host, keypair(n), port, config).await;
    node.private_network().unwrap().joined().await.unwrap();
    node
}

/// What a node sends for as long as the load lasts: to each of the others in turn, with the
/// name of its network in it.
async fn load(node: Node, to: Vec<Node>, name: &'static str) -> u64 {
    let end = Instant::now() + LOAD;
    let mut sent = 0;
    for peer in to.iter().cycle() {
        if Instant::now() >= end {
            break;
        }
        let text = format!("{name} {}", "x".repeat(1000));
        let message = Message::text(text.as_str());
        node.send(peer.peer_id(), message).await.unwrap();
        sent += 1;
        sleep(EVERY).await;
    }
    sent
}

/// Takes messages until the load is long over; counts those that say another network.
async fn take(node: Node, name: &'static str) -> (u64, u64) {
    let (mut own, mut others) = (0, 0);
    let end = Instant::now() + LOAD + Duration::from_secs(5);
    while let Ok(Some(received)) = tokio::time::timeout_at(end, node.recv()).await {
        let text = String::from_utf8(received.message.body.to_vec()).unwrap();
        match text.split_once(' ') {
            Some((said, _)) if said == name => own += 1,
            _ => others += 1,
        }
    }
    (own, others)
}

fn port_of(address: &Multiaddr) -> u16 {
    let text = address.to_string();
    text.split('/').nth(4).unwrap().parse().unwrap()
}

/// Ports of the addresses that peers told of themselves in events.
fn told(events: &mut tokio::sync::broadcast::Receiver<Event>) -> Vec<u16> {
    let mut ports = Vec::new();
    loop {
        match events.try_recv() {
            Ok(Event::PeerIdentified { addresses, .. }) => {
                ports.extend(addresses.iter().map(port_of));
            }
            Ok(_) | Err(TryRecvError::Lagged(_)) => {}
            Err(_) => return ports,
        }
    }
}

/// That many public hosts.
fn hosts(net: &VirtualNet, count: u8) -> Vec<HostHandle> {
    let host = |n: u8| {
        net.public_host(&format!("host{n}"), Ipv4Addr::new(203, 0, 113, n))
            .with_link(link(10))
    };
    (1..=count).map(host).collect()
}

#[tokio::test(start_paused = true)]
async fn networks_of_one_process_under_load_for_a_minute_exchange_nothing() {
    common::trace_to_stderr();
    let net = VirtualNet::new(1);
    net.capture();
    let hosts = hosts(&net, HOSTS);
    // Two of one name, two of one kind.
    let networks = [
        private(&hosts, "lab", 4001).await,
        public(&hosts, "lab", 4002).await,
        public(&hosts, "main", 4003).await,
        private(&hosts, "home", 4004).await,
    ];
    let labels = ["private-lab", "public-lab", "main", "home"];
    let nodes = || networks.iter().flat_map(|n| &n.nodes);
    let mut events: Vec<_> = nodes().map(Node::events).collect();
    let (mut senders, mut takers) = (JoinSet::new(), JoinSet::new());
    for (network, label) in networks.iter().zip(labels) {
        for node in &network.nodes {
            let others = network.nodes.iter();
            let others = others.filter(|o| o.peer_id() != node.peer_id()).cloned();
            senders.spawn(load(node.clone(), others.collect(), label));
            takers.spawn(take(node.clone(), label));
        }
    }
    for _ in 0..LOAD.as_secs() / ROTATION.as_secs() {
        sleep(ROTATION).await;
        for owner in networks.iter().filter_map(|n| n.nodes[0].private_network()) {
            owner.rotate().await.unwrap();
        }
    }
    let sent: u64 = senders.join_all().await.iter().sum();
    let taken = takers.join_all().await;
    let (own, others) = taken.iter().fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    assert_eq!((own, others), (sent, 0), "messages");
    assert!(sent > 10_000, "{sent} messages are no load");

    // What each node knows: sessions, paths and records are of its own network.
    for (node, network) in networks
        .iter()
        .flat_map(|n| n.nodes.iter().map(move |x| (x, n)))
    {
        let sessions = node.sessions();
        assert_eq!(sessions.len(), usize::from(HOSTS) - 1, "{}", network.name);
        for path in sessions.iter().flat_map(|s| &s.paths) {
            let port = format!(":{}", network.port);
            assert!(
                path.remote.ends_with(&port),
                "{} in {}",
                path.remote,
                network.name
            );
        }
    }
    let ports = networks.iter().flat_map(|n| n.nodes.iter().map(|_| n.port));
    for (events, port) in events.iter_mut().zip(ports) {
        assert!(told(events).iter().all(|told| *told == port));
    }
    let owners = networks.iter().filter_map(|n| n.nodes[0].private_network());
    for owner in owners {
        eventually("all epochs", Duration::from_secs(5), || {
            owner.info().epoch == 7
        })
        .await;
    }

    let carried = carried(&net, &networks);
    assert!(carried.iter().all(|n| *n > 10_000), "{carried:?}");
    println!("{sent} messages, datagrams of each network: {carried:?}, crossings: 0");
}

fn on_topic(nodes: &[Node]) -> Vec<(Topic, Subscription)> {
    let topics = nodes.iter().map(|n| n.topic("news").unwrap());
    topics.map(|t| (t.clone(), t.subscribe())).collect()
}

async fn have_neighbours(members: &[(Topic, Subscription)]) {
    eventually("neighbours", Duration::from_secs(60), || {
        members.iter().all(|(t, _)| !t.neighbours().is_empty())
    })
    .await;
}

/// What a subscription has, after some time for repair.
async fn taken(posts: &mut Subscription) -> Vec<String> {
    let mut taken = Vec::new();
    while let Ok(Some(post)) = tokio::time::timeout(Duration::from_secs(15), posts.next()).await {
        taken.push(String::from_utf8(post.body.to_vec()).unwrap());
    }
    taken
}

#[tokio::test(start_paused = true)]
async fn posts_on_topics_of_one_name_stay_in_their_networks() {
    common::trace_to_stderr();
    let net = VirtualNet::new(2);
    let hosts = hosts(&net, 3);
    let networks = [
        private(&hosts, "lab", 4001).await,
        public(&hosts, "lab", 4002).await,
        private(&hosts, "home", 4003).await,
    ];
    let labels = ["private-lab", "public-lab", "home"];
    let mut members: Vec<_> = networks.iter().map(|n| on_topic(&n.nodes)).collect();
    for (network, label) in members.iter().zip(labels) {
        have_neighbours(network).await;
        network[1].0.publish(Encoding::Utf8, label).unwrap();
    }
    for (network, label) in members.iter_mut().zip(labels) {
        for (_, posts) in network {
            assert_eq!(taken(posts).await, [label]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn posts_of_a_removed_member_are_taken_neither_from_it_nor_from_others() {
    common::trace_to_stderr();
    let net = VirtualNet::new(3);
    let hosts = hosts(&net, 4);
    let lab = private(&hosts[..3], "lab", 4001).await;
    let (owner, removed) = (&lab.nodes[0], &lab.nodes[2]);
    let mut members = on_topic(&lab.nodes);
    have_neighbours(&members).await;
    members[1].0.publish(Encoding::Utf8, "stays").unwrap();
    members[2].0.publish(Encoding::Utf8, "goes").unwrap();
    for (_, posts) in &mut members {
        let mut taken = taken(posts).await;
        taken.sort_unstable();
        assert_eq!(taken, ["goes", "stays"]);
    }
    let network = owner.private_network().unwrap();
    network.revoke(removed.peer_id()).await.unwrap();
    eventually("no session with it", Duration::from_secs(10), || {
        let others = lab.nodes[..2].iter();
        others
            .map(|n| n.session_info(removed.peer_id()))
            .all(|s| s.is_none())
    })
    .await;
    // A new member gets what the others keep, but for what the removed one has said.
    let new = member(&hosts[3], 4, 4001, invited_by(owner).await).await;
    let mut late = on_topic(&[new]);
    members[2].0.publish(Encoding::Utf8, "says more").unwrap();
    assert_eq!(taken(&mut late[0].1).await, ["stays"]);
    for (_, posts) in &mut members[..2] {
        assert_eq!(taken(posts).await, [""; 0]);
    }
}

/// Datagrams that went over the wire in each network, after it was seen that none went from
/// a socket of one to a socket of another.
#[track_caller]
fn carried(net: &VirtualNet, networks: &[Net]) -> Vec<u64> {
    let main_socket = |a: SocketAddr| networks.iter().position(|n| n.port == a.port());
    let trace = net.trace();
    // Sockets for tests of NATs come and go: each is of the network it was first seen with.
    let mut others = BTreeMap::new();
    for (from, to, _) in trace.captured() {
        match (main_socket(from), main_socket(to)) {
            (Some(network), None) => others.entry(to).or_insert(network),
            (None, Some(network)) => others.entry(from).or_insert(network),
            _ => continue,
        };
    }
    let network = |a: SocketAddr| main_socket(a).or_else(|| others.get(&a).copied());
    let mut carried = vec![0; networks.len()];
    for (from, to, count) in trace.captured() {
        let (here, there) = (network(from), network(to));
        assert_eq!(here, there, "{from} sent to {to}: {count}");
        carried[here.expect("a socket of some network")] += count.datagrams;
    }
    carried
}
