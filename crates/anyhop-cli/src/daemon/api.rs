//! Routes of the control API.
//!
//! Which network a request is about is said in its query, `network=NAME`, and read in one
//! place: [`In`].

mod firewall;
mod job;
mod network;
mod ports;
mod topic;
mod vpn;

use std::{sync::Arc, time::Duration};

use anyhop::{DialError, Explanation, Message, NodeStatus, PeerAddr, Pong, SessionInfo};
use axum::{
    Json, Router,
    body::{Body, Bytes, to_bytes},
    extract::{FromRequestParts, Path, Query, Request, rejection::QueryRejection},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::de::DeserializeOwned;

use super::{Daemon, Presence, bench, forward, inbox, pipe, server::upgrade, socks, trace};
use crate::{
    api::{
        BenchQuery, CatQuery, ConnectAsk, ExplainQuery, ExposeQuery, ForwardQuery, MessageQuery,
        MessageReport, PathReport, PeerReport, PingAsk, Sent, SocksQuery, TraceQuery, TraceReport,
        network::NetworkQuery,
    },
    args::{MAX_BODY, MAX_TRACE_ROUNDS},
    doctor::Report,
    error::{CliError, Code},
    spec::PeerOrAddr,
};

/// Longest wait for a ping or a reply, whatever was asked for.
const MAX_WAIT: Duration = Duration::from_secs(86_400);
/// Largest JSON body, bytes.
const MAX_ASK: usize = 64 << 10;

type Answer<T> = Result<Json<T>, ApiError>;

/// All routes.
pub(super) fn router(daemon: Arc<Daemon>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/doctor", get(doctor))
        .route("/v1/peers", get(peers))
        .route("/v1/path/{peer}", get(path))
        .route("/v1/resolve/{peer}", get(resolve))
        .route("/v1/explain/{peer}", get(explain))
        .route("/v1/trace/{peer}", get(trace_peer))
        .route("/v1/connect", post(connect))
        .route("/v1/ping", post(ping))
        .route("/v1/send", post(send))
        .route("/v1/request", post(request))
        .route("/v1/recv", post(recv))
        .route("/v1/cat/{peer}", post(cat))
        .route("/v1/cat-listen", post(cat_listen))
        .route("/v1/expose", post(expose))
        .route("/v1/forward", post(forward))
        .route("/v1/socks", post(socks))
        .route("/v1/bench/{peer}", post(bench))
        .merge(network::routes())
        .merge(topic::routes())
        .merge(job::routes())
        .merge(ports::routes())
        .merge(vpn::routes())
        .merge(firewall::routes())
        .fallback(no_such_route)
        .with_state(daemon)
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

async fn send(
    In(presence): In,
    query: Result<Query<MessageQuery>, QueryRejection>,
    body: Body,
) -> Answer<Sent> {
    let query = read_query(query)?;
    let peer = presence.resolve(&query.peer)?;
    let message = read_message(query, body).await?;
    let bytes = message.body.len();
    presence.node.send(peer, message).await?;
    Ok(Json(Sent {
        to: peer.to_base58(),
        bytes,
    }))
}

async fn request(
    In(presence): In,
    query: Result<Query<MessageQuery>, QueryRejection>,
    body: Body,
) -> Answer<MessageReport> {
    let query = read_query(query)?;
    let peer = presence.resolve(&query.peer)?;
    let timeout = query.timeout_ms.map_or(MAX_WAIT, Duration::from_millis);
    let message = read_message(query, body).await?;
    let reply = presence
        .node
        .request(peer, message, timeout.min(MAX_WAIT))
        .await?;
    Ok(Json(MessageReport::new(peer, &reply, false)))
}

async fn recv(In(presence): In, request: Request) -> Result<Response, ApiError> {
    let for_work = Arc::clone(&presence);
    let response = upgrade(&presence.tasks, request, |reader, writer| async move {
        inbox::serve(&for_work.inbox, reader, writer).await;
    })?;
    Ok(response)
}

async fn cat(
    In(presence): In,
    Path(peer): Path<String>,
    query: Result<Query<CatQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let query = read_query(query)?;
    let peer = presence.resolve(&peer)?;
    let (send, recv) = presence.node.open_bi(peer, &query.protocol()).await?;
    let response = upgrade(&presence.tasks, request, move |reader, writer| {
        pipe::run(reader, writer, peer, send, recv)
    })?;
    Ok(response)
}

async fn cat_listen(
    In(presence): In,
    query: Result<Query<CatQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let protocol = read_query(query)?.protocol();
    let listener = presence.node.accept(&protocol).map_err(|_| {
        CliError::new(
            Code::Refused,
            format!("a `cat --listen` for {protocol:?} already waits on this node"),
        )
        .hint("tell listeners apart with --name N on both sides")
    })?;
    let response = upgrade(&presence.tasks, request, move |reader, writer| {
        pipe::listen(reader, writer, listener)
    })?;
    Ok(response)
}

async fn expose(
    In(presence): In,
    query: Result<Query<ExposeQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let query = read_query(query)?;
    let exposure = match (query.exit, &query.target) {
        (true, None) => {
            // Anybody is in a public network.
            presence.private()?;
            let reach = match query.allow_private {
                true => forward::Reach::All,
                false => forward::Reach::Public,
            };
            presence.exposed.add_exit(reach)?
        }
        (false, Some(target)) => {
            let service = forward::Service::new(target.parse()?, query.udp);
            presence.exposed.add(service)?
        }
        _ => return Err(CliError::usage("give either a target or `exit`").into()),
    };
    let response = upgrade(&presence.tasks, request, move |reader, writer| {
        forward::expose(exposure, reader, writer)
    })?;
    Ok(response)
}

async fn forward(
    In(presence): In,
    query: Result<Query<ForwardQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let query = read_query(query)?;
    let peer = presence.resolve(&query.peer)?;
    let service = forward::Service::new(query.target.parse()?, query.udp);
    let local = crate::spec::parse_local(&query.local)?;
    let forward = forward::Forward::bind(presence.node.clone(), peer, service, local).await?;
    let response = upgrade(&presence.tasks, request, move |reader, writer| {
        forward.run(reader, writer)
    })?;
    Ok(response)
}

async fn socks(
    In(presence): In,
    query: Result<Query<SocksQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let query = read_query(query)?;
    let exit = query.exit.map(|exit| presence.resolve(&exit)).transpose()?;
    let listen = crate::spec::parse_local(&query.listen)?;
    let proxy = socks::Proxy::bind(Arc::clone(&presence), exit, listen).await?;
    let response = upgrade(&presence.tasks, request, move |reader, writer| {
        proxy.run(reader, writer)
    })?;
    Ok(response)
}

async fn bench(
    In(presence): In,
    Path(peer): Path<String>,
    query: Result<Query<BenchQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let query = bench::check(read_query(query)?)?;
    let peer = presence.resolve(&peer)?;
    let run = bench::Run::open(presence.node.clone(), peer, query).await?;
    let response = upgrade(&presence.tasks, request, move |reader, writer| {
        run.report(reader, writer)
    })?;
    Ok(response)
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

async fn read_message(query: MessageQuery, body: Body) -> Result<Message, CliError> {
    Ok(Message {
        kind: query.kind,
        encoding: query.encoding,
        body: read_body(body, MAX_BODY).await?,
    })
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
