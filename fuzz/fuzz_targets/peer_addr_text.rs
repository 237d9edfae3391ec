//! `cargo +nightly fuzz run peer_addr_text`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("peer_addr_text"),
    |data: &[u8]| { anyhop_fuzz::targets::peer_addr_text(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
