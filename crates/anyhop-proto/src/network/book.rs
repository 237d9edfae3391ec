//! The invitations that a node has given out, and who has redeemed them.
//!
//! An invitation is open until it has been used up or its time is over. It is remembered
//! until then, so that who comes too late is told why; after that it is forgotten, and its
//! entry key opens nothing. Who has redeemed one gets the same answer again, without using
//! it up, since the first may have been lost.

use std::collections::{BTreeMap, BTreeSet};

use anyhop_base::PeerId;
use thiserror::Error;

use super::{
    greeting::Greeting,
    invitation::{INVITATION_SECRET_LEN, InvitationId, InvitationKeys, Redeem},
    statement::{MemberName, OptOuts},
    swarm::MAX_GUESTS,
};

/// Most invitations remembered at once.
pub const MAX_INVITATIONS: usize = MAX_GUESTS;
/// Most times that one invitation can be redeemed.
pub const MAX_USES: u32 = 1000;
/// Most requests that wait for a person, over all invitations.
pub const MAX_REQUESTS: usize = 64;
/// Longest lifetime of an invitation, seconds: 90 days.
pub const MAX_INVITATION_LIFETIME_S: u64 = 90 * 24 * 3600;

/// Why an invitation is not redeemed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[repr(u32)]
#[non_exhaustive]
pub enum RedeemRefusal {
    /// Its time is over.
    #[error("the invitation has expired")]
    Expired = 1,
    /// It was redeemed as often as it may be.
    #[error("the invitation is used up")]
    UsedUp = 2,
    /// The inviter has given out no such invitation.
    #[error("the invitation is none that the inviter has given out")]
    Forged = 3,
    /// A person said no, or the asker was a member and is none any more.
    #[error("the request was denied")]
    Denied = 4,
    /// Too many wait already.
    #[error("too many requests wait for approval: try again later")]
    Busy = 5,
    /// The inviter may not invite any more, or the network is full.
    #[error("the inviter cannot admit anybody now")]
    Unable = 6,
}

impl RedeemRefusal {
    /// Reads its number on the wire.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        [
            Self::Expired,
            Self::UsedUp,
            Self::Forged,
            Self::Denied,
            Self::Busy,
            Self::Unable,
        ]
        .into_iter()
        .find(|r| *r as u32 == number)
    }
}

/// What is to be done about who redeems an invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Certify it.
    Admit,
    /// Wait for a person.
    Wait,
    /// Refuse it.
    Refuse(RedeemRefusal),
}

/// An invitation that this node has given out.
#[derive(Clone, PartialEq, Eq)]
pub struct Given {
    /// Known to whoever has the text.
    pub secret: [u8; INVITATION_SECRET_LEN],
    /// When it ends, seconds since the Unix epoch.
    pub expires_unix_s: u64,
    /// How often it can still be redeemed.
    pub uses_left: u32,
    /// Whether a person must approve.
    pub approve: bool,
    /// Who has redeemed it.
    pub redeemed: BTreeSet<PeerId>,
}

/// Without the secret.
impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Given")
            .field("expires_unix_s", &self.expires_unix_s)
            .field("uses_left", &self.uses_left)
            .field("approve", &self.approve)
            .finish_non_exhaustive()
    }
}

/// Who waits to be admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which invitation it has.
    pub invitation: InvitationId,
    /// The name it would like.
    pub name: Option<MemberName>,
    /// What it wants to be left out of.
    pub opt_outs: OptOuts,
    /// When it first asked, seconds since the Unix epoch.
    pub since_unix_s: u64,
    /// What a person said.
    pub decision: Option<bool>,
}

/// Why an invitation cannot be given out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GiveError {
    /// Too many are open.
    #[error("{MAX_INVITATIONS} invitations are open, which is the limit: wait until one ends")]
    TooMany,
    /// Nobody could use it.
    #[error("an invitation can be used 1 to {MAX_USES} times, not {0}")]
    Uses(u32),
    /// It would live too long, or not at all.
    #[error("an invitation lives 1 to {MAX_INVITATION_LIFETIME_S} s, not {0} s")]
    Lifetime(u64),
}

/// The invitations of one node. See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InvitationBook {
    given: BTreeMap<InvitationId, Given>,
    requests: BTreeMap<PeerId, Request>,
}

impl InvitationBook {
    /// As it was stored.
    #[must_use]
    pub fn restore(given: Vec<Given>, requests: BTreeMap<PeerId, Request>) -> Self {
        let given = given.into_iter().take(MAX_INVITATIONS);
        let id = |g: &Given| InvitationKeys::new(&g.secret).id;
        Self {
            given: given.map(|g| (id(&g), g)).collect(),
            requests: requests.into_iter().take(MAX_REQUESTS).collect(),
        }
    }

