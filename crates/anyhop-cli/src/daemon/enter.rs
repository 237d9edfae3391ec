//! Nodes are started and left: one for each network.
//!
//! - **Start**: the networks that `up` names, then all others in the state directory.
//! - **Steady state**: networks are founded, joined, restored and left as commands ask for
//!   it. One whose invitation has not been redeemed yet is there, too.
//! - **Failure**: a network that does not start is told, and does not keep the others from
//!   it. One that does not admit this node is forgotten.

use std::{fs, io, net::SocketAddr, path::Path, sync::Arc};

use anyhop::{
    Config, JoinError, MemberName, NetworkName, Node, OptOuts, PrivateNetwork, StartError,
    SwarmKey, WebSocketConfig,
};
use anyhop_base::NetworkId;

use super::{
    Daemon, Presence,
    listen::{self, Addresses},
    ports,
    public::PublicNetwork,
    vpn,
};
use crate::{
    api::network::LeaveReport,
    error::{CliError, Code},
};

/// What `up` was told.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Names or ids of networks; the first is the default.
    pub(crate) networks: Vec<NetworkName>,
    /// For the node of the default network. What is not about one node holds for the others,
    /// too.
    pub(crate) config: Config,
    /// Whether IP packets are carried in private networks from the start.
    pub(crate) vpn: bool,
    /// Whether names of members are served where packets are carried.
    pub(crate) dns: bool,
}

impl Settings {
    /// For another network than the default one.
    fn further(&self) -> Config {
        let config = self.config.clone();
        let any_port = |a: &SocketAddr| SocketAddr::new(a.ip(), 0);
        Config {
            listen: config.listen.iter().map(any_port).collect(),
            bootstrap: Vec::new(),
            websocket: WebSocketConfig {
                listen: Vec::new(),
                ..config.websocket
            },
            network: NetworkName::default(),
            private: None,
            ..config
        }
    }
}

/// A network to enter.
enum Named {
    Public(PublicNetwork),
    Private(Box<PrivateNetwork>),
}

impl Named {
    fn name(&self) -> &NetworkName {
        match self {
            Self::Public(network) => &network.name,
            Self::Private(network) => network.name(),
        }
    }

    fn id(&self) -> NetworkId {
        match self {
            Self::Public(network) => network.name.id(),
            Self::Private(network) => network.id(),
        }
    }

    /// For its node, given what holds for nodes of any network.
    fn config(self, mut config: Config) -> Config {
        match self {
            Self::Public(network) => {
                config.network = network.name;
                config.bootstrap.extend(network.bootstrap);
            }
            Self::Private(network) => config.private = Some(*network),
        }
        config
    }
}

/// What the state directory has.
#[derive(Default)]
struct Stored {
    private: Vec<PrivateNetwork>,
    public: Vec<PublicNetwork>,
    /// Why one that may be private is of no use.
    unusable: Option<CliError>,
}

/// How somebody founds or joins a network.
#[derive(Debug)]
pub(super) struct As {
    /// The name among the members.
    pub(super) name: Option<MemberName>,
    pub(super) opt_outs: OptOuts,
    /// Where to listen; no UDP address for where `up` says.
    pub(super) listen: Addresses,
}

impl Daemon {
    /// Enters the networks that `up` names and those in the state directory. Only the default
    /// one must work.
    pub(super) async fn enter_all(self: &Arc<Self>) -> Result<Arc<Presence>, CliError> {
        let mut stored = self.stored().await?;
        let mut named = Vec::new();
        for name in &self.settings.networks {
            named.push(stored.take(name)?);
        }
        if named.is_empty() {
            named.push(stored.take(&NetworkName::default())?);
        }
        let private = stored
            .private
            .into_iter()
            .map(|n| Named::Private(Box::new(n)));
        let rest = private.chain(stored.public.into_iter().map(Named::Public));
        let mut all = named.into_iter().chain(rest);
        let first = all.next().expect("one is there, see above");
        let default = self.enter(first, self.settings.config.clone()).await?;
        self.networks.set_default(default.id());
        for network in all {
            let name = network.name().to_string();
            if let Err(error) = self.enter(network, self.settings.further()).await {
                let error = error.context(&format!("network {name}"));
                self.teller.network_failed(&name, &error);
            }
        }
        Ok(default)
    }

