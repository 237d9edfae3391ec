//! Routes of mapped ports.

use std::sync::Arc;

use axum::{Json, body::Body, extract::State};

use super::{About, Answer, In, Routes, read_ask, vpn::private};
use crate::{
    api::{PortAsk, PortMapAsk, PortReport},
    daemon::{Daemon, enter::to_the_end},
};

/// All of them.
pub(super) fn routes() -> Routes {
    Routes::default()
        .get(
            "/v1/ports",
            list,
            About::json::<Vec<PortReport>>("Ports of this host that are ports of members"),
        )
        .post(
            "/v1/ports/map",
            map,
            About::json::<PortReport>("Makes a port of this host one of a member")
                .takes::<PortMapAsk>(),
        )
        .post(
            "/v1/ports/unmap",
            unmap,
            About::json::<PortReport>("Ends that").takes::<PortAsk>(),
        )
}

async fn list(State(daemon): State<Arc<Daemon>>, In(presence): In) -> Answer<Vec<PortReport>> {
    let presence = private(&daemon, presence)?;
    presence.private()?;
    Ok(Json(presence.port_list().await?))
}

async fn map(
    State(daemon): State<Arc<Daemon>>,
    In(presence): In,
    body: Body,
) -> Answer<PortReport> {
    let ask: PortMapAsk = read_ask(body).await?;
    let presence = private(&daemon, presence)?;
    presence.private()?;
    let work = async move { presence.port_map(&ask).await };
    Ok(Json(to_the_end(work).await??))
}

async fn unmap(
    State(daemon): State<Arc<Daemon>>,
    In(presence): In,
    body: Body,
) -> Answer<PortReport> {
    let ask: PortAsk = read_ask(body).await?;
    let presence = private(&daemon, presence)?;
    presence.private()?;
    let work = async move { presence.port_unmap(&ask).await };
    Ok(Json(to_the_end(work).await??))
}
