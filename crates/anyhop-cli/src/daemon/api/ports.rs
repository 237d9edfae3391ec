//! Routes of mapped ports.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    routing::{get, post},
};

use super::{Answer, In, read_ask, vpn::private};
use crate::{
    api::{PortAsk, PortMapAsk, PortReport},
    daemon::{Daemon, enter::to_the_end},
};

/// All of them.
pub(super) fn routes() -> Router<Arc<Daemon>> {
    Router::new()
        .route("/v1/ports", get(list))
        .route("/v1/ports/map", post(map))
        .route("/v1/ports/unmap", post(unmap))
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
