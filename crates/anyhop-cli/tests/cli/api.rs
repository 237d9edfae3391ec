//! The control API for programs in any language: its OpenAPI document, its answers, events.

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    harness::{Daemon, Deadline, anyhop, run, string},
    http::{Events, ask},
    schema::Document,
};

/// Methods that routes have.
const METHODS: [&str; 2] = ["get", "post"];

fn checked_in() -> Value {
    serde_json::from_str(include_str!("../../../../docs/openapi.json")).expect("JSON")
}

/// Each operation of a document, with its path and method.
fn operations(document: &Value) -> Vec<(String, &'static str, Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let of = |(path, item): (&String, &Value)| {
        let there = METHODS.into_iter().filter(|m| item.get(m).is_some());
        let of = |method| (path.clone(), method, item[method].clone());
        there.map(of).collect::<Vec<_>>()
    };
    paths.into_iter().flat_map(of).collect()
}

#[test]
fn the_checked_in_document_is_that_of_the_code() {
    let dir = tempfile::tempdir().expect("a directory");
    let made = run(anyhop(dir.path()).arg("openapi")).ok();
    assert!(
        made.text() == include_str!("../../../../docs/openapi.json"),
        "docs/openapi.json is stale: cargo run -p anyhop-cli -- openapi > docs/openapi.json"
    );
}

#[test]
fn what_the_document_describes_is_served_and_tells_the_same_document() {
    let daemon = Daemon::start(&[]);
    let document = ask(&daemon, "GET /v1/openapi.json", &[]).ok();
    assert!(document == checked_in(), "another document");
    for (path, method, _) in operations(&document) {
        // What leaves the network, or takes long, need not be done for this.
        let line = format!("{} {path}?network=none", method.to_uppercase());
        let answer = ask(&daemon, &line.replace("{peer}", "nobody"), b"{}");
        let said = String::from_utf8_lossy(&answer.body);
        assert!(
            !said.contains("control API has no") && answer.status != 405,
            "{line}: {said}"
        );
    }
    let answer = ask(&daemon, "GET /v1/nothing", &[]);
    assert_eq!(answer.status, 404);
}

#[test]
fn operations_have_names_of_their_own() {
    let document = checked_in();
    let operations = operations(&document);
    let names: BTreeSet<_> = operations
        .iter()
        .map(|(_, _, operation)| string(&operation["operationId"]))
        .collect();
    assert_eq!(names.len(), operations.len());
}

/// What a daemon answers, compared with what the document says.
struct Checked<'a> {
    daemon: &'a Daemon,
    document: Document,
    /// Operations that were asked for.
    seen: BTreeSet<String>,
}

impl Checked<'_> {
    /// Asks with a path whose `{..}` is `peer`, and hands the value back.
    #[track_caller]
    fn ask(&mut self, line: &str, peer: &str, body: &[u8]) -> Value {
        let (method, path) = line.split_once(' ').expect("method and path");
        let template = path.split('?').next().expect("a path");
        let operation = &self.document.0["paths"][template][method.to_lowercase()];
        let content = &operation["responses"]["200"]["content"]["application/json"];
        let answer = ask(self.daemon, &line.replace("{peer}", peer), body).ok();
        if let Err(e) = self.document.check(&content["schema"], &answer, line) {
            panic!("{e}: {answer}");
        }
        self.seen.insert(string(&operation["operationId"]));
        answer
    }

    /// Checks the value of an event.
    #[track_caller]
    fn event(&self, path: &str, event: &Value) {
        let operation = &self.document.0["paths"][path]["get"];
        let content = &operation["responses"]["200"]["content"]["text/event-stream"];
        let schema = &content["x-events"][string(&event["event"])];
        if let Err(e) = self.document.check(schema, &event["data"], path) {
            panic!("{e}: {event}");
        }
    }
}

