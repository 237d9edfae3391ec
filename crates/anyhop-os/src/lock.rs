//! One process per state directory.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Name of the lock file in the state directory.
pub const LOCK_FILE: &str = "lock";

/// Longest process id that is read from a lock file, digits.
const MAX_PID_LEN: u64 = 20;

/// Holds a state directory for this process. Released on drop, and by the system when
/// the process ends in whatever way; the file stays.
#[derive(Debug)]
pub struct StateDirLock {
    /// The lock lives as long as this file is open.
    _file: File,
}

/// Why a state directory was not locked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process, or another holder in this one, has it.
    #[error(
        "the state directory {} is in use by {}: stop that first, or use another state directory",
        path.display(), holder(*pid)
    )]
    Held {
        /// The state directory.
        path: PathBuf,
        /// The holder's process id, if it could be read. It may be another host's on a
        /// shared file system.
        pid: Option<u32>,
    },
    /// The system refused the lock file or the lock.
    #[error("cannot lock {}: {source}", path.display())]
    System {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}

impl StateDirLock {
    /// Locks `dir`, which must exist, without waiting.
    ///
    /// # Errors
    /// When it is held, or the lock file cannot be opened, locked or written.
    pub fn acquire(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join(LOCK_FILE);
        let failed = |source| LockError::System {
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held {
                    path: dir.to_owned(),
                    pid: read_pid(&mut file),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        write_pid(&mut file).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(MAX_PID_LEN).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let _lock = StateDirLock::acquire(dir.path()).unwrap();
        let error = StateDirLock::acquire(dir.path()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("process {}", std::process::id())));
        assert!(text.contains(&dir.path().display().to_string()));
        match error {
            LockError::Held { path, pid } => {
                assert_eq!(path, dir.path());
                assert_eq!(pid, Some(std::process::id()));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_dropped_lock_can_be_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..3 {
            drop(StateDirLock::acquire(dir.path()).unwrap());
        }
    }

    #[test]
    fn a_lock_file_left_by_a_crash_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOCK_FILE);
        fs::write(&path, "4194304 and more than a pid").unwrap();
        let _lock = StateDirLock::acquire(dir.path()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }

    #[test]
    fn an_unreadable_holder_is_still_a_holder() {
        let dir = tempfile::tempdir().unwrap();
        let _lock = StateDirLock::acquire(dir.path()).unwrap();
        fs::write(dir.path().join(LOCK_FILE), "?").unwrap();
        let error = StateDirLock::acquire(dir.path()).unwrap_err();
        assert!(matches!(error, LockError::Held { pid: None, .. }));
        assert!(error.to_string().contains("another process"));
    }

    #[test]
    fn a_missing_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = StateDirLock::acquire(&dir.path().join("gone")).unwrap_err();
        assert!(matches!(error, LockError::System { .. }));
        assert!(error.to_string().contains("gone/lock"), "{error}");
    }
}
