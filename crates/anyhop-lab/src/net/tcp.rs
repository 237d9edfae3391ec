//! One end of a TCP connection as a machine: reliable, in order, and no more of RFC 9293
//! than a byte stream over a faulty network needs.
//!
//! A connection opens with SYN, SYN-ACK, ACK; `SynSent` and `SynReceived` become `Open`.
//! What is written is cut into chunks of [`MSS`], kept until acknowledged, and sent as the
//! peer's window and a congestion window (RFC 5681) allow. Loss shows by what was received
//! beyond it (RFC 6675), or by a timer that doubles each time (RFC 6298). Each side
//! ends its direction with FIN. A reset, or [`MAX_RETRIES`] unanswered sendings, ends both.
//!
//! Sequence numbers count bytes from 0 and do not wrap; FIN takes one, SYN none.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};

/// Payload of a full segment, bytes: fits the smallest MTU of IPv6, 1280.
pub(super) const MSS: usize = 1220;

/// Bytes written and not yet acknowledged that a connection holds.
pub(super) const SEND_BUFFER: u64 = 1 << 20;

/// Bytes of them that need not have been sent yet: what nodes set on real sockets.
pub(super) const UNSENT: u64 = 64 << 10;

/// Bytes received and not yet read that a connection holds: the window it grants.
pub(super) const RECEIVE_BUFFER: u64 = 1 << 20;

/// Timer before a round trip is measured, and bounds of what is computed from one.
const INITIAL_RTO: Duration = Duration::from_secs(1);
const MIN_RTO: Duration = Duration::from_millis(200);
const MAX_RTO: Duration = Duration::from_secs(60);

/// Unanswered sendings of a SYN, and of data, before the connection is given up.
const MAX_SYN_RETRIES: u32 = 6;
const MAX_RETRIES: u32 = 15;

/// How long an end that has seen both FINs answers late segments.
const TIME_WAIT: Duration = Duration::from_secs(10);

/// How long an end whose stream was dropped waits for the other's FIN.
const ORPHAN_WAIT: Duration = Duration::from_secs(60);

/// Ranges received beyond a gap that one segment tells of.
const MAX_SACKED: usize = 32;

/// A chunk is lost when this much beyond it was received: three segments.
const REORDERING: u64 = 3 * MSS as u64;

/// Segments in flight before anything is known of the way (RFC 6928).
const INITIAL_CWND: u64 = 10 * MSS as u64;

/// A TCP segment, ports left to the packet around it.
#[derive(Debug, Clone, Default)]
pub(super) struct Segment {
    pub(super) syn: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
    /// Asks for an acknowledgement though there is nothing to acknowledge.
    probe: bool,
    seq: u64,
    pub(super) ack: Option<u64>,
    window: u64,
    /// What was received beyond `ack`, as half-open ranges.
    sacked: Vec<(u64, u64)>,
    pub(super) payload: Bytes,
}

impl Segment {
    /// The answer to a segment of a connection that nobody has.
    pub(super) fn reset() -> Self {
        Self {
            rst: true,
            ..Self::default()
        }
    }

    /// Whether it asks for a new connection.
    pub(super) fn opens(&self) -> bool {
        self.syn && self.ack.is_none()
    }

    fn len(&self) -> u64 {
        self.payload.len() as u64 + u64::from(self.fin)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    SynSent,
    SynReceived,
    Open,
    TimeWait,
    Dead(Option<io::ErrorKind>),
}

#[derive(Debug)]
struct Chunk {
    seq: u64,
    bytes: Bytes,
    fin: bool,
    /// Received, but something before it is not.
    sacked: bool,
    /// Sent again since the present recovery began.
    resent: bool,
}

impl Chunk {
    fn len(&self) -> u64 {
        self.bytes.len() as u64 + u64::from(self.fin)
    }

    fn end(&self) -> u64 {
        self.seq + self.len()
    }
}

/// One end of a connection; see the [module](self).
#[derive(Debug)]
pub(super) struct Conn {
    state: State,
    sender: Sender,
    receiver: Receiver,
    /// Control segments to send: SYN or SYN-ACK, an acknowledgement, a reset.
    wants_syn: bool,
    wants_ack: bool,
    wants_probe: bool,
    wants_reset: bool,
    retries: u32,
    started: Instant,
    deadline: Option<Instant>,
    /// Set when the stream was dropped: what still comes has no reader.
    orphaned: bool,
}

impl Conn {
    /// The end that connects.
    pub(super) fn connect(now: Instant) -> Self {
        Self::new(State::SynSent, now)
    }

