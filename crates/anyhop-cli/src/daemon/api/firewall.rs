//! Routes of firewalls.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    routing::{get, post},
};

use super::{Answer, In, read_ask, vpn::private};
use crate::{
    api::firewall::{FirewallReport, RuleReport, TestReport},
    daemon::Daemon,
};

/// All of them.
pub(super) fn routes() -> Router<Arc<Daemon>> {
    Router::new()
        .route("/v1/firewall", get(list))
        .route("/v1/firewall/add", post(add))
        .route("/v1/firewall/remove", post(remove))
        .route("/v1/firewall/default", post(default))
        .route("/v1/firewall/test", post(test))
}

async fn list(State(daemon): State<Arc<Daemon>>, In(presence): In) -> Answer<FirewallReport> {
    Ok(Json(private(&daemon, presence)?.firewall()?))
}

async fn add(
    State(daemon): State<Arc<Daemon>>,
    In(presence): In,
    body: Body,
) -> Answer<RuleReport> {
    let ask = read_ask(body).await?;
    Ok(Json(private(&daemon, presence)?.add_rule(ask).await?))
}

async fn remove(
    State(daemon): State<Arc<Daemon>>,
    In(presence): In,
    body: Body,
) -> Answer<RuleReport> {
    let ask = read_ask(body).await?;
    Ok(Json(private(&daemon, presence)?.remove_rule(ask).await?))
}

async fn default(
    State(daemon): State<Arc<Daemon>>,
    In(presence): In,
    body: Body,
) -> Answer<FirewallReport> {
    let ask = read_ask(body).await?;
    Ok(Json(private(&daemon, presence)?.set_default(ask).await?))
}

async fn test(
    State(daemon): State<Arc<Daemon>>,
    In(presence): In,
    body: Body,
) -> Answer<TestReport> {
    let ask = read_ask(body).await?;
    Ok(Json(private(&daemon, presence)?.test_packet(&ask)?))
}
