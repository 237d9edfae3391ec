//! HTTP proxies that WebSockets go through: what is known of them from the usual
//! environment variables, as plain values. This library never reads the environment.

use std::{fmt, net::IpAddr, str::FromStr};

use anyhop_base::Endpoint;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use thiserror::Error;

/// Port of a proxy that names none.
const DEFAULT_PORT: u16 = 80;
/// Longest URL or list taken, bytes.
const MAX_LEN: usize = 4096;

/// Which proxy, if any, a WebSocket is dialled through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `wss` endpoints.
    pub wss: Option<Proxy>,
    /// For `ws` endpoints.
    pub ws: Option<Proxy>,
    /// What is dialled without a proxy.
    pub exempt: Vec<Exempt>,
}

/// An HTTP proxy that answers `CONNECT`. Its text form is a URL,
/// `http://[USER[:PASSWORD]@]HOST[:PORT]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    host: String,
    port: u16,
    credentials: Option<(String, String)>,
}

/// Endpoints that need no proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exempt {
    /// All.
    All,
    /// Those whose address begins with these bits of this one, at one port or any.
    Net {
        /// The network's address.
        ip: IpAddr,
        /// Bits that count.
        prefix: u8,
        /// The port; `None` for any.
        port: Option<u16>,
    },
}

/// Why a proxy setting is not used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{variable}: {reason}")]
pub struct BadProxy {
    /// The environment variable.
    pub variable: String,
    /// What is wrong with its value, which may hold a password and is not shown.
    pub reason: String,
}

impl Proxies {
    /// Reads the settings that `get` has: `https_proxy` for `wss`, `http_proxy` for `ws`,
    /// `all_proxy` for what has none of its own, and `no_proxy`, a list of addresses and
    /// networks, with or without ports, or `*`. Lower case goes before upper case. Names in
    /// `no_proxy` are passed over, since endpoints have none. Proxies that are of a kind
    /// that is not spoken, or no URL, come back as the second part.
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> (Self, Vec<BadProxy>) {
        let value = |name: &str| {
            [name.to_owned(), name.to_ascii_uppercase()]
                .into_iter()
                .find_map(|name| Some((get(&name).filter(|v| !v.is_empty())?, name)))
        };
        let mut bad = Vec::new();
        let mut proxy = |name: &str| {
            let (url, variable) = value(name)?;
            match url.parse::<Proxy>() {
                Ok(proxy) => Some(proxy),
                Err(reason) => {
                    bad.push(BadProxy { variable, reason });
                    None
                }
            }
        };
        let (wss, ws, all) = (
            proxy("https_proxy"),
            proxy("http_proxy"),
            proxy("all_proxy"),
        );
        let exempt = value("no_proxy").map(|(list, _)| exempt(&list));
        let proxies = Self {
            wss: wss.or_else(|| all.clone()),
            ws: ws.or(all),
            exempt: exempt.unwrap_or_default(),
        };
        (proxies, bad)
    }

    /// The proxy for an endpoint; `None` to dial it directly.
    #[must_use]
    pub fn for_endpoint(&self, endpoint: &Endpoint) -> Option<&Proxy> {
        let (addr, proxy) = match endpoint {
            Endpoint::Udp(_) => return None,
            Endpoint::Ws { addr, tls: true } => (addr, &self.wss),
            Endpoint::Ws { addr, tls: false } => (addr, &self.ws),
        };
        let exempt = self.exempt.iter().any(|e| e.covers(addr.ip(), addr.port()));
        proxy.as_ref().filter(|_| !exempt)
    }
}

impl Exempt {
    fn covers(&self, ip: IpAddr, at: u16) -> bool {
        match *self {
            Self::All => true,
            Self::Net {
                ip: net,
                prefix,
                port,
            } => port.is_none_or(|port| port == at) && in_net(ip.to_canonical(), net, prefix),
        }
    }
}

