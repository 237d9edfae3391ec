//! Networks in the real kernel, for tests that run as root: network namespaces, veth
//! pairs, a bridge as the internet, and NAT routers made of nftables.
//!
//! ```text
//!   ah<pid>-<n>-inet: bridge br0, 203.0.113.0/24
//!      ├── ah<pid>-<n>-r            host, eth0
//!      └── ah<pid>-<n>-nat-a        wan │ NAT, firewall │ lan (bridge), 10.1.0.1/24
//!                                        └── ah<pid>-<n>-a    host, eth0, 10.1.0.2
//! ```
//!
//! Nothing is made in the namespace that the test runs in. Everything goes when the
//! [`NetLab`] is dropped; what a killed test left is removed when the next one starts.
//! Tests ask [`skip_reason`] first. Commands run through `ip netns exec`.

mod command;
mod process;
mod router;
#[cfg(test)]
mod tests;

pub use command::LabError;
pub use process::{Finished, Process, run};
pub use router::{NatKind, Router};

use std::{
    net::Ipv4Addr,
    path::Path,
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use self::command::{checked, output};

/// Namespaces of one lab.
const MAX_NAMESPACES: usize = 64;

/// Beginning of every namespace's name; the pid of its maker follows.
const PREFIX: &str = "ah";

static LABS: AtomicU32 = AtomicU32::new(0);

/// Why this process cannot make namespaces; `None` if it can.
#[must_use]
pub fn skip_reason() -> Option<String> {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    REASON.get_or_init(try_out).clone()
}

fn try_out() -> Option<String> {
    if !is_root() {
        return Some("not root: network namespaces need it".into());
    }
    for (program, flag) in [("ip", "-V"), ("nft", "--version")] {
        if let Err(e) = output(Command::new(program).arg(flag)) {
            return Some(format!("{program} does not run: {e}"));
        }
    }
    let probe = format!("{PREFIX}{}-probe", std::process::id());
    if let Err(e) = ip(&["netns", "add", &probe]) {
        return Some(format!("no namespace can be made: {e}"));
    }
    let works = checked(netns_exec(&probe, "nft").args(["add", "table", "ip", "probe"]));
    let removed = ip(&["netns", "del", &probe]);
    match works.and(removed) {
        Ok(_) => None,
        Err(e) => Some(format!("namespaces do not work: {e}")),
    }
}

#[cfg(unix)]
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

#[cfg(not(unix))]
fn is_root() -> bool {
    false
}

/// A network of namespaces; see the [module](self).
#[derive(Debug)]
pub struct NetLab {
    prefix: String,
    made: Vec<String>,
    routers: u8,
    ports: u32,
}

impl NetLab {
    /// An internet with nobody on it.
    ///
    /// # Errors
    /// When a command fails; what was made so far is removed.
    pub fn new() -> Result<Self, LabError> {
        remove_stale();
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let mut lab = Self {
            prefix: format!("{PREFIX}{}-{number}-", std::process::id()),
            made: Vec::new(),
            routers: 0,
            ports: 0,
        };
        let inet = lab.namespace("inet")?;
        inet.ip(&["link", "add", "br0", "type", "bridge"])?;
        inet.ip(&["link", "set", "br0", "up"])?;
        Ok(lab)
    }

    /// Adds a host on the internet, with an address of 203.0.113.0/24.
    ///
    /// # Errors
    /// When a command fails.
    pub fn public_host(&mut self, name: &str, ip: Ipv4Addr) -> Result<Namespace, LabError> {
        let host = self.namespace(name)?;
        self.plug(&host, "eth0", ip, &self.inet(), "br0")?;
        Ok(Namespace { ip, ..host })
    }

    /// Adds a NAT router on the internet, with an empty LAN behind it.
    ///
    /// # Errors
    /// When a command fails.
    pub fn router(&mut self, name: &str, wan: Ipv4Addr, kind: NatKind) -> Result<Router, LabError> {
        let namespace = self.namespace(name)?;
        self.routers += 1;
        let lan = Ipv4Addr::new(10, self.routers, 0, 1);
        self.plug(&namespace, router::WAN, wan, &self.inet(), "br0")?;
        namespace.ip(&["link", "add", router::LAN, "type", "bridge"])?;
        namespace.ip(&["address", "add", &format!("{lan}/24"), "dev", router::LAN])?;
        namespace.ip(&["link", "set", router::LAN, "up"])?;
        Router::configure(
            Namespace {
                ip: wan,
                ..namespace
            },
            lan,
            kind,
        )
    }

    /// Adds a host behind a router.
    ///
    /// # Errors
    /// When a command fails.
    pub fn host_behind(&mut self, router: &mut Router, name: &str) -> Result<Namespace, LabError> {
        let ip = router.next_address();
        let host = self.namespace(name)?;
        self.plug(&host, "eth0", ip, router.namespace(), router::LAN)?;
        let gateway = router.lan().to_string();
        host.ip(&["route", "add", "default", "via", &gateway])?;
        Ok(Namespace { ip, ..host })
    }

    fn inet(&self) -> Namespace {
        Namespace {
            name: format!("{}inet", self.prefix),
            ip: Ipv4Addr::UNSPECIFIED,
        }
    }

    fn namespace(&mut self, name: &str) -> Result<Namespace, LabError> {
        let name = format!("{}{name}", self.prefix);
        if self.made.len() >= MAX_NAMESPACES {
            return Err(LabError::TooMany {
                name,
                limit: MAX_NAMESPACES,
            });
        }
        ip(&["netns", "add", &name])?;
        self.made.push(name.clone());
        let namespace = Namespace {
            name,
            ip: Ipv4Addr::LOCALHOST,
        };
        namespace.ip(&["link", "set", "lo", "up"])?;
        // IPv6 link-local addresses would only be noise.
        namespace.write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")?;
        namespace.write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")?;
        Ok(namespace)
    }

    /// Joins `host` by a veth pair to the bridge of another namespace.
    fn plug(
        &mut self,
        host: &Namespace,
        device: &str,
        address: Ipv4Addr,
        at: &Namespace,
        bridge: &str,
    ) -> Result<(), LabError> {
        self.ports += 1;
        let port = format!("port{}", self.ports);
        ip(&[
            "link", "add", device, "netns", &host.name, "type", "veth", "peer", "name", &port,
            "netns", &at.name,
        ])?;
        at.ip(&["link", "set", &port, "master", bridge, "up"])?;
        host.ip(&["address", "add", &format!("{address}/24"), "dev", device])?;
        host.ip(&["link", "set", device, "up"])
    }
}

impl Drop for NetLab {
    fn drop(&mut self) {
        for name in self.made.iter().rev() {
            remove(name);
        }
    }
}

/// A network namespace with one address. Clones name the same one; it goes with its
/// [`NetLab`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    name: String,
    ip: Ipv4Addr,
}

