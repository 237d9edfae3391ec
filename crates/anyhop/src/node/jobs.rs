//! Jobs: the shell around `anyhop_proto::jobs::Jobs`.
//!
//! A job is a post on a topic of its own, `jobs/1/` and the name. A bid is a request of the
//! type [`BID`], which the node answers by itself; the work of a job is a request too, which
//! goes to the inbox if it comes from whom this node has bid to, and is refused otherwise.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhop_base::PeerId;
use anyhop_proto::jobs::{Bid, BidVerdict, Job, Jobs as Machine, KEPT_AFTER_S, Passed};
use bytes::Bytes;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{Inner, inbox::check_text};
use crate::{
    Encoding, JobError, JobId, JobSpec, Jobs, Message, OfferedJob, OwnJob, PlacedBid, Received,
    Subscription, Topic, TopicError,
    engine::random_seed,
    job::{JobName, WORK_PREFIX, work_type},
};

/// The type of the requests that are bids.
pub(super) const BID: &str = "anyhop.job.bid/1";
/// What the names of topics with jobs begin with.
const TOPIC_PREFIX: &str = "jobs/1/";
/// Time between two posts of one job. Who comes later misses earlier posts.
const REPEAT_EVERY: Duration = Duration::from_secs(60);
/// How long a publisher may take to answer a bid.
const BID_WITHIN: Duration = Duration::from_secs(30);

/// What the tasks of a node share about jobs.
#[derive(Debug)]
pub(super) struct JobsShell {
    machine: Mutex<Machine>,
    /// Bids came, or a job was closed.
    bids_changed: Notify,
}

impl JobsShell {
    pub(super) fn new(me: PeerId) -> Self {
        Self {
            machine: Mutex::new(Machine::new(me)),
            bids_changed: Notify::new(),
        }
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().expect("no holder panics")
    }
}

/// What the handles of a topic's jobs share.
#[derive(Debug)]
pub(crate) struct JobsMember {
    node: Arc<Inner>,
    topic: Topic,
}

impl JobsMember {
    pub(crate) fn name(&self) -> &str {
        let name = self.topic.name();
        name.strip_prefix(TOPIC_PREFIX).unwrap_or(name)
    }

    pub(crate) fn publish(&self, spec: JobSpec) -> Result<OwnJob, JobError> {
        let node = &self.node;
        if !check_text(spec.encoding, &spec.body) {
            return Err(TopicError::NotText.into());
        }
        let now = node.now_unix_s();
        let job = Job {
            nonce: nonce(),
            kind: spec.kind,
            constraints: spec.constraints,
            expires_unix_s: now.saturating_add(spec.lifetime.as_secs()),
            exclude: spec.exclude,
            encoding: spec.encoding.tag(),
            body: spec.body.to_vec(),
        };
        let format = |source| JobError::Format {
            what: "job",
            source,
        };
        let bytes = Bytes::from(job.encode().map_err(format)?);
        let topic = self.topic.id();
        let published = node.jobs.machine().publish(now, topic, &job, &bytes);
        let id = published.map_err(|why| JobError::not_now(why, None))?;
        if let Err(e) = self.topic.publish(Encoding::Protobuf, bytes.clone()) {
            node.jobs.machine().close(id);
            return Err(e.into());
        }
        let (inner, topic) = (Arc::clone(node), self.topic.clone());
        node.spawn(async move { inner.repeat(id, &topic, &bytes).await });
        let node = Arc::clone(node);
        Ok(OwnJob { node, id, read: 0 })
    }

    pub(crate) fn watch(&self) -> JobReader {
        JobReader {
            node: Arc::clone(&self.node),
            posts: self.topic.subscribe(),
            shown: BTreeSet::new(),
        }
    }
}

/// Reads jobs off a topic.
#[derive(Debug)]
pub(crate) struct JobReader {
    node: Arc<Inner>,
    posts: Subscription,
    /// What this reader has returned, as long as the machine remembers it.
    shown: BTreeSet<JobId>,
}

impl JobReader {
    pub(crate) async fn next(&mut self) -> Option<OfferedJob> {
        loop {
            let post = self.posts.next().await?;
            let (now, topic) = (self.node.now_unix_s(), self.posts.topic().id());
            let (id, job) = {
                let mut machine = self.node.jobs.machine();
                self.shown.retain(|id| machine.knows(*id));
                match machine.handle_job(now, topic, post.from, &post.body) {
                    Ok(job) => job,
                    Err(Passed::Own | Passed::Answered) => continue,
                    Err(why) => {
                        tracing::debug!(publisher = %post.from, ?why, "a job is passed over");
                        continue;
                    }
                }
            };
            if self.shown.insert(id) {
                return Some(OfferedJob {
                    node: Arc::clone(&self.node),
                    id,
                    publisher: post.from,
                    kind: job.kind,
                    constraints: job.constraints,
                    expires_unix_s: job.expires_unix_s,
                    encoding: Encoding::from_tag(job.encoding),
                    body: job.body.into(),
                });
            }
        }
    }
}

impl Inner {
    pub(super) fn jobs_on(self: &Arc<Self>, name: &str) -> Result<Jobs, TopicError> {
        let topic = self.topic(&format!("{TOPIC_PREFIX}{name}"))?;
        let node = Arc::clone(self);
        Ok(Jobs(Arc::new(JobsMember { node, topic })))
    }

    /// An own job, by its id.
    pub(super) fn own_job(self: &Arc<Self>, id: JobId) -> Result<OwnJob, JobError> {
        self.bids_of(id)?;
        let node = Arc::clone(self);
        Ok(OwnJob { node, id, read: 0 })
    }

