//! Randomness by position: the numbers of candidate (seed, restart, generation, index) are a function of that address.
//!
//! No generator lives in any optimizer's state, so a resumed run cannot drift, and the order in which candidates are
//! sampled cannot matter. The address is the key of a ChaCha8 cipher, whose output is the same on every machine; all
//! transcendental functions come from `libm` for the same reason.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::normal;

/// Where in a run a random draw belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Which restart of the algorithm, from 0.
    pub restart: u64,
    /// Which generation of the run, from 0, counted over restarts.
    pub generation: u64,
    /// Which candidate of the generation, from 0.
    pub index: u64,
}

/// The index under which a restart draws its own numbers; no candidate reaches it.
pub const RESTART_INDEX: u64 = u64::MAX;

/// The stream of random numbers at one address.
pub struct Stream(ChaCha8Rng);

impl Stream {
    pub fn at(seed: u64, address: Address) -> Self {
        let words = [seed, address.restart, address.generation, address.index];
        let mut key = [0u8; 32];
        for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// A uniform number in the open interval (0, 1): the midpoints of 2⁵² equal cells.
    pub fn uniform(&mut self) -> f64 {
        const CELL: f64 = 1.0 / (1u64 << 52) as f64;
        ((self.0.next_u64() >> 12) as f64 + 0.5) * CELL
    }

    /// A uniform number in (low, high); both finite.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        (low + (high - low) * self.uniform()).clamp(low, high)
    }

    /// A standard normal deviate, by inversion: one uniform number makes one deviate.
    pub fn normal(&mut self) -> f64 {
        normal::quantile(self.uniform())
    }

    /// `n` independent standard normal deviates: the same as `n` calls of [`Self::normal`], faster.
    pub fn normals(&mut self, n: usize) -> Vec<f64> {
        let mut values: Vec<f64> = (0..n).map(|_| self.uniform()).collect();
        normal::quantiles(&mut values);
        values
    }

    /// A uniform integer in `0..n`; `n` must not be 0.
    ///
    /// The multiply-shift map without rejection: its bias is below n/2⁶⁴.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(restart: u64, generation: u64, index: u64) -> Address {
        Address {
            restart,
            generation,
            index,
        }
    }

    #[test]
    fn the_same_address_gives_the_same_numbers_and_a_neighbour_others() {
        let draw = |seed, at| Stream::at(seed, at).uniform();
        let here = draw(1, address(0, 3, 7));
        assert_eq!(here, draw(1, address(0, 3, 7)));
        for other in [
            draw(2, address(0, 3, 7)),
            draw(1, address(1, 3, 7)),
            draw(1, address(0, 4, 7)),
            draw(1, address(0, 3, 8)),
        ] {
            assert_ne!(here, other);
        }
    }

    #[test]
    fn moments_of_the_deviates_are_those_of_the_normal_distribution() {
        let mut stream = Stream::at(5, address(0, 0, 0));
        let sample = stream.normals(100_000);
        let n = sample.len() as f64;
        let moment = |power: i32| sample.iter().map(|x| x.powi(power)).sum::<f64>() / n;
        assert!(moment(1).abs() < 0.01, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.015, "{}", moment(2));
        assert!(moment(3).abs() < 0.04, "{}", moment(3));
        assert!((moment(4) - 3.0).abs() < 0.1, "{}", moment(4));
    }

    #[test]
    fn deviates_in_bulk_are_the_same() {
        let (mut one_by_one, mut bulk) = (Stream::at(3, address(1, 2, 3)), Stream::at(3, address(1, 2, 3)));
        let expected: Vec<u64> = (0..1000).map(|_| one_by_one.normal().to_bits()).collect();
        assert_eq!(
            bulk.normals(1000).iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
            expected
        );
    }

    #[test]
    fn below_covers_its_range_evenly_and_one_is_always_zero() {
        let mut stream = Stream::at(9, address(0, 0, 0));
        let mut counts = [0usize; 3];
        for _ in 0..30_000 {
            counts[stream.below(3)] += 1;
        }
        assert!(counts.iter().all(|&c| (9_700..10_300).contains(&c)), "{counts:?}");
        assert_eq!(stream.below(1), 0);
    }
}
