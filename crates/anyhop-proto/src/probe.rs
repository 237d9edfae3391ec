//! Path probes: small authenticated packets outside QUIC.
//!
//! They do two jobs that QUIC's own frames cannot. A **punch** needs the server side of
//! a connection to send first to an address it has no path to. **Liveness** needs an
//! answer on the very path that was asked, while QUIC acknowledgements may come back
//! over another one. A path found dead is told to the peer over another one, so that both
//! give it up.
//!
//! A ping and its pong have one length, so an answer never amplifies. Keys come from
//! the session's TLS exporter; each direction has its own.
//!
//! ```text
//!  0      1      2          10         18               36          48        64
//!  +------+------+----------+----------+----------------+-----------+---------+
//!  | 0x03 | kind |  token   |  nonce   | observed ip+port | zero     |  mac    |
//!  +------+------+----------+----------+----------------+-----------+---------+
//! ```
//!
//! A ping has the number of its attempt's technique at 18 and zero behind it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use aws_lc_rs::{constant_time, hmac};

use crate::{datagram, path::Technique};

/// Length of every probe, bytes.
pub const PROBE_LEN: usize = 64;
/// Bytes of key material to export from the session: token, then one key each way.
pub const PROBE_SECRET_LEN: usize = 8 + 32 + 32;
/// Exporter label (RFC 8446 section 7.5) of the key material.
pub const PROBE_EXPORTER_LABEL: &[u8] = b"EXPORTER-anyhop-probe-1";

const MAC_AT: usize = 48;
const ATTEMPT_AT: usize = 18;
const USED_AT: usize = 18;
const PING: u8 = 0;
const PONG: u8 = 1;
const NOMINATING_PING: u8 = 2;
const LOST: u8 = 3;

/// Finds a probe's session: derived from its keys, the same on both sides.
pub type Token = [u8; 8];

/// What a probe says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Answer me.
    Ping {
        /// Returned in the answer.
        nonce: u64,
        /// Whether a path will run between the sockets of this ping: the other side
        /// keeps the one it came in on.
        nominate: bool,
        /// The attempt that it belongs to, if any that is known here.
        attempt: Option<Technique>,
    },
    /// The answer.
    Pong {
        /// The ping's.
        nonce: u64,
        /// Where the ping came from.
        observed: SocketAddr,
    },
    /// Nothing comes back over this path of the connection. It is not answered.
    Lost {
        /// QUIC's id of the path.
        path: u32,
        /// Whether the sender may have data in flight on it, or the receiver may.
        used: bool,
    },
}

impl Probe {
    /// A ping that belongs to no attempt.
    #[must_use]
    pub fn ping(nonce: u64) -> Self {
        Self::Ping {
            nonce,
            nominate: false,
            attempt: None,
        }
    }
}

/// The keys of one session's probes.
#[derive(Debug)]
pub struct ProbeKeys {
    token: Token,
    send: hmac::Key,
    receive: hmac::Key,
}

impl ProbeKeys {
    /// Splits exported key material. `client` is whether this side dialled.
    #[must_use]
    pub fn new(secret: &[u8; PROBE_SECRET_LEN], client: bool) -> Self {
        let mut token = Token::default();
        token.copy_from_slice(&secret[..8]);
        let from_client = hmac::Key::new(hmac::HMAC_SHA256, &secret[8..40]);
        let from_server = hmac::Key::new(hmac::HMAC_SHA256, &secret[40..]);
        let (send, receive) = if client {
            (from_client, from_server)
        } else {
            (from_server, from_client)
        };
        Self {
            token,
            send,
            receive,
        }
    }

    /// The token in front of this session's probes.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token
    }

    /// Encodes and authenticates a probe.
    #[must_use]
    pub fn seal(&self, probe: Probe) -> [u8; PROBE_LEN] {
        let mut out = [0; PROBE_LEN];
        out[0] = datagram::PROBE;
        out[2..10].copy_from_slice(&self.token);
        let nonce = match probe {
            Probe::Ping {
                nonce,
                nominate,
                attempt,
            } => {
                out[1] = if nominate { NOMINATING_PING } else { PING };
                out[ATTEMPT_AT] = attempt.map_or(0, Technique::code);
                nonce
            }
            Probe::Pong { nonce, observed } => {
                out[1] = PONG;
                put_address(&mut out[18..36], observed);
                nonce
            }
            Probe::Lost { path, used } => {
                out[1] = LOST;
                out[USED_AT] = used.into();
                u64::from(path)
            }
        };
        out[10..18].copy_from_slice(&nonce.to_be_bytes());
        let tag = hmac::sign(&self.send, &out[..MAC_AT]);
        out[MAC_AT..].copy_from_slice(&tag.as_ref()[..PROBE_LEN - MAC_AT]);
        out
    }

    /// Checks and decodes a probe; `None` for anything the peer did not make.
    #[must_use]
    pub fn open(&self, packet: &[u8]) -> Option<Probe> {
        let packet: &[u8; PROBE_LEN] = packet.try_into().ok()?;
        if read_token(packet)? != self.token {
            return None;
        }
        let tag = hmac::sign(&self.receive, &packet[..MAC_AT]);
        constant_time::verify_slices_are_equal(
            &tag.as_ref()[..PROBE_LEN - MAC_AT],
            &packet[MAC_AT..],
        )
        .ok()?;
        let nonce = u64::from_be_bytes(packet[10..18].try_into().ok()?);
        match packet[1] {
            PING | NOMINATING_PING => Some(Probe::Ping {
                nonce,
                nominate: packet[1] == NOMINATING_PING,
                attempt: Technique::from_code(u32::from(packet[ATTEMPT_AT])),
            }),
            PONG => Some(Probe::Pong {
                nonce,
                observed: get_address(&packet[18..36])?,
            }),
            LOST => Some(Probe::Lost {
                path: nonce.try_into().ok()?,
                used: packet[USED_AT] != 0,
            }),
            _ => None,
        }
    }
}

