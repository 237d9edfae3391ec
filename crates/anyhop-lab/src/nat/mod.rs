//! A NAT box as a pure machine, described in the words of RFC 4787.
//!
//! The box owns one external address per family. A datagram that leaves goes
//! through [`Nat::outbound`], which finds or makes a mapping and answers the
//! external source; one that arrives goes through [`Nat::inbound`], which answers
//! the internal destination if there is a mapping and the filter lets it in.
//! Mappings live for [`NatConfig::lifetime`] after the last *outbound* datagram
//! (RFC 4787 REQ-6); what comes in refreshes them only if it is told to.
//!
//! As a firewall for IPv6 it maps each address to itself. Port mappings that were asked
//! for ([`Nat::map`]) let everybody in and serve what leaves from there too (RFC 6887).
//!
//! It has no clock and no entropy of its own: time is an argument, randomness a seed.

mod config;
#[cfg(test)]
mod punch_tests;
#[cfg(test)]
mod tests;

pub use config::{Filtering, Mapping, NatConfig, Passage, PortAllocation, PortMapping};

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use thiserror::Error;

/// Remote endpoints one mapping's filter remembers. Above it the box refuses to
/// send to yet another until some have expired.
pub const MAX_REMOTES_PER_MAPPING: usize = 16_384;

/// Remote endpoints shut out at once, by a box that does so; above it no more are.
pub const MAX_BLOCKED: usize = 16_384;

/// Random ports tried before the free ones are searched in order.
const MAX_RANDOM_TRIES: usize = 32;

/// Why a NAT dropped a datagram. Its state is as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Error)]
#[non_exhaustive]
pub enum NatDrop {
    /// The box has no external address of the destination's family.
    #[error("no external address of the family")]
    NoAddress,
    /// The mapping table, a mapping's filter or the port range is full.
    #[error("no room for another mapping")]
    TableFull,
    /// From inside to the box's own external address, with hairpinning off.
    #[error("no hairpinning")]
    NoHairpin,
    /// From outside to a port that nothing inside has mapped.
    #[error("no mapping")]
    NoMapping,
    /// From outside to a mapping whose filter does not know the sender.
    #[error("filtered")]
    Filtered,
    /// From outside, from somebody who came unasked before.
    #[error("blocked since it came unasked")]
    Blocked,
}

/// Why a NAT refused a port mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MapRefused {
    /// It offers none.
    #[error("the gateway offers no port mappings")]
    Unsupported,
    /// The table or the port range is full.
    #[error("the gateway has no room for another mapping")]
    TableFull,
    /// It has no external address of the family.
    #[error("the gateway has no external address of the family")]
    NoAddress,
}

/// What a mapping or a filter entry is bound to on the remote side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Remote {
    Any,
    Address(IpAddr),
    Endpoint(SocketAddr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    internal: SocketAddr,
    remote: Remote,
}

#[derive(Debug)]
struct Binding {
    external: SocketAddr,
    expires: Instant,
    /// Until when the filter lets each remote in.
    admitted: BTreeMap<Remote, Instant>,
}

/// A NAT box; see the [module](self).
#[derive(Debug)]
pub struct Nat {
    config: NatConfig,
    external: Vec<IpAddr>,
    rng: StdRng,
    /// Where sequential allocation goes on.
    next_port: u16,
    /// Until when the ports that others opened are counted in `next_port`.
    counted_to: Option<Instant>,
    bindings: BTreeMap<Key, Binding>,
    by_external: BTreeMap<SocketAddr, Key>,
    /// Port mappings that were asked for, by external address.
    requested: BTreeMap<SocketAddr, Requested>,
    /// Until when an external address hears nothing of a remote one.
    blocked: BTreeMap<(SocketAddr, SocketAddr), Instant>,
}

#[derive(Debug)]
struct Requested {
    internal: SocketAddr,
    expires: Instant,
}

