//! What a node does for others: it forwards their circuits, and helps them to find each
//! other. Either can end, and begin again, while it runs.

use anyhop_base::PeerId;
use anyhop_proto::circuit::Standing;

use super::{Inner, private::Private};
use crate::{Config, OptOuts, Strangers};

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Willing {
    /// Circuits of others are forwarded.
    pub(crate) relaying: bool,
    /// Others are told who is where: records of peers, relays, ways.
    pub(crate) signalling: bool,
}

impl Willing {
    /// As configured, less what a member of a private network has opted out of.
    pub(super) fn new(config: &Config, opt_outs: OptOuts) -> Self {
        Self {
            relaying: config.relay.enabled && !opt_outs.no_relaying,
            signalling: config.signalling && !opt_outs.no_signalling,
        }
    }
}

impl Inner {
    /// Whether circuits of others are forwarded.
    pub(crate) fn relays(&self) -> bool {
        self.willing.borrow().relaying
    }

    /// Whether a peer is one that this node relays for before others.
    pub(crate) fn standing(&self, peer: PeerId) -> Standing {
        let told = self.config.relay.known.contains(&peer) || self.is_pinned(peer);
        if self.private.is_some() || told {
            Standing::Known
        } else {
            Standing::Stranger
        }
    }

    /// Whether circuits of a peer's are forwarded.
    pub(super) fn relays_for(&self, peer: PeerId) -> bool {
        let standing = self.standing(peer);
        let relay = self.relay.lock().expect("no holder panics");
        relay.serves(standing)
    }

    /// Whether this node tells everybody that it relays.
    pub(super) fn offers_relaying(&self) -> bool {
        let strangers = self.config.relay.strangers != Strangers::Refused;
        self.relays() && (strangers || self.private.is_some())
    }

    /// Whether others are helped to find each other.
    pub(super) fn signals(&self) -> bool {
        self.willing.borrow().signalling
    }

    /// Resolves once circuits of others are not forwarded any more.
    pub(crate) async fn relaying_ended(&self) {
        let mut willing = self.willing.subscribe();
        // The sender lives as long as this node.
        let _ = willing.wait_for(|w| !w.relaying).await;
    }

    /// Does what the opt-outs say now. Circuits that others have here end, and neighbours
    /// hear that this is no relay.
    pub(super) fn use_opt_outs(&self, private: &Private) {
        let now = Willing::new(&self.config, private.opt_outs(self.me));
        let changed = self.willing.send_if_modified(|willing| {
            let changed = *willing != now;
            *willing = now;
            changed
        });
        if changed {
            let mut relay = self.relay.lock().expect("no holder panics");
            relay.set_enabled(now.relaying);
            drop(relay);
            self.record_changed();
        }
    }
}
