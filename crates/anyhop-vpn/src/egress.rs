//! From the host's interface to a peer: whose a packet is, and whether it can go now.
//!
//! - **Start**: the first packet for a peer without a session is held, and the shell is
//!   asked to make one.
//! - **Steady state**: the destination's longest prefix names the peer, whose keys seal it;
//!   the shell sends it over the path that the peer's session has selected.
//! - **Failure**: what has no way, or is too big for it, is dropped and counted; the sender
//!   of what is too big is told.

use std::{collections::VecDeque, sync::Arc};

use crate::{DropReason, Drops, Routes, Sealer, Slot, ip, switch::answer_header};

/// Packets held for one peer while its session is made; more are dropped.
pub const MAX_HELD_PER_PEER: usize = 16;
/// Bytes held for all peers.
pub const MAX_HELD_BYTES: usize = 4 << 20;

/// A frame of the interface that waited for a session.
pub type HeldFrame = Vec<u8>;

/// What is to be done about a packet. `P` is how the shell names a path.
#[derive(Debug)]
pub enum Decision<P> {
    /// Seal it and send it there.
    Send {
        /// To this peer.
        slot: Slot,
        /// With these keys.
        sealer: Arc<Sealer>,
        /// Over this path.
        path: P,
    },
    /// It is held; make a session with the peer.
    Dial(Slot),
    /// It is held; a session is being made.
    Held,
    /// Give the interface this answer instead.
    Answer(Vec<u8>),
    /// It was dropped and counted.
    Dropped(DropReason),
}

/// A peer as packets to it see it.
#[derive(Debug)]
struct Peer<P> {
    link: Option<Link<P>>,
    held: VecDeque<HeldFrame>,
    bytes: u64,
    packets: u64,
    drops: Drops,
}

impl<P> Default for Peer<P> {
    fn default() -> Self {
        Self {
            link: None,
            held: VecDeque::new(),
            bytes: 0,
            packets: 0,
            drops: Drops::default(),
        }
    }
}

/// How packets go to a peer now.
#[derive(Debug)]
struct Link<P> {
    sealer: Arc<Sealer>,
    path: P,
    mtu: usize,
}

/// The way out. See the module.
#[derive(Debug)]
pub struct Egress<P> {
    routes: Arc<Routes>,
    peers: Vec<Option<Peer<P>>>,
    held: usize,
    drops: Drops,
}

impl<P> Default for Egress<P> {
    fn default() -> Self {
        Self {
            routes: Arc::default(),
            peers: Vec::new(),
            held: 0,
            drops: Drops::default(),
        }
    }
}

impl<P: Clone> Egress<P> {
    /// Replaces whose addresses are whose.
    pub fn set_routes(&mut self, routes: Arc<Routes>) {
        self.routes = routes;
    }

    /// Adds a peer, without a session.
    pub fn add_peer(&mut self, slot: Slot) {
        let at = slot as usize;
        if self.peers.len() <= at {
            self.peers.resize_with(at + 1, || None);
        }
        self.peers[at].get_or_insert_default();
    }

    /// Forgets a peer and what was held for it.
    pub fn remove_peer(&mut self, slot: Slot) {
        if let Some(peer) = self.peers.get_mut(slot as usize).and_then(Option::take) {
            self.held -= bytes(&peer.held);
        }
    }

    /// The peer's session has these keys and this path, which takes packets of up to `mtu`
    /// bytes; answers what waited for that.
    pub fn set_link(
        &mut self,
        slot: Slot,
        sealer: Arc<Sealer>,
        path: P,
        mtu: usize,
    ) -> VecDeque<HeldFrame> {
        let Some(peer) = self.peer_mut(slot) else {
            return VecDeque::new();
        };
        peer.link = Some(Link { sealer, path, mtu });
        self.take_held(slot)
    }

    /// The peer has no session any more.
    pub fn unset_link(&mut self, slot: Slot) {
        if let Some(peer) = self.peer_mut(slot) {
            peer.link = None;
        }
    }

    /// No session can be made: what waited for it is dropped.
    pub fn give_up(&mut self, slot: Slot) {
        let dropped = self.take_held(slot).len() as u64;
        if let Some(peer) = self.peer_mut(slot).filter(|_| dropped > 0) {
            peer.drops.add(DropReason::NoSession, dropped);
        }
    }

    /// Decides about a packet of the host, that which follows the first `header` bytes of a
    /// frame. `len` is what its largest part has on the wire, which is less than its own
    /// length where it is to be cut.
    pub fn handle_frame(&mut self, frame: &[u8], header: usize, len: usize) -> Decision<P> {
        let packet = frame.get(header..).unwrap_or_default();
        let Some(addresses) = ip::addresses(packet) else {
            self.drops.add(DropReason::Malformed, 1);
            return Decision::Dropped(DropReason::Malformed);
        };
        match self.routes.find(addresses.destination) {
            Some(slot) => self.handle_for(slot, frame, header, 0, len),
            None => self.unknown(),
        }
    }

