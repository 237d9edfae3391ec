//! Attachments beyond the bootstrap peers: the streams around the decisions of
//! `anyhop_proto::route::Keeper`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhop_base::{Endpoint, PeerId, Reachability, Record, SignedRecord};
use anyhop_proto::route::{
    Candidate, Keeper, KeeperAction, Known, MAX_SAMPLE, MAX_SAMPLE_FRAME, Prefix, Sample,
};
use rand::seq::SliceRandom;
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};

use super::{
    Inner, protocols,
    records::{MAX_ATTACHMENT_ENDPOINTS, endpoints},
};
use crate::{
    StreamError,
    engine::{canonical, random_seed},
    session::Conn,
    stream::{SendStream, malformed, read_frame},
};

/// Neighbours asked for relays at once.
const MAX_ASKED: usize = 3;
/// How long they may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest sleep of a keeper that waits for nothing.
const IDLE: Duration = Duration::from_secs(600);

/// What a job of the keeper brought.
enum Done {
    Ended(PeerId),
    Told(Vec<Candidate>),
}

/// The keeper of one node, and what it has running.
struct Keeping {
    node: Arc<Inner>,
    keeper: Keeper,
    jobs: JoinSet<Done>,
    attached: BTreeMap<PeerId, AbortHandle>,
}

impl Inner {
    /// Keeps attachments to relays that neighbours know, as many as are needed beside the
    /// bootstrap peers.
    pub(super) async fn keep_attachments(self: Arc<Self>) {
        let pinned = self.config.bootstrap.iter().map(|b| b.peer);
        let pinned = pinned.chain([self.me]);
        let mut keeping = Keeping {
            keeper: Keeper::new(random_seed(), pinned),
            node: Arc::clone(&self),
            jobs: JoinSet::new(),
            attached: BTreeMap::new(),
        };
        loop {
            // Before the look, so that no change falls between.
            let sessions = self.session_changed.notified();
            keeping.look();
            keeping.act();
            let now = Instant::now();
            let idle_until = now + IDLE;
            let due = keeping.keeper.timeout().map(Instant::from_std);
            let due = due.map_or(idle_until, |at| at.min(idle_until));
            tokio::select! {
                Some(done) = keeping.jobs.join_next() => keeping.handle(done.ok()),
                () = sessions => {}
                () = self.attachments_changed.notified() => {}
                () = sleep_until(due) => {}
            }
        }
    }

    /// Answers a neighbour that asks for relays.
    pub(super) async fn serve_peers(
        &self,
        asker: &Conn,
        mut send: SendStream,
    ) -> Result<(), StreamError> {
        let allowed = {
            let mut samples = self.samples.lock().expect("no holder panics");
            samples.allow(Instant::now().into_std(), asker.peer)
        };
        let mut sample = Sample::default();
        if allowed && self.signals() {
            let mut known = self.current_conns();
            known.retain(|c| c.peer != asker.peer && c.is_link());
            known.shuffle(&mut rand::rng());
            let (now, book) = (self.now_unix_s(), self.book());
            let mut records: Vec<_> = known
                .iter()
                .filter_map(|conn| Some((conn, book.signed(conn.peer, now)?)))
                .filter(|(conn, signed)| may_serve(conn, signed.record()))
                .collect();
            records.sort_by_key(|(_, signed)| !is_public(signed.record()));
            let known = |(conn, signed): (&Arc<Conn>, &SignedRecord)| Known {
                record: signed.encode(),
                known_s: u32::try_from(conn.opened.elapsed().as_secs()).unwrap_or(u32::MAX),
            };
            sample.peers = records.into_iter().take(MAX_SAMPLE).map(known).collect();
        }
        send.write_all(&sample.encode()).await?;
        send.finish()
    }

