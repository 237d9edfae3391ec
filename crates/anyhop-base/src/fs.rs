//! Atomic file writes: after a crash a file is as it was before or as it was meant to
//! be, never in between.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    hash::{BuildHasher, RandomState},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Names tried for a temporary file before giving up. Names are random 64-bit values,
/// so that a second try is already a curiosity.
const MAX_TEMP_NAMES: usize = 8;

/// Creates `dir` and its missing parents with mode 0700. An existing directory is left
/// as it is.
///
/// # Errors
/// What the system said; parents made so far stay.
pub fn create_private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Replaces the file at `path` with `bytes` and permission bits `mode`, atomically and
/// durably: temporary file in the same directory, fsync, rename, fsync of the directory.
///
/// # Errors
/// What the system said. The old file is untouched unless the very last step, the
/// fsync of the directory, failed.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temp = TempFile::write(path, bytes, mode)?;
    temp.rename_to(path)?;
    sync_dir_of(path)
}

/// As [`write_atomic`], but refuses with [`io::ErrorKind::AlreadyExists`] when there is a
/// file at `path` already, even one that appeared a moment ago.
///
/// # Errors
/// What the system said.
pub fn create_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temp = TempFile::write(path, bytes, mode)?;
    match fs::hard_link(&temp.path, path) {
        Ok(()) => drop(temp),
        // File systems and sandboxes without hard links (FAT, Android): the check
        // before the rename leaves a gap there, which callers close with a lock.
        Err(e) if no_hard_links(&e) => {
            if path.symlink_metadata().is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            temp.rename_to(path)?;
        }
        Err(e) => return Err(e),
    }
    sync_dir_of(path)
}

/// Removes temporary files that a process left in `dir` when it was killed while it wrote
/// there. For whoever alone may write there.
///
/// # Errors
/// What the system said; those removed so far are gone.
pub fn remove_stray(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if is_stray(&entry.file_name()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether a name is one that [`create_temp`] makes.
fn is_stray(name: &OsStr) -> bool {
    let parts = name.to_str().and_then(|name| {
        let (name, random) = name
            .strip_prefix('.')?
            .strip_suffix(".tmp")?
            .rsplit_once('.')?;
        Some(
            !name.is_empty() && random.len() == 16 && random.bytes().all(|b| b.is_ascii_hexdigit()),
        )
    });
    parts.unwrap_or(false)
}

fn no_hard_links(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported
    )
}

/// A finished temporary file, removed on drop unless renamed away.
struct TempFile {
    path: PathBuf,
    keep: bool,
}

impl TempFile {
    fn write(target: &Path, bytes: &[u8], mode: u32) -> io::Result<Self> {
        let (mut file, path) = create_temp(target, mode)?;
        let temp = Self { path, keep: false };
        // The mode given to open(2) is cut by the umask; this one is not.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(temp)
    }

    fn rename_to(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.keep = true;
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.keep {
            // Nothing to do about a failure: the stray file harms nobody.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn create_temp(target: &Path, mode: u32) -> io::Result<(File, PathBuf)> {
    let Some(name) = target.file_name() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path does not name a file",
        ));
    };
    let mut last = io::ErrorKind::AlreadyExists.into();
    for _ in 0..MAX_TEMP_NAMES {
        let mut temp = OsString::from(".");
        temp.push(name);
        temp.push(format!(".{:016x}.tmp", RandomState::new().hash_one(0_u8)));
        let path = target.with_file_name(temp);
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path);
        match opened {
            Ok(file) => return Ok((file, path)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => last = e,
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

fn sync_dir_of(path: &Path) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_in(dir: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        names
    }

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn write_replaces_content_and_mode_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        write_atomic(&path, b"one", 0o600).unwrap();
        assert_eq!(mode_of(&path), 0o600);
        write_atomic(&path, b"two", 0o666).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(mode_of(&path), 0o666, "the umask must not cut the mode");
        assert_eq!(names_in(dir.path()), ["state"]);
    }

    #[test]
    fn create_refuses_an_existing_file_and_leaves_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create_atomic(&path, b"one", 0o600).unwrap();
        let error = create_atomic(&path, b"two", 0o600).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(names_in(dir.path()), ["key"]);
    }

    #[test]
    fn a_failed_write_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        write_atomic(&path, b"x", 0o600).unwrap_err();
        assert_eq!(names_in(dir.path()), ["taken"]);
    }

    #[test]
    fn only_what_a_killed_writer_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (_, stray) = create_temp(&dir.path().join("state"), 0o600).unwrap();
        let others = [
            ".hidden",
            ".state.0123.tmp",
            "state",
            "state.0123456789abcdef.tmp",
        ];
        for other in others {
            fs::write(dir.path().join(other), b"x").unwrap();
        }
        remove_stray(dir.path()).unwrap();
        assert!(!stray.exists());
        assert_eq!(names_in(dir.path()), others);
    }

    #[test]
    fn a_path_without_a_file_name_is_refused() {
        let error = write_atomic(Path::new("/"), b"x", 0o600).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn private_directories_are_0700_all_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        create_private_dir(&inner).unwrap();
        create_private_dir(&inner).unwrap();
        assert_eq!(mode_of(&dir.path().join("a")), 0o700);
        assert_eq!(mode_of(&inner), 0o700);
    }
}
