//! Calls: items each way under one deadline; what both sides hold of one.
//!
//! A [`CallSender`] and a [`CallReceiver`] work at the same time. Giving up either of them
//! before its end gives the call up, on both sides. Items take up room of the node from when
//! they are read until the next one is wanted, one a call, and a sender waits while the other
//! side does not read.

use std::{future::Future, sync::Arc, time::Duration};

use anyhop_base::{PeerId, codec::take_varint};
use anyhop_proto::{
    call::{End, MAX_CALL_PART, Part},
    take_frame,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, timeout_at},
};

use crate::{
    Encoding, Item, MessageError, StreamError,
    node::Counts,
    stream::{RecvStream, SendStream, malformed},
};

/// Items between a node and itself that wait to be read.
pub(crate) const LOCAL_QUEUE: usize = 16;
/// An item's bytes are read in chunks of this size at most.
const CHUNK: usize = 256 * 1024;

/// A call that goes on, at the side that made it.
#[derive(Debug)]
pub struct Call {
    /// The way there; [`finish`](CallSender::finish) it when all is said.
    pub send: CallSender,
    /// The way back.
    pub recv: CallReceiver,
}

impl Call {
    /// Sends one item and no more.
    ///
    /// # Errors
    /// As [`CallSender::send`].
    pub async fn send_only(&mut self, item: Item) -> Result<(), MessageError> {
        self.send.send(item).await?;
        self.send.finish().await
    }

    /// Finishes what is sent and waits for the one item that comes back.
    ///
    /// # Errors
    /// As [`CallReceiver::next`], and when there are none or more.
    pub async fn reply(mut self) -> Result<Item, MessageError> {
        self.send.finish().await?;
        let peer = self.recv.shared.peer;
        let number = |n: &str| MessageError::Protocol {
            peer,
            reason: format!("{n} replies to a call that wants one"),
        };
        let reply = self.recv.next().await?.ok_or_else(|| number("no"))?;
        match self.recv.next().await? {
            None => Ok(reply),
            Some(_) => Err(number("several")),
        }
    }
}

/// A call of a peer, at the side that answers it.
#[derive(Debug)]
pub struct IncomingCall {
    /// Who calls.
    pub peer: PeerId,
    /// For how long at most it may go on.
    pub within: Duration,
    /// What the caller sends.
    pub recv: CallReceiver,
    /// The way back. Its end is that of the handler.
    pub send: CallSender,
}

/// What both halves know.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) peer: PeerId,
    pub(crate) kind: String,
    pub(crate) within: Duration,
    pub(crate) deadline: Instant,
    /// Largest item, bytes.
    pub(crate) limit: usize,
    /// Bytes of items at hand over all calls.
    pub(crate) room: Arc<Semaphore>,
    pub(crate) counts: Arc<Counts>,
    /// Whether this side answers.
    pub(crate) callee: bool,
}

impl Shared {
    /// What does not come to an end in time.
    async fn in_time<T>(
        &self,
        what: impl Future<Output = Result<T, MessageError>>,
    ) -> Result<T, MessageError> {
        let done = timeout_at(self.deadline, what).await;
        done.unwrap_or_else(|_| Err(self.late("the call's time is over")))
    }

    fn late(&self, note: &str) -> MessageError {
        MessageError::Timeout {
            peer: self.peer,
            millis: self.within.as_millis(),
            note: note.to_owned(),
        }
    }

    fn dropped(&self) -> MessageError {
        StreamError::Dropped { peer: self.peer }.into()
    }
}

/// What goes from a node to itself.
#[derive(Debug)]
pub(crate) enum LocalPart {
    Item(Item),
    Finish,
    End(End),
}

#[derive(Debug)]
pub(crate) enum Tx {
    Stream {
        stream: SendStream,
        /// Where a callee's stream goes for the end to be said.
        back: Option<oneshot::Sender<SendStream>>,
        /// A part was begun and not ended.
        torn: bool,
    },
    Local(mpsc::Sender<LocalPart>),
    Closed,
}

#[derive(Debug)]
pub(crate) enum Rx {
    Stream(Box<Parts>),
    Local(mpsc::Receiver<LocalPart>),
    Ended,
}

/// The sending half of a call.
#[derive(Debug)]
pub struct CallSender {
    pub(crate) shared: Arc<Shared>,
    pub(crate) tx: Tx,
}

