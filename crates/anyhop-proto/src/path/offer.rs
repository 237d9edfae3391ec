//! What two ends of a session tell each other before a punch, on a stream of protocol
//! `punch/2`: one [`Offer`] each way.
//!
//! The client says which technique it proposes, where it may be reached, what its NATs
//! are like and, for a technique that guesses ports, where its next mapping will be. The
//! server answers in kind, or without consent and with a reason. Sending an address is
//! the sender's consent to be probed there; consenting to a technique is consent to the
//! number of probes that the technique is limited to.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::{
    frame::{FrameError, decode, encode_frame},
    nat::{Allocation, Family, Filtering, Mapping, Profile, Profiles},
    path::ladder::Technique,
};

/// Largest frame, bytes.
pub const MAX_OFFER_FRAME: usize = 4 * 1024;
/// Candidate addresses taken from one frame; more are ignored.
pub const MAX_CANDIDATES: usize = 16;
/// Ports predicted at most; a frame that says more is cut to it.
pub const MAX_PREDICTED: u16 = 32;
/// Longest reason, bytes.
const MAX_REASON: usize = 256;

/// Where a candidate address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CandidateKind {
    /// One of the host's interfaces.
    Interface,
    /// Where a peer sees the host.
    Observed,
    /// A port mapping on a gateway.
    Mapped,
}

/// An address somebody may be reached at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    /// The address; never port 0 nor the unspecified address.
    pub addr: SocketAddr,
    /// Where it comes from.
    pub kind: CandidateKind,
}

/// Which external ports a sender's next mappings will have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prediction {
    /// The external address.
    pub ip: IpAddr,
    /// The port of the very next mapping.
    pub first: u16,
    /// From one to the next.
    pub step: i16,
    /// How many are worth a guess, at most [`MAX_PREDICTED`].
    pub count: u16,
}

impl Prediction {
    /// The predicted addresses, likeliest first.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let ports = (0..i32::from(self.count.min(MAX_PREDICTED)))
            .map(|n| i32::from(self.first) + n * i32::from(self.step))
            .filter_map(|port| u16::try_from(port).ok().filter(|p| *p != 0));
        let mut out = Vec::new();
        for port in ports {
            let addr = SocketAddr::new(self.ip, port);
            if !out.contains(&addr) {
                out.push(addr);
            }
        }
        out
    }
}

/// One side's part of the agreement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The technique proposed, or agreed to.
    pub technique: Technique,
    /// The family it is for, where that matters.
    pub family: Family,
    /// Whether the sender takes part.
    pub consent: bool,
    /// Why not; empty for consent.
    pub reason: String,
    /// Where the sender may be reached, best first; at most [`MAX_CANDIDATES`].
    pub candidates: Vec<Candidate>,
    /// What the sender's NATs are like.
    pub profiles: Profiles,
    /// Where the sender's next mapping will be or, for low-TTL openers, that of a fresh
    /// socket is.
    pub prediction: Option<Prediction>,
}

impl Offer {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut reason = self.reason.clone();
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        encode_frame(&wire::Offer {
            technique: u32::from(self.technique.code()),
            family: match self.family {
                Family::V4 => 4,
                Family::V6 => 6,
            },
            consent: self.consent,
            reason,
            candidates: self
                .candidates
                .iter()
                .take(MAX_CANDIDATES)
                .map(put_candidate)
                .collect(),
            v4: Some(put_profile(&self.profiles.v4)),
            v6: Some(put_profile(&self.profiles.v6)),
            prediction: self.prediction.as_ref().map(|p| wire::Prediction {
                ip: put_ip(p.ip),
                first: u32::from(p.first),
                step: i32::from(p.step),
                count: u32::from(p.count),
            }),
        })
    }

    /// Reads a frame's content; addresses nobody can be probed at are left out.
    ///
    /// # Errors
    /// When it is no such message, or names a technique that is not known here.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let offer: wire::Offer = decode(content)?;
        let malformed = |what: &str| FrameError::Malformed(what.to_owned());
        let technique = Technique::from_code(offer.technique);
        let mut reason = offer.reason;
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        Ok(Self {
            technique: technique.ok_or_else(|| malformed("unknown technique"))?,
            family: match offer.family {
                4 => Family::V4,
                6 => Family::V6,
                _ => return Err(malformed("unknown address family")),
            },
            consent: offer.consent,
            reason,
            candidates: offer
                .candidates
                .iter()
                .take(MAX_CANDIDATES)
                .filter_map(get_candidate)
                .collect(),
            profiles: Profiles {
                v4: get_profile(offer.v4.as_ref()),
                v6: get_profile(offer.v6.as_ref()),
            },
            prediction: offer.prediction.as_ref().and_then(get_prediction),
        })
    }
}

mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Offer {
        #[prost(uint32, tag = "1")]
        pub(super) technique: u32,
        #[prost(uint32, tag = "2")]
        pub(super) family: u32,
        #[prost(bool, tag = "3")]
        pub(super) consent: bool,
        #[prost(string, tag = "4")]
        pub(super) reason: String,
        #[prost(message, repeated, tag = "5")]
        pub(super) candidates: Vec<Candidate>,
        #[prost(message, optional, tag = "6")]
        pub(super) v4: Option<Profile>,
        #[prost(message, optional, tag = "7")]
        pub(super) v6: Option<Profile>,
        #[prost(message, optional, tag = "8")]
        pub(super) prediction: Option<Prediction>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Candidate {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) ip: Vec<u8>,
        #[prost(uint32, tag = "2")]
        pub(super) port: u32,
        #[prost(uint32, tag = "3")]
        pub(super) kind: u32,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Profile {
        #[prost(uint32, tag = "1")]
        pub(super) mapping: u32,
        #[prost(uint32, tag = "2")]
        pub(super) filtering: u32,
        #[prost(uint32, tag = "3")]
        pub(super) allocation: u32,
        #[prost(sint32, tag = "4")]
        pub(super) step: i32,
        #[prost(uint32, tag = "5")]
        pub(super) layers: u32,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Prediction {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) ip: Vec<u8>,
        #[prost(uint32, tag = "2")]
        pub(super) first: u32,
        #[prost(sint32, tag = "3")]
        pub(super) step: i32,
        #[prost(uint32, tag = "4")]
        pub(super) count: u32,
    }
}

pub(crate) fn put_ip(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// An address a probe can be sent to.
fn get_ip(bytes: &[u8]) -> Option<IpAddr> {
    let ip: IpAddr = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
        _ => return None,
    };
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    (!ip.is_unspecified() && !ip.is_multicast() && !broadcast).then_some(ip)
}

/// An address and port a probe can be sent to.
pub(crate) fn get_socket(ip: &[u8], port: u32) -> Option<SocketAddr> {
    let port = u16::try_from(port).ok().filter(|p| *p != 0)?;
    Some(SocketAddr::new(get_ip(ip)?, port))
}

fn put_candidate(candidate: &Candidate) -> wire::Candidate {
    wire::Candidate {
        ip: put_ip(candidate.addr.ip()),
        port: u32::from(candidate.addr.port()),
        kind: match candidate.kind {
            CandidateKind::Interface => 1,
            CandidateKind::Observed => 2,
            CandidateKind::Mapped => 3,
        },
    }
}

fn get_candidate(candidate: &wire::Candidate) -> Option<Candidate> {
    Some(Candidate {
        addr: get_socket(&candidate.ip, candidate.port)?,
        kind: match candidate.kind {
            2 => CandidateKind::Observed,
            3 => CandidateKind::Mapped,
            // A kind of later days is an address all the same.
            _ => CandidateKind::Interface,
        },
    })
}

fn get_prediction(prediction: &wire::Prediction) -> Option<Prediction> {
    let port = |p: u32| u16::try_from(p).ok();
    Some(Prediction {
        ip: get_ip(&prediction.ip)?,
        first: port(prediction.first).filter(|p| *p != 0)?,
        step: i16::try_from(prediction.step).ok()?,
        count: port(prediction.count)?.min(MAX_PREDICTED),
    })
}

fn put_profile(profile: &Profile) -> wire::Profile {
    wire::Profile {
        mapping: match profile.mapping {
            None => 0,
            Some(Mapping::None) => 1,
            Some(Mapping::EndpointIndependent) => 2,
            Some(Mapping::AddressDependent) => 3,
            Some(Mapping::AddressAndPortDependent) => 4,
            Some(Mapping::PortIndependent) => 5,
        },
        filtering: match profile.filtering {
            None => 0,
            Some(Filtering::None) => 1,
            Some(Filtering::EndpointIndependent) => 2,
            Some(Filtering::AddressDependent) => 3,
            Some(Filtering::AddressAndPortDependent) => 4,
            Some(Filtering::PortIndependent) => 5,
        },
        allocation: match profile.allocation {
            None => 0,
            Some(Allocation::Preserving) => 1,
            Some(Allocation::Sequential { .. }) => 2,
            Some(Allocation::Random) => 3,
        },
        step: match profile.allocation {
            Some(Allocation::Sequential { step }) => i32::from(step),
            _ => 0,
        },
        layers: profile.layers.map_or(0, |n| u32::from(n) + 1),
    }
}

