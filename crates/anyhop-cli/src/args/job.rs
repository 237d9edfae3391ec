//! Arguments of `job` and its commands.

use anyhop::{Constraint, JobId};
use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

use super::{WhatArgs, parse_seconds};
use crate::spec::PeerSpec;

/// `job`.
#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Call for bids on a topic
    Publish(JobPublishArgs),
    /// Print the bids on a job of this node
    Bids(JobBidsArgs),
    /// Print the jobs of others as they come, as long as this runs
    Watch(JobWatchArgs),
    /// Bid on a job that `watch` has shown
    Bid(JobBidArgs),
    /// Hand the work of a job to who bid, and print the result
    Award(JobAwardArgs),
    /// Take no more bids on a job of this node
    Close(JobArgs),
}

/// A job.
#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    /// The job's id
    #[arg(value_name = "ID")]
    pub(crate) id: JobId,
}

/// `job publish`.
#[derive(Debug, Args)]
pub(crate) struct JobPublishArgs {
    /// The topic's name
    #[arg(value_name = "TOPIC", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) what: WhatArgs,
    /// What is to be done, for those who watch
    #[arg(long, value_name = "K", default_value = "job")]
    pub(crate) kind: String,
    /// What a worker must be like: os=linux, cores>=4 or price<=0.5; may be given several times
    #[arg(long = "require", value_name = "KEY=VALUE|KEY>=N|KEY<=N")]
    pub(crate) require: Vec<Constraint>,
    /// Who need not bid; may be given several times
    #[arg(long, value_name = "PEER")]
    pub(crate) exclude: Vec<PeerSpec>,
    /// For how many seconds bids are taken, at most a day
    #[arg(long, value_name = "S", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) lifetime: u64,
}

/// `job bids`.
#[derive(Debug, Args)]
pub(crate) struct JobBidsArgs {
    #[command(flatten)]
    pub(crate) job: JobArgs,
    /// Wait until there are this many [default: print those there are]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Seconds to wait for them [default: until no more can come]
    #[arg(long, value_name = "S", requires = "count", value_parser = parse_seconds)]
    pub(crate) timeout: Option<f64>,
}

/// `job watch`.
#[derive(Debug, Args)]
pub(crate) struct JobWatchArgs {
    /// The topic's name
    #[arg(value_name = "TOPIC", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) topic: String,
    /// End after this many jobs [default: never]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Seconds to wait for each job. When they pass, --count not reached is an error;
    /// without --count it just ends
    #[arg(long, value_name = "S", value_parser = parse_seconds)]
    pub(crate) timeout: Option<f64>,
}

/// `job bid`.
#[derive(Debug, Args)]
pub(crate) struct JobBidArgs {
    #[command(flatten)]
    pub(crate) job: JobArgs,
    #[command(flatten)]
    pub(crate) what: WhatArgs,
}

/// `job award`.
#[derive(Debug, Args)]
pub(crate) struct JobAwardArgs {
    #[command(flatten)]
    pub(crate) job: JobArgs,
    /// Whose bid: PeerId, unique part of one, or name
    pub(crate) peer: PeerSpec,
    #[command(flatten)]
    pub(crate) what: WhatArgs,
    /// Seconds to wait for the result
    #[arg(long, value_name = "S", default_value_t = 600.0, value_parser = parse_seconds)]
    pub(crate) timeout: f64,
}
