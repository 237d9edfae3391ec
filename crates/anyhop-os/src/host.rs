//! What is changed on the host beyond our own interface, and how each change is undone.
//!
//! A change is a value that can be written down before it is made, so that it can be undone
//! by a process that did not make it. Undoing what was never made, or was undone already,
//! changes nothing; what somebody else has changed since is left to them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::libc;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    netlink,
    nft::{self, NftError},
    resolver,
};

/// Where the kernel's settings are.
const SYSCTL: &str = "/proc/sys";

/// A change of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum HostChange {
    /// A table of family `inet` in nftables.
    NftTable {
        /// Its name.
        table: String,
    },
    /// A setting of the kernel.
    Sysctl {
        /// Its path below `/proc/sys`, such as `net/ipv4/ip_forward`.
        key: String,
        /// Its value before.
        before: String,
        /// Its value since.
        after: String,
    },
    /// A rule which table of routes decides (ip-rule(8)).
    RoutingRule(RoutingRule),
    /// Lines at the beginning of the resolver's file.
    ResolverLines {
        /// The file, no symbolic link.
        path: PathBuf,
        /// The lines.
        lines: String,
    },
}

/// A rule which table of routes decides about packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutingRule {
    /// Of IPv6, not of IPv4.
    pub v6: bool,
    /// Its place among the rules.
    pub priority: u32,
    /// The table that decides.
    pub table: u32,
    /// About packets only that do not have this mark.
    pub unmarked: Option<u32>,
    /// Default routes of the table do not count.
    pub no_defaults: bool,
}

/// How a change was undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undone {
    /// The host is as it was.
    Restored,
    /// Somebody else has changed the same since: it was left to them.
    LeftAlone(String),
}

/// Why a change was not made, or not undone.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HostError {
    /// nftables.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// A setting of the kernel.
    #[error("cannot set {key} to {value}: {source}")]
    Sysctl {
        /// The setting.
        key: String,
        /// The value.
        value: String,
        /// What the system said.
        source: io::Error,
    },
    /// A rule about routes.
    #[error("cannot change the rule {priority} about routes: {source}")]
    RoutingRule {
        /// Its place.
        priority: u32,
        /// What the system said.
        source: io::Error,
    },
    /// The resolver's file.
    #[error("cannot write {}: {source}", path.display())]
    Resolver {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl HostChange {
    /// Undoes it; blocks for the time of one program at most.
    ///
    /// # Errors
    /// When it is still there.
    pub fn undo(&self) -> Result<Undone, HostError> {
        match self {
            Self::NftTable { table } => {
                nft::remove(table)?;
                Ok(Undone::Restored)
            }
            Self::Sysctl { key, before, after } => match sysctl(key) {
                // The interface it was about is gone.
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Undone::Restored),
                Ok(now) if now == *before => Ok(Undone::Restored),
                Ok(now) if now != *after => Ok(Undone::LeftAlone(format!(
                    "{key} is {now}, which is neither what it was before nor what it was set to"
                ))),
                _ => set_sysctl(key, before).map(|()| Undone::Restored),
            },
            Self::RoutingRule(rule) => rule.remove().map(|()| Undone::Restored),
            Self::ResolverLines { path, lines } => {
                resolver::remove_lines(path, lines).map_err(|source| HostError::Resolver {
                    path: path.clone(),
                    source,
                })
            }
        }
    }

    /// Makes it, where what is written down is all there is to it.
    ///
    /// # Errors
    /// When it is not made.
    pub fn make(&self) -> Result<(), HostError> {
        match self {
            Self::NftTable { .. } => Ok(()),
            Self::Sysctl { key, after, .. } => set_sysctl(key, after),
            Self::RoutingRule(rule) => rule.add(),
            Self::ResolverLines { path, lines } => {
                resolver::add_lines(path, lines).map_err(|source| HostError::Resolver {
                    path: path.clone(),
                    source,
                })
            }
        }
    }

    /// Whether it is made whole or not at all, so that one that failed has left nothing.
    #[must_use]
    pub fn is_all_or_nothing(&self) -> bool {
        !matches!(self, Self::ResolverLines { .. })
    }

    /// Whether both are about the same thing, which is as it was before only when both are
    /// undone.
    #[must_use]
    pub fn is_about_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::NftTable { table: a }, Self::NftTable { table: b }) => a == b,
            (Self::Sysctl { key: a, .. }, Self::Sysctl { key: b, .. }) => a == b,
            (Self::RoutingRule(a), Self::RoutingRule(b)) => a == b,
            _ => false,
        }
    }
}

