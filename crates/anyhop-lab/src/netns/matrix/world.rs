//! The namespaces of the matrix and the daemons in them.

use std::{path::Path, time::Duration};

use tokio::{task::JoinSet, time::Instant};

use super::{MatrixConfig, Place};
use crate::netns::{Daemon, Families, LabError, Namespace, NetLab};

/// How long a daemon may take to get ready, on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long a node may take to have a relay. One that cannot is measured without.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

const PORT: u16 = 4001;

/// The lab. Fields drop in order: daemons before their namespaces.
pub(super) struct World {
    diallers: Vec<Daemon>,
    dialled: Vec<Daemon>,
    _relay: Daemon,
    _lab: NetLab,
}

impl World {
    /// Builds it, starts all daemons and waits until each is settled.
    pub(super) async fn new(config: &MatrixConfig) -> Result<Self, LabError> {
        let places = config.places.clone();
        let built = tokio::task::spawn_blocking(move || build(&places)).await;
        let Built { lab, relay, hosts } = built.map_err(|e| LabError::Run {
            what: "building the lab".into(),
            source: e.into(),
        })??;
        let relay = up(
            &lab,
            &config.binary,
            "relay",
            relay,
            Families::Both,
            Vec::new(),
        )
        .await?;
        let bootstrap = relay.addresses().to_vec();

        let mut starting = JoinSet::new();
        for (i, (name, place, host)) in hosts.into_iter().enumerate() {
            let near = bootstrap
                .iter()
                .filter(|addr| reachable(addr, place.families()));
            let near = near.cloned().collect();
            let daemon = up(&lab, &config.binary, &name, host, place.families(), near);
            let daemon = daemon.await?;
            starting.spawn(async move {
                settle(&daemon, place).await?;
                Ok::<_, LabError>((i, daemon))
            });
        }
        let mut started = Vec::new();
        while let Some(done) = starting.join_next().await {
            let done = done.map_err(|e| LabError::Run {
                what: "starting the daemons".into(),
                source: e.into(),
            })?;
            started.push(done?);
        }
        started.sort_by_key(|(i, _)| *i);
        let mut daemons = started.into_iter().map(|(_, daemon)| daemon);
        let diallers = daemons.by_ref().take(config.places.len()).collect();
        Ok(Self {
            diallers,
            dialled: daemons.collect(),
            _relay: relay,
            _lab: lab,
        })
    }

    pub(super) fn dialler(&self, i: usize) -> &Daemon {
        &self.diallers[i]
    }

    pub(super) fn dialled(&self, i: usize) -> &Daemon {
        &self.dialled[i]
    }
}

struct Built {
    lab: NetLab,
    relay: Namespace,
    hosts: Vec<(String, Place, Namespace)>,
}

fn build(places: &[Place]) -> Result<Built, LabError> {
    let mut lab = NetLab::new()?;
    let relay = lab.public_host("relay", Families::Both)?;
    let mut hosts = Vec::new();
    for side in ["a", "b"] {
        for (i, place) in places.iter().enumerate() {
            let name = format!("{side}{i}");
            let host = place.build(&mut lab, &name)?;
            hosts.push((name, *place, host));
        }
    }
    Ok(Built { lab, relay, hosts })
}

async fn up(
    lab: &NetLab,
    binary: &Path,
    name: &str,
    host: Namespace,
    families: Families,
    bootstrap: Vec<String>,
) -> Result<Daemon, LabError> {
    let mut args = Vec::new();
    if families.v4() {
        args.push(format!("--listen=0.0.0.0:{PORT}"));
    }
    if families.v6() {
        args.push(format!("--listen=[::]:{PORT}"));
    }
    args.extend(bootstrap.iter().map(|addr| format!("--bootstrap={addr}")));
    let state = lab.directory(name)?;
    Daemon::up(name, binary, host, state, &args, READY_WITHIN).await
}

/// Whether a host of these families can dial this multiaddr.
fn reachable(addr: &str, families: Families) -> bool {
    match addr.starts_with("/ip6/") {
        true => families.v6(),
        false => families.v4(),
    }
}

/// Waits until others can find this node, or it has had its time.
async fn settle(daemon: &Daemon, place: Place) -> Result<(), LabError> {
    let deadline = Instant::now() + SETTLED_WITHIN;
    loop {
        let status = daemon.get("/v1/status", READY_WITHIN).await?;
        let attached = status["attachments"]
            .as_array()
            .is_some_and(|all| !all.is_empty());
        if attached {
            return Ok(());
        }
        if Instant::now() > deadline {
            tracing::warn!("{place} has no relay: {status}");
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