fn in_net(ip: IpAddr, net: IpAddr, prefix: u8) -> bool {
    let (a, b, bits) = match (ip, net) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a).into(), u32::from(b).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a), u128::from(b), 128),
        _ => return false,
    };
    let ignored = bits - u32::from(prefix).min(bits);
    a.checked_shr(ignored).unwrap_or_default() == b.checked_shr(ignored).unwrap_or_default()
}

fn exempt(list: &str) -> Vec<Exempt> {
    let list = &list[..list.floor_char_boundary(MAX_LEN)];
    let items = list.split([',', ' ']).map(str::trim);
    items.filter_map(exempt_item).collect()
}

fn exempt_item(item: &str) -> Option<Exempt> {
    if item == "*" {
        return Some(Exempt::All);
    }
    let net = |ip: IpAddr, prefix: u8, port| Exempt::Net { ip, prefix, port };
    let all_bits = |ip: IpAddr| if ip.is_ipv4() { 32 } else { 128 };
    if let Some((ip, prefix)) = item.split_once('/') {
        let (ip, prefix): (IpAddr, u8) = (ip.parse().ok()?, prefix.parse().ok()?);
        return (prefix <= all_bits(ip)).then(|| net(ip, prefix, None));
    }
    if let Ok(addr) = item.parse::<std::net::SocketAddr>() {
        return Some(net(addr.ip(), all_bits(addr.ip()), Some(addr.port())));
    }
    let bare = item.trim_start_matches('[').trim_end_matches(']');
    let ip: IpAddr = bare.parse().ok()?;
    Some(net(ip, all_bits(ip), None))
}

impl Proxy {
    /// Its host name or IP address.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The value of a `Proxy-Authorization` header (RFC 7617), if the URL has a user.
    pub(super) fn basic(&self) -> Option<String> {
        let (user, password) = self.credentials.as_ref()?;
        let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
        Some(format!("Basic {encoded}"))
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "http://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "http://{}:{}", self.host, self.port)
        }
    }
}

/// Without the password.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Proxy {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        if url.len() > MAX_LEN {
            return Err(format!("a proxy's URL has at most {MAX_LEN} bytes"));
        }
        let rest = match url.split_once("://") {
            None => url,
            Some(("http", rest)) => rest,
            Some((scheme, _)) => {
                return Err(format!(
                    "{scheme} proxies are not spoken: give one as http://HOST:PORT"
                ));
            }
        };
        let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, place) = match rest.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, rest),
        };
        let (host, port) = host_and_port(place)?;
        let credentials = user.map(|user| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            Ok::<_, String>((percent_decoded(name)?, percent_decoded(password)?))
        });
        Ok(Self {
            host,
            port,
            credentials: credentials.transpose()?,
        })
    }
}

