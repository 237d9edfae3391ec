//! The namespaces of the matrix and the daemons in them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::{Instant, sleep},
};

use crate::{
    matrix::{Family, Kind},
    nat::Filtering,
    netns::{Daemon, Families, LabError, Namespace, NatKind, NetLab, Router, RouterConfig},
};

/// How long a daemon may take to get ready, on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long a node may take to be attached to the relay.
const ATTACH_PATIENCE: Duration = Duration::from_secs(30);

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

const PORT: u16 = 4001;
const WEBSOCKET_PORT: u16 = 443;

/// The places of one family, twice, and the relay. Fields drop in order: the daemon
/// before its namespace.
pub(super) struct World {
    family: Family,
    binary: PathBuf,
    relay: Daemon,
    sides: [BTreeMap<Kind, Arc<Mutex<Spot>>>; 2],
    lab: NetLab,
}

/// A host in a place, and what is in front of it.
pub(super) struct Spot {
    name: String,
    kind: Kind,
    host: Namespace,
    routers: Vec<Router>,
}

/// Two places that nobody else uses meanwhile.
pub(super) type Taken = [OwnedMutexGuard<Spot>; 2];

impl World {
    /// Builds it and starts the relay.
    pub(super) async fn new(
        binary: &Path,
        family: Family,
        kinds: &[Kind],
    ) -> Result<Self, LabError> {
        let kinds = kinds.to_vec();
        let built = tokio::task::spawn_blocking(move || build(family, &kinds)).await;
        let (lab, relay, sides) = built.map_err(|e| LabError::Run {
            what: "building the lab".into(),
            source: e.into(),
        })??;
        let args = args(family, true, &[]);
        let state = lab.directory("relay")?;
        let relay = Daemon::up("relay", binary, relay, state, &args, READY_WITHIN).await?;
        Ok(Self {
            family,
            binary: binary.to_owned(),
            relay,
            sides,
            lab,
        })
    }

    /// Waits until both places are free.
    pub(super) async fn take(&self, pair: (Kind, Kind)) -> Taken {
        let spot = |side: usize, kind| Arc::clone(&self.sides[side][&kind]);
        let first = spot(0, pair.0).lock_owned().await;
        [first, spot(1, pair.1).lock_owned().await]
    }

    /// Starts two fresh daemons behind NATs that have forgotten everything, and waits
    /// until others can reach them.
    pub(super) async fn start(&self, places: &Taken, run: u32) -> Result<[Daemon; 2], LabError> {
        let [a, b] = places;
        let (a, b) = tokio::try_join!(self.up(a, b, run), self.up(b, a, run))?;
        Ok([a, b])
    }

    async fn up(&self, spot: &Spot, other: &Spot, run: u32) -> Result<Daemon, LabError> {
        for router in &spot.routers {
            router.reboot()?;
        }
        let public = spot.kind == Kind::Public;
        let args = args(self.family, public, self.relay.addresses());
        let state = format!("{}-{}-{run}", spot.name, other.name);
        let state = self.lab.directory(&state)?;
        let host = spot.host.clone();
        let daemon = Daemon::up(&spot.name, &self.binary, host, state, &args, READY_WITHIN).await?;
        let deadline = Instant::now() + ATTACH_PATIENCE;
        loop {
            let status = daemon.get("/v1/status", READY_WITHIN).await?;
            let attachments = status["attachments"].as_array();
            if attachments.is_some_and(|all| !all.is_empty()) {
                return Ok(daemon);
            }
            if Instant::now() > deadline {
                return Err(LabError::Timeout {
                    what: spot.name.clone(),
                    waited_for: "an attachment to the relay",
                    within: ATTACH_PATIENCE,
                    stderr: daemon.stderr(),
                });
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// What `up` is started with.
fn args(family: Family, public: bool, bootstrap: &[String]) -> Vec<String> {
    let any = match family {
        Family::V4 => "0.0.0.0",
        Family::V6 => "[::]",
    };
    // Hosts of the lab's internet share one link and would meet there by themselves.
    let mut args = vec![format!("--listen={any}:{PORT}"), "--no-mdns".to_owned()];
    if public {
        args.push(format!("--listen-ws={any}:{WEBSOCKET_PORT}"));
    }
    args.extend(bootstrap.iter().map(|addr| format!("--bootstrap={addr}")));
    args
}

type Sides = [BTreeMap<Kind, Arc<Mutex<Spot>>>; 2];

fn build(family: Family, kinds: &[Kind]) -> Result<(NetLab, Namespace, Sides), LabError> {
    let mut lab = NetLab::new()?;
    let relay = lab.public_host("relay", families(family))?;
    let mut sides: Sides = Default::default();
    for (side, spots) in ["a", "b"].into_iter().zip(&mut sides) {
        for kind in kinds.iter().filter(|kind| kind.applies_to(family)) {
            let spot = place(&mut lab, *kind, family, format!("{side}-{kind}"))?;
            spots.insert(*kind, Arc::new(Mutex::new(spot)));
        }
    }
    Ok((lab, relay, sides))
}

/// Makes a host of this kind, with what is in front of it.
fn place(lab: &mut NetLab, kind: Kind, family: Family, name: String) -> Result<Spot, LabError> {
    let mut routers = Vec::new();
    if let Some(config) = outermost(kind, family) {
        routers.push(lab.router(&format!("nat-{name}"), config)?);
    }
    if kind == Kind::CgnatCone
        && let Some(carrier) = routers.first_mut()
    {
        let inner = format!("home-{name}");
        let home = lab.router_behind(carrier, &inner, NatKind::PortRestrictedCone)?;
        routers.push(home);
    }
    let host = match routers.last_mut() {
        Some(router) => lab.host_behind(router, &name)?,
        None => lab.public_host(&name, families(family))?,
    };
    if kind == Kind::UdpBlocked {
        routers.iter().try_for_each(Router::block_all_udp)?;
    }
    Ok(Spot {
        name,
        kind,
        host,
        routers,
    })
}

fn outermost(kind: Kind, family: Family) -> Option<RouterConfig> {
    if family == Family::V6 {
        let v6: Option<Filtering> = kind.filtering();
        return v6.map(|_| RouterConfig { v4: None, v6 });
    }
    Some(RouterConfig::from(match kind {
        Kind::Public => return None,
        Kind::FullCone => NatKind::FullCone,
        Kind::Restricted => NatKind::RestrictedCone,
        Kind::PortRestricted | Kind::UdpBlocked => NatKind::PortRestrictedCone,
        Kind::SymmetricSequential => NatKind::SymmetricSequential,
        Kind::SymmetricRandom => NatKind::SymmetricRandom,
        Kind::CgnatCone => NatKind::Carrier,
    }))
}

fn families(family: Family) -> Families {
    match family {
        Family::V4 => Families::V4,
        Family::V6 => Families::V6,
    }
}
