//! Gossip: how statements and swarm keys spread among connected members.
//!
//! **On connecting**, both sides tell what their statements come to and which key they
//! hold ([`Message::Summary`]). Where that differs, the one with the smaller PeerId has the
//! sets compared by buckets, and each gets what it lacks. **In the steady state** what is
//! new goes to all neighbours at once; much of it, as after a partition, only announces
//! itself by a new summary. Every [`RESUMMARY`] one neighbour is compared with, in case
//! something went missing.
//!
//! **A new epoch** travels with its key: whoever gets it tells every neighbour that has not
//! said that it has it, and is a member. The statement with the key's hash is public among
//! members, so that a wrong key is noticed; of two keys for one epoch all take the one that
//! [`Membership::epoch`] names, whichever they heard of first.
//!
//! **Failure**: a neighbour that sends what is not true is named in the error, and the caller
//! ends its session. What it sent before that was true.

pub mod wire;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhop_base::PeerId;
use thiserror::Error;

pub use wire::{MAX_GOSSIP_FRAME, Message};

use super::{
    Membership,
    membership::{Digest, Merged, Standing},
    statement::{Body, EpochNotice, KeyId, Signer, Statement, StatementError, StatementId},
    swarm::{Epoch, MAX_OVER, SWARM_KEY_LEN, SwarmKey},
};

/// Keys kept: the current one, and as many earlier ones, by which members return, as a ring
/// lets in.
pub const MAX_KEYS: usize = MAX_OVER + 1;
/// More new statements than this in one message are not passed on, but announced.
const MAX_PUSHED: usize = 16;
/// Time in which announcements are gathered.
const ANNOUNCE_DELAY: Duration = Duration::from_millis(500);
/// Time between comparisons with some neighbour.
pub const RESUMMARY: Duration = Duration::from_secs(60);

/// What the caller is to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GossipEvent {
    /// Statements came in: who is a member may have changed. Store them.
    Changed,
    /// There is a new current key. Store it before anything else is sent.
    NewKey(SwarmKey),
}

/// What a neighbour did that no honest one does.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Misbehaviour {
    /// It sent a statement that is none.
    #[error("it sent a statement that cannot be believed: {0}")]
    Statement(#[from] StatementError),
    /// It sent a key that is not the announced one.
    #[error("it sent a swarm key that is not the announced one")]
    WrongKey,
}

/// What is known of a neighbour.
#[derive(Debug, Default)]
struct Neighbour {
    /// The key it has, as it said or as we sent it.
    has: Option<KeyId>,
}

/// The machine of one node. See the module.
#[derive(Debug)]
pub struct Gossip {
    me: PeerId,
    membership: Membership,
    keys: BTreeMap<(Epoch, KeyId), SwarmKey>,
    /// The current key that the caller knows of.
    told: Option<(Epoch, KeyId)>,
    neighbours: BTreeMap<PeerId, Neighbour>,
    /// The one compared with last.
    last_compared: Option<PeerId>,
    next_comparison: Option<Instant>,
    announce_at: Option<Instant>,
    transmits: VecDeque<(PeerId, Message)>,
    events: VecDeque<GossipEvent>,
}

impl Gossip {
    /// Of a node that knows these statements and keys.
    #[must_use]
    pub fn new(
        me: PeerId,
        membership: Membership,
        keys: impl IntoIterator<Item = SwarmKey>,
    ) -> Self {
        let mut gossip = Self {
            me,
            membership,
            keys: BTreeMap::new(),
            told: None,
            neighbours: BTreeMap::new(),
            last_compared: None,
            next_comparison: None,
            announce_at: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        };
        for key in keys {
            gossip.keep_key(key);
        }
        gossip.told = gossip.current_key();
        gossip
    }

    /// What has been said in the network.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The current key: that of the current epoch, or of an earlier one until it comes.
    #[must_use]
    pub fn key(&self) -> Option<&SwarmKey> {
        let current = self.membership.epoch();
        let announced = current.and_then(|of| self.keys.get(&of));
        announced.or_else(|| {
            let earlier = self.keys.iter().rev();
            let mut earlier = earlier.filter(|(of, _)| current.is_none_or(|c| of.0 <= c.0));
            earlier.next().map(|(_, key)| key)
        })
    }

