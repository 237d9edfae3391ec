//! Bytes through `cat`, hashed at both ends.

use std::time::Duration;

use anyhop_lab::{meter::Meter, netns::Process};
use rand::{Rng, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{ChildStdin, ChildStdout},
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    PATIENCE,
    node::{Node, parse},
};

const CHUNK: usize = 64 << 10;

/// Bytes per second beyond a gate that is not open yet.
const TRICKLE: u64 = 500_000;

/// How fast the sender's standard input is fed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Bytes per second; `None` is as fast as they are taken.
    pub(crate) bytes_per_s: Option<u64>,
    /// Beyond this many bytes the sender only trickles, so that a transfer does not
    /// end before a test has done to it what it came for.
    pub(crate) gate: u64,
}

/// A transfer that runs.
pub(crate) struct Transfer {
    /// What has arrived.
    pub(crate) meter: Meter,
    pace: watch::Sender<Pace>,
    began: Instant,
    feeding: JoinHandle<String>,
    draining: JoinHandle<String>,
    sender: Process,
    receiver: Process,
}

impl Transfer {
    /// Starts to move `bytes` from one node to another.
    pub(crate) async fn start(from: &Node, to: &Node, bytes: u64, pace: Pace) -> Self {
        let listen = to.command(&["--json", "cat", "--listen"]);
        let mut receiver = Process::start(listen).expect("started");
        let listening = receiver.says("listening", PATIENCE).await;
        listening.unwrap_or_else(|e| panic!("{e}"));
        // Its own direction has nothing to say.
        drop(receiver.take_stdin());
        let dial = from.command(&["--json", "cat", &to.peer]);
        let mut sender = Process::start(dial).expect("started");
        let (pace, paced) = watch::channel(pace);
        let meter = Meter::default();
        let input = sender.take_stdin().expect("a pipe");
        let output = receiver.take_stdout().expect("a pipe").into_inner();
        Self {
            feeding: tokio::spawn(feed(input, bytes, paced)),
            draining: tokio::spawn(drain(output, meter.clone())),
            began: Instant::now(),
            meter,
            pace,
            sender,
            receiver,
        }
    }

    /// Changes how fast it goes on.
    pub(crate) fn set_pace(&self, pace: Pace) {
        self.pace.send_replace(pace);
    }

    /// Waits until this many bytes have arrived.
    pub(crate) async fn reaches(&self, bytes: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.meter.bytes() < bytes {
            let at = self.meter.bytes();
            assert!(
                Instant::now() < deadline && !self.draining.is_finished(),
                "{at} bytes arrived, {bytes} expected; sender: {}; receiver: {}",
                self.sender.stderr(),
                self.receiver.stderr()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until both ends have given up; answers what the sender and the receiver say.
    pub(crate) async fn fails(self, within: Duration) -> (String, String) {
        self.feeding.abort();
        let sender = ends_with_error(self.sender, within).await;
        let receiver = ends_with_error(self.receiver, within).await;
        self.draining.abort();
        (sender, receiver)
    }

    /// Waits for its end and compares both ends' hashes. Answers MB/s.
    pub(crate) async fn finish(self) -> f64 {
        let sent = joined(self.feeding).await;
        let sender = self.sender.finish(PATIENCE).await;
        let sender = sender.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(sender.code, Some(0), "sender: {}", sender.stderr);
        let received = joined(self.draining).await;
        let took = self.began.elapsed();
        let receiver = self.receiver.finish(PATIENCE).await;
        let receiver = receiver.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(receiver.code, Some(0), "receiver: {}", receiver.stderr);
        assert_eq!(sent, received, "the data changed on its way");
        self.meter.bytes() as f64 / 1e6 / took.as_secs_f64()
    }
}

/// The error that a process ends with, which has exit code 1.
async fn ends_with_error(process: Process, within: Duration) -> String {
    let done = process.finish(within).await;
    let done = done.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(done.code, Some(1), "{done:?}");
    let line = done.stderr.lines().last().expect("an error");
    let message = parse(line)["error"]["message"].clone();
    message.as_str().expect("a message").to_owned()
}

async fn joined(task: JoinHandle<String>) -> String {
    let done = tokio::time::timeout(2 * PATIENCE, task).await;
    done.expect("the transfer ends")
        .expect("its task ends well")
}

/// Writes random bytes; answers their hash and number.
async fn feed(mut input: ChildStdin, bytes: u64, pace: watch::Receiver<Pace>) -> String {
    let mut rng = StdRng::seed_from_u64(bytes);
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut sent = 0;
    let mut tick = interval(Duration::from_millis(5));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    let mut allowance = 0.0;
    while sent < bytes {
        let now = *pace.borrow();
        let rate = if sent < now.gate {
            now.bytes_per_s
        } else {
            Some(TRICKLE)
        };
        if let Some(rate) = rate {
            tick.tick().await;
            allowance += last.elapsed().as_secs_f64() * rate as f64;
            // No catching up after the receiver stood still.
            allowance = allowance.min(rate as f64 / 10.0);
        }
        last = Instant::now();
        while sent < bytes && (rate.is_none() || allowance > 0.0) {
            let size = usize::try_from(bytes - sent).unwrap_or(CHUNK).min(CHUNK);
            rng.fill_bytes(&mut chunk[..size]);
            if let Err(e) = input.write_all(&chunk[..size]).await {
                return format!("{sent} bytes, then the sender took no more: {e}");
            }
            hash.update(&chunk[..size]);
            sent += size as u64;
            allowance -= size as f64;
            if rate.is_none() {
                break;
            }
        }
    }
    digest(hash, sent)
}

/// Reads to the end; answers the hash and number of bytes.
async fn drain(mut output: ChildStdout, meter: Meter) -> String {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let size = output.read(&mut chunk).await.expect("readable");
        if size == 0 {
            return digest(hash, meter.bytes());
        }
        hash.update(&chunk[..size]);
        meter.add(size);
    }
}

fn digest(hash: Sha256, bytes: u64) -> String {
    format!("{bytes} bytes {:?}", hash.finalize())
}
