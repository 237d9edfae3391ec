//! `cargo +nightly fuzz run quic_destination`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("quic_destination"),
    |data: &[u8]| { anyhop_fuzz::targets::quic_destination(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
