//! Moves the datagrams of one WebSocket: frames out of the outbox in large writes, reads
//! into batches for the engine.

use std::{sync::atomic::Ordering, time::Duration};

use anyhop_proto::websocket::{Decoder, Frame, Opcode, WebSocketError, put_frame};
use bytes::Bytes;
use rand::RngExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
    time::{Instant, timeout},
};

use super::{Batch, Carrier, Carriers, MAX_DATAGRAM};
use crate::net::BoxStream;

/// Longest message followed, bytes; a peer that sends a longer one is no node.
const MAX_MESSAGE: usize = 2048;
/// Bytes read at once.
const READ_BUFFER: usize = 64 << 10;
/// How long the other side may take to hear that the connection ends.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// A connection after its HTTP upgrade, and what was read from it with the headers.
#[derive(Debug)]
pub(crate) struct Upgraded {
    pub(crate) stream: BoxStream,
    pub(crate) early: Bytes,
}

/// Runs until the connection ends or nobody has used it for `grace`; says why it ended.
pub(super) async fn run(
    carriers: &Carriers,
    carrier: &Carrier,
    upgraded: Upgraded,
    grace: Duration,
) -> &'static str {
    let (mut reading, mut writing) = split(upgraded.stream);
    let why = tokio::select! {
        why = read(carriers, carrier, &mut reading, &upgraded.early) => why,
        why = write(carrier, &mut writing) => why,
        () = carrier.unused_for(grace) => "nobody uses it",
    };
    let mut close = Vec::new();
    put_frame(&mut close, Opcode::Close, &[], carrier.mask());
    // Told as a courtesy: a connection that does not take it is dropped.
    let _ = timeout(CLOSE_GRACE, async {
        writing.write_all(&close).await?;
        writing.shutdown().await
    })
    .await;
    why
}

impl Carrier {
    fn mask(&self) -> Option<[u8; 4]> {
        use anyhop_proto::websocket::Sender;
        (self.sender == Sender::Server).then(|| rand::rng().random())
    }
}

/// Writes what the outbox holds, all of it at once.
async fn write(carrier: &Carrier, writing: &mut WriteHalf<BoxStream>) -> &'static str {
    let mut frames = Vec::new();
    loop {
        {
            let mut outbox = carrier.outbox();
            std::mem::swap(&mut outbox.frames, &mut frames);
            if let Some(payload) = outbox.pong.take() {
                put_frame(&mut frames, Opcode::Pong, &payload, carrier.mask());
            }
        }
        if frames.is_empty() {
            carrier.filled.notified().await;
            continue;
        }
        carrier.drained.notify_waiters();
        let mut rest = frames.as_slice();
        while !rest.is_empty() {
            match writing.write(rest).await {
                Ok(0) | Err(_) => return "the connection was lost",
                Ok(n) => rest = &rest[n..],
            }
            carrier.outbox().moved = Instant::now();
        }
        if writing.flush().await.is_err() {
            return "the connection was lost";
        }
        frames.clear();
    }
}

/// Reads messages and hands them to the engine, which is waited for when it is busy.
async fn read(
    carriers: &Carriers,
    carrier: &Carrier,
    reading: &mut ReadHalf<BoxStream>,
    early: &[u8],
) -> &'static str {
    let mut decoder = Decoder::new(carrier.sender, MAX_MESSAGE);
    let mut buf = vec![0; READ_BUFFER.max(early.len())];
    buf[..early.len()].copy_from_slice(early);
    let mut filled = early.len();
    loop {
        let mut sorter = Sorter::new(carriers, carrier);
        let mut taken = 0;
        loop {
            match decoder.take(&mut buf[taken..filled]) {
                Ok(None) => break,
                Ok(Some((len, frame))) => {
                    taken += len;
                    match frame {
                        Frame::Message(datagram) => sorter.add(datagram),
                        Frame::Ping(payload) => carrier.answer(payload),
                        Frame::Close => return "the other side closed it",
                        Frame::Fragment | Frame::Pong => {}
                    }
                }
                Err(e) => return broken(carrier, e),
            }
        }
        for batch in sorter.batches {
            if carriers.incoming.send(batch).await.is_err() {
                return "the node has stopped";
            }
        }
        buf.copy_within(taken..filled, 0);
        filled -= taken;
        match reading.read(&mut buf[filled..]).await {
            Ok(0) | Err(_) => return "the connection was lost",
            Ok(n) => filled += n,
        }
    }
}

fn broken(carrier: &Carrier, error: WebSocketError) -> &'static str {
    tracing::debug!(remote = %carrier.remote, %error, "WebSocket broken");
    "its frames make no sense"
}

impl Carrier {
    /// Answers a ping; one that comes before the last was answered replaces it.
    fn answer(&self, payload: &[u8]) {
        self.outbox().pong = Some(payload.to_vec());
        self.filled.notify_one();
    }
}

/// Puts datagrams that follow each other into batches of one length.
struct Sorter<'a> {
    carriers: &'a Carriers,
    carrier: &'a Carrier,
    batches: Vec<Batch>,
    /// The last batch takes more.
    open: bool,
}

impl<'a> Sorter<'a> {
    fn new(carriers: &'a Carriers, carrier: &'a Carrier) -> Self {
        Self {
            carriers,
            carrier,
            batches: Vec::new(),
            open: false,
        }
    }

    fn add(&mut self, datagram: &[u8]) {
        if datagram.is_empty() || datagram.len() > MAX_DATAGRAM {
            self.carriers.unfit.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if let (true, Some(batch)) = (self.open, self.batches.last_mut())
            && datagram.len() <= batch.stride
        {
            batch.bytes.extend_from_slice(datagram);
            self.open = datagram.len() == batch.stride;
            return;
        }
        self.batches.push(Batch {
            from: self.carrier.id,
            stride: datagram.len(),
            bytes: datagram.to_vec(),
        });
        self.open = true;
    }
}
