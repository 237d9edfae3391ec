//! Running a scenario, and what came of it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhop::{Node, PathKind, PeerId};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, interval, sleep, sleep_until},
};

use super::{
    spec::{Scenario, Traffic, TrafficKind},
    world::World,
};

/// Pauses of a transfer that are told one by one, and how many at most.
const TELL_STALLS_FROM: Duration = Duration::from_millis(500);
const MAX_STALLS: usize = 1000;

const CHUNK: usize = 64 << 10;
const LOOK_EVERY: Duration = Duration::from_millis(10);
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// Progress that may wait to be told; a slow teller loses some.
const PROGRESS_QUEUE: usize = 64;

/// What is told while a scenario runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// An event happened.
    Event {
        /// When, seconds.
        at_s: f64,
        /// What.
        text: String,
    },
    /// Transfers have moved on.
    Moved {
        /// Bytes of all transfers that have arrived.
        bytes: u64,
        /// Bytes of all transfers.
        total: u64,
    },
}

/// What came of a scenario. Times are virtual.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// How long it ran, milliseconds.
    pub took_ms: f64,
    /// Events that happened.
    pub events: usize,
    /// In the order of the scenario.
    pub traffic: Vec<TrafficReport>,
    /// What is not as expected; empty is good.
    pub missed: Vec<String>,
}

/// What came of one traffic. Times are from its beginning, milliseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TrafficReport {
    /// Who dialled.
    pub from: String,
    /// Who was dialled.
    pub to: String,
    /// Bytes that arrived.
    pub bytes: u64,
    /// Until the peer answered.
    pub connected_ms: Option<f64>,
    /// Until it first had a direct path.
    pub direct_ms: Option<f64>,
    /// Until all had arrived.
    pub took_ms: Option<f64>,
    /// The longest pause of a transfer, the slowest echo of pings.
    pub longest_stall_ms: f64,
    /// Longer pauses, in order.
    pub stalls: Vec<Stall>,
    /// Whether what arrived has the hash of what was sent; pings have none.
    pub hash_equal: Option<bool>,
    /// Why it broke off.
    pub error: Option<String>,
}

/// A pause of a transfer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stall {
    /// When it ended, milliseconds of the scenario.
    pub at_ms: f64,
    /// How long it was.
    pub ms: f64,
    /// The last event before its end.
    pub after: String,
}

impl Report {
    /// Whether everything was as expected.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.missed.is_empty()
    }
}

impl Scenario {
    /// Runs it under virtual time ([`run_virtual`](crate::clock::run_virtual)).
    ///
    /// # Errors
    /// If the network or a node cannot be started, or an event cannot happen.
    pub async fn run(&self, tell: &mut dyn FnMut(Progress)) -> Result<Report, String> {
        let mut world = World::start(self).await?;
        let began = Instant::now();
        let (progress, mut told) = mpsc::channel(PROGRESS_QUEUE);
        let run = Arc::new(Run {
            began,
            last_event: Mutex::new("the start".to_owned()),
            moved: Mutex::new(0),
            total: self.total_bytes(),
            progress,
            stopped: watch::Sender::new(false),
        });
        let mut tasks = JoinSet::new();
        for (i, traffic) in self.traffic.iter().enumerate() {
            let (from, to) = (world.node(traffic.from), world.node(traffic.to));
            let (Some(from), Some(to)) = (from, to) else {
                return Err("a node of the traffic does not run".to_owned());
            };
            let watched = Watched {
                run: Arc::clone(&run),
                from,
                to,
                report: Arc::new(Mutex::new(self.blank(traffic))),
            };
            let traffic = traffic.clone();
            tasks.spawn(async move { (i, watched.play(i, &traffic).await) });
        }
        let mut reports: Vec<_> = self.traffic.iter().map(|t| self.blank(t)).collect();
        let transfers = |t: &&Traffic| matches!(t.kind, TrafficKind::Transfer(_));
        let mut open = self.traffic.iter().filter(transfers).count();
        let endless = open == 0;
        let end = began + self.duration;
        let mut events = self.events.iter();
        let mut next = events.next();
        let mut happened = 0;
        while open > 0 || endless {
            let at = next.map_or(end, |event| began + event.at).min(end);
            tokio::select! {
                Some(Ok((i, report))) = tasks.join_next() => {
                    open -= usize::from(transfers(&&self.traffic[i]));
                    reports[i] = report;
                }
                Some(progress) = told.recv() => tell(progress),
                () = sleep_until(at) => {
                    let Some(event) = next.filter(|_| at < end) else { break };
                    let text = event.action.text(self);
                    world.apply(self, &event.action).await?;
                    happened += 1;
                    run.lock(&run.last_event).clone_from(&text);
                    tell(Progress::Event { at_s: event.at.as_secs_f64(), text });
                    next = events.next();
                }
            }
        }
        let took = began.elapsed();
        // What still runs is asked for what it has seen.
        run.stopped.send_replace(true);
        while let Some(Ok((i, report))) = tasks.join_next().await {
            reports[i] = report;
        }
        let mut missed = self.compare(&reports);
        let breaches = world.net.uninvited().into_iter();
        let breaches = breaches.chain(world.net.amplified(3));
        missed.extend(breaches.map(|breach| breach.to_string()));
        world.close().await;
        Ok(Report {
            seed: self.seed,
            took_ms: millis(took),
            events: happened,
            traffic: reports,
            missed,
        })
    }

