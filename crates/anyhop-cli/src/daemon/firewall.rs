//! The firewall of a private network on this host: its own rules, which are kept in the
//! network's folder, and behind them the network's.
//!
//! ```text
//! # anyhop firewall 1
//! next 4
//! default deny
//! 3 allow in name:laptop tcp 22
//! ```
//!
//! Rules can be changed whether packets are carried or not, and hold at once where they are.
//! A file that cannot be read keeps `vpn up` from opening what it closed.

use std::path::{Path, PathBuf};

use anyhop::{
    Direction, MAX_LOCAL_RULES, Opening, PolicyChange, PrivateNetwork, Rule, RuleSet, RuleSource,
    Rules, Verdict, Who,
};

use super::{Presence, kept};
use crate::{
    api::firewall::{
        AddAsk, DefaultAsk, FirewallReport, RemoveAsk, RuleReport, TestAsk, TestReport,
        read_rule_id,
    },
    error::{CliError, Code},
};

/// Name of the file in a network's folder.
const FILE: &str = "firewall";
/// Its first line.
const HEADER: &str = "# anyhop firewall 1";
/// Largest file read, bytes.
const MAX_FILE: u64 = 256 << 10;

/// This host's own rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LocalRules {
    /// The id of the next rule.
    next: u64,
    pub(super) set: RuleSet,
}

impl Default for LocalRules {
    fn default() -> Self {
        let set = RuleSet::default();
        Self { next: 1, set }
    }
}

impl LocalRules {
    /// Those of a network's folder; none when nothing was said.
    pub(super) fn read(folder: &Path) -> Result<Self, CliError> {
        let hint = "correct the file; without it everything is let in that the network allows";
        kept::read(&folder.join(FILE), MAX_FILE, hint, Self::parse)
    }

    fn write(&self, folder: &Path) -> Result<(), CliError> {
        kept::write(folder, FILE, &self.text(), "the rules")
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().zip(1..);
        if lines.next().map(|(line, _)| line) != Some(HEADER) {
            return Err(format!("its first line is not {HEADER:?}"));
        }
        let mut rules = Self::default();
        for (line, number) in lines {
            let told = |why: &dyn std::fmt::Display| format!("line {number}: {why}");
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once(' ') {
                Some(("next", id)) => rules.next = id.parse().map_err(|e| told(&e))?,
                Some(("default", "allow")) => rules.set.default = Some(Verdict::Allow),
                Some(("default", "deny")) => rules.set.default = Some(Verdict::Deny),
                Some((id, rule)) => {
                    let id = id.parse().map_err(|_| told(&"it begins with no number"))?;
                    let rule = rule.parse().map_err(|e| told(&e))?;
                    if rules.set.rules.iter().any(|(known, _)| *known == id) {
                        return Err(told(&format!("there is another rule {id}")));
                    }
                    rules.set.rules.push((id, rule));
                }
                None => return Err(told(&"it is neither a rule nor a default")),
            }
        }
        let highest = rules.set.rules.iter().map(|(id, _)| *id).max();
        rules.next = rules.next.max(highest.map_or(1, |id| id.saturating_add(1)));
        match rules.set.rules.len() <= MAX_LOCAL_RULES {
            true => Ok(rules),
            false => Err(format!("it has more than {MAX_LOCAL_RULES} rules")),
        }
    }

    fn text(&self) -> String {
        let mut text = format!("{HEADER}\nnext {}\n", self.next);
        if let Some(verdict) = self.set.default {
            text.push_str(&format!("default {}\n", verdict.as_str()));
        }
        for (id, rule) in &self.set.rules {
            text.push_str(&format!("{id} {rule}\n"));
        }
        text
    }

    fn add(&mut self, rule: Rule, first: bool) -> Result<u64, CliError> {
        let rules = &mut self.set.rules;
        if rules.len() >= MAX_LOCAL_RULES {
            let message = format!("this host has {MAX_LOCAL_RULES} firewall rules, the limit");
            return Err(
                CliError::new(Code::Limit, message).hint("`anyhop firewall remove ID` makes room")
            );
        }
        let id = self.next;
        self.next += 1;
        let at = if first { 0 } else { rules.len() };
        rules.insert(at, (id, rule));
        Ok(id)
    }

    fn remove(&mut self, id: u64) -> Result<Rule, CliError> {
        let rules = &mut self.set.rules;
        let at = rules.iter().position(|(known, _)| *known == id);
        let at = at.ok_or_else(|| no_rule(&id.to_string()))?;
        Ok(rules.remove(at).1)
    }
}

