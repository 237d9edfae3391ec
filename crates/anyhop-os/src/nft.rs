//! Tables of our own in nftables, by the `nft` program and its JSON (libnftables-json(5)).
//!
//! A [`Table`] is put in place whole, in one transaction, and removed whole; no rule of
//! anybody else's is touched. Each purpose has a table of its own, so that what makes one
//! need not know of the others. All calls block for the time of one program.

use std::{
    fmt,
    io::{self, Write as _},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use thiserror::Error;

/// Where `nft` is: not every daemon is started with `/usr/sbin` in its path.
const PROGRAMS: [&str; 3] = ["nft", "/usr/sbin/nft", "/sbin/nft"];
/// Family of our tables: both of IP.
const FAMILY: &str = "inet";
/// Longest part of what `nft` says that is passed on, bytes.
const MAX_COMPLAINT: usize = 500;

/// A table of family `inet`, named `<interface>-<purpose>`.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    name: String,
    objects: Vec<Value>,
}

/// Why nftables were left as they were.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NftError {
    /// There is no such program.
    #[error("cannot change the table {table} of nftables: there is no program `nft`")]
    Missing {
        /// The table.
        table: String,
    },
    /// The process may not.
    #[error(
        "cannot change the table {table} of nftables: `nft` lacks the capability CAP_NET_ADMIN"
    )]
    NotPermitted {
        /// The table.
        table: String,
    },
    /// It said no.
    #[error("cannot change the table {table} of nftables: `nft` said {said:?}")]
    Refused {
        /// The table.
        table: String,
        /// What it said.
        said: String,
    },
    /// It could not be run.
    #[error("cannot change the table {table} of nftables: `nft` was not run: {source}")]
    NotRun {
        /// The table.
        table: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Table {
    /// One without chains.
    #[must_use]
    pub fn new(interface: &str, purpose: &str) -> Self {
        Self {
            name: format!("{interface}-{purpose}"),
            objects: Vec::new(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has no rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.objects.iter().any(|o| o.get("rule").is_some())
    }

    /// Adds a chain that sees packets: its type (`filter`, `nat`), hook (`prerouting`, ..)
    /// and priority; what no rule decides goes on.
    #[must_use]
    pub fn base_chain(mut self, name: &str, kind: &str, hook: &str, priority: i32) -> Self {
        self.objects.push(json!({ "chain": {
            "family": FAMILY, "table": self.name, "name": name,
            "type": kind, "hook": hook, "prio": priority, "policy": "accept",
        } }));
        self
    }

    /// Adds a rule to a chain: its statements, as libnftables-json(5) has them.
    pub fn rule(&mut self, chain: &str, statements: &[Value]) {
        self.objects.push(json!({ "rule": {
            "family": FAMILY, "table": self.name, "chain": chain, "expr": statements,
        } }));
    }

    /// Puts it in place of the table of that name, if there is one: all of it or nothing.
    ///
    /// # Errors
    /// When `nft` is missing or refuses; the old table then stays.
    pub fn apply(&self) -> Result<(), NftError> {
        // Adding first makes removing succeed.
        let mut commands = vec![
            json!({ "add": head(&self.name) }),
            json!({ "delete": head(&self.name) }),
            json!({ "add": head(&self.name) }),
        ];
        let add = |object: &Value| json!({ "add": object });
        commands.extend(self.objects.iter().map(add));
        run(&self.name, &commands)
    }
}

/// Removes a table; one that is not there is removed already.
///
/// # Errors
/// When `nft` is missing or refuses.
pub fn remove(table: &str) -> Result<(), NftError> {
    let commands = [
        json!({ "add": head(table) }),
        json!({ "delete": head(table) }),
    ];
    run(table, &commands)
}

/// Names of the tables of family `inet` that begin with `prefix`, in order.
///
/// # Errors
/// When `nft` is missing or refuses.
pub fn list(prefix: &str) -> Result<Vec<String>, NftError> {
    let output = call(prefix, &["-j", "list", "tables", FAMILY], b"")?;
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let objects = listed["nftables"].as_array().cloned().unwrap_or_default();
    let names = objects.iter().filter_map(|o| o["table"]["name"].as_str());
    let mut names: Vec<_> = names
        .filter(|name| name.starts_with(prefix))
        .map(str::to_owned)
        .collect();
    names.sort();
    Ok(names)
}

/// The statement that holds for packets of which `left` is `right`.
#[must_use]
pub fn equals(left: &Value, right: impl Into<Value>) -> Value {
    let right: Value = right.into();
    json!({ "match": { "op": "==", "left": left, "right": right } })
}

/// A field of a packet's header, such as `tcp` `dport`.
#[must_use]
pub fn field(protocol: &str, field: &str) -> Value {
    json!({ "payload": { "protocol": protocol, "field": field } })
}

/// What is known about a packet beside its bytes, such as `iifname`.
#[must_use]
pub fn meta(key: &str) -> Value {
    json!({ "meta": { "key": key } })
}

fn head(name: &str) -> Value {
    json!({ "table": { "family": FAMILY, "name": name } })
}

fn run(table: &str, commands: &[Value]) -> Result<(), NftError> {
    let input = json!({ "nftables": commands }).to_string();
    call(table, &["-j", "-f", "-"], input.as_bytes()).map(drop)
}

fn call(table: &str, args: &[&str], input: &[u8]) -> Result<Output, NftError> {
    let table = || table.to_owned();
    let not_run = |source| NftError::NotRun {
        table: table(),
        source,
    };
    for program in PROGRAMS {
        let output = match feed(program, args, input) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(not_run)?,
        };
        if output.status.success() {
            return Ok(output);
        }
        let said = complaint(&output.stderr);
        return Err(match said.contains("Operation not permitted") {
            true => NftError::NotPermitted { table: table() },
            false => NftError::Refused {
                table: table(),
                said,
            },
        });
    }
    Err(NftError::Missing { table: table() })
}

fn feed(program: &str, args: &[&str], input: &[u8]) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(args)
        // What it says is looked at.
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // It reads all before it says anything, or fails and says why.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input);
    }
    child.wait_with_output()
}

fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let first = text.lines().find(|line| !line.trim().is_empty());
    let first = first.unwrap_or_default().trim();
    first.chars().take(MAX_COMPLAINT).collect()
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FAMILY} {}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruleset(name: &str) -> Table {
        let mut table = Table::new(name, "t").base_chain("in", "filter", "input", 0);
        let port = equals(&field("tcp", "dport"), 9);
        table.rule("in", &[port, json!({ "drop": null })]);
        table
    }

    #[test]
    fn a_table_is_replaced_whole_and_removed_whole() {
        // Of this process's namespace: nothing listens on the port that it is about.
        let name = format!("anyhop-test{}", std::process::id());
        let table = ruleset(&name);
        if let Err(e) = table.apply() {
            return println!("skipped: {e}");
        }
        table.apply().unwrap();
        assert_eq!(list(&name).unwrap(), [table.name()]);
        remove(table.name()).unwrap();
        remove(table.name()).unwrap();
        assert!(list(&name).unwrap().is_empty());
    }

    #[test]
    fn what_nft_refuses_leaves_nothing_and_is_told() {
        let name = format!("anyhop-bad{}", std::process::id());
        let mut table = ruleset(&name);
        table.rule("in", &[json!({ "jump": { "target": "nowhere" } })]);
        match table.apply() {
            Err(NftError::Refused { said, .. }) => assert!(!said.is_empty()),
            Err(e) => return println!("skipped: {e}"),
            Ok(()) => panic!("there is no such chain"),
        }
        assert!(list(&name).unwrap().is_empty());
    }

    #[test]
    fn a_table_without_rules_is_empty() {
        assert!(Table::new("a", "b").is_empty());
        assert!(!ruleset("a").is_empty());
        assert_eq!(ruleset("anyhop-lab").name(), "anyhop-lab-t");
    }

    #[test]
    fn the_first_line_of_a_complaint_is_told_and_no_more_than_fits() {
        assert_eq!(complaint(b"\n Error: no\n ^^^\n"), "Error: no");
        assert_eq!(complaint(b""), "");
        let long = "x".repeat(MAX_COMPLAINT * 2);
        assert_eq!(complaint(long.as_bytes()).len(), MAX_COMPLAINT);
    }
}
