//! Greeters: members that can be dialled redeem invitations for inviters that cannot.
//!
//! An inviter behind a NAT tells members with public addresses of its open invitations, and
//! names those members in the invitation. Whoever dials one under the invitation's entry
//! key is heard there, and what it says goes to the inviter, who decides as if it had been
//! dialled itself.
//!
//! `greet/1`: on a unidirectional stream [`Greetings`], which replace those told before; on
//! a bidirectional one [`Introduce`] and the frames of [`RedeemAnswer`] in return.
//!
//! A greeter learns the entry key, which admits to asking, and not the secret behind it: it
//! cannot make a proof. The proof that it hands on is bound to the asker's identity and to
//! the connection between the two, so that nobody else becomes a member by it.
//!
//! [`RedeemAnswer`]: super::invitation::RedeemAnswer

use std::collections::BTreeMap;

use anyhop_base::PeerId;

use super::{
    invitation::{INVITATION_ID_LEN, InvitationId, Redeem},
    swarm::{Epoch, SWARM_KEY_LEN, SwarmKey},
};
use crate::{
    frame::{FrameError, decode, encode_frame, peer_id},
    network::admission::ADMISSION_SECRET_LEN,
};

/// Largest frame of `greet/1`, bytes.
pub const MAX_GREET_FRAME: usize = 8 * 1024;
/// Most invitations of one inviter that a greeter knows; the latest to end count.
pub const MAX_GREETINGS: usize = 16;
/// Most that it knows of all inviters.
pub const MAX_ALL_GREETINGS: usize = 24;
/// Greeters that an invitation names at most.
pub const MAX_GREETERS: usize = 3;

/// What a greeter has to know of an invitation.
#[derive(Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Which.
    pub invitation: InvitationId,
    /// Stamps the packets of who holds it; of no epoch.
    pub entry: SwarmKey,
    /// When it ends, seconds since the Unix epoch.
    pub expires_unix_s: u64,
}

/// Without the key.
impl std::fmt::Debug for Greeting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Greeting")
            .field("invitation", &self.invitation)
            .field("expires_unix_s", &self.expires_unix_s)
            .finish_non_exhaustive()
    }
}

mod pb {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Greeting {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) invitation: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) entry: Vec<u8>,
        #[prost(uint64, tag = "3")]
        pub(super) expires_unix_s: u64,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Greetings {
        #[prost(message, repeated, tag = "1")]
        pub(super) open: Vec<Greeting>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Introduce {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) peer: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) channel: Vec<u8>,
        /// A frame's content, as the asker sent it.
        #[prost(bytes = "vec", tag = "3")]
        pub(super) redeem: Vec<u8>,
    }
}

/// All invitations of an inviter that are open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greetings(pub Vec<Greeting>);

impl Greetings {
    /// Its frame: at most [`MAX_GREETINGS`], those that live longest.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut open = self.0.clone();
        open.sort_by_key(|g| std::cmp::Reverse(g.expires_unix_s));
        open.truncate(MAX_GREETINGS);
        let open = open.into_iter().map(|g| pb::Greeting {
            invitation: g.invitation.to_vec(),
            entry: g.entry.secret().to_vec(),
            expires_unix_s: g.expires_unix_s,
        });
        encode_frame(&pb::Greetings {
            open: open.collect(),
        })
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let greetings: pb::Greetings = decode(content)?;
        if greetings.open.len() > MAX_GREETINGS {
            return Err(FrameError::malformed("too many greetings"));
        }
        let read = |g: pb::Greeting| {
            let invitation: [u8; INVITATION_ID_LEN] = exact(g.invitation, "an id")?;
            let entry: [u8; SWARM_KEY_LEN] = exact(g.entry, "a key")?;
            Ok(Greeting {
                invitation,
                entry: SwarmKey::new(Epoch(0), entry),
                expires_unix_s: g.expires_unix_s,
            })
        };
        let open = greetings.open.into_iter().map(read);
        Ok(Self(open.collect::<Result<_, FrameError>>()?))
    }
}

