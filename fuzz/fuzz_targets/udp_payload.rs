//! `cargo +nightly fuzz run udp_payload`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("udp_payload"),
    |data: &[u8]| { anyhop_fuzz::targets::udp_payload(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