    /// All keys that are kept, the current one included, by epoch.
    pub fn keys(&self) -> impl Iterator<Item = &SwarmKey> {
        self.keys.values()
    }

    /// The statement and the key to give a member that has an old one.
    #[must_use]
    pub fn key_message(&self) -> Option<Message> {
        let current = self.membership.epoch()?;
        let key = self.keys.get(&current)?;
        Some(Message::Key {
            statement: self.membership.epoch_statement()?.encode(),
            secret: *key.secret(),
        })
    }

    /// A session with a member was opened.
    pub fn handle_connected(&mut self, now: Instant, peer: PeerId) {
        self.neighbours.insert(peer, Neighbour::default());
        self.next_comparison.get_or_insert(now + RESUMMARY);
        self.send(peer, self.summary());
    }

    /// The last session with a member ended.
    pub fn handle_disconnected(&mut self, peer: PeerId) {
        self.neighbours.remove(&peer);
        if self.neighbours.is_empty() {
            self.next_comparison = None;
            self.announce_at = None;
        }
    }

    /// A member sent a message.
    ///
    /// # Errors
    /// When no honest node would have; nothing of it that is untrue was kept.
    pub fn handle_message(
        &mut self,
        now: Instant,
        now_unix_s: u64,
        from: PeerId,
        message: Message,
    ) -> Result<(), Misbehaviour> {
        match message {
            Message::Summary { digest, key } => {
                if let Some(neighbour) = self.neighbours.get_mut(&from) {
                    neighbour.has = key;
                }
                self.offer_key(from, now_unix_s);
                if digest != self.membership.digest() && self.me < from {
                    let digests = self.membership.bucket_digests();
                    self.send(from, Message::Buckets(digests));
                }
                Ok(())
            }
            Message::Buckets(digests) => {
                self.compare(from, &digests);
                Ok(())
            }
            Message::Ids { buckets, ids } => {
                self.exchange(from, &buckets, &ids);
                Ok(())
            }
            Message::Want(ids) => {
                self.send_statements(from, &ids);
                Ok(())
            }
            Message::Statements(encoded) => self.take(now, now_unix_s, from, encoded),
            Message::Key { statement, secret } => {
                self.take_key(now_unix_s, from, &statement, secret)
            }
        }
    }

    /// Statements of this node's own making, or that came otherwise than by gossip.
    pub fn handle_own(&mut self, now_unix_s: u64, statements: Vec<Arc<Statement>>) {
        let news: Vec<_> = statements
            .into_iter()
            .filter(|s| self.membership.merge(Arc::clone(s)) == Merged::News)
            .collect();
        if news.is_empty() {
            return;
        }
        self.events.push_back(GossipEvent::Changed);
        self.push(&news, None);
        self.check_epoch(now_unix_s);
    }

    /// Starts a new epoch with a random key.
    ///
    /// # Errors
    /// When the signer may not, or the last epoch there can be is over.
    pub fn rotate(
        &mut self,
        now_unix_s: u64,
        signer: &Signer,
        secret: [u8; SWARM_KEY_LEN],
    ) -> Result<Epoch, StatementError> {
        let epoch = match self.membership.epoch() {
            None => Epoch(1),
            Some((Epoch(last), _)) => Epoch(last.checked_add(1).ok_or(StatementError::LastEpoch)?),
        };
        let key = SwarmKey::new(epoch, secret);
        let notice = EpochNotice {
            epoch,
            key: KeyId::of(&key, self.membership.charter()),
            issued_unix_s: now_unix_s,
        };
        let statement = Statement::sign(Body::Epoch(notice), signer, self.membership.charter())?;
        self.membership.merge(statement);
        self.keep_key(key);
        self.events.push_back(GossipEvent::Changed);
        self.check_epoch(now_unix_s);
        Ok(epoch)
    }