/// Somebody redeems an invitation at a greeter.
#[derive(Clone, PartialEq, Eq)]
pub struct Introduce {
    /// Who, by the handshake with the greeter.
    pub peer: PeerId,
    /// What the connection between the two exports.
    pub channel: [u8; ADMISSION_SECRET_LEN],
    /// What it says.
    pub redeem: Redeem,
}

/// Without what binds the proof.
impl std::fmt::Debug for Introduce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Introduce")
            .field("peer", &self.peer)
            .field("invitation", &self.redeem.invitation)
            .finish_non_exhaustive()
    }
}

impl Introduce {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_frame(&pb::Introduce {
            peer: self.peer.to_bytes(),
            channel: self.channel.to_vec(),
            redeem: self.redeem.content(),
        })
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let introduce: pb::Introduce = decode(content)?;
        Ok(Self {
            peer: peer_id(&introduce.peer)?,
            channel: exact(introduce.channel, "a channel")?,
            redeem: Redeem::decode(&introduce.redeem)?,
        })
    }
}

fn exact<const N: usize>(bytes: Vec<u8>, what: &str) -> Result<[u8; N], FrameError> {
    let wrong = |_| FrameError::malformed(&format!("{what} of another length"));
    bytes.try_into().map_err(wrong)
}

/// The invitations of others that a node greets for.
#[derive(Debug, Default)]
pub struct GreetingBook {
    of: BTreeMap<PeerId, Vec<Greeting>>,
}

impl GreetingBook {
    /// What an inviter has open now, in place of what it had. Whether anything changed.
    pub fn replace(&mut self, now_unix_s: u64, inviter: PeerId, mut open: Vec<Greeting>) -> bool {
        self.forget_expired(now_unix_s);
        open.retain(|g| g.expires_unix_s > now_unix_s);
        let before = self.of.remove(&inviter).unwrap_or_default();
        let room = MAX_ALL_GREETINGS - self.of.values().map(Vec::len).sum::<usize>();
        open.truncate(room.min(MAX_GREETINGS));
        let changed = before != open;
        if !open.is_empty() {
            self.of.insert(inviter, open);
        }
        changed
    }

    /// Forgets those whose time is over; whether there were any.
    pub fn forget_expired(&mut self, now_unix_s: u64) -> bool {
        let before = self.len();
        for open in self.of.values_mut() {
            open.retain(|g| g.expires_unix_s > now_unix_s);
        }
        self.of.retain(|_, open| !open.is_empty());
        self.len() != before
    }

    /// Forgets those of inviters that `may` does not hold for; whether there were any.
    pub fn retain(&mut self, mut may: impl FnMut(PeerId) -> bool) -> bool {
        let before = self.of.len();
        self.of.retain(|inviter, _| may(*inviter));
        self.of.len() != before
    }

    /// Whose invitation this is.
    #[must_use]
    pub fn inviter_of(&self, invitation: &InvitationId) -> Option<PeerId> {
        let of = self.of.iter();
        let mut found = of.filter(|(_, open)| open.iter().any(|g| g.invitation == *invitation));
        found.next().map(|(inviter, _)| *inviter)
    }

    /// Who has one of these is let in to ask.
    pub fn keys(&self) -> impl Iterator<Item = &SwarmKey> {
        self.of.values().flatten().map(|g| &g.entry)
    }

    fn len(&self) -> usize {
        self.of.values().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        frame::take_frame,
        network::{invitation::InvitationKeys, statement::OptOuts},
    };

    fn content(mut frame: &[u8]) -> &[u8] {
        let content = take_frame(&mut frame, MAX_GREET_FRAME).expect("a frame");
        content.expect("a whole one")
    }

