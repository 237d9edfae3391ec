//! Firewall rules: which flows between members of a network are let through. The policy that
//! a network's authority signs and that of a single host are made of the same ones.
//!
//! A rule speaks about the first packet of a flow, as the host sees it that the rule holds on:
//! who the member at the other end is, which side begins, and which protocol and port of the
//! side that is called. As text it is five words, those left out being `any`:
//!
//! ```text
//! deny in role:member tcp 22
//! allow both name:laptop any any
//! ```

use std::{fmt, str::FromStr};

use libp2p_identity::PeerId;
use thiserror::Error;

/// Longest name of a member in a rule, bytes: that of a DNS label.
pub const MAX_RULE_NAME: usize = 63;

/// What becomes of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is let through.
    Allow,
    /// It is dropped.
    Deny,
}

impl Verdict {
    /// Its name in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// Which side begins a flow, as this host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// The other member does.
    In,
    /// This host does.
    Out,
}

impl Direction {
    /// Its name in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// What a member of a network may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Holds the authority's key; only the authority certifies it.
    Owner,
    /// Appointed by the authority to certify and revoke members.
    Admin,
    /// Everybody else.
    Member,
}

impl Role {
    /// Its name in reports: `owner`, `admin` or `member`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Member => "member",
        }
    }
}

/// Which members a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Who {
    /// All of them.
    Anybody,
    /// This one, whatever its name.
    Peer(PeerId),
    /// The one that has this name.
    Name(String),
    /// Those with this role.
    Role(Role),
}

/// Which protocol a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP under IPv4, ICMPv6 under IPv6.
    Icmp,
    /// Another one, by its number (RFC 5237).
    Other(u8),
}

impl Protocol {
    /// The number of TCP.
    pub const TCP: u8 = 6;
    /// The number of UDP.
    pub const UDP: u8 = 17;
    /// The number of ICMP.
    pub const ICMP: u8 = 1;
    /// The number of ICMPv6.
    pub const ICMPV6: u8 = 58;

    /// That of a packet, by the number in its header.
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        match number {
            Self::TCP => Self::Tcp,
            Self::UDP => Self::Udp,
            Self::ICMP | Self::ICMPV6 => Self::Icmp,
            other => Self::Other(other),
        }
    }

    /// Whether its packets have ports.
    #[must_use]
    pub fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }
}

/// Ports from one to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last, not below it.
    pub last: u16,
}

impl Ports {
    /// Whether a port is among them.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// One rule. `None` stands for whatever there is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// What becomes of the flows that it is about.
    pub verdict: Verdict,
    /// Which side begins.
    pub direction: Option<Direction>,
    /// Who is at the other end.
    pub who: Who,
    /// The protocol.
    pub protocol: Option<Protocol>,
    /// The port of the side that is called; of TCP and UDP where no protocol is given.
    pub ports: Option<Ports>,
}

/// The text or the values are no rule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what:?} is no firewall rule: {why}")]
pub struct BadRule {
    /// What was given.
    pub what: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Rule {
    /// Checks what its type does not.
    ///
    /// # Errors
    /// When it has ports of a protocol without, none from first to last, or a name that no
    /// member can have.
    pub fn check(&self) -> Result<(), BadRule> {
        let bad = |why| Err(BadRule::new(self, why));
        if self.ports.is_some() && self.protocol.is_some_and(|p| !p.has_ports()) {
            return bad("only TCP and UDP have ports");
        }
        if self.ports.is_some_and(|p| p.first > p.last) {
            return bad("the last port is below the first");
        }
        match &self.who {
            Who::Name(name) if !may_be_name(name) => bad("no member can have that name"),
            _ => Ok(()),
        }
    }

    /// Whether it is about flows of this kind.
    #[must_use]
    pub fn covers(&self, direction: Direction, protocol: Protocol, port: Option<u16>) -> bool {
        let ports = |ports: Ports| port.is_some_and(|p| ports.contains(p));
        self.direction.is_none_or(|d| d == direction)
            && self.protocol.is_none_or(|p| p == protocol)
            && self.ports.is_none_or(ports)
    }
}

fn may_be_name(name: &str) -> bool {
    let allowed = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=MAX_RULE_NAME).contains(&name.len()) && name.as_bytes().iter().all(allowed)
}

impl BadRule {
    fn new(what: impl fmt::Display, why: &'static str) -> Self {
        let what = what.to_string();
        Self { what, why }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anybody => f.write_str("any"),
            Self::Peer(peer) => write!(f, "peer:{peer}"),
            Self::Name(name) => write!(f, "name:{name}"),
            Self::Role(role) => write!(f, "role:{}", role.as_str()),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Udp => f.write_str("udp"),
            Self::Icmp => f.write_str("icmp"),
            Self::Other(number) => write!(f, "{number}"),
        }
    }
}

impl FromStr for Protocol {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let why = "a protocol is tcp, udp, icmp or a number up to 255";
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "icmp" => Ok(Self::Icmp),
            number => match number.parse() {
                Ok(number) => Ok(Self::from_number(number)),
                Err(_) => Err(BadRule::new(text, why)),
            },
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for Ports {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadRule::new(text, "ports are one, or FIRST-LAST");
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let [first, last] = [first, last].map(str::parse::<u16>);
        let (first, last) = (first.map_err(|_| bad())?, last.map_err(|_| bad())?);
        match first <= last {
            true => Ok(Self { first, last }),
            false => Err(bad()),
        }
    }
}

