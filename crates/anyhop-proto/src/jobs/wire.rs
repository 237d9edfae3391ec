//! What is said about jobs: protobuf, a [`Job`] as the body of a post, a [`Bid`] as the body
//! of a request to its publisher, and a [`BidVerdict`] as that of the reply.

use std::{collections::BTreeMap, fmt, str::FromStr};

use anyhop_base::PeerId;
use aws_lc_rs::digest;
use prost::Message as _;
use thiserror::Error;

use crate::broadcast::TopicId;

/// Longest encoded job, bytes: it travels inside its post.
pub const MAX_JOB_LEN: usize = 24 * 1024;
/// Longest body of a bid, bytes.
pub const MAX_BID_BODY: usize = 4 * 1024;
/// Longest encoded bid, bytes.
pub const MAX_BID_LEN: usize = MAX_BID_BODY + 256;
/// Longest kind of a job, bytes.
pub const MAX_KIND_LEN: usize = 128;
/// Most constraints of a job.
pub const MAX_CONSTRAINTS: usize = 32;
/// Longest key of a constraint, bytes.
pub const MAX_KEY_LEN: usize = 64;
/// Longest value of a constraint, bytes.
pub const MAX_VALUE_LEN: usize = 256;
/// Most peers that a job excludes.
pub const MAX_EXCLUDED: usize = 64;

/// What is hashed before a job's publisher, topic and bytes.
const ID_DOMAIN: &[u8] = b"anyhop-job/1";

/// The hash of a job, its publisher and its topic: nobody can publish under another's id, and
/// the same job published again has the same one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub [u8; 32]);

impl JobId {
    /// Of an encoded job.
    #[must_use]
    pub fn of(publisher: PeerId, topic: TopicId, job: &[u8]) -> Self {
        let publisher = publisher.to_bytes();
        let len = [u8::try_from(publisher.len()).unwrap_or(u8::MAX)];
        let hashed = [ID_DOMAIN, &len, &publisher, &topic.0, job].concat();
        let hash = digest::digest(&digest::SHA256, &hashed);
        let mut id = [0; 32];
        id.copy_from_slice(hash.as_ref());
        Self(id)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({self})")
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl FromStr for JobId {
    type Err = JobError;

    fn from_str(text: &str) -> Result<Self, JobError> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes());
        let id = bytes.ok().and_then(|b| b.try_into().ok());
        id.map(Self).ok_or(JobError::NotAnId)
    }
}

/// How a constraint compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// The value is this text.
    Equal,
    /// The value is a number, and at least this one.
    AtLeast,
    /// The value is a number, and at most this one.
    AtMost,
    /// A comparison of a later version, which this one cannot make: never met.
    Other(u32),
}

impl Compare {
    fn tag(self) -> u32 {
        match self {
            Self::Equal => 0,
            Self::AtLeast => 1,
            Self::AtMost => 2,
            Self::Other(tag) => tag,
        }
    }

    fn from_tag(tag: u32) -> Self {
        match tag {
            0 => Self::Equal,
            1 => Self::AtLeast,
            2 => Self::AtMost,
            other => Self::Other(other),
        }
    }
}

/// What a worker must be like: `os=linux`, `cores>=4`, `price<=0.5`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// Of what: 1 to [`MAX_KEY_LEN`] bytes without `=`, `<`, `>` and control characters.
    pub key: String,
    /// How it compares.
    pub compare: Compare,
    /// With what, at most [`MAX_VALUE_LEN`] bytes without control characters; a number for
    /// [`Compare::AtLeast`] and [`Compare::AtMost`].
    pub value: String,
}

impl Constraint {
    /// Whether it is met by who has these things; what is not told is not met.
    #[must_use]
    pub fn is_met_by(&self, have: &BTreeMap<String, String>) -> bool {
        let Some(have) = have.get(&self.key) else {
            return false;
        };
        let numbers = || Some((number(have)?, number(&self.value)?));
        match self.compare {
            Compare::Equal => *have == self.value,
            Compare::AtLeast => numbers().is_some_and(|(have, wanted)| have >= wanted),
            Compare::AtMost => numbers().is_some_and(|(have, wanted)| have <= wanted),
            Compare::Other(_) => false,
        }
    }

