//! How a relay's capacity is shared among the circuits that it forwards.
//!
//! What each circuit and direction asks for is counted in windows of [`WINDOW_NS`], what is
//! dropped included. From it follows how much each may have in the next window: an equal
//! share, and what others leave of theirs (max-min fairness), so that one who floods gets no
//! more than one who asks for its share. Strangers come after those whom the relay knows,
//! but for the share that is kept for them. While less is asked for than there is, nobody
//! is held back.
//!
//! Decisions take `&self` and touch only atomics, as all of the data path does.

use std::sync::atomic::{AtomicU64, Ordering};

use super::rate::RateLimit;

/// Time over which demand is counted.
pub(super) const WINDOW_NS: u64 = 100_000_000;
/// What is handed out of the capacity, percent: the rest lets queues drain that built up
/// while shares were guessed.
const HANDED_OUT: u64 = 95;

/// Whom a circuit is forwarded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Somebody the relay is there for: a member of its network, or a peer it was told of.
    Known,
    /// Anybody else.
    Stranger,
}

/// What a relay forwards in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Bytes per second over all circuits and directions; 0 for no limit.
    pub bytes_per_s: u64,
    /// What strangers may have of it while those who are known ask for all, percent.
    pub strangers_percent: u8,
}

/// One circuit's use of the relay, in one direction.
#[derive(Debug)]
pub(super) struct Flow {
    standing: Standing,
    /// Bytes asked for in the present window.
    asked: AtomicU64,
    rate: RateLimit,
}

impl Flow {
    pub(super) fn new(standing: Standing) -> Self {
        Self {
            standing,
            asked: AtomicU64::new(0),
            rate: RateLimit::default(),
        }
    }
}

/// The shares of the present window.
#[derive(Debug)]
pub(super) struct Shares {
    capacity: Capacity,
    window_ends_ns: AtomicU64,
    /// Bytes per second that one flow of the known, and one of strangers, may have.
    known: AtomicU64,
    strangers: AtomicU64,
    total: RateLimit,
}

impl Shares {
    pub(super) fn new(capacity: Capacity) -> Self {
        Self {
            window_ends_ns: AtomicU64::new(0),
            known: AtomicU64::new(capacity.bytes_per_s),
            strangers: AtomicU64::new(capacity.bytes_per_s),
            total: RateLimit::default(),
            capacity,
        }
    }

    /// Whether a flow may pass `bytes` on now. `flows` are all there are.
    pub(super) fn allow<'a>(
        &self,
        flow: &Flow,
        bytes: usize,
        now_ns: u64,
        flows: impl Iterator<Item = &'a Flow>,
    ) -> bool {
        if self.capacity.bytes_per_s == 0 {
            return true;
        }
        let ends = self.window_ends_ns.load(Ordering::Relaxed);
        let turns = now_ns >= ends && {
            let next = now_ns + WINDOW_NS;
            let order = Ordering::Relaxed;
            let turned = self
                .window_ends_ns
                .compare_exchange(ends, next, order, order);
            turned.is_ok()
        };
        if turns {
            // After a pause the window was longer than it tells.
            let lasted = WINDOW_NS + now_ns.saturating_sub(ends);
            self.hand_out(flows, lasted);
        }
        flow.asked.fetch_add(bytes as u64, Ordering::Relaxed);
        let share = match flow.standing {
            Standing::Known => &self.known,
            Standing::Stranger => &self.strangers,
        };
        let share = share.load(Ordering::Relaxed).max(1);
        flow.rate.allow(share, bytes, now_ns)
            && self.total.allow(self.capacity.bytes_per_s, bytes, now_ns)
    }

    /// Computes the shares from what was asked for in a window of this length.
    fn hand_out<'a>(&self, flows: impl Iterator<Item = &'a Flow>, lasted_ns: u64) {
        let (mut known, mut strangers) = (Vec::new(), Vec::new());
        for flow in flows {
            let asked = u128::from(flow.asked.swap(0, Ordering::Relaxed));
            let per_s = asked * 1_000_000_000 / u128::from(lasted_ns.max(1));
            let per_s = u64::try_from(per_s).unwrap_or(u64::MAX);
            match flow.standing {
                Standing::Known => known.push(per_s),
                Standing::Stranger => strangers.push(per_s),
            }
        }
        let all = self.capacity.bytes_per_s / 100 * HANDED_OUT;
        let kept = all / 100 * u64::from(self.capacity.strangers_percent.min(100));
        let sum = |asked: &[u64]| asked.iter().fold(0_u64, |sum, a| sum.saturating_add(*a));
        let for_known = all - sum(&strangers).min(kept);
        let for_strangers = kept.max(all - sum(&known).min(all));
        self.known
            .store(fair_share(&mut known, for_known), Ordering::Relaxed);
        self.strangers
            .store(fair_share(&mut strangers, for_strangers), Ordering::Relaxed);
    }
}

