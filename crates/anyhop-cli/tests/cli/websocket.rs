//! `--listen-ws`: what is told, served and dialled, and what goes wrong.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::harness::{Daemon, PATIENCE, absent_peer, anyhop, run, string};

const ANY: &str = "127.0.0.1:0";

/// The address of a daemon that is its WebSocket's.
#[track_caller]
fn websocket(daemon: &Daemon, scheme: &str) -> String {
    let part = format!("/{scheme}/p2p/");
    let found = daemon.addresses.iter().find(|a| a.contains(&part));
    let found = found.unwrap_or_else(|| panic!("no {scheme} in {:?}", daemon.addresses));
    assert!(found.starts_with("/ip4/127.0.0.1/tcp/"), "{found}");
    found.clone()
}

fn socket_addr(multiaddr: &str) -> String {
    let port = multiaddr.split('/').nth(4).expect("a port");
    format!("127.0.0.1:{port}")
}

/// Carriers of all paths to a peer.
fn carriers(daemon: &Daemon, peer: &str) -> Vec<String> {
    let path = daemon.command(&["path", peer]).ok().json();
    let paths = path["paths"].as_array().expect("a list");
    paths.iter().map(|p| string(&p["carrier"])).collect()
}

#[test]
fn sessions_run_over_websockets_with_tls_and_without() {
    for (options, scheme) in [(&[][..], "wss"), (&["--ws-plain"][..], "ws")] {
        let mut args = vec!["--listen-ws", ANY];
        args.extend_from_slice(options);
        let a = Daemon::start(&args);
        let addr = websocket(&a, scheme);
        // Nothing but the WebSocket is known, and no better path is looked for.
        let b = Daemon::start(&["--bootstrap", &addr, "--no-direct"]);
        b.command(&["send", &a.peer_id, "over TCP"]).ok();
        let got = a.command(&["recv", "--count", "1"]).ok().json();
        assert_eq!(got["body"], "over TCP");
        assert_eq!(carriers(&b, &a.peer_id), ["ws"]);
        assert_eq!(carriers(&a, &b.peer_id), ["ws"]);
        let status = a.command(&["status"]).ok().json();
        let told = status["addresses"].as_array().expect("a list");
        assert!(told.contains(&serde_json::Value::from(addr)), "{told:?}");
        // `connect` takes it too.
        let c = Daemon::start(&["--no-direct"]);
        let path = c.command(&["connect", &websocket(&a, scheme)]).ok().json();
        assert_eq!(path["paths"][0]["carrier"], "ws");
    }
}

#[test]
fn several_websockets_are_served_and_told() {
    let a = Daemon::start(&["--listen-ws", ANY, "--listen-ws", ANY]);
    let secure: Vec<_> = a.addresses.iter().filter(|a| a.contains("/wss/")).collect();
    assert_eq!(secure.len(), 2, "{:?}", a.addresses);
    for addr in secure {
        let b = Daemon::start(&[]);
        b.command(&["connect", addr]).ok();
    }
}

/// A certificate and its key, PEM, in a directory.
fn certificate(dir: &std::path::Path) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["node.example".to_owned()]).expect("made");
    let pem = |what: &str, der: &[u8]| {
        let path = dir.join(what.replace(' ', "-"));
        let body = BASE64_STANDARD.encode(der);
        let text = format!("-----BEGIN {what}-----\n{body}\n-----END {what}-----\n");
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    };
    (
        pem("CERTIFICATE", made.cert.der()),
        pem("PRIVATE KEY", &made.key_pair.serialize_der()),
    )
}

#[test]
fn a_configured_certificate_is_served_and_a_bad_one_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let (cert, key) = certificate(dir.path());
    let a = Daemon::start(&["--listen-ws", ANY, "--ws-cert", &cert, "--ws-key", &key]);
    let b = Daemon::start(&["--no-direct"]);
    b.command(&["connect", &websocket(&a, "wss")]).ok();
    let state = tempfile::tempdir().expect("a directory");
    let up = |cert: &str, key: &str| {
        let mut command = anyhop(state.path());
        command.args(["--json", "up", "--listen", ANY, "--listen-ws", ANY]);
        command.args(["--ws-cert", cert, "--ws-key", key]);
        run(&mut command).error(2)
    };
    // The two the wrong way round, and a file that is not there.
    let error = up(&key, &cert);
    assert!(string(&error["message"]).contains("certificate"), "{error}");
    assert!(string(&error["hint"]).contains("--ws-key"), "{error}");
    let error = up(&cert, "/nowhere/key.pem");
    assert!(
        string(&error["message"]).contains("/nowhere/key.pem"),
        "{error}"
    );
}

#[test]
fn options_of_websockets_need_one_and_exclude_each_other() {
    let dir = tempfile::tempdir().expect("a directory");
    for args in [
        &["--ws-plain"][..],
        &["--ws-site", "/tmp"],
        &["--listen-ws", ANY, "--ws-cert", "x"],
        &["--listen-ws", ANY, "--ws-key", "x"],
        &[
            "--listen-ws",
            ANY,
            "--ws-plain",
            "--ws-cert",
            "x",
            "--ws-key",
            "x",
        ],
        &["--listen-ws", "443"],
    ] {
        let done = run(anyhop(dir.path()).args(["--json", "up"]).args(args));
        assert_eq!(done.error(2)["code"], "usage", "{args:?}");
    }
}

