//! The control API as a program without our client sees it. HTTP/1.0, so that an answer is
//! what comes until the connection is closed.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
};

use serde_json::{Value, json};

use crate::harness::{Daemon, PATIENCE, string};

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The value of an answer that says that it was done.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        let value = self.json();
        assert_eq!(self.status, 200, "{value}");
        value
    }
}

/// Sends a request and takes the head of the answer off.
#[track_caller]
fn open(daemon: &Daemon, line: &str, body: &[u8]) -> (u16, BufReader<UnixStream>) {
    let mut stream = UnixStream::connect(daemon.socket()).expect("the daemon runs");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    let head = format!("{line} HTTP/1.0\r\nContent-Length: {}\r\n\r\n", body.len());
    // At once: what needs no body may be answered, and closed, behind the head.
    let request = [head.as_bytes(), body].concat();
    stream.write_all(&request).expect("taken");
    let mut reader = BufReader::new(stream);
    let mut status = String::new();
    reader.read_line(&mut status).expect("a status");
    let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).expect("a header");
        if header.trim().is_empty() {
            return (
                code.unwrap_or_else(|| panic!("no status: {status}")),
                reader,
            );
        }
    }
}

/// Asks for one thing, such as `GET /v1/status`.
#[track_caller]
pub(crate) fn ask(daemon: &Daemon, line: &str, body: &[u8]) -> Answer {
    let (status, mut reader) = open(daemon, line, body);
    let mut body = Vec::new();
    reader.read_to_end(&mut body).expect("the answer");
    Answer { status, body }
}

/// A stream of events.
pub(crate) struct Events(BufReader<UnixStream>);

impl Events {
    #[track_caller]
    pub(crate) fn open(daemon: &Daemon, path: &str) -> Self {
        let (status, reader) = open(daemon, &format!("GET {path}"), &[]);
        assert_eq!(status, 200);
        Self(reader)
    }

    /// The next event: `{"event","id","data"}`.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Value {
        let mut event = json!({});
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("in time");
            assert!(!line.is_empty(), "the stream of events ended");
            match line.trim_end().split_once(": ") {
                Some(("data", data)) => {
                    event["data"] = serde_json::from_str(data).expect("JSON");
                }
                // A comment keeps the connection alive.
                Some(("", _)) => {}
                Some((field, value)) => event[field] = json!(value),
                None if event["data"].is_null() => {}
                None => return event,
            }
        }
    }

    /// The body of the next event's value.
    #[track_caller]
    pub(crate) fn next_body(&mut self) -> String {
        string(&self.next()["data"]["body"])
    }
}
