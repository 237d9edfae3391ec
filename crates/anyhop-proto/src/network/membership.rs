//! Membership: the statements of a network put together.
//!
//! [`Membership`] is a convergent set. Whatever the order in which statements come, and
//! however often, nodes that have seen the same ones hold the same state: of each issuer,
//! the best statement about each member, its best epoch and its best policy; of each admin, the
//! appointment of its latest term. An admin's statements leave with its term.
//!
//! Who is a member is read from that by rules that everybody applies alike:
//!
//! - The statement with the highest version decides; of equal ones a revocation, then
//!   the authority's, then the one with the smaller id.
//! - What the authority says about the owner stands, and admins cannot revoke admins.
//! - Of members with one name, the owner, else the one certified first, has it; the
//!   others' get a tail from their ids. So with overlay addresses, which are left out.
//!
//! **Bounds**: [`MAX_STATEMENTS_PER_ISSUER`] members named by each issuer and [`MAX_ADMINS`]
//! admins. What goes beyond is dropped by a rule that everybody applies alike, too: the
//! greatest PeerIds go. The authority and admins are told before ([`MembershipError`]).

mod policy;

pub use policy::PolicyChange;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt,
    net::IpAddr,
    ops::Bound,
    sync::Arc,
};

use anyhop_base::PeerId;
use thiserror::Error;

use super::{
    Charter,
    statement::{
        Appointment, Body, Certificate, EpochNotice, Issuer, KeyId, MAX_MEMBER_NAME_LEN,
        MemberName, OptOuts, Revocation, Role, STATEMENT_ID_LEN, Statement, StatementId,
    },
    swarm::Epoch,
};

/// Most members of a network.
pub const MAX_MEMBERS: usize = 10_000;
/// Most members that one issuer names, former ones included. Each costs about 1 KiB.
pub const MAX_STATEMENTS_PER_ISSUER: usize = 10_000;
/// Most admins that the authority ever names, former ones included.
pub const MAX_ADMINS: usize = 32;
/// Groups into which ids of statements are divided for comparing two states.
pub const BUCKETS: usize = 256;

/// What a set of statements comes to: the exclusive or of their ids.
pub type Digest = [u8; STATEMENT_ID_LEN];

/// What became of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// It changed the state.
    News,
    /// It was known, or a better one was.
    Known,
    /// Its signer's term has ended, or there is no room for it.
    Void,
}

/// How a peer stands to the network at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is a member.
    Member,
    /// Its certificate has expired.
    Expired,
    /// It was one.
    Revoked,
    /// Nothing was ever said about it.
    Unknown,
}

/// A member, by all that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub peer: PeerId,
    /// Its name, unlike all others'.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The overlay addresses that are its alone.
    pub overlay: Vec<IpAddr>,
    /// What it is left out of.
    pub opt_outs: OptOuts,
    /// When its certificate ends, seconds since the Unix epoch.
    pub expires_unix_s: u64,
}

/// Why something cannot be said about a member.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// It is none.
    #[error("{0} is no member of this network")]
    NotAMember(PeerId),
    /// It is the owner.
    #[error("{0} is the owner of this network, about whom only the owner says anything")]
    Owner(PeerId),
    /// It is an admin, and another admin asks.
    #[error("{0} is an admin, whom only the owner of this network can revoke")]
    Admin(PeerId),
    /// It is an admin already.
    #[error("{0} is an admin already")]
    AlreadyAdmin(PeerId),
    /// It is no admin.
    #[error("{0} is no admin of this network")]
    NotAnAdmin(PeerId),
    /// Another member has the name.
    #[error("the name {name} is taken by {by}")]
    NameTaken {
        /// The name.
        name: MemberName,
        /// Whose it is.
        by: PeerId,
    },
    /// The policy has no such rule.
    #[error("the network's firewall policy has no rule {0}")]
    NoRule(u64),
    /// There is no room.
    #[error("this network's limit of {limit} {what} is reached")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
    },
}

