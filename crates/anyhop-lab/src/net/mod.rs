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
//! A packet, UDP or TCP, climbs from its host to the first segment that has its
//! destination, through the NATs between, and goes down from there; each link it crosses
//! takes its latency, each NAT one of its TTL, the internet [`INTERNET_HOPS`]. Time is `tokio::time`'s: real, or virtual on a runtime with the paused
//! clock, where on a current-thread runtime a run repeats exactly under its seed.
//!
//! Inside: `fabric` is the machine that moves packets, `host` the sockets that nodes see,
//! `streams` their TCP on the machine `tcp`, `link` what happens on the way, `rules` the
//! faults, `trace` what was counted, `ledger` who sent to whom uninvited.

mod fabric;
mod host;
mod ledger;
mod link;
mod mapper;
mod packet;
mod rules;
mod streams;
mod tcp;
#[cfg(test)]
mod tcp_tests;
#[cfg(test)]
mod tests;
mod trace;

pub use host::{MAX_RECEIVE_SEGMENTS, MAX_TRANSMIT_SEGMENTS, RECEIVE_QUEUE};
pub use ledger::{
    BUDGET_WINDOW, Breach, FIRST_FLIGHT_BUDGET, PROBE_BUDGET, PROBED_HOST_BUDGET, REBINDING_BUDGET,
};
pub use link::{Bandwidth, DEFAULT_LATENCY, Link};
pub use rules::{End, Traffic};
pub use streams::ACCEPT_QUEUE;
pub use trace::{Count, DropReason, Trace};

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use anyhop::net::Host;
use tokio::{sync::Notify, time::Instant};

use self::{fabric::Fabric, host::SimHost};
use crate::nat::{MapRefused, NatConfig};

/// Routers between any two places on the internet, unless
/// [set otherwise](VirtualNet::set_internet_hops).
pub const INTERNET_HOPS: u8 = 8;

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

/// Where a host or NAT hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// On the internet.
    Internet,
    /// Behind a NAT.
    Behind(NatId),
}

impl From<NatId> for Site {
    fn from(nat: NatId) -> Self {
        Self::Behind(nat)
    }
}

