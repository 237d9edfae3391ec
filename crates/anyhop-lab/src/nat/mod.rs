//! A NAT box as a pure machine, described in the words of RFC 4787.
//!
//! The box owns one external address per family. A datagram that leaves goes
//! through [`Nat::outbound`], which finds or makes a mapping and answers the
//! external source; one that arrives goes through [`Nat::inbound`], which answers
//! the internal destination if there is a mapping and the filter lets it in.
//! Mappings live for [`NatConfig::lifetime`] after the last *outbound* datagram
//! (RFC 4787 REQ-6); what comes in does not refresh them.
//!
//! It has no clock and no entropy of its own: time is an argument, randomness a seed.

mod config;
#[cfg(test)]
mod tests;

pub use config::{Filtering, Mapping, NatConfig, PortAllocation};

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use thiserror::Error;

/// Remote endpoints one mapping's filter remembers. Above it the box refuses to
/// send to yet another until some have expired.
pub const MAX_REMOTES_PER_MAPPING: usize = 16_384;

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
    bindings: BTreeMap<Key, Binding>,
    by_external: BTreeMap<SocketAddr, Key>,
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
            bindings: BTreeMap::new(),
            by_external: BTreeMap::new(),
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
        self.next_port = *self.config.ports.start();
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
        let ip = self.address_for(dst.ip()).ok_or(NatDrop::NoAddress)?;
        if !self.config.hairpin && self.external.contains(&dst.ip()) {
            return Err(NatDrop::NoHairpin);
        }
        let key = Key {
            internal: src,
            remote: match self.config.mapping {
                Mapping::EndpointIndependent => Remote::Any,
                Mapping::AddressDependent => Remote::Address(dst.ip()),
                Mapping::AddressAndPortDependent => Remote::Endpoint(dst),
            },
        };
        if self.bindings.get(&key).is_none_or(|b| b.expires <= now) {
            self.bind(now, key, ip)?;
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

    /// Takes a datagram from outside, addressed to one of the box's external
    /// addresses, and answers the internal destination.
    pub fn inbound(
        &self,
        now: Instant,
        src: SocketAddr,
        dst: SocketAddr,
    ) -> Result<SocketAddr, NatDrop> {
        let key = self.by_external.get(&dst).ok_or(NatDrop::NoMapping)?;
        let binding = self
            .bindings
            .get(key)
            .filter(|b| b.expires > now)
            .ok_or(NatDrop::NoMapping)?;
        let admitted = match self.admission(src) {
            Remote::Any => true,
            remote => binding.admitted.get(&remote).is_some_and(|t| *t > now),
        };
        if admitted {
            Ok(key.internal)
        } else {
            Err(NatDrop::Filtered)
        }
    }

    /// What the filter has to know to let `remote` in.
    fn admission(&self, remote: SocketAddr) -> Remote {
        match self.config.filtering {
            Filtering::EndpointIndependent => Remote::Any,
            Filtering::AddressDependent => Remote::Address(remote.ip()),
            Filtering::AddressAndPortDependent => Remote::Endpoint(remote),
        }
    }

    fn address_for(&self, remote: IpAddr) -> Option<IpAddr> {
        let mut of_family = self.external.iter().copied();
        of_family.find(|ip| ip.is_ipv4() == remote.is_ipv4())
    }

    /// Makes a fresh mapping for `key` on the external address `ip`.
    fn bind(&mut self, now: Instant, key: Key, ip: IpAddr) -> Result<(), NatDrop> {
        self.purge(now);
        if self.bindings.len() >= self.config.max_mappings {
            return Err(NatDrop::TableFull);
        }
        let port = self
            .allocate(ip, key.internal.port())
            .ok_or(NatDrop::TableFull)?;
        let external = SocketAddr::new(ip, port);
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

    fn allocate(&mut self, ip: IpAddr, internal: u16) -> Option<u16> {
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

    fn is_free(&self, ip: IpAddr, port: u16) -> bool {
        !self.by_external.contains_key(&SocketAddr::new(ip, port))
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
