//! Who won: finalists on fresh questions, then the sealed test split, once.
//!
//! The best score of a search is the luckiest of many, so it decides only who comes here. The selection questions, which
//! no candidate was bred on, choose the winner; the optimizer's mean and what learning has led to win ties, see
//! [`least_lucky_wins_ties`]. The test split is then read a single time, and that reading is in the journal. Last, the winner
//! and the parents meet tasks that the search never asked: what the child forgot.

use super::ensemble::{oracle, vote};
use super::{Error, Evaluation, Exam, ExamTask, Interrupt, Plan, Run, race::Entrant, scoring::Answers};
use crate::{
    eval::stats,
    event::{
        Candidate, Comparison, Finalist, HeldOutReading, HeldOutScore, HeldOutTask, Origin, Phase, Selection,
        TestReading, TestScore, standing,
    },
};

impl Run<'_, '_> {
    pub(super) fn finale(&mut self) -> Result<(), Interrupt> {
        let selection = self.once(&(), Self::select)?;
        // A command that keeps its questions to itself has nothing sealed to read, and bare genes no parents to compare with.
        let can_compare = !self.plan.test.tasks.is_empty() && !self.plan.space.models.is_empty();
        if can_compare {
            self.once(&(), |run| run.read_test(&selection))?;
        }
        if !self.plan.held_out.tasks.is_empty() {
            self.once(&(), |run| run.read_held_out(&selection))?;
        }
        Ok(())
    }

    /// The searched candidates of most worth, each recipe once, and the means; every unsearched merge and the best random
    /// draw are with them. For several objectives: those that no other beats in all of them, the fittest first.
    fn finalists(&self) -> Vec<Candidate> {
        let bred = self.bred();
        let field: Vec<&Candidate> = match self.plan.space.fitness.is_pareto() {
            true => front(&bred, self.plan),
            false => bred.clone(),
        };
        let is_last = |mean: &Candidate| self.means.contains(&mean.id);
        let most = self.plan.space.finale.finalists;
        let finalists = standing::finalists(&self.scored, &bred, field, is_last, most);
        finalists.into_iter().cloned().collect()
    }

    fn select(&mut self) -> Result<Selection, Interrupt> {
        self.chronicle.phase(Phase::Selection)?;
        let mut finalists: Vec<(Finalist, Evaluation)> = Vec::new();
        let parents: Vec<Candidate> = self
            .scored
            .iter()
            .filter(|c| c.origin == Origin::Parent)
            .cloned()
            .collect();
        let field: Vec<Candidate> = self.finalists().into_iter().chain(parents).collect();
        let plan = self.plan;
        self.look_ahead_again(&field, &plan.selection)?;
        self.exam_started(Phase::Selection, &plan.selection, &field)?;
        for candidate in &field {
            self.pause_or_stop()?;
            let evaluation = self.examine(candidate, &plan.selection)?;
            let (fresh, tasks) = self.plan.judge(&self.plan.selection, &evaluation);
            self.exam_answered(Phase::Selection, &candidate.id, Some(fresh))?;
            let finalist = Finalist {
                id: candidate.id.clone(),
                origin: candidate.origin.clone(),
                search: candidate.search_score(),
                fresh,
                tasks,
            };
            finalists.push((finalist, evaluation));
        }
        finalists.sort_by(|(a, _), (b, _)| b.fresh.value.total_cmp(&a.fresh.value));
        let seed = plan.space.search.seed;
        let noise = |a: &Evaluation, b: &Evaluation| plan.selection.compare(&a.answers, &b.answers, seed).stderr;
        let recipe = |id: &str| self.scored.iter().find(|c| c.id == id).map(|c| &c.recipe_digest);
        let learned_last = self.learned_last.as_ref();
        let is_steady =
            |f: &Finalist| f.origin == Origin::Mean || (f.origin == Origin::Learned && recipe(&f.id) == learned_last);
        least_lucky_wins_ties(&mut finalists, self.scored.len(), is_steady, noise);
        let finalists: Vec<Finalist> = finalists.into_iter().map(|(finalist, _)| finalist).collect();
        let is_parent = |f: &&Finalist| f.origin == Origin::Parent;
        let best = finalists.iter().find(|f| !is_parent(f)).map(|f| f.id.clone());
        let best = best.ok_or(Error::NothingScored)?;
        // Nobody chose the parents by their search scores, so all that they answered counts.
        let all = |f: &Finalist| {
            let (a, b) = (f.search.n as f64, f.fresh.n as f64);
            (a * f.search.value + b * f.fresh.value) / (a + b).max(1.0)
        };
        let parents = finalists.iter().filter(is_parent);
        let best_parent = parents.reduce(|a, b| if all(b) > all(a) { b } else { a });
        let best_parent = best_parent.map(|f| f.id.clone()).unwrap_or_default();
        Ok(Selection {
            split: self.plan.selection.split.clone(),
            finalists,
            best,
            best_parent,
        })
    }

