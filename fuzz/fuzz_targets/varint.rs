//! `cargo +nightly fuzz run varint`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("varint"),
    |data: &[u8]| { anyhop_fuzz::targets::varint(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
