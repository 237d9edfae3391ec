//! How peers, forwards and targets are spelled.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use anyhop::{PeerAddr, PeerId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::CliError;

/// Longest spelling of a peer.
const MAX_PEER_LEN: usize = 128;
/// Longest host name (RFC 1035, section 2.3.4).
const MAX_HOST_LEN: usize = 253;
/// Length of the shortest PeerId of a real key, bytes: a SHA-256 multihash.
const MIN_PEER_ID_LEN: usize = 34;
/// Shortest end of a PeerId that is taken for one.
const MIN_SUFFIX: usize = 4;
/// Candidates shown when a spelling is ambiguous.
const MAX_SHOWN: usize = 8;

/// A peer as typed: a PeerId, part of one, or a name. Safe in a URL path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerSpec(String);

impl PeerSpec {
    /// The PeerId, if it is spelled in full. The beginning of one can be a PeerId too by
    /// chance, of a key of a few bytes that nobody has.
    pub(crate) fn full(&self) -> Option<PeerId> {
        let peer: PeerId = self.0.parse().ok()?;
        (peer.to_bytes().len() >= MIN_PEER_ID_LEN).then_some(peer)
    }

    /// The peer meant, given the names and the peers known. Precedence: a full PeerId,
    /// a name that nobody else has, a unique beginning or end of a known PeerId.
    pub(crate) fn resolve<'a>(
        &self,
        names: impl IntoIterator<Item = (&'a str, PeerId)>,
        known: impl IntoIterator<Item = PeerId>,
    ) -> Result<PeerId, CliError> {
        if let Some(peer) = self.full() {
            return Ok(peer);
        }
        let (mut called, mut matches) = (Vec::new(), Vec::new());
        let add = |peers: &mut Vec<PeerId>, peer| {
            if !peers.contains(&peer) {
                peers.push(peer);
            }
        };
        for (name, peer) in names {
            if name == self.0 {
                add(&mut called, peer);
            }
            if self.is_part_of(&peer) {
                add(&mut matches, peer);
            }
        }
        match called[..] {
            [] => {}
            [peer] => return Ok(peer),
            _ => return Err(self.ambiguous(&mut called)),
        }
        for peer in known.into_iter().filter(|p| self.is_part_of(p)) {
            add(&mut matches, peer);
        }
        match matches[..] {
            [peer] => Ok(peer),
            [] => Err(CliError::usage(format!(
                "{:?} is no PeerId, no name, and no part of a known peer's id",
                self.0
            ))
            .hint("give the full PeerId, as `anyhop id` prints it there, a name from `anyhop name list`, or a member's name with --network")),
            _ => Err(self.ambiguous(&mut matches)),
        }
    }

    fn is_part_of(&self, peer: &PeerId) -> bool {
        let id = peer.to_base58();
        id.starts_with(&self.0) || (self.0.len() >= MIN_SUFFIX && id.ends_with(&self.0))
    }

    fn ambiguous(&self, matches: &mut [PeerId]) -> CliError {
        matches.sort();
        let shown: Vec<_> = matches
            .iter()
            .take(MAX_SHOWN)
            .map(|p| p.to_base58())
            .collect();
        let more = match matches.len() - shown.len() {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        CliError::usage(format!(
            "{:?} is ambiguous: {}{more}",
            self.0,
            shown.join(", ")
        ))
        .hint("give the PeerId, or more of it; the beginnings are alike, ends are taken too")
    }
}

impl FromStr for PeerSpec {
    type Err = CliError;

