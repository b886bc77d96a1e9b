//! The real evaluator as a learner: answers become tokens, and a course runs over the differentiable twin.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Unscored,
    evaluator::MergeEvaluator,
    learning::{Lesson, given_of, variables},
};
use crate::{
    eval::{self, Question},
    event,
    learn::{Course, Parts, Settings, Step, teachers, variables as learned},
    model::{ScoreRequest, Text},
    models::verbatim,
    recipe::Recipe,
    search::genome::{Genome, Who},
    space::Teachers,
};

/// Texts with the number of the question that each belongs to.
#[derive(Default)]
struct Texts {
    texts: Vec<Text>,
    groups: Vec<usize>,
    /// Places of the texts that teach what the parent that gave them expected, by its name.
    distilled: BTreeMap<String, Vec<usize>>,
}

impl Texts {
    fn take(&mut self, request: ScoreRequest, question: usize, weight: f64) {
        if request.from < request.tokens.len() {
            self.groups.push(question);
            self.texts.push(Text {
                tokens: request.tokens,
                from: request.from,
                weight,
                expected: Vec::new(),
            });
        }
    }
}

/// The name of a teacher that is a parent, and its answers to a task, each with the place of its question.
type GivenBy = (Option<String>, Vec<(usize, event::Answer)>);

/// Between the numbers of two tasks' questions.
const TASKS_APART: usize = 1 << 32;