    fn read_test(&mut self, selection: &Selection) -> Result<TestReading, Interrupt> {
        self.chronicle.phase(Phase::Test)?;
        let exam = &self.plan.test;
        let seed = self.plan.space.search.seed;
        let mut readings: Vec<(String, Evaluation)> = Vec::new();
        let finalist = |c: &Candidate| selection.finalists.iter().any(|f| f.id == c.id);
        let is_read = |c: &&Candidate| match c.origin {
            Origin::Parent | Origin::Baseline => true,
            Origin::Random => c.id == selection.best || finalist(c),
            Origin::Search | Origin::WarmStart | Origin::Mean | Origin::Learned | Origin::Guided => {
                c.id == selection.best
            }
        };
        let wanted: Vec<Candidate> = self.scored.iter().filter(is_read).cloned().collect();
        self.look_ahead_again(&wanted, exam)?;
        self.exam_started(Phase::Test, exam, &wanted)?;
        for candidate in &wanted {
            self.pause_or_stop()?;
            let evaluation = self.examine(candidate, exam)?;
            self.exam_answered(Phase::Test, &candidate.id, None)?;
            readings.push((candidate.id.clone(), evaluation));
        }
        let of = |id: &str| readings.iter().find(|(i, _)| i == id).map(|(_, e)| e);
        let parents = wanted
            .iter()
            .filter(|c| c.origin == Origin::Parent)
            .map(|c| c.id.as_str());
        let best_parent = best_parent(parents, &selection.best_parent, |id| {
            of(id).map_or(f64::NEG_INFINITY, |read| exam.score(&read.answers).0.value)
        });
        let (Some(child), Some(parent)) = (of(&selection.best), of(&best_parent)) else {
            return Err(Error::NothingScored.into());
        };
        let score = |id: &str, answers: &Answers| {
            let (score, tasks) = exam.score(answers);
            TestScore {
                id: id.into(),
                score,
                tasks,
            }
        };
        let paired = exam.compare(&child.answers, &parent.answers, seed);
        let mut others: Vec<Comparison> = readings
            .iter()
            .filter(|(id, _)| *id != selection.best)
            .map(|(id, evaluation)| {
                let paired = exam.compare(&child.answers, &evaluation.answers, seed);
                Comparison {
                    other: score(id, &evaluation.answers),
                    difference: paired.difference,
                    p_value: paired.p_value,
                    p_holm: paired.p_value,
                    negative_flips: paired.negative_flips,
                    positive_flips: paired.positive_flips,
                }
            })
            .collect();
        let p_values: Vec<f64> = others.iter().map(|o| o.p_value).collect();
        for (other, p_holm) in others.iter_mut().zip(stats::holm(&p_values)) {
            other.p_holm = p_holm;
        }
        let all = wanted
            .iter()
            .filter(|c| c.origin == Origin::Parent && c.id != best_parent);
        let others_answers = all.filter_map(|c| Some(&*of(&c.id)?.answers));
        // The best one first: it decides where a vote is split.
        let parents: Vec<&Answers> = std::iter::once(&*parent.answers).chain(others_answers).collect();
        // The best parent counts in the correction; its comparison stands in the reading itself.
        others.retain(|o| o.other.id != best_parent);
        Ok(TestReading {
            split: exam.split.clone(),
            best: score(&selection.best, &child.answers),
            best_parent: score(&best_parent, &parent.answers),
            difference: paired.difference,
            p_value: paired.p_value,
            test: paired.test.into(),
            negative_flips: paired.negative_flips,
            positive_flips: paired.positive_flips,
            others,
            oracle: oracle(exam, &parents),
            vote: vote(exam, &parents),
        })
    }

    /// The winner first, then the parents.
    fn read_held_out(&mut self, selection: &Selection) -> Result<HeldOutReading, Interrupt> {
        self.chronicle.phase(Phase::HeldOut)?;
        let exam = &self.plan.held_out;
        let winner = self.scored.iter().filter(|c| c.id == selection.best);
        let parents = self
            .scored
            .iter()
            .filter(|c| c.origin == Origin::Parent && c.id != selection.best);
        let wanted: Vec<Candidate> = winner.chain(parents).cloned().collect();
        let mut scores = Vec::new();
        self.look_ahead_again(&wanted, exam)?;
        self.exam_started(Phase::HeldOut, exam, &wanted)?;
        for candidate in &wanted {
            self.pause_or_stop()?;
            let evaluation = self.examine(candidate, exam)?;
            self.exam_answered(Phase::HeldOut, &candidate.id, None)?;
            let (_, tasks) = exam.score(&evaluation.answers);
            let id = candidate.id.clone();
            scores.push(HeldOutScore { id, tasks });
        }
        let task = |task: &ExamTask| HeldOutTask {
            task: task.task.clone(),
            lang: task.lang.clone(),
            split: task.split.clone(),
            n: task.items.len(),
            metric: task.metric().into(),
        };
        let tasks = exam.tasks.iter().map(task).collect();
        Ok(HeldOutReading { tasks, scores })
    }

