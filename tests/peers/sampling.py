"""Are tokens drawn as transformers draws them? A chi-square test of heterosis' sampler against transformers' logits processors.

    pip install torch transformers scipy
    python sampling.py MODEL_DIR [--prompts 3] [--draws 2000] [--heterosis PATH]

For each setting the probabilities of the next token come from transformers: temperature, top-k, top-p, min-p, in its order. As many
tokens are drawn with `heterosis generate`, each with a seed of its own, and counted; tokens that are expected less than five times count together. The test
fails if one p-value is below 0.001 divided by the number of tests, or if a token is drawn that transformers never draws.
"""
import argparse, collections, json, subprocess, sys, tempfile

import torch
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.logits_process import LogitsProcessorList, MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

SETTINGS = [dict(temperature=1.0), dict(temperature=0.5), dict(temperature=1.0, top_k=5), dict(temperature=1.3, top_p=0.7),
            dict(temperature=1.0, min_p=0.2), dict(temperature=0.8, top_k=20, top_p=0.9, min_p=0.05)]
PROMPTS = ["The dog sees the", "Once upon a time there was", "The answer is", "My favourite colour is"]


def probabilities(model, tokenizer, prompt, setting):
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(ids).logits[:, -1].float()
    warpers = LogitsProcessorList([TemperatureLogitsWarper(setting["temperature"])])
    if "top_k" in setting:
        warpers.append(TopKLogitsWarper(setting["top_k"]))
    if "top_p" in setting:
        warpers.append(TopPLogitsWarper(setting["top_p"]))
    if "min_p" in setting:
        warpers.append(MinPLogitsWarper(setting["min_p"]))
    return torch.softmax(warpers(ids, logits), -1)[0].double()


def drawn(args, prompt, setting):
    """One token each, drawn for the same prompt with as many seeds."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write((json.dumps(dict(prompt=prompt)) + "\n") * args.draws)
        file.flush()
        call = [args.heterosis, "generate", args.model, "--prompts", file.name, "--max-new-tokens", "1", "--dtype", "f32", "--device", "cpu", "--json"]
        for key, value in setting.items():
            call += ["--" + key.replace("_", "-"), str(value)]
        done = subprocess.run(call, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--heterosis", default="heterosis")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tests, failed = len(SETTINGS) * args.prompts, 0
    for setting in SETTINGS:
        for prompt in PROMPTS[: args.prompts]:
            expected = probabilities(model, tokenizer, prompt, setting)
            counts = collections.Counter(row["token_ids"][0] if row["token_ids"] else tokenizer.eos_token_id
                                         for row in drawn(args, prompt, setting)["outputs"])
            total = sum(counts.values())
            possible = set(expected.nonzero().flatten().tolist())
            never = [token for token in counts if token not in possible]
            often = [token for token in possible if expected[token] * total >= 5]
            observed, wanted = [counts[token] for token in often], [expected[token].item() * total for token in often]
            observed.append(total - sum(observed))
            wanted.append(max(total - sum(wanted), 0.0))
            if wanted[-1] < 1e-9:
                observed, wanted = observed[:-1], wanted[:-1]
            scale = sum(observed) / sum(wanted)
            p = chisquare(observed, [w * scale for w in wanted]).pvalue if len(observed) > 1 else 1.0
            bad = p < 0.001 / tests or bool(never)
            failed += bad
            print(f"{setting} {prompt!r}: {total} draws over {len(possible)} tokens, {len(often)} of them often; p = {p:.3f}{' NEVER: ' + repr(never[:5]) if never else ''}", flush=True)
    print(f"{tests} tests, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
