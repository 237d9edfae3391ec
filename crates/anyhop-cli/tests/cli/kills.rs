//! Daemons that are killed at any moment of a join or a rotation: what a command was told
//! is done is there after the next start.

#![expect(
    clippy::disallowed_methods,
    reason = "processes are killed in real time, at moments drawn from a seed"
)]

use std::{
    env, fs,
    path::Path,
    process,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::harness::{Daemon, Deadline, anyhop, run, string};

/// Kills in one run.
const ROUNDS: u64 = 12;
/// Epochs started in one round: after more than 8 a member that was away is to be invited
/// anew.
const MAX_ROTATIONS: u64 = 7;
/// The latest moment of a kill after the work began: some joins and rotations long.
const LATEST_MS: u64 = 400;

/// Numbers from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

/// What the daemon tells of the network; `None` when it is not in it.
fn show(daemon: &Daemon) -> Option<Value> {
    let done = daemon.command(&["network", "show", "lab"]);
    match done.code {
        Some(0) => Some(done.json()),
        Some(10) => None,
        _ => panic!("{done:?}"),
    }
}

fn epoch(daemon: &Daemon) -> u64 {
    show(daemon).map_or(0, |s| s["epoch"].as_u64().expect("a number"))
}

/// The files of all networks are whole, and there are no others.
#[track_caller]
fn check_files(state_dir: &Path) {
    let networks = state_dir.join("networks");
    for folder in fs::read_dir(networks).into_iter().flatten() {
        let folder = folder.expect("readable").path();
        for file in fs::read_dir(&folder).expect("readable") {
            let name = file.expect("readable").file_name();
            assert!(name == "network" || name == "listen", "{name:?}");
        }
    }
}

/// Starts a killed daemon again; all its networks come back.
#[track_caller]
fn revive(killed: Daemon) -> Daemon {
    let daemon = Daemon::start_in(killed.kill(), &[]);
    check_files(daemon.path());
    let failed = daemon.events.so_far("network_failed");
    assert!(failed.is_empty(), "{failed:?}");
    daemon
}

/// Starts epochs until told to stop, not more than a member may miss; keeps the last one
/// that a command was told of.
fn rotate(state_dir: &Path, stop: &AtomicBool, acknowledged: &AtomicU64) {
    for _ in 0..MAX_ROTATIONS {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let done = run(anyhop(state_dir).args(["--json", "network", "rotate", "lab"]));
        if done.code == Some(0) {
            let epoch = done.json()["epoch"].as_u64().expect("a number");
            acknowledged.fetch_max(epoch, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_daemon_that_is_killed_at_any_moment_loses_nothing_that_was_acknowledged() {
    let seed = match env::var("ANYHOP_KILL_SEED") {
        Ok(seed) => seed.parse().expect("ANYHOP_KILL_SEED is a number"),
        Err(_) => process::id().into(),
    };
    println!("ANYHOP_KILL_SEED={seed}");
    let mut dice = Dice(seed);
    let mut owner = Daemon::start(&[]);
    owner.command(&["network", "create", "lab"]).ok();
    let mut member = Daemon::start(&[]);
    for round in 0..ROUNDS {
        let invite = owner.command(&["network", "invite", "lab"]).ok().json();
        let invite = string(&invite["invite"]);
        let join = ["network", "join", &invite, "--name", "m"];
        let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(epoch(&owner)));
        let moment = Duration::from_millis(dice.roll(LATEST_MS));
        let kill_owner = dice.roll(2) == 0;
        let owners = owner.path().to_owned();
        let joined = thread::scope(|scope| {
            scope.spawn(|| rotate(&owners, &stop, &acknowledged));
            let joining = member.spawn(&join).read();
            thread::sleep(moment);
            let victim = if kill_owner { &owner } else { &member };
            victim.running.signal("KILL");
            stop.store(true, Ordering::Relaxed);
            // Of a killed member nobody hears; a killed owner is waited for.
            kill_owner.then_some(joining)
        });
        let joined = if kill_owner {
            owner = revive(owner);
            let joined = joined.expect("it was not killed").finish();
            assert_eq!(joined.code, Some(0), "round {round}: {joined:?}");
            true
        } else {
            member = revive(member);
            show(&member).is_some()
        };
        let acknowledged = acknowledged.load(Ordering::Relaxed);
        let now = epoch(&owner);
        assert!(now >= acknowledged, "{now} after {acknowledged}");
        if !joined {
            // Killed before the daemon had it: the invitation is as good as before.
            member.command(&join).ok();
        }
        let deadline = Deadline::new();
        loop {
            let (ours, theirs) = (epoch(&owner), show(&member));
            let is_member = |s: &&Value| s["role"] == "member" && s["epoch"] == ours;
            if theirs.as_ref().filter(is_member).is_some() {
                break;
            }
            deadline.pause(&format!("round {round}: epoch {ours} in {theirs:?}"));
        }
        let members = owner.command(&["network", "members", "lab"]).ok().json();
        assert_eq!(members.as_array().map(Vec::len), Some(2), "{members}");
        member.command(&["network", "leave", "lab"]).ok();
    }
}
