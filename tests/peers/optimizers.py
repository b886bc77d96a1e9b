"""What people would pick instead: other optimizers on the demo's 24 weights, at equal answers and on the same questions.

    pip install optuna cma torch scipy
    cargo build --release && cargo run --release --example learning -- --seeds 5 --only short,learned
    python tests/peers/optimizers.py --seeds 5 [--candidates 89] [--only random,pycma,tpe,gp]

Each begins at the plain sum of task vectors (where heterosis begins too), asks so many candidates the same 200 questions, and
sends its eight best, and the mean where it has one, to 400 selection questions. The winner answers all 1,500 questions of the
selection split and all 2,000 of the test split, whose templates the search has never seen. Prints a Markdown table; `docs/learning.md`
has it. 89 candidates are the 17,800 answers that CMA-ES of heterosis takes for its 80 with parents and unsearched merges.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile
import time
import warnings

import numpy as np

warnings.filterwarnings("ignore")

ROOT = pathlib.Path(__file__).parents[2]
EXPERTS = ["tiny-maths-en", "tiny-spanish"]
GROUPS, LAYERS, MODULES = 4, 8, ["self_attn", "mlp", None]
LOW, HIGH, GENES = 0.0, 1.8, len(EXPERTS) * GROUPS * len(MODULES)
TASK = ROOT / "evals" / "arith-es.yaml"


def recipe(genotype):
    weights = np.asarray(genotype, float).reshape(len(EXPERTS), GROUPS, len(MODULES))
    each = LAYERS // GROUPS

    def source(model, group, of_modules=None):
        model = {"model": str(ROOT / "models" / model), "layer_range": [each * group, each * (group + 1)]}
        if of_modules is not None:
            rules = [({"filter": m} if m else {}) | {"value": float(w)} for m, w in zip(MODULES, of_modules)]
            model["parameters"] = {"weight": rules}
        return model

    slices = []
    for group in range(GROUPS):
        experts = [source(model, group, weights[i, group]) for i, model in enumerate(EXPERTS)]
        slices.append({"sources": [*experts, source("tiny-base", group)]})
    base = str(ROOT / "models" / "tiny-base")
    return {"merge_method": "task_arithmetic", "base_model": base, "slices": slices, "dtype": "float32", "out_dtype": "float16"}


class Asker:
    """Scores a genotype by the program, as a user of it would."""

    def __init__(self, program, folder):
        self.program, self.folder, self.answers = program, folder, 0

    def share(self, genotype, split, limit):
        file = self.folder / "recipe.yaml"
        file.write_text(json.dumps(recipe(genotype)))  # JSON is YAML
        asked = ["--task", str(TASK), "--split", split, "--profile", "fitness", "--json", "--limit", str(limit)]
        out = subprocess.run([self.program, "eval", str(file), *asked], capture_output=True, check=True, text=True).stdout
        task = json.loads(out)["tasks"][0]
        self.answers += task["n"]
        return task["scores"][task["primary"]]["value"]


def random_draws(ask, candidates, seed):
    rng = np.random.default_rng(seed)
    yield np.ones(GENES), ask(np.ones(GENES))
    for _ in range(candidates - 1):
        x = rng.uniform(LOW, HIGH, GENES)
        yield x, ask(x)


def pycma(ask, candidates, seed):
    import cma

    options = {"bounds": [LOW, HIGH], "seed": seed, "verbose": -9, "maxfevals": candidates}
    strategy = cma.CMAEvolutionStrategy(np.ones(GENES), (HIGH - LOW) / 6, options)
    asked = 0
    while asked < candidates:
        xs = strategy.ask()[: candidates - asked]
        scores = [ask(x) for x in xs]
        asked += len(xs)
        yield from zip(xs, scores)
        if len(xs) == strategy.popsize:
            strategy.tell(xs, [-s for s in scores])
    yield np.clip(strategy.result.xfavorite, LOW, HIGH), None


def by_optuna(sampler):
    def search(ask, candidates, seed):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(direction="maximize", sampler=sampler(optuna, seed))
        names = [f"w{i:02}" for i in range(GENES)]
        study.enqueue_trial(dict.fromkeys(names, 1.0))
        for _ in range(candidates):
            trial = study.ask()
            x = np.array([trial.suggest_float(name, LOW, HIGH) for name in names])
            score = ask(x)
            study.tell(trial, score)
            yield x, score

    return search


OPTIMIZERS = {
    "random": random_draws,
    "pycma": pycma,
    "tpe": by_optuna(lambda optuna, seed: optuna.samplers.TPESampler(seed=seed, multivariate=True)),
    "gp": by_optuna(lambda optuna, seed: optuna.samplers.GPSampler(seed=seed, deterministic_objective=False)),
}


def run(name, asker, candidates, seed):
    seen = list(OPTIMIZERS[name](lambda x: asker.share(x, "search", 200), candidates, seed))
    asked = asker.answers
    scored = sorted((pair for pair in seen if pair[1] is not None), key=lambda pair: -pair[1])
    finalists = [x for x, _ in scored[:8]] + [x for x, score in seen if score is None]
    winner = max(finalists, key=lambda x: asker.share(x, "selection", 400))
    return asked, 100 * asker.share(winner, "selection", 1500), 100 * asker.share(winner, "test", 2000)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--program", default=str(ROOT / "target" / "release" / "heterosis"))
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--candidates", type=int, default=89)
    options.add_argument("--only", default=",".join(OPTIMIZERS))
    options = options.parse_args()
    print("| optimizer | seed | answers asked by the search | selection | test | s |\n|---|---|---|---|---|---|", flush=True)
    for name in options.only.split(","):
        rows = []
        for seed in range(1, options.seeds + 1):
            with tempfile.TemporaryDirectory() as folder:
                began = time.time()
                asked, *worth = run(name, Asker(options.program, pathlib.Path(folder)), options.candidates, seed)
            rows.append(worth)
            line = f"{worth[0]:.1f} | {worth[1]:.1f} | {time.time() - began:.0f}"
            print(f"| {name} | {seed} | {asked} | {line} |", flush=True)
        middle, spread = [statistics.median(column) for column in zip(*rows)], [f"{min(c):.1f}–{max(c):.1f}" for c in zip(*rows)]
        columns = " | ".join(f"**{m:.1f}** ({s})" for m, s in zip(middle, spread))
        print(f"| **{name}** | median | | {columns} | |", flush=True)


if __name__ == "__main__":
    main()