    fn unknown(&mut self) -> Decision<P> {
        self.drops.add(DropReason::UnknownDestination, 1);
        Decision::Dropped(DropReason::UnknownDestination)
    }

    /// Decides about a packet, or a frame with an ethernet header of `link` bytes in front of
    /// it, that is for one peer.
    pub fn handle_for(
        &mut self,
        slot: Slot,
        frame: &[u8],
        header: usize,
        link: usize,
        len: usize,
    ) -> Decision<P> {
        let packet = frame.get(header..).unwrap_or_default();
        let Some(peer) = self.peers.get_mut(slot as usize).and_then(Option::as_mut) else {
            return self.unknown();
        };
        let Some(way) = &peer.link else {
            return self.hold(slot, frame);
        };
        if len > way.mtu {
            peer.drops.add(DropReason::TooBig, 1);
            return match too_big(packet, link, way.mtu) {
                Some(answer) => Decision::Answer(answer),
                None => Decision::Dropped(DropReason::TooBig),
            };
        }
        Decision::Send {
            slot,
            sealer: Arc::clone(&way.sealer),
            path: way.path.clone(),
        }
    }

    /// All peers.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        let peers = (0..).zip(&self.peers);
        peers.filter_map(|(slot, peer)| peer.as_ref().map(|_| slot))
    }

    /// Counts a packet of the host that goes to nobody.
    pub fn refused(&mut self, reason: DropReason) {
        self.drops.add(reason, 1);
    }

    fn hold(&mut self, slot: Slot, frame: &[u8]) -> Decision<P> {
        let full = self.held + frame.len() > MAX_HELD_BYTES;
        let Some(peer) = self.peer_mut(slot) else {
            return Decision::Dropped(DropReason::UnknownDestination);
        };
        if full || peer.held.len() >= MAX_HELD_PER_PEER {
            peer.drops.add(DropReason::NoSession, 1);
            return Decision::Dropped(DropReason::NoSession);
        }
        let first = peer.held.is_empty();
        peer.held.push_back(frame.to_vec());
        self.held += frame.len();
        match first {
            true => Decision::Dial(slot),
            false => Decision::Held,
        }
    }

    fn take_held(&mut self, slot: Slot) -> VecDeque<HeldFrame> {
        let held = self.peer_mut(slot).map(|p| std::mem::take(&mut p.held));
        let held = held.unwrap_or_default();
        self.held -= bytes(&held);
        held
    }

    /// Counts what was sent to a peer: packets, and their bytes before sealing.
    pub fn sent(&mut self, slot: Slot, packets: u64, bytes: u64) {
        if let Some(peer) = self.peer_mut(slot) {
            peer.packets += packets;
            peer.bytes += bytes;
        }
    }

    /// Counts what was not sent after all.
    pub fn dropped(&mut self, slot: Slot, reason: DropReason, packets: u64) {
        if let Some(peer) = self.peer_mut(slot) {
            peer.drops.add(reason, packets);
        }
    }

    /// Bytes and packets sent to a peer, and what was dropped on the way.
    #[must_use]
    pub fn counters(&self, slot: Slot) -> (u64, u64, Drops) {
        let peer = self.peers.get(slot as usize).and_then(Option::as_ref);
        peer.map_or_else(Default::default, |p| (p.bytes, p.packets, p.drops.clone()))
    }

    /// What was dropped that belongs to no peer.
    #[must_use]
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    fn peer_mut(&mut self, slot: Slot) -> Option<&mut Peer<P>> {
        self.peers.get_mut(slot as usize)?.as_mut()
    }
}

/// What the sender of a packet that is too big is told, behind an ethernet header where the
/// packet has one.
fn too_big(packet: &[u8], link: usize, mtu: usize) -> Option<Vec<u8>> {
    let answer = ip::too_big(packet.get(link..)?, mtu.saturating_sub(link))?;
    if link == 0 {
        return Some(answer);
    }
    let mut framed = answer_header(packet)?;
    framed.extend_from_slice(&answer);
    Some(framed)
}

