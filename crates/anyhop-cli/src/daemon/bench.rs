//! `bench`: how fast one node's bytes reach another.
//!
//! Each stream of protocol `bench/1` starts with a header (version, direction, seconds,
//! run) that the serving side answers with one byte. Then either side sends until the
//! time is over; a receiving server answers with the number of bytes that arrived.
//! Every daemon serves it, to one run per peer at a time and for bounded time.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhop::{Incoming, Listener, Node, PeerId, RecvStream, SendStream, StreamError};
use bytes::Bytes;
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

use crate::{
    api::{BenchQuery, BenchReport, BenchTell},
    args::{MAX_BENCH_SECONDS, MAX_BENCH_STREAMS},
    client::{Reader, Writer},
    error::{CliError, Code},
    frame::CHUNK,
};

/// Name of the protocol.
pub(super) const PROTOCOL: &str = "bench/1";

/// Peers measured with at once, as the serving side.
const MAX_PEERS: usize = 16;
/// Streams served at once over all peers.
const MAX_STREAMS: usize = 4 * MAX_BENCH_STREAMS as usize;
/// Time for a header, an answer to it, or the end after the time is over.
const GRACE: Duration = Duration::from_secs(20);
/// Time between two reports of progress.
const REPORT_EVERY: Duration = Duration::from_millis(200);

const VERSION: u8 = 1;
const HEADER_LEN: usize = 12;

/// What a stream's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    /// From the server to the client.
    reverse: bool,
    seconds: u16,
    /// Tells runs apart; the streams of one run share it.
    run: u64,
}

impl Header {
    fn encode(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0] = VERSION;
        out[1] = u8::from(self.reverse);
        out[2..4].copy_from_slice(&self.seconds.to_be_bytes());
        out[4..].copy_from_slice(&self.run.to_be_bytes());
        out
    }

    fn decode(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        let [version, reverse, s0, s1, run @ ..] = *bytes;
        let seconds = u16::from_be_bytes([s0, s1]);
        let valid =
            version == VERSION && reverse <= 1 && (1..=MAX_BENCH_SECONDS).contains(&seconds);
        valid.then(|| Self {
            reverse: reverse == 1,
            seconds,
            run: u64::from_be_bytes(run),
        })
    }
}

/// The server's answer to a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Verdict {
    Go = 0,
    Busy = 1,
    Bad = 2,
}

/// Checks what a command asked for.
pub(super) fn check(query: BenchQuery) -> Result<BenchQuery, CliError> {
    if !(1..=MAX_BENCH_SECONDS).contains(&query.seconds)
        || !(1..=MAX_BENCH_STREAMS).contains(&query.streams)
    {
        return Err(CliError::usage(format!(
            "a bench takes 1 to {MAX_BENCH_SECONDS} seconds over 1 to {MAX_BENCH_STREAMS} streams"
        )));
    }
    Ok(query)
}

// ---- the measuring side

/// A run whose streams are open.
pub(super) struct Run {
    node: Node,
    peer: PeerId,
    query: BenchQuery,
    streams: Vec<(SendStream, RecvStream)>,
}

impl Run {
    /// Opens the streams; the peer has agreed to each.
    pub(super) async fn open(
        node: Node,
        peer: PeerId,
        query: BenchQuery,
    ) -> Result<Self, CliError> {
        let header = Header {
            reverse: query.reverse,
            seconds: query.seconds,
            run: rand::random(),
        };
        let mut streams = Vec::new();
        for _ in 0..query.streams {
            let (mut send, mut recv) = node.open_bi(peer, PROTOCOL).await?;
            send.write_all(&header.encode()).await?;
            let verdict = in_time(GRACE, peer, read_exact::<1>(&mut recv)).await?;
            match verdict {
                [0] => streams.push((send, recv)),
                [1] => {
                    return Err(CliError::new(
                        Code::Limit,
                        format!("{peer} serves another bench already, or as many as it may"),
                    )
                    .hint("try again when it has ended"));
                }
                _ => {
                    return Err(CliError::new(
                        Code::Refused,
                        format!("{peer} refused to take part in this bench"),
                    )
                    .hint("both sides must run the same version"));
                }
            }
        }
        Ok(Self {
            node,
            peer,
            query,
            streams,
        })
    }

