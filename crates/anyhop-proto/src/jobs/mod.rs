//! Jobs: calls for bids that are published on a topic, and the bids that come in return.
//!
//! ```text
//!   publisher   publish ---- Job, on the topic ----> handle_job   worker
//!               handle_bid <--- Bid, a request ----- begin_bid
//!                           ---- BidVerdict -------> end_bid
//!               whom it likes -- the work, a request > may_work
//! ```
//!
//! [`Jobs`] is what one node remembers: its own jobs with their bids, and those of others that
//! it was shown. A bid's author is whom the session with it proves. Own jobs, jobs that were
//! answered and those that exclude this node are passed over; a bid by who is excluded, came
//! late or has bid is refused. A job is forgotten [`KEPT_AFTER_S`] after its time: until then
//! its bids can be read, and work be handed out. Everything has a limit, and what one
//! publisher can take up is a part of it only.

mod wire;

use std::collections::{BTreeMap, BTreeSet};

use anyhop_base::PeerId;

pub use wire::{
    Bid, BidVerdict, Compare, Constraint, Job, JobError, JobId, MAX_BID_BODY, MAX_BID_LEN,
    MAX_CONSTRAINTS, MAX_EXCLUDED, MAX_JOB_LEN, MAX_KEY_LEN, MAX_KIND_LEN, MAX_VALUE_LEN,
};

use crate::broadcast::TopicId;

/// Most own jobs at a time.
pub const MAX_OWN_JOBS: usize = 256;
/// Most bids that are kept for a job.
pub const MAX_BIDS: usize = 256;
/// Most bytes of bids that are kept for all jobs.
pub const MAX_BIDS_BYTES: usize = 16 << 20;
/// Most jobs of others that are remembered.
pub const MAX_OFFERED: usize = 4096;
/// Most of them by one publisher.
pub const MAX_OFFERED_BY_ONE: usize = 256;
/// How far ahead a job may expire, seconds.
pub const MAX_JOB_LIFETIME_S: u64 = 24 * 3600;
/// How far a publisher's clock may be ahead, seconds.
pub const MAX_JOB_SKEW_S: u64 = 60;
/// For how long an expired job is remembered, seconds.
pub const KEPT_AFTER_S: u64 = 600;

/// What one node remembers of jobs. Times are seconds since the Unix epoch.
#[derive(Debug)]
pub struct Jobs {
    me: PeerId,
    own: BTreeMap<JobId, Own>,
    bids_bytes: usize,
    offers: BTreeMap<JobId, Offer>,
    of_one: BTreeMap<PeerId, usize>,
}

#[derive(Debug)]
struct Own {
    expires: u64,
    /// No more bids are wanted.
    closed: bool,
    exclude: BTreeSet<PeerId>,
    bidders: BTreeSet<PeerId>,
    bids: Vec<(PeerId, Bid)>,
}

#[derive(Debug)]
struct Offer {
    publisher: PeerId,
    expires: u64,
    stage: Stage,
}

/// How far this node is with another's job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has not bid.
    Open,
    /// It is about to.
    Bidding,
    /// Its bid stands.
    Bid,
    /// Its bid was refused for good.
    Refused,
}

/// Why a job that came in is passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passed {
    /// It is this node's own.
    Own,
    /// This node has answered it.
    Answered,
    /// It excludes this node.
    Excluded,
    /// Its time is over.
    Expired,
    /// It would last longer than [`MAX_JOB_LIFETIME_S`], or a clock is wrong.
    ExpiresTooLate,
    /// No more are remembered, of anyone or of its publisher.
    Full,
    /// It is no job.
    Malformed(JobError),
}

/// Why a job cannot be published, or bid on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotNow {
    /// It is not known, or is forgotten.
    Unknown,
    /// Its time is over, or would be too long.
    Expired,
    /// This node has bid on it, or is about to.
    Answered,
    /// There are as many as there may be.
    Full,
}

impl Jobs {
    /// Of this node.
    #[must_use]
    pub fn new(me: PeerId) -> Self {
        Self {
            me,
            own: BTreeMap::new(),
            bids_bytes: 0,
            offers: BTreeMap::new(),
            of_one: BTreeMap::new(),
        }
    }

    /// Takes an own job; its id and the bytes to publish. The same job again is the same one,
    /// with the bids that it has.
    ///
    /// # Errors
    /// When it has no or too much time, or there are [`MAX_OWN_JOBS`] already.
    pub fn publish(
        &mut self,
        now: u64,
        topic: TopicId,
        job: &Job,
        bytes: &[u8],
    ) -> Result<JobId, NotNow> {
        self.forget(now);
        let expires = job.expires_unix_s;
        if expires <= now || expires - now > MAX_JOB_LIFETIME_S {
            return Err(NotNow::Expired);
        }
        let id = JobId::of(self.me, topic, bytes);
        if self.own.contains_key(&id) {
            return Ok(id);
        }
        if self.own.len() >= MAX_OWN_JOBS {
            return Err(NotNow::Full);
        }
        let own = Own {
            expires,
            closed: false,
            exclude: job.exclude.iter().copied().collect(),
            bidders: BTreeSet::new(),
            bids: Vec::new(),
        };
        self.own.insert(id, own);
        Ok(id)
    }

    /// Until when an own job takes bids; `None` when it does not any more.
    #[must_use]
    pub fn open_until(&self, now: u64, id: JobId) -> Option<u64> {
        let own = self.own.get(&id)?;
        (!own.closed && own.expires > now).then_some(own.expires)
    }