impl Nat {
    /// A box with `external` addresses (the first of each family is used) and no mappings.
    #[must_use]
    pub fn new(config: NatConfig, external: &[IpAddr], seed: u64) -> Self {
        Self {
            next_port: *config.ports.start(),
            config,
            external: external.to_vec(),
            rng: StdRng::seed_from_u64(seed),
            counted_to: None,
            bindings: BTreeMap::new(),
            by_external: BTreeMap::new(),
            requested: BTreeMap::new(),
            blocked: BTreeMap::new(),
        }
    }

    /// How the box behaves.
    #[must_use]
    pub fn config(&self) -> &NatConfig {
        &self.config
    }

    /// Its external addresses.
    #[must_use]
    pub fn external(&self) -> &[IpAddr] {
        &self.external
    }

    /// Forgets all mappings, as a reboot does.
    pub fn reset(&mut self) {
        self.bindings.clear();
        self.by_external.clear();
        self.requested.clear();
        self.blocked.clear();
        self.next_port = *self.config.ports.start();
    }

    /// Changes the external addresses; all mappings are forgotten.
    pub fn renumber(&mut self, external: &[IpAddr]) {
        self.external = external.to_vec();
        self.reset();
    }

    /// What becomes of datagrams from an address inside.
    #[must_use]
    pub fn passage(&self, inside: IpAddr) -> Passage {
        if inside.is_ipv6() && self.config.ipv6_firewall.is_some() {
            Passage::Untranslated
        } else if self.address_for(inside).is_some() {
            Passage::Translated
        } else {
            Passage::Blocked
        }
    }

    /// Live mappings.
    #[must_use]
    pub fn mappings(&self, now: Instant) -> usize {
        self.bindings.values().filter(|b| b.expires > now).count()
    }

    /// Takes a datagram from inside and answers the external source it leaves with.
    /// When `dst` is the box's own external address, the caller passes the result on
    /// to [`inbound`](Self::inbound).
    pub fn outbound(
        &mut self,
        now: Instant,
        src: SocketAddr,
        dst: SocketAddr,
    ) -> Result<SocketAddr, NatDrop> {
        if !self.config.hairpin && self.external.contains(&dst.ip()) {
            return Err(NatDrop::NoHairpin);
        }
        if let Some(external) = self.requested_for(now, src) {
            return Ok(external);
        }
        let key = self.key(src, dst);
        if self.bindings.get(&key).is_none_or(|b| b.expires <= now) {
            self.bind(now, key)?;
        }
        let expires = now + self.config.lifetime;
        let admit = self.admission(dst);
        let binding = self
            .bindings
            .get_mut(&key)
            .expect("found or made just above");
        binding.admit(now, admit, expires)?;
        binding.expires = expires;
        Ok(binding.external)
    }

    /// Whether a datagram from inside would need no new mapping.
    #[must_use]
    pub fn is_mapped(&self, now: Instant, src: SocketAddr, dst: SocketAddr) -> bool {
        let binding = self.bindings.get(&self.key(src, dst));
        binding.is_some_and(|b| b.expires > now) || self.requested_for(now, src).is_some()
    }

    /// Makes, renews or (with a lifetime of zero) removes a mapping that a host inside
    /// asked for. `wanted` is the external port, 0 for any; another is given if it is
    /// taken.
    ///
    /// # Errors
    /// If the box offers none or has no room. A [lying](PortMapping::Lying) box answers
    /// as an honest one.
    pub fn map(
        &mut self,
        now: Instant,
        internal: SocketAddr,
        wanted: u16,
        lifetime: Duration,
    ) -> Result<SocketAddr, MapRefused> {
        if self.config.port_mapping == PortMapping::Unsupported {
            return Err(MapRefused::Unsupported);
        }
        let ip = self
            .address_for(internal.ip())
            .ok_or(MapRefused::NoAddress)?;
        self.requested.retain(|_, r| r.expires > now);
        let old = self.requested_for(now, internal);
        let external = match old {
            Some(external) => external,
            None if wanted != 0 && self.is_free(ip, wanted) => SocketAddr::new(ip, wanted),
            None => {
                let port = self.first_free(ip, internal.port());
                SocketAddr::new(ip, port.ok_or(MapRefused::TableFull)?)
            }
        };
        if lifetime.is_zero() {
            self.requested.remove(&external);
        } else if self.config.port_mapping == PortMapping::Honest {
            if old.is_none() && self.requested.len() >= self.config.max_mappings {
                return Err(MapRefused::TableFull);
            }
            let expires = now + lifetime;
            self.requested
                .insert(external, Requested { internal, expires });
        }
        Ok(external)
    }