    /// All of them are asked this next.
    fn look_ahead_again(&mut self, candidates: &[Candidate], exam: &Exam) -> Result<(), Interrupt> {
        let entrants: Vec<Entrant> = candidates.iter().map(|c| self.again(c)).collect::<Result<_, _>>()?;
        self.look_ahead(&entrants, exam)
    }

    /// A known candidate before a later exam. Whoever cannot be scored there ends the final, which `resume` takes up
    /// again: without a parent or a merge that nobody searched for, the winner would be compared with weaker ones.
    fn examine(&mut self, candidate: &Candidate, exam: &Exam) -> Result<Evaluation, Interrupt> {
        let entrant = self.again(candidate)?;
        let unjudged = |reason: String| Error::Unjudged {
            id: candidate.id.clone(),
            split: exam.split.clone(),
            reason,
        };
        let evaluation = self.sit_in_batches(&entrant, exam)?.map_err(unjudged)?;
        let (score, _) = self.plan.judge(exam, &evaluation);
        match score.value.is_finite() {
            true => Ok(evaluation),
            false => Err(unjudged(format!("its score is {}", score.value)).into()),
        }
    }
}

/// The parent that did best in the test; of equals the one that did best before it. To beat it is to beat every parent, so its
/// p-value needs no correction for having been picked.
///
/// **Source**: the intersection-union test, Berger 1982, Technometrics 24 (4).
fn best_parent<'a>(parents: impl Iterator<Item = &'a str>, before: &str, value: impl Fn(&str) -> f64) -> String {
    let place = |id: &str| (value(id), id == before);
    let best = parents.reduce(|a, b| if place(b) > place(a) { b } else { a });
    best.unwrap_or(before).to_owned()
}

/// The candidates that no other one beats in every objective, in their order.
fn front<'a>(candidates: &[&'a Candidate], plan: &Plan) -> Vec<&'a Candidate> {
    let scores = |c: &Candidate| plan.objectives_of(&c.tasks).unwrap_or_default();
    let dominates = |a: &Candidate, b: &Candidate| {
        let pairs: Vec<(f64, f64)> = scores(a).into_iter().zip(scores(b)).collect();
        pairs.iter().all(|(a, b)| a >= b) && pairs.iter().any(|(a, b)| a > b)
    };
    let is_free = |c: &&&Candidate| !candidates.iter().any(|other| dominates(other, c));
    candidates.iter().filter(is_free).copied().collect()
}

