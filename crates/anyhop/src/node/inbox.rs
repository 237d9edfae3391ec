//! Messages, requests and pings.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhop_base::{PeerId, codec::put_varint};
use anyhop_proto::{
    call::{MAX_REASON, cut},
    message::{Header, MAX_HEADER, Status},
};
use bytes::Bytes;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, sleep, timeout},
};

use super::{
    Inner,
    handlers::{Handled, Handler},
    jobs::BID,
    protocols,
};
use crate::{
    Encoding, Limits, MAX_TYPE_LEN, Message, MessageError, Pong, Received, StreamError,
    message::Responder,
    session::Conn,
    stream::{RecvStream, SendStream, code, malformed, read_frame, read_len},
};

/// A body's bytes are read in chunks of this size at most.
const CHUNK: usize = 256 * 1024;
/// Bodies up to this size travel with their header.
const SMALL_BODY: usize = 8 * 1024;
/// How long a peer may take to acknowledge a message that has arrived.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a reply may take to end behind its last byte.
const END_WITHIN: Duration = Duration::from_millis(500);
/// How long a request waits in the inbox whose sender does not say for how long it waits.
const MAX_WAIT: Duration = Duration::from_secs(86_400);

/// Received messages that nobody has taken yet.
#[derive(Debug)]
pub(super) struct Inbox {
    queue: Mutex<VecDeque<Received>>,
    max_messages: usize,
    bytes: Arc<Semaphore>,
    arrived: Notify,
}

impl Inbox {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            queue: Mutex::default(),
            max_messages: limits.max_inbox_messages,
            bytes: Arc::new(Semaphore::new(
                limits.max_inbox_bytes.min(Semaphore::MAX_PERMITS),
            )),
            arrived: Notify::new(),
        }
    }

    /// Room for a message of `len` bytes, before it is read.
    fn reserve(&self, len: usize) -> Option<OwnedSemaphorePermit> {
        let queued = self.queue.lock().expect("no holder panics").len();
        if queued >= self.max_messages {
            return None;
        }
        let permits = u32::try_from(len).ok()?;
        Arc::clone(&self.bytes).try_acquire_many_owned(permits).ok()
    }

    /// False when others filled the queue since the reservation.
    fn push(&self, received: Received) -> bool {
        let mut queue = self.queue.lock().expect("no holder panics");
        if queue.len() >= self.max_messages {
            return false;
        }
        queue.push_back(received);
        self.arrived.notify_waiters();
        true
    }

    /// The next message, or the next one of a type.
    pub(super) async fn pop(&self, kind: Option<&str>) -> Received {
        loop {
            let mut arrived = pin!(self.arrived.notified());
            // From here on an arrival is noticed, before the queue is looked at.
            arrived.as_mut().enable();
            if let Some(received) = self.take(kind) {
                return received;
            }
            arrived.await;
        }
    }

    fn take(&self, kind: Option<&str>) -> Option<Received> {
        let mut queue = self.queue.lock().expect("no holder panics");
        let wanted = |r: &Received| kind.is_none_or(|kind| r.message.kind == kind);
        let at = queue.iter().position(wanted)?;
        queue.remove(at)
    }
}

fn check(message: &Message, limit: usize) -> Result<(), MessageError> {
    let size = message.body.len();
    if size > limit {
        return Err(MessageError::TooLarge {
            size,
            limit,
            whose: "this node's",
        });
    }
    if message.kind.len() > MAX_TYPE_LEN {
        return Err(MessageError::Invalid(format!(
            "its type has {} bytes, at most {MAX_TYPE_LEN} are allowed",
            message.kind.len()
        )));
    }
    if !check_text(message.encoding, &message.body) {
        return Err(MessageError::Invalid(
            "its encoding tag says text, but it is not UTF-8".to_owned(),
        ));
    }
    Ok(())
}

/// Whether a body is text where its tag says so.
pub(super) fn check_text(encoding: Encoding, body: &[u8]) -> bool {
    let text = matches!(encoding, Encoding::Utf8 | Encoding::Json);
    !text || std::str::from_utf8(body).is_ok()
}