#[test]
fn answers_are_what_the_document_says() {
    let (a, b) = Daemon::pair();
    let document = Document(checked_in());
    let mut checked = Checked {
        daemon: &b,
        document,
        seen: BTreeSet::new(),
    };
    let peer = a.peer_id.as_str();
    for line in [
        "GET /v1/status",
        "GET /v1/doctor",
        "GET /v1/peers",
        "GET /v1/path/{peer}",
        "GET /v1/resolve/{peer}",
        "GET /v1/explain/{peer}",
        "GET /v1/trace/{peer}",
        "GET /v1/networks",
        "GET /v1/network",
        "GET /v1/topics",
        "POST /v1/publish?topic=news",
        "GET /v1/topics",
        "GET /v1/openapi.json",
    ] {
        checked.ask(line, peer, b"hello");
    }
    let to_peer = json!({"peer": peer, "timeout_ms": 30_000}).to_string();
    checked.ask("POST /v1/ping", peer, to_peer.as_bytes());
    checked.ask("POST /v1/connect", peer, to_peer.as_bytes());
    let mut inbox = Events::open(&a, "/v1/recv");
    let send = format!("POST /v1/send?peer={peer}&type=t&encoding=binary");
    checked.ask(&send, peer, b"\xff");
    let message = inbox.next();
    checked.event("/v1/recv", &message);
    assert_eq!(message["data"]["body_base64"], true);
    let refused = ask(&b, "GET /v1/status?network=none", &[]);
    let error = &checked.document.0["components"]["responses"]["error"];
    let error = &error["content"]["application/json"]["schema"];
    checked
        .document
        .check(error, &refused.json(), "error")
        .expect("as described");
    private_networks(&mut checked);
    assert!(checked.seen.len() > 30, "{:?}", checked.seen);
}

/// Of a private network that is made for that.
fn private_networks(checked: &mut Checked<'_>) {
    let membership = json!({"name": "home", "membership": {"name": "me"}}).to_string();
    checked.ask("POST /v1/networks/create", "", membership.as_bytes());
    let asks = [
        ("GET", "network/members", json!(null)),
        ("GET", "network/requests", json!(null)),
        ("GET", "network/swarm_key", json!(null)),
        ("GET", "vpn/routes", json!(null)),
        ("GET", "ports", json!(null)),
        ("GET", "firewall", json!(null)),
        (
            "POST",
            "network/invite",
            json!({"uses": 1, "expires_s": 60, "approve": true}),
        ),
        (
            "POST",
            "network/rotate",
            json!({"now": true, "every": {"seconds": 90_000}}),
        ),
        ("POST", "network/set", json!({"relaying": false})),
        (
            "POST",
            "network/rename",
            json!({"peer": "me", "name": "myself"}),
        ),
        (
            "POST",
            "network/export",
            json!({"passphrase": "correct horse"}),
        ),
        (
            "POST",
            "firewall/add",
            json!({"rule": "deny in any tcp 22"}),
        ),
        ("POST", "firewall/default", json!({"verdict": "allow"})),
        (
            "POST",
            "firewall/test",
            json!({"from": "myself", "protocol": "tcp", "port": 22}),
        ),
        ("POST", "network/leave", json!(null)),
    ];
    for (method, path, body) in asks {
        let line = format!("{method} /v1/{path}?network=home");
        checked.ask(&line, "", body.to_string().as_bytes());
    }
}

/// Waits until so many read the topic.
fn is_read(daemon: &Daemon, topic: &str, readers: u64) {
    let deadline = Deadline::new();
    loop {
        let topics = ask(daemon, "GET /v1/topics", &[]).ok();
        let topics = topics.as_array().expect("a list");
        let found = topics.iter().find(|t| t["topic"] == topic);
        if found.map_or(0, |t| t["subscribers"].as_u64().expect("a number")) == readers {
            return;
        }
        deadline.pause("another number of subscriptions");
    }
}

