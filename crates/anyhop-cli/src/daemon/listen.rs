//! Addresses that stay the same: who was invited or was here before dials a network's node
//! where it was. Kept in the network's folder, one socket address a line, `ws` before those
//! that WebSockets are served on.
//!
//! A UDP address with an unspecified IP tells the port alone, on the addresses that `up`
//! names; any other is used as it is.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use anyhop::{Endpoint, Node, PeerAddr};

use crate::error::{CliError, Code};

/// Name of the file in a network's folder.
const FILE: &str = "listen";
/// UDP addresses in one: at most one of each family is listened on.
const MAX_UDP: usize = 2;
/// Addresses in one.
const MAX_KEPT: usize = 16;
/// Largest file read, bytes.
const MAX_FILE: u64 = 4096;
/// What stands before an address that WebSockets are served on.
const WEBSOCKET: &str = "ws ";

/// Where a node listens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    /// UDP.
    pub(super) udp: Vec<SocketAddr>,
    /// TCP, for WebSockets.
    pub(super) websocket: Vec<SocketAddr>,
}

impl Addresses {
    /// What is kept; nothing when there is no file.
    pub(super) fn read(folder: &Path) -> Result<Self, CliError> {
        let path = folder.join(FILE);
        let unusable = |why: String| {
            CliError::new(
                Code::StateDir,
                format!("{} is unusable: {why}", path.display()),
            )
            .hint("correct the file, or remove it: then other ports are chosen, and invitations given out before lead nowhere")
        };
        match fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Ok(m) if m.len() > MAX_FILE => return Err(unusable("it is too large".to_owned())),
            _ => {}
        }
        let text = fs::read_to_string(&path).map_err(|e| unusable(e.to_string()))?;
        Self::parse(&text).map_err(unusable)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut addresses = Self::default();
        let lines = text.lines().map(str::trim);
        for line in lines.filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let (list, address) = match line.strip_prefix(WEBSOCKET) {
                Some(address) => (&mut addresses.websocket, address.trim()),
                None => (&mut addresses.udp, line),
            };
            let address = address.parse();
            list.push(address.map_err(|e| format!("{line:?}: {e}"))?);
        }
        let (udp, websocket) = (addresses.udp.len(), addresses.websocket.len());
        if udp > MAX_UDP || udp + websocket > MAX_KEPT {
            return Err(format!(
                "it has more than {MAX_UDP} UDP addresses, or {MAX_KEPT} in all"
            ));
        }
        Ok(addresses)
    }

    /// Keeps them.
    pub(super) fn write(&self, folder: &Path) -> Result<(), CliError> {
        let path = folder.join(FILE);
        let udp = self.udp.iter().map(|a| format!("{a}\n"));
        let websocket = self.websocket.iter().map(|a| format!("{WEBSOCKET}{a}\n"));
        let text: String = udp.chain(websocket).collect();
        anyhop_base::fs::write_atomic(&path, text.as_bytes(), 0o600).map_err(|e| {
            CliError::new(
                Code::StateDir,
                format!("cannot write {}: {e}", path.display()),
            )
            .hint("check the directory's owner and permissions")
        })
    }

    /// Those that a node was told, with the ports that it got; where it was told none, its
    /// ports alone.
    pub(super) fn of(node: &Node, told: &Self) -> Self {
        let (mut ports, mut websockets) = (Vec::with_capacity(MAX_UDP), Vec::new());
        for address in node.addresses() {
            match address.to_string().parse::<PeerAddr>().map(|a| a.addr) {
                Ok(Endpoint::Udp(bound)) => {
                    let known = |p: &SocketAddr| p.is_ipv4() == bound.is_ipv4();
                    if !ports.iter().any(known) {
                        ports.push(SocketAddr::new(any(bound.is_ipv4()), bound.port()));
                    }
                }
                Ok(Endpoint::Ws { addr, .. }) => websockets.push(addr),
                Err(_) => {}
            }
        }
        let websocket = told.websocket.iter().map(|told| {
            let bound = websockets.iter().find(|b| serves(*told, **b));
            SocketAddr::new(told.ip(), bound.unwrap_or(told).port())
        });
        Self {
            udp: match told.udp.is_empty() {
                true => ports,
                false => choose(&ports, &told.udp),
            },
            websocket: websocket.collect(),
        }
    }
}

