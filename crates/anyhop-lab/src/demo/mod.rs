//! Five nodes in one process show what Anyhop does, on a virtual network with real
//! latencies and no root.
//!
//! ```text
//!                     internet
//!      ┌────────┬─────────┴───┬──────────────┬───────────────┐
//!      R     cone NAT      cone NAT    symmetric NAT   symmetric NAT
//!    public     │             │              │               │
//!               A             B              S               T
//! ```
//!
//! All but R know R's address and each other's public keys, nothing else. A reaches B
//! over R, both punch a direct path and move to it, a stream runs while the direct path
//! is cut and restored, and S stays on its circuit to T. [`run`] is `Ok` only if all of
//! that was seen; what it reports is measured.

mod event;
#[cfg(test)]
mod tests;
mod transfer;
mod watch;
mod world;

pub use event::{DemoError, DemoEvent, DemoSummary};

use std::time::Duration;

use anyhop::{Message, MessageError, PathKind};
use tokio::time::Instant;

use self::{
    transfer::{PROTOCOL, Sink, Source},
    watch::Watch,
    world::{Who, World},
};

/// How long each thing may take before the demo says that it was not seen.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long the stream runs in each state before the next change.
const SHOW: Duration = Duration::from_millis(1500);

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// How long S must have had a session for its circuit to count as kept: longer than
/// any attempt at a direct path.
const CIRCUIT_KEPT: Duration = Duration::from_secs(10);

/// Most the stream between A and B may carry; it ends by itself long before.
const STREAM_LIMIT: u64 = 1 << 30;

/// What the stream of S carries.
const SMALL_STREAM: u64 = 1 << 20;

/// Runs the demo and reports what is seen, when it is seen. Takes 10 to 20 s.
///
/// # Errors
/// When a step failed, or something that should happen was not seen in time.
pub async fn run(report: &mut (dyn FnMut(DemoEvent) + Send)) -> Result<DemoSummary, DemoError> {
    let begin = Instant::now();
    let world = World::start(report).await?;
    let demo = Demo { world, report };
    demo.play(begin).await
}

struct Demo<'a> {
    world: World,
    report: &'a mut (dyn FnMut(DemoEvent) + Send),
}

/// A session that A or S dialled.
struct Dialled {
    watch: Watch,
    began: Instant,
    took: Duration,
}

