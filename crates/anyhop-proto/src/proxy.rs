//! What clients of a proxy say: SOCKS version 5 (RFC 1928) and HTTP `CONNECT` (RFC 9110
//! section 9.3.6), told apart by their first byte.
//!
//! Functions take all that has come so far. They answer `None` while more has to come, which
//! ends at a limit, and else what was said and how many bytes of it that were: what follows
//! belongs to the connection that is asked for.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use thiserror::Error;

/// Longest head of an HTTP request, bytes.
pub const MAX_HTTP_HEAD: usize = 8 << 10;
/// Longest message of SOCKS: a request with a name of 255 bytes.
pub const MAX_SOCKS_MESSAGE: usize = 262;

const SOCKS_VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
const COMMAND_CONNECT: u8 = 1;
const ADDRESS_V4: u8 = 1;
const ADDRESS_NAME: u8 = 3;
const ADDRESS_V6: u8 = 4;
/// Longest host name (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;

/// What was said and how many bytes that were; `None` while more has to come.
pub type Parsed<T> = Result<Option<(T, usize)>, ProxyError>;

/// How a client begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    /// With SOCKS; it is answered with [`SOCKS_WELCOME`], then comes a [`socks_request`].
    Socks,
    /// With HTTP; this is no greeting yet but an [`http_request`], of which nothing is taken.
    Http,
}

/// The answer to a greeting of SOCKS: nobody need say who they are.
pub const SOCKS_WELCOME: [u8; 2] = [SOCKS_VERSION, NO_AUTHENTICATION];
/// The answer to a greeting that insists on that.
pub const SOCKS_UNWELCOME: [u8; 2] = [SOCKS_VERSION, NO_ACCEPTABLE_METHOD];

/// Whom to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyRequest {
    /// Which host.
    pub host: ProxyHost,
    /// Which port, never 0.
    pub port: u16,
}

/// A host as clients name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyHost {
    /// Its address.
    Ip(IpAddr),
    /// Its name, as it was spelled, of letters, digits, `-`, `_` and `.`.
    Name(String),
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There is a connection.
    Connected,
    /// It failed for a reason that has no name here.
    Failed,
    /// It is not allowed.
    NotAllowed,
    /// There is no way to the host, or no such host.
    Unreachable,
    /// The host wants no connection at that port.
    Refused,
    /// It did not answer in time.
    Timeout,
    /// The command is none that is known.
    NotSupported,
}

/// Why a client is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// It speaks neither.
    #[error("it speaks neither SOCKS 5 nor HTTP")]
    Protocol,
    /// It wants to authenticate.
    #[error("it does not go on without authentication, and there is none")]
    Authentication,
    /// It wants something else than a connection.
    #[error("it asks for something else than a TCP connection")]
    Command,
    /// It names no host that can be one.
    #[error("it names no usable host and port")]
    Host,
    /// It said too much, or nothing that makes sense.
    #[error("its request is malformed, or longer than it may be")]
    Malformed,
}

/// The beginning.
///
/// # Errors
/// When it is of neither protocol, or insists on authentication.
pub fn greeting(bytes: &[u8]) -> Parsed<Greeting> {
    match bytes {
        [] => Ok(None),
        [SOCKS_VERSION] => Ok(None),
        [SOCKS_VERSION, count, rest @ ..] => {
            let count = usize::from(*count);
            let Some(methods) = rest.get(..count) else {
                return Ok(None);
            };
            match methods.contains(&NO_AUTHENTICATION) {
                true => Ok(Some((Greeting::Socks, 2 + count))),
                false => Err(ProxyError::Authentication),
            }
        }
        [first, ..] if first.is_ascii_uppercase() => Ok(Some((Greeting::Http, 0))),
        _ => Err(ProxyError::Protocol),
    }
}

/// A request of SOCKS, after the greeting.
///
/// # Errors
/// When it is none, or not for a TCP connection.
pub fn socks_request(bytes: &[u8]) -> Parsed<ProxyRequest> {
    if bytes.first().is_some_and(|b| *b != SOCKS_VERSION) {
        return Err(ProxyError::Malformed);
    }
    let [_, command, _, kind, rest @ ..] = bytes else {
        return Ok(None);
    };
    let (before, len) = match (*kind, rest.first()) {
        (ADDRESS_V4, _) => (0, 4),
        (ADDRESS_V6, _) => (0, 16),
        (ADDRESS_NAME, Some(len)) => (1, usize::from(*len)),
        (ADDRESS_NAME, None) => return Ok(None),
        _ => return Err(ProxyError::Host),
    };
    let (Some(host), Some(port)) = (
        rest.get(before..before + len),
        rest.get(before + len..before + len + 2),
    ) else {
        return Ok(None);
    };
    if *command != COMMAND_CONNECT {
        return Err(ProxyError::Command);
    }
    let host = match *kind {
        ADDRESS_NAME => std::str::from_utf8(host).ok().and_then(ProxyHost::parse),
        ADDRESS_V4 => <[u8; 4]>::try_from(host).ok().map(ProxyHost::from),
        _ => <[u8; 16]>::try_from(host).ok().map(ProxyHost::from),
    };
    let port = u16::from_be_bytes([port[0], port[1]]);
    let (Some(host), 1..) = (host, port) else {
        return Err(ProxyError::Host);
    };
    let request = ProxyRequest { host, port };
    Ok(Some((request, 4 + before + len + 2)))
}