    /// What is in the state directory; tells what is of no use.
    async fn stored(&self) -> Result<Stored, CliError> {
        let dir = self.state_dir.path().to_owned();
        let read = move || {
            let public = PublicNetwork::list(&dir.join("networks"));
            PrivateNetwork::list(&dir).map(|private| (private, public))
        };
        let (private, public) = blocking(read).await??;
        let mut stored = Stored::default();
        let failed = |folder: &Path, error: &CliError| {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            self.teller.network_failed(&name, error);
        };
        for (folder, network) in private {
            match network.map_err(CliError::from) {
                Ok(network) => stored.private.push(network),
                Err(error) => {
                    failed(&folder, &error);
                    stored.unusable = Some(error);
                }
            }
        }
        for (folder, network) in public {
            match network {
                Ok(network) => stored.public.push(network),
                Err(error) => failed(&folder, &error),
            }
        }
        Ok(stored)
    }

    /// Enters a network, at the ports that it had if there is a folder of it.
    async fn enter(
        self: &Arc<Self>,
        network: Named,
        config: Config,
    ) -> Result<Arc<Presence>, CliError> {
        let name = network.name().to_string();
        let folder = PrivateNetwork::folder(self.state_dir.path(), network.id());
        let kept = Addresses::read(&folder)?;
        let mut config = network.config(config);
        let told = std::mem::take(&mut config.listen);
        config.listen = listen::choose(&kept.udp, &told);
        if config.websocket.listen.is_empty() {
            config.websocket.listen.clone_from(&kept.websocket);
        }
        let node = match self.start(config.clone()).await {
            Err(e @ StartError::Bind { .. }) if !kept.udp.is_empty() => {
                let error = CliError::from(e).context("its ports are taken, so that others are");
                self.teller.network_failed(&name, &error);
                config.listen = told;
                self.start(config).await?
            }
            started => started?,
        };
        let keep = kept.udp.is_empty() && folder.is_dir();
        let keep = keep.then(|| Addresses::of(&node, &kept));
        self.settle_in(node, &folder, keep).await
    }

    /// Enters a network that was put into the state directory just now, at these addresses
    /// if any are given; takes it out again when that fails.
    async fn enter_first(
        self: &Arc<Self>,
        network: Named,
        at: &Addresses,
    ) -> Result<Arc<Presence>, CliError> {
        let folder = PrivateNetwork::folder(self.state_dir.path(), network.id());
        let mut config = network.config(self.settings.further());
        config.websocket.listen.clone_from(&at.websocket);
        if !at.udp.is_empty() {
            config.listen.clone_from(&at.udp);
        }
        let entered = async {
            let node = self.start(config).await?;
            let keep = Addresses::of(&node, at);
            self.settle_in(node, &folder, Some(keep)).await
        };
        match entered.await {
            Ok(presence) => {
                self.teller.entered(&presence);
                Ok(presence)
            }
            Err(e) => {
                // Nobody has heard of it yet.
                if let Err(e) = remove_folder(&folder) {
                    tracing::warn!(folder = %folder.display(), "not removed: {e}");
                }
                Err(e)
            }
        }
    }

    /// Has commands find a node, and the next start its addresses.
    async fn settle_in(
        self: &Arc<Self>,
        node: Node,
        folder: &Path,
        keep: Option<Addresses>,
    ) -> Result<Arc<Presence>, CliError> {
        if let Some(Err(e)) = keep.map(|k| k.write(folder)) {
            node.close().await;
            return Err(e);
        }
        self.settle(node)
    }

    async fn start(&self, config: Config) -> Result<Node, StartError> {
        Node::start(self.keypair.clone(), config).await
    }