    /// The bids on an own job, in order of arrival; `None` when there is no such job.
    #[must_use]
    pub fn bids(&self, id: JobId) -> Option<&[(PeerId, Bid)]> {
        self.own.get(&id).map(|own| &*own.bids)
    }

    /// Takes no more bids on an own job. Those that came stay until it is forgotten.
    pub fn close(&mut self, id: JobId) {
        if let Some(own) = self.own.get_mut(&id) {
            own.closed = true;
        }
    }

    /// A bid of a peer.
    pub fn handle_bid(&mut self, now: u64, from: PeerId, bid: Bid) -> BidVerdict {
        self.forget(now);
        let room = MAX_BIDS_BYTES - self.bids_bytes;
        let Some(own) = self.own.get_mut(&bid.job) else {
            return BidVerdict::Unknown;
        };
        if own.exclude.contains(&from) || from == self.me {
            return BidVerdict::Excluded;
        }
        if own.bidders.contains(&from) {
            return BidVerdict::Duplicate;
        }
        if own.closed || own.expires <= now {
            return BidVerdict::Expired;
        }
        if own.bids.len() >= MAX_BIDS || bid.body.len() > room {
            return BidVerdict::Full;
        }
        self.bids_bytes += bid.body.len();
        own.bidders.insert(from);
        own.bids.push((from, bid));
        BidVerdict::Taken
    }

    /// A job that somebody has published. The same one is shown again until it is answered.
    ///
    /// # Errors
    /// Why it is passed over.
    pub fn handle_job(
        &mut self,
        now: u64,
        topic: TopicId,
        from: PeerId,
        bytes: &[u8],
    ) -> Result<(JobId, Job), Passed> {
        self.forget(now);
        if from == self.me {
            return Err(Passed::Own);
        }
        let job = Job::decode(bytes).map_err(Passed::Malformed)?;
        let expires = job.expires_unix_s;
        if expires <= now {
            return Err(Passed::Expired);
        }
        if expires - now > MAX_JOB_LIFETIME_S + MAX_JOB_SKEW_S {
            return Err(Passed::ExpiresTooLate);
        }
        if job.exclude.contains(&self.me) {
            return Err(Passed::Excluded);
        }
        let id = JobId::of(from, topic, bytes);
        if let Some(known) = self.offers.get(&id) {
            return match known.stage {
                Stage::Open => Ok((id, job)),
                _ => Err(Passed::Answered),
            };
        }
        let of_one = self.of_one.entry(from).or_default();
        if self.offers.len() >= MAX_OFFERED || *of_one >= MAX_OFFERED_BY_ONE {
            return Err(Passed::Full);
        }
        *of_one += 1;
        let offer = Offer {
            publisher: from,
            expires,
            stage: Stage::Open,
        };
        self.offers.insert(id, offer);
        Ok((id, job))
    }

    /// Whether a job of somebody else is remembered.
    #[must_use]
    pub fn knows(&self, id: JobId) -> bool {
        self.offers.contains_key(&id)
    }

    /// This node is about to bid on a job; to whom. [`end_bid`](Self::end_bid) must follow.
    ///
    /// # Errors
    /// When it must not.
    pub fn begin_bid(&mut self, now: u64, id: JobId) -> Result<PeerId, NotNow> {
        self.forget(now);
        let offer = self.offers.get_mut(&id).ok_or(NotNow::Unknown)?;
        if offer.stage != Stage::Open {
            return Err(NotNow::Answered);
        }
        if offer.expires <= now {
            return Err(NotNow::Expired);
        }
        offer.stage = Stage::Bidding;
        Ok(offer.publisher)
    }

    /// What the publisher said to the bid; `None` when it was not reached: another may be made.
    pub fn end_bid(&mut self, id: JobId, verdict: Option<BidVerdict>) {
        if let Some(offer) = self.offers.get_mut(&id) {
            offer.stage = match verdict {
                None => Stage::Open,
                Some(BidVerdict::Taken | BidVerdict::Duplicate) => Stage::Bid,
                Some(_) => Stage::Refused,
            };
        }
    }

    /// Whether a peer may hand this node the work of a job: it is its publisher, and a bid of
    /// this node stands.
    #[must_use]
    pub fn may_work(&self, now: u64, from: PeerId, id: JobId) -> bool {
        self.offers.get(&id).is_some_and(|offer| {
            // The verdict may come behind the work.
            let bid = matches!(offer.stage, Stage::Bid | Stage::Bidding);
            bid && offer.publisher == from && offer.expires + KEPT_AFTER_S > now
        })
    }

    /// Forgets what is over.
    fn forget(&mut self, now: u64) {
        let over = |expires: u64| expires.saturating_add(KEPT_AFTER_S) <= now;
        let bids_bytes = &mut self.bids_bytes;
        self.own.retain(|_, own| {
            if over(own.expires) {
                *bids_bytes -= own.bids.iter().map(|(_, b)| b.body.len()).sum::<usize>();
            }
            !over(own.expires)
        });
        let of_one = &mut self.of_one;
        self.offers.retain(|_, offer| {
            if over(offer.expires)
                && let Some(count) = of_one.get_mut(&offer.publisher)
            {
                *count -= 1;
            }
            !over(offer.expires)
        });
        of_one.retain(|_, count| *count > 0);
    }
}

#[cfg(test)]
mod tests;
