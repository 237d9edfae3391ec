//! Agreeing on a punch: both sides tell where they may be reached, over the session's
//! circuit, then ping each other's candidates.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhop_base::Endpoint;
use anyhop_proto::{
    control::{Candidates, MAX_CANDIDATES, MAX_CONTROL_FRAME},
    is_virtual,
};
use tokio::time::timeout;

use super::{Inner, protocols};
use crate::{
    StreamError,
    session::{Command, Conn},
    stream::{RecvStream, SendStream, malformed, read_frame},
};

/// How long the exchange may take.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Client side: sends our candidates, returns the peer's.
pub(crate) async fn exchange(
    node: &Arc<Inner>,
    conn: &Arc<Conn>,
) -> Result<Vec<SocketAddr>, StreamError> {
    let talk = async {
        let protocol = node.protocol(protocols::PUNCH);
        let (mut send, mut recv) = conn.open_bi(&protocol, protocols::PUNCH).await?;
        send.write_all(&node.candidates().encode()).await?;
        send.finish()?;
        read_candidates(&mut recv).await
    };
    timeout(EXCHANGE_TIMEOUT, talk).await.unwrap_or_else(|_| {
        Err(StreamError::SessionLost {
            peer: conn.peer,
            reason: "the peer did not answer the punch in time".to_owned(),
        })
    })
}

/// Server side: answers with our candidates and starts to ping the peer's.
pub(crate) async fn serve(
    node: Arc<Inner>,
    conn: Arc<Conn>,
    mut send: SendStream,
    mut recv: RecvStream,
) -> Result<(), StreamError> {
    let candidates = read_candidates(&mut recv).await?;
    if node.config.direct_paths {
        send.write_all(&node.candidates().encode()).await?;
    } else {
        let none = Candidates {
            addresses: Vec::new(),
        };
        send.write_all(&none.encode()).await?;
    }
    send.finish()?;
    if node.config.direct_paths {
        // A full queue drops the punch; the client tries again.
        let _ = conn.commands.try_send(Command::Punch(candidates));
    }
    Ok(())
}

async fn read_candidates(recv: &mut RecvStream) -> Result<Vec<SocketAddr>, StreamError> {
    let frame = read_frame(recv, MAX_CONTROL_FRAME).await?;
    let candidates = Candidates::decode(&frame).map_err(|_| malformed(recv))?;
    Ok(candidates.addresses)
}

impl Inner {
    /// Where this node may be reached: as others see it, then its own interfaces.
    pub(crate) fn candidates(&self) -> Candidates {
        let mut addresses: Vec<SocketAddr> = self.observed_addrs();
        for addr in self.listen_addrs() {
            if !addresses.contains(&addr) && !is_loopback_only(&addr, &addresses) {
                addresses.push(addr);
            }
        }
        addresses.truncate(MAX_CANDIDATES);
        Candidates { addresses }
    }

    /// Whether an address is in a private network of ours.
    pub(crate) fn is_lan(&self, addr: &SocketAddr) -> bool {
        let own = self.listen_addrs();
        is_private(addr.ip()) && own.iter().any(|o| near(o.ip(), addr.ip()))
    }

    /// Whether to send to an address a peer told. A private one may belong to somebody
    /// else where we are, unless we are seen near it.
    pub(crate) fn may_probe(&self, addr: &SocketAddr) -> bool {
        self.fabric.can_reach(addr) && self.is_near_or_public(addr)
    }

    /// Whether this node has a socket for an endpoint. TCP finds its own.
    pub(super) fn can_reach(&self, endpoint: &Endpoint) -> bool {
        let addr = endpoint.addr();
        match endpoint {
            Endpoint::Udp(_) => self.fabric.can_reach(&addr),
            Endpoint::Ws { .. } => !is_virtual(&addr),
        }
    }

    /// Whether an address means the same host here as where it was told.
    pub(super) fn is_near_or_public(&self, addr: &SocketAddr) -> bool {
        let mut own = self.observed_addrs();
        own.extend(self.listen_addrs());
        !is_private(addr.ip()) || own.iter().any(|o| near(o.ip(), addr.ip()))
    }
}

/// Whether two addresses may be in one private network: the same /16, or /48 for IPv6.
fn near(a: IpAddr, b: IpAddr) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => a.octets()[..2] == b.octets()[..2],
        (IpAddr::V6(a), IpAddr::V6(b)) => a.segments()[..3] == b.segments()[..3],
        _ => false,
    }
}

/// Addresses that name different hosts in different places.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

/// Loopback is a candidate only for a node that nobody sees elsewhere.
fn is_loopback_only(addr: &SocketAddr, observed: &[SocketAddr]) -> bool {
    let is_loopback = |ip: IpAddr| ip.is_loopback();
    is_loopback(addr.ip()) && observed.iter().any(|o| !is_loopback(o.ip()))
}
