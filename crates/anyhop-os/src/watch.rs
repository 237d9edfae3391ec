//! Notices when this host's network has changed.
//!
//! The kernel tells over rtnetlink that something about links, addresses or routes moved;
//! whether that matters shows by comparing what was there before: interfaces with their
//! addresses, and the gateways of default routes. A kernel is talkative, so most of its
//! messages change nothing. Where there is no netlink the comparison alone, made every few
//! seconds, does the same later.
//!
//! A host that slept has perhaps moved: the clock that counts sleep (`CLOCK_BOOTTIME`) has
//! then left the one that does not (`CLOCK_MONOTONIC`) behind.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use nix::{
    libc,
    sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket},
    time::{ClockId, clock_gettime},
};

use crate::{Gateway, default_gateways, interfaces::named_addresses};

/// Links, addresses and routes of both families.
const GROUPS: libc::c_int = libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV6_ROUTE;

/// A host that was asleep for less has lost nothing.
const SLEPT: Duration = Duration::from_secs(1);

/// A netlink socket that is readable whenever something about the network of this
/// process's namespace changed. What it says need not be understood, only taken.
///
/// # Errors
/// Where the kernel has no rtnetlink, or a sandbox denies it.
pub fn netlink_events() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let protocol = SockProtocol::NetlinkRoute;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUPS.cast_unsigned()))?;
    Ok(fd)
}

/// What is compared.
#[derive(Debug, Default, PartialEq, Eq)]
struct Snapshot {
    addresses: BTreeSet<(String, IpAddr)>,
    gateways: Vec<Gateway>,
}

impl Snapshot {
    fn take() -> Self {
        Self {
            addresses: named_addresses().unwrap_or_default(),
            gateways: default_gateways(),
        }
    }
}

/// Compares this host's network with how it was before.
#[derive(Debug)]
pub struct NetworkWatch {
    known: Snapshot,
    asleep: Duration,
}

impl NetworkWatch {
    /// Compares with now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            known: Snapshot::take(),
            asleep: time_asleep(),
        }
    }

    /// Whether addresses, interfaces with addresses or default routes are others than at
    /// the last call.
    pub fn has_changed(&mut self) -> bool {
        let now = Snapshot::take();
        let changed = now != self.known;
        self.known = now;
        changed
    }

    /// Whether the host slept since the last call.
    pub fn has_slept(&mut self) -> bool {
        self.slept(time_asleep())
    }

    fn slept(&mut self, asleep: Duration) -> bool {
        let since = asleep.saturating_sub(self.asleep);
        self.asleep = asleep;
        since >= SLEPT
    }
}

impl Default for NetworkWatch {
    fn default() -> Self {
        Self::new()
    }
}

/// How long this host has slept since it started, as far as its clocks tell.
fn time_asleep() -> Duration {
    let read = |clock| clock_gettime(clock).map(Duration::from);
    let with_sleep = read(ClockId::CLOCK_BOOTTIME).unwrap_or_default();
    let without = read(ClockId::CLOCK_MONOTONIC).unwrap_or_default();
    with_sleep.saturating_sub(without)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_left_alone_has_not_changed() {
        let mut watch = NetworkWatch::new();
        assert!(!watch.has_changed());
        assert!(!watch.has_slept());
    }

    #[test]
    fn sleep_is_noticed_once() {
        let mut watch = NetworkWatch::new();
        let before = watch.asleep;
        assert!(!watch.slept(before + SLEPT / 2));
        assert!(watch.slept(before + SLEPT * 3));
        assert!(!watch.slept(before + SLEPT * 3));
    }

    #[test]
    fn an_address_that_came_is_a_change() {
        let mut watch = NetworkWatch::new();
        let ip = "192.0.2.1".parse().unwrap();
        watch.known.addresses.insert(("gone0".to_owned(), ip));
        assert!(watch.has_changed());
        assert!(!watch.has_changed());
    }

    #[test]
    fn a_netlink_socket_does_not_block() {
        let events = match netlink_events() {
            Ok(events) => std::os::unix::net::UnixDatagram::from(events),
            Err(e) => return println!("skipped: no netlink here ({e})"),
        };
        if let Err(e) = events.recv(&mut [0; 4096]) {
            assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
        }
    }
}
