//! A search of a landscape whose truth is known ([`Land`]), question by question, through the very loop that real searches run.

use std::{collections::HashSet, ops::Range, path::Path, sync::Arc, time::Duration};

use heterosis::{
    event::{Answer, Budget, Progress, RunStarted},
    search::{
        Catalogue, Chronicle, Clock, Control, Crew, Evaluation, Evaluator, Exam, ExamTask, Genome, News, Plan, Sitting,
        Unscored, run,
    },
    space::{GeneSpec, Racing, Space},
    store::Journal,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, LogNormal};

use super::land::Land;

/// Questions of the search; as many others choose among the finalists.
pub const QUESTIONS: usize = 250;
/// Questions that say what is true of a candidate.
const TRUTH: Range<usize> = 2 * QUESTIONS..2 * QUESTIONS + 3500;

/// What a search asked, how good its mean is in truth, and how long it took, in seconds that did not pass.
pub struct Found {
    pub answers: usize,
    pub truth: f64,
    pub seconds: f64,
}

/// How a landscape is searched.
#[derive(Clone, Default)]
pub struct Way {
    pub racing: Option<Racing>,
    /// Hands that work on a candidate each; none: one after the other, at once.
    pub hands: usize,
    pub asynchronous: bool,
}

/// Seconds of the shortest and the longest candidate on a hand: two standard deviations below and above the median.
const SHORTEST: f64 = 5.0;
const LONGEST: f64 = 600.0;

/// What hands are at, and the time by their clock.
#[derive(Default)]
struct Hands {
    size: usize,
    now: f64,
    out: Vec<(f64, String, Result<Evaluation, Unscored>)>,
}

struct Answering<'a> {
    land: &'a Land,
    seed: u64,
    /// Candidates and questions, as each was answered for once.
    asked: HashSet<(u64, usize)>,
    mean: Option<Vec<f64>>,
    hands: Hands,
}

impl Answering<'_> {
    /// Of a genotype, the same for one seed.
    fn bits(&self, genotype: &[f64]) -> u64 {
        genotype.iter().fold(self.seed, |hash, x| {
            (hash ^ x.to_bits()).wrapping_mul(0x0000_0100_0000_01B3)
        })
    }

    /// Seconds that somebody takes to answer: those of all questions are log-normal over candidates.
    fn seconds(&self, sitting: &Sitting<'_>) -> f64 {
        let median = (SHORTEST * LONGEST).sqrt();
        let all = LogNormal::new(median.ln(), (LONGEST / SHORTEST).ln() / 4.0).expect("a finite spread");
        let mut random = ChaCha8Rng::seed_from_u64(!self.bits(sitting.genotype));
        let share = sitting.exam.n() as f64 / QUESTIONS as f64;
        all.sample(&mut random).clamp(SHORTEST, LONGEST) * share
    }
}

impl Crew for Answering<'_> {
    fn size(&self) -> usize {
        self.hands.size
    }

    fn begin(&mut self, sitting: &Sitting<'_>) {
        let evaluation = self.evaluate(sitting, &mut |_| ());
        let end = self.hands.now + self.seconds(sitting);
        self.hands.out.push((end, sitting.id.into(), evaluation));
    }

    fn next(&mut self) -> News {
        let hands = &mut self.hands;
        let first = (0..hands.out.len()).min_by(|a, b| hands.out[*a].0.total_cmp(&hands.out[*b].0));
        match first {
            Some(first) => {
                let (end, id, evaluation) = hands.out.swap_remove(first);
                hands.now = end;
                News::Done(id, evaluation)
            }
            None => News::Nothing,
        }
    }
}

