"""Merges of tiny models that also see: what `heterosis merge` writes, loaded by transformers and asked for the same text.

    python tests/peers/wrappers.py path/to/heterosis        # needs torch, transformers, safetensors

Every case of crates/engine/tests/data/wrappers.py in two random models of a seed: the language halves are merged, the vision tower
is the base's and the projector the other's (mergekit's `modules:`); and once everything alike. The child's text must have the same
likelihood in `heterosis perplexity` and in transformers, and its tower must be the base's, bit for bit.
"""

import json
import math
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "crates/engine/tests/data"))
from wrappers import CASES, in_file  # noqa: E402

MODULES = """merge_method: task_arithmetic
base_model: {base}
parameters: {{weight: 0.6}}
modules:
  text_decoder:
    models: [{{model: {other}, parameters: {{weight: [{{filter: mlp, value: 0.3}}, {{value: 0.8}}]}}}}]
  vision_tower:
    models: [{{model: {base}}}]
  multi_modal_projector:
    models: [{{model: {other}, parameters: {{weight: 1.0}}}}]
"""
ALIKE = "merge_method: linear\nmodels: [{{model: {base}, parameters: {{weight: 0.7}}}}, {{model: {other}, parameters: {{weight: 0.3}}}}]\n"
WORDS = {f"w{i}": i for i in range(96)}


def save(folder, name, case, seed):
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**json.loads(json.dumps(case))))
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    model.save_pretrained(folder)
    file = f"{folder}/model.safetensors"
    save_file(in_file(name, load_file(file)), file, metadata={"format": "pt"})
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(folder)


def nll(folder, ids):
    model, info = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    with torch.no_grad():
        logits = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, :-1]
    return float(torch.nn.functional.cross_entropy(logits, ids[0, 1:]))


def main(heterosis):
    ids = torch.randint(3, 94, (1, 50), generator=torch.Generator().manual_seed(5))
    failures = 0
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as tmp:
            base, other, text = f"{tmp}/base", f"{tmp}/other", f"{tmp}/text.txt"
            save(base, name, case, 1)
            save(other, name, case, 2)
            pathlib.Path(text).write_text(" ".join(f"w{i}" for i in ids[0].tolist()))
            for kind, recipe in (("modules", MODULES), ("alike", ALIKE)):
                file, out = f"{tmp}/{kind}.yaml", f"{tmp}/{kind}"
                pathlib.Path(file).write_text(recipe.format(base=base, other=other))
                subprocess.run([heterosis, "merge", file, out], check=True, capture_output=True)
                said = subprocess.run([heterosis, "perplexity", out, "--text", text, "--json"], check=True, capture_output=True, text=True)
                ours, theirs = json.loads(said.stdout)["nll_per_token"], nll(out, ids)
                child, parent = load_file(f"{out}/model.safetensors"), load_file(f"{base}/model.safetensors")
                towers = [n for n in parent if "vis" in n and not any(w in n for w in ("merger", "projector", "connector", "embed_vision"))]
                kept = all(torch.equal(child[n], parent[n]) for n in towers)
                ok = math.isclose(ours, theirs, rel_tol=2e-5) and (kept or kind == "alike") and child.keys() == parent.keys() and towers
                failures += not ok
                print(f"{'ok  ' if ok else 'FAIL'} {name:26} {kind:8} {ours:.6f} {theirs:.6f} {len(towers)} tensors of the tower")
    print(f"{failures} differences")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main(sys.argv[1])
