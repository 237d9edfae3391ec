//! `cargo +nightly fuzz run nat_check`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("nat_check"),
    |data: &[u8]| { anyhop_fuzz::targets::nat_check(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
