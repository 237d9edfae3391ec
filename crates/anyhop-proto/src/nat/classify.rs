//! Finding out how the NATs towards one family behave, test by test.
//!
//! The [`Classifier`] asks for one [`Test`] after the other, and concludes from what
//! came of them. Tests run on fresh auxiliary sockets, so that nothing this node has
//! sent before shows. **Responders** are peers, numbered; the first two are at different
//! IP addresses. With one, the question whether a mapping or a filter looks at addresses
//! stays open; with none, there is nothing to ask.
//!
//! ```text
//!  socket 0 -> responder 0        where it is seen: X          no NAT, if that is X's own
//!  responder 0, other port -> X   does it arrive?              filter looks at ports
//!  socket 0 -> that other port    where it is seen: X again?   mapping looks at ports
//!  responder 1 -> X               does it arrive?              filter looks at addresses
//!  socket 0 -> responder 1        where it is seen: X again?   mapping looks at addresses
//!  sockets 1, 2, 3 -> responder 0 which ports?                 allocation
//!  socket 0 <-> socket 1          does it arrive at X?         hairpin
//! ```
//!
//! Each test is made once; the shell repeats lost packets within it. A whole run costs
//! [`TEST_SOCKETS`] sockets and at most [`MAX_TESTS`] tests.

use std::net::{IpAddr, SocketAddr};

use super::{Allocation, Filtering, Mapping, Profile};

/// Sockets that a run uses.
pub const TEST_SOCKETS: u16 = 5;
/// Tests of one run at most.
pub const MAX_TESTS: usize = 12;
/// The socket that sends nothing: what reaches it was let in unasked.
const SILENT: u16 = 4;
/// A step from port to port that is larger shows no order.
const MAX_STEP: i32 = 64;

/// What the shell is to find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// Where a responder sees a socket. Answered with [`Outcome::Seen`].
    Seen {
        /// The socket.
        socket: u16,
        /// The responder.
        responder: usize,
    },
    /// Whether a responder's ping from another port arrives at socket 0's address.
    /// Answered with [`Outcome::Arrived`].
    OtherPort,
    /// Where that other port sees socket 0. Answered with [`Outcome::Seen`].
    SeenByOtherPort,
    /// Whether the ping of a responder that the socket has sent nothing to arrives at
    /// this address. Answered with [`Outcome::Arrived`].
    Unasked {
        /// The socket that listens.
        socket: u16,
        /// The responder.
        responder: usize,
        /// The socket's external address.
        at: SocketAddr,
    },
    /// Whether socket 1 reaches socket 0 at its external address, after socket 0 has
    /// sent to that of socket 1 to open the filter. Answered with [`Outcome::Arrived`].
    Hairpin {
        /// The external address of socket 0.
        at: SocketAddr,
        /// That of socket 1, if it is known.
        back: Option<SocketAddr>,
    },
}

/// What came of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Seen here, or nobody answered.
    Seen(Option<SocketAddr>),
    /// It arrived, or not; `None` when nobody would send it.
    Arrived(Option<bool>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    First,
    OtherPort,
    SeenByOtherPort,
    OtherAddress,
    SeenByOtherAddress,
    Sample(u16),
    Hairpin,
    Open,
    Done,
}

/// Classifies the NATs towards one family; see the [module](self).
#[derive(Debug)]
pub struct Classifier {
    responders: usize,
    /// Addresses of this machine.
    own: Vec<IpAddr>,
    /// Ports of the test sockets.
    ports: Vec<u16>,
    stage: Stage,
    external: Option<SocketAddr>,
    /// The external address of socket 1.
    second: Option<SocketAddr>,
    samples: Vec<u16>,
    profile: Profile,
}

impl Classifier {
    /// A run with that many responders, on a machine with these addresses and test
    /// sockets on these ports.
    #[must_use]
    pub fn new(responders: usize, own: Vec<IpAddr>, ports: Vec<u16>) -> Self {
        let usable = responders > 0 && ports.len() >= usize::from(TEST_SOCKETS);
        Self {
            responders,
            own,
            ports,
            stage: if usable { Stage::First } else { Stage::Done },
            external: None,
            second: None,
            samples: Vec::new(),
            profile: Profile::default(),
        }
    }

    /// What was found out so far.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// The test to make now; `None` at the end. Asked again before its result it stays
    /// the same.
    #[must_use]
    pub fn test(&self) -> Option<Test> {
        let at = self.external;
        match self.stage {
            Stage::First => Some(Test::Seen {
                socket: 0,
                responder: 0,
            }),
            Stage::OtherPort => Some(Test::OtherPort),
            Stage::SeenByOtherPort => Some(Test::SeenByOtherPort),
            Stage::OtherAddress => Some(Test::Unasked {
                socket: 0,
                responder: 1,
                at: at?,
            }),
            Stage::SeenByOtherAddress => Some(Test::Seen {
                socket: 0,
                responder: 1,
            }),
            Stage::Sample(n) => Some(Test::Seen {
                socket: n,
                responder: 0,
            }),
            Stage::Hairpin => Some(Test::Hairpin {
                at: at?,
                back: self.second,
            }),
            Stage::Open => Some(Test::Unasked {
                socket: SILENT,
                responder: 0,
                at: SocketAddr::new(at?.ip(), self.ports[usize::from(SILENT)]),
            }),
            Stage::Done => None,
        }
    }

