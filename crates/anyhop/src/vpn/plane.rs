//! The way of packets: between the interface, the machines of `anyhop_vpn` and the sockets.
//!
//! - **Out**: a thread waits for the host's packets, decides about each, cuts what the kernel
//!   left to be cut, and seals runs of equal ones for one peer into one buffer, which leaves in
//!   one call (GSO where the socket has it). The buffers are the thread's and are used again.
//! - **In**: the engine's socket hands over batches as the kernel delivered them; they are
//!   opened in place, and given to the interface right there, segments of one TCP flow as
//!   one packet.
//!
//! Each direction has one lock, taken for a packet's decision or a batch, in which nothing
//! waits; the task that follows the sessions takes both when something about them changes.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use anyhop_base::Direction;
use anyhop_os::{StopFlag, Tun};
use anyhop_vpn::{
    Decision, DropReason, Egress, Exhausted, Forward, HeldFrame, Ingress, MAX_MERGED, Merger,
    OVERHEAD, Payload, SEALED_HEADER_LEN, Sealer, Segments, Slot, Switch, VNET_HEADER_LEN,
    VnetHeader, ethernet_header_len, firewall::Firewall,
};
use tokio::sync::mpsc;

use crate::engine::{Fabric, SealedSink, Way};

/// Longest frame that an interface gives: an IP packet with its header.
const MAX_FRAME: usize = VNET_HEADER_LEN + 65_535;
/// Sealed bytes that leave in one call: a UDP datagram's limit for a batch.
const MAX_BATCH: usize = 65_000;
/// Datagrams of one batch.
const MAX_SEGMENTS: usize = 64;
/// Packets taken from the interface before what is left of their batch is sent.
const MAX_TAKEN: usize = 256;
/// Times that they are looked for again before the thread sleeps, or looks at the stop flag.
const MAX_YIELDS: usize = 16;
/// How long a full socket may hold the interface up; then packets are dropped.
const MAX_WAIT: Duration = Duration::from_millis(20);

/// What both directions share.
#[derive(Debug)]
pub(super) struct Plane {
    pub(super) tun: Tun,
    fabric: Arc<Fabric>,
    egress: Mutex<Egress<SocketAddr>>,
    ingress: Mutex<Inbound>,
    /// Of a plane that carries frames.
    switch: Option<Arc<Mutex<Switch>>>,
    /// Of both directions. It is taken last: no other lock while it is held.
    firewall: Mutex<Firewall>,
    dial: mpsc::Sender<Slot>,
}

/// The way in, and what it uses again for each batch.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) ingress: Ingress,
    merger: Merger,
    /// Packets of the batch at hand.
    opened: Vec<Waiting>,
}

/// A packet that was opened, and waits for the firewall and the interface.
#[derive(Debug)]
struct Waiting {
    slot: Slot,
    /// It is without its checksum.
    unsummed: bool,
    /// Where in its batch it is.
    packet: Range<usize>,
}

impl Plane {
    pub(super) fn new(
        tun: Tun,
        fabric: Arc<Fabric>,
        ingress: Ingress,
        switch: Option<Arc<Mutex<Switch>>>,
        firewall: Firewall,
        dial: mpsc::Sender<Slot>,
    ) -> Self {
        Self {
            tun,
            fabric,
            egress: Mutex::default(),
            ingress: Mutex::new(Inbound {
                ingress,
                merger: Merger::default(),
                opened: Vec::new(),
            }),
            switch,
            firewall: Mutex::new(firewall),
            dial,
        }
    }

