//! How long candidates take the workers of a simulated fleet, and what happens to these.

use rand::Rng;
use rand_distr::{Distribution, LogNormal};

/// Seconds of the shortest and the longest candidate: two standard deviations below and above the median.
const SHORTEST: f64 = 5.0;
const LONGEST: f64 = 600.0;

/// Part of a candidate's time that is its merge.
const MERGE: f64 = 0.1;

/// Questions of a whole exam.
pub const WHOLE: usize = 96;

/// Part of the units that take several times as long, and how many times.
pub const STRAGGLING: f64 = 0.05;
pub const STRAGGLES: f64 = 3.0;

/// Part of the units over which the worker dies, and seconds until another one comes for it.
pub const DYING: f64 = 0.01;
pub const COMES_AFTER: f64 = 30.0;

/// Seconds of a candidate's merge and whole exam.
pub fn whole(random: &mut impl Rng) -> f64 {
    let sigma = (LONGEST / SHORTEST).ln() / 4.0;
    let times = LogNormal::new((LONGEST * SHORTEST).sqrt().ln(), sigma).unwrap();
    times.sample(random).clamp(SHORTEST, LONGEST)
}

/// Parts of that which a worker takes for the merge, and for so many of the questions.
pub fn parts(questions: usize) -> [f64; 2] {
    [MERGE, (1.0 - MERGE) * questions as f64 / WHOLE as f64]
}
