"""Score a multiple-choice task on the same model with lm-evaluation-harness and with heterosis, and compare question by question.

    pip install lm-eval==0.4.13 torch transformers accelerate
    python choices.py MODEL_DIR DATA_DIR [--langs es ja] [--limit 16] [--threads 2] [--heterosis PATH]

The task is `mgsm_choices`, written down a second time as a task of lm-eval (`output_type: multiple_choice`). Which choice each
of `acc` and `acc_norm` takes, the scores and their errors have to be equal; log-likelihoods within 1e-3. Both in f32 on the CPU.
"""
import argparse, json, os, subprocess, sys, tempfile

import datasets
import lm_eval
import torch
import transformers
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM

from prompts import mgsm

WORDS = dict(es=("Pregunta:", "Respuesta:"), ja=("問題：", "Answer:"), de=("Frage:", "Antwort:"), en=("Question:", "Answer:"))


def choices(doc):
    n = doc["answer_number"]
    return [str(x) for x in (n + 1, n - 1, n, n + 10, n * 2)]


def task(lang):
    opening, closing = WORDS[lang]
    return ConfigurableTask(config=dict(
        task=f"mgsm_choices_{lang}", dataset_path="juletxara/mgsm", dataset_name=lang, test_split="test", output_type="multiple_choice",
        doc_to_text=lambda doc: f"{opening} {doc['question']}\n{closing}", doc_to_choice=choices, doc_to_target=lambda doc: 2,
        metric_list=[dict(metric=name, aggregation="mean", higher_is_better=True) for name in ("acc", "acc_norm")]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--langs", nargs="+", default=["es", "ja"], choices=WORDS)
    parser.add_argument("--limit", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--heterosis", default="heterosis")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ["RAYON_NUM_THREADS"] = str(args.threads)
    local = {lang: mgsm(args.data, lang) for lang in args.langs}
    datasets.load_dataset = lambda path, name=None, **_: local[name]
    model = HFLM(pretrained=args.model, dtype="float32", device="cpu", batch_size=1)
    print(f"lm-eval {lm_eval.__version__}, transformers {transformers.__version__}, torch {torch.__version__}; {args.limit} questions a language")
    different, furthest = 0, 0.0
    for lang in args.langs:
        name = f"mgsm_choices_{lang}"
        theirs = lm_eval.simple_evaluate(model=model, tasks=[task(lang)], limit=args.limit, log_samples=True, bootstrap_iters=100)
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "answers.jsonl")
            done = subprocess.run([args.heterosis, "eval", args.model, "--task", name, "--limit", str(args.limit), "--dtype", "f32", "--device",
                                   "cpu", "--answers", file, "--json"], stdout=subprocess.PIPE, check=True,
                                  env={**os.environ, "HETEROSIS_DATA": args.data})
            scores = json.loads(done.stdout)["tasks"][0]["scores"]
            answers = [json.loads(line) for line in open(file, encoding="utf8")]
        samples = sorted(theirs["samples"][name], key=lambda sample: sample["doc_id"])
        wrong = [] if len(samples) == len(answers) else [("number of questions", len(samples), len(answers))]
        for sample, answer in zip(samples, answers):
            likelihoods = [float(ll) for ll, _ in sample["filtered_resps"]]
            options = choices(sample["doc"])
            by = dict(acc=likelihoods, acc_norm=[ll / len(option) for ll, option in zip(likelihoods, options)])
            for metric, values in by.items():
                taken = options[values.index(max(values))]
                pair = (taken, sample[metric]), (answer["filters"][metric]["extracted"], answer["filters"][metric]["exact_match"])
                wrong += [(sample["doc_id"], metric, *pair)] if pair[0] != pair[1] else []
            furthest = max(furthest, abs(likelihoods[2] - answer["log_likelihood"]))
        for metric in ("acc", "acc_norm"):
            their = (theirs["results"][name][f"{metric},none"], float(theirs["results"][name][f"{metric}_stderr,none"]))
            our = (scores[metric]["value"], scores[metric]["stderr"])
            wrong += [(metric, their, our)] if max(abs(a - b) for a, b in zip(their, our)) > 1e-12 else []
        different += len(wrong)
        print(f"{name}: {len(answers)} questions, {len(wrong)} differences; acc {scores['acc']['value']:.4f}, acc_norm {scores['acc_norm']['value']:.4f}")
        for line in wrong[:6]:
            print(f"  {line}")
    print(f"{different} differences; log-likelihoods of the right choices differ by at most {furthest:.1e}")
    sys.exit(1 if different or furthest > 1e-3 else 0)


if __name__ == "__main__":
    main()
