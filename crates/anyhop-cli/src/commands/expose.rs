//! `expose`, and following what its daemon side tells.

use super::Context;
use crate::{
    api::{ExposeQuery, Notice},
    args::ExposeArgs,
    client::Reader,
    error::CliError,
    frame::broken,
};

pub(super) async fn run(context: &Context, args: &ExposeArgs) -> Result<(), CliError> {
    let query = ExposeQuery {
        target: args.target.as_ref().map(ToString::to_string),
        udp: args.udp,
        exit: args.exit,
        allow_private: args.allow_private,
    };
    // The writer stays open: closing it would end it all.
    let (reader, _writer) = context.client().upgrade("/v1/expose", &query).await?;
    follow(context, reader).await
}

/// Prints what happens until the daemon ends.
pub(super) async fn follow(context: &Context, mut reader: Reader) -> Result<(), CliError> {
    while let Some(notice) = reader.next_json::<Notice>().await? {
        match &notice {
            Notice::Ready { exposed, local } => {
                let what = exposed.as_ref().or(local.as_ref()).cloned();
                context
                    .output
                    .result(&notice, |_| format!("ready {}", what.unwrap_or_default()))?;
            }
            Notice::Failed { client, error } => {
                if context.output.is_json() {
                    context.output.result(&notice, |_| String::new())?;
                    continue;
                }
                context
                    .output
                    .note(&format!("warning: {client} was not forwarded: {error}"));
                if let Some(hint) = &error.hint {
                    context.output.note(&format!("hint: {hint}"));
                }
            }
            Notice::Opened { .. } => {}
        }
    }
    Err(broken(&std::io::ErrorKind::UnexpectedEof.into()))
}
