//! `cargo +nightly fuzz run invitation_text`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("invitation_text"),
    |data: &[u8]| { anyhop_fuzz::targets::invitation_text(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
