//! `cargo +nightly fuzz run dns_query`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("dns_query"),
    |data: &[u8]| { anyhop_fuzz::targets::dns_query(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