impl CallSender {
    /// Sends an item, waiting while the other side does not read. Given up half-way it ends
    /// the call.
    ///
    /// # Errors
    /// When the item is too large, the call's time is over, or the other side has gone.
    pub async fn send(&mut self, item: Item) -> Result<(), MessageError> {
        let shared = Arc::clone(&self.shared);
        let (size, limit) = (item.body.len(), shared.limit);
        if size > limit {
            return Err(MessageError::TooLarge {
                size,
                limit,
                whose: "this node's",
            });
        }
        let sent = shared.in_time(self.tx.send(&shared, item)).await;
        if shared.callee && matches!(&sent, Err(MessageError::Stream(_))) {
            shared.counts.late();
        }
        sent
    }

    /// Says that no more comes. A callee need not: its end is its handler's.
    ///
    /// # Errors
    /// When the other side has gone.
    pub async fn finish(&mut self) -> Result<(), MessageError> {
        if self.shared.callee {
            return Ok(());
        }
        match std::mem::replace(&mut self.tx, Tx::Closed) {
            // One that was stopped has its reason in what comes back.
            Tx::Stream { mut stream, .. } => {
                let _ = stream.finish();
                Ok(())
            }
            Tx::Local(tx) => {
                let sent = async {
                    // Gone or not: what comes back tells.
                    let _ = tx.send(LocalPart::Finish).await;
                    Ok(())
                };
                self.shared.in_time(sent).await
            }
            Tx::Closed => Ok(()),
        }
    }
}

impl Tx {
    async fn send(&mut self, shared: &Shared, item: Item) -> Result<(), MessageError> {
        match self {
            Self::Stream { stream, torn, .. } => {
                let part = Part::Item {
                    encoding: item.encoding.tag(),
                    len: item.body.len() as u64,
                };
                *torn = true;
                stream.write_all(&part.encode()).await?;
                stream.write_chunk(item.body).await?;
                *torn = false;
                Ok(())
            }
            Self::Local(tx) => {
                let sent = tx.send(LocalPart::Item(item)).await;
                sent.map_err(|_| shared.dropped())
            }
            Self::Closed => Err(StreamError::Finished.into()),
        }
    }
}

impl Drop for CallSender {
    fn drop(&mut self) {
        if let Tx::Stream {
            stream,
            back: Some(back),
            torn: false,
        } = std::mem::replace(&mut self.tx, Tx::Closed)
        {
            // Nobody waits for it when the caller has gone.
            let _ = back.send(stream);
        }
    }
}

