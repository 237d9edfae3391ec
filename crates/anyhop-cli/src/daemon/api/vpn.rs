//! Routes of VPNs.

use std::{sync::Arc, time::Duration};

use anyhop::{VpnMode, VpnOptions};
use axum::{Json, body::Body, extract::State};

use super::{About, Answer, In, Routes, read_ask};
use crate::{
    api::{
        VpnReport, VpnUpAsk,
        routes::{AcceptAsk, OfferAsk, RoutesReport},
    },
    daemon::{Daemon, Presence},
    error::CliError,
};

/// All of them.
pub(super) fn routes() -> Routes {
    Routes::default()
        .get(
            "/v1/vpn",
            status,
            About::json::<VpnReport>("What the VPN carries for whom"),
        )
        .post(
            "/v1/vpn/up",
            up,
            About::json::<VpnReport>("Starts the VPN").takes::<VpnUpAsk>(),
        )
        .post(
            "/v1/vpn/down",
            down,
            About::json::<VpnReport>("Stops the VPN"),
        )
        .get(
            "/v1/vpn/routes",
            routes_shown,
            About::json::<RoutesReport>(
                "What is reached over members, and what they reach over this host",
            ),
        )
        .post(
            "/v1/vpn/offer",
            offer,
            About::json::<RoutesReport>("Offers a route to members, or does so no more")
                .takes::<OfferAsk>(),
        )
        .post(
            "/v1/vpn/accept",
            accept,
            About::json::<RoutesReport>("Accepts a route of a member, or does so no more")
                .takes::<AcceptAsk>(),
        )
}

async fn status(State(daemon): State<Arc<Daemon>>, In(presence): In) -> Answer<VpnReport> {
    let presence = private(&daemon, presence)?;
    Ok(Json(presence.vpn_status().await?))
}

async fn up(State(daemon): State<Arc<Daemon>>, In(presence): In, body: Body) -> Answer<VpnReport> {
    let wanted: VpnUpAsk = read_ask(body).await?;
    let presence = private(&daemon, presence)?;
    let mut options = VpnOptions::default();
    if wanted.l2 {
        options.mode = VpnMode::L2;
    }
    options.rekey_after = Duration::try_from_secs_f64(wanted.rekey_after_s)
        .map_err(|e| CliError::usage(format!("rekey_after_s: {e}")))?;
    Ok(Json(
        presence
            .vpn_up(options, !wanted.no_dns && daemon.settings.dns)
            .await?,
    ))
}

async fn down(State(daemon): State<Arc<Daemon>>, In(presence): In) -> Answer<VpnReport> {
    let presence = private(&daemon, presence)?;
    Ok(Json(presence.vpn_down().await?))
}

async fn routes_shown(State(daemon): State<Arc<Daemon>>, In(presence): In) -> Answer<RoutesReport> {
    Ok(Json(private(&daemon, presence)?.routes().await?))
}

async fn offer(
    State(daemon): State<Arc<Daemon>>,
    In(presence): In,
    body: Body,
) -> Answer<RoutesReport> {
    let ask = read_ask(body).await?;
    Ok(Json(private(&daemon, presence)?.offer(ask).await?))
}

async fn accept(
    State(daemon): State<Arc<Daemon>>,
    In(presence): In,
    body: Body,
) -> Answer<RoutesReport> {
    let ask = read_ask(body).await?;
    Ok(Json(private(&daemon, presence)?.accept(ask).await?))
}

/// The network that is meant: where the default one is public, the only private one.
pub(super) fn private(daemon: &Daemon, meant: Arc<Presence>) -> Result<Arc<Presence>, CliError> {
    if meant.node.private_network().is_some() || !daemon.networks.is_default(meant.id()) {
        return Ok(meant);
    }
    let all = daemon.networks.all().into_iter().map(|(p, _)| p);
    let mut private = all.filter(|p| p.node.private_network().is_some());
    match (private.next(), private.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Ok(meant),
        (Some(one), Some(other)) => {
            let message = format!(
                "is this about the network {}, {} or another one?",
                one.name(),
                other.name()
            );
            Err(CliError::usage(message).hint("tell with --network NAME"))
        }
    }
}
