//! What the environment says about proxies.

use std::env;

use anyhop::{BadProxy, Proxies};

/// Variables that name a proxy, or what needs none; lower case goes before upper case.
const PROXY_VARIABLES: [&str; 8] = [
    "https_proxy",
    "HTTPS_PROXY",
    "http_proxy",
    "HTTP_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
];

/// The proxies, and what is wrong with those that are not used.
pub(crate) fn proxies() -> (Proxies, Vec<BadProxy>) {
    Proxies::from_env(|name| env::var(name).ok())
}

/// The proxies for a node, which keeps what the environment said at its start; warns of
/// those that are not used.
pub(crate) fn proxies_used() -> Proxies {
    let (proxies, bad) = proxies();
    for bad in bad {
        tracing::warn!(%bad, "a proxy in the environment is not used");
    }
    proxies
}

/// Name and value of the proxy variables that are set, with users and passwords left out.
pub(crate) fn proxy_variables() -> Vec<(String, String)> {
    told(|name| env::var(name).ok())
}

fn told(get: impl Fn(&str) -> Option<String>) -> Vec<(String, String)> {
    let set = PROXY_VARIABLES.iter().filter_map(|name| {
        let value = get(name).filter(|v| !v.is_empty())?;
        Some(((*name).to_owned(), without_password(&value)))
    });
    set.collect()
}

fn without_password(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}..@{host}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_told_without_their_passwords() {
        let set = |name: &str| match name {
            "HTTPS_PROXY" => Some("http://joe:secret@proxy:3128".to_owned()),
            "all_proxy" => Some("joe:secret@proxy:3128".to_owned()),
            "no_proxy" => Some("localhost,.lan".to_owned()),
            "HTTP_PROXY" => Some(String::new()),
            _ => None,
        };
        let expected = [
            ("HTTPS_PROXY", "http://..@proxy:3128"),
            ("all_proxy", "..@proxy:3128"),
            ("no_proxy", "localhost,.lan"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(told(set), expected);
    }
}
