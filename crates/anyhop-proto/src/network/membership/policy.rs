//! The firewall rules of a network: of all policies that its authority and admins signed, the
//! one of the highest version holds; of equal ones the authority's, then the smaller id.

use std::{cmp::Reverse, sync::Arc};

use anyhop_base::{Rule, Verdict};

use super::{Issuer, Membership, MembershipError, Merged};
use crate::network::statement::{Body, MAX_POLICY_RULES, Policy, PolicyRule, Statement};

/// How a network's policy is to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyChange {
    /// A rule is added, before the others or behind them.
    Add {
        /// The rule.
        rule: Rule,
        /// Whether it goes first.
        first: bool,
    },
    /// The rule of this id goes.
    Remove(u64),
    /// This becomes of what no rule is about, where a host does not say.
    Default(Option<Verdict>),
}

impl Membership {
    /// The firewall rules that hold everywhere; `None` before the first.
    #[must_use]
    pub fn policy(&self) -> Option<&Policy> {
        policy_in(self.policy_statement()?)
    }

    pub(super) fn policy_statement(&self) -> Option<&Arc<Statement>> {
        let policies = self.said.values().filter_map(|s| s.policy.as_ref());
        policies.max_by_key(|s| {
            (
                policy_version(s),
                s.issuer() == Issuer::Authority,
                Reverse(s.id()),
            )
        })
    }

    /// What to sign to change the firewall rules that hold everywhere.
    ///
    /// # Errors
    /// When there is no such rule, or no room for another one.
    pub fn change_policy(
        &self,
        change: PolicyChange,
        now_unix_s: u64,
    ) -> Result<Body, MembershipError> {
        let mut policy = self.policy().cloned().unwrap_or_default();
        let rules = &mut policy.rules;
        policy.version = policy.version.saturating_add(1);
        policy.issued_unix_s = now_unix_s;
        match change {
            PolicyChange::Add { rule, first } => {
                if rules.len() >= MAX_POLICY_RULES {
                    let (what, limit) = ("firewall rules", MAX_POLICY_RULES);
                    return Err(MembershipError::Full { what, limit });
                }
                let at = if first { 0 } else { rules.len() };
                let id = policy.version;
                rules.insert(at, PolicyRule { id, rule });
            }
            PolicyChange::Remove(id) => {
                let at = rules.iter().position(|r| r.id == id);
                rules.remove(at.ok_or(MembershipError::NoRule(id))?);
            }
            PolicyChange::Default(verdict) => policy.default = verdict,
        }
        Ok(Body::Policy(policy))
    }

    pub(super) fn enact(&mut self, issuer: Issuer, statement: Arc<Statement>) -> Merged {
        let rank = |s: &Statement| (policy_version(s), Reverse(s.id()));
        let added = Arc::clone(&statement);
        let policy = &mut self.said.entry(issuer).or_default().policy;
        if let Some(known) = policy
            && rank(&statement) <= rank(known)
        {
            return Merged::Known;
        }
        if let Some(old) = policy.replace(statement) {
            self.forget(old.id());
        }
        self.know(added);
        Merged::News
    }
}

fn policy_in(statement: &Statement) -> Option<&Policy> {
    match statement.body() {
        Body::Policy(policy) => Some(policy),
        _ => None,
    }
}

fn policy_version(statement: &Statement) -> u64 {
    policy_in(statement).map_or(0, |p| p.version)
}
