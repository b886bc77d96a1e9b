//! What is searched: small spaces over the tiny family and bare genes, one for each way through the program.

use std::path::Path;

pub struct Kind {
    pub name: &'static str,
    pub space: String,
    /// Candidates that can be out at a time.
    pub out: usize,
    pub repeats: Repeats,
}

/// What another run of the same space has in common with the first.
#[derive(Clone, Copy, PartialEq)]
pub enum Repeats {
    /// Every line of the journal, and the best recipe.
    Everything,
    /// Every score, and the best recipe: workers finish in another order each time.
    Scores,
    /// Who was scored: what is asked depends on who answered first.
    Names,
}

const GENES: &str = "genes: {x: [-5, 5], k: {int: [0, 9]}, m: {choice: [a, b]}}";

const FINAL: &str = "final:\n  finalists: 2\n  selection: {limit: 8}\n  test: {limit: 8}\n";

/// Notes whom it is asked for, on which questions, and takes a moment.
const SCORE: &str = r#"while read -r l; do id=${l#*\"id\":\"}; id=${id%%\"*}; s=${l#*\"split\":\"}; s=${s%%\"*}; k=${l#*\"k\":}; k=${k%%.*}; x=${l#*\"x\":}; x=${x%%[,\}]*}; echo "$id $s" >> asked; sleep 0.02; d=$((k-3)); echo "{\"id\":\"$id\",\"scores\":{\"f\":-${d#-},\"g\":$x}}"; done"#;

/// The same with a merged model, whose bytes are its score.
const SCORE_MODEL: &str = r#"while read -r l; do id=${l#*\"id\":\"}; id=${id%%\"*}; s=${l#*\"split\":\"}; s=${s%%\"*}; d=${l#*\"model_dir\":\"}; d=${d%%\"*}; echo "$id $s" >> asked; n=$(cksum < "$d/model.safetensors"); n=${n%% *}; echo "{\"id\":\"$id\",\"scores\":{\"f\":$n}}"; done"#;

pub fn kinds(root: &Path) -> Vec<Kind> {
    let merges = [
        ("cma-es", "", "optimizer: cma-es, evals: 10"),
        ("racing", "", "optimizer: cma-es, evals: 12, racing: {rungs: [8, 12]}"),
        ("genetic", "", "optimizer: genetic, population: 4, evals: 10"),
        ("gp", "", "optimizer: gp, evals: 14"),
        ("random", "", "optimizer: random, evals: 8"),
        (
            "learning",
            "",
            "optimizer: cma-es, evals: 6, learn: {steps: 3, batch: 4, questions: 8, rounds: 2, teachers: solutions}",
        ),
        (
            "learning from answers",
            "",
            "optimizer: cma-es, evals: 5, learn: {steps: 3, batch: 4, questions: 16, rounds: 2, teachers: answers}",
        ),
        (
            "learning from the best",
            "",
            "optimizer: cma-es, evals: 5, learn: {steps: 3, batch: 4, questions: 8, rounds: 2, teachers: best}",
        ),
        (
            "learning from a vote",
            "",
            "optimizer: cma-es, evals: 5, learn: {steps: 3, batch: 4, questions: 16, rounds: 1, teachers: vote}",
        ),
        ("widening", "", "optimizer: cma-es, evals: 20, widening: true"),
        (
            "hybrid",
            "data_flow_space: {sources: [maths, spanish], repeats: 1, max_layers: 8}\nhybrid: ps_then_dfs\n",
            "optimizer: cma-es, evals: 12",
        ),
    ];
    let merges = merges.map(|(name, flow, search)| Kind {
        name,
        space: family(root, flow, &spanish(root), search),
        out: 1,
        repeats: Repeats::Everything,
    });
    let pareto = Kind {
        name: "nsga2, pareto",
        space: family(root, "", &both(root), "optimizer: nsga2, population: 4, evals: 10"),
        out: 1,
        repeats: Repeats::Everything,
    };
    let merged = Kind {
        name: "command, merged models, 2 workers",
        space: family(
            root,
            "",
            &format!(
                "fitness:\n  command: [sh, -c, '{SCORE_MODEL}']\n  materialize: true\n  workers: 2\nfinal: {{finalists: 2}}\n"
            ),
            "optimizer: cma-es, population: 6, evals: 24",
        ),
        out: 2,
        repeats: Repeats::Scores,
    };
    let commands = [
        ("command", 1, "", "optimizer: cma-es, evals: 40"),
        ("command, cma-es-margin", 1, "", "optimizer: cma-es-margin, evals: 40"),
        (
            "command, pareto",
            1,
            "  objectives: pareto\n",
            "population: 8, evals: 40",
        ),
        (
            "command, 3 workers",
            3,
            "",
            "optimizer: genetic, population: 6, evals: 40",
        ),
        (
            "command, 3 workers, asynchronous",
            3,
            "",
            "optimizer: genetic, population: 6, evals: 40, asynchronous: true",
        ),
    ];
    let commands = commands.map(|(name, workers, more, search)| Kind {
        name,
        space: format!(
            "name: killed\n{GENES}\nfitness:\n  command: [sh, -c, '{SCORE}']\n  weights: {{f: 1, g: 0.1}}\n  workers: \
             {workers}\n{more}search: {{{search}, seed: 5}}\n",
        ),
        out: workers,
        repeats: match (workers, search.contains("asynchronous")) {
            (1, _) => Repeats::Everything,
            (_, false) => Repeats::Scores,
            (_, true) => Repeats::Names,
        },
    });
    merges.into_iter().chain([pareto, merged]).chain(commands).collect()
}

/// A fitness of answers to Spanish problems, and its final; English ones are held out.
fn spanish(root: &Path) -> String {
    let root = root.display();
    format!(
        "fitness: {{tasks: [{{task: {root}/evals/arith-es.yaml, limit: 12}}]}}
{FINAL}  held_out: [{{task: {root}/evals/arith-en.yaml, limit: 8}}]
"
    )
}

/// Two tasks that stay apart.
fn both(root: &Path) -> String {
    let root = root.display();
    format!(
        "fitness:
  tasks: [{{task: {root}/evals/arith-es.yaml, limit: 8}}, {{task: {root}/evals/arith-en.yaml, limit: 8}}]
  objectives: pareto
{FINAL}"
    )
}

/// A space over the embedded family.
fn family(root: &Path, flow: &str, fitness: &str, search: &str) -> String {
    let root = root.display();
    format!(
        "name: killed
models: {{base: {root}/models/tiny-base, maths: {root}/models/tiny-maths-en, spanish: {root}/models/tiny-spanish}}
base: base
parameter_space: {{method: task_arithmetic, layer_groups: 2, genes: {{weight: [0.0, 1.5]}}}}
{flow}{fitness}search: {{{search}, seed: 5}}
"
    )
}
