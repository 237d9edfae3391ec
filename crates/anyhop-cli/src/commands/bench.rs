//! `bench`.

use super::{Context, path_text};
use crate::{
    api::{BenchQuery, BenchReport, BenchTell},
    args::BenchArgs,
    error::CliError,
    frame::broken,
    output,
};

pub(super) async fn run(context: &Context, args: &BenchArgs) -> Result<(), CliError> {
    let query = BenchQuery {
        seconds: args.seconds,
        streams: args.streams,
        reverse: args.reverse,
    };
    let bar = output::time_bar(args.seconds.into());
    let path = format!("/v1/bench/{}", args.peer);
    // The writer stays open: closing it would end it all.
    let (mut reader, _writer) = context.client().upgrade(&path, &query).await?;
    let report = loop {
        match reader.next_json::<BenchTell>().await? {
            Some(BenchTell::Progress { bytes, elapsed_ms }) => {
                bar.set_position(elapsed_ms);
                bar.set_message(format!("{:.2} GB", bytes as f64 / 1e9));
            }
            Some(BenchTell::Done(report)) => break report,
            None => return Err(broken(&std::io::ErrorKind::UnexpectedEof.into())),
        }
    };
    bar.finish_and_clear();
    context.output.result(&report, text)
}

fn text(r: &BenchReport) -> String {
    let way = r
        .path
        .as_ref()
        .map_or_else(|| "no path now".to_owned(), path_text);
    let plural = if r.streams == 1 { "" } else { "s" };
    let direction = if r.reverse { "from" } else { "to" };
    format!(
        "{:.3} Gbit/s {direction} {} over {} stream{plural} in {:.2} s, {:.2} CPU seconds here\n{way}",
        r.gbit_s, r.peer_id, r.streams, r.seconds, r.cpu_s_local
    )
}
