//! The whole loop with an evaluator that computes a function: milliseconds, no models.

use std::{cell::RefCell, collections::HashSet, fs, path::Path, sync::Mutex, time::Duration};

use super::*;
use crate::{
    event::{Answer, Record},
    recipe::{DType, Method},
    space::{Codec, Fold, Learning, Shape},
    store::{CrashMedium, Journal, Left, read},
};

const SPACE: &str = "
name: rehearsal
models: {base: b, maths: m, spanish: s}
base: base
parameter_space:
  method: task_arithmetic
  genes:
    weight: [0.0, 1.5]
fitness:
  tasks: [{task: t}]
search: {optimizer: OPTIMIZER, evals: 40, seed: 3}
final: {finalists: 3}
";

const QUESTIONS: usize = 60;

/// Right answers follow from how near the weights are to (0.9, 0.6), less what is mixed in of experts of nothing; counts how
/// often it is asked.
struct Function {
    calls: usize,
    answers: usize,
    fails: fn(f64) -> bool,
    /// Cannot be asked: by split and subject.
    refuses: fn(&str, Subject<'_>) -> bool,
    /// The split in which recipes' answers are no numbers.
    lost_in: Option<&'static str>,
    parents_fail: bool,
    /// The call at which the machine breaks down.
    breaks_at: Option<usize>,
    quality: fn(f64, f64) -> f64,
    /// Of an answer, by how much of the maths expert there is.
    tokens: fn(f64) -> usize,
    /// How it learns: part of the way to the best weights of the tasks that teach at each round, or why it cannot.
    lesson: Option<Result<f64, Unscored>>,
    lessons: usize,
    /// How likely it holds that luck alone pulls the parts of each gene apart, in its first lesson.
    apart: Vec<Option<f64>>,
}

impl Function {
    fn new() -> Self {
        Self {
            calls: 0,
            answers: 0,
            fails: |_| false,
            refuses: |_, _| false,
            lost_in: None,
            parents_fail: false,
            breaks_at: None,
            quality: |maths, spanish| 0.9 - 0.8 * ((maths - 0.9).powi(2) + (spanish - 0.6).powi(2)),
            tokens: |_| 1,
            lesson: None,
            lessons: 0,
            apart: Vec::new(),
        }
    }
}

/// What a recipe mixes in of each expert: the mean over layers and modules.
fn weights(recipe: &Recipe) -> [f64; 3] {
    let tables = event::weights::of_recipe(&serde_json::to_value(recipe).unwrap());
    let weight = |name: &str| {
        let model = tables.iter().flat_map(|t| &t.models).find(|m| m.model == name)?;
        let values: Vec<f64> = model.groups.iter().flat_map(|g| &g.values).flatten().copied().collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let half = |name| weight(name).unwrap_or(0.5); // a swap of layers: half of each
    let maths = weight("maths").or_else(|| weight("parent-maths")).unwrap_or(0.5);
    let noise = ["noise1", "noise2"].into_iter().filter_map(weight).sum();
    [maths, half("spanish"), noise]
}

impl Evaluator for Function {
    fn learns(&self) -> bool {
        self.lesson.is_some()
    }

    fn learn(
        &mut self,
        lesson: &Lesson<'_>,
        see: &mut dyn FnMut(event::Learning) -> bool,
    ) -> Result<event::Learned, Unscored> {
        self.lessons += 1;
        let share = self.lesson.clone().expect("it is asked only if it learns")?;
        let right = lesson
            .given
            .iter()
            .flatten()
            .flatten()
            .filter(|(_, answer)| answer.score > 0.5);
        let texts = right.count();
        let teaches = |index| {
            lesson
                .exams
                .iter()
                .any(|exam| exam.tasks.iter().any(|t| t.index == index))
        };
        let best = match (teaches(0), teaches(1)) {
            (true, true) => [0.75, 0.75],
            (false, true) => [0.6, 0.9],
            _ => [0.9, 0.6],
        };
        let to = |gene: &GeneSpec| if gene.name.contains("maths") { best[0] } else { best[1] };
        let genes = lesson.genome.genes().iter();
        let genotype = lesson
            .start
            .iter()
            .zip(genes)
            .map(|(x, gene)| x + share * (to(gene) - x));
        let genotype: Vec<f64> = genotype.collect();
        let point = event::LearningStep {
            step: 1,
            taught: 1.0,
            held_back: Some(0.9),
        };
        see(event::Learning {
            id: String::new(),
            from: String::new(),
            steps: 1,
            point: point.clone(),
            genotype: genotype.clone(),
        });
        Ok(event::Learned {
            texts,
            genotype: genotype.iter().map(|x| (x * 1e4).round() / 1e4).collect(),
            steepness: vec![4.0, 1.0],
            apart: match self.lessons {
                1 => self.apart.clone(),
                _ => Vec::new(),
            },
            curve: vec![point],
            ..event::Learned::default()
        })
    }

    fn evaluate(&mut self, sitting: &Sitting<'_>, _: &mut dyn FnMut(event::Progress)) -> Result<Evaluation, Unscored> {
        self.calls += 1;
        if self.breaks_at == Some(self.calls) {
            return Err(Unscored::machine("the disk is full"));
        }
        if self.parents_fail && matches!(sitting.subject, Subject::Model(_)) {
            return Err(Unscored::candidate("no tokenizer"));
        }
        let exam = sitting.exam;
        let [maths, spanish, noise] = match sitting.subject {
            Subject::Model("maths" | "parent-maths") => [1.0, 0.0, 0.0],
            Subject::Model("spanish") => [0.0, 1.0, 0.0],
            Subject::Model(_) => [0.0; 3],
            Subject::Recipe(recipe) => weights(recipe),
            Subject::Genes => panic!("this space has models"),
        };
        if (self.refuses)(&exam.split, sitting.subject) {
            return Err(Unscored::candidate("out of memory"));
        }
        if (self.fails)(maths) && matches!(sitting.subject, Subject::Recipe(_)) {
            return Err(Unscored::candidate("collapsed"));
        }
        let is_lost = self.lost_in == Some(exam.split.as_str()) && matches!(sitting.subject, Subject::Recipe(_));
        let of_task = |task: &ExamTask| {
            // A second task wants the weights the other way round.
            let quality = match task.index {
                0 => (self.quality)(maths, spanish),
                _ => (self.quality)(spanish, maths),
            } - 0.3 * noise;
            let answers = task.items.iter().map(|i| {
                // Question i is right if it is easy enough: a fixed scatter of thresholds, another one for each split.
                let salt = exam.split.len();
                let threshold = ((i * 37 + salt * 11) % QUESTIONS) as f64 / QUESTIONS as f64;
                Answer {
                    q: task.catalogue.ids[*i].clone(),
                    out: String::new(),
                    got: String::new(),
                    gold: String::new(),
                    score: match is_lost {
                        true => f64::NAN,
                        false => f64::from(u8::from(threshold < quality)),
                    },
                    finish: "eos".into(),
                    language_ok: true,
                    tokens: (self.tokens)(maths),
                }
            });
            let key = format!("{maths}-{spanish}-{noise}-{}-{}", task.index, exam.split);
            (key, answers.collect::<Vec<Answer>>())
        };
        let answers: Vec<(String, Vec<Answer>)> = exam.tasks.iter().map(of_task).collect();
        self.answers += answers.iter().map(|(_, answers)| answers.len()).sum::<usize>();
        Ok(Evaluation {
            answers,
            ..Evaluation::default()
        })
    }
}

fn plan(optimizer: &str) -> Plan {
    plan_of(&SPACE.replace("OPTIMIZER", optimizer))
}

/// Runs or goes on with a journal on a medium that may crash; `None` after a crash.
fn go_on(medium: &CrashMedium, plan: &Plan) -> Option<End> {
    let time = RefCell::new(0);
    let clock = Clock {
        now_ms: &|| {
            *time.borrow_mut() += 10;
            *time.borrow()
        },
        sleep: &|_: Duration| (),
    };
    let mut chronicle = Chronicle::open(Journal::on(medium), started(), false, clock, &|_| ()).ok()?;
    run(plan, &mut Function::new(), None, &mut chronicle, &Control::default()).ok()
}

fn records_on(medium: &CrashMedium) -> Vec<Record> {
    Journal::on(medium).map(Result::unwrap).collect()
}

/// The power fails at every write and every sync of a small run, and the disk keeps of what was not synced now this part and
/// now that: the run goes on to the same end.
#[test]
fn a_power_cut_at_any_write_loses_nothing() {
    for search in ["cma-es, evals: 6", "cma-es, evals: 6, racing: {rungs: [16, 30]}"] {
        let plan = plan_of(&SPACE.replace("OPTIMIZER, evals: 40", search));
        let undisturbed = CrashMedium::default();
        assert_eq!(go_on(&undisturbed, &plan), Some(End::Done));
        let expected = story(&records_on(&undisturbed));
        let lefts = [Left::Nothing, Left::Half, Left::All, Left::Zeros, Left::LaterHalf];
        for crash in some_of(0..undisturbed.operations()) {
            let medium = CrashMedium::default().crashing_at(crash);
            assert_eq!(go_on(&medium, &plan), None, "down at operation {crash}");
            let left = lefts[crash % lefts.len()];
            let after = CrashMedium::holding(medium.after_crash(left));
            assert_eq!(
                go_on(&after, &plan),
                Some(End::Done),
                "{left:?} left at operation {crash}"
            );
            assert_eq!(
                story(&records_on(&after)),
                expected,
                "{left:?} left at operation {crash}"
            );
        }
    }
}

/// Between a kill and `resume` a parent, a question or the space became another one; exit code 0, and a p-value over both.
#[test]
fn a_run_that_is_not_what_it_was_goes_on_only_if_somebody_says_so() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    let clock = || Clock {
        now_ms: &|| 0,
        sleep: &|_: Duration| (),
    };
    let now = |space: &str| event::RunStarted {
        space_digest: space.into(),
        space: String::new(),
        ..started()
    };
    let open =
        |space: &str, accepts| Chronicle::open(Journal::open(&path).unwrap(), now(space), accepts, clock(), &|_| ());
    drop(open("first", false).unwrap());
    let before = std::fs::read(&path).unwrap();
    let Err(refused) = open("second", false) else {
        panic!("another space")
    };
    assert!(
        refused.to_string().contains("the search space (space.yaml)"),
        "{refused}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), before, "a refusal leaves nothing");
    drop(open("second", true).unwrap());
    drop(open("second", false).unwrap()); // once accepted, it is what the run is
    assert!(open("first", false).is_err());
    let run = event::run::Run::from_records(&read(&path).unwrap());
    assert!(event::changes::sentence(&run.changes).unwrap().contains("space.yaml"));
}

/// Two of four experts are of nothing.
fn distracted() -> Plan {
    let space = SPACE.replace("spanish: s}", "spanish: s, noise1: x, noise2: y}");
    let mut plan = plan_of(&space.replace("OPTIMIZER", "cma-es, racing: {rungs: [16, 30]}"));
    plan.warm_starts.clear();
    plan
}

/// The best mixture becomes a source of layer paths.
const HYBRID: &str = "hybrid: ps_then_dfs
data_flow_space: {sources: [ps, maths, spanish], repeats: 1, max_layers: 6, pin: {first: ps, last: ps}}
fitness:";

fn hybrid(optimizer: &str) -> Plan {
    plan_of(&SPACE.replace("fitness:", HYBRID).replace("OPTIMIZER", optimizer))
}

/// With two layer groups and three modules to tell apart, stage by stage.
fn widening(space: &str) -> Plan {
    let space = space.replace(
        "  genes:\n",
        "  layer_groups: 2\n  modules: [attn, mlp, other]\n  genes:\n",
    );
    let mut plan = plan_of(&space.replace("OPTIMIZER, evals: 40", "cma-es, evals: 120, widening: true"));
    let Genome::Merge(codec) = &plan.genome else {
        panic!("models")
    };
    plan.genome = Genome::Merge(codec.narrowed().unwrap());
    plan
}

fn plan_of(space: &str) -> Plan {
    let space = Space::parse(Path::new("s.yaml"), space).unwrap();
    let shape = Shape {
        layers: 4,
        out_dtype: DType::F32,
        fold: Fold::Projections,
    };
    let exam = |split: &str| Exam {
        split: split.into(),
        tasks: vec![ExamTask {
            index: 0,
            split: split.into(),
            task: "t".into(),
            lang: "en".into(),
            weight: 1.0,
            is_likelihood: false,
            catalogue: Arc::new(Catalogue {
                ids: (0..QUESTIONS).map(|i| format!("{split}/{i}")).collect(),
                lengths: vec![1; QUESTIONS],
            }),
            items: (0..QUESTIONS).collect(),
        }],
    };
    let codec = Codec::new(&space, shape).unwrap();
    Plan {
        warm_starts: codec.baselines().into_iter().take(1).collect(),
        budget: event::Budget {
            evals: Some(space.search.evals),
            duration_ms: None,
        },
        finish: false,
        search: exam("search"),
        selection: exam("selection"),
        test: exam("test"),
        held_out: exam("held-out"),
        lessons: Exam::nothing(),
        genome: Genome::Merge(codec),
        space,
    }
}

fn started() -> event::RunStarted {
    event::RunStarted {
        name: "rehearsal".into(),
        engine_version: "0".into(),
        seed: 3,
        space_digest: String::new(),
        space: String::new(),
        budget: event::Budget::default(),
        models: Vec::new(),
        tasks: Vec::new(),
        optimizer: String::new(),
        genes: Vec::new(),
        population: 0,
        device: "cpu".into(),
        dtype: "f32".into(),
        ..event::RunStarted::default()
    }
}

/// Runs or goes on; gives how it ended and the evaluator.
fn go(path: &Path, plan: &Plan, function: Function, control: &Control) -> (Result<End, Error>, Function) {
    go_advised(path, plan, function, None, control)
}

fn go_advised(
    path: &Path,
    plan: &Plan,
    mut function: Function,
    adviser: Option<&mut dyn Adviser>,
    control: &Control,
) -> (Result<End, Error>, Function) {
    let time = RefCell::new(0);
    let clock = Clock {
        now_ms: &|| {
            *time.borrow_mut() += 10;
            *time.borrow()
        },
        sleep: &|_: Duration| (),
    };
    let mut chronicle = Chronicle::open(Journal::open(path).unwrap(), started(), false, clock, &|_| ()).unwrap();
    let end = run(plan, &mut function, adviser, &mut chronicle, control);
    (end, function)
}

/// What must be the same however often a run was interrupted.
fn story(records: &[Record]) -> Vec<String> {
    records
        .iter()
        .filter(|r| {
            !matches!(
                r.event,
                Event::RunResumed { .. } | Event::RunStopped { .. } | Event::RunFailed { .. } | Event::Log { .. }
            )
        })
        .map(|r| match &r.event {
            Event::RunDone { evals, answers, .. } => format!("done {evals} {answers}"),
            // Which process generated an answer is no part of the story.
            Event::CandidateScored(c) => serde_json::to_string(&event::Candidate {
                cached: false,
                ..c.clone()
            })
            .unwrap(),
            event => serde_json::to_string(event).unwrap(),
        })
        .collect()
}

#[test]
fn a_whole_run_finds_the_child_and_proves_it() {
    for optimizer in ["cma-es", "genetic", "gp", "random"] {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let (end, _) = go(&path, &plan(optimizer), Function::new(), &Control::default());
        assert_eq!(end.unwrap(), End::Done);
        let records = read(&path).unwrap();
        let readings: Vec<&event::TestReading> = records
            .iter()
            .filter_map(|r| match &r.event {
                Event::TestRead(reading) => Some(reading),
                _ => None,
            })
            .collect();
        assert_eq!(readings.len(), 1, "the sealed split is read once");
        let forgotten: Vec<&event::HeldOutReading> = records
            .iter()
            .filter_map(|r| match &r.event {
                Event::HeldOutRead(reading) => Some(reading),
                _ => None,
            })
            .collect();
        let [forgotten] = forgotten.as_slice() else {
            panic!("held-out tasks are read once")
        };
        let ids: Vec<&str> = forgotten.scores.iter().map(|s| s.id.as_str()).collect();
        assert_eq!(
            ids,
            [
                readings[0].best.id.as_str(),
                "parent-base",
                "parent-maths",
                "parent-spanish"
            ]
        );
        assert_eq!(
            (forgotten.tasks[0].n, forgotten.tasks[0].metric.as_str()),
            (QUESTIONS, "exact_match")
        );
        assert!(
            readings[0].difference > 0.1 && readings[0].p_value < 0.05,
            "{optimizer}: {:?}",
            readings[0]
        );
        let on_search = records
            .iter()
            .filter(|r| matches!(&r.event, Event::CandidateScored(c) if matches!(c.origin, Origin::Search | Origin::WarmStart | Origin::Random)));
        assert_eq!(on_search.count(), 40, "the budget counts every candidate");
    }
}

/// A model named `parent-maths` was another one in the final, or none: then it was left out with a line in the log, and the
/// child beat the best of the rest, p = 0.0001.
#[test]
fn a_models_name_may_begin_like_a_parents_id() {
    let named = |name: &str| {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let plan = plan_of(
            &SPACE
                .replace("OPTIMIZER", "random")
                .replace("maths: m,", &format!("{name}: m,")),
        );
        go(&path, &plan, Function::new(), &Control::default()).0.unwrap();
        let records = read(&path).unwrap();
        let reading = records.iter().find_map(|r| match &r.event {
            Event::TestRead(reading) => Some(reading.clone()),
            _ => None,
        });
        reading.unwrap()
    };
    let plain = named("maths");
    let prefixed = named("parent-maths");
    assert_eq!(
        (plain.best_parent.id.as_str(), prefixed.best_parent.id.as_str()),
        ("parent-maths", "parent-parent-maths")
    );
    assert_eq!(prefixed.best_parent.score, plain.best_parent.score);
    assert_eq!(prefixed.others.len(), plain.others.len(), "nobody is missing");
}

/// A parent, an unsearched merge or a finalist that could not be asked in the final was left out of it, and the winner
/// beat whoever remained. Now the final waits, and a resumed run ends as if nothing had been.
#[test]
fn who_cannot_be_asked_in_the_final_is_not_left_out_of_it() {
    let whole = {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        go(&path, &plan("random"), Function::new(), &Control::default())
            .0
            .unwrap();
        story(&read(&path).unwrap())
    };
    type Refusal = (&'static str, fn(&str, Subject<'_>) -> bool);
    let refusals: [Refusal; 5] = [
        ("parent-maths", |split, subject| {
            split == "selection" && matches!(subject, Subject::Model("maths"))
        }),
        ("parent-base", |split, subject| {
            split == "test" && matches!(subject, Subject::Model("base"))
        }),
        ("parent-spanish", |split, subject| {
            split == "held-out" && matches!(subject, Subject::Model("spanish"))
        }),
        ("linear", |split, subject| {
            split == "selection" && matches!(subject, Subject::Recipe(r) if r.result().merge_method == Method::Linear)
        }),
        ("", |split, subject| {
            split == "selection" && matches!(subject, Subject::Recipe(_))
        }),
    ];
    for (id, refuses) in refusals {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let ill = Function {
            refuses,
            ..Function::new()
        };
        let error = go(&path, &plan("random"), ill, &Control::default()).0.unwrap_err();
        assert!(
            matches!(&error, Error::Unjudged { id: who, .. } if id.is_empty() || who == id),
            "{error}"
        );
        assert!(error.to_string().contains("resume"), "{error}");
        let failed = |r: &Record| matches!(r.event, Event::RunFailed { .. });
        assert!(read(&path).unwrap().iter().any(failed));
        go(&path, &plan("random"), Function::new(), &Control::default())
            .0
            .unwrap();
        let mut records = read(&path).unwrap();
        records.retain(|r| !failed(r));
        assert_eq!(story(&records), whole, "{id}");
    }
}

/// NaN stands above every number in the order by which finalists were sorted.
#[test]
fn a_finalist_without_a_number_does_not_win() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    let lost = Function {
        lost_in: Some("selection"),
        ..Function::new()
    };
    let error = go(&path, &plan("random"), lost, &Control::default()).0.unwrap_err();
    assert!(error.to_string().contains("its score is NaN"), "{error}");
}