/// A message's header, with its body when that is small: one write then carries all.
fn head_of(message: &Message, waits: Option<Duration>) -> Vec<u8> {
    let header = Header {
        kind: message.kind.clone(),
        encoding: message.encoding.tag(),
        len: message.body.len() as u64,
        wants_reply: waits.is_some(),
        within_ms: waits.map_or(0, |w| u32::try_from(w.as_millis()).unwrap_or(u32::MAX)),
    };
    let mut head = header.encode();
    if message.body.len() <= SMALL_BODY {
        head.extend_from_slice(&message.body);
    }
    head
}

/// Sends what [`head_of`] left out, and the end.
async fn write_rest(send: &mut SendStream, message: &Message) -> Result<(), StreamError> {
    if message.body.len() > SMALL_BODY {
        send.write_chunk(message.body.clone()).await?;
    }
    send.finish()
}

async fn read_header(recv: &mut RecvStream) -> Result<Header, StreamError> {
    let frame = read_frame(recv, MAX_HEADER).await?;
    Header::decode(&frame).map_err(|_| malformed(recv))
}

/// Reads a body of announced length and the end behind it.
async fn read_body(recv: &mut RecvStream, len: usize) -> Result<Bytes, StreamError> {
    let mut body = Vec::with_capacity(len.min(CHUNK));
    while let Some(chunk) = recv.read_chunk(CHUNK).await? {
        if body.len() + chunk.len() > len {
            return Err(malformed(recv));
        }
        body.extend_from_slice(&chunk);
    }
    if body.len() < len {
        return Err(malformed(recv));
    }
    Ok(body.into())
}

fn message_of(header: Header, body: Bytes) -> Message {
    Message {
        kind: header.kind,
        encoding: Encoding::from_tag(header.encoding),
        body,
    }
}

impl Inner {
    pub(super) async fn send(
        self: &Arc<Self>,
        peer: PeerId,
        message: Message,
    ) -> Result<(), MessageError> {
        check(&message, self.config.max_message_size)?;
        if peer == self.me {
            return self.send_to_self(message);
        }
        let conn = self.connect(peer).await.map_err(StreamError::from)?;
        let mut recv = self.open_message(&conn, &message, None).await?;
        let status = timeout(ACK_TIMEOUT, self.read_status(&mut recv)).await;
        match status.map_err(|_| self.timed_out(&conn, ACK_TIMEOUT))?? {
            Status::Accepted => Ok(()),
            other => Err(self.refused(peer, &message, other, &mut recv).await),
        }
    }

    pub(crate) async fn request(
        self: &Arc<Self>,
        peer: PeerId,
        message: Message,
        within: Duration,
    ) -> Result<Message, MessageError> {
        check(&message, self.config.max_message_size)?;
        if peer == self.me {
            return self.ask_self(message, within).await;
        }
        let conn = self.connect(peer).await.map_err(StreamError::from)?;
        let talk = async {
            let mut recv = self.open_message(&conn, &message, Some(within)).await?;
            match self.read_status(&mut recv).await? {
                Status::Replied => self.read_reply(peer, &mut recv).await,
                Status::Late => Err(late(peer, within, "the peer's time for it was over first")),
                other => Err(self.refused(peer, &message, other, &mut recv).await),
            }
        };
        timeout(within, talk)
            .await
            .unwrap_or_else(|_| Err(self.timed_out(&conn, within)))
    }

    /// Sends a message on a stream of its own. A peer that refuses it early stops the
    /// stream; its status says why.
    async fn open_message(
        &self,
        conn: &Conn,
        message: &Message,
        waits: Option<Duration>,
    ) -> Result<RecvStream, MessageError> {
        let protocol = self.protocol(protocols::MESSAGE);
        let head = head_of(message, waits);
        let opening = conn.open_bi_with(&protocol, protocols::MESSAGE, &head);
        let (mut send, recv) = opening.await?;
        match write_rest(&mut send, message).await {
            Ok(())
            | Err(
                StreamError::Stopped { .. }
                | StreamError::Busy { .. }
                | StreamError::Dropped { .. },
            ) => Ok(recv),
            Err(e) => Err(e.into()),
        }
    }

