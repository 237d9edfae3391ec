//! `job` and its commands.

use serde_json::json;

use crate::harness::{Daemon, Deadline, run_with_input, string};

/// Waits until somebody watches the jobs of a topic.
fn is_watched(daemon: &Daemon, topic: &str) {
    let name = format!("jobs/1/{topic}");
    let deadline = Deadline::new();
    loop {
        let topics = daemon.command(&["topics"]).ok().json();
        let mut topics = topics.as_array().expect("a list").iter();
        if topics.any(|t| t["topic"] == name && t["subscribers"].as_u64() > Some(0)) {
            return;
        }
        deadline.pause("a watch");
    }
}

#[test]
fn a_job_goes_from_the_call_for_bids_to_the_result() {
    let (a, b) = Daemon::pair();
    let mut watch = b.spawn(&["job", "watch", "work"]);
    let jobs = watch.stdout_lines();
    is_watched(&b, "work");
    let publish = [
        "job",
        "publish",
        "work",
        "grüß",
        "--kind",
        "greet",
        "--require",
        "cores>=4",
    ];
    let own = a.command(&publish).ok().json();
    let id = string(&own["id"]);
    assert_eq!(
        own,
        json!({"id": id, "topic": "work", "lifetime_s": 600, "bytes": 6})
    );
    let mut seen = jobs.next_json();
    assert!(seen["expires_unix_s"].is_u64(), "{seen}");
    seen["expires_unix_s"] = json!(0);
    assert_eq!(
        seen,
        json!({"id": id, "topic": "work", "from": a.peer_id, "kind": "greet",
               "require": ["cores>=4"], "expires_unix_s": 0, "encoding": "utf8", "body": "grüß"})
    );
    // Work before a bid is refused.
    let early = a.command(&["job", "award", &id, &b.peer_id, "w"]).error(6);
    assert!(string(&early["hint"]).contains("job bids"), "{early}");
    a.command(&["job", "bids", &id, "--count", "1", "--timeout", "0.2"])
        .error(7);
    let placed = b.command(&["job", "bid", &id, "2", "--encoding", "json"]);
    assert_eq!(placed.ok().json(), json!({"job": id, "bytes": 1}));
    let twice = b.command(&["job", "bid", &id, "1"]).error(2);
    assert!(string(&twice["message"]).contains("answered"), "{twice}");
    let bids = a.command(&["job", "bids", &id, "--count", "1"]).ok().json();
    assert_eq!(
        bids,
        json!({"job": id, "from": b.peer_id, "encoding": "json", "body": "2"})
    );
    let kind = format!("job/{id}");
    let worker = b.spawn(&["recv", "--type", &kind, "--count", "1", "--reply", "done"]);
    let award = ["job", "award", &id, &b.peer_id, "-", "--timeout", "60"];
    let result = run_with_input(&mut a.json(&award), b"do it").ok().json();
    assert_eq!(
        result,
        json!({"from": b.peer_id, "type": "text", "encoding": "utf8", "body": "done"})
    );
    assert_eq!(worker.finish().ok().json()["body"], "do it");
    watch.kill();
}

#[test]
fn excluded_peers_see_nothing_and_closed_jobs_take_no_bids() {
    let (a, b) = Daemon::pair();
    let mut watch = b.spawn(&["job", "watch", "work"]);
    let jobs = watch.stdout_lines();
    is_watched(&b, "work");
    let excluding = ["job", "publish", "work", "x", "--exclude", &b.peer_id];
    let hidden = a.command(&excluding).ok().json();
    let shown = a.command(&["job", "publish", "work", "y"]).ok().json();
    assert_eq!(jobs.next_json()["id"], shown["id"]);
    let unknown = b.command(&["job", "bid", &string(&hidden["id"]), "1"]);
    let unknown = unknown.error(2);
    assert!(string(&unknown["hint"]).contains("job watch"), "{unknown}");
    let id = string(&shown["id"]);
    a.command(&["job", "close", &id]).ok();
    let late = b.command(&["job", "bid", &id, "1"]).error(6);
    assert!(string(&late["message"]).contains("over"), "{late}");
    assert_eq!(a.command(&["job", "bids", &id]).ok().text(), "");
    watch.kill();
}

#[test]
fn what_is_no_job_is_refused() {
    let daemon = Daemon::start(&[]);
    let none = "0".repeat(64);
    for args in [
        &["job", "publish", "t", "x", "--require", "cores>4"][..],
        &["job", "publish", "t", "x", "--lifetime", "86401"],
        &["job", "bids", "12ab"],
        &["job", "bids", &none],
        &["job", "close", &none],
    ] {
        daemon.command(args).error(2);
    }
    let large = vec![b'x'; 30_000];
    let error = run_with_input(&mut daemon.json(&["job", "publish", "t", "-"]), &large).error(2);
    assert!(string(&error["hint"]).contains("award"), "{error}");
}