/// Whether a node that was told to listen at one address may be dialled at the other.
fn serves(told: SocketAddr, bound: SocketAddr) -> bool {
    let same_ip = match told.ip().is_unspecified() {
        true => told.is_ipv4() == bound.is_ipv4(),
        false => told.ip() == bound.ip(),
    };
    same_ip && (told.port() == 0 || told.port() == bound.port())
}

/// Where to listen on UDP, by what is kept and what `up` was told.
pub(super) fn choose(kept: &[SocketAddr], told: &[SocketAddr]) -> Vec<SocketAddr> {
    let fixed = told.iter().any(|a| a.port() != 0);
    if !fixed && kept.iter().any(|a| !a.ip().is_unspecified()) {
        return kept.to_vec();
    }
    if told.is_empty() {
        return kept.to_vec();
    }
    let port = |ip: IpAddr| {
        let kept = kept.iter().find(|k| k.is_ipv4() == ip.is_ipv4());
        kept.map_or(0, SocketAddr::port)
    };
    told.iter()
        .map(|a| match a.port() {
            0 => SocketAddr::new(a.ip(), port(a.ip())),
            _ => *a,
        })
        .collect()
}

fn any(v4: bool) -> IpAddr {
    match v4 {
        true => Ipv4Addr::UNSPECIFIED.into(),
        false => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|a| a.parse().expect("valid")).collect()
    }

    #[test]
    fn a_port_is_kept_and_what_is_told_goes_before_it() {
        let table: [(&[&str], &[&str], &[&str]); 7] = [
            (&[], &[], &[]),
            (&[], &["127.0.0.1:0"], &["127.0.0.1:0"]),
            (
                &["0.0.0.0:4000", "[::]:4001"],
                &[],
                &["0.0.0.0:4000", "[::]:4001"],
            ),
            (&["0.0.0.0:4000"], &["127.0.0.1:0"], &["127.0.0.1:4000"]),
            (&["0.0.0.0:4000"], &["127.0.0.1:5000"], &["127.0.0.1:5000"]),
            (&["192.0.2.1:4000"], &["127.0.0.1:0"], &["192.0.2.1:4000"]),
            (&["0.0.0.0:4000"], &["[::1]:0"], &["[::1]:0"]),
        ];
        for (kept, told, expected) in table {
            assert_eq!(choose(&addrs(kept), &addrs(told)), addrs(expected));
        }
    }

    #[test]
    fn what_is_kept_survives_the_file_and_a_damaged_one_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let none = Addresses::read(dir.path()).expect("none yet");
        assert_eq!(none, Addresses::default());
        let kept = Addresses {
            udp: addrs(&["0.0.0.0:4000", "[2001:db8::1]:4001"]),
            websocket: addrs(&["0.0.0.0:443", "[::]:8443"]),
        };
        kept.write(dir.path()).expect("writable");
        let read = Addresses::read(dir.path()).expect("just written");
        assert_eq!(read, kept);
        let many = "ws 0.0.0.0:1\n".repeat(MAX_KEPT + 1);
        let damaged = [
            "0.0.0.0",
            "ws 443",
            "0.0.0.0:1\n[::]:2\n[::]:3\n",
            &many,
            &"#".repeat(5000),
        ];
        for damaged in damaged {
            fs::write(dir.path().join(FILE), damaged).expect("writable");
            let error = Addresses::read(dir.path()).expect_err("damaged");
            assert_eq!(error.code, Code::StateDir, "{damaged:?}");
        }
    }

    #[test]
    fn the_port_of_a_websocket_is_found_among_the_addresses_of_a_node() {
        let table = [
            ("0.0.0.0:0", "192.0.2.1:5", true),
            ("0.0.0.0:0", "[::1]:5", false),
            ("192.0.2.1:0", "192.0.2.1:5", true),
            ("192.0.2.1:0", "192.0.2.2:5", false),
            ("192.0.2.1:4", "192.0.2.1:5", false),
        ];
        for (told, bound, expected) in table {
            let [told, bound] = [told, bound].map(|a| a.parse().expect("valid"));
            assert_eq!(serves(told, bound), expected, "{told} {bound}");
        }
    }
}
