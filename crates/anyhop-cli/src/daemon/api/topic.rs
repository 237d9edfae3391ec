//! Topics: publishing, and posts as they come.

use std::convert::Infallible;

use anyhop::{Subscription, TopicInfo};
use axum::{
    Json,
    body::Body,
    extract::{Query, Request, rejection::QueryRejection},
    response::{Response, Sse, sse::Event},
};
use futures_util::{Stream, stream};

use super::{About, Answer, ApiError, BODY, In, Routes, event, read_body, read_query, while_there};
use crate::{
    api::topic::{PostReport, PostTell, PublishQuery, PublishReport, TopicQuery},
    args::MAX_BODY,
    client::{Reader, Writer},
    daemon::server::upgrade,
};

pub(super) fn routes() -> Routes {
    Routes::default()
        .get(
            "/v1/topics",
            topics,
            About::json::<Vec<TopicInfo>>("Topics that the node is on"),
        )
        .post(
            "/v1/publish",
            publish,
            About::json::<PublishReport>("Publishes on a topic, or to all")
                .query::<PublishQuery>()
                .takes_bytes(BODY),
        )
        .get(
            "/v1/subscribe",
            events,
            About::events::<PostReport>("What is published on a topic, or to all", "post")
                .query::<TopicQuery>(),
        )
        .post(
            "/v1/subscribe",
            subscribe,
            About::frames(
                "What is published on a topic, or to all",
                "for each post a JSON frame, then data frames with its body",
            )
            .query::<TopicQuery>(),
        )
}

async fn topics(In(presence): In) -> Json<Vec<TopicInfo>> {
    Json(presence.node.topics())
}

async fn publish(
    In(presence): In,
    query: Result<Query<PublishQuery>, QueryRejection>,
    body: Body,
) -> Answer<PublishReport> {
    let query = read_query(query)?;
    let body = read_body(body, MAX_BODY).await?;
    let bytes = body.len();
    let topic = presence.node.topic(&query.topic)?;
    let published = topic.publish(query.encoding, body)?;
    Ok(Json(PublishReport {
        topic: query.topic,
        id: published.id.to_string(),
        seq: published.seq,
        bytes,
        neighbours: published.neighbours,
    }))
}

async fn subscribe(
    In(presence): In,
    query: Result<Query<TopicQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let topic = presence.node.topic(&read_query(query)?.topic)?;
    let posts = topic.subscribe();
    let response = upgrade(&presence.tasks, request, |reader, writer| {
        tell(posts, reader, writer)
    })?;
    Ok(response)
}

/// Hands on posts until the command leaves.
async fn tell(mut posts: Subscription, mut reader: Reader, mut writer: Writer) {
    while let Some(post) = while_there(&mut reader, posts.next()).await {
        let told = async {
            writer.json(&PostTell::new(&post)).await?;
            writer.data(&post.body).await
        };
        if told.await.is_err() {
            return;
        }
    }
}

async fn events(
    In(presence): In,
    query: Result<Query<TopicQuery>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let name = read_query(query)?.topic;
    let posts = presence.node.topic(&name)?.subscribe();
    let events = stream::unfold((posts, name), |(mut posts, name)| async move {
        let post = posts.next().await?;
        let report: PostReport = PostTell::new(&post).report(&name, &post.body);
        Some((event("post", &post.id, &report), (posts, name)))
    });
    Ok(super::events(events))
}