impl MergeEvaluator<'_> {
    pub(super) fn learn_lesson(
        &mut self,
        lesson: &Lesson<'_>,
        see: &mut dyn FnMut(event::Learning) -> bool,
    ) -> Result<event::Learned, Unscored> {
        let decode_with = |genome: &Genome, genotype: &[f64]| -> Recipe {
            match genome.decode(genotype) {
                Who::Recipe(recipe) => *recipe,
                Who::Model(_) | Who::Genes(_) => unreachable!("only the genome of a merge learns"),
            }
        };
        let decode = |genotype: &[f64]| decode_with(lesson.genome, genotype);
        let widest = lesson.genome.parts();
        let (wider, of) = widest
            .as_ref()
            .map_or((lesson.genome, &[][..]), |(wider, of)| (wider, of));
        let decode_parts = |genotype: &[f64]| decode_with(wider, genotype);
        // The child's own tokenizer cuts its texts.
        self.with_second_chance(&mut |this| this.load(&decode(lesson.start)))?;
        let texts = self.texts(lesson)?;
        let mut questions = texts.groups.clone();
        questions.sort_unstable();
        questions.dedup();
        let mut course = Course {
            resident: self.make_room(),
            decode: &decode,
            start: lesson.start.to_vec(),
            variables: lesson.variables.clone(),
            parts: widest.is_some().then(|| Parts {
                decode: &decode_parts,
                variables: variables(wider),
                of: of.to_vec(),
            }),
            texts: texts.texts,
            groups: texts.groups,
            device: self.device(),
            dtype: self.dtype(),
            settings: lesson.settings.clone(),
        };
        for (parent, places) in &texts.distilled {
            course.distil(&verbatim(parent), places)?;
        }
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
            apart: learned.apart,
            tokens: learned.tokens.0 + learned.tokens.1,
            curve,
            ..event::Learned::default()
        })
    }

    /// Goes once forward and back over so many texts, each a prompt of the search with so many tokens behind it: how much memory
    /// a step of learning takes.
    ///
    /// # Errors
    /// Nothing was merged, a recipe without a number that can be learned, a merge or a model that refuses.
    pub fn try_step(&mut self, recipe: &Recipe, texts: usize, answer_tokens: usize) -> Result<(), Unscored> {
        let prompts = self.typical_prompts()?;
        let text = |prompt: &Vec<u32>| Text {
            tokens: [
                &prompt[..],
                &prompt.repeat(answer_tokens.div_ceil(prompt.len()))[..answer_tokens],
            ]
            .concat(),
            from: prompt.len(),
            weight: 1.0,
            expected: Vec::new(),
        };
        let texts: Vec<Text> = prompts.iter().cycle().take(texts).map(text).collect();
        let (variables, start) = learned::of_recipe(recipe);
        let decode = |point: &[f64]| learned::with_numbers(recipe, point);
        let course = Course {
            resident: self.make_room(),
            decode: &decode,
            start,
            variables,
            parts: None,
            groups: (0..texts.len()).collect(),
            texts: Vec::new(),
            device: self.device(),
            dtype: self.dtype(),
            settings: Settings::default(),
        };
        course.gradient(&course.start, &texts)?;
        Ok(())
    }

    /// Solutions of the questions that have one, and answers to the others.
    fn texts(&self, lesson: &Lesson<'_>) -> Result<Texts, Unscored> {
        let mut texts = Texts::default();
        // Of each task, over all exams, everybody's answers.
        let mut asked: BTreeMap<(usize, String), Vec<GivenBy>> = BTreeMap::new();
        for ((parent, exam), given) in lesson.parents.iter().zip(&lesson.exams).zip(&lesson.given) {
            for (task, answers) in exam.tasks.iter().zip(given) {
                let of_task = asked.entry((task.index, task.split.clone())).or_default();
                of_task.push((parent.map(String::from), answers.clone()));
            }
        }
        for ((index, split), answers) in asked {
            let first = index * TASKS_APART;
            let solved = self.solutions(lesson.teachers, (index, &split), &answers, first, &mut texts)?;
            // Several samples are stored as one list, which is no text that anybody should write.
            let is_text = self.task(index).samples().is_none();
            if lesson.teachers != Teachers::Solutions && is_text {
                self.answers(lesson, (index, &split), &answers, &solved, first, &mut texts)?;
            }
        }
        Ok(texts)
    }

    /// Takes the solutions; gives back the questions that have one.
    fn solutions(
        &self,
        teachers: Teachers,
        (index, split): (usize, &str),
        answers: &[GivenBy],
        first: usize,
        texts: &mut Texts,
    ) -> Result<BTreeSet<usize>, Unscored> {
        let task = self.task(index);
        let is_wanted = match teachers {
            Teachers::Auto | Teachers::Solutions => true,
            Teachers::Answers | Teachers::Best | Teachers::Vote | Teachers::Distil => task.kind().is_measured(),
        };
        if !is_wanted {
            return Ok(BTreeSet::new());
        }
        let all = self.questions_of(index, split)?;
        let items = answers.iter().flat_map(|(_, answers)| answers);
        let items: BTreeSet<usize> = items.map(|(item, _)| *item).collect();
        let items: Vec<usize> = items.into_iter().collect();
        let questions: Vec<Question> = items.iter().map(|item| all[*item].clone()).collect();
        let mut solved = BTreeSet::new();
        for (place, request) in eval::solved(self.engine()?, task, &questions)? {
            solved.insert(items[place]);
            texts.take(request, first + items[place], 1.0);
        }
        Ok(solved)
    }

    fn answers(
        &self,
        lesson: &Lesson<'_>,
        (index, split): (usize, &str),
        answers: &[GivenBy],
        solved: &BTreeSet<usize>,
        first: usize,
        texts: &mut Texts,
    ) -> Result<(), Unscored> {
        // What a merge expects is what its parents taught it.
        let is_teacher = |by: &&GivenBy| lesson.teachers != Teachers::Distil || by.0.is_some();
        let answers: Vec<&GivenBy> = answers.iter().filter(is_teacher).collect();
        let given: Vec<Vec<teachers::Given<'_>>> = answers
            .iter()
            .map(|(_, of_one)| {
                given_of(of_one)
                    .filter(|given| !solved.contains(&given.question))
                    .collect()
            })
            .collect();
        let lessons = match lesson.teachers {
            Teachers::Best | Teachers::Distil => teachers::best(&given),
            Teachers::Vote => teachers::vote(&given, lesson.wrong),
            _ => teachers::choose(&given.concat(), lesson.wrong),
        };
        let questions = self.questions_of(index, split)?;
        let outputs: Vec<(&Question, &str, bool)> = lessons
            .iter()
            .map(|lesson| (&questions[lesson.question], lesson.output.as_str(), lesson.ended))
            .collect();
        let requests = eval::continued(self.engine()?, self.task(index), &outputs)?;
        let before = texts.texts.len();
        for (lesson, request) in lessons.iter().zip(requests) {
            texts.take(request, first + lesson.question, lesson.weight);
        }
        if lesson.teachers == Teachers::Distil
            && let Some(parent) = teachers::best_of(&given).and_then(|best| answers[best].0.clone())
        {
            let places = before..texts.texts.len();
            texts.distilled.entry(parent).or_default().extend(places);
        }
        Ok(())
    }
}
