//! A stream that runs while the paths beneath it change.

use std::time::Duration;

use anyhop::{Incoming, Listener, Node, PeerId, RecvStream, StreamError};
use rand::{Rng, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};
use tokio::{sync::watch, task::JoinHandle, time::MissedTickBehavior};

use super::DemoError;
use crate::meter::Meter;

/// Protocol of the demo's streams.
pub(super) const PROTOCOL: &str = "demo/transfer/1";

/// Bytes written at once.
const CHUNK: usize = 16 << 10;

/// Pause between two chunks: about 3 MB/s.
const PACE: Duration = Duration::from_millis(5);

/// Bytes and SHA-256 of one end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digested {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// Takes one stream, hashes it, answers `bytes sha256` on the way back.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) meter: Meter,
    task: JoinHandle<Result<Digested, DemoError>>,
}

impl Sink {
    /// Waits for a stream that a peer opens.
    pub(super) fn new(listener: Listener) -> Self {
        let meter = Meter::default();
        let task = tokio::spawn(take(listener, meter.clone()));
        Self { meter, task }
    }

    /// What arrived, once the stream has ended.
    pub(super) async fn finish(self) -> Result<Digested, DemoError> {
        match self.task.await {
            Ok(taken) => taken,
            Err(e) => Err(DemoError::Wrong(format!("receiving task failed: {e}"))),
        }
    }
}

async fn take(mut listener: Listener, meter: Meter) -> Result<Digested, DemoError> {
    let Some(Incoming {
        mut recv,
        send: Some(mut answer),
        ..
    }) = listener.next().await
    else {
        return Err(DemoError::Wrong("no two-way stream arrived".into()));
    };
    let digested = drain(&mut recv, Some(&meter))
        .await
        .map_err(failed("receiving the stream"))?;
    let text = format!("{} {}", digested.bytes, digested.sha256);
    let answering = failed("answering with the hash");
    answer
        .write_all(text.as_bytes())
        .await
        .map_err(&answering)?;
    answer.finish().map_err(&answering)?;
    answer.stopped().await.map_err(&answering)?;
    Ok(digested)
}

async fn drain(recv: &mut RecvStream, meter: Option<&Meter>) -> Result<Digested, StreamError> {
    let mut hash = Sha256::new();
    let mut bytes = 0;
    while let Some(chunk) = recv.read_chunk(64 << 10).await? {
        hash.update(&chunk);
        bytes += chunk.len() as u64;
        if let Some(meter) = meter {
            meter.add(chunk.len());
        }
    }
    Ok(Digested {
        bytes,
        sha256: hex(&hash.finalize()),
    })
}

/// Sends random bytes at a steady pace.
#[derive(Debug)]
pub(super) struct Source {
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<Digested, DemoError>>,
}

impl Source {
    /// Opens a stream to `peer` and goes on until [`finish`](Self::finish)ed, or until
    /// `limit` bytes are sent.
    pub(super) fn new(node: Node, peer: PeerId, limit: u64) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(give(node, peer, limit, stopped));
        Self { stop, task }
    }

    /// Ends the stream; answers what was sent, once the other end has confirmed it.
    pub(super) async fn finish(self) -> Result<Digested, DemoError> {
        self.stop.send_replace(true);
        self.wait().await
    }

    /// Waits until all bytes up to the limit are sent and confirmed.
    pub(super) async fn wait(self) -> Result<Digested, DemoError> {
        match self.task.await {
            Ok(given) => given,
            Err(e) => Err(DemoError::Wrong(format!("sending task failed: {e}"))),
        }
    }
}

async fn give(
    node: Node,
    peer: PeerId,
    limit: u64,
    stopped: watch::Receiver<bool>,
) -> Result<Digested, DemoError> {
    let sending = failed("sending the stream");
    let (mut send, mut recv) = node.open_bi(peer, PROTOCOL).await.map_err(&sending)?;
    let mut rng = StdRng::seed_from_u64(limit);
    let mut hash = Sha256::new();
    let mut bytes = 0;
    let mut chunk = vec![0; CHUNK];
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while bytes < limit && !*stopped.borrow() {
        pace.tick().await;
        rng.fill_bytes(&mut chunk);
        send.write_all(&chunk).await.map_err(&sending)?;
        hash.update(&chunk);
        bytes += chunk.len() as u64;
    }
    send.finish().map_err(&sending)?;
    let sha256 = hex(&hash.finalize());

    let mut answer = Vec::new();
    while let Some(part) = recv.read_chunk(256).await.map_err(&sending)? {
        answer.extend_from_slice(&part);
        if answer.len() > 256 {
            return Err(DemoError::Wrong("the receiver's answer is too long".into()));
        }
    }
    let sent = format!("{bytes} {sha256}");
    if answer != sent.as_bytes() {
        let got = String::from_utf8_lossy(&answer);
        return Err(DemoError::Wrong(format!(
            "the stream changed on its way: sent {sent}, received {got}"
        )));
    }
    Ok(Digested { bytes, sha256 })
}

fn failed(what: &str) -> impl Fn(StreamError) -> DemoError + use<> {
    let what = what.to_owned();
    move |source| DemoError::Stream {
        what: what.clone(),
        source,
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String");
        text
    })
}
