//! `vpn`: IP packets through Anyhop's packet plane, over each kind of path, beside WireGuard
//! in user space and the devices alone.

mod tools;
mod ways;

use serde_json::{Value, json};

use self::{
    tools::Figures,
    ways::{Contender, Rival},
};
use super::progress;
use crate::{args::Vpn, error::Result, netns::Line, report::Report, stats::Spread};

/// What one contender showed, round by round.
struct Shown {
    name: String,
    rounds: Vec<Figures>,
}

pub(crate) fn vpn(args: &Vpn) -> Result<Report> {
    let Some(line) = Line::new()? else {
        return Ok(skipped("needs root and `ip`"));
    };
    if let Some(missing) = tools::missing(&["iperf3", "ping"]) {
        return Ok(skipped(&format!("needs `{missing}`")));
    }
    let (rivals, absent) = Rival::find(&args.rivals);
    let mut shown: Vec<Shown> = Vec::new();
    for round in 0..args.rounds {
        progress("vpn", round, args.rounds);
        let all = Contender::all(&rivals).into_iter();
        let chosen = all.filter(|c| c.is_the_yardstick() || c.name().contains(&args.only));
        for (at, contender) in chosen.enumerate() {
            let figures = contender.measure(&line, args.seconds)?;
            eprintln!("  {}: {:.2} Gbit/s", contender.name(), figures.one_out);
            match shown.get_mut(at) {
                Some(shown) => shown.rounds.push(figures),
                None => shown.push(Shown {
                    name: contender.name(),
                    rounds: vec![figures],
                }),
            }
        }
    }
    Ok(report(&shown, args, &absent))
}

fn skipped(why: &str) -> Report {
    Report {
        name: "vpn",
        what: format!("Not measured: {why}."),
        columns: vec!["contender"],
        rows: Vec::new(),
        data: Vec::new(),
    }
}

/// A figure of the table, and how it is read off a round.
type Column = (&'static str, usize, fn(&Figures) -> f64);

const COLUMNS: [Column; 10] = [
    ("1 stream, Gbit/s", 2, |f| f.one_out),
    ("1 stream back", 2, |f| f.one_back),
    ("4 streams", 2, |f| f.four_out),
    ("4 streams back", 2, |f| f.four_back),
    ("machine, CPU s/GB", 2, |f| f.machine_cpu_s_per_gb),
    ("tunnel, CPU s/GB", 2, |f| f.tunnel_cpu_s_per_gb),
    ("64-byte packets, thousands/s", 0, |f| f.packets_per_s / 1e3),
    ("round trip at 100/s, µs", 0, |f| f.rtt_us),
    ("at 1000/s", 0, |f| f.brisk_rtt_us),
    ("at 1000/s, awake", 0, |f| f.awake_rtt_us),
];

fn report(shown: &[Shown], args: &Vpn, absent: &[String]) -> Report {
    let missing = match absent {
        [] => String::new(),
        names => format!(" Not found here: {}.", names.join(", ")),
    };
    let mut columns = vec!["contender"];
    columns.extend(COLUMNS.map(|(name, _, _)| name));
    columns.extend([
        "of veth, 1 stream",
        "added round trip at 100/s, µs",
        "at 1000/s",
        "at 1000/s, awake",
    ]);
    let veth = shown.first();
    Report {
        name: "vpn",
        what: format!(
            "iperf3 and ping between two network namespaces, all on the same cores; {} rounds, \
             {} s each, contenders in turns. What the machine as a whole and what the tunnel's \
             processes spend is of one stream. Round trips are medians of echoes that come 100 and 1000 times \
             a second, and while something of the lowest priority keeps the processors from \
             going to sleep. The last four columns are taken round by round \
             against the devices alone.{missing}",
            args.rounds, args.seconds
        ),
        columns,
        rows: shown.iter().map(|s| row(s, veth)).collect(),
        data: shown.iter().map(|s| data(s, veth)).collect(),
    }
}

/// One figure of all rounds.
fn values(shown: &Shown, of: fn(&Figures) -> f64) -> Vec<f64> {
    shown.rounds.iter().map(of).collect()
}

/// Throughput as a part of the devices', and what is added to their round trips.
fn against(shown: &Shown, veth: Option<&Shown>) -> (Spread, [Spread; 3]) {
    let alone = |of: fn(&Figures) -> f64| veth.map_or_else(Vec::new, |v| values(v, of));
    let part = Spread::of_ratios(&values(shown, |f| f.one_out), &alone(|f| f.one_out));
    let added = |of: fn(&Figures) -> f64| {
        let pairs = values(shown, of).into_iter().zip(alone(of));
        Spread::of(pairs.map(|(own, veth)| own - veth))
    };
    let rtts = [
        added(|f| f.rtt_us),
        added(|f| f.brisk_rtt_us),
        added(|f| f.awake_rtt_us),
    ];
    (part, rtts)
}

fn row(shown: &Shown, veth: Option<&Shown>) -> Vec<String> {
    let mut row = vec![shown.name.clone()];
    for (_, precision, of) in COLUMNS {
        row.push(format!("{:.precision$}", Spread::of(values(shown, of))));
    }
    let (part, added) = against(shown, veth);
    row.push(format!("{part:.3}"));
    row.extend(added.map(|added| format!("{added:.0}")));
    row
}

fn data(shown: &Shown, veth: Option<&Shown>) -> Value {
    let (part, added) = against(shown, veth);
    let mut figures: serde_json::Map<_, _> = COLUMNS
        .iter()
        .map(|(name, _, of)| ((*name).to_owned(), json!(Spread::of(values(shown, *of)))))
        .collect();
    figures.insert("contender".to_owned(), json!(shown.name));
    figures.insert("part_of_veth".to_owned(), json!(part));
    figures.insert("added_rtt_us".to_owned(), json!(added[0]));
    figures.insert("added_rtt_us_at_1000_per_s".to_owned(), json!(added[1]));
    figures.insert("added_rtt_us_awake".to_owned(), json!(added[2]));
    Value::Object(figures)
}