/// The most that one may have, so that all together have no more than there is.
fn fair_share(asked: &mut [u64], mut left: u64) -> u64 {
    asked.sort_unstable();
    for (n, wanted) in asked.iter().enumerate() {
        let equal = left / (asked.len() - n) as u64;
        if *wanted > equal {
            return equal;
        }
        left -= wanted;
    }
    // Everybody has what it asked for: each may come to ask for what is left.
    asked.last().copied().unwrap_or(0).saturating_add(left)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;
    const CAPACITY: u64 = 10_000_000;

    /// Each flow asks for its bytes per second, in datagrams of 1000 bytes, for ten seconds;
    /// what each got per second in the last nine.
    fn run(strangers_percent: u8, flows: &[(Standing, u64)]) -> Vec<u64> {
        let shares = Shares::new(Capacity {
            bytes_per_s: CAPACITY,
            strangers_percent,
        });
        let all: Vec<_> = flows.iter().map(|(s, _)| Flow::new(*s)).collect();
        let mut passed = vec![0; flows.len()];
        let mut owed = vec![0; flows.len()];
        for ms in 0..10_000 {
            for (n, (_, rate)) in flows.iter().enumerate() {
                owed[n] += rate / 1000;
                while owed[n] >= 1000 {
                    owed[n] -= 1000;
                    let passes = shares.allow(&all[n], 1000, ms * MS, all.iter());
                    passed[n] += u64::from(passes && ms >= 1000) * 1000;
                }
            }
        }
        passed.iter().map(|bytes| bytes / 9).collect()
    }

    fn about(value: u64, expected: u64) -> bool {
        value.abs_diff(expected) <= CAPACITY / 50
    }

    #[test]
    fn one_who_floods_gets_no_more_than_one_who_asks_for_its_share() {
        use Standing::Known;
        let got = run(
            50,
            &[(Known, 100_000_000), (Known, 6_000_000), (Known, 1_000_000)],
        );
        assert!(about(got[2], 1_000_000), "{got:?}");
        assert!(
            about(got[0], 4_250_000) && about(got[1], 4_250_000),
            "{got:?}"
        );
    }

    #[test]
    fn nobody_is_held_back_while_there_is_enough() {
        let flows = [
            (Standing::Known, 4_000_000),
            (Standing::Stranger, 5_000_000),
        ];
        let got = run(10, &flows);
        assert!(
            about(got[0], 4_000_000) && about(got[1], 5_000_000),
            "{got:?}"
        );
    }

    #[test]
    fn strangers_have_what_is_kept_for_them_and_what_others_leave() {
        use Standing::{Known, Stranger};
        let both = [(Known, 20_000_000), (Stranger, 20_000_000)];
        let got = run(10, &both);
        assert!(
            about(got[0], 8_550_000) && about(got[1], 950_000),
            "{got:?}"
        );
        let none = run(0, &both);
        assert!(about(none[0], 9_500_000) && about(none[1], 0), "{none:?}");
        let idle = run(10, &[(Known, 1_000_000), (Stranger, 20_000_000)]);
        assert!(
            about(idle[0], 1_000_000) && about(idle[1], 8_500_000),
            "{idle:?}"
        );
    }

    #[test]
    fn no_capacity_is_no_limit() {
        let shares = Shares::new(Capacity {
            bytes_per_s: 0,
            strangers_percent: 0,
        });
        let flow = Flow::new(Standing::Stranger);
        assert!((0..1000).all(|_| shares.allow(&flow, 1 << 20, 0, [&flow].into_iter())));
    }

    proptest! {
        #[test]
        fn shares_add_up_to_no_more_than_there_is(
            mut asked in proptest::collection::vec(0_u64..1 << 40, 1..50),
            capacity in 0_u64..1 << 40,
        ) {
            let share = fair_share(&mut asked, capacity);
            let given: u64 = asked.iter().map(|a| *a.min(&share)).sum();
            prop_assert!(given <= capacity);
            let wanted: u64 = asked.iter().sum();
            // Nothing is left over while anybody wants it, but for what division drops.
            prop_assert!(given + asked.len() as u64 > wanted.min(capacity));
        }
    }
}