#[test]
fn a_taken_port_is_named_with_a_hint() {
    let taken = TcpListener::bind(ANY).expect("a port");
    let addr = taken.local_addr().expect("bound").to_string();
    let dir = tempfile::tempdir().expect("a directory");
    let done =
        run(anyhop(dir.path()).args(["--json", "up", "--listen", ANY, "--listen-ws", &addr]));
    let error = done.error(1);
    assert!(string(&error["message"]).contains(&addr), "{error}");
    assert!(string(&error["hint"]).contains("--listen-ws"), "{error}");
}

#[test]
fn browsers_see_the_site() {
    let site = tempfile::tempdir().expect("a directory");
    std::fs::write(site.path().join("index.html"), "<p>my site</p>").expect("written");
    let path = site.path().to_str().expect("text");
    let a = Daemon::start(&["--listen-ws", ANY, "--ws-plain", "--ws-site", path]);
    let addr = socket_addr(&websocket(&a, "ws"));
    for (page, expected) in [("/", "<p>my site</p>"), ("/none", "404")] {
        let mut stream = TcpStream::connect(&addr).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let request = format!("GET {page} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.contains(expected), "{answer}");
    }
}

#[test]
fn a_wrong_websocket_address_is_told_as_what_it_is() {
    let a = Daemon::start(&["--listen-ws", ANY]);
    let b = Daemon::start(&[]);
    let good = websocket(&a, "wss");
    // Nobody listens there.
    let free = TcpListener::bind(ANY).expect("a port");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let peer = absent_peer();
    let nobody = format!("/ip4/127.0.0.1/tcp/{port}/wss/p2p/{peer}");
    let error = b.command(&["connect", &nobody]).error(1);
    let message = string(&error["message"]);
    assert!(message.contains("nothing listens on TCP"), "{error}");
    assert!(error["hint"].is_string(), "{error}");
    // Somebody else is.
    let wrong = good.replace(&a.peer_id, &absent_peer());
    let error = b.command(&["connect", &wrong]).error(8);
    assert!(string(&error["hint"]).contains(&a.peer_id), "{error}");
    // And it is no address at all.
    let bare = good.replace("/wss", "");
    let error = b.command(&["connect", &bare]).error(2);
    assert!(
        string(&error["message"]).contains("/tcp/PORT/ws"),
        "{error}"
    );
}

/// A proxy that wants these credentials; it sends the head of each request.
fn proxy(credentials: &'static str) -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind(ANY).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (tx, heads) = mpsc::sync_channel(16);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let tx = tx.clone();
            thread::spawn(move || tunnel(client, credentials, &tx));
        }
    });
    (port, heads)
}

fn tunnel(mut client: TcpStream, credentials: &str, heads: &mpsc::SyncSender<String>) {
    let mut reader = BufReader::new(client.try_clone().expect("cloned"));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if !matches!(reader.read_line(&mut head), Ok(n) if n > 0) {
            return;
        }
    }
    let _ = heads.try_send(head.clone());
    if !head.contains(credentials) {
        let _ = client.write_all(b"HTTP/1.1 407 Authenticate\r\nContent-Length: 0\r\n\r\n");
        return;
    }
    let target = head.split_whitespace().nth(1).expect("a target");
    let Ok(mut server) = TcpStream::connect(target) else {
        return;
    };
    let _ = client.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
    let mut upstream = server.try_clone().expect("cloned");
    thread::spawn(move || std::io::copy(&mut reader, &mut upstream));
    let _ = std::io::copy(&mut server, &mut client);
}

#[test]
fn websockets_go_through_the_proxy_of_the_environment() {
    let a = Daemon::start(&["--listen-ws", ANY]);
    let addr = websocket(&a, "wss");
    // Base64 of `me:pass`.
    let (port, heads) = proxy("Basic bWU6cGFzcw==");
    let env = |user: &str| format!("http://{user}@127.0.0.1:{port}");
    let b = Daemon::start_with(&["--no-direct"], &[("HTTPS_PROXY", &env("me:pass"))]);
    b.command(&["connect", &addr]).ok();
    let head = heads.recv_timeout(PATIENCE).expect("it was asked");
    assert!(
        head.starts_with(&format!("CONNECT {} HTTP/1.1", socket_addr(&addr))),
        "{head}"
    );
    // Wrong credentials are told, and never shown.
    let c = Daemon::start_with(&["--no-direct"], &[("https_proxy", &env("me:secret"))]);
    let error = c.command(&["connect", &addr]).error(1);
    let message = string(&error["message"]);
    assert!(
        message.contains("407") && !message.contains("secret"),
        "{error}"
    );
    // What needs no proxy is dialled without it.
    let env_d = [
        ("https_proxy", &*env("me:secret")),
        ("NO_PROXY", "127.0.0.0/8"),
    ];
    let d = Daemon::start_with(&["--no-direct"], &env_d);
    d.command(&["connect", &addr]).ok();
}
