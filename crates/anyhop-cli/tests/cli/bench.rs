//! `bench`.

use crate::harness::{Daemon, Deadline, string};

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
    let deadline = Deadline::new();
    let long = ["bench", &a.peer_id, "--seconds", "60"];
    let short = ["bench", &a.peer_id, "--seconds", "1"];
    let mut first = b.spawn(&long);
    let error = loop {
        let done = b.command(&short);
        if done.code != Some(0) {
            break done.error(6);
        }
        // This one was served, so that the first has not begun or was itself refused.
        if first.has_ended() {
            first = b.spawn(&long);
        }
        deadline.pause("a second bench that is refused");
    };
    assert_eq!(error["code"], "limit");
    // Its end, however it comes, makes room.
    first.kill();
    while b.command(&short).code != Some(0) {
        deadline.pause("room for another bench");
    }
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