/// The receiving half of a call.
#[derive(Debug)]
pub struct CallReceiver {
    pub(crate) shared: Arc<Shared>,
    pub(crate) rx: Rx,
    /// Of the last item.
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

impl CallReceiver {
    /// The next item; `None` when the other side has said all. Cancel-safe.
    ///
    /// # Errors
    /// When the call's time is over, the other side has gone or, at the caller, how the call
    /// failed there. The call is over then.
    pub async fn next(&mut self) -> Result<Option<Item>, MessageError> {
        let shared = Arc::clone(&self.shared);
        self.room = None;
        let next = shared.in_time(self.rx.next(&shared)).await;
        match next {
            Ok(Some((item, room))) => {
                self.room = room;
                Ok(Some(item))
            }
            over => {
                // Stops what is not at its end.
                self.rx = Rx::Ended;
                over.map(|_| None)
            }
        }
    }
}

type Read = (Item, Option<OwnedSemaphorePermit>);

impl Rx {
    async fn next(&mut self, shared: &Shared) -> Result<Option<Read>, MessageError> {
        let end = match self {
            Self::Ended => return Ok(None),
            Self::Stream(parts) => match parts.next(shared).await? {
                Ok(read) => return Ok(Some(read)),
                Err(end) => end,
            },
            Self::Local(parts) => match parts.recv().await {
                Some(LocalPart::Item(item)) => return Ok(Some((item, None))),
                Some(LocalPart::Finish) => End::Done,
                Some(LocalPart::End(end)) => end,
                None => return Err(shared.dropped()),
            },
        };
        over(shared, end).map(|()| None)
    }
}

/// Parts off a stream. What has been read of one stays here when the reading is given up.
#[derive(Debug)]
pub(crate) struct Parts {
    stream: RecvStream,
    frame: Vec<u8>,
    item: Option<Partial>,
}

/// An item that is being read.
#[derive(Debug)]
struct Partial {
    encoding: Encoding,
    len: usize,
    room: Option<OwnedSemaphorePermit>,
    body: Vec<u8>,
}

impl Parts {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            frame: Vec::new(),
            item: None,
        }
    }

    /// The next item, or else the end.
    async fn next(&mut self, shared: &Shared) -> Result<Result<Read, End>, MessageError> {
        if self.item.is_none() {
            match self.head(shared).await? {
                Ok(item) => self.item = Some(item),
                Err(end) => return Ok(Err(end)),
            }
        }
        if let Some(item) = &mut self.item {
            if item.room.is_none() {
                let permits = u32::try_from(item.len).unwrap_or(u32::MAX);
                let room = Arc::clone(&shared.room).acquire_many_owned(permits).await;
                item.room = Some(room.map_err(|_| shared.dropped())?);
            }
            while item.body.len() < item.len {
                let wanted = CHUNK.min(item.len - item.body.len());
                let chunk = self.stream.read_chunk(wanted).await?;
                let chunk = chunk.ok_or_else(|| shared.dropped())?;
                item.body.extend_from_slice(&chunk);
            }
        }
        let item = self.item.take().ok_or_else(|| shared.dropped())?;
        let (encoding, body) = (item.encoding, item.body.into());
        Ok(Ok((Item { encoding, body }, item.room)))
    }

    async fn head(&mut self, shared: &Shared) -> Result<Result<Partial, End>, MessageError> {
        let Some(frame) = self.frame().await? else {
            return match shared.callee {
                true => Ok(Err(End::Done)),
                false => Err(shared.dropped()),
            };
        };
        match Part::decode(&frame) {
            Ok(Part::Item { encoding, len }) => {
                let (limit, len) = (shared.limit, usize::try_from(len).unwrap_or(usize::MAX));
                if len > limit {
                    return Err(MessageError::TooLarge {
                        size: len,
                        limit,
                        whose: "this node's",
                    });
                }
                Ok(Ok(Partial {
                    encoding: Encoding::from_tag(encoding),
                    len,
                    room: None,
                    body: Vec::new(),
                }))
            }
            Ok(Part::End(end)) if !shared.callee => Ok(Err(end)),
            _ => Err(malformed(&mut self.stream).into()),
        }
    }

    /// The next frame's content; `None` when the stream ended before it began.
    async fn frame(&mut self) -> Result<Option<Vec<u8>>, StreamError> {
        loop {
            let content = take_frame(&mut &self.frame[..], MAX_CALL_PART);
            match content.map(|content| content.map(<[u8]>::to_vec)) {
                Ok(Some(content)) => {
                    self.frame.clear();
                    return Ok(Some(content));
                }
                Ok(None) => {}
                Err(_) => return Err(malformed(&mut self.stream)),
            }
            let mut bytes = [0; MAX_CALL_PART];
            let wanted = missing(&self.frame).min(bytes.len());
            match self.stream.read(&mut bytes[..wanted]).await? {
                Some(n) => self.frame.extend_from_slice(&bytes[..n]),
                None if self.frame.is_empty() => return Ok(None),
                None => return Err(StreamError::Finished),
            }
        }
    }
}

/// Bytes of a frame that are missing for certain.
fn missing(frame: &[u8]) -> usize {
    let mut rest = frame;
    match take_varint(&mut rest) {
        Ok(Some(len)) => {
            usize::try_from(len).map_or(1, |len| len.saturating_sub(rest.len()).max(1))
        }
        _ => 1,
    }
}

/// How a call ended, in the words of errors.
fn over(shared: &Shared, end: End) -> Result<(), MessageError> {
    let peer = shared.peer;
    Err(match end {
        End::Done => return Ok(()),
        End::NoHandler => MessageError::NoResponder {
            peer,
            kind: shared.kind.clone(),
        },
        End::Late => shared.late("the peer's time for it was over first"),
        End::TooLarge { limit } => MessageError::TooLarge {
            size: shared.limit,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            whose: "the peer's",
        },
        End::Busy => MessageError::Stream(StreamError::Busy {
            peer,
            protocol: "call/1".to_owned(),
        }),
        End::Failed { reason } => MessageError::Failed { peer, reason },
        End::Unreadable { reason } => MessageError::Unreadable { peer, reason },
        End::Other(tag) => {
            shared.counts.unknown();
            MessageError::Protocol {
                peer,
                reason: format!("a call ended with {tag}, which this version does not know"),
            }
        }
    })
}

/// What a callee says of how its handler ended.
pub(crate) fn end_of(result: Result<(), MessageError>) -> End {
    match result {
        Ok(()) => End::Done,
        Err(MessageError::TooLarge { limit, .. }) => End::TooLarge {
            limit: limit as u64,
        },
        Err(MessageError::Timeout { .. }) => End::Late,
        Err(MessageError::Failed { reason, .. }) => End::Failed { reason },
        Err(MessageError::Body { source, .. }) => End::Unreadable {
            reason: source.to_string(),
        },
        Err(other) => End::Failed {
            reason: other.to_string(),
        },
    }
}
