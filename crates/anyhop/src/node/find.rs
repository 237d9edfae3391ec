//! Searching a way when nothing known leads to a peer: the streams around the decisions
//! of `anyhop_proto::route`.
//!
//! A search is a tree of open `find/1` streams. Whoever no longer needs the answer drops
//! its stream, and the branch behind it is given up.

use std::{sync::Arc, time::Duration};

use anyhop_base::{PeerId, Record, SignedRecord};
use anyhop_proto::circuit::RefusalReason;
use anyhop_proto::route::{
    Admission, Find, FindAnswer, Forward, Found, MAX_FIND_FRAME, MAX_FOUND_FRAME, Neighbour,
    Report, Search,
};
use rand::RngExt;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{Inner, protocols};
use crate::{
    StreamError,
    session::Conn,
    stream::{RecvStream, SendStream, malformed, read_frame},
};

/// How long a request may take to arrive once its stream is open.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a node that has no link right now waits for one before it searches, and how
/// often it looks: it may have just started, or its network may be changing.
const LINK_PATIENCE: Duration = Duration::from_secs(3);
const LINK_LOOK: Duration = Duration::from_millis(50);

/// A way that a search found.
#[derive(Debug)]
pub(super) struct Way {
    /// The relays to cross, nearest first.
    pub(super) path: Vec<PeerId>,
    /// What the target says about itself, if its neighbour knew and it is true.
    pub(super) record: Option<Record>,
}

impl Inner {
    /// Searches a way to a peer that crosses none of `avoid`, in rings that grow.
    /// `progress` is how far it got, should it be dropped before it ends.
    pub(super) async fn search(
        self: &Arc<Self>,
        target: PeerId,
        avoid: &[PeerId],
        progress: impl Fn(&Report),
    ) -> Result<Way, Report> {
        self.await_link().await;
        let mut search = Search::new();
        let mut ring = search.first();
        loop {
            sleep(ring.pause).await;
            let forward = {
                let book = self.searches.lock().expect("no holder panics");
                let nonce = rand::rng().random();
                book.start(nonce, target, avoid, ring, &self.neighbours())
            };
            let asked = forward.to.len();
            match self.pass_on(forward).await {
                FindAnswer::Found(found) => {
                    let record = self.learn(&found.record);
                    return Ok(Way {
                        path: found.path,
                        record: record.filter(|r| r.peer == target),
                    });
                }
                FindAnswer::Nothing(nothing) => match search.handle_nothing(asked, nothing) {
                    Some(next) => {
                        progress(search.report());
                        ring = next;
                    }
                    None => return Err(search.report().clone()),
                },
            }
        }
    }

    /// Serves a neighbour's request.
    pub(super) async fn serve_find(
        self: &Arc<Self>,
        conn: &Conn,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), StreamError> {
        let frame = timeout(REQUEST_TIMEOUT, read_frame(&mut recv, MAX_FIND_FRAME)).await;
        let Ok(frame) = frame else {
            return Ok(());
        };
        let find = Find::decode(&frame?).map_err(|_| malformed(&mut recv))?;
        let carry = if self.signals() {
            let asker = (conn.peer, self.standing(conn.peer));
            let relay = self.relay.lock().expect("no holder panics");
            relay.would_carry(asker)
        } else {
            // Nobody can tell the two apart, nor needs to.
            Err(RefusalReason::NotRelaying)
        };
        let admission = {
            let mut book = self.searches.lock().expect("no holder panics");
            let now = Instant::now().into_std();
            book.admit(now, conn.peer, &find, carry, &self.neighbours())
        };
        let answer = match admission {
            Admission::Here { path } => FindAnswer::Found(Found {
                path,
                record: self.record_of(find.target),
            }),
            Admission::Nothing(nothing) => FindAnswer::Nothing(nothing),
            Admission::Forward(forward) => {
                tokio::select! {
                    answer = self.pass_on(*forward) => answer,
                    // The asker has its answer from elsewhere, or is gone.
                    _ = send.stopped() => return Ok(()),
                }
            }
        };
        send.write_all(&answer.encode()).await?;
        send.finish()
    }

    /// Asks others at once; the first way wins, and those still asked are told to stop.
    async fn pass_on(self: &Arc<Self>, forward: Forward) -> FindAnswer {
        let Forward {
            to,
            find,
            wait,
            mut gather,
        } = forward;
        let deadline = Instant::now() + wait;
        let request: Arc<[u8]> = find.encode().into();
        let mut asked = JoinSet::new();
        for peer in to {
            let (node, request) = (Arc::clone(self), Arc::clone(&request));
            asked.spawn(async move {
                let answer = timeout_at(deadline, node.ask_way(peer, &request)).await;
                (peer, answer.ok().and_then(Result::ok))
            });
        }
        while let Some(done) = asked.join_next().await {
            let Ok((peer, answer)) = done else { continue };
            if let Some(found) = gather.answered(peer, answer) {
                return FindAnswer::Found(found);
            }
        }
        FindAnswer::Nothing(gather.finish())
    }

    async fn ask_way(&self, peer: PeerId, request: &[u8]) -> Result<FindAnswer, StreamError> {
        let link = self.link_to(peer).ok_or(StreamError::Finished)?;
        let protocol = self.protocol(protocols::FIND);
        let (mut send, mut recv) = link
            .open_bi_with(&protocol, protocols::FIND, request)
            .await?;
        send.finish()?;
        let frame = read_frame(&mut recv, MAX_FOUND_FRAME).await?;
        FindAnswer::decode(&frame).map_err(|_| malformed(&mut recv))
    }

    /// Waits for a link, if there is reason to hope for one.
    async fn await_link(&self) {
        let hope = !self.config.bootstrap.is_empty() || !self.current_conns().is_empty();
        let until = Instant::now() + LINK_PATIENCE;
        while hope && self.linked_peers().is_empty() && Instant::now() < until {
            sleep(LINK_LOOK).await;
        }
    }

    /// This node's links.
    fn neighbours(&self) -> Vec<Neighbour> {
        let peers = self.linked_peers();
        let book = self.book();
        let neighbour = |peer: PeerId| Neighbour {
            peer,
            relays: book.may_relay(peer),
        };
        peers.into_iter().map(neighbour).collect()
    }

    /// A record to pass on, this node's own included; empty when none is held.
    fn record_of(&self, peer: PeerId) -> Vec<u8> {
        if peer == self.me {
            return self.own_record();
        }
        let now = self.now_unix_s();
        let book = self.book();
        let record = book.signed(peer, now).map(SignedRecord::encode);
        record.unwrap_or_default()
    }
}
