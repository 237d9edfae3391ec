//! `trace`.

use anyhop::Carrier;

use super::Context;
use crate::{
    api::{HopReport, TraceQuery, TraceReport},
    args::TraceArgs,
    error::{CliError, Code},
    output::{self, Mark},
};

pub(super) async fn run(context: &Context, args: &TraceArgs) -> Result<(), CliError> {
    let bar = output::spinner(format!("tracing the way to {}", args.peer));
    let query = TraceQuery { count: args.count };
    let path = format!("/v1/trace/{}", args.peer);
    let report: Result<TraceReport, _> = context.client().query(&path, &query).await;
    bar.finish_and_clear();
    let report = report?;
    context.output.result(&report, text)?;
    match report.hops.last() {
        Some(hop) if hop.answered => Ok(()),
        _ => Err(CliError::new(
            Code::Timeout,
            format!("{} answered no probe", report.peer_id),
        )
        .hint("`anyhop explain` tells what else is tried; a path that died is replaced by itself")),
    }
}

fn text(report: &TraceReport) -> String {
    let lines: Vec<_> = report.hops.iter().map(hop).collect();
    lines.join("\n")
}

fn hop(hop: &HopReport) -> String {
    let mark = match (hop.answered, hop.loss) {
        (false, _) => Mark::Fail,
        (true, Some(loss)) if loss > 0.0 => Mark::Warn,
        (true, _) => Mark::Ok,
    };
    let name = hop.name.as_ref();
    let name = name.map_or_else(String::new, |name| format!(" ({name})"));
    let carrier = match hop.carrier {
        Some(Carrier::Udp4) => ", UDP over IPv4",
        Some(Carrier::Udp6) => ", UDP over IPv6",
        Some(Carrier::Ws) => ", WebSocket",
        None => "",
    };
    let what = match (hop.rtt_ms, hop.loss) {
        (Some(rtt), loss) => format!("{rtt:.1} ms, {:.0} % lost", loss.unwrap_or(0.0) * 100.0),
        (None, _) => hop.reason.clone(),
    };
    format!(
        "{:2} {} {}{name}: {what}{carrier}",
        hop.hop,
        mark.text(),
        hop.peer_id
    )
}
