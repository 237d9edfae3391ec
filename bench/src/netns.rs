//! Network namespaces joined by veth pairs: networks with real devices between processes of
//! one machine.

use std::{
    ffi::OsStr,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{self, Command},
};

use crate::error::{BenchError, Result};

/// Beginning of the namespaces' names; the pid of their maker follows.
const PREFIX: &str = "anyhop-bench-";

/// Addresses of the two ends, from the block for benchmarks (RFC 2544).
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 0, 2)];

/// A network namespace with one address.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    pub(crate) ip: Ipv4Addr,
}

impl Namespace {
    /// A command that runs `program` inside.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `ip` inside.
    pub(crate) fn ip(&self, args: &[&str]) -> Result<()> {
        let inside = ["-n", &self.name];
        ip(&[&inside, args].concat()).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(e) = ip(&["netns", "del", &self.name]) {
            eprintln!("namespace {} stays behind: {e}", self.name);
        }
    }
}

/// Both ends of a veth pair.
#[derive(Debug)]
pub(crate) struct VethPair(pub(crate) [Namespace; 2]);

impl VethPair {
    /// Makes it; `None` when this process is not root or `ip` is missing.
    pub(crate) fn new() -> Result<Option<Self>> {
        if !usable()? {
            return Ok(None);
        }
        let [a, b] = ADDRESSES;
        let pair = [host(0, a)?, host(1, b)?];
        join([&pair[0], &pair[1]], "veth0", ADDRESSES)?;
        Ok(Some(Self(pair)))
    }
}

/// Two hosts that reach each other, and a third one that reaches both over networks of their
/// own and forwards nothing by itself.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) a: Namespace,
    pub(crate) b: Namespace,
    pub(crate) relay: Namespace,
    /// Addresses of the two on the network between them.
    pub(crate) direct: [Ipv4Addr; 2],
    /// Their addresses on the networks with the relay.
    pub(crate) outer: [Ipv4Addr; 2],
    /// The relay's there.
    pub(crate) middle: [Ipv4Addr; 2],
}

impl Line {
    /// Makes it; `None` when this process is not root or `ip` is missing.
    pub(crate) fn new() -> Result<Option<Self>> {
        if !usable()? {
            return Ok(None);
        }
        let near = |net: u8, host: u8| Ipv4Addr::new(198, 18, net, host);
        let (outer, middle) = ([near(1, 1), near(2, 1)], [near(1, 2), near(2, 2)]);
        let [a_ip, b_ip] = ADDRESSES;
        let (a, b, relay) = (host(0, a_ip)?, host(1, b_ip)?, host(2, middle[0])?);
        join([&a, &b], "veth0", ADDRESSES)?;
        join([&a, &relay], "veth1", [outer[0], middle[0]])?;
        join([&b, &relay], "veth2", [outer[1], middle[1]])?;
        Ok(Some(Self {
            a,
            b,
            relay,
            direct: ADDRESSES,
            outer,
            middle,
        }))
    }
}

/// Whether namespaces can be made; removes those of makers that were killed.
fn usable() -> Result<bool> {
    if !anyhop_os::is_root() || !has_ip() {
        return Ok(false);
    }
    remove_stale()?;
    Ok(true)
}

fn host(end: usize, address: Ipv4Addr) -> Result<Namespace> {
    let name = format!("{PREFIX}{}-{end}", process::id());
    ip(&["netns", "add", &name])?;
    let made = Namespace { name, ip: address };
    made.ip(&["link", "set", "lo", "up"])?;
    Ok(made)
}

/// Joins two of them by a veth pair with these addresses.
fn join(ends: [&Namespace; 2], device: &str, addresses: [Ipv4Addr; 2]) -> Result<()> {
    let [a, b] = ends;
    ip(&[
        "link", "add", device, "netns", &a.name, "type", "veth", "peer", "name", device, "netns",
        &b.name,
    ])?;
    for (end, address) in ends.into_iter().zip(addresses) {
        end.ip(&["address", "add", &format!("{address}/24"), "dev", device])?;
        end.ip(&["link", "set", device, "up"])?;
    }
    Ok(())
}

fn has_ip() -> bool {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = std::env::split_paths(&dirs);
    dirs.any(|dir: PathBuf| Path::new(&dir).join("ip").is_file())
}

/// Removes the namespaces of makers that were killed.
fn remove_stale() -> Result<()> {
    let list = ip(&["netns", "list"])?;
    for name in list.lines().filter_map(|l| l.split_whitespace().next()) {
        let maker = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if maker.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            ip(&["netns", "del", name])?;
        }
    }
    Ok(())
}

fn ip(args: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(args).output();
    let output = output.map_err(BenchError::io("running ip"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(BenchError::Command {
        command: format!("ip {}", args.join(" ")),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