    fn from_str(text: &str) -> Result<Self, CliError> {
        let ok = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if text.is_empty() || text.len() > MAX_PEER_LEN || !text.chars().all(ok) {
            return Err(CliError::usage(format!(
                "{text:?} cannot be a peer: a PeerId, part of one, or a name of letters, digits, `-`, `_` and `.`"
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for PeerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What `connect` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PeerOrAddr {
    /// A peer.
    Peer(PeerSpec),
    /// A peer and where it is.
    Addr(PeerAddr),
}

impl FromStr for PeerOrAddr {
    type Err = CliError;

    fn from_str(text: &str) -> Result<Self, CliError> {
        if text.starts_with('/') {
            let addr = text
                .parse()
                .map_err(|e| CliError::usage(format!("{text:?} is no address of a peer: {e}")))?;
            return Ok(Self::Addr(addr));
        }
        text.parse().map(Self::Peer)
    }
}

/// A host and port to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    host: String,
    port: u16,
}

impl Target {
    /// Host name or address, an IPv6 one without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Port, never 0.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Target {
    type Err = CliError;

    fn from_str(text: &str) -> Result<Self, CliError> {
        let bad = |why: &str| {
            CliError::usage(format!("{text:?} is no HOST:PORT: {why}"))
                .hint("write it as localhost:22, 192.0.2.1:80 or [2001:db8::1]:80")
        };
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| bad("there is no port"))?;
        let port = match port.parse::<u16>() {
            Ok(0) => return Err(bad("port 0 cannot be connected to")),
            Ok(port) => port,
            Err(_) => return Err(bad("the port is no number up to 65535")),
        };
        let host = if let Some(inner) = host.strip_prefix('[') {
            let ip = inner
                .strip_suffix(']')
                .and_then(|h| h.parse::<Ipv6Addr>().ok());
            ip.ok_or_else(|| bad("no IPv6 address in the brackets"))?
                .to_string()
        } else if let Ok(ip) = host.parse::<Ipv4Addr>() {
            ip.to_string()
        } else if host.contains(':') {
            return Err(bad("an IPv6 address goes in brackets"));
        } else {
            let ok = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if host.is_empty() || host.len() > MAX_HOST_LEN || !host.chars().all(ok) {
                return Err(bad("no host name"));
            }
            host.to_ascii_lowercase()
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// `PEER:HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForwardTarget {
    /// The exposing peer.
    pub(crate) peer: PeerSpec,
    /// What it exposes.
    pub(crate) target: Target,
}

impl FromStr for ForwardTarget {
    type Err = CliError;

    fn from_str(text: &str) -> Result<Self, CliError> {
        let (peer, target) = text.split_once(':').ok_or_else(|| {
            CliError::usage(format!("{text:?} is no PEER:HOST:PORT")).hint(
                "such as 12D3..:localhost:22, as exposed there with `anyhop expose localhost:22`",
            )
        })?;
        Ok(Self {
            peer: peer.parse()?,
            target: target.parse()?,
        })
    }
}

/// `MEMBER:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberPort {
    /// The member.
    pub(crate) member: PeerSpec,
    /// Its port, never 0.
    pub(crate) port: u16,
}

impl FromStr for MemberPort {
    type Err = CliError;

    fn from_str(text: &str) -> Result<Self, CliError> {
        let bad = |why: &str| {
            CliError::usage(format!("{text:?} is no MEMBER:PORT: {why}"))
                .hint("write it as laptop:80, or with a PeerId in place of the name")
        };
        let (member, port) = text
            .rsplit_once(':')
            .ok_or_else(|| bad("there is no port"))?;
        match port.parse::<u16>() {
            Ok(0) => Err(bad("port 0 cannot be connected to")),
            Err(_) => Err(bad("the port is no number up to 65535")),
            Ok(port) => Ok(Self {
                member: member.parse()?,
                port,
            }),
        }
    }
}

/// What ports are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl FromStr for Protocol {
    type Err = CliError;

    fn from_str(text: &str) -> Result<Self, CliError> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(CliError::usage(format!("{text:?} is neither tcp nor udp"))),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `HOST:PORT` of this machine: an address of it, or `localhost`.
pub(crate) fn parse_host_port(text: &str) -> Result<SocketAddr, CliError> {
    let local = text.strip_prefix("localhost:");
    let numeric = local.map(|port| format!("{}:{port}", Ipv4Addr::LOCALHOST));
    numeric.as_deref().unwrap_or(text).parse().map_err(|_| {
        CliError::usage(format!("{text:?} is no HOST:PORT of this machine"))
            .hint("write it as 127.0.0.1:8080, 0.0.0.0:8080, [::]:8080 or localhost:8080")
    })
}

/// `[IP:]PORT`, on the loopback address if there is no IP.
pub(crate) fn parse_local(text: &str) -> Result<SocketAddr, CliError> {
    if let Ok(port) = text.parse() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| {
        CliError::usage(format!("{text:?} is no [IP:]PORT"))
            .hint("write it as 8080, 127.0.0.1:8080 or [::1]:8080")
    })
}

#[cfg(test)]
mod tests {
    use anyhop::Keypair;
    use proptest::prelude::*;

    use super::*;
    use crate::error::Code;

    /// The id of a new key: all of these begin with `12D3KooW`.
    fn node() -> PeerId {
        Keypair::generate_ed25519().public().to_peer_id()
    }

    fn spec(text: &str) -> PeerSpec {
        text.parse().expect("valid spelling")
    }

    #[test]
    fn the_beginning_of_a_peer_id_is_none_even_where_it_parses_as_one() {
        let by_chance = "12D3KooWJ3VW";
        assert!(by_chance.parse::<PeerId>().is_ok());
        assert_eq!(by_chance.parse::<PeerSpec>().unwrap().full(), None);
    }

    #[test]
    fn a_full_peer_id_needs_not_be_known() {
        let peer = PeerId::random();
        assert_eq!(spec(&peer.to_base58()).resolve([], []), Ok(peer));
    }

    #[test]
    fn a_name_wins_over_a_part_of_an_id() {
        let (a, b) = (node(), node());
        let name = &a.to_base58()[..8];
        assert_eq!(spec(name).resolve([(name, b)], [a]), Ok(b));
    }

    #[test]
    fn a_unique_beginning_or_end_finds_the_peer() {
        let (a, b) = (node(), node());
        let id = a.to_base58();
        assert_eq!(spec(&id[..id.len() - 3]).resolve([], [a, b, a]), Ok(a));
        assert_eq!(spec(&id[id.len() - 12..]).resolve([], [a, b]), Ok(a));
    }

    #[test]
    fn an_ambiguous_part_lists_the_candidates() {
        let peers = [node(), node()];
        let error = spec("12D3KooW")
            .resolve([], peers)
            .expect_err("all begin so");
        assert_eq!(error.code, Code::Usage);
        for peer in peers {
            assert!(error.message.contains(&peer.to_base58()), "{error}");
        }
        let many: Vec<_> = (0..MAX_SHOWN + 2).map(|_| node()).collect();
        let error = spec("12D3KooW")
            .resolve([], many)
            .expect_err("all begin so");
        assert!(error.message.ends_with("and 2 more"), "{error}");
    }

    #[test]
    fn nobody_of_that_spelling_is_an_error_with_a_hint() {
        let error = spec("nobody")
            .resolve([], [PeerId::random()])
            .expect_err("unknown");
        assert!(error.message.contains("nobody"));
        assert!(error.hint.is_some());
    }

    #[test]
    fn spellings_that_would_break_a_path_are_refused() {
        for bad in ["", "a/b", "a b", "a:b", "a%20", "ü"] {
            assert!(bad.parse::<PeerSpec>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn forward_targets_split_at_the_first_colon() {
        let table = [
            ("bob:localhost:22", "bob", "localhost", 22, "localhost:22"),
            (
                "bob:EXAMPLE.org:80",
                "bob",
                "example.org",
                80,
                "example.org:80",
            ),
            ("bob:[::1]:80", "bob", "::1", 80, "[::1]:80"),
            (
                "bob:[2001:DB8:0::1]:80",
                "bob",
                "2001:db8::1",
                80,
                "[2001:db8::1]:80",
            ),
            (
                "b:192.0.2.1:65535",
                "b",
                "192.0.2.1",
                65535,
                "192.0.2.1:65535",
            ),
        ];
        for (text, peer, host, port, shown) in table {
            let f: ForwardTarget = text.parse().expect(text);
            assert_eq!(f.peer.to_string(), peer);
            assert_eq!((f.target.host(), f.target.port()), (host, port));
            assert_eq!(f.target.to_string(), shown);
        }
        for bad in [
            "bob",
            "bob:22",
            "bob:localhost",
            "bob::1:80",
            "bob:h:0",
            "bob:h:65536",
            ":h:1",
            "bob:[::1:80",
            "bob:[h]:80",
        ] {
            assert!(bad.parse::<ForwardTarget>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_member_s_port_has_a_name_and_a_number() {
        let port: MemberPort = "laptop:80".parse().expect("valid");
        assert_eq!(
            (port.member.to_string(), port.port),
            ("laptop".to_owned(), 80)
        );
        for bad in ["laptop", "laptop:0", "laptop:65536", ":80", "a b:80"] {
            assert!(bad.parse::<MemberPort>().is_err(), "{bad:?}");
        }
        let local = parse_host_port("localhost:80").map(|a| a.to_string());
        assert_eq!(local, Ok("127.0.0.1:80".to_owned()));
        for bad in ["80", "localhost", "example.org:80", "[::1:80"] {
            assert!(parse_host_port(bad).is_err(), "{bad:?}");
        }
        assert_eq!("TCP".parse(), Ok(Protocol::Tcp));
        assert!("sctp".parse::<Protocol>().is_err());
    }

    #[test]
    fn local_addresses_default_to_loopback() {
        assert_eq!(
            parse_local("0").map(|a| a.to_string()),
            Ok("127.0.0.1:0".to_owned())
        );
        assert_eq!(
            parse_local("[::1]:5").map(|a| a.to_string()),
            Ok("[::1]:5".to_owned())
        );
        assert_eq!(
            parse_local("0.0.0.0:5").map(|a| a.to_string()),
            Ok("0.0.0.0:5".to_owned())
        );
        for bad in ["", "x", "localhost:1", "70000", "1.2.3.4"] {
            assert!(parse_local(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_targets_round_trip(text in "\\PC{0,60}") {
            let _ = text.parse::<PeerSpec>();
            let _ = text.parse::<ForwardTarget>();
            let _ = parse_local(&text);
            if let Ok(target) = text.parse::<Target>() {
                prop_assert_eq!(target.to_string().parse::<Target>(), Ok(target));
            }
        }
    }
}
