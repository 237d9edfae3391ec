//! A virtual ethernet switch: this host is one port of it, each other member one more.
//!
//! - **Learning**: the source of a frame tells behind which port an address is, for
//!   [`MAC_AGE`]. What was not learnt, broadcast and multicast go to all members.
//! - **No loops**: every member has a port to every other, so that what came from a member
//!   never goes to another one. Where hosts bridge the interface to a network that reaches
//!   the other side by itself, frames come back at another port: an address stays where it
//!   was heard within [`MAC_HOLD`], and what claims it elsewhere is dropped. That also keeps
//!   members from taking each other's addresses while these are in use.
//! - **Limits**: addresses of one member and of all; what is above them is not learnt, and
//!   reached as what is unknown.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::{Duration, Instant},
};

use crate::{DropReason, Slot};

/// Length of an ethernet header without a tag (IEEE 802.3), bytes.
pub const ETHERNET_HEADER_LEN: usize = 14;
/// How long an address is known after it was heard (IEEE 802.1D's default).
pub const MAC_AGE: Duration = Duration::from_secs(300);
/// How long an address cannot be claimed at another port after it was heard.
pub const MAC_HOLD: Duration = Duration::from_secs(2);
/// Most addresses behind one port.
pub const MAX_MACS_PER_PORT: usize = 1024;
/// Most addresses in all.
pub const MAX_MACS: usize = 16_384;

/// Tag of a VLAN (IEEE 802.1Q), and its length in a header.
const VLAN: u16 = 0x8100;
const TAG_LEN: usize = 4;
/// The bridge group's addresses, which no bridge hands on (IEEE 802.1Q table 8-1).
const LINK_LOCAL: [u8; 5] = [0x01, 0x80, 0xc2, 0x00, 0x00];

/// A hardware address (EUI-48).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether more than one host is meant.
    #[must_use]
    pub fn is_group(&self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A port of the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Port {
    Host,
    Member(Slot),
}

/// Where a frame of this host goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// To one member.
    To(Slot),
    /// To all members.
    All,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    port: Port,
    at: Instant,
}

/// Who is behind which port. See the module.
#[derive(Debug, Default)]
pub struct Switch {
    macs: HashMap<Mac, Heard>,
    ports: BTreeMap<Port, usize>,
}

impl Switch {
    /// Takes a frame of the host.
    ///
    /// # Errors
    /// Why it goes nowhere.
    pub fn from_host(&mut self, frame: &[u8], now: Instant) -> Result<Forward, DropReason> {
        let (destination, source) = addresses(frame).ok_or(DropReason::Malformed)?;
        self.learn(source, Port::Host, now)?;
        match self.port(destination, now) {
            Some(Port::Member(slot)) => Ok(Forward::To(slot)),
            // Its own segment has it already.
            Some(Port::Host) => Err(DropReason::NotForMembers),
            None if is_link_local(destination) => Err(DropReason::NotForMembers),
            None => Ok(Forward::All),
        }
    }

    /// Takes a frame of a member for the host.
    ///
    /// # Errors
    /// Why the host does not get it.
    pub fn from_member(
        &mut self,
        slot: Slot,
        frame: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let (destination, source) = addresses(frame).ok_or(DropReason::Malformed)?;
        self.learn(source, Port::Member(slot), now)?;
        match self.port(destination, now) {
            // The member has sent to all what is for another one.
            Some(Port::Member(_)) => Err(DropReason::NotForThisHost),
            _ if is_link_local(destination) => Err(DropReason::NotForThisHost),
            Some(Port::Host) | None => Ok(()),
        }
    }

    fn port(&self, mac: Mac, now: Instant) -> Option<Port> {
        let heard = self.macs.get(&mac).filter(|_| !mac.is_group())?;
        (now < heard.at + MAC_AGE).then_some(heard.port)
    }

    fn learn(&mut self, mac: Mac, port: Port, now: Instant) -> Result<(), DropReason> {
        if mac.is_group() || mac.0 == [0; 6] {
            return Err(DropReason::Malformed);
        }
        if let Some(heard) = self.macs.get_mut(&mac) {
            if heard.port == port {
                heard.at = now;
                return Ok(());
            }
            if now < heard.at + MAC_HOLD {
                return Err(DropReason::AddressInUse);
            }
            self.forget(mac);
        }
        if self.macs.len() >= MAX_MACS || self.count(port) >= MAX_MACS_PER_PORT {
            self.age(now);
        }
        if self.macs.len() < MAX_MACS && self.count(port) < MAX_MACS_PER_PORT {
            self.macs.insert(mac, Heard { port, at: now });
            *self.ports.entry(port).or_default() += 1;
        }
        Ok(())
    }

