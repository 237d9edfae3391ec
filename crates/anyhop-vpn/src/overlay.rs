//! Which addresses the members of a network have.
//!
//! Everybody computes them alike from what everybody knows, so that nobody hands them out:
//! the network's id gives a slice of 100.64.0.0/10 and a unique local IPv6 prefix (RFC 4193,
//! the hash in place of its random bits), a member's PeerId its place in both. Where the
//! places of two collide, who has been a member for longer keeps it. Addresses in a
//! member's certificate take precedence; they may lie anywhere.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhop_base::{NetworkId, PeerId};
use aws_lc_rs::digest;

use crate::Prefix;

/// Length of a network's IPv4 prefix.
pub const V4_PREFIX_LEN: u8 = 16;
/// Length of a network's IPv6 prefix.
pub const V6_PREFIX_LEN: u8 = 64;

/// What is hashed before anything else.
const DOMAIN: &[u8] = b"anyhop-overlay/1";
/// Slices of this length that 100.64.0.0/10 has.
const V4_SLICES: u8 = 64;

/// The address space of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlay {
    network: NetworkId,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

/// A member and its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub peer: PeerId,
    /// Its IPv4 address; `None` when the network has more members than addresses.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Further ones from its certificate.
    pub others: Vec<IpAddr>,
}

impl Member {
    /// All its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.map(IpAddr::V4);
        let others = self.others.iter().copied();
        v4.into_iter().chain([IpAddr::V6(self.v6)]).chain(others)
    }
}

impl Overlay {
    /// That of a network.
    #[must_use]
    pub fn of(network: NetworkId) -> Self {
        let hash = hash(&[network.as_bytes()]);
        let mut v6 = [0; 16];
        v6[0] = 0xfd;
        v6[1..6].copy_from_slice(&hash[1..6]);
        Self {
            network,
            v4: Ipv4Addr::new(100, 64 + hash[0] % V4_SLICES, 0, 0),
            v6: v6.into(),
        }
    }

    /// Its IPv4 addresses.
    #[must_use]
    pub fn v4(&self) -> Prefix {
        Prefix::new(self.v4.into(), V4_PREFIX_LEN).expect("a length that IPv4 has")
    }

    /// Its IPv6 addresses.
    #[must_use]
    pub fn v6(&self) -> Prefix {
        Prefix::new(self.v6.into(), V6_PREFIX_LEN).expect("a length that IPv6 has")
    }

    /// The addresses of members, who come with those of their certificates, the one with the
    /// best right to an address first. Answers them in the same order.
    #[must_use]
    pub fn assign(&self, members: &[(PeerId, Vec<IpAddr>)]) -> Vec<Member> {
        let certified = members.iter().flat_map(|(_, certified)| certified);
        let mut taken: BTreeSet<IpAddr> = certified.copied().collect();
        let assign = |(peer, certified): &(PeerId, Vec<IpAddr>)| {
            let first_v4 = certified.iter().find_map(|ip| match ip {
                IpAddr::V4(ip) => Some(*ip),
                IpAddr::V6(_) => None,
            });
            let first_v6 = certified.iter().find_map(|ip| match ip {
                IpAddr::V6(ip) => Some(*ip),
                IpAddr::V4(_) => None,
            });
            let v4 = first_v4.or_else(|| self.free_v4(peer, &mut taken));
            let v6 = first_v6.unwrap_or_else(|| self.free_v6(peer, &mut taken));
            let used = [v4.map(IpAddr::V4), Some(IpAddr::V6(v6))];
            let others = certified.iter().filter(|ip| !used.contains(&Some(**ip)));
            Member {
                peer: *peer,
                v4,
                v6,
                others: others.copied().collect(),
            }
        };
        members.iter().map(assign).collect()
    }

    /// The member's own place, or the next free one behind it.
    fn free_v4(&self, peer: &PeerId, taken: &mut BTreeSet<IpAddr>) -> Option<Ipv4Addr> {
        let hash = self.place(peer, 4);
        let start = u16::from_be_bytes([hash[0], hash[1]]);
        let places = (0..=u16::MAX).map(|n| start.wrapping_add(n));
        // Network and broadcast address.
        let mut usable = places.filter(|place| !matches!(*place, 0 | u16::MAX));
        usable.find_map(|place| {
            let ip = Ipv4Addr::from_bits(self.v4.to_bits() | u32::from(place));
            taken.insert(ip.into()).then_some(ip)
        })
    }

