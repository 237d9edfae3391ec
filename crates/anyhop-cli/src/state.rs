//! The state directory: where it is, its control socket, and names for peers.
//!
//! ```text
//! key           the node's key (anyhop-base)
//! lock          held by the daemon (anyhop-os)
//! control.sock  the daemon's control API, mode 0600
//! names         names for peers, `name = PeerId` lines
//! host          what the daemon changed on the host (anyhop), while it is changed
//! networks/ID/  a network: `network` (anyhop) of a private one, or `public`; `listen` addresses,
//!               `firewall` rules, `routes`
//! ```

use std::{
    collections::BTreeMap,
    env, fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use anyhop::{Keypair, PeerId};

use crate::{
    error::{CliError, Code},
    spec::PeerSpec,
};

/// Longest path of a Unix socket, bytes: `sun_path` less its closing zero byte.
const MAX_SOCKET_PATH: usize = 107;
/// Names kept.
const MAX_NAMES: usize = 4096;
/// Longest name.
const MAX_NAME_LEN: usize = 64;
/// Largest names file read, bytes.
const MAX_NAMES_FILE: u64 = 1 << 20;
/// First line of the names file.
const NAMES_HEADER: &str = "# anyhop names 1";

/// A state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateDir(PathBuf);

impl StateDir {
    /// The directory given, or the user's default one.
    pub(crate) fn choose(given: Option<PathBuf>) -> Result<Self, CliError> {
        let absolute = |var| {
            env::var_os(var)
                .map(PathBuf::from)
                .filter(|p| p.is_absolute())
        };
        let default = || {
            absolute("XDG_STATE_HOME")
                .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
                .map(|dir| dir.join("anyhop"))
        };
        given
            .filter(|dir| !dir.as_os_str().is_empty())
            .or_else(default)
            .map(Self)
            .ok_or_else(|| {
                CliError::new(
                    Code::StateDir,
                    "no state directory: neither HOME nor XDG_STATE_HOME is set",
                )
                .hint("give one with --state-dir DIR or ANYHOP_STATE_DIR")
            })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The control socket's path, if a Unix socket can have it.
    pub(crate) fn socket(&self) -> Result<PathBuf, CliError> {
        let path = self.0.join("control.sock");
        let len = path.as_os_str().as_bytes().len();
        if len > MAX_SOCKET_PATH {
            return Err(CliError::new(
                Code::StateDir,
                format!(
                    "the control socket's path {} has {len} bytes, and a Unix socket's path at most {MAX_SOCKET_PATH}",
                    path.display()
                ),
            )
            .hint("choose a shorter --state-dir"));
        }
        Ok(path)
    }

    /// The file of what was changed on the host.
    pub(crate) fn journal(&self) -> PathBuf {
        self.0.join("host")
    }

    /// The node's key, made if there is none.
    pub(crate) fn keypair(&self) -> Result<Keypair, CliError> {
        anyhop_base::load_or_create_keypair(&self.0).map_err(|e| {
            let hint = match &e {
                anyhop_base::KeyError::Exposed { .. } => {
                    "chmod 600 the file, or move it away for a new identity"
                }
                anyhop_base::KeyError::Unusable { .. } => {
                    "restore the key file from a backup, or move it away for a new identity"
                }
                _ => "check the directory's owner and permissions, or choose another --state-dir",
            };
            CliError::new(Code::StateDir, e.to_string()).hint(hint)
        })
    }

    /// Removes what a daemon left that was killed while it wrote. For who holds the lock.
    pub(crate) fn tidy(&self) {
        let folders = fs::read_dir(self.0.join("networks"));
        let folders = folders.into_iter().flatten().flatten();
        for folder in folders.map(|f| f.path()).chain([self.0.clone()]) {
            if let Err(e) = anyhop_base::fs::remove_stray(&folder) {
                tracing::debug!(folder = %folder.display(), "not tidied: {e}");
            }
        }
    }

    fn names_path(&self) -> PathBuf {
        self.0.join("names")
    }

    /// The names for peers.
    pub(crate) fn names(&self) -> Result<Names, CliError> {
        let path = self.names_path();
        let unusable = |why: String| {
            CliError::new(
                Code::StateDir,
                format!("the names file {} is unusable: {why}", path.display()),
            )
            .hint("correct the file, or remove it and add the names again")
        };
        match fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Names::default()),
            Ok(m) if m.len() > MAX_NAMES_FILE => {
                return Err(unusable(format!(
                    "it is larger than {MAX_NAMES_FILE} bytes"
                )));
            }
            _ => {}
        }
        let text = fs::read_to_string(&path).map_err(|e| unusable(e.to_string()))?;
        Names::parse(&text).map_err(unusable)
    }

    /// Stores the names.
    pub(crate) fn save_names(&self, names: &Names) -> Result<(), CliError> {
        let path = self.names_path();
        anyhop_base::fs::create_private_dir(&self.0)
            .and_then(|()| anyhop_base::fs::write_atomic(&path, names.to_text().as_bytes(), 0o600))
            .map_err(|e| {
                CliError::new(
                    Code::StateDir,
                    format!("cannot write {}: {e}", path.display()),
                )
                .hint("check the directory's owner and permissions; the names are as they were")
            })
    }
}

