//! What was changed on the host, written down so that it is undone.
//!
//! - **Steady state**: a change is in the file before it is made, and leaves the file after
//!   it was undone. Changes have owners, such as a network's port maps, and those of one are
//!   undone together, the last one first.
//! - **Failure**: after a kill the file tells the next process what to undo. What cannot be
//!   undone now stays in the file and is told; so does what a newer version wrote and this
//!   one does not understand.
//!
//! Calls block for a write to the disk and for what they do to the host.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhop_os::{HostChange, HostError, RoutingRule, Undone, nft::Table, sysctl};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Version of the file.
const VERSION: u32 = 1;
/// Changes at once.
const MAX_CHANGES: usize = 1024;
/// Largest file read, bytes: a resolver's file of before is among the changes.
const MAX_FILE: u64 = 8 << 20;

/// Changes of the host that are to be undone.
#[derive(Debug)]
pub struct HostJournal {
    path: PathBuf,
    entries: Mutex<Vec<Entry>>,
    undo: fn(&HostChange) -> Result<Undone, HostError>,
}

/// Why a change was not made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The file could not be read.
    #[error("cannot read {}, which tells what to undo on this host: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It could not be written, so that the change was not made.
    #[error("cannot write {}, without which nothing is changed on this host: {source}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A limit was passed.
    #[error("at most {MAX_CHANGES} changes of this host are made at once")]
    Limit,
    /// The host said no; what was made of it is undone.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct File {
    version: u32,
    changes: Vec<Entry>,
}

/// A change and whose it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    owner: String,
    change: Change,
}

/// One that is understood, or one of a newer version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Change {
    Known(HostChange),
    Unknown(serde_json::Value),
}

impl Entry {
    fn is(&self, owner: &str, change: &HostChange) -> bool {
        self.owner == owner && matches!(&self.change, Change::Known(c) if c == change)
    }
}

