//! Sealed IP packets on the node's sockets: handed to the packet plane as they come in, and
//! sent over the same UDP sockets, WebSockets and circuits as everything else.

use std::{fmt::Debug, io, net::SocketAddr, sync::Arc};

use anyhop_proto::{
    circuit::CircuitId,
    datagram::{CIRCUIT_HEADER_LEN, Label},
};

use super::mux::{Fabric, canonical, count};
use crate::net::{Transmit, Writable};

/// Takes sealed packets; the packet plane.
pub(crate) trait SealedSink: Send + Sync + Debug {
    /// A batch of datagrams, `stride` bytes each but the last, each with `header` bytes in
    /// front that are none of its business. They may be changed in place.
    fn receive(&self, batch: &mut [u8], stride: usize, header: usize);
}

/// How datagrams leave towards an address at the moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    to: SocketAddr,
    header: [u8; CIRCUIT_HEADER_LEN],
    header_len: usize,
}

impl Way {
    /// Without a circuit.
    pub(crate) fn direct(to: SocketAddr) -> Self {
        Self {
            to,
            header: [0; CIRCUIT_HEADER_LEN],
            header_len: 0,
        }
    }

    fn labelled(to: SocketAddr, label: Label) -> Self {
        Self {
            to,
            header: label.header(),
            header_len: CIRCUIT_HEADER_LEN,
        }
    }

    /// What goes in front of each datagram.
    pub(crate) fn header(&self) -> &[u8] {
        &self.header[..self.header_len]
    }
}

impl Fabric {
    /// Has sealed packets go to `sink`, or to nobody. When this returns, the one before
    /// gets none any more.
    pub(crate) fn set_sealed_sink(&self, sink: Option<Arc<dyn SealedSink>>) {
        *self.sealed.write().expect("no holder panics") = sink;
    }

    /// Whether sealed packets go somewhere.
    pub(crate) fn has_sealed_sink(&self) -> bool {
        self.sealed.read().expect("no holder panics").is_some()
    }

    /// Hands a batch of sealed packets over.
    pub(super) fn deliver_sealed(&self, batch: &mut [u8], stride: usize, header: usize) {
        // Written only when a plane starts or stops, so that nobody waits here.
        match &*self.sealed.read().expect("no holder panics") {
            Some(sink) => sink.receive(batch, stride, header),
            None => count(&self.drops.no_plane, batch.len().div_ceil(stride) as u64),
        }
    }

    /// How datagrams leave towards a path's address; `None` for a circuit that is gone.
    pub(crate) fn way(&self, path: SocketAddr) -> Option<Way> {
        let path = canonical(path);
        match CircuitId::from_address(&path) {
            None => Some(Way::direct(path)),
            Some(circuit) => {
                let (to, label) = self.egress(circuit)?;
                Some(Way::labelled(to, label))
            }
        }
    }

    /// Sends datagrams that have the way's header in front, `segment` bytes each but the
    /// last if there are several, in as many calls as the socket needs. Answers how many
    /// bytes are on their way: less than all when the socket takes no more now.
    pub(crate) fn send_sealed(
        &self,
        way: &Way,
        bytes: &[u8],
        segment: Option<usize>,
    ) -> io::Result<usize> {
        let Some(outlet) = self.outlet(&way.to) else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        let stride = segment.unwrap_or(bytes.len()).max(1);
        let step = stride * outlet.max_transmit_segments().get();
        let mut sent = 0;
        for part in bytes.chunks(step) {
            let result = outlet.try_send(&Transmit {
                destination: way.to,
                ecn: None,
                contents: part,
                segment_size: (part.len() > stride).then_some(stride),
                src_ip: None,
            });
            match result {
                Ok(()) => sent += part.len(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(sent)
    }

    /// Resolves when a way may take more.
    pub(crate) fn writable(&self, way: &Way) -> Option<Writable> {
        Some(self.outlet(&way.to)?.writable())
    }
}
