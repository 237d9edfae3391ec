//! The measurements, one module each.

mod circuit;
mod first_byte;
mod memory;
mod requests;
mod sessions;
mod streams;
mod vpn;

use std::time::Duration;

use clap::Parser;

pub(crate) use self::{
    circuit::circuit, first_byte::first_byte, memory::memory, requests::requests,
    sessions::sessions, streams::streams, vpn::vpn,
};
use crate::{
    args::{Cli, Command},
    child::Worker,
    error::{BenchError, Result},
    report::Report,
    wire::{Amount, Kind},
};

/// Contenders in the order in which they take their turns.
const CONTENDERS: [Kind; 2] = [Kind::Anyhop, Kind::Plain];

/// Time before each measured one, not counted: congestion windows and path MTU settle.
const WARM_UP: Duration = Duration::from_millis(700);

/// Bytes in a gigabit.
const GIGABIT: f64 = 1e9 / 8.0;
/// Bytes in a gigabyte.
const GIGABYTE: f64 = 1e9;

/// How long `all` may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// Some minutes.
    Short,
    /// What the subcommands take by themselves.
    Full,
}

/// Runs every measurement as its own command line would.
pub(crate) fn all(length: Length) -> Result<Vec<Report>> {
    let lines: [(&str, &str); 7] = [
        ("streams", "--rounds 3 --seconds 1"),
        ("circuit", "--rounds 3 --seconds 1"),
        ("requests", "--rounds 3 --seconds 1"),
        ("sessions", "--rounds 3 --peers 100"),
        ("memory", "--rounds 1 --sessions 200 --idle 5"),
        ("first-byte", "--rounds 5"),
        ("vpn", "--rounds 1 --seconds 1"),
    ];
    let mut reports = Vec::with_capacity(lines.len());
    for (name, short) in lines {
        let short = if length == Length::Short { short } else { "" };
        let line = ["anyhop-bench", name]
            .into_iter()
            .chain(short.split_whitespace());
        let cli = Cli::try_parse_from(line).map_err(BenchError::while_("settings"))?;
        reports.push(match cli.command {
            Command::Streams(args) => streams(&args)?,
            Command::Circuit(timing) => circuit(timing)?,
            Command::Requests(timing) => requests(timing)?,
            Command::Sessions(args) => sessions(args)?,
            Command::Memory(args) => memory(args)?,
            Command::FirstByte(args) => first_byte(args)?,
            Command::Vpn(args) => vpn(&args)?,
            Command::All(_) | Command::Worker | Command::Tunnel(_) => continue,
        });
    }
    Ok(reports)
}

/// Says on standard error how far a measurement is.
fn progress(what: &str, round: u16, rounds: u16) {
    eprintln!("{what}: round {} of {rounds}", round + 1);
}

/// Does something on a worker's session and tells what CPU time each process used.
fn with_cpu<const N: usize>(
    workers: &mut [Worker; N],
    work: impl FnOnce(&mut Worker) -> Result<Amount>,
) -> Result<(Amount, [f64; N])> {
    let mut cpu = [0.0; N];
    for (worker, cpu) in workers.iter_mut().zip(&mut cpu) {
        *cpu = -worker.look()?.cpu_s;
    }
    let amount = work(&mut workers[0])?;
    for (worker, cpu) in workers.iter_mut().zip(&mut cpu) {
        *cpu += worker.look()?.cpu_s;
    }
    Ok((amount, cpu))
}

/// What two contenders showed in the same rounds, as cells of a table.
#[derive(Debug, Default)]
struct Versus {
    anyhop: Vec<f64>,
    plain: Vec<f64>,
}

impl Versus {
    fn add(&mut self, kind: Kind, value: f64) {
        match kind {
            Kind::Anyhop => self.anyhop.push(value),
            Kind::Plain => self.plain.push(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_kept_apart() {
        let mut versus = Versus::default();
        for (kind, value) in CONTENDERS.into_iter().zip([1.0, 2.0]) {
            versus.add(kind, value);
        }
        assert_eq!((versus.anyhop, versus.plain), (vec![1.0], vec![2.0]));
    }
}
