//! `cargo +nightly fuzz run swarm_key_text`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("swarm_key_text"),
    |data: &[u8]| { anyhop_fuzz::targets::swarm_key_text(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