    /// Takes a datagram from outside, addressed to one of the box's external
    /// addresses, and answers the internal destination.
    pub fn inbound(
        &mut self,
        now: Instant,
        src: SocketAddr,
        dst: SocketAddr,
    ) -> Result<SocketAddr, NatDrop> {
        if let Some(requested) = self.requested.get(&dst).filter(|r| r.expires > now) {
            return Ok(requested.internal);
        }
        if self.blocked.get(&(dst, src)).is_some_and(|t| *t > now) {
            return Err(NatDrop::Blocked);
        }
        let admitted = self.admit(now, src, dst);
        if let (Err(_), Some(duration)) = (admitted, self.config.unsolicited_blocked) {
            self.blocked.retain(|_, t| *t > now);
            if self.blocked.len() < MAX_BLOCKED {
                self.blocked.insert((dst, src), now + duration);
            }
        }
        admitted
    }

    /// What the mapping and its filter say of a datagram from outside.
    fn admit(
        &mut self,
        now: Instant,
        src: SocketAddr,
        dst: SocketAddr,
    ) -> Result<SocketAddr, NatDrop> {
        let key = self.by_external.get(&dst).ok_or(NatDrop::NoMapping)?;
        let remote = self.admission(src);
        let binding = self
            .bindings
            .get_mut(key)
            .filter(|b| b.expires > now)
            .ok_or(NatDrop::NoMapping)?;
        let admitted = binding.admitted.get_mut(&remote).filter(|t| **t > now);
        if remote != Remote::Any && admitted.is_none() {
            return Err(NatDrop::Filtered);
        }
        if self.config.inbound_refresh {
            let expires = now + self.config.lifetime;
            binding.expires = expires;
            if let Some(until) = admitted {
                *until = expires;
            }
        }
        Ok(key.internal)
    }

    /// Which mapping a datagram from inside uses.
    fn key(&self, src: SocketAddr, dst: SocketAddr) -> Key {
        let remote = match self.config.mapping {
            _ if self.passage(src.ip()) == Passage::Untranslated => Remote::Any,
            Mapping::EndpointIndependent => Remote::Any,
            Mapping::AddressDependent => Remote::Address(dst.ip()),
            Mapping::AddressAndPortDependent => Remote::Endpoint(dst),
        };
        Key {
            internal: src,
            remote,
        }
    }

    /// What the filter has to know to let `remote` in.
    fn admission(&self, remote: SocketAddr) -> Remote {
        let of_family = self.config.ipv6_firewall.filter(|_| remote.is_ipv6());
        match of_family.unwrap_or(self.config.filtering) {
            Filtering::EndpointIndependent => Remote::Any,
            Filtering::AddressDependent => Remote::Address(remote.ip()),
            Filtering::AddressAndPortDependent => Remote::Endpoint(remote),
        }
    }

    fn requested_for(&self, now: Instant, internal: SocketAddr) -> Option<SocketAddr> {
        let mut live = self.requested.iter().filter(|(_, r)| r.expires > now);
        live.find(|(_, r)| r.internal == internal).map(|(e, _)| *e)
    }

    fn address_for(&self, remote: IpAddr) -> Option<IpAddr> {
        let mut of_family = self.external.iter().copied();
        of_family.find(|ip| ip.is_ipv4() == remote.is_ipv4())
    }

