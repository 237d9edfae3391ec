//! Daemons and commands as child processes. Nothing waits by sleeping for long enough:
//! everything is polled for, up to [`PATIENCE`].

#![expect(
    clippy::disallowed_methods,
    reason = "child processes run in real time, and tests wait for them on threads"
)]

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// After this long a test gives up; far above what anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// When to give up polling.
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn new() -> Self {
        Self(Instant::now() + PATIENCE)
    }

    /// Between two looks at something.
    #[track_caller]
    pub(crate) fn pause(&self, waiting_for: &str) {
        assert!(Instant::now() < self.0, "not in time: {waiting_for}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The proxies of whoever runs the tests are not theirs.
const NO_PROXY: [(&str, &str); 8] = [
    ("https_proxy", ""),
    ("HTTPS_PROXY", ""),
    ("http_proxy", ""),
    ("HTTP_PROXY", ""),
    ("all_proxy", ""),
    ("ALL_PROXY", ""),
    ("no_proxy", ""),
    ("NO_PROXY", ""),
];

/// The binary under test, cut off from the environment's settings.
pub(crate) fn anyhop(state_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anyhop"));
    command
        .env_remove("RUST_LOG")
        .env_remove("ANYHOP_STATE_DIR")
        .envs(NO_PROXY)
        .arg("--state-dir")
        .arg(state_dir)
        .stdin(Stdio::null());
    command
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Done {
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("text")
    }

    /// Standard output as one JSON value.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Standard output as one JSON value a line.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        let parse = |l: &str| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"));
        self.text().lines().map(parse).collect()
    }

    /// The error on standard error, which must be a failure with `exit`.
    #[track_caller]
    pub(crate) fn error(&self, exit: i32) -> Value {
        assert_eq!(self.code, Some(exit), "{self:?}");
        let line = self.stderr.lines().last().unwrap_or_default();
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        assert!(value["error"]["code"].is_string(), "{value}");
        value["error"].clone()
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Done {
    Running::start(command).finish()
}

/// Runs a command with this on its standard input.
pub(crate) fn run_with_input(command: &mut Command, input: &[u8]) -> Done {
    let mut running = Running::start(command.stdin(Stdio::piped()));
    let mut stdin = running.stdin();
    thread::scope(|scope| {
        // A command that ends early closes its input: its exit code tells why.
        scope.spawn(move || {
            let _ = stdin.write_all(input);
        });
        running.finish()
    })
}

/// A command that runs; killed when dropped.
pub(crate) struct Running {
    child: Child,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        Self {
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            child,
        }
    }

    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("piped")
    }

    /// Standard output, line by line.
    pub(crate) fn stdout_lines(&mut self) -> Lines {
        Lines::new(self.stdout.take().expect("not taken yet"))
    }

    /// Standard error, line by line.
    pub(crate) fn stderr_lines(&mut self) -> Lines {
        Lines::new(self.stderr.take().expect("not taken yet"))
    }

    /// Standard output, raw.
    pub(crate) fn stdout(&mut self) -> ChildStdout {
        self.stdout.take().expect("not taken yet")
    }

    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh")
            .args(["-c", &kill])
            .status()
            .expect("sh runs");
        assert!(status.success());
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("own child").is_some()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Deadline::new();
        loop {
            if let Some(status) = self.child.try_wait().expect("own child") {
                return status;
            }
            deadline.pause("the end of a command");
        }
    }

    /// Reads what it prints from now on, so that it does not wait for that.
    pub(crate) fn read(mut self) -> Collected {
        Collected {
            stdout: collect(self.stdout.take()),
            stderr: collect(self.stderr.take()),
            running: self,
        }
    }

    /// Waits for the end; what was taken of its output before is not in the result.
    pub(crate) fn finish(self) -> Done {
        self.read().finish()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A command whose output is read while it runs.
pub(crate) struct Collected {
    running: Running,
    stdout: mpsc::Receiver<Vec<u8>>,
    stderr: mpsc::Receiver<Vec<u8>>,
}

impl Collected {
    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Done {
        let code = self.running.wait().code();
        let all = |rx: mpsc::Receiver<_>| rx.recv_timeout(PATIENCE).expect("all output");
        Done {
            code,
            stdout: all(self.stdout),
            stderr: String::from_utf8_lossy(&all(self.stderr)).into_owned(),
        }
    }
}

/// All of a pipe; not waited for longer than [`PATIENCE`].
#[track_caller]
pub(crate) fn read_all(pipe: impl Read + Send + 'static) -> Vec<u8> {
    collect(Some(pipe))
        .recv_timeout(PATIENCE)
        .expect("the end of the output")
}

/// The first bytes of a pipe, as many as expected.
#[track_caller]
pub(crate) fn expect_bytes(mut pipe: impl Read + Send + 'static, expected: &[u8]) {
    let (tx, rx) = mpsc::sync_channel(1);
    let len = expected.len();
    thread::spawn(move || {
        let mut got = vec![0; len];
        let result = pipe.read_exact(&mut got).map(|()| (got, pipe));
        let _ = tx.send(result);
    });
    let (got, _pipe) = rx
        .recv_timeout(PATIENCE)
        .expect("in time")
        .expect("that many bytes");
    assert_eq!(got, expected);
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (tx, rx) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut all = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut all);
        }
        let _ = tx.send(all);
    });
    rx
}

