//! `port` and its commands.

use super::Context;
use crate::{
    api::{PortAsk, PortMapAsk, PortReport},
    args::PortCommand,
    error::CliError,
    output::table,
};

pub(super) async fn run(context: &Context, command: PortCommand) -> Result<(), CliError> {
    let client = context.client();
    match command {
        PortCommand::Map(args) => {
            let ask = PortMapAsk {
                protocol: args.port.protocol,
                listen: args.port.listen,
                member: args.target.member.to_string(),
                port: args.target.port,
            };
            let report: PortReport = client.post("/v1/ports/map", &ask).await?;
            context.output.result(&report, |r| {
                let (protocol, listen) = (r.protocol, r.listen);
                format!("{protocol} {listen} is {}", whose(r))
            })
        }
        PortCommand::Unmap(args) => {
            let ask = PortAsk {
                protocol: args.protocol,
                listen: args.listen,
            };
            let report: PortReport = client.post("/v1/ports/unmap", &ask).await?;
            context.output.result(&report, |r| {
                let (protocol, listen) = (r.protocol, r.listen);
                format!("{protocol} {listen} is no longer {}", whose(r))
            })
        }
        PortCommand::List => {
            let reports: Vec<PortReport> = client.get("/v1/ports").await?;
            context.output.result(&reports, |all| match all.is_empty() {
                true => "no port is mapped".to_owned(),
                false => text(all),
            })
        }
    }
}

fn whose(report: &PortReport) -> String {
    let member = report.member.as_ref().unwrap_or(&report.peer_id);
    format!("port {} of {member}", report.port)
}

fn text(reports: &[PortReport]) -> String {
    let row = |report: &PortReport| {
        let member = report.member.as_ref().unwrap_or(&report.peer_id);
        vec![
            report.protocol.to_string(),
            report.listen.to_string(),
            format!("{member}:{}", report.port),
            match &report.problem {
                Some(problem) => format!("closed: {problem}"),
                None => "open".to_owned(),
            },
        ]
    };
    let rows: Vec<_> = reports.iter().map(row).collect();
    table(&["proto", "here", "member", "state"], &rows)
}