/// The statements that one issuer makes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Said {
    about: BTreeMap<PeerId, Arc<Statement>>,
    epoch: Option<Arc<Statement>>,
    policy: Option<Arc<Statement>>,
}

impl Said {
    /// All of it, in a fixed order.
    fn statements(&self) -> impl Iterator<Item = &Arc<Statement>> {
        self.about.values().chain(&self.epoch).chain(&self.policy)
    }
}

/// All that has been said in a network and still matters. See the module.
#[derive(Clone)]
pub struct Membership {
    charter: Charter,
    appointments: BTreeMap<PeerId, Arc<Statement>>,
    said: BTreeMap<Issuer, Said>,
    by_id: BTreeMap<StatementId, Arc<Statement>>,
    digest: Digest,
}

impl Membership {
    /// Of a network about which nothing is known.
    #[must_use]
    pub fn new(charter: Charter) -> Self {
        Self {
            charter,
            appointments: BTreeMap::new(),
            said: BTreeMap::new(),
            by_id: BTreeMap::new(),
            digest: Digest::default(),
        }
    }

    /// The network.
    #[must_use]
    pub fn charter(&self) -> &Charter {
        &self.charter
    }

    /// Takes a statement of this network, which [`Statement::decode`] has checked, with the
    /// appointment that came with it.
    pub fn merge(&mut self, statement: impl Into<Arc<Statement>>) -> Merged {
        let statement = statement.into();
        if let Some(appointment) = statement.appointment() {
            let admin = appointment_in(appointment).map(|a| a.admin);
            admin.map(|admin| self.appoint(admin, Arc::clone(appointment)));
        }
        let issuer = statement.issuer();
        if !self.speaks(issuer) {
            return Merged::Void;
        }
        match *statement.body() {
            Body::Appointment(Appointment { admin, .. }) => self.appoint(admin, statement),
            Body::Certificate(Certificate { peer, .. })
            | Body::Revocation(Revocation { peer, .. }) => self.say(issuer, peer, statement),
            Body::Epoch(_) => self.announce(issuer, statement),
            Body::Policy(_) => self.enact(issuer, statement),
        }
    }

    /// Everything, in an order in which another node takes all of it.
    pub fn statements(&self) -> impl Iterator<Item = &Arc<Statement>> {
        let said = self.said.values().flat_map(Said::statements);
        self.appointments.values().chain(said)
    }

    /// The statement of an id.
    #[must_use]
    pub fn get(&self, id: &StatementId) -> Option<&Arc<Statement>> {
        self.by_id.get(id)
    }

    /// The same for nodes that hold the same statements.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Ids of the statements in a bucket: those with this first byte.
    pub fn bucket(&self, bucket: u8) -> impl Iterator<Item = &StatementId> {
        let mut first = StatementId::default();
        first[0] = bucket;
        let end = bucket.checked_add(1).map(|next| {
            let mut end = StatementId::default();
            end[0] = next;
            end
        });
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_id
            .range((Bound::Included(first), end))
            .map(|(id, _)| id)
    }

    /// What each bucket comes to.
    #[must_use]
    pub fn bucket_digests(&self) -> Vec<Digest> {
        let mut digests = vec![Digest::default(); BUCKETS];
        for id in self.by_id.keys() {
            toggle(&mut digests[usize::from(id[0])], id);
        }
        digests
    }

    /// How a peer stands to the network.
    #[must_use]
    pub fn standing(&self, peer: PeerId, now_unix_s: u64) -> Standing {
        match self.decisive(peer).map(|s| s.body()) {
            Some(Body::Certificate(c)) if c.expires_unix_s > now_unix_s => Standing::Member,
            Some(Body::Certificate(_)) => Standing::Expired,
            Some(_) => Standing::Revoked,
            None => Standing::Unknown,
        }
    }

    /// The certificate that counts for a peer, expired or not; `None` for who is none.
    #[must_use]
    pub fn certificate(&self, peer: PeerId) -> Option<&Arc<Statement>> {
        self.decisive(peer).filter(|s| s.certificate().is_some())
    }

