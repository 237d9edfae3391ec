//! What travels over a virtual network.

use std::net::SocketAddr;

use anyhop::net::EcnCodepoint;
use bytes::Bytes;

use super::{HostId, tcp::Segment};

/// Routers that a packet may pass unless its sender says otherwise.
pub(super) const DEFAULT_TTL: u8 = 64;

/// An IP packet under way, with the addresses that it shows where it is.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    /// The host that sent it, or whose packet a router answers with it.
    pub(super) origin: HostId,
    pub(super) src: SocketAddr,
    pub(super) dst: SocketAddr,
    /// Routers that it may still pass, and one.
    pub(super) ttl: u8,
    pub(super) body: Body,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    Udp {
        ecn: Option<EcnCodepoint>,
        payload: Bytes,
    },
    Tcp(Segment),
}

impl Packet {
    pub(super) fn is_udp(&self) -> bool {
        matches!(self.body, Body::Udp { .. })
    }

    /// Bytes that it carries for the two ends.
    pub(super) fn payload_len(&self) -> usize {
        match &self.body {
            Body::Udp { payload, .. } => payload.len(),
            Body::Tcp(segment) => segment.payload.len(),
        }
    }

    /// Bytes that it takes on a link: an IP header, a UDP or TCP header, the payload.
    pub(super) fn size(&self) -> usize {
        let ip = if self.dst.is_ipv4() { 20 } else { 40 };
        let transport = if self.is_udp() { 8 } else { 20 };
        ip + transport + self.payload_len()
    }

    /// The reset that a router or host sends back where it knows no such connection;
    /// `None` for UDP, and for resets themselves.
    pub(super) fn reset(&self) -> Option<Self> {
        let Body::Tcp(Segment { rst: false, .. }) = self.body else {
            return None;
        };
        Some(Self {
            origin: self.origin,
            src: self.dst,
            dst: self.src,
            ttl: DEFAULT_TTL,
            body: Body::Tcp(Segment::reset()),
        })
    }
}
