//! `cargo +nightly fuzz run punch_offer`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("punch_offer"),
    |data: &[u8]| { anyhop_fuzz::targets::punch_offer(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