    fn peer(n: u8) -> PeerId {
        let key = anyhop_base::Keypair::ed25519_from_bytes([n; 32]).expect("32 bytes");
        key.public().to_peer_id()
    }

    fn greeting(n: u8, expires_unix_s: u64) -> Greeting {
        let keys = InvitationKeys::new(&[n; 32]);
        Greeting {
            invitation: keys.id,
            entry: keys.entry,
            expires_unix_s,
        }
    }

    #[test]
    fn greetings_are_read_as_they_were_written_and_bounded() {
        let greetings = Greetings(vec![greeting(1, 10), greeting(2, 20)]);
        let read = Greetings::decode(content(&greetings.encode())).expect("valid");
        assert_eq!(
            read.0,
            [greeting(2, 20), greeting(1, 10)],
            "the latest first"
        );
        let many = Greetings((0..40).map(|n| greeting(n, u64::from(n))).collect());
        let frame = many.encode();
        assert!(frame.len() <= MAX_GREET_FRAME);
        let read = Greetings::decode(content(&frame)).expect("valid");
        assert_eq!(read.0.len(), MAX_GREETINGS);
        assert_eq!(read.0[0], greeting(39, 39));
    }

    #[test]
    fn greetings_have_golden_bytes() {
        let one = Greetings(vec![Greeting {
            invitation: [7; 8],
            entry: SwarmKey::new(Epoch(0), [9; 32]),
            expires_unix_s: 300,
        }]);
        let mut golden = vec![49, 0x0a, 47, 0x0a, 8];
        golden.extend([7; 8]);
        golden.extend([0x12, 32]);
        golden.extend([9; 32]);
        golden.extend([0x18, 0xac, 0x02]);
        assert_eq!(one.encode(), golden);
    }

    #[test]
    fn an_introduction_is_read_as_it_was_written() {
        let introduce = Introduce {
            peer: peer(1),
            channel: [3; ADMISSION_SECRET_LEN],
            redeem: Redeem {
                invitation: [5; 8],
                proof: vec![6; 32],
                name: None,
                opt_outs: OptOuts::default(),
            },
        };
        let frame = introduce.encode();
        assert_eq!(Introduce::decode(content(&frame)), Ok(introduce));
        for cut in 0..content(&frame).len() {
            assert!(Introduce::decode(&content(&frame)[..cut]).is_err());
        }
    }

    #[test]
    fn what_an_inviter_tells_replaces_what_it_told_and_ends_in_time() {
        let mut book = GreetingBook::default();
        assert!(book.replace(0, peer(1), vec![greeting(1, 10), greeting(2, 20)]));
        assert!(!book.replace(0, peer(1), vec![greeting(1, 10), greeting(2, 20)]));
        assert!(book.replace(0, peer(2), vec![greeting(3, 30)]));
        assert_eq!(book.inviter_of(&greeting(3, 0).invitation), Some(peer(2)));
        assert!(book.forget_expired(10));
        assert_eq!(book.inviter_of(&greeting(1, 0).invitation), None);
        assert_eq!(book.keys().count(), 2);
        assert!(book.retain(|p| p != peer(2)));
        assert!(book.replace(10, peer(1), Vec::new()));
        assert_eq!(book.keys().count(), 0);
    }

    proptest! {
        #[test]
        fn the_book_is_bounded(told in proptest::collection::vec((0u8..6, 0usize..30), 0..30)) {
            let mut book = GreetingBook::default();
            for (of, count) in told {
                let open = (0..count).map(|n| greeting(n as u8, 100));
                book.replace(0, peer(of), open.collect());
                prop_assert!(book.keys().count() <= MAX_ALL_GREETINGS);
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(greetings) = Greetings::decode(&bytes) {
                let again = Greetings::decode(content(&greetings.encode())).expect("valid");
                prop_assert_eq!(again.0.len(), greetings.0.len());
            }
            let _ = Introduce::decode(&bytes);
        }
    }
}