/// What the peer says of its NATs. Unknown words count as nothing said.
fn get_profile(profile: Option<&wire::Profile>) -> Profile {
    let Some(profile) = profile else {
        return Profile::default();
    };
    Profile {
        mapping: match profile.mapping {
            1 => Some(Mapping::None),
            2 => Some(Mapping::EndpointIndependent),
            3 => Some(Mapping::AddressDependent),
            4 => Some(Mapping::AddressAndPortDependent),
            5 => Some(Mapping::PortIndependent),
            _ => None,
        },
        filtering: match profile.filtering {
            1 => Some(Filtering::None),
            2 => Some(Filtering::EndpointIndependent),
            3 => Some(Filtering::AddressDependent),
            4 => Some(Filtering::AddressAndPortDependent),
            5 => Some(Filtering::PortIndependent),
            _ => None,
        },
        allocation: match profile.allocation {
            1 => Some(Allocation::Preserving),
            2 => i16::try_from(profile.step)
                .ok()
                .map(|step| Allocation::Sequential { step }),
            3 => Some(Allocation::Random),
            _ => None,
        },
        layers: (profile.layers > 0)
            .then(|| u8::try_from(profile.layers - 1).ok())
            .flatten(),
        ..Profile::default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::take_frame;

    fn offer() -> Offer {
        Offer {
            technique: Technique::Prediction,
            family: Family::V4,
            consent: true,
            reason: String::new(),
            candidates: vec![Candidate {
                addr: "192.0.2.1:4001".parse().unwrap(),
                kind: CandidateKind::Observed,
            }],
            profiles: Profiles {
                v4: Profile {
                    mapping: Some(Mapping::AddressAndPortDependent),
                    filtering: Some(Filtering::AddressAndPortDependent),
                    allocation: Some(Allocation::Sequential { step: -2 }),
                    layers: Some(1),
                    ..Profile::default()
                },
                v6: Profile::default(),
            },
            prediction: Some(Prediction {
                ip: "192.0.2.1".parse().unwrap(),
                first: 5000,
                step: -2,
                count: 24,
            }),
        }
    }

    fn content(frame: &[u8]) -> Vec<u8> {
        let content = take_frame(&mut &frame[..], MAX_OFFER_FRAME);
        content.unwrap().unwrap().to_vec()
    }

    #[test]
    fn an_offer_has_these_bytes() {
        assert_eq!(
            offer().encode(),
            [
                48, 0x08, 4, 0x10, 4, 0x18, 1, 0x2a, 11, 0x0a, 4, 192, 0, 2, 1, 0x10, 0xa1, 0x1f,
                0x18, 2, 0x32, 10, 0x08, 4, 0x10, 4, 0x18, 2, 0x20, 3, 0x28, 2, 0x3a, 0, 0x42, 13,
                0x0a, 4, 192, 0, 2, 1, 0x10, 0x88, 0x27, 0x18, 3, 0x20, 24
            ]
        );
    }

    #[test]
    fn addresses_nobody_can_be_probed_at_are_left_out() {
        let unusable = [
            "0.0.0.0:1",
            "192.0.2.1:0",
            "224.0.0.251:5353",
            "255.255.255.255:9",
        ];
        let mut offer = offer();
        for addr in unusable.into_iter().chain(["[::ffff:192.0.2.9]:5"]) {
            offer.candidates.push(Candidate {
                addr: addr.parse().unwrap(),
                kind: CandidateKind::Mapped,
            });
        }
        let read = Offer::decode(&content(&offer.encode())).unwrap();
        let addrs: Vec<_> = read.candidates.iter().map(|c| c.addr.to_string()).collect();
        assert_eq!(addrs, ["192.0.2.1:4001", "192.0.2.9:5"]);
    }

    #[test]
    fn predicted_ports_stay_within_the_range_and_the_limit() {
        let mut prediction = offer().prediction.unwrap();
        (prediction.first, prediction.step, prediction.count) = (65_530, 3, u16::MAX);
        let ports: Vec<_> = prediction
            .addresses()
            .iter()
            .map(SocketAddr::port)
            .collect();
        assert_eq!(ports, [65_530, 65_533]);
        (prediction.first, prediction.step) = (7, 0);
        assert_eq!(prediction.addresses().len(), 1);
        (prediction.first, prediction.step) = (2000, 1);
        assert_eq!(prediction.addresses().len(), usize::from(MAX_PREDICTED));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(offer) = Offer::decode(&bytes) {
                prop_assert_eq!(Offer::decode(&content(&offer.encode())), Ok(offer));
            }
        }

        #[test]
        fn what_is_offered_is_read(code in 1_u32..=5, step: i16, first in 1_u16.., count in 0..=MAX_PREDICTED, reason in ".{0,40}") {
            let mut offer = offer();
            offer.technique = Technique::from_code(code).unwrap();
            offer.reason = reason;
            offer.profiles.v6.allocation = Some(Allocation::Sequential { step });
            offer.prediction = Some(Prediction { first, step, count, ..offer.prediction.unwrap() });
            prop_assert_eq!(Offer::decode(&content(&offer.encode())), Ok(offer));
        }
    }
}
