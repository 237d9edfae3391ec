//! Text files in a network's folder, in which a part of the daemon keeps what it was told.

use std::{fs, io, path::Path};

use crate::error::{CliError, Code};

/// Reads one: what it has not is the default, which is what holds where there is no file.
/// `hint` says what to do about one that cannot be read.
pub(super) fn read<T: Default>(
    path: &Path,
    max_len: u64,
    hint: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, CliError> {
    let unusable = |why: String| {
        let message = format!("{} is unusable: {why}", path.display());
        CliError::new(Code::StateDir, message).hint(hint)
    };
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
        Ok(m) if m.len() > max_len => return Err(unusable("it is too large".to_owned())),
        _ => {}
    }
    let text = fs::read_to_string(path).map_err(|e| unusable(e.to_string()))?;
    parse(&text).map_err(unusable)
}

/// Writes one, whole or not at all; `what` is kept in it.
pub(super) fn write(folder: &Path, file: &str, text: &str, what: &str) -> Result<(), CliError> {
    let path = folder.join(file);
    let written = anyhop_base::fs::create_private_dir(folder)
        .and_then(|()| anyhop_base::fs::write_atomic(&path, text.as_bytes(), 0o600));
    written.map_err(|e| {
        let message = format!("cannot write {}: {e}", path.display());
        CliError::new(Code::StateDir, message).hint(format!(
            "check the directory's owner and permissions; {what} are as they were"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, String> {
        match text {
            "bad" => Err("it is bad".to_owned()),
            text => Ok(text.to_owned()),
        }
    }

    #[test]
    fn what_was_written_is_read_and_no_file_is_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("network");
        let read = || read(&folder.join("kept"), 5, "mend it", parse);
        assert_eq!(read().unwrap(), "");
        write(&folder, "kept", "words", "the words").unwrap();
        assert_eq!(read().unwrap(), "words");
    }

    #[test]
    fn an_unusable_file_is_told_with_its_name_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        for (text, why) in [("bad", "it is bad"), ("longer", "it is too large")] {
            write(dir.path(), "kept", text, "the words").unwrap();
            let error = read(&dir.path().join("kept"), 5, "mend it", parse).unwrap_err();
            assert!(error.message.contains("kept is unusable"), "{error}");
            assert!(error.message.contains(why), "{error}");
            assert_eq!(error.hint.as_deref(), Some("mend it"));
        }
    }
}