#[test]
fn attraction_breeds_others_than_tournaments() {
    let bred = |search: &str| {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let (end, _) = go(&path, &plan(search), Function::new(), &Control::default());
        assert_eq!(end.unwrap(), End::Done);
        story(&read(&path).unwrap())
    };
    let tournament = "genetic, population: 6";
    assert_ne!(bred(&format!("{tournament}, mating: attraction")), bred(tournament));
}

/// Where to cut a journal: before every seventh line, and before every one that is more than a candidate's.
fn cuts(lines: &[&str]) -> Vec<usize> {
    let is_candidates = |line: &str| {
        let events = [
            "answers",
            "candidate_started",
            "candidate_scored",
            "candidate_failed",
            "exam_answered",
        ];
        events
            .iter()
            .any(|event| line.contains(&format!("\"event\":\"{event}\"")))
    };
    some_of((1..lines.len()).filter(|cut| cut % 7 == 0 || !is_candidates(lines[*cut])))
}

/// Of the places where a run could end, every fifth, from another one on for each test; all of them where
/// `HETEROSIS_EVERY_CUT` is set, as it is under CI.
fn some_of(places: impl Iterator<Item = usize>) -> Vec<usize> {
    let places: Vec<usize> = places.collect();
    match std::env::var_os("HETEROSIS_EVERY_CUT") {
        Some(_) => places,
        None => places.iter().skip(places.len() % 5).step_by(5).copied().collect(),
    }
}

/// A language model, as far as a search sees one.
struct Wise {
    asked: Vec<String>,
    says: fn(&str) -> Result<String, String>,
}

impl Adviser for Wise {
    fn reply(&mut self, question: &str) -> Result<String, String> {
        self.asked.push(question.into());
        (self.says)(question)
    }
}

/// Runs a plan with advice, then once more from every place where it could be cut off: the journal, and how often was asked.
fn advised(search: &str, says: fn(&str) -> Result<String, String>) -> (Vec<Record>, Vec<String>) {
    let plan = plan(search);
    let wise = || Wise {
        asked: Vec::new(),
        says,
    };
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    let mut first = wise();
    let (end, whole) = go_advised(&path, &plan, Function::new(), Some(&mut first), &Control::default());
    assert_eq!(end.unwrap(), End::Done);
    let text = std::fs::read_to_string(&path).unwrap();
    let records = read(&path).unwrap();
    let expected = story(&records);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let is_advice = |line: &&&str| line.contains("\"event\":\"advised\"");
    for cut in cuts(&lines) {
        std::fs::write(&path, lines[..cut].concat()).unwrap();
        let mut again = wise();
        let (end, asked) = go_advised(&path, &plan, Function::new(), Some(&mut again), &Control::default());
        assert_eq!(end.unwrap(), End::Done);
        assert_eq!(story(&read(&path).unwrap()), expected, "cut at {cut}");
        let journalled = lines[..cut].iter().filter(is_advice).count();
        assert_eq!(again.asked.len(), first.asked.len() - journalled, "cut at {cut}");
        assert!(asked.answers <= whole.answers);
    }
    (records, first.asked)
}

fn advice(records: &[Record]) -> Vec<&event::Advice> {
    let advice = records.iter().filter_map(|r| match &r.event {
        Event::Advised(advice) => Some(advice),
        _ => None,
    });
    advice.collect()
}

#[test]
fn what_a_language_model_says_is_the_mean_of_evollm_and_is_asked_once() {
    let (records, asked) = advised("evollm, population: 6, guide: {model: wise}", |_| Ok("60, 40".into()));
    assert!(asked.len() > 3 && asked[0].contains("2 whole numbers"), "{asked:?}");
    assert!(advice(&records).iter().all(|advice| advice.refused.is_none()));
    let mean = records.iter().rev().find_map(|r| match &r.event {
        Event::CandidateScored(c) if c.origin == Origin::Mean => Some(c.genotype.clone()),
        _ => None,
    });
    let mean = mean.unwrap();
    assert!(
        mean.iter().zip([0.9, 0.6]).all(|(a, b)| (a - b).abs() < 1e-9),
        "{mean:?}"
    );
}

#[test]
fn a_guide_proposes_a_recipe_and_is_told_once_why_one_is_refused() {
    let (records, asked) = advised("cma-es, population: 6, guide: {model: wise, every: 2}", |question| {
        let refused = question.contains("This is refused");
        let maths = 0.8 + 0.001 * (question.bytes().map(u64::from).sum::<u64>() % 97) as f64;
        Ok(match refused {
            false => "wait: 3".into(),
            true => format!("Then so:\n```yaml\nweight.maths: {maths}\nweight.spanish: 0.6\n```"),
        })
    });
    let all = advice(&records);
    assert!(
        asked.len() > 2 && asked[0].contains("# weight.maths: 0 to 1.5"),
        "{}",
        asked[0]
    );
    let refused = all[0].refused.as_ref().unwrap();
    assert!(refused.contains("wait") && asked[1].contains(refused), "{refused}");
    let guided = records
        .iter()
        .filter(|r| matches!(&r.event, Event::CandidateScored(c) if c.origin == Origin::Guided));
    assert!(guided.count() >= 2);
    let run = event::run::Run::from_records(&records);
    assert_eq!((run.advice.asked, run.advice.unanswered), (all.len(), 0));
}

/// What nobody says costs nothing but time, and not for ever.
#[test]
fn a_search_whose_guide_does_not_reply_goes_on_without() {
    let tmp = tempfile::tempdir().unwrap();
    for (i, search) in ["evollm, guide: {model: mute}", "cma-es, guide: {model: mute}"]
        .into_iter()
        .enumerate()
    {
        let path = tmp.path().join(i.to_string());
        let mut mute = Wise {
            asked: Vec::new(),
            says: |_| Err("connection refused".into()),
        };
        let (end, _) = go_advised(
            &path,
            &plan(search),
            Function::new(),
            Some(&mut mute),
            &Control::default(),
        );
        assert_eq!((end.unwrap(), mute.asked.len()), (End::Done, 3));
    }
}

const RACING: &str = "racing: {rungs: [16, 30, 60]}";
const ATTRACTION: &str = "genetic, population: 6, mating: attraction";

#[test]
fn a_run_killed_anywhere_goes_on_to_the_same_end() {
    goes_on_from_anywhere([
        plan("cma-es"),
        plan("genetic"),
        plan(ATTRACTION),
        widening(SPACE),
        distracted(),
    ]);
}

#[test]
fn a_race_killed_anywhere_goes_on_to_the_same_end() {
    goes_on_from_anywhere([
        plan(&format!("cma-es, {RACING}")),
        plan(&format!("{ATTRACTION}, {RACING}")),
    ]);
}

#[test]
fn a_hybrid_run_killed_anywhere_goes_on_to_the_same_end() {
    goes_on_from_anywhere([
        hybrid("cma-es"),
        hybrid(&format!("cma-es, {RACING}")),
        widening(&SPACE.replace("fitness:", HYBRID)),
    ]);
}

#[test]
fn a_gaussian_process_killed_anywhere_goes_on_to_the_same_end() {
    goes_on_from_anywhere([plan("gp"), plan(&format!("gp, {RACING}"))]);
}

/// Cut the journal after any line, as a kill would: the resumed run must tell the same story, and ask nothing twice.
fn goes_on_from_anywhere(plans: impl IntoIterator<Item = Plan>) {
    for plan in plans {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let (_, whole) = go(&path, &plan, Function::new(), &Control::default());
        let text = std::fs::read_to_string(&path).unwrap();
        let expected = story(&read(&path).unwrap());
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for cut in cuts(&lines) {
            let torn = &lines[cut][..lines[cut].len() / 2];
            std::fs::write(&path, lines[..cut].concat() + torn).unwrap();
            let known = read(&path)
                .unwrap()
                .iter()
                .filter(|r| matches!(r.event, Event::CandidateScored(_)))
                .count();
            let (end, resumed) = go(&path, &plan, Function::new(), &Control::default());
            assert_eq!(end.unwrap(), End::Done);
            let now = story(&read(&path).unwrap());
            let differs = now.iter().zip(&expected).position(|(a, b)| a != b);
            let search = &plan.space.search;
            assert_eq!(
                differs.map(|at| (&now[at], &expected[at])),
                None,
                "{search:?} cut after line {cut}"
            );
            assert_eq!(now.len(), expected.len(), "{search:?} cut after line {cut}");
            assert!(
                resumed.calls + known <= whole.calls,
                "cut after line {cut}: asked again"
            );
        }
    }
}

/// Three stages: each begins where the one before it was, tells more genes apart, and has its part of the budget.
#[test]
fn a_space_widens_stage_by_stage() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    let (end, _) = go(&path, &widening(SPACE), Function::new(), &Control::default());
    assert_eq!(end.unwrap(), End::Done);
    let records = read(&path).unwrap();
    let stages = records.iter().filter_map(|r| match &r.event {
        Event::StageStarted(stage) => Some(stage),
        _ => None,
    });
    let stages: Vec<_> = stages.collect();
    let names: Vec<&str> = stages.iter().map(|s| s.stage.as_str()).collect();
    assert_eq!(
        names,
        ["parameter_space_global", "parameter_space_modules", "parameter_space"]
    );
    let genes: Vec<usize> = stages.iter().map(|s| s.genes.len()).collect();
    assert_eq!(stages[0].genes, ["weight.maths", "weight.spanish"]);
    assert!(genes[0] < genes[1] && genes[1] < genes[2], "{genes:?}");
    // A generation is never cut short.
    let late = |stage: usize, evals: u64| (evals..evals + 10).contains(&stages[stage].evals);
    assert!(late(1, 24) && late(2, 48), "{stages:?}");

    let scored = |generation: std::ops::Range<u64>, genes: usize| {
        let of_search = records.iter().filter_map(|r| match &r.event {
            Event::CandidateScored(c) if c.generation.is_some_and(|g| generation.contains(&g)) => Some(c),
            _ => None,
        });
        let fitness: Vec<f64> = of_search
            .filter(|c| c.genotype.len() == genes)
            .map(|c| c.fitness)
            .collect();
        fitness.iter().sum::<f64>() / fitness.len() as f64
    };
    let (first, last) = (scored(0..2, genes[0]), scored(0..u64::MAX, genes[2]));
    assert!(
        last > first + 0.05,
        "what the narrow stages found is not lost: {first} {last}"
    );
}