    /// The switch, where frames are carried.
    pub(super) fn switch(&self) -> Option<MutexGuard<'_, Switch>> {
        let switch = self.switch.as_ref()?;
        Some(switch.lock().expect("no holder panics"))
    }

    pub(super) fn egress(&self) -> MutexGuard<'_, Egress<SocketAddr>> {
        self.egress.lock().expect("no holder panics")
    }

    pub(super) fn inbound(&self) -> MutexGuard<'_, Inbound> {
        self.ingress.lock().expect("no holder panics")
    }

    pub(super) fn firewall(&self) -> MutexGuard<'_, Firewall> {
        self.firewall.lock().expect("no holder panics")
    }

    /// Whether a packet, or a frame, to a peer passes the firewall.
    fn admits(&self, slot: Slot, packet: &[u8]) -> bool {
        let now = tokio::time::Instant::now().into_std();
        self.passes(&mut self.firewall(), now, Direction::Out, slot, packet)
    }

    fn passes(
        &self,
        firewall: &mut Firewall,
        now: std::time::Instant,
        direction: Direction,
        slot: Slot,
        packet: &[u8],
    ) -> bool {
        match self.switch {
            None => firewall.admits(now, direction, slot, packet),
            Some(_) => firewall.admits_frame(now, direction, slot, packet),
        }
    }

    /// Leaves of what was opened in a batch what passes the firewall. One lock for all of
    /// them, and not while they are opened: the other direction takes it too.
    fn sift(&self, now: std::time::Instant, batch: &[u8], opened: &mut Vec<Waiting>) {
        let mut firewall = self.firewall();
        opened.retain(|Waiting { slot, packet, .. }| {
            let packet = &batch[packet.clone()];
            self.passes(&mut firewall, now, Direction::In, *slot, packet)
        });
    }

    /// Sends packets that waited for their session.
    pub(super) fn send_held(&self, frames: impl IntoIterator<Item = (Slot, HeldFrame)>) {
        let mut batch = Batch::default();
        for (slot, mut frame) in frames {
            match self.switch {
                None => self.take(&mut frame, &mut batch),
                Some(_) => self.take_for(slot, &mut frame, &mut batch),
            }
        }
        self.flush(&mut batch);
    }

    /// Moves the host's packets until the flag is set or the interface is gone.
    pub(super) fn run(&self, stop: &StopFlag) -> io::Result<()> {
        let mut frame = vec![0; MAX_FRAME];
        let mut batch = Batch::default();
        let mut copy = Vec::new();
        while self.tun.wait(stop)? {
            let mut taken = self.take_waiting(&mut frame, &mut copy, &mut batch)?;
            // Whoever sends most often goes on at once when it gets the processor, and that costs
            // less than to sleep and be woken for each of its packets.
            for _ in 0..MAX_YIELDS {
                if taken == 0 {
                    break;
                }
                thread::yield_now();
                taken = self.take_waiting(&mut frame, &mut copy, &mut batch)?;
            }
        }
        Ok(())
    }

    /// Sends what the host has for the interface right now; answers how many packets that were.
    fn take_waiting(
        &self,
        frame: &mut [u8],
        copy: &mut Vec<u8>,
        batch: &mut Batch,
    ) -> io::Result<usize> {
        let mut taken = 0;
        while taken < MAX_TAKEN {
            match self.tun.read(frame) {
                Ok(len) => match self.switch {
                    None => self.take(&mut frame[..len], batch),
                    Some(_) => self.take_frame(&mut frame[..len], copy, batch),
                },
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
            taken += 1;
        }
        self.flush(batch);
        Ok(taken)
    }

    /// Decides about an ethernet frame, which may be for one peer or for all.
    fn take_frame(&self, frame: &mut [u8], copy: &mut Vec<u8>, batch: &mut Batch) {
        let ethernet = frame.get(VNET_HEADER_LEN..).unwrap_or_default();
        let now = tokio::time::Instant::now().into_std();
        let forward = self.switch().map(|mut s| s.from_host(ethernet, now));
        match forward {
            Some(Ok(Forward::To(slot))) => self.take_for(slot, frame, batch),
            Some(Ok(Forward::All)) => {
                let slots: Vec<Slot> = self.egress().slots().collect();
                for slot in slots {
                    // Cutting it changes it.
                    copy.clear();
                    copy.extend_from_slice(frame);
                    self.take_for(slot, copy, batch);
                }
            }
            Some(Err(reason)) => self.egress().refused(reason),
            None => {}
        }
    }

    /// Decides about an ethernet frame for one peer.
    fn take_for(&self, slot: Slot, frame: &mut [u8], batch: &mut Batch) {
        let Some((header, ethernet)) = VnetHeader::read(frame) else {
            return;
        };
        let link = ethernet_header_len(ethernet);
        let header = header.without_link(link);
        let Some(packet) = ethernet.get(link..) else {
            self.egress().refused(DropReason::Malformed);
            return;
        };
        let len = link + header.cut_len(packet);
        let mut egress = self.egress();
        let decision = egress.handle_for(slot, frame, VNET_HEADER_LEN, link, len);
        drop(egress);
        self.carry(decision, header, frame, link, batch);
    }

    /// Decides about one packet and puts what comes of it into the batch.
    fn take(&self, frame: &mut [u8], batch: &mut Batch) {
        let Some((header, packet)) = VnetHeader::read(frame) else {
            return;
        };
        let len = header.cut_len(packet);
        let decision = self.egress().handle_frame(frame, VNET_HEADER_LEN, len);
        self.carry(decision, header, frame, 0, batch);
    }

    /// Does what was decided about a packet behind `link` bytes of ethernet header.
    fn carry(
        &self,
        decision: Decision<SocketAddr>,
        header: VnetHeader,
        frame: &mut [u8],
        link: usize,
        batch: &mut Batch,
    ) {
        match decision {
            Decision::Send { slot, sealer, path } => {
                let whole = &mut frame[VNET_HEADER_LEN..];
                if !self.admits(slot, whole) {
                    self.egress().dropped(slot, DropReason::Firewall, 1);
                    return;
                }
                let (ethernet, packet) = whole.split_at_mut(link);
                let unsummed = self.switch.is_none();
                let Some(mut segments) = Segments::new(header, packet, unsummed) else {
                    self.egress().dropped(slot, DropReason::Malformed, 1);
                    return;
                };
                let kind = match self.switch {
                    Some(_) => Payload::Ethernet,
                    None if segments.are_unsummed() => Payload::IpUnsummed,
                    None => Payload::Ip,
                };
                while let Some([headers, payload]) = segments.next_packet() {
                    let parts = [&*ethernet, headers, payload];
                    self.put((kind, parts), (slot, path), &sealer, batch);
                }
            }
            // When so many peers are dialled at once, this one is with its next packet.
            Decision::Dial(slot) => {
                if self.dial.try_send(slot).is_err() {
                    self.egress().give_up(slot);
                }
            }
            Decision::Answer(answer) => {
                let whole = VnetHeader::default().bytes();
                // An answer that is lost is asked for again by the next packet.
                let _ = self
                    .tun
                    .write(&[IoSlice::new(&whole), IoSlice::new(&answer)]);
            }
            Decision::Held | Decision::Dropped(_) => {}
        }
    }

    /// Seals a packet into the batch, and sends that before if the packet does not fit to it.
    fn put(
        &self,
        (kind, packet): (Payload, [&[u8]; 3]),
        (slot, path): (Slot, SocketAddr),
        sealer: &Sealer,
        batch: &mut Batch,
    ) {
        let len = packet.iter().map(|part| part.len()).sum();
        if !batch.fits(slot, path, len) {
            self.flush(batch);
            let Some(way) = self.fabric.way(path) else {
                self.egress().dropped(slot, DropReason::PathBusy, 1);
                return;
            };
            batch.begin(slot, path, way);
        }
        if batch.seal(sealer, kind, packet).is_err() {
            self.egress().dropped(slot, DropReason::Exhausted, 1);
        }
    }

    fn flush(&self, batch: &mut Batch) {
        let Some((slot, way)) = batch.target() else {
            return;
        };
        let (packets, bytes) = (batch.packets as u64, batch.inner_bytes);
        let segment = (batch.packets > 1).then_some(batch.stride);
        let sent = self.send(&way, &batch.bytes, segment);
        batch.clear();
        match sent {
            Ok(()) => self.egress().sent(slot, packets, bytes),
            Err(e) => {
                tracing::trace!(error = %e, packets, "sealed packets not sent");
                self.egress().dropped(slot, DropReason::PathBusy, packets);
            }
        }
    }

    /// Sends, and waits a little where the socket takes nothing more.
    fn send(&self, way: &Way, bytes: &[u8], segment: Option<usize>) -> io::Result<()> {
        let mut left = bytes;
        loop {
            let sent = self.fabric.send_sealed(way, left, segment);
            match sent {
                Ok(done) if done == left.len() => return Ok(()),
                Ok(done) => left = &left[done..],
                Err(e) => return Err(e),
            }
            if !self.wait_writable(way) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
    }

    /// Blocks this thread until the socket may take more; false when that took too long.
    fn wait_writable(&self, way: &Way) -> bool {
        let Some(mut writable) = self.fabric.writable(way) else {
            return false;
        };
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut cx = Context::from_waker(&waker);
        let deadline = tokio::time::Instant::now() + MAX_WAIT;
        loop {
            if let Poll::Ready(ready) = writable.as_mut().poll(&mut cx) {
                return ready.is_ok();
            }
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() {
                return false;
            }
            thread::park_timeout(left);
        }
    }
}

/// Wakes a parked thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl SealedSink for Plane {
    fn receive(&self, batch: &mut [u8], stride: usize, header: usize) {
        let mut inbound = self.inbound();
        let Inbound {
            ingress,
            merger,
            opened,
        } = &mut *inbound;
        let now = tokio::time::Instant::now().into_std();
        let mut at = 0;
        opened.clear();
        while at < batch.len() {
            let end = (at + stride).min(batch.len());
            let start = (at + header).min(end);
            if let Some(packet) = ingress.handle_datagram(&mut batch[start..end], now) {
                let first = start + SEALED_HEADER_LEN;
                opened.push(Waiting {
                    slot: packet.slot,
                    unsummed: packet.unsummed,
                    packet: first..first + packet.packet.len(),
                });
            }
            at = end;
        }
        // A batch is one peer's: it came from one address.
        let Some(slot) = opened.last().map(|waiting| waiting.slot) else {
            return;
        };
        let before = opened.len();
        self.sift(now, batch, opened);
        let denied = (before - opened.len()) as u64;
        for waiting in opened.drain(..) {
            match self.switch {
                None => merger.push(batch, waiting.packet, waiting.unsummed),
                Some(_) => merger.push_whole(waiting.packet),
            }
        }
        let mut refused = 0;
        merger.drain(batch, |vnet, batch, payloads, headers| {
            if let Err(e) = self.give(&vnet.bytes(), &batch[headers], batch, payloads) {
                tracing::trace!(error = %e, "the interface took no packet");
                refused += payloads.len().max(1) as u64;
            }
        });
        if denied > 0 {
            ingress.dropped(slot, DropReason::Firewall, denied);
        }
        if refused > 0 {
            ingress.dropped(slot, DropReason::InterfaceBusy, refused);
        }
    }
}

