//! Messages: sending, and what was received.

use std::{convert::Infallible, sync::Arc};

use anyhop::Message;
use axum::{
    Json,
    body::Body,
    extract::{Query, Request, rejection::QueryRejection},
    response::{Response, Sse, sse::Event},
};
use futures_util::{Stream, stream};

use super::{About, Answer, ApiError, BODY, In, Routes, event, read_body, read_query, wait_for};
use crate::{
    api::{MessageQuery, MessageReport, RecvQuery, ReplyQuery, Sent},
    args::MAX_BODY,
    daemon::{
        inbox::{self, events},
        server::upgrade,
    },
    error::CliError,
};

/// What is said on the connection of a `recv`.
const RECV: &str = "JSON frames `{\"take\":{..}}`, `\"done\"`, `{\"reply\":{..}}` or \
                    `\"echo\"` there; the message and what came of it back";

/// All of them.
pub(super) fn routes() -> Routes {
    Routes::default()
        .post(
            "/v1/send",
            send,
            About::json::<Sent>("Sends a message; done when the inbox of the peer has it")
                .query::<MessageQuery>()
                .takes_bytes(BODY),
        )
        .post(
            "/v1/request",
            request,
            About::json::<MessageReport>("Sends a request and waits for its reply")
                .query::<MessageQuery>()
                .takes_bytes(BODY),
        )
        .post(
            "/v1/recv",
            recv,
            About::frames(
                "Takes messages from the inbox, each gone only when it was settled",
                RECV,
            ),
        )
        .get(
            "/v1/recv",
            events,
            About::events::<MessageReport>("Takes messages from the inbox as they come", "message")
                .query::<RecvQuery>(),
        )
        .post(
            "/v1/reply",
            reply,
            About::json::<Sent>("Replies to a request that an event told")
                .query::<ReplyQuery>()
                .takes_bytes(BODY),
        )
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
    let within = wait_for(query.timeout_ms);
    let message = read_message(query, body).await?;
    let reply = presence.node.request(peer, message, within).await?;
    Ok(Json(MessageReport::new(peer, &reply, false)))
}

async fn recv(In(presence): In, request: Request) -> Result<Response, ApiError> {
    let for_work = Arc::clone(&presence);
    let response = upgrade(&presence.tasks, request, |reader, writer| async move {
        inbox::serve(&for_work.inbox, reader, writer).await;
    })?;
    Ok(response)
}

async fn events(
    In(presence): In,
    query: Result<Query<RecvQuery>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let kind = read_query(query)?.kind;
    let messages = events::Events::new(presence, kind);
    let events = stream::unfold(messages, |mut messages| async move {
        let (id, report) = messages.next().await?;
        Some((event("message", &id, &report), messages))
    });
    Ok(super::events(events))
}

async fn reply(
    In(presence): In,
    query: Result<Query<ReplyQuery>, QueryRejection>,
    body: Body,
) -> Answer<Sent> {
    let query = read_query(query)?;
    let message = Message {
        kind: query.kind,
        encoding: query.encoding,
        body: read_body(body, MAX_BODY).await?,
    };
    let bytes = message.body.len();
    let to = events::reply(&presence, query.id, message).await?;
    Ok(Json(Sent {
        to: to.to_base58(),
        bytes,
    }))
}

async fn read_message(query: MessageQuery, body: Body) -> Result<Message, CliError> {
    Ok(Message {
        kind: query.kind,
        encoding: query.encoding,
        body: read_body(body, MAX_BODY).await?,
    })
}
