//! `send`, `request`, `recv`.

use serde_json::json;

use crate::harness::{Daemon, noise, run_with_input, string};

/// The default limit on a message's body.
const LIMIT: usize = 16 << 20;

#[test]
fn a_message_arrives_with_sender_type_and_encoding() {
    let (a, b) = Daemon::pair();
    b.command(&["send", &a.peer_id, "grüß dich", "--type", "greeting & more"])
        .ok();
    b.command(&["send", &a.peer_id, "{\"n\":1}", "--encoding", "json"])
        .ok();
    let got = a.command(&["recv", "--count", "2"]).ok().json_lines();
    let from = &b.peer_id;
    assert_eq!(
        got,
        [
            json!({"from": from, "type": "greeting & more", "encoding": "utf8", "body": "grüß dich"}),
            json!({"from": from, "type": "text", "encoding": "json", "body": "{\"n\":1}"}),
        ]
    );
}

#[test]
fn bytes_from_standard_input_arrive_in_base64() {
    let (a, b) = Daemon::pair();
    let sent = run_with_input(
        &mut b.json(&["send", &a.peer_id, "-", "--encoding", "binary"]),
        b"\x00\xff\x10",
    );
    assert_eq!(sent.ok().json(), json!({"to": a.peer_id, "bytes": 3}));
    let got = a.command(&["recv", "--count", "1"]).ok().json();
    assert_eq!(
        got,
        json!({"from": b.peer_id, "type": "text", "encoding": "binary", "body": "AP8Q", "body_base64": true})
    );
}

#[test]
fn a_large_message_passes_whole_and_an_oversize_one_is_refused_by_its_sender() {
    let (a, b) = Daemon::pair();
    let args = ["send", &a.peer_id, "-", "--encoding", "utf8"];
    let full = "x".repeat(LIMIT);
    run_with_input(&mut b.json(&args), full.as_bytes()).ok();
    let got = a.command(&["recv", "--count", "1"]).ok().json();
    assert_eq!(string(&got["body"]).len(), LIMIT);

    let over = "x".repeat(LIMIT + 1);
    let error = run_with_input(&mut b.json(&args), over.as_bytes()).error(6);
    assert_eq!(error["code"], "limit");
    assert!(
        string(&error["message"]).contains(&LIMIT.to_string()),
        "{error}"
    );
    assert!(string(&error["hint"]).contains("cat"), "{error}");
    let error = run_with_input(&mut b.json(&args), &noise(5 * LIMIT, 1)).error(6);
    assert_eq!(error["code"], "limit");
    // Nothing of it arrived, and the session is as before.
    a.command(&["recv", "--count", "1", "--timeout", "0"])
        .error(7);
    b.command(&["ping", &a.peer_id, "-c", "1"]).ok();
}

#[test]
fn text_that_is_none_is_refused_before_it_is_sent() {
    let (a, b) = Daemon::pair();
    let error = run_with_input(&mut b.json(&["send", &a.peer_id, "-"]), b"\xff\xfe").error(2);
    assert!(string(&error["hint"]).contains("binary"), "{error}");
}

#[test]
fn requests_are_answered_with_a_text_or_with_themselves() {
    let (a, b) = Daemon::pair();
    let recv = a.spawn(&["recv", "--count", "1", "--reply", "pong"]);
    let reply = b.command(&["request", &a.peer_id, "ping?"]).ok().json();
    assert_eq!(
        reply,
        json!({"from": a.peer_id, "type": "text", "encoding": "utf8", "body": "pong"})
    );
    let printed = recv.finish().ok().json();
    assert_eq!(printed["request"], true);
    assert_eq!(printed["body"], "ping?");

    let recv = a.spawn(&["recv", "--count", "1", "--echo"]).read();
    let args = [
        "request",
        &a.peer_id,
        "-",
        "--type",
        "t",
        "--encoding",
        "protobuf",
    ];
    let body = noise(3 << 20, 7);
    let reply = run_with_input(&mut b.json(&args), &body).ok().json();
    assert_eq!(
        (&reply["type"], &reply["encoding"]),
        (&json!("t"), &json!("protobuf"))
    );
    recv.finish().ok();

    // For people the body comes as it is.
    let recv = a.spawn(&["recv", "--count", "1", "--echo"]).read();
    let mut plain = crate::harness::anyhop(b.path());
    plain.args(args);
    assert!(run_with_input(&mut plain, &body).ok().stdout == body);
    recv.finish().ok();
}

#[test]
fn a_request_nobody_answers_says_so() {
    let (a, b) = Daemon::pair();
    let recv = a.spawn(&["recv", "--count", "1"]);
    let error = b.command(&["request", &a.peer_id, "anyone?"]).error(6);
    assert!(string(&error["hint"]).contains("recv --reply"), "{error}");
    recv.finish().ok();
}

#[test]
fn a_request_whose_time_is_over_ends_with_7() {
    let (a, b) = Daemon::pair();
    let error = b
        .command(&["request", &a.peer_id, "x", "--timeout", "0.2"])
        .error(7);
    assert_eq!(error["code"], "timeout");
}

#[test]
fn recv_without_a_message_in_time_is_an_error_only_with_a_count() {
    let daemon = Daemon::start(&[]);
    let error = daemon
        .command(&["recv", "--count", "1", "--timeout", "0.1"])
        .error(7);
    assert!(string(&error["message"]).contains("0 of 1"), "{error}");
    let done = daemon.command(&["recv", "--timeout", "0"]).ok();
    assert!(done.stdout.is_empty());
}

#[test]
fn a_killed_recv_loses_no_message() {
    let (a, b) = Daemon::pair();
    // It takes a message as soon as there is one; its reader never reads, so that it
    // hangs in the middle of printing.
    let mut stuck = a.spawn(&["recv"]);
    let big = noise(2 << 20, 3)
        .iter()
        .map(|b| char::from(b'a' + b % 26))
        .collect::<String>();
    run_with_input(&mut b.json(&["send", &a.peer_id, "-"]), big.as_bytes()).ok();
    b.command(&["send", &a.peer_id, "second"]).ok();
    let mut stdout = stuck.stdout();
    let mut first = [0; 1];
    std::io::Read::read_exact(&mut stdout, &mut first).expect("it began to print");
    stuck.kill();
    let got = a.command(&["recv", "--count", "2"]).ok().json_lines();
    assert!(string(&got[0]["body"]) == big);
    assert_eq!(got[1]["body"], "second");
}

#[test]
fn messages_wait_for_two_readers_and_each_is_taken_once() {
    let (a, b) = Daemon::pair();
    let readers: Vec<_> = (0..2).map(|_| a.spawn(&["recv", "--count", "3"])).collect();
    let mut expected: Vec<_> = (0..6).map(|n| format!("message {n}")).collect();
    for text in &expected {
        b.command(&["send", &a.peer_id, text]).ok();
    }
    let mut got = Vec::new();
    for reader in readers {
        let lines = reader.finish().ok().json_lines();
        got.extend(lines.iter().map(|m| string(&m["body"])));
    }
    got.sort();
    expected.sort();
    assert_eq!(got, expected);
}
