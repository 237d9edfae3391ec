//! Statements: what the authority of a private network and its admins say, signed.
//!
//! A [`Statement`] is made for one network and can be checked by whoever knows its
//! [`Charter`], without asking anybody: one of an admin carries the authority's appointment
//! of that admin with it. Every kind has a number that orders statements about the same
//! thing, so that a later one replaces an earlier one wherever they meet:
//!
//! | kind | says | ordered by |
//! |---|---|---|
//! | [`Certificate`] | who is a member, under which name, until when | `version`, for each member |
//! | [`Revocation`] | who is none any more | the same |
//! | [`Appointment`] | who is an admin, and who was one | `term`, for each admin |
//! | [`EpochNotice`] | which swarm key is the current one | `epoch` |
//! | [`Policy`] | which firewall rules hold on all members' hosts | `version` |
//!
//! What is signed is a domain, the network's id, and the payload in protobuf. Signatures
//! cover payloads as they came, fields of later versions included.

mod wire;

pub(super) use wire::Envelope;

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

pub use anyhop_base::Role;
use anyhop_base::{Keypair, PeerId, PublicKey, Rule, Verdict, public_key_of};
use aws_lc_rs::digest;
use prost::Message as _;
use thiserror::Error;

use super::{Charter, swarm::Epoch, swarm::SwarmKey};

/// Longest encoded statement, bytes, the appointment that comes with it included; of a
/// [`Policy`] it is [`MAX_POLICY_LEN`].
pub const MAX_STATEMENT_LEN: usize = 1024;
/// Longest encoded [`Policy`], bytes, likewise. There is one for each issuer.
pub const MAX_POLICY_LEN: usize = 4096;
/// Most rules of a [`Policy`].
pub const MAX_POLICY_RULES: usize = 64;
/// Longest name of a member, bytes: that of a DNS label.
pub const MAX_MEMBER_NAME_LEN: usize = 63;
/// Most overlay addresses of one member.
pub const MAX_OVERLAY_ADDRESSES: usize = 8;
/// Length of a [`StatementId`], bytes.
pub const STATEMENT_ID_LEN: usize = 16;

/// What is signed before network and payload, so that the signature fits nothing else.
const SIGNATURE_DOMAIN: &[u8] = b"anyhop-statement/1";
/// What is hashed before a swarm key, so that the hash is of nothing else.
const KEY_ID_DOMAIN: &[u8] = b"anyhop-swarm-key-id/1";

/// The name of a member: 1 to [`MAX_MEMBER_NAME_LEN`] of `a-z`, `0-9` and `-`, which is
/// neither first nor last, so that it serves as a DNS label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberName(String);

/// The text is no name of a member.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} cannot be a member's name: use 1 to {MAX_MEMBER_NAME_LEN} of a-z, 0-9 and '-', \
     not beginning or ending with '-'"
)]
pub struct BadMemberName(pub String);

impl MemberName {
    /// Checks a name.
    ///
    /// # Errors
    /// When it is empty, too long, or has other characters.
    pub fn new(name: impl Into<String>) -> Result<Self, BadMemberName> {
        let name = name.into();
        let allowed = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let edges = name.starts_with('-') || name.ends_with('-');
        let len = 1..=MAX_MEMBER_NAME_LEN;
        if len.contains(&name.len()) && !edges && name.as_bytes().iter().all(allowed) {
            Ok(Self(name))
        } else {
            Err(BadMemberName(name))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MemberName {
    type Err = BadMemberName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

/// What a member wants to be left out of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct OptOuts {
    /// It forwards no circuits of others.
    pub no_relaying: bool,
    /// It carries no searches and answers no lookups for others.
    pub no_signalling: bool,
    /// It is not listed to members that do not administer the network.
    pub stealth: bool,
}

/// Who is a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The member.
    pub peer: PeerId,
    /// Grows with every statement about the member.
    pub version: u64,
    /// Its name; [`Membership`](super::Membership) tells two of one name apart.
    pub name: MemberName,
    /// [`Role::Owner`] or [`Role::Member`]: admins are known by their [`Appointment`].
    pub role: Role,
    /// Its addresses in the overlay; at most [`MAX_OVERLAY_ADDRESSES`].
    pub overlay: Vec<IpAddr>,
    /// What it is left out of.
    pub opt_outs: OptOuts,
    /// When it was signed, seconds since the Unix epoch.
    pub issued_unix_s: u64,
    /// When it ends, seconds since the Unix epoch.
    pub expires_unix_s: u64,
}

/// Who is no member any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Whose certificates end.
    pub peer: PeerId,
    /// Ends those of this version and below.
    pub version: u64,
    /// When it was signed, seconds since the Unix epoch.
    pub issued_unix_s: u64,
}

/// Who is an admin, or is none any more. Only the authority appoints.
///
/// Everything that an admin signs names the term it was appointed for. When that has
/// ended, nothing it signed in it holds any longer: with the key of a former admin nothing
/// can be signed, not even back-dated. What is to stay the authority signs anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appointment {
    /// The admin.
    pub admin: PeerId,
    /// Grows with every appointment of this admin.
    pub term: u64,
    /// Whether the term runs; a term that has ended does not run again.
    pub standing: bool,
    /// When it was signed, seconds since the Unix epoch.
    pub issued_unix_s: u64,
}

