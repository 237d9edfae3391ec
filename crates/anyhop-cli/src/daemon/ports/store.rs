//! Maps of ports in the network's folder, so that they are back after a restart.

use std::{net::SocketAddr, path::Path};

use anyhop::PeerId;
use serde::{Deserialize, Serialize};

use crate::{daemon::kept, error::CliError, spec::Protocol};

/// Maps of one network: each is some rules that the first packet of a flow passes.
pub(super) const MAX_MAPS: usize = 256;

/// Name of the file in a network's folder.
const FILE: &str = "ports";
/// Version of the file.
const VERSION: u32 = 1;
/// Largest file read, bytes.
const MAX_FILE: u64 = 64 << 10;

/// A port of this machine that is a member's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortMap {
    pub(super) protocol: Protocol,
    /// Where connections to this machine come in.
    pub(super) listen: SocketAddr,
    pub(super) peer: PeerId,
    /// The member's port.
    pub(super) port: u16,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct File {
    version: u32,
    maps: Vec<Stored>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    protocol: Protocol,
    listen: SocketAddr,
    peer_id: String,
    port: u16,
}

/// What is kept; nothing when there is no file.
pub(super) fn read(folder: &Path) -> Result<Vec<PortMap>, CliError> {
    let hint = "correct the file, or remove it and map the ports again";
    kept::read(&folder.join(FILE), MAX_FILE, hint, parse)
}

/// Keeps them.
pub(super) fn write(folder: &Path, maps: &[PortMap]) -> Result<(), CliError> {
    kept::write(folder, FILE, &text(maps), "the maps")
}

fn parse(text: &str) -> Result<Vec<PortMap>, String> {
    let file: File = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if file.version != VERSION || file.maps.len() > MAX_MAPS {
        let (version, maps) = (file.version, file.maps.len());
        return Err(format!("it has version {version} and {maps} maps"));
    }
    let map = |stored: Stored| {
        let peer = stored.peer_id.parse();
        Ok(PortMap {
            protocol: stored.protocol,
            listen: stored.listen,
            peer: peer.map_err(|e| format!("{:?}: {e}", stored.peer_id))?,
            port: stored.port,
        })
    };
    file.maps.into_iter().map(map).collect()
}

fn text(maps: &[PortMap]) -> String {
    let stored = maps.iter().map(|map| Stored {
        protocol: map.protocol,
        listen: map.listen,
        peer_id: map.peer.to_base58(),
        port: map.port,
    });
    let file = File {
        version: VERSION,
        maps: stored.collect(),
    };
    serde_json::to_string_pretty(&file).expect("strings and numbers are JSON")
}

/// One for tests.
#[cfg(test)]
pub(super) fn map(protocol: Protocol, listen: &str, port: u16) -> PortMap {
    PortMap {
        protocol,
        listen: listen.parse().expect("valid"),
        peer: PeerId::random(),
        port,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::error::Code;

    #[test]
    fn maps_survive_the_file_and_a_damaged_one_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(read(dir.path()), Ok(Vec::new()));
        let maps: Vec<_> = [(Protocol::Tcp, "127.0.0.1:80"), (Protocol::Udp, "[::]:53")]
            .map(|(protocol, listen)| map(protocol, listen, 8080))
            .into();
        write(dir.path(), &maps).expect("writable");
        assert_eq!(read(dir.path()), Ok(maps));
        let one = r#"{"protocol":"tcp","listen":"127.0.0.1:80","peer_id":"nobody","port":1}"#;
        for damaged in [
            "",
            "{}",
            r#"{"version":2,"maps":[]}"#,
            &format!(r#"{{"version":1,"maps":[{one}]}}"#),
        ] {
            fs::write(dir.path().join(FILE), damaged).expect("writable");
            let error = read(dir.path()).expect_err("damaged");
            assert_eq!(error.code, Code::StateDir, "{damaged}");
        }
    }
}
