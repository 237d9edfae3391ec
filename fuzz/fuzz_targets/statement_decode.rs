//! `cargo +nightly fuzz run statement_decode`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("statement_decode"),
    |data: &[u8]| { anyhop_fuzz::targets::statement_decode(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
