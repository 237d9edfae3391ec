//! `streams`: how fast one session's streams are.

use serde_json::json;

use super::{CONTENDERS, GIGABIT, GIGABYTE, Versus, WARM_UP, progress, with_cpu};
use crate::{
    args::{Streams, Timing},
    child::{Place, Worker},
    error::Result,
    netns::VethPair,
    report::Report,
    stats::Spread,
    wire::Kind,
};

/// One row: a network and a number of streams.
struct Row {
    network: &'static str,
    streams: u16,
    gbit_s: Versus,
    cpu_s_per_gb: Versus,
}

/// Where the two processes are.
struct Network<'a> {
    name: &'static str,
    dialler: Place<'a>,
    server: Place<'a>,
}

pub(crate) fn streams(args: &Streams) -> Result<Report> {
    let pair = VethPair::new()?;
    if pair.is_none() {
        eprintln!("streams: no veth pair without root and ip; loopback only");
    }
    let mut networks = vec![Network {
        name: "loopback",
        dialler: Place::loopback(),
        server: Place::loopback(),
    }];
    if let Some(VethPair([a, b])) = &pair {
        let [dialler, server] = [a, b].map(|end| Place {
            namespace: Some(end),
            listen: vec![(end.ip, 0).into()],
        });
        networks.push(Network {
            name: "veth pair",
            dialler,
            server,
        });
    }
    let mut rows = Vec::new();
    for network in &networks {
        for streams in &args.streams {
            rows.push(measure(network, *streams, args.timing)?);
        }
    }
    Ok(report(&rows, args.timing))
}

fn measure(network: &Network<'_>, streams: u16, timing: Timing) -> Result<Row> {
    let mut row = Row {
        network: network.name,
        streams,
        gbit_s: Versus::default(),
        cpu_s_per_gb: Versus::default(),
    };
    for round in 0..timing.rounds {
        let what = format!("streams, {}, {streams}", network.name);
        progress(&what, round, timing.rounds);
        for kind in CONTENDERS {
            let (gbit_s, cpu) = one(network, kind, streams, timing)?;
            row.gbit_s.add(kind, gbit_s);
            row.cpu_s_per_gb.add(kind, cpu);
        }
    }
    Ok(row)
}

/// One round of one contender, in fresh processes: Gbit/s, and CPU seconds of both
/// processes for each GB.
fn one(network: &Network<'_>, kind: Kind, streams: u16, timing: Timing) -> Result<(f64, f64)> {
    let streams = usize::from(streams);
    let server = Worker::start(kind, &network.server)?;
    let mut dialler = Worker::start(kind, &network.dialler)?;
    dialler.connect(vec![server.target()], 1)?;
    dialler.send(streams, WARM_UP)?;
    let mut workers = [dialler, server];
    let (sent, cpu) = with_cpu(&mut workers, |w| w.send(streams, timing.during()))?;
    let gb = sent.count as f64 / GIGABYTE;
    Ok((sent.per_second() / GIGABIT, cpu.iter().sum::<f64>() / gb))
}

fn report(rows: &[Row], timing: Timing) -> Report {
    let cells = |row: &Row| {
        let (anyhop, plain) = (&row.gbit_s.anyhop, &row.gbit_s.plain);
        let medians = [anyhop, plain].map(|v| Spread::of(v.iter().copied()));
        let cpu = [&row.cpu_s_per_gb.anyhop, &row.cpu_s_per_gb.plain];
        let cpu = cpu.map(|v| Spread::of(v.iter().copied()));
        let ratios = Spread::of_ratios(anyhop, plain);
        let ratio = medians[0].median / medians[1].median;
        let cells = vec![
            row.network.to_owned(),
            row.streams.to_string(),
            medians[0].to_string(),
            medians[1].to_string(),
            format!("{ratio:.3}"),
            format!("{ratios:.3}"),
            cpu[0].to_string(),
            cpu[1].to_string(),
        ];
        let data = json!({
            "network": row.network,
            "streams": row.streams,
            "anyhop_gbit_s": medians[0],
            "plain_gbit_s": medians[1],
            "ratio_of_medians": ratio,
            "paired_ratio": ratios,
            "anyhop_cpu_s_per_gb": cpu[0],
            "plain_cpu_s_per_gb": cpu[1],
            "rounds": { "anyhop_gbit_s": anyhop, "plain_gbit_s": plain },
        });
        (cells, data)
    };
    let (rows, data) = rows.iter().map(cells).unzip();
    Report {
        name: "streams",
        what: format!(
            "One session, bytes one way on streams of 64 KiB writes; {} rounds of {} s each, \
             fresh processes in each round, contenders in turns. CPU is of both processes.",
            timing.rounds, timing.seconds
        ),
        columns: vec![
            "network",
            "streams",
            "Anyhop, Gbit/s",
            "plain noq, Gbit/s",
            "ratio of medians",
            "paired ratios",
            "Anyhop, CPU s/GB",
            "plain noq, CPU s/GB",
        ],
        rows,
        data,
    }
}
