//! `send`.

use super::{Context, read_body};
use crate::{
    api::{MessageQuery, Sent},
    args::SendArgs,
    error::CliError,
    output,
};

pub(super) async fn run(context: &Context, args: SendArgs) -> Result<(), CliError> {
    let query = MessageQuery {
        peer: args.peer.to_string(),
        kind: args.message.kind,
        encoding: args.message.encoding.into(),
        timeout_ms: None,
    };
    let body = read_body(args.body)?;
    let bar = output::spinner(format!("sending to {}", args.peer));
    let sent: Result<Sent, _> = context.client().post_bytes("/v1/send", &query, body).await;
    bar.finish_and_clear();
    context.output.result(&sent?, |s| {
        format!("delivered {} bytes to {}", s.bytes, s.to)
    })
}
