//! A rehearsed night for the tests: the events of a search that never ran, from a few dice of its own.
//!
//! Three tiny models, two tasks, twelve generations, a final. Additions, multiplications and square roots only, so that
//! every machine rehearses the same bytes; `tests/data/dashboard/` holds what it writes.

use serde_json::{Value, json};

use super::{
    Answer, Answers, Budget, Candidate, Comparison, EndReason, Event, Finalist, Generation, HeldOutReading,
    HeldOutScore, HeldOutTask, Level, Model, Origin, Phase, Progress, QuestionTexts, QuestionsCompared, Record,
    RunStarted, SCHEMA_VERSION, Score, Selection, Task, TaskScore, TestReading, TestScore,
    freshness::{Part, PartOfRun},
};

/// 2026-03-01 23:00 UTC.
pub const START_MS: u64 = 1_772_406_000_000;
const GENERATIONS: u64 = 12;
const POPULATION: usize = 8;
const QUESTIONS: usize = 60;
const GROUPS: usize = 4;

/// Everything a live viewer is sent, progress included.
pub fn night() -> Vec<Record> {
    Rehearsal::new().play()
}

/// What of the night the journal holds; the answers of the last of the field are left out to keep the file small.
pub fn journal() -> Vec<Record> {
    let mut records = night();
    let run = super::run::Run::from_records(&records);
    let first: Vec<String> = run
        .ranking()
        .iter()
        .filter(|s| !super::run::counts(&s.candidate.origin))
        .chain(run.ranking().iter().take(6))
        .map(|s| s.candidate.id.clone())
        .collect();
    records.retain(|r| match &r.event {
        Event::CandidateStarted { .. } | Event::Progress(_) => false,
        Event::Answers(answers) => first.contains(&answers.id),
        _ => true,
    });
    for (seq, record) in records.iter_mut().enumerate() {
        record.seq = seq as u64;
    }
    records
}

/// A run on log-likelihood with one task that was stopped early and never read its test split.
pub fn stopped() -> Vec<Record> {
    let mut stage = Rehearsal::new();
    let mut started = run_started();
    started.name = "smollm2-es".into();
    started.tasks.truncate(1);
    started.tasks[0].metric = "log_likelihood".into();
    started.tasks[0].task = "evals/mgsm-text-es.yaml".into();
    started.budget = Budget {
        evals: None,
        duration_ms: Some(8 * 3_600_000),
    };
    stage.emit(0, Event::RunStarted(started.clone()));
    for i in 0..30_u32 {
        let value = -2.0 + 0.9 * (1.0 - 1.0 / (1.0 + f64::from(i) / 8.0)) + 0.1 * stage.dice.normal();
        let score = Score {
            value,
            stderr: 0.04,
            n: 125,
        };
        let origin = if i < 2 { Origin::Parent } else { Origin::Search };
        let id = if i < 2 {
            format!("parent-{}", ["maths", "spanish"][i as usize])
        } else {
            format!("c{i:04}")
        };
        let tasks = vec![TaskScore {
            task: started.tasks[0].task.clone(),
            lang: "es".into(),
            split: "search".into(),
            score,
            tokens: None,
        }];
        let mut candidate = blank(&id, origin, tasks);
        candidate.genotype = if i < 2 { Vec::new() } else { stage.genotype(0.4) };
        candidate.recipe = if i < 2 {
            passthrough("maths")
        } else {
            recipe(&candidate.genotype)
        };
        stage.emit(40_000, Event::CandidateScored(candidate));
    }
    stage.emit(
        1000,
        Event::RunStopped {
            reason: "stop was asked for".into(),
        },
    );
    stage.records
}

