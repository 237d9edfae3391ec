//! The namespaces and the daemons in them.

use anyhop_lab::netns::{Families, NetLab, Router, RouterConfig};

use crate::node::Node;

/// A node behind a NAT. Fields drop in order: daemons before their namespaces.
pub(crate) struct Behind {
    pub(crate) node: Node,
    pub(crate) router: Router,
}

/// The relay, and nodes that know it.
pub(crate) struct World {
    pub(crate) r: Node,
    pub(crate) lab: NetLab,
}

impl World {
    /// Starts R alone, which has both families.
    pub(crate) async fn new() -> Self {
        let mut lab = NetLab::new().expect("a lab");
        let host = lab.public_host("r", Families::Both).expect("a host");
        let r = Node::up("R", &lab, host, &[]).await;
        Self { r, lab }
    }

    /// Starts a node behind a NAT and waits until others can reach it through R.
    pub(crate) async fn behind(
        &mut self,
        name: &'static str,
        config: impl Into<RouterConfig>,
    ) -> Behind {
        let lower = name.to_lowercase();
        let router = self.lab.router(&format!("nat-{lower}"), config);
        let mut router = router.expect("a router");
        let host = self.lab.host_behind(&mut router, &lower).expect("a host");
        let bootstrap: Vec<_> = self
            .r
            .multiaddrs()
            .filter(|addr| match addr.starts_with("/ip4/") {
                true => host.v4().is_some(),
                false => host.v6().is_some(),
            })
            .map(|addr| format!("--bootstrap={addr}"))
            .collect();
        let node = Node::up(name, &self.lab, host, &bootstrap).await;
        node.is_attached_to(&self.r).await;
        Behind { node, router }
    }
}
