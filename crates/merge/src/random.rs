//! Random numbers by counter: number i of a stream is a function of (key, i) alone.
//!
//! So a mask is the same bits on any number of threads, in any order, on CPU and GPU, when a merge is scored and when it
//! is exported. And it depends on the parent's tensor alone, so a higher density keeps all that a lower one keeps.

/// One stream of random numbers: one tensor of one model under one seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub u64);

impl Key {
    /// The first 8 bytes of BLAKE3 over seed, tensor name and model digest, each with its length.
    pub fn new(seed: u64, tensor: &str, model_digest: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        for text in [tensor, model_digest] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Key(u64::from_le_bytes(bytes))
    }

    /// Number `index` of the stream, uniform on the u32s.
    ///
    /// Source: Steele, Lea and Flood 2014, SplitMix64, whose state is already a counter; the upper half of its output.
    #[inline(always)]
    pub fn bits(self, index: u64) -> u32 {
        let mut z = self
            .0
            .wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }
}

/// `bits(i) < threshold(p)` with probability p, to 2⁻³².
pub fn threshold(probability: f64) -> u64 {
    (probability.clamp(0.0, 1.0) * 4_294_967_296.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_splitmix64() {
        // Reference outputs of SplitMix64 with seed 1234567.
        let key = Key(1_234_567);
        let expected = [
            6_457_827_717_110_365_317u64,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ];
        for (i, e) in expected.iter().enumerate() {
            assert_eq!(key.bits(i as u64), (e >> 32) as u32);
        }
    }

    #[test]
    fn keys_differ_by_each_of_their_parts() {
        let key = Key::new(1, "ab", "c");
        assert_ne!(key, Key::new(2, "ab", "c"));
        assert_ne!(key, Key::new(1, "a", "bc"));
        assert_ne!(key, Key::new(1, "ab", "d"));
        assert_eq!(key, Key::new(1, "ab", "c"));
    }

    #[test]
    fn probabilities_are_met() {
        for p in [0.0, 0.1, 0.5, 0.9, 1.0] {
            let key = Key::new(7, "t", "m");
            let n = 1_000_000;
            let hits = (0..n).filter(|i| u64::from(key.bits(*i)) < threshold(p)).count();
            // Five standard deviations of the binomial.
            let slack = 5.0 * (p * (1.0 - p) / n as f64).sqrt();
            assert!((hits as f64 / n as f64 - p).abs() <= slack, "{p}: {hits}");
        }
    }
}
