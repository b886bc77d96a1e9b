//! The whole loop with an evaluator that computes a function: milliseconds, no models.

use std::{cell::RefCell, path::Path, time::Duration};

use super::*;
use crate::{
    event::{Answer, Record},
    recipe::{Body, DType, ParamValue},
    space::{Codec, Fold, Shape},
    store::{Journal, read},
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

/// Right answers follow from how near the weights are to (0.9, 0.6); counts how often it is asked.
struct Function {
    calls: usize,
    answers: usize,
    fails: fn(f64) -> bool,
    quality: fn(f64, f64) -> f64,
}

impl Function {
    fn new() -> Self {
        Self {
            calls: 0,
            answers: 0,
            fails: |_| false,
            quality: |maths, spanish| 0.9 - 0.8 * ((maths - 0.9).powi(2) + (spanish - 0.6).powi(2)),
        }
    }
}

fn weights(recipe: &Recipe) -> (f64, f64) {
    let Body::Models(models) = &recipe.result().body else {
        panic!("one set of layers")
    };
    let weight = |i: usize| match models[i].parameters.get("weight") {
        Some(ParamValue::Number(w)) => *w,
        None => 0.5, // a swap of layers: half of each
        other => panic!("{other:?}"),
    };
    (weight(0), weight(1))
}

impl Evaluator for Function {
    fn evaluate(&mut self, sitting: &Sitting<'_>, _: &mut dyn FnMut(event::Progress)) -> Result<Evaluation, String> {
        self.calls += 1;
        let exam = sitting.exam;
        let (maths, spanish) = match sitting.subject {
            Subject::Model("maths") => (1.0, 0.0),
            Subject::Model("spanish") => (0.0, 1.0),
            Subject::Model(_) => (0.0, 0.0),
            Subject::Recipe(recipe) => weights(recipe),
            Subject::Genes => panic!("this space has models"),
        };
        if (self.fails)(maths) && matches!(sitting.subject, Subject::Recipe(_)) {
            return Err("collapsed".into());
        }
        let quality = (self.quality)(maths, spanish);
        let answers = exam.tasks[0].items.iter().map(|i| {
            // Question i is right if it is easy enough: a fixed scatter of thresholds, another one for each split.
            let salt = exam.split.len();
            let threshold = ((i * 37 + salt * 11) % QUESTIONS) as f64 / QUESTIONS as f64;
            Answer {
                q: exam.tasks[0].catalogue.ids[*i].clone(),
                out: String::new(),
                got: String::new(),
                gold: String::new(),
                score: f64::from(u8::from(threshold < quality)),
                finish: "eos".into(),
                language_ok: true,
                tokens: 1,
            }
        });
        let answers: Vec<Answer> = answers.collect();
        self.answers += answers.len();
        Ok(Evaluation {
            answers: vec![(format!("{maths}-{spanish}-{}", exam.split), answers)],
            ..Evaluation::default()
        })
    }
}

fn plan(optimizer: &str) -> Plan {
    let space = Space::parse(Path::new("s.yaml"), &SPACE.replace("OPTIMIZER", optimizer)).unwrap();
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
        budget: event::Budget::default(),
        models: Vec::new(),
        tasks: Vec::new(),
        optimizer: String::new(),
        genes: Vec::new(),
        population: 0,
        device: "cpu".into(),
        dtype: "f32".into(),
    }
}

/// Runs or goes on; gives how it ended and the evaluator.
fn go(path: &Path, plan: &Plan, mut function: Function, control: &Control) -> (Result<End, Error>, Function) {
    let (journal, records) = Journal::open(path).unwrap();
    let time = RefCell::new(0);
    let clock = Clock {
        now_ms: &|| {
            *time.borrow_mut() += 10;
            *time.borrow()
        },
        sleep: &|_: Duration| (),
    };
    let mut chronicle = Chronicle::open(journal, records, started(), clock, &|_| ()).unwrap();
    let end = run(plan, &mut function, &mut chronicle, control);
    (end, function)
}

