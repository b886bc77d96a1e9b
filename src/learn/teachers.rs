//! Which answers teach.
//!
//! A right answer in the right language is a text worth being likelier. Three kinds are not what they seem, and this is done
//! about each: one that was cut off or went round in circles is left out; one that is right by chance stands alone, so of a
//! question's answers those that several models gave come first, and no question has more than a few; a question that
//! everybody answers has nothing to teach, so it counts half as much as one that a single model answers.

use std::collections::BTreeMap;

/// One model's answer to one question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Given<'a> {
    /// Number of the question.
    pub question: usize,
    pub output: &'a str,
    /// The answer that was found in it; empty if there is none.
    pub got: &'a str,
    /// 1 if it is right and in the language that was asked for.
    pub score: f64,
    /// `eos`, `stop`, `length` or `loop`.
    pub finish: &'a str,
}

/// A text that teaches.
#[derive(Clone, Debug, PartialEq)]
pub struct Lesson {
    pub question: usize,
    pub output: String,
    /// Whether the model ended it by itself, so that its end is part of the lesson.
    pub ended: bool,
    /// How much each of its tokens counts.
    pub weight: f64,
}

/// Different answers of one question that teach, at most: right ones, and wrong ones.
const MOST_ANSWERS: usize = 2;

/// How much wrong answers count unless somebody says otherwise: what was better than nothing on three seeds of three
/// (docs/learning.md).
pub const WRONG: f64 = 0.3;

