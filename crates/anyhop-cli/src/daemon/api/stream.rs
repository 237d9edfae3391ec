//! Streams: between commands, forwarded connections, measurements.

use std::sync::Arc;

use axum::{
    extract::{Path, Query, Request, rejection::QueryRejection},
    response::Response,
};

use super::{About, ApiError, In, Routes, read_query};
use crate::{
    api::{BenchQuery, CatQuery, ExposeQuery, ForwardQuery, SocksQuery},
    daemon::{bench, forward, pipe, server::upgrade, socks},
    error::{CliError, Code},
};

/// What is said on a stream's connection.
const CAT: &str =
    "a JSON frame `{\"event\":\"opened\",..}`, then data frames both ways, an end frame after each";
/// What is said of something that works as long as it is open.
const NOTICES: &str = "JSON frames `{\"event\":\"ready\",..}` and `{\"event\":\"failed\",..}`";

/// All of them.
pub(super) fn routes() -> Routes {
    Routes::default()
        .post(
            "/v1/cat/{peer}",
            cat,
            About::frames("One stream to a peer", CAT).query::<CatQuery>(),
        )
        .post(
            "/v1/cat-listen",
            cat_listen,
            About::frames("One stream from a peer", CAT).query::<CatQuery>(),
        )
        .post(
            "/v1/expose",
            expose,
            About::frames(
                "Lets peers connect to a target, as long as the connection is open",
                NOTICES,
            )
            .query::<ExposeQuery>(),
        )
        .post(
            "/v1/forward",
            forward,
            About::frames(
                "Forwards a local port to what a peer exposes, as long as the connection is open",
                NOTICES,
            )
            .query::<ForwardQuery>(),
        )
        .post(
            "/v1/socks",
            socks,
            About::frames(
                "Runs a SOCKS 5 and HTTP proxy, as long as the connection is open",
                NOTICES,
            )
            .query::<SocksQuery>(),
        )
        .post(
            "/v1/bench/{peer}",
            bench,
            About::frames(
                "Measures the throughput to a peer",
                "JSON frames `{\"progress\":{..}}`, then `{\"done\":{..}}`",
            )
            .query::<BenchQuery>(),
        )
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