/// What must be the same however often a run was interrupted.
fn story(records: &[Record]) -> Vec<String> {
    records
        .iter()
        .filter(|r| {
            !matches!(
                r.event,
                Event::RunResumed { .. } | Event::RunStopped { .. } | Event::Log { .. }
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
    for optimizer in ["cma-es", "genetic", "random"] {
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

/// Cut the journal after any line, as a kill would: the resumed run must tell the same story, and ask nothing twice.
#[test]
fn a_run_killed_anywhere_goes_on_to_the_same_end() {
    for optimizer in ["cma-es", "genetic", "cma-es, racing: {rungs: [16, 30, 60]}"] {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let plan = plan(optimizer);
        let (_, whole) = go(&path, &plan, Function::new(), &Control::default());
        let text = std::fs::read_to_string(&path).unwrap();
        let expected = story(&read(&path).unwrap());
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for cut in (1..lines.len()).step_by(7) {
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
            assert_eq!((differs, now.len()), (None, expected.len()), "cut after line {cut}");
            assert!(
                resumed.calls + known <= whole.calls,
                "cut after line {cut}: asked again"
            );
        }
    }
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

#[test]
fn nothing_but_failures_is_an_error_that_says_so() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal.jsonl");
    let function = Function {
        fails: |_| true,
        ..Function::new()
    };
    let (end, _) = go(&path, &plan("cma-es"), function, &Control::default());
    assert!(matches!(end, Err(Error::NothingScored)));
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
         [sh, -c, '{command}']\n  timeout: 5\nsearch: {search}\n"
    );
    let space = Space::parse(Path::new("s.yaml"), &text).unwrap();
    assert_eq!(Space::parse(Path::new("again.yaml"), &space.to_yaml()).unwrap(), space);
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
        genome: Genome::Bare(genes.collect()),
        space,
    }
}

/// Runs a bare search with a shell as the evaluator.
fn go_bare(dir: &Path, plan: &Plan) -> (Result<End, Error>, Vec<Record>) {
    let path = dir.join("journal.jsonl");
    let settings = plan.space.fitness.command.clone().unwrap();
    let mut external = External::new(settings, &[], &dir.join("command.log"), None);
    let (journal, records) = Journal::open(&path).unwrap();
    let clock = Clock {
        now_ms: &|| 0,
        sleep: &|_: Duration| (),
    };
    let mut chronicle = Chronicle::open(journal, records, started(), clock, &|_| ()).unwrap();
    let end = run(plan, &mut external, &mut chronicle, &Control::default());
    (end, read(&path).unwrap())
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

/// It dies, hangs, or answers nonsense: that candidate fails with a reason, and the search goes on.
#[test]
fn a_command_that_breaks_down_fails_one_candidate() {
    let nonsense = r#"n=0; while read -r l; do id=${l#*\"id\":\"}; id=${id%%\"*}; n=$((n+1)); case $n in 3) echo hello;; 4) exit 3;; *) echo "{\"id\":\"$id\",\"scores\":{\"f\":$n}}";; esac; done"#;
    let tmp = tempfile::tempdir().unwrap();
    let (end, records) = go_bare(tmp.path(), &bare_plan(nonsense, "{evals: 12, optimizer: random}"));
    assert_eq!(end.unwrap(), End::Done);
    let reasons: Vec<String> = records
        .iter()
        .filter_map(|r| match &r.event {
            Event::CandidateFailed { reason, .. } => Some(reason.clone()),
            _ => None,
        })
        .collect();
    assert!(
        reasons
            .iter()
            .any(|r| r.contains("no JSON line") && r.contains("hello")),
        "{reasons:?}"
    );
    let scored = records
        .iter()
        .filter(|r| matches!(r.event, Event::CandidateScored(_)))
        .count();
    assert!(scored >= 8, "{scored}");

    let tmp = tempfile::tempdir().unwrap();
    let hangs = bare_plan("read -r l; sleep 60", "{evals: 1, optimizer: random}");
    let mut hangs = hangs;
    if let Some(command) = &mut hangs.space.fitness.command {
        command.timeout = 0.2;
    }
    let (end, records) = go_bare(tmp.path(), &hangs);
    assert!(matches!(end, Err(Error::NothingScored)), "{end:?}");
    let waited =
        |r: &Record| matches!(&r.event, Event::CandidateFailed { reason, .. } if reason.contains("no answer within"));
    assert!(records.iter().any(waited));
}

#[test]
fn several_objectives_end_in_a_front() {
    let both = r#"while read -r l; do id=${l#*\"id\":\"}; id=${id%%\"*}; k=${l#*\"k\":}; k=${k%%.*}; echo "{\"id\":\"$id\",\"scores\":{\"up\":$k,\"down\":-$k}}"; done"#;
    let text = bare_plan(both, "{evals: 60, population: 10}");
    let mut plan = text;
    plan.space.fitness.weights = vec![("up".into(), 1.0), ("down".into(), 1.0)];
    plan.space.fitness.objectives = space::Objectives::Pareto;
    plan.space.search.optimizer = space::Optimizer::Nsga2;
    let tmp = tempfile::tempdir().unwrap();
    let (end, records) = go_bare(tmp.path(), &plan);
    assert_eq!(end.unwrap(), End::Done);
    let run = event::run::Run::from_records(&records);
    let finalists = &run.selection.as_ref().unwrap().finalists;
    let ups: std::collections::BTreeSet<i64> = finalists
        .iter()
        .filter_map(|f| f.tasks.iter().find(|t| t.task == "up"))
        .map(|t| t.score.value as i64)
        .collect();
    assert!(ups.len() > 3, "the front is spread out: {ups:?}");
}