    /// Has commands find a node.
    fn settle(self: &Arc<Self>, node: Node) -> Result<Arc<Presence>, CliError> {
        let events = node.events();
        let presence = Presence::new(
            node,
            self.state_dir.clone(),
            &self.networks,
            Arc::clone(&self.journal),
            self.tasks.child(),
        )?;
        let follow = self.teller.clone().follow(presence.name(), events);
        presence.tasks.spawn(follow);
        if presence.is_joining() {
            let admission = Arc::clone(self).await_admission(Arc::clone(&presence));
            self.tasks.spawn(admission);
        }
        if self.settings.vpn && presence.node.private_network().is_some() {
            let raise = vpn::raise(
                self.teller.clone(),
                Arc::clone(&presence),
                self.settings.dns,
            );
            presence.tasks.spawn(raise);
        }
        if presence.node.private_network().is_some() {
            let follow = ports::follow(Arc::clone(&presence));
            presence.tasks.spawn(follow);
        }
        self.networks.insert(Arc::clone(&presence));
        Ok(presence)
    }

    // ---- while it runs

    /// Founds a network.
    pub(super) async fn create(
        self: &Arc<Self>,
        name: NetworkName,
        how: As,
        swarm_key: Option<SwarmKey>,
    ) -> Result<Arc<Presence>, CliError> {
        let taken = self.networks.all();
        if taken.iter().any(|(p, _)| p.name() == name.as_str()) {
            let message = format!("this daemon is in a network named {name} already");
            return Err(CliError::usage(message).hint("choose another name"));
        }
        let (key, opt_outs) = (self.keypair.clone(), how.opt_outs);
        let member = how.name.clone().unwrap_or_else(owner_name);
        let network = match swarm_key {
            None => PrivateNetwork::create(name, &key, &member, opt_outs)?,
            Some(first) => PrivateNetwork::create_under(name, &key, &member, opt_outs, &first)?,
        };
        self.enter_new(network, how).await
    }

    /// Restores a network from a backup of its owner.
    pub(super) async fn import(
        self: &Arc<Self>,
        backup: String,
        passphrase: String,
        how: As,
    ) -> Result<Arc<Presence>, CliError> {
        let key = self.keypair.clone();
        let member = how.name.clone().unwrap_or_else(owner_name);
        let open = move || PrivateNetwork::import(&backup, &passphrase, &key, &member);
        let network = blocking(open).await??;
        self.enter_new(network, how).await
    }

    /// Starts to redeem an invitation, or finds the network where that goes on.
    pub(super) async fn join(
        self: &Arc<Self>,
        invite: &str,
        how: As,
    ) -> Result<Arc<Presence>, CliError> {
        let network = PrivateNetwork::join(invite, how.name.clone(), how.opt_outs)?;
        match self.networks.get(network.id()) {
            Some(presence) if presence.is_joining() => Ok(presence),
            Some(presence) => Err(already(&presence.name())),
            None => self.enter_new(network, how).await,
        }
    }

    async fn enter_new(
        self: &Arc<Self>,
        network: PrivateNetwork,
        how: As,
    ) -> Result<Arc<Presence>, CliError> {
        self.networks.check_room()?;
        let dir = self.state_dir.path().to_owned();
        let network = blocking(move || network.stored_in(&dir)).await??;
        let network = Named::Private(Box::new(network));
        self.enter_first(network, &how.listen).await
    }

    /// Enters a public network, from now on with each start.
    pub(super) async fn join_public(
        self: &Arc<Self>,
        network: PublicNetwork,
        listen: Addresses,
    ) -> Result<Arc<Presence>, CliError> {
        let id = network.name.id();
        if self.networks.get(id).is_some() {
            return Err(already(network.name.as_str()));
        }
        self.networks.check_room()?;
        let folder = PrivateNetwork::folder(self.state_dir.path(), id);
        let (kept, at) = (network.clone(), folder.clone());
        blocking(move || kept.write(&at)).await?.map_err(|e| {
            let message = format!("cannot write to {}: {e}", folder.display());
            CliError::new(Code::StateDir, message)
                .hint("check the directory's owner and permissions")
        })?;
        self.enter_first(Named::Public(network), &listen).await
    }

