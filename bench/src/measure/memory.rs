//! `memory`: what an idle session costs.

use std::{thread, time::Duration};

use serde_json::json;

use super::{CONTENDERS, Versus, progress};
use crate::{
    args::Memory,
    child::{Place, Worker},
    error::{BenchError, Result},
    report::Report,
    stats::Spread,
    wire::{Kind, Look},
};

/// Sessions opened before the first look: what the first ones make the process allocate
/// once is no session's cost.
const WARM_UP: usize = 32;

/// Dials in flight: few, so that handshakes leave little behind.
const IN_FLIGHT: usize = 4;

/// Which process is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Accepting,
    Dialling,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Accepting => "accepting",
            Self::Dialling => "dialling",
        }
    }
}

pub(crate) fn memory(args: Memory) -> Result<Report> {
    let mut rows = Vec::new();
    for side in [Side::Accepting, Side::Dialling] {
        let mut bytes = Versus::default();
        for round in 0..args.rounds {
            progress(&format!("memory, {} side", side.name()), round, args.rounds);
            for kind in CONTENDERS {
                bytes.add(kind, one(kind, side, args)?);
            }
        }
        rows.push((side, bytes));
    }
    Ok(report(&rows, args))
}

/// Resident bytes that one more idle session adds to the process with one node. The
/// other ends live in a second process, each a node of its own.
fn one(kind: Kind, side: Side, args: Memory) -> Result<f64> {
    let sessions = usize::from(args.sessions);
    let mut single = Worker::start(kind, &Place::loopback())?;
    let mut many = Worker::with(kind, &Place::loopback(), WARM_UP + sessions, None)?;
    let idle = Duration::from_secs(args.idle.into());
    let mut grow = |from: usize, to: usize| {
        match side {
            Side::Accepting => {
                let targets = vec![single.target(); to - from];
                many.connect_from(from, targets, IN_FLIGHT)?
            }
            Side::Dialling => single.connect(many.targets[from..to].to_vec(), IN_FLIGHT)?,
        };
        pause(idle);
        single.look()
    };
    let before: Look = grow(0, WARM_UP)?;
    let after = grow(WARM_UP, WARM_UP + sessions)?;
    let added = after.sessions - before.sessions;
    if side == Side::Accepting && added != sessions {
        return Err(BenchError::Measured {
            what: "idle sessions",
            reason: format!("{added} of {sessions} are there"),
        });
    }
    Ok((after.rss_bytes as f64 - before.rss_bytes as f64) / sessions as f64)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the measuring process has no runtime and nothing else to do"
)]
fn pause(time: Duration) {
    thread::sleep(time);
}

fn report(rows: &[(Side, Versus)], args: Memory) -> Report {
    let cells = |(side, bytes): &(Side, Versus)| {
        let kib = |values: &[f64]| Spread::of(values.iter().map(|bytes| bytes / 1024.0));
        let (anyhop, plain) = (kib(&bytes.anyhop), kib(&bytes.plain));
        let cells = vec![
            side.name().to_owned(),
            format!("{anyhop:.1}"),
            format!("{plain:.1}"),
        ];
        let data = json!({
            "side": side.name(),
            "anyhop_kib": anyhop,
            "plain_kib": plain,
        });
        (cells, data)
    };
    let (rows, data) = rows.iter().map(cells).unzip();
    Report {
        name: "memory",
        what: format!(
            "Growth of a process's resident memory by {} sessions of one node, {} s after the \
             last was established, divided by their number; the other ends are nodes of their \
             own in a second process. {} rounds. What handshakes leave in the allocator counts.",
            args.sessions, args.idle, args.rounds
        ),
        columns: vec!["side", "Anyhop, KiB/session", "plain noq, KiB/session"],
        rows,
        data,
    }
}
