//! `doctor` and `explain`: what is wrong with this host, and why a peer is reached as it
//! is, or is not.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::Value;

use crate::harness::{Daemon, Done, absent_peer, anyhop, run, string};

/// The report of a doctor that found nothing that fails, or something; which of them
/// depends on this machine where a test does not say.
#[track_caller]
fn report(done: &Done) -> Value {
    let report = done.json();
    let failing = |c: &Value| c["status"] == "fail";
    let checks = report["checks"].as_array().expect("a list");
    let fails = checks.iter().any(failing);
    assert_eq!(report["ok"], !fails, "{report}");
    assert_eq!(done.code, Some(if fails { 9 } else { 0 }), "{done:?}");
    if fails {
        assert_eq!(done.error(9)["code"], "unhealthy");
    }
    for check in checks {
        for field in ["check", "status", "summary", "detail", "remediation"] {
            assert!(check[field].is_string(), "{field} in {check}");
        }
        if ["warn", "fail"].contains(&string(&check["status"]).as_str()) {
            assert_ne!(check["remediation"], "", "{check}");
        }
    }
    report
}

/// One check of a report.
#[track_caller]
fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().expect("a list");
    let found = checks.iter().find(|c| c["check"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {report}"))
}

#[test]
fn doctor_without_a_daemon_examines_by_itself_and_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("state");
    let done = run(anyhop(&state).args(["--json", "doctor"]));
    let found = report(&done);
    assert_eq!(found["daemon"], false);
    assert!(found["nat"]["reachability"].is_string());
    assert_eq!(check(&found, "udp_ipv4")["status"], "skipped");
    assert_eq!(check(&found, "state_dir")["status"], "skipped");
    assert!(!state.exists(), "an examination makes nothing");
    let text = run(anyhop(&state).arg("doctor"));
    assert!(text.text().contains("temporary node"), "{text:?}");
    assert!(!text.text().contains('\u{1b}'), "no colours into a pipe");
    for checked in found["checks"].as_array().expect("a list") {
        let name = string(&checked["check"]);
        assert!(text.text().contains(&name), "{name}");
    }
}

#[test]
fn doctor_examines_with_the_peers_it_is_given() {
    let daemon = Daemon::start(&[]);
    let dir = tempfile::tempdir().expect("a directory");
    let given = ["--json", "doctor", "--bootstrap", &daemon.addresses[0]];
    let found = report(&run(anyhop(dir.path()).args(given)));
    assert_eq!(found["daemon"], false);
    let udp = check(&found, "udp_ipv4");
    assert_eq!(udp["status"], "ok", "{udp}");
    assert!(string(&udp["detail"]).contains("127.0.0.1:"), "{udp}");
    for name in ["relays", "clock", "mtu"] {
        let check = check(&found, name);
        assert_eq!(check["status"], "ok", "{check}");
    }
}

#[test]
fn doctor_fails_when_no_peer_given_is_reached() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = socket.local_addr().expect("bound").port();
    let addr = format!("/ip4/127.0.0.1/udp/{port}/quic-v1/p2p/{}", absent_peer());
    let done = run(anyhop(dir.path()).args(["--json", "doctor", "--bootstrap", &addr]));
    let found = report(&done);
    let relays = check(&found, "relays");
    assert_eq!(relays["status"], "fail", "{relays}");
    let error = done.error(9);
    assert!(string(&error["message"]).contains("relays"), "{error}");
    assert!(error["hint"].is_string());
}

#[test]
fn doctor_asks_the_daemon_where_one_runs() {
    let (_a, b) = Daemon::pair();
    fs::set_permissions(b.path(), fs::Permissions::from_mode(0o700)).expect("mine");
    let found = report(&b.command(&["doctor"]));
    assert_eq!(found["daemon"], true);
    for name in ["udp_ipv4", "relays", "state_dir", "clock"] {
        let check = check(&found, name);
        assert_eq!(check["status"], "ok", "{check}");
    }
    let status = b.command(&["status"]).ok().json();
    assert_eq!(found["nat"]["reachability"], status["nat"]["reachability"]);
}

#[test]
fn doctor_sees_a_key_that_others_can_read() {
    let dir = tempfile::tempdir().expect("a directory");
    run(anyhop(dir.path()).arg("id")).ok();
    let mode = |mode| fs::Permissions::from_mode(mode);
    fs::set_permissions(dir.path(), mode(0o755)).expect("mine");
    let found = report(&run(anyhop(dir.path()).args(["--json", "doctor"])));
    let open = check(&found, "state_dir");
    assert_eq!(open["status"], "warn", "{open}");
    assert!(string(&open["remediation"]).contains("chmod 700"), "{open}");
    fs::set_permissions(dir.path().join("key"), mode(0o644)).expect("mine");
    let done = run(anyhop(dir.path()).args(["--json", "doctor"]));
    let exposed = report(&done);
    let exposed = check(&exposed, "state_dir");
    assert_eq!(exposed["status"], "fail", "{exposed}");
    assert!(string(&exposed["remediation"]).contains("chmod 600"));
}

