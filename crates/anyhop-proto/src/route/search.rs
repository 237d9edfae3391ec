//! Searching a way: what a node does with a request, and how the originator goes on.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use anyhop_base::PeerId;
use thiserror::Error;

use super::{
    limit::{Bucket, PerNeighbour},
    wire::{Find, FindAnswer, Found, MAX_AVOID, MAX_REFUSALS, Nothing},
};
use crate::circuit::{MAX_HOPS, Refusal, RefusalReason};

/// Hop limits of a search's rings.
pub const RINGS: [u32; 5] = [1, 2, 4, 8, MAX_HOPS as u32];
/// What each level of a ring gets for its round trip.
const LEVEL_BUDGET: Duration = Duration::from_millis(300);
/// Wait before the next ring when somebody said that it is asked too often.
const TOO_OFTEN_PAUSE: Duration = Duration::from_millis(500);
/// Longest time a node works for one request of another.
const MAX_BUDGET: Duration = Duration::from_secs(11);

/// Requests a neighbour may make at once after a pause.
pub const FIND_BURST: u32 = 128;
/// Time after which it may make one more.
pub const FIND_INTERVAL: Duration = Duration::from_millis(20);
/// Requests this node passes on at once after a pause, over all searches of others.
pub const FORWARD_BURST: u32 = 4096;
/// Time after which it passes on one more.
pub const FORWARD_INTERVAL: Duration = Duration::from_millis(1);
/// Neighbours that one request is passed on to.
pub const MAX_FANOUT: usize = 128;
/// How long a nonce is remembered: longer than any ring takes.
const SEEN_FOR: Duration = Duration::from_secs(15);
/// Nonces remembered at once; the limit on requests stays below it.
const MAX_SEEN: usize = 32_768;
/// What all searches of others share.
const FORWARDS: Bucket = Bucket {
    burst: FORWARD_BURST,
    interval: FORWARD_INTERVAL,
};

/// A link of this node, as a search sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Who is at its other end.
    pub peer: PeerId,
    /// Whether it relays, by its own record; true when nothing is known.
    pub relays: bool,
}

/// What to do with a [`Find`].
#[derive(Debug)]
pub enum Admission {
    /// The target is here or one link away: answer with this path and its record.
    Here {
        /// See [`Found::path`].
        path: Vec<PeerId>,
    },
    /// Answer this.
    Nothing(Nothing),
    /// Ask others, then answer what they found.
    Forward(Box<Forward>),
}

/// A request to pass on.
#[derive(Debug)]
pub struct Forward {
    /// Whom to ask.
    pub to: Vec<PeerId>,
    /// What to ask.
    pub find: Find,
    /// How long to wait for the answers.
    pub wait: Duration,
    /// Where the answers go.
    pub gather: Gather,
}

/// Searches of others that crossed this node lately, and how often they may.
///
/// Requests that are refused leave nothing behind but their place in the rate limits.
#[derive(Debug)]
pub struct SearchBook {
    me: PeerId,
    /// By nonce, with the most hops a request had left.
    seen: BTreeMap<u64, u32>,
    by_age: VecDeque<(Instant, u64)>,
    asked_by: PerNeighbour,
    /// When the bucket of requests to pass on is full again.
    forwards_full_at: Option<Instant>,
}

impl SearchBook {
    /// An empty book of node `me`.
    #[must_use]
    pub fn new(me: PeerId) -> Self {
        Self {
            me,
            seen: BTreeMap::new(),
            by_age: VecDeque::new(),
            asked_by: PerNeighbour::new(FIND_BURST, FIND_INTERVAL),
            forwards_full_at: None,
        }
    }

