//! `--ws-site`: a directory read into memory once, so that nothing outside it, and no
//! later change, can ever be asked for.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhop::{MAX_SITE_BYTES, Page, Site};
use bytes::Bytes;

use crate::error::CliError;

/// Most files of a site.
const MAX_FILES: usize = 4096;
/// Deepest folder.
const MAX_DEPTH: usize = 16;

/// Reads a directory. Hidden files and what links lead to are left out.
pub(crate) fn read(dir: &Path) -> Result<Site, CliError> {
    let mut reader = Reader {
        pages: BTreeMap::new(),
        bytes: 0,
    };
    reader.folder(dir, "", 0)?;
    if reader.pages.is_empty() {
        return Err(refused(dir, "it holds no file")
            .hint("put an index.html there, or leave --ws-site out"));
    }
    Ok(Site {
        pages: reader.pages,
    })
}

struct Reader {
    pages: BTreeMap<String, Page>,
    bytes: usize,
}

impl Reader {
    fn folder(&mut self, dir: &Path, path: &str, depth: usize) -> Result<(), CliError> {
        if depth > MAX_DEPTH {
            return Err(refused(
                dir,
                &format!("it is more than {MAX_DEPTH} folders deep"),
            ));
        }
        let io = |e: std::io::Error| refused(dir, &e.to_string());
        for entry in fs::read_dir(dir).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|n| !n.starts_with('.')) else {
                continue;
            };
            let (file, path) = (entry.path(), format!("{path}/{name}"));
            let kind = entry.file_type().map_err(io)?;
            if kind.is_dir() {
                self.folder(&file, &path, depth + 1)?;
            } else if kind.is_file() {
                self.file(&file, path)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, file: &PathBuf, path: String) -> Result<(), CliError> {
        let io = |e: std::io::Error| refused(file, &e.to_string());
        let len = fs::metadata(file).map_err(io)?.len();
        let room = MAX_SITE_BYTES - self.bytes;
        if usize::try_from(len).is_ok_and(|len| len <= room) && self.pages.len() < MAX_FILES {
            let body = fs::read(file).map_err(io)?;
            self.bytes = (self.bytes + body.len()).min(MAX_SITE_BYTES);
            let page = Page {
                content_type: media_type(&path).to_owned(),
                body: Bytes::from(body),
            };
            self.pages.insert(path, page);
            return Ok(());
        }
        let mib = MAX_SITE_BYTES >> 20;
        Err(refused(
            file,
            &format!("a site has at most {MAX_FILES} files and {mib} MiB, and is kept in memory"),
        ))
    }
}

fn refused(path: &Path, why: &str) -> CliError {
    CliError::usage(format!(
        "cannot take {} for --ws-site: {why}",
        path.display()
    ))
}

/// The media type of a file, by its extension.
fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "txt" => "text/plain; charset=utf-8",
        "json" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "pdf" => "application/pdf",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_taken_with_their_paths_and_links_and_hidden_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("index.html"), "hi").unwrap();
        fs::write(dir.path().join("a/style.css"), "p {}").unwrap();
        fs::write(dir.path().join(".secret"), "x").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("passwd")).unwrap();
        let site = read(dir.path()).unwrap();
        let paths: Vec<_> = site.pages.keys().map(String::as_str).collect();
        assert_eq!(paths, ["/a/style.css", "/index.html"]);
        assert_eq!(
            site.pages["/a/style.css"].content_type,
            "text/css; charset=utf-8"
        );
    }

    #[test]
    fn what_is_no_site_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().to_owned(), dir.path().join("none")] {
            let error = read(&path).unwrap_err();
            assert!(error.message.contains(path.to_str().unwrap()), "{error}");
        }
        let large = fs::File::create(dir.path().join("large")).unwrap();
        large.set_len(MAX_SITE_BYTES as u64 + 1).unwrap();
        assert!(read(dir.path()).unwrap_err().message.contains("MiB"));
    }
}
