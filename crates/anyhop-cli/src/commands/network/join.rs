//! `network join`: asks, and waits until it is decided.

use std::{io::Read as _, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::Context;
use crate::{
    api::network::{JoinAsk, JoinReport, JoinTell, PublicAsk},
    args::JoinArgs,
    client::Reader,
    error::{CliError, Code},
    frame::broken,
    output,
};

/// How long the inviter may take to answer, unless something else is said.
const ANSWER: Duration = Duration::from_secs(60);
/// Longest text read from standard input; an invitation is far shorter.
const MAX_INVITE: u64 = 16 << 10;

pub(super) async fn run(context: &Context, args: JoinArgs) -> Result<(), CliError> {
    if args.public {
        return public(context, args).await;
    }
    let ask = JoinAsk {
        invite: read_invite(args.invite)?,
        membership: args.membership.ask(args.name),
    };
    // The writer stays open: closing it would end the telling.
    let (mut reader, _writer) = context
        .client()
        .upgrade_with("/v1/networks/join", &ask)
        .await?;
    let report = wait(context, &mut reader, args.timeout.map(output::seconds)).await?;
    context.output.result(&report, joined)
}

/// Nobody has to admit anybody: done when the node runs.
async fn public(context: &Context, args: JoinArgs) -> Result<(), CliError> {
    let listen = args.membership.listen;
    let ask = PublicAsk {
        name: args.invite,
        bootstrap: args.bootstrap.iter().map(ToString::to_string).collect(),
        listen: listen.listen,
        listen_ws: listen.listen_ws,
    };
    let client = context.client();
    let report: JoinReport = client.post("/v1/networks/public", &ask).await?;
    context.output.result(&report, joined)
}

fn joined(report: &JoinReport) -> String {
    let (network, peer_id) = (&report.network, &report.peer_id);
    format!("joined the network {network} as {peer_id}")
}

fn read_invite(typed: String) -> Result<String, CliError> {
    let mut text = typed;
    if text == "-" {
        text.clear();
        std::io::stdin()
            .lock()
            .take(MAX_INVITE)
            .read_to_string(&mut text)
            .map_err(|e| CliError::usage(format!("cannot read standard input: {e}")))?;
    }
    Ok(text.trim().to_owned())
}

/// Waits for the end, within the time asked for.
async fn wait(
    context: &Context,
    reader: &mut Reader,
    timeout: Option<Duration>,
) -> Result<JoinReport, CliError> {
    let bar = output::spinner("waiting for the inviter".to_owned());
    let mut network = String::new();
    let mut deadline = Some(Instant::now() + timeout.unwrap_or(ANSWER));
    let result = loop {
        let over = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let told = tokio::select! {
            told = reader.next_json::<JoinTell>() => told,
            () = over => break Err(too_late(&network)),
        };
        match told {
            Ok(Some(JoinTell::Asking { network: name })) => network = name,
            Ok(Some(JoinTell::Waiting)) => {
                bar.set_message("a person is to approve");
                context.output.note(&format!(
                    "waiting until a person approves of this node in {network}"
                ));
                if timeout.is_none() {
                    deadline = None;
                }
            }
            Ok(Some(JoinTell::Joined(report))) => break Ok(report),
            Ok(None) => break Err(broken(&std::io::ErrorKind::UnexpectedEof.into())),
            Err(e) => break Err(e),
        }
    };
    bar.finish_and_clear();
    result
}

fn too_late(network: &str) -> CliError {
    CliError::new(
        Code::Timeout,
        format!("nobody has admitted this node to {network} yet"),
    )
    .hint(format!(
        "the daemon goes on until the invitation expires: the same command waits again, \
         `anyhop network leave {network}` gives up"
    ))
}
