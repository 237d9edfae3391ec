//! The firewall: which packets between this host and the members may pass.
//!
//! - **Start**: members reach this host, and this host them, until rules say otherwise.
//! - **Steady state**: the first packet of a flow is judged by the rules ([`Rules`]); when it
//!   passes, the flow is remembered (`conntrack`), and its packets, in both directions, cost
//!   one look into a table. ICMP errors about a flow's packets belong to it, and so do the
//!   later fragments of a packet whose first one passed.
//! - **Change**: with other rules each flow is judged anew at its next packet, by who began it.
//!   One that is not allowed any more is cut: nothing of it passes in either direction, since
//!   a packet of this host would otherwise begin it anew.
//! - **Failure**: of a TCP connection that is not known, since it was before the firewall or was
//!   evicted, nobody knows who began it. It passes when it might have begun at either side.
//!
//! What is forwarded for a member passes the same rules; whether it is forwarded at all is
//! decided before, by what this host offers.

mod conntrack;
mod packet;
mod rules;

pub use conntrack::{MAX_FLOWS, MAX_FLOWS_PER_PEER};
pub use rules::{Caller, Opening, RuleSet, RuleSource, Rules, Ruling};

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use anyhop_base::{Direction, Protocol, Verdict};

use self::{
    conntrack::{Flows, Key, Stage},
    packet::{FragmentId, Part, Seen},
};
use crate::{Slot, ethernet_header_len, ip::be16};

/// Most rules of one host.
pub const MAX_LOCAL_RULES: usize = 256;
/// Packets of a peer of which later fragments may still come.
const MAX_FRAGMENTED: usize = 32;
const ETHERTYPE_V4: &[u8] = &[0x08, 0x00];
const ETHERTYPE_V6: &[u8] = &[0x86, 0xdd];
const V6_HEADER: usize = 40;
/// How long they may (RFC 8200 section 4.5).
const FRAGMENTS_COME: Duration = Duration::from_secs(60);

/// A member, and what is going on with it.
#[derive(Debug)]
struct Peer {
    caller: Caller,
    /// Packets whose first fragment passed, and when.
    fragmented: VecDeque<(FragmentId, Direction, Instant)>,
}

/// The firewall of one host towards the members of a network. See the module.
#[derive(Debug, Default)]
pub struct Firewall {
    rules: Rules,
    /// Counts changes of rules and members.
    generation: u64,
    peers: HashMap<Slot, Peer>,
    flows: Flows,
}

impl Firewall {
    /// Under these rules, without members.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    /// Replaces this host's own rules.
    pub fn set_local(&mut self, rules: RuleSet) {
        if self.rules.local != rules {
            self.rules.local = rules;
            self.generation += 1;
        }
    }

    /// Replaces the network's rules.
    pub fn set_network(&mut self, rules: RuleSet) {
        if self.rules.network != rules {
            self.rules.network = rules;
            self.generation += 1;
        }
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// A member is there, or has another name or role.
    pub fn set_peer(&mut self, slot: Slot, caller: Caller) {
        match self.peers.get_mut(&slot) {
            Some(peer) if peer.caller == caller => {}
            Some(peer) => {
                peer.caller = caller;
                self.generation += 1;
            }
            None => {
                let fragmented = VecDeque::new();
                let peer = Peer { caller, fragmented };
                self.peers.insert(slot, peer);
            }
        }
    }

    /// Forgets a member and its flows.
    pub fn remove_peer(&mut self, slot: Slot) {
        self.peers.remove(&slot);
        self.flows.remove_peer(slot);
    }

    /// Whether a packet from (in) or to (out) a member passes.
    pub fn admits(
        &mut self,
        now: Instant,
        direction: Direction,
        slot: Slot,
        packet: &[u8],
    ) -> bool {
        let Some(seen) = Seen::read(packet) else {
            return false;
        };
        let admitted = match seen.part {
            Part::LaterFragment => return self.is_of_admitted(now, direction, slot, &seen),
            Part::Error(about) => {
                // What it is about went the other way.
                let key = Key::of(slot, opposite(direction), &about);
                self.passes(now, &key).is_some() || self.judges(direction, slot, &seen)
            }
            Part::Single => self.judges(direction, slot, &seen),
            Part::Tcp(_) | Part::EchoRequest | Part::Plain => {
                self.admits_of_flow(now, direction, slot, &seen)
            }
        };
        if admitted && let Some(id) = seen.fragment {
            self.expect_fragments(now, direction, slot, id);
        }
        admitted
    }

    /// Whether an ethernet frame passes: by the IP packet in it. What carries no IP passes, and
    /// so does neighbour discovery, as ARP does: without it no rule could let anything in.
    pub fn admits_frame(
        &mut self,
        now: Instant,
        direction: Direction,
        slot: Slot,
        frame: &[u8],
    ) -> bool {
        let link = ethernet_header_len(frame);
        let Some((ethernet, packet)) = frame.split_at_checked(link) else {
            return false;
        };
        let len = match &ethernet[link - 2..] {
            ETHERTYPE_V4 => packet.get(2..4).map(|_| be16(packet, 2)),
            ETHERTYPE_V6 => packet.get(4..6).map(|_| V6_HEADER + be16(packet, 4)),
            _ => return true,
        };
        // Short frames are padded.
        let Some(packet) = len.and_then(|len| packet.get(..len)) else {
            return false;
        };
        is_neighbour_discovery(packet) || self.admits(now, direction, slot, packet)
    }

    /// Flows that are remembered.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    fn admits_of_flow(
        &mut self,
        now: Instant,
        direction: Direction,
        slot: Slot,
        seen: &Seen,
    ) -> bool {
        let key = Key::of(slot, direction, &seen.ends);
        let known = self.flows.find(now, &key);
        if let Some(at) = known {
            let flow = self.flows.at(at);
            let anew = seen.begins() && (flow.origin != direction || flow.stage == Stage::Closing);
            if !anew {
                let passes = self.still_passes(at);
                if passes {
                    self.flows.take(now, at, direction, seen.part);
                }
                return passes;
            }
        }
        if !self.judges(direction, slot, seen) {
            return false;
        }
        let stage = match seen.part {
            Part::Tcp(_) if !seen.begins() => {
                let opening = self.opening(&key, opposite(direction));
                if !self.allows(slot, opening) {
                    return false;
                }
                Stage::Open
            }
            _ => Stage::Opening,
        };
        let generation = self.generation;
        self.flows.insert(now, key, direction, stage, generation);
        true
    }