/// The journal with two tasks that the search never asked, read at the end.
pub fn held_out() -> Vec<Record> {
    let mut records = journal();
    let run = super::run::Run::from_records(&records);
    let task = |task: &str, lang: &str, metric: &str| HeldOutTask {
        task: task.into(),
        lang: lang.into(),
        split: "test".into(),
        n: 200,
        metric: metric.into(),
    };
    let tasks = vec![
        task("evals/words-fr.yaml", "fr", "exact_match"),
        task("evals/text-en.yaml", "en", "log_likelihood"),
    ];
    let winner = run.winner().expect("the night has a winner").id.as_str();
    let everybody = [
        (winner, 0.30, -2.5),
        ("parent-base", 0.40, -2.3),
        ("parent-maths", 0.25, -2.4),
        ("parent-spanish", 0.35, -2.9),
    ];
    let scores = everybody.map(|(id, right, nats)| {
        let values = [(right, (right * (1.0_f64 - right) / 200.0).sqrt()), (nats, 0.04)];
        let score = |(task, (value, stderr)): (&HeldOutTask, (f64, f64))| TaskScore {
            task: task.task.clone(),
            lang: task.lang.clone(),
            split: task.split.clone(),
            score: Score { value, stderr, n: 200 },
            tokens: None,
        };
        HeldOutScore {
            id: id.into(),
            tasks: tasks.iter().zip(values).map(score).collect(),
        }
    });
    let last = records.pop().expect("the night has an end");
    let reading = HeldOutReading {
        tasks,
        scores: scores.into(),
    };
    records.push(Record {
        event: Event::HeldOutRead(reading),
        ..last.clone()
    });
    records.push(Record {
        seq: last.seq + 1,
        ..last
    });
    records
}

struct Rehearsal {
    dice: Dice,
    records: Vec<Record>,
    time_ms: u64,
    asked: u64,
    /// Difficulty of each question of each task.
    difficulty: Vec<Vec<f64>>,
}

impl Rehearsal {
    fn new() -> Self {
        let mut dice = Dice(7);
        let difficulty = (0..2)
            .map(|_| (0..QUESTIONS).map(|_| dice.uniform()).collect())
            .collect();
        Self {
            dice,
            records: Vec::new(),
            time_ms: START_MS,
            asked: 0,
            difficulty,
        }
    }

    fn emit(&mut self, after_ms: u64, event: Event) {
        self.time_ms += after_ms;
        let seq = self.records.len() as u64;
        self.records.push(Record {
            schema_version: SCHEMA_VERSION,
            seq,
            time_ms: self.time_ms,
            event,
        });
    }

    fn play(mut self) -> Vec<Record> {
        self.emit(0, Event::RunStarted(run_started()));
        self.emit(0, Event::QuestionsCompared(questions_compared()));
        for task in run_started().tasks {
            self.emit(0, Event::QuestionTexts(question_texts(&task)));
        }
        self.emit(
            40,
            Event::Log {
                level: Level::Info,
                message: "3 models fit each other: 10 layers, 1.6M parameters".into(),
            },
        );
        self.emit(
            10,
            Event::PhaseStarted {
                phase: Phase::Baselines,
            },
        );
        for (id, model, skill) in [
            ("parent-base", "base", [0.22, 0.30]),
            ("parent-maths", "maths", [0.31, 0.72]),
            ("parent-spanish", "spanish", [0.36, 0.21]),
        ] {
            self.candidate(id, Origin::Parent, None, Vec::new(), passthrough(model), skill);
        }
        self.candidate(
            "linear",
            Origin::Baseline,
            None,
            Vec::new(),
            simple("linear"),
            [0.46, 0.55],
        );
        self.candidate("ties", Origin::Baseline, None, Vec::new(), simple("ties"), [0.42, 0.58]);
        self.emit(10, Event::PhaseStarted { phase: Phase::Search });
        for id in ["warm-linear", "warm-ties"] {
            let genotype = vec![0.5; 2 * 3 * GROUPS + 1];
            self.candidate(
                id,
                Origin::WarmStart,
                Some(0),
                genotype.clone(),
                recipe(&genotype),
                [0.45, 0.57],
            );
        }
        for generation in 1..=GENERATIONS {
            self.generation(generation);
        }
        self.emit(
            20,
            Event::SearchEnded {
                reason: EndReason::Evals,
                evals: self.asked,
            },
        );
        self.final_();
        self.records
    }

