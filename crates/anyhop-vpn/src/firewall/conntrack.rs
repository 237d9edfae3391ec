//! The flows that were let through, so that their packets need no other look than this one.
//!
//! A flow has one key for both directions: what is at the peer's side of it, and what is at
//! this host's. It is dropped when it is not used for as long as its kind may rest (RFC 5382
//! and 4787 and 5508 tell NATs how long), when its peer has more than [`MAX_FLOWS_PER_PEER`],
//! then that peer's least recently used goes, and beyond [`MAX_FLOWS`] that of the peer with
//! the most. Who floods the table therefore loses its own flows.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhop_base::{Direction, Protocol};

use super::packet::{Ends, FIN, Part, RST};
use crate::Slot;

/// Most flows of one peer.
pub const MAX_FLOWS_PER_PEER: usize = 8192;
/// Most flows of all peers, of about 150 bytes each.
pub const MAX_FLOWS: usize = 65_536;

/// A TCP connection that both sides have used (RFC 5382 section 5: 2 h and 4 min at least).
const TCP_OPEN: Duration = Duration::from_secs(2 * 3600 + 240);
/// One that is made, or has ended (the same: 4 min).
const TCP_PASSING: Duration = Duration::from_secs(240);
/// UDP (RFC 4787 section 4.3: 5 min recommended).
const UDP: Duration = Duration::from_secs(300);
/// Echoes (RFC 5508 section 3.2: 60 s at least).
const ECHO: Duration = Duration::from_secs(60);
/// Everything else.
const OTHER: Duration = Duration::from_secs(600);
/// How exactly the last use of a flow is known.
const GRAIN: Duration = Duration::from_secs(1);

/// Names a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) slot: Slot,
    pub(super) protocol: u8,
    pub(super) remote_port: u16,
    pub(super) local_port: u16,
    remote: u128,
    local: u128,
}

impl Key {
    /// That of a packet with these ends, which goes in this direction.
    pub(super) fn of(slot: Slot, direction: Direction, ends: &Ends) -> Self {
        let source = (number(ends.source), ends.source_port);
        let destination = (number(ends.destination), ends.destination_port);
        let ((remote, remote_port), (local, local_port)) = match direction {
            Direction::In => (source, destination),
            Direction::Out => (destination, source),
        };
        Self {
            slot,
            protocol: ends.protocol,
            remote_port,
            local_port,
            remote,
            local,
        }
    }

    /// The port of the side that is called, when the other one began.
    pub(super) fn called_port(&self, origin: Direction) -> u16 {
        match origin {
            Direction::In => self.local_port,
            Direction::Out => self.remote_port,
        }
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// How far a flow has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// One side has spoken.
    Opening,
    /// Both have.
    Open,
    /// TCP: it was reset, or both have said that they are done.
    Closing,
    /// The rules do not allow it any more: none of its packets goes through, from whichever
    /// side, until it rests.
    Cut,
}

/// A flow.
#[derive(Debug)]
pub(super) struct Flow {
    key: Key,
    /// Which side began.
    pub(super) origin: Direction,
    pub(super) stage: Stage,
    /// The rules it was judged by last.
    pub(super) judged_by: u64,
    /// TCP: whether that side said that it is done.
    done: [bool; 2],
    used: Instant,
    /// Neighbours in the order of use within the peer.
    older: Option<u32>,
    newer: Option<u32>,
}

impl Flow {
    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// How long it may rest.
    fn rest(&self) -> Duration {
        match (self.key.protocol, self.stage) {
            (Protocol::TCP, Stage::Opening | Stage::Closing) => TCP_PASSING,
            (Protocol::TCP, Stage::Open | Stage::Cut) => TCP_OPEN,
            (Protocol::UDP, _) => UDP,
            (Protocol::ICMP | Protocol::ICMPV6, _) => ECHO,
            _ => OTHER,
        }
    }