    /// Opens an invitation that lives for `lifetime_s` and can be redeemed `uses` times.
    ///
    /// # Errors
    /// When a limit is passed.
    pub fn give(
        &mut self,
        now_unix_s: u64,
        secret: [u8; INVITATION_SECRET_LEN],
        lifetime_s: u64,
        uses: u32,
        approve: bool,
    ) -> Result<&Given, GiveError> {
        self.forget_expired(now_unix_s);
        if !(1..=MAX_USES).contains(&uses) {
            return Err(GiveError::Uses(uses));
        }
        if !(1..=MAX_INVITATION_LIFETIME_S).contains(&lifetime_s) {
            return Err(GiveError::Lifetime(lifetime_s));
        }
        if self.given.len() >= MAX_INVITATIONS {
            return Err(GiveError::TooMany);
        }
        let given = Given {
            secret,
            expires_unix_s: now_unix_s.saturating_add(lifetime_s),
            uses_left: uses,
            approve,
            redeemed: BTreeSet::new(),
        };
        let id = InvitationKeys::new(&secret).id;
        Ok(self.given.entry(id).or_insert(given))
    }

    /// The keys of all that are remembered: who has one of them is let in to ask.
    pub fn keys(&self) -> impl Iterator<Item = InvitationKeys> {
        let given = self.given.values();
        given.map(|g| InvitationKeys::new(&g.secret))
    }

    /// What greeters have to know of those that can still be redeemed.
    pub fn greetings(&self, now_unix_s: u64) -> impl Iterator<Item = Greeting> {
        let given = self.given.values();
        let open = given.filter(move |g| g.uses_left > 0 && g.expires_unix_s > now_unix_s);
        open.map(|g| {
            let keys = InvitationKeys::new(&g.secret);
            Greeting {
                invitation: keys.id,
                entry: keys.entry,
                expires_unix_s: g.expires_unix_s,
            }
        })
    }

    /// Whether an invitation is one of these.
    #[must_use]
    pub fn knows(&self, invitation: &InvitationId) -> bool {
        self.given.contains_key(invitation)
    }

    /// Decides about a peer that redeems an invitation on a connection that exported
    /// `channel`. [`Verdict::Admit`] uses the invitation up once, for this peer: store that
    /// before the certificate is handed over.
    pub fn redeem(
        &mut self,
        now_unix_s: u64,
        peer: PeerId,
        redeem: &Redeem,
        channel: &[u8],
    ) -> Verdict {
        let Some(given) = self.given.get_mut(&redeem.invitation) else {
            return Verdict::Refuse(RedeemRefusal::Forged);
        };
        let keys = InvitationKeys::new(&given.secret);
        if !keys.verify(&redeem.proof, peer, channel) {
            return Verdict::Refuse(RedeemRefusal::Forged);
        }
        if given.redeemed.contains(&peer) {
            return Verdict::Admit;
        }
        if given.expires_unix_s <= now_unix_s {
            return Verdict::Refuse(RedeemRefusal::Expired);
        }
        if given.uses_left == 0 {
            return Verdict::Refuse(RedeemRefusal::UsedUp);
        }
        if given.approve {
            match self.requests.get(&peer).map(|r| r.decision) {
                Some(Some(true)) => {
                    self.requests.remove(&peer);
                }
                Some(Some(false)) => return Verdict::Refuse(RedeemRefusal::Denied),
                Some(None) => return Verdict::Wait,
                None if self.requests.len() >= MAX_REQUESTS => {
                    return Verdict::Refuse(RedeemRefusal::Busy);
                }
                None => {
                    let request = Request {
                        invitation: redeem.invitation,
                        name: redeem.name.clone(),
                        opt_outs: redeem.opt_outs,
                        since_unix_s: now_unix_s,
                        decision: None,
                    };
                    self.requests.insert(peer, request);
                    return Verdict::Wait;
                }
            }
        }
        given.uses_left -= 1;
        given.redeemed.insert(peer);
        Verdict::Admit
    }

    /// Those who wait for a person.
    pub fn requests(&self) -> impl Iterator<Item = (PeerId, &Request)> {
        let waiting = self.requests.iter().filter(|(_, r)| r.decision.is_none());
        waiting.map(|(peer, request)| (*peer, request))
    }

    /// A person decides; false when nobody of that id waits.
    pub fn decide(&mut self, peer: PeerId, approved: bool) -> bool {
        match self.requests.get_mut(&peer) {
            Some(request) if request.decision.is_none() => {
                request.decision = Some(approved);
                true
            }
            _ => false,
        }
    }

    /// Forgets what is over; true when something was.
    pub fn forget_expired(&mut self, now_unix_s: u64) -> bool {
        let before = (self.given.len(), self.requests.len());
        self.given.retain(|_, g| g.expires_unix_s > now_unix_s);
        let given = &self.given;
        self.requests
            .retain(|_, r| given.contains_key(&r.invitation));
        before != (self.given.len(), self.requests.len())
    }

    /// All that is to be stored.
    pub fn given(&self) -> impl Iterator<Item = &Given> {
        self.given.values()
    }

    /// All requests, decided ones included.
    #[must_use]
    pub fn all_requests(&self) -> &BTreeMap<PeerId, Request> {
        &self.requests
    }
}

#[cfg(test)]
mod tests {
    use anyhop_base::Keypair;

    use super::*;

    const NOW: u64 = 1_800_000_000;
    const SECRET: [u8; 32] = [7; 32];
    const CHANNEL: &[u8] = b"channel";

