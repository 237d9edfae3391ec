//! What can be typed after `firewall`.

use anyhop::{Direction, Ports, Protocol, Role, Verdict};
use clap::{Args, Subcommand, ValueEnum};

use crate::spec::PeerSpec;

/// `firewall`.
#[derive(Debug, Subcommand)]
pub(crate) enum FirewallCommand {
    /// Say what becomes of packets to this host that no rule is about
    Default(DefaultArgs),
    /// Add a rule that lets packets through
    Allow(RuleArgs),
    /// Add a rule that drops packets
    Deny(RuleArgs),
    /// List the rules, the one that is looked at first first
    List,
    /// Remove a rule
    Remove(RemoveArgs),
    /// Tell what becomes of a packet, and by which rule; nothing is sent
    Test(TestArgs),
}

/// `firewall default`.
#[derive(Debug, Args)]
pub(crate) struct DefaultArgs {
    /// What becomes of them
    pub(crate) verdict: DefaultArg,
    /// Say it for all members' hosts that say nothing themselves. For the owner and admins
    #[arg(long)]
    pub(crate) network_wide: bool,
}

/// `firewall allow` and `firewall deny`.
#[derive(Debug, Args)]
pub(crate) struct RuleArgs {
    /// The member at the other end: PeerId, unique part of one, or name. The rule is about
    /// that one even when its name changes [default: any]
    #[arg(long, visible_alias = "from", value_name = "PEER", group = "who")]
    pub(crate) member: Option<PeerSpec>,
    /// The member that has this name at the time
    #[arg(long, value_name = "NAME", group = "who")]
    pub(crate) name: Option<String>,
    /// Members with this role at the time
    #[arg(long, group = "who")]
    pub(crate) role: Option<RoleArg>,
    /// tcp, udp, icmp, or a protocol's number [default: any]
    #[arg(long, value_name = "PROTO")]
    pub(crate) proto: Option<Protocol>,
    /// Port of the side that is called, or FIRST-LAST; of TCP and UDP without --proto
    /// [default: any]
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<Ports>,
    /// Which side begins, as seen from the host that the rule holds on
    #[arg(long, value_enum, default_value_t = DirectionArg::In)]
    pub(crate) direction: DirectionArg,
    /// Put it before the other rules instead of behind them
    #[arg(long)]
    pub(crate) first: bool,
    /// Have it hold on all members' hosts, behind their own rules. For the owner and admins
    #[arg(long)]
    pub(crate) network_wide: bool,
}

/// `firewall remove`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Its id, as `firewall list` shows it
    pub(crate) id: String,
}

/// `firewall test`.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// The member at the other end: PeerId, unique part of one, or name
    #[arg(long, value_name = "MEMBER", visible_alias = "member")]
    pub(crate) from: PeerSpec,
    /// tcp, udp, icmp, or a protocol's number
    #[arg(long, value_name = "PROTO")]
    pub(crate) proto: Protocol,
    /// Port of the side that is called; for tcp and udp
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Which side begins: `in` for the member, `out` for this host
    #[arg(long, value_enum, default_value_t = OneWayArg::In)]
    pub(crate) direction: OneWayArg,
}

/// What becomes of packets without a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DefaultArg {
    /// They are let through
    Allow,
    /// They are dropped
    Deny,
    /// Nothing is said: the network's default holds, or else they are let through
    None,
}

impl DefaultArg {
    pub(crate) fn verdict(self) -> Option<Verdict> {
        match self {
            Self::Allow => Some(Verdict::Allow),
            Self::Deny => Some(Verdict::Deny),
            Self::None => None,
        }
    }
}

/// A role of members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    /// The owner
    Owner,
    /// Admins
    Admin,
    /// Everybody else
    Member,
}

impl From<RoleArg> for Role {
    fn from(arg: RoleArg) -> Self {
        match arg {
            RoleArg::Owner => Self::Owner,
            RoleArg::Admin => Self::Admin,
            RoleArg::Member => Self::Member,
        }
    }
}

/// Which side begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DirectionArg {
    /// The member
    In,
    /// The host that the rule holds on
    Out,
    /// Either
    Both,
}

impl DirectionArg {
    pub(crate) fn direction(self) -> Option<Direction> {
        match self {
            Self::In => Some(Direction::In),
            Self::Out => Some(Direction::Out),
            Self::Both => None,
        }
    }
}

/// Which side begins, of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OneWayArg {
    /// The member
    In,
    /// This host
    Out,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::args::Cli;

    #[test]
    fn a_rule_names_members_in_one_way_and_ports_that_are_some() {
        let taken = |args: &str| {
            let words = format!("anyhop firewall {args}");
            Cli::try_parse_from(words.split(' ')).is_ok()
        };
        assert!(taken("allow --role admin --proto tcp --port 22"));
        assert!(taken("deny --from bob --port 8000-8100 --direction both"));
        assert!(!taken("allow --role admin --name bob"));
        assert!(!taken("allow --port 9-8"));
        assert!(!taken("allow --proto quic"));
        assert!(!taken("test --proto tcp --port 22"), "whose");
        assert!(!taken("test --from bob --proto tcp --port 1-2"));
        assert!(!taken("test --from bob --proto tcp --direction both"));
        assert!(!taken("default maybe"));
    }
}
