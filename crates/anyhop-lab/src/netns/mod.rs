//! Networks in the real kernel, for tests that run as root: network namespaces, veth
//! pairs, a router as the internet, and NAT routers made of nftables.
//!
//! ```text
//!   ah<pid>-<n>-inet: bridge br0, 203.0.113.254/24, 2001:db8::fe/64; routes between all
//!      ├── ah<pid>-<n>-r            host, eth0
//!      └── ah<pid>-<n>-nat-a        wan │ NAT, firewall │ lan (bridge), 10.1.0.1/24
//!                                        └── ah<pid>-<n>-a    host, eth0, 10.1.0.2
//! ```
//!
//! Hosts on the internet are a hop apart: all that they send goes to the router there.
//! Routers stand behind each other for layers of NAT ([`NetLab::router_behind`]), and
//! hosts can be linked without any internet ([`NetLab::link`]).
//!
//! What [`NatKind`] has is what nftables and conntrack can do; the tests observe each as
//! RFC 4787 would have it. They cannot make an address-dependent mapping (conntrack picks
//! ports for flows, a map by the remote address would have to invent the port, and
//! nftables stores no computed number), an endpoint-independent mapping that keeps ports
//! and still resolves two hosts with the same port, or a lifetime that only outbound
//! packets extend for the kinds that live by conntrack alone.
//!
//! Nothing is made in the namespace that the test runs in. Everything goes when the
//! [`NetLab`] is dropped; what a killed test left is removed when the next one starts.
//! Tests ask [`skip_reason`] first. Commands run through `ip netns exec`.

mod command;
mod daemon;
mod enter;
pub mod matrix;
mod namespace;
mod process;
mod router;
mod rules;
#[cfg(test)]
mod tests;

pub use command::LabError;
pub use daemon::{Daemon, Told};
pub use namespace::{Families, Namespace};
pub use process::{Finished, Process, run};
pub use router::{NatKind, Router, RouterConfig};

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use self::{
    command::{checked, output},
    namespace::{ETH0, Uplink},
};

/// Namespaces of one lab.
const MAX_NAMESPACES: usize = 64;

/// Beginning of every namespace's name; the pid of its maker follows.
const PREFIX: &str = "ah";

