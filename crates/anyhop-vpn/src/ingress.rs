//! From the wire to the host's interface: who sealed a packet, and whether it may have sent
//! that.
//!
//! Bytes of strangers cost one look into a table: nothing is allocated and nothing answered.
//! A packet of a peer goes on when its source is the peer's, by the same longest match that
//! decides where packets go, and its destination is this host's. The keys of former
//! handshakes are taken as long as the shell leaves them in, for what is on its way.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Instant,
};

use crate::{
    DropReason, Drops, OpenError, Opener, Payload, Prefix, ReceiverIndex, Routes, Slot, Switch, ip,
    offload::checksum_place, read_index,
};

/// A packet for the host.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// Who sealed it.
    pub slot: Slot,
    /// The IP packet or the frame, as the host has it.
    pub packet: &'a [u8],
    /// Whether it is a packet whose checksum is left to the host.
    pub unsummed: bool,
}

/// A peer as packets from it see it.
#[derive(Debug, Default)]
struct Peer {
    bytes: u64,
    packets: u64,
    drops: Drops,
}

/// The way in. See the module.
#[derive(Debug, Default)]
pub struct Ingress {
    routes: Arc<Routes>,
    own: BTreeSet<IpAddr>,
    /// What this host forwards to.
    offered: Vec<Prefix>,
    /// Of a host that takes frames.
    switch: Option<Arc<Mutex<Switch>>>,
    openers: HashMap<ReceiverIndex, (Slot, Arc<Opener>)>,
    peers: HashMap<Slot, Peer>,
    drops: Drops,
}

impl Ingress {
    /// For a host with these addresses.
    #[must_use]
    pub fn new(own: impl IntoIterator<Item = IpAddr>) -> Self {
        Self {
            own: own.into_iter().collect(),
            ..Self::default()
        }
    }

    /// For a host that takes frames, whatever is in them.
    #[must_use]
    pub fn of_switch(switch: Arc<Mutex<Switch>>) -> Self {
        Self {
            switch: Some(switch),
            ..Self::default()
        }
    }

    /// Replaces whose addresses are whose.
    pub fn set_routes(&mut self, routes: Arc<Routes>) {
        self.routes = routes;
    }

    /// Replaces what this host forwards to for its peers.
    pub fn set_offered(&mut self, offered: Vec<Prefix>) {
        self.offered = offered;
    }

    /// Takes packets that a peer seals for these keys.
    pub fn add_keys(&mut self, slot: Slot, opener: Arc<Opener>) {
        self.peers.entry(slot).or_default();
        self.openers.insert(opener.index(), (slot, opener));
    }

    /// Takes none for these any more.
    pub fn remove_keys(&mut self, index: ReceiverIndex) {
        self.openers.remove(&index);
    }

    /// Forgets a peer with all its keys.
    pub fn remove_peer(&mut self, slot: Slot) {
        self.openers.retain(|_, (of, _)| *of != slot);
        self.peers.remove(&slot);
    }

    /// Opens a datagram in place. `None` when it was dropped and counted.
    pub fn handle_datagram<'a>(
        &mut self,
        datagram: &'a mut [u8],
        now: Instant,
    ) -> Option<Opened<'a>> {
        let keys = read_index(datagram).map(|index| self.openers.get(&index));
        let (slot, opener) = match keys {
            Some(Some((slot, opener))) => (*slot, opener),
            Some(None) => {
                self.drops.add(DropReason::UnknownKeys, 1);
                return None;
            }
            None => {
                self.drops.add(DropReason::Malformed, 1);
                return None;
            }
        };
        let checked = match opener.open(datagram) {
            Ok((payload, packet)) => {
                let packet = &*packet;
                let unsummed = payload == Payload::IpUnsummed;
                let checked = self.check(slot, payload, packet, now);
                checked.map(|()| (packet, unsummed))
            }
            Err(OpenError::Malformed) => Err(DropReason::Malformed),
            Err(OpenError::Replayed) => Err(DropReason::Replayed),
            Err(OpenError::NotAuthentic) => Err(DropReason::NotAuthentic),
        };
        let peer = self.peers.entry(slot).or_default();
        match checked {
            Ok((packet, unsummed)) => {
                peer.packets += 1;
                peer.bytes += packet.len() as u64;
                Some(Opened {
                    slot,
                    packet,
                    unsummed,
                })
            }
            Err(reason) => {
                peer.drops.add(reason, 1);
                None
            }
        }
    }

    fn check(
        &self,
        slot: Slot,
        payload: Payload,
        packet: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        match (&self.switch, payload) {
            (None, Payload::Ip) => self.check_packet(slot, packet),
            (None, Payload::IpUnsummed) => {
                checksum_place(packet).ok_or(DropReason::Malformed)?;
                self.check_packet(slot, packet)
            }
            (Some(switch), Payload::Ethernet) => {
                let mut switch = switch.lock().expect("no holder panics");
                switch.from_member(slot, packet, now)
            }
            _ => Err(DropReason::OtherMode),
        }
    }

    fn check_packet(&self, slot: Slot, packet: &[u8]) -> Result<(), DropReason> {
        let addresses = ip::addresses(packet).ok_or(DropReason::Malformed)?;
        if self.routes.find(addresses.source) != Some(slot) {
            return Err(DropReason::ForeignSource);
        }
        let destination = addresses.destination;
        match self.own.contains(&destination) || self.forwards_to(destination) {
            true => Ok(()),
            false => Err(DropReason::NotForThisHost),
        }
    }

    /// Whether a packet of a peer may go on to there: to what is offered, but not to a peer,
    /// nor to what is no single host beyond this one's links.
    fn forwards_to(&self, destination: IpAddr) -> bool {
        let offered = self.offered.iter().any(|p| p.contains(destination));
        offered && self.routes.find(destination).is_none() && is_forwardable(destination)
    }

    /// Counts packets that were opened and got no further.
    pub fn dropped(&mut self, slot: Slot, reason: DropReason, packets: u64) {
        if let Some(peer) = self.peers.get_mut(&slot) {
            peer.drops.add(reason, packets);
        }
    }

    /// Bytes and packets that a peer sent, and what of its was dropped.
    #[must_use]
    pub fn counters(&self, slot: Slot) -> (u64, u64, Drops) {
        let peer = self.peers.get(&slot);
        peer.map_or_else(Default::default, |p| (p.bytes, p.packets, p.drops.clone()))
    }

    /// What was dropped that belongs to no peer.
    #[must_use]
    pub fn drops(&self) -> &Drops {
        &self.drops
    }
}

