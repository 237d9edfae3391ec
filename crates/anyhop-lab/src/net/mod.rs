//! A virtual network: public hosts, NATs, and hosts behind NATs, joined by links
//! with latency, loss, MTU and speed. Nodes run on it unchanged.
//!
//! ```text
//!              the internet (a segment)
//!        ┌───────────┬───────┴────┬─────────────┐   links: DEFAULT_LATENCY each
//!      host r      nat-a        nat-b         nat-c
//!                    │            │             │    (a segment behind each NAT)
//!                 host a       host b         nat-d  … nested
//! ```
//!
//! A datagram climbs from its host to the first segment that has its destination,
//! through the NATs between, and goes down from there; each link it crosses takes its
//! latency. Time is `tokio::time`'s: real, or virtual on a runtime with the paused
//! clock, where on a current-thread runtime a run repeats exactly under its seed.
//!
//! Inside: `fabric` is the machine that moves datagrams, `host` the sockets that nodes
//! see, `link` what happens on the way, `rules` the faults, `trace` what was counted.

mod fabric;
mod host;
mod link;
mod rules;
#[cfg(test)]
mod tests;
mod trace;

pub use host::{MAX_RECEIVE_SEGMENTS, MAX_TRANSMIT_SEGMENTS, RECEIVE_QUEUE};
pub use link::{Bandwidth, DEFAULT_LATENCY, Link};
pub use rules::End;
pub use trace::{Count, DropReason, Trace};

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use anyhop::net::Host;
use tokio::{sync::Notify, time::Instant};

use self::{
    fabric::{Fabric, INTERNET},
    host::SimHost,
};
use crate::nat::NatConfig;

/// A host of a [`VirtualNet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(usize);

/// A NAT of a [`VirtualNet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NatId(usize);

/// Something attached to the network by a link of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A host.
    Host(HostId),
    /// A NAT; the link is its uplink.
    Nat(NatId),
}

impl<T: Into<HostId>> From<T> for Place {
    fn from(host: T) -> Self {
        Self::Host(host.into())
    }
}

impl From<NatId> for Place {
    fn from(nat: NatId) -> Self {
        Self::Nat(nat)
    }
}

/// The addresses of a host or NAT: one, or several of both families.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses(Vec<IpAddr>);

impl From<IpAddr> for Addresses {
    fn from(ip: IpAddr) -> Self {
        Self(vec![ip])
    }
}

impl From<Ipv4Addr> for Addresses {
    fn from(ip: Ipv4Addr) -> Self {
        Self(vec![ip.into()])
    }
}

impl From<Ipv6Addr> for Addresses {
    fn from(ip: Ipv6Addr) -> Self {
        Self(vec![ip.into()])
    }
}

impl From<(Ipv4Addr, Ipv6Addr)> for Addresses {
    fn from((v4, v6): (Ipv4Addr, Ipv6Addr)) -> Self {
        Self(vec![v4.into(), v6.into()])
    }
}

impl From<&[IpAddr]> for Addresses {
    fn from(ips: &[IpAddr]) -> Self {
        Self(ips.to_vec())
    }
}

/// A virtual network; clones are handles to the same one. It runs until the last
/// handle, host and socket is dropped.
#[derive(Debug, Clone)]
pub struct VirtualNet {
    shared: Arc<Shared>,
}

