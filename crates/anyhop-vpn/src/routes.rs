//! Prefixes, and whose they are: the longest one that contains an address decides.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use thiserror::Error;

use crate::Slot;

/// Addresses that begin alike, of any length. Bits behind the length are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    first: IpAddr,
    len: u8,
}

/// The text is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no prefix: write ADDRESS/LENGTH, such as 192.168.7.0/24 or fd00::/64")]
pub struct BadPrefix(pub String);

impl Prefix {
    /// The prefix of this length around an address; `None` when its family has no such
    /// length.
    #[must_use]
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        let (bits, width) = bits(address);
        let first = bits & mask(len, width)?;
        let first = match address {
            // Of 32 bits, as they came.
            IpAddr::V4(_) => Ipv4Addr::from_bits(first as u32).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(first).into(),
        };
        Some(Self { first, len })
    }

    /// One address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        let (_, len) = bits(address);
        Self {
            first: address,
            len,
        }
    }

    /// Its first address.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// Bits that are fixed.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "the field's term; no prefix is empty"
    )]
    pub fn len(&self) -> u8 {
        self.len
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::new(address, self.len) == Some(*self)
    }

    /// Whether the two share addresses.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first) && self.len <= other.len || other.contains(self.first)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.len)
    }
}

impl FromStr for Prefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadPrefix(text.to_owned());
        let (address, len) = text.split_once('/').ok_or_else(bad)?;
        let address = address.parse().map_err(|_| bad())?;
        let len = len.parse().map_err(|_| bad())?;
        Self::new(address, len).ok_or_else(bad)
    }
}

/// An address as a number, and how many bits it has.
fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    }
}

fn mask(len: u8, width: u8) -> Option<u128> {
    let free = u32::from(width.checked_sub(len)?);
    Some(u128::MAX.checked_shl(free).unwrap_or(0))
}

/// Prefixes of peers.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    v4: Family,
    v6: Family,
}

/// By length, then by first address.
type Family = BTreeMap<u8, BTreeMap<u128, Slot>>;

impl Routes {
    /// Gives a prefix to a peer; answers whose it was.
    pub fn insert(&mut self, prefix: Prefix, slot: Slot) -> Option<Slot> {
        let (first, _) = bits(prefix.first);
        let family = self.family_mut(prefix.first);
        family.entry(prefix.len).or_default().insert(first, slot)
    }

    /// Takes all prefixes of a peer out.
    pub fn remove(&mut self, slot: Slot) {
        for family in [&mut self.v4, &mut self.v6] {
            family.retain(|_, of_len| {
                of_len.retain(|_, s| *s != slot);
                !of_len.is_empty()
            });
        }
    }

    /// Whose an address is.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<Slot> {
        let (value, width) = bits(address);
        let family = match address {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        family
            .iter()
            .rev()
            .find_map(|(len, of_len)| of_len.get(&(value & mask(*len, width)?)).copied())
    }

    /// Whose exactly this prefix is.
    #[must_use]
    pub fn owner(&self, prefix: Prefix) -> Option<Slot> {
        let (first, _) = bits(prefix.first);
        let family = match prefix.first {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        family.get(&prefix.len)?.get(&first).copied()
    }

    fn family_mut(&mut self, of: IpAddr) -> &mut Family {
        match of {
            IpAddr::V4(_) => &mut self.v4,
            IpAddr::V6(_) => &mut self.v6,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_decides_and_families_are_apart() {
        let mut routes = Routes::default();
        for (text, slot) in [
            ("0.0.0.0/0", 0),
            ("10.0.0.0/8", 1),
            ("10.1.0.0/17", 2),
            ("10.1.2.3/32", 3),
            ("fd00::/7", 4),
        ] {
            assert_eq!(routes.insert(prefix(text), slot), None);
        }
        for (address, slot) in [
            ("10.1.2.3", Some(3)),
            ("10.1.2.4", Some(2)),
            ("10.1.200.4", Some(1)),
            ("192.0.2.1", Some(0)),
            ("fdff::1", Some(4)),
            ("2001:db8::1", None),
        ] {
            assert_eq!(routes.find(ip(address)), slot, "{address}");
        }
        assert_eq!(routes.insert(prefix("10.0.0.0/8"), 9), Some(1));
        routes.remove(3);
        assert_eq!(routes.find(ip("10.1.2.3")), Some(2));
        assert_eq!(routes.owner(prefix("10.0.0.0/8")), Some(9));
        assert_eq!(routes.owner(prefix("10.0.0.0/9")), None);
    }

    #[test]
    fn prefixes_are_read_as_they_are_shown() {
        for text in [
            "100.64.0.0/10",
            "0.0.0.0/0",
            "::/0",
            "fd00::/127",
            "10.0.0.1/32",
        ] {
            assert_eq!(prefix(text).to_string(), text);
        }
        assert_eq!(prefix("10.1.2.3/8").to_string(), "10.0.0.0/8");
        for bad in [
            "",
            "10.0.0.1",
            "10.0.0.1/33",
            "fd00::/129",
            "x/8",
            "10.0.0.0/-1",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn overlaps_are_seen_from_both_sides() {
        for (one, other, overlap) in [
            ("100.64.0.0/10", "100.80.0.0/16", true),
            ("100.80.0.0/16", "100.81.0.0/16", false),
            ("0.0.0.0/0", "10.0.0.0/8", true),
            ("::/0", "10.0.0.0/8", false),
        ] {
            let (one, other) = (prefix(one), prefix(other));
            assert_eq!(one.overlaps(&other), overlap, "{one} {other}");
            assert_eq!(other.overlaps(&one), overlap, "{other} {one}");
        }
    }

    proptest! {
        /// Agrees with looking at all prefixes.
        #[test]
        fn the_table_finds_what_a_search_finds(
            prefixes in prop::collection::vec((any::<u32>(), 0_u8..=32), 1..40),
            address in any::<u32>(),
            near in any::<prop::sample::Index>(),
            flip in 0_u32..32,
        ) {
            let mut routes = Routes::default();
            let mut all = BTreeMap::new();
            for (slot, (first, len)) in (0..).zip(&prefixes) {
                let prefix = Prefix::new(Ipv4Addr::from_bits(*first).into(), *len).unwrap();
                routes.insert(prefix, slot);
                all.insert((prefix.len(), prefix), slot);
            }
            let near = near.get(&prefixes).0 ^ (1 << flip);
            for address in [address, near] {
                let address = IpAddr::from(Ipv4Addr::from_bits(address));
                let fitting = all.iter().filter(|((_, p), _)| p.contains(address));
                let expected = fitting.max_by_key(|((len, _), _)| *len).map(|(_, slot)| *slot);
                prop_assert_eq!(routes.find(address), expected);
            }
        }
    }
}
