//! Targets for what is said about jobs, and in calls.

use anyhop_proto::call::{Head, MAX_REASON, Part};
use anyhop_proto::jobs::{
    Bid, BidVerdict, Constraint, Job, MAX_BID_BODY, MAX_CONSTRAINTS, MAX_EXCLUDED,
};

use super::network::content;

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

/// The frames of a call, each way.
///
/// # Panics
/// When a property breaks.
pub fn call_frames(data: &[u8]) -> bool {
    let head = Head::decode(data);
    if let Ok(head) = &head {
        assert_eq!(Head::decode(content(&head.encode())).as_ref(), Ok(head));
    }
    let Ok(part) = Part::decode(data) else {
        return head.is_ok();
    };
    // A reason that is too long is cut, and then stays as it is.
    let again = Part::decode(content(&part.encode()));
    let again = again.expect("what was encoded is read");
    assert!(again.encode().len() <= MAX_REASON + 32);
    assert_eq!(Part::decode(content(&again.encode())), Ok(again));
    true
}
