//! Jobs: calls for bids, bids, and the work.

use std::{convert::Infallible, time::Duration};

use anyhop::{JobId, JobSpec, JobWatch};
use axum::{
    Json,
    body::Body,
    extract::{Query, Request, rejection::QueryRejection},
    response::{Response, Sse, sse::Event},
};
use futures_util::{Stream, stream};

use super::{
    About, Answer, ApiError, BODY, In, Routes, event, read_body, read_query, wait_for, while_there,
};
use crate::{
    api::{
        MessageReport,
        job::{
            AwardQuery, BidPlaced, BidQuery, BidReport, BidsQuery, JobIdQuery, JobQuery, JobReport,
            OwnJobReport,
        },
        topic::TopicQuery,
    },
    args::MAX_BODY,
    client::{Reader, Writer},
    daemon::server::upgrade,
    error::CliError,
};

/// All of them.
pub(super) fn routes() -> Routes {
    Routes::default()
        .post(
            "/v1/jobs/publish",
            publish,
            About::json::<OwnJobReport>("Publishes a job and takes bids")
                .query::<JobQuery>()
                .takes_bytes(BODY),
        )
        .get(
            "/v1/jobs/bids",
            bids,
            About::json::<Vec<BidReport>>("Bids on an own job, when there are enough")
                .query::<BidsQuery>(),
        )
        .get(
            "/v1/jobs/watch",
            events,
            About::events::<JobReport>("Jobs of others on a topic", "job").query::<TopicQuery>(),
        )
        .post(
            "/v1/jobs/watch",
            watch,
            About::frames("Jobs of others on a topic", "a JSON frame for each")
                .query::<TopicQuery>(),
        )
        .post(
            "/v1/jobs/bid",
            bid,
            About::json::<BidPlaced>("Bids on a job")
                .query::<BidQuery>()
                .takes_bytes(BODY),
        )
        .post(
            "/v1/jobs/award",
            award,
            About::json::<MessageReport>("Hands the work to a bidder and waits for its result")
                .query::<AwardQuery>()
                .takes_bytes(BODY),
        )
        .post(
            "/v1/jobs/close",
            close,
            About::json::<JobIdQuery>("Takes no more bids").query::<JobIdQuery>(),
        )
}

async fn publish(
    In(presence): In,
    query: Result<Query<JobQuery>, QueryRejection>,
    body: Body,
) -> Answer<OwnJobReport> {
    let query = read_query(query)?;
    let body = read_body(body, MAX_BODY).await?;
    let bytes = body.len();
    let constraints = query.require.lines().map(str::parse);
    let constraints: Result<_, _> = constraints.collect();
    let exclude = query.exclude.split(',').filter(|peer| !peer.is_empty());
    let exclude: Result<_, CliError> = exclude.map(|peer| presence.resolve(peer)).collect();
    let spec = JobSpec {
        kind: query.kind,
        constraints: constraints
            .map_err(|e: anyhop::JobFormatError| CliError::usage(e.to_string()))?,
        exclude: exclude?,
        lifetime: Duration::from_secs(query.lifetime_s),
        encoding: query.encoding,
        body,
    };
    let job = presence.node.jobs(&query.topic)?.publish(spec)?;
    Ok(Json(OwnJobReport {
        id: job.id().to_string(),
        topic: query.topic,
        lifetime_s: query.lifetime_s,
        bytes,
    }))
}

async fn bids(
    In(presence): In,
    query: Result<Query<BidsQuery>, QueryRejection>,
) -> Answer<Vec<BidReport>> {
    let query = read_query(query)?;
    let mut job = presence.node.own_job(read_id(&query.id)?)?;
    let enough = async {
        for _ in 0..query.count {
            if job.next_bid().await.is_none() {
                return;
            }
        }
    };
    // Those that came by then are told all the same.
    let _ = tokio::time::timeout(wait_for(query.timeout_ms), enough).await;
    let bids = job.bids()?;
    let reports = bids.iter().map(|bid| BidReport::new(&query.id, bid));
    Ok(Json(reports.collect()))
}

async fn watch(
    In(presence): In,
    query: Result<Query<TopicQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let topic = read_query(query)?.topic;
    let jobs = presence.node.jobs(&topic)?.watch();
    let response = upgrade(&presence.tasks, request, |reader, writer| {
        tell(topic, jobs, reader, writer)
    })?;
    Ok(response)
}

/// Hands on jobs until the command leaves.
async fn tell(topic: String, mut jobs: JobWatch, mut reader: Reader, mut writer: Writer) {
    while let Some(job) = while_there(&mut reader, jobs.next()).await {
        if writer.json(&JobReport::new(&topic, &job)).await.is_err() {
            return;
        }
    }
}

async fn events(
    In(presence): In,
    query: Result<Query<TopicQuery>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let topic = read_query(query)?.topic;
    let jobs = presence.node.jobs(&topic)?.watch();
    let events = stream::unfold((jobs, topic), |(mut jobs, topic)| async move {
        let job = jobs.next().await?;
        let report = JobReport::new(&topic, &job);
        Some((event("job", &job.id, &report), (jobs, topic)))
    });
    Ok(super::events(events))
}

async fn bid(
    In(presence): In,
    query: Result<Query<BidQuery>, QueryRejection>,
    body: Body,
) -> Answer<BidPlaced> {
    let query = read_query(query)?;
    let body = read_body(body, MAX_BODY).await?;
    let bytes = body.len();
    let id = read_id(&query.id)?;
    presence.node.bid_on(id, query.encoding, body).await?;
    Ok(Json(BidPlaced {
        job: query.id,
        bytes,
    }))
}

async fn award(
    In(presence): In,
    query: Result<Query<AwardQuery>, QueryRejection>,
    body: Body,
) -> Answer<MessageReport> {
    let query = read_query(query)?;
    let peer = presence.resolve(&query.peer)?;
    let body = read_body(body, MAX_BODY).await?;
    let job = presence.node.own_job(read_id(&query.id)?)?;
    let reply = job.award(peer, query.encoding, body, wait_for(query.timeout_ms));
    Ok(Json(MessageReport::new(peer, &reply.await?, false)))
}

async fn close(
    In(presence): In,
    query: Result<Query<JobIdQuery>, QueryRejection>,
) -> Answer<JobIdQuery> {
    let query = read_query(query)?;
    presence.node.own_job(read_id(&query.id)?)?.close();
    Ok(Json(query))
}

fn read_id(text: &str) -> Result<JobId, CliError> {
    text.parse()
        .map_err(|e: anyhop::JobFormatError| CliError::usage(e.to_string()))
}
