//! `cargo +nightly fuzz run call_frames`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("call_frames"),
    |data: &[u8]| { anyhop_fuzz::targets::call_frames(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
