//! The protobuf form of a statement. Field numbers are for ever.

mod policy;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhop_base::PeerId;

use super::{
    Appointment, Body, Certificate, EpochNotice, Issuer, KeyId, MemberName, OptOuts, Revocation,
    Role, StatementError, malformed,
};
use crate::network::swarm::Epoch;

/// What somebody signed for the network: a `Statement`, or an invitation.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(in crate::network) struct Envelope {
    #[prost(bytes = "vec", tag = "1")]
    pub(in crate::network) payload: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(in crate::network) signature: Vec<u8>,
    /// A statement, when the signer is an admin.
    #[prost(bytes = "vec", tag = "3")]
    pub(in crate::network) appointment: Vec<u8>,
}

/// What is signed. Exactly one of the last five is there.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Payload {
    /// Empty for the authority.
    #[prost(bytes = "vec", tag = "1")]
    admin: Vec<u8>,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint64, tag = "3")]
    issued_unix_s: u64,
    #[prost(message, optional, tag = "4")]
    certificate: Option<WireCertificate>,
    #[prost(message, optional, tag = "5")]
    revocation: Option<WireRevocation>,
    #[prost(message, optional, tag = "6")]
    appointment: Option<WireAppointment>,
    #[prost(message, optional, tag = "7")]
    epoch: Option<WireEpoch>,
    #[prost(message, optional, tag = "8")]
    policy: Option<policy::WirePolicy>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireCertificate {
    #[prost(bytes = "vec", tag = "1")]
    peer: Vec<u8>,
    #[prost(uint64, tag = "2")]
    version: u64,
    #[prost(string, tag = "3")]
    name: String,
    /// 0 member, 1 owner.
    #[prost(uint32, tag = "4")]
    role: u32,
    /// 4 or 16 bytes each.
    #[prost(bytes = "vec", repeated, tag = "5")]
    overlay: Vec<Vec<u8>>,
    #[prost(bool, tag = "6")]
    no_relaying: bool,
    #[prost(bool, tag = "7")]
    no_signalling: bool,
    #[prost(bool, tag = "8")]
    stealth: bool,
    #[prost(uint64, tag = "9")]
    expires_unix_s: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRevocation {
    #[prost(bytes = "vec", tag = "1")]
    peer: Vec<u8>,
    #[prost(uint64, tag = "2")]
    version: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireAppointment {
    #[prost(bytes = "vec", tag = "1")]
    admin: Vec<u8>,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(bool, tag = "3")]
    standing: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireEpoch {
    #[prost(uint32, tag = "1")]
    epoch: u32,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
}

impl Payload {
    pub(super) fn new(issuer: Issuer, body: &Body) -> Self {
        let (admin, term) = match issuer {
            Issuer::Authority => (Vec::new(), 0),
            Issuer::Admin { peer, term } => (peer.to_bytes(), term),
        };
        let mut payload = Self {
            admin,
            term,
            ..Self::default()
        };
        match body {
            Body::Certificate(certificate) => {
                payload.issued_unix_s = certificate.issued_unix_s;
                payload.certificate = Some(certificate.into());
            }
            Body::Revocation(revocation) => {
                payload.issued_unix_s = revocation.issued_unix_s;
                payload.revocation = Some(WireRevocation {
                    peer: revocation.peer.to_bytes(),
                    version: revocation.version,
                });
            }
            Body::Appointment(appointment) => {
                payload.issued_unix_s = appointment.issued_unix_s;
                payload.appointment = Some(WireAppointment {
                    admin: appointment.admin.to_bytes(),
                    term: appointment.term,
                    standing: appointment.standing,
                });
            }
            Body::Epoch(notice) => {
                payload.issued_unix_s = notice.issued_unix_s;
                payload.epoch = Some(WireEpoch {
                    epoch: notice.epoch.0,
                    key: notice.key.0.to_vec(),
                });
            }
            Body::Policy(policy) => {
                payload.issued_unix_s = policy.issued_unix_s;
                payload.policy = Some(policy.into());
            }
        }
        payload
    }

    pub(super) fn into_parts(self) -> Result<(Issuer, Body), StatementError> {
        let issued_unix_s = self.issued_unix_s;
        let issuer = match (&*self.admin, self.term) {
            ([], 0) => Issuer::Authority,
            ([], _) => return Err(malformed("the authority has no terms")),
            (peer, term) => Issuer::Admin {
                peer: peer_id(peer)?,
                term,
            },
        };
        let body = match (
            self.certificate,
            self.revocation,
            self.appointment,
            self.epoch,
            self.policy,
        ) {
            (Some(c), None, None, None, None) => {
                Body::Certificate(c.into_certificate(issued_unix_s)?)
            }
            (None, Some(r), None, None, None) => Body::Revocation(Revocation {
                peer: peer_id(&r.peer)?,
                version: r.version,
                issued_unix_s,
            }),
            (None, None, Some(a), None, None) => Body::Appointment(Appointment {
                admin: peer_id(&a.admin)?,
                term: a.term,
                standing: a.standing,
                issued_unix_s,
            }),
            (None, None, None, Some(e), None) => Body::Epoch(EpochNotice {
                epoch: Epoch(e.epoch),
                key: KeyId(
                    e.key
                        .try_into()
                        .map_err(|_| malformed("a key id has 32 bytes"))?,
                ),
                issued_unix_s,
            }),
            (None, None, None, None, Some(p)) => Body::Policy(p.into_policy(issued_unix_s)?),
            _ => return Err(malformed("a statement says one thing")),
        };
        Ok((issuer, body))
    }
}

impl From<&Certificate> for WireCertificate {
    fn from(certificate: &Certificate) -> Self {
        let octets = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        Self {
            peer: certificate.peer.to_bytes(),
            version: certificate.version,
            name: certificate.name.to_string(),
            role: u32::from(certificate.role == Role::Owner),
            overlay: certificate.overlay.iter().map(octets).collect(),
            no_relaying: certificate.opt_outs.no_relaying,
            no_signalling: certificate.opt_outs.no_signalling,
            stealth: certificate.opt_outs.stealth,
            expires_unix_s: certificate.expires_unix_s,
        }
    }
}

impl WireCertificate {
    fn into_certificate(self, issued_unix_s: u64) -> Result<Certificate, StatementError> {
        let count = self.overlay.len();
        if count > super::MAX_OVERLAY_ADDRESSES {
            return Err(StatementError::TooManyAddresses { count });
        }
        Ok(Certificate {
            peer: peer_id(&self.peer)?,
            version: self.version,
            name: MemberName::new(self.name).map_err(|e| malformed(&e.to_string()))?,
            role: match self.role {
                0 => Role::Member,
                1 => Role::Owner,
                _ => return Err(malformed("its role is unknown")),
            },
            overlay: self
                .overlay
                .iter()
                .map(|octets| address(octets))
                .collect::<Result<_, _>>()?,
            opt_outs: OptOuts {
                no_relaying: self.no_relaying,
                no_signalling: self.no_signalling,
                stealth: self.stealth,
            },
            issued_unix_s,
            expires_unix_s: self.expires_unix_s,
        })
    }
}

fn address(octets: &[u8]) -> Result<IpAddr, StatementError> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Ok(Ipv4Addr::from(v4).into());
    }
    let v6 = <[u8; 16]>::try_from(octets);
    v6.map(|v6| Ipv6Addr::from(v6).into())
        .map_err(|_| malformed("an overlay address has 4 or 16 bytes"))
}

fn peer_id(bytes: &[u8]) -> Result<PeerId, StatementError> {
    PeerId::from_bytes(bytes).map_err(|_| malformed("a peer id in it is invalid"))
}
