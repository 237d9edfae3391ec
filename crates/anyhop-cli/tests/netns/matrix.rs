//! Some pairs of the matrix: what `anyhop lab matrix --netns` does for all.

use std::path::PathBuf;

use anyhop::Technique;
use anyhop_lab::{
    matrix::{Expectation, Family, Kind, Options, possible},
    netns::matrix,
};

use crate::turn;

/// Kinds that differ in what they ask of the program.
const KINDS: [Kind; 5] = [
    Kind::Public,
    Kind::FullCone,
    Kind::PortRestricted,
    Kind::SymmetricSequential,
    Kind::UdpBlocked,
];

#[tokio::test(flavor = "multi_thread")]
async fn pairs_connect_and_get_direct_as_the_model_says() {
    let Some(_turn) = turn().await else { return };
    let options = Options {
        runs: 1,
        families: vec![Family::V4, Family::V6],
        kinds: KINDS.to_vec(),
        ..Options::default()
    };
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_anyhop"));
    let report = matrix::run(binary, &options, &|_, _| {}).await;
    let report = report.unwrap_or_else(|e| panic!("{e}"));
    println!("{}", report.table());
    assert_eq!(report.pairs.len(), options.pairs().len());
    for pair in &report.pairs {
        let (a, b, missed) = (pair.a, pair.b, &pair.missed);
        assert_eq!(pair.connected, 1, "{a} - {b}: {missed:?}");
        let sure = match possible(a, b) {
            Expectation::Direct(technique) => technique != Technique::Prediction,
            expected => expected == Expectation::WebSocket,
        };
        assert!(pair.direct == 1 || !sure, "{a} - {b}: {missed:?}");
    }
}