impl Presence {
    fn firewall_folder(&self) -> PathBuf {
        PrivateNetwork::folder(self.state_dir.path(), self.id())
    }

    /// This host's own rules.
    pub(super) fn local_rules(&self) -> Result<LocalRules, CliError> {
        LocalRules::read(&self.firewall_folder())
    }

    fn rules(&self) -> Result<Rules, CliError> {
        Ok(Rules {
            local: self.local_rules()?.set,
            network: self.private()?.rules(),
        })
    }

    /// Changes this host's own rules; they are kept, then hold.
    async fn change_rules<T>(
        &self,
        change: impl FnOnce(&mut LocalRules) -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        self.private()?;
        // One after the other, also with what `vpn up` reads.
        let vpn = self.vpn.lock().await;
        let mut rules = self.local_rules()?;
        let changed = change(&mut rules)?;
        rules.write(&self.firewall_folder())?;
        if let Some(vpn) = vpn.as_ref() {
            vpn.set_rules(rules.set);
        }
        Ok(changed)
    }

    /// What holds.
    pub(super) fn firewall(&self) -> Result<FirewallReport, CliError> {
        let rules = self.rules()?;
        let (verdict, source) = rules.fallback();
        let sets = [
            (RuleSource::Local, &rules.local),
            (RuleSource::Network, &rules.network),
        ];
        let rules = sets.iter().flat_map(|(source, set)| {
            let report = |(id, rule): &(u64, Rule)| RuleReport::new(*source, *id, rule);
            set.rules.iter().map(report)
        });
        Ok(FirewallReport {
            network: self.name(),
            default: verdict.as_str().to_owned(),
            default_source: source.map(|s| s.as_str().to_owned()),
            rules: rules.collect(),
        })
    }

    /// Adds a rule.
    pub(super) async fn add_rule(&self, ask: AddAsk) -> Result<RuleReport, CliError> {
        let network = self.private()?;
        let mut rule: Rule = ask.rule.parse()?;
        if let Some(member) = &ask.member {
            rule.who = Who::Peer(self.resolve(member)?);
        }
        rule.check()?;
        if !ask.network_wide {
            let kept = rule.clone();
            let id = self
                .change_rules(|rules| rules.add(kept, ask.first))
                .await?;
            return Ok(RuleReport::new(RuleSource::Local, id, &rule));
        }
        let change = PolicyChange::Add {
            rule: rule.clone(),
            first: ask.first,
        };
        network.change_policy(change).await?;
        let rules = network.policy().unwrap_or_default().rules;
        let added = rules.iter().filter(|r| r.rule == rule).max_by_key(|r| r.id);
        let id = added.map_or(0, |r| r.id);
        Ok(RuleReport::new(RuleSource::Network, id, &rule))
    }

    /// Removes a rule.
    pub(super) async fn remove_rule(&self, ask: RemoveAsk) -> Result<RuleReport, CliError> {
        let network = self.private()?;
        let (source, id) = read_rule_id(&ask.id).ok_or_else(|| no_rule(&ask.id))?;
        let rule = match source {
            RuleSource::Local => self.change_rules(|rules| rules.remove(id)).await?,
            RuleSource::Network => {
                let rules = network.policy().unwrap_or_default().rules;
                let rule = rules.into_iter().find(|r| r.id == id);
                let rule = rule.ok_or_else(|| no_rule(&ask.id))?.rule;
                network.change_policy(PolicyChange::Remove(id)).await?;
                rule
            }
        };
        Ok(RuleReport::new(source, id, &rule))
    }

    /// Sets what becomes of packets without a rule.
    pub(super) async fn set_default(&self, ask: DefaultAsk) -> Result<FirewallReport, CliError> {
        let network = self.private()?;
        let verdict = match ask.verdict.as_deref() {
            None => None,
            Some("allow") => Some(Verdict::Allow),
            Some("deny") => Some(Verdict::Deny),
            Some(other) => {
                let message = format!("{other:?} is no default: it is allow or deny");
                return Err(CliError::usage(message));
            }
        };
        if ask.network_wide {
            network
                .change_policy(PolicyChange::Default(verdict))
                .await?;
        } else {
            let change = |rules: &mut LocalRules| {
                rules.set.default = verdict;
                Ok(())
            };
            self.change_rules(change).await?;
        }
        self.firewall()
    }

