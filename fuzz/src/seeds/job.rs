//! Calls for bids, bids, and the frames of calls.

use anyhop_proto::call::{End, Head, Part};
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

pub(crate) fn call_contents() -> Vec<Vec<u8>> {
    let head = Head {
        kind: "t".to_owned(),
        within_ms: 300,
    };
    let item = Part::Item {
        encoding: 2,
        len: 5,
    };
    let failed = End::Failed {
        reason: "no".to_owned(),
    };
    let ends = [End::Done, End::TooLarge { limit: 9 }, failed];
    let frames = ends.map(|end| Part::End(end).encode());
    let frames = frames.into_iter().chain([head.encode(), item.encode()]);
    // Each is one byte of length and the content.
    frames.map(|frame| frame[1..].to_vec()).collect()
}