    /// A key that came otherwise than by gossip, with the statement that announces it.
    ///
    /// # Errors
    /// As [`handle_message`](Self::handle_message).
    pub fn handle_key(
        &mut self,
        now_unix_s: u64,
        from: PeerId,
        statement: &[u8],
        secret: [u8; SWARM_KEY_LEN],
    ) -> Result<(), Misbehaviour> {
        self.take_key(now_unix_s, from, statement, secret)
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = [self.announce_at, self.next_comparison];
        due.into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.announce_at.is_some_and(|at| at <= now) {
            self.announce_at = None;
            let neighbours: Vec<_> = self.neighbours.keys().copied().collect();
            for peer in neighbours {
                self.send(peer, self.summary());
            }
        }
        if self.next_comparison.is_some_and(|at| at <= now) {
            self.next_comparison = Some(now + RESUMMARY);
            let after = self.last_compared.take();
            let next = self.neighbours.keys().find(|p| Some(**p) > after);
            let next = next.or_else(|| self.neighbours.keys().next()).copied();
            self.last_compared = next;
            if let Some(peer) = next {
                self.send(peer, self.summary());
            }
        }
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<GossipEvent> {
        self.events.pop_front()
    }

    /// The next message to a neighbour, once there are no more events. Messages arrive
    /// or their session ends; their order does not matter.
    pub fn poll_transmit(&mut self) -> Option<(PeerId, Message)> {
        self.transmits.pop_front()
    }

    fn send(&mut self, peer: PeerId, message: Message) {
        self.transmits.push_back((peer, message));
    }

    fn summary(&self) -> Message {
        Message::Summary {
            digest: self.membership.digest(),
            key: self.current_key().map(|(_, key)| key),
        }
    }

    /// Tells the ids in the buckets that differ.
    fn compare(&mut self, from: PeerId, theirs: &[Digest]) {
        let ours = self.membership.bucket_digests();
        let mut message = (Vec::new(), Vec::new());
        let pairs = ours.iter().zip(theirs).zip(0..=u8::MAX);
        let differing: Vec<_> = pairs.filter(|((o, t), _)| o != t).map(|(_, b)| b).collect();
        for bucket in differing {
            let ids: Vec<_> = self.membership.bucket(bucket).copied().collect();
            let (buckets, so_far) = &mut message;
            if !buckets.is_empty() && so_far.len() + ids.len() > wire::MAX_IDS {
                let (buckets, ids) = std::mem::take(&mut message);
                self.send(from, Message::Ids { buckets, ids });
            }
            message.0.push(bucket);
            message.1.extend(ids);
        }
        let (buckets, ids) = message;
        if !buckets.is_empty() {
            self.send(from, Message::Ids { buckets, ids });
        }
    }

    /// Sends what the neighbour lacks in these buckets and asks for what we lack.
    fn exchange(&mut self, from: PeerId, buckets: &[u8], ids: &[StatementId]) {
        let theirs: BTreeSet<_> = ids.iter().copied().collect();
        let buckets: BTreeSet<_> = buckets.iter().copied().collect();
        let ours = buckets.iter().flat_map(|b| self.membership.bucket(*b));
        let lacked: Vec<_> = ours.filter(|id| !theirs.contains(*id)).copied().collect();
        let wanted = theirs.into_iter();
        let wanted: Vec<_> = wanted
            .filter(|id| self.membership.get(id).is_none())
            .collect();
        self.send_statements(from, &lacked);
        if !wanted.is_empty() {
            self.send(from, Message::Want(wanted));
        }
    }

    fn send_statements(&mut self, to: PeerId, ids: &[StatementId]) {
        let known = ids.iter().filter_map(|id| self.membership.get(id));
        let encoded = known.map(|s| s.encode()).collect();
        for part in wire::in_frames(encoded) {
            self.send(to, Message::Statements(part));
        }
    }

    /// Merges what a neighbour sent, and passes it on.
    fn take(
        &mut self,
        now: Instant,
        now_unix_s: u64,
        from: PeerId,
        encoded: Vec<Vec<u8>>,
    ) -> Result<(), Misbehaviour> {
        let mut news = Vec::new();
        let mut misbehaviour = None;
        for bytes in encoded {
            match Statement::decode(&bytes, self.membership.charter()) {
                Ok(statement) => {
                    let statement = Arc::new(statement);
                    if self.membership.merge(Arc::clone(&statement)) == Merged::News {
                        news.push(statement);
                    }
                }
                Err(e) => {
                    misbehaviour = Some(e);
                    break;
                }
            }
        }
        if !news.is_empty() {
            self.events.push_back(GossipEvent::Changed);
            if news.len() <= MAX_PUSHED {
                self.push(&news, Some(from));
            } else {
                self.announce_at.get_or_insert(now + ANNOUNCE_DELAY);
            }
            self.check_epoch(now_unix_s);
        }
        misbehaviour.map_or(Ok(()), |e| Err(e.into()))
    }

    fn push(&mut self, news: &[Arc<Statement>], except: Option<PeerId>) {
        let encoded: Vec<_> = news.iter().map(|s| s.encode()).collect();
        let neighbours: Vec<_> = self.neighbours.keys().copied().collect();
        for peer in neighbours.into_iter().filter(|p| Some(*p) != except) {
            for part in wire::in_frames(encoded.clone()) {
                self.send(peer, Message::Statements(part));
            }
        }
    }

    fn take_key(
        &mut self,
        now_unix_s: u64,
        from: PeerId,
        statement: &[u8],
        secret: [u8; SWARM_KEY_LEN],
    ) -> Result<(), Misbehaviour> {
        let statement = Statement::decode(statement, self.membership.charter())?;
        let Body::Epoch(notice) = statement.body() else {
            return Err(Misbehaviour::WrongKey);
        };
        let key = SwarmKey::new(notice.epoch, secret);
        let id = KeyId::of(&key, self.membership.charter());
        if id != notice.key {
            return Err(Misbehaviour::WrongKey);
        }
        if let Some(neighbour) = self.neighbours.get_mut(&from) {
            neighbour.has = Some(id);
        }
        let of = (notice.epoch, id);
        let statement = Arc::new(statement);
        match self.membership.merge(Arc::clone(&statement)) {
            Merged::News => {
                self.events.push_back(GossipEvent::Changed);
                if self.membership.epoch() != Some(of) {
                    // Nobody needs the key, but everybody the statement.
                    self.push(&[statement], Some(from));
                }
            }
            Merged::Known => {}
            // The announcement was of somebody who was no admin any more.
            Merged::Void => return Ok(()),
        }
        if !self.keys.contains_key(&of) {
            self.keep_key(key);
            self.check_epoch(now_unix_s);
        }
        Ok(())
    }

    /// The current epoch, if its key is here.
    fn current_key(&self) -> Option<(Epoch, KeyId)> {
        let current = self.membership.epoch();
        current.filter(|of| self.keys.contains_key(of))
    }

    /// Statements or a key came in: there may be a new current key.
    fn check_epoch(&mut self, now_unix_s: u64) {
        let current = self.current_key();
        if current.is_some() && current != self.told {
            self.told = current;
            let key = current.and_then(|of| self.keys.get(&of)).cloned();
            self.events.extend(key.map(GossipEvent::NewKey));
        }
        self.offer_key_to_all(now_unix_s);
    }

    fn offer_key_to_all(&mut self, now_unix_s: u64) {
        let neighbours: Vec<_> = self.neighbours.keys().copied().collect();
        for peer in neighbours {
            self.offer_key(peer, now_unix_s);
        }
    }

    /// Gives a neighbour the current key, if it is a member and has not said that it has it.
    fn offer_key(&mut self, peer: PeerId, now_unix_s: u64) {
        let Some((_, current)) = self.membership.epoch() else {
            return;
        };
        let member = self.membership.standing(peer, now_unix_s) == Standing::Member;
        let Some(neighbour) = self.neighbours.get_mut(&peer) else {
            return;
        };
        if !member || neighbour.has == Some(current) {
            return;
        }
        if let Some(message) = self.key_message() {
            if let Some(neighbour) = self.neighbours.get_mut(&peer) {
                neighbour.has = Some(current);
            }
            self.send(peer, message);
        }
    }

    fn keep_key(&mut self, key: SwarmKey) {
        let id = KeyId::of(&key, self.membership.charter());
        self.keys.insert((key.epoch(), id), key);
        while self.keys.len() > MAX_KEYS {
            let current = self.membership.epoch();
            let oldest = self.keys.keys().find(|of| Some(**of) != current).copied();
            let Some(oldest) = oldest else { break };
            self.keys.remove(&oldest);
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a start for a clock of its own")]
mod tests;
