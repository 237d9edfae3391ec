//! `bench`.

use crate::harness::{Daemon, string};

#[test]
fn bench_reports_throughput_cpu_time_and_path_both_ways() {
    let (a, b) = Daemon::pair();
    for extra in [&[][..], &["--reverse", "--streams", "4"]] {
        let args = [&["bench", &a.peer_id, "--seconds", "1"][..], extra].concat();
        let report = b.command(&args).ok().json();
        assert!(
            report["gbit_s"].as_f64().is_some_and(|g| g > 0.0),
            "{report}"
        );
        assert!(
            report["cpu_s_local"].as_f64().is_some_and(|s| s > 0.0),
            "{report}"
        );
        assert_eq!(report["path"]["kind"], "direct");
        assert_eq!(report["path"]["selected"], true);
        assert_eq!(string(&report["peer_id"]), a.peer_id);
        assert_eq!(report["reverse"], !extra.is_empty());
    }
}

#[test]
fn a_peer_serves_one_bench_of_each_peer_at_a_time() {
    let (a, b) = Daemon::pair();
    let mut first = b.spawn(&["bench", &a.peer_id, "--seconds", "60"]);
    let error = loop {
        let done = b.command(&["bench", &a.peer_id, "--seconds", "1"]);
        // The first one may not have begun yet.
        if done.code != Some(0) {
            break done.error(6);
        }
    };
    assert_eq!(error["code"], "limit");
    // Its end, however it comes, makes room.
    first.kill();
    while b.command(&["bench", &a.peer_id, "--seconds", "1"]).code != Some(0) {}
}

#[test]
fn bench_limits_are_bad_usage() {
    let daemon = Daemon::start(&[]);
    for args in [["--seconds", "61"], ["--seconds", "0"], ["--streams", "65"]] {
        let mut all = vec!["bench", daemon.peer_id.as_str()];
        all.extend(args);
        daemon.command(&all).error(2);
    }
}