    fn count(&self, port: Port) -> usize {
        self.ports.get(&port).copied().unwrap_or_default()
    }

    fn forget(&mut self, mac: Mac) {
        let Some(heard) = self.macs.remove(&mac) else {
            return;
        };
        if let Some(count) = self.ports.get_mut(&heard.port) {
            *count -= 1;
            if *count == 0 {
                self.ports.remove(&heard.port);
            }
        }
    }

    /// Forgets what was not heard for long.
    fn age(&mut self, now: Instant) {
        self.retain(|heard| now < heard.at + MAC_AGE);
    }

    fn retain(&mut self, mut keep: impl FnMut(&Heard) -> bool) {
        let gone = self.macs.iter().filter(|(_, heard)| !keep(heard));
        let gone: Vec<Mac> = gone.map(|(mac, _)| *mac).collect();
        gone.into_iter().for_each(|mac| self.forget(mac));
    }

    /// Forgets all that is behind a member.
    pub fn remove_member(&mut self, slot: Slot) {
        self.retain(|heard| heard.port != Port::Member(slot));
    }

    /// The addresses that are behind a member, in order.
    #[must_use]
    pub fn behind(&self, slot: Slot, now: Instant) -> Vec<Mac> {
        let known = self
            .macs
            .iter()
            .filter(|(_, heard)| heard.port == Port::Member(slot) && now < heard.at + MAC_AGE);
        let mut macs: Vec<Mac> = known.map(|(mac, _)| *mac).collect();
        macs.sort();
        macs
    }
}

/// Destination and source of a frame; `None` when it is too short for one.
fn addresses(frame: &[u8]) -> Option<(Mac, Mac)> {
    if frame.len() < ETHERNET_HEADER_LEN {
        return None;
    }
    let mac = |at: usize| frame[at..at + 6].try_into().ok().map(Mac);
    Some((mac(0)?, mac(6)?))
}

fn is_link_local(mac: Mac) -> bool {
    mac.0.starts_with(&LINK_LOCAL) && mac.0[5] < 0x10
}

/// Length of a frame's header: with a tag, if it has one.
#[must_use]
pub fn ethernet_header_len(frame: &[u8]) -> usize {
    let kind = frame.get(12..14).map(|b| u16::from_be_bytes([b[0], b[1]]));
    match kind {
        Some(VLAN) => ETHERNET_HEADER_LEN + TAG_LEN,
        _ => ETHERNET_HEADER_LEN,
    }
}

