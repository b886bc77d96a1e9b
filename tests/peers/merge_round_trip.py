"""Recipes that heterosis writes, run by mergekit: do both arrive at the same weights?

    pip install mergekit==0.1.5
    cargo build --release && python merge_round_trip.py [--heterosis target/release/heterosis] [--seed 31]

Makes small Llama checkpoints from the seed (those of crates/merge/tests/data/generate.py), merges every case with `heterosis merge`,
gives the `mergekit_config.yml` that it wrote beside the weights to mergekit, and compares: the largest difference over each
tensor's largest element. Rows of embeddings are compared by token. Random masks (DARE, DELLA) are the other program's own, so
these methods are compared at density 1.
"""
import argparse, importlib.util, json, os, shutil, subprocess, sys, tempfile
import torch, yaml
from safetensors.torch import load_file

HERE = os.path.dirname(os.path.abspath(__file__))
ALLOWED = {torch.float32: 1e-6, torch.bfloat16: 1 / 128, torch.float16: 1 / 1024}


def generator():
    """crates/merge/tests/data/generate.py as a module, without running it."""
    path = os.path.join(HERE, "..", "data", "merge", "generate.py")
    source = open(path).read().removesuffix("main()\n")
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("generate", loader=None))
    module.__file__ = path
    exec(compile(source, path, "exec"), module.__dict__)
    return module


def tokens(directory):
    file = os.path.join(directory, "tokenizer.json")
    if not os.path.exists(file):
        return None
    tokenizer = json.load(open(file))
    vocab = dict(tokenizer["model"]["vocab"])
    vocab.update({t["content"]: t["id"] for t in tokenizer.get("added_tokens", [])})
    return vocab


def difference(ours, theirs):
    a, b = load_file(f"{ours}/model.safetensors"), load_file(f"{theirs}/model.safetensors")
    if a.keys() != b.keys():
        return f"tensors differ: {sorted(a.keys() ^ b.keys())}", None
    vocab_a, vocab_b = tokens(ours), tokens(theirs)
    worst, dtype = 0.0, None
    for name, x in a.items():
        y, dtype = b[name], x.dtype
        if x.shape != y.shape or x.dtype != y.dtype:
            return f"{name}: {x.dtype} {tuple(x.shape)}, theirs {y.dtype} {tuple(y.shape)}", None
        if vocab_a and vocab_b and vocab_a != vocab_b and ("embed" in name or "lm_head" in name):
            if vocab_a.keys() != vocab_b.keys():
                return f"tokens differ: {sorted(vocab_a.keys() ^ vocab_b.keys())}", None
            order = sorted(vocab_a)
            x, y = x[[vocab_a[t] for t in order]], y[[vocab_b[t] for t in order]]
        off = (x.double() - y.double()).abs().max() / y.double().abs().max().clamp(min=1e-30)
        worst = max(worst, off.item())
    return worst, dtype


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--heterosis", default="target/release/heterosis")
    ap.add_argument("--seed", type=int, default=31)
    args = ap.parse_args()
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    work = tempfile.mkdtemp(prefix="round-trip-")
    module = generator()
    # Only the models are wanted here; the generator's own merges and its clearing of tokenizers are left out.
    cases, module.CASES = module.CASES, {}
    module.os.remove, remove = (lambda path: None), os.remove
    sys.argv = ["generate.py", "--out", work, "--seed", str(args.seed)]
    module.main()
    module.os.remove = remove
    where = lambda m: f"{work}/models/{m}"

    def resolve(node):
        if isinstance(node, dict):
            named = lambda k, v: isinstance(v, str) and (k in ("model", "base_model") or (k in ("tokenizer_source", "source") and v not in ("base", "union")))
            return {k: where(v) if named(k, v) else resolve(v) for k, v in node.items()}
        return [resolve(v) for v in node] if isinstance(node, list) else node

    failed = 0
    for name, case in cases.items():
        recipe, ours, theirs = f"{work}/{name}.yaml", f"{work}/ours", f"{work}/theirs"
        yaml.safe_dump(resolve(case), open(recipe, "w"), sort_keys=False)
        run = subprocess.run([args.heterosis, "merge", recipe, ours], capture_output=True, text=True)
        if run.returncode != 0:
            found, dtype = f"heterosis: {run.stderr.strip()[-300:]}", None
        else:
            try:
                written = yaml.safe_load(open(f"{ours}/mergekit_config.yml"))
                run_merge(MergeConfiguration.model_validate(written), theirs,
                          MergeOptions(copy_tokenizer=False, lazy_unpickle=False, write_model_card=False))
                found, dtype = difference(ours, theirs)
            except Exception as e:  # whatever mergekit raises is the finding
                found, dtype = f"mergekit: {e!r}"[:300], None
        ok = isinstance(found, float) and found <= ALLOWED[dtype]
        failed += not ok
        print("ok  " if ok else "FAIL", f"{name:24}", f"{found:.1e}" if isinstance(found, float) else found, flush=True)
        for d in (ours, theirs):
            shutil.rmtree(d, ignore_errors=True)
    print(f"{len(cases)} recipes, {failed} differences")
    shutil.rmtree(work)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
