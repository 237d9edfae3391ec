mod nats;
mod observe;
mod topology;

use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// Short enough for a test to wait for in vain.
const MOMENT: Duration = Duration::from_millis(500);

/// Says why and answers true where namespaces cannot be made.
fn skipped() -> bool {
    match skip_reason() {
        Some(reason) => {
            println!("skipped: {reason}");
            true
        }
        None => false,
    }
}

#[tokio::test]
async fn lab_removes_what_it_made_and_what_dead_ones_left() {
    if skipped() {
        return;
    }
    // Above the kernel's highest pid, and of no other run of this test.
    let nobody = (1 << 22) + std::process::id();
    let dead = format!("{PREFIX}{nobody}-0-");
    let (stale, stale_files) = (format!("{dead}x"), files(&dead));
    let exists = |name: &str| ip(&["netns", "list"]).expect("listed").contains(name);
    let deadline = Instant::now() + PATIENCE;
    // A lab of another process may remove it while it is made.
    while let Err(e) = ip(&["netns", "add", &stale]) {
        assert!(Instant::now() < deadline, "{e}");
    }
    std::fs::create_dir_all(stale_files.join("a")).expect("made");
    let mut lab = NetLab::new().expect("a lab");
    // One may be about to.
    while exists(&stale) || stale_files.exists() {
        assert!(Instant::now() < deadline, "{stale} stays");
        tokio::time::sleep(MOMENT / 10).await;
    }

    let host = lab.public_host("r", Families::V4).expect("a host");
    let own_files = lab.directory("r").expect("a directory");
    let mut sleeper = host.command("sh");
    sleeper.args(["-c", "echo asleep; exec sleep 1000"]);
    let mut sleeper = Process::start(sleeper).expect("started");
    assert_eq!(sleeper.line(PATIENCE).await.expect("it runs"), "asleep");
    assert!(exists(host.name()) && own_files.exists() && sleeper.is_running());
    drop(lab);
    assert!(!exists(host.name()) && !own_files.exists());
    let ended = sleeper.finish(PATIENCE).await.expect("killed with its lab");
    assert_eq!(ended.code, None);
}

#[test]
fn labs_at_the_same_time_do_not_meet() {
    if skipped() {
        return;
    }
    let [one, other] = [0; 2].map(|_| {
        let mut lab = NetLab::new().expect("a lab");
        let host = lab.public_host("r", Families::V4).expect("a host");
        (lab, host)
    });
    assert_ne!(one.1.name(), other.1.name());
    assert_eq!(one.1.v4(), other.1.v4());
    drop(other);
    let socket = one.1.udp_socket(observe::any4(0));
    assert!(socket.is_ok(), "gone with another lab: {socket:?}");
}

#[tokio::test]
async fn process_that_runs_on_is_killed_at_its_deadline() {
    let mut sleeper = Command::new("sleep");
    sleeper.arg("1000");
    let late = run(sleeper, b"", MOMENT).await;
    assert!(matches!(late, Err(LabError::Timeout { .. })), "{late:?}");
}

#[tokio::test]
async fn command_gets_its_input_and_gives_output_and_code() {
    let mut script = Command::new("sh");
    script.args(["-c", "cat; echo oops >&2; exit 3"]);
    let ended = run(script, b"in and out", PATIENCE).await.expect("ran");
    assert_eq!(ended.code, Some(3));
    assert_eq!(ended.stdout, "in and out");
    assert_eq!(ended.stderr, "oops\n");
}
