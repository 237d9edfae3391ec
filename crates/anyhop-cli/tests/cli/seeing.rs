//! `doctor`, `explain` and `trace`: what is wrong with this host, why a peer is reached as
//! it is or is not, and what each hop of the way adds.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
};

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
    let done = run(anyhop(&state).args(["--json", "doctor", "--no-port-mapping"]));
    let found = report(&done);
    assert_eq!(found["daemon"], false);
    assert!(found["nat"]["reachability"].is_string());
    assert_eq!(check(&found, "udp_ipv4")["status"], "skipped");
    assert_eq!(check(&found, "state_dir")["status"], "skipped");
    assert!(!state.exists(), "an examination makes nothing");
    let text = run(anyhop(&state).args(["doctor", "--no-port-mapping"]));
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
    let given = [
        "--json",
        "doctor",
        "--no-port-mapping",
        "--bootstrap",
        &daemon.addresses[0],
    ];
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
    let done = run(anyhop(dir.path()).args([
        "--json",
        "doctor",
        "--no-port-mapping",
        "--bootstrap",
        &addr,
    ]));
    let found = report(&done);
    let relays = check(&found, "relays");
    assert_eq!(relays["status"], "fail", "{relays}");
    let error = done.error(9);
    assert!(string(&error["message"]).contains("relays"), "{error}");
    assert!(error["hint"].is_string());
}

#[test]
fn doctor_reaches_a_websocket_and_sees_whose_site_is_around_it() {
    let listen = ["--listen-ws", "127.0.0.1:0", "--ws-plain"];
    let daemon = Daemon::start(&listen);
    let mut addresses = daemon.addresses.iter();
    let address = addresses.find(|a| a.contains("/ws/")).expect("one");
    let dir = tempfile::tempdir().expect("a directory");
    let given = [
        "--json",
        "doctor",
        "--no-port-mapping",
        "--bootstrap",
        address,
    ];
    let found = report(&run(anyhop(dir.path()).args(given)));
    for name in ["websocket", "captive_portal", "clock"] {
        let check = check(&found, name);
        assert_eq!(check["status"], "ok", "{check}");
    }
}

/// Answers every connection with this, as a captive portal does.
fn portal(answer: &'static str) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut head = [0; 2048];
            let _ = (&stream).read(&mut head);
            let _ = (&stream).write_all(answer.as_bytes());
        }
    });
    port
}

#[test]
fn doctor_sees_a_captive_portal_in_a_peers_place() {
    let port = portal(
        "HTTP/1.1 302 Found\r\nlocation: http://portal.example/login\r\n\
         content-length: 0\r\nconnection: close\r\n\r\n",
    );
    let address = format!("/ip4/127.0.0.1/tcp/{port}/ws/p2p/{}", absent_peer());
    let dir = tempfile::tempdir().expect("a directory");
    let given = [
        "--json",
        "doctor",
        "--no-port-mapping",
        "--bootstrap",
        &address,
    ];
    let found = report(&run(anyhop(dir.path()).args(given)));
    let portal = check(&found, "captive_portal");
    assert_eq!(portal["status"], "fail", "{portal}");
    assert!(string(&portal["detail"]).contains("portal.example/login"));
    assert!(string(&portal["remediation"]).contains("sign in"));
    assert_eq!(check(&found, "websocket")["status"], "fail");
}

#[test]
fn doctor_tells_of_proxies_without_their_passwords() {
    let dir = tempfile::tempdir().expect("a directory");
    let with = |variable: &str, value: &str| {
        let mut command = anyhop(dir.path());
        for name in ["https_proxy", "http_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(name);
            command.env_remove(name.to_ascii_uppercase());
        }
        report(&run(command.env(variable, value).args([
            "--json",
            "doctor",
            "--no-port-mapping",
        ])))
    };
    let found = with("HTTPS_PROXY", "http://joe:secret@127.0.0.1:3128");
    assert!(!found.to_string().contains("secret"), "{found}");
    let proxy = check(&found, "proxy");
    assert_eq!(proxy["status"], "ok", "{proxy}");
    assert!(string(&proxy["detail"]).contains("127.0.0.1:3128"));
    let found = with("HTTPS_PROXY", "gopher://joe:secret@127.0.0.1:70");
    assert!(!found.to_string().contains("secret"), "{found}");
    let proxy = check(&found, "proxy");
    assert_eq!(proxy["status"], "warn", "{proxy}");
    assert!(string(&proxy["detail"]).contains("HTTPS_PROXY"));
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
    let found = report(&run(anyhop(dir.path()).args([
        "--json",
        "doctor",
        "--no-port-mapping",
    ])));
    let open = check(&found, "state_dir");
    assert_eq!(open["status"], "warn", "{open}");
    assert!(string(&open["remediation"]).contains("chmod 700"), "{open}");
    fs::set_permissions(dir.path().join("key"), mode(0o644)).expect("mine");
    let done = run(anyhop(dir.path()).args(["--json", "doctor", "--no-port-mapping"]));
    let exposed = report(&done);
    let exposed = check(&exposed, "state_dir");
    assert_eq!(exposed["status"], "fail", "{exposed}");
    assert!(string(&exposed["remediation"]).contains("chmod 600"));
}

