"""Breed a child of LoRA adapters, export it as one adapter, and see whether PEFT makes of it what transformers makes of the child.

    pip install torch transformers peft
    python adapters.py [--heterosis PATH]

Two adapters of different ranks, one of them rank-stabilised, are laid over models/tiny-base (in f32) with random weights by PEFT itself. A
search of a few candidates mixes them; each exported candidate is loaded twice: the whole child by transformers, and its adapter by
PEFT over the base, beside each other and merged into it. Logits of a text must agree, relative to the largest.
The exit code is the number of differences.
"""
import argparse, json, os, subprocess, sys, tempfile

import peft, torch, transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BASE = os.path.join(ROOT, "models", "tiny-base")
TEXT = "Ana has 12 apples and buys 7 more . How many apples"
CANDIDATES = 4

SPACE = """\
name: adapters
models: {{base: {dir}/base, one: {dir}/base+{dir}/one, two: {dir}/base+{dir}/two}}
base: base
parameter_space: {{method: task_arithmetic, genes: {{weight: [0.2, 1.5]}}}}
fitness: {{tasks: [{{task: {root}/evals/arith-en.yaml, split: search, limit: 8}}]}}
search: {{optimizer: random, evals: {candidates}, seed: 3}}
"""


def base(dir):
    return AutoModelForCausalLM.from_pretrained(f"{dir}/base", dtype=torch.float32)


def adapter(dir, name, seed, **more):
    torch.manual_seed(seed)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(base(dir), LoraConfig(target_modules=modules, task_type="CAUSAL_LM", **more))
    for tensor, weight in model.named_parameters():
        if "lora_" in tensor:
            weight.data = 0.05 * torch.randn_like(weight)
    model.save_pretrained(f"{dir}/{name}")


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--heterosis", default=os.path.join(ROOT, "target", "release", "heterosis"))
    args = parser.parse_args()

    def run(*words):
        done = subprocess.run([args.heterosis, *words], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)

    print(f"peft {peft.__version__}, transformers {transformers.__version__}")
    wrong = 0
    with tempfile.TemporaryDirectory() as dir:
        AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).save_pretrained(f"{dir}/base")
        AutoTokenizer.from_pretrained(BASE).save_pretrained(f"{dir}/base")
        adapter(dir, "one", 1, r=8, lora_alpha=16)
        adapter(dir, "two", 2, r=4, lora_alpha=4, use_rslora=True)
        with open(f"{dir}/space.yaml", "w") as file:
            file.write(SPACE.format(dir=dir, root=ROOT, candidates=CANDIDATES))
        run("search", f"{dir}/space.yaml", "--run", f"{dir}/run", "--headless")
        with open(f"{dir}/run/journal.jsonl") as lines:
            scored = [json.loads(line) for line in lines]
        bred = [r["id"] for r in scored if r["event"] == "candidate_scored" and r["origin"] not in ("parent", "baseline")]
        ids = AutoTokenizer.from_pretrained(BASE)(TEXT, return_tensors="pt").input_ids
        for id in bred:
            run("export", f"{dir}/run", id, f"{dir}/{id}")
            run("export", f"{dir}/run", id, f"{dir}/{id}-lora", "--adapter")
            child = logits(AutoModelForCausalLM.from_pretrained(f"{dir}/{id}", dtype=torch.float32), ids)
            beside = PeftModel.from_pretrained(base(dir), f"{dir}/{id}-lora")
            rank = max(c.r for c in beside.peft_config.values())
            off = [((logits(model, ids) - child).abs().max() / child.abs().max()).item() for model in [beside, beside.merge_and_unload()]]
            wrong += sum(x > 2e-5 for x in off)
            print(f"{id}: rank {rank}, beside the base {off[0]:.1e}, merged into it {off[1]:.1e}")
    print(f"{len(bred)} children, {wrong} differences")
    return wrong if bred else 1


if __name__ == "__main__":
    sys.exit(main())