impl RoutingRule {
    /// One that is there is added already.
    fn add(&self) -> Result<(), HostError> {
        let added = netlink::Route::open().and_then(|mut route| route.add_rule(self));
        self.done(added, libc::EEXIST)
    }

    /// One that is not there is removed already.
    fn remove(&self) -> Result<(), HostError> {
        let removed = netlink::Route::open().and_then(|mut route| route.remove_rule(self));
        self.done(removed, libc::ENOENT)
    }

    fn done(&self, result: io::Result<()>, already: i32) -> Result<(), HostError> {
        match result {
            Err(source) if source.raw_os_error() != Some(already) => {
                let priority = self.priority;
                Err(HostError::RoutingRule { priority, source })
            }
            _ => Ok(()),
        }
    }
}

/// The value of a setting of the kernel, by its path below `/proc/sys`.
///
/// # Errors
/// `NotFound` where the kernel has none of the name.
pub fn sysctl(key: &str) -> io::Result<String> {
    Ok(fs::read_to_string(sysctl_path(key))?.trim().to_owned())
}

fn set_sysctl(key: &str, value: &str) -> Result<(), HostError> {
    fs::write(sysctl_path(key), value).map_err(|source| HostError::Sysctl {
        key: key.to_owned(),
        value: value.to_owned(),
        source,
    })
}

fn sysctl_path(key: &str) -> PathBuf {
    // A journal is a file: nothing in it leads elsewhere.
    let parts = key
        .split('/')
        .filter(|part| !matches!(*part, "" | "." | ".."));
    parts.fold(Path::new(SYSCTL).to_owned(), |path, part| path.join(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(before: &str, after: &str) -> HostChange {
        HostChange::Sysctl {
            key: "kernel/ostype".to_owned(),
            before: before.to_owned(),
            after: after.to_owned(),
        }
    }

    #[test]
    fn a_setting_that_somebody_else_changed_is_left_to_them() {
        let undone = setting("Minix", "Plan9").undo().unwrap();
        assert!(matches!(undone, Undone::LeftAlone(why) if why.contains("Linux")));
        // As before: nobody may write this one, and nobody needs to.
        assert_eq!(setting("Linux", "Plan9").undo().unwrap(), Undone::Restored);
    }

    #[test]
    fn what_cannot_be_put_back_is_an_error() {
        // It is as it was set to, and read-only.
        let error = setting("Minix", "Linux").undo().unwrap_err();
        assert!(error.to_string().contains("kernel/ostype"), "{error}");
    }

    #[test]
    fn a_setting_of_an_interface_that_is_gone_is_undone() {
        let gone = HostChange::Sysctl {
            key: "net/ipv4/conf/anyhop-gone/forwarding".to_owned(),
            before: "0".to_owned(),
            after: "1".to_owned(),
        };
        assert_eq!(gone.undo().unwrap(), Undone::Restored);
    }

    #[test]
    fn no_key_leads_out_of_the_settings() {
        for key in ["../../etc/passwd", "/etc/passwd", "a/../../../etc/passwd"] {
            assert!(sysctl_path(key).starts_with(SYSCTL), "{key}");
            assert!(!sysctl_path(key).to_string_lossy().contains(".."), "{key}");
        }
    }

    #[test]
    fn changes_survive_being_written_down() {
        let changes = [
            HostChange::NftTable {
                table: "anyhop-lab-ports".to_owned(),
            },
            setting("0", "1"),
            HostChange::RoutingRule(RoutingRule {
                v6: true,
                priority: 7,
                table: 9,
                unmarked: Some(3),
                no_defaults: false,
            }),
        ];
        let text = serde_json::to_string(&changes).unwrap();
        assert_eq!(
            text,
            "[{\"kind\":\"nft_table\",\"table\":\"anyhop-lab-ports\"},\
             {\"kind\":\"sysctl\",\"key\":\"kernel/ostype\",\"before\":\"0\",\"after\":\"1\"},\
             {\"kind\":\"routing_rule\",\"v6\":true,\"priority\":7,\"table\":9,\"unmarked\":3,\"no_defaults\":false}]"
        );
        let back: Vec<HostChange> = serde_json::from_str(&text).unwrap();
        assert_eq!(back, changes);
    }
}