/// A request of HTTP. Its header fields are passed over.
///
/// # Errors
/// When it is none, or not for a connection.
pub fn http_request(bytes: &[u8]) -> Parsed<ProxyRequest> {
    let looked_at = &bytes[..bytes.len().min(MAX_HTTP_HEAD)];
    let end = looked_at.windows(4).position(|at| at == b"\r\n\r\n");
    let Some(end) = end else {
        return match bytes.len() < MAX_HTTP_HEAD {
            true => Ok(None),
            false => Err(ProxyError::Malformed),
        };
    };
    let head = std::str::from_utf8(&looked_at[..end]).map_err(|_| ProxyError::Malformed)?;
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(ProxyError::Malformed);
    };
    if !version.starts_with("HTTP/1.") {
        return Err(ProxyError::Malformed);
    }
    if method != "CONNECT" {
        return Err(ProxyError::Command);
    }
    let (host, port) = target.rsplit_once(':').ok_or(ProxyError::Host)?;
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host = match bracketed {
        Some(ip) => ip
            .parse::<Ipv6Addr>()
            .ok()
            .map(|ip| ProxyHost::Ip(ip.into())),
        None => ProxyHost::parse(host),
    };
    let (Some(host), Ok(port @ 1..)) = (host, port.parse::<u16>()) else {
        return Err(ProxyError::Host);
    };
    Ok(Some((ProxyRequest { host, port }, end + 4)))
}

/// The answer to a request of SOCKS. Which address the connection has is not told.
#[must_use]
pub fn socks_reply(outcome: Outcome) -> [u8; 10] {
    let code = match outcome {
        Outcome::Connected => 0,
        Outcome::Failed => 1,
        Outcome::NotAllowed => 2,
        Outcome::Unreachable => 4,
        Outcome::Refused => 5,
        Outcome::Timeout => 6,
        Outcome::NotSupported => 7,
    };
    [SOCKS_VERSION, code, 0, ADDRESS_V4, 0, 0, 0, 0, 0, 0]
}

/// The answer to a request of HTTP; `why` is shown to people where there is no connection.
#[must_use]
pub fn http_reply(outcome: Outcome, why: &str) -> String {
    let status = match outcome {
        Outcome::Connected => return "HTTP/1.1 200 Connected\r\n\r\n".to_owned(),
        Outcome::Failed => "500 Internal Server Error",
        Outcome::NotAllowed => "403 Forbidden",
        Outcome::Unreachable | Outcome::Refused => "502 Bad Gateway",
        Outcome::Timeout => "504 Gateway Timeout",
        Outcome::NotSupported => "405 Method Not Allowed\r\nAllow: CONNECT",
    };
    let len = why.len() + 1;
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {len}\r\nConnection: close\r\n\r\n{why}\n"
    )
}

impl ProxyHost {
    /// An address or a name.
    fn parse(text: &str) -> Option<Self> {
        if let Ok(ip) = text.parse() {
            return Some(Self::Ip(ip));
        }
        let ok = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let usable = (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(ok);
        usable.then(|| Self::Name(text.to_owned()))
    }
}

impl From<[u8; 4]> for ProxyHost {
    fn from(octets: [u8; 4]) -> Self {
        Self::Ip(Ipv4Addr::from(octets).into())
    }
}

impl From<[u8; 16]> for ProxyHost {
    fn from(octets: [u8; 16]) -> Self {
        Self::Ip(Ipv6Addr::from(octets).into())
    }
}

impl fmt::Display for ProxyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            ProxyHost::Ip(ip) => write!(f, "{}", SocketAddr::new(*ip, self.port)),
            ProxyHost::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(name: &str, port: u16) -> ProxyRequest {
        ProxyRequest {
            host: ProxyHost::Name(name.to_owned()),
            port,
        }
    }

    fn at(address: &str) -> ProxyRequest {
        let address: SocketAddr = address.parse().unwrap();
        ProxyRequest {
            host: ProxyHost::Ip(address.ip()),
            port: address.port(),
        }
    }

