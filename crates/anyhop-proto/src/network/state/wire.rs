//! The protobuf form of a network's state. Field numbers are for ever.

use std::collections::{BTreeMap, BTreeSet};

use anyhop_base::{Keypair, Multiaddr, NetworkName, PeerAddr, PeerId};

use super::{MAX_CONTACTS, NetworkState, StateError, malformed, merge};
use crate::network::{
    Charter,
    book::{Given, InvitationBook, Request},
    invitation::Invitation,
    statement::{MemberName, OptOuts},
    swarm::{Epoch, SwarmKey},
};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct State {
    #[prost(string, tag = "1")]
    network: String,
    #[prost(bytes = "vec", tag = "2")]
    authority: Vec<u8>,
    /// The key pair as libp2p encodes it; empty but for the owner.
    #[prost(bytes = "vec", tag = "3")]
    authority_key: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    statements: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "5")]
    keys: Vec<Key>,
    #[prost(message, repeated, tag = "6")]
    given: Vec<WireGiven>,
    #[prost(message, repeated, tag = "7")]
    requests: Vec<WireRequest>,
    /// Multiaddrs with their peers.
    #[prost(string, repeated, tag = "8")]
    contacts: Vec<String>,
    #[prost(message, optional, tag = "9")]
    joining: Option<Joining>,
    #[prost(string, tag = "10")]
    name: String,
    #[prost(message, optional, tag = "11")]
    opt_outs: Option<WireOptOuts>,
    /// 0 for never.
    #[prost(uint64, tag = "12")]
    rotate_every_s: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Key {
    #[prost(uint32, tag = "1")]
    epoch: u32,
    #[prost(bytes = "vec", tag = "2")]
    secret: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireGiven {
    #[prost(bytes = "vec", tag = "1")]
    secret: Vec<u8>,
    #[prost(uint64, tag = "2")]
    expires_unix_s: u64,
    #[prost(uint32, tag = "3")]
    uses_left: u32,
    #[prost(bool, tag = "4")]
    approve: bool,
    #[prost(bytes = "vec", repeated, tag = "5")]
    redeemed: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRequest {
    #[prost(bytes = "vec", tag = "1")]
    peer: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    invitation: Vec<u8>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(message, optional, tag = "4")]
    opt_outs: Option<WireOptOuts>,
    #[prost(uint64, tag = "5")]
    since_unix_s: u64,
    /// 0 none, 1 yes, 2 no.
    #[prost(uint32, tag = "6")]
    decision: u32,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct WireOptOuts {
    #[prost(bool, tag = "1")]
    no_relaying: bool,
    #[prost(bool, tag = "2")]
    no_signalling: bool,
    #[prost(bool, tag = "3")]
    stealth: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Joining {
    #[prost(bytes = "vec", tag = "1")]
    inviter: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    addresses: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "3")]
    secret: Vec<u8>,
    #[prost(uint64, tag = "4")]
    expires_unix_s: u64,
    #[prost(bool, tag = "5")]
    approve: bool,
}

impl TryFrom<&NetworkState> for State {
    type Error = StateError;

    fn try_from(state: &NetworkState) -> Result<Self, StateError> {
        let authority_key = state.authority.as_ref().map(Keypair::to_protobuf_encoding);
        let authority_key = authority_key.transpose();
        let requests = state.invitations.all_requests().iter();
        Ok(Self {
            network: state.charter.name().to_string(),
            authority: state.charter.authority().to_bytes(),
            authority_key: authority_key
                .map_err(|e| malformed(&e.to_string()))?
                .unwrap_or_default(),
            statements: state.membership.statements().map(|s| s.encode()).collect(),
            keys: state.keys.iter().map(Key::from).collect(),
            given: state.invitations.given().map(WireGiven::from).collect(),
            requests: requests.map(WireRequest::from).collect(),
            contacts: state.contacts.iter().map(ToString::to_string).collect(),
            joining: state.joining.as_ref().map(Joining::from),
            name: text(state.name.as_ref()),
            opt_outs: Some(state.opt_outs.into()),
            rotate_every_s: state.rotate_every_s.unwrap_or_default(),
        })
    }
}

impl State {
    pub(super) fn into_state(self) -> Result<NetworkState, StateError> {
        let name = NetworkName::new(self.network).map_err(|e| malformed(&e.to_string()))?;
        let charter = Charter::new(name, peer_id(&self.authority)?);
        let charter = charter.map_err(|e| malformed(&e.to_string()))?;
        let mut state = NetworkState::new(charter);
        if !self.authority_key.is_empty() {
            let key = Keypair::from_protobuf_encoding(&self.authority_key);
            let key = key.map_err(|e| malformed(&e.to_string()))?;
            if key.public() != *state.charter.key() {
                return Err(malformed("the key in it is not the authority's"));
            }
            state.authority = Some(key);
        }
        merge(&mut state.membership, &self.statements)?;
        state.keys = self
            .keys
            .into_iter()
            .map(|k| Ok(SwarmKey::new(Epoch(k.epoch), array(&k.secret)?)))
            .collect::<Result<_, StateError>>()?;
        let given = self.given.into_iter().map(WireGiven::into_given);
        let requests = self.requests.into_iter().map(WireRequest::into_request);
        state.invitations = InvitationBook::restore(
            given.collect::<Result<_, _>>()?,
            requests.collect::<Result<BTreeMap<_, _>, _>>()?,
        );
        // Addresses of carriers that this version cannot dial are left out.
        let contacts = self.contacts.iter().filter_map(|c| c.parse().ok());
        state.contacts = contacts.take(MAX_CONTACTS).collect::<Vec<PeerAddr>>();
        state.joining = self
            .joining
            .map(|j| j.into_invitation(&state.charter))
            .transpose()?;
        state.name = member_name(&self.name)?;
        state.opt_outs = self.opt_outs.unwrap_or_default().into();
        state.rotate_every_s = (self.rotate_every_s > 0).then_some(self.rotate_every_s);
        Ok(state)
    }
}

impl From<&SwarmKey> for Key {
    fn from(key: &SwarmKey) -> Self {
        Self {
            epoch: key.epoch().0,
            secret: key.secret().to_vec(),
        }
    }
}

impl From<&Given> for WireGiven {
    fn from(given: &Given) -> Self {
        Self {
            secret: given.secret.to_vec(),
            expires_unix_s: given.expires_unix_s,
            uses_left: given.uses_left,
            approve: given.approve,
            redeemed: given.redeemed.iter().map(|p| p.to_bytes()).collect(),
        }
    }
}

impl WireGiven {
    fn into_given(self) -> Result<Given, StateError> {
        let redeemed = self.redeemed.iter().map(|p| peer_id(p));
        Ok(Given {
            secret: array(&self.secret)?,
            expires_unix_s: self.expires_unix_s,
            uses_left: self.uses_left,
            approve: self.approve,
            redeemed: redeemed.collect::<Result<BTreeSet<_>, _>>()?,
        })
    }
}

impl From<(&PeerId, &Request)> for WireRequest {
    fn from((peer, request): (&PeerId, &Request)) -> Self {
        Self {
            peer: peer.to_bytes(),
            invitation: request.invitation.to_vec(),
            name: text(request.name.as_ref()),
            opt_outs: Some(request.opt_outs.into()),
            since_unix_s: request.since_unix_s,
            decision: match request.decision {
                None => 0,
                Some(true) => 1,
                Some(false) => 2,
            },
        }
    }
}

impl WireRequest {
    fn into_request(self) -> Result<(PeerId, Request), StateError> {
        let request = Request {
            invitation: array(&self.invitation)?,
            name: member_name(&self.name)?,
            opt_outs: self.opt_outs.unwrap_or_default().into(),
            since_unix_s: self.since_unix_s,
            decision: match self.decision {
                0 => None,
                1 => Some(true),
                2 => Some(false),
                _ => return Err(malformed("an unknown decision")),
            },
        };
        Ok((peer_id(&self.peer)?, request))
    }
}

impl From<OptOuts> for WireOptOuts {
    fn from(opt_outs: OptOuts) -> Self {
        Self {
            no_relaying: opt_outs.no_relaying,
            no_signalling: opt_outs.no_signalling,
            stealth: opt_outs.stealth,
        }
    }
}

impl From<WireOptOuts> for OptOuts {
    fn from(wire: WireOptOuts) -> Self {
        Self {
            no_relaying: wire.no_relaying,
            no_signalling: wire.no_signalling,
            stealth: wire.stealth,
        }
    }
}

impl From<&Invitation> for Joining {
    fn from(invitation: &Invitation) -> Self {
        Self {
            inviter: invitation.inviter.to_bytes(),
            addresses: invitation.addresses.iter().map(Multiaddr::to_vec).collect(),
            secret: invitation.secret.to_vec(),
            expires_unix_s: invitation.expires_unix_s,
            approve: invitation.approve,
        }
    }
}

impl Joining {
    fn into_invitation(self, charter: &Charter) -> Result<Invitation, StateError> {
        let addresses = self.addresses.into_iter();
        let addresses = addresses.filter_map(|a| Multiaddr::try_from(a).ok());
        Ok(Invitation {
            charter: charter.clone(),
            inviter: peer_id(&self.inviter)?,
            addresses: addresses.collect(),
            secret: array(&self.secret)?,
            expires_unix_s: self.expires_unix_s,
            approve: self.approve,
        })
    }
}

fn text(name: Option<&MemberName>) -> String {
    name.map(ToString::to_string).unwrap_or_default()
}

fn member_name(text: &str) -> Result<Option<MemberName>, StateError> {
    match text {
        "" => Ok(None),
        name => MemberName::new(name)
            .map(Some)
            .map_err(|e| malformed(&e.to_string())),
    }
}

fn peer_id(bytes: &[u8]) -> Result<PeerId, StateError> {
    PeerId::from_bytes(bytes).map_err(|_| malformed("a peer id in it is invalid"))
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], StateError> {
    bytes
        .try_into()
        .map_err(|_| malformed("a secret or an id in it has another length"))
}
