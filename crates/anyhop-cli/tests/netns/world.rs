//! The namespaces and the daemons in them.

use anyhop_lab::netns::{Families, NatKind, NetLab, Router};

use crate::node::Node;

/// A node behind a NAT. Fields drop in order: daemons before their namespaces.
pub(crate) struct Behind {
    pub(crate) node: Node,
    pub(crate) router: Router,
}

/// The relay, and nodes that know it.
pub(crate) struct World {
    pub(crate) r: Node,
    lab: NetLab,
}

impl World {
    /// Starts R alone.
    pub(crate) async fn new() -> Self {
        let mut lab = NetLab::new().expect("a lab");
        let host = lab.public_host("r", Families::V4).expect("a host");
        let r = Node::up("R", host, None).await;
        Self { r, lab }
    }

    /// Starts a node behind a NAT and waits until it has a session with R.
    pub(crate) async fn behind(&mut self, name: &'static str, kind: NatKind) -> Behind {
        let lower = name.to_lowercase();
        let mut router = self
            .lab
            .router(&format!("nat-{lower}"), kind)
            .expect("a router");
        let host = self.lab.host_behind(&mut router, &lower).expect("a host");
        let node = Node::up(name, host, Some(&self.r.multiaddr())).await;
        node.is_attached_to(&self.r).await;
        Behind { node, router }
    }
}
