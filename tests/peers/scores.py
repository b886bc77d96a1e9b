"""Run the same tasks on the same model with lm-evaluation-harness and with heterosis, and compare answer by answer.

    pip install lm-eval==0.4.13 torch transformers accelerate
    python scores.py MODEL_DIR DATA_DIR [--tasks gsm8k_cot mgsm_direct_es] [--chat] [--num-fewshot N] [--limit 2]
        [--max-new-tokens 32] [--threads 2] [--heterosis PATH]

MODEL_DIR is in Hugging Face layout, DATA_DIR as for prompts.py. Both run in f32 on the CPU, greedily, batch size 1 in the
harness. Prompt, output, extracted answers, verdicts and scores are compared; the exit code is 1 if anything differs.
Without --tasks: every task, with its own number of examples and with others, plain and through the chat template.
"""
import argparse, json, os, subprocess, sys, tempfile

import datasets
import lm_eval
import torch
import transformers
from lm_eval.models.huggingface import HFLM

from prompts import LANGS, gsm8k, mgsm

# Tasks, number of examples (None = the task's own), through the chat template?
GSM8K = ["gsm8k", "gsm8k_cot", "gsm8k_cot_zeroshot", "gsm8k_cot_llama"]
MGSM = lambda *langs: [f"mgsm_{kind}_{lang}" for kind in ("direct", "en_cot", "native_cot") for lang in langs]
ALL = [(MGSM("es", "ja", "ru", "te"), None, False), (MGSM("es"), 2, False), (MGSM("zh"), 1, True), (GSM8K, None, False), (GSM8K, None, True)]


def harness(args, model, tasks, shots, chat):
    return lm_eval.simple_evaluate(
        model=model, tasks=tasks, limit=args.limit, num_fewshot=shots, apply_chat_template=chat, fewshot_as_multiturn=chat,
        gen_kwargs=dict(max_gen_toks=args.max_new_tokens), log_samples=True, bootstrap_iters=100)


def ours(args, tasks, shots, chat):
    with tempfile.TemporaryDirectory() as folder:
        answers = os.path.join(folder, "answers.jsonl")
        call = [args.heterosis, "eval", args.model, "--limit", str(args.limit), "--dtype", "f32", "--device", "cpu",
                "--max-new-tokens", str(args.max_new_tokens), "--answers", answers, "--json"]
        call += [word for task in tasks for word in ("--task", task)]
        call += ["--shots", str(shots)] if shots is not None else []
        call += ["--apply-chat-template"] if chat else []
        done = subprocess.run(call, stdout=subprocess.PIPE, check=True, env={**os.environ, "HETEROSIS_DATA": args.data})
        lines = [json.loads(line) for line in open(answers, encoding="utf8")]
        scores = json.loads(done.stdout)["tasks"]
        assert len(scores) == len(tasks)
        # The answers stand in the order of the tasks.
        return {task: (score, [lines.pop(0) for _ in range(score["n"])]) for task, score in zip(tasks, scores)}


def differences(theirs, task, score, answers):
    samples = {}
    for sample in theirs["samples"][task]:
        samples.setdefault(sample["doc_id"], {})[sample["filter"]] = sample
    wrong = [] if len(samples) == len(answers) else [("-", "number of questions", len(samples), len(answers))]
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
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--num-fewshot", type=int)
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--limit", type=int, default=2)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--heterosis", default="heterosis")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ["RAYON_NUM_THREADS"] = str(args.threads)
    groups = [(args.tasks, args.num_fewshot, args.chat)] if args.tasks else ALL

    local = {("openai/gsm8k", "main"): gsm8k(args.data)}
    local.update({("juletxara/mgsm", lang): mgsm(args.data, lang) for lang in LANGS})
    datasets.load_dataset = lambda path, name=None, **_: local[path, name]
    model = HFLM(pretrained=args.model, dtype="float32", device="cpu", batch_size=1)
    print(f"lm-eval {lm_eval.__version__}, transformers {transformers.__version__}, torch {torch.__version__}; {args.limit} questions "
          f"a task, {args.max_new_tokens} new tokens")
    compared = right = different = 0
    for tasks, shots, chat in groups:
        theirs, mine = harness(args, model, tasks, shots, chat), ours(args, tasks, shots, chat)
        for task in tasks:
            score, answers = mine[task]
            wrong = differences(theirs, task, score, answers)
            compared, different = compared + len(answers), different + len(wrong)
            right += sum(any(f["exact_match"] for f in answer["filters"].values()) for answer in answers)
            how = f"{'own' if shots is None else shots} shots, {'chat' if chat else 'plain'}"
            values = ", ".join(f"{name} {value['value']:.4f}" for name, value in score["scores"].items())
            print(f"{task} ({how}): {len(answers)} answers, {len(wrong)} differences; {values}", flush=True)
            for index, what, their, our in wrong[:6]:
                print(f"  question {index}, {what}\n    lm-eval   {their!r}\n    heterosis {our!r}")
    print(f"{compared} answers, {right} right by some filter, {different} differences")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
