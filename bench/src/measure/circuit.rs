//! `circuit`: what one relay process forwards.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::json;

use super::{GIGABIT, GIGABYTE, WARM_UP, progress, with_cpu};
use crate::{
    args::Timing,
    child::{Place, Worker},
    error::{BenchError, Result},
    report::Report,
    stats::Spread,
    wire::Kind,
};

/// What one round showed.
struct Round {
    gbit_s: f64,
    direct_gbit_s: f64,
    relay_cpu_s_per_gb: f64,
    ends_cpu_s_per_gb: f64,
}

pub(crate) fn circuit(timing: Timing) -> Result<Report> {
    let mut rounds = Vec::new();
    for round in 0..timing.rounds {
        progress("circuit", round, timing.rounds);
        let direct_gbit_s = direct(timing)?;
        rounds.push(forwarded(timing, direct_gbit_s)?);
    }
    Ok(report(&rounds, timing))
}

/// The sender has IPv4 only and the receiver IPv6 only, so that nothing but the relay,
/// which has both, joins them.
fn forwarded(timing: Timing, direct_gbit_s: f64) -> Result<Round> {
    let v4 = (Ipv4Addr::LOCALHOST, 0).into();
    let v6 = (Ipv6Addr::LOCALHOST, 0).into();
    let relay = Worker::start(Kind::Anyhop, &Place::at(vec![v4, v6]))?;
    let node = |listen| {
        let place = Place::at(vec![listen]);
        let mut worker = Worker::with(Kind::Anyhop, &place, 1, Some(relay.target()))?;
        worker.attach()?;
        Ok::<_, BenchError>(worker)
    };
    let (mut dialler, server) = (node(v4)?, node(v6)?);
    dialler.connect(vec![server.target().without_address()], 1)?;
    dialler.send(1, WARM_UP)?;
    let mut workers = [dialler, relay, server];
    let before = workers[1].look()?.forwarded_bytes;
    let (sent, cpu) = with_cpu(&mut workers, |w| w.send(1, timing.during()))?;
    let carried = workers[1].look()?.forwarded_bytes - before;
    let path = workers[0].look()?.path;
    if path.as_deref() != Some("circuit") || carried < sent.count {
        return Err(BenchError::Measured {
            what: "the circuit",
            reason: format!(
                "{} bytes arrived, but the relay forwarded {carried}; the path is {path:?}",
                sent.count
            ),
        });
    }
    let gb = sent.count as f64 / GIGABYTE;
    Ok(Round {
        gbit_s: sent.per_second() / GIGABIT,
        direct_gbit_s,
        relay_cpu_s_per_gb: cpu[1] / gb,
        ends_cpu_s_per_gb: (cpu[0] + cpu[2]) / gb,
    })
}

/// The same without a relay, for comparison.
fn direct(timing: Timing) -> Result<f64> {
    let server = Worker::start(Kind::Anyhop, &Place::loopback())?;
    let mut dialler = Worker::start(Kind::Anyhop, &Place::loopback())?;
    dialler.connect(vec![server.target()], 1)?;
    dialler.send(1, WARM_UP)?;
    Ok(dialler.send(1, timing.during())?.per_second() / GIGABIT)
}

fn report(rounds: &[Round], timing: Timing) -> Report {
    let spread = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of));
    let gbit_s = spread(|r| r.gbit_s);
    let direct = spread(|r| r.direct_gbit_s);
    let relay = spread(|r| r.relay_cpu_s_per_gb);
    let ends = spread(|r| r.ends_cpu_s_per_gb);
    let per_core = spread(|r| GIGABYTE / GIGABIT / r.relay_cpu_s_per_gb);
    Report {
        name: "circuit",
        what: format!(
            "One stream of one session over one relay, three processes on loopback; {} rounds \
             of {} s. All three share the machine's cores; the last column says what one core \
             would carry if the relay had it to itself (8 / relay CPU s/GB).",
            timing.rounds, timing.seconds
        ),
        columns: vec![
            "over the relay, Gbit/s",
            "direct in the same run, Gbit/s",
            "relay, CPU s/GB",
            "both ends, CPU s/GB",
            "relay, Gbit/s for each core",
        ],
        rows: vec![vec![
            gbit_s.to_string(),
            direct.to_string(),
            relay.to_string(),
            ends.to_string(),
            format!("{per_core:.1}"),
        ]],
        data: vec![json!({
            "circuit_gbit_s": gbit_s,
            "direct_gbit_s": direct,
            "relay_cpu_s_per_gb": relay,
            "ends_cpu_s_per_gb": ends,
            "relay_gbit_s_per_core": per_core,
        })],
    }
}
