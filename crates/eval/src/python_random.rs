//! CPython's `random.Random(seed)`, as far as drawing few-shot examples needs it.
//!
//! lm-eval draws shots with `random.Random(1234).sample(pool, k)`, question after question; the same prompts need the
//! same generator (MT19937, seeded by `init_by_array`) and the same two paths through `sample`.
//!
//! Source: Matsumoto and Nishimura 1998, mt19937ar; CPython 3.11 `Lib/random.py`.

use std::collections::HashSet;

const N: usize = 624;
const M: usize = 397;

/// The Mersenne Twister behind `random.Random`.
#[derive(Clone)]
pub struct PythonRandom {
    state: [u32; N],
    next: usize,
}

impl PythonRandom {
    /// `random.Random(seed)` for a whole number of 0 or more.
    pub fn new(seed: u64) -> Self {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        let key = [low, high];
        Self::from_key(if high == 0 { &key[..1] } else { &key })
    }

    /// `init_by_array` of mt19937ar.
    fn from_key(key: &[u32]) -> Self {
        let mut s = [0u32; N];
        s[0] = 19_650_218;
        for i in 1..N {
            s[i] = mix(s[i - 1]).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        let (mut i, mut j) = (1, 0);
        for _ in 0..N.max(key.len()) {
            s[i] = (s[i] ^ mix(s[i - 1]).wrapping_mul(1_664_525))
                .wrapping_add(key[j])
                .wrapping_add(j as u32);
            i = wrap(&mut s, i + 1);
            j = (j + 1) % key.len();
        }
        for _ in 0..N - 1 {
            s[i] = (s[i] ^ mix(s[i - 1]).wrapping_mul(1_566_083_941)).wrapping_sub(i as u32);
            i = wrap(&mut s, i + 1);
        }
        s[0] = 0x8000_0000;
        PythonRandom { state: s, next: N }
    }

    fn word(&mut self) -> u32 {
        if self.next == N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        let s = &mut self.state;
        for i in 0..N {
            let y = (s[i] & 0x8000_0000) | (s[(i + 1) % N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            s[i] = s[(i + M) % N] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// `randrange(n)` for `0 < n < 2³²`: `bit_length(n)` random bits, drawn again while they are too large.
    pub fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        debug_assert!((1..=32).contains(&bits), "pools have between 1 and 2^32 - 1 rows");
        loop {
            let r = (self.word() >> (32 - bits)) as usize;
            if r < n {
                return r;
            }
        }
    }

    /// The positions that `sample(range(n), k)` draws, in its order; `None` if `k > n`, where Python raises.
    pub fn sample(&mut self, n: usize, k: usize) -> Option<Vec<usize>> {
        if k > n {
            return None;
        }
        if n > set_size(k) {
            let mut drawn = HashSet::with_capacity(k);
            return Some(
                (0..k)
                    .map(|_| {
                        loop {
                            let j = self.below(n);
                            if drawn.insert(j) {
                                return j;
                            }
                        }
                    })
                    .collect(),
            );
        }
        let mut pool: Vec<usize> = (0..n).collect();
        Some(
            (0..k)
                .map(|i| {
                    let j = self.below(n - i);
                    let drawn = pool[j];
                    pool[j] = pool[n - i - 1];
                    drawn
                })
                .collect(),
        )
    }
}

fn mix(word: u32) -> u32 {
    word ^ (word >> 30)
}

/// `init_by_array`'s step past the end: the last word becomes the first.
fn wrap(state: &mut [u32; N], i: usize) -> usize {
    if i < N {
        return i;
    }
    state[0] = state[N - 1];
    1
}

/// Up to this many rows `sample` shuffles a copy of the pool; above, it remembers what it drew: `21`, and for `k > 5`
/// `21 + 4^⌈log₄ 3k⌉`.
fn set_size(k: usize) -> usize {
    if k <= 5 {
        return 21;
    }
    let mut power = 1usize;
    while power < 3 * k {
        power *= 4;
    }
    21 + power
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `r = random.Random(1234); r.sample(range(7473), 5)` twice, CPython 3.11.
    #[test]
    fn gsm8k_shots() {
        let mut r = PythonRandom::new(1234);
        assert_eq!(r.sample(7473, 5).unwrap(), [6374, 3610, 957, 61, 742]);
        assert_eq!(r.sample(7473, 5).unwrap(), [7462, 6610, 4769, 286, 5501]);
    }

    /// `random.Random(1234).sample(range(8), 8)`, CPython 3.11: the path through the pool.
    #[test]
    fn mgsm_shots() {
        assert_eq!(PythonRandom::new(1234).sample(8, 8).unwrap(), [7, 0, 6, 5, 4, 2, 3, 1]);
    }

    /// Both sides of the boundary between the two paths, and keys of one and two words.
    #[test]
    fn boundaries() {
        let sample = |seed, n, k| PythonRandom::new(seed).sample(n, k).unwrap();
        assert_eq!(SAMPLES.len(), 8);
        for (seed, n, k, expected) in SAMPLES {
            assert_eq!(sample(*seed, *n, *k), *expected, "seed {seed}, {k} of {n}");
        }
    }

    #[test]
    fn edges() {
        let mut r = PythonRandom::new(0);
        assert_eq!(r.sample(0, 0), Some(vec![]));
        assert_eq!(r.sample(1, 1), Some(vec![0]));
        assert_eq!(r.sample(3, 4), None);
        assert_eq!((set_size(5), set_size(6), set_size(8), set_size(22)), (21, 85, 85, 277));
    }

    /// `random.Random(seed).sample(range(n), k)`, CPython 3.11.
    const SAMPLES: &[(u64, usize, usize, &[usize])] = &[
        (0, 21, 5, &[12, 13, 1, 8, 16]),
        (0, 22, 5, &[12, 13, 1, 8, 16]),
        (1, 85, 6, &[17, 72, 8, 32, 15, 63]),
        (1, 86, 6, &[17, 72, 8, 32, 15, 63]),
        (2, 85, 8, &[7, 11, 10, 46, 21, 39, 32, 77]),
        (42, 7473, 8, &[5238, 912, 204, 6074, 2253, 2006, 1828, 1143]),
        (1099511627793, 1319, 5, &[494, 937, 227, 911, 847]),
        (4294967295, 250, 3, &[162, 158, 52]),
    ];
}
