//! Ports that stay the same: who was invited or was here before dials a network's node where
//! it was. Kept in the network's folder, one socket address a line.
//!
//! An address with an unspecified IP tells the port alone, on the addresses that `up` names;
//! any other is used as it is.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use anyhop::{Endpoint, Node, PeerAddr};

use crate::error::{CliError, Code};

/// Name of the file in a network's folder.
const FILE: &str = "listen";
/// Addresses in one: at most one of each family is listened on.
const MAX_KEPT: usize = 2;
/// Largest file read, bytes.
const MAX_FILE: u64 = 1024;

/// What is kept; nothing when there is no file.
pub(super) fn read(folder: &Path) -> Result<Vec<SocketAddr>, CliError> {
    let path = folder.join(FILE);
    let unusable = |why: String| {
        CliError::new(
            Code::StateDir,
            format!("{} is unusable: {why}", path.display()),
        )
        .hint("correct the file, or remove it: then other ports are chosen, and invitations given out before lead nowhere")
    };
    match fs::metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Ok(m) if m.len() > MAX_FILE => return Err(unusable("it is too large".to_owned())),
        _ => {}
    }
    let text = fs::read_to_string(&path).map_err(|e| unusable(e.to_string()))?;
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|l| !l.is_empty() && !l.starts_with('#'));
    let kept: Result<Vec<SocketAddr>, _> = lines.take(MAX_KEPT + 1).map(str::parse).collect();
    match kept {
        Ok(kept) if kept.len() <= MAX_KEPT => Ok(kept),
        Ok(_) => Err(unusable(format!("it has more than {MAX_KEPT} addresses"))),
        Err(e) => Err(unusable(e.to_string())),
    }
}

/// Keeps addresses.
pub(super) fn write(folder: &Path, addresses: &[SocketAddr]) -> Result<(), CliError> {
    let path = folder.join(FILE);
    let text: String = addresses.iter().map(|a| format!("{a}\n")).collect();
    anyhop_base::fs::write_atomic(&path, text.as_bytes(), 0o600).map_err(|e| {
        CliError::new(
            Code::StateDir,
            format!("cannot write {}: {e}", path.display()),
        )
        .hint("check the directory's owner and permissions")
    })
}

/// The ports that a node has, to be kept.
pub(super) fn ports(node: &Node) -> Vec<SocketAddr> {
    let mut ports: Vec<SocketAddr> = Vec::with_capacity(MAX_KEPT);
    for address in node.addresses() {
        let parsed = address.to_string().parse::<PeerAddr>();
        let Ok(Endpoint::Udp(bound)) = parsed.map(|a| a.addr) else {
            continue;
        };
        if !ports.iter().any(|p| p.is_ipv4() == bound.is_ipv4()) {
            ports.push(SocketAddr::new(any(bound.is_ipv4()), bound.port()));
        }
    }
    ports
}

/// Where to listen, by what is kept and what `up` was told.
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
        assert_eq!(read(dir.path()).expect("none yet"), []);
        let kept = addrs(&["0.0.0.0:4000", "[2001:db8::1]:4001"]);
        write(dir.path(), &kept).expect("writable");
        assert_eq!(read(dir.path()).expect("just written"), kept);
        for damaged in ["0.0.0.0", "0.0.0.0:1\n[::]:2\n[::]:3\n", &"#".repeat(2000)] {
            fs::write(dir.path().join(FILE), damaged).expect("writable");
            let error = read(dir.path()).expect_err("damaged");
            assert_eq!(error.code, Code::StateDir, "{damaged:?}");
        }
    }
}
