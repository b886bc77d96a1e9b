"""Questions a minute of lm-evaluation-harness, of transformers and of heterosis, on the same questions in turns.

    pip install lm-eval==0.4.13 torch transformers accelerate
    python speed.py few-shot MODEL_DIR DATA_DIR [--questions 64] [--batch-size 8] [--rounds 5] [--heterosis PATH]
    python speed.py zero-shot MODEL_DIR DATA_DIR [...]

few-shot: `gsm8k_cot`, 8 examples, `lm_eval --model hf` against `heterosis eval`. zero-shot: the prompts of
`gsm8k_cot_zeroshot`, transformers' `generate` on left-padded batches of prompts of like length against `heterosis generate`.
All in f32 on the CPU, greedily, at most --max-new-tokens. Several batch sizes: each is tried once, the best takes part in
the rounds. The peers' models are in memory before the clock starts; ours pays for process and loading in every round.
Each round tells seconds on the wall and seconds of the processor; on a machine that is not idle, compare the latter, with
--threads 1 (threads that wait for each other burn time).
"""
import argparse, json, os, resource, statistics, subprocess, tempfile, time

import datasets
import lm_eval
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from prompts import gsm8k


class Clock:
    """Seconds on the wall, and seconds of the processor in this process and in those that it has waited for."""

    def __init__(self):
        self.start = self.now()

    def now(self):
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime

    def stop(self):
        return tuple(now - start for now, start in zip(self.now(), self.start))


def questions_of_harness(args, model, batch_size):
    model.batch_size_per_gpu = batch_size
    clock = Clock()
    lm_eval.simple_evaluate(model=model, tasks=["gsm8k_cot"], limit=args.questions,
                            gen_kwargs=dict(max_gen_toks=args.max_new_tokens), bootstrap_iters=0)
    return clock.stop()


def questions_of_transformers(args, model, prompts, batch_size):
    clock = Clock()
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
    return clock.stop(), generated


def heterosis(args, words):
    clock = Clock()
    done = subprocess.run([args.heterosis, *words, "--dtype", "f32", "--device", "cpu", "--json"], stdout=subprocess.PIPE, check=True,
                          stderr=subprocess.DEVNULL, env={**os.environ, "HETEROSIS_DATA": args.data})
    return clock.stop(), json.loads(done.stdout)


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
            # By the clock that is compared: the wall, or with one thread the processor.
            best = min(tried, key=lambda size: tried[size][args.threads == 1])
            print("batch sizes: " + ", ".join(f"{size}: {wall:.1f} s ({cpu:.1f} s of the processor)" for size, (wall, cpu) in tried.items()), flush=True)
        rounds = []
        for _ in range(args.rounds):
            rounds.append((peer(best), ours()))
            (wall, cpu), (our_wall, our_cpu) = rounds[-1]
            print(f"batch size {best}: {wall:.1f} s ({cpu:.1f} s of the processor); heterosis: {our_wall:.1f} s ({our_cpu:.1f} s)", flush=True)
        if args.what == "zero-shot":
            print(f"tokens generated: {tokens}")
        for which, name in enumerate(("minute", "minute of the processor")):
            theirs, mine = (statistics.median(times[side][which] for times in rounds) for side in (0, 1))
            print(f"questions a {name}, medians: {60 * args.questions / theirs:.1f}, heterosis {60 * args.questions / mine:.1f}: {theirs / mine:.2f} times")


if __name__ == "__main__":
    main()
