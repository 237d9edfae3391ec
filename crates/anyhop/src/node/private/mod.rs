//! A node in a private network: the streams and files around the machines of
//! `anyhop_proto::network`.
//!
//! - **Start**: with a certificate the node goes on as any; with an invitation it redeems
//!   that first ([`join`]).
//! - **Steady state**: a new connection is admitted before it becomes a session ([`admit`]),
//!   sessions carry gossip ([`spread`]), inviters serve who was invited ([`redeem`]), or have
//!   that done where they can be dialled ([`greet`]).
//! - **Failure**: who is no member any more loses its sessions. What this node signs, the keys
//!   that it makes and the uses of its invitations are on the disk before anybody hears of
//!   them ([`Inner::store`]), written where that holds up no other task. What others know,
//!   too, follows: keys at once, statements within [`SAVE_DELAY`] and when the node is closed.

mod admit;
mod greet;
mod handle;
mod join;
mod overlay;
mod redeem;
mod spread;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhop_base::{Keypair, PeerAddr, PeerId};
use anyhop_proto::network::{
    Charter, Gossip,
    book::InvitationBook,
    greeting::GreetingBook,
    invitation::{Invitation, InvitationId},
    membership::Standing,
    state::{MAX_CONTACTS, NetworkState},
    statement::{Body, Issuer, MemberName, OptOuts, Signer, Statement},
};
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::spawn_blocking,
    time::{Instant, sleep_until},
};

pub(super) use admit::{Admitted, NEW_KEY};
pub use handle::{InviteOptions, NetworkHandle};

use super::Inner;
use crate::{
    Event, JoinError, NetworkError, StoreError,
    engine::close,
    private::{PrivateNetwork, Store, ring_of, signer_of},
    session::Conn,
};

/// Time in which changes that others know too are gathered before they are stored.
const SAVE_DELAY: Duration = Duration::from_secs(1);
/// Time between looks at what ends by itself: certificates, invitations, epochs.
const LOOK: Duration = Duration::from_secs(5);
/// Who was invited and is being served, at once.
const MAX_REDEEMING: usize = 64;

/// How far a node has come in becoming a member.
#[derive(Debug, Clone)]
pub(super) enum Joining {
    /// It asks.
    Asking,
    /// A person is to decide.
    Waiting,
    /// It is a member.
    Joined,
    /// It will be none.
    Failed(JoinError),
}

/// A node's private network.
#[derive(Debug)]
pub(super) struct Private {
    charter: Charter,
    store: Option<Store>,
    state: Mutex<State>,
    /// Gossip has something to do, or state is to be stored.
    changed: Notify,
    /// A person has decided about somebody.
    decided: watch::Sender<u64>,
    joining: watch::Sender<Joining>,
    redeeming: Arc<Semaphore>,
}

/// What changes.
#[derive(Debug)]
struct State {
    gossip: Gossip,
    authority: Option<Keypair>,
    invitations: InvitationBook,
    /// Invitations of others, which those tell anew after a restart.
    greetings: GreetingBook,
    /// Which of this node's invitations members greet for, as they were told last.
    greeters: BTreeMap<PeerId, Vec<InvitationId>>,
    contacts: Vec<PeerAddr>,
    joining: Option<Invitation>,
    name: Option<MemberName>,
    opt_outs: OptOuts,
    rotate_every_s: Option<u64>,
    /// Something is to be stored, not before this.
    save_at: Option<Instant>,
    /// What this node has said and is not on the disk yet. Nothing is told meanwhile.
    unsaved: usize,
}

impl State {
    fn snapshot(&self, charter: &Charter) -> NetworkState {
        NetworkState {
            charter: charter.clone(),
            authority: self.authority.clone(),
            membership: self.gossip.membership().clone(),
            keys: self.gossip.keys().cloned().collect(),
            invitations: self.invitations.clone(),
            contacts: self.contacts.clone(),
            joining: self.joining.clone(),
            name: self.name.clone(),
            opt_outs: self.opt_outs,
            rotate_every_s: self.rotate_every_s,
        }
    }
}

