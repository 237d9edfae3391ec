//! What applications do with a private network.

use std::{sync::Arc, time::Duration};

use anyhop_base::{Multiaddr, NetworkId, NetworkName, PeerId};
use anyhop_proto::network::{
    backup,
    invitation::{Invitation, MAX_INVITATION_ADDRESSES},
    membership::{Member, MembershipError, PolicyChange},
    state::NetworkState,
    statement::{Certificate, Issuer, MemberName, Policy, Role},
    swarm::SwarmKey,
};
use anyhop_vpn::firewall::{Caller, RuleSet};
use tokio::task::spawn_blocking;

use super::{Inner, Joining, Private, State};
use crate::{
    Invited, JoinError, MemberInfo, NetworkError, NetworkInfo, NetworkKind, OptOuts, RequestInfo,
    engine::random_seed, node::Node, private::CERTIFICATE_LIFETIME_S,
};

/// What an invitation is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InviteOptions {
    /// How often it can be redeemed.
    pub uses: u32,
    /// How long.
    pub lifetime: Duration,
    /// Whether a person must approve of each who redeems it.
    pub approve: bool,
}

impl Default for InviteOptions {
    fn default() -> Self {
        Self {
            uses: 1,
            lifetime: Duration::from_secs(24 * 3600),
            approve: false,
        }
    }
}

/// The private network of a running node. Clones are handles to the same.
///
/// What a method has done is on the disk when it returns, and members hear of it as they
/// are connected. Only the owner and admins administer; each method says who may.
#[derive(Debug, Clone)]
pub struct NetworkHandle(pub(crate) Arc<Inner>);

