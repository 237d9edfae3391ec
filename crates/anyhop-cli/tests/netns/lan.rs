//! Neighbours on one link find each other by multicast DNS, told of nobody, beside the
//! system's own responder, and standard tools see them come and go.

use std::{path::Path, time::Duration};

use anyhop_lab::netns::{Namespace, NatKind, NetLab, Process};
use tokio::time::Instant;

use crate::{PATIENCE, node::Node, turn};

/// Programs of the test, as Debian names their files.
const TOOLS: [&str; 4] = [
    "/usr/bin/avahi-browse",
    "/usr/sbin/avahi-daemon",
    "/usr/bin/dbus-daemon",
    "/usr/bin/unshare",
];

/// Runs the system's responder in a mount namespace, since its sockets lie in /run, and
/// prints what it sees until it is killed.
const BROWSE: &str = "mount -t tmpfs tmpfs /run && mkdir -p /run/dbus /run/avahi-daemon \
    && dbus-daemon --system --fork --nopidfile \
    && avahi-daemon --no-drop-root --no-chroot --no-rlimits --daemonize \
    && exec avahi-browse --resolve --parsable _anyhop._udp";

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_meet_without_bootstrap_and_standard_tools_see_them_come_and_go() {
    let Some(_turn) = turn().await else { return };
    if let Some(missing) = TOOLS.iter().find(|tool| !Path::new(tool).exists()) {
        println!("skipped: {missing} is not installed");
        return;
    }
    let mut lab = NetLab::new().expect("namespaces");
    let mut home = lab
        .router("home", NatKind::PortRestrictedCone)
        .expect("a router");
    let a = lab.host_behind(&mut home, "A").expect("a host");
    let b = lab.host_behind(&mut home, "B").expect("a host");
    // On the host of A: both answer on port 5353.
    let mut browse = browse(&a);
    let a = Node::start("A", &lab, a, &[]).await;
    let b = Node::start("B", &lab, b, &[]).await;

    a.is_linked_to(&b).await;
    b.is_linked_to(&a).await;
    a.sends(&b, "hello neighbour").await;
    let path = a.selects(&b, "direct").await;
    assert!(path.remote.starts_with("10."), "not local: {path:?}");

    let gone = b.peer.clone();
    says(&mut browse, '=', &[&a.peer, &gone]).await;
    b.stop().await;
    says(&mut browse, '-', &[&gone]).await;
}

fn browse(host: &Namespace) -> Process {
    let mut command = host.command("unshare");
    command.args([
        "--mount",
        "--fork",
        "--pid",
        "--kill-child",
        "sh",
        "-c",
        BROWSE,
    ]);
    Process::start(command).expect("avahi")
}

/// Waits until the browser has said `sign` of each peer: `=` for resolved, `-` for gone.
async fn says(browse: &mut Process, sign: char, peers: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    let mut missing: Vec<_> = peers.to_vec();
    while !missing.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = browse.line(left.max(Duration::from_millis(1))).await;
        let line = line.unwrap_or_else(|e| panic!("{sign} of {}: {e}", missing[0]));
        missing.retain(|peer| !(line.starts_with(sign) && line.contains(*peer)));
    }
}