    fn total_bytes(&self) -> u64 {
        let bytes = self.traffic.iter().map(|t| match t.kind {
            TrafficKind::Transfer(bytes) => bytes,
            TrafficKind::Ping(_) => 0,
        });
        bytes.sum()
    }

    fn blank(&self, traffic: &Traffic) -> TrafficReport {
        TrafficReport {
            from: self.hosts[traffic.from].name.clone(),
            to: self.hosts[traffic.to].name.clone(),
            ..TrafficReport::default()
        }
    }

    /// What is not as expected.
    fn compare(&self, reports: &[TrafficReport]) -> Vec<String> {
        let mut missed = Vec::new();
        for (traffic, report) in self.traffic.iter().zip(reports) {
            let mut miss = |what: String| {
                missed.push(format!("{} to {}: {what}", report.from, report.to));
            };
            if let Some(error) = &report.error {
                miss(error.clone());
            } else if let TrafficKind::Transfer(bytes) = traffic.kind
                && report.hash_equal != Some(true)
            {
                miss(match report.hash_equal {
                    Some(_) => "what arrived is not what was sent".to_owned(),
                    None => format!("{} of {bytes} bytes arrived in time", report.bytes),
                });
            }
            let expect = &self.expect;
            let limits = [
                ("connected", report.connected_ms, expect.connected_within),
                ("direct", report.direct_ms, expect.direct_within),
            ];
            for (what, ms, limit) in limits {
                let Some(limit) = limit else { continue };
                match ms {
                    Some(ms) if ms <= millis(limit) => {}
                    Some(ms) => miss(format!("{what} after {ms:.0} ms, not within {limit:?}")),
                    None => miss(format!("not {what}, expected within {limit:?}")),
                }
            }
            let stall = report.longest_stall_ms;
            if let Some(limit) = expect.longest_stall_below
                && stall >= millis(limit)
            {
                let worst = report.stalls.iter().max_by(|a, b| a.ms.total_cmp(&b.ms));
                let after = worst.map_or("?", |stall| &stall.after);
                miss(format!(
                    "stalled for {stall:.0} ms after {after:?}, not below {limit:?}"
                ));
            }
        }
        missed
    }
}

/// What the traffics of a running scenario share.
struct Run {
    began: Instant,
    last_event: Mutex<String>,
    moved: Mutex<u64>,
    total: u64,
    progress: mpsc::Sender<Progress>,
    stopped: watch::Sender<bool>,
}

impl Run {
    fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self, bytes: u64) {
        let mut moved = self.lock(&self.moved);
        *moved += bytes;
        // A full queue has newer news coming.
        let _ = self.progress.try_send(Progress::Moved {
            bytes: *moved,
            total: self.total,
        });
    }
}

/// One traffic under way.
#[derive(Clone)]
struct Watched {
    run: Arc<Run>,
    from: Node,
    to: Node,
    report: Arc<Mutex<TrafficReport>>,
}

impl Watched {
    async fn play(self, index: usize, traffic: &Traffic) -> TrafficReport {
        sleep_until(self.run.began + traffic.at).await;
        let began = Instant::now();
        let mut stopped = self.run.stopped.subscribe();
        let work = async {
            match traffic.kind {
                TrafficKind::Transfer(bytes) => self.transfer(index, bytes, began).await,
                TrafficKind::Ping(every) => self.ping(every, began).await,
            }
        };
        let direct = self.see_direct(began);
        tokio::select! {
            result = work => {
                let mut report = self.report();
                match result {
                    Ok(()) => report.took_ms = Some(millis(began.elapsed())),
                    Err(why) => report.error = Some(why),
                }
            }
            () = direct => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
        self.report().clone()
    }

    fn report(&self) -> MutexGuard<'_, TrafficReport> {
        self.run.lock(&self.report)
    }