/// The header of an answer to a frame: the same, the other way.
#[must_use]
pub(crate) fn answer_header(frame: &[u8]) -> Option<Vec<u8>> {
    let (destination, source) = addresses(frame)?;
    let rest = frame.get(12..ethernet_header_len(frame))?;
    Some([&source.0[..], &destination.0, rest].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOST: u8 = 1;
    const BROADCAST: [u8; 6] = [0xff; 6];

    #[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
    fn start() -> Instant {
        Instant::now()
    }

    /// A locally administered address.
    fn mac(n: u8) -> [u8; 6] {
        [2, 0, 0, 0, 0, n]
    }

    fn frame(to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
        [&to[..], &from, &[0x08, 0x00], &[0x45; 46]].concat()
    }

    #[test]
    fn addresses_are_learnt_from_frames_and_forgotten_when_they_are_silent() {
        let (mut switch, now) = (Switch::default(), start());
        let out = frame(mac(2), mac(HOST));
        assert_eq!(switch.from_host(&out, now), Ok(Forward::All));
        let answer = frame(mac(HOST), mac(2));
        assert_eq!(switch.from_member(7, &answer, now), Ok(()));
        assert_eq!(switch.from_host(&out, now), Ok(Forward::To(7)));
        assert_eq!(switch.behind(7, now), [Mac(mac(2))]);
        for group in [BROADCAST, [0x33, 0x33, 0, 0, 0, 1], [1, 0, 0x5e, 0, 0, 251]] {
            let all = switch.from_host(&frame(group, mac(HOST)), now);
            assert_eq!(all, Ok(Forward::All));
            assert_eq!(switch.from_member(7, &frame(group, mac(2)), now), Ok(()));
        }
        let later = now + MAC_AGE;
        assert_eq!(switch.from_host(&out, later), Ok(Forward::All));
        assert!(switch.behind(7, later).is_empty());
        switch.from_member(7, &answer, later).unwrap();
        switch.remove_member(7);
        assert_eq!(switch.from_host(&out, later), Ok(Forward::All));
    }

    #[test]
    fn what_comes_from_a_member_reaches_the_host_or_nobody() {
        let (mut switch, now) = (Switch::default(), start());
        switch
            .from_member(1, &frame(BROADCAST, mac(11)), now)
            .unwrap();
        let passed_on = switch.from_member(2, &frame(mac(11), mac(12)), now);
        assert_eq!(passed_on, Err(DropReason::NotForThisHost));
        // Spanning trees are of one segment.
        let bpdu = frame([0x01, 0x80, 0xc2, 0, 0, 0], mac(HOST));
        assert_eq!(switch.from_host(&bpdu, now), Err(DropReason::NotForMembers));
        switch.from_host(&frame(BROADCAST, mac(2)), now).unwrap();
        let at_home = switch.from_host(&frame(mac(2), mac(HOST)), now);
        assert_eq!(at_home, Err(DropReason::NotForMembers));
    }

    #[test]
    fn an_address_in_use_is_not_taken_over_and_one_that_moved_is_found_again() {
        let (mut switch, now) = (Switch::default(), start());
        switch.from_host(&frame(BROADCAST, mac(HOST)), now).unwrap();
        switch
            .from_member(1, &frame(BROADCAST, mac(11)), now)
            .unwrap();
        // The host's own broadcast came back through somebody's bridge.
        let looped = switch.from_member(1, &frame(BROADCAST, mac(HOST)), now);
        assert_eq!(looped, Err(DropReason::AddressInUse));
        let spoofed = switch.from_member(2, &frame(BROADCAST, mac(11)), now);
        assert_eq!(spoofed, Err(DropReason::AddressInUse));
        let moved = switch.from_member(2, &frame(BROADCAST, mac(11)), now + MAC_HOLD);
        assert_eq!(moved, Ok(()));
        let found = switch.from_host(&frame(mac(11), mac(HOST)), now + MAC_HOLD);
        assert_eq!(found, Ok(Forward::To(2)));
        assert!(switch.behind(1, now + MAC_HOLD).is_empty());
    }

    #[test]
    fn no_member_fills_the_table() {
        let (mut switch, now) = (Switch::default(), start());
        let many = |n: usize| [2, 1, 0, 0, (n >> 8) as u8, n as u8];
        for n in 0..2 * MAX_MACS_PER_PORT {
            assert_eq!(
                switch.from_member(1, &frame(BROADCAST, many(n)), now),
                Ok(())
            );
        }
        assert_eq!(switch.behind(1, now).len(), MAX_MACS_PER_PORT);
        switch
            .from_member(2, &frame(BROADCAST, mac(12)), now)
            .unwrap();
        let found = switch.from_host(&frame(mac(12), mac(HOST)), now);
        assert_eq!(found, Ok(Forward::To(2)));
        // The ones that fell silent make room.
        let later = now + MAC_AGE;
        switch
            .from_member(1, &frame(BROADCAST, mac(13)), later)
            .unwrap();
        assert_eq!(switch.behind(1, later), [Mac(mac(13))]);
    }

    #[test]
    fn an_answer_goes_back_with_the_tag_that_the_frame_had() {
        let plain = frame(mac(2), mac(1));
        assert_eq!(answer_header(&plain).unwrap(), frame(mac(1), mac(2))[..14]);
        let tagged = [&mac(2)[..], &mac(1), &[0x81, 0, 0, 5, 0x08, 0, 0x45]].concat();
        assert_eq!(ethernet_header_len(&tagged), 18);
        let header = answer_header(&tagged).unwrap();
        assert_eq!(
            (&header[..6], &header[12..]),
            (&mac(1)[..], &[0x81, 0, 0, 5, 8, 0][..])
        );
        assert_eq!(answer_header(&tagged[..16]), None);
    }

    proptest! {
        /// Frames of anything keep the counts true and the table within its limits.
        #[test]
        fn the_table_is_consistent_whatever_comes(
            frames in prop::collection::vec(
                (0_u32..4, prop::collection::vec(0_u8..4, 0..20), 0_u64..4000), 1..200),
        ) {
            let (mut switch, mut now) = (Switch::default(), start());
            for (port, frame, ms) in frames {
                now += Duration::from_millis(ms);
                let _ = match port {
                    0 => switch.from_host(&frame, now).map(|_| ()),
                    slot => switch.from_member(slot, &frame, now),
                };
                let counted: usize = switch.ports.values().sum();
                prop_assert_eq!(counted, switch.macs.len());
                prop_assert!(switch.ports.values().all(|n| *n > 0));
            }
        }
    }
}
