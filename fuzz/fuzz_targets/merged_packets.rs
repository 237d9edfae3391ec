//! `cargo +nightly fuzz run merged_packets`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("merged_packets"),
    |data: &[u8]| { anyhop_fuzz::targets::merged_packets(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