    /// Notes when both sides are direct; never ends, so that the traffic goes on.
    async fn see_direct(&self, began: Instant) {
        let (from, to) = (self.from.peer_id(), self.to.peer_id());
        while !(is_direct(&self.from, to) && is_direct(&self.to, from)) {
            sleep(LOOK_EVERY).await;
        }
        self.report().direct_ms = Some(millis(began.elapsed()));
        std::future::pending().await
    }

    async fn ping(&self, every: Duration, began: Instant) -> Result<(), String> {
        let mut ticks = interval(every);
        loop {
            ticks.tick().await;
            let sent = Instant::now();
            let pong = self.from.ping(self.to.peer_id(), PING_TIMEOUT).await;
            pong.map_err(|e| format!("ping: {e}"))?;
            let mut report = self.report();
            if report.connected_ms.is_none() {
                report.connected_ms = Some(millis(began.elapsed()));
            } else {
                // The first echo waits for the session, which is told apart.
                let slowest = report.longest_stall_ms.max(millis(sent.elapsed()));
                report.longest_stall_ms = slowest;
            }
        }
    }

    async fn transfer(&self, index: usize, bytes: u64, began: Instant) -> Result<(), String> {
        let protocol = format!("lab/transfer/{index}");
        let sink = tokio::spawn(self.clone().receive(protocol.clone()));
        let opened = self.from.open_bi(self.to.peer_id(), &protocol).await;
        let (mut send, mut answer) = opened.map_err(|e| e.to_string())?;
        let sending = async {
            let mut rng = StdRng::seed_from_u64(bytes ^ index as u64);
            let mut hash = Sha256::new();
            let mut chunk = vec![0; CHUNK];
            let mut left = bytes;
            while left > 0 {
                let n = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
                rng.fill_bytes(&mut chunk[..n]);
                hash.update(&chunk[..n]);
                send.write_all(&chunk[..n]).await?;
                left -= n as u64;
            }
            send.finish()?;
            Ok::<_, anyhop::StreamError>(hash.finalize().to_vec())
        };
        let hello = async {
            let mut byte = [0];
            let read = answer.read(&mut byte).await;
            let said = matches!(read, Ok(Some(_)));
            self.report().connected_ms = said.then(|| millis(began.elapsed()));
            Ok(())
        };
        let (sent, ()) = tokio::try_join!(sending, hello).map_err(|e| e.to_string())?;
        let received = sink.await.map_err(|e| e.to_string())??;
        self.report().hash_equal = Some(sent == received);
        Ok(())
    }

    /// Takes the stream at its other end; answers its hash.
    async fn receive(self, protocol: String) -> Result<Vec<u8>, String> {
        let mut listener = self.to.accept(&protocol).map_err(|e| e.to_string())?;
        let incoming = listener.next().await.ok_or("the node was closed")?;
        let mut recv = incoming.recv;
        let mut answer = incoming.send.ok_or("the stream has no way back")?;
        answer.write_all(b"!").await.map_err(|e| e.to_string())?;
        let mut hash = Sha256::new();
        let mut last = Instant::now();
        loop {
            let chunk = recv.read_chunk(CHUNK).await.map_err(|e| e.to_string())?;
            self.note_pause(last.elapsed());
            last = Instant::now();
            let Some(chunk) = chunk else { break };
            hash.update(&chunk);
            self.report().bytes += chunk.len() as u64;
            self.run.moved(chunk.len() as u64);
        }
        Ok(hash.finalize().to_vec())
    }

    fn note_pause(&self, pause: Duration) {
        let mut report = self.report();
        report.longest_stall_ms = report.longest_stall_ms.max(millis(pause));
        if pause >= TELL_STALLS_FROM && report.stalls.len() < MAX_STALLS {
            report.stalls.push(Stall {
                at_ms: millis(self.run.began.elapsed()),
                ms: millis(pause),
                after: self.run.lock(&self.run.last_event).clone(),
            });
        }
    }
}

fn is_direct(node: &Node, peer: PeerId) -> bool {
    let info = node.session_info(peer);
    let mut paths = info.iter().flat_map(|info| &info.paths);
    paths.any(|path| path.selected && path.kind == PathKind::Direct)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
