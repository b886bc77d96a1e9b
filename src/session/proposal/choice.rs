//! What to search, how finely and for how long.
//!
//! The rules are those that held on the tiny family (docs/learning.md, docs/reproductions.md): the plain sum of task vectors
//! is the strongest start, learning finds most of what there is for a twentieth of the answers, and genes beyond what the
//! budget can move are noise. The speed that is assumed is an order of magnitude, good enough to choose a number of
//! questions; `heterosis check` measures it.

use std::fmt::Write;

use super::{Wanted, family::Family};
use crate::space::{Module, modules_of, takes_expert_groups};

/// Parameters times tokens that a second is good for, on the CPU and on a GPU.
const RATE: [f64; 2] = [1e10, 1e13];

/// Tokens that an answer takes, with its prompt's share.
const TOKENS: f64 = 128.0;

/// The night that is meant where nothing is said.
const USUAL_MS: u64 = 8 * 3_600_000;

/// Of the time, what the search may take; the rest is the final's.
const OF_SEARCH: f64 = 0.7;

/// Fewer questions say nothing, more say hardly more.
const QUESTIONS: [f64; 2] = [24.0, 200.0];
const EVALS: [f64; 2] = [40.0, 400.0];

/// Questions of each task in the final: fewer tell no finalists apart, more are not asked unless somebody says so.
const SELECTION: [f64; 2] = [60.0, 400.0];
const TEST: [f64; 2] = [100.0, 2000.0];

/// Who meets the selection questions besides the parents, and the test's: finalists, learned points, means, unsearched merges.
const SELECTED: usize = 18;
const TESTED: usize = 4;

/// Candidates around what was learned: further ones found nothing more.
const AFTER_LEARNING: u64 = 80;

/// The largest model that is learned on: its gradient is computed in f32, beside the weights.
const LEARNED: usize = 4_000_000_000;

/// Evaluations that a gene needs to be worth moving, without learning and with it.
const EVALS_PER_GENE: u64 = 4;
const GENES_LEARNED: usize = 48;

/// Layer groups, and whether modules are told apart, from the finest.
const GRAINS: [(usize, bool); 5] = [(4, true), (2, true), (1, true), (2, false), (1, false)];

/// Groups of a mixture's experts, from the finest, where the layers leave genes for them.
const EXPERT_GROUPS: [usize; 3] = [8, 4, 2];

pub struct Choice {
    pub tokenizer: String,
    pub tokenizer_reason: String,
    pub questions: usize,
    /// The child can be spoken to, so it is asked as it will be used.
    pub speaks: bool,
    evals: u64,
    /// Most questions of each task in the selection and in the test, where the time is short.
    limits: [Option<usize>; 2],
    groups: usize,
    /// Those that are told apart; none: a weight holds for all.
    modules: Vec<Module>,
    /// Of a mixture's experts in each layer; 1 where none are told apart.
    expert_groups: usize,
    learns: bool,
}

impl Choice {
    pub fn new(family: &Family, tasks: usize, wanted: &Wanted, on_gpu: bool) -> Self {
        let (parameters, layers, experts) = (family.parameters(), family.layers(), family.experts.len());
        let seconds = wanted.duration_ms.unwrap_or(USUAL_MS) as f64 / 1000.0;
        let answer_s = parameters as f64 * TOKENS / RATE[usize::from(on_gpu)];
        let in_all = seconds / answer_s / tasks.max(1) as f64;
        let answers = in_all * OF_SEARCH;
        // Half of what the search leaves for each part of the final.
        let of_final = in_all * (1.0 - OF_SEARCH) / 2.0;
        let limit = |examinees: usize, [least, most]: [f64; 2]| {
            let fits = of_final / (examinees + experts + 1) as f64;
            (fits < most).then(|| fits.max(least).round() as usize)
        };
        let questions = (answers / 100.0).clamp(QUESTIONS[0], QUESTIONS[1]).round();
        let learns = parameters <= LEARNED;
        let paid = (answers / questions).clamp(EVALS[0], EVALS[1]).round() as u64;
        let evals = wanted
            .evals
            .unwrap_or(if learns { paid.min(AFTER_LEARNING) } else { paid });
        let most_genes = if learns {
            GENES_LEARNED
        } else {
            (evals / EVALS_PER_GENE).clamp(2, 60) as usize
        };
        let tensors = family.tensors();
        let mut told_apart = modules_of(&tensors);
        let genes = |(groups, modules): (usize, bool)| experts * groups * if modules { told_apart.len() } else { 1 };
        let fits = |grain: &(usize, bool)| grain.0 <= layers && genes(*grain) <= most_genes;
        let (groups, modules) = GRAINS.into_iter().find(fits).unwrap_or((1, false));
        let has_genes = |more: usize| experts * groups * (told_apart.len() + more - 1) <= most_genes;
        let takes = |more: &usize| modules && has_genes(*more) && takes_expert_groups(&tensors, *more);
        let expert_groups = EXPERT_GROUPS.into_iter().find(takes).unwrap_or(1);
        if !modules {
            told_apart.clear();
        }
        let (tokenizer, tokenizer_reason, speaks) = tokenizer(family);
        Self {
            tokenizer,
            tokenizer_reason,
            questions: questions as usize,
            speaks,
            evals,
            limits: [limit(SELECTED, SELECTION), limit(TESTED, TEST)],
            groups,
            modules: told_apart,
            expert_groups,
            learns,
        }
    }

