//! Received messages as server-sent events, and the replies to those that are requests.
//!
//! An event cannot be acknowledged: a message is gone from the inbox once the connection has
//! taken its event, and goes back if it is closed before. The way back to a requester waits
//! under the event's id, as long as the connection that told it is open.

use std::{collections::BTreeMap, sync::Arc};

use anyhop::{Message, PeerId, Received, Responder};

use crate::{
    api::MessageReport,
    daemon::Presence,
    error::{CliError, Code},
};

/// Requests that wait for a reply. When there are more, the requester of the oldest is told
/// that nobody answers.
const MAX_WAITING: usize = 1024;

/// Requests that were told and not replied to, by the ids of their events.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    next_id: u64,
    next_reader: u64,
    requests: BTreeMap<u64, Request>,
}

#[derive(Debug)]
struct Request {
    reader: u64,
    from: PeerId,
    reply: Responder,
}

impl Waiting {
    /// An id for an event; under it the way back, if this is a request.
    fn note(&mut self, reader: u64, received: &mut Received) -> u64 {
        self.next_id += 1;
        if let Some(reply) = received.reply.take() {
            if self.requests.len() >= MAX_WAITING {
                self.requests.pop_first();
            }
            let from = received.from;
            let request = Request {
                reader,
                from,
                reply,
            };
            self.requests.insert(self.next_id, request);
        }
        self.next_id
    }
}

/// One reader of events.
#[derive(Debug)]
pub(in crate::daemon) struct Events {
    presence: Arc<Presence>,
    kind: Option<String>,
    reader: u64,
    /// The latest, until the connection asks for another one.
    told: Option<Told>,
}

#[derive(Debug)]
struct Told {
    id: u64,
    is_request: bool,
    received: Received,
}

impl Events {
    /// Of messages, or of those of one type.
    pub(in crate::daemon) fn new(presence: Arc<Presence>, kind: Option<String>) -> Self {
        let reader = {
            let mut waiting = presence.inbox.waiting();
            waiting.next_reader += 1;
            waiting.next_reader
        };
        Self {
            presence,
            kind,
            reader,
            told: None,
        }
    }

    /// The next message and its event's id; `None` once the node is closed.
    pub(in crate::daemon) async fn next(&mut self) -> Option<(u64, MessageReport)> {
        self.told = None;
        let inbox = &self.presence.inbox;
        let mut received = inbox.take(self.kind.as_deref()).await?;
        let is_request = received.reply.is_some();
        let report = MessageReport::new(received.from, &received.message, is_request);
        let id = inbox.waiting().note(self.reader, &mut received);
        self.told = Some(Told {
            id,
            is_request,
            received,
        });
        Some((id, report))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let inbox = &self.presence.inbox;
        let mut waiting = inbox.waiting();
        let told = self.told.take().and_then(|mut told| {
            if told.is_request {
                // One that was replied to has been read.
                let request = waiting.requests.remove(&told.id)?;
                told.received.reply = Some(request.reply);
            }
            Some(told.received)
        });
        let reader = self.reader;
        waiting.requests.retain(|_, r| r.reader != reader);
        drop(waiting);
        if let Some(received) = told {
            inbox.give_back(received);
        }
    }
}

/// Replies to the request that the event with this id told.
pub(in crate::daemon) async fn reply(
    presence: &Presence,
    id: u64,
    message: Message,
) -> Result<PeerId, CliError> {
    let request = presence.inbox.waiting().requests.remove(&id);
    let Some(request) = request else {
        let message = format!("no request waits for a reply under the id {id}");
        return Err(CliError::new(Code::Refused, message).hint(
            "take the id of an event of a request, reply once, and while its connection is open",
        ));
    };
    let sent = request.reply.reply(message).await;
    sent.map_err(|e| super::not_answered(request.from, e.into()))?;
    Ok(request.from)
}