    fn generation(&mut self, generation: u64) {
        let progress = 1.0 - 1.0 / (1.0 + 0.28 * generation as f64);
        let mut values = Vec::new();
        let mut failed = 0;
        for i in 0..POPULATION {
            self.asked += 1;
            let id = format!("c{:04}", self.asked);
            let genotype = self.genotype(progress);
            if generation == 3 && i == 5 {
                failed += 1;
                let reason = "collapsed: perplexity is 48 times the base's (guard: 3)".into();
                let (origin, generation) = (Origin::Search, Some(generation));
                self.emit(
                    900,
                    Event::CandidateStarted {
                        id: id.clone(),
                        origin: origin.clone(),
                        generation,
                    },
                );
                self.emit(
                    1900,
                    Event::CandidateFailed {
                        id,
                        origin,
                        generation,
                        recipe_digest: "0".into(),
                        reason,
                    },
                );
                continue;
            }
            let luck = 0.10 * self.dice.normal();
            let skill = [0.40 + 0.28 * progress + luck, 0.56 + 0.22 * progress + luck];
            let recipe = recipe(&genotype);
            values.push(self.candidate(&id, Origin::Search, Some(generation), genotype, recipe, skill));
        }
        if generation.is_multiple_of(4) {
            let genotype = self.genotype(progress);
            let recipe = recipe(&genotype);
            let skill = [0.41 + 0.29 * progress, 0.57 + 0.22 * progress];
            self.asked += 1;
            self.candidate(
                &format!("mean-{generation:02}"),
                Origin::Mean,
                Some(generation),
                genotype,
                recipe,
                skill,
            );
        }
        values.sort_by(|a, b| b.total_cmp(a));
        let at = |q: usize| values[(values.len() - 1) * q / 4];
        let ended = Generation {
            generation,
            best: at(0),
            upper_quartile: at(1),
            median: at(2),
            lower_quartile: at(3),
            failed,
            block: None,
            tau: None,
            split_half: None,
            sigma: Some(0.3 / (1.0 + 0.15 * generation as f64)),
            state_digest: format!("{generation:064x}"),
        };
        self.emit(30, Event::GenerationEnded(ended));
        if generation == 6 {
            let message = "the step size has halved since the start; no restart yet".into();
            self.emit(
                5,
                Event::Log {
                    level: Level::Warning,
                    message,
                },
            );
        }
    }

    fn genotype(&mut self, progress: f64) -> Vec<f64> {
        let spread = 0.35 * (1.0 - 0.8 * progress);
        let mut genes = Vec::new();
        for targets in [[0.95, 0.70, 0.40], [0.55, 0.85, 0.75]] {
            for group in 0..GROUPS {
                for target in targets {
                    let slope = 0.12 * (group as f64 - 1.5) * if target > 0.6 { 1.0 } else { -1.0 };
                    let gene = 0.5 + progress * (target + slope - 0.5) + spread * self.dice.normal();
                    genes.push((gene.clamp(0.0, 1.5) * 1000.0).round() / 1000.0);
                }
            }
        }
        genes.push(0.6 + 0.2 * progress);
        genes
    }

    fn candidate(
        &mut self,
        id: &str,
        origin: Origin,
        generation: Option<u64>,
        genotype: Vec<f64>,
        recipe: Value,
        skill: [f64; 2],
    ) -> f64 {
        let merge_ms = 700 + (300.0 * self.dice.uniform()) as u64;
        let evaluation_ms = 24_000 + (9000.0 * self.dice.uniform()) as u64;
        let started = Event::CandidateStarted {
            id: id.into(),
            origin: origin.clone(),
            generation,
        };
        self.emit(20, started);
        self.progress(id, "merge", 0, 0, merge_ms);
        self.progress(id, "prefill", 0, 0, evaluation_ms / 6);
        let mut tasks = Vec::new();
        for (t, task) in run_started().tasks.into_iter().enumerate() {
            let answers: Vec<Answer> = (0..QUESTIONS)
                .map(|q| self.answer(&task, t, q, skill[t], "search"))
                .collect();
            tasks.push(task_score(&task, "search", &answers));
            for quarter in 1..=3 {
                let answered = t * QUESTIONS + quarter * QUESTIONS / 4;
                self.progress(id, "decode", answered, answered as u64 * 58, evaluation_ms / 8);
            }
            let (task, lang) = (task.task, task.lang);
            let (id, key) = (id.to_owned(), format!("{t:016x}"));
            self.emit(
                0,
                Event::Answers(Answers {
                    id,
                    task,
                    lang,
                    split: "search".into(),
                    kind: String::new(),
                    key,
                    answers,
                }),
            );
        }
        let mut candidate = blank(id, origin, tasks);
        candidate.generation = generation;
        candidate.genotype = genotype;
        candidate.recipe = recipe;
        candidate.recipe_digest = format!("{:064x}", self.records.len());
        candidate.merge_ms = merge_ms;
        candidate.evaluation_ms = evaluation_ms;
        candidate.generated_tokens = 2 * QUESTIONS as u64 * 58;
        let fitness = candidate.fitness;
        self.emit(evaluation_ms / 12, Event::CandidateScored(candidate));
        fitness
    }

