//! Targets for what is said about jobs.

use anyhop_proto::jobs::{
    Bid, BidVerdict, Constraint, Job, MAX_BID_BODY, MAX_CONSTRAINTS, MAX_EXCLUDED,
};

/// A call for bids.
///
/// # Panics
/// When a property breaks.
pub fn job_call(data: &[u8]) -> bool {
    let Ok(job) = Job::decode(data) else {
        return false;
    };
    assert!(job.constraints.len() <= MAX_CONSTRAINTS && job.exclude.len() <= MAX_EXCLUDED);
    for constraint in &job.constraints {
        let again: Result<Constraint, _> = constraint.to_string().parse();
        assert!(again.is_err() || again.as_ref() == Ok(constraint));
    }
    // What was padded may be too long by then no more, never the reverse.
    let again = job.encode().map(|bytes| Job::decode(&bytes));
    assert_eq!(again, Ok(Ok(job)));
    true
}

/// A bid, or what is said to one.
///
/// # Panics
/// When a property breaks.
pub fn job_bid(data: &[u8]) -> bool {
    if let Ok(verdict) = BidVerdict::decode(data) {
        assert_eq!(BidVerdict::decode(&verdict.encode()), Ok(verdict));
    }
    let Ok(bid) = Bid::decode(data) else {
        return false;
    };
    assert!(bid.body.len() <= MAX_BID_BODY);
    let again = bid.encode().map(|bytes| Bid::decode(&bytes));
    assert_eq!(again, Ok(Ok(bid)));
    true
}
