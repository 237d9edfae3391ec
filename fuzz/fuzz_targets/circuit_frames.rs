//! `cargo +nightly fuzz run circuit_frames`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("circuit_frames"),
    |data: &[u8]| { anyhop_fuzz::targets::circuit_frames(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
