//! The label table: what becomes of a datagram that arrives on a circuit.
//!
//! Lookups take `&self` and touch only atomics, so that the shell can serve the data
//! path under a shared lock; the control path mutates under an exclusive one.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use super::{
    rate::RateLimit,
    share::{Capacity, Flow, Shares, Standing},
};
use crate::{datagram::Label, virtual_address::Kind};

/// One connection to a neighbour that carries circuits.
pub type LinkId = u64;

const KIND: Kind = Kind(0x7001);

/// A circuit that ends at this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CircuitId(pub u64);

impl CircuitId {
    /// The address under which the engine knows this circuit.
    #[must_use]
    pub fn address(self) -> SocketAddr {
        KIND.address(self.0)
    }

    /// The circuit behind an address of the engine, if it is one.
    #[must_use]
    pub fn from_address(addr: &SocketAddr) -> Option<Self> {
        KIND.id(addr).map(Self)
    }
}

/// Why a labelled datagram is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// Nobody was given this label.
    UnknownLabel,
    /// It came from another address than its link's.
    WrongLink,
    /// The next link is gone.
    NoLink,
    /// Above the circuit's rate, or its share of the relay's.
    RateLimited,
}

/// Where a labelled datagram goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// On, with the label swapped.
    Forward {
        /// The next link's address.
        to: SocketAddr,
        /// The next hop's label.
        label: Label,
    },
    /// Here.
    Local(CircuitId),
}

#[derive(Debug, Default)]
struct Link {
    /// Where this link's datagrams go now.
    current: Option<SocketAddr>,
    /// Where they may come from: every open direct path of the link's session.
    accepted: Vec<SocketAddr>,
}

#[derive(Debug)]
enum Route {
    Forward {
        from: LinkId,
        to: LinkId,
        label: Label,
        bytes_per_s: u64,
        rate: RateLimit,
        flow: Flow,
    },
    Local {
        from: LinkId,
        circuit: CircuitId,
    },
}

#[derive(Debug)]
struct Egress {
    link: LinkId,
    label: Label,
}

/// The label table of one node.
#[derive(Debug)]
pub struct Switch {
    links: HashMap<LinkId, Link>,
    routes: HashMap<Label, Route>,
    egress: HashMap<CircuitId, Egress>,
    rng: StdRng,
    shares: Shares,
    forwarded_bytes: AtomicU64,
}

