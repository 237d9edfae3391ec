//! Public networks that the daemon was told to be in, for the next start: each has a folder
//! as private ones have, with the file `public`: its name, and bootstrap peers, one a line.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhop::{NetworkName, PeerAddr};

use crate::error::{CliError, Code};

/// Name of the file in a network's folder.
const FILE: &str = "public";
/// Bootstrap peers of one network.
pub(super) const MAX_BOOTSTRAP: usize = 64;
/// Largest file read, bytes.
const MAX_FILE: u64 = 64 << 10;
/// Folders looked at, those of private networks included.
const MAX_FOLDERS: usize = 512;

/// A public network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PublicNetwork {
    pub(super) name: NetworkName,
    /// Peers to stay connected to.
    pub(super) bootstrap: Vec<PeerAddr>,
}

impl PublicNetwork {
    /// All in a folder of networks, in the order of their names.
    pub(super) fn list(networks: &Path) -> Vec<(PathBuf, Result<Self, CliError>)> {
        let folders = fs::read_dir(networks).into_iter().flatten().flatten();
        let folders = folders.take(MAX_FOLDERS).map(|f| f.path());
        let mut folders: Vec<_> = folders.filter(|f| f.join(FILE).exists()).collect();
        folders.sort();
        let read = |folder: PathBuf| {
            let read = Self::read(&folder);
            (folder, read)
        };
        folders.into_iter().map(read).collect()
    }

    fn read(folder: &Path) -> Result<Self, CliError> {
        let path = folder.join(FILE);
        let unusable = |why: String| {
            let message = format!("{} is unusable: {why}", path.display());
            CliError::new(Code::StateDir, message).hint("correct the file, or remove its folder")
        };
        let metadata = fs::metadata(&path).map_err(|e| unusable(e.to_string()))?;
        if metadata.len() > MAX_FILE {
            return Err(unusable("it is too large".to_owned()));
        }
        let text = fs::read_to_string(&path).map_err(|e| unusable(e.to_string()))?;
        Self::parse(&text).map_err(unusable)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim);
        let mut lines = lines.filter(|l| !l.is_empty() && !l.starts_with('#'));
        let name = lines.next().ok_or("it is empty")?;
        let name = name.parse().map_err(|e| format!("{name:?}: {e}"))?;
        let peers = lines.map(|l| l.parse().map_err(|e| format!("{l:?}: {e}")));
        let bootstrap: Vec<PeerAddr> = peers.collect::<Result<_, String>>()?;
        if bootstrap.len() > MAX_BOOTSTRAP {
            return Err(format!("it has more than {MAX_BOOTSTRAP} bootstrap peers"));
        }
        Ok(Self { name, bootstrap })
    }

    /// Keeps it.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let peers = self.bootstrap.iter().map(|p| format!("{p}\n"));
        let text: String = [format!("{}\n", self.name)]
            .into_iter()
            .chain(peers)
            .collect();
        anyhop_base::fs::create_private_dir(folder)?;
        anyhop_base::fs::write_atomic(&folder.join(FILE), text.as_bytes(), 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_networks_survive_their_files_and_a_damaged_one_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(PublicNetwork::list(&dir.path().join("none")).is_empty());
        let peer = anyhop::Keypair::generate_ed25519().public().to_peer_id();
        let at = "192.0.2.1:4001".parse().expect("valid");
        let network = PublicNetwork {
            name: "testnet".parse().expect("valid"),
            bootstrap: vec![PeerAddr::new(peer, at).expect("dialable")],
        };
        network.write(&dir.path().join("a")).expect("writable");
        let damaged = dir.path().join("b");
        fs::create_dir(&damaged).expect("writable");
        fs::create_dir(dir.path().join("c")).expect("writable");
        let many = format!("x\n{}", format!("{}\n", network.bootstrap[0]).repeat(65));
        for text in ["", "Bad Name", "testnet\n/ip4/1.2.3.4\n", &many] {
            fs::write(damaged.join(FILE), text).expect("writable");
            let listed = PublicNetwork::list(dir.path());
            let [(_, good), (folder, bad)] = &listed[..] else {
                panic!("{listed:?}");
            };
            assert_eq!(good.as_ref(), Ok(&network));
            assert_eq!(folder, &damaged);
            let code = bad.as_ref().map_err(|e| e.code);
            assert_eq!(code, Err(Code::StateDir), "{text:?}");
        }
    }
}
