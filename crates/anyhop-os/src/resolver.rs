//! How this host resolves names, and how it is told to ask us about some.
//!
//! systemd-resolved is told which domains an interface's server is for; that goes with the
//! interface. The resolver of the C library asks the servers of `/etc/resolv.conf` one after
//! the other about everything: there, lines of ours go in front of what is in the file, which
//! stays as it is, and are taken out again, whatever else was changed meanwhile.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use thiserror::Error;

use crate::host::{HostChange, Undone};

/// The C library's file.
const FILE: &str = "/etc/resolv.conf";
/// Where systemd-resolved keeps files that the C library's is a link to.
const RESOLVED_DIR: &str = "/run/systemd/resolve";
/// Addresses where systemd-resolved answers.
const RESOLVED_STUBS: [&str; 2] = ["127.0.0.53", "127.0.0.54"];
/// Speaks to systemd-resolved.
const RESOLVECTL: &str = "resolvectl";
/// Largest file that is changed, bytes.
const MAX_FILE: u64 = 64 << 10;
/// Servers that the C library asks (`MAXNS`).
const MAX_SERVERS: usize = 3;
/// Where servers answer.
const DNS_PORT: u16 = 53;

/// How this host resolves names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolver {
    /// By systemd-resolved.
    Resolved,
    /// By the C library.
    File {
        /// Its file, no symbolic link.
        path: PathBuf,
        /// Whom it asks, in this order.
        servers: Vec<SocketAddr>,
    },
    /// In a way that cannot be changed, and why.
    Unknown(String),
}

/// Why systemd-resolved does not ask us.
#[derive(Debug, Error)]
#[error("systemd-resolved was not told of {interface}: {why}")]
pub struct ResolverError {
    /// The interface.
    pub interface: String,
    /// Why.
    pub why: String,
}

/// How this host resolves names now.
#[must_use]
pub fn resolver() -> Resolver {
    resolver_of(Path::new(FILE))
}

fn resolver_of(file: &Path) -> Resolver {
    let unknown = |e: &io::Error| Resolver::Unknown(format!("{}: {e}", file.display()));
    let path = match file.canonicalize() {
        Ok(path) => path,
        Err(e) => return unknown(&e),
    };
    let text = match read(&path) {
        Ok(text) => text,
        Err(e) => return unknown(&e),
    };
    let servers = servers_in(&text);
    let is_stub = |server: &SocketAddr| RESOLVED_STUBS.contains(&&*server.ip().to_string());
    if path.starts_with(RESOLVED_DIR) || servers.first().is_some_and(is_stub) {
        return Resolver::Resolved;
    }
    Resolver::File { path, servers }
}

/// Has systemd-resolved ask the servers of an interface about some domains, and nothing else.
/// It forgets that when the interface goes. Blocks for the time of three programs.
///
/// # Errors
/// When `resolvectl` is missing or fails.
pub fn hook_resolved(
    interface: &str,
    servers: &[IpAddr],
    domains: &[String],
) -> Result<(), ResolverError> {
    hook_resolved_by(RESOLVECTL, interface, servers, domains)
}

fn hook_resolved_by(
    program: &str,
    interface: &str,
    servers: &[IpAddr],
    domains: &[String],
) -> Result<(), ResolverError> {
    let servers = servers.iter().map(ToString::to_string);
    // A domain behind `~` is for routing questions, and never put behind names.
    let domains = domains.iter().map(|domain| format!("~{domain}"));
    let calls: [(&str, Vec<String>); 3] = [
        ("default-route", vec!["no".to_owned()]),
        ("domain", domains.collect()),
        ("dns", servers.collect()),
    ];
    for (verb, values) in calls {
        let output = Command::new(program)
            .arg(verb)
            .arg(interface)
            .args(values)
            .stdin(Stdio::null())
            .output();
        let why = match output {
            Ok(output) if output.status.success() => continue,
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                let said = said.lines().next().unwrap_or_default();
                format!("`{program} {verb}` said {said:?}")
            }
            Err(e) => format!("`{program}` was not run: {e}"),
        };
        return Err(ResolverError {
            interface: interface.to_owned(),
            why,
        });
    }
    Ok(())
}

/// The change that has the C library ask `server` first. `whose` stands beside it, so that
/// people know.
#[must_use]
pub fn resolver_lines(path: &Path, whose: &str, server: IpAddr) -> HostChange {
    HostChange::ResolverLines {
        path: path.to_owned(),
        lines: format!(
            "# anyhop: {whose}; these three lines go when its VPN ends\n\
             nameserver {server}\n\
             # anyhop: end of {whose}\n"
        ),
    }
}

/// Puts lines in front of a file that has not got them.
pub(crate) fn add_lines(path: &Path, lines: &str) -> io::Result<()> {
    let text = read(path)?;
    if text.contains(lines) {
        return Ok(());
    }
    write(path, &format!("{lines}{text}"))
}

/// Takes them out again.
pub(crate) fn remove_lines(path: &Path, lines: &str) -> io::Result<Undone> {
    let text = match read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Undone::Restored),
        text => text?,
    };
    if text.contains(lines) {
        write(path, &text.replacen(lines, "", 1))?;
        return Ok(Undone::Restored);
    }
    let still = servers_in(lines)
        .into_iter()
        .find(|s| servers_in(&text).contains(s));
    Ok(match still {
        // Written anew by others, without us.
        None => Undone::Restored,
        Some(server) => Undone::LeftAlone(format!(
            "{} was changed by others and still names {}, where nobody answers any more",
            path.display(),
            server.ip()
        )),
    })
}

