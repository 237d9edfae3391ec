use std::path::PathBuf;

use super::*;
use crate::{chaos, clock::run_virtual};

const SMALL: &str = r#"
seed = 3
[[nat]]
name = "home"
kind = "port-restricted"
addresses = ["198.51.100.1"]
link = { latency_ms = 8.0 }
[[host]]
name = "relay"
addresses = ["203.0.113.1"]
relay = true
[[host]]
name = "a"
addresses = ["10.0.0.2"]
behind = "home"
[[host]]
name = "b"
addresses = ["203.0.113.9"]
[[event]]
at_s = 2
do = "reset_nat"
on = "home"
[[traffic]]
from = "a"
to = "b"
transfer_bytes = 1000000
"#;

#[test]
fn mistakes_are_told_with_line_key_and_hint() {
    let wrong = |from: &str, to: &str| {
        assert!(SMALL.contains(from), "{from}");
        Scenario::parse(&SMALL.replacen(from, to, 1)).expect_err(to)
    };
    let table = [
        ("seed = 3", "sead = 3", 2, "sead", "docs/scenarios"),
        ("port-restricted", "cone", 5, "kind = \"cone\"", "full-cone"),
        (
            "behind = \"home\"",
            "behind = \"hom\"",
            15,
            "behind = \"hom\"",
            "home",
        ),
        ("reset_nat", "reboot", 21, "do = \"reboot\"", "reset_nat"),
        ("reset_nat", "cut", 22, "on = \"home\"", "relay, a, b"),
        ("reset_nat", "block", 21, "block has one end", "and ="),
        ("reset_nat", "family_loss", 21, "family", "v6"),
        ("reset_nat", "renumber", 21, "addresses", "addresses ="),
        ("to = \"b\"", "to = \"a\"", 25, "to = \"a\"", "another"),
        (
            "transfer_bytes",
            "ping_every_s = 1\ntransfer_bytes",
            24,
            "either",
            "one of",
        ),
        ("name = \"b\"", "name = \"a\"", 17, "taken", "own name"),
        ("[\"203.0.113.9\"]", "[]", 18, "addresses", "one address"),
    ];
    for (from, to, line, message, hint) in table {
        let error = wrong(from, to);
        assert_eq!(error.line, line, "{error}");
        assert!(error.message.contains(message), "{error}");
        assert!(error.hint.contains(hint), "{}", error.hint);
    }
}

#[test]
fn scenario_runs_its_events_and_compares_with_what_is_expected() {
    let scenario = Scenario::parse(SMALL).expect("a scenario");
    let mut told = Vec::new();
    let report = run_virtual(scenario.run(&mut |progress| told.push(progress)));
    let report = report.expect("a runtime").expect("it runs");
    assert_eq!(report.missed, Vec::<String>::new());
    assert_eq!(report.traffic[0].hash_equal, Some(true));
    assert_eq!(report.traffic[0].bytes, 1_000_000);

    let strict = SMALL.to_owned() + "[expect]\ndirect_within_s = 0.01\n";
    let scenario = Scenario::parse(&strict).expect("a scenario");
    let report = run_virtual(scenario.run(&mut |_| {}));
    let report = report.expect("a runtime").expect("it runs");
    assert_eq!(report.missed.len(), 1, "{:?}", report.missed);
}

#[test]
fn every_example_does_what_it_expects() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/scenarios");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a file");
        let scenario = Scenario::parse(&text).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let report = run_virtual(scenario.run(&mut |_| {}));
        let report = report.expect("a runtime").expect("it runs");
        println!("{path:?}: {report:?}");
        assert_eq!(report.missed, Vec::<String>::new(), "{path:?}");
        seen += 1;
    }
    assert!(seen >= 4, "{seen} examples");
}

/// As many changes as `anyhop lab chaos` makes during a tenth of its bytes, which puts them
/// closer together. Its stalls are told in docs/connectivity.md: below 3 s but for one run in
/// seven, and 5 s at the longest in 80.
#[test]
fn transfer_outlives_chaos() {
    let options = chaos::Options {
        seed: 1,
        changes: 50,
        bytes: 100_000_000,
    };
    let scenario = chaos::scenario(options);
    let report = run_virtual(scenario.run(&mut |progress| {
        if let Progress::Event { at_s, text } = progress {
            println!("{at_s:6.1} s: {text}");
        }
    }));
    let report = report.expect("a runtime").expect("it runs");
    println!("{report:#?}");
    assert_eq!(report.traffic[0].hash_equal, Some(true), "seed 1");
    let stall = report.traffic[0].longest_stall_ms;
    assert!(stall < 8_000.0, "seed 1 stalled for {stall} ms");
}
