//! Some pairs of the matrix: what `anyhop lab matrix --netns` does for all.

use std::{path::PathBuf, time::Duration};

use anyhop_lab::netns::matrix::{self, MatrixConfig, Place};

use crate::{PATIENCE, turn};

/// Kinds that differ in what they ask of the program.
const PLACES: [Place; 6] = [
    Place::Public,
    Place::FullCone,
    Place::PortRestricted,
    Place::SymmetricRandom,
    Place::CgnatOverCone,
    Place::V6Filtered,
];

/// What a pair that cannot be direct without luck gets.
const SHORT: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn every_pair_connects_and_those_that_need_no_luck_directly() {
    let Some(_turn) = turn().await else { return };
    let config = MatrixConfig {
        places: PLACES.to_vec(),
        pairs: |a, b| a <= b,
        direct_within: |a, b| if a.surely_direct(b) { PATIENCE } else { SHORT },
        ..MatrixConfig::new(PathBuf::from(env!("CARGO_BIN_EXE_anyhop")))
    };
    let report = matrix::run(config, &mut |_| {}).await;
    let report = report.unwrap_or_else(|e| panic!("{e}"));
    println!("{report}");
    for cell in &report.cells {
        assert!(cell.connected() && cell.error.is_none(), "{cell}");
        assert!(cell.direct() || !cell.from.surely_direct(cell.to), "{cell}");
    }
    assert_eq!(report.cells.len(), PLACES.len() * (PLACES.len() + 1) / 2);
}