#[test]
fn posts_come_as_events_until_the_reader_hangs_up_and_again_when_it_is_back() {
    let (a, b) = Daemon::pair();
    let mut events = Events::open(&a, "/v1/subscribe?topic=news");
    is_read(&a, "news", 1);
    let published = ask(&b, "POST /v1/publish?topic=news", "grüß dich".as_bytes()).ok();
    let event = events.next();
    assert_eq!(
        (&event["event"], &event["id"]),
        (&json!("post"), &published["id"])
    );
    assert_eq!(
        event["data"],
        json!({"from": b.peer_id, "topic": "news", "seq": published["seq"], "encoding": "utf8", "body": "grüß dich"})
    );
    drop(events);
    // The daemon notices with the next post, or when it would keep the connection alive.
    ask(&b, "POST /v1/publish?topic=news", b"for nobody").ok();
    is_read(&a, "news", 0);
    let mut events = Events::open(&a, "/v1/subscribe?topic=news");
    is_read(&a, "news", 1);
    ask(&b, "POST /v1/publish?topic=news", b"again").ok();
    assert_eq!(events.next_body(), "again");
}

#[test]
fn a_reader_that_reads_nothing_holds_up_no_other_one() {
    let (a, b) = Daemon::pair();
    let _slow = Events::open(&a, "/v1/subscribe?topic=news");
    let mut quick = Events::open(&a, "/v1/subscribe?topic=news");
    is_read(&a, "news", 2);
    // Far more than sockets hold.
    let body = "x".repeat(16 << 10);
    for n in 0..200 {
        let body = format!("{n} {body}");
        ask(&b, "POST /v1/publish?topic=news", body.as_bytes()).ok();
        assert!(quick.next_body().starts_with(&format!("{n} ")));
    }
}

#[test]
fn requests_come_as_events_and_are_replied_to_by_their_ids() {
    let (a, b) = Daemon::pair();
    let mut events = Events::open(&a, "/v1/recv?type=sum");
    let asking = b.spawn(&["request", &a.peer_id, "1+1", "--type", "sum"]);
    let event = events.next();
    assert_eq!(
        event["data"],
        json!({"from": b.peer_id, "type": "sum", "encoding": "utf8", "body": "1+1", "request": true})
    );
    let reply = format!("POST /v1/reply?id={}&type=sum", string(&event["id"]));
    let sent = ask(&a, &reply, b"2").ok();
    assert_eq!(sent, json!({"to": b.peer_id, "bytes": 1}));
    assert_eq!(asking.finish().ok().json()["body"], "2");
    // Once only.
    assert_eq!(ask(&a, &reply, b"3").status, 403);
    // When the reader leaves, so does who would reply.
    let asking = b.spawn(&["request", &a.peer_id, "2+2", "--type", "sum"]);
    events.next();
    let after = b.command(&["send", &a.peer_id, "x", "--type", "sum"]);
    after.ok();
    events.next();
    drop(events);
    b.command(&["send", &a.peer_id, "y", "--type", "sum"]).ok();
    assert_eq!(asking.finish().error(6)["code"], "refused");
}

#[test]
fn the_examples_for_other_languages_in_the_documentation_work() {
    let text = include_str!("../../../../docs/cli.md");
    let (a, b) = Daemon::pair();
    for program in ["curl", "python3"] {
        let found = Command::new(program).arg("--version").output();
        if !found.is_ok_and(|o| o.status.success()) {
            println!("skipped: {program} is not installed");
            continue;
        }
        let example = example(text, program);
        let mut shell = Command::new("bash");
        shell
            .args(["-euc", &example])
            .env("SOCKET", a.socket())
            .env("PEER", &b.peer_id)
            .stdin(Stdio::null());
        let shown = run(&mut shell).ok();
        let got = b.command(&["recv", "--count", "1", "--timeout", "0"]).ok();
        assert_eq!(got.json()["body"], "hello from a program", "{shown:?}");
    }
}

/// The example in which a program is named.
fn example(text: &str, program: &str) -> String {
    let blocks = text.split("```").skip(1).step_by(2);
    let mut shell = blocks.filter_map(|block| block.strip_prefix("bash\n"));
    let found = shell.find(|block| block.contains(program));
    found.expect("an example").to_owned()
}