/// A generation of the first stage spent the second one's budget too: "the optimizer cannot search this space: 0 gene(s)".
#[test]
fn a_stage_that_breeds_nobody_leaves_its_genes_to_the_next() {
    let mut plan = widening(&SPACE.replace("fitness:", HYBRID));
    plan.budget.evals = Some(20);
    let (records, _) = run_of(&plan, Function::new());
    let stages = records.iter().filter_map(|r| match &r.event {
        Event::StageStarted(stage) => Some(stage),
        _ => None,
    });
    let stages: Vec<_> = stages.collect();
    let empty = stages.windows(2).find(|pair| pair[0].evals == pair[1].evals);
    let empty = empty.unwrap_or_else(|| panic!("{stages:?}"));
    assert_eq!(empty[0].genes, empty[1].genes);
    assert_eq!(stages.last().unwrap().stage, "data_flow_space");
}

/// 120 candidates could not tell which layers should differ, and one gradient could.
#[test]
fn genes_are_split_whose_parts_pull_apart() {
    let plan = with_lessons(widening(SPACE), 1);
    let stages = |apart: &[Option<f64>]| {
        let function = Function {
            apart: apart.to_vec(),
            ..learner(Ok(0.5))
        };
        let (records, _) = run_of(&plan, function);
        let stages = records.iter().filter_map(|r| match &r.event {
            Event::StageStarted(stage) => Some(stage.genes.clone()),
            _ => None,
        });
        (stages.collect::<Vec<_>>(), records)
    };
    let (genes, records) = stages(&[Some(0.001), Some(0.4)]);
    let split = [
        "weight.maths.attn",
        "weight.maths.mlp",
        "weight.maths.other",
        "weight.spanish",
    ];
    assert_eq!((genes.len(), &genes[1][..]), (3, &split.map(String::from)[..]));
    let told = records.iter().find_map(|r| match &r.event {
        Event::Log { message, .. } if message.contains("weight.maths (p = 0.00), weight.spanish (p = 0.40)") => {
            Some(())
        }
        _ => None,
    });
    assert!(told.is_some(), "it says why");
    let (genes, _) = stages(&[Some(0.4), Some(0.001)]);
    assert_eq!(genes[1][0], "weight.maths");
    // Of what the gradient says nothing of, the scores decide.
    let (by_score, _) = stages(&[]);
    let (nothing_said, _) = stages(&[None, None]);
    assert_eq!(by_score, nothing_said);
}

/// With four experts of nothing beside two of something, a search within 400 candidates ended 16 points below one without.
#[test]
fn experts_that_do_not_help_are_left_out_at_first() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    let plan = distracted();
    go(&path, &plan, Function::new(), &Control::default()).0.unwrap();
    let records = read(&path).unwrap();
    let says = |r: &Record| matches!(&r.event, Event::Log { message, .. } if message == "the search starts from maths + spanish; noise1, noise2 left out");
    assert!(records.iter().any(says));
    let scored: Vec<&event::Candidate> = records
        .iter()
        .filter_map(|r| match &r.event {
            Event::CandidateScored(c) => Some(c),
            _ => None,
        })
        .collect();
    let soups = scored.iter().filter(|c| c.id.starts_with("soup-"));
    let soups: Vec<&[f64]> = soups.map(|c| c.genotype.as_slice()).collect();
    let expected: [[f64; 4]; 4] = [
        [1.0, 0.0, 0.0, 0.0],
        [1.0, 1.0, 0.0, 0.0],
        [1.0, 1.0, 1.0, 0.0],
        [1.0, 1.0, 0.0, 1.0],
    ];
    assert_eq!(soups, expected);
    let first = scored.iter().filter(|c| c.generation == Some(0));
    let (maths, noise): (Vec<f64>, Vec<f64>) = first.map(|c| (c.genotype[0], c.genotype[2])).unzip();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    assert!(mean(&maths) > 0.7 && mean(&noise) < 0.2, "{maths:?} {noise:?}");

    let mut off = distracted();
    off.space.search.greedy_soup = false;
    let path = tmp.path().join("off.jsonl");
    go(&path, &off, Function::new(), &Control::default()).0.unwrap();
    let is_soup = |r: &Record| matches!(&r.event, Event::CandidateScored(c) if c.id.starts_with("soup-"));
    assert!(!read(&path).unwrap().iter().any(is_soup));
}

#[test]
fn a_stopped_run_goes_on() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    let control = Control::default();
    control.stop.store(true, Ordering::Relaxed);
    let (end, function) = go(&path, &plan("cma-es"), Function::new(), &control);
    assert_eq!((end.unwrap(), function.calls), (End::Stopped, 0));
    let (end, _) = go(&path, &plan("cma-es"), Function::new(), &Control::default());
    assert_eq!(end.unwrap(), End::Done);
}

#[test]
fn a_failed_candidate_is_a_value() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    let function = Function {
        fails: |maths| maths > 0.7,
        ..Function::new()
    };
    let (end, _) = go(&path, &plan("cma-es"), function, &Control::default());
    assert_eq!(end.unwrap(), End::Done);
    let failed = read(&path)
        .unwrap()
        .iter()
        .filter(|r| matches!(r.event, Event::CandidateFailed { .. }))
        .count();
    assert!(failed > 0);
}

/// The disk was full for a minute, and the candidates of that minute had failed for ever; another one won.
#[test]
fn a_fault_of_the_machine_stops_the_run_and_nothing_is_blamed() {
    let plan = plan("cma-es");
    let tmp = tempfile::tempdir().unwrap();
    let undisturbed = tmp.path().join("undisturbed.jsonl");
    go(&undisturbed, &plan, Function::new(), &Control::default()).0.unwrap();
    let path = tmp.path().join("journal.jsonl");
    let (mut stops, mut end) = (0, None);
    while end != Some(End::Done) {
        // A parent, a baseline, a draw, candidates and a finalist are struck.
        let breaks_at = Some([2, 4, 6, 9, 20, 13][stops % 6]);
        let breaks_at = breaks_at.filter(|_| stops < 6);
        let function = Function {
            breaks_at,
            ..Function::new()
        };
        match go(&path, &plan, function, &Control::default()).0 {
            Ok(how) => end = Some(how),
            Err(e @ Error::Machine { .. }) => assert!(e.to_string().contains("the disk is full"), "{e}"),
            Err(e) => panic!("{e}"),
        }
        stops += 1;
    }
    assert_eq!(stops, 7);
    let records = read(&path).unwrap();
    let blamed = |r: &Record| matches!(r.event, Event::CandidateFailed { .. });
    assert!(!records.iter().any(blamed));
    assert_eq!(story(&records), story(&read(&undisturbed).unwrap()));
}

/// A parent that failed once could not be asked again: `resume` read its failure in the journal for ever.
#[test]
fn a_parent_that_failed_is_asked_again() {
    let plan = plan("cma-es");
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    let broken = Function {
        parents_fail: true,
        ..Function::new()
    };
    let (end, _) = go(&path, &plan, broken, &Control::default());
    assert!(matches!(end, Err(Error::Parent { .. })), "{end:?}");
    assert_eq!(
        go(&path, &plan, Function::new(), &Control::default()).0.unwrap(),
        End::Done
    );
}

#[test]
fn nothing_but_failures_is_an_error_that_says_so() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    let function = Function {
        fails: |_| true,
        ..Function::new()
    };
    let (end, _) = go(&path, &plan("cma-es"), function, &Control::default());
    assert!(
        matches!(
            end,
            Err(Error::NothingBred {
                failed: 38,
                most: 38,
                ..
            })
        ),
        "{end:?}"
    );
}

/// DELLA with densities that its epsilon does not allow: 14 of 14 failed, and the run ended as a success with an unsearched
/// merge for a winner.
#[test]
fn a_search_that_bred_nothing_but_failures_has_failed_and_can_begin_again() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    // Baselines and the start that repeats one of them have weights of 1 or a half.
    let function = Function {
        fails: |maths| ![0.5, 1.0].contains(&maths),
        ..Function::new()
    };
    let plan = plan("cma-es");
    let (end, _) = go(&path, &plan, function, &Control::default());
    let Err(error @ Error::NothingBred { .. }) = end else {
        panic!("{end:?}")
    };
    assert!(error.to_string().contains("because: collapsed"), "{error}");
    // The reasons differ in a number.
    let Error::NothingBred { failed, most, .. } = error else {
        unreachable!()
    };
    assert_eq!(failed, most);
    let records = read(&path).unwrap();
    assert!(matches!(records.last().unwrap().event, Event::RunFailed { .. }));
    assert!(!records.iter().any(|r| matches!(r.event, Event::Selected(_))));

    // What was wrong is mended: everything is asked again, and the run is as one that never failed.
    let (end, _) = go(&path, &plan, Function::new(), &Control::default());
    assert_eq!(end.unwrap(), End::Done);
    let run = event::run::Run::from_records(&read(&path).unwrap());
    assert_eq!(
        (run.evals, run.failed.len(), run.state.clone()),
        (40, 0, event::run::State::Done)
    );
    let whole = tmp.path().join("whole.jsonl");
    go(&whole, &plan, Function::new(), &Control::default()).0.unwrap();
    let best = |path: &Path| {
        let records = read(path).unwrap();
        records.into_iter().find_map(|r| match r.event {
            Event::Selected(selection) => Some(selection),
            _ => None,
        })
    };
    assert_eq!(best(&path), best(&whole));
    // And once more, as it is resumed when it is done.
    assert_eq!(
        go(&path, &plan, Function::new(), &Control::default()).0.unwrap(),
        End::Done
    );
}

/// One who asks for a stop while the final's questions are answered.
struct Impatient<'a> {
    function: Function,
    split: &'static str,
    control: &'a Control,
}

impl Evaluator for Impatient<'_> {
    fn evaluate(
        &mut self,
        sitting: &Sitting<'_>,
        progress: &mut dyn FnMut(event::Progress),
    ) -> Result<Evaluation, Unscored> {
        if sitting.exam.split == self.split {
            self.control.stop.store(true, Ordering::Relaxed);
        }
        self.function.evaluate(sitting, progress)
    }
}

/// Lines of answers in a journal that may not be there yet.
fn answers_in(path: &Path) -> usize {
    let records = read(path).unwrap_or_default();
    records.iter().filter(|r| matches!(r.event, Event::Answers(_))).count()
}

/// One SIGINT in the final was ignored for minutes: the whole exam of a finalist was one piece of work.
#[test]
fn the_final_stops_between_batches_and_goes_on_to_the_same_end() {
    let tmp = tempfile::tempdir().unwrap();
    let plan = plan("cma-es");
    let whole = tmp.path().join("whole.jsonl");
    let (_, uninterrupted) = go(&whole, &plan, Function::new(), &Control::default());
    let expected = story(&read(&whole).unwrap());
    let path = tmp.path().join("journal.jsonl");
    let mut stops = 0;
    for split in ["selection", "test", "held-out"] {
        loop {
            let clock = Clock {
                now_ms: &|| 0,
                sleep: &|_: Duration| (),
            };
            let before = answers_in(&path);
            let mut chronicle =
                Chronicle::open(Journal::open(&path).unwrap(), started(), false, clock, &|_| ()).unwrap();
            let control = Control::default();
            let mut impatient = Impatient {
                function: Function::new(),
                split,
                control: &control,
            };
            let end = run(&plan, &mut impatient, None, &mut chronicle, &control).unwrap();
            let asked_in_final = control.stop.load(Ordering::Relaxed);
            if !asked_in_final || end == End::Done {
                break;
            }
            stops += 1;
            let records = read(&path).unwrap();
            let fresh: Vec<_> = records
                .iter()
                .filter_map(|r| match &r.event {
                    Event::Answers(answers) => Some((answers.split.as_str(), answers.answers.len())),
                    _ => None,
                })
                .skip(before)
                .filter(|(of, _)| *of == split)
                .collect();
            assert!(
                matches!(fresh.as_slice(), [(_, n)] if *n <= 32),
                "one batch, and no more: {fresh:?}"
            );
            if stops > 6 {
                break; // enough of this part
            }
        }
        stops = 0;
    }
    let (end, _) = go(&path, &plan, Function::new(), &Control::default());
    assert_eq!(end.unwrap(), End::Done);
    let now = story(&read(&path).unwrap());
    assert_eq!(now, expected);
    let asked = |path: &Path| -> usize {
        let count = |r: &Record| match &r.event {
            Event::Answers(answers) => answers.answers.len(),
            _ => 0,
        };
        read(path).unwrap().iter().map(count).sum()
    };
    assert_eq!(asked(&path), uninterrupted.answers, "nothing is asked twice");
}

/// Three finalists had answered 400 questions; when a resumed run asked 30 of each, six lines were told of nine, from 1 on.
#[test]
fn a_final_that_asks_less_tells_everybodys_score_again() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    let mut plan = plan("cma-es");
    let (_, whole) = go(&path, &plan, Function::new(), &Control::default());
    assert!(whole.answers > 0);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let is_told = |line: &&str| line.contains("\"event\":\"exam_answered\"");
    let third = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| is_told(line))
        .nth(2)
        .unwrap()
        .0;
    std::fs::write(&path, lines[..=third].concat()).unwrap();
    plan.selection = plan.selection.beginning(30);
    let (end, _) = go(&path, &plan, Function::new(), &Control::default());
    assert_eq!(end.unwrap(), End::Done);
    let mut exams: Vec<(usize, usize)> = Vec::new();
    for record in read(&path).unwrap() {
        match record.event {
            Event::ExamStarted(exam) if exam.phase == event::Phase::Selection => exams.push((exam.examinees.len(), 0)),
            Event::ExamAnswered(answered) if answered.phase == event::Phase::Selection => {
                exams.last_mut().unwrap().1 += 1;
            }
            _ => {}
        }
    }
    let all = exams[0].0;
    assert_eq!(exams, [(all, 3), (all, all)]);
}

/// A night of eight hours ended an hour late: what the final takes was not looked at.
#[test]
fn a_time_budget_keeps_what_the_final_takes() {
    /// Each answer takes a tenth of a second.
    struct Timed<'a>(Function, &'a std::cell::Cell<u64>);
    impl Evaluator for Timed<'_> {
        fn evaluate(
            &mut self,
            sitting: &Sitting<'_>,
            p: &mut dyn FnMut(event::Progress),
        ) -> Result<Evaluation, Unscored> {
            let mut evaluation = self.0.evaluate(sitting, p)?;
            evaluation.evaluation_ms = 100 * sitting.exam.n() as u64;
            self.1.set(self.1.get() + evaluation.evaluation_ms);
            Ok(evaluation)
        }
    }
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    let mut plan = plan("cma-es");
    plan.budget = event::Budget {
        evals: None,
        duration_ms: Some(600_000),
    };
    let time = std::cell::Cell::new(1000);
    let clock = Clock {
        now_ms: &|| time.get(),
        sleep: &|_: Duration| (),
    };
    let mut chronicle = Chronicle::open(Journal::open(&path).unwrap(), started(), false, clock, &|_| ()).unwrap();
    let end = run(
        &plan,
        &mut Timed(Function::new(), &time),
        None,
        &mut chronicle,
        &Control::default(),
    );
    assert_eq!(end.unwrap(), End::Done);
    let took = time.get() - 1000;
    assert!(
        (510_000..=600_000).contains(&took),
        "the budget is used and kept: {took} ms"
    );
    let kept =
        |r: &Record| matches!(&r.event, Event::Log { message, .. } if message.contains("are kept for the final"));
    assert!(read(&path).unwrap().iter().any(kept));
}