    fn progress(&mut self, id: &str, stage: &str, answered: usize, tokens: u64, after_ms: u64) {
        let tokens_per_s = if stage == "decode" {
            260.0 + 40.0 * self.dice.uniform()
        } else {
            0.0
        };
        let (id, stage) = (id.to_owned(), stage.to_owned());
        let progress = Progress {
            id,
            stage,
            answered,
            questions: 2 * QUESTIONS,
            tokens,
            tokens_per_s,
        };
        self.emit(after_ms, Event::Progress(progress));
    }

    fn answer(&mut self, task: &Task, t: usize, question: usize, skill: f64, split: &str) -> Answer {
        let chance = skill + 0.5 * (0.5 - self.difficulty[t][question % QUESTIONS]);
        let right = self.dice.uniform() < chance;
        let (apples, friends) = numbers(question);
        let gold = (apples * friends).to_string();
        let roll = self.dice.uniform();
        let spanish = task.lang == "es" && (right || roll < 0.7);
        let got = if right {
            gold.clone()
        } else {
            (apples + friends).to_string()
        };
        let sign = if right { '*' } else { '+' };
        let step = format!("{apples} {sign} {friends} = {got}");
        let (out, finish) = match (spanish, right || roll < 0.85) {
            (_, false) if roll > 0.93 => (format!("{step}. {step}. {step}. {step}. {step}."), "loop"),
            (_, false) => (format!("Primero contamos {apples} manzanas y después"), "length"),
            (true, _) => (
                format!("Cada caja lleva {apples} manzanas y hay {friends} cajas: {step}\n#### {got}"),
                "eos",
            ),
            (false, _) => (
                format!("Each box has {apples} apples, there are {friends}: {step}\n#### {got}"),
                "eos",
            ),
        };
        let language_ok = task.lang != "es" || spanish;
        Answer {
            q: format!("{}/{split}/{question}", super::words::task_name(&task.task, "")),
            tokens: out.len() / 3,
            out,
            got: if finish == "length" { String::new() } else { got },
            gold,
            score: f64::from(right && language_ok),
            finish: finish.into(),
            language_ok,
        }
    }

