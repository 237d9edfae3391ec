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

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhop_proto::nat::Family;
use tokio::{
    sync::watch,
    time::{interval, sleep, timeout},
};

use super::Inner;
use crate::{Event, KEEP_ALIVE, MAX_KEEP_ALIVE, MIN_KEEP_ALIVE, engine::Fabric, net::Host};

/// Changes within this time are one.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Wait before a socket that could not be bound is tried again.
const BIND_RETRY: Duration = Duration::from_secs(1);

/// How often the measured lifetime of mappings is looked up.
const LIFETIME_LOOK: Duration = Duration::from_secs(30);

/// The network this machine is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Network {
    /// Changes so far.
    pub(crate) changes: u64,
    /// Whether there is any address but loopback. A machine that never had one counts as
    /// online: its loopback is its network.
    pub(crate) online: bool,
    /// IP families with a socket of ours and an address that is no loopback.
    pub(crate) families: Vec<Family>,
    /// Time between keep-alives that the NATs on the way need, over IPv4 and IPv6.
    keep_alive: [Duration; 2],
}

impl Network {
    /// The network a node starts in.
    pub(super) fn first(host: &dyn Host, fabric: &Fabric) -> Self {
        Self {
            changes: 0,
            online: true,
            families: families(fabric, &addresses_of(host)),
            keep_alive: [KEEP_ALIVE; 2],
        }
    }

    /// Time between keep-alives on a path to this address.
    pub(crate) fn keep_alive(&self, to: &SocketAddr) -> Duration {
        self.keep_alive[usize::from(to.is_ipv6())]
    }
}

/// A host's addresses, loopback left out.
fn addresses_of(host: &dyn Host) -> Vec<IpAddr> {
    let mut addresses = host.interface_addresses().unwrap_or_default();
    addresses.retain(|ip| !ip.is_loopback());
    addresses.sort_unstable();
    addresses
}

fn families(fabric: &Fabric, addresses: &[IpAddr]) -> Vec<Family> {
    let addresses = addresses.iter().map(|ip| SocketAddr::new(*ip, 0));
    let usable: BTreeSet<_> = addresses
        .filter(|addr| fabric.can_reach(addr))
        .map(|addr| Family::of(&addr))
        .collect();
    usable.into_iter().collect()
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

    /// Follows the machine's changes as long as the node lives.
    pub(super) async fn watch_network(self: Arc<Self>) {
        let mut changes = self.host.network_changes();
        let mut known = addresses_of(&*self.host);
        let mut lifetimes = interval(LIFETIME_LOOK);
        loop {
            tokio::select! {
                _ = lifetimes.tick() => self.adapt_keep_alive(),
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
        let addresses = addresses_of(&*self.host);
        self.adapt_sockets();
        self.forget_observations();
        self.engine.network_changed();
        let online = !addresses.is_empty() || (known.is_empty() && self.network.borrow().online);
        self.network.send_modify(|network| {
            network.changes += 1;
            network.online = online;
            network.families = families(&self.fabric, &addresses);
        });
        self.record_changed();
        tracing::info!(?addresses, online, "the network changed");
        if addresses != *known {
            known.clone_from(&addresses);
            self.emit(Event::LocalAddressesChanged { addresses });
        }
    }

    /// Fits keep-alives to how long mappings live.
    fn adapt_keep_alive(&self) {
        let wanted = [Family::V4, Family::V6].map(|f| keep_alive_for(self.nat_lifetime(f)));
        self.network.send_if_modified(|network| {
            let changed = network.keep_alive != wanted;
            network.keep_alive = wanted;
            changed
        });
    }

    /// How long a mapping of our NAT lives without traffic, if that was measured.
    fn nat_lifetime(&self, family: Family) -> Option<Duration> {
        let status = self.nat_status();
        let nat = match family {
            Family::V4 => status.v4,
            Family::V6 => status.v6,
        };
        nat?.lifetime_s.map(Duration::from_secs)
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

/// Less than half of a mapping's lifetime, so that one lost keep-alive does no harm.
fn keep_alive_for(lifetime: Option<Duration>) -> Duration {
    let wanted = lifetime.map_or(KEEP_ALIVE, |lifetime| lifetime * 2 / 5);
    wanted.clamp(MIN_KEEP_ALIVE, MAX_KEEP_ALIVE)
}

/// Waits for the next change; false when there will be none.
async fn next_change(changes: &mut Option<watch::Receiver<u64>>) -> bool {
    match changes {
        Some(changes) => changes.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_alives_come_twice_in_a_mappings_lifetime_within_bounds() {
        let secs = |lifetime| keep_alive_for(lifetime).as_secs_f32();
        assert_eq!(secs(None), 15.0);
        for (lifetime, expected) in [(2, 4.0), (10, 4.0), (20, 8.0), (30, 12.0), (120, 20.0)] {
            assert_eq!(secs(Some(Duration::from_secs(lifetime))), expected);
        }
    }
}
