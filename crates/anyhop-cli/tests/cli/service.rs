//! The systemd unit in `contrib`.

use std::{fs, path::Path, process::Command};

const ANYHOP: &str = env!("CARGO_BIN_EXE_anyhop");
/// Where the unit expects the program.
const INSTALLED: &str = "/usr/local/bin/anyhop";

fn unit() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib/anyhop.service");
    fs::read_to_string(path).expect("the unit is there")
}

#[test]
fn systemd_takes_the_unit_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("anyhop.service");
    fs::write(&path, unit().replace(INSTALLED, ANYHOP)).expect("written");
    let checked = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&path)
        .output();
    match checked {
        Err(e) => println!("skipped: systemd-analyze does not run: {e}"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let about_us: Vec<_> = said.lines().filter(|l| l.contains("anyhop")).collect();
            assert!(about_us.is_empty(), "{said}");
        }
    }
}

#[test]
fn the_unit_starts_the_daemon_with_options_that_it_has() {
    let unit = unit();
    let start = unit.lines().find_map(|l| l.strip_prefix("ExecStart="));
    let words = start.expect("it starts something").split_whitespace();
    let words: Vec<_> = words.collect();
    assert_eq!(words[0], INSTALLED);
    let output = Command::new(ANYHOP)
        .args(&words[1..])
        .arg("--help")
        .output();
    let output = output.expect("it runs");
    assert!(output.status.success(), "{output:?}");
    // A word that is no option would be taken for nothing.
    let options = words[2..].iter().all(|w| w.starts_with("--"));
    assert!(options && words[1] == "up", "{words:?}");
}