    /// What a peer may do; `None` for who is no member.
    #[must_use]
    pub fn role(&self, peer: PeerId) -> Option<Role> {
        let certificate = self.certificate(peer)?.certificate()?;
        let admin = certificate.role == Role::Member && self.term(peer).is_some();
        Some(if admin { Role::Admin } else { certificate.role })
    }

    /// The appointment of an admin whose term runs.
    #[must_use]
    pub fn appointment(&self, peer: PeerId) -> Option<&Arc<Statement>> {
        self.term(peer)?;
        self.appointments.get(&peer)
    }

    /// Everybody with a certificate, expired ones included, by PeerId.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let mut members = self.members_by_right();
        members.sort_by_key(|m| m.peer);
        members
    }

    /// The same, who has a better right to a name or an address first.
    #[must_use]
    pub fn members_by_right(&self) -> Vec<Member> {
        let certified = self.peers().into_iter();
        let certified = certified.filter_map(|peer| self.certificate(peer)?.certificate());
        let mut by_right: Vec<&Certificate> = certified.collect();
        by_right.sort_by_key(|c| (c.role, c.issued_unix_s, c.peer));
        let names = distinct_names(&by_right);
        let mut taken = BTreeSet::new();
        by_right
            .into_iter()
            .zip(names)
            .map(|(certificate, name)| Member {
                peer: certificate.peer,
                name,
                role: self.role(certificate.peer).unwrap_or(certificate.role),
                overlay: certificate
                    .overlay
                    .iter()
                    .copied()
                    .filter(|ip| taken.insert(*ip))
                    .collect(),
                opt_outs: certificate.opt_outs,
                expires_unix_s: certificate.expires_unix_s,
            })
            .collect()
    }

    /// The current epoch and what its key hashes to; `None` before the first.
    #[must_use]
    pub fn epoch(&self) -> Option<(Epoch, KeyId)> {
        let notice = notice_in(self.epoch_statement()?)?;
        Some((notice.epoch, notice.key))
    }

    /// The statement that announces the current epoch.
    #[must_use]
    pub fn epoch_statement(&self) -> Option<&Arc<Statement>> {
        let epochs = self.said.values().filter_map(|s| s.epoch.as_ref());
        epochs.max_by_key(|s| epoch_rank(s))
    }

    /// What to sign to end an admin's term: first what it said and shall stay, then the
    /// end itself, so that nobody is without a certificate in between.
    ///
    /// # Errors
    /// When it is no admin.
    pub fn removal(&self, admin: PeerId, now_unix_s: u64) -> Result<Vec<Body>, MembershipError> {
        let term = self.term(admin);
        let term = term.ok_or(MembershipError::NotAnAdmin(admin))?;
        let issuer = Issuer::Admin { peer: admin, term };
        let said = self.said.get(&issuer);
        let about = said.iter().flat_map(|s| s.about.iter());
        let decisive = about.filter(|(peer, s)| self.decisive(**peer) == Some(s));
        let mut bodies: Vec<_> = decisive.map(|(_, s)| s.body().clone()).collect();
        let epoch = self.epoch_statement().filter(|s| s.issuer() == issuer);
        bodies.extend(epoch.map(|s| s.body().clone()));
        let policy = self.policy_statement().filter(|s| s.issuer() == issuer);
        bodies.extend(policy.map(|s| s.body().clone()));
        bodies.push(Body::Appointment(Appointment {
            admin,
            term,
            standing: false,
            issued_unix_s: now_unix_s,
        }));
        Ok(bodies)
    }

    /// What the authority signs to appoint an admin.
    ///
    /// # Errors
    /// When it is no member, the owner, an admin already, or there are too many.
    pub fn appoint_admin(&self, peer: PeerId, now_unix_s: u64) -> Result<Body, MembershipError> {
        match self.role(peer) {
            None => return Err(MembershipError::NotAMember(peer)),
            Some(Role::Owner) => return Err(MembershipError::Owner(peer)),
            Some(Role::Admin) => return Err(MembershipError::AlreadyAdmin(peer)),
            Some(Role::Member) => {}
        }
        let known = self.appointments.get(&peer).and_then(|a| appointment_in(a));
        if known.is_none() && self.appointments.len() >= MAX_ADMINS {
            let (what, limit) = ("admins", MAX_ADMINS);
            return Err(MembershipError::Full { what, limit });
        }
        Ok(Body::Appointment(Appointment {
            admin: peer,
            term: known.map_or(1, |a| a.term.saturating_add(1)),
            standing: true,
            issued_unix_s: now_unix_s,
        }))
    }

    /// What `issuer` signs to revoke a member.
    ///
    /// # Errors
    /// When it is no member, or not one whom the issuer may revoke.
    pub fn revocation(
        &self,
        peer: PeerId,
        issuer: Issuer,
        now_unix_s: u64,
    ) -> Result<Body, MembershipError> {
        match self.role(peer) {
            None => return Err(MembershipError::NotAMember(peer)),
            Some(Role::Owner) => return Err(MembershipError::Owner(peer)),
            Some(Role::Admin) if issuer != Issuer::Authority => {
                return Err(MembershipError::Admin(peer));
            }
            Some(Role::Admin | Role::Member) => {}
        }
        self.check_room(issuer, peer)?;
        Ok(Body::Revocation(Revocation {
            peer,
            version: self.next_version(peer),
            issued_unix_s: now_unix_s,
        }))
    }

    /// What `issuer` signs to certify a peer: a new member, or one with something new.
    ///
    /// # Errors
    /// When there is no room, the name is another's, or the issuer may not say anything
    /// about the peer.
    pub fn certify(
        &self,
        certificate: Certificate,
        issuer: Issuer,
    ) -> Result<Body, MembershipError> {
        let peer = certificate.peer;
        if self.role(peer) == Some(Role::Owner) && issuer != Issuer::Authority {
            return Err(MembershipError::Owner(peer));
        }
        let members = self.members();
        let is_new = members.iter().all(|m| m.peer != peer);
        if is_new && members.len() >= MAX_MEMBERS {
            let (what, limit) = ("members", MAX_MEMBERS);
            return Err(MembershipError::Full { what, limit });
        }
        self.check_room(issuer, peer)?;
        let name = certificate.name.as_str();
        if let Some(other) = members.iter().find(|m| m.name == name && m.peer != peer) {
            let (name, by) = (certificate.name, other.peer);
            return Err(MembershipError::NameTaken { name, by });
        }
        let version = self.next_version(peer);
        Ok(Body::Certificate(Certificate {
            version,
            ..certificate
        }))
    }

    /// A name that no other member has, as close to the wanted one as may be.
    #[must_use]
    pub fn free_name(&self, wanted: &MemberName, peer: PeerId) -> MemberName {
        let members = self.members();
        let others = members.iter().filter(|m| m.peer != peer);
        let mut taken: BTreeSet<_> = others.map(|m| m.name.clone()).collect();
        let free = with_tail(wanted, peer, &mut taken);
        MemberName::new(free).unwrap_or_else(|_| wanted.clone())
    }

    fn speaks(&self, issuer: Issuer) -> bool {
        match issuer {
            Issuer::Authority => true,
            Issuer::Admin { peer, term } => self.term(peer) == Some(term),
        }
    }

    /// The term of an admin that runs.
    fn term(&self, peer: PeerId) -> Option<u64> {
        let appointment = appointment_in(self.appointments.get(&peer)?)?;
        appointment.standing.then_some(appointment.term)
    }

    fn appoint(&mut self, admin: PeerId, statement: Arc<Statement>) -> Merged {
        let added = Arc::clone(&statement);
        match self.appointments.entry(admin) {
            Entry::Occupied(known) if term_rank(&statement) <= term_rank(known.get()) => {
                return Merged::Known;
            }
            Entry::Occupied(mut known) => {
                let old = known.insert(statement);
                self.forget(old.id());
            }
            Entry::Vacant(free) => {
                free.insert(statement);
            }
        }
        self.know(added);
        self.drop_ended_terms(admin);
        if self.appointments.len() <= MAX_ADMINS {
            return Merged::News;
        }
        let Some((last, dropped)) = self.appointments.pop_last() else {
            return Merged::News;
        };
        self.forget(dropped.id());
        self.drop_ended_terms(last);
        if last == admin {
            Merged::Void
        } else {
            Merged::News
        }
    }

    /// Drops what an admin said in other terms than the one that runs.
    fn drop_ended_terms(&mut self, admin: PeerId) {
        let ended: Vec<_> = self
            .said
            .keys()
            .copied()
            .filter(|i| matches!(i, Issuer::Admin { peer, .. } if *peer == admin))
            .filter(|i| !self.speaks(*i))
            .collect();
        for issuer in ended {
            let said = self.said.remove(&issuer).unwrap_or_default();
            for statement in said.statements() {
                self.forget(statement.id());
            }
        }
    }

    fn say(&mut self, issuer: Issuer, peer: PeerId, statement: Arc<Statement>) -> Merged {
        let added = Arc::clone(&statement);
        let about = &mut self.said.entry(issuer).or_default().about;
        if let Some(known) = about.get(&peer)
            && rank(&statement) <= rank(known)
        {
            return Merged::Known;
        }
        let mut gone: Vec<_> = about.insert(peer, statement).into_iter().collect();
        let mut merged = Merged::News;
        if about.len() > MAX_STATEMENTS_PER_ISSUER
            && let Some((last, dropped)) = about.pop_last()
        {
            if last == peer {
                merged = Merged::Void;
            } else {
                gone.push(dropped);
            }
        }
        for old in gone {
            self.forget(old.id());
        }
        if merged == Merged::News {
            self.know(added);
        }
        merged
    }

    fn announce(&mut self, issuer: Issuer, statement: Arc<Statement>) -> Merged {
        let added = Arc::clone(&statement);
        let epoch = &mut self.said.entry(issuer).or_default().epoch;
        if let Some(known) = epoch
            && epoch_rank(&statement) <= epoch_rank(known)
        {
            return Merged::Known;
        }
        if let Some(old) = epoch.replace(statement) {
            self.forget(old.id());
        }
        self.know(added);
        Merged::News
    }

    fn know(&mut self, statement: Arc<Statement>) {
        let id = statement.id();
        if self.by_id.insert(id, statement).is_none() {
            toggle(&mut self.digest, &id);
        }
    }

    fn forget(&mut self, id: StatementId) {
        if self.by_id.remove(&id).is_some() {
            toggle(&mut self.digest, &id);
        }
    }

    /// Everybody about whom anything is said.
    fn peers(&self) -> BTreeSet<PeerId> {
        let said = self.said.values();
        said.flat_map(|s| s.about.keys().copied()).collect()
    }

    fn all_about(&self, peer: PeerId) -> impl Iterator<Item = &Arc<Statement>> {
        let said = self.said.values();
        said.filter_map(move |s| s.about.get(&peer))
    }

    /// The statement that decides about a peer.
    fn decisive(&self, peer: PeerId) -> Option<&Arc<Statement>> {
        let authority = self.said.get(&Issuer::Authority);
        let own = authority.and_then(|s| s.about.get(&peer));
        if own.and_then(|s| s.certificate()).map(|c| c.role) == Some(Role::Owner) {
            return own;
        }
        let admin = self.term(peer).is_some();
        self.all_about(peer)
            .filter(|s| {
                let revoked = matches!(s.body(), Body::Revocation(_));
                !(admin && revoked && s.issuer() != Issuer::Authority)
            })
            .max_by_key(|s| {
                let (version, revoked, id) = rank(s);
                (version, revoked, s.issuer() == Issuer::Authority, id)
            })
    }

    fn next_version(&self, peer: PeerId) -> u64 {
        let versions = self.all_about(peer).map(|s| rank(s).0);
        versions.max().map_or(1, |v| v.saturating_add(1))
    }

    fn check_room(&self, issuer: Issuer, peer: PeerId) -> Result<(), MembershipError> {
        let limit = MAX_STATEMENTS_PER_ISSUER;
        let about = self.said.get(&issuer).map(|s| &s.about);
        if about.is_some_and(|a| a.len() >= limit && !a.contains_key(&peer)) {
            let what = "members named by one issuer";
            return Err(MembershipError::Full { what, limit });
        }
        Ok(())
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership")
            .field("network", &self.charter.id())
            .field("statements", &self.by_id.len())
            .field("epoch", &self.epoch())
            .finish_non_exhaustive()
    }
}