fn is_forwardable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let special = ip.is_loopback() || ip.is_link_local() || ip.is_broadcast();
            !(special || ip.is_multicast() || ip.is_unspecified())
        }
        IpAddr::V6(ip) => {
            let special = ip.is_loopback() || ip.is_unicast_link_local();
            !(special || ip.is_multicast() || ip.is_unspecified())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cipher, PacketKeys, SEALED_SECRET_LEN, ip::tests::packet};

    const ME: &str = "100.64.0.1";
    const PEER: &str = "100.64.0.2";
    const OTHER: &str = "100.64.0.3";

    struct World {
        peer: PacketKeys,
        ingress: Ingress,
        index: ReceiverIndex,
    }

    fn world() -> World {
        let keys = |client| PacketKeys::new(&[7; SEALED_SECRET_LEN], client, Cipher::Aes256Gcm);
        // Each direction has its own index; this secret's are the same, and all is well.
        let opener = Arc::new(keys(false).opener);
        let mut routes = Routes::default();
        routes.insert(Prefix::host(PEER.parse().unwrap()), 1);
        routes.insert(Prefix::host(OTHER.parse().unwrap()), 2);
        let mut ingress = Ingress::new([ME.parse().unwrap()]);
        ingress.set_routes(Arc::new(routes));
        let index = opener.index();
        ingress.add_keys(1, opener);
        World {
            peer: keys(true),
            ingress,
            index,
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
    fn start() -> Instant {
        Instant::now()
    }

    fn sealed(world: &World, packet: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        world
            .peer
            .sealer
            .seal(Payload::Ip, &[packet], &mut out)
            .unwrap();
        out
    }

    #[test]
    fn a_peers_packet_reaches_the_host_once() {
        let mut world = world();
        let inner = packet(PEER, ME, 60);
        let mut datagram = sealed(&world, &inner);
        let mut again = datagram.clone();
        let opened = world
            .ingress
            .handle_datagram(&mut datagram, start())
            .unwrap();
        assert_eq!((opened.slot, opened.packet), (1, &*inner));
        assert_eq!(world.ingress.handle_datagram(&mut again, start()), None);
        let (bytes, packets, drops) = world.ingress.counters(1);
        assert_eq!((bytes, packets, drops.of(DropReason::Replayed)), (60, 1, 1));
    }

    #[test]
    fn a_checksum_may_be_left_out_only_where_there_is_one() {
        let mut world = world();
        for (protocol, taken) in [(6, true), (17, true), (1, false)] {
            let mut inner = packet(PEER, ME, 60);
            inner[9] = protocol;
            let mut datagram = Vec::new();
            let sealed = (world.peer.sealer).seal(Payload::IpUnsummed, &[&inner], &mut datagram);
            sealed.unwrap();
            let opened = world.ingress.handle_datagram(&mut datagram, start());
            assert_eq!(opened.map(|o| o.unsummed), taken.then_some(true));
        }
        let drops = world.ingress.counters(1).2;
        assert_eq!(drops.of(DropReason::Malformed), 1);
    }

    #[test]
    fn what_a_peer_may_not_send_is_counted_against_it() {
        let mut world = world();
        for (inner, reason) in [
            (packet(OTHER, ME, 60), DropReason::ForeignSource),
            (packet("192.0.2.1", ME, 60), DropReason::ForeignSource),
            (packet(PEER, OTHER, 60), DropReason::NotForThisHost),
            (packet(PEER, "224.0.0.1", 60), DropReason::NotForThisHost),
            (b"no packet".to_vec(), DropReason::Malformed),
            (Vec::new(), DropReason::Malformed),
        ] {
            let before = world.ingress.counters(1).2.of(reason);
            let mut datagram = sealed(&world, &inner);
            assert_eq!(world.ingress.handle_datagram(&mut datagram, start()), None);
            assert_eq!(
                world.ingress.counters(1).2.of(reason),
                before + 1,
                "{reason:?}"
            );
        }
        assert_eq!(world.ingress.counters(1).1, 0);
    }

    #[test]
    fn what_is_offered_is_forwarded_to_and_nothing_else() {
        let mut world = world();
        let may = |world: &World, to: &str| {
            let inner = packet(PEER, to, 60);
            world.ingress.check_packet(1, &inner).is_ok()
        };
        let offer = |world: &mut World, prefixes: &[&str]| {
            let prefixes = prefixes.iter().map(|p| p.parse().unwrap());
            world.ingress.set_offered(prefixes.collect());
        };
        assert!(!may(&world, "192.168.7.9"));
        offer(&mut world, &["192.168.7.0/24"]);
        assert!(may(&world, "192.168.7.9") && may(&world, ME));
        assert!(!may(&world, "192.168.8.9"));
        // An exit leads out, not to other peers, nor to this host's links.
        offer(&mut world, &["0.0.0.0/0"]);
        assert!(may(&world, "198.51.100.7"));
        for to in [
            OTHER,
            "127.0.0.1",
            "169.254.1.1",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!may(&world, to), "{to}");
        }
        // Sources are whose the routes say they are.
        let foreign = packet("10.1.2.3", ME, 60);
        assert!(world.ingress.check_packet(1, &foreign).is_err());
        let mut routes = Routes::default();
        routes.insert("10.1.0.0/16".parse().unwrap(), 1);
        world.ingress.set_routes(Arc::new(routes));
        assert!(world.ingress.check_packet(1, &foreign).is_ok());
        offer(&mut world, &[]);
        assert!(!may(&world, "198.51.100.7"));
    }

    #[test]
    fn strangers_are_counted_and_leave_nothing() {
        let mut world = world();
        let mut datagram = sealed(&world, &packet(PEER, ME, 60));
        datagram[7] ^= 1;
        assert_eq!(world.ingress.handle_datagram(&mut datagram, start()), None);
        assert_eq!(world.ingress.handle_datagram(&mut [2; 20], start()), None);
        assert_eq!(world.ingress.drops().of(DropReason::UnknownKeys), 1);
        assert_eq!(world.ingress.drops().of(DropReason::Malformed), 1);
        assert_eq!(world.ingress.peers.len(), 1);
    }

    #[test]
    fn former_keys_are_taken_until_they_are_removed() {
        let mut world = world();
        let [mut first, mut second] = [0; 2].map(|_| sealed(&world, &packet(PEER, ME, 60)));
        let other = PacketKeys::new(&[8; SEALED_SECRET_LEN], false, Cipher::Aes256Gcm);
        world.ingress.add_keys(1, Arc::new(other.opener));
        assert!(world.ingress.handle_datagram(&mut first, start()).is_some());
        world.ingress.remove_keys(world.index);
        assert_eq!(world.ingress.handle_datagram(&mut second, start()), None);
        world.ingress.remove_peer(1);
        assert!(world.ingress.openers.is_empty());
    }

    #[test]
    fn packets_and_frames_are_for_hosts_that_take_such() {
        let mut world = world();
        let frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 9], &[8, 6], &[0; 28]].concat();
        let sealed_frame = || {
            let mut out = Vec::new();
            let sealed = world
                .peer
                .sealer
                .seal(Payload::Ethernet, &[&frame], &mut out);
            sealed.unwrap();
            out
        };
        let [mut one, mut two] = [sealed_frame(), sealed_frame()];
        let mut packet = sealed(&world, &packet(PEER, ME, 60));
        assert_eq!(world.ingress.handle_datagram(&mut one, start()), None);
        let switch = Arc::new(Mutex::new(Switch::default()));
        world.ingress.switch = Some(Arc::clone(&switch));
        let opened = world.ingress.handle_datagram(&mut two, start()).unwrap();
        assert_eq!(opened.packet, frame);
        assert_eq!(world.ingress.handle_datagram(&mut packet, start()), None);
        assert_eq!(world.ingress.counters(1).2.of(DropReason::OtherMode), 2);
        assert_eq!(switch.lock().unwrap().behind(1, start()).len(), 1);
    }
}
