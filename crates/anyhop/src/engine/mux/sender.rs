//! How the engine's packets leave: over a socket, a WebSocket or a circuit, or the way that
//! those of a dead path are diverted to.

use std::{
    fmt, io,
    net::SocketAddr,
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use anyhop_proto::{circuit::CircuitId, datagram::CIRCUIT_HEADER_LEN};
use noq::UdpSender;

use super::{Diversions, Fabric, Outlet, canonical, count};
use crate::net::{Transmit, Writable};

/// Sends for one connection of the engine.
pub(super) struct MuxSender {
    fabric: Arc<Fabric>,
    diversions: Arc<Diversions>,
    /// Where headers are put in front of segments.
    scratch: Vec<u8>,
    /// Set while the socket's buffer is full.
    waiting: Option<Writable>,
}

impl fmt::Debug for MuxSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MuxSender")
    }
}

impl MuxSender {
    /// For the connection that the engine is making now.
    pub(super) fn new(fabric: Arc<Fabric>) -> Self {
        Self {
            fabric,
            diversions: Diversions::of_sender(),
            scratch: Vec::new(),
            waiting: None,
        }
    }

    fn try_send(&mut self, transmit: &Transmit<'_>) -> io::Result<()> {
        let destination = self.diversions.resolve(canonical(transmit.destination));
        let Some(circuit) = CircuitId::from_address(&destination) else {
            let Some(outlet) = self.fabric.outlet(&destination) else {
                return Err(io::ErrorKind::AddrNotAvailable.into());
            };
            let src_ip = transmit.src_ip.map(|ip| ip.to_canonical());
            return outlet.try_send(&Transmit {
                destination,
                src_ip: src_ip.filter(|ip| ip.is_ipv4() == destination.is_ipv4()),
                ..transmit.clone()
            });
        };
        let Some((to, label)) = self.fabric.egress(circuit) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let header = label.header();
        let stride = transmit.segment_size.unwrap_or(transmit.contents.len());
        self.scratch.clear();
        for segment in transmit.contents.chunks(stride.max(1)) {
            self.scratch.extend_from_slice(&header);
            self.scratch.extend_from_slice(segment);
        }
        let segment = transmit.segment_size.map(|s| s + CIRCUIT_HEADER_LEN);
        self.fabric.try_send(to, &self.scratch, segment)
    }

    fn outlet_towards(&self, destination: &SocketAddr) -> Option<Outlet<'_>> {
        let to = self.diversions.resolve(canonical(*destination));
        let to = match CircuitId::from_address(&to) {
            Some(circuit) => self.fabric.egress(circuit)?.0,
            None => to,
        };
        self.fabric.outlet(&to)
    }
}

impl UdpSender for MuxSender {
    fn poll_send(
        mut self: Pin<&mut Self>,
        transmit: &Transmit<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let this = &mut *self;
            if let Some(future) = &mut this.waiting {
                ready!(future.as_mut().poll(cx))?;
                this.waiting = None;
            }
            match this.try_send(transmit) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let outlet = this.outlet_towards(&transmit.destination);
                    this.waiting = outlet.map(Outlet::writable);
                }
                // A datagram that cannot be sent is a lost datagram: QUIC recovers, and
                // an oversize probe is how path MTU discovery finds the limit.
                Err(e) => {
                    tracing::trace!(to = %transmit.destination, error = %e, "datagram not sent");
                    count(&this.fabric.drops.send_failed, 1);
                    return Poll::Ready(Ok(()));
                }
                Ok(()) => return Poll::Ready(Ok(())),
            }
        }
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        self.fabric
            .sockets()
            .map(|s| s.max_transmit_segments())
            .min()
            .unwrap_or(NonZeroUsize::MIN)
    }
}