/// Names for peers, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names(BTreeMap<String, PeerId>);

impl Names {
    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, PeerId)> {
        self.0.iter().map(|(name, peer)| (name.as_str(), *peer))
    }

    /// Adds or changes one; returns whose it was before.
    pub(crate) fn add(&mut self, name: &str, peer: PeerId) -> Result<Option<PeerId>, CliError> {
        check_name(name).map_err(CliError::usage)?;
        if self.0.len() >= MAX_NAMES && !self.0.contains_key(name) {
            return Err(CliError::new(
                Code::Limit,
                format!("cannot add {name:?}: the limit of {MAX_NAMES} names is reached"),
            )
            .hint("remove one with `anyhop name remove NAME`"));
        }
        Ok(self.0.insert(name.to_owned(), peer))
    }

    /// Removes one; returns whose it was.
    pub(crate) fn remove(&mut self, name: &str) -> Option<PeerId> {
        self.0.remove(name)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        if lines.next() != Some(NAMES_HEADER) {
            return Err(format!("its first line is not {NAMES_HEADER:?}"));
        }
        let mut names = BTreeMap::new();
        for (line, number) in lines.zip(2..) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let parsed = line.split_once('=').and_then(|(name, peer)| {
                let peer = peer.trim().trim_matches('"').parse().ok()?;
                Some((name.trim(), peer))
            });
            let (name, peer) =
                parsed.ok_or_else(|| format!("line {number} is not NAME = PeerId"))?;
            check_name(name).map_err(|why| format!("line {number}: {why}"))?;
            if names.insert(name.to_owned(), peer).is_some() {
                return Err(format!("line {number} names {name:?} a second time"));
            }
            if names.len() > MAX_NAMES {
                return Err(format!("it has more than {MAX_NAMES} names"));
            }
        }
        Ok(Self(names))
    }

    fn to_text(&self) -> String {
        let mut text = format!("{NAMES_HEADER}\n");
        for (name, peer) in &self.0 {
            text.push_str(&format!("{name} = \"{peer}\"\n"));
        }
        text
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > MAX_NAME_LEN || !name.chars().all(ok) {
        return Err(format!(
            "{name:?} is no name: 1 to {MAX_NAME_LEN} letters, digits, `-`, `_` and `.`"
        ));
    }
    if name.parse::<PeerSpec>().is_ok_and(|s| s.full().is_some()) {
        return Err(format!("{name:?} is a PeerId and cannot name another"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_file() {
        let mut names = Names::default();
        let (a, b) = (PeerId::random(), PeerId::random());
        assert_eq!(names.add("bob-1", a), Ok(None));
        assert_eq!(names.add("alice.home", b), Ok(None));
        assert_eq!(names.add("bob-1", b), Ok(Some(a)));
        assert_eq!(Names::parse(&names.to_text()), Ok(names.clone()));
        assert_eq!(names.remove("bob-1"), Some(b));
        assert_eq!(names.iter().collect::<Vec<_>>(), [("alice.home", b)]);
    }

    #[test]
    fn names_that_are_peer_ids_or_cannot_be_typed_are_refused() {
        let mut names = Names::default();
        let peer = PeerId::random();
        for bad in ["", "a b", "a=b", "a:b", &peer.to_base58(), &"x".repeat(65)] {
            assert_eq!(
                names.add(bad, peer).map_err(|e| e.code),
                Err(Code::Usage),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_damaged_names_file_is_refused_with_its_line() {
        let peer = PeerId::random();
        let table = [
            (String::new(), "first line"),
            ("# anyhop names 2\n".to_owned(), "first line"),
            (format!("{NAMES_HEADER}\nbob\n"), "line 2"),
            (format!("{NAMES_HEADER}\n\nbob = 12D3\n"), "line 3"),
            (
                format!("{NAMES_HEADER}\nb = {peer}\nb = {peer}\n"),
                "line 3",
            ),
        ];
        for (text, expected) in table {
            let error = Names::parse(&text).expect_err("damaged");
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_told_before_anything_is_made() {
        let dir = StateDir(PathBuf::from(format!("/{}", "d".repeat(93))));
        assert!(dir.socket().is_ok());
        let dir = StateDir(PathBuf::from(format!("/{}", "d".repeat(94))));
        let error = dir.socket().expect_err("too long");
        assert_eq!(error.code, Code::StateDir);
        assert!(error.hint.expect("has one").contains("shorter"));
    }
}