/// The right answers among those that were given, with their weights, in the order of the questions. With `wrong` above 0
/// the wrong ones are there too, with negative weights: `wrong` times the advantage that a right answer has over them.
///
/// **Source**: policy gradient with the question's mean as baseline, Williams 1992 (REINFORCE); of questions with a single
/// answer the mean of all.
pub fn choose(given: &[Given<'_>], wrong: f64) -> Vec<Lesson> {
    let mut by_question: BTreeMap<usize, Vec<&Given<'_>>> = BTreeMap::new();
    for answer in given {
        by_question.entry(answer.question).or_default().push(answer);
    }
    let right = given.iter().filter(|answer| is_right(answer)).count();
    let usual = right as f64 / given.len().max(1) as f64;
    by_question
        .into_values()
        .flat_map(|answers| {
            let mut lessons = of_question(&answers);
            if wrong > 0.0 {
                lessons.extend(against(&answers, wrong, usual));
            }
            lessons
        })
        .collect()
}

/// The answers of whoever answers best of all, right or wrong: what to learn from where nothing more is known. `answers` are
/// those of each teacher, to the same questions.
///
/// **Source**: sequence-level distillation, Kim and Rush 2016.
pub fn best(teachers: &[Vec<Given<'_>>]) -> Vec<Lesson> {
    let best = best_of(teachers).map(|i| &teachers[i]);
    let whole = best.into_iter().flatten().filter(|answer| is_whole(answer));
    whole.map(|answer| lesson(answer, 1.0)).collect()
}

/// Who of several has the most right, the first of equals; `None` of none.
pub fn best_of(teachers: &[Vec<Given<'_>>]) -> Option<usize> {
    let mean = |i: usize| teachers[i].iter().map(|a| a.score).sum::<f64>() / teachers[i].len().max(1) as f64;
    (0..teachers.len()).reduce(|a, b| if mean(b) > mean(a) { b } else { a })
}

/// As [`choose`], without knowing what is right: an answer counts as right if more of those who were asked gave it than any
/// other, and at least two did. Questions without such an answer teach nothing. `answers` are those of each teacher, to the same
/// questions.
///
/// **Source**: majority voting as a reward, Zuo et al. 2025 (TTRL), over models in place of samples of one.
pub fn vote(teachers: &[Vec<Given<'_>>], wrong: f64) -> Vec<Lesson> {
    let mut votes: BTreeMap<usize, BTreeMap<&str, usize>> = BTreeMap::new();
    for answer in teachers.iter().flatten().filter(|answer| !answer.got.is_empty()) {
        *votes.entry(answer.question).or_default().entry(answer.got).or_default() += 1;
    }
    let elected = |question: usize| {
        let mut counts: Vec<(&str, usize)> = votes.get(&question)?.iter().map(|(got, n)| (*got, *n)).collect();
        counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        match counts[..] {
            [(got, n)] if n > 1 => Some(got),
            [(got, n), (_, second), ..] if n > second => Some(got),
            _ => None,
        }
    };
    let judged: Vec<Given<'_>> = teachers
        .iter()
        .flatten()
        .filter_map(|answer| {
            let score = f64::from(u8::from(elected(answer.question)? == answer.got));
            Some(Given { score, ..*answer })
        })
        .collect();
    choose(&judged, wrong)
}

fn is_right(answer: &Given<'_>) -> bool {
    answer.score >= 1.0
}

fn is_whole(answer: &Given<'_>) -> bool {
    !matches!(answer.finish, "length" | "loop") && !answer.output.trim().is_empty()
}

fn lesson(answer: &Given<'_>, weight: f64) -> Lesson {
    Lesson {
        question: answer.question,
        output: answer.output.to_string(),
        ended: answer.finish == "eos",
        weight,
    }
}

fn of_question(answers: &[&Given<'_>]) -> Vec<Lesson> {
    let share = answers.iter().filter(|a| is_right(a)).count() as f64 / answers.len() as f64;
    let texts = most_given(answers.iter().copied().filter(|a| is_right(a)));
    let weight = (1.0 - share / 2.0) / texts.len().max(1) as f64;
    texts.into_iter().map(|answer| lesson(answer, weight)).collect()
}

fn against(answers: &[&Given<'_>], wrong: f64, usual: f64) -> Vec<Lesson> {
    let share = match answers {
        [_] => usual,
        _ => answers.iter().filter(|a| is_right(a)).count() as f64 / answers.len() as f64,
    };
    let texts = most_given(answers.iter().copied().filter(|a| !is_right(a)));
    let weight = -wrong * share / texts.len().max(1) as f64;
    let texts = if weight < 0.0 { texts } else { Vec::new() };
    texts.into_iter().map(|answer| lesson(answer, weight)).collect()
}

/// The different whole answers, those that most gave; of as many, the one that was given first.
fn most_given<'a, 'b: 'a>(answers: impl Iterator<Item = &'a Given<'b>>) -> Vec<&'a Given<'b>> {
    let mut texts: Vec<(&Given<'_>, usize)> = Vec::new();
    for answer in answers.filter(|a| is_whole(a)) {
        let known = texts
            .iter_mut()
            .find(|(known, _)| known.output.trim() == answer.output.trim());
        match known {
            Some((_, times)) => *times += 1,
            None => texts.push((answer, 1)),
        }
    }
    texts.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    texts.truncate(MOST_ANSWERS);
    texts.into_iter().map(|(answer, _)| answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(question: usize, output: &str, score: f64) -> Given<'_> {
        Given {
            question,
            output,
            got: output,
            score,
            finish: "eos",
        }
    }

    #[test]
    fn a_vote_elects_what_most_say_and_nothing_where_nobody_agrees() {
        let answers = |said: [&'static str; 3]| -> Vec<Given<'static>> {
            said.into_iter()
                .enumerate()
                .map(|(q, output)| given(q, output, 0.0))
                .collect()
        };
        let teachers = [
            answers(["4", "7", "1"]),
            answers(["4", "8", "2"]),
            answers(["5", "7", "3"]),
            answers(["", "8", "4"]),
        ];
        let lessons = vote(&teachers, 0.0);
        let texts: Vec<&str> = lessons.iter().map(|l| l.output.as_str()).collect();
        assert_eq!(
            texts,
            ["4"],
            "7 and 8 are as many, 1 to 4 stand alone, and silence is no answer"
        );
        assert!(vote(&teachers, 0.5).iter().any(|l| l.output == "5" && l.weight < 0.0));
        assert!(
            vote(&[answers(["4", "7", "1"])], 0.0).is_empty(),
            "one alone elects nobody"
        );
    }

    fn choose_right(given: &[Given<'_>]) -> Vec<Lesson> {
        choose(given, 0.0)
    }

    #[test]
    fn wrong_answers_count_against_by_the_advantage_of_the_right_ones() {
        let lessons = choose(
            &[
                given(0, "right", 1.0),
                given(0, "wrong", 0.0),
                given(0, "other", 0.0),
                given(0, "wrong", 0.0),
                given(1, "nobody knows", 0.0),
                given(1, "not this one", 0.0),
                given(2, "alone", 0.0),
            ],
            0.5,
        );
        let found: Vec<(&str, f64)> = lessons.iter().map(|l| (l.output.as_str(), l.weight)).collect();
        let usual = 1.0 / 7.0;
        let expected = [
            ("right", 1.0 - 0.25 / 2.0),
            ("wrong", -0.5 * 0.25 / 2.0),
            ("other", -0.5 * 0.25 / 2.0),
            ("alone", -0.5 * usual),
        ];
        assert_eq!(
            found, expected,
            "where nobody is right there is nothing to be told apart"
        );
    }

    #[test]
    fn the_best_teacher_teaches_right_or_wrong() {
        let weak = vec![given(0, "a", 0.0), given(1, "b", 1.0), given(2, "c", 0.0)];
        let strong = vec![given(0, "x", 1.0), given(1, "y", 0.0), given(2, "z", 1.0)];
        let texts: Vec<String> = best(&[weak, strong]).into_iter().map(|l| l.output).collect();
        assert_eq!(texts, ["x", "y", "z"]);
        assert!(best(&[]).is_empty());
    }

    #[test]
    fn only_whole_right_answers_teach() {
        let cut = Given {
            finish: "length",
            ..given(1, "1 + 1 = 2", 1.0)
        };
        let circles = Given {
            finish: "loop",
            ..given(2, "2 2 2 2", 1.0)
        };
        let lessons = choose_right(&[
            given(0, "no", 0.0),
            cut,
            circles,
            given(3, " ", 1.0),
            given(4, "4", 1.0),
        ]);
        assert_eq!(lessons.len(), 1);
        assert_eq!((lessons[0].question, lessons[0].output.as_str()), (4, "4"));
    }

    #[test]
    fn what_several_gave_comes_first_and_no_question_has_more_than_two() {
        let answers = [
            given(7, "by chance", 1.0),
            given(7, "a", 1.0),
            given(7, "b", 1.0),
            given(7, "b ", 1.0),
            given(7, "wrong", 0.0),
        ];
        let texts: Vec<String> = choose_right(&answers).into_iter().map(|l| l.output).collect();
        assert_eq!(texts, ["b", "by chance"]);
    }

    #[test]
    fn a_question_that_everybody_answers_counts_half_and_its_texts_share() {
        let all = choose_right(&[given(0, "x", 1.0), given(0, "x", 1.0)]);
        assert_eq!(all[0].weight, 0.5);
        let one = choose_right(&[
            given(0, "x", 1.0),
            given(0, "y", 0.0),
            given(0, "z", 0.0),
            given(0, "", 0.0),
        ]);
        assert_eq!(one[0].weight, 1.0 - 0.25 / 2.0);
        let two = choose_right(&[given(0, "x", 1.0), given(0, "y", 1.0)]);
        assert_eq!(two.iter().map(|l| l.weight).collect::<Vec<_>>(), [0.25, 0.25]);
    }
}
