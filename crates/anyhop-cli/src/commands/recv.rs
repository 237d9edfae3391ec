//! `recv`.

use bytes::Bytes;

use super::Context;
use crate::{
    api::{MessageReport, RecvAsk, RecvTell},
    args::RecvArgs,
    client::{Reader, Writer},
    error::{CliError, Code},
    frame::{broken, unexpected},
    output,
};

pub(super) async fn run(context: &Context, args: RecvArgs) -> Result<(), CliError> {
    let (mut reader, mut writer) = context.client().upgrade("/v1/recv", &()).await?;
    let timeout_ms = args
        .timeout
        .map(|s| u64::try_from(output::seconds(s).as_millis()).unwrap_or(u64::MAX));
    let mut got = 0;
    while args.count.is_none_or(|count| got < count) {
        let Some(message) = take(&mut reader, &mut writer, timeout_ms, &args.kind).await? else {
            return match args.count {
                None => Ok(()),
                Some(count) => Err(too_few(got, count, args.timeout.unwrap_or_default())),
            };
        };
        print(context, &message)?;
        got += 1;
        let ask = match (&args.reply, args.echo) {
            (Some(text), _) => RecvAsk::Reply { text: text.clone() },
            (None, true) => RecvAsk::Echo,
            (None, false) => RecvAsk::Done,
        };
        settle(context, &mut reader, &mut writer, &ask).await?;
    }
    Ok(())
}

/// The next message, or `None` when none came in time.
async fn take(
    reader: &mut Reader,
    writer: &mut Writer,
    timeout_ms: Option<u64>,
    kind: &Option<String>,
) -> Result<Option<MessageReport>, CliError> {
    let kind = kind.clone();
    tell(writer, &RecvAsk::Take { timeout_ms, kind }).await?;
    match next(reader).await? {
        RecvTell::Nothing => Ok(None),
        head @ RecvTell::Message { size, .. } => {
            let body: Bytes = reader.next_body(size).await?;
            let report = head.report(body);
            report
                .map(Some)
                .ok_or_else(|| unexpected("a message without a sender"))
        }
        RecvTell::Settled { .. } => Err(unexpected("nothing was taken")),
    }
}

/// Tells the daemon that the message was printed, and what to answer.
async fn settle(
    context: &Context,
    reader: &mut Reader,
    writer: &mut Writer,
    ask: &RecvAsk,
) -> Result<(), CliError> {
    tell(writer, ask).await?;
    match next(reader).await? {
        RecvTell::Settled { problem } => {
            if let Some(problem) = problem {
                context.output.note(&format!("warning: {problem}"));
            }
            Ok(())
        }
        _ => Err(unexpected("the message was not settled")),
    }
}

async fn tell(writer: &mut Writer, ask: &RecvAsk) -> Result<(), CliError> {
    writer.json(ask).await.map_err(|e| broken(&e))
}

async fn next(reader: &mut Reader) -> Result<RecvTell, CliError> {
    let told = reader.next_json().await?;
    told.ok_or_else(|| broken(&std::io::ErrorKind::UnexpectedEof.into()))
}

fn print(context: &Context, message: &MessageReport) -> Result<(), CliError> {
    context.output.result(message, |m| {
        let what = if m.request { "request" } else { "message" };
        let base64 = if m.body_base64 { ", base64" } else { "" };
        format!("{} {what} ({}{base64}): {}", m.from, m.kind, m.body)
    })
}

fn too_few(got: u64, count: u64, seconds: f64) -> CliError {
    CliError::new(
        Code::Timeout,
        format!("{got} of {count} messages received, and no other came within {seconds} s"),
    )
    .hint("allow more time with --timeout SECONDS, or leave it out to wait on")
}
