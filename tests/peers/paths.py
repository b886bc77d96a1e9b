"""A layer path with scales in transformers and mergekit: run as it is written, and as the checkpoint heterosis exports.

    pip install torch transformers safetensors mergekit==0.1.5
    python paths.py [--heterosis target/release/heterosis] [--work DIR]

For each family two random models `a` and `b` of three layers are made. The recipes are tests/data/space/*.yaml, which the
codec wrote (tests/it/data_flow.rs checks that it still does); PATH below is the same path by hand. Compared, in f32:
the NLL of the path run directly in transformers (input scales by hooks), of the export in transformers and in
`heterosis perplexity`; and the export's tensors with mergekit's for the same YAML.
"""
import argparse, json, pathlib, subprocess, sys, tempfile

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

ROOT = pathlib.Path(__file__).parents[2]
PATH = [("a", 0, 0.8), ("a", 1, 1.3), ("b", 1, 0.7), ("b", 2, 1.0), ("a", 1, 1.9), ("b", 0, 0.5), ("b", 2, 1.1)]
COMMON = dict(vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2)
FAMILIES = {  # model_type: what differs, and the recipe
    "llama": (dict(attention_bias=True, mlp_bias=True), "projections"),
    "mistral": (dict(sliding_window=16), "projections"),
    "qwen2": (dict(tie_word_embeddings=True), "projections"),
    "qwen3": (dict(head_dim=16), "projections"),
    "gemma": (dict(head_dim=16), "projections"),
    "gemma2": (dict(head_dim=16, sliding_window=16, query_pre_attn_scalar=24), "shifted_post_norms"),
    "gemma3_text": (dict(head_dim=16, sliding_window=16, query_pre_attn_scalar=24), "shifted_post_norms"),
    "phi3": (dict(original_max_position_embeddings=128), "projections"),
    "olmo2": (dict(attention_bias=True), "post_norms"),
    "smollm3": (dict(no_rope_layers=[1, 0, 1]), "projections"),
    "granite": (dict(embedding_multiplier=12.0, attention_multiplier=0.1, residual_multiplier=0.22, logits_scaling=8.0),
                "projections"),
}


def tokenizer():
    words = {f"w{i}": i for i in range(COMMON["vocab_size"])}
    inner = Tokenizer(models.WordLevel(words, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w0")


def make(config, out, seed):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.uniform_(-0.25, 0.25)
            if "norm" in name and not config.model_type.startswith("gemma"):
                p.add_(1.0)
    model.save_pretrained(out)
    tokenizer().save_pretrained(out)
    return model


def of_path(config, layers):
    """The config of the path: lists with an entry for each layer follow their layers."""
    change = dict(num_hidden_layers=len(PATH))
    for key in ("layer_types", "no_rope_layers"):
        if getattr(config, key, None):
            change[key] = [getattr(config, key)[layer] for _, layer, _ in PATH]
    return type(config)(**{**config.to_dict(), **change})


def direct(config, a, b):
    """The path itself: the layers' own weights, and their inputs scaled as it runs."""
    model = AutoModelForCausalLM.from_config(of_path(config, PATH)).float().eval()
    parts = dict(a=a, b=b)
    model.model.embed_tokens.load_state_dict(a.model.embed_tokens.state_dict())
    model.model.norm.load_state_dict(b.model.norm.state_dict())
    if not config.tie_word_embeddings:
        model.lm_head.load_state_dict(b.lm_head.state_dict())
    for layer, (name, index, scale) in zip(model.model.layers, PATH):
        layer.load_state_dict(parts[name].model.layers[index].state_dict())

        def scaled(_, args, kwargs, scale=scale):
            if args:
                return (args[0] * scale, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": kwargs["hidden_states"] * scale}

        layer.register_forward_pre_hook(scaled, with_kwargs=True)
    return model


def nll(model, ids):
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].double()
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()


def mergekit(recipe, out):
    done = subprocess.run([pathlib.Path(sys.executable).parent / "mergekit-yaml", recipe, out], capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1].strip()[:100]
    return {k: v for file in pathlib.Path(out).glob("*.safetensors") for k, v in load_file(file).items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heterosis", default=ROOT / "target/release/heterosis")
    parser.add_argument("--work", default=None)
    args = parser.parse_args()
    work = pathlib.Path(args.work or tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    ids = torch.tensor([[(i * i * 7 + i * 13 + 5) % COMMON["vocab_size"] for i in range(48)]])
    text = work / "text.txt"
    text.write_text(" ".join(f"w{i}" for i in ids[0].tolist()))
    print(f"{'family':12} {'direct':>9} {'export':>9} {'rel.':>8} {'heterosis':>9} {'rel.':>8}  mergekit, same YAML")
    for family, (extra, fold) in FAMILIES.items():
        config = AutoConfig.for_model(family, **{**COMMON, **extra})
        a, b = (make(config, work / family / name, seed) for name, seed in (("a", 1), ("b", 2)))
        recipe = work / family / "recipe.yaml"
        yaml = (ROOT / f"tests/data/space/{fold}.yaml").read_text()
        for name in "ab":
            yaml = yaml.replace(f"model: {name}\n", f"model: {work / family / name}\n")
        recipe.write_text(yaml)
        out = work / family / "ours"
        subprocess.run([args.heterosis, "merge", recipe, out], check=True, capture_output=True)
        exported = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
        x, y = nll(direct(config, a, b), ids), nll(exported, ids)
        told = subprocess.run([args.heterosis, "perplexity", out, "--text", text, "--json"], check=True, capture_output=True, text=True)
        z = json.loads(told.stdout)["nll_per_token"]
        theirs = "has no `gain`" if fold == "shifted_post_norms" else mergekit(recipe, work / family / "theirs")
        if isinstance(theirs, dict):
            ours = {k: v for file in out.glob("*.safetensors") for k, v in load_file(file).items()}
            worst, where = max(((ours[k] - v).abs().max().item() / v.abs().max().item(), k) for k, v in theirs.items())
            theirs = f"{len(theirs)} of {len(ours)} tensors, worst difference {worst:.0e}" + (f" in {where}" if worst else "")
        print(f"{family:12} {x:9.5f} {y:9.5f} {abs(x - y) / x:8.0e} {z:9.5f} {abs(x - z) / x:8.0e}  {theirs}")
        assert abs(x - y) / x <= 1e-4 and abs(x - z) / x <= 1e-4, family


if __name__ == "__main__":
    main()