fn servers_in(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let server = words.next().filter(|word| *word == "nameserver");
        server.and_then(|_| words.next()?.parse().ok())
    });
    let servers = servers.map(|ip| SocketAddr::new(ip, DNS_PORT));
    servers.take(MAX_SERVERS).collect()
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(io::Error::other(format!(
            "it is larger than {MAX_FILE} bytes"
        )));
    }
    fs::read_to_string(path)
}

/// Replaces a file, so that nobody sees half of it. A mount point cannot be replaced: it is
/// written in one go.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let old = fs::metadata(path)?;
    let temp = path.with_extension("anyhop-new");
    let replace = || -> io::Result<()> {
        let mut file = File::create(&temp)?;
        fs::set_permissions(&temp, fs::Permissions::from_mode(old.mode() & 0o7777))?;
        chown(&temp, Some(old.uid()), Some(old.gid()))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temp, path)
    };
    replace().or_else(|_| {
        let _ = fs::remove_file(&temp);
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)?;
        file.sync_all()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const BEFORE: &str = "search example.org\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n";

    struct Etc(tempfile::TempDir);

    impl Etc {
        /// With a file that is a symbolic link to another one.
        fn new(text: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("real"), text).unwrap();
            symlink("real", dir.path().join("resolv.conf")).unwrap();
            Self(dir)
        }

        fn file(&self) -> PathBuf {
            self.0.path().join("resolv.conf")
        }

        fn text(&self) -> String {
            fs::read_to_string(self.file()).unwrap()
        }

        fn lines(&self, server: &str) -> HostChange {
            let Resolver::File { path, .. } = resolver_of(&self.file()) else {
                panic!("a plain file");
            };
            resolver_lines(&path, "network lab", server.parse().unwrap())
        }
    }

    #[test]
    fn our_server_is_asked_first_and_the_file_is_as_before_when_that_is_undone() {
        let etc = Etc::new(BEFORE);
        fs::set_permissions(etc.file(), fs::Permissions::from_mode(0o640)).unwrap();
        let lines = etc.lines("127.113.254.123");
        lines.make().unwrap();
        lines.make().unwrap();
        let Resolver::File { servers, .. } = resolver_of(&etc.file()) else {
            panic!("a plain file");
        };
        let servers: Vec<_> = servers.iter().map(|s| s.ip().to_string()).collect();
        assert_eq!(servers, ["127.113.254.123", "192.0.2.53", "2001:db8::53"]);
        assert_eq!(lines.undo().unwrap(), Undone::Restored);
        assert_eq!(lines.undo().unwrap(), Undone::Restored);
        assert_eq!(etc.text(), BEFORE);
        assert!(etc.file().is_symlink(), "the link is still one");
        assert_eq!(fs::metadata(etc.file()).unwrap().mode() & 0o777, 0o640);
        assert_eq!(
            fs::read_dir(etc.0.path()).unwrap().count(),
            2,
            "nothing else"
        );
    }

    #[test]
    fn what_others_wrote_meanwhile_stays() {
        let etc = Etc::new(BEFORE);
        let (one, two) = (etc.lines("127.0.1.1"), etc.lines("127.0.1.2"));
        one.make().unwrap();
        two.make().unwrap();
        fs::write(etc.file(), etc.text() + "options edns0\n").unwrap();
        // Not in the order in which they came.
        assert_eq!(one.undo().unwrap(), Undone::Restored);
        assert_eq!(two.undo().unwrap(), Undone::Restored);
        assert_eq!(etc.text(), format!("{BEFORE}options edns0\n"));
        two.make().unwrap();
        fs::write(etc.file(), "nameserver 192.0.2.54\n").unwrap();
        assert_eq!(two.undo().unwrap(), Undone::Restored);
        assert_eq!(etc.text(), "nameserver 192.0.2.54\n");
        fs::write(etc.file(), "nameserver 127.0.1.2\n").unwrap();
        assert!(matches!(two.undo().unwrap(), Undone::LeftAlone(_)));
        fs::remove_file(etc.0.path().join("real")).unwrap();
        assert_eq!(two.undo().unwrap(), Undone::Restored);
    }

    #[test]
    fn systemd_resolved_is_known_by_its_address() {
        let etc = Etc::new("nameserver 127.0.0.53\n");
        assert_eq!(resolver_of(&etc.file()), Resolver::Resolved);
        let none = etc.0.path().join("none");
        assert!(matches!(resolver_of(&none), Resolver::Unknown(why) if why.contains("none")));
    }

    #[test]
    fn systemd_resolved_is_told_servers_and_domains() {
        let dir = tempfile::tempdir().unwrap();
        let (program, log) = (dir.path().join("resolvectl"), dir.path().join("log"));
        let script = format!("#!/bin/sh\necho \"$@\" >> {}\n", log.display());
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let program = program.to_str().unwrap();
        let server = ["100.64.0.1".parse().unwrap()];
        let domains = ["lab.anyhop".to_owned()];
        hook_resolved_by(program, "anyhop-lab", &server, &domains).unwrap();
        assert_eq!(
            fs::read_to_string(&log).unwrap(),
            "default-route anyhop-lab no\ndomain anyhop-lab ~lab.anyhop\ndns anyhop-lab 100.64.0.1\n"
        );
        fs::write(program, "#!/bin/sh\necho 'no such link' >&2\nexit 1\n").unwrap();
        let failed = hook_resolved_by(program, "anyhop-lab", &server, &domains).unwrap_err();
        assert!(failed.to_string().contains("no such link"), "{failed}");
        let missing = hook_resolved_by("/nowhere/x", "anyhop-lab", &server, &domains);
        assert!(missing.unwrap_err().why.contains("was not run"));
    }
}