/// A baseline that an older build measured and this one does not: the run counted as replayed for ever, and neither its
/// budget nor its time ended it.
#[test]
fn a_candidate_that_nobody_asks_for_any_more_does_not_keep_the_run_in_its_past() {
    for (lines, at_end) in [(60, false), (60, true), (14, true)] {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let plan = plan("random");
        go(&path, &plan, Function::new(), &Control::default()).0.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines: Vec<String> = text.split_inclusive('\n').take(lines).map(String::from).collect();
        let baseline = lines
            .iter()
            .find(|l| l.contains("\"id\":\"ties\"") && l.contains("candidate_scored"));
        let old = baseline.unwrap().replace("\"id\":\"ties\"", "\"id\":\"old_merge\"");
        let place = lines.iter().position(|l| l.contains("\"id\":\"ties\"")).unwrap();
        lines.insert(if at_end { lines.len() } else { place }, old);
        for (seq, line) in lines.iter_mut().enumerate() {
            let mut record: Record = serde_json::from_str(line).unwrap();
            record.seq = seq as u64;
            *line = serde_json::to_string(&record).unwrap() + "\n";
        }
        std::fs::write(&path, lines.concat()).unwrap();
        assert_eq!(
            go(&path, &plan, Function::new(), &Control::default()).0.unwrap(),
            End::Done
        );
        let records = read(&path).unwrap();
        let ended = records.iter().find_map(|r| match r.event {
            Event::SearchEnded { reason, evals } => Some((reason, evals)),
            _ => None,
        });
        assert_eq!(ended, Some((EndReason::Evals, 40)));
    }
}

/// `c0001`, a start that repeated `dare_ties` exactly, was one of eight evaluations.
#[test]
fn a_start_that_repeats_an_unsearched_merge_is_free() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    let mut plan = plan("cma-es");
    // The first one is where the optimizer begins; the others are candidates.
    let known = plan.genome.baselines().into_iter();
    plan.warm_starts = known
        .filter(|(name, _)| ["linear", "task_arithmetic"].contains(&name.as_str()))
        .collect();
    plan.budget.evals = Some(8);
    assert_eq!(
        go(&path, &plan, Function::new(), &Control::default()).0.unwrap(),
        End::Done
    );
    let records = read(&path).unwrap();
    let bred = |r: &&Record| matches!(&r.event, Event::CandidateScored(c) if c.generation.is_some());
    assert_eq!(records.iter().filter(bred).count(), 9);
    let run = event::run::Run::from_records(&records);
    assert_eq!(run.evals, 8);
    let before_the_end = records
        .iter()
        .take_while(|r| !matches!(r.event, Event::SearchEnded { .. }));
    assert_eq!(
        event::run::Run::from_records(before_the_end).evals,
        8,
        "everybody counts alike"
    );
}

/// mergekit-evolve called one flat generation "optimization complete".
#[test]
fn flat_fitness_does_not_end_the_search() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    let function = Function {
        quality: |_, _| 0.5,
        ..Function::new()
    };
    let (end, _) = go(&path, &plan("cma-es"), function, &Control::default());
    assert_eq!(end.unwrap(), End::Done);
    let records = read(&path).unwrap();
    let ended = records.iter().find_map(|r| match r.event {
        Event::SearchEnded { reason, evals } => Some((reason, evals)),
        _ => None,
    });
    assert_eq!(ended, Some((EndReason::Evals, 40)));
    let warned = |r: &Record| matches!(&r.event, Event::Log { message, .. } if message.contains("scored the same"));
    assert!(records.iter().any(warned));
}

#[test]
fn a_budget_below_one_generation_still_has_a_final() {
    for evals in [1, 6, 7] {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let mut plan = plan("cma-es");
        plan.budget.evals = Some(evals);
        let (end, _) = go(&path, &plan, Function::new(), &Control::default());
        assert_eq!(end.unwrap(), End::Done, "{evals}");
    }
}

/// After six candidates of a generation of eight the plain sum, which nothing had moved, won as "the centre of what the search
/// had learnt", found by CMA-ES.
#[test]
fn a_centre_that_no_generation_has_moved_is_no_candidate() {
    for (evals, means) in [(3, 0), (12, 1)] {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let mut plan = plan("cma-es");
        plan.budget.evals = Some(evals);
        go(&path, &plan, Function::new(), &Control::default()).0.unwrap();
        let records = read(&path).unwrap();
        assert_eq!(scored_as(&records, &Origin::Mean).count(), means, "{evals}");
    }
}

#[test]
fn another_search_cannot_go_on_with_this_journal() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    go(&path, &plan("cma-es"), Function::new(), &Control::default())
        .0
        .unwrap();
    // Cut back to the search, so that there is something to go on with.
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').take(60).collect();
    std::fs::write(&path, lines.concat()).unwrap();
    let mut other = plan("cma-es");
    other.space.search.seed = 4;
    let (end, _) = go(&path, &other, Function::new(), &Control::default());
    assert!(matches!(end, Err(Error::Diverged { .. })), "{end:?}");
}

/// A Gaussian process that took a score of 16 questions for one of 60 believed the luckiest of those who had left their race;
/// and one that took errors of the same questions for independent ones saw no difference between candidates.
#[test]
fn a_gaussian_process_knows_how_much_each_score_errs_and_what_was_known_before() {
    let tmp = tempfile::tempdir().unwrap();
    let (path, plan) = (
        tmp.path().join("journal.jsonl"),
        plan("gp, racing: {rungs: [16, 30, 60]}"),
    );
    let clock = Clock {
        now_ms: &|| 0,
        sleep: &|_: Duration| (),
    };
    let mut function = Function::new();
    let control = Control::default();
    let mut chronicle = Chronicle::open(Journal::open(&path).unwrap(), started(), false, clock, &|_| ()).unwrap();
    let mut run = Run::new(&plan, &mut function, None, &mut chronicle, &control);
    assert!(run.baselines().is_ok());
    let (optimizer, _) = run.optimizer(&plan.genome, None).unwrap();
    let mean = optimizer
        .mean()
        .expect("unsearched merges and draws are known before the first question");
    assert!(
        mean != plan
            .genome
            .genes()
            .iter()
            .map(|gene| gene.kind.middle())
            .collect::<Vec<_>>()
    );
    assert!(run.search().is_ok());
    let mut left_early = 0;
    for candidate in run.scored.iter().filter(|c| c.origin == Origin::Search) {
        let measured = &run.measurements[&candidate.id];
        assert_eq!(measured.score.value(), candidate.fitness);
        assert_eq!(measured.deviations.len(), candidate.n, "{}", candidate.id);
        let variance: f64 = measured.deviations.iter().map(|(_, d)| d * d).sum();
        assert!((variance.sqrt() - candidate.stderr).abs() < 1e-12, "{}", candidate.id);
        left_early += usize::from(candidate.eliminated);
    }
    assert!(left_early > 10, "{left_early}");
}

/// In a race everybody is asked the same few questions first; the answers saved are the point of it.
#[test]
fn a_race_asks_little_and_finds_the_child_all_the_same() {
    let tmp = tempfile::tempdir().unwrap();
    let whole = tmp.path().join("whole.jsonl");
    let raced = tmp.path().join("raced.jsonl");
    let (_, all) = go(&whole, &plan("cma-es"), Function::new(), &Control::default());
    let racing = plan("cma-es, racing: {rungs: [16, 30, 60]}");
    let (end, few) = go(&raced, &racing, Function::new(), &Control::default());
    assert_eq!(end.unwrap(), End::Done);
    let records = read(&raced).unwrap();
    let reading = records.iter().find_map(|r| match &r.event {
        Event::TestRead(reading) => Some(reading),
        _ => None,
    });
    assert!(reading.unwrap().difference > 0.1);
    assert!(few.answers < all.answers);
    let bred = records.iter().filter_map(|r| match &r.event {
        Event::CandidateScored(c) if c.origin == Origin::Search => Some(c.n),
        _ => None,
    });
    let asked: Vec<usize> = bred.collect();
    let per_candidate = asked.iter().sum::<usize>() as f64 / asked.len() as f64;
    assert!(per_candidate < 0.6 * QUESTIONS as f64, "{per_candidate} of {QUESTIONS}");
    let generations = records.iter().filter_map(|r| match &r.event {
        Event::GenerationEnded(g) => Some(g),
        _ => None,
    });
    let generations: Vec<&event::Generation> = generations.collect();
    assert!(generations.iter().all(|g| g.block.is_some()));
    assert!(generations.iter().any(|g| g.split_half.is_some()));
    let of_generation = |g: u64| -> Vec<&event::Candidate> {
        let scored = records.iter().filter_map(|r| match &r.event {
            Event::CandidateScored(c) if c.generation == Some(g) => Some(c),
            _ => None,
        });
        scored.collect()
    };
    let first = of_generation(0);
    let survivors: Vec<_> = first.iter().filter(|c| !c.eliminated).collect();
    assert_eq!(survivors.len(), first.len().div_ceil(4));
    assert!(first.iter().filter(|c| c.eliminated).all(|c| c.n < survivors[0].n));
}

#[test]
fn in_a_race_the_worst_of_the_parents_are_asked_less() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    let plan = plan("cma-es, racing: {rungs: [16, 30]}");
    go(&path, &plan, Function::new(), &Control::default()).0.unwrap();
    let records = read(&path).unwrap();
    let asked = |origin: Origin| -> Vec<(&str, usize)> {
        let scored = records.iter().filter_map(|r| match &r.event {
            Event::CandidateScored(c) if c.origin == origin => Some((c.id.as_str(), c.n)),
            _ => None,
        });
        scored.collect()
    };
    let parents = [("parent-base", 30), ("parent-maths", QUESTIONS), ("parent-spanish", 30)];
    assert_eq!(asked(Origin::Parent), parents);
    let merges = asked(Origin::Baseline);
    assert!(merges.contains(&("task_arithmetic", QUESTIONS)), "{merges:?}");
}

/// Blocks of questions differ in difficulty; the estimate for all questions must not.
#[test]
fn eliminated_candidates_never_become_the_best() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    let racing = plan("cma-es, racing: {rungs: [16, 30, 60]}");
    go(&path, &racing, Function::new(), &Control::default()).0.unwrap();
    let records = read(&path).unwrap();
    let run = event::run::Run::from_records(&records);
    assert!(!run.best().unwrap().candidate.eliminated);
    let finalists = &run.selection.as_ref().unwrap().finalists;
    let eliminated = |id: &str| {
        run.scored
            .iter()
            .any(|s| s.candidate.id == id && s.candidate.eliminated)
    };
    assert!(finalists.iter().all(|f| !eliminated(&f.id)));
}

fn bare_plan(command: &str, search: &str) -> Plan {
    let text = format!(
        "name: bare\ngenes: {{x: [-5, 5], k: {{int: [0, 9]}}, m: {{choice: [a, b]}}}}\nfitness:\n  command: \
         [sh, -c, '{command}']\n  timeout: 5\n  workers: 3\nsearch: {search}\n"
    );
    let mut space = Space::parse(Path::new("s.yaml"), &text).unwrap();
    assert_eq!(Space::parse(Path::new("again.yaml"), &space.to_yaml()).unwrap(), space);
    if let Some(command) = &mut space.fitness.command {
        command.workers = 1;
    }
    let exam = |split: &str| Exam {
        split: split.into(),
        tasks: Vec::new(),
    };
    let genes = space.genes.iter().map(|(name, gene)| GeneSpec {
        name: name.clone(),
        kind: gene.kind(),
    });
    Plan {
        warm_starts: Vec::new(),
        budget: event::Budget {
            evals: Some(space.search.evals),
            duration_ms: None,
        },
        finish: false,
        search: exam("search"),
        selection: exam("selection"),
        test: exam("test"),
        held_out: exam("held-out"),
        lessons: Exam::nothing(),
        genome: Genome::Bare(genes.collect()),
        space,
    }
}

/// Runs a bare search with a shell as the evaluator.
fn go_bare(dir: &Path, plan: &Plan) -> (Result<End, Error>, Vec<Record>) {
    let path = dir.join("journal.jsonl");
    let settings = plan.space.fitness.command.clone().unwrap();
    let mut external = External::new(settings, &[], &dir.join("command.log"), Delivery::Nothing).without_rest();
    let clock = Clock {
        now_ms: &|| 0,
        sleep: &|_: Duration| (),
    };
    let mut chronicle = Chronicle::open(Journal::open(&path).unwrap(), started(), false, clock, &|_| ()).unwrap();
    let end = run(plan, &mut external, None, &mut chronicle, &Control::default());
    let is_done = matches!(end, Ok(End::Done));
    assert!(
        !is_done || !dir.join("early.jsonl").exists(),
        "everything has been told"
    );
    (end, read(&path).unwrap())
}

/// A reply that had to wait for its turn was lost with the process, and its candidate asked again.
#[test]
fn what_a_command_answers_before_its_turn_survives_the_process() {
    let tmp = tempfile::tempdir().unwrap();
    let (asked, early) = (tmp.path().join("asked"), tmp.path().join("early.jsonl"));
    // The first candidate takes longer than anybody waits.
    let scores = format!(
        r#"while read -r l; do {ID} echo $id >> {}; [ $id != one ] || sleep 60; echo "{{\"id\":\"$id\",\"scores\":{{\"f\":0.25}}}}"; done"#,
        asked.display()
    );
    let mut settings = bare_plan(&scores, "{evals: 1}").space.fitness.command.unwrap();
    (settings.workers, settings.timeout) = (2, 120.0);
    let exam = Exam {
        split: "search".into(),
        tasks: Vec::new(),
    };
    let sitting = |id: &'static str| Sitting {
        id,
        subject: Subject::Genes,
        genotype: &[],
        genes: &[],
        exam: &exam,
    };
    let external = || {
        let log = tmp.path().join("command.log");
        External::new(settings.clone(), &[], &log, Delivery::Nothing).without_rest()
    };
    let next = |external: &mut External| match external.crew().unwrap().next() {
        News::Done(id, evaluation) => (id, evaluation.unwrap().scores[0].1),
        _ => panic!("nothing else is told of a command"),
    };
    let mut first = external();
    first.crew().unwrap().begin(&sitting("one"));
    first.crew().unwrap().begin(&sitting("two"));
    assert_eq!(next(&mut first), ("two".into(), 0.25));
    assert!(early.exists());
    drop(first);
    let mut second = external();
    second.crew().unwrap().begin(&sitting("two"));
    assert_eq!(next(&mut second), ("two".into(), 0.25));
    assert_eq!(
        fs::read_to_string(&asked).unwrap().matches("two").count(),
        1,
        "nobody is asked twice"
    );
    second.told("two", "search");
    assert!(!early.exists(), "it has been told");
    second.crew().unwrap().begin(&sitting("two"));
    next(&mut second);
    assert_eq!(
        fs::read_to_string(&asked).unwrap().matches("two").count(),
        2,
        "whoever is asked anew answers anew"
    );
}

