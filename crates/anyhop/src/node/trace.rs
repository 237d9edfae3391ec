//! Tracing the way to a peer: how long each hop takes, and what it loses.
//!
//! This node measures its own link to the first relay and the whole path to the peer;
//! each relay on the way measures its link to the next one when asked. What relays say
//! is their word.

use std::{sync::Arc, time::Duration};

use anyhop_base::PeerId;
use anyhop_proto::{
    circuit::RefusalReason,
    route::{LinkReport, MAX_TRACE_FRAME, Measured, Trace, TraceAnswer},
};
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{Inner, Node, protocols};
use crate::{
    DialError, StreamError, TraceHop,
    session::{Command, Conn},
    stream::{RecvStream, SendStream, malformed, read_frame},
};

/// Probes for each link and path.
const PROBES: u32 = 5;
/// Time between two of them.
const PROBE_GAP: Duration = Duration::from_millis(20);
/// How long an answer is waited for.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the probes of one link take at most.
const MEASURE_TIME: Duration = Duration::from_millis(1200);
/// What each relay gets on top for passing the request on.
const PASS_ON_TIME: Duration = Duration::from_millis(300);
/// How long a request may take to arrive once its stream is open.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

impl Node {
    /// Measures the hops of the selected path to a peer, nearest first; the last is the
    /// peer itself, which the whole path is probed for. Dials when there is no session.
    /// Takes a little over a second, and 300 ms more for each relay that is silent.
    ///
    /// # Errors
    /// When there is no session and none can be made. A relay that does not answer is a
    /// hop with a reason.
    pub async fn trace(&self, peer: PeerId) -> Result<Vec<TraceHop>, DialError> {
        let conn = self.0.connect(peer).await?;
        Ok(self.0.trace(&conn).await)
    }
}

impl Inner {
    async fn trace(self: &Arc<Self>, conn: &Conn) -> Vec<TraceHop> {
        let via = conn.paths.borrow().paths.first().map(|p| p.via.clone());
        let relays: Vec<PeerId> = via
            .unwrap_or_default()
            .iter()
            .filter_map(|id| id.parse().ok())
            .collect();
        let budget = MEASURE_TIME + PASS_ON_TIME * relays.len() as u32;
        let (links, whole) = tokio::join!(
            self.trace_links(&relays, budget),
            measure(conn, Over::SelectedPath)
        );
        let mut hops = Vec::with_capacity(relays.len() + 1);
        let mut sum = Sum::default();
        for (relay, nth) in relays.iter().zip(0..) {
            let report = links.get(nth).filter(|report| report.to == *relay);
            hops.push(match report {
                Some(report) => sum.hop(report),
                None => no_answer(*relay, "no relay before it answered for it".to_owned()),
            });
        }
        let whole = LinkReport {
            to: conn.peer,
            result: Ok(whole),
        };
        hops.push(Sum::default().hop(&whole));
        hops
    }

    /// Measures this node's link to the first of the relays, and has the first measure
    /// its link to the next, and so on.
    async fn trace_links(self: &Arc<Self>, relays: &[PeerId], budget: Duration) -> Vec<LinkReport> {
        let Some((&first, rest)) = relays.split_first() else {
            return Vec::new();
        };
        let Some(link) = self.link_to(first) else {
            return vec![LinkReport {
                to: first,
                result: Err(RefusalReason::NoLink),
            }];
        };
        let behind = async {
            match rest {
                [] => Vec::new(),
                rest => match timeout(budget, self.ask_trace(&link, rest, budget)).await {
                    Ok(Ok(answer)) => answer.links,
                    Ok(Err(_)) | Err(_) => vec![LinkReport {
                        to: rest[0],
                        result: Err(RefusalReason::NextFailed),
                    }],
                },
            }
        };
        let (measured, behind) = tokio::join!(measure(&link, Over::Link), behind);
        let mut links = vec![LinkReport {
            to: first,
            result: Ok(measured),
        }];
        links.extend(behind.into_iter().take(rest.len()));
        links
    }

    async fn ask_trace(
        &self,
        link: &Conn,
        rest: &[PeerId],
        budget: Duration,
    ) -> Result<TraceAnswer, StreamError> {
        let protocol = self.protocol(protocols::TRACE);
        let budget = budget.saturating_sub(PASS_ON_TIME).as_millis();
        let request = Trace {
            rest: rest.to_vec(),
            budget_ms: u32::try_from(budget).unwrap_or(u32::MAX),
        }
        .encode();
        let opening = link.open_bi_with(&protocol, protocols::TRACE, &request);
        let (mut send, mut recv) = opening.await?;
        send.finish()?;
        let frame = read_frame(&mut recv, MAX_TRACE_FRAME).await?;
        TraceAnswer::decode(&frame).map_err(|_| malformed(&mut recv))
    }

