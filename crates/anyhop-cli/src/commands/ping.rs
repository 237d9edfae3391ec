//! `ping`.

use anyhop::{PathKind, Pong};
use serde::Serialize;
use tokio::time::Instant;

use super::Context;
use crate::{
    api::PingAsk,
    args::PingArgs,
    client::Client,
    error::{CliError, Code},
    output,
};

/// One answered echo.
#[derive(Debug, Serialize)]
struct Answered {
    seq: u64,
    rtt_ms: f64,
    kind: PathKind,
    hops: usize,
}

/// One that was not.
#[derive(Debug, Serialize)]
struct Unanswered<'a> {
    seq: u64,
    error: &'a CliError,
}

pub(super) async fn run(context: &Context, args: &PingArgs) -> Result<(), CliError> {
    let client = context.client();
    let ask = PingAsk {
        peer: args.peer.to_string(),
        timeout_ms: u64::try_from(output::seconds(args.timeout).as_millis()).unwrap_or(u64::MAX),
    };
    let mut answered = false;
    let mut last = None;
    let mut next = Instant::now();
    for seq in 1..=args.count {
        tokio::time::sleep_until(next).await;
        next = Instant::now() + output::seconds(args.interval);
        match one(&client, &ask).await {
            Ok(pong) => {
                answered = true;
                print_answered(context, args, seq, &pong)?;
            }
            Err(e) if !is_peers(e.code) => return Err(e),
            Err(e) => {
                let hopeless = !answered && e.code != Code::Timeout && e.code != Code::Lost;
                if context.output.is_json() {
                    let value = Unanswered { seq, error: &e };
                    context.output.result(&value, |_| String::new())?;
                } else if seq < args.count && !hopeless {
                    context.output.note(&format!("{seq}: {e}"));
                }
                last = Some(e);
                // Dialling tried every way for its whole time: more of it is no news.
                if hopeless {
                    break;
                }
            }
        }
    }
    match last {
        Some(mut error) if !answered => {
            // No answer is one outcome here, whatever its reason.
            error.exit = Some(Code::Unreachable.exit_code());
            Err(error)
        }
        _ => Ok(()),
    }
}

/// Whether an error is about the peer: then it is an answer of a kind.
fn is_peers(code: Code) -> bool {
    matches!(
        code,
        Code::Unreachable
            | Code::Timeout
            | Code::Lost
            | Code::Refused
            | Code::Limit
            | Code::WrongPeer
    )
}

async fn one(client: &Client, ask: &PingAsk) -> Result<Pong, CliError> {
    let bar = output::spinner(format!("waiting for {}", ask.peer));
    let result = client.post("/v1/ping", ask).await;
    bar.finish_and_clear();
    result
}

fn print_answered(
    context: &Context,
    args: &PingArgs,
    seq: u64,
    pong: &Pong,
) -> Result<(), CliError> {
    let value = Answered {
        seq,
        rtt_ms: pong.rtt_ms,
        kind: pong.kind,
        hops: pong.hops,
    };
    context.output.result(&value, |v| {
        let way = match v.kind {
            PathKind::Direct => "direct".to_owned(),
            PathKind::Circuit => format!("circuit of {} hops", v.hops),
        };
        format!("{}: {seq} {:.2} ms, {way}", args.peer, v.rtt_ms)
    })
}
