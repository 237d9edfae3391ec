//! `cargo +nightly fuzz run ip_packet`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("ip_packet"),
    |data: &[u8]| { anyhop_fuzz::targets::ip_packet(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
