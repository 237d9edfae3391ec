//! Routes of firewalls.

use std::sync::Arc;

use axum::{Json, body::Body, extract::State};

use super::{About, Answer, In, Routes, read_ask, vpn::private};
use crate::{
    api::firewall::{
        AddAsk, DefaultAsk, FirewallReport, RemoveAsk, RuleReport, TestAsk, TestReport,
    },
    daemon::Daemon,
};

/// All of them.
pub(super) fn routes() -> Routes {
    Routes::default()
        .get(
            "/v1/firewall",
            list,
            About::json::<FirewallReport>("Rules, in the order in which they are looked at"),
        )
        .post(
            "/v1/firewall/add",
            add,
            About::json::<RuleReport>("Adds a rule").takes::<AddAsk>(),
        )
        .post(
            "/v1/firewall/remove",
            remove,
            About::json::<RuleReport>("Removes a rule").takes::<RemoveAsk>(),
        )
        .post(
            "/v1/firewall/default",
            default,
            About::json::<FirewallReport>("Says what becomes of packets that no rule is about")
                .takes::<DefaultAsk>(),
        )
        .post(
            "/v1/firewall/test",
            test,
            About::json::<TestReport>("What becomes of a packet").takes::<TestAsk>(),
        )
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
