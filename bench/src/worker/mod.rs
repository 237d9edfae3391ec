//! A worker: the process in which one end of what is measured lives.
//!
//! Both contenders do the same work behind two traits, so that nothing but the contender
//! differs between two runs.

mod anyhop;
mod plain;
mod tls;

use std::{
    fs,
    future::Future,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    runtime::Runtime,
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout},
};

use self::{anyhop::AnyhopNode, plain::PlainNode};
use crate::{
    error::{BenchError, Result},
    wire::{Amount, Answer, Command, Kind, Look, Setup, Target},
};

/// Bytes written to a stream at once.
const CHUNK: usize = 64 * 1024;
/// Bytes of a request's body, and of its reply's.
const BODY: usize = 64;
/// How long a command may take beyond the time it is to measure.
const GRACE: Duration = Duration::from_secs(60);

/// A node or endpoint that dials, and serves what the others ask.
trait Contender: Clone + Send + Sync + 'static {
    type Session: Session;

    fn start(setup: &Setup) -> impl Future<Output = Result<Self>> + Send;

    /// What others dial.
    fn target(&self) -> Target;

    fn connect(&self, target: Target) -> impl Future<Output = Result<Self::Session>> + Send;

    /// Waits until the node is attached to its bootstrap.
    fn attach(&self) -> impl Future<Output = Result<()>> + Send;

    /// Sessions now, and bytes forwarded for others.
    fn counts(&self) -> (usize, u64);
}

/// A session that was dialled.
trait Session: Clone + Send + Sync + 'static {
    /// Sends one stream until `end` and returns how many bytes arrived.
    fn send_until(&self, chunk: Bytes, end: Instant) -> impl Future<Output = Result<u64>> + Send;

    /// Sends one request and waits for its reply.
    fn ask(&self, body: Bytes) -> impl Future<Output = Result<()>> + Send;

    fn path(&self) -> Option<String>;
}