/// The router that is the internet: its addresses and its bridge.
const INET4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
const INET6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe);
const BRIDGE: &str = "br0";

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
    let name = format!("{PREFIX}{}-probe", std::process::id());
    let probe = match Namespace::make(name.clone(), Families::V4) {
        Ok(probe) => probe,
        Err(e) => return Some(format!("no namespace can be made: {e}")),
    };
    let works = probe.nft("add table ip probe");
    namespace::remove_etc(&name);
    let removed = ip(&["netns", "del", &name]);
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
    public: u8,
    routers: u8,
    links: u8,
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
            public: 0,
            routers: 0,
            links: 0,
            ports: 0,
        };
        let mut inet = lab.namespace("inet", Families::Both)?;
        inet.set(&[
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
        ])?;
        inet.add_bridge(BRIDGE)?;
        let own = Uplink {
            v4: Some(INET4),
            v6: Some(INET6),
            on_link: true,
            ..Uplink::default()
        };
        inet.attach(BRIDGE, own)?;
        Ok(lab)
    }

    /// Adds a host on the internet, with addresses of 203.0.113.0/24 and 2001:db8::/64,
    /// which count up.
    ///
    /// # Errors
    /// When a command fails.
    pub fn public_host(&mut self, name: &str, families: Families) -> Result<Namespace, LabError> {
        let mut host = self.namespace(name, families)?;
        let uplink = self.public_uplink(families);
        self.plug(&mut host, ETH0, uplink, &self.inet(), BRIDGE)?;
        Ok(host)
    }

    /// Adds a router on the internet, with an empty LAN behind it.
    ///
    /// # Errors
    /// When a command fails.
    pub fn router(
        &mut self,
        name: &str,
        config: impl Into<RouterConfig>,
    ) -> Result<Router, LabError> {
        let config = config.into();
        let uplink = self.public_uplink(config.families());
        let inet = self.inet();
        self.router_at(name, config, uplink, &inet, BRIDGE)
    }

    /// Adds a router with another external IPv4 address than those of the lab's internet,
    /// which carries packets there too: software for real routers does not serve on
    /// addresses that are for documentation (RFC 5737). IPv4 only.
    ///
    /// # Errors
    /// When a command fails.
    pub fn router_with_wan(
        &mut self,
        name: &str,
        kind: NatKind,
        wan: Ipv4Addr,
    ) -> Result<Router, LabError> {
        let inet = self.inet();
        inet.ip(&["route", "add", &format!("{wan}/32"), "dev", BRIDGE])?;
        let uplink = Uplink {
            v4: Some(wan),
            ..self.public_uplink(Families::V4)
        };
        self.router_at(name, kind.into(), uplink, &inet, BRIDGE)
    }

    /// Adds a router behind another one, one layer deeper. IPv4 only.
    ///
    /// # Errors
    /// When a command fails.
    pub fn router_behind(
        &mut self,
        outer: &mut Router,
        name: &str,
        kind: NatKind,
    ) -> Result<Router, LabError> {
        let uplink = Uplink {
            v6: None,
            gateway6: None,
            ..outer.next_uplink()
        };
        let at = outer.namespace().clone();
        self.router_at(name, kind.into(), uplink, &at, router::LAN)
    }

    /// Adds a host behind a router.
    ///
    /// # Errors
    /// When a command fails.
    pub fn host_behind(&mut self, router: &mut Router, name: &str) -> Result<Namespace, LabError> {
        let mut host = self.namespace(name, router.config().families())?;
        let uplink = router.next_uplink();
        self.plug(&mut host, ETH0, uplink, router.namespace(), router::LAN)?;
        Ok(host)
    }

    /// Adds a host that is linked to nobody yet.
    ///
    /// # Errors
    /// When a command fails.
    pub fn lone_host(&mut self, name: &str) -> Result<Namespace, LabError> {
        self.namespace(name, Families::V4)
    }

    /// Joins two hosts by a cable with a network of its own, 198.18.n.0/24. Answers their
    /// addresses there. Neither forwards packets.
    ///
    /// # Errors
    /// When a command fails.
    pub fn link(&mut self, one: &Namespace, other: &Namespace) -> Result<[Ipv4Addr; 2], LabError> {
        self.links += 1;
        let devices = [one, other].map(|_| {
            self.ports += 1;
            format!("link{}", self.ports)
        });
        let [near, far] = &devices;
        ip(&[
            "link",
            "add",
            near,
            "netns",
            one.name(),
            "type",
            "veth",
            "peer",
            "name",
            far,
            "netns",
            other.name(),
        ])?;
        let addresses = [1, 2].map(|end| Ipv4Addr::new(198, 18, self.links, end));
        for ((host, device), ip) in [one, other].iter().zip(&devices).zip(addresses) {
            host.ip(&["address", "add", &format!("{ip}/24"), "dev", device])?;
            host.ip(&["link", "set", device, "up"])?;
        }
        Ok(addresses)
    }

    /// Unplugs a host and plugs it in behind another router, where it gets new addresses.
    ///
    /// # Errors
    /// When a command fails.
    pub fn move_host(&mut self, host: &mut Namespace, to: &mut Router) -> Result<(), LabError> {
        host.ip(&["link", "del", ETH0])?;
        let uplink = to.next_uplink();
        self.plug(host, ETH0, uplink, to.namespace(), router::LAN)
    }

    /// A directory for `name`'s files that goes with the lab.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn directory(&self, name: &str) -> Result<PathBuf, LabError> {
        let path = files(&self.prefix).join(name);
        std::fs::create_dir_all(&path).map_err(|source| LabError::Run {
            what: format!("making {}", path.display()),
            source,
        })?;
        Ok(path)
    }

    fn public_uplink(&mut self, families: Families) -> Uplink {
        assert!(self.public < INET4.octets()[3] - 1, "the internet is full");
        self.public += 1;
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, self.public.into());
        Uplink {
            v4: families
                .v4()
                .then(|| Ipv4Addr::new(203, 0, 113, self.public)),
            v6: families.v6().then_some(v6),
            gateway4: families.v4().then_some(INET4),
            gateway6: families.v6().then_some(INET6),
            on_link: false,
        }
    }

    fn router_at(
        &mut self,
        name: &str,
        config: RouterConfig,
        uplink: Uplink,
        at: &Namespace,
        bridge: &str,
    ) -> Result<Router, LabError> {
        let mut namespace = self.namespace(name, config.families())?;
        self.routers += 1;
        self.plug(&mut namespace, router::WAN, uplink, at, bridge)?;
        let number = self.routers;
        let inside4 = match config.v4 {
            // RFC 6598: between a carrier and its customers.
            Some(NatKind::Carrier) => Ipv4Addr::new(100, 64, number, 1),
            _ => Ipv4Addr::new(10, number, 0, 1),
        };
        let inside6 = Ipv6Addr::new(0x2001, 0xdb8, 0, number.into(), 0, 0, 0, 1);
        if let Some(own) = uplink.v6 {
            let network = Ipv6Addr::new(0x2001, 0xdb8, 0, number.into(), 0, 0, 0, 0);
            let (network, via) = (format!("{network}/64"), own.to_string());
            at.ip(&["-6", "route", "add", &network, "via", &via, "dev", bridge])?;
        }
        Router::configure(namespace, (inside4, inside6), config)
    }

    fn inet(&self) -> Namespace {
        Namespace::named(format!("{}inet", self.prefix))
    }

    fn namespace(&mut self, name: &str, families: Families) -> Result<Namespace, LabError> {
        let name = format!("{}{name}", self.prefix);
        if self.made.len() >= MAX_NAMESPACES {
            return Err(LabError::TooMany {
                name,
                limit: MAX_NAMESPACES,
            });
        }
        self.made.push(name.clone());
        Namespace::make(name, families)
    }

    /// Joins a host by a veth pair to the bridge of another namespace.
    fn plug(
        &mut self,
        host: &mut Namespace,
        device: &'static str,
        uplink: Uplink,
        at: &Namespace,
        bridge: &str,
    ) -> Result<(), LabError> {
        self.ports += 1;
        let port = format!("port{}", self.ports);
        ip(&[
            "link",
            "add",
            device,
            "netns",
            host.name(),
            "type",
            "veth",
            "peer",
            "name",
            &port,
            "netns",
            at.name(),
        ])?;
        at.ip(&["link", "set", &port, "master", bridge, "up"])?;
        host.attach(device, uplink)
    }
}