impl VirtualNet {
    /// An empty network whose losses and random ports follow from `seed`.
    ///
    /// # Panics
    /// Outside of a tokio runtime: the network is one task on it.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let shared = Arc::new(Shared {
            fabric: Mutex::new(Fabric::new(seed)),
            wake: Arc::new(Notify::new()),
        });
        tokio::spawn(run(Arc::downgrade(&shared), Arc::clone(&shared.wake)));
        Self { shared }
    }

    /// Adds a host on the internet.
    ///
    /// # Panics
    /// If there is no address, or one is taken.
    pub fn public_host(&self, name: &str, ips: impl Into<Addresses>) -> HostHandle {
        self.add_host(
            INTERNET,
            name,
            ips.into(),
            Link::with_latency(DEFAULT_LATENCY),
        )
    }

    /// Adds a NAT on the internet. It translates within a family, and drops what is
    /// of a family that it has no address of.
    ///
    /// # Panics
    /// As [`public_host`](Self::public_host).
    pub fn nat(&self, name: &str, ips: impl Into<Addresses>, config: NatConfig) -> NatId {
        let link = Link::with_latency(DEFAULT_LATENCY);
        self.lock()
            .add_nat(INTERNET, name, &ips.into().0, config, link)
    }

    /// Adds a NAT behind another, on a link without latency.
    ///
    /// # Panics
    /// As [`public_host`](Self::public_host).
    pub fn nat_behind(
        &self,
        outer: NatId,
        name: &str,
        ips: impl Into<Addresses>,
        config: NatConfig,
    ) -> NatId {
        let mut fabric = self.lock();
        let segment = fabric.segment_behind(outer);
        fabric.add_nat(segment, name, &ips.into().0, config, Link::default())
    }

    /// Adds a host behind a NAT, on a link without latency. Hosts behind the same NAT
    /// reach each other at their own addresses.
    ///
    /// # Panics
    /// As [`public_host`](Self::public_host).
    pub fn host_behind(&self, nat: NatId, name: &str, ips: impl Into<Addresses>) -> HostHandle {
        let segment = self.lock().segment_behind(nat);
        self.add_host(segment, name, ips.into(), Link::default())
    }

    /// Changes the link of a host or NAT. What is on it keeps its arrival time.
    pub fn set_link(&self, place: impl Into<Place>, link: Link) {
        self.lock().attachment(place.into()).link = link;
    }

    /// The link of a host or NAT.
    #[must_use]
    pub fn link(&self, place: impl Into<Place>) -> Link {
        self.lock().attachment(place.into()).link
    }

    /// Drops everything between the two, both ways, until
    /// [`unblock`](Self::unblock)ed: hosts, or addresses as they show on the way.
    pub fn block(&self, a: impl Into<End>, b: impl Into<End>) {
        let (a, b) = (a.into(), b.into());
        let blocked = &mut self.lock().rules.blocked;
        blocked.insert((a, b));
        blocked.insert((b, a));
    }

    /// Drops everything from one to the other; the way back stays open.
    pub fn block_one_way(&self, from: impl Into<End>, to: impl Into<End>) {
        let rule = (from.into(), to.into());
        self.lock().rules.blocked.insert(rule);
    }

    /// Undoes [`block`](Self::block) and [`block_one_way`](Self::block_one_way).
    pub fn unblock(&self, a: impl Into<End>, b: impl Into<End>) {
        let (a, b) = (a.into(), b.into());
        let blocked = &mut self.lock().rules.blocked;
        blocked.remove(&(a, b));
        blocked.remove(&(b, a));
    }

    /// Cuts a host off the network, both ways. Its loopback still works.
    pub fn cut(&self, host: impl Into<HostId>) {
        self.lock().rules.cut.insert(host.into());
    }

    /// Undoes [`cut`](Self::cut).
    pub fn restore(&self, host: impl Into<HostId>) {
        self.lock().rules.cut.remove(&host.into());
    }

    /// Drops every UDP datagram that the host sends, as some office networks do.
    pub fn block_udp(&self, host: impl Into<HostId>) {
        self.lock().rules.no_udp.insert(host.into());
    }

    /// Undoes [`block_udp`](Self::block_udp).
    pub fn unblock_udp(&self, host: impl Into<HostId>) {
        self.lock().rules.no_udp.remove(&host.into());
    }

    /// Makes a NAT forget all its mappings, as a reboot does.
    pub fn reset_nat(&self, nat: NatId) {
        self.lock().reset_nat(nat);
    }

    /// The external addresses of a NAT.
    #[must_use]
    pub fn external(&self, nat: NatId) -> Vec<IpAddr> {
        self.lock().external(nat)
    }

    /// Live mappings of a NAT.
    #[must_use]
    pub fn mappings(&self, nat: NatId) -> usize {
        self.lock().mappings(nat, Instant::now().into_std())
    }

    /// A snapshot of all counters.
    #[must_use]
    pub fn trace(&self) -> Trace {
        self.lock().trace.clone()
    }

    fn add_host(&self, segment: usize, name: &str, ips: Addresses, link: Link) -> HostHandle {
        let addresses = ips.0.clone();
        let id = self.lock().add_host(segment, name, ips.0, link);
        HostHandle {
            net: self.clone(),
            id,
            name: name.into(),
            addresses: addresses.into(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Fabric> {
        self.shared.lock()
    }
}

/// A host of a [`VirtualNet`]; clones are handles to the same one.
#[derive(Clone)]
pub struct HostHandle {
    net: VirtualNet,
    id: HostId,
    name: Arc<str>,
    addresses: Arc<[IpAddr]>,
}

impl HostHandle {
    /// What [`anyhop::Node::start_on`] takes.
    #[must_use]
    pub fn host(&self) -> Arc<dyn Host> {
        Arc::new(SimHost {
            shared: Arc::clone(&self.net.shared),
            id: self.id,
            name: Arc::clone(&self.name),
            addresses: Arc::clone(&self.addresses),
        })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> HostId {
        self.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its first address.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.addresses[0]
    }

    /// All its addresses, loopback left out.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The same host, its link changed.
    #[must_use]
    pub fn with_link(self, link: Link) -> Self {
        self.net.set_link(self.id, link);
        self
    }
}

impl fmt::Debug for HostHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {} {:?}", self.name, self.addresses)
    }
}

impl From<&HostHandle> for HostId {
    fn from(host: &HostHandle) -> Self {
        host.id
    }
}

/// What handles, sockets and the fabric's task have in common. The lock is held for
/// one operation at a time and never across an await; wakers are called outside it.
#[derive(Debug)]
struct Shared {
    fabric: Mutex<Fabric>,
    wake: Arc<Notify>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Fabric> {
        self.fabric.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

/// Moves what is due, sleeps until the next is, ends with the network.
async fn run(shared: Weak<Shared>, wake: Arc<Notify>) {
    loop {
        let turn = {
            let Some(shared) = shared.upgrade() else {
                return;
            };
            let now = Instant::now().into_std();
            shared.lock().run_due(now)
        };
        for waker in turn.wakers {
            waker.wake();
        }
        match turn.next {
            Some(at) if at <= Instant::now().into_std() => tokio::task::yield_now().await,
            Some(at) => {
                tokio::select! {
                    () = wake.notified() => {}
                    () = tokio::time::sleep_until(at.into()) => {}
                }
            }
            None => wake.notified().await,
        }
    }
}
