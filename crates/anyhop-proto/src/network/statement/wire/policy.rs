//! The protobuf form of a policy.
//!
//! A reader passes over fields that it does not know, and a rule without one of its conditions
//! is about more than was meant: rules with new conditions go into a field of their own, which
//! the old reader passes over whole.

use anyhop_base::{Direction, Ports, Protocol, Role, Rule, Verdict, Who};

use super::{StatementError, malformed, peer_id};
use crate::network::statement::{MAX_POLICY_RULES, Policy, PolicyRule};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WirePolicy {
    #[prost(uint64, tag = "1")]
    version: u64,
    /// 0 none, 1 allow, 2 deny.
    #[prost(uint32, tag = "2")]
    default: u32,
    #[prost(message, repeated, tag = "3")]
    rules: Vec<WireRule>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRule {
    #[prost(uint64, tag = "1")]
    id: u64,
    /// 1 allow, 2 deny.
    #[prost(uint32, tag = "2")]
    verdict: u32,
    /// 0 both, 1 in, 2 out.
    #[prost(uint32, tag = "3")]
    direction: u32,
    /// At most one of the next three is there.
    #[prost(bytes = "vec", tag = "4")]
    peer: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    /// 0 any, 1 owner, 2 admin, 3 member.
    #[prost(uint32, tag = "6")]
    role: u32,
    /// The number; 1 stands for ICMPv6, too.
    #[prost(uint32, optional, tag = "7")]
    protocol: Option<u32>,
    #[prost(message, optional, tag = "8")]
    ports: Option<WirePorts>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct WirePorts {
    #[prost(uint32, tag = "1")]
    first: u32,
    #[prost(uint32, tag = "2")]
    last: u32,
}

impl From<&Policy> for WirePolicy {
    fn from(policy: &Policy) -> Self {
        Self {
            version: policy.version,
            default: policy.default.map_or(0, verdict_number),
            rules: policy.rules.iter().map(WireRule::from).collect(),
        }
    }
}

impl WirePolicy {
    pub(super) fn into_policy(self, issued_unix_s: u64) -> Result<Policy, StatementError> {
        let count = self.rules.len();
        if count > MAX_POLICY_RULES {
            return Err(StatementError::TooManyRules { count });
        }
        Ok(Policy {
            version: self.version,
            default: match self.default {
                0 => None,
                number => Some(verdict(number)?),
            },
            rules: self
                .rules
                .into_iter()
                .map(WireRule::into_rule)
                .collect::<Result<_, _>>()?,
            issued_unix_s,
        })
    }
}

impl From<&PolicyRule> for WireRule {
    fn from(PolicyRule { id, rule }: &PolicyRule) -> Self {
        let mut wire = Self {
            id: *id,
            verdict: verdict_number(rule.verdict),
            direction: match rule.direction {
                None => 0,
                Some(Direction::In) => 1,
                Some(Direction::Out) => 2,
            },
            protocol: rule.protocol.map(|p| u32::from(protocol_number(p))),
            ports: rule.ports.map(|p| WirePorts {
                first: p.first.into(),
                last: p.last.into(),
            }),
            ..Self::default()
        };
        match &rule.who {
            Who::Anybody => {}
            Who::Peer(peer) => wire.peer = peer.to_bytes(),
            Who::Name(name) => wire.name.clone_from(name),
            Who::Role(Role::Owner) => wire.role = 1,
            Who::Role(Role::Admin) => wire.role = 2,
            Who::Role(Role::Member) => wire.role = 3,
        }
        wire
    }
}

impl WireRule {
    fn into_rule(self) -> Result<PolicyRule, StatementError> {
        let who = match (&*self.peer, self.name, self.role) {
            ([], name, 0) if name.is_empty() => Who::Anybody,
            ([_, ..], name, 0) if name.is_empty() => Who::Peer(peer_id(&self.peer)?),
            ([], name, 0) => Who::Name(name),
            ([], name, role) if name.is_empty() => Who::Role(match role {
                1 => Role::Owner,
                2 => Role::Admin,
                3 => Role::Member,
                _ => return Err(malformed("a role in a rule is unknown")),
            }),
            _ => return Err(malformed("a rule names members in two ways")),
        };
        let protocol = |number: u32| {
            let number = u8::try_from(number).map_err(|_| malformed("no protocol has that number"));
            number.map(Protocol::from_number)
        };
        let port =
            |port: u32| u16::try_from(port).map_err(|_| malformed("no port has that number"));
        let ports = |wire: WirePorts| {
            let (first, last) = (port(wire.first)?, port(wire.last)?);
            Ok(Ports { first, last })
        };
        let rule = Rule {
            verdict: verdict(self.verdict)?,
            direction: match self.direction {
                0 => None,
                1 => Some(Direction::In),
                2 => Some(Direction::Out),
                _ => return Err(malformed("a direction in a rule is unknown")),
            },
            who,
            protocol: self.protocol.map(protocol).transpose()?,
            ports: self.ports.map(ports).transpose()?,
        };
        Ok(PolicyRule { id: self.id, rule })
    }
}

fn verdict(number: u32) -> Result<Verdict, StatementError> {
    match number {
        1 => Ok(Verdict::Allow),
        2 => Ok(Verdict::Deny),
        _ => Err(malformed("a verdict in a policy is unknown")),
    }
}

fn verdict_number(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Allow => 1,
        Verdict::Deny => 2,
    }
}

fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => Protocol::TCP,
        Protocol::Udp => Protocol::UDP,
        Protocol::Icmp => Protocol::ICMP,
        Protocol::Other(number) => number,
    }
}
