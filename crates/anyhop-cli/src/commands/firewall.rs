//! `firewall` and its commands.

use anyhop::{Rule, Verdict, Who};

use super::Context;
use crate::{
    api::firewall::{
        AddAsk, DefaultAsk, FirewallReport, RemoveAsk, RuleReport, TestAsk, TestReport,
    },
    args::{DefaultArgs, FirewallCommand, OneWayArg, RuleArgs, TestArgs},
    error::CliError,
};

pub(super) async fn run(context: &Context, command: FirewallCommand) -> Result<(), CliError> {
    match command {
        FirewallCommand::Default(args) => default(context, &args).await,
        FirewallCommand::Allow(args) => add(context, Verdict::Allow, args).await,
        FirewallCommand::Deny(args) => add(context, Verdict::Deny, args).await,
        FirewallCommand::List => {
            let report: FirewallReport = context.client().get("/v1/firewall").await?;
            context.output.result(&report, text)
        }
        FirewallCommand::Remove(args) => {
            let ask = RemoveAsk { id: args.id };
            let report: RuleReport = context.client().post("/v1/firewall/remove", &ask).await?;
            context
                .output
                .result(&report, |r| format!("removed {}", rule_text(r)))
        }
        FirewallCommand::Test(args) => test(context, &args).await,
    }
}

async fn default(context: &Context, args: &DefaultArgs) -> Result<(), CliError> {
    let verdict = args.verdict.verdict();
    let ask = DefaultAsk {
        verdict: verdict.map(|v| v.as_str().to_owned()),
        network_wide: args.network_wide,
    };
    let report: FirewallReport = context.client().post("/v1/firewall/default", &ask).await?;
    context.output.result(&report, default_text)
}

async fn add(context: &Context, verdict: Verdict, args: RuleArgs) -> Result<(), CliError> {
    let rule = Rule {
        verdict,
        direction: args.direction.direction(),
        who: match (args.name, args.role) {
            (Some(name), _) => Who::Name(name),
            (None, Some(role)) => Who::Role(role.into()),
            (None, None) => Who::Anybody,
        },
        protocol: args.proto,
        ports: args.port,
    };
    rule.check()?;
    let ask = AddAsk {
        rule: rule.to_string(),
        member: args.member.map(|m| m.to_string()),
        first: args.first,
        network_wide: args.network_wide,
    };
    let report: RuleReport = context.client().post("/v1/firewall/add", &ask).await?;
    context.output.result(&report, rule_text)
}

async fn test(context: &Context, args: &TestArgs) -> Result<(), CliError> {
    let ask = TestAsk {
        from: args.from.to_string(),
        protocol: args.proto.to_string(),
        port: args.port,
        out: args.direction == OneWayArg::Out,
    };
    let report: TestReport = context.client().post("/v1/firewall/test", &ask).await?;
    context.output.result(&report, |r| match &r.rule {
        Some(rule) => format!("{} ({}; rule {})", r.verdict, r.why, rule.id),
        None => format!("{} ({})", r.verdict, r.why),
    })
}

fn text(report: &FirewallReport) -> String {
    let mut lines: Vec<_> = report.rules.iter().map(rule_text).collect();
    lines.push(default_text(report));
    lines.join("\n")
}

fn default_text(report: &FirewallReport) -> String {
    let who = match report.default_source.as_deref() {
        Some("local") => "said here",
        Some(_) => "said by the network",
        None => "nobody said otherwise",
    };
    format!("default {} ({who})", report.default)
}

fn rule_text(rule: &RuleReport) -> String {
    let who = match (&rule.member, &rule.name, &rule.role) {
        (Some(member), _, _) => member.clone(),
        (_, Some(name), _) => format!("name {name}"),
        (_, _, Some(role)) => format!("role {role}"),
        _ => "anybody".to_owned(),
    };
    let what = match (&rule.protocol, &rule.port) {
        (Some(protocol), Some(port)) => format!("{protocol} port {port}"),
        (Some(protocol), None) => protocol.clone(),
        (None, Some(port)) => format!("port {port}"),
        (None, None) => "everything".to_owned(),
    };
    format!(
        "{:>4} {:<7} {:<5} {:<4} {who}: {what}",
        rule.id, rule.source, rule.verdict, rule.direction
    )
}