/// Reads the token of a payload of kind [`Probe`](datagram::Kind::Probe), unauthenticated.
#[must_use]
pub fn read_token(packet: &[u8]) -> Option<Token> {
    if packet.len() != PROBE_LEN || packet[0] != datagram::PROBE {
        return None;
    }
    packet[2..10].try_into().ok()
}

fn put_address(out: &mut [u8], addr: SocketAddr) {
    let ip = match addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    out[..16].copy_from_slice(&ip.octets());
    out[16..18].copy_from_slice(&addr.port().to_be_bytes());
}

fn get_address(bytes: &[u8]) -> Option<SocketAddr> {
    let ip: [u8; 16] = bytes[..16].try_into().ok()?;
    let port = u16::from_be_bytes(bytes[16..18].try_into().ok()?);
    Some(SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> (ProbeKeys, ProbeKeys) {
        let secret = std::array::from_fn(|i| i as u8);
        (
            ProbeKeys::new(&secret, true),
            ProbeKeys::new(&secret, false),
        )
    }

    #[test]
    fn each_side_opens_what_the_other_sealed_and_not_its_own() {
        let (client, server) = keys();
        let [ping, nominating] = [false, true].map(|nominate| Probe::Ping {
            nonce: 7,
            nominate,
            attempt: nominate.then_some(Technique::Birthday),
        });
        assert_eq!(server.open(&client.seal(nominating)), Some(nominating));
        let packet = client.seal(ping);
        assert_eq!(server.open(&packet), Some(ping));
        assert_eq!(client.open(&packet), None, "a reflected probe is refused");
    }

    #[test]
    fn ping_has_these_bytes() {
        let (client, _) = keys();
        let nonce = 0x0102_0304_0506_0708;
        for (attempt, code) in [(None, 0), (Some(Technique::Prediction), 4)] {
            let packet = client.seal(Probe::Ping {
                nonce,
                nominate: attempt.is_some(),
                attempt,
            });
            let kind = if attempt.is_some() { 2 } else { 0 };
            let head = [
                3, kind, 0, 1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 5, 6, 7, 8, code,
            ];
            assert_eq!(packet[..19], head);
            assert_eq!(packet[19..48], [0; 29]);
        }
    }

    #[test]
    fn a_ping_of_an_attempt_of_later_days_is_a_ping() {
        let (client, server) = keys();
        let mut packet = client.seal(Probe::ping(9));
        packet[ATTEMPT_AT] = 200;
        let tag = hmac::sign(&client.send, &packet[..MAC_AT]);
        packet[MAC_AT..].copy_from_slice(&tag.as_ref()[..PROBE_LEN - MAC_AT]);
        assert_eq!(server.open(&packet), Some(Probe::ping(9)));
    }

    #[test]
    fn pong_has_these_bytes() {
        let (client, _) = keys();
        let packet = client.seal(Probe::Pong {
            nonce: 0x0102_0304_0506_0708,
            observed: "203.0.113.9:4001".parse().unwrap(),
        });
        assert_eq!(
            packet[..48],
            [
                3, 1, 0, 1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                0xff, 0xff, 203, 0, 113, 9, 0x0f, 0xa1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
            ]
        );
    }

    #[test]
    fn the_loss_of_a_path_is_told_with_its_id_in_place_of_a_nonce() {
        let (client, server) = keys();
        for used in [false, true] {
            let path = 0x0102_0304;
            let lost = Probe::Lost { path, used };
            let packet = client.seal(lost);
            assert_eq!(server.open(&packet), Some(lost));
            assert_eq!(packet[..2], [3, 3]);
            assert_eq!(packet[10..18], [0, 0, 0, 0, 1, 2, 3, 4]);
            assert_eq!(packet[18], u8::from(used));
            assert_eq!(packet[19..48], [0; 29]);
        }
    }

    proptest! {
        #[test]
        fn a_flipped_bit_anywhere_is_refused(bit in 0..PROBE_LEN * 8, nonce: u64) {
            let (client, server) = keys();
            let mut packet = client.seal(Probe::ping(nonce));
            packet[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(server.open(&packet), None);
        }

        #[test]
        fn any_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let (client, _) = keys();
            prop_assert_eq!(client.open(&bytes), None);
        }
    }
}
