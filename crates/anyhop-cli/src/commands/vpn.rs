//! `vpn` and its commands.

use std::fmt::Write as _;

use anyhop::VpnPeerStatus;

use super::{Context, path_text};
use crate::{
    api::{
        VpnReport, VpnUpAsk,
        routes::{AcceptAsk, OfferAsk, RoutesReport},
    },
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
        VpnCommand::Routes | VpnCommand::Offer(_) | VpnCommand::Accept(_) => {
            return routes(context, command).await;
        }
    };
    context.output.result(&report, |r| match command {
        VpnCommand::Down => format!("{} is removed", r.status.interface),
        _ => text(r),
    })
}

async fn routes(context: &Context, command: VpnCommand) -> Result<(), CliError> {
    let client = context.client();
    let report: RoutesReport = match command {
        VpnCommand::Offer(args) => {
            let ask = OfferAsk {
                route: args.route,
                remove: args.remove,
                no_masquerade: args.no_masquerade,
            };
            client.post("/v1/vpn/offer", &ask).await?
        }
        VpnCommand::Accept(args) => {
            let ask = AcceptAsk {
                route: args.route,
                from: args.from.map(|from| from.to_string()),
                remove: args.remove,
            };
            client.post("/v1/vpn/accept", &ask).await?
        }
        _ => client.get("/v1/vpn/routes").await?,
    };
    context.output.result(&report, routes_text)
}

fn routes_text(report: &RoutesReport) -> String {
    let offers = report.offers.iter().map(|offer| {
        let hidden = if offer.masquerade {
            ""
        } else {
            ", addresses as they are"
        };
        let why = offer.why.iter().map(|why| format!(", but {why}"));
        format!(
            "{} is offered here{hidden}{}",
            offer.route,
            why.collect::<String>()
        )
    });
    let routes = report.routes.iter().map(|route| {
        let state = match (route.accepted, &route.why) {
            (false, _) => "offered".to_owned(),
            (true, None) => "in use".to_owned(),
            (true, Some(why)) => format!("accepted, but {why}"),
        };
        format!(
            "{} over {} ({}): {state}",
            route.route, route.name, route.peer_id
        )
    });
    let lines: Vec<String> = offers.chain(routes).collect();
    match lines.is_empty() {
        true => "no routes".to_owned(),
        false => lines.join("\n"),
    }
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