    /// Measures, telling the command.
    pub(super) async fn report(self, mut reader: Reader, mut writer: Writer) {
        let moved = Arc::new(AtomicU64::new(0));
        let started = Instant::now();
        let mut measuring = std::pin::pin!(self.measure(Arc::clone(&moved)));
        let mut tick = tokio::time::interval(REPORT_EVERY);
        let result = loop {
            tokio::select! {
                result = &mut measuring => break result,
                _ = tick.tick() => {
                    let progress = BenchTell::Progress {
                        bytes: moved.load(Ordering::Relaxed),
                        elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                    };
                    if writer.json(&progress).await.is_err() {
                        return;
                    }
                }
                // The command says nothing: this is its end.
                _ = reader.next() => return,
            }
        };
        let _ = match result {
            Ok(report) => writer.json(&BenchTell::Done(report)).await,
            Err(error) => writer.error(error).await,
        };
    }

    async fn measure(self, moved: Arc<AtomicU64>) -> Result<BenchReport, CliError> {
        let Self {
            node,
            peer,
            query,
            streams,
        } = self;
        let cpu_before = cpu_time()?;
        let started = Instant::now();
        let until = started + Duration::from_secs(query.seconds.into());
        let mut running = JoinSet::new();
        for (send, recv) in streams {
            let moved = Arc::clone(&moved);
            running.spawn(async move {
                let work = async {
                    if query.reverse {
                        drain(recv, &moved).await
                    } else {
                        push(send, recv, until, &moved).await
                    }
                };
                in_time(
                    Duration::from_secs(query.seconds.into()) + GRACE,
                    peer,
                    work,
                )
                .await
            });
        }
        let mut bytes = 0;
        while let Some(result) = running.join_next().await {
            bytes += result
                .map_err(|e| CliError::new(Code::Failed, format!("the bench broke: {e}")))??;
        }
        let seconds = started.elapsed().as_secs_f64();
        let paths = node.session_info(peer).map(|s| s.paths).unwrap_or_default();
        Ok(BenchReport {
            peer_id: peer.to_base58(),
            gbit_s: bytes as f64 * 8.0 / seconds / 1e9,
            cpu_s_local: (cpu_time()?.saturating_sub(cpu_before)).as_secs_f64(),
            path: paths.into_iter().find(|p| p.selected),
            bytes,
            seconds,
            streams: query.streams,
            reverse: query.reverse,
        })
    }
}

fn cpu_time() -> Result<Duration, CliError> {
    anyhop_os::process_cpu_time()
        .map_err(|e| CliError::new(Code::Failed, format!("cannot read the CPU time used: {e}")))
}

/// Sends until the time is over; returns how much the peer says has arrived.
async fn push(
    mut send: SendStream,
    mut recv: RecvStream,
    until: Instant,
    moved: &AtomicU64,
) -> Result<u64, CliError> {
    send_until(&mut send, until, moved).await?;
    Ok(u64::from_be_bytes(read_exact(&mut recv).await?))
}

async fn send_until(
    send: &mut SendStream,
    until: Instant,
    moved: &AtomicU64,
) -> Result<(), StreamError> {
    let chunk = Bytes::from(vec![0x5a; CHUNK]);
    while Instant::now() < until {
        send.write_chunk(chunk.clone()).await?;
        moved.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    }
    send.finish()
}

async fn drain(mut recv: RecvStream, moved: &AtomicU64) -> Result<u64, CliError> {
    let mut buf = vec![0; CHUNK];
    let mut total = 0;
    while let Some(n) = recv.read(&mut buf).await? {
        total += n as u64;
        moved.fetch_add(n as u64, Ordering::Relaxed);
    }
    Ok(total)
}

async fn read_exact<const N: usize>(recv: &mut RecvStream) -> Result<[u8; N], CliError> {
    let mut out = [0; N];
    recv.read_exact(&mut out)
        .await
        .map_err(|e| CliError::new(Code::Lost, format!("the bench stream ended early: {e}")))?;
    Ok(out)
}

async fn in_time<T>(
    limit: Duration,
    peer: PeerId,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(CliError::new(
            Code::Timeout,
            format!(
                "{peer} did not go on with the bench within {} s",
                limit.as_secs()
            ),
        )),
    }
}

// ---- the serving side

/// Who is being served: one run for each peer.
#[derive(Debug, Default)]
pub(super) struct BenchGate {
    runs: Mutex<HashMap<PeerId, (u64, u16)>>,
}

impl BenchGate {
    fn runs(&self) -> MutexGuard<'_, HashMap<PeerId, (u64, u16)>> {
        // The map is whole after every single operation on it.
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets one more stream of a run in.
    fn enter(self: &Arc<Self>, peer: PeerId, run: u64) -> Option<Seat> {
        let mut runs = self.runs();
        let full = runs.len() >= MAX_PEERS;
        match runs.entry(peer) {
            Entry::Occupied(mut entry) => {
                let (current, streams) = entry.get_mut();
                if *current != run || *streams >= MAX_BENCH_STREAMS {
                    return None;
                }
                *streams += 1;
            }
            Entry::Vacant(_) if full => return None,
            Entry::Vacant(entry) => {
                entry.insert((run, 1));
            }
        }
        Some(Seat {
            gate: Arc::clone(self),
            peer,
        })
    }
}

