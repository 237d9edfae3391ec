//! Routes of the control API.
//!
//! Which network a request is about is said in its query, `network=NAME`, and read in one
//! place: [`In`]. Each route comes with what it does, takes and answers, see [`openapi`].

mod firewall;
mod job;
mod message;
mod network;
mod openapi;
mod ports;
mod stream;
mod topic;
mod vpn;

use std::{convert::Infallible, sync::Arc, time::Duration};

use anyhop::{DialError, Explanation, NodeStatus, PeerAddr, Pong, SessionInfo};
use axum::{
    Json, Router,
    body::{Body, Bytes, to_bytes},
    extract::{FromRequestParts, Path, Query, Request, rejection::QueryRejection},
    http::{StatusCode, request::Parts},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::{Stream, StreamExt};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use self::openapi::{About, Routes};
use super::{Daemon, Presence, trace};
use crate::{
    api::{
        ConnectAsk, ExplainQuery, PathReport, PeerReport, PingAsk, TraceQuery, TraceReport,
        network::NetworkQuery,
    },
    args::MAX_TRACE_ROUNDS,
    client::Reader,
    doctor::Report,
    error::{CliError, Code},
    spec::PeerOrAddr,
};

/// Longest wait for a ping or a reply, whatever was asked for.
const MAX_WAIT: Duration = Duration::from_secs(86_400);
/// Largest JSON body, bytes.
const MAX_ASK: usize = 64 << 10;
/// What a body is that is taken as it is.
const BODY: &str = "the body of the message, at most 16 MiB";

type Answer<T> = Result<Json<T>, ApiError>;

/// All routes.
pub(super) fn router(daemon: Arc<Daemon>) -> Router {
    routes()
        .into_router()
        .fallback(no_such_route)
        .with_state(daemon)
}

/// The OpenAPI document of all routes.
pub(crate) fn document() -> Value {
    routes().document()
}

fn routes() -> Routes {
    Routes::default()
        .get(
            "/v1/status",
            status,
            About::json::<NodeStatus>("What the node is and does"),
        )
        .get(
            "/v1/doctor",
            doctor,
            About::json::<Report>("What keeps this host from connecting well; takes some seconds"),
        )
        .get(
            "/v1/peers",
            peers,
            About::json::<Vec<SessionInfo>>("Sessions with their paths"),
        )
        .get(
            "/v1/path/{peer}",
            path,
            About::json::<PathReport>("Paths to a peer, connecting if need be"),
        )
        .get(
            "/v1/resolve/{peer}",
            resolve,
            About::json::<PeerReport>("Whom a name or a part of a PeerId means"),
        )
        .get(
            "/v1/explain/{peer}",
            explain,
            About::json::<Explanation>("Why a peer is reached as it is, or is not")
                .query::<ExplainQuery>(),
        )
        .get(
            "/v1/trace/{peer}",
            trace_peer,
            About::json::<TraceReport>("Each hop of the way to a peer").query::<TraceQuery>(),
        )
        .post(
            "/v1/connect",
            connect,
            About::json::<PathReport>("Connects to a peer").takes::<ConnectAsk>(),
        )
        .post(
            "/v1/ping",
            ping,
            About::json::<Pong>("One round trip to a peer").takes::<PingAsk>(),
        )
        .get(
            "/v1/openapi.json",
            openapi,
            About::json::<Map<String, Value>>("This document"),
        )
        .merge(message::routes())
        .merge(stream::routes())
        .merge(network::routes())
        .merge(topic::routes())
        .merge(job::routes())
        .merge(ports::routes())
        .merge(vpn::routes())
        .merge(firewall::routes())
}

/// The daemon's presence in the network that a request names.
struct In(Arc<Presence>);

impl FromRequestParts<Arc<Daemon>> for In {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        daemon: &Arc<Daemon>,
    ) -> Result<Self, Self::Rejection> {
        let query = parts.uri.query().unwrap_or_default();
        let query: NetworkQuery = serde_urlencoded::from_str(query)
            .map_err(|e| CliError::usage(format!("bad query: {e}")))?;
        Ok(Self(daemon.networks.find(query.network.as_deref())?))
    }
}

/// An error as an HTTP answer.
#[derive(Debug)]
struct ApiError(StatusCode, CliError);

impl<E: Into<CliError>> From<E> for ApiError {
    fn from(e: E) -> Self {
        let error = e.into();
        Self(error.code.http_status(), error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.0, Json(self.1.into_body())).into_response()
    }
}

async fn no_such_route(request: Request) -> ApiError {
    let what = format!("{} {}", request.method(), request.uri().path());
    let error = CliError::usage(format!("the daemon's control API has no {what}"))
        .hint("restart the daemon, so that it is of the command's version");
    ApiError(StatusCode::NOT_FOUND, error)
}

async fn openapi() -> Json<Value> {
    Json(document())
}

async fn status(In(presence): In) -> Json<NodeStatus> {
    Json(presence.node.status())
}

async fn doctor(In(presence): In) -> Json<Report> {
    Json(crate::doctor::examine(&presence.node, &presence.state_dir, true).await)
}

