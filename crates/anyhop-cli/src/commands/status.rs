//! `status`.

use std::fmt::Write as _;

use anyhop::NodeStatus;

use super::Context;
use crate::{error::CliError, words};

pub(super) async fn run(context: &Context) -> Result<(), CliError> {
    let status: NodeStatus = context.client().get("/v1/status").await?;
    context.output.result(&status, text)
}

fn text(s: &NodeStatus) -> String {
    let mut out = format!("peer id      {}\nnetwork      {}", s.peer_id, s.network);
    let mut list = |what: &str, items: &[String]| {
        for (i, item) in items.iter().enumerate() {
            let what = if i == 0 { what } else { "" };
            let _ = write!(out, "\n{what:12} {item}");
        }
    };
    list("addresses", &s.addresses);
    list("seen at", &s.observed_addresses);
    list("attached to", &s.attachments);
    let mut nat = words::nat_lines(&s.nat);
    nat.extend(words::gateway_line(&s.nat.gateways));
    list("nat", &nat);
    let relay = if s.relay.enabled {
        format!(
            "{} circuits, {} bytes forwarded",
            s.relay.circuits, s.relay.forwarded_bytes
        )
    } else {
        "off".to_owned()
    };
    let _ = write!(
        out,
        "\n{:12} {relay}\n{:12} {}",
        "relay", "sessions", s.sessions
    );
    let _ = write!(out, "\n{:12} {} s", "up", s.uptime_s);
    for drop in &s.dropped {
        let _ = write!(
            out,
            "\n{:12} {} datagrams: {}",
            "dropped", drop.datagrams, drop.reason
        );
    }
    out
}
