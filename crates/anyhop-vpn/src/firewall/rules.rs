//! Which rule decides about the first packet of a flow.

use anyhop_base::{Direction, PeerId, Protocol, Role, Rule, Verdict, Who};

/// All rules that hold on a host: its own, and behind them those of its network. The first
/// that covers a flow decides; behind all, flows to this host get the default of the host, else
/// the network's, else they are let through, and so are those that this host begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// This host's own.
    pub local: RuleSet,
    /// Those that the network's authority signed.
    pub network: RuleSet,
}

/// Rules of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// What becomes of flows to this host that no rule covers.
    pub default: Option<Verdict>,
    /// The rules with their ids.
    pub rules: Vec<(u64, Rule)>,
}

/// Where a rule comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleSource {
    /// This host.
    Local,
    /// The network.
    Network,
}

impl RuleSource {
    /// Its name in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Network => "network",
        }
    }
}

/// The member at the other end of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who.
    pub peer: PeerId,
    /// Its name.
    pub name: String,
    /// What it may do in the network, if that is one with members.
    pub role: Option<Role>,
}

/// The first packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Which side begins.
    pub direction: Direction,
    /// The protocol.
    pub protocol: Protocol,
    /// The port of the side that is called, of TCP and UDP.
    pub port: Option<u16>,
}

/// What becomes of a flow, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ruling {
    /// What becomes of it.
    pub verdict: Verdict,
    /// Whose rule or default says so; `None` when nothing was said.
    pub source: Option<RuleSource>,
    /// The rule; `None` for a default.
    pub rule: Option<u64>,
}

impl Rules {
    /// Decides about a flow with a member.
    #[must_use]
    pub fn judge(&self, caller: &Caller, opening: Opening) -> Ruling {
        let sources = [
            (RuleSource::Local, &self.local),
            (RuleSource::Network, &self.network),
        ];
        for (source, set) in sources {
            let covers = |(_, rule): &&(u64, Rule)| {
                rule.covers(opening.direction, opening.protocol, opening.port)
                    && caller.is_among(&rule.who)
            };
            if let Some((id, rule)) = set.rules.iter().find(covers) {
                return Ruling {
                    verdict: rule.verdict,
                    source: Some(source),
                    rule: Some(*id),
                };
            }
        }
        let (verdict, source) = match opening.direction {
            Direction::In => self.fallback(),
            Direction::Out => (Verdict::Allow, None),
        };
        Ruling {
            verdict,
            source,
            rule: None,
        }
    }

    /// What becomes of flows to this host that no rule covers, and who said so.
    #[must_use]
    pub fn fallback(&self) -> (Verdict, Option<RuleSource>) {
        match (self.local.default, self.network.default) {
            (Some(verdict), _) => (verdict, Some(RuleSource::Local)),
            (None, Some(verdict)) => (verdict, Some(RuleSource::Network)),
            (None, None) => (Verdict::Allow, None),
        }
    }
}

impl Caller {
    fn is_among(&self, who: &Who) -> bool {
        match who {
            Who::Anybody => true,
            Who::Peer(peer) => *peer == self.peer,
            Who::Name(name) => *name == self.name,
            Who::Role(role) => self.role == Some(*role),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use anyhop_base::Keypair;

    use super::*;

    pub(crate) fn caller(seed: u8, name: &str) -> Caller {
        let key = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
        Caller {
            peer: key.public().to_peer_id(),
            name: name.to_owned(),
            role: Some(Role::Member),
        }
    }

    pub(crate) fn set(default: Option<Verdict>, rules: &[&str]) -> RuleSet {
        let rules = (1..).zip(rules);
        RuleSet {
            default,
            rules: rules
                .map(|(id, text)| (id, text.parse().unwrap()))
                .collect(),
        }
    }

    fn to(port: u16) -> Opening {
        Opening {
            direction: Direction::In,
            protocol: Protocol::Tcp,
            port: Some(port),
        }
    }

    #[test]
    fn the_first_rule_decides_and_the_hosts_own_come_before_the_networks() {
        let laptop = caller(1, "laptop");
        let admin = Caller {
            role: Some(Role::Admin),
            ..caller(2, "desk")
        };
        let rules = Rules {
            local: set(None, &["allow in name:laptop tcp 22", "deny in any tcp 22"]),
            network: set(
                Some(Verdict::Deny),
                &["allow in role:admin any any", "allow in any tcp 22-80"],
            ),
        };
        let cases = [
            (
                &laptop,
                to(22),
                Verdict::Allow,
                Some(RuleSource::Local),
                Some(1),
            ),
            (
                &admin,
                to(22),
                Verdict::Deny,
                Some(RuleSource::Local),
                Some(2),
            ),
            (
                &admin,
                to(9),
                Verdict::Allow,
                Some(RuleSource::Network),
                Some(1),
            ),
            (
                &laptop,
                to(80),
                Verdict::Allow,
                Some(RuleSource::Network),
                Some(2),
            ),
            (
                &laptop,
                to(9),
                Verdict::Deny,
                Some(RuleSource::Network),
                None,
            ),
        ];
        for (caller, opening, verdict, source, rule) in cases {
            let expected = Ruling {
                verdict,
                source,
                rule,
            };
            assert_eq!(
                rules.judge(caller, opening),
                expected,
                "{caller:?} {opening:?}"
            );
        }
    }

    #[test]
    fn members_reach_this_host_unless_it_or_the_network_says_otherwise() {
        let laptop = caller(1, "laptop");
        let verdict = |local, network, direction| {
            let rules = Rules {
                local: set(local, &[]),
                network: set(network, &[]),
            };
            let opening = Opening {
                direction,
                ..to(22)
            };
            rules.judge(&laptop, opening).verdict
        };
        let (allow, deny) = (Some(Verdict::Allow), Some(Verdict::Deny));
        for (local, network, expected) in [
            (None, None, Verdict::Allow),
            (None, deny, Verdict::Deny),
            (allow, deny, Verdict::Allow),
            (deny, allow, Verdict::Deny),
        ] {
            assert_eq!(verdict(local, network, Direction::In), expected);
            assert_eq!(verdict(local, network, Direction::Out), Verdict::Allow);
        }
    }
}
