//! Calls for bids, and bids.

use anyhop_proto::jobs::{Bid, Compare, Constraint, Job, JobId};

use super::peer;

pub(crate) fn job_calls() -> Vec<Vec<u8>> {
    let constraint = |key: &str, compare| Constraint {
        key: key.to_owned(),
        compare,
        value: "4".to_owned(),
    };
    let job = Job {
        nonce: 7,
        kind: "render".to_owned(),
        constraints: vec![
            constraint("os", Compare::Equal),
            constraint("cores", Compare::AtLeast),
            constraint("price", Compare::AtMost),
            constraint("later", Compare::Other(9)),
        ],
        expires_unix_s: 300,
        exclude: vec![peer(2), peer(3)],
        encoding: 1,
        body: b"hi".to_vec(),
    };
    vec![job.encode().expect("a small job")]
}

pub(crate) fn job_bids() -> Vec<Vec<u8>> {
    let bid = Bid {
        job: JobId([9; 32]),
        encoding: 2,
        body: b"{}".to_vec(),
    };
    vec![bid.encode().expect("a small bid")]
}
