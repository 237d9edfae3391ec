//! Addresses of our own under which the session engine knows what is no UDP peer: unique
//! local ones (RFC 4193) that exist in this process only.
//!
//! | prefix | what |
//! |---|---|
//! | `fd61:6e79:686f:7001::/64` | [circuits](crate::circuit::CircuitId) |
//! | `fd61:6e79:686f:7002::/64` | [carriers](crate::carrier::CarrierId) that are no UDP socket |

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

const PREFIX: [u16; 3] = [0xfd61, 0x6e79, 0x686f];
const PORT: u16 = 1;

/// The fourth group of the address, which tells the kinds apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind(pub(crate) u16);

impl Kind {
    pub(crate) fn address(self, id: u64) -> SocketAddr {
        let [a, b, c] = PREFIX;
        let part = |shift: u32| (id >> shift) as u16;
        let ip = Ipv6Addr::new(a, b, c, self.0, part(48), part(32), part(16), part(0));
        SocketAddrV6::new(ip, PORT, 0, 0).into()
    }

    pub(crate) fn id(self, addr: &SocketAddr) -> Option<u64> {
        let SocketAddr::V6(v6) = addr else {
            return None;
        };
        let s = v6.ip().segments();
        let ours = s[..3] == PREFIX && s[3] == self.0;
        ours.then(|| s[4..].iter().fold(0, |id, s| id << 16 | u64::from(*s)))
    }
}

/// Whether an address is one of ours, which nobody outside this process has.
#[must_use]
pub fn is_virtual(addr: &SocketAddr) -> bool {
    matches!(addr, SocketAddr::V6(v6) if v6.ip().segments()[..3] == PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{carrier::CarrierId, circuit::CircuitId};

    #[test]
    fn circuits_and_carriers_are_never_mistaken_for_each_other() {
        let (circuit, carrier) = (CircuitId(7).address(), CarrierId(7).address());
        assert_eq!(circuit.to_string(), "[fd61:6e79:686f:7001::7]:1");
        assert_eq!(carrier.to_string(), "[fd61:6e79:686f:7002::7]:1");
        assert_eq!(CircuitId::from_address(&carrier), None);
        assert_eq!(CarrierId::from_address(&circuit), None);
        assert_eq!(CarrierId::from_address(&carrier), Some(CarrierId(7)));
        assert!(is_virtual(&circuit) && is_virtual(&carrier));
        let real = "[fd61:6e79:6870::7]:1".parse().unwrap();
        assert!(!is_virtual(&real));
    }
}
