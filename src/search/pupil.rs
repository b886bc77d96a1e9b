//! The real evaluator as a learner: answers become tokens, and a course runs over the differentiable twin.

use std::collections::BTreeMap;

use super::{
    Unscored,
    evaluator::MergeEvaluator,
    learning::{Lesson, given_of},
};
use crate::{
    eval::{self, Kind, Question},
    event,
    learn::{Course, Step, teachers},
    model::{ScoreRequest, Text},
    recipe::Recipe,
    search::genome::Who,
    space::Teachers,
};

/// Texts with the number of the question that each belongs to.
#[derive(Default)]
struct Texts {
    texts: Vec<Text>,
    groups: Vec<usize>,
}

impl Texts {
    fn take(&mut self, request: ScoreRequest, question: usize, weight: f64) {
        if request.from < request.tokens.len() {
            self.groups.push(question);
            self.texts.push(Text {
                tokens: request.tokens,
                from: request.from,
                weight,
            });
        }
    }
}

/// Between the numbers of two tasks' questions.
const TASKS_APART: usize = 1 << 32;

impl MergeEvaluator<'_> {
    pub(super) fn learn_lesson(
        &mut self,
        lesson: &Lesson<'_>,
        see: &mut dyn FnMut(event::Learning) -> bool,
    ) -> Result<event::Learned, Unscored> {
        let decode = |genotype: &[f64]| -> Recipe {
            match lesson.genome.decode(genotype) {
                Who::Recipe(recipe) => *recipe,
                Who::Model(_) | Who::Genes(_) => unreachable!("only the genome of a merge learns"),
            }
        };
        // The child's own tokenizer cuts its texts.
        self.load(&decode(lesson.start))?;
        let texts = self.texts(lesson)?;
        let mut questions = texts.groups.clone();
        questions.sort_unstable();
        questions.dedup();
        let parents = self.parents();
        let course = Course {
            source: parents,
            models: parents.iter().map(|(name, _)| name.to_string()).collect(),
            decode: &decode,
            start: lesson.start.to_vec(),
            variables: lesson.variables.clone(),
            texts: texts.texts,
            groups: texts.groups,
            device: self.device(),
            dtype: self.dtype(),
            settings: lesson.settings.clone(),
        };
        let mut curve = Vec::new();
        let learned = course.learn(&mut |step: &Step| {
            let point = event::LearningStep {
                step: step.step,
                taught: step.taught,
                held_back: step.held_back,
            };
            curve.push(point.clone());
            see(event::Learning {
                id: String::new(),
                from: String::new(),
                steps: step.steps,
                point,
                genotype: step.point.clone(),
            })
        });
        let learned = learned?;
        Ok(event::Learned {
            questions: questions.len(),
            texts: learned.texts.0,
            held_back_texts: learned.texts.1,
            taught: [learned.taught.before, learned.taught.after],
            held_back: [learned.held_back.before, learned.held_back.after],
            steps: learned.steps.1,
            best_step: learned.steps.0,
            // Four decimals, as genes are decoded.
            genotype: learned.point.iter().map(|x| (x * 1e4).round() / 1e4).collect(),
            steepness: learned.steepness,
            tokens: learned.tokens.0 + learned.tokens.1,
            curve,
            ..event::Learned::default()
        })
    }

    /// Solutions of the questions that have one, and right answers to the others.
    fn texts(&self, lesson: &Lesson<'_>) -> Result<Texts, Unscored> {
        let mut texts = Texts::default();
        // Of each task, the questions that were asked, over all exams, and every answer to them.
        let mut asked: BTreeMap<(usize, String), BTreeMap<usize, Vec<event::Answer>>> = BTreeMap::new();
        for (exam, given) in lesson.exams.iter().zip(&lesson.given) {
            for (task, answers) in exam.tasks.iter().zip(given) {
                let of_task = asked.entry((task.index, task.split.clone())).or_default();
                for (item, answer) in answers {
                    of_task.entry(*item).or_default().push(answer.clone());
                }
            }
        }
        for ((index, split), answers) in asked {
            let first = index * TASKS_APART;
            let left = self.solutions(lesson.teachers, (index, &split), &answers, first, &mut texts)?;
            self.right_answers((index, &split), &left, first, &mut texts)?;
        }
        Ok(texts)
    }

    /// Takes the solutions; gives back the questions that have none.
    fn solutions(
        &self,
        teachers: Teachers,
        (index, split): (usize, &str),
        answers: &BTreeMap<usize, Vec<event::Answer>>,
        first: usize,
        texts: &mut Texts,
    ) -> Result<Vec<(usize, event::Answer)>, Unscored> {
        let task = self.task(index);
        let all = self.questions_of(index, split)?;
        let items: Vec<usize> = answers.keys().copied().collect();
        let questions: Vec<Question> = items.iter().map(|item| all[*item].clone()).collect();
        let wants = teachers != Teachers::Answers || task.kind() != Kind::Generate;
        let solved = match wants {
            true => eval::solved(self.engine()?, task, &questions)?,
            false => Vec::new(),
        };
        let mut has_solution = vec![false; items.len()];
        for (place, request) in solved {
            has_solution[place] = true;
            texts.take(request, first + items[place], 1.0);
        }
        if teachers == Teachers::Solutions {
            return Ok(Vec::new());
        }
        let open = items.iter().zip(has_solution).filter(|(_, solved)| !solved);
        let pairs = open.flat_map(|(item, _)| answers[item].iter().map(|answer| (*item, answer.clone())));
        Ok(pairs.collect())
    }

    fn right_answers(
        &self,
        (index, split): (usize, &str),
        answers: &[(usize, event::Answer)],
        first: usize,
        texts: &mut Texts,
    ) -> Result<(), Unscored> {
        let given: Vec<teachers::Given<'_>> = given_of(answers).collect();
        let lessons = teachers::choose(&given);
        let questions = self.questions_of(index, split)?;
        let outputs: Vec<(&Question, &str, bool)> = lessons
            .iter()
            .map(|lesson| (&questions[lesson.question], lesson.output.as_str(), lesson.ended))
            .collect();
        let requests = eval::continued(self.engine()?, self.task(index), &outputs)?;
        for (lesson, request) in lessons.iter().zip(requests) {
            texts.take(request, first + lesson.question, lesson.weight);
        }
        Ok(())
    }
}
