//! One namespace: a host, or the inside of a router.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    LabError,
    command::{checked, checked_with},
    enter::within,
};

/// A host's interface.
pub(super) const ETH0: &str = "eth0";

/// The link address of every bridge, each of which is alone in its network.
const BRIDGE_MAC: &str = "02:61:6e:79:68:01";

/// Where `ip netns exec` finds what is to be in place of files in `/etc`.
const ETC: &str = "/etc/netns";
/// The resolver's file at first: nobody answers there.
const RESOLV_CONF: &str = "nameserver 192.0.2.53\n";

/// Which addresses a host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Both,
}

impl Families {
    /// Whether IPv4 is among them.
    #[must_use]
    pub fn v4(self) -> bool {
        self != Self::V6
    }

    /// Whether IPv6 is among them.
    #[must_use]
    pub fn v6(self) -> bool {
        self != Self::V4
    }
}

/// Where a host's or router's packets go, and from which addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Uplink {
    pub(super) v4: Option<Ipv4Addr>,
    pub(super) v6: Option<Ipv6Addr>,
    pub(super) gateway4: Option<Ipv4Addr>,
    pub(super) gateway6: Option<Ipv6Addr>,
    /// Whether neighbours are reached without the gateway.
    pub(super) on_link: bool,
}

/// A network namespace with its addresses. Clones name the same one, with the addresses
/// it had when they were made; it goes with its [`NetLab`](super::NetLab).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    name: String,
    device: &'static str,
    uplink: Uplink,
}

impl Namespace {
    /// Makes one with nothing but a loopback interface.
    pub(super) fn make(name: String, families: Families) -> Result<Self, LabError> {
        checked(Command::new("ip").args(["netns", "add", &name]))?;
        let made = Self {
            name,
            device: ETH0,
            uplink: Uplink::default(),
        };
        made.give_resolv_conf()?;
        made.ip(&["link", "set", "lo", "up"])?;
        // Without IPv6, link-local addresses would only be noise.
        let off = if families.v6() { "0" } else { "1" };
        made.set(&[
            ("ipv6/conf/all/disable_ipv6", off),
            ("ipv6/conf/default/disable_ipv6", off),
            ("ipv6/conf/default/accept_dad", "0"),
            // A second address of a network stays when the first one goes.
            ("ipv4/conf/all/promote_secondaries", "1"),
            ("ipv4/conf/default/promote_secondaries", "1"),
        ])?;
        Ok(made)
    }

    /// The same, reached by a name of which the namespace is known to exist.
    pub(super) fn named(name: String) -> Self {
        Self {
            name,
            device: ETH0,
            uplink: Uplink::default(),
        }
    }

    /// Its name, as `ip netns` lists it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address: of `eth0`, or of a router's WAN side.
    #[must_use]
    pub fn v4(&self) -> Option<Ipv4Addr> {
        self.uplink.v4
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn v6(&self) -> Option<Ipv6Addr> {
        self.uplink.v6
    }

    /// What programs in it have for `/etc/resolv.conf`, which is its own: what a daemon does
    /// to its host's resolver would meet the real one otherwise.
    #[must_use]
    pub fn resolv_conf(&self) -> PathBuf {
        etc(&self.name).join("resolv.conf")
    }

    fn give_resolv_conf(&self) -> Result<(), LabError> {
        let path = self.resolv_conf();
        let made = std::fs::create_dir_all(etc(&self.name));
        let made = made.and_then(|()| std::fs::write(&path, RESOLV_CONF));
        made.map_err(|source| LabError::Run {
            what: format!("making {}", path.display()),
            source,
        })
    }

    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.uplink.v4.map(IpAddr::from);
        v4.into_iter().chain(self.uplink.v6.map(IpAddr::from))
    }