fn bytes(held: &VecDeque<HeldFrame>) -> usize {
    held.iter().map(Vec::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cipher, PacketKeys, Prefix, SEALED_SECRET_LEN, ip::tests::packet};

    const PEER: &str = "100.64.0.2";

    fn sealer() -> Arc<Sealer> {
        let keys = PacketKeys::new(&[7; SEALED_SECRET_LEN], true, Cipher::Aes256Gcm);
        Arc::new(keys.sealer)
    }

    fn egress() -> Egress<&'static str> {
        let mut routes = Routes::default();
        routes.insert(Prefix::host(PEER.parse().unwrap()), 3);
        let mut egress = Egress::default();
        egress.set_routes(Arc::new(routes));
        egress.add_peer(3);
        egress
    }

    fn out(len: usize) -> Vec<u8> {
        packet("100.64.0.1", PEER, len)
    }

    #[test]
    fn packets_wait_for_a_session_within_limits_and_go_when_it_is_there() {
        let mut egress = egress();
        assert!(matches!(
            egress.handle_frame(&out(100), 0, 100),
            Decision::Dial(3)
        ));
        for _ in 1..MAX_HELD_PER_PEER {
            assert!(matches!(
                egress.handle_frame(&out(60), 0, 60),
                Decision::Held
            ));
        }
        let full = egress.handle_frame(&out(60), 0, 60);
        assert!(matches!(full, Decision::Dropped(DropReason::NoSession)));
        let held = egress.set_link(3, sealer(), "path", 1400);
        assert_eq!(held.len(), MAX_HELD_PER_PEER);
        assert_eq!(held[0], out(100));
        let next = egress.handle_frame(&out(60), 0, 60);
        assert!(matches!(
            next,
            Decision::Send {
                slot: 3,
                path: "path",
                ..
            }
        ));
        egress.sent(3, 1, 60);
        let (bytes, packets, drops) = egress.counters(3);
        assert_eq!(
            (bytes, packets, drops.of(DropReason::NoSession)),
            (60, 1, 1)
        );
    }

    #[test]
    fn a_frame_that_is_too_big_is_answered_with_a_frame() {
        let mut egress = egress();
        egress.set_link(3, sealer(), "path", 1300);
        let ethernet = [&[2, 0, 0, 0, 0, 3][..], &[2, 0, 0, 0, 0, 1], &[8, 0]].concat();
        let frame = [&ethernet[..], &out(1300)].concat();
        let decided = egress.handle_for(3, &frame, 0, ethernet.len(), frame.len());
        let Decision::Answer(answer) = decided else {
            panic!("no answer");
        };
        assert_eq!(
            (&answer[..6], &answer[6..12]),
            (&ethernet[6..12], &ethernet[..6])
        );
        let told = ip::addresses(&answer[14..]).unwrap();
        assert_eq!(told.destination.to_string(), "100.64.0.1");
        // What fits is the path's MTU less the header.
        assert_eq!(
            u16::from_be_bytes([answer[14 + 26], answer[14 + 27]]),
            1300 - 14
        );
        let arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[8, 6], &[0; 1400]].concat();
        let dropped = egress.handle_for(3, &arp, 0, 14, arp.len());
        assert!(matches!(dropped, Decision::Dropped(DropReason::TooBig)));
        assert_eq!(egress.slots().collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn what_waits_in_vain_is_counted_and_the_next_packet_dials_again() {
        let mut egress = egress();
        egress.handle_frame(&out(60), 0, 60);
        egress.handle_frame(&out(60), 0, 60);
        egress.give_up(3);
        assert_eq!(egress.counters(3).2.of(DropReason::NoSession), 2);
        assert!(matches!(
            egress.handle_frame(&out(60), 0, 60),
            Decision::Dial(3)
        ));
        egress.remove_peer(3);
        assert_eq!(egress.held, 0);
    }

    #[test]
    fn what_has_no_peer_or_is_no_packet_is_counted() {
        let mut egress = egress();
        let elsewhere = packet("100.64.0.1", "100.64.0.9", 60);
        let dropped = egress.handle_frame(&elsewhere, 0, 60);
        assert!(matches!(
            dropped,
            Decision::Dropped(DropReason::UnknownDestination)
        ));
        let torn = egress.handle_frame(&out(60)[..30], 0, 30);
        assert!(matches!(torn, Decision::Dropped(DropReason::Malformed)));
        assert_eq!(egress.drops().iter().count(), 2);
    }

    #[test]
    fn the_sender_is_told_of_a_smaller_mtu_and_segments_count_by_their_own_length() {
        let mut egress = egress();
        egress.set_link(3, sealer(), "path", 1300);
        let big = out(1400);
        let Decision::Answer(answer) = egress.handle_frame(&big, 0, 1400) else {
            panic!("no answer");
        };
        assert_eq!(
            ip::addresses(&answer).unwrap().destination.to_string(),
            "100.64.0.1"
        );
        assert!(matches!(
            egress.handle_frame(&big, 0, 1300),
            Decision::Send { .. }
        ));
        assert_eq!(egress.counters(3).2.of(DropReason::TooBig), 1);
    }
}
