//! The daemon's side of `recv`.
//!
//! Messages wait in the node's inbox. A command takes one at a time and settles it
//! after it was printed; a message whose command left before that goes back to the
//! front, so that a killed `recv` may show one twice to its successor but loses none.
//! Programs without frames read them as events, see [`events`].

pub(super) mod events;

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhop::{Message, Node, PeerId, Received};
use tokio::sync::Notify;

use crate::{
    api::{RecvAsk, RecvTell},
    client::{Reader, Writer},
    error::{CliError, Code},
    frame::{broken, unexpected},
};

/// The node's inbox, and what was taken from it and given back. At most one message for
/// each control connection is out, so that what is given back is bounded by these.
#[derive(Debug)]
pub(super) struct Inbox {
    node: Node,
    returned: Mutex<VecDeque<Received>>,
    given_back: Notify,
    /// Requests that events told.
    waiting: Mutex<events::Waiting>,
}

impl Inbox {
    /// Of a node.
    pub(super) fn new(node: Node) -> Self {
        Self {
            node,
            returned: Mutex::default(),
            given_back: Notify::new(),
            waiting: Mutex::default(),
        }
    }

    fn returned(&self) -> MutexGuard<'_, VecDeque<Received>> {
        // The queue is whole after every single operation on it.
        self.returned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, events::Waiting> {
        // The same.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, message: Received) {
        self.returned().push_front(message);
        self.given_back.notify_waiters();
    }

    /// The next message, or the next one of a type; `None` once the node is closed.
    async fn take(&self, kind: Option<&str>) -> Option<Received> {
        loop {
            let mut given_back = pin!(self.given_back.notified());
            // From here on what is given back is noticed.
            given_back.as_mut().enable();
            if let Some(message) = self.take_returned(kind) {
                return Some(message);
            }
            let next = async {
                match kind {
                    Some(kind) => self.node.recv_type(kind).await,
                    None => self.node.recv().await,
                }
            };
            tokio::select! {
                message = next => return message,
                () = given_back => {}
            }
        }
    }

    fn take_returned(&self, kind: Option<&str>) -> Option<Received> {
        let mut returned = self.returned();
        let wanted = |r: &Received| kind.is_none_or(|kind| r.message.kind == kind);
        let at = returned.iter().position(wanted)?;
        returned.remove(at)
    }
}

/// A message that is with a command; given back unless settled.
struct Held<'a> {
    inbox: &'a Inbox,
    message: Option<Received>,
}

impl Held<'_> {
    fn settle(mut self) -> Option<Received> {
        self.message.take()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(message) = self.message.take() {
            self.inbox.give_back(message);
        }
    }
}

/// Serves one `recv` until it leaves.
pub(super) async fn serve(inbox: &Inbox, mut reader: Reader, mut writer: Writer) {
    loop {
        let result = match reader.next_json::<RecvAsk>().await {
            Ok(None) => return,
            Ok(Some(RecvAsk::Take { timeout_ms, kind })) => {
                let wanted = (timeout_ms, kind.as_deref());
                hand_over(inbox, &mut reader, &mut writer, wanted).await
            }
            Ok(Some(_)) => Err(unexpected("no message was taken")),
            Err(e) => Err(e),
        };
        if let Err(error) = result {
            let _ = writer.error(error).await;
            return;
        }
    }
}

async fn hand_over(
    inbox: &Inbox,
    reader: &mut Reader,
    writer: &mut Writer,
    wanted: (Option<u64>, Option<&str>),
) -> Result<(), CliError> {
    let lost = |e: std::io::Error| broken(&e);
    let taken = tokio::select! {
        // A timeout of 0 takes what is there.
        biased;
        taken = take_in_time(inbox, wanted) => taken,
        // The command says nothing while it waits: this is its end.
        _ = reader.next() => return Err(unexpected("the command did not wait")),
    };
    let Some(received) = taken? else {
        return writer.json(&RecvTell::Nothing).await.map_err(lost);
    };
    let head = RecvTell::message(received.from, &received.message, received.reply.is_some());
    let held = Held {
        inbox,
        message: Some(received),
    };
    writer.json(&head).await.map_err(lost)?;
    if let Some(received) = &held.message {
        writer.data(&received.message.body).await.map_err(lost)?;
    }
    let Some(ask) = reader.next_json::<RecvAsk>().await? else {
        return Err(unexpected("the command left"));
    };
    let problem = match held.settle() {
        Some(received) => settle(received, ask).await.err(),
        None => None,
    };
    writer
        .json(&RecvTell::Settled { problem })
        .await
        .map_err(lost)
}

/// The next message, or `None` when the time is over.
async fn take_in_time(
    inbox: &Inbox,
    (timeout_ms, kind): (Option<u64>, Option<&str>),
) -> Result<Option<Received>, CliError> {
    let taken = match timeout_ms {
        None => inbox.take(kind).await,
        Some(ms) => match tokio::time::timeout(Duration::from_millis(ms), inbox.take(kind)).await {
            Ok(taken) => taken,
            Err(_) => return Ok(None),
        },
    };
    taken
        .map(Some)
        .ok_or_else(|| CliError::new(Code::Lost, "the daemon is stopping").hint("start it again"))
}

async fn settle(received: Received, ask: RecvAsk) -> Result<(), CliError> {
    let (from, Some(responder)) = (received.from, received.reply) else {
        return Ok(());
    };
    let reply = match ask {
        RecvAsk::Echo => received.message,
        RecvAsk::Reply { text } => Message::text(text),
        // Dropping the responder tells the requester that nobody answered.
        RecvAsk::Done | RecvAsk::Take { .. } => return Ok(()),
    };
    responder
        .reply(reply)
        .await
        .map_err(|e| not_answered(from, e.into()))
}

fn not_answered(from: PeerId, error: CliError) -> CliError {
    error.context(&format!("the reply did not reach {from}"))
}