    fn genes(&self, family: &Family) -> usize {
        let parts = self.modules.len().max(1) + self.expert_groups - 1;
        family.experts.len() * self.groups * parts
    }

    pub fn reasons(&self, family: &Family) -> Vec<(&'static str, String)> {
        let mut reasons = Vec::new();
        let what = match family.base {
            Some(_) => {
                "the base and what each expert adds to it, weighed (task_arithmetic): the strongest start, and its \
                        weights can be learned"
            }
            None => "the weighted mean of the models (linear), the one method that needs no base and can be learned",
        };
        reasons.push(("space", what.into()));
        let modules = match &self.modules[..] {
            [] => "",
            _ if self.expert_groups > 1 => ", attention, routers, groups of experts and the rest apart",
            modules if modules.contains(&Module::Experts) => ", attention, routers, experts and the rest apart",
            _ => ", attention, MLPs and the rest apart",
        };
        let groups = if self.groups == 1 {
            "for all layers".into()
        } else {
            format!("in each of {} layer groups", self.groups)
        };
        let numbers = self.genes(family);
        reasons.push((
            "",
            format!("a weight for each expert {groups}{modules}: {numbers} numbers"),
        ));
        reasons.push(match self.learns {
            true => (
                "search",
                format!(
                    "learns from right answers first, then breeds {} candidates around that",
                    self.evals
                ),
            ),
            false => (
                "search",
                format!(
                    "breeds {} candidates; models of this size are too large to learn from answers",
                    self.evals
                ),
            ),
        });
        reasons.push(("", format!("{} questions of each task for a candidate", self.questions)));
        if self.speaks {
            let how = "put through the chat template; a model without one is asked in plain text";
            reasons.push(("", how.into()));
        }
        reasons.push(("tokenizer", format!("{}'s: {}", self.tokenizer, self.tokenizer_reason)));
        reasons
    }

    pub fn parameter_space(&self, family: &Family) -> String {
        let (method, meaning, range) = match family.base {
            Some(_) => ("task_arithmetic", "base + Σ weight · (expert − base)", "[0.0, 1.5]"),
            None => ("linear", "Σ weight · model / Σ weight", "[0.0, 1.0]"),
        };
        let mut out = format!("\nparameter_space:\n  method: {method:<19} # {meaning}\n");
        let _ = writeln!(
            out,
            "  layer_groups: {:<13} # of {} layers; more are more genes",
            self.groups,
            family.layers()
        );
        if !self.modules.is_empty() {
            let names: Vec<&str> = self.modules.iter().map(|module| module.name()).collect();
            let _ = writeln!(
                out,
                "  modules: [{}] # other: embeddings, norms, head",
                names.join(", ")
            );
        }
        if self.expert_groups > 1 {
            let _ = writeln!(
                out,
                "  expert_groups: {:<12} # of the experts of a layer, by their numbers",
                self.expert_groups
            );
        }
        let _ = writeln!(
            out,
            "  genes:\n    weight: {range:<17} # for each expert, group and module: {} genes",
            self.genes(family)
        );
        out
    }

    /// The rest of the file.
    pub fn search(&self) -> String {
        let learn = match self.learns {
            true => "  learn: auto                 # first move the weights towards what is answered right\n",
            false => "",
        };
        let part = |name: &str, limit: Option<usize>| {
            let line = |limit| {
                let key = format!("{name}: {{limit: {limit}}}");
                format!("  {key:<28}# questions of each task that the time is enough for\n")
            };
            limit.map_or_else(String::new, line)
        };
        let [selection, test] = self.limits;
        let limits = part("selection", selection) + &part("test", test);
        format!(
            "search:\n  optimizer: cma-es\n{learn}  evals: {:<20} # candidates; --evals and --for say otherwise\n  seed: 1\n\
             final:                        # questions of the other splits; the test split is read once\n  finalists: 8\n{limits}",
            self.evals
        )
    }
}

/// Whose tokenizer, settings and chat template the child takes: the base's, unless an expert with the same vocabulary can be
/// spoken to and the base cannot.
fn tokenizer(family: &Family) -> (String, String, bool) {
    let first = &family.experts[0];
    let Some(base) = &family.base else {
        let speaks = first.tokenizer().is_some_and(|tokenizer| tokenizer.has_chat_template());
        return (first.name.clone(), "the first model's".into(), speaks);
    };
    let of_base = base.tokenizer();
    let speaks = family.experts.iter().find(|expert| {
        let (Some(of_base), Some(own)) = (&of_base, expert.tokenizer()) else {
            return false;
        };
        own.has_chat_template() && !of_base.has_chat_template() && own.vocab() == of_base.vocab()
    });
    match speaks {
        Some(expert) => (
            expert.name.clone(),
            "it has a chat template, and the base has none".into(),
            true,
        ),
        None => {
            let speaks = of_base.is_some_and(|tokenizer| tokenizer.has_chat_template());
            (base.name.clone(), "what all of them were made from".into(), speaks)
        }
    }
}
