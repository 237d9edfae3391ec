//! `vpn` and its commands.

use std::fmt::Write as _;

use anyhop::VpnPeerStatus;

use super::{Context, path_text};
use crate::{
    api::{VpnReport, VpnUpAsk},
    args::VpnCommand,
    error::CliError,
};

pub(super) async fn run(context: &Context, command: VpnCommand) -> Result<(), CliError> {
    let client = context.client();
    let report: VpnReport = match &command {
        VpnCommand::Up(args) => {
            let wanted = VpnUpAsk {
                l2: args.l2,
                rekey_after_s: args.rekey_after,
                no_dns: args.no_dns,
            };
            client.post("/v1/vpn/up", &wanted).await?
        }
        VpnCommand::Down => client.post("/v1/vpn/down", &()).await?,
        VpnCommand::Status => client.get("/v1/vpn").await?,
    };
    context.output.result(&report, |r| match command {
        VpnCommand::Down => format!("{} is removed", r.status.interface),
        VpnCommand::Up(_) | VpnCommand::Status => text(r),
    })
}

fn text(report: &VpnReport) -> String {
    let status = &report.status;
    let mut out = format!("interface    {} (MTU {})", status.interface, status.mtu);
    let addresses = [&status.address4, &status.address6];
    for address in addresses.into_iter().flatten() {
        let _ = write!(out, "\n{:12} {address}", "address");
    }
    if let Some(note) = &status.note {
        let _ = write!(out, "\n{:12} {note}", "note");
    }
    if let Some(dns) = &report.dns {
        let asked = match dns.hook.as_str() {
            "none" => "not asked by this host's resolver".to_owned(),
            hook => format!("asked by way of {hook}"),
        };
        let _ = write!(out, "\n{:12} MEMBER.{}, {asked}", "names", dns.domain);
        if let Some(note) = &dns.note {
            let _ = write!(out, "\n{:12} {note}", "note");
        }
    }
    for peer in &status.peers {
        let _ = write!(out, "\n{}", peer_text(peer));
    }
    for (reason, packets) in &status.drops {
        let _ = write!(out, "\n{:12} {packets} packets: {reason}", "dropped");
    }
    out
}

fn peer_text(peer: &VpnPeerStatus) -> String {
    let addresses = [&peer.address4, &peer.address6].into_iter().flatten();
    let addresses: Vec<_> = addresses.map(String::as_str).collect();
    let path = peer.path.as_ref().map(path_text);
    let mut out = format!(
        "{:12} {} {}\n             {}; {} bytes sent, {} received",
        peer.name,
        addresses.join(" "),
        peer.peer_id,
        path.unwrap_or_else(|| "no session yet".to_owned()),
        peer.tx_bytes,
        peer.rx_bytes,
    );
    for (reason, packets) in &peer.drops {
        let _ = write!(out, "\n             {packets} packets dropped: {reason}");
    }
    out
}