    /// The end that was asked to, by a SYN.
    pub(super) fn accept(now: Instant) -> Self {
        Self::new(State::SynReceived, now)
    }

    fn new(state: State, now: Instant) -> Self {
        Self {
            state,
            sender: Sender::new(),
            receiver: Receiver::default(),
            wants_syn: true,
            wants_ack: false,
            wants_probe: false,
            wants_reset: false,
            retries: 0,
            started: now,
            deadline: Some(now + INITIAL_RTO),
            orphaned: false,
        }
    }

    /// `None` while the handshake runs, then whether it succeeded.
    pub(super) fn established(&self) -> Option<io::Result<()>> {
        match self.state {
            State::SynSent | State::SynReceived => None,
            State::Open | State::TimeWait | State::Dead(None) => Some(Ok(())),
            State::Dead(Some(kind)) => Some(Err(kind.into())),
        }
    }

    /// Takes a segment of this connection.
    pub(super) fn handle(&mut self, now: Instant, segment: Segment) {
        if segment.rst {
            let kind = match self.state {
                State::SynSent => io::ErrorKind::ConnectionRefused,
                _ => io::ErrorKind::ConnectionReset,
            };
            return self.die(Some(kind));
        }
        match self.state {
            State::Dead(_) => return,
            State::SynSent if segment.syn && segment.ack.is_some() => self.open(now),
            State::SynSent => return,
            State::SynReceived if segment.ack.is_some() => self.open(now),
            State::SynReceived => {
                self.wants_syn = true;
                return;
            }
            State::Open | State::TimeWait => {}
        }
        self.wants_ack |= segment.syn || segment.probe || segment.len() > 0;
        if let Some(ack) = segment.ack
            && self.sender.acknowledge(now, ack, &segment)
        {
            self.retries = 0;
            self.rearm(now);
        }
        if segment.len() > 0 {
            if self.orphaned && !segment.payload.is_empty() {
                self.wants_reset = true;
                return self.die(None);
            }
            self.receiver.take(segment);
        }
        if self.state == State::Open && self.sender.is_finished() && self.receiver.finished {
            self.state = State::TimeWait;
            self.deadline = Some(now + TIME_WAIT);
        }
    }

    /// Does what is due at [`timeout`](Self::timeout).
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_none_or(|t| t > now) {
            return;
        }
        self.deadline = None;
        self.retries += 1;
        match self.state {
            State::SynSent | State::SynReceived if self.retries > MAX_SYN_RETRIES => {
                self.die(Some(io::ErrorKind::TimedOut));
            }
            State::SynSent | State::SynReceived => {
                self.wants_syn = true;
                self.deadline = Some(now + INITIAL_RTO * 2u32.pow(self.retries));
            }
            State::Open if self.retries > MAX_RETRIES => self.die(Some(io::ErrorKind::TimedOut)),
            State::Open if self.sender.is_idle() => {
                // Only an orphan has a timer with nothing to send.
                self.wants_reset = true;
                self.die(None);
            }
            State::Open => {
                self.wants_probe = self.sender.on_timeout();
                let backoff = self.sender.rto() * 2u32.pow(self.retries.min(8));
                self.deadline = Some(now + backoff.min(MAX_RTO));
            }
            State::TimeWait => self.die(None),
            State::Dead(_) => {}
        }
    }