/// However many workers there were, the search's own thread wrote one merged model after the other, and they waited for it.
#[test]
fn each_worker_merges_on_a_thread_of_its_own() {
    let tmp = tempfile::tempdir().unwrap();
    let candidates = tmp.path().join("candidates");
    let scores = format!(
        r#"while read -r l; do {ID} d=${{l#*\"model_dir\":\"}}; d=${{d%%\"*}}; echo "{{\"id\":\"$id\",\"scores\":{{\"f\":$(cat $d/size)}}}}"; done"#
    );
    let mut settings = bare_plan(&scores, "{evals: 1}").space.fitness.command.unwrap();
    settings.workers = 2;
    let merged_on = Arc::new(Mutex::new(Vec::new()));
    let seen = merged_on.clone();
    let write = move |recipe: &Recipe, dir: &Path| {
        seen.lock().unwrap().push(std::thread::current().id());
        if recipe.models() == ["broken"] {
            return Err(Unscored::candidate("it cannot be merged"));
        }
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("size"), recipe.models()[0].len().to_string()).unwrap();
        Ok(())
    };
    let delivery = Delivery::Directory(candidates.clone(), Arc::new(write));
    let mut external = External::new(settings, &[], &tmp.path().join("command.log"), delivery).without_rest();
    let exam = Exam {
        split: "search".into(),
        tasks: Vec::new(),
    };
    let crew = external.crew().unwrap();
    let mut scores = Vec::new();
    for models in [["one", "three"], ["seventeen", "broken"]] {
        for model in models {
            crew.begin(&Sitting {
                id: model,
                subject: Subject::Model(model),
                genotype: &[],
                genes: &[],
                exam: &exam,
            });
        }
        for _ in models {
            let News::Done(id, evaluation) = crew.next() else {
                panic!("nothing else is told of a command")
            };
            scores.push((id, evaluation.map(|evaluation| evaluation.scores[0].1).ok()));
        }
        assert_eq!(fs::read_dir(&candidates).unwrap().count(), 0, "what was scored is gone");
    }
    scores.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [
        ("broken", None),
        ("one", Some(3.0)),
        ("seventeen", Some(9.0)),
        ("three", Some(5.0)),
    ];
    assert_eq!(scores, expected.map(|(id, score)| (id.to_string(), score)));
    let merged_on = merged_on.lock().unwrap();
    let here = std::thread::current().id();
    assert!(merged_on.len() == 4 && !merged_on.contains(&here), "{merged_on:?}");
}

/// f = −|k − 3|, from the request's own numbers.
const COUNTS: &str = r#"while read -r l; do id=${l#*\"id\":\"}; id=${id%%\"*}; k=${l#*\"k\":}; k=${k%%.*}; d=$((k-3)); echo "{\"id\":\"$id\",\"scores\":{\"f\":-${d#-}}}"; done"#;

#[test]
fn a_command_scores_bare_genes() {
    let tmp = tempfile::tempdir().unwrap();
    let plan = bare_plan(COUNTS, "{evals: 60, seed: 1}");
    let (end, records) = go_bare(tmp.path(), &plan);
    assert_eq!(end.unwrap(), End::Done);
    let run = event::run::Run::from_records(&records);
    assert_eq!(run.best().unwrap().candidate.fitness, 0.0);
    assert!(run.reading.is_none(), "a command has no sealed questions");
    assert!(run.selection.is_some());
}

/// What a shell script begins with that answers a line.
const ID: &str = r#"id=${l#*\"id\":\"}; id=${id%%\"*};"#;

/// A script that answers as `cases` of a shell's `case` say, by the candidate's id, and else with f = 1.
fn script(cases: &str) -> String {
    format!(
        r#"while read -r l; do {ID} r="{{\"id\":\"$id\",\"scores\":{{\"f\":1}}}}"; case $id in {cases} esac; echo "$r"; done"#
    )
}

fn failures(records: &[Record]) -> Vec<(&str, &str)> {
    let failed = records.iter().filter_map(|r| match &r.event {
        Event::CandidateFailed { id, reason, .. } => Some((id.as_str(), reason.as_str())),
        _ => None,
    });
    failed.collect()
}

fn scored(records: &[Record]) -> usize {
    let is_score = |r: &&Record| matches!(r.event, Event::CandidateScored(_));
    records.iter().filter(is_score).count()
}

/// It dies or answers nonsense: that candidate fails with a reason, and the search goes on.
#[test]
fn a_command_that_breaks_down_over_a_candidate_fails_that_one() {
    let cases = r#"c0003) r="{\"id\": oops";; c0004) echo out of memory >&2; exit 3;; c0006) echo warming up;; c0008) r="{\"id\":\"$id\",\"error\":\"too large\"}";; c0010) r="{\"id\":\"$id\",\"scores\":{\"f\": NaN}}";;"#;
    let tmp = tempfile::tempdir().unwrap();
    let plan = bare_plan(&script(cases), "{evals: 12, optimizer: random}");
    let (end, records) = go_bare(tmp.path(), &plan);
    assert_eq!((end.unwrap(), scored(&records)), (End::Done, 8));
    let failed = failures(&records);
    let ids: Vec<&str> = failed.iter().map(|f| f.0).collect();
    assert_eq!(ids, ["c0003", "c0004", "c0008", "c0010"]);
    let says = [
        "no JSON line of the form",
        "(exit status: 3): out of memory",
        "too large",
        "score 'f' is \"NaN\", and no number",
    ];
    for ((_, reason), expected) in failed.iter().zip(says) {
        assert!(reason.contains(expected), "{reason}");
    }
    let log = std::fs::read_to_string(tmp.path().join("command.log")).unwrap();
    assert!(log.contains("warming up") && log.contains("out of memory"), "{log}");
}

/// One candidate after the other kills the program; one that was scored before is asked again, and shows whose fault it is.
#[test]
fn candidates_that_break_the_command_in_a_row_fail_if_others_do_not() {
    let tmp = tempfile::tempdir().unwrap();
    let cases = "c0004 | c0005 | c0006 | c0007 | c0008) exit 1;;";
    let (end, records) = go_bare(tmp.path(), &bare_plan(&script(cases), "{evals: 12, optimizer: random}"));
    assert_eq!((end.unwrap(), failures(&records).len()), (End::Done, 5));
}

/// A program that was broken for a moment passed a verdict on 61 candidates in a second, which used the budget up, and a
/// resumed run believed it.
#[test]
fn a_command_that_breaks_for_a_while_fails_nobody() {
    let tmp = tempfile::tempdir().unwrap();
    let (broken, asked) = (tmp.path().join("broken"), tmp.path().join("asked"));
    let breaks = format!(
        r#"while read -r l; do {ID} if [ $(wc -l < {asked}) = 9 ]; then touch {broken}; fi; if [ -e {broken} ]; then exit 1; fi; echo $id >> {asked}; k=${{l#*\"k\":}}; echo "{{\"id\":\"$id\",\"scores\":{{\"f\":${{k%%.*}}}}}}"; done"#,
        asked = asked.display(),
        broken = broken.display()
    );
    for search in [
        "{evals: 30, seed: 1}",
        "{evals: 30, seed: 1, population: 2, optimizer: genetic}",
    ] {
        let plan = bare_plan(&breaks, search);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(&asked, "").unwrap();
        let (end, records) = go_bare(dir.path(), &plan);
        assert!(
            matches!(&end, Err(Error::NobodyAnswers { reason, .. }) if reason.contains("exit status: 1")),
            "{end:?}"
        );
        assert_eq!((failures(&records), scored(&records)), (vec![], 9));
        std::fs::remove_file(&broken).unwrap();
        std::fs::write(&asked, "mended\n".repeat(20)).unwrap();
        let (end, records) = go_bare(dir.path(), &plan);
        assert_eq!((end.unwrap(), failures(&records)), (End::Done, vec![]));

        let undisturbed = tempfile::tempdir().unwrap();
        std::fs::write(&asked, "sound\n".repeat(20)).unwrap();
        let (_, sound) = go_bare(undisturbed.path(), &plan);
        assert_eq!(story(&records), story(&sound));
    }
}

/// A service that was started again while one candidate was asked had killed that candidate for ever.
#[test]
fn a_short_outage_fails_nobody_and_stops_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let (left, dead) = (tmp.path().join("left"), tmp.path().join("dead"));
    // From c0006 on so many processes die before they answer.
    let flickers = format!(
        r#"while read -r l; do {ID} case $id in c0006) [ -e {left} ] || cp {dead} {left};; esac; if [ -s {left} ]; then sed -i 1d {left}; exit 1; fi; k=${{l#*\"k\":}}; echo "{{\"id\":\"$id\",\"scores\":{{\"f\":${{k%%.*}}}}}}"; done"#,
        left = left.display(),
        dead = dead.display()
    );
    let plan = bare_plan(&flickers, "{evals: 12, seed: 1}");
    let run = |deaths: usize| {
        let _ = std::fs::remove_file(&left);
        std::fs::write(&dead, "x\n".repeat(deaths)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        go_bare(dir.path(), &plan)
    };
    let (_, sound) = run(0);
    // Each asks twice: the candidate, then somebody known up to four times, with pauses.
    for deaths in 1..=9 {
        let (end, records) = run(deaths);
        assert_eq!((end.unwrap(), failures(&records)), (End::Done, vec![]), "{deaths}");
        assert_eq!(story(&records), story(&sound), "{deaths}");
    }
    let (end, records) = run(10);
    assert!(matches!(end, Err(Error::NobodyAnswers { .. })), "{end:?}");
    assert_eq!(failures(&records), vec![]);
}

/// Two workers had answered before everything was down; that counted as proof that the first candidate was at fault.
#[test]
fn what_came_before_an_outage_is_no_proof_that_it_is_over() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().display();
    let down = format!("[ -e {dir}/up ] || exit 1");
    let answers = format!(
        r#"while read -r l; do {ID} case $id in c0002 | c0003) if [ -e {dir}/$id ]; then {down}; else touch {dir}/$id; fi;; c0001) until [ -e {dir}/c0002 ] && [ -e {dir}/c0003 ]; do sleep 0.01; done; sleep 0.2; {down};; *) {down};; esac; echo "{{\"id\":\"$id\",\"scores\":{{\"f\":1}}}}"; done"#
    );
    let plan = with_workers(&answers, "{evals: 12, optimizer: random}", 3, 60.0);
    let run = tempfile::tempdir().unwrap();
    let (end, records) = go_bare(run.path(), &plan);
    assert!(matches!(end, Err(Error::NobodyAnswers { .. })), "{end:?}");
    assert_eq!((failures(&records), scored(&records)), (vec![], 0));
    std::fs::write(tmp.path().join("up"), "").unwrap();
    let (end, records) = go_bare(run.path(), &plan);
    assert_eq!(
        (end.unwrap(), failures(&records), scored(&records)),
        (End::Done, vec![], 12)
    );
}

/// A service that was down said `error` to twenty candidates, and then to one that it had scored before; when it was back, the
/// twenty had failed for ever.
#[test]
fn refusals_during_an_outage_are_nobodys() {
    let tmp = tempfile::tempdir().unwrap();
    let count = tmp.path().join("count");
    let refuses = format!(
        r#"while read -r l; do {ID} echo x >> {count}; n=$(wc -l < {count}); if [ $n -gt 10 ] && [ $n -le 32 ]; then echo "{{\"id\":\"$id\",\"error\":\"down\"}}"; else echo "{{\"id\":\"$id\",\"scores\":{{\"f\":1}}}}"; fi; done"#,
        count = count.display()
    );
    let plan = bare_plan(&refuses, "{evals: 60, optimizer: random}");
    let (end, records) = go_bare(tmp.path(), &plan);
    assert!(matches!(end, Err(Error::NobodyAnswers { failures: 20, .. })), "{end:?}");
    assert_eq!((failures(&records), scored(&records)), (vec![], 10));
    let (end, records) = go_bare(tmp.path(), &plan);
    assert_eq!((end.unwrap(), failures(&records)), (End::Done, vec![]));
}

/// Before anybody has a score, nothing tells a candidate's fault from the program's: then it is not the candidate's.
#[test]
fn a_command_that_never_worked_stops_the_run_at_once() {
    let tmp = tempfile::tempdir().unwrap();
    let plan = bare_plan("echo ImportError: no module named lm_eval >&2; exit 1", "{evals: 400}");
    let (end, records) = go_bare(tmp.path(), &plan);
    let e = end.unwrap_err();
    assert!(matches!(e, Error::NobodyAnswers { failures: 3, .. }), "{e:?}");
    assert!(e.to_string().contains("ImportError: no module named lm_eval"), "{e}");
    assert!(failures(&records).is_empty());

    let mut plan = bare_plan("", "{evals: 400}");
    if let Some(command) = &mut plan.space.fitness.command {
        command.command = vec!["/no/such/program".into()];
    }
    let (end, records) = go_bare(tmp.path(), &plan);
    assert!(matches!(end, Err(Error::Machine { .. })), "{end:?}");
    assert!(failures(&records).is_empty());
}

