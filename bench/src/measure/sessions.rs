//! `sessions`: how many sessions are established in a second.

use serde_json::json;

use super::{CONTENDERS, Versus, progress};
use crate::{
    args::Sessions,
    child::{Place, Worker},
    error::Result,
    report::Report,
    stats::Spread,
    wire::Kind,
};

/// Dials in flight at once, one row each.
const IN_FLIGHT: [usize; 2] = [1, 16];

/// Peers dialled before the measured ones.
const WARM_UP: usize = 8;

struct Row {
    in_flight: usize,
    per_second: Versus,
    cpu_ms: Versus,
}

pub(crate) fn sessions(args: Sessions) -> Result<Report> {
    let mut rows = Vec::new();
    for in_flight in IN_FLIGHT {
        let mut row = Row {
            in_flight,
            per_second: Versus::default(),
            cpu_ms: Versus::default(),
        };
        for round in 0..args.rounds {
            progress(
                &format!("sessions, {in_flight} in flight"),
                round,
                args.rounds,
            );
            for kind in CONTENDERS {
                let (per_second, cpu_ms) = one(kind, in_flight, usize::from(args.peers))?;
                row.per_second.add(kind, per_second);
                row.cpu_ms.add(kind, cpu_ms);
            }
        }
        rows.push(row);
    }
    Ok(report(&rows, args))
}

/// One round of one contender: sessions per second, and CPU milliseconds of both
/// processes for each.
fn one(kind: Kind, in_flight: usize, peers: usize) -> Result<(f64, f64)> {
    let mut server = Worker::with(kind, &Place::loopback(), WARM_UP + peers, None)?;
    let mut dialler = Worker::start(kind, &Place::loopback())?;
    let mut targets = server.targets.clone();
    let measured = targets.split_off(WARM_UP);
    dialler.connect(targets, 1)?;
    let before = dialler.look()?.cpu_s + server.look()?.cpu_s;
    let seconds = dialler.connect(measured, in_flight)?;
    let cpu_s = dialler.look()?.cpu_s + server.look()?.cpu_s - before;
    let peers = peers as f64;
    Ok((peers / seconds, cpu_s * 1e3 / peers))
}

fn report(rows: &[Row], args: Sessions) -> Report {
    let cells = |row: &Row| {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        let (anyhop, plain) = (&row.per_second.anyhop, &row.per_second.plain);
        let ratios = Spread::of_ratios(anyhop, plain);
        let cpu = [&row.cpu_ms.anyhop, &row.cpu_ms.plain].map(|v| spread(v));
        let cells = vec![
            row.in_flight.to_string(),
            format!("{:.0}", spread(anyhop)),
            format!("{:.0}", spread(plain)),
            ratios.to_string(),
            cpu[0].to_string(),
            cpu[1].to_string(),
        ];
        let data = json!({
            "in_flight": row.in_flight,
            "anyhop_per_s": spread(anyhop),
            "plain_per_s": spread(plain),
            "paired_ratio": ratios,
            "anyhop_cpu_ms": cpu[0],
            "plain_cpu_ms": cpu[1],
        });
        (cells, data)
    };
    let (rows, data) = rows.iter().map(cells).unzip();
    Report {
        name: "sessions",
        what: format!(
            "One node dials {} others that live in a second process, over loopback; mutual \
             TLS 1.3 with X25519MLKEM768 on both contenders, nothing resumed; {} rounds. CPU \
             is of both processes, for each session.",
            args.peers, args.rounds
        ),
        columns: vec![
            "dials in flight",
            "Anyhop, sessions/s",
            "plain noq, sessions/s",
            "paired ratios",
            "Anyhop, CPU ms",
            "plain noq, CPU ms",
        ],
        rows,
        data,
    }
}
