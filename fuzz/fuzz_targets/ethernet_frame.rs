//! `cargo +nightly fuzz run ethernet_frame`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("ethernet_frame"),
    |data: &[u8]| { anyhop_fuzz::targets::ethernet_frame(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