    fn final_(&mut self) {
        self.emit(
            10,
            Event::PhaseStarted {
                phase: Phase::Selection,
            },
        );
        let run = super::run::Run::from_records(&self.records);
        let mut finalists: Vec<Finalist> = run
            .ranking()
            .iter()
            .map(|s| &s.candidate)
            .filter(|c| super::run::counts(&c.origin))
            .take(4)
            .map(|c| (c, 0.035))
            .chain(run.best_parent().map(|c| (c, -0.004)))
            .chain(run.of_origin(Origin::Baseline).map(|c| (c, 0.008)))
            .map(|(c, luck)| {
                let shrink = luck + 0.015 * self.dice.uniform();
                let value = c.fitness - shrink;
                Finalist {
                    id: c.id.clone(),
                    origin: c.origin.clone(),
                    search: c.search_score(),
                    fresh: Score {
                        value,
                        stderr: (value * (1.0 - value) / 400.0).sqrt(),
                        n: 400,
                    },
                    tasks: reread(&c.tasks, "selection", shrink, 200),
                }
            })
            .collect();
        finalists.sort_by(|a, b| b.fresh.value.total_cmp(&a.fresh.value));
        let winner = run.candidate(&finalists[0].id).expect("finalists are scored").clone();
        let parents: Vec<Candidate> = run
            .of_origin(Origin::Parent)
            .chain(run.of_origin(Origin::Baseline))
            .cloned()
            .collect();
        let best_parent = run.best_parent().expect("parents are scored").clone();
        let selection = Selection {
            split: "selection".into(),
            best: winner.id.clone(),
            best_parent: best_parent.id.clone(),
            finalists,
        };
        self.emit(184_000, Event::Selected(selection));
        self.emit(10, Event::PhaseStarted { phase: Phase::Test });
        let read = |c: &Candidate, shrink: f64| {
            let value = c.fitness - shrink;
            let score = Score {
                value,
                stderr: (value * (1.0 - value) / 2000.0).sqrt(),
                n: 2000,
            };
            TestScore {
                id: c.id.clone(),
                score,
                tasks: reread(&c.tasks, "test", shrink, 1000),
            }
        };
        let best = read(&winner, 0.045);
        let others = parents
            .iter()
            .filter(|c| c.id != best_parent.id)
            .map(|c| read(c, 0.004))
            .map(|other| Comparison {
                difference: best.score.value - other.score.value,
                p_value: 2.1e-7,
                p_holm: 8.4e-7,
                negative_flips: 0,
                positive_flips: 0,
                other,
            })
            .collect();
        let best_parent = read(&best_parent, -0.006);
        let reading = TestReading {
            split: "test".into(),
            difference: best.score.value - best_parent.score.value,
            best,
            best_parent,
            oracle: None,
            vote: None,
            p_value: 3.2e-6,
            test: "mcnemar-exact".into(),
            negative_flips: 231,
            positive_flips: 468,
            others,
        };
        self.emit(412_000, Event::TestRead(reading));
        let elapsed_ms = self.time_ms - START_MS;
        self.emit(
            10,
            Event::RunDone {
                evals: self.asked,
                answers: 24_840,
                elapsed_ms,
            },
        );
    }
}

/// Nothing stands in two parts.
fn questions_compared() -> QuestionsCompared {
    let parts = run_started().tasks.into_iter().flat_map(|task| {
        let asked = [
            (Part::Search, "search", task.n),
            (Part::Selection, "selection", 200),
            (Part::Test, "test", 1000),
        ];
        asked.map(|(part, split, n)| PartOfRun {
            part,
            task: task.task.clone(),
            lang: task.lang.clone(),
            split: split.into(),
            n,
        })
    });
    QuestionsCompared {
        parts: parts.collect(),
        ..QuestionsCompared::default()
    }
}

/// What the search's questions of a task ask.
fn question_texts(task: &Task) -> QuestionTexts {
    let text = |i: usize| {
        let (apples, friends) = numbers(i);
        match task.lang.as_str() {
            "es" => format!("Q: Cada caja lleva {apples} manzanas. ¿Cuántas llevan {friends} cajas? A:"),
            _ => format!("Q: A box holds {apples} apples. How many are in {friends} boxes? A:"),
        }
    };
    let name = super::words::task_name(&task.task, "");
    let texts = (0..QUESTIONS).map(|i| (format!("{name}/search/{i}"), text(i)));
    QuestionTexts::new(&task.task, &task.lang, "search", texts)
}

/// What a question is about.
fn numbers(question: usize) -> (usize, usize) {
    (12 + question, 2 + question % 5)
}

fn run_started() -> RunStarted {
    let model = |name: &str| Model {
        name: name.into(),
        model: format!("models/tiny-{name}"),
        given: String::new(),
        digest: "0".repeat(64),
        tokenizer_digest: String::new(),
        is_base: name == "base",
    };
    let task = |task: &str, lang: &str, weight| Task {
        task: task.into(),
        lang: lang.into(),
        split: "search".into(),
        weight,
        n: QUESTIONS,
        digest: "0".repeat(64),
        metric: "exact_match".into(),
        description: "Word problems of two to four steps over numbers below 100.".into(),
    };
    let mut genes = Vec::new();
    for model in ["maths", "spanish"] {
        for group in 0..GROUPS {
            genes.extend(["attn", "mlp", "other"].map(|module| format!("weight.{model}.g{group}.{module}")));
        }
    }
    genes.push("density".into());
    RunStarted {
        name: "bilingual-maths".into(),
        engine_version: "0.1.0".into(),
        seed: 7,
        space_digest: "5e".repeat(32),
        space: String::new(),
        budget: Budget {
            evals: Some(GENERATIONS * POPULATION as u64 + 3),
            duration_ms: None,
        },
        models: vec![model("base"), model("maths"), model("spanish")],
        tasks: vec![
            task("evals/arith-es.yaml", "es", 1.0),
            task("evals/arith-en.yaml", "en", 0.5),
        ],
        optimizer: "cma-es".into(),
        genes,
        population: POPULATION,
        device: "cpu".into(),
        dtype: "f32".into(),
        ..RunStarted::default()
    }
}

