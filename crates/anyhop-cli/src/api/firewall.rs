//! The values of firewalls.
//!
//! ```text
//! GET  /v1/firewall                   FirewallReport
//! POST /v1/firewall/add               AddAsk -> RuleReport
//! POST /v1/firewall/remove            RemoveAsk -> RuleReport
//! POST /v1/firewall/default           DefaultAsk -> FirewallReport
//! POST /v1/firewall/test              TestAsk -> TestReport
//! ```
//!
//! Rules travel as the five words of [`anyhop::Rule`].

use anyhop::{Rule, RuleSource, Who};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The firewall of a network on this host.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct FirewallReport {
    /// The network.
    pub(crate) network: String,
    /// What becomes of packets to this host that no rule is about: `allow` or `deny`.
    pub(crate) default: String,
    /// Who said so: `local` or `network`; `null` when nobody did.
    pub(crate) default_source: Option<String>,
    /// The rules, in the order in which they are looked at.
    pub(crate) rules: Vec<RuleReport>,
}

/// A rule. What is `null` may be anything.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct RuleReport {
    /// Names it as long as it is there, and nothing else later.
    pub(crate) id: String,
    /// `local` or `network`.
    pub(crate) source: String,
    /// `allow` or `deny`.
    pub(crate) verdict: String,
    /// `in`, `out` or `both`.
    pub(crate) direction: String,
    /// The member, base58.
    pub(crate) member: Option<String>,
    /// The member's name.
    pub(crate) name: Option<String>,
    /// The members' role.
    pub(crate) role: Option<String>,
    /// `tcp`, `udp`, `icmp` or a number.
    pub(crate) protocol: Option<String>,
    /// A port, or `FIRST-LAST`.
    pub(crate) port: Option<String>,
}

/// Marks ids of the network's rules.
const NETWORK_ID: char = 'n';

impl RuleReport {
    pub(crate) fn new(source: RuleSource, id: u64, rule: &Rule) -> Self {
        let (mut member, mut name, mut role) = (None, None, None);
        match &rule.who {
            Who::Anybody => {}
            Who::Peer(peer) => member = Some(peer.to_base58()),
            Who::Name(of) => name = Some(of.clone()),
            Who::Role(of) => role = Some(of.as_str().to_owned()),
        }
        Self {
            id: rule_id(source, id),
            source: source.as_str().to_owned(),
            verdict: rule.verdict.as_str().to_owned(),
            direction: rule.direction.map_or("both", |d| d.as_str()).to_owned(),
            member,
            name,
            role,
            protocol: rule.protocol.map(|p| p.to_string()),
            port: rule.ports.map(|p| p.to_string()),
        }
    }
}

fn rule_id(source: RuleSource, id: u64) -> String {
    match source {
        RuleSource::Local => id.to_string(),
        RuleSource::Network => format!("{NETWORK_ID}{id}"),
    }
}

/// Which rule an id names; `None` when it is no id.
pub(crate) fn read_rule_id(text: &str) -> Option<(RuleSource, u64)> {
    let (source, number) = match text.strip_prefix(NETWORK_ID) {
        Some(number) => (RuleSource::Network, number),
        None => (RuleSource::Local, text),
    };
    Some((source, number.parse().ok()?))
}

/// Adds a rule.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct AddAsk {
    /// The rule as text, about any member.
    pub(crate) rule: String,
    /// The member that it is about instead: PeerId, part of one, or name.
    #[serde(default)]
    pub(crate) member: Option<String>,
    /// Before the others.
    #[serde(default)]
    pub(crate) first: bool,
    /// On all members' hosts.
    #[serde(default)]
    pub(crate) network_wide: bool,
}

/// Removes a rule.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct RemoveAsk {
    /// Its id.
    pub(crate) id: String,
}

/// Sets the default.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct DefaultAsk {
    /// `allow`, `deny`, or none.
    pub(crate) verdict: Option<String>,
    /// On all members' hosts.
    #[serde(default)]
    pub(crate) network_wide: bool,
}

/// Asks what becomes of a packet.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct TestAsk {
    /// The member at the other end: PeerId, part of one, or name.
    pub(crate) from: String,
    /// `tcp`, `udp`, `icmp` or a number.
    pub(crate) protocol: String,
    /// Port of the side that is called.
    #[serde(default)]
    pub(crate) port: Option<u16>,
    /// This host begins.
    #[serde(default)]
    pub(crate) out: bool,
}

/// What becomes of a packet.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct TestReport {
    /// The network.
    pub(crate) network: String,
    /// `allow` or `deny`.
    pub(crate) verdict: String,
    /// Who says so: `local` or `network`; `null` when nobody did.
    pub(crate) source: Option<String>,
    /// The rule that decides; `null` for a default.
    pub(crate) rule: Option<RuleReport>,
    /// The same in words.
    pub(crate) why: String,
}
