//! How many TCP connections others may hold here, all together and from one address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex},
};

/// Connections of others at once, WebSockets included.
pub(super) const MAX_CONNECTIONS: usize = 1024;
/// Of these, from one IPv4 address or IPv6 /64: a company behind one address has room, and
/// eight hosts are needed to fill a node.
pub(super) const MAX_PER_HOST: usize = 128;

/// The places that are taken.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_host: HashMap<IpAddr, usize>,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    host: IpAddr,
}

impl Places {
    /// A place for a connection from `ip`; `None` when a limit is reached.
    pub(super) fn take(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let host = host_of(ip);
        let mut taken = self.taken.lock().expect("no holder panics");
        let of_host = taken.by_host.get(&host).copied().unwrap_or_default();
        if taken.all >= MAX_CONNECTIONS || of_host >= MAX_PER_HOST {
            return None;
        }
        taken.all += 1;
        taken.by_host.insert(host, of_host + 1);
        Some(Place {
            places: Arc::clone(self),
            host,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().expect("no holder panics");
        taken.all -= 1;
        if let Some(of_host) = taken.by_host.get_mut(&self.host) {
            *of_host -= 1;
            if *of_host == 0 {
                taken.by_host.remove(&self.host);
            }
        }
    }
}

/// What one host can choose its addresses from counts as one.
fn host_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_host_cannot_take_all_places_and_gives_its_own_back() {
        let places = Arc::new(Places::default());
        let mut held: Vec<_> = (0..MAX_PER_HOST)
            .map(|n| places.take(ip(&format!("2001:db8::{n:x}"))).unwrap())
            .collect();
        assert!(places.take(ip("2001:db8::ffff")).is_none());
        assert!(places.take(ip("2001:db8:0:1::1")).is_some());
        held.pop();
        assert!(places.take(ip("2001:db8::1")).is_some());
        held.clear();
        assert!(places.taken.lock().unwrap().by_host.is_empty());
    }

    #[test]
    fn all_hosts_together_stay_within_the_limit() {
        let places = Arc::new(Places::default());
        let held: Vec<_> = (0..=MAX_CONNECTIONS)
            .filter_map(|n| places.take(ip(&format!("10.0.{}.{}", n / 250, n % 250))))
            .collect();
        assert_eq!(held.len(), MAX_CONNECTIONS);
    }
}