/// One stream that is being served.
struct Seat {
    gate: Arc<BenchGate>,
    peer: PeerId,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.gate.runs().entry(self.peer) {
            entry.get_mut().1 -= 1;
            if entry.get().1 == 0 {
                entry.remove();
            }
        }
    }
}

/// Serves peers until the node closes.
pub(super) async fn serve(gate: Arc<BenchGate>, mut listener: Listener) {
    let permits = Arc::new(Semaphore::new(MAX_STREAMS));
    let mut serving = JoinSet::new();
    while let Some(incoming) = listener.next().await {
        while serving.try_join_next().is_some() {}
        // Dropping the stream refuses it.
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            continue;
        };
        let gate = Arc::clone(&gate);
        serving.spawn(async move {
            let limit = Duration::from_secs(MAX_BENCH_SECONDS.into()) + 2 * GRACE;
            let peer = incoming.peer;
            if let Err(e) = in_time(limit, peer, serve_stream(&gate, incoming)).await {
                tracing::debug!(%peer, "a bench stream ended: {e}");
            }
            drop(permit);
        });
    }
}

async fn serve_stream(gate: &Arc<BenchGate>, incoming: Incoming) -> Result<(), CliError> {
    let Incoming {
        peer,
        mut recv,
        send: Some(mut send),
    } = incoming
    else {
        return Err(CliError::new(Code::Failed, "it is one-way"));
    };
    let bytes = in_time(GRACE, peer, read_exact(&mut recv)).await?;
    let seat = Header::decode(&bytes).map(|h| (h, gate.enter(peer, h.run)));
    let (verdict, go) = match seat {
        None => (Verdict::Bad, None),
        Some((_, None)) => (Verdict::Busy, None),
        Some((header, Some(seat))) => (Verdict::Go, Some((header, seat))),
    };
    send.write_all(&[verdict as u8]).await?;
    let Some((header, _seat)) = go else {
        return Ok(send.finish()?);
    };
    let counted = AtomicU64::new(0);
    if header.reverse {
        let until = Instant::now() + Duration::from_secs(header.seconds.into());
        send_until(&mut send, until, &counted).await?;
        // Until it arrived: dropping the stream earlier is fine, the seat is not.
        send.stopped().await?;
    } else {
        let total = drain(recv, &counted).await?;
        send.write_all(&total.to_be_bytes()).await?;
        send.finish()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_run_per_peer_is_served_and_ends_with_its_last_stream() {
        let gate = Arc::new(BenchGate::default());
        let (a, b) = (PeerId::random(), PeerId::random());
        let first = gate.enter(a, 1).expect("nobody there");
        let second = gate.enter(a, 1).expect("the same run");
        assert!(gate.enter(a, 2).is_none(), "another run of the same peer");
        assert!(gate.enter(b, 2).is_some(), "another peer");
        drop(first);
        assert!(gate.enter(a, 2).is_none(), "one stream is left");
        drop(second);
        assert!(gate.enter(a, 2).is_some());
    }

    #[test]
    fn peers_and_streams_are_limited() {
        let gate = Arc::new(BenchGate::default());
        let peer = PeerId::random();
        let mut seats: Vec<_> = (0..MAX_BENCH_STREAMS)
            .filter_map(|_| gate.enter(peer, 1))
            .collect();
        assert_eq!(seats.len(), usize::from(MAX_BENCH_STREAMS));
        assert!(gate.enter(peer, 1).is_none());
        seats.extend((1..MAX_PEERS).filter_map(|_| gate.enter(PeerId::random(), 1)));
        assert!(gate.enter(PeerId::random(), 1).is_none());
        drop(seats);
        assert!(gate.runs().is_empty());
    }

    proptest! {
        #[test]
        fn headers_round_trip(reverse: bool, seconds in 1..=MAX_BENCH_SECONDS, run: u64) {
            let header = Header { reverse, seconds, run };
            prop_assert_eq!(Header::decode(&header.encode()), Some(header));
        }

        #[test]
        fn what_decodes_is_within_limits(bytes: [u8; HEADER_LEN]) {
            if let Some(header) = Header::decode(&bytes) {
                prop_assert!((1..=MAX_BENCH_SECONDS).contains(&header.seconds));
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }
}