    /// A packet of it goes in this direction.
    fn advance(&mut self, direction: Direction, part: Part) {
        if self.stage == Stage::Opening && direction != self.origin {
            self.stage = Stage::Open;
        }
        let Part::Tcp(flags) = part else { return };
        if flags & (FIN | RST) == 0 || self.stage == Stage::Cut {
            return;
        }
        self.done[usize::from(direction == Direction::Out)] |= flags & FIN != 0;
        if flags & RST != 0 || self.done == [true; 2] {
            self.stage = Stage::Closing;
        }
    }
}

/// The flows of one peer, in the order of their last use.
#[derive(Debug, Default)]
struct Order {
    oldest: Option<u32>,
    newest: Option<u32>,
    count: usize,
}

/// All flows. See the module.
#[derive(Debug, Default)]
pub(super) struct Flows {
    by_key: HashMap<Key, u32>,
    /// Places are used again.
    places: Vec<Option<Flow>>,
    free: Vec<u32>,
    orders: HashMap<Slot, Order>,
    /// Peers by how many flows they have.
    loads: BTreeSet<(usize, Slot)>,
    /// The one looked up last: packets of one flow come together.
    recent: Option<u32>,
}

impl Flows {
    /// The place of a flow that has not rested for too long.
    pub(super) fn find(&mut self, now: Instant, key: &Key) -> Option<u32> {
        let recent = self.recent.filter(|at| self.at(*at).key == *key);
        let at = match recent {
            Some(at) => at,
            None => *self.by_key.get(key)?,
        };
        let flow = self.at(at);
        if now.saturating_duration_since(flow.used) > flow.rest() {
            self.remove(at);
            return None;
        }
        self.recent = Some(at);
        Some(at)
    }

    /// The flow at a place that [`find`](Self::find) gave.
    pub(super) fn at(&self, at: u32) -> &Flow {
        let flow = self.places[at as usize].as_ref();
        flow.expect("places given out hold flows")
    }

    /// The same, to change.
    pub(super) fn at_mut(&mut self, at: u32) -> &mut Flow {
        let flow = self.places[at as usize].as_mut();
        flow.expect("places given out hold flows")
    }

    /// A packet of a flow goes through.
    pub(super) fn take(&mut self, now: Instant, at: u32, direction: Direction, part: Part) {
        let flow = self.at_mut(at);
        flow.advance(direction, part);
        if now.saturating_duration_since(flow.used) >= GRAIN {
            flow.used = now;
            self.unlink(at);
            self.link(at);
        }
    }

    /// Adds a flow; one of this key is replaced.
    pub(super) fn insert(
        &mut self,
        now: Instant,
        key: Key,
        origin: Direction,
        stage: Stage,
        judged_by: u64,
    ) {
        if let Some(at) = self.by_key.get(&key) {
            self.remove(*at);
        }
        self.make_room(now, key.slot);
        let flow = Flow {
            key,
            origin,
            stage,
            judged_by,
            done: [false; 2],
            used: now,
            older: None,
            newer: None,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.places[at as usize] = Some(flow);
                at
            }
            None => {
                self.places.push(Some(flow));
                (self.places.len() - 1) as u32
            }
        };
        self.by_key.insert(key, at);
        self.link(at);
        self.recent = Some(at);
    }