impl PartialEq for Membership {
    fn eq(&self, other: &Self) -> bool {
        // Empty entries are as good as none.
        self.charter == other.charter && self.statements().eq(other.statements())
    }
}

/// Gives each certificate its name, or one with a tail when a better one has it.
fn distinct_names(by_right: &[&Certificate]) -> Vec<String> {
    // Nobody's name is another's name with a tail.
    let mut taken: BTreeSet<_> = by_right.iter().map(|c| c.name.to_string()).collect();
    let mut owned = BTreeSet::new();
    let name = |certificate: &&Certificate| {
        let name = certificate.name.to_string();
        if owned.insert(name.clone()) {
            return name;
        }
        with_tail(&certificate.name, certificate.peer, &mut taken)
    };
    by_right.iter().map(name).collect()
}

/// The name, or else the name with as much of the id as makes it unlike all in `taken`.
fn with_tail(name: &MemberName, peer: PeerId, taken: &mut BTreeSet<String>) -> String {
    let id: Vec<_> = peer.to_bytes().into_iter().rev().take(16).collect();
    let id: String = id.iter().map(|b| format!("{b:02x}")).collect();
    let room = MAX_MEMBER_NAME_LEN - 1;
    let candidate = |digits: usize| {
        let kept = name.as_str().len().min(room - digits);
        let kept = name.as_str()[..kept].trim_end_matches('-');
        format!("{kept}-{}", &id[..digits])
    };
    let mut candidates = std::iter::once(name.to_string()).chain((6..=id.len()).map(candidate));
    let free = candidates.find(|c| !taken.contains(c));
    // 128 bits of two ids are not the same.
    let free = free.unwrap_or_else(|| id.clone());
    taken.insert(free.clone());
    free
}

