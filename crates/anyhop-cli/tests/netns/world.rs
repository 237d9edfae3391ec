//! The namespaces and the daemons in them.

use anyhop_lab::netns::{Families, Namespace, NetLab, Router, RouterConfig};

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
        Self::with(&[]).await
    }

    /// The same, and R serves WebSockets.
    pub(crate) async fn with_websockets() -> Self {
        Self::with(&["--listen-ws=0.0.0.0:443".to_owned()]).await
    }

    async fn with(args: &[String]) -> Self {
        let mut lab = NetLab::new().expect("a lab");
        let host = lab.public_host("r", Families::Both).expect("a host");
        let r = Node::up("R", &lab, host, args).await;
        Self { r, lab }
    }

    /// Starts a node behind a NAT and waits until others can reach it through R.
    pub(crate) async fn behind(
        &mut self,
        name: &'static str,
        config: impl Into<RouterConfig>,
    ) -> Behind {
        let router = self.router(name, config);
        self.behind_router(name, router).await
    }

    /// A router with nobody behind it yet.
    pub(crate) fn router(&mut self, name: &str, config: impl Into<RouterConfig>) -> Router {
        let name = format!("nat-{}", name.to_lowercase());
        self.lab.router(&name, config).expect("a router")
    }

    /// As [`behind`](Self::behind), with a router that is there.
    pub(crate) async fn behind_router(&mut self, name: &'static str, mut router: Router) -> Behind {
        let host = self.lab.host_behind(&mut router, &name.to_lowercase());
        let host = host.expect("a host");
        let node = self.up(name, host).await;
        node.is_attached_to(&self.r).await;
        Behind { node, router }
    }

    /// Starts a node that knows R, at its addresses of the families that the host has.
    pub(crate) async fn up(&self, name: &'static str, host: Namespace) -> Node {
        let bootstrap: Vec<_> = self
            .r
            .multiaddrs()
            .filter(|addr| match addr.starts_with("/ip4/") {
                true => host.v4().is_some(),
                false => host.v6().is_some(),
            })
            .map(|addr| format!("--bootstrap={addr}"))
            .collect();
        Node::up(name, &self.lab, host, &bootstrap).await
    }
}
