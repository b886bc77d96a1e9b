"""Weights as torch.save writes them, in one file and in two, and the same as safetensors.

    pip install torch safetensors
    python make_pickled.py pickled
"""
import collections, json, pathlib, sys
import torch
from safetensors.torch import save_file


def main(out):
    out = pathlib.Path(out)
    torch.manual_seed(0)
    table = torch.randn(6, 4)
    both = torch.randn(5, 4, dtype=torch.bfloat16)
    weights = collections.OrderedDict([
        ("model.embed_tokens.weight", table), ("lm_head.weight", table),                # one storage
        ("model.layers.0.a.weight", both[:2]), ("model.layers.0.b.weight", both[2:]),    # two cuts of one
        ("model.layers.0.c.weight", torch.nn.Parameter(torch.randn(3, dtype=torch.float16))),
        ("model.norm.weight", torch.randn(4))])
    config = json.dumps({"model_type": "llama", "num_hidden_layers": 1})
    for name in ("single", "shards"):
        (out / name).mkdir(parents=True, exist_ok=True)
        (out / name / "config.json").write_text(config)
    module = torch.nn.Module()                              # as a module's state: with _metadata, and a buffer of whole numbers
    state = collections.OrderedDict(weights)
    state["model.layers.0.position_ids"] = torch.arange(4)
    state._metadata = module.state_dict()._metadata
    torch.save(state, out / "single/pytorch_model.bin")
    names = list(weights)
    map = {}
    for i, part in enumerate((names[:2], names[2:])):
        file = f"pytorch_model-0000{i + 1}-of-00002.bin"
        torch.save({name: weights[name] for name in part}, out / "shards" / file)
        map.update({name: file for name in part})
    (out / "shards/pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": map}))
    save_file({name: w.data.clone().contiguous() for name, w in weights.items()}, out / "expected.safetensors")


main(sys.argv[1])