impl Namespace {
    /// Its name, as `ip netns` lists it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address: of `eth0`, or of a router's WAN side.
    #[must_use]
    pub fn ip_address(&self) -> Ipv4Addr {
        self.ip
    }

    /// A command that runs `program` in this namespace.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        netns_exec(&self.name, program)
    }

    fn ip(&self, args: &[&str]) -> Result<(), LabError> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(args);
        checked(&mut command).map(drop)
    }

    /// Writes a kernel setting of this namespace.
    fn write(&self, path: &str, value: &str) -> Result<(), LabError> {
        let script = format!("[ ! -e {path} ] || echo {value} > {path}");
        checked(self.command("sh").args(["-c", &script])).map(drop)
    }
}

fn netns_exec(namespace: &str, program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", namespace])
        .arg(program.as_ref());
    command
}

fn ip(args: &[&str]) -> Result<String, LabError> {
    checked(Command::new("ip").args(args))
}

/// Removes a namespace and ends what still runs in it. Best effort: there is nobody
/// left to tell.
fn remove(name: &str) {
    if let Ok(pids) = ip(&["netns", "pids", name]) {
        for pid in pids.split_whitespace() {
            let _ = checked(Command::new("kill").args(["-KILL", pid]));
        }
    }
    if let Err(e) = ip(&["netns", "del", name]) {
        tracing::warn!("namespace {name} stays behind: {e}");
    }
}

/// Removes the namespaces of processes that are gone.
fn remove_stale() {
    let Ok(list) = ip(&["netns", "list"]) else {
        return;
    };
    for name in list.lines().filter_map(|l| l.split_whitespace().next()) {
        let maker = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        if maker.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove(name);
        }
    }
}
