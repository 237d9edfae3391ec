//! `cargo +nightly fuzz run backup_text`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("backup_text"),
    |data: &[u8]| { anyhop_fuzz::targets::backup_text(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
