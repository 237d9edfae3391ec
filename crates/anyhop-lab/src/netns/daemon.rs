//! A daemon in a namespace, driven by what it prints and by its control API.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    process::ChildStdout,
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{Finished, LabError, Namespace, Process};

/// Events that are kept, the last ones.
const MAX_EVENTS: usize = 1024;

/// The daemon's control socket in its state directory.
const SOCKET: &str = "control.sock";

/// Largest answer of the control API, bytes.
const MAX_ANSWER: u64 = 4 << 20;

/// One line of `up --json`, and when it was read.
#[derive(Debug, Clone)]
pub struct Told {
    /// When.
    pub at: Instant,
    /// What; `event` says which.
    pub event: Value,
}

/// A running `anyhop up`; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    peer: String,
    addresses: Vec<String>,
    binary: PathBuf,
    state: PathBuf,
    namespace: Namespace,
    process: Process,
    told: watch::Receiver<VecDeque<Told>>,
    reader: JoinHandle<()>,
}

impl Daemon {
    /// Starts `binary up --json` with more arguments in a namespace, and waits for its
    /// `ready`. `state` is its state directory, which exists.
    ///
    /// # Errors
    /// When it cannot be started or does not get ready in time.
    pub async fn up(
        name: &str,
        binary: &Path,
        namespace: Namespace,
        state: PathBuf,
        args: &[String],
        within: Duration,
    ) -> Result<Self, LabError> {
        let mut command = namespace.command(binary);
        command.arg("--state-dir").arg(&state);
        command.args(["--json", "up"]).args(args);
        let mut process = Process::start(command)?;
        let ready = json(name, &process.line(within).await?)?;
        let texts = |value: &Value| -> Vec<String> {
            let texts = value.as_array().into_iter().flatten();
            texts
                .filter_map(|text| text.as_str())
                .map(String::from)
                .collect()
        };
        let Some(peer) = ready["peer_id"]
            .as_str()
            .filter(|_| ready["event"] == "ready")
        else {
            return Err(unexpected(name, &ready.to_string()));
        };
        let (tell, told) = watch::channel(VecDeque::new());
        let Some(stdout) = process.take_stdout() else {
            return Err(unexpected(name, "no output"));
        };
        Ok(Self {
            name: name.to_owned(),
            peer: peer.to_owned(),
            addresses: texts(&ready["addresses"]),
            binary: binary.to_owned(),
            state,
            namespace,
            process,
            told,
            reader: tokio::spawn(listen(stdout, tell)),
        })
    }

    /// What the lab calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its PeerId.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The multiaddrs that it named when it was ready.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Where it runs.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The same, to change it.
    pub fn namespace_mut(&mut self) -> &mut Namespace {
        &mut self.namespace
    }

    /// A command line that talks to this daemon. It needs no namespace: the control
    /// socket is a file.
    #[must_use]
    pub fn command<I: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--state-dir").arg(&self.state).args(args);
        command
    }

    /// What it told so far; changes can be waited for.
    #[must_use]
    pub fn told(&self) -> watch::Receiver<VecDeque<Told>> {
        self.told.clone()
    }

    /// Waits for an event of which `wanted` holds, one that has been told already too.
    ///
    /// # Errors
    /// When none comes in time, or the daemon ends.
    pub async fn tells(
        &self,
        waited_for: &'static str,
        within: Duration,
        wanted: impl Fn(&Told) -> bool,
    ) -> Result<Told, LabError> {
        let mut told = self.told.clone();
        let found = told.wait_for(|all| all.iter().any(&wanted));
        let found = match timeout(within, found).await {
            Ok(Ok(all)) => all.iter().find(|told| wanted(told)).cloned(),
            Ok(Err(_)) => None,
            Err(_) => {
                return Err(LabError::Timeout {
                    what: self.name.clone(),
                    waited_for,
                    within,
                    stderr: self.stderr(),
                });
            }
        };
        found.ok_or_else(|| LabError::Ended {
            what: self.name.clone(),
            stderr: self.stderr(),
        })
    }

    /// `GET` of its control API.
    ///
    /// # Errors
    /// What the daemon says, or why it says nothing.
    pub async fn get(&self, path: &str, within: Duration) -> Result<Value, LabError> {
        self.ask(format!("GET {path}"), String::new(), within).await
    }

    /// `POST` of its control API.
    ///
    /// # Errors
    /// What the daemon says, or why it says nothing.
    pub async fn post(
        &self,
        path: &str,
        body: &Value,
        within: Duration,
    ) -> Result<Value, LabError> {
        self.ask(format!("POST {path}"), body.to_string(), within)
            .await
    }

    /// The last it wrote to standard error.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends it with SIGKILL and waits for that.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn killed(mut self, within: Duration) -> Result<Finished, LabError> {
        self.process.kill();
        let finished = self.process.finish(within).await;
        self.reader.abort();
        finished
    }

    /// Ends it with SIGTERM and waits for that.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(self, within: Duration) -> Result<Finished, LabError> {
        self.process.terminate()?;
        let finished = self.process.finish(within).await;
        self.reader.abort();
        finished
    }

    async fn ask(&self, what: String, body: String, within: Duration) -> Result<Value, LabError> {
        let request = format!(
            "{what} HTTP/1.1\r\nhost: anyhop\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let what = || format!("{} ({what})", self.name);
        let answer = match timeout(within, exchange(&self.state.join(SOCKET), &request)).await {
            Ok(answer) => answer.map_err(|source| LabError::Run {
                what: what(),
                source,
            })?,
            Err(_) => {
                return Err(LabError::Timeout {
                    what: what(),
                    waited_for: "an answer",
                    within,
                    stderr: self.stderr(),
                });
            }
        };
        let Some((head, body)) = answer.split_once("\r\n\r\n") else {
            return Err(unexpected(&what(), &answer));
        };
        let value = json(&what(), body)?;
        let status = head.split_whitespace().nth(1).unwrap_or_default();
        if status == "200" {
            return Ok(value);
        }
        let message = value["error"]["message"].as_str().unwrap_or(body);
        Err(LabError::Refused {
            what: what(),
            message: message.to_owned(),
        })
    }
}

async fn exchange(socket: &Path, request: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Reads events until the daemon ends.
async fn listen(stdout: BufReader<ChildStdout>, tell: watch::Sender<VecDeque<Told>>) {
    let mut lines = stdout.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let at = Instant::now();
        let Ok(event) = serde_json::from_str(&line) else {
            continue;
        };
        tell.send_modify(|all| {
            if all.len() >= MAX_EVENTS {
                all.pop_front();
            }
            all.push_back(Told { at, event });
        });
    }
}

fn json(what: &str, text: &str) -> Result<Value, LabError> {
    serde_json::from_str(text).map_err(|_| unexpected(what, text))
}

fn unexpected(what: &str, said: &str) -> LabError {
    LabError::Failed {
        what: what.to_owned(),
        status: "unexpected output".into(),
        stderr: said.to_owned(),
    }
}
