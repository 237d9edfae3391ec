//! Handlers of messages by their type.
//!
//! A message or request whose type has a handler never enters the inbox. A request's handler
//! runs for as long as its requester waits and no longer than its own limit; when either time
//! is over, or the requester gives up, it is dropped where it is. Everything else goes to the
//! inbox, or is refused at once by a node that has handlers only.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
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
use crate::{MAX_TYPE_LEN, Message, TypeTaken, job::WORK_PREFIX};

/// Most types with a handler.
const MAX_HANDLERS: usize = 1024;

type Replying = Pin<Box<dyn Future<Output = Option<Message>> + Send>>;

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

/// What came of handling.
#[derive(Debug)]
pub(super) enum Handled {
    /// It replied.
    Reply(Message),
    /// It has no reply.
    Nothing,
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
        match timeout(within, (self.run)(from, message)).await {
            Ok(Some(reply)) => Handled::Reply(reply),
            Ok(None) => Handled::Nothing,
            Err(_) => Handled::Late,
        }
    }
}

/// The handlers of a node.
#[derive(Debug, Default)]
pub(super) struct Handlers {
    by_type: Mutex<HashMap<String, Handler>>,
    only: AtomicBool,
}

impl Handlers {
    fn by_type(&self) -> MutexGuard<'_, HashMap<String, Handler>> {
        self.by_type.lock().expect("no holder panics")
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
            node.handlers.by_type().remove(&self.kind);
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
        let mut by_type = self.handlers.by_type();
        let full = by_type.len() >= MAX_HANDLERS || kind.len() > MAX_TYPE_LEN || reserved(kind);
        if full || by_type.contains_key(kind) {
            return Err(TypeTaken(kind.to_owned()));
        }
        let run = move |from, message| -> Replying { Box::pin(handler(from, message)) };
        let run = Arc::new(run);
        by_type.insert(kind.to_owned(), Handler { run, within });
        Ok(Handling {
            node: Arc::downgrade(self),
            kind: kind.to_owned(),
        })
    }
}
