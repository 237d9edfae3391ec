//! `subscribe`.

use std::time::Duration;

use super::Context;
use crate::{
    api::topic::{PostReport, PostTell, TopicQuery},
    args::SubscribeArgs,
    client::Reader,
    error::{CliError, Code},
    output,
};

pub(super) async fn run(context: &Context, args: SubscribeArgs) -> Result<(), CliError> {
    let topic = args.topic.unwrap_or_default();
    let query = TopicQuery {
        topic: topic.clone(),
    };
    // The writing half is held: its end is what ends the subscription.
    let (mut reader, _writer) = context.client().upgrade("/v1/subscribe", &query).await?;
    let within = args.timeout.map(output::seconds);
    let mut got = 0;
    while args.count.is_none_or(|count| got < count) {
        let Some(post) = next(&mut reader, &topic, within).await? else {
            return match args.count {
                None => Ok(()),
                Some(count) => Err(too_few(got, count)),
            };
        };
        context.output.result(&post, |p| {
            let base64 = if p.body_base64 { " (base64)" } else { "" };
            format!("{}{base64}: {}", p.from, p.body)
        })?;
        got += 1;
    }
    Ok(())
}

/// The next post; `None` when none came in time or the daemon stopped.
async fn next(
    reader: &mut Reader,
    topic: &str,
    within: Option<Duration>,
) -> Result<Option<PostReport>, CliError> {
    let read = reader.next_json::<PostTell>();
    let head = match within {
        None => read.await?,
        Some(within) => match tokio::time::timeout(within, read).await {
            Ok(head) => head?,
            Err(_) => return Ok(None),
        },
    };
    let Some(head) = head else { return Ok(None) };
    let body = reader.next_body(head.size).await?;
    Ok(Some(head.report(topic, &body)))
}

fn too_few(got: u64, count: u64) -> CliError {
    let text = format!("{got} of {count} posts received, and no other came in time");
    CliError::new(Code::Timeout, text)
        .hint("allow more time with --timeout SECONDS; `anyhop topics` shows who is on the topic")
}