    /// Forgets all flows of a peer.
    pub(super) fn remove_peer(&mut self, slot: Slot) {
        while let Some(oldest) = self.oldest(slot) {
            self.remove(oldest);
        }
        self.orders.remove(&slot);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    fn make_room(&mut self, now: Instant, slot: Slot) {
        // Two for one: what has rested for too long does not pile up.
        for _ in 0..2 {
            let Some(oldest) = self.oldest(slot) else {
                break;
            };
            let flow = self.at(oldest);
            if now.saturating_duration_since(flow.used) <= flow.rest() {
                break;
            }
            self.remove(oldest);
        }
        let own = self.orders.get(&slot).map_or(0, |o| o.count);
        let from = if own >= MAX_FLOWS_PER_PEER {
            Some(slot)
        } else if self.len() >= MAX_FLOWS {
            self.loads.last().map(|(_, slot)| *slot)
        } else {
            None
        };
        if let Some(oldest) = from.and_then(|slot| self.oldest(slot)) {
            self.remove(oldest);
        }
    }

    fn oldest(&self, slot: Slot) -> Option<u32> {
        self.orders.get(&slot)?.oldest
    }

    fn remove(&mut self, at: u32) {
        self.unlink(at);
        if let Some(flow) = self.places[at as usize].take() {
            self.by_key.remove(&flow.key);
            self.free.push(at);
        }
        self.recent = None;
    }

    /// Makes a flow the newest of its peer.
    fn link(&mut self, at: u32) {
        let slot = self.at(at).key.slot;
        let order = self.orders.entry(slot).or_default();
        let before = order.newest.replace(at);
        order.oldest.get_or_insert(at);
        order.count += 1;
        let count = order.count;
        self.loads.remove(&(count - 1, slot));
        self.loads.insert((count, slot));
        let flow = self.at_mut(at);
        (flow.older, flow.newer) = (before, None);
        if let Some(before) = before {
            self.at_mut(before).newer = Some(at);
        }
    }

    fn unlink(&mut self, at: u32) {
        let flow = self.at_mut(at);
        let slot = flow.key.slot;
        let (older, newer) = (flow.older.take(), flow.newer.take());
        if let Some(older) = older {
            self.at_mut(older).newer = newer;
        }
        if let Some(newer) = newer {
            self.at_mut(newer).older = older;
        }
        let order = self.orders.entry(slot).or_default();
        if older.is_none() {
            order.oldest = newer;
        }
        if newer.is_none() {
            order.newest = older;
        }
        order.count -= 1;
        let count = order.count;
        self.loads.remove(&(count + 1, slot));
        if count > 0 {
            self.loads.insert((count, slot));
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a start for a clock of its own")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(slot: Slot, number: u32) -> Key {
        Key {
            slot,
            protocol: Protocol::UDP,
            remote_port: number as u16,
            local_port: (number >> 16) as u16,
            remote: 1,
            local: 2,
        }
    }

    fn add(flows: &mut Flows, now: Instant, slot: Slot, number: u32) {
        flows.insert(now, key(slot, number), Direction::In, Stage::Opening, 0);
    }

    #[test]
    fn who_floods_loses_its_own_flows_the_least_used_first() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        add(&mut flows, now, 1, 0);
        add(&mut flows, now, 2, 0);
        add(&mut flows, now, 2, 1);
        let used = flows.find(now, &key(2, 0)).unwrap();
        flows.take(now + GRAIN, used, Direction::In, Part::Plain);
        for number in 2..=MAX_FLOWS_PER_PEER as u32 {
            add(&mut flows, now + GRAIN, 2, number);
        }
        assert_eq!(flows.len(), 1 + MAX_FLOWS_PER_PEER);
        let now = now + GRAIN;
        assert!(flows.find(now, &key(1, 0)).is_some());
        assert!(flows.find(now, &key(2, 0)).is_some(), "it was used");
        assert_eq!(flows.find(now, &key(2, 1)), None);
    }

    #[test]
    fn a_full_table_takes_from_the_peer_with_the_most() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        add(&mut flows, now, 0, 0);
        let mut number = 0;
        while flows.len() < MAX_FLOWS {
            number += 1;
            let slot = 1 + number / MAX_FLOWS_PER_PEER as u32;
            add(&mut flows, now, slot, number);
        }
        for more in 1..100 {
            add(&mut flows, now, 0, more);
        }
        assert_eq!(flows.len(), MAX_FLOWS);
        for number in 0..100 {
            assert!(flows.find(now, &key(0, number)).is_some(), "{number}");
        }
        flows.remove_peer(0);
        assert_eq!(flows.find(now, &key(0, 5)), None);
        assert_eq!(flows.len(), MAX_FLOWS - 100);
    }