impl Plane {
    /// Gives the interface one packet, whose payloads are ranges of the batch.
    fn give(
        &self,
        vnet: &[u8],
        headers: &[u8],
        batch: &[u8],
        payloads: &[Range<usize>],
    ) -> io::Result<()> {
        let mut parts = [IoSlice::new(&[]); 2 + MAX_MERGED];
        (parts[0], parts[1]) = (IoSlice::new(vnet), IoSlice::new(headers));
        let mut count = 2;
        for (part, payload) in parts[2..].iter_mut().zip(payloads) {
            *part = IoSlice::new(&batch[payload.clone()]);
            count += 1;
        }
        self.tun.write(&parts[..count])
    }
}

/// Sealed datagrams for one peer that leave together: all of one length, but the last, which
/// may be shorter.
#[derive(Debug, Default)]
struct Batch {
    target: Option<(Slot, SocketAddr, Way)>,
    bytes: Vec<u8>,
    packets: usize,
    /// Length of each datagram.
    stride: usize,
    /// The last one is shorter.
    closed: bool,
    inner_bytes: u64,
}

impl Batch {
    fn fits(&self, slot: Slot, path: SocketAddr, packet: usize) -> bool {
        let Some((to, over, way)) = &self.target else {
            return false;
        };
        let len = way.header().len() + packet + OVERHEAD;
        let same = (*to, *over) == (slot, path);
        let room = self.packets < MAX_SEGMENTS && self.bytes.len() + len <= MAX_BATCH;
        same && room && !self.closed && (self.packets == 0 || len <= self.stride)
    }