fn blank(id: &str, origin: Origin, tasks: Vec<TaskScore>) -> Candidate {
    let weights = [1.0, 0.5];
    let total: f64 = weights.iter().take(tasks.len()).sum();
    let fitness = tasks.iter().zip(weights).map(|(t, w)| w * t.score.value).sum::<f64>() / total;
    let variance = tasks
        .iter()
        .zip(weights)
        .map(|(t, w)| (w * t.score.stderr).powi(2))
        .sum::<f64>();
    Candidate {
        id: id.into(),
        origin,
        generation: None,
        genotype: Vec::new(),
        recipe: Value::Null,
        recipe_digest: "0".repeat(64),
        fitness,
        stderr: variance.sqrt() / total,
        n: tasks.iter().map(|t| t.score.n).sum(),
        tasks,
        eliminated: false,
        cached: false,
        generated_tokens: 0,
        merge_ms: 0,
        evaluation_ms: 0,
    }
}

fn task_score(task: &Task, split: &str, answers: &[Answer]) -> TaskScore {
    let n = answers.len() as f64;
    let value = answers.iter().map(|a| a.score).sum::<f64>() / n;
    let stderr = (value * (1.0 - value) / (n - 1.0)).sqrt();
    let score = Score {
        value,
        stderr,
        n: answers.len(),
    };
    TaskScore {
        task: task.task.clone(),
        lang: task.lang.clone(),
        split: split.into(),
        score,
        tokens: None,
    }
}

fn reread(tasks: &[TaskScore], split: &str, shrink: f64, n: usize) -> Vec<TaskScore> {
    let again = |t: &TaskScore| {
        let value = t.score.value - shrink;
        let score = Score {
            value,
            stderr: (value * (1.0 - value) / n as f64).sqrt(),
            n,
        };
        TaskScore {
            split: split.into(),
            score,
            ..t.clone()
        }
    };
    tasks.iter().map(again).collect()
}

fn passthrough(model: &str) -> Value {
    json!({"stages": [{"merge_method": "passthrough", "models": [{"model": model}]}]})
}

fn simple(method: &str) -> Value {
    let source = |m: &str| json!({"model": m, "parameters": {"weight": 0.5}});
    json!({"stages": [{"merge_method": method, "base_model": "base", "models": [source("maths"), source("spanish")], "dtype": "float32"}]})
}

fn recipe(genes: &[f64]) -> Value {
    const LAYERS: [[usize; 2]; GROUPS] = [[0, 3], [3, 5], [5, 8], [8, 10]];
    let source = |model: usize, group: usize| {
        let weights = &genes[(model * GROUPS + group) * 3..][..3];
        json!({
            "model": (["maths", "spanish"][model]), "layer_range": (LAYERS[group]),
            "parameters": {"density": (genes[6 * GROUPS]), "weight": [
                {"filter": "self_attn", "value": (weights[0])},
                {"filter": "mlp", "value": (weights[1])},
                {"value": (weights[2])},
            ]},
        })
    };
    let slice = |group: usize| {
        let base = json!({"model": "base", "layer_range": (LAYERS[group])});
        json!({"sources": [source(0, group), source(1, group), base]})
    };
    let slices: Vec<Value> = (0..GROUPS).map(slice).collect();
    json!({"stages": [{
        "merge_method": "ties", "base_model": "base", "slices": slices,
        "parameters": {"lambda": 1.0}, "dtype": "float32", "out_dtype": "bfloat16",
    }]})
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Nearly normal: twelve uniforms, so that no logarithm can differ between machines.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}
