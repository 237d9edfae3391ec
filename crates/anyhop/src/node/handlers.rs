//! Handlers of messages by their type.
//!
//! A message or request whose type has a handler never enters the inbox. A request's handler
//! runs for as long as its requester waits and no longer than its own limit; when either time
//! is over, or the requester gives up, it is dropped where it is. Everything else goes to the
//! inbox, or is refused at once by a node that has handlers only.

use std::{
    collections::HashMap,
    fmt,
    future::{Future, ready},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhop_base::PeerId;
use tokio::time::timeout;

use super::{Inner, jobs::BID};
use crate::{
    Body, BodyError, IncomingCall, MAX_TYPE_LEN, Message, MessageError, TypeTaken, job::WORK_PREFIX,
};

/// Most types with a handler.
const MAX_HANDLERS: usize = 1024;

type Replying = Pin<Box<dyn Future<Output = Handled> + Send>>;
type Ending = Pin<Box<dyn Future<Output = Result<(), MessageError>> + Send>>;

/// Types that the library itself takes.
fn reserved(kind: &str) -> bool {
    kind == BID || kind.starts_with(WORK_PREFIX)
}

/// What handles one type.
#[derive(Clone)]
pub(super) struct Handler {
    run: Arc<dyn Fn(PeerId, Message) -> Replying + Send + Sync>,
    within: Duration,
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handler(within {:?})", self.within)
    }
}

/// What handles calls of one type.
#[derive(Clone)]
pub(super) struct CallHandler {
    pub(super) run: Arc<dyn Fn(IncomingCall) -> Ending + Send + Sync>,
    pub(super) within: Duration,
}

impl fmt::Debug for CallHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallHandler(within {:?})", self.within)
    }
}

/// What came of handling.
#[derive(Debug)]
pub(super) enum Handled {
    /// It replied.
    Reply(Message),
    /// It has no reply.
    Nothing,
    /// What was sent is not what the type wants.
    Unreadable(BodyError),
    /// Its time was over.
    Late,
}

impl Handler {
    /// Runs it for at most the shorter of both times.
    pub(super) async fn run(
        &self,
        from: PeerId,
        message: Message,
        within: Option<Duration>,
    ) -> Handled {
        let within = within.map_or(self.within, |asked| asked.min(self.within));
        let done = timeout(within, (self.run)(from, message)).await;
        done.unwrap_or(Handled::Late)
    }
}

/// The handlers of a node.
#[derive(Debug, Default)]
pub(super) struct Handlers {
    by_type: Mutex<HashMap<String, Handler>>,
    calls: Mutex<HashMap<String, CallHandler>>,
    only: AtomicBool,
}

impl Handlers {
    fn by_type(&self) -> MutexGuard<'_, HashMap<String, Handler>> {
        self.by_type.lock().expect("no holder panics")
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<String, CallHandler>> {
        self.calls.lock().expect("no holder panics")
    }

    /// The handler of calls of a type.
    pub(super) fn call_of(&self, kind: &str) -> Option<CallHandler> {
        self.calls().get(kind).cloned()
    }

    /// The handler of a type.
    pub(super) fn of(&self, kind: &str) -> Option<Handler> {
        self.by_type().get(kind).cloned()
    }

    /// Whether what has no handler is refused.
    pub(super) fn refuses(&self, kind: &str) -> bool {
        self.only.load(Ordering::Relaxed) && !self.by_type().contains_key(kind)
    }

    /// Has what has no handler be refused, or go to the inbox.
    pub(super) fn set_only(&self, only: bool) {
        self.only.store(only, Ordering::Relaxed);
    }
}

/// Keeps a handler in place; dropping it ends that.
#[derive(Debug)]
#[must_use = "a handler is removed when this is dropped"]
pub struct Handling {
    node: Weak<Inner>,
    kind: String,
    calls: bool,
}

impl Handling {
    /// Keeps the handler for as long as the node runs.
    pub fn keep(mut self) {
        self.node = Weak::new();
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        if let Some(node) = self.node.upgrade() {
            match self.calls {
                true => drop(node.handlers.calls().remove(&self.kind)),
                false => drop(node.handlers.by_type().remove(&self.kind)),
            }
        }
    }
}

impl Inner {
    pub(super) fn add_handler<F, T>(
        self: &Arc<Self>,
        kind: &str,
        within: Duration,
        handler: F,
    ) -> Result<Handling, TypeTaken>
    where
        F: Fn(PeerId, Message) -> T + Send + Sync + 'static,
        T: Future<Output = Option<Message>> + Send + 'static,
    {
        let run = move |from, message| -> Replying {
            let replying = handler(from, message);
            Box::pin(async move { replying.await.map_or(Handled::Nothing, Handled::Reply) })
        };
        let run = Arc::new(run);
        self.insert_handler(kind, Handler { run, within })
    }

    pub(super) fn add_typed_handler<Q, R, F, T>(
        self: &Arc<Self>,
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
        let run = move |from, message: Message| -> Replying {
            let replying = match message.read::<Q>() {
                Ok(question) => handler(from, question),
                Err(e) => return Box::pin(ready(Handled::Unreadable(e))),
            };
            let kind = message.kind;
            Box::pin(async move {
                let Some(reply) = replying.await else {
                    return Handled::Nothing;
                };
                match Message::of(&kind, &reply) {
                    Ok(reply) => Handled::Reply(reply),
                    Err(error) => {
                        tracing::warn!(kind, %error, "a reply is not sent: check its type");
                        Handled::Nothing
                    }
                }
            })
        };
        let run = Arc::new(run);
        self.insert_handler(kind, Handler { run, within })
    }

    fn insert_handler(
        self: &Arc<Self>,
        kind: &str,
        handler: Handler,
    ) -> Result<Handling, TypeTaken> {
        if reserved(kind) {
            return Err(TypeTaken(kind.to_owned()));
        }
        insert(&mut self.handlers.by_type(), kind, handler)?;
        Ok(self.handling(kind, false))
    }

    pub(super) fn add_call_handler<F, T>(
        self: &Arc<Self>,
        kind: &str,
        within: Duration,
        handler: F,
    ) -> Result<Handling, TypeTaken>
    where
        F: Fn(IncomingCall) -> T + Send + Sync + 'static,
        T: Future<Output = Result<(), MessageError>> + Send + 'static,
    {
        let run = move |call| -> Ending { Box::pin(handler(call)) };
        let run = Arc::new(run);
        insert(
            &mut self.handlers.calls(),
            kind,
            CallHandler { run, within },
        )?;
        Ok(self.handling(kind, true))
    }

    fn handling(self: &Arc<Self>, kind: &str, calls: bool) -> Handling {
        Handling {
            node: Arc::downgrade(self),
            kind: kind.to_owned(),
            calls,
        }
    }
}

/// Adds a handler of a type that has none, if there is room for one.
fn insert<H>(by_type: &mut HashMap<String, H>, kind: &str, handler: H) -> Result<(), TypeTaken> {
    let full = by_type.len() >= MAX_HANDLERS || kind.len() > MAX_TYPE_LEN;
    if full || by_type.contains_key(kind) {
        return Err(TypeTaken(kind.to_owned()));
    }
    by_type.insert(kind.to_owned(), handler);
    Ok(())
}
