//! A daemon in a namespace, driven by the command line as a person would.

use std::{path::Path, process::Command, time::Duration};

use anyhop_lab::netns::{Finished, Namespace, Process, run};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::PATIENCE;

const PORT: u16 = 4001;

/// A running daemon. What it said is printed when a test fails.
pub(crate) struct Node {
    pub(crate) name: &'static str,
    pub(crate) peer: String,
    namespace: Namespace,
    state: TempDir,
    daemon: Option<Process>,
}

/// Which path new data goes over, as `path --json` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selected {
    pub(crate) kind: String,
    pub(crate) remote: String,
    pub(crate) via: Vec<String>,
}

impl Node {
    /// Starts `up` and waits for its `ready`.
    pub(crate) async fn up(
        name: &'static str,
        namespace: Namespace,
        bootstrap: Option<&str>,
    ) -> Self {
        let state = tempfile::tempdir().expect("a directory");
        let listen = format!("0.0.0.0:{PORT}");
        let mut args = vec!["up", "--json", "--listen", &listen];
        if let Some(addr) = bootstrap {
            args.extend(["--bootstrap", addr]);
        }
        let command = anyhop(&namespace, state.path(), &args);
        let mut daemon = Process::start(command).expect("started");
        let line = daemon.line(PATIENCE).await;
        let line = line.unwrap_or_else(|e| panic!("{name}: {e}"));
        let ready = parse(&line);
        assert_eq!(ready["event"], "ready", "{name}: {line}");
        let peer = text(&ready["peer_id"]);
        let addresses = ready["addresses"].as_array().expect("addresses");
        let expected = multiaddr(&namespace, &peer);
        assert!(
            addresses.iter().any(|a| *a == expected),
            "{name}: {expected} is not among {addresses:?}"
        );
        Self {
            name,
            peer,
            namespace,
            state,
            daemon: Some(daemon),
        }
    }

    /// Where this node listens.
    pub(crate) fn multiaddr(&self) -> String {
        multiaddr(&self.namespace, &self.peer)
    }

    /// Waits until others can reach this node through `relay`.
    pub(crate) async fn is_attached_to(&self, relay: &Self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.json(&["status"]).await;
            let attachments = status["attachments"].as_array().expect("a list");
            if attachments.iter().any(|a| *a == relay.peer) {
                return;
            }
            let name = self.name;
            assert!(Instant::now() < deadline, "{name} is not: {status}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A command against this daemon.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        anyhop(&self.namespace, self.state.path(), args)
    }

    /// Runs a command to its end.
    pub(crate) async fn try_run(&self, args: &[&str], within: Duration) -> Finished {
        let finished = run(self.command(args), b"", within).await;
        finished.unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// Runs a command that has to succeed; answers its output.
    pub(crate) async fn run(&self, args: &[&str]) -> String {
        let done = self.try_run(args, PATIENCE).await;
        let (name, code) = (self.name, done.code);
        assert_eq!(code, Some(0), "{name}: {args:?}: {}", done.stderr);
        done.stdout
    }

    /// Runs a command with `--json`; answers its one value.
    pub(crate) async fn json(&self, args: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(args);
        parse(&self.run(&all).await)
    }

    /// Paths to a peer that has a session, the selected one first. `None` without one.
    pub(crate) async fn paths(&self, peer: &Self) -> Option<Vec<Value>> {
        let peers = self.json(&["peers"]).await;
        let peers = peers.as_array().expect("a list");
        let session = peers.iter().find(|p| p["peer_id"] == peer.peer.as_str())?;
        Some(session["paths"].as_array().expect("paths").clone())
    }

    /// What `path PEER` says is selected.
    pub(crate) async fn selected(&self, peer: &Self) -> Option<Selected> {
        let report = self.json(&["path", &peer.peer]).await;
        let paths = report["paths"].as_array().expect("paths");
        let path = paths.iter().find(|p| p["selected"] == true)?;
        let via = path["via"].as_array().expect("relays");
        Some(Selected {
            kind: text(&path["kind"]),
            remote: text(&path["remote"]),
            via: via.iter().map(text).collect(),
        })
    }

    /// Waits until the selected path to `peer` is of `kind`.
    pub(crate) async fn selects(&self, peer: &Self, kind: &str) -> Selected {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let selected = self.selected(peer).await;
            if let Some(path) = selected.clone().filter(|path| path.kind == kind) {
                return path;
            }
            assert!(
                Instant::now() < deadline,
                "{} to {}: not {kind}, but {selected:?}",
                self.name,
                peer.name
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Bytes this node has forwarded for others.
    pub(crate) async fn forwarded_bytes(&self) -> u64 {
        let status = self.json(&["status"]).await;
        let forwarded = &status["relay"]["forwarded_bytes"];
        forwarded.as_u64().expect("a number")
    }

    /// Pings `count` times, each answered; answers the kinds of path used.
    pub(crate) async fn pings(&self, peer: &Self, count: usize) -> Vec<String> {
        let n = count.to_string();
        let args = ["--json", "ping", &peer.peer, "-c", &n, "--interval", "0.1"];
        let out = self.run(&args).await;
        let answers: Vec<_> = out.lines().map(parse).collect();
        assert_eq!(answers.len(), count, "{out}");
        for (answer, seq) in answers.iter().zip(1u64..) {
            assert_eq!(answer["seq"], seq, "{out}");
            assert!(
                answer["rtt_ms"].as_f64().is_some_and(|ms| ms > 0.0),
                "{out}"
            );
        }
        answers.iter().map(|a| text(&a["kind"])).collect()
    }

    /// Sends a message and takes it at the peer.
    pub(crate) async fn sends(&self, peer: &Self, body: &str) {
        self.run(&["send", &peer.peer, body]).await;
        let got = peer
            .json(&["recv", "--count", "1", "--timeout", "30"])
            .await;
        assert_eq!(got["from"], self.peer.as_str(), "{got}");
        assert_eq!(got["type"], "text", "{got}");
        assert_eq!(got["encoding"], "utf8", "{got}");
        assert_eq!(got["body"], body, "{got}");
    }

    /// Ends the daemon with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.daemon.as_mut().expect("it runs").kill();
    }

    /// Ends the daemon with SIGTERM, which has to succeed.
    pub(crate) async fn stop(mut self) {
        let daemon = self.daemon.take().expect("it runs");
        daemon.terminate().expect("signalled");
        let ended = daemon.finish(PATIENCE).await;
        let ended = ended.unwrap_or_else(|e| panic!("{}: {e}", self.name));
        assert_eq!(ended.code, Some(0), "{}: {}", self.name, ended.stderr);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(daemon) = &self.daemon
            && std::thread::panicking()
        {
            eprintln!("{} said:\n{}", self.name, daemon.stderr());
        }
    }
}

/// The one JSON value in `out`.
pub(crate) fn parse(out: &str) -> Value {
    serde_json::from_str(out).unwrap_or_else(|e| panic!("no JSON value ({e}): {out:?}"))
}

fn text(value: &Value) -> String {
    let text = value.as_str();
    text.unwrap_or_else(|| panic!("not a text: {value}"))
        .to_owned()
}

fn multiaddr(namespace: &Namespace, peer: &str) -> String {
    let ip = namespace.v4().expect("IPv4");
    format!("/ip4/{ip}/udp/{PORT}/quic-v1/p2p/{peer}")
}

fn anyhop(namespace: &Namespace, state: &Path, args: &[&str]) -> Command {
    let mut command = namespace.command(env!("CARGO_BIN_EXE_anyhop"));
    command.arg("--state-dir").arg(state).args(args);
    command
}