/// A program that scores one candidate and exits failed on every second one.
#[test]
fn a_command_that_scores_one_and_exits_is_started_again() {
    let once = format!(r#"read -r l; {ID} echo "{{\"id\":\"$id\",\"scores\":{{\"f\":1}}}}""#);
    for workers in [1, 3] {
        let tmp = tempfile::tempdir().unwrap();
        let plan = with_workers(&once, "{evals: 12, optimizer: random}", workers, 60.0);
        let (end, records) = go_bare(tmp.path(), &plan);
        assert_eq!(
            (end.unwrap(), scored(&records), failures(&records)),
            (End::Done, 12, vec![])
        );
    }
}

#[test]
fn a_command_that_hangs_is_not_waited_for_forever() {
    let tmp = tempfile::tempdir().unwrap();
    let plan = with_workers("read -r l; sleep 60", "{evals: 1, optimizer: random}", 1, 0.2);
    let (end, records) = go_bare(tmp.path(), &plan);
    assert!(matches!(end, Err(Error::NothingBred { failed: 1, .. })), "{end:?}");
    let waited =
        |r: &Record| matches!(&r.event, Event::Log { message, .. } if message.contains("no answer within 0.2 s"));
    assert!(records.iter().any(waited));
}

/// Quality is k less 20 for the wrong choice, cost is k and 20 more: with the cost maximised, the wrong choice is never beaten.
const TRADE: &str = r#"k=${l#*\"k\":}; k=${k%%.*}; m=${l#*\"m\":}; m=${m%%.*}; q=$((k-20*m)); c=$((k+20*m));"#;

fn trade_off(command: &str, search: &str) -> Plan {
    let mut plan = bare_plan(command, search);
    let fitness = &mut plan.space.fitness;
    fitness.weights = vec![("quality".into(), 1.0), ("cost".into(), -1.0)];
    fitness.objectives = space::Objectives::Pareto;
    plan.space.search.optimizer = space::Optimizer::Nsga2;
    plan
}

/// Signs of weights had no meaning for several objectives.
#[test]
fn several_objectives_end_in_a_front_of_the_right_side() {
    let both = format!(
        r#"while read -r l; do {ID} {TRADE} echo "{{\"id\":\"$id\",\"scores\":{{\"quality\":$q,\"cost\":$c}}}}"; done"#
    );
    let tmp = tempfile::tempdir().unwrap();
    let (end, records) = go_bare(tmp.path(), &trade_off(&both, "{evals: 60, population: 10}"));
    assert_eq!(end.unwrap(), End::Done);
    let run = event::run::Run::from_records(&records);
    let finalists = &run.selection.as_ref().unwrap().finalists;
    let of = |f: &event::Finalist, name: &str| f.tasks.iter().find(|t| t.task == name).unwrap().score.value as i64;
    let bred = finalists.iter().filter(|f| f.origin == Origin::Search);
    let (quality, cost): (Vec<i64>, Vec<i64>) = bred.map(|f| (of(f, "quality"), of(f, "cost"))).unzip();
    assert_eq!(quality, cost, "the wrong choice is beaten");
    let values: std::collections::BTreeSet<i64> = quality.into_iter().collect();
    assert!(values.len() > 3, "the front is spread out: {values:?}");
}

/// One task, and how long its answers are: the more of the maths expert, the more is right and the longer it takes.
#[test]
fn accuracy_and_length_end_in_a_front() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    let mut plan = plan_of(&SPACE.replace("OPTIMIZER, evals: 40", "cma-es, evals: 60, population: 10"));
    plan.space.fitness.objectives = space::Objectives::Pareto;
    plan.space.fitness.tokens = true;
    plan.space.search.optimizer = space::Optimizer::Nsga2;
    let function = Function {
        quality: |maths, _| 0.9 * maths.clamp(0.0, 1.0),
        tokens: |maths| (1000.0 * maths.max(0.0)) as usize + 1,
        ..Function::new()
    };
    let (end, _) = go(&path, &plan, function, &Control::default());
    assert_eq!(end.unwrap(), End::Done);
    let run = event::run::Run::from_records(&read(&path).unwrap());
    let bred = run.scored.iter().filter(|s| s.candidate.origin == Origin::Search);
    let points: Vec<(f64, f64)> = bred
        .map(|s| (s.candidate.tasks[0].score.value, s.candidate.tasks[0].tokens.unwrap()))
        .collect();
    let on_front = |p: &&(f64, f64)| !points.iter().any(|q| q.0 >= p.0 && q.1 <= p.1 && q != *p);
    let front: Vec<&(f64, f64)> = points.iter().filter(on_front).collect();
    let lengths: std::collections::BTreeSet<i64> = front.iter().map(|p| p.1 as i64).collect();
    assert!(lengths.len() > 3, "the front is spread out: {lengths:?}");
    let shortest = front.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let longest = front.iter().map(|p| p.1).fold(0.0, f64::max);
    assert!(longest > 2.0 * shortest, "{shortest} to {longest}");
}

/// One answer with a score too many ended the whole search, and `resume` died at the same place; a misspelt one counted as
/// another objective, and won.
#[test]
fn a_score_of_another_name_fails_that_candidate_only() {
    let named = format!(
        r#"while read -r l; do {ID} {TRADE} e=""; n=cost; case $id in c0005) n=csot;; c0007) e=",\"extra\":1";; esac; echo "{{\"id\":\"$id\",\"scores\":{{\"quality\":$q,\"$n\":$c$e}}}}"; done"#
    );
    let tmp = tempfile::tempdir().unwrap();
    let (end, records) = go_bare(tmp.path(), &trade_off(&named, "{evals: 30, population: 10}"));
    assert_eq!(end.unwrap(), End::Done);
    let failed = failures(&records);
    let ids: Vec<&str> = failed.iter().map(|f| f.0).collect();
    assert_eq!(ids, ["c0005", "c0007"]);
    assert!(
        failed[0].1.contains("'csot' is not known here; did you mean 'cost'?"),
        "{failed:?}"
    );
    assert!(failed[1].1.contains("'extra'"), "{failed:?}");
}

/// Without `weights`, the first who is scored says what scores there are; also in a run that goes on.
#[test]
fn undeclared_scores_are_those_of_the_first() {
    let tmp = tempfile::tempdir().unwrap();
    let cases = r#"c0009) r="{\"id\":\"$id\",\"scores\":{\"F\":9}}";;"#;
    let plan = bare_plan(&script(cases), "{evals: 12, optimizer: random}");
    let (_, records) = go_bare(tmp.path(), &plan);
    assert_eq!(failures(&records).len(), 1);
    let path = tmp.path().join("journal.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let scored_early = text.split_inclusive('\n').take_while(|line| !line.contains("c0006"));
    let cut: String = scored_early.collect();
    std::fs::write(&path, cut).unwrap();
    let (end, records) = go_bare(tmp.path(), &plan);
    assert_eq!((end.unwrap(), failures(&records).len()), (End::Done, 1));
}

/// One hand, or as many as it takes: the run is the same, bit for bit, unless it is asynchronous.
#[test]
fn a_seed_gives_the_same_run_with_any_number_of_hands() {
    struct Alone<'a>(Crowd<'a>);
    impl Evaluator for Alone<'_> {
        fn evaluate(
            &mut self,
            sitting: &Sitting<'_>,
            _: &mut dyn FnMut(event::Progress),
        ) -> Result<Evaluation, Unscored> {
            self.0.begin(sitting);
            self.0.finished().1
        }
    }
    for optimizer in OPTIMIZERS {
        let plan = bare_plan("", &optimizer.replace(", asynchronous: true", ""));
        let (tmp, control) = (tempfile::tempdir().unwrap(), Control::default());
        let alone = &mut Alone(crowd(0, &control));
        let (end, records) = go_with(&tmp.path().join("alone.jsonl"), &plan, alone, &control);
        assert_eq!(end.unwrap(), End::Done);
        for order in 1..4 {
            let mut crowd = crowd(order, &control);
            let path = tmp.path().join(format!("{order}.jsonl"));
            let (end, of_crowd) = go_with(&path, &plan, &mut crowd, &control);
            assert_eq!((end.unwrap(), crowd.most_out), (End::Done, HANDS));
            assert_eq!(story(&of_crowd), story(&records), "{optimizer}");
        }
    }
}

/// In a race one candidate meets several exams; with several hands its answers to one of them were taken for those to another.
#[test]
fn a_race_is_the_same_with_any_number_of_hands() {
    struct Hands {
        function: Function,
        n: usize,
        out: Vec<(String, Result<Evaluation, Unscored>)>,
    }
    impl Evaluator for Hands {
        fn evaluate(
            &mut self,
            sitting: &Sitting<'_>,
            see: &mut dyn FnMut(event::Progress),
        ) -> Result<Evaluation, Unscored> {
            self.function.evaluate(sitting, see)
        }

        fn crew(&mut self) -> Option<&mut dyn Crew> {
            Some(self)
        }
    }
    impl Crew for Hands {
        fn size(&self) -> usize {
            self.n
        }

        fn begin(&mut self, sitting: &Sitting<'_>) {
            assert!(self.out.len() < self.n && self.out.iter().all(|(id, _)| id != sitting.id));
            let evaluation = self.function.evaluate(sitting, &mut |_| ());
            self.out.push((sitting.id.into(), evaluation));
        }

        /// Whoever began last is done first.
        fn next(&mut self) -> News {
            match self.out.pop() {
                Some((id, evaluation)) => News::Done(id, evaluation),
                None => News::Nothing,
            }
        }
    }
    let (tmp, control) = (tempfile::tempdir().unwrap(), Control::default());
    let plan = plan("cma-es, racing: {rungs: [16, 30, 60]}");
    let (end, alone) = go_with(&tmp.path().join("alone.jsonl"), &plan, &mut Function::new(), &control);
    assert_eq!(end.unwrap(), End::Done);
    for n in [1, 3, 100] {
        let (name, function) = (format!("{n}.jsonl"), Function::new());
        let mut hands = Hands {
            function,
            n,
            out: Vec::new(),
        };
        let (end, of_hands) = go_with(&tmp.path().join(&name), &plan, &mut hands, &control);
        assert_eq!(end.unwrap(), End::Done);
        assert_eq!(whole(&of_hands), whole(&alone), "{n} hands");
    }
}

/// A story whose answers stand together: one hand alone asks the final in batches.
fn whole(records: &[Record]) -> Vec<String> {
    let is_answers = |record: &&Record| !matches!(record.event, Event::Answers(_));
    let records: Vec<Record> = records.iter().filter(is_answers).cloned().collect();
    story(&records)
}

/// Several hands. Who of those at work is done first follows from their names, so an order can be had again.
struct Crowd<'a> {
    order: u64,
    out: Vec<(String, f64)>,
    most_out: usize,
    begun: Vec<String>,
    /// Asks for a stop once this many are done.
    patience: usize,
    control: &'a Control,
}

const HANDS: usize = 3;

fn crowd(order: u64, control: &Control) -> Crowd<'_> {
    Crowd {
        order,
        out: Vec::new(),
        most_out: 0,
        begun: Vec::new(),
        patience: usize::MAX,
        control,
    }
}

impl Evaluator for Crowd<'_> {
    fn evaluate(&mut self, sitting: &Sitting<'_>, _: &mut dyn FnMut(event::Progress)) -> Result<Evaluation, Unscored> {
        self.begin(sitting);
        self.finished().1
    }

    fn crew(&mut self) -> Option<&mut dyn Crew> {
        Some(self)
    }
}

impl Crowd<'_> {
    fn finished(&mut self) -> (String, Result<Evaluation, Unscored>) {
        let turn = |id: &String| blake3::hash(format!("{} {id}", self.order).as_bytes()).to_hex();
        let first = (0..self.out.len()).min_by_key(|i| turn(&self.out[*i].0)).unwrap();
        let (id, fitness) = self.out.remove(first);
        self.patience = self.patience.saturating_sub(1);
        if self.patience == 0 {
            self.control.stop.store(true, Ordering::Relaxed);
        }
        // A failure during a stop is not believed: the stop may have been its cause.
        let fails = id.ends_with('7') && self.patience > 0;
        let evaluation = Evaluation {
            scores: vec![("f".into(), fitness)],
            ..Evaluation::default()
        };
        (
            id,
            if fails {
                Err(Unscored::candidate("sevens fail"))
            } else {
                Ok(evaluation)
            },
        )
    }
}

impl Crew for Crowd<'_> {
    fn size(&self) -> usize {
        HANDS
    }

    fn begin(&mut self, sitting: &Sitting<'_>) {
        let fitness = match (sitting.subject, sitting.genotype) {
            (Subject::Genes, [x, k, m]) => -(x - 1.0).powi(2) - (k - 3.0).powi(2) - m,
            (Subject::Genes, _) => panic!("three genes"),
            (Subject::Model(_), _) => 0.0,
            (Subject::Recipe(recipe), _) => {
                let [maths, spanish, _] = weights(recipe);
                // A path is worth something of its own.
                1.0 - maths * spanish - f64::from(recipe.digest().as_bytes()[0]) / 1e3
            }
        };
        self.out.push((sitting.id.into(), fitness));
        self.begun.push(format!("{} {}", sitting.id, sitting.exam.split));
        self.most_out = self.most_out.max(self.out.len());
        assert!(self.out.len() <= HANDS);
    }

    fn next(&mut self) -> News {
        let (id, evaluation) = self.finished();
        News::Done(id, evaluation)
    }
}

/// Runs or goes on with a bare search by any evaluator; gives how it ended and what the journal says.
fn go_with(
    path: &Path,
    plan: &Plan,
    evaluator: &mut dyn Evaluator,
    control: &Control,
) -> (Result<End, Error>, Vec<Record>) {
    let clock = Clock {
        now_ms: &|| 0,
        sleep: &|_: Duration| (),
    };
    let mut chronicle = Chronicle::open(Journal::open(path).unwrap(), started(), false, clock, &|_| ()).unwrap();
    let end = run(plan, evaluator, None, &mut chronicle, control);
    (end, read(path).unwrap())
}

const OPTIMIZERS: [&str; 4] = [
    "{evals: 40, seed: 1, asynchronous: true}",
    "{evals: 40, seed: 1, optimizer: genetic, population: 6, asynchronous: true}",
    "{evals: 40, seed: 1, optimizer: gp, asynchronous: true}",
    "{evals: 40, seed: 1, optimizer: random, asynchronous: true}",
];

#[test]
fn the_same_order_of_answers_is_the_same_run_and_another_one_is_a_run_too() {
    for optimizer in OPTIMIZERS {
        let plan = bare_plan("", optimizer);
        let story_of = |order: u64| {
            let tmp = tempfile::tempdir().unwrap();
            let control = Control::default();
            let mut crowd = crowd(order, &control);
            let (end, records) = go_with(&tmp.path().join("journal.jsonl"), &plan, &mut crowd, &control);
            assert_eq!((end.unwrap(), crowd.most_out), (End::Done, HANDS));
            let paid = records.iter().filter(|r| match &r.event {
                Event::CandidateScored(c) => event::run::is_paid(&c.origin),
                Event::CandidateFailed { origin, .. } => event::run::is_paid(origin),
                _ => false,
            });
            assert_eq!(paid.count(), 40, "the budget counts every candidate");
            assert!(records.iter().any(|r| matches!(r.event, Event::GenerationEnded(_))));
            story(&records)
        };
        assert_eq!(story_of(1), story_of(1));
        assert_ne!(story_of(1), story_of(2), "{optimizer}");
    }
}

#[test]
fn a_run_of_several_hands_killed_anywhere_goes_on_to_the_same_end() {
    let in_order = OPTIMIZERS.map(|optimizer| optimizer.replace(", asynchronous: true", ""));
    for optimizer in OPTIMIZERS.into_iter().chain(in_order.iter().map(String::as_str)) {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let (plan, control) = (bare_plan("", optimizer), Control::default());
        let mut whole = crowd(5, &control);
        let (_, records) = go_with(&path, &plan, &mut whole, &control);
        let (expected, text) = (story(&records), std::fs::read_to_string(&path).unwrap());
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for cut in cuts(&lines) {
            let torn = &lines[cut][..lines[cut].len() / 2];
            std::fs::write(&path, lines[..cut].concat() + torn).unwrap();
            let ended = read(&path).unwrap();
            let ended = ended.iter().filter(|r| {
                matches!(
                    r.event,
                    Event::CandidateScored(_) | Event::CandidateFailed { .. } | Event::Scores(_)
                )
            });
            let known = ended.count();
            let mut resumed = crowd(5, &control);
            let (end, records) = go_with(&path, &plan, &mut resumed, &control);
            assert_eq!(end.unwrap(), End::Done);
            let now = story(&records);
            let differs = now.iter().zip(&expected).position(|(a, b)| a != b);
            assert_eq!((differs, now.len()), (None, expected.len()), "cut after line {cut}");
            assert!(
                resumed.begun.len() + known <= whole.begun.len(),
                "cut after line {cut}: asked again"
            );
        }
    }
}

