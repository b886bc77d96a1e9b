"""Feeds a run's figures to Weights & Biases, from its journal: while it goes on (--follow) or afterwards.

    pip install wandb
    WANDB_MODE=offline python examples/trackers/to_wandb.py runs/NAME [--follow] [--project heterosis]

Offline it writes wandb/offline-run-*, which `wandb sync` sends later. The curves have the names that --tensorboard and --mlflow
give them; docs/journal.md says what a journal holds.
"""

import argparse
import json
import pathlib
import time

import wandb


def records(journal, follow):
    """The journal's lines, as far as they are whole; with `follow` those that come, until the run is over."""
    with open(journal, "rb") as file:
        torn = b""
        while True:
            line = torn + file.readline()
            if not line.endswith(b"\n"):
                if not follow:
                    return
                torn = line
                time.sleep(1)
                continue
            torn = b""
            record = json.loads(line)
            yield record
            if record["event"] in ("run_done", "run_failed"):
                return


def name_of(task):
    stem = pathlib.PurePath(task["task"]).name.removesuffix(".yaml").removesuffix(".yml")
    lang = task["lang"]
    return stem if not lang or stem.endswith((f"-{lang}", f"_{lang}")) else f"{stem} {lang}"


class Curves:
    """Points over evaluations; unsearched merges and parents are what the best is measured by."""

    def __init__(self):
        self.evals, self.best, self.rivals = 0, None, {}

    def of(self, record):
        event = record["event"]
        if event == "candidate_scored":
            return self.scored(record)
        if event == "candidate_failed":
            self.evals += record["origin"] in ("search", "random", "warm_start")
        if event == "generation_ended":
            names = ("best", "upper_quartile", "median", "lower_quartile", "failed", "sigma")
            return {f"generation/{name}": record[name] for name in names if record.get(name) is not None}
        if event == "test_read":
            return {
                "final/test": record["best"]["value"],
                "final/test_stderr": record["best"]["stderr"],
                "final/best_parent": record["best_parent"]["value"],
                "final/lead_over_best_parent": record["difference"],
                "final/p_value": record["p_value"],
            }
        return {}

    def scored(self, record):
        fitness, origin = record["fitness"], record["origin"]
        if origin in ("parent", "baseline"):
            kind = "parent" if origin == "parent" else "unsearched"
            self.rivals[kind] = max(fitness, self.rivals.get(kind, fitness))
        else:
            self.evals += origin in ("search", "random", "warm_start")
        points = {}
        if origin not in ("parent", "baseline"):
            points["search/fitness"] = fitness
            points |= {f"search/task/{name_of(task)}": task["value"] for task in record["tasks"]}
        if origin != "parent" and not record.get("eliminated"):
            self.best = max(fitness, self.best if self.best is not None else fitness)
            points["search/best"] = self.best
            points |= {f"search/lead_over_best_{kind}": self.best - rival for kind, rival in self.rivals.items()}
        return points


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, help="the run's directory")
    parser.add_argument("--follow", action="store_true", help="wait for what comes, until the run is over")
    parser.add_argument("--project", default="heterosis")
    args = parser.parse_args()
    run, curves = None, Curves()
    for record in records(args.run / "journal.jsonl", args.follow):
        if record["event"] == "run_started":
            config = {key: record[key] for key in ("optimizer", "population", "seed", "device", "dtype", "budget")}
            config["models"] = {model["name"]: model["model"] for model in record["models"]}
            run = wandb.init(project=args.project, group=record["name"], name=args.run.resolve().name, config=config)
            run.define_metric("evals")
            run.define_metric("*", step_metric="evals")
        elif points := curves.of(record):
            run.log(points | {"evals": curves.evals})
        if record["event"] == "test_read":
            run.summary["winner"] = record["best"]["id"]
    run.finish()


if __name__ == "__main__":
    main()
