//! `explain`: why a peer is reached as it is, or is not.

use crate::harness::{Daemon, absent_peer, anyhop, run, string};

fn verdict(value: &serde_json::Value) -> String {
    string(&value["verdict"])
}

#[test]
fn a_direct_peer_is_explained_with_path_candidates_and_attempts() {
    let (a, b) = Daemon::pair();
    let e = b.command(&["explain", &a.peer_id]).ok().json();
    assert_eq!(string(&e["peer_id"]), a.peer_id);
    assert_eq!(e["state"], "direct");
    assert_eq!(e["selected"], e["paths"][0]);
    assert_eq!(e["last_error"], serde_json::Value::Null);
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
        verdict(&tried).contains("none of 1 connected peers knows it"),
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
