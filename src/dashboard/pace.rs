//! How fast candidates come and when the search ends, as a range that one slow candidate cannot bend. What is learned is no
//! candidate in this: its rounds have a time of their own.

use crate::event::Origin;
use crate::event::run::{Run, State, counts};

/// Milliseconds of working time for one candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Middle half of the blocks.
    pub low_ms: f64,
    pub median_ms: f64,
    pub high_ms: f64,
}

/// Blocks whose means are compared.
const BLOCKS: usize = 8;

impl Pace {
    /// Median of means over the latest candidates: robust against one that took long, and right when candidates arrive
    /// a generation at a time.
    pub fn of(run: &Run) -> Option<Self> {
        let arrivals = arrivals(run);
        let population = run.started.as_ref().map_or(1, |s| s.population.max(1));
        let window = (BLOCKS * population).clamp(40, 4096).min(arrivals.len() - 1);
        if window == 0 {
            return None;
        }
        let recent = &arrivals[arrivals.len() - 1 - window..];
        let mut means = block_means(recent, window.div_ceil(BLOCKS));
        means.sort_by(f64::total_cmp);
        Some(Self {
            low_ms: quantile(&means, 0.25),
            median_ms: quantile(&means, 0.5),
            high_ms: quantile(&means, 0.75),
        })
    }

    pub fn per_hour(&self) -> f64 {
        3_600_000.0 / self.median_ms.max(1.0)
    }
}

/// Milliseconds until the search ends, from and to; nothing when it has no end in sight or is over.
pub fn search_ends_in(run: &Run, now_ms: u64) -> Option<(f64, f64)> {
    if run.state != State::Running || run.search_ended.is_some() {
        return None;
    }
    let budget = run.started.as_ref()?.budget;
    // The final has its part of the time, of which half is the most.
    let of_final = |ms: u64| {
        run.final_left_ms()
            .map_or(0.0, |of_final| of_final.min(0.5 * ms as f64))
    };
    let deadline = budget
        .duration_ms
        .map(|ms| (ms as f64 - of_final(ms) - run.elapsed(now_ms) as f64).max(0.0));
    let by_count = budget.evals.and_then(|evals| {
        let pace = Pace::of(run)?;
        let left = evals.saturating_sub(run.evals) as f64;
        let last = all_arrivals(run).last().map_or(0, |(at, _)| *at);
        let since = match &run.learning {
            Some(_) => 0.0, // of the round, which takes this into account
            None => run.elapsed(now_ms).saturating_sub(last) as f64,
        };
        let learning = run.learning_left_ms().unwrap_or(0.0);
        let ends = |pace_ms: f64| (left * pace_ms - since.min(pace_ms)).max(0.0) + learning;
        Some((ends(pace.low_ms), ends(pace.high_ms)))
    });
    match (by_count, deadline) {
        (Some((low, high)), Some(end)) => Some((low.min(end), high.min(end))),
        (Some(range), None) => Some(range),
        (None, Some(end)) if budget.evals.is_none() => Some((end, end)),
        _ => None,
    }
}

/// Working time at the start and at each arrival of the run but those of learned candidates, ascending; the time of their
/// rounds is left out.
fn arrivals(run: &Run) -> Vec<u64> {
    let (mut arrivals, mut before, mut learning) = (vec![0], 0, 0);
    for (at, is_learned) in all_arrivals(run) {
        match is_learned {
            true => learning += at - before,
            false => arrivals.push(at - learning),
        }
        before = at;
    }
    arrivals
}

/// Working time at each arrival, ascending, and whether a learned candidate arrived.
fn all_arrivals(run: &Run) -> Vec<(u64, bool)> {
    let failed = run.failed.iter().filter(|f| counts(&f.origin));
    let failed = failed.map(|f| (run.elapsed_at(f.time_ms), &f.origin));
    let scored = run.scored.iter().map(|s| (s.elapsed_ms, &s.candidate.origin));
    let all = scored.chain(failed);
    let mut arrivals: Vec<(u64, bool)> = all.map(|(at, origin)| (at, *origin == Origin::Learned)).collect();
    arrivals.sort_unstable();
    arrivals
}

/// Mean step in each whole block of steps, counted back from the latest arrival.
fn block_means(arrivals: &[u64], block: usize) -> Vec<f64> {
    let last = arrivals.len() - 1;
    (0..(last / block).max(1))
        .map(|i| {
            let to = last - i * block;
            let from = to.saturating_sub(block);
            (arrivals[to] - arrivals[from]) as f64 / (to - from) as f64
        })
        .collect()
}

