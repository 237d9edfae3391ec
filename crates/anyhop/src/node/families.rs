//! IPv4 and IPv6: which addresses to try first, and where to look for a second family.

use std::net::SocketAddr;

use anyhop_base::{Endpoint, PeerId, record::MAX_RECORD_ADDRESSES};
use anyhop_proto::nat::Family;

use super::Inner;
use crate::session::Command;

impl Inner {
    /// Sorts addresses to be raced: our own local network first, then the families in
    /// turns, IPv6 before IPv4 if this machine has any (RFC 8305 section 4). The stagger of
    /// the race is the head start.
    pub(super) fn in_turns(&self, addresses: Vec<Endpoint>) -> Vec<Endpoint> {
        let has_v6 = self.network.borrow().families.contains(&Family::V6);
        let (near, far) = addresses.into_iter().partition(|e| self.is_lan(&e.addr()));
        let mut sorted = interleave(near, has_v6);
        sorted.extend(interleave(far, has_v6));
        sorted
    }

    /// A peer's addresses of one family that make sense from here.
    pub(crate) fn addresses_of(&self, peer: PeerId, family: Family) -> Vec<SocketAddr> {
        let found = self.whereabouts(peer);
        let udp = found.direct.iter().chain(&found.told).filter_map(|e| {
            let Endpoint::Udp(addr) = e else {
                return None;
            };
            Some(*addr)
        });
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for addr in udp.filter(|a| Family::of(a) == family && self.may_probe(a)) {
            if !addresses.contains(&addr) && addresses.len() < MAX_RECORD_ADDRESSES {
                addresses.push(addr);
            }
        }
        addresses
    }

    /// A session's peer told its record: it may have addresses that were not known.
    pub(super) fn peer_told(&self, peer: PeerId) {
        if let Some(conn) = self.current(peer) {
            // A full queue means that the driver has more urgent things to do.
            let _ = conn.commands.try_send(Command::PeerTold);
        }
        if self.book().attachments().any(|relay| relay == peer) {
            self.record_changed();
        }
    }
}

/// The families in turns, each in its order.
pub(super) fn interleave(addresses: Vec<Endpoint>, v6_first: bool) -> Vec<Endpoint> {
    let (v6, v4): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|e| e.addr().is_ipv6());
    let (mut first, mut second) = if v6_first {
        (v6.into_iter(), v4.into_iter())
    } else {
        (v4.into_iter(), v6.into_iter())
    };
    let mut sorted = Vec::new();
    loop {
        match (first.next(), second.next()) {
            (None, None) => return sorted,
            (a, b) => sorted.extend(a.into_iter().chain(b)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(addresses: &[&str], v6_first: bool) -> Vec<String> {
        let addresses = addresses
            .iter()
            .map(|a| Endpoint::Udp(a.parse().unwrap()))
            .collect();
        let sorted = interleave(addresses, v6_first).into_iter();
        sorted.map(|e| e.addr().to_string()).collect()
    }

    #[test]
    fn families_take_turns_and_the_longer_one_ends_the_list() {
        let addresses = [
            "192.0.2.1:1",
            "192.0.2.2:1",
            "[2001:db8::1]:1",
            "192.0.2.3:1",
        ];
        assert_eq!(
            sorted(&addresses, true),
            [
                "[2001:db8::1]:1",
                "192.0.2.1:1",
                "192.0.2.2:1",
                "192.0.2.3:1"
            ]
        );
        assert_eq!(
            sorted(&addresses, false),
            [
                "192.0.2.1:1",
                "[2001:db8::1]:1",
                "192.0.2.2:1",
                "192.0.2.3:1"
            ]
        );
        assert_eq!(sorted(&[], true), [""; 0]);
    }
}
