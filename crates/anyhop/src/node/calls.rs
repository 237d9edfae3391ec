//! The shell of calls.
//!
//! A handler owns both halves of its call. When it is through, its sending half comes back,
//! so that the end is said behind all items; when the caller stops either direction, the
//! handler is dropped where it is. A call to this node itself goes through two queues.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhop_base::PeerId;
use anyhop_proto::call::{End, Head, MAX_CALL_HEAD, Part};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::{Inner, handlers::CallHandler, protocols};
use crate::{
    Body, Call, CallReceiver, CallSender, Handling, IncomingCall, Limits, MAX_TYPE_LEN, Message,
    MessageCounts, MessageError, Node, StreamError, TypeTaken,
    call::{LOCAL_QUEUE, LocalPart, Parts, Rx, Shared, Tx, end_of},
    session::Conn,
    stream::{RecvStream, SendStream, code, malformed, read_frame},
};

/// Most calls of peers that go on at a time.
const MAX_CALLS: usize = 4096;

impl Node {
    /// Begins a call of a type, whose items go both ways at once; dials when there is no
    /// session. It is over after `within`, or the handler's own time if that is shorter.
    ///
    /// # Errors
    /// When the peer cannot be reached. That it takes no such calls shows in what comes back.
    pub async fn call(
        &self,
        peer: PeerId,
        kind: &str,
        within: Duration,
    ) -> Result<Call, MessageError> {
        self.0.call(peer, kind, within).await
    }

    /// Has `handler` take calls of one type, concurrently. It is dropped when the caller gives
    /// up, when the caller's time is over, or after `within`, whichever comes first; an error
    /// that it returns is told to the caller.
    ///
    /// # Errors
    /// When the type has a handler for calls, or cannot have one.
    pub fn on_call<F, T>(
        &self,
        kind: &str,
        within: Duration,
        handler: F,
    ) -> Result<Handling, TypeTaken>
    where
        F: Fn(IncomingCall) -> T + Send + Sync + 'static,
        T: Future<Output = Result<(), MessageError>> + Send + 'static,
    {
        self.0.add_call_handler(kind, within, handler)
    }

    /// Asks with a value and waits for one: [`request`](Self::request) with typed bodies.
    ///
    /// # Errors
    /// As [`request`](Self::request); [`MessageError::Unreadable`] when the peer could not read
    /// the question, [`MessageError::Body`] when this node could not read the answer.
    pub async fn ask<Q: Body, R: Body>(
        &self,
        peer: PeerId,
        kind: &str,
        question: &Q,
        within: Duration,
    ) -> Result<R, MessageError> {
        let message = Message::of(kind, question).map_err(|e| e.of(peer))?;
        let reply = self.request(peer, message, within).await?;
        reply.read().map_err(|e| e.of(peer))
    }

    /// Has `handler` answer questions of one type: [`on_message`](Self::on_message) with typed
    /// bodies. Who asks something that cannot be read is told why.
    ///
    /// # Errors
    /// As [`on_message`](Self::on_message).
    pub fn on_ask<Q, R, F, T>(
        &self,
        kind: &str,
        within: Duration,
        handler: F,
    ) -> Result<Handling, TypeTaken>
    where
        Q: Body + Send + 'static,
        R: Body + Send + 'static,
        F: Fn(PeerId, Q) -> T + Send + Sync + 'static,
        T: Future<Output = Option<R>> + Send + 'static,
    {
        self.0.add_typed_handler(kind, within, handler)
    }
}

/// What came of messages and calls that is no answer to anything. Harmless, and told.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    late: AtomicU64,
    duplicate: AtomicU64,
    unknown: AtomicU64,
}

impl Counts {
    pub(crate) fn late(&self) {
        self.late.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn duplicate(&self) {
        self.duplicate.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn unknown(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the tasks of a node share about calls.
#[derive(Debug)]
pub(super) struct CallsShell {
    places: Arc<Semaphore>,
    /// Bytes of items at hand.
    room: Arc<Semaphore>,
    pub(super) counts: Arc<Counts>,
}

impl CallsShell {
    pub(super) fn new(limits: &Limits, max_message_size: usize) -> Self {
        // At least one item of any size has room.
        let room = limits.max_inbox_bytes.max(max_message_size);
        Self {
            places: Arc::new(Semaphore::new(MAX_CALLS)),
            room: Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS))),
            counts: Arc::default(),
        }
    }
}

impl Inner {
    pub(super) fn message_counts(&self) -> MessageCounts {
        let counts = &self.calls.counts;
        MessageCounts {
            late_replies: counts.late.load(Ordering::Relaxed),
            duplicate_replies: counts.duplicate.load(Ordering::Relaxed),
            unknown_replies: counts.unknown.load(Ordering::Relaxed),
            calls: MAX_CALLS - self.calls.places.available_permits(),
        }
    }

    fn shared(&self, peer: PeerId, kind: &str, within: Duration, callee: bool) -> Arc<Shared> {
        Arc::new(Shared {
            peer,
            kind: kind.to_owned(),
            within,
            deadline: Instant::now() + within,
            limit: self.config.max_message_size,
            room: Arc::clone(&self.calls.room),
            counts: Arc::clone(&self.calls.counts),
            callee,
        })
    }

