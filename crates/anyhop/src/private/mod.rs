//! Private networks before a node runs in them: founded, joined, stored, backed up.
//!
//! A [`PrivateNetwork`] is what a node knows of its network when it starts
//! ([`Config::private`](crate::Config::private)). A running node's is a
//! [`NetworkHandle`](crate::NetworkHandle). Each network has a folder of its own in the state directory,
//! `networks/<id>/`, with one file that is replaced whole.

mod error;
mod info;
mod store;

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhop_base::{Keypair, NetworkId, NetworkName, PeerAddr, PeerId};
use anyhop_proto::network::{
    Charter, Gossip, backup,
    greeting::GreetingBook,
    invitation::Invitation,
    state::NetworkState,
    statement::{Certificate, Issuer, MemberName, OptOuts, Role, Signer, Statement},
    swarm::{KeyRing, SWARM_KEY_LEN, SwarmKey},
};

pub use error::{JoinError, NetworkError, StoreError};
pub use info::{Invited, MemberInfo, NetworkInfo, NetworkKind, RequestInfo};
pub(crate) use store::Store;

use crate::engine::random_seed;

/// Lifetime of a certificate unless something else is asked for, seconds: a year.
pub const CERTIFICATE_LIFETIME_S: u64 = 365 * 24 * 3600;
/// Name of the folder with networks in a state directory.
const FOLDER: &str = "networks";

/// A private network as a node starts with it.
#[derive(Debug, Clone)]
pub struct PrivateNetwork {
    pub(crate) state: NetworkState,
    pub(crate) store: Option<Store>,
}

impl PrivateNetwork {
    /// Founds a network, with the node of this key as its owner.
    ///
    /// # Errors
    /// When the key refuses to sign.
    pub fn create(
        network: NetworkName,
        node: &Keypair,
        name: &MemberName,
        opt_outs: OptOuts,
    ) -> Result<Self, NetworkError> {
        Self::create_with(network, node, name, opt_outs, random_seed())
    }

    /// Founds a network whose first swarm key exists already, such as one that libp2p nodes
    /// use ([`SwarmKey::from_text`] reads their `swarm.key`); its epoch is not kept.
    ///
    /// # Errors
    /// When the key refuses to sign.
    pub fn create_under(
        network: NetworkName,
        node: &Keypair,
        name: &MemberName,
        opt_outs: OptOuts,
        swarm_key: &SwarmKey,
    ) -> Result<Self, NetworkError> {
        Self::create_with(network, node, name, opt_outs, *swarm_key.secret())
    }

    fn create_with(
        network: NetworkName,
        node: &Keypair,
        name: &MemberName,
        opt_outs: OptOuts,
        swarm_key: [u8; SWARM_KEY_LEN],
    ) -> Result<Self, NetworkError> {
        let authority = Keypair::generate_ed25519();
        let charter = Charter::new(network, authority.public().to_peer_id())
            .map_err(|e| NetworkError::Unusable(e.to_string()))?;
        let mut state = NetworkState::new(charter);
        state.authority = Some(authority);
        state.opt_outs = opt_outs;
        Self::certify_owner(&mut state, node, name)?;
        let signer = signer(&state, node)?;
        let me = node.public().to_peer_id();
        let mut gossip = Gossip::new(me, state.membership.clone(), []);
        gossip.rotate(unix_now_s(), &signer, swarm_key)?;
        state.keys = gossip.keys().cloned().collect();
        state.membership = gossip.membership().clone();
        Ok(Self { state, store: None })
    }

    /// Redeems an invitation: the node that starts with this becomes a member, or learns
    /// why not.
    ///
    /// # Errors
    /// When the text is no invitation, forged, or its time is over.
    pub fn join(
        invitation: &str,
        name: Option<MemberName>,
        opt_outs: OptOuts,
    ) -> Result<Self, NetworkError> {
        let invitation = Invitation::parse(invitation)?;
        invitation.check_time(unix_now_s())?;
        let mut state = NetworkState::new(invitation.charter.clone());
        state.contacts = contacts_of(&invitation);
        state.joining = Some(invitation);
        state.name = name;
        state.opt_outs = opt_outs;
        Ok(Self { state, store: None })
    }

    /// Restores a network from a backup of its owner, with the node of this key as the
    /// owner. It has the members and keys of the time of the backup, and catches up.
    ///
    /// # Errors
    /// When the backup does not open, or is of somebody who was not the owner.
    pub fn import(
        backup: &str,
        passphrase: &str,
        node: &Keypair,
        name: &MemberName,
    ) -> Result<Self, NetworkError> {
        let plain = backup::open(backup, passphrase)?;
        let mut state = NetworkState::decode(&plain)
            .map_err(|e| NetworkError::Unusable(format!("the backup is unusable: {e}")))?;
        if state.authority.is_none() {
            return Err(NetworkError::NotTheOwner);
        }
        let me = node.public().to_peer_id();
        if state.membership.role(me) != Some(Role::Owner) {
            Self::certify_owner(&mut state, node, name)?;
        }
        Ok(Self { state, store: None })
    }