    /// Makes a fresh mapping for `key`.
    fn bind(&mut self, now: Instant, key: Key) -> Result<(), NatDrop> {
        self.purge(now);
        let inside = key.internal.ip();
        let limit = self.config.max_mappings_per_host;
        let of_host = self.bindings.keys().filter(|k| k.internal.ip() == inside);
        if self.bindings.len() >= self.config.max_mappings || of_host.count() >= limit {
            return Err(NatDrop::TableFull);
        }
        let external = match self.passage(inside) {
            Passage::Untranslated => key.internal,
            Passage::Blocked => return Err(NatDrop::NoAddress),
            Passage::Translated => {
                let ip = self.address_for(inside).ok_or(NatDrop::NoAddress)?;
                let port = self.allocate(now, ip, key.internal.port());
                SocketAddr::new(ip, port.ok_or(NatDrop::TableFull)?)
            }
        };
        self.by_external.insert(external, key);
        let binding = Binding {
            external,
            expires: now + self.config.lifetime,
            admitted: BTreeMap::new(),
        };
        self.bindings.insert(key, binding);
        Ok(())
    }

    fn purge(&mut self, now: Instant) {
        let by_external = &mut self.by_external;
        self.bindings.retain(|_, b| {
            let live = b.expires > now;
            if !live {
                by_external.remove(&b.external);
            }
            live
        });
    }

    fn allocate(&mut self, now: Instant, ip: IpAddr, internal: u16) -> Option<u16> {
        self.count_others(now);
        match self.config.allocation {
            PortAllocation::Preserving if self.is_free(ip, internal) => Some(internal),
            PortAllocation::Preserving | PortAllocation::Sequential => {
                let port = self.first_free(ip, self.next_port)?;
                self.next_port = self.after(port);
                Some(port)
            }
            PortAllocation::Random => {
                for _ in 0..MAX_RANDOM_TRIES {
                    let port = self.rng.random_range(self.config.ports.clone());
                    if self.is_free(ip, port) {
                        return Some(port);
                    }
                }
                let from = self.rng.random_range(self.config.ports.clone());
                self.first_free(ip, from)
            }
        }
    }

    /// Moves on by the ports that others opened since the last time: arrivals of a
    /// Poisson process.
    fn count_others(&mut self, now: Instant) {
        let since = self.counted_to.replace(now);
        let (rate, Some(since)) = (self.config.other_traffic, since) else {
            return;
        };
        if rate <= 0.0 {
            return;
        }
        let mut left = now.saturating_duration_since(since).as_secs_f64() * rate;
        for _ in self.config.ports.clone() {
            left += self.rng.random_range(f64::MIN_POSITIVE..1.0).ln();
            if left <= 0.0 {
                break;
            }
            self.next_port = self.after(self.next_port);
        }
    }

    fn is_free(&self, ip: IpAddr, port: u16) -> bool {
        let external = SocketAddr::new(ip, port);
        !self.by_external.contains_key(&external) && !self.requested.contains_key(&external)
    }

    fn first_free(&self, ip: IpAddr, from: u16) -> Option<u16> {
        let mut port = from;
        for _ in self.config.ports.clone() {
            if self.is_free(ip, port) {
                return Some(port);
            }
            port = self.after(port);
        }
        None
    }

    fn after(&self, port: u16) -> u16 {
        if port >= *self.config.ports.end() {
            *self.config.ports.start()
        } else {
            port + 1
        }
    }
}

impl Binding {
    fn admit(&mut self, now: Instant, remote: Remote, expires: Instant) -> Result<(), NatDrop> {
        if remote == Remote::Any {
            return Ok(());
        }
        if self.admitted.len() >= MAX_REMOTES_PER_MAPPING && !self.admitted.contains_key(&remote) {
            self.admitted.retain(|_, t| *t > now);
            if self.admitted.len() >= MAX_REMOTES_PER_MAPPING {
                return Err(NatDrop::TableFull);
            }
        }
        self.admitted.insert(remote, expires);
        Ok(())
    }
}
