//! Addresses of nodes: `/ip4/1.2.3.4/udp/4001/quic-v1/p2p/12D3..` and, for the WebSocket
//! carrier, `/ip4/1.2.3.4/tcp/443/wss/p2p/12D3..`, in the multiaddr format of libp2p.
//!
//! Every address that passes through here can be dialled: it has a port, a unicast IP
//! address that means the same on every host, and IPv4 addresses are written as IPv4.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use libp2p_identity::PeerId;
use multiaddr::{Multiaddr, Protocol};
use thiserror::Error;

/// Where a node answers, and over which carrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// QUIC over UDP.
    Udp(SocketAddr),
    /// QUIC datagrams in WebSocket messages over TCP.
    Ws {
        /// The TCP address.
        addr: SocketAddr,
        /// Whether TLS is around it (`wss`). The node's identity is proven by the
        /// session's handshake inside either way.
        tls: bool,
    },
}

impl Endpoint {
    /// The socket address, UDP or TCP.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        match *self {
            Self::Udp(addr) | Self::Ws { addr, .. } => addr,
        }
    }

    /// The UDP address, if it is one.
    #[must_use]
    pub fn udp(&self) -> Option<SocketAddr> {
        match *self {
            Self::Udp(addr) => Some(addr),
            Self::Ws { .. } => None,
        }
    }

    /// The endpoint as it is advertised and dialled.
    ///
    /// # Errors
    /// When its address cannot be dialled, see [`dialable`].
    pub fn dialable(self) -> Result<Self, AddrError> {
        Ok(match self {
            Self::Udp(addr) => Self::Udp(dialable(addr)?),
            Self::Ws { addr, tls } => Self::Ws {
                addr: dialable(addr)?,
                tls,
            },
        })
    }

    /// Its multiaddr, without `/p2p/`.
    ///
    /// # Errors
    /// As [`Endpoint::dialable`].
    pub fn to_multiaddr(self) -> Result<Multiaddr, AddrError> {
        self.dialable().map(unchecked_multiaddr)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Self::Udp(addr)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(addr) => addr.fmt(f),
            Self::Ws { addr, tls: true } => write!(f, "wss://{addr}"),
            Self::Ws { addr, tls: false } => write!(f, "ws://{addr}"),
        }
    }
}

/// A peer and an endpoint where it answers.
///
/// The text form is the multiaddr with the `/p2p/` part. Parsing checks the address as
/// [`dialable`] does; the fields are free, so check an address of another source with
/// [`PeerAddr::new`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddr {
    /// Who must answer there.
    pub peer: PeerId,
    /// Where.
    pub addr: Endpoint,
}

impl PeerAddr {
    /// A peer at a UDP address that can be dialled.
    ///
    /// # Errors
    /// When it cannot, see [`dialable`].
    pub fn new(peer: PeerId, addr: SocketAddr) -> Result<Self, AddrError> {
        Self::at(peer, Endpoint::Udp(addr))
    }

    /// A peer at an endpoint that can be dialled.
    ///
    /// # Errors
    /// When it cannot, see [`dialable`].
    pub fn at(peer: PeerId, endpoint: Endpoint) -> Result<Self, AddrError> {
        let addr = endpoint.dialable()?;
        Ok(Self { peer, addr })
    }

    /// The multiaddr, `/p2p/` included.
    #[must_use]
    pub fn to_multiaddr(&self) -> Multiaddr {
        unchecked_multiaddr(self.addr).with(Protocol::P2p(self.peer))
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_multiaddr().fmt(f)
    }
}

impl FromStr for PeerAddr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed: Multiaddr = text.parse().map_err(|e| AddrError::Syntax {
            text: text.to_owned(),
            reason: format!("{e}"),
        })?;
        Self::try_from(&parsed)
    }
}

impl TryFrom<&Multiaddr> for PeerAddr {
    type Error = AddrError;

    fn try_from(multiaddr: &Multiaddr) -> Result<Self, Self::Error> {
        match parse_multiaddr(multiaddr)? {
            (addr, Some(peer)) => Ok(Self { peer, addr }),
            (_, None) => Err(AddrError::NoPeer(multiaddr.clone())),
        }
    }
}

