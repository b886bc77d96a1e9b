//! When a run of the CMA family is over, and how the next one begins.
//!
//! Without noise the rules are Hansen's (1604.00772, B.3) and pycma's. Under noise what looks flat or stagnant may be
//! luck, so fitness values stop nothing there; only the spread of the distribution does.

use serde::{Deserialize, Serialize};

use super::chance::{Address, RESTART_INDEX, Stream};
use super::gaussian::Gaussian;
use super::ranking::Ranking;
use super::{Options, Outcome, Restarts, StopReason};

/// What the rules remember, and the ledger of restarts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    run: Run,
    schedule: Schedule,
    stopped: Option<StopReason>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Run {
    sigma0: f64,
    evaluations: u64,
    /// The best cost of each generation that had one.
    best: Vec<f64>,
    /// The range of costs in the last generation.
    last_range: Option<f64>,
    /// Generations in a row without any difference between candidates.
    flat: u64,
}

/// Auger & Hansen (2005), Hansen (2009).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Schedule {
    restart: u64,
    first_population: usize,
    large_population: usize,
    is_small: bool,
    evaluations_large: u64,
    evaluations_small: u64,
    last_large_evaluations: u64,
}

/// A normal distribution as the rules look at it.
pub struct View<'a> {
    pub gaussian: &'a Gaussian,
    /// The coordinates of real genes, and whether each is bounded. The others are steps, which never become narrow.
    pub reals: Vec<(usize, bool)>,
}

/// What happens after a generation.
pub enum Verdict {
    GoOn,
    /// The run is over for good.
    Stop,
    /// Begin again with this population size and the first sigma times this factor.
    BeginAgain {
        population_size: usize,
        shrink: f64,
    },
}

/// A run whose widest axis has grown by this factor is lost (pycma's `tolfacupx` and `tolupsigma`, taken together).
const MAX_GROWTH: f64 = 1e4;
const MAX_CONDITION: f64 = 1e14;
/// Fitness values that differ by less are the same.
const FITNESS_TOLERANCE: f64 = 1e-12;
/// Steps below this part of the first sigma are no steps.
const STEP_TOLERANCE: f64 = 1e-11;
/// Under noise a distribution this narrow, in parts of the range, has said what it can.
const NARROW: f64 = 0.01;
/// Best costs beyond this many are forgotten, the oldest first.
const LONGEST_HISTORY: usize = 20_000;
/// Restarts double the population until it is this many times the first.
const MOST_GROWTH: usize = 1 << 10;

impl Watch {
    pub fn new(population_size: usize, sigma0: f64) -> Self {
        let schedule = Schedule {
            restart: 0,
            first_population: population_size,
            large_population: population_size,
            is_small: false,
            evaluations_large: 0,
            evaluations_small: 0,
            last_large_evaluations: 0,
        };
        Self {
            run: Run {
                sigma0,
                ..Run::default()
            },
            schedule,
            stopped: None,
        }
    }

    pub fn restart(&self) -> u64 {
        self.schedule.restart
    }

    pub fn flat_generations(&self) -> u64 {
        self.run.flat
    }

    pub fn stopped(&self) -> Option<StopReason> {
        self.stopped
    }

    /// Files one generation.
    pub fn record(&mut self, ranking: &Ranking, outcomes: &[&Outcome]) {
        let run = &mut self.run;
        let costs: Vec<f64> = outcomes.iter().filter_map(|outcome| outcome.cost()).collect();
        run.evaluations += outcomes.len() as u64;
        run.flat = if ranking.is_flat() { run.flat + 1 } else { 0 };
        run.last_range = (!costs.is_empty()).then(|| range(&costs));
        run.best.extend(costs.into_iter().reduce(f64::min));
        if run.best.len() > LONGEST_HISTORY {
            run.best.drain(..LONGEST_HISTORY / 2);
        }
    }

    /// The random numbers of a run that begins again after this generation.
    pub fn stream(&self, seed: u64, generation: u64) -> Stream {
        let at = Address {
            restart: self.restart() + 1,
            generation,
            index: RESTART_INDEX,
        };
        Stream::at(seed, at)
    }

