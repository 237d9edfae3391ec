//! What the model says two places can come to, from the behaviour of their NATs alone.

use anyhop::Technique;

use super::kind::Kind;
use crate::nat::{Filtering, Mapping, NatConfig, PortAllocation};

/// Sockets that the side with random ports opens for a birthday attempt, and probes that
/// the other side sends to guessed ports (the blueprint's figures).
pub const BIRTHDAY_SOCKETS: u32 = 256;
/// See [`BIRTHDAY_SOCKETS`].
pub const BIRTHDAY_PROBES: u32 = 1024;

/// What may be measured below a computed probability without being a failure.
pub const PROBABILITY_MARGIN: f64 = 0.05;

/// What two places can come to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Expectation {
    /// A direct path, always.
    Direct(Technique),
    /// A direct path with this probability.
    Likely(Technique, f64),
    /// A direct path over a WebSocket; no UDP passes.
    WebSocket,
    /// Only over others.
    CircuitOnly,
}

impl Expectation {
    /// The least share of runs that must get a direct path.
    #[must_use]
    pub fn direct_share(self) -> f64 {
        match self {
            Self::Direct(_) | Self::WebSocket => 1.0,
            Self::Likely(_, probability) => probability - PROBABILITY_MARGIN,
            Self::CircuitOnly => 0.0,
        }
    }

    /// In a few words.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Self::Direct(technique) => format!("direct: {}", technique_text(technique)),
            Self::Likely(technique, p) => {
                format!("direct: {}, {:.1} %", technique_text(technique), p * 100.0)
            }
            Self::WebSocket => "direct: websocket".to_owned(),
            Self::CircuitOnly => "circuit only".to_owned(),
        }
    }
}

/// A technique in a word.
#[must_use]
pub fn technique_text(technique: Technique) -> &'static str {
    match technique {
        Technique::Dial => "dial",
        Technique::Lan => "lan",
        Technique::PortMapping => "port mapping",
        Technique::Punch => "punch",
        Technique::LowTtl => "low ttl",
        Technique::Prediction => "prediction",
        Technique::Birthday => "birthday",
        Technique::WebSocket => "websocket",
        Technique::Circuit => "circuit",
        _ => "other",
    }
}

/// What two nodes in such places can come to, over one relay that both reach.
///
/// - Without UDP on a side only a WebSocket is direct, and only to a public node.
/// - To a public node the other dials.
/// - A mapping that is the same for all remotes (EIM) can be told to the peer; two such
///   are punched by sending both ways at once.
/// - A side with other mappings (ADM, APDM) sends from a port that nobody can tell before.
///   That is no obstacle if the other's filter asks for no port (EIF, ADF). Else the port
///   must be predicted, if the box counts up, or guessed: many sockets on the side with
///   random ports, many guesses on the other, which must be EIM to know whence to guess.
/// - Two sides whose ports are not known come together if both can be predicted.
#[must_use]
pub fn possible(a: Kind, b: Kind) -> Expectation {
    let without_udp = [a, b].map(|kind| kind == Kind::UdpBlocked);
    if without_udp != [false, false] {
        let public = [a, b].contains(&Kind::Public);
        return if public {
            Expectation::WebSocket
        } else {
            Expectation::CircuitOnly
        };
    }
    let (Some(a), Some(b)) = (seen(a), seen(b)) else {
        return Expectation::Direct(Technique::Dial);
    };
    match (is_eim(&a), is_eim(&b)) {
        (true, true) => Expectation::Direct(Technique::Punch),
        (true, false) => hard_to_easy(&b, &a),
        (false, true) => hard_to_easy(&a, &b),
        (false, false) if is_predictable(&a) && is_predictable(&b) => {
            Expectation::Direct(Technique::Prediction)
        }
        (false, false) => Expectation::CircuitOnly,
    }
}

/// One side's port is not known to the other before it is used, the other's is.
fn hard_to_easy(hard: &NatConfig, easy: &NatConfig) -> Expectation {
    if easy.filtering != Filtering::AddressAndPortDependent {
        Expectation::Direct(Technique::Punch)
    } else if is_predictable(hard) {
        Expectation::Direct(Technique::Prediction)
    } else {
        let ports = u32::from(*hard.ports.end()) - u32::from(*hard.ports.start()) + 1;
        let p = birthday(BIRTHDAY_SOCKETS, BIRTHDAY_PROBES, ports);
        Expectation::Likely(Technique::Birthday, p)
    }
}

/// Probability that `probes` different ports of `ports` include one of `sockets` that
/// are open.
#[must_use]
pub fn birthday(sockets: u32, probes: u32, ports: u32) -> f64 {
    let missed: f64 = (0..probes)
        .map(|i| 1.0 - f64::from(sockets) / f64::from(ports - i))
        .product();
    1.0 - missed
}

/// The box that decides how a place looks from the internet: of several layers the one
/// with the hardest mapping and the narrowest filter, which here is the outermost.
fn seen(kind: Kind) -> Option<NatConfig> {
    kind.layers().into_iter().next()
}

fn is_eim(nat: &NatConfig) -> bool {
    nat.mapping == Mapping::EndpointIndependent
}

fn is_predictable(nat: &NatConfig) -> bool {
    nat.allocation != PortAllocation::Random
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_says_what_each_pair_can_come_to() {
        use Expectation::{CircuitOnly, Direct, WebSocket};
        use Kind::*;
        use Technique::{Dial, Prediction, Punch};
        let table = [
            (Public, SymmetricRandom, Direct(Dial)),
            (PortRestricted, CgnatCone, Direct(Punch)),
            (FullCone, SymmetricRandom, Direct(Punch)),
            (SymmetricRandom, Restricted, Direct(Punch)),
            (SymmetricSequential, PortRestricted, Direct(Prediction)),
            (SymmetricSequential, SymmetricSequential, Direct(Prediction)),
            (SymmetricSequential, SymmetricRandom, CircuitOnly),
            (SymmetricRandom, SymmetricRandom, CircuitOnly),
            (UdpBlocked, Public, WebSocket),
            (UdpBlocked, FullCone, CircuitOnly),
        ];
        for (a, b, expected) in table {
            assert_eq!(possible(a, b), expected, "{a} and {b}");
            assert_eq!(possible(b, a), expected, "{b} and {a}");
        }
    }

    #[test]
    fn birthday_has_the_probability_of_drawing_without_putting_back() {
        let Expectation::Likely(Technique::Birthday, p) =
            possible(Kind::SymmetricRandom, Kind::PortRestricted)
        else {
            panic!("not a birthday");
        };
        assert!((0.982..0.985).contains(&p), "{p}");
        assert!((birthday(1, 1, 2) - 0.5).abs() < 1e-12);
        assert!((birthday(1, 10, 10) - 1.0).abs() < 1e-12);
        assert!((birthday(2, 2, 4) - (1.0 - 2.0 / 4.0 / 3.0)).abs() < 1e-12);
    }
}