    /// A command that runs `program` in this namespace.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(program.as_ref());
        command
    }

    /// A UDP socket of this process in this namespace.
    ///
    /// # Errors
    /// What the system said.
    pub fn udp_socket(&self, local: SocketAddr) -> io::Result<UdpSocket> {
        within(&self.name, move || UdpSocket::bind(local))
    }

    /// Runs `work` on a thread in this namespace; sockets it makes stay there.
    ///
    /// # Errors
    /// What the system said.
    pub fn enter<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        within(&self.name, work)
    }

    /// Takes its interface down, as a pulled cable does: addresses of IPv4 stay, those of
    /// IPv6 and all routes go.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn link_down(&self) -> Result<(), LabError> {
        self.ip(&["link", "set", self.device, "down"])
    }

    /// Brings it up again with the addresses and routes it had.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn link_up(&self) -> Result<(), LabError> {
        self.ip(&["link", "set", self.device, "up"])?;
        if let Some(v6) = self.uplink.v6 {
            self.address6("replace", v6)?;
        }
        self.routes()
    }

    /// Gives it another IPv4 address of the same network: the new one comes before the
    /// old one goes.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn renumber(&mut self, v4: Ipv4Addr) -> Result<(), LabError> {
        self.address4("add", v4)?;
        if let Some(old) = self.uplink.v4.replace(v4) {
            self.address4("del", old)?;
        }
        self.routes()
    }

    /// Takes its IPv4 address and routes away.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn lose_v4(&self) -> Result<(), LabError> {
        self.ip(&["-4", "address", "flush", "dev", self.device])
    }

    /// Gives them back.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn regain_v4(&self) -> Result<(), LabError> {
        if let Some(v4) = self.uplink.v4 {
            self.address4("add", v4)?;
        }
        self.routes()
    }

    /// Configures its interface, which exists and is down.
    pub(super) fn attach(&mut self, device: &'static str, uplink: Uplink) -> Result<(), LabError> {
        self.device = device;
        self.uplink = uplink;
        if let Some(v4) = uplink.v4 {
            self.address4("add", v4)?;
        }
        self.link_up()
    }

    /// Makes a bridge. With an address of its own: one that is given none takes the lowest
    /// of its ports', changes it with every port that comes, and is lost to those who
    /// know the old one. And without a firewall: kernels with br_netfilter have what one
    /// port sends to another go through the rules for what is routed.
    pub(super) fn add_bridge(&self, name: &str) -> Result<(), LabError> {
        self.set(&[
            ("bridge/bridge-nf-call-iptables", "0"),
            ("bridge/bridge-nf-call-ip6tables", "0"),
        ])?;
        self.ip(&[
            "link",
            "add",
            name,
            "address",
            BRIDGE_MAC,
            "type",
            "bridge",
            "mcast_snooping",
            "0",
        ])
    }

    fn address4(&self, act: &str, v4: Ipv4Addr) -> Result<(), LabError> {
        let length = if self.uplink.on_link { 24 } else { 32 };
        self.ip(&[
            "address",
            act,
            &format!("{v4}/{length}"),
            "dev",
            self.device,
        ])
    }

    fn address6(&self, act: &str, v6: Ipv6Addr) -> Result<(), LabError> {
        let length = if self.uplink.on_link { 64 } else { 128 };
        let address = format!("{v6}/{length}");
        self.ip(&["address", act, &address, "dev", self.device, "nodad"])
    }

    fn routes(&self) -> Result<(), LabError> {
        let gateways = [
            self.uplink.gateway4.map(IpAddr::from),
            self.uplink.gateway6.map(IpAddr::from),
        ];
        for gateway in gateways.into_iter().flatten() {
            let family = if gateway.is_ipv4() { "-4" } else { "-6" };
            let via = gateway.to_string();
            self.ip(&[
                family,
                "route",
                "replace",
                "default",
                "via",
                &via,
                "dev",
                self.device,
                "onlink",
            ])?;
        }
        Ok(())
    }

    pub(super) fn ip(&self, args: &[&str]) -> Result<(), LabError> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(args);
        checked(&mut command).map(drop)
    }

    /// Writes kernel settings of this namespace, below `/proc/sys/net`. Those that the
    /// kernel does not have are passed over.
    pub(super) fn set(&self, settings: &[(&str, &str)]) -> Result<(), LabError> {
        let settings: Vec<(String, String)> = settings
            .iter()
            .map(|(key, value)| (format!("/proc/sys/net/{key}"), (*value).to_owned()))
            .collect();
        let what = format!("kernel settings of {}", self.name);
        let written = within(&self.name, move || {
            for (path, value) in settings.iter().filter(|(path, _)| Path::new(path).exists()) {
                std::fs::write(path, value)?;
            }
            Ok(())
        });
        written.map_err(|source| LabError::Run { what, source })
    }

    /// Runs an nft script.
    pub(super) fn nft(&self, script: &str) -> Result<String, LabError> {
        let mut command = self.command("nft");
        checked_with(command.args(["-f", "-"]), script)
    }
}

/// Files in place of those in `/etc`, for programs in a namespace.
fn etc(namespace: &str) -> PathBuf {
    Path::new(ETC).join(namespace)
}

/// Removes them.
pub(super) fn remove_etc(namespace: &str) {
    let _ = std::fs::remove_dir_all(etc(namespace));
    // Stays where others have files in it.
    let _ = std::fs::remove_dir(ETC);
}