    /// Serves a neighbour's request.
    pub(super) async fn serve_trace(
        self: &Arc<Self>,
        conn: &Conn,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), StreamError> {
        let frame = timeout(REQUEST_TIMEOUT, read_frame(&mut recv, MAX_TRACE_FRAME)).await;
        let Ok(frame) = frame else {
            return Ok(());
        };
        let trace = Trace::decode(&frame?).map_err(|_| malformed(&mut recv))?;
        let links = match self.may_trace(conn.peer) {
            Ok(()) => {
                let budget = Duration::from_millis(trace.budget_ms.into());
                let most = MEASURE_TIME + PASS_ON_TIME * trace.rest.len() as u32;
                self.trace_in_time(&trace.rest, budget.min(most)).await
            }
            Err(reason) => {
                let refused = |to: &PeerId| LinkReport {
                    to: *to,
                    result: Err(reason),
                };
                trace.rest.first().map(refused).into_iter().collect()
            }
        };
        send.write_all(&TraceAnswer { links }.encode()).await?;
        send.finish()
    }

    async fn trace_in_time(self: &Arc<Self>, rest: &[PeerId], budget: Duration) -> Vec<LinkReport> {
        let links = timeout(budget, self.trace_links(rest, budget)).await;
        links.unwrap_or_default()
    }

    fn may_trace(&self, from: PeerId) -> Result<(), RefusalReason> {
        if !self.relays() {
            return Err(RefusalReason::NotRelaying);
        }
        let now = Instant::now().into_std();
        let mut traces = self.traces.lock().expect("no holder panics");
        if traces.allow(now, from) {
            Ok(())
        } else {
            Err(RefusalReason::TooOften)
        }
    }
}

/// What probes go over.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Over {
    /// The link: a path that is no circuit.
    Link,
    /// Whatever new data goes over.
    SelectedPath,
}

/// Probes a session's path a few times.
async fn measure(conn: &Conn, over: Over) -> Measured {
    let mut probes = JoinSet::new();
    for nth in 0..PROBES {
        let commands = conn.commands.clone();
        probes.spawn(async move {
            sleep(PROBE_GAP * nth).await;
            let begin = Instant::now();
            let (answered, answer) = oneshot::channel();
            commands.send(Command::Echo(over, answered)).await.ok()?;
            timeout(PROBE_TIMEOUT, answer).await.ok()?.ok()?;
            Some(begin.elapsed())
        });
    }
    let rtts: Vec<Duration> = probes.join_all().await.into_iter().flatten().collect();
    let mean = rtts.iter().sum::<Duration>() / (rtts.len() as u32).max(1);
    Measured {
        sent: PROBES,
        answered: rtts.len() as u32,
        rtt_us: u32::try_from(mean.as_micros()).unwrap_or(u32::MAX),
    }
}

/// The way so far: round trips add up, and what gets through multiplies.
struct Sum {
    rtt_us: u64,
    through: f64,
    broken: bool,
}

impl Default for Sum {
    fn default() -> Self {
        Self {
            rtt_us: 0,
            through: 1.0,
            broken: false,
        }
    }
}

impl Sum {
    fn hop(&mut self, link: &LinkReport) -> TraceHop {
        let measured = match link.result {
            Ok(measured) => measured,
            Err(reason) => {
                self.broken = true;
                let reason = match reason {
                    RefusalReason::NextFailed => "the relay before it did not answer".to_owned(),
                    reason => format!("the relay before it would not measure: {reason}"),
                };
                return no_answer(link.to, reason);
            }
        };
        self.broken |= measured.answered == 0;
        if self.broken {
            return no_answer(link.to, "no probe was answered".to_owned());
        }
        self.rtt_us += u64::from(measured.rtt_us);
        self.through *= f64::from(measured.answered) / f64::from(measured.sent.max(1));
        TraceHop {
            peer_id: link.to.to_string(),
            rtt_ms: Some(self.rtt_us as f64 / 1e3),
            loss: Some(1.0 - self.through),
            reason: String::new(),
        }
    }
}

fn no_answer(peer: PeerId, reason: String) -> TraceHop {
    TraceHop {
        peer_id: peer.to_string(),
        rtt_ms: None,
        loss: None,
        reason,
    }
}
