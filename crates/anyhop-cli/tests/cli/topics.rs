//! `publish`, `broadcast`, `subscribe`, `topics`, `recv --type`.

use serde_json::{Value, json};

use crate::harness::{Daemon, Deadline, noise, run_with_input, string};

/// Waits until somebody reads the topic: what was published before it does not get.
fn is_read(daemon: &Daemon, topic: &str) {
    let deadline = Deadline::new();
    loop {
        let topics = daemon.command(&["topics"]).ok().json();
        let mut topics = topics.as_array().expect("a list").iter();
        if topics.any(|t| t["topic"] == topic && t["subscribers"].as_u64() > Some(0)) {
            return;
        }
        deadline.pause("a subscription");
    }
}

#[test]
fn what_is_published_is_printed_with_sender_number_and_encoding() {
    let (a, b) = Daemon::pair();
    let reader = a.spawn(&["subscribe", "news & more", "--count", "2"]);
    is_read(&a, "news & more");
    let first = b
        .command(&["publish", "news & more", "grüß dich"])
        .ok()
        .json();
    assert_eq!(
        (&first["topic"], &first["bytes"]),
        (&json!("news & more"), &json!(11))
    );
    b.command(&["publish", "news & more", "{}", "--encoding", "json"])
        .ok();
    let got = reader.finish().ok().json_lines();
    let seq = first["seq"].as_u64().expect("a number");
    let post = |seq: u64, encoding: &str, body: &str| -> Value {
        json!({"from": b.peer_id, "topic": "news & more", "seq": seq, "encoding": encoding, "body": body})
    };
    assert_eq!(got[0], post(seq, "utf8", "grüß dich"));
    assert_eq!(
        (&got[1]["encoding"], &got[1]["body"]),
        (&json!("json"), &json!("{}"))
    );
    assert!(got[1]["seq"].as_u64() > Some(seq));
}

#[test]
fn a_broadcast_reaches_who_subscribes_to_no_topic() {
    let (a, b) = Daemon::pair();
    let reader = a.spawn(&["subscribe", "--count", "1"]);
    is_read(&a, "");
    let sent = run_with_input(
        &mut b.json(&["broadcast", "-", "--encoding", "binary"]),
        b"\x00\xff\x10",
    );
    assert_eq!(sent.ok().json()["topic"], "");
    let got = reader.finish().ok().json();
    assert_eq!(
        (&got["topic"], &got["body"], &got["body_base64"]),
        (&json!(""), &json!("AP8Q"), &json!(true))
    );
}

#[test]
fn a_large_post_arrives_whole() {
    let (a, b) = Daemon::pair();
    let reader = a.spawn(&["subscribe", "files", "--count", "1"]).read();
    is_read(&a, "files");
    let body: String = noise(5 << 20, 3)
        .iter()
        .map(|b| char::from(b'a' + b % 26))
        .collect();
    run_with_input(&mut b.json(&["publish", "files", "-"]), body.as_bytes()).ok();
    let got = reader.finish().ok().json();
    assert!(string(&got["body"]) == body, "another body");
}

#[test]
fn topics_lists_what_the_node_is_on_and_who_else_is() {
    let (a, b) = Daemon::pair();
    let reader = a.spawn(&["subscribe", "news", "--count", "1"]);
    is_read(&a, "news");
    b.command(&["publish", "news", "x"]).ok();
    reader.finish().ok();
    let mut reader = a.spawn(&["subscribe", "other"]);
    let lines = reader.stdout_lines();
    is_read(&a, "other");
    a.command(&["publish", "other", "mine"]).ok();
    // The daemon's own posts are shown as well.
    assert_eq!(lines.next_json()["body"], "mine");
    let topics = a.command(&["topics"]).ok().json();
    let topics = topics.as_array().expect("a list");
    let other = topics.iter().find(|t| t["topic"] == "other");
    let other = other.expect("it is on it");
    assert_eq!(
        (&other["subscribers"], &other["posts"]),
        (&json!(1), &json!(1))
    );
    reader.kill();
}

#[test]
fn what_is_no_topic_or_no_text_is_refused() {
    let daemon = Daemon::start(&[]);
    daemon.command(&["publish", "", "x"]).error(2);
    let long = "n".repeat(300);
    let error = daemon.command(&["publish", &long, "x"]).error(2);
    assert!(string(&error["hint"]).contains("shorter"), "{error}");
    let error = run_with_input(&mut daemon.json(&["publish", "t", "-"]), b"\xff\xfe").error(2);
    assert!(string(&error["hint"]).contains("binary"), "{error}");
    let error = daemon
        .command(&["subscribe", "t", "--count", "1", "--timeout", "0.2"])
        .error(7);
    assert!(string(&error["message"]).contains("0 of 1"), "{error}");
}

#[test]
fn recv_takes_one_type_and_leaves_the_others() {
    let (a, b) = Daemon::pair();
    for (kind, text) in [("x", "one"), ("y", "two"), ("x", "three")] {
        b.command(&["send", &a.peer_id, text, "--type", kind]).ok();
    }
    let got = a
        .command(&["recv", "--type", "y", "--count", "1"])
        .ok()
        .json();
    assert_eq!(got["body"], "two");
    a.command(&["recv", "--type", "y", "--count", "1", "--timeout", "0"])
        .error(7);
    let rest = a.command(&["recv", "--count", "2"]).ok().json_lines();
    let rest: Vec<_> = rest.iter().map(|m| string(&m["body"])).collect();
    assert_eq!(rest, ["one", "three"]);
}
