//! A small mutation engine for the times without libFuzzer: no coverage, but the same
//! sequence for the same seed.

/// Longest input made, bytes: above every limit of the parsers.
const MAX_LEN: usize = 10_000;
/// Most mutations applied to one input.
const MAX_MUTATIONS: u64 = 6;
/// Inputs kept to mutate further, besides the seeds.
const POOL: usize = 64;
/// Bytes at the edges of varints, lengths and protobuf tags.
const EDGES: [u8; 8] = [0x00, 0x01, 0x7f, 0x80, 0xff, 0x0a, 0x12, 0x40];

/// Makes inputs out of seeds.
#[derive(Debug)]
pub struct Mutator {
    state: u64,
    seeds: Vec<Vec<u8>>,
    pool: Vec<Vec<u8>>,
}

impl Mutator {
    /// Starts from a random seed and valid inputs.
    #[must_use]
    pub fn new(seed: u64, seeds: Vec<Vec<u8>>) -> Self {
        let pool = Vec::with_capacity(POOL);
        Self {
            state: seed,
            seeds,
            pool,
        }
    }

    /// The next input.
    pub fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.parent();
        for _ in 0..=self.below(MAX_MUTATIONS) {
            self.mutate(&mut input);
        }
        input.truncate(MAX_LEN);
        self.keep(&input);
        input
    }

    /// Mostly a seed, so that inputs stay near what is valid.
    fn parent(&mut self) -> Vec<u8> {
        let from_pool = self.below(4) == 0;
        let list = if from_pool { &self.pool } else { &self.seeds };
        let len = list.len() as u64;
        if len == 0 {
            return Vec::new();
        }
        let at = self.below(len) as usize;
        let list = if from_pool { &self.pool } else { &self.seeds };
        list[at].clone()
    }

    fn keep(&mut self, input: &[u8]) {
        if self.pool.len() < POOL {
            self.pool.push(input.to_owned());
        } else if self.below(8) == 0 {
            let at = self.below(POOL as u64) as usize;
            self.pool[at] = input.to_owned();
        }
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() as u64 + 1) as usize;
        match self.below(9) {
            0 => input.truncate(at),
            1 => input.insert(at, self.byte()),
            2 => {
                let bytes: Vec<u8> = (0..self.below(64)).map(|_| self.byte()).collect();
                input.splice(at..at, bytes);
            }
            3 => {
                let end = (at + self.below(16) as usize).min(input.len());
                input.drain(at..end);
            }
            4 => {
                let end = (at + self.below(64) as usize).min(input.len());
                let copy = input[at..end].to_vec();
                let to = self.below(input.len() as u64 + 1) as usize;
                input.splice(to..to, copy);
            }
            5 => {
                let other = self.parent();
                let from = self.below(other.len() as u64 + 1) as usize;
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            kind if at < input.len() => match kind {
                6 => input[at] ^= 1 << self.below(8),
                7 => input[at] = EDGES[self.below(EDGES.len() as u64) as usize],
                _ => input[at] = self.byte(),
            },
            _ => input.push(self.byte()),
        }
    }

    fn byte(&mut self) -> u8 {
        (self.next() >> 56) as u8
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn inputs(seed: u64) -> Vec<Vec<u8>> {
        let mut mutator = Mutator::new(seed, vec![b"valid input".to_vec()]);
        (0..1000).map(|_| mutator.next_input()).collect()
    }

    #[test]
    fn one_seed_makes_one_sequence() {
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
    }

    #[test]
    fn inputs_differ_and_stay_within_the_limit() {
        let inputs = inputs(3);
        assert!(inputs.iter().all(|i| i.len() <= MAX_LEN));
        let different: HashSet<_> = inputs.iter().collect();
        assert!(different.len() > inputs.len() / 2, "{}", different.len());
    }

    #[test]
    fn without_seeds_there_are_inputs_still() {
        let mut mutator = Mutator::new(1, Vec::new());
        assert!((0..100).any(|_| !mutator.next_input().is_empty()));
    }
}
