//! `cat`: standard input and output over one stream.

use std::{
    fs::{self, File},
    io::{self, IsTerminal as _},
};

use indicatif::ProgressBar;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Context;
use crate::{
    api::{CatQuery, Notice},
    args::CatArgs,
    client::{Reader, Writer},
    error::{CliError, Code},
    frame::{CHUNK, Frame, broken, parse_error, unexpected},
    output,
};

pub(super) async fn run(context: &Context, args: CatArgs) -> Result<(), CliError> {
    let path = match &args.peer {
        Some(peer) => format!("/v1/cat/{peer}"),
        None => "/v1/cat-listen".to_owned(),
    };
    let query = CatQuery { name: args.name };
    let (mut reader, writer) = context.client().upgrade(&path, &query).await?;
    if args.listen {
        tell_listening(context, &query);
    }
    let Some(notice) = reader.next_json::<Notice>().await? else {
        return Err(broken(&io::ErrorKind::UnexpectedEof.into()));
    };
    if let (true, Notice::Opened { peer_id }) = (context.verbose > 0, &notice) {
        context.output.note(&format!("stream with {peer_id}"));
    }
    carry(reader, writer).await
}

/// Says on standard error that peers can connect now; standard output is the stream's.
fn tell_listening(context: &Context, query: &CatQuery) {
    if context.output.is_json() {
        eprintln!(
            "{}",
            json!({"event": "listening", "protocol": query.protocol()})
        );
    } else if context.verbose > 0 || io::stderr().is_terminal() {
        context.output.note("listening for one stream");
    }
}

async fn carry(reader: Reader, writer: Writer) -> Result<(), CliError> {
    let bar = progress();
    let sending = async {
        let mut writer = writer;
        let result = from_stdin(&mut writer, &bar).await;
        if let Err(error) = &result {
            let _ = writer.error(error.clone()).await;
        }
        // Closing the connection would end the other direction too.
        result.map(|()| writer)
    };
    let receiving = to_stdout(reader, &bar);
    tokio::pin!(sending, receiving);
    let result = tokio::select! {
        result = &mut receiving => result,
        sent = &mut sending => match sent {
            Ok(writer) => {
                let result = receiving.await;
                drop(writer);
                result
            }
            // The daemon knows more about a connection it closed.
            Err(e) if e.code == Code::Lost => receiving.await.and(Err(e)),
            Err(e) => Err(e),
        },
    };
    bar.finish_and_clear();
    result
}

/// A bar over what is sent, when that comes from no terminal.
fn progress() -> ProgressBar {
    if io::stdin().is_terminal() {
        return ProgressBar::hidden();
    }
    let size = fs::metadata("/dev/stdin")
        .ok()
        .filter(fs::Metadata::is_file);
    output::byte_bar(size.map(|m| m.len()))
}

async fn from_stdin(writer: &mut Writer, bar: &ProgressBar) -> Result<(), CliError> {
    let mut stdin = tokio::io::stdin();
    let mut buf = vec![0; CHUNK];
    loop {
        let n = stdin
            .read(&mut buf)
            .await
            .map_err(|e| CliError::new(Code::Failed, format!("cannot read standard input: {e}")))?;
        if n == 0 {
            return writer.send(&Frame::End).await.map_err(|e| broken(&e));
        }
        writer.data(&buf[..n]).await.map_err(|e| broken(&e))?;
        bar.inc(n as u64);
    }
}

/// Ends well when the peer's data has ended and ours was delivered.
async fn to_stdout(mut reader: Reader, bar: &ProgressBar) -> Result<(), CliError> {
    let mut stdout = tokio::io::stdout();
    let on_terminal = io::stdout().is_terminal();
    let (mut receiving, mut sending) = (true, true);
    while receiving || sending {
        match reader.next().await.map_err(|e| broken(&e))? {
            Some(Frame::Data(data)) => {
                if on_terminal {
                    bar.finish_and_clear();
                }
                // Flushed each time: standard output keeps the last line back otherwise.
                let written = async {
                    stdout.write_all(&data).await?;
                    stdout.flush().await
                };
                written.await.map_err(|e| output::stdout_failed(&e))?;
            }
            Some(Frame::End) => {
                receiving = false;
                stdout
                    .flush()
                    .await
                    .map_err(|e| output::stdout_failed(&e))?;
                close_stdout();
            }
            Some(Frame::Delivered) => sending = false,
            Some(Frame::Error(error)) => return Err(parse_error(&error)),
            Some(Frame::Json(_)) => return Err(unexpected("JSON within a stream")),
            None => return Err(broken(&io::ErrorKind::UnexpectedEof.into())),
        }
    }
    Ok(())
}

/// Passes the end of the stream on to whoever reads standard output, while standard
/// input may still be open.
fn close_stdout() {
    match File::options().write(true).open("/dev/null") {
        Ok(null) => {
            if let Err(e) = nix::unistd::dup2_stdout(null) {
                tracing::debug!("standard output stays open until the end: {e}");
            }
        }
        Err(e) => tracing::debug!("standard output stays open until the end: {e}"),
    }
}