impl FromStr for Who {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |why| BadRule::new(text, why);
        match text.split_once(':') {
            None if text == "any" => Ok(Self::Anybody),
            Some(("peer", peer)) => {
                let peer = peer.parse().map_err(|_| bad("it has no PeerId"))?;
                Ok(Self::Peer(peer))
            }
            Some(("name", name)) => Ok(Self::Name(name.to_owned())),
            Some(("role", "owner")) => Ok(Self::Role(Role::Owner)),
            Some(("role", "admin")) => Ok(Self::Role(Role::Admin)),
            Some(("role", "member")) => Ok(Self::Role(Role::Member)),
            _ => Err(bad("members are any, peer:ID, name:NAME or role:ROLE")),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = self.direction.map_or("both", Direction::as_str);
        write!(f, "{} {direction} {}", self.verdict.as_str(), self.who)?;
        match self.protocol {
            Some(protocol) => write!(f, " {protocol}")?,
            None => f.write_str(" any")?,
        }
        match self.ports {
            Some(ports) => write!(f, " {ports}"),
            None => f.write_str(" any"),
        }
    }
}

impl FromStr for Rule {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |why| BadRule::new(text, why);
        let words: Vec<_> = text.split_whitespace().collect();
        let [verdict, direction, who, protocol, ports] = words[..] else {
            return Err(bad("it has not five words"));
        };
        let rule = Self {
            verdict: match verdict {
                "allow" => Verdict::Allow,
                "deny" => Verdict::Deny,
                _ => return Err(bad("it begins with neither allow nor deny")),
            },
            direction: match direction {
                "in" => Some(Direction::In),
                "out" => Some(Direction::Out),
                "both" => None,
                _ => return Err(bad("its direction is none of in, out and both")),
            },
            who: who.parse()?,
            protocol: given(protocol)?,
            ports: given(ports)?,
        };
        rule.check().map(|()| rule)
    }
}

/// What a word says that may be `any`.
fn given<T: FromStr>(word: &str) -> Result<Option<T>, T::Err> {
    match word {
        "any" => Ok(None),
        word => word.parse().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{option::of as some, prelude::*};

    use super::*;

    #[test]
    fn a_rule_is_about_what_it_names_and_about_everything_else_it_leaves_open() {
        let rule: Rule = "deny in any any 20-22".parse().unwrap();
        for (direction, protocol, port, covered) in [
            (Direction::In, Protocol::Tcp, Some(22), true),
            (Direction::In, Protocol::Udp, Some(20), true),
            (Direction::In, Protocol::Tcp, Some(23), false),
            (Direction::Out, Protocol::Tcp, Some(22), false),
            (Direction::In, Protocol::Icmp, None, false),
        ] {
            let got = rule.covers(direction, protocol, port);
            assert_eq!(got, covered, "{direction:?} {protocol} {port:?}");
        }
        let all: Rule = "allow both any any any".parse().unwrap();
        assert!(all.covers(Direction::Out, Protocol::Other(47), None));
    }

    #[test]
    fn what_is_no_rule_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "five words"),
            ("allow in any tcp", "five words"),
            ("permit in any tcp 22", "neither allow nor deny"),
            ("allow into any tcp 22", "direction"),
            ("allow in some tcp 22", "members are"),
            ("allow in peer:x tcp 22", "PeerId"),
            ("allow in name:A tcp 22", "name"),
            ("allow in role:king tcp 22", "members are"),
            ("allow in any sctp 22", "protocol"),
            ("allow in any icmp 22", "ports"),
            ("allow in any tcp 22-20", "FIRST-LAST"),
            ("allow in any tcp 65536", "FIRST-LAST"),
        ] {
            let error = text.parse::<Rule>().unwrap_err();
            assert!(error.to_string().contains(why), "{text:?}: {error}");
        }
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let verdict = prop_oneof![Just(Verdict::Allow), Just(Verdict::Deny)];
        let direction = prop_oneof![Just(Direction::In), Just(Direction::Out)];
        let peer = PeerId::random();
        let who = prop_oneof![
            Just(Who::Anybody),
            Just(Who::Peer(peer)),
            "[a-z0-9-]{1,63}".prop_map(Who::Name),
            Just(Who::Role(Role::Admin)),
        ];
        let protocol = any::<u8>().prop_map(Protocol::from_number);
        let ports = (any::<u16>(), any::<u16>()).prop_map(|(one, other)| Ports {
            first: one.min(other),
            last: one.max(other),
        });
        (verdict, some(direction), who, some(protocol), some(ports)).prop_map(
            |(verdict, direction, who, protocol, ports)| Rule {
                verdict,
                direction,
                who,
                protocol,
                ports: ports.filter(|_| protocol.is_none_or(Protocol::has_ports)),
            },
        )
    }

    proptest! {
        #[test]
        fn rules_are_read_as_they_are_written(rule in any_rule()) {
            prop_assert_eq!(rule.to_string().parse(), Ok(rule));
        }
    }
}