/// Which of two statements of one issuer about one member stays: the greater.
fn rank(statement: &Statement) -> (u64, bool, Reverse<StatementId>) {
    let (version, revoked) = match statement.body() {
        Body::Certificate(c) => (c.version, false),
        Body::Revocation(r) => (r.version, true),
        Body::Appointment(_) | Body::Epoch(_) | Body::Policy(_) => (0, false),
    };
    (version, revoked, Reverse(statement.id()))
}

/// Which of two appointments of one admin stays: the greater.
fn term_rank(statement: &Statement) -> (u64, bool, Reverse<StatementId>) {
    let term = appointment_in(statement).map_or((0, false), |a| (a.term, !a.standing));
    (term.0, term.1, Reverse(statement.id()))
}

/// Which of two epochs is the current one: the greater.
fn epoch_rank(statement: &Statement) -> (Epoch, Reverse<Option<KeyId>>, Reverse<StatementId>) {
    let notice = notice_in(statement);
    (
        notice.map(|n| n.epoch).unwrap_or_default(),
        Reverse(notice.map(|n| n.key)),
        Reverse(statement.id()),
    )
}

fn appointment_in(statement: &Statement) -> Option<&Appointment> {
    match statement.body() {
        Body::Appointment(appointment) => Some(appointment),
        _ => None,
    }
}

fn notice_in(statement: &Statement) -> Option<&EpochNotice> {
    match statement.body() {
        Body::Epoch(notice) => Some(notice),
        _ => None,
    }
}

fn toggle(digest: &mut Digest, id: &StatementId) {
    for (byte, with) in digest.iter_mut().zip(id) {
        *byte ^= with;
    }
}

#[cfg(test)]
mod tests;
