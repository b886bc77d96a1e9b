"""Run the same tasks on the same model with lm-evaluation-harness and with heterosis, and compare answer by answer.

    pip install lm-eval==0.4.13 torch transformers accelerate
    python scores.py MODEL_DIR DATA_DIR --tasks gsm8k_cot_zeroshot mgsm_direct_es [--limit 8] [--max-new-tokens 48]
        [--num-fewshot N] [--chat] [--heterosis PATH]

MODEL_DIR is in Hugging Face layout, DATA_DIR as for prompts.py. Both run in f32 on the CPU, greedily, batch size 1 in the
harness. Prompt, output, extracted answers, verdicts and scores are compared; the exit code is the number of differences.
"""
import argparse, json, os, subprocess, sys, tempfile

import datasets
import lm_eval

from prompts import LANGS, gsm8k, mgsm


def harness(args):
    local = {("openai/gsm8k", "main"): gsm8k(args.data)}
    langs = [lang for lang in LANGS if any(task.endswith(f"_{lang}") for task in args.tasks)]
    local.update({("juletxara/mgsm", lang): mgsm(args.data, lang) for lang in langs})
    datasets.load_dataset = lambda path, name=None, **_: local[path, name]
    return lm_eval.simple_evaluate(
        model="hf", model_args=dict(pretrained=args.model, dtype="float32"), tasks=args.tasks, limit=args.limit, batch_size=1,
        device="cpu", num_fewshot=args.num_fewshot, apply_chat_template=args.chat, fewshot_as_multiturn=args.chat,
        gen_kwargs=dict(max_gen_toks=args.max_new_tokens), log_samples=True, bootstrap_iters=100)


def ours(args, task):
    with tempfile.TemporaryDirectory() as folder:
        answers = os.path.join(folder, "answers.jsonl")
        call = [args.heterosis, "eval", args.model, "--task", task, "--limit", str(args.limit), "--dtype", "f32", "--device", "cpu",
                "--max-new-tokens", str(args.max_new_tokens), "--answers", answers, "--json"]
        call += ["--shots", str(args.num_fewshot)] if args.num_fewshot is not None else []
        call += ["--apply-chat-template"] if args.chat else []
        done = subprocess.run(call, stdout=subprocess.PIPE, check=True, env={**os.environ, "HETEROSIS_DATA": args.data})
        return json.loads(done.stdout)["tasks"][0], [json.loads(line) for line in open(answers, encoding="utf8")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--num-fewshot", type=int)
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--heterosis", default="heterosis")
    args = parser.parse_args()
    theirs = harness(args)
    differences = 0
    for task in args.tasks:
        score, answers = ours(args, task)
        samples = {}
        for sample in theirs["samples"][task]:
            samples.setdefault(sample["doc_id"], {})[sample["filter"]] = sample
        wrong = []
        for index, answer in enumerate(answers):
            by_filter = samples[index]
            first = next(iter(by_filter.values()))
            pairs = dict(prompt=(first["arguments"][0][0], answer["prompt"]), output=(first["resps"][0][0], answer["output"]))
            for name, sample in by_filter.items():
                pairs[f"{name} extracted"] = (sample["filtered_resps"][0], answer["filters"][name]["extracted"])
                pairs[f"{name} verdict"] = (sample["exact_match"], answer["filters"][name]["exact_match"])
            wrong += [(index, what, *pair) for what, pair in pairs.items() if pair[0] != pair[1]]
        for name, value in score["scores"].items():
            their = (theirs["results"][task][f"exact_match,{name}"], theirs["results"][task][f"exact_match_stderr,{name}"])
            if abs(their[0] - value["value"]) > 1e-12 or abs(float(their[1]) - value["stderr"]) > 1e-12:
                wrong.append(("-", f"{name} score", their, value))
        for difference in wrong:
            print(task, *difference, sep=" | ")
        differences += len(wrong)
        print(f"{task}: {len(answers)} answers, {len(wrong)} differences; " + ", ".join(f"{n} {v['value']:.3f} ± {v['stderr']:.3f}" for n, v in score["scores"].items()))
    sys.exit(min(differences, 100))


if __name__ == "__main__":
    main()
