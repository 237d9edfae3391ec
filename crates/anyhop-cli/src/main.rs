//! The `anyhop` program: a daemon and the commands that use it.
//!
//! ```text
//! args      what can be typed            spec    peers, targets, forwards
//! commands  one file each                output  printing, progress
//! client    a command's connection       frame   frames on upgraded connections
//! daemon    the other end of it          api     what travels between them
//! state     the state directory          error   codes, exit codes, hints
//! words     NATs in words                doctor  what keeps a host from connecting
//! site      what web browsers see
//! ```

mod api;
mod args;
mod client;
mod commands;
mod daemon;
mod doctor;
mod environment;
mod error;
mod frame;
mod output;
mod site;
mod spec;
mod state;
mod words;

use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        format::Writer,
        time::{FormatTime, SystemTime},
    },
};

use self::{
    args::Cli,
    error::{CliError, Code},
    output::Output,
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return bad_arguments(&e),
    };
    start_logging(cli.global.verbose);
    let output = Output::new(cli.global.json);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(commands::run(cli));
            // A read of standard input may still block a thread.
            runtime.shutdown_background();
            result
        }
        Err(e) => Err(CliError::new(
            Code::Failed,
            format!("cannot start threads: {e}"),
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error.code != Code::OutputClosed {
                output.error(&error);
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// Help, the version, or what is wrong with the arguments; the latter in JSON if that
/// was asked for as far as can be told.
fn bad_arguments(e: &clap::Error) -> ExitCode {
    let json = std::env::args_os()
        .take_while(|a| a != "--")
        .any(|a| a == "--json");
    if !e.use_stderr() || !json {
        // Nobody is left to tell when the output is gone.
        let _ = e.print();
    } else {
        let text = e.render().to_string();
        let message = text.lines().next().unwrap_or_default();
        let message = message.strip_prefix("error: ").unwrap_or(message);
        let error = CliError::usage(message).hint("see `anyhop --help`");
        Output::new(true).error(&error);
    }
    if e.use_stderr() {
        ExitCode::from(Code::Usage.exit_code())
    } else {
        ExitCode::SUCCESS
    }
}

fn start_logging(verbose: u8) {
    let default = match verbose {
        // What a message of others is wrong with is no warning for anybody here.
        0 => "warn,hickory_proto=error",
        1 => "warn,hickory_proto=error,anyhop=info",
        2 => "info,anyhop=debug",
        _ => "debug,anyhop=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_timer(LogTime)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(output::colours())
        .init();
}

/// The time of day, or in virtual time how much of it has passed.
struct LogTime;

impl FormatTime for LogTime {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        match anyhop_lab::clock::virtual_time() {
            Some(time) => write!(w, "+{:.6}s", time.as_secs_f64()),
            None => SystemTime.format_time(w),
        }
    }
}
