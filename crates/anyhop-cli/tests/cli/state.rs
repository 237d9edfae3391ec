//! Keys, locks, sockets, names: the state directory, and what needs no peer.

use std::{
    fs,
    io::Write as _,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
    process::Stdio,
};

use crate::harness::{Daemon, Running, absent_peer, anyhop, read_all, run, string};

fn mode(path: &Path) -> u32 {
    fs::metadata(path)
        .expect("it is there")
        .permissions()
        .mode()
        & 0o777
}

#[test]
fn the_id_is_made_once_in_a_private_key_file_and_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("deep/state");
    let first = run(anyhop(&state).args(["id", "--json"])).ok().json();
    let again = run(anyhop(&state).arg("id")).ok();
    assert_eq!(again.text().trim(), string(&first["peer_id"]));
    assert_eq!(mode(&state.join("key")), 0o600);
    assert_eq!(mode(&state), 0o700);
}

#[test]
fn the_state_directory_can_come_from_the_environment() {
    let dir = tempfile::tempdir().expect("a directory");
    let given = run(anyhop(dir.path()).arg("id")).ok();
    let bare = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_anyhop"));
        command
            .env_remove("ANYHOP_STATE_DIR")
            .env_remove("XDG_STATE_HOME")
            .stdin(Stdio::null());
        command
    };
    let by_env = run(bare().env("ANYHOP_STATE_DIR", dir.path()).arg("id")).ok();
    assert_eq!(given.text(), by_env.text());
    let home = tempfile::tempdir().expect("a directory");
    // An empty variable is as good as none.
    let command = &mut bare();
    run(command
        .envs([("ANYHOP_STATE_DIR", "")])
        .env("HOME", home.path())
        .arg("id"))
    .ok();
    assert!(home.path().join(".local/state/anyhop/key").exists());
}

#[test]
fn a_corrupt_key_is_an_error_that_says_so_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    run(anyhop(dir.path()).arg("id")).ok();
    let key = dir.path().join("key");
    fs::write(&key, "garbage").expect("writable");
    for command in [&["id"][..], &["up", "--listen", "127.0.0.1:0"]] {
        let error = run(anyhop(dir.path()).args(command).arg("--json")).error(5);
        assert_eq!(error["code"], "state_dir");
        assert!(string(&error["message"]).contains("key"), "{error}");
        assert!(error["hint"].is_string(), "{error}");
    }
    assert_eq!(fs::read(&key).expect("still there"), b"garbage");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    run(anyhop(dir.path()).arg("id")).ok();
    let key = dir.path().join("key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("own file");
    let error = run(anyhop(dir.path()).args(["id", "--json"])).error(5);
    assert!(string(&error["message"]).contains("0644"), "{error}");
}

#[test]
fn without_a_daemon_commands_say_how_to_start_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let peer = absent_peer();
    let commands: [&[&str]; 8] = [
        &["status"],
        &["peers"],
        &["ping", &peer],
        &["send", &peer, "hi"],
        &["recv"],
        &["cat", &peer],
        &["expose", "localhost:1"],
        &["bench", &peer],
    ];
    for args in commands {
        let error = run(anyhop(dir.path()).arg("--json").args(args)).error(3);
        assert_eq!(error["code"], "no_daemon");
        assert!(string(&error["message"]).contains(&dir.path().display().to_string()));
        assert!(string(&error["hint"]).contains(" up"), "{error}");
    }
    let done = run(anyhop(dir.path()).arg("status"));
    assert_eq!(done.code, Some(3));
    assert!(
        done.stderr.starts_with("error: no daemon is running on "),
        "{done:?}"
    );
    assert!(
        done.stderr.contains("\nhint: start one with: anyhop"),
        "{done:?}"
    );
}

#[test]
fn a_second_up_on_a_state_directory_names_the_first() {
    let daemon = Daemon::start(&[]);
    let error = run(&mut daemon.json(&["up", "--listen", "127.0.0.1:0"])).error(4);
    assert_eq!(error["code"], "in_use");
    let pid = daemon.running.id().to_string();
    assert!(string(&error["message"]).contains(&pid), "{error}");
    // The first one is unharmed.
    daemon.command(&["status"]).ok();
}

#[test]
fn a_daemon_stops_in_order_on_sigterm_and_sigint() {
    for signal in ["TERM", "INT"] {
        let mut daemon = Daemon::start(&[]);
        let (socket, id) = (daemon.socket(), daemon.peer_id.clone());
        assert_eq!(mode(&socket), 0o600);
        daemon.running.signal(signal);
        assert_eq!(daemon.running.wait().code(), Some(0), "{signal}");
        assert!(!socket.exists());
        let error = daemon.command(&["status"]).error(3);
        assert_eq!(error["code"], "no_daemon");
        let again = daemon.command(&["id"]).ok().json();
        assert_eq!(string(&again["peer_id"]), id);
    }
}

#[test]
fn a_killed_daemon_leaves_nothing_that_stops_the_next() {
    let mut daemon = Daemon::start(&[]);
    daemon.running.kill();
    assert!(daemon.socket().exists(), "a kill leaves the socket behind");
    daemon.command(&["status"]).error(3);
    let mut next = Running::start(&mut daemon.json(&["up", "--listen", "127.0.0.1:0"]));
    let ready = next.stdout_lines().next_json();
    assert_eq!(string(&ready["peer_id"]), daemon.peer_id);
    daemon.command(&["status"]).ok();
}