    /// Decides after a generation. `population_size` is the present one; `degenerate` says that the update failed.
    pub fn decide(
        &mut self,
        options: &Options,
        population_size: usize,
        view: Option<&View<'_>>,
        degenerate: bool,
        stream: &mut Stream,
    ) -> Verdict {
        let reason = if degenerate {
            Some(StopReason::Degenerate)
        } else {
            self.reason(options.noisy, population_size, view)
        };
        match (reason, options.restarts) {
            (None, _) => Verdict::GoOn,
            (Some(_), Restarts::None) => {
                self.stopped = self.stopped.or(reason);
                Verdict::Stop
            }
            (Some(_), restarts) => {
                let (population_size, shrink) = self.schedule.next(restarts, self.run.evaluations, stream);
                self.run = Run {
                    sigma0: self.run.sigma0,
                    ..Run::default()
                };
                Verdict::BeginAgain {
                    population_size,
                    shrink,
                }
            }
        }
    }

    fn reason(&self, noisy: bool, population_size: usize, view: Option<&View<'_>>) -> Option<StopReason> {
        let of_view = view.and_then(|view| {
            lost(view, self.run.sigma0).or_else(|| {
                if noisy {
                    narrow(view)
                } else {
                    converged(view, self.run.sigma0)
                }
            })
        });
        let n = view.map_or(1, |view| view.gaussian.params.n);
        of_view
            .or_else(|| {
                if noisy {
                    None
                } else {
                    self.run.stale(n, population_size)
                }
            })
            .or_else(|| self.schedule.over(self.run.evaluations))
    }

    /// Begins the ledger anew with another first sigma.
    pub fn set_sigma0(&mut self, sigma0: f64) {
        self.run.sigma0 = sigma0;
    }
}

fn lost(view: &View<'_>, sigma0: f64) -> Option<StopReason> {
    let state = &view.gaussian.state;
    let longest = state.cov.lengths().iter().copied().fold(0.0, f64::max);
    if state.cov.condition() > MAX_CONDITION {
        Some(StopReason::IllConditioned)
    } else if state.sigma * longest > MAX_GROWTH * sigma0 {
        Some(StopReason::Diverged)
    } else {
        None
    }
}

fn narrow(view: &View<'_>) -> Option<StopReason> {
    let is_narrow = |&(i, bounded): &(usize, bool)| bounded && view.gaussian.std(i) < NARROW;
    (!view.reals.is_empty() && view.reals.iter().all(is_narrow)).then_some(StopReason::Narrow)
}

/// The rules on step sizes: `tolx`, `noeffectcoord`, `noeffectaxis`.
fn converged(view: &View<'_>, sigma0: f64) -> Option<StopReason> {
    let Gaussian { params, state } = view.gaussian;
    if view.reals.is_empty() {
        return None;
    }
    let smallest = STEP_TOLERANCE * sigma0.min(1.0);
    let is_tiny = |&(i, _): &(usize, bool)| state.sigma * state.cov.std(i).max(state.p_c[i].abs()) < smallest;
    let stays = |i: usize, by: f64| state.mean[i] + by == state.mean[i];
    let no_axis = || {
        let k = (state.updates % params.n as u64) as usize;
        let mut along = vec![0.0; params.n];
        along[k] = 0.1 * state.sigma * state.cov.lengths()[k];
        let axis = state.cov.turn(&along);
        (0..params.n).all(|i| stays(i, axis[i]))
    };
    let is_over = view.reals.iter().all(is_tiny)
        || view.reals.iter().any(|&(i, _)| stays(i, 0.2 * view.gaussian.std(i)))
        || no_axis();
    is_over.then_some(StopReason::StepsConverged)
}

impl Run {
    /// The rules on fitness values: `tolflatfitness` (with patience), `tolfun`, `tolstagnation`.
    fn stale(&self, n: usize, population_size: usize) -> Option<StopReason> {
        let window = 10 + (30 * n).div_ceil(population_size);
        if self.flat as usize >= window {
            return Some(StopReason::Flat);
        }
        let recent = self.best.len().checked_sub(window).map(|start| &self.best[start..]);
        if recent.is_some_and(|recent| range(recent) < FITNESS_TOLERANCE)
            && self.last_range.is_some_and(|range| range < FITNESS_TOLERANCE)
        {
            return Some(StopReason::FitnessConverged);
        }
        self.is_stagnant(n, population_size).then_some(StopReason::Stagnated)
    }

