//! What neighbours are worth: points lost for what no honest node sends, regained with time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhop_base::PeerId;

use super::Verdict;

/// Nobody with fewer points is listened to.
pub const IGNORED_BELOW: i32 = -100;
/// Points lost for a post that is rejected.
const REJECTED: i32 = -20;
/// Points lost for a frame that breaks the protocol, such as one with a wrong signature.
const MISBEHAVED: i32 = -50;
/// Lowest score, so that it takes at most this long to be listened to again.
const LOWEST: i32 = -1000;
/// Time in which a point is regained.
const REGAINED_IN: Duration = Duration::from_secs(1);
/// Most peers with a score. Who has lost the least is forgotten first.
pub const MAX_SCORES: usize = 1024;

/// Scores of the peers that have lost points.
#[derive(Debug, Default)]
pub struct Scores(BTreeMap<PeerId, (i32, Instant)>);

impl Scores {
    /// A peer's points: 0 of one that has done nothing wrong for long.
    #[must_use]
    pub fn of(&self, now: Instant, peer: &PeerId) -> i32 {
        self.0.get(peer).map_or(0, |(points, since)| {
            let regained = now.duration_since(*since).as_secs() / REGAINED_IN.as_secs();
            let regained = i32::try_from(regained).unwrap_or(i32::MAX);
            points.saturating_add(regained).min(0)
        })
    }

    /// Whether nothing of this peer is taken.
    #[must_use]
    pub fn ignores(&self, now: Instant, peer: &PeerId) -> bool {
        self.of(now, peer) < IGNORED_BELOW
    }

    /// A post that the peer sent was judged.
    pub fn handle_verdict(&mut self, now: Instant, peer: PeerId, verdict: Verdict) {
        if verdict == Verdict::Reject {
            self.take_from(now, peer, REJECTED);
        }
    }

    /// The peer sent what breaks the protocol.
    pub fn handle_misbehaviour(&mut self, now: Instant, peer: PeerId) {
        self.take_from(now, peer, MISBEHAVED);
    }

    /// All peers that have lost points, with what they have now.
    pub fn all(&self, now: Instant) -> impl Iterator<Item = (PeerId, i32)> {
        self.0.keys().map(move |peer| (*peer, self.of(now, peer)))
    }

    fn take_from(&mut self, now: Instant, peer: PeerId, points: i32) {
        let left = (self.of(now, &peer) + points).max(LOWEST);
        self.0.insert(peer, (left, now));
        if self.0.len() > MAX_SCORES {
            let best = self.all(now).filter(|(p, _)| *p != peer);
            if let Some((best, _)) = best.max_by_key(|(_, points)| *points) {
                self.0.remove(&best);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "some instant to begin with")]
    fn points_are_lost_by_lies_and_regained_by_time() {
        let (now, peer) = (Instant::now(), PeerId::random());
        let mut scores = Scores::default();
        scores.handle_verdict(now, peer, Verdict::Accept);
        scores.handle_verdict(now, peer, Verdict::Ignore);
        assert_eq!(scores.of(now, &peer), 0);
        scores.handle_verdict(now, peer, Verdict::Reject);
        scores.handle_misbehaviour(now, peer);
        scores.handle_misbehaviour(now, peer);
        assert_eq!(scores.of(now, &peer), -120);
        assert!(scores.ignores(now, &peer));
        let later = now + Duration::from_secs(20);
        assert!(!scores.ignores(later, &peer));
        assert_eq!(scores.of(later + Duration::from_secs(1000), &peer), 0);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "some instant to begin with")]
    fn scores_are_bounded_and_the_worst_are_kept() {
        let now = Instant::now();
        let mut scores = Scores::default();
        let worst = PeerId::random();
        scores.handle_misbehaviour(now, worst);
        for _ in 0..MAX_SCORES + 10 {
            scores.handle_verdict(now, PeerId::random(), Verdict::Reject);
        }
        assert_eq!(scores.all(now).count(), MAX_SCORES);
        assert_eq!(scores.of(now, &worst), -50);
    }
}