    fn check(&self) -> Result<(), JobError> {
        let odd = |c: char| c.is_control() || "=<>".contains(c);
        let key = !self.key.is_empty() && self.key.len() <= MAX_KEY_LEN && !self.key.contains(odd);
        let value = self.value.len() <= MAX_VALUE_LEN && !self.value.contains(char::is_control);
        let compared = matches!(self.compare, Compare::AtLeast | Compare::AtMost);
        if !key || !value || (compared && number(&self.value).is_none()) {
            return Err(JobError::Constraint(self.to_string()));
        }
        Ok(())
    }
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|n: &f64| n.is_finite())
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let compare = match self.compare {
            Compare::Equal => "=",
            Compare::AtLeast => ">=",
            Compare::AtMost => "<=",
            Compare::Other(_) => "<?>",
        };
        write!(f, "{}{compare}{}", self.key, self.value)
    }
}

impl FromStr for Constraint {
    type Err = JobError;

    fn from_str(text: &str) -> Result<Self, JobError> {
        let odd = || JobError::Constraint(text.to_owned());
        let (key, rest) = text.split_at(text.find(['=', '<', '>']).ok_or_else(odd)?);
        let (compare, value) = if let Some(value) = rest.strip_prefix(">=") {
            (Compare::AtLeast, value)
        } else if let Some(value) = rest.strip_prefix("<=") {
            (Compare::AtMost, value)
        } else {
            (Compare::Equal, rest.strip_prefix('=').ok_or_else(odd)?)
        };
        let constraint = Self {
            key: key.to_owned(),
            compare,
            value: value.to_owned(),
        };
        constraint.check().map(|()| constraint)
    }
}

/// A call for bids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Tells jobs of a publisher apart that are the same otherwise.
    pub nonce: u64,
    /// What is to be done, in the application's words.
    pub kind: String,
    /// What a worker must be like, all of it.
    pub constraints: Vec<Constraint>,
    /// Until when bids are taken, seconds since the Unix epoch.
    pub expires_unix_s: u64,
    /// Who need not bid. Everybody on the topic reads it.
    pub exclude: Vec<PeerId>,
    /// How to read the body; opaque here.
    pub encoding: u32,
    /// What bidders must know.
    pub body: Vec<u8>,
}

impl Job {
    /// Its bytes.
    ///
    /// # Errors
    /// When it is beyond a limit.
    pub fn encode(&self) -> Result<Vec<u8>, JobError> {
        self.check()?;
        let bytes = pb::Job::from(self).encode_to_vec();
        check_len(bytes.len(), MAX_JOB_LEN)?;
        Ok(bytes)
    }

    /// Reads one.
    ///
    /// # Errors
    /// When it is malformed or beyond a limit.
    pub fn decode(bytes: &[u8]) -> Result<Self, JobError> {
        check_len(bytes.len(), MAX_JOB_LEN)?;
        let job: pb::Job = pb::Job::decode(bytes).map_err(|e| malformed(&e))?;
        let job = job.into_job()?;
        job.check().map(|()| job)
    }

    fn check(&self) -> Result<(), JobError> {
        if self.kind.len() > MAX_KIND_LEN {
            return Err(JobError::KindTooLong(self.kind.len()));
        }
        let lists = [
            ("constraints", self.constraints.len(), MAX_CONSTRAINTS),
            ("excluded peers", self.exclude.len(), MAX_EXCLUDED),
        ];
        for (what, len, limit) in lists {
            if len > limit {
                return Err(JobError::TooMany { what, len, limit });
            }
        }
        self.constraints.iter().try_for_each(Constraint::check)
    }
}

/// An offer to do a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bid {
    /// Which one.
    pub job: JobId,
    /// How to read the body; opaque here.
    pub encoding: u32,
    /// On what terms, at most [`MAX_BID_BODY`] bytes.
    pub body: Vec<u8>,
}

