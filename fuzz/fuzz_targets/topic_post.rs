//! `cargo +nightly fuzz run topic_post`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("topic_post"),
    |data: &[u8]| { anyhop_fuzz::targets::topic_post(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
