//! `cargo +nightly fuzz run multiaddr_binary`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("multiaddr_binary"),
    |data: &[u8]| { anyhop_fuzz::targets::multiaddr_binary(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