    /// Decides on a request of neighbour `from`. `carry` is whether a circuit of that
    /// neighbour would be carried now.
    pub fn admit(
        &mut self,
        now: Instant,
        from: PeerId,
        find: &Find,
        carry: Result<(), RefusalReason>,
        links: &[Neighbour],
    ) -> Admission {
        let refused = |reason| Admission::Nothing(self.refusal(reason));
        if find.route.last() != Some(&from) || find.route.contains(&self.me) {
            return refused(RefusalReason::Loop);
        }
        if find.target == self.me {
            return Admission::Here { path: Vec::new() };
        }
        if find.hop_limit == 0 {
            return refused(RefusalReason::HopLimit);
        }
        if let Err(reason) = carry {
            return refused(reason);
        }
        if !self.asked_by.allow(now, from) {
            return Admission::Nothing(self.refusal(RefusalReason::TooOften));
        }
        self.expire(now);
        let hop_limit = find.hop_limit.min(MAX_HOPS as u32);
        let seen = self.seen.get(&find.nonce).copied();
        if seen.is_some_and(|before| before >= hop_limit) {
            return Admission::Nothing(Nothing::default());
        }
        if links.iter().any(|l| l.peer == find.target) {
            return Admission::Here {
                path: vec![self.me],
            };
        }
        let mut gather = Gather::new(Some(self.me), find.target, hop_limit - 1);
        gather.sum.reached = u32::from(seen.is_none());
        let to = gather.choose(links, &find.route, &find.avoid);
        if hop_limit == 1 {
            gather.sum.more_beyond |= !to.is_empty();
            return Admission::Nothing(gather.sum);
        }
        if !self.may_forward(now, to.len()) || self.seen.len() >= MAX_SEEN {
            return Admission::Nothing(self.refusal(RefusalReason::TooOften));
        }
        if self.seen.insert(find.nonce, hop_limit).is_none() {
            self.by_age.push_back((now, find.nonce));
        }
        let wait = find.budget().min(MAX_BUDGET);
        let mut route = find.route.clone();
        route.push(self.me);
        Admission::Forward(Box::new(Forward {
            to,
            find: Find {
                nonce: find.nonce,
                target: find.target,
                hop_limit: hop_limit - 1,
                budget_ms: millis(wait * (hop_limit - 1) / hop_limit),
                route,
                avoid: find.avoid.clone(),
            },
            wait,
            gather,
        }))
    }

    /// The requests of this node's own ring.
    #[must_use]
    pub fn start(
        &self,
        nonce: u64,
        target: PeerId,
        avoid: &[PeerId],
        ring: Ring,
        links: &[Neighbour],
    ) -> Forward {
        let mut gather = Gather::new(None, target, ring.hop_limit);
        let mut avoid = avoid.to_vec();
        avoid.truncate(MAX_AVOID);
        let to = gather.choose(links, &[], &avoid);
        Forward {
            to,
            find: Find {
                nonce,
                target,
                hop_limit: ring.hop_limit,
                budget_ms: millis(ring.wait * ring.hop_limit / (ring.hop_limit + 1)),
                route: vec![self.me],
                avoid,
            },
            wait: ring.wait,
            gather,
        }
    }

    fn refusal(&self, reason: RefusalReason) -> Nothing {
        Nothing {
            // A node that is asked too often would go on another time.
            more_beyond: reason == RefusalReason::TooOften,
            refusals: vec![Refusal {
                by: self.me,
                reason,
            }],
            ..Nothing::default()
        }
    }

    fn may_forward(&mut self, now: Instant, count: usize) -> bool {
        let full_at = self.forwards_full_at.get_or_insert(now);
        FORWARDS.take(full_at, now, count.min(MAX_FANOUT) as u32)
    }

    fn expire(&mut self, now: Instant) {
        while let Some((at, nonce)) = self.by_age.front()
            && *at + SEEN_FOR <= now
        {
            self.seen.remove(nonce);
            self.by_age.pop_front();
        }
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// Puts the answers of those asked into one.
#[derive(Debug)]
pub struct Gather {
    /// Who answers; the originator is not part of the path.
    me: Option<PeerId>,
    target: PeerId,
    /// Relays that the paths of others may have.
    hop_limit: u32,
    sum: Nothing,
}

impl Gather {
    fn new(me: Option<PeerId>, target: PeerId, hop_limit: u32) -> Self {
        Self {
            me,
            target,
            hop_limit,
            sum: Nothing::default(),
        }
    }

    /// Whom to ask: those that relay and are not on the way already.
    fn choose(&mut self, links: &[Neighbour], route: &[PeerId], avoid: &[PeerId]) -> Vec<PeerId> {
        let mut to = Vec::new();
        for link in links {
            if route.contains(&link.peer) || avoid.contains(&link.peer) {
                continue;
            }
            if !link.relays && link.peer != self.target {
                self.refuse(Refusal {
                    by: link.peer,
                    reason: RefusalReason::NotRelaying,
                });
            } else if to.len() < MAX_FANOUT {
                to.push(link.peer);
            } else {
                self.sum.more_beyond = true;
            }
        }
        to
    }

    /// An answer of `from`, `None` when it gave none. Returns the way, if it is one; then
    /// nobody else needs to be waited for.
    pub fn answered(&mut self, from: PeerId, answer: Option<FindAnswer>) -> Option<Found> {
        match answer {
            Some(FindAnswer::Found(found)) if self.plausible(from, &found.path) => {
                let me = self.me.into_iter();
                Some(Found {
                    path: me.chain(found.path).collect(),
                    record: found.record,
                })
            }
            Some(FindAnswer::Nothing(nothing)) => {
                self.sum.reached = self.sum.reached.saturating_add(nothing.reached);
                self.sum.unanswered = self.sum.unanswered.saturating_add(nothing.unanswered);
                self.sum.more_beyond |= nothing.more_beyond;
                nothing.refusals.into_iter().for_each(|r| self.refuse(r));
                None
            }
            Some(FindAnswer::Found(_)) | None => {
                self.sum.unanswered = self.sum.unanswered.saturating_add(1);
                None
            }
        }
    }

    /// The answer when nobody found a way.
    #[must_use]
    pub fn finish(self) -> Nothing {
        self.sum
    }

    /// Whether a path can be one: it starts at the answering node, within the limit, and
    /// crosses nobody twice.
    fn plausible(&self, from: PeerId, path: &[PeerId]) -> bool {
        let starts = match path.first() {
            Some(first) => *first == from,
            None => from == self.target,
        };
        let crosses_once = path.iter().enumerate().all(|(at, peer)| {
            Some(*peer) != self.me && *peer != self.target && !path[..at].contains(peer)
        });
        starts && crosses_once && path.len() <= self.hop_limit as usize
    }

    fn refuse(&mut self, refusal: Refusal) {
        let refusals = &mut self.sum.refusals;
        if refusals.len() < MAX_REFUSALS && !refusals.contains(&refusal) {
            refusals.push(refusal);
        }
    }
}

/// One ring of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    /// Relays that may be crossed.
    pub hop_limit: u32,
    /// How long to wait for its answers.
    pub wait: Duration,
    /// How long to pause before it.
    pub pause: Duration,
}

/// Why a search ended without a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EndReason {
    /// There is no link to search over.
    #[error("this node has no link to search over")]
    NoNeighbours,
    /// Every node that is linked to this one over willing nodes was asked.
    #[error("every node that willing nodes lead to was asked")]
    Exhausted,
    /// There are more nodes than the search may cross.
    #[error("the search's limit was reached, with more nodes beyond")]
    Limit,
    /// Some nodes did not answer.
    #[error("some nodes did not answer")]
    Unanswered,
    /// The time of the dial was over first.
    #[error("the time for the dial was over")]
    OutOfTime,
}