impl Bid {
    /// Its bytes.
    ///
    /// # Errors
    /// When the body is too long.
    pub fn encode(&self) -> Result<Vec<u8>, JobError> {
        check_len(self.body.len(), MAX_BID_BODY)?;
        let Self {
            job,
            encoding,
            body,
        } = self.clone();
        let job = job.0.to_vec();
        let bid = pb::Bid {
            job,
            encoding,
            body,
        };
        Ok(bid.encode_to_vec())
    }

    /// Reads one.
    ///
    /// # Errors
    /// When it is malformed or too long.
    pub fn decode(bytes: &[u8]) -> Result<Self, JobError> {
        check_len(bytes.len(), MAX_BID_LEN)?;
        let bid: pb::Bid = pb::Bid::decode(bytes).map_err(|e| malformed(&e))?;
        check_len(bid.body.len(), MAX_BID_BODY)?;
        Ok(Self {
            job: JobId(bid.job.try_into().map_err(|_| JobError::NotAnId)?),
            encoding: bid.encoding,
            body: bid.body,
        })
    }
}

/// What a publisher says to a bid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BidVerdict {
    /// It is among the bids.
    Taken,
    /// The bidder has bid before; that bid stands.
    Duplicate,
    /// No such job is open here.
    Unknown,
    /// Its time is over.
    Expired,
    /// The bidder is excluded.
    Excluded,
    /// There are as many bids as are kept.
    Full,
    /// Something that a later version says; it is no yes.
    Other(u32),
}

impl BidVerdict {
    fn tag(self) -> u32 {
        match self {
            Self::Taken => 1,
            Self::Duplicate => 2,
            Self::Unknown => 3,
            Self::Expired => 4,
            Self::Excluded => 5,
            Self::Full => 6,
            Self::Other(tag) => tag,
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let verdict = self.tag();
        pb::Verdict { verdict }.encode_to_vec()
    }

    /// Reads one.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn decode(bytes: &[u8]) -> Result<Self, JobError> {
        let verdict: pb::Verdict = pb::Verdict::decode(bytes).map_err(|e| malformed(&e))?;
        let known = [
            Self::Taken,
            Self::Duplicate,
            Self::Unknown,
            Self::Expired,
            Self::Excluded,
            Self::Full,
        ];
        let known = known.into_iter().find(|v| v.tag() == verdict.verdict);
        Ok(known.unwrap_or(Self::Other(verdict.verdict)))
    }
}

impl fmt::Display for BidVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Taken => "it is among the bids",
            Self::Duplicate => "an earlier bid of this node stands",
            Self::Unknown => "no such job is open there",
            Self::Expired => "the time for bids is over",
            Self::Excluded => "this node is excluded",
            Self::Full => "it keeps no more bids",
            Self::Other(_) => "for a reason that this version does not know",
        })
    }
}

fn check_len(len: usize, limit: usize) -> Result<(), JobError> {
    if len > limit {
        return Err(JobError::TooLong { len, limit });
    }
    Ok(())
}

fn malformed(error: &prost::DecodeError) -> JobError {
    JobError::Malformed(error.to_string())
}

/// Why something cannot be said about a job, or not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JobError {
    /// It is longer than allowed.
    #[error("{len} bytes, and {limit} are allowed")]
    TooLong {
        /// Its length, bytes.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// The kind is longer than [`MAX_KIND_LEN`].
    #[error("its kind has {0} bytes, and {MAX_KIND_LEN} are allowed")]
    KindTooLong(usize),
    /// A list is longer than allowed.
    #[error("{len} {what}, and {limit} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// A constraint is none.
    #[error("{0:?} is no constraint, such as os=linux, cores>=4 or price<=0.5")]
    Constraint(String),
    /// It is no id of a job.
    #[error("the id of a job is 64 hexadecimal digits")]
    NotAnId,
    /// The bytes are none.
    #[error("malformed: {0}")]
    Malformed(String),
}

mod pb {
    use anyhop_base::PeerId;