    /// Publishes a job again and again, for as long as it is open.
    async fn repeat(&self, id: JobId, topic: &Topic, bytes: &Bytes) {
        while let Some(until) = self.open_until(id) {
            let left = Duration::from_secs(until - self.now_unix_s());
            tokio::select! {
                () = sleep(left.min(REPEAT_EVERY)) => {}
                () = self.closed(id) => return,
            }
            if self.open_until(id).is_some()
                && let Err(error) = topic.publish(Encoding::Protobuf, bytes.clone())
            {
                tracing::debug!(job = %id, %error, "a job is not published again");
            }
        }
        // Who waits for bids learns that there are no more.
        self.jobs.bids_changed.notify_waiters();
    }

    fn open_until(&self, id: JobId) -> Option<u64> {
        self.jobs.machine().open_until(self.now_unix_s(), id)
    }

    async fn closed(&self, id: JobId) {
        loop {
            let changed = self.jobs.bids_changed.notified();
            if self.open_until(id).is_none() {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn bids_of(&self, id: JobId) -> Result<Vec<PlacedBid>, JobError> {
        let machine = self.jobs.machine();
        let bids = machine
            .bids(id)
            .ok_or(JobError::Unknown(JobName(Some(id))))?;
        let placed = bids.iter().map(|(from, bid)| PlacedBid::new(*from, bid));
        Ok(placed.collect())
    }

    pub(crate) async fn next_bid(&self, id: JobId, read: usize) -> Option<PlacedBid> {
        loop {
            let changed = self.jobs.bids_changed.notified();
            {
                let machine = self.jobs.machine();
                if let Some((from, bid)) = machine.bids(id)?.get(read) {
                    return Some(PlacedBid::new(*from, bid));
                }
                machine.open_until(self.now_unix_s(), id)?;
            }
            tokio::select! {
                () = changed => {}
                () = self.stop.cancelled() => return None,
            }
        }
    }

    pub(crate) fn close_job(&self, id: JobId) {
        self.jobs.machine().close(id);
        self.jobs.bids_changed.notify_waiters();
    }

    pub(crate) async fn bid(
        self: &Arc<Self>,
        id: JobId,
        encoding: Encoding,
        body: Bytes,
    ) -> Result<(), JobError> {
        if !check_text(encoding, &body) {
            return Err(TopicError::NotText.into());
        }
        let (encoding, body) = (encoding.tag(), body.to_vec());
        let bid = Bid {
            job: id,
            encoding,
            body,
        };
        let format = |source| JobError::Format {
            what: "bid",
            source,
        };
        let bid = bid.encode().map_err(format)?;
        let begun = self.jobs.machine().begin_bid(self.now_unix_s(), id);
        let publisher = begun.map_err(|why| JobError::not_now(why, Some(id)))?;
        let mut bidding = Bidding {
            node: self,
            id,
            verdict: None,
        };
        let message = Message {
            kind: BID.to_owned(),
            encoding: Encoding::Protobuf,
            body: bid.into(),
        };
        let not_placed = |source| JobError::NotPlaced { job: id, source };
        let reply = self.request(publisher, message, BID_WITHIN).await;
        let reply = reply.map_err(not_placed)?;
        let verdict = BidVerdict::decode(&reply.body).map_err(|e| {
            not_placed(crate::MessageError::Protocol {
                peer: publisher,
                reason: format!("its answer to a bid is {e}"),
            })
        })?;
        bidding.verdict = Some(verdict);
        match verdict {
            BidVerdict::Taken | BidVerdict::Duplicate => Ok(()),
            verdict => Err(JobError::NotTaken {
                job: id,
                publisher,
                verdict,
            }),
        }
    }

    /// The answer to a bid that came as a request.
    pub(super) fn answer_bid(&self, from: PeerId, message: &Message) -> Option<Message> {
        let bid = Bid::decode(&message.body).ok()?;
        let now = self.now_unix_s();
        let verdict = self.jobs.machine().handle_bid(now, from, bid);
        if verdict == BidVerdict::Taken {
            self.jobs.bids_changed.notify_waiters();
        }
        Some(Message {
            kind: BID.to_owned(),
            encoding: Encoding::Protobuf,
            body: verdict.encode().into(),
        })
    }

    /// Whether a message hands out the work of a job, and if so, whether it may.
    pub(super) fn is_work(&self, from: PeerId, kind: &str) -> Option<bool> {
        let id = kind.strip_prefix(WORK_PREFIX)?;
        let id: JobId = id.parse().ok()?;
        let now = self.now_unix_s();
        Some(self.jobs.machine().may_work(now, from, id))
    }

    pub(crate) async fn work_of(&self, id: JobId, expires_unix_s: u64) -> Option<Received> {
        let until = expires_unix_s.saturating_add(KEPT_AFTER_S);
        let left = Duration::from_secs(until.saturating_sub(self.now_unix_s()));
        let kind = work_type(id);
        tokio::select! {
            received = timeout(left, self.inbox.pop(Some(&kind))) => received.ok(),
            () = self.stop.cancelled() => None,
        }
    }
}

fn nonce() -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = random_seed();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// A bid on its way. One that is given up, or fails, can be made again.
struct Bidding<'a> {
    node: &'a Inner,
    id: JobId,
    verdict: Option<BidVerdict>,
}

impl Drop for Bidding<'_> {
    fn drop(&mut self) {
        self.node.jobs.machine().end_bid(self.id, self.verdict);
    }
}