    #[test]
    fn a_flow_ends_when_it_has_rested_for_as_long_as_its_kind_may() {
        let now = Instant::now();
        for (protocol, stage, rest) in [
            (Protocol::UDP, Stage::Open, UDP),
            (Protocol::ICMPV6, Stage::Open, ECHO),
            (47, Stage::Open, OTHER),
            (Protocol::TCP, Stage::Opening, TCP_PASSING),
            (Protocol::TCP, Stage::Open, TCP_OPEN),
        ] {
            let mut flows = Flows::default();
            let key = Key {
                protocol,
                ..key(1, 1)
            };
            flows.insert(now, key, Direction::In, stage, 0);
            assert!(flows.find(now + rest, &key).is_some(), "{protocol}");
            let late = now + rest + Duration::from_millis(1);
            assert_eq!(flows.find(late, &key), None, "{protocol}");
            assert_eq!(flows.len(), 0);
        }
    }

    #[test]
    fn a_connection_closes_with_a_reset_or_when_both_are_done() {
        let now = Instant::now();
        let run = |packets: &[(Direction, u8)]| {
            let mut flows = Flows::default();
            flows.insert(now, key(1, 1), Direction::In, Stage::Opening, 0);
            let at = flows.find(now, &key(1, 1)).unwrap();
            for (direction, flags) in packets {
                flows.take(now, at, *direction, Part::Tcp(*flags));
            }
            flows.at(at).stage
        };
        let (there, back) = (Direction::In, Direction::Out);
        assert_eq!(run(&[(there, 0)]), Stage::Opening);
        assert_eq!(run(&[(there, 0), (back, 0)]), Stage::Open);
        assert_eq!(run(&[(back, FIN), (back, FIN)]), Stage::Open);
        assert_eq!(run(&[(back, FIN), (there, FIN)]), Stage::Closing);
        assert_eq!(run(&[(there, RST)]), Stage::Closing);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The table agrees with a list, and its order with its counts.
        #[test]
        fn flows_are_found_until_they_are_removed_or_too_old(
            steps in prop::collection::vec((0..4_u8, 0..3_u32, 0..6_u32, 0..200_u64), 1..200),
        ) {
            let (mut flows, mut now) = (Flows::default(), Instant::now());
            let mut model: HashMap<Key, Instant> = HashMap::new();
            for (step, slot, number, pause) in steps {
                now += Duration::from_secs(pause);
                let key = key(slot, number);
                let alive = model.get(&key).is_some_and(|used| now - *used <= UDP);
                prop_assert_eq!(flows.find(now, &key).is_some(), alive);
                match (step, flows.find(now, &key)) {
                    (0, _) => {
                        flows.insert(now, key, Direction::In, Stage::Open, 0);
                        model.insert(key, now);
                    }
                    (1, _) => {
                        flows.remove_peer(slot);
                        model.retain(|k, _| k.slot != slot);
                    }
                    (_, Some(at)) => {
                        let used = model[&key];
                        flows.take(now, at, Direction::Out, Part::Plain);
                        model.insert(key, if now - used >= GRAIN { now } else { used });
                    }
                    (_, None) => {}
                }
                let counts: usize = flows.orders.values().map(|o| o.count).sum();
                prop_assert_eq!(counts, flows.len());
                let loads: usize = flows.loads.iter().map(|(count, _)| count).sum();
                prop_assert_eq!(loads, flows.len());
                for (slot, order) in &flows.orders {
                    let (mut at, mut seen) = (order.oldest, 0);
                    while let Some(place) = at {
                        prop_assert_eq!(flows.at(place).key.slot, *slot);
                        at = flows.at(place).newer;
                        seen += 1;
                    }
                    prop_assert_eq!(seen, order.count);
                }
            }
        }
    }
}