    async fn refused(
        &self,
        peer: PeerId,
        message: &Message,
        status: Status,
        recv: &mut RecvStream,
    ) -> MessageError {
        match status {
            Status::TooLarge => {
                let mut limit = [0; 8];
                if let Err(e) = recv.read_exact(&mut limit).await {
                    return e.into();
                }
                MessageError::TooLarge {
                    size: message.body.len(),
                    limit: usize::try_from(u64::from_be_bytes(limit)).unwrap_or(usize::MAX),
                    whose: "the peer's",
                }
            }
            Status::InboxFull => MessageError::InboxFull(peer),
            Status::NoResponder => MessageError::NoResponder {
                peer,
                kind: message.kind.clone(),
            },
            Status::Unreadable => match read_frame(recv, MAX_REASON).await {
                Ok(reason) => MessageError::Unreadable {
                    peer,
                    reason: String::from_utf8_lossy(&reason).into_owned(),
                },
                Err(e) => e.into(),
            },
            Status::Accepted | Status::Replied | Status::Late => {
                self.calls.counts.unknown();
                MessageError::Protocol {
                    peer,
                    reason: format!("status {status:?} does not fit what was sent"),
                }
            }
        }
    }

    async fn read_reply(
        &self,
        peer: PeerId,
        recv: &mut RecvStream,
    ) -> Result<Message, MessageError> {
        let header = read_header(recv).await?;
        let limit = self.config.max_message_size;
        match usize::try_from(header.len) {
            Ok(len) if len <= limit => {
                let body = read_len(recv, len, CHUNK).await?;
                self.one_reply(recv).await;
                Ok(message_of(header, body))
            }
            _ => Err(MessageError::Protocol {
                peer,
                reason: format!("a reply of {} bytes, {limit} are allowed", header.len),
            }),
        }
    }

    /// The first reply holds: what comes behind it is counted, and stopped.
    async fn one_reply(&self, recv: &mut RecvStream) {
        // Its end comes with it. Who holds that back delays nobody.
        let end = timeout(END_WITHIN, recv.read_chunk(1)).await;
        if let Ok(Ok(Some(_))) = end {
            self.calls.counts.duplicate();
            recv.stop(code::MALFORMED);
        }
    }

    async fn read_status(&self, recv: &mut RecvStream) -> Result<Status, StreamError> {
        let mut byte = [0];
        recv.read_exact(&mut byte).await?;
        Status::from_byte(byte[0]).ok_or_else(|| {
            self.calls.counts.unknown();
            malformed(recv)
        })
    }

    /// Sends a reply, and counts one that nobody waits for any more.
    async fn reply(&self, send: &mut SendStream, message: &Message) -> Result<(), StreamError> {
        let written = write_reply(send, message).await;
        if written.is_err() {
            self.calls.counts.late();
        }
        written
    }

    fn timed_out(&self, conn: &Conn, after: Duration) -> MessageError {
        let table = conn.paths.borrow();
        let ways: Vec<_> = table
            .paths
            .iter()
            .map(|p| match p.via.join(", ") {
                via if via.is_empty() => format!("direct {}", p.remote),
                via => format!("circuit via {via}"),
            })
            .collect();
        let note = if table.stalled {
            format!("no path answers any more: {}", ways.join(", "))
        } else {
            format!("paths in use: {}", ways.join(", "))
        };
        MessageError::Timeout {
            peer: conn.peer,
            millis: after.as_millis(),
            note,
        }
    }

    pub(super) async fn ping(
        self: &Arc<Self>,
        peer: PeerId,
        within: Duration,
    ) -> Result<Pong, MessageError> {
        let conn = self.connect(peer).await.map_err(StreamError::from)?;
        let protocol = self.protocol(protocols::PING);
        let talk = async {
            let start = Instant::now();
            let path = conn.paths.borrow().paths.first().cloned();
            let opening = conn.open_bi_with(&protocol, protocols::PING, &[0x5a; 32]);
            let (mut send, mut recv) = opening.await?;
            send.finish()?;
            let mut echo = [0; 32];
            recv.read_exact(&mut echo).await?;
            let rtt_ms = start.elapsed().as_secs_f64() * 1e3;
            Ok::<_, StreamError>((rtt_ms, path))
        };
        let (rtt_ms, path) = timeout(within, talk)
            .await
            .map_err(|_| self.timed_out(&conn, within))??;
        let path = path.ok_or_else(|| self.timed_out(&conn, within))?;
        Ok(Pong {
            rtt_ms,
            kind: path.kind,
            hops: path.hops(),
        })
    }