/// Which swarm key is the current one. Of two for one epoch the smaller key id is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochNotice {
    /// Its epoch.
    pub epoch: Epoch,
    /// The hash of the key, which is told over members' sessions only.
    pub key: KeyId,
    /// When it was signed, seconds since the Unix epoch.
    pub issued_unix_s: u64,
}

/// The firewall rules that hold on the hosts of all members, behind each host's own. A later
/// one replaces an earlier one whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Grows with every policy of the network.
    pub version: u64,
    /// What becomes of flows to a host that no rule is about, where that host does not say.
    pub default: Option<Verdict>,
    /// At most [`MAX_POLICY_RULES`], the first that covers a flow decides.
    pub rules: Vec<PolicyRule>,
    /// When it was signed, seconds since the Unix epoch.
    pub issued_unix_s: u64,
}

/// A rule of a [`Policy`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// The version of the policy that brought it, by which it is known.
    pub id: u64,
    /// The rule.
    pub rule: Rule,
}

/// The hash of a swarm key; whoever has it has no key, but knows one that is right.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 32]);

impl KeyId {
    /// That of a key of this network.
    #[must_use]
    pub fn of(key: &SwarmKey, charter: &Charter) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(KEY_ID_DOMAIN);
        hash.update(charter.id().as_bytes());
        hash.update(&key.epoch().0.to_be_bytes());
        hash.update(key.secret());
        let hash = hash.finish();
        Self(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyId(")?;
        self.0[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))?;
        f.write_str(")")
    }
}

/// What a statement says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Who is a member.
    Certificate(Certificate),
    /// Who is none any more.
    Revocation(Revocation),
    /// Who is an admin.
    Appointment(Appointment),
    /// Which swarm key is the current one.
    Epoch(EpochNotice),
    /// Which firewall rules hold everywhere.
    Policy(Policy),
}

/// Who signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Issuer {
    /// The network's authority.
    Authority,
    /// An admin, in one of its terms.
    Admin {
        /// The admin.
        peer: PeerId,
        /// The term.
        term: u64,
    },
}

/// The first bytes of a payload's SHA-256: the same for the same statement however it came.
pub type StatementId = [u8; STATEMENT_ID_LEN];

/// Who can sign for a network.
#[derive(Debug, Clone)]
pub enum Signer {
    /// The authority.
    Authority(Keypair),
    /// An admin with its appointment.
    Admin {
        /// The admin's own key.
        keypair: Keypair,
        /// The statement that appoints it.
        appointment: Arc<Statement>,
    },
}

impl Signer {
    /// As whom it signs; `None` when what should appoint it does not.
    #[must_use]
    pub fn issuer(&self) -> Option<Issuer> {
        match self {
            Self::Authority(_) => Some(Issuer::Authority),
            Self::Admin {
                keypair,
                appointment,
            } => {
                let Body::Appointment(appointed) = &appointment.body else {
                    return None;
                };
                let peer = keypair.public().to_peer_id();
                let fits = appointed.standing && appointed.admin == peer;
                fits.then_some(Issuer::Admin {
                    peer,
                    term: appointed.term,
                })
            }
        }
    }
}

/// A statement with a signature that was made here or has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    issuer: Issuer,
    body: Body,
    id: StatementId,
    envelope: wire::Envelope,
    /// That of the admin who signed.
    appointment: Option<Arc<Self>>,
}

