"""Questions a minute of lm-evaluation-harness, of transformers and of heterosis, on the same questions in turns.

    pip install lm-eval==0.4.13 torch transformers accelerate
    python speed.py few-shot MODEL_DIR DATA_DIR [--questions 64] [--batch-size 8] [--rounds 5] [--heterosis PATH]
    python speed.py zero-shot MODEL_DIR DATA_DIR [...]

few-shot: `gsm8k_cot`, 8 examples, `lm_eval --model hf` against `heterosis eval`. zero-shot: the prompts of
`gsm8k_cot_zeroshot`, transformers' `generate` on left-padded batches of prompts of like length against `heterosis generate`.
All in f32 on the CPU, greedily, at most --max-new-tokens. Several batch sizes: each is tried once, the best takes part in
the rounds. The peers' models are in memory before the clock starts; ours pays for process and loading in every round.
"""
import argparse, json, os, statistics, subprocess, tempfile, time

import datasets
import lm_eval
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from prompts import gsm8k


def questions_of_harness(args, model, batch_size):
    model.batch_size_per_gpu = batch_size
    start = time.perf_counter()
    lm_eval.simple_evaluate(model=model, tasks=["gsm8k_cot"], limit=args.questions,
                            gen_kwargs=dict(max_gen_toks=args.max_new_tokens), bootstrap_iters=0)
    return time.perf_counter() - start


def questions_of_transformers(args, model, prompts, batch_size):
    start = time.perf_counter()
    tokenizer, generated = model.tokenizer, 0
    prompts = sorted(prompts, key=len)
    for first in range(0, len(prompts), batch_size):
        batch = tokenizer(prompts[first:first + batch_size], return_tensors="pt", padding=True, padding_side="left")
        with torch.inference_mode():
            out = model.model.generate(**batch, do_sample=False, max_new_tokens=args.max_new_tokens, pad_token_id=tokenizer.pad_token_id)
        new = out[:, batch["input_ids"].shape[1]:]
        for row in new.tolist():
            ended = row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row)
            generated += ended
    return time.perf_counter() - start, generated


def heterosis(args, words):
    start = time.perf_counter()
    done = subprocess.run([args.heterosis, *words, "--dtype", "f32", "--device", "cpu", "--json"], stdout=subprocess.PIPE, check=True,
                          stderr=subprocess.DEVNULL, env={**os.environ, "HETEROSIS_DATA": args.data})
    return time.perf_counter() - start, json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["few-shot", "zero-shot"])
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--heterosis", default="heterosis")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ["RAYON_NUM_THREADS"] = str(args.threads)
    local = gsm8k(args.data)
    datasets.load_dataset = lambda *_, **__: local
    model = HFLM(pretrained=args.model, dtype="float32", device="cpu", batch_size=1)
    print(f"lm-eval {lm_eval.__version__}, transformers {transformers.__version__}, torch {torch.__version__}, {args.threads} threads; "
          f"{args.what}, {args.questions} questions, {args.max_new_tokens} new tokens", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if args.what == "few-shot":
            peer = lambda batch_size: questions_of_harness(args, model, batch_size)
            ours = lambda: heterosis(args, ["eval", args.model, "--task", "gsm8k_cot", "--limit", str(args.questions),
                                            "--max-new-tokens", str(args.max_new_tokens)])[0]
        else:
            task = TaskManager().load(["gsm8k_cot_zeroshot"])["tasks"]["gsm8k_cot_zeroshot"]
            prompts = [task.doc_to_text(doc) for doc in task.test_docs().select(range(args.questions))]
            file = os.path.join(folder, "prompts.jsonl")
            with open(file, "w") as out:
                out.writelines(json.dumps(dict(prompt=prompt)) + "\n" for prompt in prompts)
            tokens = {}

            def peer(batch_size):
                seconds, tokens["transformers"] = questions_of_transformers(args, model, prompts, batch_size)
                return seconds

            def ours():
                seconds, answer = heterosis(args, ["generate", args.model, "--prompts", file, "--max-new-tokens", str(args.max_new_tokens)])
                tokens["heterosis"] = sum(len(output["token_ids"]) for output in answer["outputs"])
                return seconds

        best = args.batch_size[0]
        if len(args.batch_size) > 1:
            tried = {size: peer(size) for size in args.batch_size}
            best = min(tried, key=tried.get)
            print("batch sizes: " + ", ".join(f"{size}: {seconds:.1f} s" for size, seconds in tried.items()), flush=True)
        times = []
        for _ in range(args.rounds):
            times.append((peer(best), ours()))
            print(f"batch size {best}: {times[-1][0]:.1f} s; heterosis: {times[-1][1]:.1f} s", flush=True)
        if args.what == "zero-shot":
            print(f"tokens generated: {tokens}")
        theirs, mine = (statistics.median(side) for side in zip(*times))
        print(f"medians: {60 * args.questions / theirs:.1f} questions a minute, heterosis {60 * args.questions / mine:.1f}: {theirs / mine:.2f} times")


if __name__ == "__main__":
    main()
