//! `forward`.

use super::{Context, expose::follow};
use crate::{api::ForwardQuery, args::ForwardArgs, error::CliError};

pub(super) async fn run(context: &Context, args: &ForwardArgs) -> Result<(), CliError> {
    let query = ForwardQuery {
        local: args.local.to_string(),
        peer: args.target.peer.to_string(),
        target: args.target.target.to_string(),
        udp: args.udp,
    };
    // The writer stays open: closing it would end it all.
    let (reader, _writer) = context.client().upgrade("/v1/forward", &query).await?;
    follow(context, reader).await
}