    /// Leaves a network; the default one for the public network that the daemon was in.
    pub(super) async fn leave(
        self: &Arc<Self>,
        presence: &Arc<Presence>,
    ) -> Result<LeaveReport, CliError> {
        let private = presence.node.private_network();
        let (id, name) = (presence.id(), presence.name());
        let was_default = self.networks.is_default(id);
        if was_default && private.is_none() {
            let message = format!("{name} is the public network that the daemon was started in");
            return Err(CliError::new(Code::Refused, message)
                .hint("stop the daemon, and start it in another one: `anyhop up --network NAME`"));
        }
        if was_default {
            let public = self.public().await?;
            self.networks.set_default(public.id());
        }
        if self.networks.remove(id).is_none() {
            let message = format!("the network {name} was left already");
            return Err(CliError::new(Code::NoNetwork, message));
        }
        presence.vpn_stop().await;
        match private {
            Some(network) => network.leave().await?,
            None => {
                presence.node.close().await;
                let folder = PrivateNetwork::folder(self.state_dir.path(), id);
                blocking(move || remove_folder(&folder))
                    .await?
                    .map_err(|e| {
                        let message =
                            format!("left {name}, but it comes back at the next start: {e}");
                        CliError::new(Code::StateDir, message)
                            .hint("check the state directory's owner and permissions")
                    })?;
            }
        }
        presence.tasks.stop.cancel();
        self.teller.left(presence);
        let default = self.networks.find(None)?;
        Ok(LeaveReport {
            network: name,
            id: id.to_string(),
            default: default.name(),
        })
    }

    /// The public network of this daemon, entered if need be.
    async fn public(self: &Arc<Self>) -> Result<Arc<Presence>, CliError> {
        let all = self.networks.all();
        let mut public = all
            .iter()
            .filter(|(p, _)| p.node.private_network().is_none());
        match public.next() {
            Some((presence, _)) => Ok(Arc::clone(presence)),
            None => {
                let main = Named::Public(PublicNetwork::default());
                let presence = self.enter(main, self.settings.further()).await?;
                self.teller.entered(&presence);
                Ok(presence)
            }
        }
    }

    /// Waits until an invitation is redeemed; forgets the network when it will not be.
    async fn await_admission(self: Arc<Self>, presence: Arc<Presence>) {
        let Some(network) = presence.node.private_network() else {
            return;
        };
        match network.joined().await {
            // Left, or stopped: then it goes on at the next start.
            Ok(()) | Err(JoinError::Closed) => {}
            Err(e) => {
                let error = CliError::from(e).context(&format!("network {}", presence.name()));
                self.teller.network_failed(&presence.name(), &error);
                if let Err(e) = self.leave(&presence).await {
                    tracing::warn!("a network that was not joined was not left: {e}");
                }
            }
        }
    }
}

impl Stored {
    /// The network that `up` names: one of these, which is taken out, or a public one.
    fn take(&mut self, name: &NetworkName) -> Result<Named, CliError> {
        let private = &mut self.private;
        let by_id = private
            .iter()
            .position(|n| n.id().to_string() == name.as_str());
        // What is meant without an option is public.
        let is_default = *name == NetworkName::default();
        let by_name = || private.iter().position(|n| n.name() == name && !is_default);
        if let Some(at) = by_id.or_else(by_name) {
            return Ok(Named::Private(Box::new(private.remove(at))));
        }
        if let Some(error) = self.unusable.as_ref().filter(|_| !is_default) {
            // A private network must not become a public one because its file is damaged.
            let what = format!("whether {name} is a private network cannot be told");
            return Err(error.clone().context(&what));
        }
        let at = self.public.iter().position(|n| n.name == *name);
        let public = at.map(|at| self.public.remove(at));
        Ok(Named::Public(public.unwrap_or_else(|| PublicNetwork {
            name: name.clone(),
            ..PublicNetwork::default()
        })))
    }
}

fn already(name: &str) -> CliError {
    let message = format!("this node is in the network {name} already");
    CliError::new(Code::Refused, message)
        .hint("`anyhop network show NAME` tells as what; leave it first to join anew")
}

/// Removes a network's folder, if there is one.
fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn owner_name() -> MemberName {
    "owner".parse().expect("a valid name")
}

/// Runs what must not end in the middle because the command left that asked for it.
pub(super) async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, CliError> {
    let done = tokio::spawn(work).await;
    done.map_err(|e| CliError::new(Code::Failed, format!("the daemon failed: {e}")))
}

/// Runs what waits for the disk, or computes for long, where that holds nobody up.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CliError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| CliError::new(Code::Failed, format!("the daemon failed: {e}")))
}
