//! `connect`, `path`, `peers`, `ping`: who is reached, how, and why not.

use crate::harness::{Daemon, Running, absent_peer, anyhop, run, string};

#[test]
fn ping_tells_round_trip_kind_and_hops() {
    let (a, b) = Daemon::pair();
    let pongs = b
        .command(&["ping", &a.peer_id, "-c", "3", "--interval", "0"])
        .ok()
        .json_lines();
    assert_eq!(pongs.len(), 3);
    for (pong, seq) in pongs.iter().zip(1..) {
        assert_eq!(pong["seq"], seq);
        assert!(pong["rtt_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{pong}");
        assert_eq!(pong["kind"], "direct");
        assert_eq!(pong["hops"], 1);
    }
}

#[test]
fn peers_and_path_show_the_session_from_both_ends() {
    let (a, b) = Daemon::pair();
    for (here, there, dialer) in [(&a, &b, "peer"), (&b, &a, "us")] {
        let peers = here.command(&["peers"]).ok().json();
        let [session] = &peers.as_array().expect("a list")[..] else {
            panic!("{peers}");
        };
        assert_eq!(string(&session["peer_id"]), there.peer_id);
        assert_eq!(session["dialer"], dialer);
        assert!(session["age_s"].is_u64());
        let path = here.command(&["path", &there.peer_id]).ok().json();
        assert_eq!(string(&path["peer_id"]), there.peer_id);
        let selected: Vec<_> = path["paths"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|p| p["selected"] == true)
            .collect();
        let [selected] = selected[..] else {
            panic!("{path}");
        };
        assert_eq!(selected["kind"], "direct");
        assert_eq!(selected["carrier"], "udp4");
        assert!(string(&selected["remote"]).starts_with("127.0.0.1:"));
        assert_eq!(selected["via"], serde_json::json!([]));
        assert!(selected["rtt_ms"].is_f64());
    }
}

#[test]
fn a_peer_is_found_by_a_part_of_its_id_once_known() {
    let (a, b) = Daemon::pair();
    let id = &a.peer_id;
    for part in [&id[..id.len() - 5], &id[id.len() - 12..]] {
        b.command(&["ping", part, "-c", "1"]).ok();
    }
    // All ids begin alike: both candidates are named.
    let error = b.command(&["ping", "12D3KooW", "-c", "1"]).error(2);
    for peer in [&a.peer_id, &b.peer_id] {
        assert!(string(&error["message"]).contains(peer.as_str()), "{error}");
    }
}

#[test]
fn a_third_node_is_reached_by_id_alone_through_a_common_one() {
    let a = Daemon::start(&[]);
    let b = Daemon::start(&["--bootstrap", &a.addresses[0]]);
    let c = Daemon::start(&["--bootstrap", &a.addresses[0]]);
    b.command(&["connect", &a.peer_id]).ok();
    c.command(&["connect", &a.peer_id]).ok();
    c.command(&["send", &b.peer_id, "found you"]).ok();
    let got = b.command(&["recv", "--count", "1"]).ok().json();
    assert_eq!(string(&got["from"]), c.peer_id);
}

#[test]
fn a_peer_nobody_knows_fails_with_1_and_the_reason() {
    let (_a, b) = Daemon::pair();
    let peer = absent_peer();
    let done = b.command(&["ping", &peer, "-c", "4"]);
    let error = done.error(1);
    assert_eq!(error["code"], "unreachable");
    assert!(string(&error["message"]).contains(&peer), "{error}");
    assert!(error["hint"].is_string(), "{error}");
    // Each line tells of one ping, answered or not.
    for (line, seq) in done.json_lines().iter().zip(1..) {
        assert_eq!(line["seq"], seq);
        assert!(line["error"]["message"].is_string(), "{line}");
    }
}

#[test]
fn an_address_where_nobody_listens_fails_with_1_and_names_it() {
    let daemon = Daemon::start(&[]);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = socket.local_addr().expect("bound").port();
    let addr = format!("/ip4/127.0.0.1/udp/{port}/quic-v1/p2p/{}", absent_peer());
    let error = daemon.command(&["connect", &addr]).error(1);
    assert!(
        string(&error["message"]).contains(&port.to_string()),
        "{error}"
    );
}

#[test]
fn dialling_a_wrong_peer_id_says_who_answered() {
    let (a, b) = (Daemon::start(&[]), Daemon::start(&[]));
    let wrong = absent_peer();
    let addr = a.addresses[0].replace(&a.peer_id, &wrong);
    let error = b.command(&["connect", &addr]).error(8);
    assert_eq!(error["code"], "wrong_peer");
    let message = string(&error["message"]);
    assert!(
        message.contains(&wrong) && message.contains(&a.peer_id),
        "{error}"
    );
    assert!(string(&error["hint"]).contains(&a.peer_id), "{error}");
    // No answer to a ping is 1, with the same reason.
    assert_eq!(b.command(&["ping", &wrong]).error(1)["code"], "wrong_peer");
    assert_eq!(b.command(&["peers"]).ok().json(), serde_json::json!([]));
}

#[test]
fn a_bootstrap_with_a_wrong_peer_id_is_told_and_the_daemon_goes_on() {
    let a = Daemon::start(&[]);
    let wrong = absent_peer();
    let addr = a.addresses[0].replace(&a.peer_id, &wrong);
    let b = Daemon::start(&["--bootstrap", &addr]);
    let line = b.events.until("bootstrap_failed");
    assert!(
        line.contains("wrong_peer") && line.contains(&a.peer_id),
        "{line}"
    );
    b.command(&["connect", &a.addresses[0]]).ok();
}

#[test]
fn oneself_is_no_peer() {
    let daemon = Daemon::start(&[]);
    let error = daemon.command(&["ping", &daemon.peer_id]).error(2);
    assert!(string(&error["message"]).contains("itself"), "{error}");
}

#[test]
fn nodes_of_different_networks_do_not_meet() {
    let a = Daemon::start(&["--network", "one"]);
    let b = Daemon::start(&["--network", "two"]);
    b.command(&["connect", &a.addresses[0]]).error(1);
}

#[test]
fn sessions_are_told_as_events() {
    let a = Daemon::start(&[]);
    let b = Daemon::start(&[]);
    b.command(&["connect", &a.addresses[0]]).ok();
    let next = |event: &str| {
        let line = a.events.until(event);
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(string(&value["peer_id"]), b.peer_id);
        value
    };
    next("session_opened");
    assert_eq!(next("peer_connectedness")["connectedness"], "direct");
    let identified = next("peer_identified");
    let port = b.addresses[0].split('/').nth(4).expect("a port");
    assert!(identified["addresses"].to_string().contains(port));
    let id = b.peer_id.clone();
    b.stop();
    let closed = a.events.until("session_closed");
    assert!(closed.contains("reason") && closed.contains(&id));
    assert!(
        a.events
            .until("peer_connectedness")
            .contains("not_connected")
    );
}

#[test]
fn what_a_node_sees_is_told_in_words_to_people_who_ask() {
    let a = Daemon::start(&[]);
    let dir = tempfile::tempdir().expect("a directory");
    let up = ["up", "-v", "--listen", "127.0.0.1:0", "--bootstrap"];
    let mut b = Running::start(anyhop(dir.path()).args(up).arg(&a.addresses[0]));
    let told = b.stderr_lines();
    for words in [
        "opened",
        "is connected directly",
        "tells that it is at /ip4",
    ] {
        assert!(told.until(words).contains(&a.peer_id), "{words}");
    }
    let status = run(anyhop(dir.path()).arg("status")).ok();
    assert!(status.text().contains("\nnat "), "{status:?}");
    assert!(
        status.text().contains("strangers can dial this node"),
        "{status:?}"
    );
}
