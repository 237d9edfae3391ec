//! Everything that a report is made from.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhop::{GatewayState, NatStatus, Node, NodeStatus, PeerAddr, PeerClock, SessionInfo};
use anyhop_os::{Gateway, SocketBufferLimits};
use tokio::time::{Instant, sleep};

use super::{
    probe::{self, Probe},
    site::{self, Site},
};
use crate::{environment, state::StateDir};

/// How long a temporary node gets to find out about its NAT and to attach.
const SETTLE: Duration = Duration::from_secs(5);
/// How long it gets until gateways have answered over each protocol, or have not, and a
/// peer has tried what they mapped.
const SETTLE_GATEWAYS: Duration = Duration::from_secs(9);
/// Between two looks at that.
const LOOK: Duration = Duration::from_millis(100);

/// What was gathered.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) status: NodeStatus,
    pub(super) sessions: Vec<SessionInfo>,
    pub(super) clocks: Vec<PeerClock>,
    pub(super) bootstrap: Vec<PeerAddr>,
    pub(super) probes: Vec<Probe>,
    pub(super) sites: Vec<Site>,
    pub(super) v4: Family,
    pub(super) v6: Family,
    pub(super) mtus: Vec<(String, u64)>,
    pub(super) buffers: Option<SocketBufferLimits>,
    pub(super) state: StateFacts,
    /// Name and value of each variable that is set.
    pub(super) proxies: Vec<(String, String)>,
    /// Why some of them are not used.
    pub(super) bad_proxies: Vec<String>,
    pub(super) now_unix_s: i64,
}

/// One IP family on this host.
#[derive(Debug)]
pub(super) struct Family {
    /// Addresses, without loopback.
    pub(super) addresses: Vec<IpAddr>,
    /// What the kernel would send to the internet from, or why it would not.
    pub(super) source: Result<IpAddr, String>,
    /// Where it would send it.
    pub(super) gateways: Vec<Gateway>,
}

/// The state directory.
#[derive(Debug)]
pub(super) struct StateFacts {
    pub(super) path: PathBuf,
    /// Permission bits; `None` when there is no directory.
    pub(super) mode: Option<u32>,
    /// Why the key in it cannot be used, and what to do. Without a key nothing is wrong.
    pub(super) key: Result<(), (String, String)>,
    /// Why nothing can be written to it.
    pub(super) writable: Result<(), String>,
}

/// Gathers, probing the node's bootstrap peers. What takes long runs at once.
pub(super) async fn gather(node: &Node, state_dir: &StateDir, daemon: bool) -> Facts {
    let bootstrap = node.bootstrap().to_vec();
    let (proxies, bad) = environment::proxies();
    let settled = async {
        if !daemon {
            settle(node, !bootstrap.is_empty()).await;
        }
    };
    // Members of a private network answer no temporary node: sessions tell what there is.
    let probed = match node.private_network() {
        Some(_) => &[][..],
        None => &bootstrap,
    };
    let (probes, sites, ()) = tokio::join!(
        probe::all(node.network(), &proxies, probed),
        site::all(&bootstrap),
        settled
    );
    let addresses = anyhop_os::interface_addresses().unwrap_or_default();
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    Facts {
        status: node.status(),
        sessions: node.sessions(),
        clocks: node.peer_clocks(),
        bootstrap,
        probes,
        sites,
        v4: family(&addresses, false),
        v6: family(&addresses, true),
        mtus: anyhop_os::interface_mtus(),
        buffers: anyhop_os::socket_buffer_limits().ok(),
        state: state(state_dir),
        proxies: environment::proxy_variables(),
        bad_proxies: bad.iter().map(ToString::to_string).collect(),
        now_unix_s: since_epoch.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX)),
    }
}

/// Waits until a new node knows how it is connected, or it is not worth waiting.
async fn settle(node: &Node, knows_peers: bool) {
    let start = Instant::now();
    loop {
        let status = node.status();
        let connected = !knows_peers || start.elapsed() >= SETTLE || is_connected(&status);
        let mapped = start.elapsed() >= SETTLE_GATEWAYS || has_asked(&status.nat, knows_peers);
        if connected && mapped {
            return;
        }
        sleep(LOOK).await;
    }
}

fn is_connected(status: &NodeStatus) -> bool {
    let families = [&status.nat.v4, &status.nat.v6];
    let known = |n: &anyhop::NatInfo| n.mapping.is_some() && n.filtering.is_some();
    !status.attachments.is_empty() && families.into_iter().flatten().any(known)
}

/// Whether gateways have answered, and what they mapped has been tried if somebody can.
fn has_asked(nat: &NatStatus, knows_peers: bool) -> bool {
    match nat.gateways.state {
        GatewayState::Asking => false,
        GatewayState::Mapped if knows_peers => {
            let mut mappings = nat.mappings.iter();
            mappings.all(|m| m.verified || m.problem.is_some())
        }
        _ => true,
    }
}

fn family(addresses: &[IpAddr], ipv6: bool) -> Family {
    let mine = addresses.iter().copied();
    let source = anyhop_os::source_address(ipv6);
    let gateways = anyhop_os::default_gateways().into_iter();
    Family {
        addresses: mine
            .filter(|a| a.is_ipv6() == ipv6 && !a.is_loopback())
            .collect(),
        source: source.map_err(|e| e.to_string()),
        gateways: gateways.filter(|g| g.address.is_ipv6() == ipv6).collect(),
    }
}

fn state(state_dir: &StateDir) -> StateFacts {
    let path = state_dir.path().to_owned();
    let metadata = fs::metadata(&path);
    let mode = metadata.ok().map(|m| m.permissions().mode() & 0o7777);
    let key = match path.join("key").symlink_metadata() {
        // It is there, so that it is only read.
        Ok(_) => state_dir.keypair().map(drop).map_err(|e| {
            let hint = e.hint.clone().unwrap_or_default();
            (e.message, hint)
        }),
        Err(_) => Ok(()),
    };
    let writable = match mode {
        Some(_) => try_write(&path),
        None => Ok(()),
    };
    StateFacts {
        path,
        mode,
        key,
        writable,
    }
}

fn try_write(dir: &std::path::Path) -> Result<(), String> {
    let file = dir.join(".doctor");
    let written = anyhop_base::fs::write_atomic(&file, b"", 0o600);
    // Only there if it was written.
    let _ = fs::remove_file(&file);
    written.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_that_is_not_there_is_left_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let absent = StateDir::choose(Some(dir.path().join("absent"))).expect("given");
        let facts = state(&absent);
        assert_eq!((facts.mode, facts.writable), (None, Ok(())));
        assert!(!absent.path().exists());
    }

    #[test]
    fn a_look_at_a_state_directory_leaves_nothing_in_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let given = StateDir::choose(Some(dir.path().to_owned())).expect("given");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).expect("mine");
        let facts = state(&given);
        assert_eq!((facts.mode, facts.writable), (Some(0o750), Ok(())));
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
    }
}
