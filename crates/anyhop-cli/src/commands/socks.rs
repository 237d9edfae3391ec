//! `socks`.

use super::{Context, expose::follow};
use crate::{api::SocksQuery, args::SocksArgs, error::CliError};

pub(super) async fn run(context: &Context, args: &SocksArgs) -> Result<(), CliError> {
    let query = SocksQuery {
        listen: args.listen.to_string(),
        exit: args.exit.as_ref().map(ToString::to_string),
    };
    // The writer stays open: closing it would end it all.
    let (reader, _writer) = context.client().upgrade("/v1/socks", &query).await?;
    follow(context, reader).await
}