/// Why an address cannot be advertised or dialled.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AddrError {
    /// The text is no multiaddr.
    #[error(
        "{text:?} is not an address ({reason}): write it as /ip4/1.2.3.4/udp/4001/quic-v1/p2p/PEER_ID"
    )]
    Syntax {
        /// The text.
        text: String,
        /// What the parser said.
        reason: String,
    },
    /// A multiaddr of a kind that is not spoken.
    #[error(
        "{addr}: {component:?} is not understood here: only /ip4|ip6/IP/udp/PORT/quic-v1[/p2p/PEER_ID] and /ip4|ip6/IP/tcp/PORT/ws|wss[/p2p/PEER_ID] are"
    )]
    Unsupported {
        /// The whole address.
        addr: Multiaddr,
        /// Where it went wrong; empty when something is missing at the end.
        component: String,
    },
    /// There is no `/p2p/` part, so nobody could be told from an impostor.
    #[error("{0} does not say whose address it is: append /p2p/PEER_ID")]
    NoPeer(Multiaddr),
    /// Port 0 means "any port" to a listener and nothing to anybody else.
    #[error(
        "{0} has port 0, which can be listened on but not dialled: give the port that the node printed when it started"
    )]
    PortZero(SocketAddr),
    /// `0.0.0.0` or `::`, which mean "any interface" to a listener only.
    #[error(
        "{0} has no host: 0.0.0.0 and :: can be listened on but not dialled; give one of the host's own addresses"
    )]
    Unspecified(SocketAddr),
    /// A multicast or broadcast address.
    #[error("{0} is a group of hosts: give the address of one host")]
    Multicast(SocketAddr),
    /// An IPv6 link-local address, which means nothing without an interface.
    #[error(
        "{0} is link-local and means a different host on every interface: give a global, unique-local or IPv4 address"
    )]
    LinkLocal(SocketAddr),
}

/// The address as it is advertised and dialled: IPv4-mapped IPv6 becomes IPv4, scope and
/// flow label go.
///
/// # Errors
/// When its port is 0, or its IP address is unspecified, a group, or IPv6 link-local.
pub fn dialable(addr: SocketAddr) -> Result<SocketAddr, AddrError> {
    let addr = canonical(addr);
    if addr.port() == 0 {
        return Err(AddrError::PortZero(addr));
    }
    match addr.ip() {
        ip if ip.is_unspecified() => Err(AddrError::Unspecified(addr)),
        ip if ip.is_multicast() => Err(AddrError::Multicast(addr)),
        IpAddr::V4(ip) if ip.is_broadcast() => Err(AddrError::Multicast(addr)),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Err(AddrError::LinkLocal(addr)),
        _ => Ok(addr),
    }
}

/// `/ip4/../udp/../quic-v1` of an address, without `/p2p/`.
///
/// # Errors
/// When it cannot be dialled, see [`dialable`].
pub fn quic_multiaddr(addr: SocketAddr) -> Result<Multiaddr, AddrError> {
    Endpoint::Udp(addr).to_multiaddr()
}