#[test]
fn doctor_refuses_what_it_cannot_examine_with() {
    let dir = tempfile::tempdir().expect("a directory");
    let bad: [&[&str]; 3] = [
        &["doctor", "--bootstrap", "here"],
        &["doctor", "--network", "lab"],
        &["doctor", "somebody"],
    ];
    for args in bad {
        let done = run(anyhop(dir.path()).arg("--json").args(args));
        assert_eq!(done.error(2)["code"], "usage", "{args:?}");
    }
}

fn verdict(value: &Value) -> String {
    string(&value["verdict"])
}

#[test]
fn a_direct_peer_is_explained_with_path_candidates_and_attempts() {
    let (a, b) = Daemon::pair();
    let e = b.command(&["explain", &a.peer_id]).ok().json();
    assert_eq!(string(&e["peer_id"]), a.peer_id);
    assert_eq!(e["state"], "direct");
    assert_eq!(e["selected"], e["paths"][0]);
    assert_eq!(e["last_error"], Value::Null);
    assert!(verdict(&e).starts_with("Reached directly at 127.0.0.1:"));
    let port = a.addresses[0].split('/').nth(4).expect("a port");
    let address = format!("127.0.0.1:{port}");
    let theirs = e["candidates"]["theirs"].as_array().expect("a list");
    assert!(
        theirs
            .iter()
            .any(|c| c["address"] == *address && c["source"] == "given" && c["unusable"] == "")
    );
    assert!(!e["candidates"]["ours"].as_array().expect("one").is_empty());
    let attempts = e["attempts"].as_array().expect("a list");
    assert!(
        attempts
            .iter()
            .any(|t| t["remote"] == *address && t["outcome"] == "connected"),
        "{e}"
    );
    let text = run(anyhop(b.path()).args(["explain", &a.peer_id])).ok();
    for part in ["Reached directly", "their candidates", "attempts", "given"] {
        assert!(text.text().contains(part), "{text:?}");
    }
    assert!(!text.text().contains('\u{1b}'), "no colours into a pipe");
}

#[test]
fn a_peer_nobody_knows_is_explained_without_an_error() {
    let (_a, b) = Daemon::pair();
    let peer = absent_peer();
    let known = b.command(&["explain", &peer, "--no-dial"]).ok().json();
    assert_eq!(known["state"], "not_connected");
    assert!(verdict(&known).contains("nothing here has asked"));
    let tried = b.command(&["explain", &peer]).ok().json();
    assert_eq!(tried["state"], "not_connected");
    assert!(string(&tried["last_error"]["error"]).contains(&peer));
    assert!(
        verdict(&tried).contains("no address of it is known"),
        "{tried}"
    );
}

#[test]
fn a_killed_peer_is_explained_by_the_silence_where_it_was() {
    let a = Daemon::start(&[]);
    let mut b = Daemon::start(&[]);
    a.command(&["connect", &b.addresses[0]]).ok();
    let port = b.addresses[0].split('/').nth(4).expect("a port");
    b.running.kill();
    // While nothing is sent the session is there still; a new daemon has none.
    let peer = b.peer_id.clone();
    let dir = a.stop();
    let a = Daemon::start_in(dir, &[]);
    a.command(&["connect", &b.addresses[0]]).error(1);
    let e = a.command(&["explain", &peer, "--no-dial"]).ok().json();
    assert_eq!(e["state"], "not_connected");
    assert!(verdict(&e).contains(&format!("127.0.0.1:{port}")), "{e}");
    let last = e["attempts"].as_array().expect("a list").last();
    assert_eq!(last.expect("one")["outcome"], "failed");
}

#[test]
fn what_cannot_be_explained_is_refused_as_everywhere() {
    let daemon = Daemon::start(&[]);
    let error = daemon.command(&["explain", &daemon.peer_id]).error(2);
    assert!(string(&error["message"]).contains("itself"), "{error}");
    daemon.command(&["explain", "nobody"]).error(2);
    daemon.command(&["explain"]).error(2);
    let dir = tempfile::tempdir().expect("a directory");
    let peer = absent_peer();
    run(anyhop(dir.path()).args(["--json", "explain", &peer])).error(3);
}
