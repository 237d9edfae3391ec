//! Following this machine from network to network.
//!
//! The host tells when addresses, interfaces or routes have changed, or when it slept. A
//! little later, since such changes come in swarms, everything that was true of the old
//! network is dropped and found out anew, all at once: sockets are bound anew where their
//! address is gone, what others observed is forgotten, the engine and every session's
//! driver send from where the machine is now, and the record is told again. Whatever waits
//! before it tries again, tries now ([`Inner::moved_within`]).
//!
//! Where the host cannot tell, silence on the paths is all that shows a move.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::Inner;
use crate::Event;

/// Changes within this time are one.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Wait before a socket that could not be bound is tried again.
const BIND_RETRY: Duration = Duration::from_secs(1);

/// The network this machine is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    /// Changes so far.
    pub(crate) changes: u64,
    /// Whether there is any address but loopback. A machine that never had one counts as
    /// online: its loopback is its network.
    pub(crate) online: bool,
}

impl Network {
    /// The network a node starts in.
    pub(super) const FIRST: Self = Self {
        changes: 0,
        online: true,
    };
}

impl Inner {
    /// Tells of changes of this machine's network.
    pub(crate) fn network(&self) -> watch::Receiver<Network> {
        self.network.subscribe()
    }

    /// Waits, but not longer than until the machine is in another network; answers whether
    /// it is.
    pub(crate) async fn moved_within(&self, wait: Duration) -> bool {
        let mut network = self.network();
        timeout(wait, network.changed()).await.is_ok()
    }

    /// This machine's addresses, loopback left out.
    fn own_addresses(&self) -> Vec<IpAddr> {
        let mut addresses = self.host.interface_addresses().unwrap_or_default();
        addresses.retain(|ip| !ip.is_loopback());
        addresses.sort_unstable();
        addresses
    }

    /// Follows the machine's changes as long as the node lives.
    pub(super) async fn watch_network(self: Arc<Self>) {
        let mut changes = self.host.network_changes();
        let mut known = self.own_addresses();
        loop {
            tokio::select! {
                told = next_change(&mut changes) => {
                    if !told {
                        changes = None;
                        continue;
                    }
                    sleep(DEBOUNCE).await;
                    if let Some(changes) = &mut changes {
                        changes.borrow_and_update();
                    }
                    self.network_changed(&mut known);
                }
                () = self.socket_failed.notified() => self.mend_sockets().await,
            }
        }
    }

    fn network_changed(&self, known: &mut Vec<IpAddr>) {
        let addresses = self.own_addresses();
        self.adapt_sockets();
        self.forget_observations();
        self.engine.network_changed();
        let online = !addresses.is_empty() || (known.is_empty() && self.network.borrow().online);
        self.network.send_modify(|network| {
            network.changes += 1;
            network.online = online;
        });
        self.record_changed();
        tracing::info!(?addresses, online, "the network changed");
        if addresses != *known {
            known.clone_from(&addresses);
            self.emit(Event::LocalAddressesChanged { addresses });
        }
    }

    fn adapt_sockets(&self) -> bool {
        let addresses = self.host.interface_addresses().unwrap_or_default();
        let anew = self.sockets.iter().map(|s| s.adapt(&addresses));
        anew.fold(false, |any, anew| any | anew)
    }

    /// Binds failed sockets anew. What cannot be bound is tried again by and by.
    async fn mend_sockets(&self) {
        if self.adapt_sockets() {
            self.engine.network_changed();
        }
        if self.sockets.iter().any(|s| s.has_failed()) {
            sleep(BIND_RETRY).await;
        }
    }
}

/// Waits for the next change; false when there will be none.
async fn next_change(changes: &mut Option<watch::Receiver<u64>>) -> bool {
    match changes {
        Some(changes) => changes.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}
