//! Fuzz targets for every parser of bytes that a stranger can send.
//!
//! A target is a plain function in [`targets`] that panics when a property breaks. It
//! runs in two ways:
//!
//! - under libFuzzer: `cargo +nightly fuzz run NAME` (needs `cargo-fuzz`);
//! - in an ordinary test with seeded mutations of valid inputs: `cargo test` here.
//!   `ANYHOP_FUZZ_RUNS` sets the number of inputs for each target, `ANYHOP_FUZZ_SEED`
//!   the seed.

mod mutate;
mod seeds;
pub mod targets;

use std::{fs, path::Path};

pub use mutate::Mutator;

/// A fuzz target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, that of its function and of its binary.
    pub name: &'static str,
    /// Runs it on one input; whether that was valid.
    pub run: fn(&[u8]) -> bool,
    /// Valid inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Declares [`TARGETS`] from the functions of [`targets`] and [`seeds`].
macro_rules! targets {
    ($($name:ident: $seeds:ident),* $(,)?) => {
        /// All targets.
        pub const TARGETS: &[Target] = &[$(Target {
            name: stringify!($name),
            run: targets::$name,
            seeds: seeds::$seeds,
        }),*];
    };
}

targets! {
    record_decode: signed_records,
    record_payload: record_payloads,
    peer_addr_text: address_texts,
    multiaddr_binary: binary_addresses,
    varint: varints,
    control_frames: control_contents,
    punch_offer: punch_offers,
    nat_check: nat_checks,
    circuit_frames: circuit_contents,
    route_frames: route_contents,
    message_header: message_headers,
    call_frames: call_contents,
    topic_frames: topic_contents,
    topic_post: post_payloads,
    job_call: job_calls,
    job_bid: job_bids,
    udp_payload: udp_payloads,
    websocket_frames: websocket_streams,
    statement_decode: signed_statements,
    statement_payload: statement_payloads,
    network_frames: network_contents,
    invitation_text: invitation_texts,
    network_state: network_states,
    backup_text: backups,
    swarm_key_text: swarm_key_texts,
    quic_destination: quic_packets,
    sealed_packet: sealed_packets,
    ethernet_frame: ethernet_frames,
    ip_packet: ip_packets,
    firewall_packet: firewall_packets,
    merged_packets: segments,
    dns_query: dns_queries,
    proxy_request: proxy_requests,
}

/// Writes a target's seeds to where `cargo fuzz` looks for inputs to start from.
///
/// # Panics
/// When there is no such target, or the files cannot be written.
pub fn write_corpus(name: &str) {
    let target = TARGETS.iter().find(|t| t.name == name);
    let target = target.expect("every binary is named after a target");
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    fs::create_dir_all(&dir).expect("the corpus directory can be made");
    for (number, seed) in (target.seeds)().iter().enumerate() {
        fs::write(dir.join(format!("seed-{number}")), seed).expect("a seed can be written");
    }
}

#[cfg(test)]
mod tests {
    use std::{env, thread};

    use super::*;

    /// Inputs for each target unless `ANYHOP_FUZZ_RUNS` says otherwise.
    const RUNS: u64 = 200_000;

    fn number_from_env(name: &str, default: u64) -> u64 {
        env::var(name).map_or(default, |text| {
            let number = text.parse();
            number.unwrap_or_else(|_| panic!("{name}={text:?} is no number"))
        })
    }

    /// Prints the input that a target panicked on.
    struct Report<'a>(&'static str, &'a [u8]);

    impl Drop for Report<'_> {
        fn drop(&mut self) {
            if thread::panicking() {
                eprintln!("target {} failed on input {:02x?}", self.0, self.1);
            }
        }
    }

    fn run(target: &Target, input: &[u8]) -> bool {
        let _report = Report(target.name, input);
        (target.run)(input)
    }

    fn run_mutations(target: &Target, runs: u64, seed: u64) {
        let mut mutator = Mutator::new(seed, (target.seeds)());
        let valid = (0..runs).filter(|_| run(target, &mutator.next_input()));
        let (name, valid) = (target.name, valid.count());
        println!("{name}: {runs} inputs from seed {seed}, {valid} of them valid");
    }

    #[test]
    fn no_target_fails_on_seeded_mutations() {
        let runs = number_from_env("ANYHOP_FUZZ_RUNS", RUNS);
        let seed = number_from_env("ANYHOP_FUZZ_SEED", 1);
        thread::scope(|scope| {
            for target in TARGETS {
                let thread = thread::Builder::new().name(target.name.to_owned());
                let spawned = thread.spawn_scoped(scope, move || run_mutations(target, runs, seed));
                spawned.expect("a thread can be started");
            }
        });
    }

    #[test]
    fn every_target_takes_its_seeds_for_valid() {
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{} starts from nothing", target.name);
            for seed in &seeds {
                assert!(run(target, seed), "{} refuses {seed:02x?}", target.name);
            }
        }
    }

    #[test]
    fn every_target_has_a_binary() {
        let manifest = include_str!("../Cargo.toml");
        let listed = manifest.matches("\n[[bin]]\n").count();
        assert_eq!(listed, TARGETS.len());
        for target in TARGETS {
            let name = format!("name = \"{}\"", target.name);
            assert!(manifest.contains(&name), "{name} is not in Cargo.toml");
        }
    }
}
