//! Two network namespaces joined by a veth pair: a network with real devices between two
//! processes of one machine.

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

    fn ip(&self, args: &[&str]) -> Result<()> {
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
        if !anyhop_os::is_root() || !has_ip() {
            return Ok(None);
        }
        remove_stale()?;
        let made = |end: usize| {
            let name = format!("{PREFIX}{}-{end}", process::id());
            ip(&["netns", "add", &name])?;
            let ip = ADDRESSES[end];
            Ok::<_, BenchError>(Namespace { name, ip })
        };
        let pair = Self([made(0)?, made(1)?]);
        let [a, b] = &pair.0;
        ip(&[
            "link", "add", "veth0", "netns", &a.name, "type", "veth", "peer", "name", "veth0",
            "netns", &b.name,
        ])?;
        for end in [a, b] {
            end.ip(&["link", "set", "lo", "up"])?;
            end.ip(&["address", "add", &format!("{}/24", end.ip), "dev", "veth0"])?;
            end.ip(&["link", "set", "veth0", "up"])?;
        }
        Ok(Some(pair))
    }
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