/// What came of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Neighbours asked in the last ring.
    pub asked: usize,
    /// Nodes the last ring reached.
    pub reached: u32,
    /// Hop limit of the last ring: relays that would have been crossed.
    pub hop_limit: u32,
    /// Why it ended.
    pub reason: EndReason,
    /// Nodes that carry nothing on; at most [`MAX_REFUSALS`].
    pub refusals: Vec<Refusal>,
}

impl Default for Report {
    /// Of a search that has asked nobody yet.
    fn default() -> Self {
        Self {
            asked: 0,
            reached: 0,
            hop_limit: 0,
            reason: EndReason::OutOfTime,
            refusals: Vec::new(),
        }
    }
}

/// The originator's side: which ring comes next, and when it is enough.
#[derive(Debug, Default)]
pub struct Search {
    ring: usize,
    patient: bool,
    report: Report,
}

impl Search {
    /// A search that has asked nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The first ring.
    #[must_use]
    pub fn first(&self) -> Ring {
        self.make_ring(Duration::ZERO)
    }

    /// A ring to `asked` neighbours found nothing. The next one, or `None` when the
    /// search is over.
    pub fn handle_nothing(&mut self, asked: usize, nothing: Nothing) -> Option<Ring> {
        let too_often = |r: &Refusal| r.reason == RefusalReason::TooOften;
        let slow_down = nothing.refusals.iter().any(too_often);
        self.report = Report {
            asked,
            reached: nothing.reached,
            hop_limit: RINGS[self.ring],
            reason: EndReason::OutOfTime,
            refusals: nothing.refusals,
        };
        let last = self.ring + 1 == RINGS.len();
        let end = if asked == 0 && self.report.refusals.is_empty() {
            Some(EndReason::NoNeighbours)
        } else if !nothing.more_beyond && nothing.unanswered == 0 {
            Some(EndReason::Exhausted)
        } else if last && (self.patient || nothing.unanswered == 0 && !slow_down) {
            Some(match nothing.unanswered {
                0 => EndReason::Limit,
                _ => EndReason::Unanswered,
            })
        } else {
            None
        };
        if let Some(reason) = end {
            self.report.reason = reason;
            return None;
        }
        self.patient |= last;
        self.ring = (self.ring + 1).min(RINGS.len() - 1);
        let pause = if slow_down {
            TOO_OFTEN_PAUSE
        } else {
            Duration::ZERO
        };
        Some(self.make_ring(pause))
    }

    /// How far it went; the reason is [`EndReason::OutOfTime`] until it has ended.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    fn make_ring(&self, pause: Duration) -> Ring {
        let hop_limit = RINGS[self.ring];
        Ring {
            hop_limit,
            wait: LEVEL_BUDGET * (hop_limit + 1),
            pause,
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
#[path = "search_tests.rs"]
mod tests;