impl NetworkHandle {
    pub(super) fn private(&self) -> &Private {
        let private = self.0.private.as_ref();
        private.expect("a handle is made for nodes of private networks only")
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> NetworkName {
        self.private().charter.name().clone()
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> NetworkId {
        self.private().charter.id()
    }

    /// The current swarm key, if this node has one yet. [`SwarmKey::to_text`] writes it as
    /// libp2p's `swarm.key`. Whoever has it can speak to members, and be admitted by none.
    #[must_use]
    pub fn swarm_key(&self) -> Option<SwarmKey> {
        self.private().state().gossip.key().cloned()
    }

    /// A snapshot of the network as this node sees it.
    #[must_use]
    pub fn info(&self) -> NetworkInfo {
        let private = self.private();
        let state = private.state();
        let role = match state.gossip.membership().role(self.0.me) {
            Some(role) => role.as_str(),
            None if state.joining.is_some() => "joining",
            None => "none",
        };
        let epoch = state.gossip.key().map_or(0, |k| k.epoch().0);
        drop(state);
        let addresses = Node(Arc::clone(&self.0)).addresses();
        NetworkInfo {
            network: private.charter.name().to_string(),
            id: private.charter.id().to_string(),
            kind: NetworkKind::Private,
            epoch,
            role: role.to_owned(),
            addresses: addresses.iter().map(ToString::to_string).collect(),
        }
    }

    /// Everybody with a certificate, this node included. Members that want not to be listed
    /// are shown to who administers the network, and to themselves.
    #[must_use]
    pub fn members(&self) -> Vec<MemberInfo> {
        let (members, administers) = {
            let state = self.private().state();
            let membership = state.gossip.membership();
            let role = membership.role(self.0.me);
            (
                membership.members(),
                matches!(role, Some(Role::Owner | Role::Admin)),
            )
        };
        let listed = |m: &Member| !m.opt_outs.stealth || administers || m.peer == self.0.me;
        let info = |m: Member| MemberInfo {
            online: m.peer == self.0.me || self.0.current(m.peer).is_some(),
            peer_id: m.peer.to_string(),
            name: m.name,
            role: m.role.as_str().to_owned(),
            expires: m.expires_unix_s,
            overlay: m.overlay.iter().map(ToString::to_string).collect(),
            no_relaying: m.opt_outs.no_relaying,
            no_signalling: m.opt_outs.no_signalling,
            stealth: m.opt_outs.stealth,
        };
        members.into_iter().filter(listed).map(info).collect()
    }

    /// The member of a name, as [`members`](Self::members) tells it.
    #[must_use]
    pub fn member_named(&self, name: &str) -> Option<PeerId> {
        let state = self.private().state();
        let members = state.gossip.membership().members();
        let member = members.into_iter().find(|m| m.name == name);
        member.map(|m| m.peer)
    }

    /// Waits until this node is a member; at once for one that is.
    ///
    /// # Errors
    /// Why it will be none. Then the node is of no use but to be closed.
    pub async fn joined(&self) -> Result<(), JoinError> {
        let mut joining = self.private().joining.subscribe();
        let stopped = self.0.stop.cancelled();
        tokio::select! {
            // What was decided is told even by a node that was closed since.
            biased;
            end = joining.wait_for(|j| matches!(j, Joining::Joined | Joining::Failed(_))) => {
                match end.map(|j| j.clone()) {
                    Ok(Joining::Joined) => Ok(()),
                    Ok(Joining::Failed(e)) => Err(e),
                    Ok(_) | Err(_) => Err(JoinError::Closed),
                }
            }
            () = stopped => Err(JoinError::Closed),
        }
    }

    /// Whether the invitation has yet to be redeemed.
    #[must_use]
    pub fn is_joining(&self) -> bool {
        self.private().is_joining()
    }

    /// Whether a person has yet to approve of this node.
    #[must_use]
    pub fn awaits_approval(&self) -> bool {
        matches!(*self.private().joining.borrow(), Joining::Waiting)
    }

    /// Waits until a person has to approve of this node; for one that needs nobody's
    /// approval, for ever.
    pub async fn asked_for_approval(&self) {
        let mut joining = self.private().joining.subscribe();
        let waiting = |j: &Joining| matches!(j, Joining::Waiting);
        let over = joining.wait_for(waiting).await.is_err();
        if over {
            std::future::pending().await
        }
    }

    /// Makes an invitation, redeemed by this node. For the owner and admins.
    ///
    /// # Errors
    /// When this node may not, or a limit is passed.
    pub async fn invite(&self, options: InviteOptions) -> Result<Invited, NetworkError> {
        let private = self.private();
        let addresses = self.doors();
        let invited = {
            let mut state = private.state();
            let signer = self.0.signer(&state)?;
            let secret = random_seed();
            let given = state.invitations.give(
                self.0.now_unix_s(),
                secret,
                options.lifetime.as_secs(),
                options.uses,
                options.approve,
            )?;
            let invitation = Invitation {
                charter: private.charter.clone(),
                inviter: self.0.me,
                addresses,
                secret,
                expires_unix_s: given.expires_unix_s,
                approve: options.approve,
            };
            Invited {
                invite: invitation.sign(&signer)?,
                expires: invitation.expires_unix_s,
                uses: options.uses,
            }
        };
        let use_keys = |node: &Arc<Inner>, private: &Private| {
            node.use_keys(private);
            node.tell_greeters(private);
        };
        self.0.store(use_keys).await?;
        Ok(invited)
    }

    /// Where an invitation leads to: this node's addresses, and those of its greeters.
    fn doors(&self) -> Vec<Multiaddr> {
        let mut own = Node(Arc::clone(&self.0)).reachable_addresses();
        let greeters = self.0.greeters(self.private());
        own.truncate(MAX_INVITATION_ADDRESSES - greeters.len());
        own.extend(greeters);
        own
    }

    /// Those who wait for approval by this node.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestInfo> {
        let state = self.private().state();
        let requests = state.invitations.requests();
        requests
            .map(|(peer, request)| RequestInfo {
                peer_id: peer.to_string(),
                name: request
                    .name
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                since: request.since_unix_s,
            })
            .collect()
    }

    /// Admits who waits.
    ///
    /// # Errors
    /// When nobody of that id does.
    pub async fn approve(&self, peer: PeerId) -> Result<(), NetworkError> {
        self.decide(peer, true).await
    }

    /// Sends away who waits.
    ///
    /// # Errors
    /// As [`approve`](Self::approve).
    pub async fn deny(&self, peer: PeerId) -> Result<(), NetworkError> {
        self.decide(peer, false).await
    }

    async fn decide(&self, peer: PeerId, approved: bool) -> Result<(), NetworkError> {
        let private = self.private();
        if !private.state().invitations.decide(peer, approved) {
            return Err(NetworkError::NoRequest(peer));
        }
        let decided = |_: &Arc<Inner>, private: &Private| {
            private.decided.send_modify(|n| *n += 1);
        };
        Ok(self.0.store(decided).await?)
    }

    /// Gives a member another name. For the owner and admins.
    ///
    /// # Errors
    /// When this node may not, or the name is taken.
    pub async fn rename(&self, peer: PeerId, name: MemberName) -> Result<(), NetworkError> {
        self.recertify(peer, |certificate| certificate.name = name)
            .await
    }

    /// Lets a member's certificate end that long from now; a year for `None`. For the owner
    /// and admins.
    ///
    /// # Errors
    /// When this node may not, or the peer is no member.
    pub async fn renew(
        &self,
        peer: PeerId,
        lifetime: Option<Duration>,
    ) -> Result<(), NetworkError> {
        let lifetime_s = lifetime.map_or(CERTIFICATE_LIFETIME_S, |l| l.as_secs());
        let expires_unix_s = self.0.now_unix_s().saturating_add(lifetime_s);
        self.recertify(peer, |certificate| {
            certificate.expires_unix_s = expires_unix_s;
        })
        .await
    }

    /// What this node does not do: by its own will, or by its certificate.
    #[must_use]
    pub fn opt_outs(&self) -> OptOuts {
        self.private().opt_outs(self.0.me)
    }

    /// Changes what a member does not do. The owner and admins decide for everybody, in
    /// certificates; a member for itself, as far as that does less than its certificate
    /// says: for more, and to be listed or not, it needs one of them.
    ///
    /// # Errors
    /// When this node may not, or the peer is no member.
    pub async fn set_opt_outs(&self, peer: PeerId, opt_outs: OptOuts) -> Result<(), NetworkError> {
        let private = self.private();
        let signs = self.0.signer(&private.state()).is_ok();
        if peer == self.0.me {
            {
                let mut state = private.state();
                let certified = state.gossip.membership().certificate(peer);
                let certified = certified.and_then(|s| s.certificate());
                let certified = certified.ok_or(NetworkError::NotJoined)?.opt_outs;
                let more = (certified.no_relaying && !opt_outs.no_relaying)
                    || (certified.no_signalling && !opt_outs.no_signalling)
                    || certified.stealth != opt_outs.stealth;
                if more && !signs {
                    return Err(NetworkError::NotAnAdmin);
                }
                state.opt_outs = opt_outs;
            }
            let use_them = |node: &Arc<Inner>, private: &Private| node.use_opt_outs(private);
            self.0.store(use_them).await?;
            if !signs {
                return Ok(());
            }
        }
        self.recertify(peer, |certificate| certificate.opt_outs = opt_outs)
            .await
    }

    async fn recertify(
        &self,
        peer: PeerId,
        change: impl FnOnce(&mut Certificate),
    ) -> Result<(), NetworkError> {
        let certify = |state: &State, issuer| {
            let membership = state.gossip.membership();
            let certificate = membership.certificate(peer).and_then(|s| s.certificate());
            let certificate = certificate.ok_or(MembershipError::NotAMember(peer))?;
            let mut certificate = certificate.clone();
            change(&mut certificate);
            Ok(vec![membership.certify(certificate, issuer)?])
        };
        self.0.say(self.private(), certify).await
    }

    /// Appoints a member as an admin. For the owner.
    ///
    /// # Errors
    /// When this node is not the owner, or the peer cannot be one.
    pub async fn add_admin(&self, peer: PeerId) -> Result<(), NetworkError> {
        let now_unix_s = self.0.now_unix_s();
        let appoint = |state: &State, issuer| {
            owner_only(issuer)?;
            let membership = state.gossip.membership();
            Ok(vec![membership.appoint_admin(peer, now_unix_s)?])
        };
        self.0.say(self.private(), appoint).await
    }

    /// Ends an admin's term; it stays a member. Nothing it has signed holds any longer, but
    /// for what this node knows and signs anew. For the owner.
    ///
    /// # Errors
    /// When this node is not the owner, or the peer is no admin.
    pub async fn remove_admin(&self, peer: PeerId) -> Result<(), NetworkError> {
        let now_unix_s = self.0.now_unix_s();
        let remove = |state: &State, issuer| {
            owner_only(issuer)?;
            Ok(state.gossip.membership().removal(peer, now_unix_s)?)
        };
        self.0.say(self.private(), remove).await
    }

    /// Ends a membership and starts a new epoch, so that the former member's key opens
    /// nothing. Its sessions end wherever this is heard of. For the owner and admins; only
    /// the owner revokes admins, whose term ends too.
    ///
    /// # Errors
    /// When this node may not, or the peer is no member.
    pub async fn revoke(&self, peer: PeerId) -> Result<(), NetworkError> {
        let now_unix_s = self.0.now_unix_s();
        let revoke = |state: &State, issuer| {
            let membership = state.gossip.membership();
            let revocation = membership.revocation(peer, issuer, now_unix_s)?;
            let mut bodies = match membership.role(peer) {
                Some(Role::Admin) => membership.removal(peer, now_unix_s)?,
                _ => Vec::new(),
            };
            bodies.push(revocation);
            Ok(bodies)
        };
        self.0.say(self.private(), revoke).await?;
        self.rotate().await.map(|_| ())
    }

    /// The firewall rules that hold on the hosts of all members; `None` before the first.
    #[must_use]
    pub fn policy(&self) -> Option<Policy> {
        self.private().state().gossip.membership().policy().cloned()
    }

    /// The same as a host's firewall takes them.
    #[must_use]
    pub fn rules(&self) -> RuleSet {
        let policy = self.policy().unwrap_or_default();
        RuleSet {
            default: policy.default,
            rules: policy.rules.into_iter().map(|r| (r.id, r.rule)).collect(),
        }
    }

    /// A member as a firewall knows it; `None` for who is none.
    #[must_use]
    pub fn caller(&self, peer: PeerId) -> Option<Caller> {
        let state = self.private().state();
        let members = state.gossip.membership().members();
        let member = members.into_iter().find(|m| m.peer == peer)?;
        Some(Caller {
            peer,
            name: member.name,
            role: Some(member.role),
        })
    }

    /// Changes the firewall rules that hold everywhere. For the owner and admins.
    ///
    /// # Errors
    /// When this node may not, there is no such rule, or no room for another one.
    pub async fn change_policy(&self, change: PolicyChange) -> Result<(), NetworkError> {
        let now_unix_s = self.0.now_unix_s();
        let make = |state: &State, _| {
            let membership = state.gossip.membership();
            Ok(vec![membership.change_policy(change, now_unix_s)?])
        };
        self.0.say(self.private(), make).await
    }

    /// Starts a new epoch with a new swarm key; returns its number. Members that are
    /// connected have it at once, others when they return. For the owner and admins.
    ///
    /// # Errors
    /// When this node may not.
    pub async fn rotate(&self) -> Result<u32, NetworkError> {
        self.0.rotate(self.private()).await
    }

    /// Has this node start a new epoch that often; never for `None`.
    ///
    /// # Errors
    /// When this node may not, or the setting cannot be stored.
    pub async fn rotate_every(&self, every: Option<Duration>) -> Result<(), NetworkError> {
        let private = self.private();
        {
            let mut state = private.state();
            self.0.signer(&state)?;
            state.rotate_every_s = every.map(|e| e.as_secs().max(MIN_ROTATION_S));
        }
        Ok(self.0.store(|_, _| {}).await?)
    }

    /// How often this node starts a new epoch.
    #[must_use]
    pub fn rotates_every(&self) -> Option<Duration> {
        let every = self.private().state().rotate_every_s;
        every.map(Duration::from_secs)
    }

    /// A backup of the network with its authority, sealed with a passphrase. For the owner.
    /// Takes about a tenth of a second and 64 MiB, which is what a guess costs, too.
    ///
    /// # Errors
    /// When this node is not the owner.
    pub async fn export(&self, passphrase: &str) -> Result<String, NetworkError> {
        let private = self.private();
        let snapshot = private.state().snapshot(&private.charter);
        if snapshot.authority.is_none() {
            return Err(NetworkError::NotTheOwner);
        }
        let passphrase = passphrase.to_owned();
        let sealed = spawn_blocking(move || seal(&snapshot, &passphrase)).await;
        sealed.unwrap_or_else(|e| Err(NetworkError::Unusable(e.to_string())))
    }

    /// Closes the node and forgets the network: certificate, keys, and the authority, if
    /// this was the owner's node. The owner or an admin should revoke it as well.
    ///
    /// # Errors
    /// When the folder cannot be removed.
    pub async fn leave(&self) -> Result<(), NetworkError> {
        Node(Arc::clone(&self.0)).close().await;
        let Some(store) = self.private().store.clone() else {
            return Ok(());
        };
        let remove = store.clone();
        let removed = spawn_blocking(move || remove.remove()).await;
        Ok(removed.unwrap_or_else(|e| Err(store.failed(&e.to_string())))?)
    }
}

/// Shortest time between epochs that start by themselves, seconds.
const MIN_ROTATION_S: u64 = 60;

fn seal(state: &NetworkState, passphrase: &str) -> Result<String, NetworkError> {
    let plain = state.encode();
    let plain = plain.map_err(|e| NetworkError::Unusable(e.to_string()))?;
    let random = random_seed();
    let (salt, rest) = random.split_at(backup::SALT_LEN);
    let salt = salt.try_into().expect("split there");
    let nonce = rest[..backup::NONCE_LEN].try_into().expect("cut there");
    Ok(backup::seal(&plain, passphrase, salt, nonce)?)
}

fn owner_only(issuer: Issuer) -> Result<(), NetworkError> {
    match issuer {
        Issuer::Authority => Ok(()),
        Issuer::Admin { .. } => Err(NetworkError::NotTheOwner),
    }
}