    /// What came of the test under way.
    pub fn handle_outcome(&mut self, outcome: Outcome) {
        self.stage = match (self.stage, outcome) {
            (Stage::First, Outcome::Seen(Some(seen))) => self.first(seen),
            (Stage::OtherPort, Outcome::Arrived(arrived)) => {
                self.profile.filtering = arrived.map(|arrived| match arrived {
                    true => Filtering::PortIndependent,
                    false => Filtering::AddressAndPortDependent,
                });
                Stage::SeenByOtherPort
            }
            (Stage::SeenByOtherPort, Outcome::Seen(seen)) => {
                self.profile.mapping = seen.map(|seen| match Some(seen) == self.external {
                    true => Mapping::PortIndependent,
                    false => Mapping::AddressAndPortDependent,
                });
                self.after_ports()
            }
            (Stage::OtherAddress, Outcome::Arrived(arrived)) => {
                if let Some(arrived) = arrived {
                    self.profile.filtering = Some(match arrived {
                        true => Filtering::EndpointIndependent,
                        false => Filtering::AddressDependent,
                    });
                }
                Stage::SeenByOtherAddress
            }
            (Stage::SeenByOtherAddress, Outcome::Seen(seen)) => {
                self.seen_by_other_address(seen);
                Stage::Sample(1)
            }
            (Stage::Sample(n), Outcome::Seen(seen)) => {
                self.samples.extend(seen.map(|s| s.port()));
                if n == 1 {
                    self.second = seen;
                }
                if n < 3 {
                    Stage::Sample(n + 1)
                } else {
                    self.profile.allocation = self.allocation();
                    Stage::Hairpin
                }
            }
            (Stage::Hairpin, Outcome::Arrived(arrived)) => {
                // With another port for each destination it is not known which mapping's
                // filter to open, and how: what does not arrive may have been filtered.
                let open = self.profile.filtering == Some(Filtering::EndpointIndependent);
                let hidden = self.profile.is_hard() && !open;
                self.profile.hairpin = arrived.filter(|_| !hidden);
                Stage::Done
            }
            (Stage::Open, Outcome::Arrived(arrived)) => {
                match arrived {
                    Some(true) => self.profile.filtering = Some(Filtering::None),
                    // What a filter is like matters only when there is one.
                    Some(false) => return self.stage = Stage::OtherPort,
                    None => {}
                }
                Stage::Done
            }
            // Nobody answers at all, or the shell answered something else.
            _ => Stage::Done,
        };
    }

    fn first(&mut self, seen: SocketAddr) -> Stage {
        self.external = Some(seen);
        self.profile.external = Some(seen);
        if self.own.contains(&seen.ip()) && seen.port() == self.ports[0] {
            self.profile.mapping = Some(Mapping::None);
            self.profile.layers = Some(0);
            return Stage::Open;
        }
        self.profile.layers = Some(1 + u8::from(self.own.iter().any(is_shared)));
        Stage::OtherPort
    }

    /// After the tests that one responder is enough for.
    fn after_ports(&self) -> Stage {
        let open = self.profile.filtering == Some(Filtering::PortIndependent);
        match (self.profile.layers, self.responders) {
            // Without a NAT there is no mapping to look at.
            (Some(0), 2..) if open => Stage::OtherAddress,
            (Some(0), _) => Stage::Done,
            (_, 2..) if open => Stage::OtherAddress,
            (_, 2..) => Stage::SeenByOtherAddress,
            _ => Stage::Sample(1),
        }
    }

    fn seen_by_other_address(&mut self, seen: Option<SocketAddr>) {
        let Some(seen) = seen else { return };
        let same = Some(seen) == self.external;
        self.profile.mapping = match (self.profile.mapping, same) {
            (Some(Mapping::PortIndependent) | None, true) => Some(Mapping::EndpointIndependent),
            (Some(Mapping::PortIndependent), false) => Some(Mapping::AddressDependent),
            // ADM or APDM: it was the other port that was not to be asked.
            (None, false) => Some(Mapping::AddressDependent),
            (known, _) => known,
        };
    }

    /// From the ports of fresh mappings, one after the other.
    fn allocation(&self) -> Option<Allocation> {
        let [a, b, c] = self.samples[..] else {
            return None;
        };
        if [a, b, c] == self.ports[1..4] {
            return Some(Allocation::Preserving);
        }
        let steps = [i32::from(b) - i32::from(a), i32::from(c) - i32::from(b)];
        let up = steps.iter().all(|s| (1..=MAX_STEP).contains(s));
        let down = steps.iter().all(|s| (-MAX_STEP..=-1).contains(s));
        // Others take ports in between: the smaller step is nearer to the box's own.
        let step = steps.into_iter().min_by_key(|s| s.abs()).unwrap_or(1);
        match i16::try_from(step) {
            Ok(step) if up || down => Some(Allocation::Sequential { step }),
            _ => Some(Allocation::Random),
        }
    }
}

/// An address inside of a carrier's NAT (RFC 6598), so that there is another outside.
fn is_shared(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64)
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