    /// Takes a message a peer sends.
    pub(super) async fn serve_message(
        self: &Arc<Self>,
        conn: &Conn,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), StreamError> {
        let header = read_header(&mut recv).await?;
        let limit = self.config.max_message_size;
        let Some(len) = usize::try_from(header.len).ok().filter(|l| *l <= limit) else {
            recv.stop(code::BUSY);
            send.write_all(&[Status::TooLarge as u8]).await?;
            send.write_all(&(limit as u64).to_be_bytes()).await?;
            return send.finish();
        };
        if self.refuses(conn.peer, &header.kind) {
            return refuse(&mut send, &mut recv, Status::NoResponder).await;
        }
        let Some(room) = self.inbox.reserve(len) else {
            return refuse(&mut send, &mut recv, Status::InboxFull).await;
        };
        let wants_reply = header.wants_reply;
        let within = Duration::from_millis(u64::from(header.within_ms));
        let within = (header.within_ms > 0).then_some(within);
        let body = read_body(&mut recv, len).await?;
        if header.kind == BID {
            let bid = message_of(header, body);
            return match self.answer_bid(conn.peer, &bid) {
                Some(verdict) if wants_reply => self.reply(&mut send, &verdict).await,
                _ => refuse(&mut send, &mut recv, Status::NoResponder).await,
            };
        }
        if let Some(handler) = self.handlers.of(&header.kind) {
            let message = message_of(header, body);
            let waits = wants_reply.then_some(within);
            let (from, streams) = (conn.peer, (send, recv));
            let handled = self.handle_message(from, &handler, message, waits, room, streams);
            return handled.await;
        }
        let (responder, reply) = oneshot::channel();
        let received = Received {
            from: conn.peer,
            message: message_of(header, body),
            reply: wants_reply.then(|| Responder {
                peer: conn.peer,
                limit,
                channel: responder,
                counts: Arc::clone(&self.calls.counts),
            }),
            _room: room,
        };
        if !self.inbox.push(received) {
            return refuse(&mut send, &mut recv, Status::InboxFull).await;
        }
        if !wants_reply {
            send.write_all(&[Status::Accepted as u8]).await?;
            return send.finish();
        }
        // A requester that gives up stops the stream; the reply then has nowhere to go.
        let reply = tokio::select! {
            reply = reply => reply,
            () = sleep(within.unwrap_or(MAX_WAIT)) => {
                return refuse(&mut send, &mut recv, Status::Late).await;
            }
            _ = send.stopped() => return Ok(()),
        };
        match reply {
            Ok(message) => self.reply(&mut send, &message).await,
            Err(_) => refuse(&mut send, &mut recv, Status::NoResponder).await,
        }
    }
}

impl Inner {
    /// Whether nobody here takes messages of this type from this peer.
    fn refuses(&self, from: PeerId, kind: &str) -> bool {
        match self.is_work(from, kind) {
            Some(due) => !due,
            None if kind == BID => from == self.me,
            None => self.handlers.refuses(kind),
        }
    }

