//! What one could have of the parents without merging them, from answers that they have given anyway: a router that knows
//! beforehand who will be right, which is the most that any router can have, and a vote. Lines to read a child's score by; they
//! answer at the cost of all parents.

use super::{Exam, scoring::Answers};
use crate::event::{Answer, TestScore};

/// As if each question were asked of a parent that has it right, where there is one; `None` of fewer than two parents, and of
/// likelihoods, of which the highest is not the best.
pub(super) fn oracle(exam: &Exam, parents: &[&Answers]) -> Option<TestScore> {
    together(exam, parents, "oracle", |answers| {
        let best = answers
            .iter()
            .copied()
            .reduce(|a, b| if b.score > a.score { b } else { a });
        best.cloned()
    })
}

/// As if all parents answered and what most of them say were taken; of equals, what the first of them says, who is the best one.
/// `None` where nobody's answers say anything, as those of a command's questions.
///
/// **Source**: plurality vote, as in self-consistency, Wang et al. 2023 (arXiv 2203.11171), over models.
pub(super) fn vote(exam: &Exam, parents: &[&Answers]) -> Option<TestScore> {
    let mut answers = parents.iter().flat_map(|of| of.iter()).flat_map(|(_, answers)| answers);
    if answers.all(|answer| answer.got.is_empty()) {
        return None;
    }
    together(exam, parents, "vote", |answers| {
        let votes = |said: &Answer| answers.iter().filter(|other| other.got == said.got).count();
        let spoken = answers.iter().copied().filter(|answer| !answer.got.is_empty());
        let most = spoken.reduce(|a, b| if votes(b) > votes(a) { b } else { a });
        most.or(answers.first().copied()).cloned()
    })
}

fn together(
    exam: &Exam,
    parents: &[&Answers],
    id: &str,
    choose: impl Fn(&[&Answer]) -> Option<Answer>,
) -> Option<TestScore> {
    if parents.len() < 2 || exam.tasks.iter().any(|task| task.is_likelihood) {
        return None;
    }
    let of_task = |task: usize| -> Option<(String, Vec<Answer>)> {
        let answers: Vec<&[Answer]> = parents
            .iter()
            .map(|of| Some(of.get(task)?.1.as_slice()))
            .collect::<Option<_>>()?;
        let n = answers.iter().map(|answers| answers.len()).min()?;
        let of_question = |i: usize| choose(&answers.iter().map(|answers| &answers[i]).collect::<Vec<_>>());
        Some((String::new(), (0..n).map(of_question).collect::<Option<_>>()?))
    };
    let answers: Vec<(String, Vec<Answer>)> = (0..exam.tasks.len()).map(of_task).collect::<Option<_>>()?;
    let (score, tasks) = exam.score(&answers);
    Some(TestScore {
        id: id.into(),
        score,
        tasks,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::search::{Catalogue, ExamTask};

    fn exam(n: usize, is_likelihood: bool) -> Exam {
        let task = ExamTask {
            index: 0,
            split: "test".into(),
            task: "t".into(),
            lang: "en".into(),
            weight: 1.0,
            is_likelihood,
            catalogue: Arc::new(Catalogue::default()),
            items: (0..n).collect(),
        };
        Exam {
            split: "test".into(),
            tasks: vec![task],
        }
    }

    fn parent(said: &[(&str, f64)]) -> Vec<(String, Vec<Answer>)> {
        let answer = |(got, score): &(&str, f64)| Answer {
            q: String::new(),
            out: String::new(),
            got: got.to_string(),
            gold: String::new(),
            score: *score,
            finish: String::new(),
            language_ok: true,
            tokens: 1,
        };
        vec![(String::new(), said.iter().map(answer).collect())]
    }

    #[test]
    fn somebody_is_right_more_often_than_most_are() {
        let a = parent(&[("1", 1.0), ("2", 0.0), ("3", 0.0), ("", 0.0)]);
        let b = parent(&[("5", 0.0), ("4", 1.0), ("6", 0.0), ("8", 1.0)]);
        let c = parent(&[("5", 0.0), ("4", 1.0), ("7", 0.0), ("", 0.0)]);
        let parents: Vec<&Answers> = vec![&a, &b, &c];
        let exam = exam(4, false);
        assert_eq!(oracle(&exam, &parents).unwrap().score.value, 0.75);
        // Two against one for 5, two against one for 4, a tie, and one who says something at all.
        assert_eq!(vote(&exam, &parents).unwrap().score.value, 0.5);
        assert_eq!(oracle(&exam, &parents[..1]), None);
        assert_eq!(vote(&super::tests::exam(4, true), &parents), None);
    }
}