impl Statement {
    /// Signs a statement.
    ///
    /// # Errors
    /// When the signer may not say this, or a limit is passed.
    pub fn sign(body: Body, signer: &Signer, charter: &Charter) -> Result<Self, StatementError> {
        let issuer = signer.issuer().ok_or(StatementError::NotAppointed)?;
        let (keypair, appointment) = match signer {
            Signer::Authority(keypair) => (keypair, None),
            Signer::Admin {
                keypair,
                appointment,
            } => (keypair, Some(Arc::clone(appointment))),
        };
        if issuer == Issuer::Authority && keypair.public() != *charter.key() {
            return Err(StatementError::OtherAuthority);
        }
        check(&body, issuer)?;
        let payload = wire::Payload::new(issuer, &body).encode_to_vec();
        let signature = keypair
            .sign(&signed_bytes(charter, &payload))
            .map_err(|e| StatementError::Signing(e.to_string()))?;
        let appointed = appointment.as_ref().map(|a| a.encode());
        let envelope = wire::Envelope {
            appointment: appointed.unwrap_or_default(),
            payload,
            signature,
        };
        check_len(envelope.encoded_len(), limit_of(&body))?;
        Ok(Self {
            issuer,
            body,
            id: id_of(&envelope.payload),
            envelope,
            appointment,
        })
    }

    /// Decodes and checks a statement: size, signature, network, the signer's right to say
    /// it. Not its time: that of a certificate is a matter of when it is used.
    ///
    /// # Errors
    /// When any check fails; then it is worth nothing.
    pub fn decode(bytes: &[u8], charter: &Charter) -> Result<Self, StatementError> {
        check_len(bytes.len(), MAX_POLICY_LEN)?;
        let envelope =
            wire::Envelope::decode(bytes).map_err(|e| StatementError::Malformed(e.to_string()))?;
        let payload = wire::Payload::decode(&*envelope.payload)
            .map_err(|e| StatementError::Malformed(e.to_string()))?;
        let (issuer, body) = payload.into_parts()?;
        check_len(bytes.len(), limit_of(&body))?;
        let (key, appointment) = match issuer {
            Issuer::Authority if envelope.appointment.is_empty() => (charter.key().clone(), None),
            Issuer::Authority => {
                return Err(malformed("the authority's statement has an appointment"));
            }
            Issuer::Admin { peer, term } => {
                let appointment = appointment_of(&envelope.appointment, peer, term, charter)?;
                (admin_key(peer)?, Some(Arc::new(appointment)))
            }
        };
        let signed = signed_bytes(charter, &envelope.payload);
        if !key.verify(&signed, &envelope.signature) {
            return Err(StatementError::Signature);
        }
        check(&body, issuer)?;
        Ok(Self {
            issuer,
            body,
            id: id_of(&envelope.payload),
            envelope,
            appointment,
        })
    }

    /// The bytes to pass on, at most [`MAX_STATEMENT_LEN`], or [`MAX_POLICY_LEN`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.envelope.encode_to_vec()
    }

    /// Who says it.
    #[must_use]
    pub fn issuer(&self) -> Issuer {
        self.issuer
    }

    /// What it says.
    #[must_use]
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> StatementId {
        self.id
    }

    /// The appointment of the admin who signed it.
    #[must_use]
    pub fn appointment(&self) -> Option<&Arc<Self>> {
        self.appointment.as_ref()
    }

    /// What it certifies, if that is what it does.
    #[must_use]
    pub fn certificate(&self) -> Option<&Certificate> {
        match &self.body {
            Body::Certificate(certificate) => Some(certificate),
            _ => None,
        }
    }
}

/// Why a statement cannot be signed, or is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StatementError {
    /// It is longer than [`MAX_STATEMENT_LEN`], or [`MAX_POLICY_LEN`].
    #[error("statement of {len} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Its length, bytes.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// It has more firewall rules than a policy may have.
    #[error("policy with {count} firewall rules, and {MAX_POLICY_RULES} are allowed")]
    TooManyRules {
        /// How many.
        count: usize,
    },
    /// The bytes are no statement.
    #[error("malformed statement: {0}")]
    Malformed(String),
    /// The signature does not fit signer, network and content.
    #[error("the statement has a wrong signature: it was changed, or made for another network")]
    Signature,
    /// Its signer is not appointed, or not for that.
    #[error("the statement is of somebody whom the network's authority has not appointed")]
    NotAppointed,
    /// An admin says what only the authority may say.
    #[error("the statement is an admin's, and only the network's authority may {0}")]
    AuthorityOnly(&'static str),
    /// A list in it is too long.
    #[error("statement with {count} overlay addresses, and {MAX_OVERLAY_ADDRESSES} are allowed")]
    TooManyAddresses {
        /// How many.
        count: usize,
    },
    /// On signing: the key is not the authority's.
    #[error("cannot sign: the key is not that of the network's authority")]
    OtherAuthority,
    /// On signing: there is no epoch after the current one.
    #[error("cannot start another epoch: the last one there can be is reached")]
    LastEpoch,
    /// On signing: the key refused.
    #[error("cannot sign the statement: {0}")]
    Signing(String),
}