    /// The place of a flow that is known and allowed.
    fn passes(&mut self, now: Instant, key: &Key) -> Option<u32> {
        let at = self.flows.find(now, key)?;
        self.still_passes(at).then_some(at)
    }

    /// Whether a known flow is allowed by the rules of now.
    fn still_passes(&mut self, at: u32) -> bool {
        let flow = self.flows.at(at);
        if flow.judged_by == self.generation {
            return flow.stage != Stage::Cut;
        }
        let (key, origin) = (*flow.key(), flow.origin);
        let allowed = self.allows(key.slot, self.opening(&key, origin));
        let generation = self.generation;
        let flow = self.flows.at_mut(at);
        flow.judged_by = generation;
        match (allowed, flow.stage) {
            (true, Stage::Cut) => flow.stage = Stage::Open,
            (true, _) => {}
            (false, _) => flow.stage = Stage::Cut,
        }
        allowed
    }

    fn judges(&self, direction: Direction, slot: Slot, seen: &Seen) -> bool {
        let opening = Opening {
            direction,
            protocol: Protocol::from_number(seen.ends.protocol),
            port: seen.ends.called_port(),
        };
        self.allows(slot, opening)
    }

    /// How a flow would have begun at this side.
    fn opening(&self, key: &Key, origin: Direction) -> Opening {
        let protocol = Protocol::from_number(key.protocol);
        Opening {
            direction: origin,
            protocol,
            port: protocol.has_ports().then(|| key.called_port(origin)),
        }
    }

    fn allows(&self, slot: Slot, opening: Opening) -> bool {
        let peer = self.peers.get(&slot);
        let verdict = peer.map(|p| self.rules.judge(&p.caller, opening).verdict);
        verdict == Some(Verdict::Allow)
    }

    fn expect_fragments(&mut self, now: Instant, direction: Direction, slot: Slot, id: FragmentId) {
        let Some(peer) = self.peers.get_mut(&slot) else {
            return;
        };
        if peer.fragmented.len() >= MAX_FRAGMENTED {
            peer.fragmented.pop_front();
        }
        peer.fragmented.push_back((id, direction, now));
    }

    fn is_of_admitted(&self, now: Instant, direction: Direction, slot: Slot, seen: &Seen) -> bool {
        let fragmented = self.peers.get(&slot).map(|p| &p.fragmented);
        let mut fragmented = fragmented.into_iter().flatten().rev();
        fragmented.any(|(id, way, at)| {
            let fits = seen.fragment == Some(*id) && *way == direction;
            fits && now.saturating_duration_since(*at) <= FRAGMENTS_COME
        })
    }
}

/// From router solicitation to redirect (RFC 4861 section 4).
fn is_neighbour_discovery(packet: &[u8]) -> bool {
    let kind = packet.get(V6_HEADER).copied();
    packet.first().is_some_and(|b| b >> 4 == 6)
        && packet.get(6) == Some(&Protocol::ICMPV6)
        && matches!(kind, Some(133..=137))
}

fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::In => Direction::Out,
        Direction::Out => Direction::In,
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a start for a clock of its own")]
mod tests;
