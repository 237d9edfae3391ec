//! `cargo +nightly fuzz run proxy_request`; the work is in the library.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: anyhop_fuzz::write_corpus("proxy_request"),
    |data: &[u8]| { anyhop_fuzz::targets::proxy_request(data); }
);

#[cfg(not(fuzzing))]
fn main() {}