/// Serves the process that started this one, until it closes our standard input.
pub(crate) fn run() -> Result<()> {
    let Some(line) = io::stdin().lines().next() else {
        return Ok(());
    };
    let setup: Setup = parse(&line.map_err(BenchError::io("standard input"))?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(setup.threads)
        .enable_all()
        .build()
        .map_err(BenchError::io("starting the runtime"))?;
    match setup.kind {
        Kind::Anyhop => Worker::<AnyhopNode>::start(&runtime, &setup)?.serve(&runtime),
        Kind::Plain => Worker::<PlainNode>::start(&runtime, &setup)?.serve(&runtime),
    }
}

fn parse<T: serde::de::DeserializeOwned>(line: &str) -> Result<T> {
    serde_json::from_str(line).map_err(|e| BenchError::Worker(format!("was told {line:?}: {e}")))
}

fn say(answer: &Answer) -> Result<()> {
    let line = serde_json::to_string(answer).map_err(BenchError::while_("writing an answer"))?;
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(BenchError::io("standard output"))
}

struct Worker<C: Contender> {
    nodes: Vec<C>,
    sessions: Vec<C::Session>,
}

impl<C: Contender> Worker<C> {
    fn start(runtime: &Runtime, setup: &Setup) -> Result<Self> {
        let nodes = runtime.block_on(async {
            let mut nodes = Vec::with_capacity(setup.nodes);
            for _ in 0..setup.nodes {
                nodes.push(C::start(setup).await?);
            }
            Ok::<_, BenchError>(nodes)
        })?;
        say(&Answer::Ready(nodes.iter().map(C::target).collect()))?;
        Ok(Self {
            nodes,
            sessions: Vec::new(),
        })
    }

    fn serve(mut self, runtime: &Runtime) -> Result<()> {
        for line in io::stdin().lines() {
            let command = parse(&line.map_err(BenchError::io("standard input"))?)?;
            let answer = self.handle(runtime, command);
            say(&answer.unwrap_or_else(|e| Answer::Failed(e.to_string())))?;
        }
        Ok(())
    }

    fn handle(&mut self, runtime: &Runtime, command: Command) -> Result<Answer> {
        match command {
            Command::Attach => self.attach(runtime),
            Command::Connect {
                from,
                targets,
                in_flight,
            } => self.connect(runtime, from, targets, in_flight),
            Command::Send { streams, millis } => {
                let (session, chunk) = (self.first()?, Bytes::from(vec![0x5a; CHUNK]));
                let work = move |end| {
                    let (session, chunk) = (session.clone(), chunk.clone());
                    async move { session.send_until(chunk, end).await }
                };
                measure(runtime, streams, millis, work).map(Answer::Sent)
            }
            Command::Ask { in_flight, millis } => {
                let (session, body) = (self.first()?, Bytes::from(vec![0x5a; BODY]));
                let work = move |end| ask_until(session.clone(), body.clone(), end);
                measure(runtime, in_flight, millis, work).map(Answer::Asked)
            }
            Command::Look => self.look().map(Answer::Looked),
        }
    }

    fn first(&self) -> Result<C::Session> {
        let first = self.sessions.first().cloned();
        first.ok_or_else(|| BenchError::Worker("has no session yet".to_owned()))
    }

    fn attach(&self, runtime: &Runtime) -> Result<Answer> {
        let nodes = self.nodes.clone();
        timed(runtime, GRACE, async move {
            for node in nodes {
                node.attach().await?;
            }
            Ok(())
        })
        .map(|(seconds, ())| Answer::Done { seconds })
    }

    fn connect(
        &mut self,
        runtime: &Runtime,
        from: usize,
        targets: Vec<Target>,
        in_flight: usize,
    ) -> Result<Answer> {
        let nodes = self.nodes.clone();
        let (seconds, sessions) = timed(runtime, GRACE, async move {
            let room = Arc::new(Semaphore::new(in_flight));
            let mut dials = JoinSet::new();
            for (target, node) in targets
                .into_iter()
                .zip(nodes.into_iter().cycle().skip(from))
            {
                let permit = Arc::clone(&room).acquire_owned().await;
                dials.spawn(async move {
                    let session = node.connect(target).await;
                    drop(permit);
                    session
                });
            }
            join(dials).await
        })?;
        self.sessions.extend(sessions);
        Ok(Answer::Done { seconds })
    }

    fn look(&self) -> Result<Look> {
        let cpu = anyhop_os::process_cpu_time().map_err(BenchError::io("CPU time"))?;
        let counts = self.nodes.iter().map(C::counts);
        let (sessions, forwarded_bytes) =
            counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        Ok(Look {
            cpu_s: cpu.as_secs_f64(),
            rss_bytes: resident()?,
            sessions,
            path: self.sessions.first().and_then(Session::path),
            forwarded_bytes,
        })
    }
}

/// Runs `lanes` copies of some work for a while, on the runtime's own threads.
fn measure<F, W>(runtime: &Runtime, lanes: usize, millis: u64, work: W) -> Result<Amount>
where
    W: Fn(Instant) -> F + Send + 'static,
    F: Future<Output = Result<u64>> + Send + 'static,
{
    let during = Duration::from_millis(millis);
    let (seconds, counts) = timed(runtime, during + GRACE, async move {
        let end = Instant::now() + during;
        let mut running = JoinSet::new();
        for _ in 0..lanes {
            running.spawn(work(end));
        }
        join(running).await
    })?;
    Ok(Amount {
        count: counts.into_iter().sum(),
        seconds,
    })
}

async fn ask_until<S: Session>(session: S, body: Bytes, end: Instant) -> Result<u64> {
    let mut answered = 0;
    while Instant::now() < end {
        session.ask(body.clone()).await?;
        answered += 1;
    }
    Ok(answered)
}

async fn join<T: 'static>(mut tasks: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let mut all = Vec::with_capacity(tasks.len());
    while let Some(done) = tasks.join_next().await {
        all.push(done.map_err(BenchError::while_("running a task"))??);
    }
    Ok(all)
}

/// Runs a task on the runtime's threads; returns the seconds it took, and its result.
fn timed<T: Send + 'static>(
    runtime: &Runtime,
    limit: Duration,
    task: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<(f64, T)> {
    let task = runtime.spawn(async move {
        let start = Instant::now();
        let result = timeout(limit, task).await;
        let result = result.map_err(|_| BenchError::Measured {
            what: "a command",
            reason: format!("not done within {limit:?}"),
        })??;
        Ok((start.elapsed().as_secs_f64(), result))
    });
    let joined = runtime.block_on(task);
    joined.map_err(BenchError::while_("running a command"))?
}

/// Resident memory of this process, exactly.
fn resident() -> Result<u64> {
    const PATH: &str = "/proc/self/smaps_rollup";
    let text = fs::read_to_string(PATH).map_err(BenchError::io(PATH))?;
    let kib = text
        .lines()
        .find_map(|l| l.strip_prefix("Rss:")?.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse::<u64>().ok())
        .map(|kib| kib * 1024)
        .ok_or_else(|| BenchError::Worker(format!("finds no resident size in {PATH}")))
}
