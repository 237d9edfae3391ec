//! `requests`: small requests and their replies.

use std::time::Duration;

use serde_json::json;

use super::{CONTENDERS, Versus, progress, with_cpu};
use crate::{
    args::Timing,
    child::{Place, Worker},
    error::Result,
    report::Report,
    stats::Spread,
    wire::Kind,
};

/// Requests in flight at once, one row each.
const IN_FLIGHT: [usize; 2] = [1, 64];

/// Time before the measured one.
const WARM_UP: Duration = Duration::from_millis(300);

struct Row {
    in_flight: usize,
    per_second: Versus,
    cpu_us: Versus,
}

pub(crate) fn requests(timing: Timing) -> Result<Report> {
    let mut rows = Vec::new();
    for in_flight in IN_FLIGHT {
        let mut row = Row {
            in_flight,
            per_second: Versus::default(),
            cpu_us: Versus::default(),
        };
        for round in 0..timing.rounds {
            progress(
                &format!("requests, {in_flight} in flight"),
                round,
                timing.rounds,
            );
            for kind in CONTENDERS {
                let (per_second, cpu_us) = one(kind, in_flight, timing)?;
                row.per_second.add(kind, per_second);
                row.cpu_us.add(kind, cpu_us);
            }
        }
        rows.push(row);
    }
    Ok(report(&rows, timing))
}

/// One round of one contender: requests per second, and CPU microseconds of both
/// processes for each.
fn one(kind: Kind, in_flight: usize, timing: Timing) -> Result<(f64, f64)> {
    let server = Worker::start(kind, &Place::loopback())?;
    let mut dialler = Worker::start(kind, &Place::loopback())?;
    dialler.connect(vec![server.target()], 1)?;
    dialler.request(in_flight, WARM_UP)?;
    let mut workers = [dialler, server];
    let (asked, cpu) = with_cpu(&mut workers, |w| w.request(in_flight, timing.during()))?;
    let cpu_us = cpu.iter().sum::<f64>() * 1e6 / asked.count as f64;
    Ok((asked.per_second(), cpu_us))
}

fn report(rows: &[Row], timing: Timing) -> Report {
    let cells = |row: &Row| {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        let (anyhop, plain) = (&row.per_second.anyhop, &row.per_second.plain);
        let ratios = Spread::of_ratios(anyhop, plain);
        let cpu = [&row.cpu_us.anyhop, &row.cpu_us.plain].map(|v| spread(v));
        let cells = vec![
            row.in_flight.to_string(),
            format!("{:.0}", spread(anyhop)),
            format!("{:.0}", spread(plain)),
            ratios.to_string(),
            format!("{:.0}", cpu[0]),
            format!("{:.0}", cpu[1]),
        ];
        let data = json!({
            "in_flight": row.in_flight,
            "anyhop_per_s": spread(anyhop),
            "plain_per_s": spread(plain),
            "paired_ratio": ratios,
            "anyhop_cpu_us": cpu[0],
            "plain_cpu_us": cpu[1],
        });
        (cells, data)
    };
    let (rows, data) = rows.iter().map(cells).unzip();
    Report {
        name: "requests",
        what: format!(
            "64 bytes there and 64 back over loopback, each request on a stream of its own; \
             {} rounds of {} s. CPU is of both processes, for each request.",
            timing.rounds, timing.seconds
        ),
        columns: vec![
            "in flight",
            "Anyhop, requests/s",
            "plain noq, requests/s",
            "paired ratios",
            "Anyhop, CPU µs",
            "plain noq, CPU µs",
        ],
        rows,
        data,
    }
}
