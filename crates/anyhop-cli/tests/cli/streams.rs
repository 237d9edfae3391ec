//! `cat`.

use std::{io::Write as _, process::Stdio, thread};

use crate::harness::{Daemon, Running, expect_bytes, noise, read_all, run_with_input, string};

/// Starts `cat --listen` and returns when peers can connect.
fn listen(daemon: &Daemon, args: &[&str], stdin: Stdio) -> Running {
    let mut command = daemon.json(&["cat", "--listen"]);
    let mut running = Running::start(command.args(args).stdin(stdin));
    let line = running.stderr_lines().next_json();
    assert_eq!(line["event"], "listening");
    running
}

#[test]
fn both_directions_carry_all_bytes_and_each_ends_on_its_own() {
    let (a, b) = Daemon::pair();
    let there = noise(24 << 20, 1);
    let back = noise(9 << 20, 2);

    let mut listener = listen(&a, &[], Stdio::piped());
    let mut dialler = Running::start(b.json(&["cat", &a.peer_id]).stdin(Stdio::piped()));
    let mut input = dialler.stdin();
    let sent = there.clone();
    let writer = thread::spawn(move || input.write_all(&sent).expect("taken"));

    // The listener's output ends while its own input is still open ...
    let got = read_all(listener.stdout());
    writer.join().expect("written");
    assert!(got == there, "{} of {} bytes", got.len(), there.len());
    // ... which then carries the other direction.
    let mut input = listener.stdin();
    let sent = back.clone();
    let writer = thread::spawn(move || input.write_all(&sent).expect("taken"));
    let got = read_all(dialler.stdout());
    writer.join().expect("written");
    assert!(got == back, "{} of {} bytes", got.len(), back.len());
    dialler.finish().ok();
    listener.finish().ok();
}

#[test]
fn a_peer_without_a_listener_is_told_apart_from_one_out_of_reach() {
    let (a, b) = Daemon::pair();
    let error = b.command(&["cat", &a.peer_id]).error(6);
    assert_eq!(error["code"], "refused");
    assert!(string(&error["message"]).contains("cat/1"), "{error}");
    assert!(string(&error["hint"]).contains("cat --listen"), "{error}");
}

#[test]
fn a_listener_takes_one_stream_and_names_tell_listeners_apart() {
    let (a, b) = Daemon::pair();
    let plain = listen(&a, &[], Stdio::null());
    let named = listen(&a, &["--name", "logs.1"], Stdio::null());
    let error = a.command(&["cat", "--listen"]).error(6);
    assert!(string(&error["hint"]).contains("--name"), "{error}");
    run_with_input(
        &mut b.json(&["cat", &a.peer_id, "--name", "logs.1"]),
        b"to the named",
    )
    .ok();
    assert_eq!(named.finish().ok().text(), "to the named");
    run_with_input(&mut b.json(&["cat", &a.peer_id]), b"to the plain").ok();
    assert_eq!(plain.finish().ok().text(), "to the plain");
    b.command(&["cat", &a.peer_id]).error(6);
}

#[test]
fn a_killed_sender_is_no_clean_end() {
    let (a, b) = Daemon::pair();
    let mut listener = listen(&a, &[], Stdio::null());
    let mut dialler = Running::start(b.json(&["cat", &a.peer_id]).stdin(Stdio::piped()));
    let mut input = dialler.stdin();
    input.write_all(b"half of i").expect("taken");
    expect_bytes(listener.stdout(), b"half of i");
    dialler.kill();
    let done = listener.finish();
    assert_eq!(done.code, Some(1), "{done:?}");
}

#[test]
fn a_daemon_that_stops_is_no_clean_end_either() {
    let (a, b) = Daemon::pair();
    let mut listener = listen(&a, &[], Stdio::null());
    let mut dialler = Running::start(b.json(&["cat", &a.peer_id]).stdin(Stdio::piped()));
    let mut input = dialler.stdin();
    input.write_all(b"begun").expect("taken");
    expect_bytes(listener.stdout(), b"begun");
    b.stop();
    assert_eq!(listener.finish().code, Some(1));
    let done = dialler.finish();
    assert_eq!(done.error(1)["code"], "lost");
}

#[test]
fn a_listener_that_leaves_frees_its_name() {
    let (a, b) = Daemon::pair();
    let mut first = listen(&a, &[], Stdio::null());
    first.kill();
    // The daemon notices within moments; until then the name is taken.
    let second = loop {
        let mut command = a.json(&["cat", "--listen"]);
        let mut running = Running::start(&mut command);
        let line = running.stderr_lines().next_json();
        if line["event"] == "listening" {
            break running;
        }
        assert_eq!(line["error"]["code"], "refused");
        assert_eq!(running.wait().code(), Some(6));
    };
    run_with_input(&mut b.json(&["cat", &a.peer_id]), b"hello").ok();
    assert_eq!(second.finish().ok().text(), "hello");
}

#[test]
fn a_reader_that_leaves_stops_the_sender_with_an_error() {
    let (a, b) = Daemon::pair();
    let mut listener = listen(&a, &[], Stdio::null());
    drop(listener.stdout());
    let done = run_with_input(&mut b.json(&["cat", &a.peer_id]), &noise(64 << 20, 5));
    assert_eq!(done.error(1)["code"], "lost");
    // For the listener it is a broken pipe, which ends quietly.
    assert_eq!(listener.finish().code, Some(0));
}