    fn peer(seed: u8) -> PeerId {
        let key = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
        key.public().to_peer_id()
    }

    fn book(uses: u32, approve: bool) -> InvitationBook {
        let mut book = InvitationBook::default();
        book.give(NOW, SECRET, 60, uses, approve).unwrap();
        book
    }

    fn redeem(secret: [u8; 32], of: u8) -> Redeem {
        let keys = InvitationKeys::new(&secret);
        Redeem {
            invitation: keys.id,
            proof: keys.prove(peer(of), CHANNEL),
            name: None,
            opt_outs: OptOuts::default(),
        }
    }

    fn ask(book: &mut InvitationBook, of: u8, at: u64) -> Verdict {
        book.redeem(at, peer(of), &redeem(SECRET, of), CHANNEL)
    }

    #[test]
    fn an_invitation_is_used_up_and_who_has_used_it_is_answered_again() {
        let mut book = book(2, false);
        assert_eq!(ask(&mut book, 1, NOW), Verdict::Admit);
        assert_eq!(ask(&mut book, 1, NOW), Verdict::Admit);
        assert_eq!(ask(&mut book, 2, NOW), Verdict::Admit);
        let used_up = Verdict::Refuse(RedeemRefusal::UsedUp);
        assert_eq!(ask(&mut book, 3, NOW), used_up);
        assert_eq!(ask(&mut book, 2, NOW), Verdict::Admit);
    }

    #[test]
    fn an_invitation_ends_and_is_then_forgotten_with_its_entry_key() {
        let mut book = book(1, true);
        assert_eq!(ask(&mut book, 1, NOW), Verdict::Wait);
        assert_eq!(book.keys().count(), 1);
        let expired = Verdict::Refuse(RedeemRefusal::Expired);
        assert_eq!(ask(&mut book, 1, NOW + 60), expired);
        assert!(book.forget_expired(NOW + 60));
        assert_eq!(book.keys().count(), 0);
        assert_eq!(book.requests().count(), 0);
        let forged = Verdict::Refuse(RedeemRefusal::Forged);
        assert_eq!(ask(&mut book, 1, NOW + 60), forged);
    }

    #[test]
    fn a_proof_is_worth_nothing_with_another_secret_peer_or_connection() {
        let mut book = book(9, false);
        let forged = Verdict::Refuse(RedeemRefusal::Forged);
        let other = redeem([8; 32], 1);
        assert_eq!(book.redeem(NOW, peer(1), &other, CHANNEL), forged);
        let stolen = redeem(SECRET, 1);
        assert_eq!(book.redeem(NOW, peer(2), &stolen, CHANNEL), forged);
        assert_eq!(book.redeem(NOW, peer(1), &stolen, b"other"), forged);
        let guessed = Redeem {
            proof: vec![0; 32],
            ..stolen
        };
        assert_eq!(book.redeem(NOW, peer(1), &guessed, CHANNEL), forged);
        assert_eq!(ask(&mut book, 1, NOW), Verdict::Admit);
    }

    #[test]
    fn a_person_decides_about_those_who_wait() {
        let mut book = book(2, true);
        for of in 1..4 {
            assert_eq!(ask(&mut book, of, NOW), Verdict::Wait);
        }
        assert!(book.decide(peer(1), true) && book.decide(peer(2), false));
        assert!(!book.decide(peer(1), false), "decided twice");
        assert!(!book.decide(peer(9), true), "nobody waits");
        assert_eq!(ask(&mut book, 1, NOW), Verdict::Admit);
        let denied = Verdict::Refuse(RedeemRefusal::Denied);
        assert_eq!(ask(&mut book, 2, NOW), denied);
        let waiting: Vec<_> = book.requests().map(|(peer, _)| peer).collect();
        assert_eq!(waiting, [peer(3)]);
    }

    #[test]
    fn what_waits_and_what_is_open_is_bounded() {
        let mut book = book(1, true);
        for of in 0..MAX_REQUESTS as u8 {
            assert_eq!(ask(&mut book, of, NOW), Verdict::Wait);
        }
        let busy = Verdict::Refuse(RedeemRefusal::Busy);
        assert_eq!(ask(&mut book, 200, NOW), busy);
        for n in 1..MAX_INVITATIONS as u8 {
            book.give(NOW, [n + 100; 32], 60, 1, false).unwrap();
        }
        let full = book.give(NOW, [99; 32], 60, 1, false);
        assert_eq!(full, Err(GiveError::TooMany));
        book.give(NOW + 60, [99; 32], 60, 1, false).unwrap();
        let uses = book.give(NOW, [98; 32], 60, 0, false);
        assert_eq!(uses, Err(GiveError::Uses(0)));
        let lifetime = book.give(NOW, [98; 32], 0, 1, false);
        assert_eq!(lifetime, Err(GiveError::Lifetime(0)));
    }

    #[test]
    fn a_book_is_restored_as_it_was() {
        let mut book = book(3, true);
        ask(&mut book, 1, NOW);
        let given = book.given().cloned().collect();
        let restored = InvitationBook::restore(given, book.all_requests().clone());
        assert_eq!(restored, book);
    }
}