impl HostJournal {
    /// The journal at `path`, which need not exist yet. For whoever alone may write there.
    ///
    /// # Errors
    /// When there is a file that is none.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        Self::open_with(path, HostChange::undo)
    }

    fn open_with(
        path: &Path,
        undo: fn(&HostChange) -> Result<Undone, HostError>,
    ) -> Result<Self, JournalError> {
        let unreadable = |why: String| JournalError::Unreadable {
            path: path.to_owned(),
            why,
        };
        let entries = match fs::metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Ok(m) if m.len() > MAX_FILE => {
                return Err(unreadable(format!("it is larger than {MAX_FILE} bytes")));
            }
            _ => {
                let text = fs::read(path).map_err(|e| unreadable(e.to_string()))?;
                let file: File =
                    serde_json::from_slice(&text).map_err(|e| unreadable(e.to_string()))?;
                if file.version != VERSION {
                    return Err(unreadable(format!("it is of version {}", file.version)));
                }
                file.changes
            }
        };
        Ok(Self {
            path: path.to_owned(),
            entries: Mutex::new(entries),
            undo,
        })
    }

    /// Undoes what an earlier process left, the last change first; answers what could not be
    /// undone, or was left to somebody else, and why.
    pub fn undo_left(&self) -> Vec<String> {
        self.undo_where(|_| true)
    }

    /// Undoes all changes of an owner and of those named `<owner>/..`, the last one first;
    /// answers as [`undo_left`](Self::undo_left) does.
    pub fn undo_all(&self, owner: &str) -> Vec<String> {
        let is_its = |name: &str| {
            let rest = name.strip_prefix(owner);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.undo_where(|entry| is_its(&entry.owner))
    }

    /// Undoes one change of an owner; answers as [`undo_left`](Self::undo_left) does.
    pub fn undo(&self, owner: &str, change: &HostChange) -> Vec<String> {
        self.undo_where(|entry| entry.is(owner, change))
    }

    /// Writes a change down, which the caller then makes. Once more changes nothing.
    ///
    /// # Errors
    /// When it is not written down; it must not be made then.
    pub fn note(&self, owner: &str, change: HostChange) -> Result<(), JournalError> {
        self.note_new(owner, change).map(drop)
    }

    /// The same; whether it was not there before.
    fn note_new(&self, owner: &str, change: HostChange) -> Result<bool, JournalError> {
        let mut entries = self.entries();
        if entries.iter().any(|e| e.is(owner, &change)) {
            return Ok(false);
        }
        if entries.len() >= MAX_CHANGES {
            return Err(JournalError::Limit);
        }
        entries.push(Entry {
            owner: owner.to_owned(),
            change: Change::Known(change),
        });
        let written = self.write(&entries);
        if written.is_err() {
            entries.pop();
        }
        written.map(|()| true)
    }

    /// Writes a change down and makes it with `act`. When that fails the host is as before,
    /// with an earlier change of the same if there was one.
    ///
    /// # Errors
    /// When it is not made.
    pub fn change<E: Into<HostError>>(
        &self,
        owner: &str,
        change: &HostChange,
        act: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), JournalError> {
        let is_new = self.note_new(owner, change.clone())?;
        act().map_err(|e| {
            let told = match (change.is_all_or_nothing(), is_new) {
                (true, true) => self.forget(|entry| entry.is(owner, change)),
                (true, false) => None,
                (false, _) => self.undo(owner, change).pop(),
            };
            if let Some(told) = told {
                tracing::warn!("{told}");
            }
            JournalError::Host(e.into())
        })
    }

    /// Puts a table in place.
    ///
    /// # Errors
    /// When it is not; an earlier one of that name then stays.
    pub fn apply_table(&self, owner: &str, table: &Table) -> Result<(), JournalError> {
        let change = HostChange::NftTable {
            table: table.name().to_owned(),
        };
        self.change(owner, &change, || table.apply())
    }

    /// Sets a setting of the kernel, by its path below `/proc/sys`. Where several owners set
    /// it, it is put back when the last one undoes it.
    ///
    /// # Errors
    /// When it is not set.
    pub fn set_sysctl(&self, owner: &str, key: &str, value: &str) -> Result<(), JournalError> {
        let now = sysctl(key).map_err(|source| HostError::Sysctl {
            key: key.to_owned(),
            value: value.to_owned(),
            source,
        })?;
        let before = self.before_sysctl(key);
        if now == value && before.is_none() {
            return Ok(());
        }
        let change = HostChange::Sysctl {
            key: key.to_owned(),
            before: before.unwrap_or(now),
            after: value.to_owned(),
        };
        self.change(owner, &change, || change.make())
    }

    /// What a setting of the kernel was before any of the changes; `None` when there are none.
    pub fn before_sysctl(&self, wanted: &str) -> Option<String> {
        let entries = self.entries();
        entries.iter().find_map(|e| match &e.change {
            Change::Known(HostChange::Sysctl { key, before, .. }) if key == wanted => {
                Some(before.clone())
            }
            _ => None,
        })
    }

    /// Puts a rule about routes in place.
    ///
    /// # Errors
    /// When it is not.
    pub fn add_routing_rule(&self, owner: &str, rule: RoutingRule) -> Result<(), JournalError> {
        let change = HostChange::RoutingRule(rule);
        self.change(owner, &change, || change.make())
    }

    fn undo_where(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<String> {
        let mut told = Vec::new();
        let due: Vec<Entry> = {
            let entries = self.entries();
            let due = entries.iter().rev().filter(|e| wanted(e));
            due.cloned().collect()
        };
        for entry in due {
            let undone = match &entry.change {
                Change::Unknown(change) => {
                    let path = self.path.display();
                    told.push(format!(
                        "{change} of {path} is not understood by this version, and is not undone"
                    ));
                    continue;
                }
                Change::Known(change) if self.is_shared(&entry, change) => Ok(Undone::Restored),
                Change::Known(change) => (self.undo)(change),
            };
            match undone {
                Err(e) => {
                    told.push(format!(
                        "not undone, and tried again at the next start: {e}"
                    ));
                    continue;
                }
                Ok(Undone::LeftAlone(why)) => told.push(format!("left as it is: {why}")),
                Ok(Undone::Restored) => {}
            }
            told.extend(self.forget(|e| *e == entry));
        }
        told
    }

    /// Takes entries out. Where the file cannot be written, which is told, the next start
    /// undoes once more what is undone, which changes nothing.
    fn forget(&self, which: impl Fn(&Entry) -> bool) -> Option<String> {
        let mut entries = self.entries();
        entries.retain(|e| !which(e));
        self.write(&entries).err().map(|e| e.to_string())
    }

    /// Whether another owner's change keeps the host as this one made it.
    fn is_shared(&self, entry: &Entry, change: &HostChange) -> bool {
        let entries = self.entries();
        let mut others = entries.iter().filter(|e| *e != entry);
        others.any(|e| matches!(&e.change, Change::Known(c) if c.is_about_the_same(change)))
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        // The list is whole after every single operation on it.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, entries: &[Entry]) -> Result<(), JournalError> {
        let unwritable = |source| JournalError::Unwritable {
            path: self.path.clone(),
            source,
        };
        if entries.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(unwritable(e)),
                _ => Ok(()),
            };
        }
        let file = File {
            version: VERSION,
            changes: entries.to_vec(),
        };
        let text = serde_json::to_vec_pretty(&file).map_err(|e| unwritable(e.into()))?;
        anyhop_base::fs::write_atomic(&self.path, &text, 0o600).map_err(unwritable)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        /// What was undone, in order; each test has a thread.
        static UNDONE: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    /// A host that remembers, and cannot undo tables whose names begin with `stuck`.
    fn fake(change: &HostChange) -> Result<Undone, HostError> {
        let HostChange::NftTable { table } = change else {
            UNDONE.with_borrow_mut(|u| u.push("setting".to_owned()));
            return Ok(Undone::LeftAlone("another value".to_owned()));
        };
        if table.starts_with("stuck") {
            return Err(HostError::Nft(anyhop_os::nft::NftError::Missing {
                table: table.clone(),
            }));
        }
        UNDONE.with_borrow_mut(|u| u.push(table.clone()));
        Ok(Undone::Restored)
    }

    fn undone() -> Vec<String> {
        UNDONE.with_borrow_mut(std::mem::take)
    }

    fn table(name: &str) -> HostChange {
        HostChange::NftTable {
            table: name.to_owned(),
        }
    }

    fn setting(before: &str) -> HostChange {
        HostChange::Sysctl {
            key: "net/ipv4/ip_forward".to_owned(),
            before: before.to_owned(),
            after: "1".to_owned(),
        }
    }

    fn journal(dir: &tempfile::TempDir) -> HostJournal {
        HostJournal::open_with(&dir.path().join("host"), fake).expect("readable")
    }

    #[test]
    fn what_a_killed_process_left_is_undone_by_the_next_the_last_change_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let killed = journal(&dir);
        for name in ["one", "two", "three"] {
            killed.note("a", table(name)).expect("writable");
        }
        killed.note("a", table("two")).expect("once more");
        drop(killed);
        let next = journal(&dir);
        assert_eq!(next.undo_left(), [""; 0]);
        assert_eq!(undone(), ["three", "two", "one"]);
        assert!(!dir.path().join("host").exists());
    }

    #[test]
    fn owners_do_not_undo_each_others_changes() {
        let dir = tempfile::tempdir().expect("a directory");
        let journal = journal(&dir);
        journal.note("a", table("one")).expect("writable");
        journal.note("ab", table("two")).expect("writable");
        journal.note("a/ports", table("three")).expect("writable");
        assert!(journal.undo_all("a").is_empty());
        assert_eq!(undone(), ["three", "one"]);
        assert!(journal.undo("ab", &table("two")).is_empty());
        assert_eq!(undone(), ["two"]);
    }

    #[test]
    fn what_cannot_be_undone_is_told_and_tried_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = journal(&dir);
        first.note("a", table("stuck")).expect("writable");
        first.note("a", table("two")).expect("writable");
        let told = first.undo_all("a");
        assert!(told[0].contains("next start"), "{told:?}");
        assert_eq!((told.len(), undone()), (1, vec!["two".to_owned()]));
        assert_eq!(journal(&dir).undo_left().len(), 1);
    }

    #[test]
    fn a_setting_goes_back_when_the_last_owner_is_done_with_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let journal = journal(&dir);
        journal.note("a", setting("0")).expect("writable");
        assert_eq!(
            journal.before_sysctl("net/ipv4/ip_forward").as_deref(),
            Some("0")
        );
        journal.note("b", setting("0")).expect("writable");
        assert!(journal.undo_all("a").is_empty());
        assert!(undone().is_empty());
        let told = journal.undo_all("b");
        assert_eq!(undone(), ["setting"]);
        assert!(told[0].contains("another value"), "{told:?}");
        assert!(journal.undo_left().is_empty(), "it is settled");
    }

    #[test]
    fn a_change_that_fails_leaves_the_host_and_the_file_as_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let journal = journal(&dir);
        let lines = HostChange::ResolverLines {
            path: "/etc/resolv.conf".into(),
            lines: String::new(),
        };
        let refused = || -> Result<(), HostError> {
            Err(HostError::Nft(anyhop_os::nft::NftError::Missing {
                table: "one".to_owned(),
            }))
        };
        journal
            .change("a", &table("one"), refused)
            .expect_err("refused");
        assert!(undone().is_empty(), "there is nothing to undo");
        assert!(!dir.path().join("host").exists());
        journal.change("a", &lines, refused).expect_err("refused");
        assert_eq!(undone(), ["setting"], "it may be there in part");
        assert!(!dir.path().join("host").exists());
        // The table of before is still there, and still to be undone.
        journal.note("a", table("one")).expect("writable");
        journal
            .change("a", &table("one"), refused)
            .expect_err("refused");
        assert!(undone().is_empty());
        assert!(journal.undo_all("a").is_empty());
        assert_eq!(undone(), ["one"]);
    }

    #[test]
    fn what_a_newer_version_wrote_is_kept_and_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("host");
        let newer = r#"{"version":1,"changes":[{"owner":"a","change":{"kind":"moon","phase":3}}]}"#;
        fs::write(&path, newer).expect("writable");
        let journal = journal(&dir);
        let told = journal.undo_left();
        assert!(told[0].contains("moon"), "{told:?}");
        journal.note("a", table("one")).expect("writable");
        assert!(fs::read_to_string(&path).expect("kept").contains("moon"));
        for damaged in ["", "[]", r#"{"version":2,"changes":[]}"#] {
            fs::write(&path, damaged).expect("writable");
            assert!(HostJournal::open(&path).is_err(), "{damaged}");
        }
    }
}