/// Puts who is steady first, the optimizer's mean or what learning has led to, the better of them, unless the best of k finalists is better by
/// more than luck alone would make the best of k equals: √(2 ln k) standard errors of their difference, which `noise` gives for the
/// selection questions; on the search's, k are all that the best was the best of, `searched`.
/// Luck has touched these least: the mean averages over all that the search has seen, and what was learned has followed the
/// texts of most questions, none of which it was chosen by.
///
/// **Source**: the bound on the expected maximum of k normal variables, Boucheron et al. 2013, Concentration Inequalities,
/// theorem 2.5.
fn least_lucky_wins_ties<A>(
    finalists: &mut [(Finalist, A)],
    searched: usize,
    is_steady: impl Fn(&Finalist) -> bool,
    noise: impl Fn(&A, &A) -> f64,
) {
    let is_child = |(f, _): &(Finalist, A)| f.origin != Origin::Parent;
    let trusted = finalists.iter().position(|(f, _)| is_steady(f));
    let best = finalists.iter().position(is_child);
    if let (Some(trusted), Some(best)) = (trusted, best) {
        let k = finalists.iter().filter(|f| is_child(f)).count() as f64;
        let ((first, a), (steady, b)) = (&finalists[best], &finalists[trusted]);
        let luck = |k: f64| (2.0 * k.max(1.0).ln()).sqrt();
        let is_better_searched = first.fresh.value > steady.fresh.value
            && first.search.value - steady.search.value
                > luck(searched as f64) * first.search.stderr.hypot(steady.search.stderr)
            && first.search.n > 1
            && steady.search.n > 1;
        if first.fresh.value - steady.fresh.value <= luck(k) * noise(a, b) && !is_better_searched {
            finalists[best..=trusted].rotate_right(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Score;

    const LEARNED_LAST: &str = "learned-10";

    fn order(finalists: &[(&str, Origin, f64)]) -> Vec<String> {
        let of_search: Vec<f64> = finalists.iter().map(|_| 0.5).collect();
        ordered(finalists, &of_search)
    }

    fn ordered(finalists: &[(&str, Origin, f64)], of_search: &[f64]) -> Vec<String> {
        let score = |value: f64| Score {
            value,
            stderr: 0.03,
            n: 400,
        };
        let finalist = |((id, origin, value), search): (&(&str, Origin, f64), &f64)| {
            let finalist = Finalist {
                id: id.to_string(),
                origin: origin.clone(),
                search: score(*search),
                fresh: score(*value),
                tasks: Vec::new(),
            };
            (finalist, ())
        };
        let mut finalists: Vec<_> = finalists.iter().zip(of_search).map(finalist).collect();
        let is_steady = |f: &Finalist| f.origin == Origin::Mean || f.id == LEARNED_LAST;
        least_lucky_wins_ties(&mut finalists, 60, is_steady, |(), ()| 0.02);
        finalists.into_iter().map(|(f, ())| f.id).collect()
    }

    #[test]
    fn the_mean_wins_what_luck_alone_would_show() {
        use Origin::{Mean, Parent, Search};
        // The best of three equals: 1.48 standard errors of 0.02; of two: 1.18.
        let close = [
            ("p", Parent, 0.9),
            ("a", Search, 0.729),
            ("b", Search, 0.71),
            ("mean", Mean, 0.7),
        ];
        assert_eq!(order(&close), ["p", "mean", "a", "b"]);
        let clear = [("a", Search, 0.731), ("mean", Mean, 0.7), ("older mean", Mean, 0.69)];
        assert_eq!(order(&clear), ["a", "mean", "older mean"]);
        assert_eq!(order(&[("a", Search, 0.723), ("mean", Mean, 0.7)]), ["mean", "a"]);
        assert_eq!(order(&[("a", Search, 0.725), ("mean", Mean, 0.7)]), ["a", "mean"]);
        assert_eq!(order(&[("a", Search, 0.7), ("b", Search, 0.7)]), ["a", "b"]);
        assert_eq!(order(&[("mean", Mean, 0.7)]), ["mean"]);
    }

    /// A mean of 17 % on 60 search questions was crowned over a plain sum of 77 %, since four selection questions could not
    /// tell them apart; it lost by 27 points.
    #[test]
    fn what_the_search_has_shown_beyond_luck_counts_too() {
        let close = [("a", Origin::Baseline, 0.71), ("mean", Origin::Mean, 0.7)];
        // √(2 ln 60) = 2.86 standard errors of 0.042.
        assert_eq!(ordered(&close, &[0.63, 0.5]), ["a", "mean"]);
        assert_eq!(ordered(&close, &[0.61, 0.5]), ["mean", "a"]);
        let behind = [("mean", Origin::Mean, 0.7), ("a", Origin::Search, 0.69)];
        assert_eq!(
            ordered(&behind, &[0.1, 0.9]),
            ["mean", "a"],
            "what is fresh goes before"
        );
    }

    /// All parents had nothing right of four selection questions, the first one named was called the best, and a child that
    /// beat it "beat the best parent" with another one 8 points above it.
    #[test]
    fn the_best_parent_is_the_one_that_did_best_in_the_test() {
        let parents = ["parent-base", "parent-maths", "parent-es"];
        let best = |before: &str, test: [f64; 3]| {
            let value = |id: &str| test[parents.iter().position(|p| *p == id).unwrap()];
            best_parent(parents.into_iter(), before, value)
        };
        assert_eq!(best("parent-base", [0.03, 0.115, 0.04]), "parent-maths");
        assert_eq!(best("parent-es", [0.1, 0.1, 0.1]), "parent-es");
        assert_eq!(best("parent-base", [0.0, 0.0, 0.0]), "parent-base");
    }

    #[test]
    fn what_was_learned_last_wins_so_too() {
        use Origin::{Learned, Mean, Search};
        let rounds = [
            ("learned-2", Learned, 0.715),
            ("a", Search, 0.71),
            ("learned-10", Learned, 0.7),
        ];
        assert_eq!(order(&rounds), ["learned-10", "learned-2", "a"]);
        // Of the mean and the last round the better one.
        let both = [("a", Search, 0.72), ("mean", Mean, 0.71), ("learned-10", Learned, 0.7)];
        assert_eq!(order(&both), ["mean", "a", "learned-10"]);
        let both = [("a", Search, 0.72), ("learned-10", Learned, 0.71), ("mean", Mean, 0.7)];
        assert_eq!(order(&both), ["learned-10", "a", "mean"]);
    }
}
