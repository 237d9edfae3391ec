//! Frames of `membership/1`: each alone on a unidirectional stream.

use super::{Digest, KeyId, SWARM_KEY_LEN, StatementId};
use crate::{
    frame::{FrameError, decode, encode_frame},
    network::{
        membership::BUCKETS,
        statement::{MAX_POLICY_LEN, MAX_STATEMENT_LEN, STATEMENT_ID_LEN},
    },
};

/// Largest frame of gossip, bytes.
pub const MAX_GOSSIP_FRAME: usize = 64 * 1024;
/// Most ids in a frame, but for a single bucket that has more.
pub(super) const MAX_IDS: usize = 1024;
/// Most ids that a frame can hold: above what the limits of a network leave for a bucket.
const MAX_IDS_EVER: usize = 4000;
/// Bytes of statements in a frame.
const MAX_STATEMENT_BYTES: usize = 32 * 1024;
/// Most statements in a frame: none is shorter than a signature.
const MAX_STATEMENTS: usize = MAX_GOSSIP_FRAME / 64;

mod pb {
    /// Exactly one field is there.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Message {
        #[prost(message, optional, tag = "1")]
        pub(super) summary: Option<Summary>,
        #[prost(bytes = "vec", optional, tag = "2")]
        pub(super) buckets: Option<Vec<u8>>,
        #[prost(message, optional, tag = "3")]
        pub(super) ids: Option<Ids>,
        #[prost(bytes = "vec", optional, tag = "4")]
        pub(super) want: Option<Vec<u8>>,
        #[prost(message, optional, tag = "5")]
        pub(super) statements: Option<Statements>,
        #[prost(message, optional, tag = "6")]
        pub(super) key: Option<Key>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Summary {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) digest: Vec<u8>,
        /// Empty without a key.
        #[prost(bytes = "vec", tag = "2")]
        pub(super) key: Vec<u8>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Ids {
        /// One byte each.
        #[prost(bytes = "vec", tag = "1")]
        pub(super) buckets: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) ids: Vec<u8>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Statements {
        #[prost(bytes = "vec", repeated, tag = "1")]
        pub(super) statements: Vec<Vec<u8>>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Key {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) statement: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) secret: Vec<u8>,
    }
}

/// What connected members tell each other.
#[derive(Clone, PartialEq, Eq)]
pub enum Message {
    /// What the sender's statements come to, and which current key it has.
    Summary {
        /// Of all statements.
        digest: Digest,
        /// `None` while the sender lacks it.
        key: Option<KeyId>,
    },
    /// What the statements of each bucket come to.
    Buckets(Vec<Digest>),
    /// All ids that the sender has in these buckets.
    Ids {
        /// The buckets.
        buckets: Vec<u8>,
        /// The ids.
        ids: Vec<StatementId>,
    },
    /// The sender lacks these.
    Want(Vec<StatementId>),
    /// Encoded statements.
    Statements(Vec<Vec<u8>>),
    /// The key of an epoch.
    Key {
        /// The encoded statement that announces it.
        statement: Vec<u8>,
        /// The key.
        secret: [u8; SWARM_KEY_LEN],
    },
}

/// Without the key.
impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Summary { digest, key } => write!(f, "Summary({:02x?}, {key:?})", &digest[..4]),
            Self::Buckets(_) => f.write_str("Buckets"),
            Self::Ids { buckets, ids } => write!(f, "Ids({} in {})", ids.len(), buckets.len()),
            Self::Want(ids) => write!(f, "Want({})", ids.len()),
            Self::Statements(statements) => write!(f, "Statements({})", statements.len()),
            Self::Key { .. } => f.write_str("Key"),
        }
    }
}

impl Message {
    /// Its frame, at most [`MAX_GOSSIP_FRAME`] and its length.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut message = pb::Message::default();
        match self {
            Self::Summary { digest, key } => {
                message.summary = Some(pb::Summary {
                    digest: digest.to_vec(),
                    key: key.map_or_else(Vec::new, |k| k.0.to_vec()),
                });
            }
            Self::Buckets(digests) => message.buckets = Some(digests.concat()),
            Self::Ids { buckets, ids } => {
                message.ids = Some(pb::Ids {
                    buckets: buckets.clone(),
                    ids: ids.concat(),
                });
            }
            Self::Want(ids) => message.want = Some(ids.concat()),
            Self::Statements(statements) => {
                message.statements = Some(pb::Statements {
                    statements: statements.clone(),
                });
            }
            Self::Key { statement, secret } => {
                message.key = Some(pb::Key {
                    statement: statement.clone(),
                    secret: secret.to_vec(),
                });
            }
        }
        encode_frame(&message)
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message, or passes a limit.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let message: pb::Message = decode(content)?;
        let fields = (
            message.summary,
            message.buckets,
            message.ids,
            message.want,
            message.statements,
            message.key,
        );
        match fields {
            (Some(summary), None, None, None, None, None) => Ok(Self::Summary {
                digest: array(&summary.digest, "digest")?,
                key: match &*summary.key {
                    [] => None,
                    key => Some(KeyId(array(key, "key id")?)),
                },
            }),
            (None, Some(digests), None, None, None, None) => {
                let digests = arrays(&digests, BUCKETS)?;
                if digests.len() != BUCKETS {
                    return Err(FrameError::malformed("wrong number of buckets"));
                }
                Ok(Self::Buckets(digests))
            }
            (None, None, Some(ids), None, None, None) => {
                if ids.buckets.len() > BUCKETS {
                    return Err(FrameError::malformed("too many buckets"));
                }
                Ok(Self::Ids {
                    buckets: ids.buckets,
                    ids: arrays(&ids.ids, MAX_IDS_EVER)?,
                })
            }
            (None, None, None, Some(ids), None, None) => {
                Ok(Self::Want(arrays(&ids, MAX_IDS_EVER)?))
            }
            (None, None, None, None, Some(statements), None) => {
                let statements = statements.statements;
                let lens_fit = statements.iter().all(|s| s.len() <= MAX_POLICY_LEN);
                if !lens_fit || statements.len() > MAX_STATEMENTS {
                    return Err(FrameError::malformed(
                        "too many statements, or too long ones",
                    ));
                }
                Ok(Self::Statements(statements))
            }
            (None, None, None, None, None, Some(key)) => {
                if key.statement.len() > MAX_STATEMENT_LEN {
                    return Err(FrameError::malformed("statement too long"));
                }
                Ok(Self::Key {
                    statement: key.statement,
                    secret: array(&key.secret, "swarm key")?,
                })
            }
            _ => Err(FrameError::malformed("a message is of one kind")),
        }
    }
}