impl Private {
    pub(super) fn new(me: PeerId, network: PrivateNetwork) -> Self {
        let PrivateNetwork { state, store } = network;
        let joining = match state.joining {
            Some(_) => Joining::Asking,
            None => Joining::Joined,
        };
        Self {
            charter: state.charter,
            store,
            state: Mutex::new(State {
                gossip: Gossip::new(me, state.membership, state.keys),
                authority: state.authority,
                invitations: state.invitations,
                greetings: GreetingBook::default(),
                greeters: BTreeMap::new(),
                contacts: state.contacts,
                joining: state.joining,
                name: state.name,
                opt_outs: state.opt_outs,
                rotate_every_s: state.rotate_every_s,
                save_at: None,
                unsaved: 0,
            }),
            changed: Notify::new(),
            decided: watch::Sender::default(),
            joining: watch::Sender::new(joining),
            redeeming: Arc::new(Semaphore::new(MAX_REDEEMING)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Stores all that is known; returns when it is on the disk.
    fn save(&self) -> Result<(), StoreError> {
        let take = || {
            let mut state = self.state();
            state.save_at = None;
            state.snapshot(&self.charter)
        };
        let Some(store) = &self.store else {
            self.state().save_at = None;
            return Ok(());
        };
        store.save(take)
    }

    fn save_soon(&self) {
        self.save_within(SAVE_DELAY);
    }

    fn save_within(&self, delay: Duration) {
        let latest = Instant::now() + delay;
        let mut state = self.state();
        state.save_at = Some(state.save_at.map_or(latest, |at| at.min(latest)));
        drop(state);
        self.changed.notify_one();
    }

    pub(super) fn contacts(&self) -> Vec<PeerAddr> {
        self.state().contacts.clone()
    }

    /// What this node does not do: by its own will, or by its certificate.
    pub(super) fn opt_outs(&self, me: PeerId) -> OptOuts {
        let state = self.state();
        let certificate = state.gossip.membership().certificate(me);
        let certified = certificate.and_then(|s| s.certificate());
        let certified = certified.map(|c| c.opt_outs).unwrap_or_default();
        let own = state.opt_outs;
        OptOuts {
            no_relaying: own.no_relaying || certified.no_relaying,
            no_signalling: own.no_signalling || certified.no_signalling,
            stealth: own.stealth || certified.stealth,
        }
    }

    pub(super) fn is_joining(&self) -> bool {
        self.state().joining.is_some()
    }
}

impl Inner {
    /// Does what goes on by itself, until the node stops.
    pub(super) async fn keep_private(self: Arc<Self>) {
        let Some(private) = &self.private else { return };
        let mut look = Instant::now() + LOOK;
        loop {
            let due = {
                let state = private.state();
                let gossip = state.gossip.poll_timeout().map(Instant::from_std);
                let dues = [Some(look), state.save_at, gossip];
                dues.into_iter().flatten().min().unwrap_or(look)
            };
            tokio::select! {
                () = private.changed.notified() => {}
                () = sleep_until(due) => {}
            }
            let now = Instant::now();
            private.state().gossip.handle_timeout(now.into_std());
            self.drain_gossip(private);
            if now >= look {
                look = now + LOOK;
                self.look_at_private(private).await;
            }
            let save_due = private.state().save_at.is_some_and(|at| at <= now);
            if save_due {
                self.store_what_is_known().await;
            }
        }
    }

    /// Stores what is due later: of a node that stops.
    pub(super) async fn store_what_waits(self: &Arc<Self>) {
        let waits = |p: &Private| p.state().save_at.is_some();
        if self.private.as_ref().is_some_and(waits) {
            self.store_what_is_known().await;
        }
    }

    async fn store_what_is_known(self: &Arc<Self>) {
        if let Err(e) = self.store(|_, _| {}).await {
            tracing::warn!(error = %e, "what is known of the network is not stored");
        }
    }

    /// Certificates, invitations and epochs end by the time that passes.
    async fn look_at_private(self: &Arc<Self>, private: &Private) {
        let now_unix_s = self.now_unix_s();
        let forgotten = {
            let mut state = private.state();
            let of_others = state.greetings.forget_expired(now_unix_s);
            state.invitations.forget_expired(now_unix_s) | of_others
        };
        self.tell_greeters(private);
        if forgotten {
            self.use_keys(private);
            private.save_soon();
        }
        self.drop_strangers(private);
        self.note_contacts(private);
        let due = {
            let state = private.state();
            let epoch = state.gossip.membership().epoch_statement();
            let since = epoch.map_or(0, |s| match s.body() {
                Body::Epoch(notice) => notice.issued_unix_s,
                _ => 0,
            });
            let every = state.rotate_every_s;
            every.is_some_and(|every| since.saturating_add(every) <= now_unix_s)
        };
        if due && let Err(e) = self.rotate(private).await {
            tracing::warn!(error = %e, "no new epoch was started");
        }
    }

    /// Answers to the keys that are known now.
    fn use_keys(&self, private: &Private) {
        let ring = {
            let state = private.state();
            ring_of(&state.gossip, &state.invitations, &state.greetings)
        };
        if let Some(swarm) = &self.fabric.swarm {
            swarm.replace(&ring);
        }
    }

    /// Whether a peer was a member of this private network, and is none any more. One that
    /// nothing is known of may be a new one, whose certificate is on its way.
    pub(super) fn is_former_member(&self, peer: PeerId) -> bool {
        let Some(private) = &self.private else {
            return false;
        };
        let now_unix_s = self.now_unix_s();
        let state = private.state();
        let standing = state.gossip.membership().standing(peer, now_unix_s);
        matches!(standing, Standing::Revoked | Standing::Expired)
    }

    /// Ends sessions with those who are no members any more.
    fn drop_strangers(&self, private: &Private) {
        let now_unix_s = self.now_unix_s();
        let strangers: Vec<_> = {
            let state = private.state();
            let membership = state.gossip.membership();
            let conns = self.all_conns().into_iter();
            let standing = |c: &Arc<Conn>| membership.standing(c.peer, now_unix_s);
            conns.filter(|c| standing(c) != Standing::Member).collect()
        };
        for conn in strangers {
            tracing::info!(peer = %conn.peer, "no member any more");
            conn.close_silently(
                close::NOT_ADMITTED,
                "it is no member of the network any more",
            );
        }
    }

    /// Remembers where members can be dialled, for the next start.
    fn note_contacts(&self, private: &Private) {
        let seen = self.public_contacts(MAX_CONTACTS);
        let mut state = private.state();
        let before = state.contacts.clone();
        for contact in seen {
            state.contacts.retain(|c| *c != contact);
            state.contacts.insert(0, contact);
        }
        state.contacts.truncate(MAX_CONTACTS);
        let mut sets = [before, state.contacts.clone()];
        drop(state);
        sets.iter_mut()
            .for_each(|s| s.sort_by_key(ToString::to_string));
        if sets[0] != sets[1] {
            private.save_soon();
        }
    }

    /// Stores what was changed and then does `then`, both on a thread where that holds nobody
    /// up, and to the end even if the caller does not wait for it.
    async fn store(
        self: &Arc<Self>,
        then: impl FnOnce(&Arc<Self>, &Private) + Send + 'static,
    ) -> Result<(), StoreError> {
        let node = Arc::clone(self);
        let work = move || {
            let Some(private) = &node.private else {
                return Ok(());
            };
            let saved = node.span.in_scope(|| private.save());
            node.span.in_scope(|| then(&node, private));
            saved
        };
        let store = self.private.as_ref().and_then(|p| p.store.as_ref());
        let Some(store) = store else {
            return work();
        };
        let done = spawn_blocking(work).await;
        done.unwrap_or_else(|e| Err(store.failed(&e.to_string())))
    }

    /// Stores what this node has said, and lets others hear of it then. `State::unsaved` was
    /// counted up with the change.
    async fn store_and_tell(self: &Arc<Self>) -> Result<(), StoreError> {
        let tell = |node: &Arc<Self>, private: &Private| {
            private.state().unsaved -= 1;
            node.drain_gossip(private);
        };
        self.store(tell).await
    }

    /// Signs as this node may, in the order given; stored and told when this returns.
    async fn say(
        self: &Arc<Self>,
        private: &Private,
        make: impl FnOnce(&State, Issuer) -> Result<Vec<Body>, NetworkError>,
    ) -> Result<(), NetworkError> {
        {
            let mut state = private.state();
            let signer = self.signer(&state)?;
            let issuer = signer.issuer().ok_or(NetworkError::NotAnAdmin)?;
            let bodies = make(&state, issuer)?;
            let mut signed = Vec::with_capacity(bodies.len());
            for body in bodies {
                signed.push(Arc::new(Statement::sign(body, &signer, &private.charter)?));
            }
            state.gossip.handle_own(self.now_unix_s(), signed);
            state.unsaved += 1;
        }
        Ok(self.store_and_tell().await?)
    }

    fn signer(&self, state: &State) -> Result<Signer, NetworkError> {
        if state.joining.is_some() {
            return Err(NetworkError::NotJoined);
        }
        let membership = state.gossip.membership();
        signer_of(state.authority.as_ref(), membership, &self.keypair)
    }

    /// Starts a new epoch.
    async fn rotate(self: &Arc<Self>, private: &Private) -> Result<u32, NetworkError> {
        let epoch = {
            let mut state = private.state();
            let signer = self.signer(&state)?;
            let secret = crate::engine::random_seed();
            let epoch = state.gossip.rotate(self.now_unix_s(), &signer, secret)?;
            state.unsaved += 1;
            epoch
        };
        self.store_and_tell().await?;
        Ok(epoch.0)
    }

    pub(super) fn emit_joined(&self, private: &Private) {
        private.joining.send_replace(Joining::Joined);
        self.emit(Event::Joined);
    }
}