/// Linear interpolation between order statistics of sorted values.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::rehearsal;
    use crate::event::{Event, LearningPlan, Record};

    fn run_with(arrivals_ms: &[u64]) -> Run {
        let night = rehearsal::night();
        let mut records = vec![night[0].clone()];
        let scored = |r: &Record| match &r.event {
            Event::CandidateScored(c) if counts(&c.origin) => Some(c.clone()),
            _ => None,
        };
        let candidate = night.iter().find_map(scored).expect("a night has candidates");
        for (i, at) in arrivals_ms.iter().enumerate() {
            let mut candidate = candidate.clone();
            candidate.id = format!("c{i}");
            let time_ms = records[0].time_ms + at;
            records.push(Record {
                time_ms,
                event: Event::CandidateScored(candidate),
                ..records[0].clone()
            });
        }
        Run::from_records(&records)
    }

    #[test]
    fn nothing_is_known_before_the_first_candidate() {
        assert_eq!(Pace::of(&Run::default()), None);
        assert_eq!(Pace::of(&run_with(&[])), None);
        assert_eq!(search_ends_in(&Run::default(), 0), None);
    }

    #[test]
    fn one_slow_candidate_does_not_bend_the_pace() {
        let mut at = 0;
        let arrivals: Vec<u64> = (0..16)
            .map(|i| {
                at += if i == 5 { 900_000 } else { 10_000 };
                at
            })
            .collect();
        let pace = Pace::of(&run_with(&arrivals)).expect("16 arrivals");
        assert_eq!(pace.median_ms, 10_000.0);
        assert_eq!(pace.per_hour(), 360.0);
    }

    #[test]
    fn candidates_that_arrive_in_bunches_are_averaged() {
        let arrivals: Vec<u64> = (0..64).map(|i| (i / 8 + 1) * 80_000).collect();
        let pace = Pace::of(&run_with(&arrivals)).expect("64 arrivals");
        assert_eq!(pace.median_ms, 10_000.0);
    }

    #[test]
    fn the_end_is_what_is_left_times_the_pace() {
        let arrivals: Vec<u64> = (1..=9).map(|i| i * 10_000).collect();
        let run = run_with(&arrivals);
        // 99 − 9 left at 10 s, of which 4 s have gone by since the last arrival.
        let (low, high) = search_ends_in(&run, run.last_ms + 4000).expect("a budget of evaluations");
        assert_eq!((low, high), (896_000.0, 896_000.0));
    }

    /// Three rounds of learning among a dozen candidates made each of them look ten times as slow, and those to come were
    /// not counted.
    #[test]
    fn rounds_of_learning_are_no_candidates_and_have_a_time_of_their_own() {
        let mut at = 0;
        let arrivals: Vec<u64> = (0..12)
            .map(|i| {
                at += if (3..6).contains(&i) { 600_000 } else { 10_000 };
                at
            })
            .collect();
        let mut run = run_with(&arrivals);
        for scored in &mut run.scored[3..6] {
            scored.candidate.origin = Origin::Learned;
        }
        let pace = Pace::of(&run).expect("nine candidates");
        assert_eq!((pace.low_ms, pace.high_ms), (10_000.0, 10_000.0));
        let without = search_ends_in(&run, run.last_ms).expect("a budget of evaluations");
        run.started.as_mut().unwrap().learning = Some(LearningPlan {
            rounds: 1,
            ..LearningPlan::default()
        });
        let scored = run.scored[0].candidate.clone();
        let answer_ms = scored.evaluation_ms as f64 / scored.n as f64;
        let one = scored.merge_ms as f64 + 120.0 * answer_ms;
        let with = search_ends_in(&run, run.last_ms).expect("a budget of evaluations");
        assert!((with.0 - without.0 - one).abs() < 1e-6, "{with:?} {without:?} {one}");
    }

    #[test]
    fn a_time_budget_ends_at_its_deadline() {
        let run = Run::from_records(&rehearsal::stopped()[..5]);
        let (low, high) = search_ends_in(&run, run.last_ms).expect("a budget of time");
        assert_eq!(
            (low, high),
            ((8 * 3_600_000 - 160_000) as f64, (8 * 3_600_000 - 160_000) as f64)
        );
    }
}