impl Drop for NetLab {
    fn drop(&mut self) {
        for name in self.made.iter().rev() {
            remove(name);
        }
        let _ = std::fs::remove_dir_all(files(&self.prefix));
    }
}

fn ip(args: &[&str]) -> Result<String, LabError> {
    checked(Command::new("ip").args(args))
}

/// Where a lab's files are.
fn files(prefix: &str) -> PathBuf {
    std::env::temp_dir().join(format!("{prefix}files"))
}

/// Removes a namespace and ends what still runs in it. Best effort: there is nobody
/// left to tell.
fn remove(name: &str) {
    if let Ok(pids) = ip(&["netns", "pids", name]) {
        for pid in pids.split_whitespace() {
            let _ = checked(Command::new("kill").args(["-KILL", pid]));
        }
    }
    namespace::remove_etc(name);
    if let Err(e) = ip(&["netns", "del", name]) {
        tracing::warn!("namespace {name} stays behind: {e}");
    }
}

/// Removes the namespaces and files of processes that are gone.
fn remove_stale() {
    if let Ok(list) = ip(&["netns", "list"]) {
        let names = list.lines().filter_map(|l| l.split_whitespace().next());
        for name in names.filter(|name| is_stale(name)) {
            remove(name);
        }
    }
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(is_stale) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether this is the name of something that a process made which is gone.
fn is_stale(name: &str) -> bool {
    let maker = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('-'))
        .and_then(|(pid, _)| pid.parse::<u32>().ok());
    maker.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}