    /// Keeps the network in a state directory from now on.
    ///
    /// # Errors
    /// When it is there already, or the directory cannot be written.
    pub fn stored_in(mut self, state_dir: &Path) -> Result<Self, StoreError> {
        let store = Store::new(Self::folder(state_dir, self.id()));
        store.create(&self.state)?;
        self.store = Some(store);
        Ok(self)
    }

    /// The network in a folder.
    ///
    /// # Errors
    /// When it cannot be read or is damaged; the file is left as it is.
    pub fn load(folder: &Path) -> Result<Self, StoreError> {
        let store = Store::new(folder.to_owned());
        Ok(Self {
            state: store.load()?,
            store: Some(store),
        })
    }

    /// All networks in a state directory, each with its folder.
    ///
    /// # Errors
    /// When the directory cannot be read. One network that is damaged does not keep the
    /// others from being loaded.
    #[expect(
        clippy::type_complexity,
        reason = "a list of results, each with its place"
    )]
    pub fn list(state_dir: &Path) -> Result<Vec<(PathBuf, Result<Self, StoreError>)>, StoreError> {
        let folders = store::folders(&state_dir.join(FOLDER))?;
        let load = |folder: PathBuf| {
            let loaded = Self::load(&folder);
            (folder, loaded)
        };
        Ok(folders.into_iter().map(load).collect())
    }

    /// Where a network is kept in a state directory.
    #[must_use]
    pub fn folder(state_dir: &Path, id: NetworkId) -> PathBuf {
        state_dir.join(FOLDER).join(id.to_string())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &NetworkName {
        self.state.charter.name()
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> NetworkId {
        self.state.charter.id()
    }

    /// Whether the invitation to it has yet to be redeemed.
    #[must_use]
    pub fn is_joining(&self) -> bool {
        self.state.joining.is_some()
    }

    /// The keys that a node answers to at its start.
    pub(crate) fn ring(&self, me: PeerId) -> KeyRing {
        let state = &self.state;
        if let Some(joining) = &state.joining {
            return KeyRing::new(joining.keys().entry);
        }
        let gossip = Gossip::new(me, state.membership.clone(), state.keys.iter().cloned());
        ring_of(&gossip, &state.invitations, &GreetingBook::default())
    }

    fn certify_owner(
        state: &mut NetworkState,
        node: &Keypair,
        name: &MemberName,
    ) -> Result<(), NetworkError> {
        let now_unix_s = unix_now_s();
        let peer = node.public().to_peer_id();
        let certificate = Certificate {
            peer,
            version: 0,
            name: state.membership.free_name(name, peer),
            role: Role::Owner,
            overlay: Vec::new(),
            opt_outs: state.opt_outs,
            issued_unix_s: now_unix_s,
            expires_unix_s: now_unix_s + OWNER_LIFETIME_S,
        };
        let body = state.membership.certify(certificate, Issuer::Authority)?;
        let statement = Statement::sign(body, &signer(state, node)?, &state.charter)?;
        state.membership.merge(statement);
        Ok(())
    }
}

/// Lifetime of the owner's own certificate, seconds: nobody else could renew it.
const OWNER_LIFETIME_S: u64 = 100 * 365 * 24 * 3600;

/// As whom a node signs.
pub(crate) fn signer(state: &NetworkState, node: &Keypair) -> Result<Signer, NetworkError> {
    signer_of(state.authority.as_ref(), &state.membership, node)
}

/// The same from its parts.
pub(crate) fn signer_of(
    authority: Option<&Keypair>,
    membership: &anyhop_proto::network::Membership,
    node: &Keypair,
) -> Result<Signer, NetworkError> {
    if let Some(authority) = authority {
        return Ok(Signer::Authority(authority.clone()));
    }
    let appointment = membership.appointment(node.public().to_peer_id());
    Ok(Signer::Admin {
        keypair: node.clone(),
        appointment: appointment.ok_or(NetworkError::NotAnAdmin)?.clone(),
    })
}

/// The keys that a member answers to: its swarm keys, those of invitations it gave, and those
/// of invitations that it greets for.
pub(crate) fn ring_of(
    gossip: &Gossip,
    invitations: &anyhop_proto::network::book::InvitationBook,
    greetings: &GreetingBook,
) -> KeyRing {
    let entry = invitations.keys().map(|k| k.entry);
    let entry = entry.chain(greetings.keys().cloned());
    let Some(current) = gossip.key().cloned() else {
        // A member without any key reaches nobody, and nobody reaches it.
        return KeyRing::new(anyhop_proto::network::swarm::SwarmKey::new(
            anyhop_proto::network::swarm::Epoch(0),
            random_seed(),
        ));
    };
    let mut ring = KeyRing::new(current);
    for over in gossip.keys().cloned() {
        ring.let_in(over);
    }
    for guest in entry {
        // As many of its own are remembered as a ring takes; who holds one of another's
        // finds another greeter.
        ring.invite(guest);
    }
    ring
}

/// Where an invitation says that its inviter is.
fn contacts_of(invitation: &Invitation) -> Vec<PeerAddr> {
    let doors = invitation.doors();
    doors
        .filter_map(|(peer, endpoint)| PeerAddr::at(peer, endpoint).ok())
        .collect()
}

/// Seconds since the Unix epoch, by the system's clock.
fn unix_now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
