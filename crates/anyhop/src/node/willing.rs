//! What a node does for others: it forwards their circuits, and helps them to find each
//! other. Either can end, and begin again, while it runs.

use super::{Inner, private::Private};
use crate::{Config, OptOuts};

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