/// A hybrid search by a command with several hands, within some time if not within 40 candidates.
fn hybrid_by_command(duration_ms: Option<u64>) -> Plan {
    let tasks = "tasks: [{task: t}]";
    let space = SPACE
        .replace("fitness:", HYBRID)
        .replace("OPTIMIZER", "cma-es, asynchronous: true");
    let mut plan = plan_of(
        &space
            .replace(tasks, "{command: [score], workers: 3}")
            .replace("fitness:\n  {", "fitness: {"),
    );
    for exam in [
        &mut plan.search,
        &mut plan.selection,
        &mut plan.test,
        &mut plan.held_out,
    ] {
        exam.tasks.clear();
    }
    plan.budget = budget(duration_ms);
    plan
}

fn budget(duration_ms: Option<u64>) -> event::Budget {
    event::Budget {
        evals: duration_ms.is_none().then_some(40),
        duration_ms,
    }
}

/// Each stage began, and the search ended, once and in order; gives when the later stages began, and why it ended.
fn stages(records: &[Record]) -> (Vec<u64>, EndReason) {
    let begun = records.iter().filter_map(|r| match &r.event {
        Event::StageStarted(stage) => Some((stage.stage.as_str(), stage.evals)),
        _ => None,
    });
    let (names, evals): (Vec<&str>, Vec<u64>) = begun.unzip();
    assert_eq!(names, ["parameter_space", "data_flow_space"]);
    let ended = records.iter().filter_map(|r| match r.event {
        Event::SearchEnded { reason, .. } => Some(reason),
        _ => None,
    });
    let ended: Vec<EndReason> = ended.collect();
    assert_eq!(ended.len(), 1);
    (evals, ended[0])
}

/// The best mixture was asked for again between the stages, and nothing of it written down: a command whose scores differ
/// from one time to the next could not be gone on with.
#[test]
fn a_hybrid_search_of_several_hands_killed_anywhere_goes_on_to_the_same_end() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    let (plan, control) = (hybrid_by_command(None), Control::default());
    let mut whole = crowd(5, &control);
    let (end, records) = go_with(&path, &plan, &mut whole, &control);
    assert_eq!((end.unwrap(), whole.most_out), (End::Done, HANDS));
    let asked: std::collections::BTreeSet<&String> = whole.begun.iter().collect();
    assert_eq!(asked.len(), whole.begun.len(), "nobody is asked twice");
    let (began, reason) = stages(&records);
    assert!(
        began[1] >= 20 && began[1] < 20 + HANDS as u64 && reason == EndReason::Evals,
        "{began:?}"
    );
    let (expected, text) = (story(&records), std::fs::read_to_string(&path).unwrap());
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for cut in cuts(&lines) {
        std::fs::write(&path, lines[..cut].concat()).unwrap();
        let mut resumed = crowd(5, &control);
        let (end, records) = go_with(&path, &plan, &mut resumed, &control);
        assert_eq!(end.unwrap(), End::Done);
        assert_eq!(story(&records), expected, "cut after line {cut}");
    }
}

/// The clock of a resumed run differs, and so may its end; that it has one, and one of each stage, may not.
#[test]
fn a_hybrid_search_out_of_time_killed_anywhere_has_an_end() {
    let (tmp, control) = (tempfile::tempdir().unwrap(), Control::default());
    let path = tmp.path().join("journal.jsonl");
    let tick = RefCell::new(0);
    let by_command = |plan: &Plan| {
        let clock = Clock {
            now_ms: &|| {
                *tick.borrow_mut() += 10;
                *tick.borrow()
            },
            sleep: &|_: Duration| (),
        };
        let mut chronicle = Chronicle::open(Journal::open(&path).unwrap(), started(), false, clock, &|_| ()).unwrap();
        run(plan, &mut crowd(5, &control), None, &mut chronicle, &control)
    };
    let alone = hybrid("cma-es");
    let alone = Plan {
        budget: budget(Some(2500)),
        ..alone
    };
    for plan in [alone, hybrid_by_command(Some(2500))] {
        let resume = || match plan.search.tasks.is_empty() {
            true => by_command(&plan),
            false => go(&path, &plan, Function::new(), &control).0,
        };
        let _ = std::fs::remove_file(&path);
        assert_eq!(resume().unwrap(), End::Done);
        let text = std::fs::read_to_string(&path).unwrap();
        let (began, reason) = stages(&read(&path).unwrap());
        assert!(began[1] > 0 && reason == EndReason::Time, "{began:?} {reason:?}");
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for cut in cuts(&lines) {
            std::fs::write(&path, lines[..cut].concat()).unwrap();
            assert_eq!(resume().unwrap(), End::Done, "cut after line {cut}");
            let (_, reason) = stages(&read(&path).unwrap());
            assert_eq!(reason, EndReason::Time, "cut after line {cut}");
        }
    }
}

/// With one candidate, or with no time left after the parents, the first stage of a hybrid bred nobody for the second one to
/// build on: "not one candidate could be scored", though nobody had been asked, and `resume` said the same for ever.
#[test]
fn the_first_stage_of_a_hybrid_breeds_one_candidate_at_least() {
    let control = Control::default();
    for (evals, duration_ms) in [
        (1, None),
        (2, None),
        (3, None),
        (40, Some(700)),
        (40, Some(1000)),
        (40, Some(1300)),
    ] {
        let plan = Plan {
            budget: event::Budget {
                evals: Some(evals),
                duration_ms,
            },
            ..hybrid("cma-es")
        };
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let (end, _) = go(&path, &plan, Function::new(), &control);
        assert_eq!(end.unwrap(), End::Done, "{evals} {duration_ms:?}");
        let bred = event::run::Run::from_records(&read(&path).unwrap()).evals;
        assert!(
            bred > 0 && (duration_ms.is_some() || bred == evals),
            "{evals} {duration_ms:?}: {bred}"
        );
    }
}

/// Whoever is at work when a stop is asked for is waited for; nobody is asked twice.
#[test]
fn a_stopped_run_of_several_hands_loses_nothing() {
    for (patience, asynchronous) in [6, 15, 27].into_iter().flat_map(|n| [(n, false), (n, true)]) {
        let plan = bare_plan("", &format!("{{evals: 40, seed: 1, asynchronous: {asynchronous}}}"));
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let control = Control::default();
        let mut first = crowd(3, &control);
        first.patience = patience;
        first.order = 4;
        let (end, _) = go_with(&path, &plan, &mut first, &control);
        assert_eq!((end.unwrap(), first.out.len()), (End::Stopped, 0));
        let control = Control::default();
        let mut second = crowd(3, &control);
        let (end, _) = go_with(&path, &plan, &mut second, &control);
        assert_eq!(end.unwrap(), End::Done);
        let mut begun = [first.begun, second.begun].concat();
        let total = begun.len();
        begun.sort();
        begun.dedup();
        assert_eq!(begun.len(), total);
    }
}

fn with_workers(command: &str, search: &str, workers: usize, timeout: f64) -> Plan {
    let mut plan = bare_plan(command, search);
    if let Some(command) = &mut plan.space.fitness.command {
        (command.workers, command.timeout) = (workers, timeout);
    }
    plan
}

/// A worker that hangs fails its own candidate, and holds nobody else up meanwhile.
#[test]
fn a_worker_that_hangs_holds_nobody_up() {
    let hangs = r#"while read -r l; do id=${l#*\"id\":\"}; id=${id%%\"*}; case $id in c0002) sleep 60;; c0004) exit 3;; esac; echo "{\"id\":\"$id\",\"scores\":{\"f\":1}}"; done"#;
    let tmp = tempfile::tempdir().unwrap();
    let plan = with_workers(hangs, "{evals: 12, optimizer: random, asynchronous: true}", 3, 2.0);
    let (end, records) = go_bare(tmp.path(), &plan);
    assert_eq!(end.unwrap(), End::Done);
    let ended: Vec<(String, Option<String>)> = records
        .iter()
        .filter_map(|r| match &r.event {
            Event::CandidateScored(c) => Some((c.id.clone(), None)),
            Event::CandidateFailed { id, reason, .. } => Some((id.clone(), Some(reason.clone()))),
            _ => None,
        })
        .collect();
    let place = |id: &str| ended.iter().position(|(known, _)| known == id).unwrap();
    assert_eq!(ended.len(), 12);
    assert_eq!(ended[11].0, "c0002", "{ended:?}");
    assert!(ended[11].1.as_ref().unwrap().contains("no answer within 2 s"));
    assert!(
        ended[place("c0004")]
            .1
            .as_ref()
            .unwrap()
            .contains("ended before it answered")
    );
    assert_eq!(ended.iter().filter(|(_, reason)| reason.is_some()).count(), 2);
}

/// Two lines a candidate, from the command itself: how many were at work between them.
#[test]
fn workers_of_a_slow_command_work_side_by_side() {
    let tmp = tempfile::tempdir().unwrap();
    let log = tmp.path().join("work.log");
    let slow = format!(
        r#"while read -r l; do id=${{l#*\"id\":\"}}; id=${{id%%\"*}}; echo + >> {log}; sleep 0.1; echo - >> {log}; echo "{{\"id\":\"$id\",\"scores\":{{\"f\":1}}}}"; done"#,
        log = log.display()
    );
    let (end, _) = go_bare(
        tmp.path(),
        &with_workers(&slow, "{evals: 12, optimizer: random, asynchronous: true}", 4, 60.0),
    );
    assert_eq!(end.unwrap(), End::Done);
    let (mut at_work, mut most) = (0, 0);
    for line in std::fs::read_to_string(&log).unwrap().lines() {
        at_work += if line == "+" { 1 } else { -1 };
        most = most.max(at_work);
    }
    assert_eq!((at_work, most), (0, 4));
}

/// A plan that learns from the questions that are not scored on.
fn learning(rounds: usize) -> Plan {
    with_lessons(plan("cma-es"), rounds)
}

fn with_lessons(mut plan: Plan, rounds: usize) -> Plan {
    plan.space.search.learn = Some(Learning {
        rounds,
        ..Learning::default()
    });
    plan.warm_starts.clear();
    plan.lessons = Exam {
        split: "lessons".into(),
        ..plan.search.clone()
    };
    plan.lessons.tasks[0].split = "lessons".into();
    plan
}

fn learner(lesson: Result<f64, Unscored>) -> Function {
    Function {
        lesson: Some(lesson),
        ..Function::new()
    }
}

fn run_of(plan: &Plan, function: Function) -> (Vec<Record>, Function) {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    let (end, function) = go(&path, plan, function, &Control::default());
    assert_eq!(end.unwrap(), End::Done);
    (read(&path).unwrap(), function)
}

fn learned(records: &[Record]) -> Vec<&event::Learned> {
    let learned = records.iter().filter_map(|r| match &r.event {
        Event::Learned(learned) => Some(learned),
        _ => None,
    });
    learned.collect()
}

fn scored_as<'a>(records: &'a [Record], of: &'a Origin) -> impl Iterator<Item = &'a event::Candidate> {
    records.iter().filter_map(move |r| match &r.event {
        Event::CandidateScored(c) if c.origin == *of => Some(c),
        _ => None,
    })
}

#[test]
fn rounds_of_learning_follow_each_other_and_the_search_begins_close_around_the_best() {
    let (records, function) = run_of(&learning(3), learner(Ok(0.5)));
    let rounds = learned(&records);
    assert_eq!(
        (rounds.len(), function.lessons),
        (3, 3),
        "each was better than the one before"
    );
    // The first from what parents and unsearched merges got right, the next ones from the child's own answers.
    assert!(rounds[0].texts > QUESTIONS && rounds[1].texts <= QUESTIONS);
    assert_eq!(
        (rounds[1].from.as_str(), rounds[2].from.as_str()),
        ("learned-1", "learned-2")
    );
    let pupils: Vec<&event::Candidate> = scored_as(&records, &Origin::Learned).collect();
    assert_eq!(pupils.len(), 3);
    assert!(pupils[0].fitness < pupils[2].fitness);
    let distance = |c: &&event::Candidate, gene: usize| (c.genotype[gene] - pupils[2].genotype[gene]).abs();
    let first: Vec<&event::Candidate> = scored_as(&records, &Origin::Search).take(8).collect();
    let mean = |gene: usize| first.iter().map(|c| distance(c, gene)).sum::<f64>() / first.len() as f64;
    assert!(
        mean(0) < 0.15 && mean(1) < 0.25,
        "a sixth of the range would be 0.25: {} {}",
        mean(0),
        mean(1)
    );
    assert!(mean(0) < mean(1), "the steeper gene is searched more closely");
    let selected = records.iter().find_map(|r| match &r.event {
        Event::Selected(selection) => Some(selection),
        _ => None,
    });
    let finalists = &selected.unwrap().finalists;
    assert_eq!(
        finalists.iter().filter(|f| f.origin == Origin::Learned).count(),
        3,
        "always finalists"
    );
    let paid = scored_as(&records, &Origin::Search).count() + scored_as(&records, &Origin::Random).count();
    assert_eq!(
        paid, 40,
        "what is learned is not paid for by the budget of the optimizer"
    );
}

/// All objectives together led to one point in their middle, and the population had to find the ends of the front by itself.
#[test]
fn each_of_several_objectives_has_a_round_of_its_own() {
    let mut plan = learning(1);
    plan.space.fitness.objectives = space::Objectives::Pareto;
    for exam in [&mut plan.search, &mut plan.selection, &mut plan.test, &mut plan.lessons] {
        let second = ExamTask {
            index: 1,
            task: "t2".into(),
            ..exam.tasks[0].clone()
        };
        exam.tasks.push(second);
    }
    plan.held_out = Exam::nothing();
    let (records, function) = run_of(&plan, learner(Ok(1.0)));
    assert_eq!(function.lessons, 3);
    let rounds: Vec<(&str, &str, &[f64])> = learned(&records)
        .into_iter()
        .map(|l| (l.id.as_str(), l.from.as_str(), l.genotype.as_slice()))
        .collect();
    assert_eq!(
        rounds[1..],
        [
            ("learned-2", "learned-1", &[0.9, 0.6][..]),
            ("learned-3", "learned-1", &[0.6, 0.9][..]),
        ]
    );
    let handed: Vec<&[f64]> = scored_as(&records, &Origin::WarmStart)
        .map(|c| c.genotype.as_slice())
        .collect();
    assert_eq!(
        handed,
        [&[0.9, 0.6][..], &[0.6, 0.9]],
        "the optimizer begins with the ends of the front"
    );
}

/// Where the best weights were far from the first ones, three rounds ended on the way.
#[test]
fn rounds_that_pay_are_followed_by_more() {
    let far = |share| Function {
        quality: |maths, spanish| 1.0 - 3.0 * ((maths - 0.9).powi(2) + (spanish - 0.6).powi(2)),
        ..learner(Ok(share))
    };
    let rounds = |plan: &Plan, share| learned(&run_of(plan, far(share)).0).len();
    assert_eq!(rounds(&learning(1), 0.3), 1, "one is one");
    let (more, most) = (rounds(&learning(2), 0.3), 2 * 3);
    assert!((3..=most).contains(&more), "{more}");
    assert_eq!(rounds(&learning(2), 0.98), 2, "the second brings little");
}