    /// Has a handler take a message; its room is held for as long as that works on it.
    async fn handle_message(
        &self,
        from: PeerId,
        handler: &Handler,
        message: Message,
        waits: Option<Option<Duration>>,
        _room: OwnedSemaphorePermit,
        (mut send, mut recv): (SendStream, RecvStream),
    ) -> Result<(), StreamError> {
        let Some(within) = waits else {
            send.write_all(&[Status::Accepted as u8]).await?;
            send.finish()?;
            handler.run(from, message, None).await;
            return Ok(());
        };
        // A requester that gives up stops the stream, and its handler with it.
        let handled = tokio::select! {
            handled = handler.run(from, message, within) => handled,
            _ = send.stopped() => return Ok(()),
        };
        match handled {
            Handled::Reply(reply) => self.reply(&mut send, &reply).await,
            Handled::Unreadable(why) => {
                let mut answer = vec![Status::Unreadable as u8];
                let why = why.to_string();
                let why = cut(&why);
                put_varint(&mut answer, why.len() as u64);
                answer.extend_from_slice(why.as_bytes());
                send.write_all(&answer).await?;
                send.finish()
            }
            Handled::Nothing => refuse(&mut send, &mut recv, Status::NoResponder).await,
            Handled::Late => refuse(&mut send, &mut recv, Status::Late).await,
        }
    }

    fn send_to_self(self: &Arc<Self>, message: Message) -> Result<(), MessageError> {
        if let Some(handler) = self.handlers.of(&message.kind) {
            let me = self.me;
            self.spawn(async move {
                handler.run(me, message, None).await;
            });
            return Ok(());
        }
        self.put_own(message, None)
    }

    async fn ask_self(&self, message: Message, within: Duration) -> Result<Message, MessageError> {
        let (peer, kind) = (self.me, message.kind.clone());
        let unanswered = MessageError::NoResponder { peer, kind };
        let timed_out = || late(peer, within, "this node asked itself");
        if let Some(handler) = self.handlers.of(&message.kind) {
            return match handler.run(peer, message, Some(within)).await {
                Handled::Reply(reply) => Ok(reply),
                Handled::Unreadable(why) => Err(MessageError::Unreadable {
                    peer,
                    reason: why.to_string(),
                }),
                Handled::Nothing => Err(unanswered),
                Handled::Late => Err(timed_out()),
            };
        }
        let (channel, reply) = oneshot::channel();
        let limit = self.config.max_message_size;
        let responder = Responder {
            peer,
            limit,
            channel,
            counts: Arc::clone(&self.calls.counts),
        };
        self.put_own(message, Some(responder))?;
        match timeout(within, reply).await {
            Ok(reply) => reply.map_err(|_| unanswered),
            Err(_) => Err(timed_out()),
        }
    }

    /// Puts a message of this node into its own inbox.
    fn put_own(&self, message: Message, reply: Option<Responder>) -> Result<(), MessageError> {
        if self.refuses(self.me, &message.kind) {
            let (peer, kind) = (self.me, message.kind);
            return Err(MessageError::NoResponder { peer, kind });
        }
        let full = || MessageError::InboxFull(self.me);
        let room = self.inbox.reserve(message.body.len()).ok_or_else(full)?;
        let received = Received {
            from: self.me,
            message,
            reply,
            _room: room,
        };
        self.inbox.push(received).then_some(()).ok_or_else(full)
    }
}

fn late(peer: PeerId, within: Duration, note: &str) -> MessageError {
    MessageError::Timeout {
        peer,
        millis: within.as_millis(),
        note: note.to_owned(),
    }
}

async fn write_reply(send: &mut SendStream, message: &Message) -> Result<(), StreamError> {
    let mut head = vec![Status::Replied as u8];
    head.extend_from_slice(&head_of(message, None));
    send.write_all(&head).await?;
    write_rest(send, message).await
}

async fn refuse(
    send: &mut SendStream,
    recv: &mut RecvStream,
    status: Status,
) -> Result<(), StreamError> {
    recv.stop(code::BUSY);
    send.write_all(&[status as u8]).await?;
    send.finish()
}

impl Responder {
    /// Sends the reply. It is lost when the requester has given up meanwhile.
    ///
    /// # Errors
    /// When the reply is larger than this node's limit or does not fit its encoding tag.
    pub async fn reply(self, message: Message) -> Result<(), MessageError> {
        check(&message, self.limit)?;
        let counts = self.counts;
        self.channel.send(message).map_err(|_| {
            counts.late();
            MessageError::Stream(StreamError::SessionLost {
                peer: self.peer,
                reason: "the requester no longer waits".to_owned(),
            })
        })
    }
}