impl Switch {
    /// An empty table; labels are drawn from `seed`.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            links: HashMap::new(),
            routes: HashMap::new(),
            egress: HashMap::new(),
            rng: StdRng::from_seed(seed),
            shares: Shares::new(Capacity::default()),
            forwarded_bytes: AtomicU64::new(0),
        }
    }

    /// Forwards no more than this from now on, shared fairly.
    pub fn set_capacity(&mut self, capacity: Capacity) {
        self.shares = Shares::new(capacity);
    }

    /// Bytes forwarded since start, headers not counted.
    #[must_use]
    pub fn forwarded_bytes(&self) -> u64 {
        self.forwarded_bytes.load(Ordering::Relaxed)
    }

    /// Tells a link's addresses, the one to send to first. An empty list means the
    /// link has no direct path now.
    pub fn set_link(&mut self, link: LinkId, addresses: Vec<SocketAddr>) {
        let entry = self.links.entry(link).or_default();
        entry.current = addresses.first().copied();
        entry.accepted = addresses;
    }

    /// Forgets a link and every route over it.
    pub fn remove_link(&mut self, link: LinkId) {
        self.links.remove(&link);
        self.routes.retain(|_, r| match r {
            Route::Forward { from, to, .. } => *from != link && *to != link,
            Route::Local { from, .. } => *from != link,
        });
        self.egress.retain(|_, e| e.link != link);
    }

    /// Draws a label that nobody has.
    pub fn fresh_label(&mut self) -> Label {
        loop {
            let label = Label::from_bits(self.rng.next_u64());
            if !self.routes.contains_key(&label) {
                return label;
            }
        }
    }

    /// Draws the id of a circuit that will end here.
    pub fn fresh_circuit(&mut self) -> CircuitId {
        loop {
            let id = CircuitId(self.rng.random());
            if !self.egress.contains_key(&id) {
                return id;
            }
        }
    }

    /// Forwards what arrives under `label_in` on link `from` to link `to` under
    /// `label_out`, at most `bytes_per_s` (0: no limit), and its share of the
    /// [capacity](Self::set_capacity).
    pub fn forward(
        &mut self,
        (from, label_in): (LinkId, Label),
        (to, label_out): (LinkId, Label),
        bytes_per_s: u64,
        standing: Standing,
    ) {
        self.routes.insert(
            label_in,
            Route::Forward {
                from,
                to,
                label: label_out,
                bytes_per_s,
                rate: RateLimit::default(),
                flow: Flow::new(standing),
            },
        );
    }

    /// Ends `circuit` here: received under `label_in`, sent under `label_out`, both on
    /// `link`.
    pub fn terminate(
        &mut self,
        circuit: CircuitId,
        link: LinkId,
        label_in: Label,
        label_out: Label,
    ) {
        self.routes.insert(
            label_in,
            Route::Local {
                from: link,
                circuit,
            },
        );
        self.egress.insert(
            circuit,
            Egress {
                link,
                label: label_out,
            },
        );
    }

    /// Forgets a label.
    pub fn remove_label(&mut self, label: Label) {
        if let Some(Route::Local { circuit, .. }) = self.routes.remove(&label) {
            self.egress.remove(&circuit);
        }
    }

    /// Decides on a batch of `bytes` payload bytes that came from `from` under `label`.
    /// `now_ns` is a monotonic clock in nanoseconds.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn route(
        &self,
        from: SocketAddr,
        label: Label,
        bytes: usize,
        now_ns: u64,
    ) -> Result<Hop, DropReason> {
        let route = self.routes.get(&label).ok_or(DropReason::UnknownLabel)?;
        let (Route::Forward { from: link, .. } | Route::Local { from: link, .. }) = route;
        let accepted = self.links.get(link).map(|l| l.accepted.as_slice());
        if !accepted.is_some_and(|a| a.contains(&from)) {
            return Err(DropReason::WrongLink);
        }
        match route {
            Route::Local { circuit, .. } => Ok(Hop::Local(*circuit)),
            Route::Forward {
                to,
                label,
                bytes_per_s,
                rate,
                flow,
                ..
            } => {
                let link = self.links.get(to).ok_or(DropReason::NoLink)?;
                let to = link.current.ok_or(DropReason::NoLink)?;
                let allowed = rate.allow(*bytes_per_s, bytes, now_ns)
                    && self.shares.allow(flow, bytes, now_ns, self.flows());
                if !allowed {
                    return Err(DropReason::RateLimited);
                }
                self.forwarded_bytes
                    .fetch_add(bytes as u64, Ordering::Relaxed);
                Ok(Hop::Forward { to, label: *label })
            }
        }
    }

    fn flows(&self) -> impl Iterator<Item = &Flow> {
        self.routes.values().filter_map(|route| match route {
            Route::Forward { flow, .. } => Some(flow),
            Route::Local { .. } => None,
        })
    }

    /// Where and under which label to send on a circuit that ends here.
    #[must_use]
    pub fn egress(&self, circuit: CircuitId) -> Option<(SocketAddr, Label)> {
        let egress = self.egress.get(&circuit)?;
        let to = self.links.get(&egress.link)?.current?;
        Some((to, egress.label))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "192.0.2.1:1";
    const B: &str = "192.0.2.2:2";

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn two_links() -> Switch {
        let mut switch = Switch::new([7; 32]);
        switch.set_link(1, vec![addr(A)]);
        switch.set_link(2, vec![addr(B)]);
        switch
    }

    #[test]
    fn a_label_is_accepted_only_from_the_link_it_was_given_to() {
        let mut switch = two_links();
        let (in_a, out_b) = (switch.fresh_label(), Label::from_bits(5));
        switch.forward((1, in_a), (2, out_b), 0, Standing::Known);
        assert_eq!(
            switch.route(addr(A), in_a, 100, 0),
            Ok(Hop::Forward {
                to: addr(B),
                label: out_b
            })
        );
        assert_eq!(
            switch.route(addr(B), in_a, 100, 0),
            Err(DropReason::WrongLink)
        );
        assert_eq!(
            switch.route(addr(A), Label::from_bits(1), 100, 0),
            Err(DropReason::UnknownLabel)
        );
        assert_eq!(switch.forwarded_bytes(), 100);
    }

    #[test]
    fn a_link_that_moves_takes_its_circuits_along() {
        let mut switch = two_links();
        let label = switch.fresh_label();
        switch.forward((1, label), (2, Label::from_bits(5)), 0, Standing::Known);
        let moved = addr("198.51.100.7:9");
        switch.set_link(2, vec![moved]);
        let Ok(Hop::Forward { to, .. }) = switch.route(addr(A), label, 1, 0) else {
            panic!("dropped");
        };
        assert_eq!(to, moved);
        switch.set_link(2, vec![]);
        assert_eq!(switch.route(addr(A), label, 1, 0), Err(DropReason::NoLink));
        switch.remove_link(1);
        assert_eq!(
            switch.route(addr(A), label, 1, 0),
            Err(DropReason::UnknownLabel)
        );
    }

    #[test]
    fn a_circuit_ends_here_and_sends_back() {
        let mut switch = two_links();
        let (circuit, label) = (switch.fresh_circuit(), switch.fresh_label());
        switch.terminate(circuit, 2, label, Label::from_bits(77));
        assert_eq!(switch.route(addr(B), label, 1, 0), Ok(Hop::Local(circuit)));
        assert_eq!(
            switch.egress(circuit),
            Some((addr(B), Label::from_bits(77)))
        );
        switch.remove_label(label);
        assert_eq!(switch.egress(circuit), None);
    }

    #[test]
    fn a_rate_lets_its_bytes_through_and_no_more() {
        let mut switch = two_links();
        let label = switch.fresh_label();
        switch.forward(
            (1, label),
            (2, Label::from_bits(5)),
            1_000_000,
            Standing::Known,
        );
        let mut passed = 0;
        for ms in 0..10_000_u64 {
            for _ in 0..3 {
                if switch.route(addr(A), label, 1000, ms * 1_000_000).is_ok() {
                    passed += 1000;
                }
            }
        }
        let burst = 1_000_000 / 10;
        assert!(
            (10_000_000..=10_000_000 + burst + 1000).contains(&passed),
            "{passed} bytes passed in 10 s at 1 MB/s"
        );
    }

    proptest! {
        #[test]
        fn circuit_addresses_are_unique_and_reversible(id: u64) {
            let circuit = CircuitId(id);
            prop_assert_eq!(CircuitId::from_address(&circuit.address()), Some(circuit));
        }

        #[test]
        fn ordinary_addresses_are_no_circuits(ip: u32, port: u16) {
            let addr = SocketAddr::new(std::net::IpAddr::V4(ip.into()), port);
            prop_assert_eq!(CircuitId::from_address(&addr), None);
        }
    }
}
