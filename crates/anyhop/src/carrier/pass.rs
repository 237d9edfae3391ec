//! The pass that opens a private network's WebSocket: a value that only holders of the swarm
//! key can make, good for once, with a ticket that tells who asks; it is put where browsers
//! and programs put theirs. Without one the site answers as to everybody.

use anyhop_base::PeerId;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, HeaderValue},
};

use crate::engine::Swarm;

/// In front of the pass (RFC 6750 section 2.1).
const SCHEME: &str = "Bearer ";

/// Puts a pass into a request to `peer`.
pub(super) fn show_pass(headers: &mut HeaderMap, swarm: &Swarm, peer: PeerId) {
    let pass = BASE64_URL_SAFE_NO_PAD.encode(swarm.pass(peer));
    let value = HeaderValue::from_str(&format!("{SCHEME}{pass}"));
    let mut value = value.expect("base64 is a header value");
    value.set_sensitive(true);
    headers.insert(AUTHORIZATION, value);
}

/// Whether a request shows a pass that was not shown before.
pub(super) fn shows_pass(headers: &HeaderMap, swarm: &Swarm) -> bool {
    let value = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok());
    let pass = value.and_then(|v| v.strip_prefix(SCHEME));
    let pass = pass.and_then(|p| BASE64_URL_SAFE_NO_PAD.decode(p).ok());
    pass.is_some_and(|pass| swarm.admits_pass(&pass))
}

#[cfg(test)]
mod tests {
    use anyhop_base::{Keypair, NetworkName};
    use anyhop_proto::network::swarm::{Epoch, KeyRing, SwarmKey};

    use super::*;

    fn swarm(secret: u8) -> (std::sync::Arc<Swarm>, PeerId) {
        let ring = KeyRing::new(SwarmKey::new(Epoch(1), [secret; 32]));
        let keypair = Keypair::generate_ed25519();
        let swarm = Swarm::new(NetworkName::default().id(), &ring, &keypair).unwrap();
        (swarm, keypair.public().to_peer_id())
    }

    #[test]
    fn a_pass_opens_once_and_only_where_it_is_meant_for() {
        let mut headers = HeaderMap::new();
        let ((server, id), (client, client_id)) = (swarm(1), swarm(1));
        assert!(!shows_pass(&headers, &server), "none at all");
        show_pass(&mut headers, &client, id);
        assert!(!shows_pass(&headers, &swarm(2).0), "another key");
        assert!(!shows_pass(&headers, &swarm(1).0), "another peer");
        server.set_gate(std::sync::Arc::new(move |peer, _| peer != client_id));
        assert!(!shows_pass(&headers, &server), "one who is shut out");
        server.set_gate(std::sync::Arc::new(move |peer, _| peer == client_id));
        assert!(shows_pass(&headers, &server));
        assert!(!shows_pass(&headers, &server), "shown before");
        for unfit in ["Bearer", "Bearer ", "Bearer AAAA", "Basic bWU6cEBzcw==", ""] {
            headers.insert(AUTHORIZATION, HeaderValue::from_static(unfit));
            assert!(!shows_pass(&headers, &server), "{unfit:?}");
        }
    }
}
