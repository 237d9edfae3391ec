//! `cargo +nightly fuzz run firewall_packet`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("firewall_packet"),
    |data: &[u8]| { anyhop_fuzz::targets::firewall_packet(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