/// The appointment that came with an admin's statement.
fn appointment_of(
    bytes: &[u8],
    peer: PeerId,
    term: u64,
    charter: &Charter,
) -> Result<Statement, StatementError> {
    if bytes.is_empty() {
        return Err(StatementError::NotAppointed);
    }
    // The authority's own have none, so that this goes one level deep.
    let appointment = Statement::decode_authoritys(bytes, charter)?;
    match appointment.body {
        Body::Appointment(ref a) if a.standing && a.admin == peer && a.term == term => {
            Ok(appointment)
        }
        _ => Err(StatementError::NotAppointed),
    }
}

impl Statement {
    fn decode_authoritys(bytes: &[u8], charter: &Charter) -> Result<Self, StatementError> {
        let envelope =
            wire::Envelope::decode(bytes).map_err(|e| StatementError::Malformed(e.to_string()))?;
        if !envelope.appointment.is_empty() {
            return Err(StatementError::NotAppointed);
        }
        let payload = wire::Payload::decode(&*envelope.payload)
            .map_err(|e| StatementError::Malformed(e.to_string()))?;
        match payload.into_parts()? {
            (Issuer::Authority, _) => Self::decode(bytes, charter),
            (Issuer::Admin { .. }, _) => Err(StatementError::NotAppointed),
        }
    }
}

/// What a statement may say at all, by whom.
fn check(body: &Body, issuer: Issuer) -> Result<(), StatementError> {
    let admin = issuer != Issuer::Authority;
    match body {
        Body::Appointment(_) if admin => Err(StatementError::AuthorityOnly("appoint admins")),
        Body::Appointment(appointment) => admin_key(appointment.admin).map(|_| ()),
        Body::Certificate(certificate) => {
            let count = certificate.overlay.len();
            if count > MAX_OVERLAY_ADDRESSES {
                return Err(StatementError::TooManyAddresses { count });
            }
            match certificate.role {
                Role::Owner if admin => Err(StatementError::AuthorityOnly("certify the owner")),
                Role::Admin => Err(malformed("admins are certified as members")),
                Role::Owner | Role::Member => admin_key(certificate.peer).map(|_| ()),
            }
        }
        Body::Revocation(revocation) => admin_key(revocation.peer).map(|_| ()),
        Body::Epoch(_) => Ok(()),
        Body::Policy(policy) => check_rules(&policy.rules),
    }
}

fn check_rules(rules: &[PolicyRule]) -> Result<(), StatementError> {
    let count = rules.len();
    if count > MAX_POLICY_RULES {
        return Err(StatementError::TooManyRules { count });
    }
    let mut rules = rules.iter();
    rules.try_for_each(|r| r.rule.check().map_err(|e| malformed(&e.to_string())))
}

fn limit_of(body: &Body) -> usize {
    match body {
        Body::Policy(_) => MAX_POLICY_LEN,
        _ => MAX_STATEMENT_LEN,
    }
}

fn admin_key(peer: PeerId) -> Result<PublicKey, StatementError> {
    public_key_of(&peer).ok_or_else(|| malformed("a peer id in it is not that of a node"))
}

fn malformed(why: &str) -> StatementError {
    StatementError::Malformed(why.to_owned())
}

fn signed_bytes(charter: &Charter, payload: &[u8]) -> Vec<u8> {
    [SIGNATURE_DOMAIN, charter.id().as_bytes(), payload].concat()
}

fn id_of(payload: &[u8]) -> StatementId {
    let hash = digest::digest(&digest::SHA256, payload);
    let first = hash.as_ref().first_chunk::<STATEMENT_ID_LEN>();
    *first.expect("SHA-256 is longer")
}

fn check_len(len: usize, limit: usize) -> Result<(), StatementError> {
    if len > limit {
        return Err(StatementError::TooLarge { len, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