/// The endpoint in `/ip4/../udp/../quic-v1[/p2p/..]` or `/ip4/../tcp/../wss[/p2p/..]`
/// (`/tls/ws` means the same), and the peer if it names one.
///
/// # Errors
/// When it is anything else, or cannot be dialled, see [`dialable`].
pub fn parse_multiaddr(multiaddr: &Multiaddr) -> Result<(Endpoint, Option<PeerId>), AddrError> {
    let unsupported = |component: Option<Protocol<'_>>| AddrError::Unsupported {
        addr: multiaddr.clone(),
        component: component.map(|c| c.to_string()).unwrap_or_default(),
    };
    let mut parts = multiaddr.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
        Some(Protocol::Ip6(ip)) => IpAddr::V6(ip),
        other => return Err(unsupported(other)),
    };
    let at = |port| dialable(SocketAddr::new(ip, port));
    let is_root = |path: &str| path.is_empty() || path == "/";
    let endpoint = match parts.next() {
        Some(Protocol::Udp(port)) => match parts.next() {
            Some(Protocol::QuicV1) => at(port).map(Endpoint::Udp),
            other => return Err(unsupported(other)),
        },
        Some(tcp @ Protocol::Tcp(port)) => {
            let ws = |tls| at(port).map(|addr| Endpoint::Ws { addr, tls });
            match parts.next() {
                Some(Protocol::Ws(path)) if is_root(&path) => ws(false),
                Some(Protocol::Wss(path)) if is_root(&path) => ws(true),
                Some(Protocol::Tls) => match parts.next() {
                    Some(Protocol::Ws(path)) if is_root(&path) => ws(true),
                    other => return Err(unsupported(other)),
                },
                Some(Protocol::P2p(_)) | None => return Err(unsupported(Some(tcp))),
                other => return Err(unsupported(other)),
            }
        }
        other => return Err(unsupported(other)),
    };
    let peer = match parts.next() {
        None => None,
        Some(Protocol::P2p(peer)) => Some(peer),
        other => return Err(unsupported(other)),
    };
    if let Some(extra) = parts.next() {
        return Err(unsupported(Some(extra)));
    }
    Ok((endpoint?, peer))
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn unchecked_multiaddr(endpoint: Endpoint) -> Multiaddr {
    let addr = canonical(endpoint.addr());
    let ip = Multiaddr::from(addr.ip());
    match endpoint {
        Endpoint::Udp(_) => ip.with(Protocol::Udp(addr.port())).with(Protocol::QuicV1),
        Endpoint::Ws { tls, .. } => ip.with(Protocol::Tcp(addr.port())).with(match tls {
            true => Protocol::Wss("/".into()),
            false => Protocol::Ws("/".into()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

    use proptest::prelude::*;

    use super::*;

    const PEER: &str = "12D3KooWNvSZnPi3RrhrTwEY4LuuBeB6K6facKUCJcyWG1aoDd2p";

    fn parse(text: &str) -> Result<PeerAddr, AddrError> {
        text.replace("PEER", PEER).parse()
    }

    #[test]
    fn text_round_trips_for_both_families() {
        for (text, addr) in [
            ("/ip4/192.0.2.1/udp/4001/quic-v1/p2p/", "192.0.2.1:4001"),
            (
                "/ip6/2001:db8::1/udp/65535/quic-v1/p2p/",
                "[2001:db8::1]:65535",
            ),
        ] {
            let text = format!("{text}{PEER}");
            let parsed: PeerAddr = text.parse().unwrap();
            assert_eq!(parsed.addr, Endpoint::Udp(addr.parse().unwrap()));
            assert_eq!(parsed.peer.to_string(), PEER);
            assert_eq!(parsed.to_string(), text);
            assert_eq!(PeerAddr::try_from(&parsed.to_multiaddr()), Ok(parsed));
        }
    }

    #[test]
    fn mapped_ipv4_is_ipv4_everywhere() {
        let v4 = parse("/ip4/192.0.2.1/udp/1/quic-v1/p2p/PEER").unwrap();
        let mapped = parse("/ip6/::ffff:192.0.2.1/udp/1/quic-v1/p2p/PEER").unwrap();
        assert_eq!(mapped, v4);
        assert_eq!(
            quic_multiaddr("[::ffff:192.0.2.1]:1".parse().unwrap())
                .unwrap()
                .to_string(),
            "/ip4/192.0.2.1/udp/1/quic-v1"
        );
        assert!(matches!(
            dialable("[::ffff:0.0.0.0]:1".parse().unwrap()),
            Err(AddrError::Unspecified(_))
        ));
    }

    #[test]
    fn scope_and_flow_label_do_not_make_another_address() {
        let addr = SocketAddrV6::new("2001:db8::1".parse().unwrap(), 1, 7, 3);
        assert_eq!(
            dialable(addr.into()),
            Ok("[2001:db8::1]:1".parse().unwrap())
        );
    }

    #[test]
    fn what_cannot_be_dialled_is_refused_with_advice() {
        for (ip, port, advice) in [
            ("ip4/192.0.2.1", 0, "port that the node printed"),
            ("ip4/0.0.0.0", 1, "one of the host's own addresses"),
            ("ip6/::", 1, "one of the host's own addresses"),
            ("ip4/224.0.0.251", 1, "address of one host"),
            ("ip4/255.255.255.255", 1, "address of one host"),
            ("ip6/ff02::fb", 1, "address of one host"),
            ("ip6/fe80::1", 1, "give a global"),
        ] {
            let text = format!("/{ip}/udp/{port}/quic-v1/p2p/PEER");
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(advice), "{text}: {error}");
            let addr: Multiaddr = format!("/{ip}/udp/{port}/quic-v1").parse().unwrap();
            assert!(parse_multiaddr(&addr).is_err(), "{text}");
        }
    }

    #[test]
    fn other_kinds_of_address_are_refused_naming_the_part() {
        for (text, part) in [
            ("/ip4/192.0.2.1/tcp/4001/p2p/PEER", "/tcp/4001"),
            ("/ip4/192.0.2.1/udp/4001/quic/p2p/PEER", "/quic"),
            (
                "/dns4/example.org/udp/4001/quic-v1/p2p/PEER",
                "/dns4/example.org",
            ),
            (
                "/ip4/192.0.2.1/udp/4001/quic-v1/webtransport",
                "/webtransport",
            ),
            (
                "/ip4/192.0.2.1/udp/4001/quic-v1/p2p/PEER/p2p-circuit",
                "/p2p-circuit",
            ),
            ("/ip4/192.0.2.1/udp/4001", ""),
        ] {
            match parse(text) {
                Err(AddrError::Unsupported { component, .. }) => assert_eq!(component, part),
                other => panic!("{text}: {other:?}"),
            }
        }
        for text in [
            "",
            "/",
            "192.0.2.1:4001",
            "/ip4/192.0.2/udp/1",
            "/ip4/1.2.3.4/udp/70000",
        ] {
            match parse(text) {
                Err(AddrError::Syntax { .. } | AddrError::Unsupported { .. }) => {}
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn websocket_addresses_round_trip_and_tls_has_two_spellings() {
        for (text, tls) in [
            ("/ip4/192.0.2.1/tcp/443/wss", true),
            ("/ip6/2001:db8::1/tcp/80/ws", false),
        ] {
            let parsed = parse(&format!("{text}/p2p/PEER")).unwrap();
            assert!(
                matches!(parsed.addr, Endpoint::Ws { tls: t, .. } if t == tls),
                "{text}"
            );
            assert_eq!(parsed.to_string(), format!("{text}/p2p/{PEER}"));
        }
        assert_eq!(
            parse("/ip4/192.0.2.1/tcp/443/tls/ws/p2p/PEER"),
            parse("/ip4/192.0.2.1/tcp/443/wss/p2p/PEER")
        );
        assert!(parse("/ip4/0.0.0.0/tcp/443/wss/p2p/PEER").is_err());
    }

    #[test]
    fn an_address_of_nobody_is_no_peer_address() {
        let error = parse("/ip4/192.0.2.1/udp/4001/quic-v1").unwrap_err();
        assert!(matches!(error, AddrError::NoPeer(_)));
        assert!(error.to_string().contains("append /p2p/"));
    }

    proptest! {
        #[test]
        fn whatever_is_dialable_round_trips(ip: IpAddr, port: u16, with_peer: bool) {
            let addr = SocketAddr::new(ip, port);
            if let Ok(addr) = dialable(addr) {
                let peer: PeerId = PEER.parse().unwrap();
                let mut multiaddr = quic_multiaddr(addr).unwrap();
                if with_peer {
                    multiaddr = PeerAddr::new(peer, addr).unwrap().to_multiaddr();
                }
                let back = parse_multiaddr(&multiaddr).unwrap();
                prop_assert_eq!(back, (Endpoint::Udp(addr), with_peer.then_some(peer)));
                prop_assert_eq!(multiaddr.to_string().parse::<Multiaddr>().unwrap(), multiaddr);
            } else {
                prop_assert!(quic_multiaddr(addr).is_err());
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "(/(ip4|ip6|udp|quic-v1|p2p|[a-z0-9.:]{0,8})){0,8}|\\PC{0,40}") {
            if let Ok(addr) = text.parse::<PeerAddr>() {
                prop_assert_eq!(addr.to_string().parse::<PeerAddr>().unwrap(), addr);
            }
        }
    }
}
