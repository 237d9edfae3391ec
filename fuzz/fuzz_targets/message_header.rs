//! `cargo +nightly fuzz run message_header`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("message_header"),
    |data: &[u8]| { anyhop_fuzz::targets::message_header(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
