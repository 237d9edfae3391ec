//! `cargo +nightly fuzz run network_state`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("network_state"),
    |data: &[u8]| { anyhop_fuzz::targets::network_state(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