    pub(super) async fn call(
        self: &Arc<Self>,
        peer: PeerId,
        kind: &str,
        within: Duration,
    ) -> Result<Call, MessageError> {
        if kind.len() > MAX_TYPE_LEN {
            let why = format!(
                "its type has {} bytes, at most {MAX_TYPE_LEN} are allowed",
                kind.len()
            );
            return Err(MessageError::Invalid(why));
        }
        let within_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
        let within = Duration::from_millis(u64::from(within_ms));
        if peer == self.me {
            return self.call_self(kind, within);
        }
        let conn = self.connect(peer).await.map_err(StreamError::from)?;
        let shared = self.shared(peer, kind, within, false);
        let head = Head {
            kind: kind.to_owned(),
            within_ms,
        };
        let protocol = self.protocol(protocols::CALL);
        let head = head.encode();
        let opening = conn.open_bi_with(&protocol, protocols::CALL, &head);
        let (stream, recv) =
            timeout_at(shared.deadline, opening)
                .await
                .map_err(|_| MessageError::Timeout {
                    peer,
                    millis: within.as_millis(),
                    note: "no stream could be opened: too many are open, or no path answers"
                        .to_owned(),
                })??;
        let tx = Tx::Stream {
            stream,
            back: None,
            torn: false,
        };
        Ok(Call {
            send: CallSender {
                shared: Arc::clone(&shared),
                tx,
            },
            recv: CallReceiver {
                shared,
                rx: Rx::Stream(Box::new(Parts::new(recv))),
                room: None,
            },
        })
    }

    /// Serves a call of a peer.
    pub(super) async fn serve_call(
        self: &Arc<Self>,
        conn: &Conn,
        send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), StreamError> {
        let head = read_frame(&mut recv, MAX_CALL_HEAD).await?;
        let head = Head::decode(&head).map_err(|_| malformed(&mut recv))?;
        let Some(handler) = self.handlers.call_of(&head.kind) else {
            return refuse(send, recv, End::NoHandler).await;
        };
        let Ok(_place) = Arc::clone(&self.calls.places).try_acquire_owned() else {
            return refuse(send, recv, End::Busy).await;
        };
        let asked = Duration::from_millis(u64::from(head.within_ms));
        let within = handler.within.min(asked);
        let shared = self.shared(conn.peer, &head.kind, within, true);
        let deadline = shared.deadline;
        let gone = send.gone();
        let (back, given_back) = oneshot::channel();
        let tx = Tx::Stream {
            stream: send,
            back: Some(back),
            torn: false,
        };
        let rx = Rx::Stream(Box::new(Parts::new(recv)));
        let handled = tokio::select! {
            end = run(&handler, shared, tx, rx) => Some(end),
            // The caller has given up: its handler ends where it is.
            () = gone => None,
        };
        let Some(end) = handled else { return Ok(()) };
        // A task of the handler may still be sending.
        let Ok(Ok(send)) = timeout_at(deadline, given_back).await else {
            return Ok(());
        };
        say(send, end).await
    }

    fn call_self(self: &Arc<Self>, kind: &str, within: Duration) -> Result<Call, MessageError> {
        let Some(handler) = self.handlers.call_of(kind) else {
            return Err(MessageError::NoResponder {
                peer: self.me,
                kind: kind.to_owned(),
            });
        };
        let (to_callee, at_callee) = mpsc::channel(LOCAL_QUEUE);
        let (to_caller, at_caller) = mpsc::channel(LOCAL_QUEUE);
        let at_most = handler.within.min(within);
        let (caller, callee) = (
            self.shared(self.me, kind, within, false),
            self.shared(self.me, kind, at_most, true),
        );
        let last = to_caller.clone();
        self.spawn(async move {
            let (tx, rx) = (Tx::Local(to_caller), Rx::Local(at_callee));
            let end = tokio::select! {
                end = run(&handler, callee, tx, rx) => end,
                () = last.closed() => return,
            };
            // A caller that has gone needs no end.
            let _ = last.send(LocalPart::End(end)).await;
        });
        Ok(Call {
            send: CallSender {
                shared: Arc::clone(&caller),
                tx: Tx::Local(to_callee),
            },
            recv: CallReceiver {
                shared: caller,
                rx: Rx::Local(at_caller),
                room: None,
            },
        })
    }
}

/// Runs a handler until it is through or its time is over.
fn run(
    handler: &CallHandler,
    shared: Arc<Shared>,
    tx: Tx,
    rx: Rx,
) -> Pin<Box<dyn Future<Output = End> + Send>> {
    let deadline = shared.deadline;
    let call = IncomingCall {
        peer: shared.peer,
        within: shared.within,
        recv: CallReceiver {
            shared: Arc::clone(&shared),
            rx,
            room: None,
        },
        send: CallSender { shared, tx },
    };
    let running = (handler.run)(call);
    Box::pin(async move {
        let done = timeout_at(deadline, running).await;
        done.map_or(End::Late, end_of)
    })
}

async fn refuse(send: SendStream, mut recv: RecvStream, end: End) -> Result<(), StreamError> {
    recv.stop(code::BUSY);
    say(send, end).await
}

async fn say(mut send: SendStream, end: End) -> Result<(), StreamError> {
    send.write_all(&Part::End(end).encode()).await?;
    send.finish()
}
