//! Hosts in a line, each of which reaches only its neighbours.
//!
//! ```text
//!   A --- C --- D --- E --- B
//! ```

use anyhop_lab::netns::NetLab;

use crate::{
    node::Node,
    transfer::{Pace, Transfer},
    turn,
};

const NAMES: [&str; 5] = ["A", "C", "D", "E", "B"];

const BYTES: u64 = 20_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn ends_of_a_chain_connect_over_the_three_between() {
    let Some(_turn) = turn().await else { return };
    let mut lab = NetLab::new().expect("a lab");
    let hosts = NAMES.map(|name| lab.lone_host(&name.to_lowercase()).expect("a host"));
    let mut next = Vec::new();
    for pair in hosts.windows(2) {
        let [_, far] = lab.link(&pair[0], &pair[1]).expect("linked");
        next.push(far);
    }
    // Each knows its neighbour towards B alone, so B is first.
    let mut nodes: Vec<Node> = Vec::new();
    for (i, (name, host)) in NAMES.into_iter().zip(hosts).enumerate().rev() {
        let neighbour = nodes.last().map(|node| node.at(next[i]));
        let args: Vec<_> = neighbour
            .iter()
            .map(|addr| format!("--bootstrap={addr}"))
            .collect();
        let node = Node::up(name, &lab, host, &args).await;
        if let Some(neighbour) = nodes.last() {
            node.is_linked_to(neighbour).await;
        }
        nodes.push(node);
    }
    let [b, e, d, c, a] = &nodes[..] else {
        panic!("five nodes")
    };

    assert_eq!(a.pings(b, 1).await, ["circuit"]);
    let path = a.selects(b, "circuit").await;
    let relays = [c, d, e].map(|node| node.peer.clone());
    assert_eq!(path.via, relays, "A to B");
    let unlimited = Pace {
        bytes_per_s: None,
        gate: u64::MAX,
    };
    for (from, to) in [(a, b), (b, a)] {
        let speed = Transfer::start(from, to, BYTES, unlimited)
            .await
            .finish()
            .await;
        println!(
            "{} to {}: {BYTES} bytes over 3 relays, hashes equal, {speed:.1} MB/s",
            from.name, to.name
        );
    }
    for relay in [c, d, e] {
        assert!(
            relay.forwarded_bytes().await >= 2 * BYTES,
            "{} was passed by",
            relay.name
        );
    }
}
