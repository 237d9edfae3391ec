//! Where the QUIC packets of a dead path go.
//!
//! noq resends what was in flight on a path when a later packet of the same path is
//! acknowledged, or when the path was closed and has drained: three times its probe timeout,
//! which is seconds once an acknowledgement has come late over another path. So a dead path
//! stays open for a while and its packets, few besides noq's own probes, take a living one.
//! The peer takes them wherever they come from (noq's NAT traversal extension allows that to
//! both sides) and acknowledges them over any path; one round trip later all that was lost
//! is known to be.

use std::{
    cell::RefCell,
    net::SocketAddr,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::MAX_PATHS;

thread_local! {
    /// Those of the connection that is being made on this thread.
    static NEXT: RefCell<Option<Arc<Diversions>>> = const { RefCell::new(None) };
}

/// Addresses of one connection whose packets go to others.
#[derive(Debug, Default)]
pub(crate) struct Diversions {
    any: AtomicBool,
    table: RwLock<Vec<(SocketAddr, SocketAddr)>>,
}

impl Diversions {
    /// Makes a connection by `make`, which the diversions returned apply to.
    pub(super) fn of_new<T>(make: impl FnOnce() -> T) -> (T, Arc<Self>) {
        let diversions = Arc::<Self>::default();
        NEXT.set(Some(Arc::clone(&diversions)));
        let made = make();
        NEXT.take();
        (made, diversions)
    }

    /// What a sender made now obeys: the engine makes one for a connection together with it.
    pub(super) fn of_sender() -> Arc<Self> {
        NEXT.take().unwrap_or_default()
    }

    /// From now on packets for the first address of a pair go to the second; all canonical.
    /// At most [`MAX_PATHS`], one for each path.
    pub(crate) fn set(&self, mut pairs: Vec<(SocketAddr, SocketAddr)>) {
        pairs.truncate(MAX_PATHS as usize);
        let mut table = self.table.write().expect("no holder panics");
        self.any.store(!pairs.is_empty(), Ordering::Relaxed);
        *table = pairs;
    }

    /// Where a packet for `addr` goes. Not followed further, so that none goes in a circle.
    pub(super) fn resolve(&self, addr: SocketAddr) -> SocketAddr {
        if !self.any.load(Ordering::Relaxed) {
            return addr;
        }
        let table = self.table.read().expect("no holder panics");
        let found = table.iter().find(|(from, _)| *from == addr);
        found.map_or(addr, |(_, to)| *to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_diverted_are_the_named_addresses_of_one_connection() {
        let addr = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let (sender, diversions) = Diversions::of_new(Diversions::of_sender);
        let other = Diversions::of_sender();
        assert_eq!(sender.resolve(addr(1)), addr(1));
        diversions.set(vec![(addr(1), addr(2)), (addr(2), addr(1))]);
        assert_eq!(sender.resolve(addr(1)), addr(2));
        assert_eq!(sender.resolve(addr(3)), addr(3));
        assert_eq!(other.resolve(addr(1)), addr(1));
        diversions.set(Vec::new());
        assert_eq!(sender.resolve(addr(1)), addr(1));
    }
}