    fn begin(&mut self, slot: Slot, path: SocketAddr, way: Way) {
        self.target = Some((slot, path, way));
    }

    fn seal(
        &mut self,
        sealer: &Sealer,
        payload: Payload,
        packet: [&[u8]; 3],
    ) -> Result<(), Exhausted> {
        let Some((_, _, way)) = &self.target else {
            return Ok(());
        };
        let before = self.bytes.len();
        self.bytes.extend_from_slice(way.header());
        if let Err(e) = sealer.seal(payload, &packet, &mut self.bytes) {
            self.bytes.truncate(before);
            return Err(e);
        }
        let len = self.bytes.len() - before;
        match self.packets {
            0 => self.stride = len,
            _ => self.closed = len < self.stride,
        }
        self.packets += 1;
        self.inner_bytes += packet.iter().map(|part| part.len() as u64).sum::<u64>();
        Ok(())
    }

    /// Where what is in it goes; `None` when it is empty.
    fn target(&self) -> Option<(Slot, Way)> {
        let (slot, _, way) = self.target?;
        (self.packets > 0).then_some((slot, way))
    }

    fn clear(&mut self) {
        self.target = None;
        self.bytes.clear();
        (self.packets, self.closed, self.inner_bytes) = (0, false, 0);
    }
}