    /// Segments to send now.
    pub(super) fn transmit(&mut self, now: Instant, out: &mut Vec<Segment>) {
        if std::mem::take(&mut self.wants_reset) {
            return out.push(Segment::reset());
        }
        let (ack, window) = (self.receiver.next, self.receiver.window());
        let sacked = self.receiver.sacked();
        let frame = |syn, probe| Segment {
            syn,
            probe,
            window,
            ack: Some(ack),
            sacked: sacked.clone(),
            ..Segment::default()
        };
        match self.state {
            State::SynSent | State::SynReceived => {
                if std::mem::take(&mut self.wants_syn) {
                    let is_answer = self.state == State::SynReceived;
                    let ack = is_answer.then_some(ack);
                    out.push(Segment {
                        ack,
                        ..frame(true, false)
                    });
                }
                return;
            }
            State::Dead(_) => return,
            State::Open | State::TimeWait => {}
        }
        let before = out.len();
        self.sender.transmit(now, |chunk| {
            out.push(Segment {
                seq: chunk.seq,
                fin: chunk.fin,
                payload: chunk.bytes.clone(),
                ..frame(false, false)
            });
        });
        if out.len() > before && self.deadline.is_none() {
            self.rearm(now);
        }
        let probe = std::mem::take(&mut self.wants_probe);
        if probe || (self.wants_ack && out.len() == before) {
            out.push(frame(false, probe));
        }
        self.wants_ack = false;
        self.receiver.granted = ack + window;
        if self.deadline.is_none() && !self.sender.is_idle() {
            // Blocked by the peer's window: ask again, in case its opening is lost.
            self.rearm(now);
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub(super) fn timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Takes bytes to send; `None` when the buffer is full or the handshake runs.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        match self.state {
            State::SynSent | State::SynReceived => Ok(None),
            State::Open if !self.sender.fin_queued => Ok(self.sender.write(bytes)),
            State::Dead(Some(kind)) => Err(kind.into()),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Moves received bytes to `buf`; `None` when there are none yet, 0 at the end.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        if let State::Dead(Some(kind)) = self.state {
            return Err(kind.into());
        }
        let n = self.receiver.read(buf);
        // A window that opened by half is worth a segment.
        let limit = self.receiver.next + self.receiver.window();
        self.wants_ack |= limit >= self.receiver.granted + RECEIVE_BUFFER / 2;
        let ended = self.receiver.is_finished() || matches!(self.state, State::Dead(_));
        Ok((n > 0 || ended || buf.is_empty()).then_some(n))
    }

    /// Ends this direction after what was written.
    pub(super) fn finish(&mut self) {
        if self.state == State::Open {
            self.sender.finish();
        }
    }

    /// The stream was dropped: ends in good order what can be, resets what cannot.
    pub(super) fn abandon(&mut self, now: Instant) {
        self.orphaned = true;
        match self.state {
            State::Open if self.receiver.buffered == 0 => {
                self.sender.finish();
                self.deadline.get_or_insert(now + ORPHAN_WAIT);
            }
            State::TimeWait => {}
            state => {
                self.wants_reset = matches!(state, State::Open | State::SynReceived);
                self.die(None);
            }
        }
    }

    /// Whether it can be forgotten.
    pub(super) fn is_gone(&self) -> bool {
        self.orphaned && matches!(self.state, State::Dead(_)) && !self.wants_reset
    }

    /// Whether a reader would get something: bytes, the end, or an error.
    pub(super) fn is_readable(&self) -> bool {
        self.receiver.buffered > 0
            || self.receiver.is_finished()
            || matches!(self.state, State::Dead(_))
    }

    /// Whether a writer would get somewhere: room, or an error.
    pub(super) fn is_writable(&self) -> bool {
        matches!(self.state, State::Dead(_))
            || (self.sender.room() > 0 && self.established().is_some())
    }

    fn open(&mut self, now: Instant) {
        self.state = State::Open;
        if self.retries == 0 {
            self.sender
                .measure(now.saturating_duration_since(self.started));
        }
        self.retries = 0;
        self.wants_syn = false;
        self.rearm(now);
    }

    fn rearm(&mut self, now: Instant) {
        self.deadline = if !self.sender.is_idle() {
            Some(now + self.sender.rto())
        } else if self.orphaned {
            Some(now + ORPHAN_WAIT)
        } else {
            None
        };
    }

    fn die(&mut self, kind: Option<io::ErrorKind>) {
        self.state = State::Dead(kind);
        self.deadline = None;
        self.sender.queue.clear();
        self.sender.sent = 0;
    }
}

#[derive(Debug)]
struct Sender {
    /// What was written and not yet acknowledged; the first `sent` were sent.
    queue: VecDeque<Chunk>,
    sent: usize,
    buffered: u64,
    /// Oldest unacknowledged sequence number, and the one the next chunk gets.
    una: u64,
    end: u64,
    fin_queued: bool,
    /// How far the peer allows to send.
    limit: u64,
    cwnd: u64,
    ssthresh: u64,
    /// End of what was received at all.
    sacked_to: u64,
    /// End of what was sent when a loss was noticed, until all of it is acknowledged.
    recovering: Option<u64>,
    /// What lies before went out again after a timeout, and begins no recovery.
    timed_out_to: u64,
    srtt: Option<(Duration, Duration)>,
    /// The segment that is timed: its end and when it was sent.
    timed: Option<(u64, Instant)>,
    /// End of what was ever sent: what lies before is not timed again (Karn's rule).
    highest: u64,
}

impl Sender {
    fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            sent: 0,
            buffered: 0,
            una: 0,
            end: 0,
            fin_queued: false,
            limit: 0,
            cwnd: INITIAL_CWND,
            ssthresh: u64::MAX,
            sacked_to: 0,
            recovering: None,
            timed_out_to: 0,
            srtt: None,
            timed: None,
            highest: 0,
        }
    }