    /// Nodes that may be relays and that this node or some of its neighbours are connected to.
    async fn ask_for_relays(self: &Arc<Self>) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        let mut links = Vec::new();
        for conn in self.current_conns() {
            let record = self.book().record(conn.peer).cloned();
            let known_for = conn.opened.elapsed();
            let record = record.filter(|r| may_serve(&conn, r));
            candidates.extend(record.and_then(|r| self.candidate(&r, known_for)));
            if conn.is_link() {
                links.push(conn);
            }
        }
        links.shuffle(&mut rand::rng());
        let mut asked = JoinSet::new();
        for conn in links.into_iter().take(MAX_ASKED) {
            let node = Arc::clone(self);
            asked.spawn(async move { timeout(ASK_TIMEOUT, node.ask_peers(&conn)).await });
        }
        for answer in asked.join_all().await {
            let Ok(Ok(sample)) = answer else { continue };
            for known in sample.peers {
                let known_for = Duration::from_secs(known.known_s.into());
                let record = self.learn(&known.record);
                candidates.extend(record.and_then(|r| self.candidate(&r, known_for)));
            }
        }
        candidates
    }

    async fn ask_peers(&self, conn: &Conn) -> Result<Sample, StreamError> {
        let protocol = self.protocol(protocols::PEERS);
        let (mut send, mut recv) = conn.open_bi(&protocol, protocols::PEERS).await?;
        send.finish()?;
        let frame = read_frame(&mut recv, MAX_SAMPLE_FRAME).await?;
        Sample::decode(&frame).map_err(|_| malformed(&mut recv))
    }

    /// A relay that can be attached to from here.
    fn candidate(&self, record: &Record, known_for: Duration) -> Option<Candidate> {
        let addresses = endpoints(&record.addresses);
        let addr = addresses.iter().find(|e| self.may_probe(&e.addr()))?;
        is_offered(record).then(|| Candidate {
            peer: record.peer,
            public: is_public(record),
            prefix: addr.addr().ip().into(),
            known_for,
        })
    }

    /// Attaches to a relay over a direct path; returns when that failed or is over.
    async fn hold_attachment(self: &Arc<Self>, relay: PeerId) {
        let link = match self.connect_direct(relay, &[]).await {
            Ok(link) => link,
            Err(e) => {
                tracing::debug!(peer = %relay, error = %e, "relay not reached");
                return;
            }
        };
        let record = self.book().record(relay).cloned();
        let mut addresses = record.map_or_else(Vec::new, |r| endpoints(&r.addresses));
        addresses.truncate(MAX_ATTACHMENT_ENDPOINTS);
        if let Err(e) = self.attach(&link, addresses).await {
            tracing::debug!(peer = %relay, error = %e, "attachment lost");
        }
        self.set_attachment(relay, None);
    }
}

impl Keeping {
    fn look(&mut self) {
        let node = &self.node;
        let held: Vec<_> = {
            let book = node.book();
            let prefix = |addresses: &[Endpoint]| {
                let ip = addresses.first().map(|e| e.addr().ip());
                ip.map_or_else(Prefix::default, Prefix::from)
            };
            let held = book.attached_at();
            held.map(|(peer, at)| (peer, prefix(at))).collect()
        };
        let public = node.reachability() == Reachability::Public;
        let neighbours = !node.linked_peers().is_empty();
        self.keeper.handle_state(now(), held, public, neighbours);
    }

    fn act(&mut self) {
        while let Some(action) = self.keeper.poll_action() {
            tracing::debug!(?action, "attachments");
            let node = Arc::clone(&self.node);
            match action {
                KeeperAction::Attach(peer) => {
                    let job = self.jobs.spawn(async move {
                        node.hold_attachment(peer).await;
                        Done::Ended(peer)
                    });
                    self.attached.insert(peer, job);
                }
                KeeperAction::Detach(peer) => {
                    if let Some(job) = self.attached.remove(&peer) {
                        job.abort();
                    }
                    self.node.set_attachment(peer, None);
                    self.keeper.handle_ended(now(), peer);
                }
                KeeperAction::AskNeighbours => {
                    self.jobs
                        .spawn(async move { Done::Told(node.ask_for_relays().await) });
                }
            }
        }
    }

    /// `None` is a job that was given up.
    fn handle(&mut self, done: Option<Done>) {
        match done {
            Some(Done::Ended(peer)) => {
                self.attached.remove(&peer);
                self.keeper.handle_ended(now(), peer);
            }
            Some(Done::Told(candidates)) => self.keeper.handle_candidates(now(), candidates),
            None => {}
        }
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Whether a peer relays, and strangers reach it or might: one that is seen here under an address
/// that it says is its own.
fn may_serve(conn: &Conn, record: &Record) -> bool {
    let seen = conn.link_addr().map(canonical);
    let own = || {
        endpoints(&record.addresses)
            .into_iter()
            .filter_map(|e| e.udp())
    };
    is_offered(record) && (is_public(record) || own().any(|addr| Some(addr) == seen))
}

/// Whether a node relays and nothing says that it cannot be dialled.
fn is_offered(record: &Record) -> bool {
    record.relays_for_others && record.reachability != Reachability::BehindNat
}

/// Whether strangers are known to reach a node.
fn is_public(record: &Record) -> bool {
    record.reachability == Reachability::Public
}