impl Demo<'_> {
    async fn play(mut self, begin: Instant) -> Result<DemoSummary, DemoError> {
        let world = self.world.clone();
        let (a, b, s, t) = (&world.a, &world.b, &world.s, &world.t);
        let mut ab = self.meet(a, b).await?;
        self.message(a, b, "hello B, all I know is your key")
            .await?;
        self.message(b, a, "hello A, nice to hear you").await?;
        let st = self.meet(s, t).await?;
        self.message(s, t, "hello T, my NAT is the difficult kind")
            .await?;
        let ab_began = ab.began;
        let direct_after = self.sees_direct(&mut ab, ab_began).await?;

        let sink = Sink::new(b.accept(PROTOCOL)?);
        let source = Source::new(a.node.clone(), b.peer, STREAM_LIMIT);
        self.tell(DemoEvent::TransferBegan {
            from: a.name,
            to: b.name,
        });
        self.let_it_run(&sink, &ab).await?;
        let (fall_back, stall) = self.cut(&mut ab, &sink).await?;
        self.let_it_run(&sink, &ab).await?;
        let restored = Instant::now();
        self.world.restore_direct();
        self.tell(DemoEvent::Restored);
        let direct_again = self.sees_direct(&mut ab, restored).await?;
        self.let_it_run(&sink, &ab).await?;
        let sent = source.finish().await?;
        let received = sink.finish().await?;
        if sent != received {
            let message = format!("sent {sent:?}, but received {received:?}");
            return Err(DemoError::Wrong(message));
        }
        self.tell(DemoEvent::TransferDone {
            bytes: received.bytes,
            sha256: received.sha256,
        });

        let circuit_kept = self.stays_on_circuit(&st).await?;
        self.world.close().await;
        Ok(DemoSummary {
            circuit_after_ms: ms(ab.took),
            direct_after_ms: ms(direct_after),
            fall_back_ms: ms(fall_back),
            stall_ms: ms(stall),
            direct_again_ms: ms(direct_again),
            stream_bytes: received.bytes,
            circuit_kept_ms: ms(circuit_kept),
            took_ms: ms(begin.elapsed()),
        })
    }

    fn tell(&mut self, event: DemoEvent) {
        (self.report)(event);
    }

    /// Dials by key, and sees the session begin over R.
    async fn meet(&mut self, from: &Who, to: &Who) -> Result<Dialled, DemoError> {
        let mut watch = Watch::new(from, to);
        let dialled = Instant::now();
        let session = from.node.connect(to.peer).await;
        session.map_err(|source| DemoError::Dial {
            from: from.name,
            to: to.name,
            source,
        })?;
        let began = Instant::now();
        let first = watch.first(PATIENCE).await?;
        let via = self.world.names(&first.via);
        self.tell(DemoEvent::Connected {
            from: from.name,
            to: to.name,
            kind: first.kind,
            via: via.clone(),
            after_ms: ms(began - dialled),
        });
        if first.kind != PathKind::Circuit || via != [self.world.r.name] {
            let message = format!(
                "the session of {} and {} began on {:?} via {via:?} instead of a circuit via R",
                from.name, to.name, first.kind
            );
            return Err(DemoError::Wrong(message));
        }
        Ok(Dialled {
            watch,
            began,
            took: began - dialled,
        })
    }

    async fn message(&mut self, from: &Who, to: &Who, text: &str) -> Result<(), DemoError> {
        let sent = Instant::now();
        let done = from.node.send(to.peer, Message::text(text)).await;
        done.map_err(|source| DemoError::Message {
            what: format!("sending a message from {} to {}", from.name, to.name),
            source,
        })?;
        let took = sent.elapsed();
        let received = tokio::time::timeout(PATIENCE, to.node.recv()).await;
        let Ok(Some(received)) = received else {
            return Err(DemoError::NotSeen {
                what: format!("the message from {} in {}'s inbox", from.name, to.name),
                within: PATIENCE,
                instead: "an empty inbox".into(),
            });
        };
        let got = String::from_utf8_lossy(&received.message.body).into_owned();
        if received.from != from.peer || got != text {
            let message = format!("{} got {got:?} from {}", to.name, received.from);
            return Err(DemoError::Wrong(message));
        }
        self.tell(DemoEvent::Message {
            from: from.name,
            to: to.name,
            text: got,
            took_ms: ms(took),
        });
        Ok(())
    }

    /// Waits for A and B's direct path; answers how long after `since` it was there.
    async fn sees_direct(
        &mut self,
        session: &mut Dialled,
        since: Instant,
    ) -> Result<Duration, DemoError> {
        let (a, b) = (self.world.a.clone(), self.world.b.clone());
        let (at, path) = session.watch.selected(PathKind::Direct, PATIENCE).await?;
        let pong = a.node.ping(b.peer, PATIENCE).await;
        let pong = pong.map_err(ping_failed(&a, &b))?;
        let after = at.saturating_duration_since(since);
        self.tell(DemoEvent::Direct {
            from: a.name,
            to: b.name,
            remote: path.remote,
            after_ms: ms(after),
            circuit_rtt_ms: session.watch.now().circuit_rtt_ms,
            rtt_ms: pong.rtt_ms,
        });
        Ok(after)
    }

    /// Lets the stream run for a while, and sees that it does.
    async fn let_it_run(&mut self, sink: &Sink, session: &Dialled) -> Result<(), DemoError> {
        let until = Instant::now() + SHOW;
        let before = sink.meter.bytes();
        while Instant::now() < until {
            tokio::time::sleep(TELL_EVERY).await;
            self.tell(DemoEvent::Progress {
                bytes: sink.meter.bytes(),
                kind: session.watch.now().kind(),
            });
        }
        if sink.meter.bytes() == before {
            return Err(DemoError::NotSeen {
                what: "data arriving on the stream".into(),
                within: SHOW,
                instead: format!("{before} bytes, as before"),
            });
        }
        Ok(())
    }

    /// Cuts the direct path and sees the stream go on over R, with nothing direct.
    async fn cut(
        &mut self,
        session: &mut Dialled,
        sink: &Sink,
    ) -> Result<(Duration, Duration), DemoError> {
        sink.meter.forget_gaps();
        let (a_ip, b_ip) = self.world.cut_direct();
        let cut = Instant::now();
        self.tell(DemoEvent::Cut {
            a: a_ip.to_string(),
            b: b_ip.to_string(),
        });
        // What was past the cut already still arrives.
        tokio::time::sleep(world::DIRECT_LATENCY).await;
        let before = self.world.net.trace();
        let (at, path) = session.watch.selected(PathKind::Circuit, PATIENCE).await?;
        let fall_back = at.saturating_duration_since(cut);
        let arrived = sink.meter.bytes();
        let deadline = Instant::now() + PATIENCE;
        while sink.meter.bytes() <= arrived {
            if Instant::now() > deadline {
                return Err(DemoError::NotSeen {
                    what: "the stream going on over the circuit".into(),
                    within: PATIENCE,
                    instead: format!("{arrived} bytes, as before"),
                });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let stall = sink.meter.longest_gap();
        let via = self.world.names(&path.via);
        self.tell(DemoEvent::FellBack {
            from: self.world.a.name,
            to: self.world.b.name,
            via,
            after_ms: ms(fall_back),
            stall_ms: ms(stall),
        });
        let since = self.world.net.trace().since(&before);
        let direct = self.world.direct(&since, &self.world.a, &self.world.b);
        if direct > 0 {
            let message = format!("{direct} datagrams crossed the cut");
            return Err(DemoError::Wrong(message));
        }
        Ok((fall_back, stall))
    }

    /// Sees that S and T are on their circuit long after the attempt at more, and that
    /// it works.
    async fn stays_on_circuit(&mut self, session: &Dialled) -> Result<Duration, DemoError> {
        let (s, t) = (self.world.s.clone(), self.world.t.clone());
        tokio::time::sleep_until(session.began + CIRCUIT_KEPT).await;
        let sink = Sink::new(t.accept(PROTOCOL)?);
        let sent = Source::new(s.node.clone(), t.peer, SMALL_STREAM)
            .wait()
            .await?;
        let received = sink.finish().await?;
        let pong = s.node.ping(t.peer, PATIENCE).await;
        let pong = pong.map_err(ping_failed(&s, &t))?;
        let kind = session.watch.now().kind();
        let direct = self.world.direct(&self.world.net.trace(), &s, &t);
        if kind != Some(PathKind::Circuit) || pong.kind != PathKind::Circuit || direct > 0 {
            let message = format!(
                "S and T did not stay on their circuit: path {kind:?}, ping over {:?}, \
                 {direct} datagrams went directly",
                pong.kind
            );
            return Err(DemoError::Wrong(message));
        }
        if sent != received {
            let message = format!("sent {sent:?}, but received {received:?}");
            return Err(DemoError::Wrong(message));
        }
        let kept = session.began.elapsed();
        self.tell(DemoEvent::StaysOnCircuit {
            from: s.name,
            to: t.name,
            after_ms: ms(kept),
            direct_datagrams: direct,
            rtt_ms: pong.rtt_ms,
            bytes: received.bytes,
        });
        Ok(kept)
    }
}

fn ping_failed(from: &Who, to: &Who) -> impl Fn(MessageError) -> DemoError + use<> {
    let what = format!("pinging {} from {}", to.name, from.name);
    move |source| DemoError::Message {
        what: what.clone(),
        source,
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