    fn room(&self) -> u64 {
        let unsent = self.end - self.highest.max(self.una);
        let room = UNSENT.saturating_sub(unsent);
        room.min(SEND_BUFFER.saturating_sub(self.buffered))
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    fn is_finished(&self) -> bool {
        self.fin_queued && self.queue.is_empty()
    }

    fn write(&mut self, bytes: &[u8]) -> Option<usize> {
        let n = bytes.len().min(usize::try_from(self.room()).unwrap_or(0));
        for part in bytes[..n].chunks(MSS) {
            let bytes = Bytes::copy_from_slice(part);
            self.push(bytes, false);
        }
        (n > 0 || bytes.is_empty()).then_some(n)
    }

    fn finish(&mut self) {
        if !self.fin_queued {
            self.fin_queued = true;
            self.push(Bytes::new(), true);
        }
    }

    fn push(&mut self, bytes: Bytes, fin: bool) {
        let chunk = Chunk {
            seq: self.end,
            bytes,
            fin,
            sacked: false,
            resent: false,
        };
        self.end = chunk.end();
        self.buffered += chunk.bytes.len() as u64;
        self.queue.push_back(chunk);
    }

    /// End of what was sent.
    fn sent_to(&self) -> u64 {
        match self.sent {
            0 => self.una,
            n => self.queue[n - 1].end(),
        }
    }

    /// Takes an acknowledgement; answers whether it was news.
    fn acknowledge(&mut self, now: Instant, ack: u64, segment: &Segment) -> bool {
        if ack > self.end {
            return false;
        }
        let limit = self.limit.max(ack + segment.window);
        let opened = limit > self.limit;
        self.limit = limit;
        self.note_sacked(&segment.sacked);
        if ack <= self.una {
            return opened && self.sent == 0;
        }
        while self.queue.front().is_some_and(|c| c.end() <= ack) {
            let chunk = self.queue.pop_front().expect("just seen");
            self.buffered -= chunk.bytes.len() as u64;
            self.sent = self.sent.saturating_sub(1);
        }
        let acknowledged = ack - self.una;
        self.una = ack;
        if let Some((end, at)) = self.timed
            && ack >= end
        {
            self.timed = None;
            self.measure(now.saturating_duration_since(at));
        }
        match self.recovering {
            Some(end) if ack < end => {}
            Some(_) => {
                self.recovering = None;
                self.cwnd = self.ssthresh;
            }
            None if self.cwnd < self.ssthresh => self.cwnd += acknowledged,
            None => self.cwnd += (MSS as u64 * acknowledged / self.cwnd).max(1),
        }
        true
    }

    /// Marks what was received beyond a gap, and begins a recovery when the gap is a loss.
    fn note_sacked(&mut self, ranges: &[(u64, u64)]) {
        for (from, to) in ranges {
            let first = self.queue.partition_point(|c| c.seq < *from);
            for chunk in self.queue.iter_mut().skip(first) {
                if chunk.end() > *to {
                    break;
                }
                chunk.sacked = true;
            }
            self.sacked_to = self.sacked_to.max(*to);
        }
        let front = self.queue.front();
        let lost = front.is_some_and(|c| c.seq >= self.timed_out_to && self.is_lost(c));
        if lost && self.sent > 0 && self.recovering.is_none() {
            self.halve();
            self.cwnd = self.ssthresh;
            self.recovering = Some(self.sent_to());
            self.timed = None;
            self.queue.iter_mut().for_each(|c| c.resent = false);
        }
    }

    fn halve(&mut self) {
        self.ssthresh = ((self.sent_to() - self.una) / 2).max(2 * MSS as u64);
    }

    fn is_lost(&self, chunk: &Chunk) -> bool {
        !chunk.sacked && chunk.end() + REORDERING <= self.sacked_to
    }

    /// Bytes that are on their way, as far as is known.
    fn in_flight(&self) -> u64 {
        let sent = self.queue.iter().take(self.sent);
        let under_way = sent.filter(|c| !c.sacked && (c.resent || !self.is_lost(c)));
        under_way.map(Chunk::len).sum()
    }

    /// Everything unacknowledged is sent again, slowly; answers whether a probe is due
    /// because the peer's window is closed.
    fn on_timeout(&mut self) -> bool {
        self.halve();
        self.cwnd = MSS as u64;
        self.sent = 0;
        self.recovering = None;
        self.timed_out_to = self.highest;
        self.timed = None;
        self.queue.front().is_some_and(|c| !self.is_allowed(c))
    }

    /// Whether the peer's window takes it; a FIN needs no room.
    fn is_allowed(&self, chunk: &Chunk) -> bool {
        chunk.end() <= self.limit + u64::from(chunk.fin)
    }

    fn transmit(&mut self, now: Instant, mut send: impl FnMut(&Chunk)) {
        let mut in_flight = self.in_flight();
        if self.recovering.is_some() {
            for i in 0..self.sent {
                let chunk = &self.queue[i];
                if in_flight >= self.cwnd {
                    return;
                }
                if self.is_lost(chunk) && !chunk.resent {
                    in_flight += chunk.len();
                    send(chunk);
                    self.queue[i].resent = true;
                }
            }
        }
        while let Some(chunk) = self.queue.get(self.sent) {
            let fits_path = in_flight == 0 || in_flight + chunk.len() <= self.cwnd;
            if !chunk.sacked {
                if !(self.is_allowed(chunk) && fits_path) {
                    break;
                }
                send(chunk);
                in_flight += chunk.len();
                if self.timed.is_none() && chunk.seq >= self.highest {
                    self.timed = Some((chunk.end(), now));
                }
                self.highest = self.highest.max(chunk.end());
            }
            self.sent += 1;
        }
    }

    fn measure(&mut self, rtt: Duration) {
        self.srtt = Some(match self.srtt {
            None => (rtt, rtt / 2),
            Some((srtt, var)) => ((srtt * 7 + rtt) / 8, (var * 3 + srtt.abs_diff(rtt)) / 4),
        });
    }

    fn rto(&self) -> Duration {
        self.srtt.map_or(INITIAL_RTO, |(srtt, var)| {
            (srtt + var * 4).clamp(MIN_RTO, MAX_RTO)
        })
    }
}

#[derive(Debug, Default)]
struct Receiver {
    /// Bytes in order, not yet read.
    ready: VecDeque<Bytes>,
    buffered: u64,
    /// The sequence number expected next.
    next: u64,
    /// How far the peer was last told that it may send.
    granted: u64,
    /// What came too early, within the window.
    early: BTreeMap<u64, Segment>,
    finished: bool,
}

impl Receiver {
    fn window(&self) -> u64 {
        RECEIVE_BUFFER.saturating_sub(self.buffered)
    }