impl Evaluator for Answering<'_> {
    fn crew(&mut self) -> Option<&mut dyn Crew> {
        match self.hands.size {
            0 => None,
            _ => Some(self),
        }
    }

    fn evaluate(&mut self, sitting: &Sitting<'_>, _: &mut dyn FnMut(Progress)) -> Result<Evaluation, Unscored> {
        let task = &sitting.exam.tasks[0];
        let chances = self.land.chances(sitting.genotype, 0..2 * QUESTIONS);
        let offset = if sitting.exam.split == "search" { 0 } else { QUESTIONS };
        let bits = self.bits(sitting.genotype);
        if sitting.id == "mean" {
            self.mean = Some(sitting.genotype.to_vec());
        } else if offset == 0 {
            self.asked.extend(task.items.iter().map(|item| (bits, *item)));
        }
        let mut random = ChaCha8Rng::seed_from_u64(bits);
        let draws: Vec<f64> = (0..2 * QUESTIONS).map(|_| random.random()).collect();
        let answer = |item: &usize| Answer {
            q: task.catalogue.ids[*item].clone(),
            out: String::new(),
            got: String::new(),
            gold: String::new(),
            score: f64::from(u8::from(draws[offset + item] < chances[offset + item])),
            finish: "eos".into(),
            language_ok: true,
            tokens: 1,
        };
        Ok(Evaluation {
            answers: vec![(format!("{bits:x}"), task.items.iter().map(answer).collect())],
            ..Evaluation::default()
        })
    }
}

pub fn land(genes: usize, seed: u64) -> Land {
    Land::new(genes, TRUTH.end, seed)
}

/// The accuracy that is never asked for.
pub fn truth(land: &Land, genotype: &[f64]) -> f64 {
    land.truth(genotype, TRUTH)
}

/// Searches with so many candidates.
pub fn search(land: &Land, genes: usize, evals: u64, way: &Way, seed: u64, dir: &Path) -> anyhow::Result<Found> {
    let names: Vec<String> = (0..genes).map(|i| format!("x{i}: [0.0, 1.0]")).collect();
    let text = format!(
        "name: simulated\ngenes: {{{}}}\nfitness: {{command: [none]}}\nsearch: {{seed: {seed}}}\nfinal: {{finalists: 1}}\n",
        names.join(", ")
    );
    let mut space = Space::parse(Path::new("simulated.yaml"), &text)?;
    space.search.racing = way.racing.clone();
    space.search.asynchronous = way.asynchronous;
    let exam = |split: &str, n: usize| Exam {
        split: split.into(),
        tasks: vec![ExamTask {
            index: 0,
            split: split.into(),
            task: "simulated".into(),
            lang: "en".into(),
            weight: 1.0,
            is_likelihood: false,
            catalogue: Arc::new(Catalogue {
                ids: (0..n).map(|i| format!("{split}/{i}")).collect(),
                lengths: vec![1; n],
            }),
            items: (0..n).collect(),
        }],
    };
    let specs = space.genes.iter().map(|(name, gene)| GeneSpec {
        name: name.clone(),
        kind: gene.kind(),
    });
    let plan = Plan {
        genome: Genome::Bare(specs.collect()),
        warm_starts: Vec::new(),
        budget: Budget {
            evals: Some(evals),
            duration_ms: None,
        },
        finish: false,
        search: exam("search", QUESTIONS),
        selection: exam("selection", QUESTIONS),
        held_out: Exam {
            split: "test".into(),
            tasks: Vec::new(),
        },
        test: Exam {
            split: "test".into(),
            tasks: Vec::new(),
        }, // there is no parent to compare with
        lessons: Exam::nothing(),
        space,
    };
    let mut answering = Answering {
        land,
        seed,
        asked: HashSet::new(),
        mean: None,
        hands: Hands {
            size: way.hands,
            ..Hands::default()
        },
    };
    let path = dir.join("journal.jsonl");
    let _ = std::fs::remove_file(&path);
    let clock = Clock {
        now_ms: &|| 0,
        sleep: &|_: Duration| (),
    };
    let mut chronicle = Chronicle::open(Journal::open(&path)?, started(), false, clock, &|_| ())?;
    run(&plan, &mut answering, None, &mut chronicle, &Control::default())?;
    let mean = answering.mean.ok_or_else(|| anyhow::anyhow!("no mean was scored"))?;
    Ok(Found {
        answers: answering.asked.len(),
        truth: truth(land, &mean),
        seconds: answering.hands.now,
    })
}

pub fn started() -> RunStarted {
    serde_json::from_value(serde_json::json!({
        "name": "racing", "engine_version": "", "seed": 0, "space_digest": "", "budget": {}, "models": [], "tasks": [],
        "optimizer": "", "genes": [], "population": 0, "device": "cpu", "dtype": "f32"
    }))
    .expect("plain data")
}
