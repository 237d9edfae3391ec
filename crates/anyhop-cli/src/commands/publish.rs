//! `publish` and `broadcast`.

use super::{Context, read_body};
use crate::{
    api::topic::{PublishQuery, PublishReport},
    args::WhatArgs,
    error::CliError,
};

/// Publishes on a topic; the empty name is that of what goes to all.
pub(super) async fn run(context: &Context, topic: String, args: WhatArgs) -> Result<(), CliError> {
    let query = PublishQuery {
        topic,
        encoding: args.encoding.into(),
    };
    let body = read_body(args.body)?;
    let client = context.client();
    let published: PublishReport = client.post_bytes("/v1/publish", &query, body).await?;
    context.output.result(&published, |p| {
        let whom = match (p.topic.as_str(), p.neighbours) {
            ("", n) => format!("to all nodes, through {n} neighbours"),
            (topic, 0) => format!("on {topic}, where this node knows nobody yet"),
            (topic, n) => format!("on {topic}, through {n} neighbours"),
        };
        format!("published {} bytes {whom}", p.bytes)
    })
}