#[test]
fn doctor_refuses_what_it_cannot_examine_with() {
    let dir = tempfile::tempdir().expect("a directory");
    let bad: [(&[&str], i32); 3] = [
        (&["doctor", "--bootstrap", "here"], 2),
        (&["doctor", "--network", "lab"], 3),
        (&["doctor", "somebody"], 2),
    ];
    for (args, exit) in bad {
        run(anyhop(dir.path()).arg("--json").args(args)).error(exit);
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

#[test]
fn a_neighbour_is_traced_as_one_hop_with_its_name() {
    let (a, b) = Daemon::pair();
    b.command(&["name", "add", "relay", &a.peer_id]).ok();
    let trace = b.command(&["trace", "relay", "--count", "2"]).ok().json();
    assert_eq!(string(&trace["peer_id"]), a.peer_id);
    let [hop] = &trace["hops"].as_array().expect("a list")[..] else {
        panic!("{trace}");
    };
    assert_eq!((&hop["hop"], &hop["answered"]), (&1.into(), &true.into()));
    assert_eq!(string(&hop["peer_id"]), a.peer_id);
    assert_eq!(
        (&hop["name"], &hop["carrier"]),
        (&"relay".into(), &"udp4".into())
    );
    assert!(hop["rtt_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{hop}");
    assert_eq!((&hop["loss"], &hop["reason"]), (&0.0.into(), &"".into()));
    let text = run(anyhop(b.path()).args(["trace", "relay"])).ok();
    assert!(text.text().contains("(relay): "), "{text:?}");
    assert!(text.text().contains(" 0 % lost"), "{text:?}");
}

#[test]
fn a_peer_that_stopped_answering_is_traced_into_silence() {
    let (mut a, b) = Daemon::pair();
    a.running.signal("STOP");
    let done = b.command(&["trace", &a.peer_id]);
    a.running.signal("CONT");
    a.running.kill();
    let trace = done.json();
    let hop = &trace["hops"][0];
    assert_eq!(hop["answered"], false, "{trace}");
    assert_eq!((&hop["rtt_ms"], &hop["loss"]), (&Value::Null, &Value::Null));
    assert_ne!(hop["reason"], "");
    assert_eq!(done.error(7)["code"], "timeout");
}

#[test]
fn what_cannot_be_traced_is_refused_as_everywhere() {
    let daemon = Daemon::start(&[]);
    let peer = absent_peer();
    daemon.command(&["trace", &daemon.peer_id]).error(2);
    daemon.command(&["trace", "nobody"]).error(2);
    daemon.command(&["trace", &peer, "--count", "0"]).error(2);
    daemon.command(&["trace", &peer, "--count", "17"]).error(2);
    let error = daemon.command(&["trace", &peer]).error(1);
    assert_eq!(error["code"], "unreachable");
    let dir = tempfile::tempdir().expect("a directory");
    run(anyhop(dir.path()).args(["--json", "trace", &peer])).error(3);
}

/// Nodes of one IP family each meet over one that has both: no direct path is possible.
#[test]
fn a_peer_behind_a_relay_is_explained_and_traced_over_it() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no IPv6 on loopback");
        return;
    }
    let relay = Daemon::start(&["--listen", "[::1]:0"]);
    let address = |family: &str| {
        let mut of_family = relay.addresses.iter().filter(|a| a.starts_with(family));
        of_family.next().expect("one of each family").clone()
    };
    let a = Daemon::start(&["--bootstrap", &address("/ip4/")]);
    let dir = tempfile::tempdir().expect("a directory");
    let only_v6 = ["--listen", "[::1]:0", "--bootstrap", &address("/ip6/")];
    let b = Daemon::start_on(dir, &only_v6, &[]);
    b.command(&["ping", &relay.peer_id, "-c", "1"]).ok();
    a.command(&["ping", &b.peer_id, "-c", "1"]).ok();

    let e = a.command(&["explain", &b.peer_id]).ok().json();
    assert_eq!(e["state"], "relayed", "{e}");
    assert_eq!(e["selected"]["via"], serde_json::json!([relay.peer_id]));
    assert!(verdict(&e).starts_with(&format!("Reached through {}", relay.peer_id)));
    assert!(verdict(&e).contains("none of the peer's addresses"), "{e}");
    let theirs = e["candidates"]["theirs"].as_array().expect("a list");
    let v6 = theirs
        .iter()
        .find(|c| string(&c["address"]).starts_with("[::1]"));
    assert!(
        v6.is_some_and(|c| string(&c["unusable"]).contains("no IPv6 socket")),
        "{e}"
    );

    a.command(&["name", "add", "middle", &relay.peer_id]).ok();
    let trace = a.command(&["trace", &b.peer_id]).ok().json();
    let hops = trace["hops"].as_array().expect("a list");
    let ids: Vec<_> = hops.iter().map(|h| string(&h["peer_id"])).collect();
    assert_eq!(ids, [relay.peer_id.clone(), b.peer_id.clone()]);
    assert_eq!(hops[0]["name"], "middle");
    assert_eq!(hops[0]["carrier"], "udp4");
    assert_eq!(hops[1]["carrier"], Value::Null);
    assert!(hops.iter().all(|h| h["answered"] == true), "{trace}");
}
