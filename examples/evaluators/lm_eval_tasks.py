"""Scores a merged model with lm-evaluation-harness (0.4.9 or later), which is loaded once and asked many times.

Goes with lm_eval.yaml: `materialize: true` has the model written to `model_dir` first. The search's questions and those that
choose among finalists are different documents of each task.
"""

import json
import sys

import lm_eval
import torch

# Task -> its metric in lm-eval's results.
TASKS = {"arc_easy": "acc_norm,none", "hellaswag": "acc_norm,none"}
DOCUMENTS = {"search": range(0, 200), "selection": range(200, 500)}


def scores(model_dir, split):
    results = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": model_dir, "dtype": "bfloat16"},
        tasks=list(TASKS),
        samples={task: list(DOCUMENTS[split]) for task in TASKS},
        batch_size=16,
        device="cuda" if torch.cuda.is_available() else "cpu",
        log_samples=False,
    )["results"]
    return {task: results[task][metric] for task, metric in TASKS.items()}


for line in sys.stdin:
    asked = json.loads(line)
    # A model that cannot be scored raises and ends this program: it is started again, and whose fault it was is found out.
    reply = {"id": asked["id"], "scores": scores(asked["model_dir"], asked["split"])}
    print(json.dumps(reply), flush=True)