    fn is_finished(&self) -> bool {
        self.finished && self.buffered == 0
    }

    /// What was received beyond a gap, the first few ranges.
    fn sacked(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (seq, segment) in &self.early {
            let end = seq + segment.len();
            if let Some(last) = ranges.last_mut().filter(|last| last.1 == *seq) {
                last.1 = end;
            } else if ranges.len() < MAX_SACKED {
                ranges.push((*seq, end));
            } else {
                break;
            }
        }
        ranges
    }

    fn take(&mut self, segment: Segment) {
        let end = segment.seq + segment.payload.len() as u64;
        if segment.seq < self.next || end > self.next + self.window() {
            return;
        }
        self.early.insert(segment.seq, segment);
        while let Some(segment) = self.early.remove(&self.next) {
            self.next += segment.len();
            self.buffered += segment.payload.len() as u64;
            self.finished |= segment.fin;
            if !segment.payload.is_empty() {
                self.ready.push_back(segment.payload);
            }
        }
    }

    fn read(&mut self, buf: &mut [u8]) -> usize {
        let mut n = 0;
        while n < buf.len()
            && let Some(front) = self.ready.front_mut()
        {
            let part = front.len().min(buf.len() - n);
            buf[n..n + part].copy_from_slice(&front[..part]);
            front.advance(part);
            if front.is_empty() {
                self.ready.pop_front();
            }
            n += part;
        }
        self.buffered -= n as u64;
        n
    }
}
