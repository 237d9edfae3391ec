//! Worker processes as the measuring process sees them.

use std::{
    env,
    io::{BufRead, BufReader, Lines, Write},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, ChildStdin, ChildStdout, Command as Process, Stdio},
    time::Duration,
};

use crate::{
    error::{BenchError, Result},
    netns::Namespace,
    wire::{Amount, Answer, Command, Kind, Look, Setup, Target},
};

/// Name of the hidden subcommand that makes a process a worker.
pub(crate) const WORKER: &str = "worker";

/// Where a worker runs and listens.
#[derive(Debug, Clone)]
pub(crate) struct Place<'a> {
    pub(crate) namespace: Option<&'a Namespace>,
    pub(crate) listen: Vec<SocketAddr>,
}

impl Place<'_> {
    /// Any port of IPv4 loopback, in this namespace.
    pub(crate) fn loopback() -> Self {
        Self::at(vec![(Ipv4Addr::LOCALHOST, 0).into()])
    }

    /// Addresses of this namespace.
    pub(crate) fn at(listen: Vec<SocketAddr>) -> Self {
        Self {
            namespace: None,
            listen,
        }
    }
}

/// A running worker; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Worker {
    process: Child,
    commands: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
    /// Its nodes.
    pub(crate) targets: Vec<Target>,
}

impl Worker {
    /// Starts a worker with one node.
    pub(crate) fn start(kind: Kind, place: &Place<'_>) -> Result<Self> {
        Self::with(kind, place, 1, None)
    }

    /// Starts a worker with several nodes, each attached to `bootstrap` if there is one.
    pub(crate) fn with(
        kind: Kind,
        place: &Place<'_>,
        nodes: usize,
        bootstrap: Option<Target>,
    ) -> Result<Self> {
        let setup = Setup {
            kind,
            nodes,
            listen: place.listen.clone(),
            bootstrap,
            threads: threads(),
        };
        let mut process = spawn(place)?;
        let commands = process.stdin.take();
        let answers = process.stdout.take();
        let answers = answers.ok_or_else(|| BenchError::Worker("has no output".to_owned()))?;
        let mut worker = Self {
            process,
            commands,
            answers: BufReader::new(answers).lines(),
            targets: Vec::new(),
        };
        worker.tell(&setup)?;
        match worker.answer()? {
            Answer::Ready(targets) => worker.targets = targets,
            other => return Err(unexpected(&other)),
        }
        Ok(worker)
    }

    /// Its first node.
    pub(crate) fn target(&self) -> Target {
        self.targets[0].clone()
    }

    /// Waits until each node is attached to its bootstrap.
    pub(crate) fn attach(&mut self) -> Result<()> {
        self.ask(&Command::Attach).map(drop)
    }

    /// Dials from the first node on; returns how many seconds it took.
    pub(crate) fn connect(&mut self, targets: Vec<Target>, in_flight: usize) -> Result<f64> {
        self.connect_from(0, targets, in_flight)
    }

    /// Dials from node `from` and those after it, each the next target.
    pub(crate) fn connect_from(
        &mut self,
        from: usize,
        targets: Vec<Target>,
        in_flight: usize,
    ) -> Result<f64> {
        let command = Command::Connect {
            from,
            targets,
            in_flight,
        };
        match self.ask(&command)? {
            Answer::Done { seconds } => Ok(seconds),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends on the first session; returns bytes.
    pub(crate) fn send(&mut self, streams: usize, during: Duration) -> Result<Amount> {
        let millis = millis(during);
        match self.ask(&Command::Send { streams, millis })? {
            Answer::Sent(amount) => Ok(amount),
            other => Err(unexpected(&other)),
        }
    }

    /// Requests on the first session; returns replies.
    pub(crate) fn request(&mut self, in_flight: usize, during: Duration) -> Result<Amount> {
        let millis = millis(during);
        match self.ask(&Command::Ask { in_flight, millis })? {
            Answer::Asked(amount) => Ok(amount),
            other => Err(unexpected(&other)),
        }
    }

    /// What the process has used and holds.
    pub(crate) fn look(&mut self) -> Result<Look> {
        match self.ask(&Command::Look)? {
            Answer::Looked(look) => Ok(look),
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&mut self, command: &Command) -> Result<Answer> {
        self.tell(command)?;
        match self.answer()? {
            Answer::Failed(reason) => Err(BenchError::Worker(format!("failed: {reason}"))),
            answer => Ok(answer),
        }
    }

    fn tell<T: serde::Serialize>(&mut self, value: &T) -> Result<()> {
        let line = serde_json::to_string(value).map_err(BenchError::while_("a command"))?;
        let commands = self.commands.as_mut();
        let commands = commands.ok_or_else(|| BenchError::Worker("has no input".to_owned()))?;
        writeln!(commands, "{line}").map_err(BenchError::io("telling a worker"))
    }

    fn answer(&mut self) -> Result<Answer> {
        let Some(line) = self.answers.next() else {
            return Err(BenchError::Worker("ended; its errors are above".to_owned()));
        };
        let line = line.map_err(BenchError::io("a worker's answer"))?;
        serde_json::from_str(&line).map_err(|e| BenchError::Worker(format!("said {line:?}: {e}")))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The end of its input is the worker's order to go; killed, it goes at once. Both
        // can only fail when it has gone.
        drop(self.commands.take());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Threads of a runtime: one for each core.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn spawn(place: &Place<'_>) -> Result<Child> {
    let own = env::current_exe().map_err(BenchError::io("finding this program"))?;
    let mut process = match place.namespace {
        None => Process::new(own),
        Some(namespace) => namespace.command(&own),
    };
    process
        .arg(WORKER)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(BenchError::io("starting a worker"))
}

fn millis(during: Duration) -> u64 {
    u64::try_from(during.as_millis()).unwrap_or(u64::MAX)
}

fn unexpected(answer: &Answer) -> BenchError {
    BenchError::Worker(format!("answered something else: {answer:?}"))
}
