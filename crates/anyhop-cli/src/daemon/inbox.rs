//! The daemon's side of `recv`.
//!
//! Messages wait in the node's inbox. A command takes one at a time and settles it
//! after it was printed; a message whose command left before that goes back to the
//! front, so that a killed `recv` may show one twice to its successor but loses none.

use std::{
    collections::VecDeque,
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
}

impl Inbox {
    /// Of a node.
    pub(super) fn new(node: Node) -> Self {
        Self {
            node,
            returned: Mutex::default(),
            given_back: Notify::new(),
        }
    }

    fn returned(&self) -> MutexGuard<'_, VecDeque<Received>> {
        // The queue is whole after every single operation on it.
        self.returned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, message: Received) {
        self.returned().push_front(message);
        self.given_back.notify_one();
    }

    /// The next message; `None` once the node is closed.
    async fn take(&self) -> Option<Received> {
        loop {
            if let Some(message) = self.returned().pop_front() {
                return Some(message);
            }
            tokio::select! {
                message = self.node.recv() => return message,
                // A permit of an earlier give-back is kept, so none is missed.
                () = self.given_back.notified() => {}
            }
        }
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
            Ok(Some(RecvAsk::Take { timeout_ms })) => {
                hand_over(inbox, &mut reader, &mut writer, timeout_ms).await
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
    timeout_ms: Option<u64>,
) -> Result<(), CliError> {
    let lost = |e: std::io::Error| broken(&e);
    let taken = tokio::select! {
        // A timeout of 0 takes what is there.
        biased;
        taken = take_in_time(inbox, timeout_ms) => taken,
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
    timeout_ms: Option<u64>,
) -> Result<Option<Received>, CliError> {
    let taken = match timeout_ms {
        None => inbox.take().await,
        Some(ms) => match tokio::time::timeout(Duration::from_millis(ms), inbox.take()).await {
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
