//! `request`.

use super::{Context, print_reply, read_body};
use crate::{
    api::{MessageQuery, MessageReport},
    args::RequestArgs,
    error::CliError,
    output,
};

pub(super) async fn run(context: &Context, args: RequestArgs) -> Result<(), CliError> {
    let timeout = output::seconds(args.timeout).as_millis();
    let query = MessageQuery {
        peer: args.peer.to_string(),
        kind: args.message.kind,
        encoding: args.message.encoding.into(),
        timeout_ms: Some(u64::try_from(timeout).unwrap_or(u64::MAX)),
    };
    let body = read_body(args.body)?;
    let bar = output::spinner(format!("waiting for the reply of {}", args.peer));
    let reply: Result<MessageReport, _> = context
        .client()
        .post_bytes("/v1/request", &query, body)
        .await;
    bar.finish_and_clear();
    print_reply(context, &reply?)
}