#[cfg(test)]
mod tests {
    use anyhop_vpn::{Cipher, PacketKeys, SEALED_SECRET_LEN};

    use super::*;

    #[test]
    fn a_batch_is_of_one_peer_and_one_length_until_a_shorter_one_ends_it() {
        let sealer = PacketKeys::new(&[1; SEALED_SECRET_LEN], true, Cipher::Aes256Gcm).sealer;
        let path = "192.0.2.1:4001".parse().unwrap();
        let mut batch = Batch::default();
        assert!(!batch.fits(1, path, 100), "it has no target");
        batch.begin(1, path, Way::direct(path));
        assert!(batch.target().is_none(), "it is empty");
        for _ in 0..2 {
            assert!(batch.fits(1, path, 100));
            batch
                .seal(&sealer, Payload::Ip, [&[], &[], &[0; 100]])
                .unwrap();
        }
        assert!(!batch.fits(2, path, 100), "another peer");
        assert!(!batch.fits(1, path, 101), "longer");
        assert!(batch.fits(1, path, 40));
        batch
            .seal(&sealer, Payload::Ethernet, [&[0; 10], &[0; 10], &[0; 20]])
            .unwrap();
        assert!(!batch.fits(1, path, 40), "ended");
        assert_eq!(batch.bytes.len(), 240 + 3 * OVERHEAD);
        assert_eq!((batch.stride, batch.inner_bytes), (100 + OVERHEAD, 240));
        batch.clear();
        assert!(batch.target().is_none());
    }
}