    use super::{Compare, JobError};

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Job {
        #[prost(fixed64, tag = "1")]
        pub(super) nonce: u64,
        #[prost(string, tag = "2")]
        pub(super) kind: String,
        #[prost(message, repeated, tag = "3")]
        pub(super) constraints: Vec<Constraint>,
        #[prost(uint64, tag = "4")]
        pub(super) expires_unix_s: u64,
        #[prost(bytes = "vec", repeated, tag = "5")]
        pub(super) exclude: Vec<Vec<u8>>,
        #[prost(uint32, tag = "6")]
        pub(super) encoding: u32,
        #[prost(bytes = "vec", tag = "7")]
        pub(super) body: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Constraint {
        #[prost(string, tag = "1")]
        pub(super) key: String,
        #[prost(uint32, tag = "2")]
        pub(super) compare: u32,
        #[prost(string, tag = "3")]
        pub(super) value: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Bid {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) job: Vec<u8>,
        #[prost(uint32, tag = "2")]
        pub(super) encoding: u32,
        #[prost(bytes = "vec", tag = "3")]
        pub(super) body: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Verdict {
        #[prost(uint32, tag = "1")]
        pub(super) verdict: u32,
    }

    impl From<&super::Job> for Job {
        fn from(job: &super::Job) -> Self {
            let constraints = job.constraints.iter().map(|c| Constraint {
                key: c.key.clone(),
                compare: c.compare.tag(),
                value: c.value.clone(),
            });
            Self {
                nonce: job.nonce,
                kind: job.kind.clone(),
                constraints: constraints.collect(),
                expires_unix_s: job.expires_unix_s,
                exclude: job.exclude.iter().map(|p| p.to_bytes()).collect(),
                encoding: job.encoding,
                body: job.body.clone(),
            }
        }
    }

    impl Job {
        pub(super) fn into_job(self) -> Result<super::Job, JobError> {
            let constraints = self.constraints.into_iter().map(|c| super::Constraint {
                key: c.key,
                compare: Compare::from_tag(c.compare),
                value: c.value,
            });
            let peer = |bytes: &Vec<u8>| {
                let peer = PeerId::from_bytes(bytes);
                peer.map_err(|e| JobError::Malformed(format!("not a PeerId: {e}")))
            };
            Ok(super::Job {
                nonce: self.nonce,
                kind: self.kind,
                constraints: constraints.collect(),
                expires_unix_s: self.expires_unix_s,
                exclude: self.exclude.iter().map(peer).collect::<Result<_, _>>()?,
                encoding: self.encoding,
                body: self.body,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn job() -> Job {
        Job {
            nonce: 0x0102_0304_0506_0708,
            kind: "render".to_owned(),
            constraints: vec!["cores>=4".parse().unwrap()],
            expires_unix_s: 300,
            exclude: Vec::new(),
            encoding: 1,
            body: b"hi".to_vec(),
        }
    }

    #[test]
    fn a_job_has_these_bytes() {
        let bytes = [
            &[0x09, 8, 7, 6, 5, 4, 3, 2, 1, 0x12, 6][..],
            b"render",
            &[0x1a, 12, 0x0a, 5],
            b"cores",
            &[0x10, 1, 0x1a, 1, b'4', 0x20, 0xac, 2, 0x30, 1, 0x3a, 2],
            b"hi",
        ]
        .concat();
        assert_eq!(job().encode().unwrap(), bytes);
        assert_eq!(Job::decode(&bytes).unwrap(), job());
    }

    #[test]
    fn the_id_of_a_job_is_this_hash_and_another_one_for_another_publisher_or_topic() {
        let bytes = job().encode().unwrap();
        let publisher = |n: u8| PeerId::from_bytes(&[&[0, 1], &[n][..]].concat()).unwrap();
        let id = JobId::of(publisher(1), TopicId([7; 32]), &bytes);
        assert_eq!(
            id.to_string(),
            "eea882dda98698d7ee4a00a161d53e36d877451480cb8d1c95ba7e9f2c66cea2"
        );
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_ne!(id, JobId::of(publisher(2), TopicId([7; 32]), &bytes));
        assert_ne!(id, JobId::of(publisher(1), TopicId([8; 32]), &bytes));
        assert_eq!("12ab".parse::<JobId>(), Err(JobError::NotAnId));
    }

    #[test]
    fn a_bid_and_a_verdict_have_these_bytes() {
        let bid = Bid {
            job: JobId([9; 32]),
            encoding: 2,
            body: b"{}".to_vec(),
        };
        let bytes = [&[0x0a, 32][..], &[9; 32], &[0x10, 2, 0x1a, 2], b"{}"].concat();
        assert_eq!(bid.encode().unwrap(), bytes);
        assert_eq!(Bid::decode(&bytes).unwrap(), bid);
        assert_eq!(BidVerdict::Expired.encode(), [0x08, 4]);
        assert_eq!(BidVerdict::decode(&[0x08, 9]), Ok(BidVerdict::Other(9)));
        assert_eq!(BidVerdict::decode(&[]), Ok(BidVerdict::Other(0)));
    }

    #[test]
    fn what_is_beyond_a_limit_is_neither_made_nor_read() {
        let cases: [fn(&mut Job); 5] = [
            |job| job.kind = "k".repeat(MAX_KIND_LEN + 1),
            |job| job.constraints = vec![job.constraints[0].clone(); MAX_CONSTRAINTS + 1],
            |job| job.exclude = vec![PeerId::random(); MAX_EXCLUDED + 1],
            |job| job.body = vec![0; MAX_JOB_LEN],
            |job| job.constraints[0].value = "many".to_owned(),
        ];
        for spoil in cases {
            let mut spoilt = job();
            spoil(&mut spoilt);
            assert!(spoilt.encode().is_err(), "{spoilt:?}");
            let bytes = pb::Job::from(&spoilt).encode_to_vec();
            assert!(Job::decode(&bytes).is_err(), "{spoilt:?}");
        }
        let long = Bid {
            job: JobId([0; 32]),
            encoding: 0,
            body: vec![0; MAX_BID_BODY + 1],
        };
        assert!(long.encode().is_err());
    }

    #[test]
    fn constraints_are_met_by_what_is_told_and_nothing_else() {
        let have = [("os", "linux"), ("cores", "8"), ("price", "0.25")];
        let have: BTreeMap<_, _> = have.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let table = [
            ("os=linux", true),
            ("os=plan9", false),
            ("cores>=8", true),
            ("cores>=9", false),
            ("price<=0.5", true),
            ("price<=0.2", false),
            ("memory>=1", false),
            ("os>=4", false),
        ];
        for (text, met) in table {
            let constraint: Constraint = text.parse().unwrap();
            assert_eq!(constraint.is_met_by(&have), met, "{text}");
            assert_eq!(constraint.to_string(), text);
        }
        for text in ["", "os", "=x", "cores>4", "cores>=many", "a\n=b"] {
            assert!(text.parse::<Constraint>().is_err(), "{text:?}");
        }
        let later = Constraint {
            compare: Compare::Other(7),
            ..job().constraints[0].clone()
        };
        assert!(!later.is_met_by(&have));
    }

    proptest! {
        #[test]
        fn jobs_survive_a_round_trip(
            nonce: u64, kind in ".{0,30}", keys in vec("[a-z]{1,9}", 0..5),
            expires_unix_s: u64, excluded in 0..4_usize, encoding: u32, body in vec(any::<u8>(), 0..90),
        ) {
            let constraints = keys.into_iter().zip(0..).map(|(key, n)| {
                let compare = Compare::from_tag(n);
                Constraint { key, compare, value: n.to_string() }
            });
            let exclude = (0..excluded).map(|_| PeerId::random()).collect();
            let constraints = constraints.collect();
            let job = Job { nonce, kind, constraints, expires_unix_s, exclude, encoding, body };
            prop_assert_eq!(Job::decode(&job.encode().unwrap()), Ok(job));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
            let _ = Job::decode(&bytes);
            let _ = Bid::decode(&bytes);
            let _ = BidVerdict::decode(&bytes);
        }
    }
}