/// Lines of a pipe, read as they come.
pub(crate) struct Lines(mpsc::Receiver<String>);

impl Lines {
    fn new(pipe: impl Read + Send + 'static) -> Self {
        let (tx, rx) = mpsc::sync_channel(1024);
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines() {
                let Ok(line) = line else { return };
                if tx.send(line).is_err() {
                    return;
                }
            }
        });
        Self(rx)
    }

    /// The next line; `None` at the end.
    #[track_caller]
    pub(crate) fn next(&self) -> Option<String> {
        match self.0.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("no line came"),
        }
    }

    #[track_caller]
    pub(crate) fn next_json(&self) -> Value {
        let line = self.next().expect("one more line");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    /// Of the lines that are there already, those that contain `what`.
    pub(crate) fn so_far(&self, what: &str) -> Vec<String> {
        self.0.try_iter().filter(|l| l.contains(what)).collect()
    }

    /// The next line that contains `what`.
    #[track_caller]
    pub(crate) fn until(&self, what: &str) -> String {
        loop {
            match self.next() {
                Some(line) if line.contains(what) => return line,
                Some(_) => {}
                None => panic!("it ended without {what:?}"),
            }
        }
    }
}

/// A daemon in a state directory of its own.
pub(crate) struct Daemon {
    pub(crate) running: Running,
    pub(crate) events: Lines,
    pub(crate) peer_id: String,
    pub(crate) addresses: Vec<String>,
    dir: TempDir,
}

impl Daemon {
    /// On 127.0.0.1, with further arguments.
    #[track_caller]
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a directory"), args)
    }

    #[track_caller]
    pub(crate) fn start_in(dir: TempDir, args: &[&str]) -> Self {
        Self::start_on(dir, &[&["--listen", "127.0.0.1:0"], args].concat(), &[])
    }

    /// With environment variables.
    #[track_caller]
    pub(crate) fn start_with(args: &[&str], env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self::start_on(dir, &[&["--listen", "127.0.0.1:0"], args].concat(), env)
    }

    /// On whatever address the arguments say.
    #[track_caller]
    pub(crate) fn start_on(dir: TempDir, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut running = Running::start(
            anyhop(dir.path())
                .envs(env.iter().copied())
                .args(["up", "--json"])
                .args(args),
        );
        let events = running.stdout_lines();
        let Some(line) = events.next() else {
            panic!("no ready line: {}", running.finish().stderr);
        };
        let ready: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(ready["event"], "ready");
        let addresses = ready["addresses"].as_array().expect("a list");
        Self {
            peer_id: string(&ready["peer_id"]),
            addresses: addresses.iter().map(string).collect(),
            running,
            events,
            dir,
        }
    }

    /// Two daemons, the second of which keeps a session with the first.
    #[track_caller]
    pub(crate) fn pair() -> (Self, Self) {
        let a = Self::start(&[]);
        let b = Self::start(&["--bootstrap", &a.addresses[0]]);
        // Answered over the session, so that both ends have it now.
        b.command(&["ping", &a.peer_id, "-c", "1"]).ok();
        (a, b)
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path().join("control.sock")
    }

    /// A command on this daemon, with `--json`.
    pub(crate) fn json(&self, args: &[&str]) -> Command {
        let mut command = anyhop(self.path());
        command.arg("--json").args(args);
        command
    }

    /// Runs a command on this daemon, with `--json`.
    pub(crate) fn command(&self, args: &[&str]) -> Done {
        run(&mut self.json(args))
    }

    /// Starts a command on this daemon, with `--json`.
    pub(crate) fn spawn(&self, args: &[&str]) -> Running {
        Running::start(&mut self.json(args))
    }

    /// Ends it without a warning and hands its state directory back.
    pub(crate) fn kill(mut self) -> TempDir {
        self.running.kill();
        self.dir
    }

    /// Stops it in order and hands its state directory back.
    pub(crate) fn stop(mut self) -> TempDir {
        self.running.signal("TERM");
        assert_eq!(self.running.wait().code(), Some(0));
        self.dir
    }
}

/// A JSON string.
#[track_caller]
pub(crate) fn string(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no string: {value}"))
        .to_owned()
}

/// The id of a node that does not run.
pub(crate) fn absent_peer() -> String {
    let dir = tempfile::tempdir().expect("a directory");
    string(&run(anyhop(dir.path()).args(["id", "--json"])).ok().json()["peer_id"])
}

/// Bytes that look random and are the same every time.
pub(crate) fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        // SplitMix64.
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    out.truncate(len);
    out
}