/// Learning ended with a round that was told to be worse than the one before it, and that point was then chosen: it had been
/// "learned last", and twenty selection questions could not tell it from the other.
#[test]
fn a_round_that_is_told_to_be_worse_is_not_what_learning_has_led_to() {
    let mut plan = learning(3);
    plan.budget.evals = Some(1);
    plan.selection.tasks[0].items.truncate(6);
    let mut function = learner(Ok(2.4));
    function.quality = |maths, spanish| 0.9 - 0.5 * ((maths - 0.9).powi(2) + (spanish - 0.6).powi(2));
    let (records, _) = run_of(&plan, function);
    let pupils: Vec<&event::Candidate> = scored_as(&records, &Origin::Learned).collect();
    let [before, last] = pupils.as_slice() else {
        panic!("{} rounds", pupils.len())
    };
    let run = event::run::Run::from_records(&records);
    let selection = run.selection.unwrap();
    let fresh = |id: &str| selection.finalists.iter().find(|f| f.id == id).unwrap().fresh;
    println!(
        "{} {} {:?} {:?}",
        before.fitness,
        last.fitness,
        fresh(&before.id),
        fresh(&last.id)
    );
    assert!(last.fitness < before.fitness);
    assert_ne!(selection.best, last.id);
}

/// Half of the candidates of `genetic` and `nsga2` were the parents of their generation, asked the same questions once more under
/// new names; a front named one recipe up to six times.
#[test]
fn who_is_asked_the_same_questions_is_not_asked_again() {
    for optimizer in ["genetic", "genetic, population: 6", "genetic, mating: attraction"] {
        let mut plan = plan(optimizer);
        plan.warm_starts.clear();
        let (records, _) = run_of(&plan, Function::new());
        let bred: Vec<&event::Candidate> = scored_as(&records, &Origin::Search).collect();
        let distinct: HashSet<&String> = bred.iter().map(|c| &c.recipe_digest).collect();
        // Two children may be alike.
        assert!(
            bred.len() > 20 && distinct.len() * 10 >= bred.len() * 9,
            "{optimizer}: {} of {}",
            distinct.len(),
            bred.len()
        );
    }
}

/// Ten steps from the first answers, then thirty candidates around them, whose mean was better: and nothing was learned of that.
#[test]
fn learning_goes_on_where_the_search_has_led() {
    let mut plan = learning(1);
    plan.space.search.learn.as_mut().unwrap().after = true;
    let (records, function) = run_of(&plan, learner(Ok(0.3)));
    let rounds = learned(&records);
    assert_eq!((rounds.len(), function.lessons), (2, 2));
    let mean = scored_as(&records, &Origin::Mean).next().unwrap();
    let pupils: Vec<&event::Candidate> = scored_as(&records, &Origin::Learned).collect();
    assert!(mean.fitness > pupils[0].fitness);
    assert_eq!(rounds[1].from, "mean");
    assert_eq!(pupils[1].id, "learned-2");
    let distance = |c: &event::Candidate| (c.genotype[0] - 0.9).hypot(c.genotype[1] - 0.6);
    assert!(distance(pupils[1]) < distance(mean));
    assert!(rounds[1].texts <= QUESTIONS, "from the mean's own answers alone");
}

#[test]
fn who_learned_all_there_is_learns_no_more_after_the_search() {
    let mut plan = learning(2);
    plan.space.search.learn.as_mut().unwrap().after = true;
    let (records, _) = run_of(&plan, learner(Ok(1.0)));
    assert_eq!(learned(&records).len(), 2);
    plan.space.search.learn.as_mut().unwrap().after = false;
    let (records, _) = run_of(&plan, learner(Ok(0.3)));
    assert_eq!(learned(&records).len(), 2, "nor who is not asked to");
}

#[test]
fn a_round_that_brings_nothing_is_the_last() {
    let (records, _) = run_of(&learning(4), learner(Ok(1.0)));
    // The first arrives at the top; the second stays there, which is no better.
    assert_eq!(learned(&records).len(), 2);
}

#[test]
fn where_nothing_can_be_learned_the_search_says_so_and_goes_on() {
    let reason = "the texts of 2 questions teach";
    let plan = learning(2);
    let (records, function) = run_of(&plan, learner(Err(Unscored::candidate(reason))));
    assert_eq!(learned(&records)[0].failed.as_deref(), Some(reason));
    assert_eq!((learned(&records).len(), function.lessons), (1, 1));
    assert!(
        records
            .iter()
            .any(|r| matches!(&r.event, Event::Log { message, .. } if message.contains(reason)))
    );
    assert!(scored_as(&records, &Origin::Search).count() > 30);
    let without = run_of(&plan_without_learning(), Function::new()).0;
    let bred = |records: &[Record]| {
        scored_as(records, &Origin::Search)
            .map(|c| c.genotype.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        bred(&records),
        bred(&without),
        "the optimizer starts where it would have"
    );
}

fn plan_without_learning() -> Plan {
    let mut plan = plan("cma-es");
    plan.warm_starts.clear();
    plan
}

#[test]
fn a_machine_that_breaks_down_while_it_learns_stops_the_run() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    let broken = learner(Err(Unscored::machine("the GPU's memory is full")));
    let (end, _) = go(&path, &learning(2), broken, &Control::default());
    assert!(matches!(end, Err(Error::Machine { .. })));
    // Nothing of it is held against the search: it learns when it goes on.
    let (end, function) = go(&path, &learning(2), learner(Ok(0.5)), &Control::default());
    assert_eq!((end.unwrap(), function.lessons), (End::Done, 2));
}

#[test]
fn a_run_that_learns_can_be_killed_anywhere() {
    let mut plan = learning(1);
    plan.space.search.learn.as_mut().unwrap().after = true;
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    go(&path, &plan, learner(Ok(0.3)), &Control::default()).0.unwrap();
    let whole = story(&read(&path).unwrap());
    assert_eq!(learned(&read(&path).unwrap()).len(), 2);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let end = lines
        .iter()
        .rposition(|line| line.contains("\"event\":\"learned\""))
        .unwrap();
    for cut in some_of((1..end + 8).chain((end + 8..lines.len()).step_by(9))) {
        let path = tmp.path().join(format!("{cut}.jsonl"));
        std::fs::write(&path, lines[..cut].join("\n") + "\n").unwrap();
        let learned_before = lines[..cut]
            .iter()
            .filter(|line| line.contains("\"event\":\"learned\""))
            .count();
        let (end, function) = go(&path, &plan, learner(Ok(0.3)), &Control::default());
        end.unwrap();
        let now = story(&read(&path).unwrap());
        let differs = (0..now.len().max(whole.len())).find(|i| now.get(*i) != whole.get(*i));
        let short = |line: Option<&String>| line.map(|line| line.chars().take(300).collect::<String>());
        let told = differs.map(|i| (short(now.get(i)), short(whole.get(i))));
        assert_eq!(told, None, "cut after {cut} lines of {}", lines.len());
        assert_eq!(function.lessons, 2 - learned_before, "no round is made twice");
    }
}

/// Right are as many of ten questions as k says, the first ones first; all that is asked goes to `asked.log`.
fn by_question(dir: &Path, racing: Option<space::Racing>) -> Plan {
    let answers = format!(
        r#"while read -r l; do {ID} echo "$id $l" >> {}; k=${{l#*\"k\":}}; k=${{k%%.*}}; q=${{l#*\"questions\":}}; r=; i=0; while [ $i -lt {QUESTIONS} ]; do case $q in *\"id\":\"$i\"*) c=false; [ $((i%10)) -lt $k ] && c=true; r="$r${{r:+,}}{{\"id\":\"$i\",\"correct\":$c}}";; esac; i=$((i+1)); done; echo "{{\"id\":\"$id\",\"answers\":[$r]}}"; done"#,
        dir.join("asked.log").display()
    );
    let file = dir.join("questions.jsonl");
    let lines = ["search", "selection", "test"].map(|split| {
        let line = |i| format!("{{\"id\":\"{i}\",\"split\":\"{split}\"}}\n");
        (0..QUESTIONS).map(line).collect::<String>()
    });
    std::fs::write(&file, lines.concat()).unwrap();
    let mut plan = bare_plan(&answers, "{evals: 30, seed: 1}");
    if let Some(command) = &mut plan.space.fitness.command {
        command.questions = Some(file.display().to_string());
    }
    plan.space.search.racing = racing;
    let questions = Questions::read(&file, &plan.space.fitness).unwrap();
    for (exam, split) in [
        (&mut plan.search, "search"),
        (&mut plan.selection, "selection"),
        (&mut plan.test, "test"),
    ] {
        *exam = questions.exam(split, space::Limit::All).unwrap();
    }
    plan
}

/// A command had no part in races, paired tests and the sealed split.
#[test]
fn a_command_that_answers_questions_is_judged_as_tasks_are() {
    let racing = space::Racing { rungs: vec![16, 30] };
    for racing in [None, Some(racing)] {
        let tmp = tempfile::tempdir().unwrap();
        let plan = by_question(tmp.path(), racing.clone());
        let (end, records) = go_bare(tmp.path(), &plan);
        assert_eq!((end.unwrap(), failures(&records)), (End::Done, vec![]));
        let run = event::run::Run::from_records(&records);
        let best = &run.selection.as_ref().unwrap().finalists[0];
        assert!(best.fresh.value > 0.6 && best.fresh.n == QUESTIONS, "{best:?}");
        // Nobody answers a question twice: whatever was asked is in the journal.
        let log = std::fs::read_to_string(tmp.path().join("asked.log")).unwrap();
        let of_search = log
            .lines()
            .filter(|l| l.contains("\"split\":\"search\"") && l.starts_with('c'));
        let asked: usize = of_search.map(|line| line.matches("{\"task\":").count()).sum();
        let answered = records.iter().filter_map(|r| match &r.event {
            Event::Answers(a) if a.split == "search" && a.id.starts_with('c') => Some(a.answers.len()),
            _ => None,
        });
        assert_eq!(answered.sum::<usize>(), asked);
        let bred = records
            .iter()
            .filter(|r| matches!(&r.event, Event::CandidateScored(c) if c.id.starts_with('c')));
        let all = bred.count() * QUESTIONS;
        assert!(
            if racing.is_some() {
                asked < all * 2 / 3
            } else {
                asked == all
            },
            "{asked} of {all}"
        );
    }
}

#[test]
fn an_answer_that_is_missing_fails_its_candidate() {
    let tmp = tempfile::tempdir().unwrap();
    let mut plan = by_question(tmp.path(), None);
    if let Some(command) = &mut plan.space.fitness.command {
        command.command[2] = command.command[2].replace("r=; i=0;", "r=; i=0; case $id in c0003) q=;; esac;");
    }
    let (end, records) = go_bare(tmp.path(), &plan);
    assert_eq!(end.unwrap(), End::Done);
    let failed = failures(&records);
    assert_eq!(failed.len(), 1);
    assert!(
        failed[0].1.contains("no answer to question '0' of 'questions'"),
        "{failed:?}"
    );
}

/// Accuracies, and log-likelihoods that follow them.
struct Mixed(Function);

impl Evaluator for Mixed {
    fn evaluate(
        &mut self,
        sitting: &Sitting<'_>,
        progress: &mut dyn FnMut(event::Progress),
    ) -> Result<Evaluation, Unscored> {
        let exam = Exam {
            split: sitting.exam.split.clone(),
            tasks: sitting.exam.tasks[..1].to_vec(),
        };
        let mut evaluation = self.0.evaluate(
            &Sitting {
                exam: &exam,
                ..*sitting
            },
            progress,
        )?;
        if let Some(task) = sitting.exam.tasks.get(1) {
            let right = &evaluation.answers[0].1;
            let accuracy = right.iter().map(|a| a.score).sum::<f64>() / right.len() as f64;
            let answer = |item: &usize| Answer {
                q: task.catalogue.ids[*item].clone(),
                score: accuracy - 3.0 - 0.1 * (*item % 5) as f64,
                tokens: 10,
                ..right[0].clone()
            };
            let answers = task.items.iter().map(answer).collect();
            evaluation.answers.push(("likelihood".into(), answers));
        }
        Ok(evaluation)
    }
}

/// Half a nat and half a share were added, though they vary by quite different amounts.
#[test]
fn scaled_tasks_count_by_their_standard_errors() {
    let scaled = SPACE.replace(
        "tasks: [{task: t}]",
        "tasks: [{task: t}, {task: l}]\n  scale: standard_error",
    );
    let mut plan = plan_of(&scaled.replace("OPTIMIZER", "cma-es"));
    for exam in [&mut plan.search, &mut plan.selection, &mut plan.test] {
        let likelihood = ExamTask {
            index: 1,
            task: "l".into(),
            is_likelihood: true,
            ..exam.tasks[0].clone()
        };
        exam.tasks.push(likelihood);
    }
    let (tmp, control) = (tempfile::tempdir().unwrap(), Control::default());
    let path = tmp.path().join("journal.jsonl");
    let (end, records) = go_with(&path, &plan, &mut Mixed(Function::new()), &control);
    assert_eq!(end.unwrap(), End::Done);
    let at = records
        .iter()
        .position(|r| matches!(r.event, Event::Scaled { .. }))
        .unwrap();
    let Event::Scaled { weights } = &records[at].event else {
        panic!("it is one")
    };
    // The base, which is the first model, gets none of 60 right: half of 61 is what it is taken for.
    let p: f64 = 0.5 / 61.0;
    assert_eq!(weights[0], 1.0 / (p * (1.0 - p) / 60.0).sqrt());
    let scored = records.iter().filter_map(|r| match &r.event {
        Event::CandidateScored(c) => Some((c.fitness, c.tasks[0].score.value, c.tasks[1].score.value)),
        _ => None,
    });
    for (fitness, accuracy, likelihood) in scored {
        let expected = (weights[0] * accuracy + weights[1] * likelihood) / (weights[0] + weights[1]);
        assert!((fitness - expected).abs() < 1e-12, "{fitness} {expected}");
    }
    // The reading of the test split is weighed alike.
    let reading = records.iter().find_map(|r| match &r.event {
        Event::TestRead(reading) => Some(&reading.best),
        _ => None,
    });
    let best = reading.unwrap();
    let (accuracy, likelihood) = (best.tasks[0].score.value, best.tasks[1].score.value);
    let expected = (weights[0] * accuracy + weights[1] * likelihood) / (weights[0] + weights[1]);
    assert!((best.score.value - expected).abs() < 1e-12);
    assert!(event::run::Run::from_records(&records).is_scaled);

    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for cut in [at, at + 1, at + 9, lines.len() - 4] {
        std::fs::write(&path, lines[..cut].concat()).unwrap();
        let (end, again) = go_with(&path, &plan, &mut Mixed(Function::new()), &control);
        assert_eq!(
            (end.unwrap(), story(&again)),
            (End::Done, story(&records)),
            "cut after line {cut}"
        );
    }
}
