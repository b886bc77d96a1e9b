//! What is searched: small spaces over the tiny family and bare genes, one for each way through the program.

use std::path::Path;

pub struct Kind {
    pub name: &'static str,
    pub space: String,
    /// Candidates that can be out at a time.
    pub out: usize,
}

const GENES: &str = "genes: {x: [-5, 5], k: {int: [0, 9]}, m: {choice: [a, b]}}";

/// Notes whom it is asked for, on which questions, and takes a moment.
const SCORE: &str = r#"while read -r l; do id=${l#*\"id\":\"}; id=${id%%\"*}; s=${l#*\"split\":\"}; s=${s%%\"*}; k=${l#*\"k\":}; k=${k%%.*}; x=${l#*\"x\":}; x=${x%%[,\}]*}; echo "$id $s" >> asked; sleep 0.02; d=$((k-3)); echo "{\"id\":\"$id\",\"scores\":{\"f\":-${d#-},\"g\":$x}}"; done"#;

pub fn kinds(root: &Path) -> Vec<Kind> {
    let merges = [
        ("cma-es", "", "optimizer: cma-es, evals: 14"),
        ("racing", "", "optimizer: cma-es, evals: 14, racing: {rungs: [16, 24]}"),
        ("genetic", "", "optimizer: genetic, population: 5, evals: 14"),
        ("random", "", "optimizer: random, evals: 10"),
        ("widening", "", "optimizer: cma-es, evals: 30, widening: true"),
        (
            "hybrid",
            "data_flow_space: {sources: [maths, spanish], repeats: 1, max_layers: 8}\nhybrid: ps_then_dfs\n",
            "optimizer: cma-es, evals: 16",
        ),
    ];
    let merges = merges.map(|(name, flow, search)| Kind {
        name,
        space: family(root, flow, search),
        out: 1,
    });
    let commands = [
        ("command", 1, "", "optimizer: cma-es, evals: 40"),
        ("command, pareto", 1, ", objectives: pareto", "population: 8, evals: 40"),
        (
            "command, 3 workers",
            3,
            "",
            "optimizer: genetic, population: 6, evals: 40",
        ),
    ];
    let commands = commands.map(|(name, workers, more, search)| Kind {
        name,
        space: format!(
            "name: killed\n{GENES}\nfitness:\n  command: [sh, -c, '{SCORE}']\n  weights: {{f: 1, g: 0.1}}\n  workers: \
             {workers}\n{}search: {{{search}, seed: 5}}\n",
            match more {
                "" => "",
                _ => "  objectives: pareto\n",
            }
        ),
        out: workers,
    });
    merges.into_iter().chain(commands).collect()
}

fn family(root: &Path, flow: &str, search: &str) -> String {
    let root = root.display();
    format!(
        "name: killed
models: {{base: {root}/models/tiny-base, maths: {root}/models/tiny-maths-en, spanish: {root}/models/tiny-spanish}}
base: base
parameter_space: {{method: task_arithmetic, layer_groups: 2, genes: {{weight: [0.0, 1.5]}}}}
{flow}fitness: {{tasks: [{{task: {root}/evals/arith-es.yaml, split: search, limit: 24}}]}}
search: {{{search}, seed: 5}}
final:
  finalists: 2
  selection: {{limit: 12}}
  test: {{limit: 16}}
  held_out: [{{task: {root}/evals/arith-en.yaml, limit: 8}}]
"
    )
}
