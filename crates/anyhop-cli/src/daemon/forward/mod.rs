//! `expose` and `forward`: TCP connections and UDP flows through a session.
//!
//! Each connection, and each source address of datagrams, is one stream of protocol
//! `forward/1`. It starts with the service wanted; the exposing side connects to it only
//! if exactly that is exposed (everything else is refused) and answers before any data.
//!
//! ```text
//! expose   what is exposed, and the serving side of the streams
//! local    the listening side: sockets that become streams
//! tcp      bytes both ways, with half-close; a reset stays a reset
//! udp      datagrams with a length before each
//! wire     the start of a stream
//! ```

mod expose;
mod local;
mod tcp;
mod udp;
mod wire;

use std::fmt;

pub(super) use expose::{Exposed, expose, serve};
pub(super) use local::Forward;

use crate::spec::Target;

/// Name of the protocol.
pub(super) const PROTOCOL: &str = "forward/1";

/// Connections or flows at once of one `forward`, and over all exposed services.
const MAX_FLOWS: usize = 1024;

/// What is exposed and asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Service {
    target: Target,
    udp: bool,
}

impl Service {
    /// A host's port.
    pub(super) fn new(target: Target, udp: bool) -> Self {
        Self { target, udp }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.target, if self.udp { " (UDP)" } else { "" })
    }
}
