//! A daemon in a namespace, driven by the command line as a person would.

use std::{
    net::{IpAddr, Ipv6Addr},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhop_lab::netns::{Daemon, Finished, Namespace, NetLab, run};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::PATIENCE;

pub(crate) const PORT: u16 = 4001;

/// A running daemon. What it said is printed when a test fails.
pub(crate) struct Node {
    pub(crate) name: &'static str,
    pub(crate) peer: String,
    daemon: Option<Daemon>,
}

/// Which path new data goes over, as `path --json` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selected {
    pub(crate) kind: String,
    pub(crate) carrier: String,
    pub(crate) remote: String,
    pub(crate) via: Vec<String>,
}

impl Node {
    /// Starts `up` as [`start`](Self::start) does. It looks for nobody on its link: hosts
    /// of the lab's internet share one.
    pub(crate) async fn up(
        name: &'static str,
        lab: &NetLab,
        namespace: Namespace,
        args: &[String],
    ) -> Self {
        let all = [&["--no-mdns".to_owned()], args].concat();
        Self::start(name, lab, namespace, &all).await
    }

    /// Starts `up` with more arguments, listening on port 4001 of the families that the
    /// namespace has, and waits for its `ready`.
    pub(crate) async fn start(
        name: &'static str,
        lab: &NetLab,
        namespace: Namespace,
        args: &[String],
    ) -> Self {
        let state = lab.directory(name).expect("a directory");
        let mut all = Vec::new();
        if namespace.v4().is_some() || namespace.v6().is_none() {
            all.push(format!("--listen=0.0.0.0:{PORT}"));
        }
        if namespace.v6().is_some() {
            all.push(format!("--listen=[::]:{PORT}"));
        }
        all.extend_from_slice(args);
        let binary = Path::new(env!("CARGO_BIN_EXE_anyhop"));
        let ips: Vec<_> = namespace.addresses().collect();
        let daemon = Daemon::up(name, binary, namespace, state, &all, PATIENCE).await;
        let daemon = daemon.unwrap_or_else(|e| panic!("{name}: {e}"));
        let node = Self {
            name,
            peer: daemon.peer().to_owned(),
            daemon: Some(daemon),
        };
        for ip in ips {
            let (expected, known) = (node.at(ip), node.daemon().addresses());
            let is_known = known.contains(&expected);
            assert!(is_known, "{name}: {expected} is not among {known:?}");
        }
        node
    }

    /// The multiaddr of this node's UDP socket at one of its addresses.
    pub(crate) fn at(&self, ip: impl Into<IpAddr>) -> String {
        let (ip, peer) = (ip.into(), &self.peer);
        let family = if ip.is_ipv4() { "ip4" } else { "ip6" };
        format!("/{family}/{ip}/udp/{PORT}/quic-v1/p2p/{peer}")
    }

    /// Where this node listens: its UDP and WebSocket addresses.
    pub(crate) fn multiaddrs(&self) -> impl Iterator<Item = String> {
        let known = self.daemon().addresses().iter().cloned();
        let ips: Vec<_> = self.daemon().namespace().addresses().collect();
        let own = move |addr: &String| ips.iter().any(|ip| addr.contains(&format!("/{ip}/")));
        known.filter(own)
    }

    /// Its IPv6 address.
    pub(crate) fn v6(&self) -> Ipv6Addr {
        self.daemon().namespace().v6().expect("IPv6")
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("it runs")
    }

    /// Where it runs, to change that.
    pub(crate) fn namespace(&mut self) -> &mut Namespace {
        self.daemon.as_mut().expect("it runs").namespace_mut()
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

    /// Waits until there is a session with `peer`.
    pub(crate) async fn is_linked_to(&self, peer: &Self) {
        let deadline = Instant::now() + PATIENCE;
        while self.paths(peer).await.is_none() {
            assert!(
                Instant::now() < deadline,
                "{} has no session with {}",
                self.name,
                peer.name
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A command against this daemon.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.daemon().command(args)
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
            carrier: text(&path["carrier"]),
            remote: text(&path["remote"]),
            via: via.iter().map(text).collect(),
        })
    }

    /// Waits until the selected path to `peer` is of `kind`.
    pub(crate) async fn selects(&self, peer: &Self, kind: &str) -> Selected {
        self.selects_such(peer, kind, |path| path.kind == kind)
            .await
    }

    /// Waits until the selected path to `peer` is one of which `wanted` holds.
    pub(crate) async fn selects_such(
        &self,
        peer: &Self,
        what: &str,
        wanted: impl Fn(&Selected) -> bool,
    ) -> Selected {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let selected = self.selected(peer).await;
            if let Some(path) = selected.clone().filter(&wanted) {
                return path;
            }
            if Instant::now() > deadline {
                let why = self.run(&["explain", &peer.peer]).await;
                let (from, to) = (self.name, peer.name);
                panic!("{from} to {to}: not {what}, but {selected:?}\n{why}");
            }
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

    /// Ends the daemon with SIGKILL, and returns when it is gone.
    pub(crate) async fn killed(mut self) {
        let daemon = self.daemon.take().expect("it runs");
        let ended = daemon.killed(PATIENCE).await;
        ended.unwrap_or_else(|e| panic!("{}: {e}", self.name));
    }

    /// Ends the daemon with SIGTERM, which has to succeed.
    pub(crate) async fn stop(mut self) {
        let daemon = self.daemon.take().expect("it runs");
        let ended = daemon.stop(PATIENCE).await;
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
