//! The daemon's presence in one network: a node, and what commands have on it.

use std::sync::{Arc, Weak};

use anyhop::{HostJournal, NetworkHandle, NetworkKind, Node, PeerId};
use anyhop_base::NetworkId;

use super::{
    Networks, Tasks,
    bench::{self, BenchGate},
    forward::{self, Exposed},
    inbox::Inbox,
    names::NamesSwitch,
    ports::Ports,
    vpn::VpnSwitch,
};
use crate::{
    api::network::NetworkReport,
    error::{CliError, Code},
    spec::PeerSpec,
    state::StateDir,
};

/// One network of the daemon.
#[derive(Debug)]
pub(super) struct Presence {
    pub(super) node: Node,
    pub(super) state_dir: StateDir,
    /// The daemon's networks, this one among them.
    networks: Weak<Networks>,
    pub(super) inbox: Inbox,
    pub(super) exposed: Arc<Exposed>,
    pub(super) bench: Arc<BenchGate>,
    /// What was changed on this host.
    pub(super) journal: Arc<HostJournal>,
    /// IP packets of a private network.
    pub(super) vpn: VpnSwitch,
    /// Names of its members.
    pub(super) names: NamesSwitch,
    /// Ports that are members' ports.
    pub(super) ports: Ports,
    /// What ends when the network is left.
    pub(super) tasks: Tasks,
}

impl Presence {
    /// Around a node that was just started; serves the protocols that every daemon speaks.
    pub(super) fn new(
        node: Node,
        state_dir: StateDir,
        networks: &Arc<Networks>,
        journal: Arc<HostJournal>,
        tasks: Tasks,
    ) -> Result<Arc<Self>, CliError> {
        let presence = Self {
            inbox: Inbox::new(node.clone()),
            node,
            state_dir,
            networks: Arc::downgrade(networks),
            exposed: Arc::default(),
            bench: Arc::default(),
            journal,
            vpn: VpnSwitch::default(),
            names: NamesSwitch::default(),
            ports: Ports::default(),
            tasks,
        };
        let taken = |e: anyhop::ProtocolTaken| CliError::new(Code::Failed, e.to_string());
        let forward = presence.node.accept(forward::PROTOCOL).map_err(taken)?;
        let exposed = Arc::clone(&presence.exposed);
        presence.tasks.spawn(forward::serve(exposed, forward));
        let bench = presence.node.accept(bench::PROTOCOL).map_err(taken)?;
        let gate = Arc::clone(&presence.bench);
        presence.tasks.spawn(bench::serve(gate, bench));
        Ok(Arc::new(presence))
    }

    /// The network's id.
    pub(super) fn id(&self) -> NetworkId {
        match self.node.private_network() {
            Some(network) => network.id(),
            None => self.node.network().id(),
        }
    }

    /// The network's name, which another one may have, too.
    pub(super) fn name(&self) -> String {
        self.node.network().to_string()
    }

    /// What is told about the network.
    pub(super) fn report(&self, default: bool) -> NetworkReport {
        let addresses = self.node.addresses();
        match self.node.private_network().map(|n| n.info()) {
            Some(info) => NetworkReport {
                network: info.network,
                id: info.id,
                kind: info.kind,
                epoch: Some(info.epoch),
                role: Some(info.role),
                addresses: info.addresses,
                default,
            },
            None => NetworkReport {
                network: self.name(),
                id: self.id().to_string(),
                kind: NetworkKind::Public,
                epoch: None,
                role: None,
                addresses: addresses.iter().map(ToString::to_string).collect(),
                default,
            },
        }
    }

    /// The private network of a command that is about one.
    pub(super) fn private(&self) -> Result<NetworkHandle, CliError> {
        self.node.private_network().ok_or_else(|| {
            let name = self.name();
            let message = format!("{name} is a public network: it has no members and no keys");
            CliError::usage(message)
                .hint("`anyhop network list` tells which are private; `anyhop network create NAME` makes one")
        })
    }

    /// Whether its invitation has yet to be redeemed.
    pub(super) fn is_joining(&self) -> bool {
        let private = self.node.private_network();
        private.is_some_and(|n| n.is_joining())
    }

    /// The peer a user means among those who wait to be admitted, who may be known by the
    /// name that they would like.
    pub(super) fn resolve_request(
        &self,
        network: &NetworkHandle,
        text: &str,
    ) -> Result<PeerId, CliError> {
        let spec: PeerSpec = text.parse()?;
        let waiting = network.requests().into_iter();
        let waiting: Vec<(String, PeerId)> = waiting
            .filter_map(|r| Some((r.name, r.peer_id.parse().ok()?)))
            .collect();
        let names = waiting.iter().map(|(name, peer)| (name.as_str(), *peer));
        let found = spec.resolve(names, waiting.iter().map(|(_, peer)| *peer));
        found.map_err(|e| e.hint("`anyhop network requests NAME` lists who waits"))
    }

    /// The peer a user means.
    pub(super) fn resolve(&self, text: &str) -> Result<PeerId, CliError> {
        let spec: PeerSpec = text.parse()?;
        if let Some(peer) = spec.full() {
            return Ok(peer);
        }
        let names = self.state_dir.names()?;
        let members = self.members();
        let named = names.iter();
        let named = named.chain(members.iter().map(|(name, peer)| (name.as_str(), *peer)));
        let known = self.node.known_peers();
        let found = spec.resolve(named, known.into_iter().chain([self.node.peer_id()]));
        found.map_err(|e| match self.elsewhere(text) {
            Some(network) => e.hint(format!(
                "{text} is a member of the network {network}: add --network {network}"
            )),
            None => e,
        })
    }

    /// All networks of the daemon, this one among them.
    pub(super) fn others(&self) -> Vec<Arc<Self>> {
        let networks = self.networks.upgrade();
        let all = networks.map(|n| n.all()).unwrap_or_default();
        all.into_iter().map(|(presence, _)| presence).collect()
    }

    /// Another network that has a member of this name.
    fn elsewhere(&self, name: &str) -> Option<String> {
        let mut others = self.others().into_iter();
        let has = |p: &Arc<Self>| p.members().iter().any(|(n, _)| n == name);
        others.find(has).map(|p| p.name())
    }

    /// The name of a peer: the user's for it, or a member's own.
    pub(super) fn name_of(&self, peer: &str) -> Result<Option<String>, CliError> {
        let names = self.state_dir.names()?;
        let mut names = names.iter();
        if let Some((name, _)) = names.find(|(_, p)| p.to_base58() == peer) {
            return Ok(Some(name.to_owned()));
        }
        let mut members = self.members().into_iter();
        let member = members.find(|(_, p)| p.to_base58() == peer);
        Ok(member.map(|(name, _)| name))
    }

    /// Names and ids of the members of a private network, as this node is to show them.
    pub(super) fn members(&self) -> Vec<(String, PeerId)> {
        let members = self.node.private_network().map(|n| n.members());
        let members = members.unwrap_or_default().into_iter();
        members
            .filter_map(|m| Some((m.name, m.peer_id.parse().ok()?)))
            .collect()
    }
}