/// Which of a NAT's tables: each transport has ports of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
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
            Site::Internet,
            name,
            ips.into(),
            Link::with_latency(DEFAULT_LATENCY),
        )
    }

    /// Adds a host that has nothing to do with the others, to see that nobody sends to it.
    ///
    /// # Panics
    /// As [`public_host`](Self::public_host).
    pub fn bystander(
        &self,
        site: impl Into<Site>,
        name: &str,
        ips: impl Into<Addresses>,
    ) -> HostHandle {
        let link = Link::with_latency(DEFAULT_LATENCY);
        self.insert_host(site.into(), name, ips.into(), link, true)
    }

    /// Adds a NAT on the internet. It translates within a family; what is of a family that
    /// it has no address of it drops, or lets out as it is
    /// ([`NatConfig::ipv6_firewall`](crate::nat::NatConfig::ipv6_firewall)).
    ///
    /// # Panics
    /// As [`public_host`](Self::public_host).
    pub fn nat(&self, name: &str, ips: impl Into<Addresses>, config: NatConfig) -> NatId {
        let link = Link::with_latency(DEFAULT_LATENCY);
        self.lock()
            .add_nat(Site::Internet, name, &ips.into().0, config, link)
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
        let ips = ips.into();
        self.lock()
            .add_nat(outer.into(), name, &ips.0, config, Link::default())
    }

    /// Adds a host behind a NAT, on a link without latency. Hosts behind the same NAT
    /// reach each other at their own addresses.
    ///
    /// # Panics
    /// As [`public_host`](Self::public_host).
    pub fn host_behind(&self, nat: NatId, name: &str, ips: impl Into<Addresses>) -> HostHandle {
        self.add_host(nat.into(), name, ips.into(), Link::default())
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

    /// Ends what runs on a host without a word to anybody, as a power failure does: the
    /// host is [`cut`](Self::cut) off and its sockets are free for what starts next. The
    /// node on it is to be closed too.
    pub fn crash(&self, host: impl Into<HostId>) {
        let host = host.into();
        self.cut(host);
        self.lock().crash(host);
    }

    /// Drops all UDP from and to a host, or through a NAT, as some office networks do.
    pub fn block_udp(&self, place: impl Into<Place>) {
        self.block_traffic(place, Traffic::Udp);
    }

    /// Undoes [`block_udp`](Self::block_udp).
    pub fn unblock_udp(&self, place: impl Into<Place>) {
        self.unblock_traffic(place, Traffic::Udp);
    }

    /// Drops all TCP from and to a host, or through a NAT.
    pub fn block_tcp(&self, place: impl Into<Place>) {
        self.block_traffic(place, Traffic::Tcp);
    }

    /// Undoes [`block_tcp`](Self::block_tcp).
    pub fn unblock_tcp(&self, place: impl Into<Place>) {
        self.unblock_traffic(place, Traffic::Tcp);
    }

    /// Drops, silently and both ways, one kind of traffic of a host or through a NAT:
    /// a transport, or a whole address family. Addresses stay as they are.
    pub fn block_traffic(&self, place: impl Into<Place>, traffic: Traffic) {
        self.lock().rules.traffic.insert((place.into(), traffic));
    }

    /// Undoes [`block_traffic`](Self::block_traffic).
    pub fn unblock_traffic(&self, place: impl Into<Place>, traffic: Traffic) {
        self.lock().rules.traffic.remove(&(place.into(), traffic));
    }

    /// Lets what is behind a NAT reach nothing outside but TCP to `proxy`.
    pub fn proxy_only(&self, nat: NatId, proxy: SocketAddr) {
        self.lock().rules.proxy_only.insert(nat, proxy);
    }

    /// Undoes [`proxy_only`](Self::proxy_only).
    pub fn open_egress(&self, nat: NatId) {
        self.lock().rules.proxy_only.remove(&nat);
    }

    /// Takes a host's interface down, or up again: while it is down the host has no
    /// addresses but loopback, and sending fails. Nodes on the host are told.
    pub fn set_interface(&self, host: impl Into<HostId>, is_up: bool) {
        let host = host.into();
        self.lock().set_up(host, is_up);
        self.tell_change(host);
    }

    /// Gives a host other addresses on its network. Sockets bound to a wildcard go on
    /// with them; those bound to an address that is gone send and receive nothing, TCP
    /// connections from it neither. Nodes on the host are told.
    ///
    /// # Panics
    /// If there is no address, or one is taken.
    pub fn renumber(&self, host: impl Into<HostId>, ips: impl Into<Addresses>) {
        self.relocate(host.into(), None, &ips.into());
    }

    /// Moves a host, with new addresses, to another network: a laptop is carried from
    /// one room to the next. Its link keeps its properties.
    ///
    /// # Panics
    /// As [`renumber`](Self::renumber).
    pub fn move_host(
        &self,
        host: impl Into<HostId>,
        to: impl Into<Site>,
        ips: impl Into<Addresses>,
    ) {
        self.relocate(host.into(), Some(to.into()), &ips.into());
    }

    fn relocate(&self, host: HostId, to: Option<Site>, ips: &Addresses) {
        self.lock().move_host(host, to, &ips.0);
        self.tell_change(host);
    }

    fn tell_change(&self, host: HostId) {
        let changes = self.lock().changes(host);
        changes.send_modify(|count| *count += 1);
    }

    /// Gives a NAT other external addresses, as a new lease of the provider does. It
    /// forgets all mappings; hosts inside are not told.
    ///
    /// # Panics
    /// As [`renumber`](Self::renumber).
    pub fn renumber_nat(&self, nat: NatId, ips: impl Into<Addresses>) {
        self.lock().renumber_nat(nat, &ips.into().0);
    }

    /// The NAT that a host or NAT hangs behind: where it asks for port mappings.
    #[must_use]
    pub fn gateway(&self, place: impl Into<Place>) -> Option<NatId> {
        self.lock().gateway(place.into())
    }

    /// Asks a NAT for a port mapping, as PCP, NAT-PMP and UPnP-IGD do: what arrives at
    /// the answered external address goes to `internal`, whoever sends it.
    ///
    /// `wanted` is the external port asked for, 0 for any; the answer may have another. A
    /// lifetime of zero removes the mapping.
    ///
    /// # Errors
    /// If the NAT offers no mappings or has no room.
    pub fn map_port(
        &self,
        nat: NatId,
        transport: Transport,
        internal: SocketAddr,
        wanted: u16,
        lifetime: Duration,
    ) -> Result<SocketAddr, MapRefused> {
        let now = Instant::now().into_std();
        let is_udp = transport == Transport::Udp;
        self.lock()
            .map_port(now, nat, is_udp, internal, wanted, lifetime)
    }

    /// Changes how many routers lie between any two places on the internet.
    pub fn set_internet_hops(&self, hops: u8) {
        self.lock().internet_hops = hops;
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

    /// Notes from now on which socket sends to which address; [`Trace::captured`] tells.
    pub fn capture(&self) {
        self.lock().trace.capture();
    }

    /// Says that nodes are told to send to an address though nobody is there: by hand, as a
    /// test or a user does.
    pub fn allow(&self, ip: impl Into<IpAddr>) {
        self.lock().ledger.invite(&[ip.into()]);
    }

    /// Packets that were sent to somebody who had not invited them; see
    /// [`assert_no_uninvited`](Self::assert_no_uninvited).
    #[must_use]
    pub fn uninvited(&self) -> Vec<Breach> {
        let fabric = self.lock();
        (fabric.ledger).uninvited(|host| Arc::clone(&fabric.hosts[host.0].name))
    }

    /// Hosts that sent too much to an address that had not proven itself; see
    /// [`assert_amplification`](Self::assert_amplification).
    #[must_use]
    pub fn amplified(&self, factor: u64) -> Vec<Breach> {
        let fabric = self.lock();
        (fabric.ledger).amplified(factor, |host| Arc::clone(&fabric.hosts[host.0].name))
    }

    /// # Panics
    /// If a participant ever sent to an address that had not sent to it first and belongs
    /// neither to a participant nor to a NAT in front of one (nor is loopback or
    /// multicast), or if a [bystander](Self::bystander) heard anything from one to whom it
    /// had not sent.
    #[track_caller]
    pub fn assert_no_uninvited(&self) {
        let breaches = self.uninvited();
        assert!(breaches.is_empty(), "uninvited: {}", list(&breaches));
    }

    /// Until an address and port has answered, a host sends it at most `factor` times the
    /// UDP payload that it had sent ([`REBINDING_BUDGET`] more in an established session),
    /// or, where the host spoke first, in each
    /// [`BUDGET_WINDOW`] no more than [`FIRST_FLIGHT_BUDGET`] of QUIC and [`PROBE_BUDGET`] of
    /// probes, and to all silent ports of one IP address no more than
    /// [`PROBED_HOST_BUDGET`] of probes.
    ///
    /// An answer is whatever arrives after something was sent; TCP is not counted.
    ///
    /// # Panics
    /// If that was not so.
    #[track_caller]
    pub fn assert_amplification(&self, factor: u64) {
        let breaches = self.amplified(factor);
        assert!(breaches.is_empty(), "amplification: {}", list(&breaches));
    }

    fn add_host(&self, site: Site, name: &str, ips: Addresses, link: Link) -> HostHandle {
        self.insert_host(site, name, ips, link, false)
    }

    fn insert_host(
        &self,
        site: Site,
        name: &str,
        ips: Addresses,
        link: Link,
        is_bystander: bool,
    ) -> HostHandle {
        let id = self.lock().add_host(site, name, ips.0, link, is_bystander);
        HostHandle {
            net: self.clone(),
            id,
            name: name.into(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Fabric> {
        self.shared.lock()
    }
}

fn list(breaches: &[Breach]) -> String {
    let lines: Vec<_> = breaches.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

/// A host of a [`VirtualNet`]; clones are handles to the same one.
#[derive(Clone)]
pub struct HostHandle {
    net: VirtualNet,
    id: HostId,
    name: Arc<str>,
}

impl HostHandle {
    /// What [`anyhop::Node::start_on`] takes.
    #[must_use]
    pub fn host(&self) -> Arc<dyn Host> {
        Arc::new(SimHost {
            shared: Arc::clone(&self.net.shared),
            id: self.id,
            name: Arc::clone(&self.name),
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
    ///
    /// # Panics
    /// While its interface is down.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        *self.addresses().first().expect("the interface is up")
    }

    /// All its addresses, loopback left out; none while its interface is down.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.net.lock().addresses(self.id).to_vec()
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
        write!(f, "host {} {:?}", self.name, self.addresses())
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

    /// After something was done to streams: wakes whom it concerns, and the fabric's task
    /// if there is something to move earlier than it thought.
    fn settle(&self) {
        let (wakers, must_wake) = {
            let mut fabric = self.lock();
            (std::mem::take(&mut fabric.wakers), fabric.must_wake())
        };
        for waker in wakers {
            waker.wake();
        }
        if must_wake {
            self.wake.notify_one();
        }
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
