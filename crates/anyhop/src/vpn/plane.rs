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

use anyhop_os::{StopFlag, Tun};
use anyhop_vpn::{
    Decision, DropReason, Egress, Exhausted, HeldFrame, Ingress, MAX_MERGED, Merger, OVERHEAD,
    SEALED_HEADER_LEN, Sealer, Segments, Slot, VNET_HEADER_LEN, VnetHeader,
};
use tokio::sync::mpsc;

use crate::engine::{Fabric, SealedSink, Way};

/// Longest frame that an interface gives: an IP packet with its header.
const MAX_FRAME: usize = VNET_HEADER_LEN + 65_535;
/// Sealed bytes that leave in one call: a UDP datagram's limit for a batch.
const MAX_BATCH: usize = 65_000;
/// Datagrams of one batch.
const MAX_SEGMENTS: usize = 64;
/// Packets taken from the interface before the stop flag is looked at again.
const MAX_TAKEN: usize = 256;
/// How long a full socket may hold the interface up; then packets are dropped.
const MAX_WAIT: Duration = Duration::from_millis(20);

/// What both directions share.
#[derive(Debug)]
pub(super) struct Plane {
    pub(super) tun: Tun,
    fabric: Arc<Fabric>,
    egress: Mutex<Egress<SocketAddr>>,
    ingress: Mutex<Inbound>,
    dial: mpsc::Sender<Slot>,
}

/// The way in, and what it uses again for each batch.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) ingress: Ingress,
    merger: Merger,
}

impl Plane {
    pub(super) fn new(
        tun: Tun,
        fabric: Arc<Fabric>,
        ingress: Ingress,
        dial: mpsc::Sender<Slot>,
    ) -> Self {
        Self {
            tun,
            fabric,
            egress: Mutex::default(),
            ingress: Mutex::new(Inbound {
                ingress,
                merger: Merger::default(),
            }),
            dial,
        }
    }

    pub(super) fn egress(&self) -> MutexGuard<'_, Egress<SocketAddr>> {
        self.egress.lock().expect("no holder panics")
    }

    pub(super) fn inbound(&self) -> MutexGuard<'_, Inbound> {
        self.ingress.lock().expect("no holder panics")
    }

    /// Sends packets that waited for their session.
    pub(super) fn send_held(&self, frames: impl IntoIterator<Item = HeldFrame>) {
        let mut batch = Batch::default();
        for mut frame in frames {
            self.take(&mut frame, &mut batch);
        }
        self.flush(&mut batch);
    }

    /// Moves the host's packets until the flag is set or the interface is gone.
    pub(super) fn run(&self, stop: &StopFlag) -> io::Result<()> {
        let mut frame = vec![0; MAX_FRAME];
        let mut batch = Batch::default();
        while self.tun.wait(stop)? {
            for _ in 0..MAX_TAKEN {
                match self.tun.read(&mut frame) {
                    Ok(len) => self.take(&mut frame[..len], &mut batch),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e),
                }
            }
            self.flush(&mut batch);
        }
        Ok(())
    }

    /// Decides about one frame and puts what comes of it into the batch.
    fn take(&self, frame: &mut [u8], batch: &mut Batch) {
        let Some((header, packet)) = VnetHeader::read(frame) else {
            return;
        };
        let len = header.cut_len(packet);
        let decision = self.egress().handle_frame(frame, VNET_HEADER_LEN, len);
        match decision {
            Decision::Send { slot, sealer, path } => {
                let packet = &mut frame[VNET_HEADER_LEN..];
                let Some(mut segments) = Segments::new(header, packet) else {
                    self.egress().dropped(slot, DropReason::Malformed, 1);
                    return;
                };
                while let Some(parts) = segments.next_packet() {
                    self.put(parts, (slot, path), &sealer, batch);
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
        packet: [&[u8]; 2],
        (slot, path): (Slot, SocketAddr),
        sealer: &Sealer,
        batch: &mut Batch,
    ) {
        let len = packet[0].len() + packet[1].len();
        if !batch.fits(slot, path, len) {
            self.flush(batch);
            let Some(way) = self.fabric.way(path) else {
                self.egress().dropped(slot, DropReason::PathBusy, 1);
                return;
            };
            batch.begin(slot, path, way);
        }
        if batch.seal(sealer, packet).is_err() {
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
        let Inbound { ingress, merger } = &mut *inbound;
        let mut last = None;
        let mut at = 0;
        while at < batch.len() {
            let end = (at + stride).min(batch.len());
            let start = (at + header).min(end);
            if let Some(opened) = ingress.handle_datagram(&mut batch[start..end]) {
                last = Some(opened.slot);
                let first = start + SEALED_HEADER_LEN;
                let packet = first..first + opened.packet.len();
                merger.push(batch, packet);
            }
            at = end;
        }
        // A batch is one peer's: it came from one address.
        let Some(slot) = last else { return };
        let mut refused = 0;
        merger.drain(batch, |vnet, batch, payloads, headers| {
            if let Err(e) = self.give(&vnet.bytes(), &batch[headers], batch, payloads) {
                tracing::trace!(error = %e, "the interface took no packet");
                refused += payloads.len().max(1) as u64;
            }
        });
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

    fn seal(&mut self, sealer: &Sealer, packet: [&[u8]; 2]) -> Result<(), Exhausted> {
        let Some((_, _, way)) = &self.target else {
            return Ok(());
        };
        let before = self.bytes.len();
        self.bytes.extend_from_slice(way.header());
        if let Err(e) = sealer.seal(&packet, &mut self.bytes) {
            self.bytes.truncate(before);
            return Err(e);
        }
        let len = self.bytes.len() - before;
        match self.packets {
            0 => self.stride = len,
            _ => self.closed = len < self.stride,
        }
        self.packets += 1;
        self.inner_bytes += (packet[0].len() + packet[1].len()) as u64;
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
            batch.seal(&sealer, [&[], &[0; 100]]).unwrap();
        }
        assert!(!batch.fits(2, path, 100), "another peer");
        assert!(!batch.fits(1, path, 101), "longer");
        assert!(batch.fits(1, path, 40));
        batch.seal(&sealer, [&[0; 20], &[0; 20]]).unwrap();
        assert!(!batch.fits(1, path, 40), "ended");
        assert_eq!(batch.bytes.len(), 240 + 3 * OVERHEAD);
        assert_eq!((batch.stride, batch.inner_bytes), (100 + OVERHEAD, 240));
        batch.clear();
        assert!(batch.target().is_none());
    }
}
