//! This process.

use std::{io, time::Duration};

use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        time::TimeVal,
    },
    unistd::geteuid,
};

/// The CPU time that all threads of this process have used so far, in user mode and in
/// the kernel.
///
/// # Errors
/// What the system said.
pub fn process_cpu_time() -> io::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok(duration(usage.user_time()) + duration(usage.system_time()))
}

fn duration(time: TimeVal) -> Duration {
    // Used CPU time is never negative.
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec()).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

/// Whether this process acts as root.
#[must_use]
pub fn is_root() -> bool {
    geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use std::{hint::black_box, os::unix::fs::MetadataExt};

    use super::*;

    #[test]
    fn work_is_charged_to_the_process() {
        let before = process_cpu_time().unwrap();
        let mut sum = 0_u64;
        // Ends with the first tick that is charged.
        while process_cpu_time().unwrap() == before {
            sum = black_box((0..10_000).fold(sum, u64::wrapping_add));
        }
        assert!(process_cpu_time().unwrap() > before);
    }

    #[test]
    fn root_is_who_owns_what_root_makes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let owner = file.as_file().metadata().unwrap().uid();
        assert_eq!(is_root(), owner == 0);
    }
}