    /// What would become of a packet.
    pub(super) fn test_packet(&self, ask: &TestAsk) -> Result<TestReport, CliError> {
        let rules = self.rules()?;
        let peer = self.resolve(&ask.from)?;
        let opening = opening(ask)?;
        let Some(caller) = self.private()?.caller(peer) else {
            return Ok(TestReport {
                network: self.name(),
                verdict: Verdict::Deny.as_str().to_owned(),
                source: None,
                rule: None,
                why: format!("{peer} is no member: nobody else reaches this host"),
            });
        };
        let ruling = rules.judge(&caller, opening);
        let source = ruling.source.unwrap_or(RuleSource::Local);
        let set = match source {
            RuleSource::Local => &rules.local,
            RuleSource::Network => &rules.network,
        };
        let rule = set.rules.iter().find(|(id, _)| Some(*id) == ruling.rule);
        let why = match (rule, ruling.source, opening.direction) {
            (Some((_, rule)), Some(source), _) => format!("{} rule: {rule}", source.as_str()),
            (_, Some(source), _) => format!("{} default", source.as_str()),
            (_, None, Direction::In) => "no rule, and members may reach this host".to_owned(),
            (_, None, Direction::Out) => "no rule, and this host may reach members".to_owned(),
        };
        Ok(TestReport {
            network: self.name(),
            verdict: ruling.verdict.as_str().to_owned(),
            source: ruling.source.map(|s| s.as_str().to_owned()),
            rule: rule.map(|(id, rule)| RuleReport::new(source, *id, rule)),
            why,
        })
    }
}

fn opening(ask: &TestAsk) -> Result<Opening, CliError> {
    let protocol: anyhop::Protocol = ask.protocol.parse()?;
    if protocol.has_ports() != ask.port.is_some() {
        let message = match ask.port {
            None => format!("a packet of {protocol} has a port"),
            Some(_) => format!("a packet of protocol {protocol} has no port"),
        };
        return Err(CliError::usage(message).hint("give --port with tcp and udp, and only there"));
    }
    Ok(Opening {
        direction: if ask.out {
            Direction::Out
        } else {
            Direction::In
        },
        protocol,
        port: ask.port,
    })
}

fn no_rule(id: &str) -> CliError {
    CliError::usage(format!("there is no firewall rule {id:?}"))
        .hint("`anyhop firewall list` shows the rules with their ids")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_their_ids_survive_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(LocalRules::read(dir.path()), Ok(LocalRules::default()));
        let mut rules = LocalRules::default();
        for (text, first) in [
            ("allow in name:laptop tcp 22", false),
            ("deny in any any any", false),
            ("allow both role:admin any any", true),
        ] {
            rules
                .add(text.parse().expect("a rule"), first)
                .expect("room");
        }
        rules.set.default = Some(Verdict::Deny);
        assert_eq!(rules.remove(2).map(|r| r.verdict), Ok(Verdict::Deny));
        assert_eq!(rules.remove(2).map_err(|e| e.code), Err(Code::Usage));
        rules.write(dir.path()).expect("writable");
        let mut read = LocalRules::read(dir.path()).expect("as written");
        assert_eq!(read, rules);
        let ids: Vec<_> = read.set.rules.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [3, 1]);
        let next = read.add("deny in any any any".parse().expect("a rule"), false);
        assert_eq!(next, Ok(4), "an id is not given twice");
    }

    #[test]
    fn a_damaged_file_is_refused_with_its_line() {
        let many = "9 deny in any any any\n".repeat(2);
        let line = |n: usize| format!("{n} deny in any any any\n");
        let limit: String = (1..=MAX_LOCAL_RULES + 1).map(line).collect();
        for (text, expected) in [
            (String::new(), "first line"),
            ("# anyhop firewall 2\n".to_owned(), "first line"),
            (format!("{HEADER}\ndefault maybe\n"), "line 2"),
            (format!("{HEADER}\nnext x\n"), "line 2"),
            (format!("{HEADER}\n\n1 allow in any\n"), "line 3"),
            (format!("{HEADER}\n{many}"), "line 3"),
            (format!("{HEADER}\n{limit}"), "more than 256"),
        ] {
            let error = LocalRules::parse(&text).expect_err("damaged");
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn ids_tell_whose_a_rule_is() {
        assert_eq!(read_rule_id("7"), Some((RuleSource::Local, 7)));
        assert_eq!(read_rule_id("n7"), Some((RuleSource::Network, 7)));
        for bad in ["", "n", "x7", "-1"] {
            assert_eq!(read_rule_id(bad), None, "{bad}");
        }
    }
}
