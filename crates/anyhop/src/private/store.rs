//! The file of a network. It is replaced whole, so that a crash at any point leaves the one
//! before or the one after.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use anyhop_base::fs::{create_atomic, create_private_dir, write_atomic};
use anyhop_proto::network::state::{MAX_STATE_LEN, NetworkState};

use super::StoreError;

/// Name of the file in a network's folder.
const FILE: &str = "network";
/// Most networks in a state directory that are looked at.
const MAX_NETWORKS: usize = 256;

/// Where a network is kept. Clones write to the same file, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    folder: PathBuf,
    /// Held while a state is taken and written, so that none overtakes a later one.
    writing: Arc<Mutex<()>>,
}

impl Store {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            writing: Arc::default(),
        }
    }

    /// Stores a network that is not there yet.
    pub(super) fn create(&self, state: &NetworkState) -> Result<(), StoreError> {
        create_private_dir(&self.folder).map_err(|e| StoreError::write(self.folder.clone(), &e))?;
        let path = self.file();
        let bytes = self.encoded(state)?;
        create_atomic(&path, &bytes, 0o600).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => StoreError::Exists { path },
            _ => StoreError::write(path, &e),
        })
    }

    /// Stores what `take` returns, in the order of calls. Blocks until it is on the disk.
    pub(crate) fn save(&self, take: impl FnOnce() -> NetworkState) -> Result<(), StoreError> {
        let _alone = self.writing.lock().expect("no holder panics");
        let path = self.file();
        let bytes = self.encoded(&take())?;
        write_atomic(&path, &bytes, 0o600).map_err(|e| StoreError::write(path, &e))
    }

    /// Reads the network.
    pub(super) fn load(&self) -> Result<NetworkState, StoreError> {
        let path = self.file();
        let failed = |e: io::Error| StoreError::read(path.clone(), &e);
        let file = File::open(&path).map_err(failed)?;
        // Of the opened file, so that it is the one that is read.
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(StoreError::Exposed { path, mode });
        }
        let mut bytes = Vec::new();
        file.take(MAX_STATE_LEN as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        NetworkState::decode(&bytes).map_err(|fault| StoreError::Unusable { path, fault })
    }

    /// Removes the network.
    pub(crate) fn remove(&self) -> Result<(), StoreError> {
        let _alone = self.writing.lock().expect("no holder panics");
        match fs::remove_dir_all(&self.folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::write(self.folder.clone(), &e))
            }
            _ => Ok(()),
        }
    }

    /// That nothing was stored, for a reason that is not the system's.
    pub(crate) fn failed(&self, reason: &str) -> StoreError {
        let reason = reason.to_owned();
        let path = self.file();
        StoreError::Write { path, reason }
    }

    fn file(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    fn encoded(&self, state: &NetworkState) -> Result<Vec<u8>, StoreError> {
        state.encode().map_err(|fault| StoreError::Unusable {
            path: self.file(),
            fault,
        })
    }
}

/// The folders of networks in a folder, in order; none when it is not there.
pub(super) fn folders(of: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let failed = |e: io::Error| StoreError::read(of.to_owned(), &e);
    let entries = match fs::read_dir(of) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut folders = Vec::new();
    for entry in entries.take(MAX_NETWORKS) {
        let path = entry.map_err(failed)?.path();
        // One that was being created when the machine stopped has no file.
        if path.join(FILE).exists() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}
