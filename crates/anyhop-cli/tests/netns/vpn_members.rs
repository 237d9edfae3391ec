//! Members come and go, and the flows of the others notice nothing: the library, with nodes
//! of this process in namespaces.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use anyhop::{Config, Keypair, Node, PeerAddr, RuleSet, Vpn, VpnConfig, VpnOptions, VpnPeer};
use anyhop_lab::netns::{Families, Namespace, NetLab};
use tokio::{
    runtime::{Builder, Runtime},
    time::{Duration, Instant, sleep},
};

use crate::{PATIENCE, flow::Paced, turn, vpn::echo};

const CYCLES: usize = 200;
/// Length of the overlay's prefix.
const PREFIX_LEN: u8 = 24;

/// A namespace, and a runtime whose threads are in it.
struct Place {
    namespace: Namespace,
    runtime: Option<Runtime>,
    overlay: Ipv4Addr,
}

/// A node with a packet plane, in its place.
struct Member {
    node: Node,
    vpn: Vpn,
    peer: VpnPeer,
    at: PeerAddr,
}

impl Place {
    fn new(lab: &mut NetLab, name: &str, overlay: Ipv4Addr) -> Self {
        let namespace = lab.public_host(name, Families::V4).expect("a host");
        let build = || {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(1).enable_all().build()
        };
        let runtime = namespace.enter(build).expect("a runtime");
        Self {
            namespace,
            runtime: Some(runtime),
            overlay,
        }
    }

    /// Runs something on a thread of this place.
    async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let runtime = self.runtime.as_ref().expect("it runs");
        runtime.spawn(work).await.expect("ran")
    }

    /// Starts a node that nobody knows yet.
    async fn start(&self) -> Member {
        let (overlay, ip) = (self.overlay, self.namespace.v4().expect("an address"));
        let (node, vpn) = self
            .run(async move {
                let config = Config {
                    listen: vec![(ip, 0).into()],
                    mdns: false,
                    ..Config::default()
                };
                let node = Node::start(Keypair::generate_ed25519(), config).await;
                let node = node.expect("a node");
                let config = VpnConfig {
                    interface: vec!["anyhop-lab".to_owned()],
                    addresses: vec![(overlay.into(), PREFIX_LEN)],
                    firewall: RuleSet::default(),
                    options: VpnOptions::default(),
                };
                let vpn = Vpn::start(&node, config).expect("a packet plane");
                (node, vpn)
            })
            .await;
        let mut told = node.addresses().into_iter();
        let at = told.find_map(|at| at.to_string().parse().ok());
        let peer = VpnPeer {
            peer: node.peer_id(),
            name: String::new(),
            role: None,
            address4: Some(overlay),
            address6: None,
            routes: vec![format!("{overlay}/32").parse().expect("a prefix")],
        };
        Member {
            at: at.expect("its address"),
            node,
            vpn,
            peer,
        }
    }

    /// Waits until an echo is answered.
    async fn pings(&self, ip: Ipv4Addr) {
        let deadline = Instant::now() + PATIENCE;
        let ping = || -> io::Result<()> { self.namespace.enter(move || echo(IpAddr::V4(ip), 0)) };
        while let Err(e) = tokio::task::block_in_place(ping) {
            assert!(Instant::now() < deadline, "{ip} does not answer: {e}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Member {
    fn adds(&self, other: &Self) {
        self.node.add_address(&other.at);
        self.vpn.add_peer(other.peer.clone()).expect("added");
    }

    fn removes(&self, other: &Self) {
        assert!(self.vpn.remove_peer(other.peer.peer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_loses_nothing_while_others_join_and_leave() {
    let Some(_turn) = turn().await else { return };
    let mut lab = NetLab::new().expect("a lab");
    let mut place = |name: &str, last: u8| {
        let overlay = Ipv4Addr::new(10, 99, 0, last);
        Place::new(&mut lab, name, overlay)
    };
    let (at_a, at_b, at_c) = (place("a", 1), place("b", 2), place("c", 3));
    let (a, b) = (at_a.start().await, at_b.start().await);
    a.adds(&b);
    b.adds(&a);
    at_a.pings(at_b.overlay).await;
    let flow = Paced::start(&at_a.namespace, &at_b.namespace, at_b.overlay.into());
    for _ in 0..CYCLES {
        // Somebody else each time, with an interface, a session and keys of its own.
        let c = at_c.start().await;
        for member in [&a, &b] {
            member.adds(&c);
            c.adds(member);
        }
        at_a.pings(at_c.overlay).await;
        at_c.pings(at_b.overlay).await;
        for member in [&a, &b] {
            member.removes(&c);
        }
        at_c.run(async move {
            c.vpn.stop().await;
            c.node.close().await;
        })
        .await;
    }
    let (sent, arrived) = flow.finish().await;
    println!("{CYCLES} joined and left; {arrived} of {sent} packets arrived");
    assert_eq!(arrived, sent);
    at_a.run(async move { a.vpn.stop().await }).await;
    at_b.run(async move { b.vpn.stop().await }).await;
}