/// Divides encoded statements so that each part fits a frame.
pub(super) fn in_frames(statements: Vec<Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
    let mut parts: Vec<Vec<Vec<u8>>> = Vec::new();
    let mut room = 0;
    for statement in statements {
        match parts.last_mut() {
            Some(part) if statement.len() <= room => {
                room -= statement.len();
                part.push(statement);
            }
            _ => {
                room = MAX_STATEMENT_BYTES.saturating_sub(statement.len());
                parts.push(vec![statement]);
            }
        }
    }
    parts
}

fn array<const N: usize>(bytes: &[u8], what: &str) -> Result<[u8; N], FrameError> {
    bytes
        .try_into()
        .map_err(|_| FrameError::malformed(&format!("{what} of {} bytes", bytes.len())))
}

fn arrays(bytes: &[u8], max: usize) -> Result<Vec<[u8; STATEMENT_ID_LEN]>, FrameError> {
    let (arrays, rest) = bytes.as_chunks::<STATEMENT_ID_LEN>();
    if !rest.is_empty() || arrays.len() > max {
        return Err(FrameError::malformed("ids are cut off, or too many"));
    }
    Ok(arrays.to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::take_frame;

    #[test]
    fn frames_of_gossip_have_these_bytes() {
        let summary = Message::Summary {
            digest: [1; 16],
            key: Some(KeyId([2; 32])),
        };
        let expected = [
            &[54, 0x0a, 52, 0x0a, 16][..],
            &[1; 16],
            &[0x12, 32],
            &[2; 32],
        ];
        assert_eq!(summary.encode(), expected.concat());
        let ids = Message::Ids {
            buckets: vec![3, 4],
            ids: vec![[3; 16]],
        };
        let expected = [&[24, 0x1a, 22, 0x0a, 2, 3, 4, 0x12, 16][..], &[3; 16]];
        assert_eq!(ids.encode(), expected.concat());
        let want = Message::Want(vec![[5; 16]]);
        assert_eq!(want.encode(), [&[18, 0x22, 16][..], &[5; 16]].concat());
        let statements = Message::Statements(vec![vec![6], vec![7]]);
        assert_eq!(statements.encode(), [8, 0x2a, 6, 0x0a, 1, 6, 0x0a, 1, 7]);
        let key = Message::Key {
            statement: vec![8],
            secret: [9; 32],
        };
        let expected = [&[39, 0x32, 37, 0x0a, 1, 8, 0x12, 32][..], &[9; 32]];
        assert_eq!(key.encode(), expected.concat());
        let buckets = Message::Buckets(vec![[0; 16]; BUCKETS]).encode();
        assert_eq!(buckets[..5], [0x83, 0x20, 0x12, 0x80, 0x20]);
    }

    #[test]
    fn two_kinds_at_once_and_none_are_refused() {
        for content in [&[][..], &[0x12, 0, 0x22, 0], &[0x22, 1, 0], &[0x12, 0]] {
            assert!(Message::decode(content).is_err(), "{content:?}");
        }
    }

    fn messages() -> impl Strategy<Value = Message> {
        let ids = || prop::collection::vec(any::<StatementId>(), 0..20);
        prop_oneof![
            (any::<Digest>(), any::<Option<[u8; 32]>>()).prop_map(|(digest, key)| {
                let key = key.map(KeyId);
                Message::Summary { digest, key }
            }),
            prop::collection::vec(any::<Digest>(), BUCKETS).prop_map(Message::Buckets),
            (prop::collection::vec(any::<u8>(), 0..20), ids())
                .prop_map(|(buckets, ids)| Message::Ids { buckets, ids }),
            ids().prop_map(Message::Want),
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..9)
                .prop_map(Message::Statements),
            (
                prop::collection::vec(any::<u8>(), 0..300),
                any::<[u8; 32]>()
            )
                .prop_map(|(statement, secret)| Message::Key { statement, secret }),
        ]
    }

    proptest! {
        #[test]
        fn messages_survive_a_round_trip(message in messages()) {
            let frame = message.encode();
            let content = take_frame(&mut &frame[..], MAX_GOSSIP_FRAME).unwrap().unwrap();
            prop_assert_eq!(Message::decode(content).unwrap(), message);
        }

        #[test]
        fn statements_are_divided_into_frames_that_fit_and_none_is_lost(
            lens in prop::collection::vec(0..=MAX_POLICY_LEN, 0..200),
        ) {
            let statements: Vec<_> = lens.iter().map(|len| vec![7; *len]).collect();
            let parts = in_frames(statements.clone());
            for part in &parts {
                let frame = Message::Statements(part.clone()).encode();
                prop_assert!(take_frame(&mut &frame[..], MAX_GOSSIP_FRAME).unwrap().is_some());
            }
            prop_assert_eq!(parts.concat(), statements);
        }
    }
}