    #[test]
    fn greetings_are_told_apart_by_their_first_byte() {
        assert_eq!(greeting(b"\x05\x01\x00x"), Ok(Some((Greeting::Socks, 3))));
        assert_eq!(
            greeting(b"\x05\x02\x02\x00"),
            Ok(Some((Greeting::Socks, 4)))
        );
        assert_eq!(greeting(b"CONNECT"), Ok(Some((Greeting::Http, 0))));
        for part in [&b""[..], b"\x05", b"\x05\x02\x00"] {
            assert_eq!(greeting(part), Ok(None));
        }
        assert_eq!(greeting(b"\x05\x01\x02"), Err(ProxyError::Authentication));
        assert_eq!(greeting(b"\x05\x00"), Err(ProxyError::Authentication));
        for other in [&b"\x04\x01"[..], b"\x16\x03\x01", b"get / HTTP/1.1"] {
            assert_eq!(greeting(other), Err(ProxyError::Protocol));
        }
    }

    #[test]
    fn socks_requests_name_hosts_in_three_ways() {
        let table: [(&[u8], ProxyRequest); 4] = [
            (b"\x05\x01\0\x01\xc0\0\x02\x01\0\x50", at("192.0.2.1:80")),
            (
                b"\x05\x01\0\x03\x0bexample.org\x01\xbb",
                name("example.org", 443),
            ),
            (b"\x05\x01\0\x03\x09192.0.2.1\0\x50", at("192.0.2.1:80")),
            (
                b"\x05\x01\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x50",
                at("[2001:db8::1]:80"),
            ),
        ];
        for (bytes, expected) in table {
            let more = [bytes, b"data"].concat();
            assert_eq!(socks_request(&more), Ok(Some((expected, bytes.len()))));
            for part in 0..bytes.len() {
                assert_eq!(socks_request(&bytes[..part]), Ok(None));
            }
        }
    }

    #[test]
    fn socks_requests_that_cannot_be_met_are_refused_by_their_reason() {
        let table: [(&[u8], ProxyError); 6] = [
            (b"\x04\x01", ProxyError::Malformed),
            (b"\x05\x02\0\x01\xc0\0\x02\x01\0\x50", ProxyError::Command),
            (b"\x05\x03\0\x01\0\0\0\0\0\0", ProxyError::Command),
            (b"\x05\x01\0\x02\0\0\0\0\0\0", ProxyError::Host),
            (b"\x05\x01\0\x01\xc0\0\x02\x01\0\0", ProxyError::Host),
            (b"\x05\x01\0\x03\x03a/b\0\x50", ProxyError::Host),
        ];
        for (bytes, expected) in table {
            assert_eq!(socks_request(bytes), Err(expected), "{bytes:?}");
        }
    }

    #[test]
    fn http_requests_name_hosts_in_their_first_line() {
        let table = [
            ("example.org:443", name("example.org", 443)),
            ("192.0.2.1:80", at("192.0.2.1:80")),
            ("[2001:db8::1]:80", at("[2001:db8::1]:80")),
        ];
        for (target, expected) in table {
            let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
            let more = format!("{head}data");
            let parsed = http_request(more.as_bytes());
            assert_eq!(parsed, Ok(Some((expected, head.len()))), "{target}");
            assert_eq!(http_request(&head.as_bytes()[..head.len() - 1]), Ok(None));
        }
    }

    #[test]
    fn http_requests_that_cannot_be_met_are_refused_by_their_reason() {
        let table = [
            ("GET http://example.org/ HTTP/1.1", ProxyError::Command),
            ("CONNECT example.org HTTP/1.1", ProxyError::Host),
            ("CONNECT example.org:0 HTTP/1.1", ProxyError::Host),
            ("CONNECT a b:1 HTTP/1.1", ProxyError::Malformed),
            ("CONNECT example.org:1 SIP/2.0", ProxyError::Malformed),
            ("CONNECT", ProxyError::Malformed),
        ];
        for (line, expected) in table {
            let head = format!("{line}\r\n\r\n");
            assert_eq!(http_request(head.as_bytes()), Err(expected), "{line}");
        }
        let endless = "C".repeat(MAX_HTTP_HEAD);
        assert_eq!(http_request(endless.as_bytes()), Err(ProxyError::Malformed));
    }

    #[test]
    fn the_answers_are_pinned() {
        assert_eq!(
            socks_reply(Outcome::Connected),
            *b"\x05\0\0\x01\0\0\0\0\0\0"
        );
        assert_eq!(socks_reply(Outcome::NotSupported)[1], 7);
        let connected = http_reply(Outcome::Connected, "");
        assert_eq!(connected, "HTTP/1.1 200 Connected\r\n\r\n");
        let refused = http_reply(Outcome::NotAllowed, "no");
        assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
        assert!(refused.contains("Content-Length: 3\r\n") && refused.ends_with("\r\n\r\nno\n"));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_refused_taken_or_waited_for_within_limits(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            for parsed in [socks_request(&bytes), http_request(&bytes)] {
                if let Ok(Some((request, len))) = parsed {
                    prop_assert!(len <= bytes.len() && request.port > 0);
                }
            }
            if bytes.len() >= MAX_SOCKS_MESSAGE {
                prop_assert!(socks_request(&bytes) != Ok(None));
            }
        }
    }
}