#[test]
fn the_ready_line_for_people_has_the_id_and_full_addresses() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut running = Running::start(anyhop(dir.path()).args(["up", "--listen", "127.0.0.1:0"]));
    let line = running.stdout_lines().next().expect("a line");
    let words: Vec<_> = line.split(' ').collect();
    let [ready, id, addresses @ ..] = &words[..] else {
        panic!("{line}");
    };
    assert_eq!(*ready, "ready");
    assert!(!addresses.is_empty());
    for address in addresses {
        assert!(address.starts_with("/ip4/127.0.0.1/udp/"), "{line}");
        assert!(address.ends_with(&format!("/quic-v1/p2p/{id}")), "{line}");
        assert!(!address.contains("/udp/0/"), "{line}");
    }
}

#[test]
fn status_has_the_documented_fields() {
    let daemon = Daemon::start(&["--no-relay", "--network", "testing"]);
    let status = daemon.command(&["status"]).ok().json();
    assert_eq!(string(&status["peer_id"]), daemon.peer_id);
    assert_eq!(status["network"], "testing");
    assert_eq!(status["addresses"][0], daemon.addresses[0].as_str());
    assert!(status["observed_addresses"].is_array());
    assert_eq!(status["relay"]["enabled"], false);
    assert_eq!(status["relay"]["circuits"], 0);
    assert_eq!(status["relay"]["forwarded_bytes"], 0);
    assert_eq!(status["sessions"], 0);
    assert!(status["uptime_s"].is_u64());
    assert_eq!(
        daemon.command(&["peers"]).ok().json(),
        serde_json::json!([])
    );
}

/// Asks the control socket as any HTTP client would: status code and JSON.
fn http(daemon: &Daemon, request: &str) -> (String, serde_json::Value) {
    let mut stream = UnixStream::connect(daemon.socket()).expect("it listens");
    let request = format!("{request} HTTP/1.1\r\nhost: anyhop\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("taken");
    let answer = String::from_utf8(read_all(stream)).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status").to_owned();
    (status, serde_json::from_str(body).expect("JSON"))
}

#[test]
fn the_control_api_is_plain_http_under_a_versioned_path() {
    let daemon = Daemon::start(&[]);
    let (status, body) = http(&daemon, "GET /v1/status");
    assert_eq!(status, "200");
    assert_eq!(string(&body["peer_id"]), daemon.peer_id);
    for (request, expected) in [
        ("GET /v2/status", "404"),
        ("GET /v1/path/nobody", "400"),
        ("POST /v1/cat-listen", "400"),
        ("POST /v1/send?peer=x", "400"),
        ("POST /v1/ping", "400"),
    ] {
        let (status, body) = http(&daemon, request);
        assert_eq!(status, expected, "{request}");
        assert_eq!(body["error"]["code"], "usage", "{request}");
    }
}

#[test]
fn a_listen_address_that_is_taken_is_named() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("free");
    let addr = taken.local_addr().expect("bound").to_string();
    let dir = tempfile::tempdir().expect("a directory");
    let error = run(anyhop(dir.path()).args(["--json", "up", "--listen", &addr])).error(1);
    assert!(string(&error["message"]).contains(&addr), "{error}");
}

#[test]
fn a_state_directory_too_deep_for_a_socket_is_told_with_the_way_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let deep = dir.path().join("d".repeat(120));
    let error = run(anyhop(&deep).args(["--json", "up", "--listen", "127.0.0.1:0"])).error(5);
    assert!(string(&error["hint"]).contains("shorter"), "{error}");
    assert!(!deep.exists());
}

#[test]
fn bad_arguments_end_with_2_and_are_json_if_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let port_0 = format!("/ip4/127.0.0.1/udp/0/quic-v1/p2p/{}", absent_peer());
    let table: [&[&str]; 7] = [
        &["nonsense"],
        &["up", "--listen", "here"],
        &["up", "--bootstrap", "/ip4/127.0.0.1/udp/1/quic-v1"],
        &["up", "--bootstrap", &port_0],
        &["connect", &port_0],
        &["ping", "a/b"],
        &["forward", "0", "bob:22"],
    ];
    for args in table {
        let done = run(anyhop(dir.path()).arg("--json").args(args));
        assert_eq!(done.error(2)["code"], "usage", "{args:?}");
    }
    assert_eq!(run(anyhop(dir.path()).arg("nonsense")).code, Some(2));
}

#[test]
fn names_are_kept_and_stand_for_peers() {
    let daemon = Daemon::start(&[]);
    let peer = absent_peer();
    daemon.command(&["name", "add", "bob", &peer]).ok();
    let list = daemon.command(&["name", "list"]).ok().json();
    assert_eq!(list, serde_json::json!([{"name": "bob", "peer_id": peer}]));
    // The daemon knows who is meant, though it cannot reach them.
    let error = daemon.command(&["ping", "bob"]).error(1);
    assert!(string(&error["message"]).contains(&peer), "{error}");
    // A part of an id is completed.
    daemon
        .command(&["name", "add", "me", &daemon.peer_id[..20]])
        .ok();
    daemon.command(&["name", "remove", "bob"]).ok();
    let list = daemon.command(&["name", "list"]).ok().json();
    assert_eq!(
        list,
        serde_json::json!([{"name": "me", "peer_id": daemon.peer_id}])
    );
    daemon.command(&["name", "remove", "bob"]).error(2);
    let error = daemon.command(&["ping", "bob"]).error(2);
    assert!(string(&error["message"]).contains("bob"), "{error}");
}

#[test]
fn a_reader_that_leaves_ends_a_command_quietly() {
    let mut running = Running::start(anyhop(Path::new("/nowhere")).args(["completions", "bash"]));
    drop(running.stdout());
    let done = running.finish();
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let done = run(anyhop(Path::new("/nowhere")).args(["completions", shell])).ok();
        assert!(done.text().contains("forward"), "{shell}");
    }
}