    /// The newest third of a long window is no better than its oldest third, by their medians.
    fn is_stagnant(&self, n: usize, population_size: usize) -> bool {
        let n = n as f64;
        let patience = 100.0 + 100.0 * n * n.sqrt() / population_size as f64;
        let length = (patience as usize).max(self.best.len() / 5);
        if self.best.len() < 2 * length {
            return false;
        }
        let window = &self.best[self.best.len() - length..];
        let part = length / 3;
        median(&window[length - part..]) >= median(&window[..part])
    }
}

impl Schedule {
    /// A small run of BIPOP may use half of what the last large one did.
    fn over(&self, evaluations: u64) -> Option<StopReason> {
        (self.is_small && 2 * evaluations > self.last_large_evaluations).then_some(StopReason::SmallRunOver)
    }

    /// Moves on to the next run; gives its population size and what its first sigma is multiplied by.
    fn next(&mut self, restarts: Restarts, evaluations: u64, stream: &mut Stream) -> (usize, f64) {
        if self.is_small {
            self.evaluations_small += evaluations;
        } else {
            self.evaluations_large += evaluations;
            self.last_large_evaluations = evaluations;
        }
        self.restart += 1;
        let may_be_small = restarts == Restarts::Bipop && self.restart > 1;
        self.is_small = may_be_small && self.evaluations_small < self.evaluations_large;
        if self.is_small {
            // Hansen (2009): λ_s = ⌊λ_0 (λ_l / 2λ_0)^(U²)⌋, σ_s = σ_0 10^(-2U)
            let u = stream.uniform();
            let ratio = 0.5 * self.large_population as f64 / self.first_population as f64;
            let population = self.first_population as f64 * libm::pow(ratio, u * u);
            (
                (population.floor() as usize).max(2),
                libm::pow(10.0, -2.0 * stream.uniform()),
            )
        } else {
            self.large_population = (2 * self.large_population).min(MOST_GROWTH * self.first_population);
            (self.large_population, 1.0)
        }
    }
}

fn range(values: &[f64]) -> f64 {
    let (low, high) = values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    high - low
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        0.5 * (sorted[middle - 1] + sorted[middle])
    }
}

#[cfg(test)]
mod tests {
    use super::super::chance::Address;
    use super::*;

    #[test]
    fn bipop_keeps_the_two_regimes_in_balance() {
        let mut schedule = Watch::new(10, 1.0).schedule;
        let mut stream = Stream::at(
            1,
            Address {
                restart: 0,
                generation: 0,
                index: 0,
            },
        );
        assert_eq!(schedule.next(Restarts::Bipop, 1000, &mut stream), (20, 1.0)); // the first restart is large
        let (small, shrink) = schedule.next(Restarts::Bipop, 2000, &mut stream);
        assert!((2..=10).contains(&small) && (0.01..=1.0).contains(&shrink)); // (20 / 2·10)^… = 1
        assert_eq!(schedule.over(1000), None);
        assert_eq!(schedule.over(1001), Some(StopReason::SmallRunOver));
        // Small runs go on until they have used as much as the large ones.
        assert!(schedule.next(Restarts::Bipop, 1000, &mut stream).0 <= 10);
        assert!(schedule.next(Restarts::Bipop, 1000, &mut stream).0 <= 10);
        assert_eq!(schedule.next(Restarts::Bipop, 1000, &mut stream).0, 40);
    }

    #[test]
    fn ipop_doubles_up_to_its_end() {
        let mut schedule = Watch::new(6, 1.0).schedule;
        let mut stream = Stream::at(
            1,
            Address {
                restart: 0,
                generation: 0,
                index: 0,
            },
        );
        let sizes: Vec<usize> = (0..12)
            .map(|_| schedule.next(Restarts::Ipop, 1, &mut stream).0)
            .collect();
        assert_eq!(sizes[..3], [12, 24, 48]);
        assert_eq!(sizes[10..], [6 << 10, 6 << 10]);
    }

    #[test]
    fn stagnation_needs_patience_and_no_progress() {
        let run = |best: Vec<f64>| Run { best, ..Run::default() };
        let falling = (0..1000).map(|i| -f64::from(i)).collect();
        let level = (0..1000).map(|i| f64::from(i % 7)).collect();
        assert!(!run(falling).is_stagnant(2, 6));
        assert!(run(level).is_stagnant(2, 6));
        assert!(!run(vec![1.0; 200]).is_stagnant(2, 6));
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0])), (2.0, 2.5));
    }
}
