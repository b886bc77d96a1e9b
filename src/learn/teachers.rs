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

/// Different right answers of one question that teach, at most.
const MOST_ANSWERS: usize = 2;

/// The right answers among those that were given, with their weights, in the order of the questions.
pub fn choose(given: &[Given<'_>]) -> Vec<Lesson> {
    let mut by_question: BTreeMap<usize, Vec<&Given<'_>>> = BTreeMap::new();
    for answer in given {
        by_question.entry(answer.question).or_default().push(answer);
    }
    by_question
        .into_values()
        .flat_map(|answers| of_question(&answers))
        .collect()
}

fn of_question(answers: &[&Given<'_>]) -> Vec<Lesson> {
    let is_right = |answer: &&&Given<'_>| answer.score >= 1.0;
    let is_whole =
        |answer: &&&Given<'_>| !matches!(answer.finish, "length" | "loop") && !answer.output.trim().is_empty();
    let share = answers.iter().filter(is_right).count() as f64 / answers.len() as f64;
    // Each text with how many gave it; of as many, the one that was given first.
    let mut texts: Vec<(&Given<'_>, usize)> = Vec::new();
    for answer in answers.iter().filter(is_right).filter(is_whole) {
        match texts
            .iter_mut()
            .find(|(known, _)| known.output.trim() == answer.output.trim())
        {
            Some((_, times)) => *times += 1,
            None => texts.push((*answer, 1)),
        }
    }
    texts.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    texts.truncate(MOST_ANSWERS);
    let weight = (1.0 - share / 2.0) / texts.len().max(1) as f64;
    let lesson = |(answer, _): &(&Given<'_>, usize)| Lesson {
        question: answer.question,
        output: answer.output.to_string(),
        ended: answer.finish == "eos",
        weight,
    };
    texts.iter().map(lesson).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(question: usize, output: &str, score: f64) -> Given<'_> {
        Given {
            question,
            output,
            score,
            finish: "eos",
        }
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
        let lessons = choose(&[
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
        let texts: Vec<String> = choose(&answers).into_iter().map(|l| l.output).collect();
        assert_eq!(texts, ["b", "by chance"]);
    }

    #[test]
    fn a_question_that_everybody_answers_counts_half_and_its_texts_share() {
        let all = choose(&[given(0, "x", 1.0), given(0, "x", 1.0)]);
        assert_eq!(all[0].weight, 0.5);
        let one = choose(&[
            given(0, "x", 1.0),
            given(0, "y", 0.0),
            given(0, "z", 0.0),
            given(0, "", 0.0),
        ]);
        assert_eq!(one[0].weight, 1.0 - 0.25 / 2.0);
        let two = choose(&[given(0, "x", 1.0), given(0, "y", 1.0)]);
        assert_eq!(two.iter().map(|l| l.weight).collect::<Vec<_>>(), [0.25, 0.25]);
    }
}
