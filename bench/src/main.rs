//! Measures Anyhop: throughput, forwarding, requests, sessions, memory and the time to
//! the first byte, beside plain noq in the same run where there is something to compare.
//!
//! Every measurement starts fresh processes of this program ([`worker`]) and tells them
//! what to do over pipes ([`wire`], [`child`]); [`measure`] holds one module for each
//! subcommand. See README.md for what the figures mean.

mod args;
mod child;
mod error;
mod measure;
mod netns;
mod report;
mod stats;
mod tunnel;
mod wire;
mod worker;

use std::{fs, process::ExitCode};

use clap::Parser;

use self::{
    args::{All, Cli, Command},
    error::{BenchError, Result},
    measure::Length,
    report::Report,
};

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("anyhop-bench: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let reports = match &cli.command {
        Command::Worker => return worker::run(),
        Command::Tunnel(args) => return tunnel::run(args),
        Command::Streams(args) => vec![measure::streams(args)?],
        Command::Circuit(timing) => vec![measure::circuit(*timing)?],
        Command::Requests(timing) => vec![measure::requests(*timing)?],
        Command::Sessions(args) => vec![measure::sessions(*args)?],
        Command::Memory(args) => vec![measure::memory(*args)?],
        Command::FirstByte(args) => vec![measure::first_byte(*args)?],
        Command::Vpn(args) => vec![measure::vpn(args)?],
        Command::All(args) => all(args)?,
    };
    if cli.json {
        println!("{:#}", report::json(&reports));
    } else {
        println!("{}", text(&reports));
    }
    Ok(())
}

fn all(args: &All) -> Result<Vec<Report>> {
    let length = if args.full {
        Length::Full
    } else {
        Length::Short
    };
    let reports = measure::all(length)?;
    if let Some(path) = &args.write {
        let what = path.display().to_string();
        let document = fs::read_to_string(path).map_err(BenchError::io(&what))?;
        let document = report::insert(&document, &text(&reports))?;
        fs::write(path, document).map_err(BenchError::io(&what))?;
    }
    Ok(reports)
}

fn text(reports: &[Report]) -> String {
    let tables: Vec<_> = reports.iter().map(ToString::to_string).collect();
    tables.join("\n")
}
