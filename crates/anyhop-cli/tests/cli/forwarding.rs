//! `expose` and `forward`.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use crate::harness::{Daemon, Deadline, Lines, PATIENCE, Running, noise, string};

/// Answers each connection, when it has ended, with all that came, reversed.
fn reversing_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accepted");
            thread::spawn(move || {
                let mut all = Vec::new();
                if stream.read_to_end(&mut all).is_ok() {
                    all.reverse();
                    let _ = stream.write_all(&all);
                }
            });
        }
    });
    addr
}

fn exchange(addr: SocketAddr, data: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut sending = stream.try_clone()?;
    thread::scope(|scope| {
        scope.spawn(move || {
            let _ = sending.write_all(data);
            let _ = sending.shutdown(Shutdown::Write);
        });
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    })
}

/// Exposes on `a`; returns when it is.
fn expose(a: &Daemon, args: &[&str]) -> Running {
    let mut running = a.spawn(&[&["expose"][..], args].concat());
    let ready = running.stdout_lines().next_json();
    assert_eq!(ready["event"], "ready");
    assert_eq!(ready["exposed"], args[0]);
    running
}

/// Forwards on `b`; returns when it does, and where.
fn forward(b: &Daemon, args: &[&str]) -> (Running, Lines, SocketAddr) {
    let mut running = b.spawn(&[&["forward", "0"][..], args].concat());
    let lines = running.stdout_lines();
    let ready = lines.next_json();
    assert_eq!(ready["event"], "ready");
    let local: SocketAddr = string(&ready["local"]).parse().expect("ip:port");
    assert_eq!(local.ip().to_string(), "127.0.0.1");
    (running, lines, local)
}

#[test]
fn tcp_connections_pass_with_half_close_and_beside_each_other() {
    let (a, b) = Daemon::pair();
    let target = reversing_server().to_string();
    let _exposed = expose(&a, &[&target]);
    let (_forward, _, local) = forward(&b, &[&format!("{}:{target}", a.peer_id)]);
    thread::scope(|scope| {
        for seed in 0..6 {
            scope.spawn(move || {
                let data = noise(1 << 20, seed);
                let mut answer = exchange(local, &data).expect("answered");
                answer.reverse();
                assert!(answer == data);
            });
        }
    });
}

#[test]
fn nothing_but_exactly_what_is_exposed_can_be_reached() {
    let (a, b) = Daemon::pair();
    let server = reversing_server();
    let exposed = expose(&a, &[&server.to_string()]);
    let other = reversing_server();
    // Another port, and another name of the same host.
    for target in [other.to_string(), format!("localhost:{}", server.port())] {
        let (_forward, lines, local) = forward(&b, &[&format!("{}:{target}", a.peer_id)]);
        let answer = exchange(local, b"let me in").unwrap_or_default();
        assert!(answer.is_empty());
        let told = lines.next_json();
        assert_eq!(told["event"], "failed");
        assert_eq!(told["error"]["code"], "refused");
        assert!(
            string(&told["error"]["message"]).contains(&target),
            "{told}"
        );
    }
    // The end of `expose` is the end of it, open connections included.
    let target = format!("{}:{server}", a.peer_id);
    let (_forward, lines, local) = forward(&b, &[&target]);
    let mut open = TcpStream::connect(local).expect("listening");
    open.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    open.write_all(b"x").expect("taken");
    assert_eq!(exchange(local, b"ab").expect("exposed still"), b"ba");
    drop(exposed);
    let cut = open.read(&mut [0; 1]);
    assert!(
        cut.is_err(),
        "a cut connection must not look like a clean end: {cut:?}"
    );
    let deadline = Deadline::new();
    while exchange(local, b"ab").is_ok_and(|a| !a.is_empty()) {
        deadline.pause("the end of the exposure");
    }
    assert!(lines.until("not exposed").contains("refused"));
}

#[test]
fn a_service_that_does_not_run_is_told_with_the_reason() {
    let (a, b) = Daemon::pair();
    let free = TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a port");
    let _exposed = expose(&a, &[&free.to_string()]);
    let (_forward, lines, local) = forward(&b, &[&format!("{}:{free}", a.peer_id)]);
    assert!(exchange(local, b"anyone?").unwrap_or_default().is_empty());
    let told = lines.next_json();
    assert!(
        string(&told["error"]["message"]).contains("refused"),
        "{told}"
    );
}

#[test]
fn the_same_target_is_exposed_once() {
    let daemon = Daemon::start(&[]);
    let _first = expose(&daemon, &["localhost:9"]);
    daemon.command(&["expose", "LOCALHOST:9"]).error(6);
    // UDP is another service.
    let _udp = expose(&daemon, &["localhost:9", "--udp"]);
}

#[test]
fn a_local_port_that_is_taken_is_named() {
    let daemon = Daemon::start(&[]);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("bound").to_string();
    let target = format!("{}:localhost:1", daemon.peer_id);
    let error = daemon.command(&["forward", &addr, &target]).error(1);
    assert!(string(&error["message"]).contains(&addr), "{error}");
}

#[test]
fn datagrams_pass_and_each_source_gets_its_own_answers() {
    let (a, b) = Daemon::pair();
    let server = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let target = server.local_addr().expect("bound").to_string();
    thread::spawn(move || {
        let mut buf = [0; 2048];
        while let Ok((n, from)) = server.recv_from(&mut buf) {
            let mut answer = b"re: ".to_vec();
            answer.extend_from_slice(&buf[..n]);
            let _ = server.send_to(&answer, from);
        }
    });
    let _exposed = expose(&a, &[&target, "--udp"]);
    let (_forward, _, local) = forward(&b, &[&format!("{}:{target}", a.peer_id), "--udp"]);
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
            client.connect(local).expect("loopback");
            client
                .set_read_timeout(Some(Duration::from_millis(500)))
                .expect("a timeout");
            client
        })
        .collect();
    for round in 0..3 {
        for (n, client) in clients.iter().enumerate() {
            let text = format!("client {n} round {round}");
            assert_eq!(ask(client, &text), format!("re: {text}"));
        }
    }
}

/// Asks until there is an answer, as anything over UDP must.
fn ask(client: &UdpSocket, text: &str) -> String {
    let deadline = Deadline::new();
    let mut buf = [0; 2048];
    loop {
        client.send(text.as_bytes()).expect("loopback");
        while let Ok(n) = client.recv(&mut buf) {
            let answer = String::from_utf8_lossy(&buf[..n]).into_owned();
            // Answers to repeats of an earlier question may come late.
            if answer.ends_with(text) {
                return answer;
            }
        }
        deadline.pause("an answer to a datagram");
    }
}