async fn peers(In(presence): In) -> Json<Vec<SessionInfo>> {
    Json(presence.node.sessions())
}

async fn path(In(presence): In, Path(peer): Path<String>) -> Answer<PathReport> {
    let peer = presence.resolve(&peer)?;
    report_path(&presence, peer).await
}

async fn resolve(In(presence): In, Path(peer): Path<String>) -> Answer<PeerReport> {
    let peer_id = presence.resolve(&peer)?.to_base58();
    Ok(Json(PeerReport { peer_id }))
}

async fn explain(
    In(presence): In,
    Path(peer): Path<String>,
    query: Result<Query<ExplainQuery>, QueryRejection>,
) -> Answer<Explanation> {
    let query = read_query(query)?;
    let peer = presence.resolve(&peer)?;
    if !query.no_dial {
        // What else comes of it is part of the explanation.
        if let Err(e @ DialError::Myself(_)) = presence.node.connect(peer).await {
            return Err(e.into());
        }
    }
    Ok(Json(presence.node.explain(peer)))
}

async fn trace_peer(
    In(presence): In,
    Path(peer): Path<String>,
    query: Result<Query<TraceQuery>, QueryRejection>,
) -> Answer<TraceReport> {
    let query = read_query(query)?;
    if !(1..=MAX_TRACE_ROUNDS).contains(&query.count) {
        let why = format!("count is from 1 to {MAX_TRACE_ROUNDS}");
        return Err(CliError::usage(why).into());
    }
    let peer = presence.resolve(&peer)?;
    let mut report = trace::run(&presence.node, peer, query.count).await?;
    for hop in &mut report.hops {
        hop.name = presence.name_of(&hop.peer_id)?;
    }
    Ok(Json(report))
}

async fn connect(In(presence): In, body: Body) -> Answer<PathReport> {
    let ask: ConnectAsk = read_ask(body).await?;
    let peer = match (ask.peer, ask.address) {
        (Some(peer), None) => presence.resolve(&peer)?,
        (None, Some(address)) => {
            let PeerOrAddr::Addr(addr) = address.parse()? else {
                return Err(CliError::usage(format!("{address:?} is no multiaddr")).into());
            };
            let addr: PeerAddr = addr;
            presence.node.add_address(&addr);
            addr.peer
        }
        _ => return Err(CliError::usage("give either a peer or an address").into()),
    };
    report_path(&presence, peer).await
}

async fn report_path(presence: &Presence, peer: anyhop::PeerId) -> Answer<PathReport> {
    let session = presence.node.connect(peer).await?;
    Ok(Json(PathReport {
        peer_id: peer.to_base58(),
        paths: session.paths(),
    }))
}

async fn ping(In(presence): In, body: Body) -> Answer<Pong> {
    let ask: PingAsk = read_ask(body).await?;
    let peer = presence.resolve(&ask.peer)?;
    let timeout = Duration::from_millis(ask.timeout_ms).min(MAX_WAIT);
    Ok(Json(presence.node.ping(peer, timeout).await?))
}

fn read_query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, CliError> {
    match query {
        Ok(Query(query)) => Ok(query),
        Err(e) => Err(CliError::usage(format!("bad query: {}", e.body_text()))),
    }
}

async fn read_ask<T: DeserializeOwned>(body: Body) -> Result<T, CliError> {
    read_ask_up_to(body, MAX_ASK).await
}

async fn read_ask_up_to<T: DeserializeOwned>(body: Body, limit: usize) -> Result<T, CliError> {
    let body = read_body(body, limit).await?;
    serde_json::from_slice(&body).map_err(|e| CliError::usage(format!("bad JSON: {e}")))
}

async fn read_body(body: Body, limit: usize) -> Result<Bytes, CliError> {
    to_bytes(body, limit).await.map_err(|e| {
        CliError::new(
            Code::Limit,
            format!("the body was not read; the control API takes up to {limit} bytes: {e}"),
        )
        .hint("send large data over a stream, which has no size limit: `anyhop cat`")
    })
}

/// For how long something is waited for: as asked, and no longer than anything is.
fn wait_for(timeout_ms: Option<u64>) -> Duration {
    timeout_ms.map_or(MAX_WAIT, |ms| Duration::from_millis(ms).min(MAX_WAIT))
}

/// One event: what it is, what it can be named by, and what it tells.
fn event(kind: &str, id: &impl ToString, report: &impl Serialize) -> Event {
    let event = Event::default().event(kind).id(id.to_string());
    event
        .json_data(report)
        .expect("reports are made of what JSON has")
}

/// Events as they come, for as long as the reader stays.
fn events<S: Stream<Item = Event> + Send + 'static>(
    events: S,
) -> Sse<impl Stream<Item = Result<Event, Infallible>> + use<S>> {
    Sse::new(events.map(Ok)).keep_alive(KeepAlive::default())
}

/// What comes next, unless the command leaves before: it says nothing more, so that whatever
/// comes from it is its end.
async fn while_there<T>(reader: &mut Reader, next: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::select! {
        next = next => next,
        _ = reader.next() => None,
    }
}