    fn free_v6(&self, peer: &PeerId, taken: &mut BTreeSet<IpAddr>) -> Ipv6Addr {
        let hash = self.place(peer, 6);
        let mut place = u64::from_be_bytes(hash[..8].try_into().expect("8 bytes of 32"));
        loop {
            // Zero is the routers' anycast address (RFC 4291 section 2.6.1).
            place = place.max(1);
            let ip = Ipv6Addr::from_bits(self.v6.to_bits() | u128::from(place));
            if taken.insert(ip.into()) {
                return ip;
            }
            place = place.wrapping_add(1);
        }
    }

    fn place(&self, peer: &PeerId, family: u8) -> [u8; 32] {
        hash(&[self.network.as_bytes(), &[family], &peer.to_bytes()])
    }
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(DOMAIN);
    parts.iter().for_each(|part| hash.update(part));
    let hash = hash.finish();
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use anyhop_base::{Keypair, NetworkName};

    use super::*;

    fn peer(seed: u16) -> PeerId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&seed.to_be_bytes());
        let key = Keypair::ed25519_from_bytes(bytes).unwrap();
        key.public().to_peer_id()
    }

    fn overlay() -> Overlay {
        Overlay::of(NetworkName::new("home").unwrap().id())
    }

    fn members(count: u16) -> Vec<(PeerId, Vec<IpAddr>)> {
        (0..count).map(|n| (peer(n), Vec::new())).collect()
    }

    #[test]
    fn addresses_are_these_for_ever() {
        let overlay = overlay();
        let one = &overlay.assign(&members(1))[0];
        let got = (overlay.v4().to_string(), overlay.v6().to_string());
        assert_eq!(
            (&*got.0, &*got.1),
            ("100.113.0.0/16", "fd99:ef32:18d1::/64")
        );
        assert_eq!(one.v4.unwrap().to_string(), "100.113.254.123");
        assert_eq!(one.v6.to_string(), "fd99:ef32:18d1:0:ea91:a28d:9cdf:edcb");
    }

    #[test]
    fn nobody_shares_an_address_and_newcomers_move_nobody() {
        let overlay = overlay();
        let many = overlay.assign(&members(2000));
        let distinct: BTreeSet<_> = many.iter().flat_map(Member::addresses).collect();
        assert_eq!(distinct.len(), 4000);
        let own = |m: &Member| overlay.assign(&[(m.peer, Vec::new())])[0].v4 == m.v4;
        let moved = many.iter().filter(|m| !own(m)).count();
        assert!(moved > 0, "so many are bound to collide");
        assert_eq!(overlay.assign(&members(1000)), many[..1000]);
        for member in &many {
            assert!(overlay.v4().contains(member.v4.unwrap().into()));
            assert!(overlay.v6().contains(member.v6.into()));
        }
    }

    #[test]
    fn a_certificate_decides_and_its_addresses_are_nobody_elses() {
        let overlay = overlay();
        let wanted = overlay.assign(&members(1))[0].v4.unwrap();
        let foreign: IpAddr = "10.9.8.7".parse().unwrap();
        let later = (peer(1), vec![IpAddr::V4(wanted), foreign]);
        let both = overlay.assign(&[(peer(0), Vec::new()), later]);
        assert_eq!(both[1].v4, Some(wanted));
        assert_eq!(both[1].others, [foreign]);
        assert_ne!(both[0].v4, Some(wanted));
    }

    #[test]
    fn a_network_that_is_full_leaves_members_without_ipv4() {
        let overlay = overlay();
        let prefix = overlay.v4.to_bits();
        let all = (0..=u16::MAX).map(|n| Ipv4Addr::from_bits(prefix | u32::from(n)).into());
        let hoarder = (peer(0), all.collect());
        let members = overlay.assign(&[hoarder, (peer(1), Vec::new())]);
        assert_eq!(members[1].v4, None);
        assert!(overlay.v6().contains(members[1].v6.into()));
    }
}