fn host_and_port(place: &str) -> Result<(String, u16), String> {
    let (host, port) = match place.strip_prefix('[') {
        Some(v6) => {
            let (ip, rest) = v6.split_once(']').ok_or("its IPv6 address has no end")?;
            let _: std::net::Ipv6Addr = ip.parse().map_err(|_| "its IPv6 address is none")?;
            (ip, rest.strip_prefix(':'))
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let port = match port {
        None | Some("") => DEFAULT_PORT,
        Some(port) => port.parse().map_err(|_| "its port is no port number")?,
    };
    if host.is_empty() || port == 0 {
        return Err("it names no host: give it as http://HOST:PORT".to_owned());
    }
    Ok((host.to_owned(), port))
}

fn percent_decoded(text: &str) -> Result<String, String> {
    let wrong = || "its user name or password is wrongly percent-encoded".to_owned();
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| char::from(b?).to_digit(16);
        let (high, low) = (digit(bytes.next()), digit(bytes.next()));
        let code = high.zip(low).map(|(h, l)| h * 16 + l).ok_or_else(wrong)?;
        out.push(code as u8);
    }
    String::from_utf8(out).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn env(pairs: &[(&str, &str)]) -> (Proxies, Vec<BadProxy>) {
        Proxies::from_env(|name| {
            let found = pairs.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn ws(addr: &str, tls: bool) -> Endpoint {
        let addr = addr.parse().unwrap();
        Endpoint::Ws { addr, tls }
    }

    #[test]
    fn each_scheme_has_its_variable_and_lower_case_goes_first() {
        let (proxies, _) = env(&[
            ("https_proxy", "http://one:3128"),
            ("HTTPS_PROXY", "http://two:3128"),
            ("ALL_PROXY", "three"),
        ]);
        let through = |e: &Endpoint| proxies.for_endpoint(e).map(ToString::to_string);
        let secure = through(&ws("192.0.2.1:443", true));
        assert_eq!(secure.as_deref(), Some("http://one:3128"));
        let plain = through(&ws("192.0.2.1:80", false));
        assert_eq!(plain.as_deref(), Some("http://three:80"));
        let udp = Endpoint::Udp("192.0.2.1:80".parse().unwrap());
        assert_eq!(through(&udp), None);
        assert_eq!(env(&[("https_proxy", "")]).0, Proxies::default());
    }

    #[test]
    fn what_no_proxy_covers_is_dialled_directly() {
        let list = "localhost, 10.0.0.0/8,192.0.2.1:443 2001:db8::/32,[::1],198.51.100.7";
        let (proxies, _) = env(&[("all_proxy", "http://p"), ("NO_PROXY", list)]);
        for (addr, direct) in [
            ("10.1.2.3:443", true),
            ("11.1.2.3:443", false),
            ("192.0.2.1:443", true),
            ("192.0.2.1:444", false),
            ("[2001:db8:1::1]:443", true),
            ("[2001:db9::1]:443", false),
            ("[::1]:80", true),
            ("198.51.100.7:1", true),
        ] {
            let proxy = proxies.for_endpoint(&ws(addr, true));
            assert_eq!(proxy.is_none(), direct, "{addr}");
        }
        let (none, _) = env(&[("all_proxy", "http://p"), ("no_proxy", "*")]);
        assert_eq!(none.for_endpoint(&ws("192.0.2.1:443", true)), None);
    }

    #[test]
    fn credentials_are_decoded_and_never_shown() {
        let proxy: Proxy = "http://us%40er:p%3ass@[2001:db8::1]:3128/".parse().unwrap();
        assert_eq!(proxy.host(), "2001:db8::1");
        assert_eq!(proxy.port(), 3128);
        // Base64 of `us@er:p:ss`.
        assert_eq!(proxy.basic().as_deref(), Some("Basic dXNAZXI6cDpzcw=="));
        for shown in [format!("{proxy}"), format!("{proxy:?}")] {
            assert_eq!(shown, "http://[2001:db8::1]:3128");
        }
    }

    #[test]
    fn what_is_no_http_proxy_is_refused_with_its_variable_and_without_its_value() {
        for (url, reason) in [
            ("socks5://secret@h:1", "socks5"),
            ("https://secret@h:1", "https"),
            ("http://secret@", "no host"),
            ("http://h:secret", "port"),
            ("http://[secret", "IPv6"),
            ("http://%zzsecret@h", "percent"),
        ] {
            let (proxies, bad) = env(&[("ALL_PROXY", url), ("https_proxy", "http://good")]);
            assert_eq!(
                (proxies.ws, proxies.wss.map(|p| p.host)),
                (None, Some("good".to_owned()))
            );
            let error = bad[0].to_string();
            assert!(error.starts_with("ALL_PROXY: "), "{error}");
            assert!(error.contains(reason), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_proxy_or_refused(url in "(http://)?[a-z%@:\\[\\]0-9/]{0,30}|\\PC{0,30}") {
            if let Ok(proxy) = url.parse::<Proxy>() {
                let again: Proxy = proxy.to_string().parse().unwrap();
                prop_assert_eq!(again.port(), proxy.port());
            }
        }

        #[test]
        fn any_list_of_exemptions_is_read(list in "[0-9a-f.:/,\\[\\]* ]{0,40}|\\PC{0,40}") {
            let _ = exempt(&list);
        }
    }
}
