//! `job` and its commands.

use std::time::Duration;

use super::{Context, print_reply, read_body};
use crate::{
    api::{
        MessageReport,
        job::{
            AwardQuery, BidPlaced, BidQuery, BidReport, BidsQuery, JobIdQuery, JobQuery, JobReport,
            OwnJobReport,
        },
        topic::TopicQuery,
    },
    args::job::{
        JobArgs, JobAwardArgs, JobBidArgs, JobBidsArgs, JobCommand, JobPublishArgs, JobWatchArgs,
    },
    client::Reader,
    error::{CliError, Code},
    output,
};

pub(super) async fn run(context: &Context, command: JobCommand) -> Result<(), CliError> {
    match command {
        JobCommand::Publish(args) => publish(context, args).await,
        JobCommand::Bids(args) => bids(context, &args).await,
        JobCommand::Watch(args) => watch(context, args).await,
        JobCommand::Bid(args) => bid(context, args).await,
        JobCommand::Award(args) => award(context, args).await,
        JobCommand::Close(args) => close(context, &args).await,
    }
}

async fn publish(context: &Context, args: JobPublishArgs) -> Result<(), CliError> {
    let lines: Vec<_> = args.require.iter().map(ToString::to_string).collect();
    let excluded: Vec<_> = args.exclude.iter().map(ToString::to_string).collect();
    let query = JobQuery {
        topic: args.topic,
        kind: args.kind,
        require: lines.join("\n"),
        exclude: excluded.join(","),
        lifetime_s: args.lifetime,
        encoding: args.what.encoding.into(),
    };
    let body = read_body(args.what.body)?;
    let client = context.client();
    let job: OwnJobReport = client.post_bytes("/v1/jobs/publish", &query, body).await?;
    context.output.result(&job, |job| {
        format!(
            "job {} is open for bids on {} for {} s",
            job.id, job.topic, job.lifetime_s
        )
    })
}

async fn bids(context: &Context, args: &JobBidsArgs) -> Result<(), CliError> {
    let query = BidsQuery {
        id: args.job.id.to_string(),
        count: args.count.unwrap_or(0),
        timeout_ms: args.timeout.map(millis),
    };
    let path = "/v1/jobs/bids";
    let bar = output::spinner("waiting for bids".to_owned());
    let bids: Result<Vec<BidReport>, _> = context.client().query(path, &query).await;
    bar.finish_and_clear();
    let bids = bids?;
    for bid in &bids {
        context.output.result(bid, |bid| {
            let base64 = if bid.body_base64 { " (base64)" } else { "" };
            format!("{}{base64}: {}", bid.from, bid.body)
        })?;
    }
    match args.count {
        Some(count) if (bids.len() as u64) < count => {
            Err(too_few("bids", bids.len() as u64, count).hint(
                "allow more time with --timeout SECONDS; a job takes bids until its time is over",
            ))
        }
        _ => Ok(()),
    }
}

async fn watch(context: &Context, args: JobWatchArgs) -> Result<(), CliError> {
    let query = TopicQuery { topic: args.topic };
    // The writing half is held: its end is what ends the watch.
    let (mut reader, _writer) = context.client().upgrade("/v1/jobs/watch", &query).await?;
    let within = args.timeout.map(output::seconds);
    let mut got = 0;
    while args.count.is_none_or(|count| got < count) {
        let Some(job) = next(&mut reader, within).await? else {
            return match args.count {
                None => Ok(()),
                Some(count) => Err(too_few("jobs", got, count)
                    .hint("allow more time with --timeout SECONDS; `anyhop topics` shows who is on jobs/1/TOPIC")),
            };
        };
        context.output.result(&job, |job| {
            let base64 = if job.body_base64 { " (base64)" } else { "" };
            let require = match job.require.as_slice() {
                [] => String::new(),
                some => format!(", requires {}", some.join(" and ")),
            };
            let (id, from, kind) = (&job.id, &job.from, &job.kind);
            format!("{id} {kind} of {from}{require}{base64}: {}", job.body)
        })?;
        got += 1;
    }
    Ok(())
}

/// The next job; `None` when none came in time or the daemon stopped.
async fn next(
    reader: &mut Reader,
    within: Option<Duration>,
) -> Result<Option<JobReport>, CliError> {
    let read = reader.next_json::<JobReport>();
    match within {
        None => read.await,
        Some(within) => match tokio::time::timeout(within, read).await {
            Ok(job) => job,
            Err(_) => Ok(None),
        },
    }
}

async fn bid(context: &Context, args: JobBidArgs) -> Result<(), CliError> {
    let query = BidQuery {
        id: args.job.id.to_string(),
        encoding: args.what.encoding.into(),
    };
    let body = read_body(args.what.body)?;
    let client = context.client();
    let placed: BidPlaced = client.post_bytes("/v1/jobs/bid", &query, body).await?;
    context.output.result(&placed, |placed| {
        format!(
            "bid on {job} taken; take the work with `anyhop recv --type job/{job} --reply TEXT`",
            job = placed.job
        )
    })
}

async fn award(context: &Context, args: JobAwardArgs) -> Result<(), CliError> {
    let query = AwardQuery {
        id: args.job.id.to_string(),
        peer: args.peer.to_string(),
        encoding: args.what.encoding.into(),
        timeout_ms: Some(millis(args.timeout)),
    };
    let body = read_body(args.what.body)?;
    let bar = output::spinner(format!("waiting for the result of {}", args.peer));
    let client = context.client();
    let reply: Result<MessageReport, _> = client.post_bytes("/v1/jobs/award", &query, body).await;
    bar.finish_and_clear();
    let refused = |e: CliError| {
        match e.code {
        Code::Refused => e.hint("the peer takes the work of jobs that it has bid on: `anyhop job bids ID`, and works only while it runs"),
        _ => e,
    }
    };
    print_reply(context, &reply.map_err(refused)?)
}

async fn close(context: &Context, args: &JobArgs) -> Result<(), CliError> {
    let id = args.id.to_string();
    let query = JobIdQuery { id };
    let none = bytes::Bytes::new();
    let client = context.client();
    let closed: JobIdQuery = client.post_bytes("/v1/jobs/close", &query, none).await?;
    context
        .output
        .result(&closed, |c| format!("job {} takes no more bids", c.id))
}

fn millis(s: f64) -> u64 {
    u64::try_from(output::seconds(s).as_millis()).unwrap_or(u64::MAX)
}

fn too_few(what: &str, got: u64, count: u64) -> CliError {
    let text = format!("{got} of {count} {what}, and no other came in time");
    CliError::new(Code::Timeout, text)
}
