//! `cargo +nightly fuzz run job_bid`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("job_bid"),
    |data: &[u8]| { anyhop_fuzz::targets::job_bid(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
